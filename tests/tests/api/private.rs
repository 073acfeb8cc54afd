//! Private memory: attributes, guest_memfd, and what a vCPU reaches.

use crate::run::CODE;
use crate::*;
use ring3_client::{GuestMemfd, VcpuExit};
use ring3_host::fd::with_raw;
use ring3_uapi::cap::*;
use ring3_uapi::exit::KVM_MEMORY_EXIT_FLAG_PRIVATE;
use ring3_uapi::ioctl::*;
use ring3_uapi::run::RunMemoryFault;
use ring3_uapi::x86::*;
use ring3_uapi::*;
use rustix::fs::{FallocateFlags, fallocate};

const HOLE: FallocateFlags = FallocateFlags::KEEP_SIZE.union(FallocateFlags::PUNCH_HOLE);
const PRIVATE: u64 = KVM_MEMORY_ATTRIBUTE_PRIVATE;
/// Where the page is that is private or not.
const DATA: u64 = 0x20000;

fn has_private_memory(kvm: &Kvm) -> bool {
    let types = kvm.check_extension(KVM_CAP_VM_TYPES).unwrap_or(0);
    let there =
        types >> KVM_X86_SW_PROTECTED_VM & 1 != 0 && kvm.check_extension(KVM_CAP_GUEST_MEMFD) == Ok(1);
    if !there {
        skipped("no VMs with private memory");
    }
    there
}

fn protected() -> Option<Vm> {
    let kvm = kvm().filter(has_private_memory)?;
    Some(kvm.create_vm(KVM_X86_SW_PROTECTED_VM).expect("offered"))
}

fn set(vm: &Vm, address: u64, size: u64, attributes: u64) -> Result<(), Errno> {
    vm.set_memory_attributes(&KvmMemoryAttributes {
        address,
        size,
        attributes,
        flags: 0,
    })
}

fn punch(memfd: &GuestMemfd, at: u64, len: u64) {
    with_raw(memfd.as_raw_fd(), |fd| fallocate(fd, HOLE, at, len))
        .expect("open")
        .expect("a hole");
}

#[test]
fn what_each_type_of_vm_offers() {
    let Some(kvm) = kvm().filter(has_private_memory) else {
        return;
    };
    let (plain, protected) = (
        kvm.create_vm(KVM_X86_DEFAULT_VM).unwrap(),
        kvm.create_vm(KVM_X86_SW_PROTECTED_VM).unwrap(),
    );
    let all = (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED) as i64;
    for (cap, of_kvm, of_plain, of_protected) in [
        (KVM_CAP_MEMORY_ATTRIBUTES, PRIVATE as i64, 0, PRIVATE as i64),
        (KVM_CAP_GUEST_MEMFD, 1, 1, 1),
        (KVM_CAP_GUEST_MEMFD_FLAGS, all, all, GUEST_MEMFD_FLAG_MMAP as i64),
        (KVM_CAP_MEMORY_FAULT_INFO, 1, 1, 1),
    ] {
        assert_eq!(kvm.check_extension(cap), Ok(of_kvm), "{cap}");
        assert_eq!(plain.check_extension(cap), Ok(of_plain), "{cap}");
        assert_eq!(protected.check_extension(cap), Ok(of_protected), "{cap}");
    }
    assert_eq!(set(&plain, 0, 0x1000, PRIVATE), Err(Errno::EINVAL));
    assert_eq!(set(&plain, 0, 0x1000, 0), OK);
}

