//! One batch of calls: descriptors opened, used in any order, and all closed at the end.

use crate::ioctls::grammar::{Known, Maker, number_like};
use crate::ioctls::places::Places;
use crate::watch::Watch;
use fastrand::Rng;
use ring3_host::device::DeviceFile;
use ring3_host::fd::{CloseOnExec, adopt_raw, dup_raw, eventfd};
use ring3_host::shared::SharedPages;
use ring3_interpose as front;
use ring3_uapi::arch::{Archs, Level};
use ring3_uapi::ioctl::*;
use ring3_uapi::run::{CR8, IMMEDIATE_EXIT, X86_VCPU_MMAP_SIZE};
use ring3_uapi::x86::{KvmRegs, KvmSregs};
use ring3_uapi::{KvmUserspaceMemoryRegion, KvmUserspaceMemoryRegion2};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use zerocopy::{FromBytes, IntoBytes};

/// Objects of a batch at most.
const VMS: usize = 3;
const VCPUS: usize = 6;
const DEVICES: usize = 4;

/// Where guests begin.
const CODE: u64 = 0x1000;

/// Guests, in real mode. All that are not ended by an exit are ended by a signal.
const PROGRAMS: [&[u8]; 13] = [
    &[0xf4],                               // hlt
    &[0xe6, 0x10, 0xf4],                   // out 0x10, al; hlt
    &[0xe4, 0x71, 0xe6, 0x70, 0xeb, 0xfa], // in al, 0x71; out 0x70, al; again
    &[0xb9, 0x05, 0x00, 0xf3, 0x6e, 0xf4], // mov cx, 5; rep outsb; hlt
    &[0xb9, 0x05, 0x00, 0xf3, 0x6d, 0xf4], // mov cx, 5; rep insw; hlt
    &[
        0xb8, 0x00, 0xf0, 0x8e, 0xd8, 0xa1, 0x00, 0x00, 0xa3, 0x00, 0x10, 0xf4,
    ], // a word of F0000, read and written
    &[0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0xf4], // mov eax, 1; cpuid; hlt
    &[0x66, 0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, 0x0f, 0x30, 0xf4], // mov ecx, 0x1b; rdmsr; wrmsr; hlt
    &[0x66, 0xb8, 12, 0, 0, 0, 0x0f, 0x01, 0xc1, 0xf4], // mov eax, 12; vmcall; hlt
    &[0xfb, 0xf4, 0xeb, 0xfc],             // sti; hlt; again
    &[0xeb, 0xfe],                         // jmp $
    &[0x0f, 0x0b],                         // ud2
    &[0xcd, 0x20, 0xcc, 0xf1],             // int 0x20; int3; int1
];

struct Object {
    level: Level,
    fd: RawFd,
    /// A vCPU's pages.
    run: Option<SharedPages>,
}

pub struct Session<'a> {
    rng: Rng,
    places: &'a Places,
    watch: &'a Watch,
    objects: Vec<Object>,
    /// For irqfd and ioeventfd.
    events: Vec<OwnedFd>,
    known: Known,
    pub calls: u64,
    pub succeeded: u64,
}

