//! Whole VMs, in process: a client's ioctls on one side, guest code in real mode on the other.

use std::os::fd::RawFd;
use std::sync::Arc;

use ring3_host::device::DeviceFile;
use ring3_host::shared::SharedPages;
use ring3_kvm::{File, Files, open_system};
use ring3_uapi::exit::*;
use ring3_uapi::ioctl::*;
use ring3_uapi::run::*;
use ring3_uapi::x86::*;
use ring3_uapi::*;

use crate::X86;

/// A VM of one vCPU with 64 KiB of memory from zero.
struct TestVm {
    vm: Arc<dyn File>,
    vcpu: Arc<dyn File>,
    page: SharedPages,
    ram: SharedPages,
}

fn file(fd: RawFd) -> Arc<dyn File> {
    Files::process().get(fd).expect("one of ours")
}

fn ioctl<T>(file: &Arc<dyn File>, request: u32, arg: &mut T) -> Result<i64, ring3_kvm::Errno> {
    file.ioctl(request, std::ptr::from_mut(arg) as u64)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Irqchip {
    None,
    Full,
}

impl TestVm {
    /// A VM with `code` at 1000h, where its vCPU starts in real mode.
    fn new(code: &[u8], irqchip: Irqchip) -> TestVm {
        let system = file(open_system::<X86>().unwrap());
        let vm = file(system.ioctl(KVM_CREATE_VM, 0).unwrap() as RawFd);
        let (pages, _fd) = SharedPages::create("ram", 16).unwrap();
        pages.write(0x1000, code);
        let mut region = KvmUserspaceMemoryRegion {
            memory_size: 16 * 4096,
            userspace_addr: pages.address().0,
            ..KvmUserspaceMemoryRegion::default()
        };
        ioctl(&vm, KVM_SET_USER_MEMORY_REGION, &mut region).unwrap();
        if irqchip == Irqchip::Full {
            vm.ioctl(KVM_CREATE_IRQCHIP, 0).unwrap();
        }
        let vcpu_fd = vm.ioctl(KVM_CREATE_VCPU, 0).unwrap() as RawFd;
        let vcpu = file(vcpu_fd);
        let page = DeviceFile::from_raw(vcpu_fd).unwrap().map(3 * 4096).unwrap();
        let this = TestVm {
            vm,
            vcpu,
            page,
            ram: pages,
        };
        let mut sregs = KvmSregs::default();
        ioctl(&this.vcpu, KVM_GET_SREGS, &mut sregs).unwrap();
        sregs.cs.base = 0;
        sregs.cs.selector = 0;
        ioctl(&this.vcpu, KVM_SET_SREGS, &mut sregs).unwrap();
        this.set_rip(0x1000);
        this
    }

    fn set_rip(&self, rip: u64) {
        let mut regs = self.regs();
        regs.rip = rip;
        regs.rflags = 2;
        regs.rsp = 0x8000;
        ioctl(&self.vcpu, KVM_SET_REGS, &mut regs).unwrap();
    }

    fn regs(&self) -> KvmRegs {
        let mut regs = KvmRegs::default();
        ioctl(&self.vcpu, KVM_GET_REGS, &mut regs).unwrap();
        regs
    }

    fn run(&self) -> u32 {
        self.vcpu.ioctl(KVM_RUN, 0).unwrap();
        self.page.load(EXIT_REASON)
    }

    fn io(&self) -> RunIo {
        self.page.load(PAYLOAD)
    }
}

#[test]
fn ports_go_to_the_client_and_back() {
    // in al, 60h; inc al; out 61h, al; hlt
    let vm = TestVm::new(&[0xe4, 0x60, 0xfe, 0xc0, 0xe6, 0x61, 0xf4], Irqchip::None);
    assert_eq!(vm.run(), KVM_EXIT_IO);
    assert_eq!(
        (vm.io().direction, vm.io().port, vm.io().size),
        (KVM_EXIT_IO_IN, 0x60, 1)
    );
    vm.page.store(X86_PIO_DATA, &0x41u8);
    assert_eq!(vm.run(), KVM_EXIT_IO);
    assert_eq!((vm.io().direction, vm.io().port), (KVM_EXIT_IO_OUT, 0x61));
    assert_eq!(vm.page.load::<u8>(X86_PIO_DATA), 0x42);
    assert_eq!(vm.run(), KVM_EXIT_HLT);
    assert_eq!(vm.regs().rip, 0x1007);
}

#[test]
fn immediate_exit_completes_the_last_exit_first() {
    // in al, 60h; hlt
    let vm = TestVm::new(&[0xe4, 0x60, 0xf4], Irqchip::None);
    assert_eq!(vm.run(), KVM_EXIT_IO);
    assert_eq!(vm.regs().rip, 0x1000);
    vm.page.store(X86_PIO_DATA, &7u8);
    vm.page.store(IMMEDIATE_EXIT, &1u8);
    assert_eq!(vm.vcpu.ioctl(KVM_RUN, 0), Err(ring3_kvm::Errno::EINTR));
    assert_eq!((vm.regs().rip, vm.regs().rax as u8), (0x1002, 7));
    vm.page.store(IMMEDIATE_EXIT, &0u8);
    assert_eq!(vm.run(), KVM_EXIT_HLT);
}

#[test]
fn memory_without_a_slot_is_the_clients() {
    // mov ax, [di]; mov [di], al; hlt with DS at 1 MiB - 64 KiB and beyond the slot
    let vm = TestVm::new(&[0x8b, 0x05, 0x88, 0x05, 0xf4], Irqchip::None);
    let mut sregs = KvmSregs::default();
    ioctl(&vm.vcpu, KVM_GET_SREGS, &mut sregs).unwrap();
    sregs.ds.base = 0xf_0000;
    ioctl(&vm.vcpu, KVM_SET_SREGS, &mut sregs).unwrap();
    assert_eq!(vm.run(), KVM_EXIT_MMIO);
    let shown: RunMmio = vm.page.load(PAYLOAD);
    assert_eq!((shown.phys_addr, shown.len, shown.is_write), (0xf_0000, 2, 0));
    vm.page.store(MMIO_DATA, &0x1234u16);
    assert_eq!(vm.run(), KVM_EXIT_MMIO);
    let shown: RunMmio = vm.page.load(PAYLOAD);
    assert_eq!(
        (shown.phys_addr, shown.len, shown.is_write, shown.data[0]),
        (0xf_0000, 1, 1, 0x34)
    );
    assert_eq!(vm.run(), KVM_EXIT_HLT);
}

#[test]
fn an_interrupt_of_the_client_is_delivered_at_its_window() {
    // sti; nop; hlt; handler at 2000h: mov bl, 5; hlt
    let vm = TestVm::new(&[0xfb, 0x90, 0xf4], Irqchip::None);
    vm.ram.write(0x2000, &[0xb3, 0x05, 0xf4]);
    vm.ram.write(0x20 * 4, &[0x00, 0x20, 0x00, 0x00]);
    vm.page.store(REQUEST_INTERRUPT_WINDOW, &1u8);
    assert_eq!(vm.run(), KVM_EXIT_IRQ_WINDOW_OPEN);
    assert_eq!(vm.page.load::<u8>(READY_FOR_INTERRUPT_INJECTION), 1);
    vm.page.store(REQUEST_INTERRUPT_WINDOW, &0u8);
    ioctl(&vm.vcpu, KVM_INTERRUPT, &mut KvmInterrupt { irq: 0x20 }).unwrap();
    assert_eq!(vm.run(), KVM_EXIT_HLT);
    assert_eq!((vm.regs().rbx as u8, vm.regs().rip), (5, 0x2003));
}

#[test]
fn the_8259_interrupts_a_halted_guest() {
    // Sets up the 8259 (base 8, all unmasked), sti; hlt; handler for IRQ 1 at 2000h: in al, 70h
    let code = [
        0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x08, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0,
        0x00, 0xe6, 0x21, 0xfb, 0xf4, 0xeb, 0xfd,
    ];
    let vm = TestVm::new(&code, Irqchip::Full);
    vm.ram.write(0x2000, &[0xe4, 0x70]);
    vm.ram.write(9 * 4, &[0x00, 0x20, 0x00, 0x00]);
    ioctl(&vm.vm, KVM_IRQ_LINE, &mut KvmIrqLevel { irq: 1, level: 0 }).unwrap();
    let line = Arc::clone(&vm.vm);
    let poster = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        ioctl(&line, KVM_IRQ_LINE, &mut KvmIrqLevel { irq: 1, level: 1 }).unwrap();
    });
    assert_eq!(vm.run(), KVM_EXIT_IO);
    assert_eq!((vm.io().port, vm.regs().rip), (0x70, 0x2000));
    poster.join().unwrap();
}