#[test]
fn attributes_that_cannot_be() {
    let Some(vm) = protected() else { return };
    for (address, size, attributes) in [
        (0, 0, PRIVATE),
        (0x800, 0x1000, PRIVATE),
        (0, 0x800, PRIVATE),
        (0u64.wrapping_sub(0x1000), 0x2000, PRIVATE),
        (0, 0x1000, PRIVATE | 1),
    ] {
        assert_eq!(
            set(&vm, address, size, attributes),
            Err(Errno::EINVAL),
            "{address:#x} {size:#x} {attributes}"
        );
    }
    let flagged = KvmMemoryAttributes {
        size: 0x1000,
        flags: 1,
        ..Default::default()
    };
    assert_eq!(vm.set_memory_attributes(&flagged), Err(Errno::EINVAL));
    assert_eq!(vm.raw(KVM_SET_MEMORY_ATTRIBUTES, NOWHERE), Err(Errno::EFAULT));
    // There need not be memory, and nothing of it is so big that it fails.
    assert_eq!(set(&vm, 0, 1 << 50, PRIVATE), OK);
    assert_eq!(set(&vm, 0x1000, 0x1000, 0), OK);
    assert_eq!(set(&vm, 0, 1 << 50, 0), OK);
}

#[test]
fn guest_memfds_that_cannot_be() {
    let Some(vm) = protected() else { return };
    let create = |size, flags| vm.create_guest_memfd(size, flags).map(drop);
    assert_eq!(create(0, 0), Err(Errno::EINVAL));
    assert_eq!(create(0x1800, 0), Err(Errno::EINVAL));
    assert_eq!(create(1 << 63, 0), Err(Errno::EINVAL));
    assert_eq!(create(0x1000, 1 << 8), Err(Errno::EINVAL));
    assert_eq!(create(0x1000, GUEST_MEMFD_FLAG_INIT_SHARED), Err(Errno::EINVAL));
    assert_eq!(vm.raw(KVM_CREATE_GUEST_MEMFD, NOWHERE), Err(Errno::EFAULT));
    assert_eq!(create(0x1000, GUEST_MEMFD_FLAG_MMAP), OK);
    let memfd = vm.create_guest_memfd(1 << 40, 0).unwrap();
    assert_eq!(memfd.raw(KVM_RUN, 0), Err(Errno::ENOTTY));
}

#[test]
fn slots_over_a_guest_memfd() {
    let Some(kvm) = kvm().filter(has_private_memory) else {
        return;
    };
    let vm = kvm.create_vm(KVM_X86_SW_PROTECTED_VM).unwrap();
    let ram = memory(0x2000);
    let memfd = vm.create_guest_memfd(0x4000, 0).unwrap();
    let good = memfd.region(0, 0x10000, &ram, 0);
    let with = |change: &dyn Fn(&mut KvmUserspaceMemoryRegion2)| {
        let mut region = good;
        change(&mut region);
        vm.set_user_memory_region2(&region)
    };
    assert_eq!(with(&|r| r.flags |= KVM_MEM_LOG_DIRTY_PAGES), Err(Errno::EINVAL));
    assert_eq!(with(&|r| r.flags |= KVM_MEM_READONLY), Err(Errno::EINVAL));
    assert_eq!(with(&|r| r.guest_memfd_offset = 0x800), Err(Errno::EINVAL));
    assert_eq!(
        with(&|r| r.guest_memfd_offset = 0x3000),
        Err(Errno::EINVAL),
        "beyond its end"
    );
    assert_eq!(
        with(&|r| r.guest_memfd_offset = 0u64.wrapping_sub(0x1000)),
        Err(Errno::EINVAL)
    );
    assert_eq!(with(&|r| r.guest_memfd = u32::MAX), Err(Errno::EBADF));
    assert_eq!(
        with(&|r| r.guest_memfd = vm.as_raw_fd() as u32),
        Err(Errno::EINVAL)
    );
    let other = kvm.create_vm(KVM_X86_SW_PROTECTED_VM).unwrap();
    let others = other.create_guest_memfd(0x4000, 0).unwrap();
    assert_eq!(
        with(&|r| r.guest_memfd = others.as_raw_fd() as u32),
        Err(Errno::EINVAL)
    );
    let old_form = KvmUserspaceMemoryRegion {
        flags: KVM_MEM_GUEST_MEMFD,
        ..ram.region(0, 0x10000, 0)
    };
    assert_eq!(vm.set_user_memory_region(&old_form), Err(Errno::EINVAL));
    assert_eq!(with(&|_| ()), OK);
    // Such a slot stays as it is, and its part of the file is taken.
    assert_eq!(with(&|_| ()), Err(Errno::EINVAL));
    assert_eq!(with(&|r| r.guest_phys_addr = 0x20000), Err(Errno::EINVAL));
    let second = |r: &mut KvmUserspaceMemoryRegion2| (r.slot, r.guest_phys_addr) = (1, 0x20000);
    assert_eq!(with(&second), Err(Errno::EEXIST));
    assert_eq!(
        with(&|r| {
            second(r);
            r.guest_memfd_offset = 0x1000;
        }),
        Err(Errno::EEXIST)
    );
    assert_eq!(
        with(&|r| {
            second(r);
            r.guest_memfd_offset = 0x2000;
        }),
        OK
    );
    assert_eq!(with(&|r| (r.flags, r.memory_size) = (0, 0)), OK);
    assert_eq!(with(&|_| ()), OK, "free again");
}