impl<'a> Session<'a> {
    pub fn new(seed: u64, places: &'a Places, watch: &'a Watch) -> std::io::Result<Session<'a>> {
        Ok(Session {
            rng: Rng::with_seed(seed),
            places,
            watch,
            objects: Vec::new(),
            events: vec![eventfd()?, eventfd()?],
            known: Known::new(),
            calls: 0,
            succeeded: 0,
        })
    }

    /// About `calls` calls.
    pub fn run(mut self, calls: u64) -> Session<'a> {
        self.begin();
        if self.rng.u8(..4) != 0 {
            self.go_on(calls);
        } else {
            // As a client whose threads do not know of each other; it cannot be repeated exactly.
            let fds = self
                .objects
                .iter()
                .map(|object| (object.level, object.fd))
                .collect();
            let (done, seed, places) = (AtomicBool::new(false), self.rng.u64(..), self.places);
            std::thread::scope(|scope| {
                let other = scope.spawn(|| disturb(places, fds, seed, &done));
                self.go_on(calls);
                done.store(true, Relaxed);
                // It panics only where the process ends.
                self.calls += self.watch.during(|| other.join()).unwrap_or(0);
            });
        }
        while !self.objects.is_empty() {
            self.close_one();
        }
        self.events.clear();
        self
    }

    fn go_on(&mut self, calls: u64) {
        while self.calls < calls {
            match self.rng.u8(..128) {
                0 => self.close_one(),
                1 => self.duplicate(),
                2 | 3 => self.new_guest(),
                4..34 => self.enter(),
                _ => self.any(),
            }
        }
    }

    /// One VM, mostly such as a client makes it, so that what follows finds something.
    fn begin(&mut self) {
        let Ok(system) = front::open_device(CloseOnExec::Yes) else {
            return;
        };
        self.add(Level::System, system);
        self.call(0, KVM_CREATE_VM, 0);
        let Some(vm) = self.pick(Level::Vm) else { return };
        let region = |slot, flags, at: u64, (address, size): (u64, u64)| KvmUserspaceMemoryRegion {
            slot,
            flags,
            guest_phys_addr: at,
            memory_size: size,
            userspace_addr: address,
        };
        let (address, size) = self.places.ram();
        let flags = self.rng.u32(..2);
        self.structure(
            vm,
            KVM_SET_USER_MEMORY_REGION,
            &region(0, flags, 0, (address, size)),
        );
        if self.rng.bool() {
            self.call(vm, KVM_CREATE_IRQCHIP, 0);
        }
        if self.rng.bool() {
            self.structure(vm, KVM_CREATE_PIT2, &ring3_uapi::x86::KvmPitConfig::default());
        }
        for id in 0..self.rng.u64(1..3) {
            self.call(vm, KVM_CREATE_VCPU, id);
        }
        self.new_guest();
    }

    fn structure<T: IntoBytes + zerocopy::Immutable>(&mut self, object: usize, request: u32, structure: &T) {
        // Not put just anywhere.
        let at = self.places.put(structure.as_bytes(), &mut Rng::with_seed(5), 0);
        self.call(object, request, at);
    }

    fn add(&mut self, level: Level, fd: RawFd) {
        let run = match level {
            Level::Vcpu => dup_raw(fd)
                .ok()
                .and_then(|fd| DeviceFile::from_fd(fd).map(X86_VCPU_MMAP_SIZE).ok()),
            _ => None,
        };
        self.objects.push(Object { level, fd, run });
    }

    fn count(&self, level: Level) -> usize {
        self.objects.iter().filter(|object| object.level == level).count()
    }

    fn pick(&mut self, level: Level) -> Option<usize> {
        let all: Vec<usize> = (0..self.objects.len())
            .filter(|n| self.objects[*n].level == level)
            .collect();
        let picked = self.rng.usize(..all.len().max(1));
        all.get(picked).copied()
    }

    /// Makes a call, and takes over what it returns.
    fn call(&mut self, object: usize, request: u32, arg: u64) -> Option<i64> {
        let (level, fd) = (self.objects[object].level, self.objects[object].fd);
        self.calls += 1;
        let result = self.watch.during(|| front::ioctl(fd, request, arg))?.ok()?;
        self.succeeded += 1;
        match (level, request) {
            (Level::System, KVM_CREATE_VM) => self.add(Level::Vm, result as RawFd),
            (Level::Vm, KVM_CREATE_VCPU) => self.add(Level::Vcpu, result as RawFd),
            (Level::Vm, KVM_CREATE_DEVICE) => {
                let made = self.places.get(arg, size_of::<ring3_uapi::KvmCreateDevice>());
                let made = made.and_then(|bytes| ring3_uapi::KvmCreateDevice::read_from_bytes(&bytes).ok());
                if let Some(made) = made.filter(|made| made.flags & 1 == 0) {
                    self.add(Level::Device, made.fd as RawFd);
                }
            }
            (_, KVM_GET_STATS_FD) => close(result as RawFd),
            (Level::Vm, KVM_CREATE_GUEST_MEMFD) => close(result as RawFd),
            _ => {}
        }
        Some(result)
    }

    /// Any request on any descriptor, mostly on one that takes it.
    fn any(&mut self) {
        let level = match self.rng.u8(..16) {
            0 => Level::System,
            1 => Level::Device,
            2..8 => Level::Vm,
            _ => Level::Vcpu,
        };
        let Some(object) = self.pick(level).or_else(|| self.pick(Level::System)) else {
            return self.begin();
        };
        let level = self.objects[object].level;
        let row = loop {
            let row = &IOCTLS[self.rng.usize(..IOCTLS.len())];
            let takes = row.archs(level).contains(Archs::X86);
            if takes || self.rng.u8(..64) == 0 {
                break row;
            }
        };
        let full = match row.request {
            KVM_CREATE_VM => self.count(Level::Vm) >= VMS,
            KVM_CREATE_VCPU => self.count(Level::Vcpu) >= VCPUS,
            KVM_CREATE_DEVICE => self.count(Level::Device) >= DEVICES,
            KVM_RUN => return self.enter(),
            _ => false,
        };
        if full {
            return;
        }
        let request = match self.rng.u8(..64) {
            0 => row.request ^ 1 << self.rng.u32(..32),
            1 => KVMIO << 8 | self.rng.u32(..256),
            _ => row.request,
        };
        // Other architectures' requests are not to be told from what they are with their numbers changed.
        let request = if request == KVM_RUN { row.request } else { request };
        let events = self.events.iter().map(AsRawFd::as_raw_fd);
        let objects = self.objects.iter().map(|object| object.fd);
        let fds: Vec<RawFd> = events.chain(objects).chain([-1, 0]).collect();
        let mut maker = Maker {
            rng: &mut self.rng,
            places: self.places,
            fds: &fds,
            known: &self.known,
        };
        let Some(mut bytes) = maker.argument(row) else {
            let value = maker.value(row);
            self.call(object, request, value);
            return;
        };
        tame(self.places, request, &mut bytes);
        let at = self.places.put(&bytes, &mut self.rng, 0);
        if self.call(object, request, at).is_some() {
            self.learn(row, at, bytes.len());
        }
    }

    /// What KVM wrote is worth giving back.
    fn learn(&mut self, row: &'static IoctlRow, at: u64, len: usize) {
        if let Arg::Out(name) | Arg::InOut(name) | Arg::InOutList(name, _) = row.arg
            && let Some(bytes) = self.places.get(at, len)
        {
            self.known.insert(name, bytes);
        }
    }

    /// A vCPU begins with a small program.
    fn new_guest(&mut self) {
        let Some(vcpu) = self.pick(Level::Vcpu) else {
            return;
        };
        let noise: Vec<u8> = (0..24).map(|_| self.rng.u8(..)).collect();
        let program = match self.rng.usize(..PROGRAMS.len() + 3) {
            n if n < PROGRAMS.len() => PROGRAMS[n],
            _ => &noise,
        };
        self.places.load(CODE as usize, program);
        let at = self
            .places
            .put(KvmSregs::default().as_bytes(), &mut Rng::with_seed(5), 0);
        if self.call(vcpu, KVM_GET_SREGS, at).is_none() {
            return;
        }
        let bytes = self.places.get(at, size_of::<KvmSregs>()).unwrap_or_default();
        if let Ok(mut sregs) = KvmSregs::read_from_bytes(&bytes) {
            (sregs.cs.base, sregs.cs.selector) = (0, 0);
            self.structure(vcpu, KVM_SET_SREGS, &sregs);
        }
        let regs = KvmRegs {
            rip: CODE,
            rflags: 2,
            rsp: 0x8000,
            ..KvmRegs::default()
        };
        self.structure(vcpu, KVM_SET_REGS, &regs);
    }

    /// KVM_RUN, after the client wrote something to the run page.
    fn enter(&mut self) {
        let Some(vcpu) = self.pick(Level::Vcpu) else {
            return self.any();
        };
        if let Some(run) = &self.objects[vcpu].run {
            let at_once = u8::from(self.rng.bool());
            run.store(IMMEDIATE_EXIT, &at_once);
            if self.rng.u8(..4) == 0 {
                for _ in 0..self.rng.usize(1..5) {
                    let near = match self.rng.u8(..4) {
                        0 => CR8 + 16,
                        1 => 512,
                        2 => 2400,
                        _ => X86_VCPU_MMAP_SIZE,
                    };
                    let at = self.rng.usize(..near / 8) * 8;
                    run.store(at, &number_like(&mut self.rng));
                }
            }
        }
        let arg = u64::from(self.rng.u8(..64) == 0);
        self.call(vcpu, KVM_RUN, arg);
    }

    fn duplicate(&mut self) {
        if self.objects.len() > 20 || self.objects.is_empty() {
            return;
        }
        let n = self.rng.usize(..self.objects.len());
        let (level, old) = (self.objects[n].level, self.objects[n].fd);
        if let Ok(new) = dup_raw(old) {
            let new = std::os::fd::IntoRawFd::into_raw_fd(new);
            front::duped(old, new);
            self.add(level, new);
        }
    }

    fn close_one(&mut self) {
        if self.objects.is_empty() {
            return;
        }
        let object = self.objects.swap_remove(self.rng.usize(..self.objects.len()));
        self.watch.during(|| close(object.fd));
    }
}