#[test]
fn cpuid_is_what_the_client_set() {
    // mov eax, 40000000h (32-bit operand); cpuid; hlt
    let vm = TestVm::new(&[0x66, 0xb8, 0, 0, 0, 0x40, 0x0f, 0xa2, 0xf4], Irqchip::None);
    let system = file(open_system::<X86>().unwrap());
    let mut list = vec![0u8; 8 + 256 * size_of::<KvmCpuidEntry2>()];
    list[..4].copy_from_slice(&256u32.to_le_bytes());
    system
        .ioctl(KVM_GET_SUPPORTED_CPUID, list.as_mut_ptr() as u64)
        .unwrap();
    vm.vcpu.ioctl(KVM_SET_CPUID2, list.as_mut_ptr() as u64).unwrap();
    assert_eq!(vm.run(), KVM_EXIT_HLT);
    assert_eq!(vm.regs().rbx, u64::from(u32::from_le_bytes(*b"KVMK")));
}

#[test]
fn a_triple_fault_is_a_shutdown() {
    // lidt [0] with a limit of zero; int 3
    let vm = TestVm::new(&[0x0f, 0x01, 0x1e, 0x00, 0x30, 0xcc], Irqchip::None);
    assert_eq!(vm.run(), KVM_EXIT_SHUTDOWN);
}