/// A protected VM whose guest reads a byte at `DATA`, puts one more there, shows the old one at port 0x10, and starts over.
fn counting_guest() -> Option<(Vm, Vcpu, Memory)> {
    let vm = protected()?;
    let vcpu = vm.create_vcpu(0).unwrap();
    let code = memory(0x1000);
    // again: mov al, [0]; inc byte [0]; out 0x10, al; jmp again
    code.write(0, &[0xa0, 0, 0, 0xfe, 0x06, 0, 0, 0xe6, 0x10, 0xeb, 0xf5])
        .unwrap();
    vm.add_memory(0, CODE, &code, 0).unwrap();
    let data = memory(0x1000);
    data.write(0, &[100]).unwrap();
    let mut sregs = vcpu.get_sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    (sregs.ds.base, sregs.ds.selector) = (DATA, (DATA >> 4) as u16);
    vcpu.set_sregs(&sregs).unwrap();
    let regs = KvmRegs {
        rip: CODE,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).unwrap();
    Some((vm, vcpu, data))
}

/// What the guest found.
fn found(vcpu: &Vcpu) -> u8 {
    match vcpu.run() {
        Ok(VcpuExit::IoOut(io)) => vcpu.port_data(&io)[0],
        other => panic!("{other:?}"),
    }
}

fn fault(vcpu: &Vcpu) {
    assert_eq!(vcpu.run(), Err(Errno::EFAULT));
    let fault = RunMemoryFault {
        flags: KVM_MEMORY_EXIT_FLAG_PRIVATE,
        gpa: DATA,
        size: 0x1000,
    };
    assert_eq!(vcpu.last_exit(), VcpuExit::MemoryFault(fault));
}

#[test]
fn private_and_shared_are_two_memories() {
    let Some((vm, vcpu, data)) = counting_guest() else {
        return;
    };
    let memfd = vm.create_guest_memfd(0x3000, 0).unwrap();
    vm.set_user_memory_region2(&memfd.region(1, DATA, &data, 0x1000))
        .unwrap();
    assert_eq!((found(&vcpu), found(&vcpu)), (100, 101));
    set(&vm, DATA, 0x1000, PRIVATE).unwrap();
    assert_eq!((found(&vcpu), found(&vcpu), found(&vcpu)), (0, 1, 2));
    assert_eq!(data.load::<u8>(0), Ok(102), "the client's is untouched");
    set(&vm, DATA, 0x1000, 0).unwrap();
    assert_eq!(found(&vcpu), 102);
    set(&vm, DATA, 0x1000, PRIVATE).unwrap();
    assert_eq!(found(&vcpu), 3, "and so is the private one");
    // What is freed is zero, and only that.
    punch(&memfd, 0, 0x1000);
    punch(&memfd, 0x2000, 0x1000);
    assert_eq!(found(&vcpu), 4);
    punch(&memfd, 0x1000, 0x1000);
    assert_eq!((found(&vcpu), found(&vcpu)), (0, 1));
}