/// Closes a descriptor as the preload library does for a client.
fn close(fd: RawFd) {
    front::closing(fd);
    drop(adopt_raw(fd));
    front::closed(fd);
}

/// Keeps the harness out of the guest's reach, and its signal unmasked.
fn tame(places: &Places, request: u32, bytes: &mut Vec<u8>) {
    match request {
        KVM_SET_USER_MEMORY_REGION => {
            if let Ok((region, _)) = KvmUserspaceMemoryRegion::mut_from_prefix(bytes) {
                (region.userspace_addr, region.memory_size) =
                    places.confine(region.userspace_addr, region.memory_size);
            }
        }
        KVM_SET_USER_MEMORY_REGION2 => {
            if let Ok((region, _)) = KvmUserspaceMemoryRegion2::mut_from_prefix(bytes) {
                (region.userspace_addr, region.memory_size) =
                    places.confine(region.userspace_addr, region.memory_size);
            }
        }
        // The set follows a length of four bytes.
        KVM_SET_SIGNAL_MASK => {
            let signal = crate::watch::SIGNAL as usize - 1;
            bytes.resize(12, 0);
            bytes[4 + signal / 8] &= !(1 << (signal % 8));
        }
        _ => {}
    }
}

/// Another thread of the client, which makes any request but KVM_RUN on what there was when it began, be it closed or not. Says
/// how many it made.
fn disturb(places: &Places, fds: Vec<(Level, RawFd)>, seed: u64, done: &AtomicBool) -> u64 {
    let (mut rng, known) = (Rng::with_seed(seed), Known::new());
    let mut calls = 0;
    while !done.load(Relaxed) && !fds.is_empty() {
        let (level, fd) = fds[rng.usize(..fds.len())];
        let row = &IOCTLS[rng.usize(..IOCTLS.len())];
        let makes = [
            KVM_CREATE_VM,
            KVM_CREATE_VCPU,
            KVM_CREATE_DEVICE,
            KVM_GET_STATS_FD,
            KVM_CREATE_GUEST_MEMFD,
        ];
        if row.request == KVM_RUN || makes.contains(&row.request) || !row.archs(level).contains(Archs::X86) {
            continue;
        }
        let mut maker = Maker {
            rng: &mut rng,
            places,
            fds: &[-1],
            known: &known,
        };
        let arg = match maker.argument(row) {
            None => maker.value(row),
            Some(mut bytes) => {
                tame(places, row.request, &mut bytes);
                places.put(&bytes, &mut rng, 1)
            }
        };
        // What it answers depends on the other thread.
        let _ = front::ioctl(fd, row.request, arg);
        calls += 1;
        std::thread::yield_now();
    }
    calls
}