#[test]
fn registers_travel_through_the_run_page() {
    let vm = TestVm::new(&[0x40, 0xf4], Irqchip::None);
    vm.page.store(KVM_VALID_REGS, &KVM_SYNC_X86_REGS);
    let mut regs = vm.regs();
    regs.rax = 41;
    vm.page.store(SYNC_REGS, &regs);
    vm.page.store(KVM_DIRTY_REGS, &KVM_SYNC_X86_REGS);
    assert_eq!(vm.run(), KVM_EXIT_HLT);
    assert_eq!(vm.page.load::<KvmRegs>(SYNC_REGS).rax, 42);
}

#[test]
fn repeated_port_reads_exit_once_a_page() {
    // mov di, 1ffch; mov si, 3000h; mov dx, 1f0h; mov cx, 4; rep insw; mov cx, 3; rep outsb; hlt
    let code = [
        0xbf, 0xfc, 0x1f, 0xbe, 0x00, 0x30, 0xba, 0xf0, 0x01, 0xb9, 4, 0, 0xf3, 0x6d, 0xb9, 3, 0, 0xf3, 0x6e,
        0xf4,
    ];
    let vm = TestVm::new(&code, Irqchip::None);
    vm.ram.write(0x3000, b"abc");
    // Two elements to the end of the first page, two in the next.
    for piece in [[1u8, 2, 3, 4], [5, 6, 7, 8]] {
        assert_eq!(vm.run(), KVM_EXIT_IO);
        let io = vm.io();
        assert_eq!(
            (io.direction, io.size, io.port, io.count),
            (KVM_EXIT_IO_IN, 2, 0x1f0, 2)
        );
        vm.page.write(X86_PIO_DATA, &piece);
    }
    // Writes come one by one, as from Linux.
    for byte in *b"abc" {
        assert_eq!(vm.run(), KVM_EXIT_IO);
        assert_eq!((vm.io().direction, vm.io().count), (KVM_EXIT_IO_OUT, 1));
        assert_eq!(vm.page.load::<u8>(X86_PIO_DATA), byte);
    }
    assert_eq!(vm.run(), KVM_EXIT_HLT);
    let mut memory = [0; 8];
    vm.ram.read(0x1ffc, &mut memory);
    assert_eq!(memory, [1, 2, 3, 4, 5, 6, 7, 8]);
    let regs = vm.regs();
    assert_eq!((regs.rdi, regs.rsi, regs.rcx), (0x2004, 0x3003, 0));
}

#[test]
fn repeated_port_instructions_reach_devices_of_ours() {
    // mov si, 3000h; mov dx, 21h; mov cx, 2; rep outsb; mov di, 4000h; mov cx, 2; rep insb; hlt
    let code = [
        0xbe, 0x00, 0x30, 0xba, 0x21, 0x00, 0xb9, 2, 0, 0xf3, 0x6e, 0xbf, 0x00, 0x40, 0xb9, 2, 0, 0xf3, 0x6c,
        0xe6, 0x70,
    ];
    let vm = TestVm::new(&code, Irqchip::Full);
    vm.ram.write(0x3000, &[0x55, 0xaa]);
    // The next exit is the last instruction's: the mask register took and gave all by itself.
    assert_eq!(vm.run(), KVM_EXIT_IO);
    assert_eq!(vm.io().port, 0x70);
    let mut masks = [0; 2];
    vm.ram.read(0x4000, &mut masks);
    assert_eq!(masks, [0xaa, 0xaa]);
}

#[test]
fn an_answer_to_repeated_reads_survives_immediate_exit() {
    // mov cx, 3; mov di, 3000h; mov dx, 60h; rep insb; hlt
    let code = [0xb9, 3, 0, 0xbf, 0x00, 0x30, 0xba, 0x60, 0x00, 0xf3, 0x6c, 0xf4];
    let vm = TestVm::new(&code, Irqchip::None);
    assert_eq!(vm.run(), KVM_EXIT_IO);
    assert_eq!(vm.io().count, 3);
    vm.page.write(X86_PIO_DATA, b"xyz");
    vm.page.store(IMMEDIATE_EXIT, &1u8);
    assert_eq!(vm.vcpu.ioctl(KVM_RUN, 0), Err(ring3_kvm::Errno::EINTR));
    assert_eq!((vm.regs().rip, vm.regs().rcx), (0x100b, 0));
    vm.page.store(IMMEDIATE_EXIT, &0u8);
    assert_eq!(vm.run(), KVM_EXIT_HLT);
}