#[test]
fn private_memory_that_is_nowhere_is_a_fault() {
    let Some((vm, vcpu, data)) = counting_guest() else {
        return;
    };
    set(&vm, DATA, 0x1000, PRIVATE).unwrap();
    fault(&vcpu);
    // In a slot without one, too.
    vm.add_memory(1, DATA, &data, 0).unwrap();
    fault(&vcpu);
    vm.remove_memory(1).unwrap();
    let memfd = vm.create_guest_memfd(0x1000, 0).unwrap();
    let region = memfd.region(1, DATA, &data, 0);
    vm.set_user_memory_region2(&region).unwrap();
    assert_eq!((found(&vcpu), found(&vcpu)), (0, 1));
    let pre_fault = || {
        let mut range = KvmPreFaultMemory {
            gpa: DATA,
            size: 0x1000,
            ..Default::default()
        };
        vcpu.raw(KVM_PRE_FAULT_MEMORY, std::ptr::from_mut(&mut range) as u64)
    };
    assert_eq!(pre_fault(), Ok(0));
    // Whoever closes the file takes it from the slot.
    drop(memfd);
    fault(&vcpu);
    assert_eq!(pre_fault(), Err(Errno::EFAULT));
    set(&vm, DATA, 0x1000, 0).unwrap();
    assert_eq!(found(&vcpu), 100);
    assert_eq!(vm.remove_memory(1), OK);
    set(&vm, DATA, 0x1000, PRIVATE).unwrap();
    fault(&vcpu);
}

#[test]
fn the_client_can_free_private_memory_and_not_see_it() {
    let Some(vm) = protected() else { return };
    let memfd = vm.create_guest_memfd(0x2000, 0).unwrap();
    let fd = memfd.as_raw_fd();
    let refused = |result: std::io::Result<rustix::io::Result<usize>>| result.expect("open").is_err();
    assert!(refused(with_raw(fd, |fd| rustix::io::pread(
        fd,
        &mut [0u8; 8],
        0
    ))));
    assert!(refused(with_raw(fd, |fd| rustix::io::read(fd, &mut [0u8; 8]))));
    assert!(refused(with_raw(fd, |fd| rustix::io::pwrite(fd, &[0; 8], 0))));
    assert!(refused(with_raw(fd, |fd| rustix::io::write(fd, &[0; 8]))));
    assert!(with_raw(fd, |fd| rustix::fs::ftruncate(fd, 0)).unwrap().is_err());
    assert!(memfd.map(0x1000).is_err());
    let keep = FallocateFlags::KEEP_SIZE;
    assert_eq!(with_raw(fd, |fd| fallocate(fd, keep, 0, 0x2000)).unwrap(), Ok(()));
    assert!(
        with_raw(fd, |fd| fallocate(fd, keep, 0x2000, 0x1000))
            .unwrap()
            .is_err()
    );
    let stat = with_raw(fd, |fd| rustix::fs::fstat(fd)).unwrap().unwrap();
    assert_eq!(stat.st_size, 0x2000);
    // It keeps the VM.
    drop(vm);
    punch(&memfd, 0, 0x2000);
}

#[test]
fn shared_memory_in_a_guest_memfd() {
    let Some(kvm) = kvm().filter(has_private_memory) else {
        return;
    };
    let vm = kvm.create_vm(KVM_X86_DEFAULT_VM).unwrap();
    let flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
    let memfd = vm.create_guest_memfd(0x1000, flags).unwrap();
    let theirs = memfd.map(0x1000).unwrap();
    // mov byte [cs:0x1100], 7; hlt
    theirs.write(0, &[0x2e, 0xc6, 0x06, 0x00, 0x11, 7, 0xf4]);
    let region = KvmUserspaceMemoryRegion2 {
        userspace_addr: 0,
        memory_size: 0x1000,
        ..memfd.region(0, CODE, &memory(0x1000), 0)
    };
    vm.set_user_memory_region2(&region).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    crate::run::start(&vcpu);
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!(theirs.load::<u8>(0x100), 7);
}
