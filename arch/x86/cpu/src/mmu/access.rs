//! Loads, stores and read-modify-writes of guest memory, as operations make them.

use super::Class;
use crate::op::{Op, OpFlags, Width};
use crate::state::{CR4_SMAP, DR7_ENABLES, FS, SS};
use crate::world::{Access, Backing, Posted, World};
use crate::{Core, Fault, Step, Stop, core::Attention};
use ring3_host::addr::GuestPhys;
use ring3_host::mem::HostPage;

/// With whose rights an access is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    User,
    /// Supervisor that may not touch user pages as data (SMAP).
    Supervisor,
    /// Supervisor that may.
    Open,
}

/// A pseudo segment for accesses whose faults are never #SS: descriptor tables, the TSS.
pub const NO_SEGMENT: u8 = FS as u8;

impl Core {
    #[inline]
    fn privilege(&self) -> Privilege {
        match self.mmu.class() {
            Class::User => Privilege::User,
            Class::Supervisor => Privilege::Supervisor,
            Class::Open => Privilege::Open,
            Class::Checked | Class::UserCode => Privilege::User,
            Class::SupervisorCode => Privilege::Supervisor,
        }
    }

    /// The linear address of an operation's memory operand, `size` bytes long, after the segment's checks.
    #[inline(always)]
    pub fn address(&self, op: &Op, size: u64, access: Access) -> Step<u64> {
        let offset = self.offset(op);
        if op.flags.has(OpFlags::FLAT) {
            Ok(offset)
        } else {
            self.segmented(op.seg, offset & size_mask(op.address_size), size, access)
        }
    }

    /// The offset of the memory operand before it is cut to the address size.
    #[inline(always)]
    pub fn offset(&self, op: &Op) -> u64 {
        let gpr = &self.state.gpr;
        gpr[usize::from(op.base & 31)]
            .wrapping_add(gpr[usize::from(op.index & 31)] << (op.scale & 3))
            .wrapping_add(op.disp)
    }

    /// The linear address of `size` bytes at an offset in a segment.
    #[inline]
    pub fn segmented(&self, seg: u8, offset: u64, size: u64, access: Access) -> Step<u64> {
        let segment = &self.state.seg[usize::from(seg).min(5)];
        if self.mode.code_bits == 64 {
            return Ok(if usize::from(seg) >= FS {
                segment.base.wrapping_add(offset)
            } else {
                offset
            });
        }
        let rights = segment.attributes;
        let allowed = self.mode.real_segments
            || !rights.unusable()
                && match access {
                    Access::Write => rights.is_writable(),
                    Access::Read => rights.is_readable(),
                    Access::Execute => true,
                };
        if !allowed || !segment.contains(offset, size) {
            return Err(segment_fault(seg).into());
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Loads from a linear address with the current privilege.
    #[inline(always)]
    pub fn read<T: Width>(&mut self, world: &mut dyn World, linear: u64, seg: u8) -> Step<T> {
        let entry = self.mmu.entry(linear);
        let offset = linear.wrapping_sub(entry.read);
        if offset <= 4096 - T::BYTES
            && let Ok(value) = entry.page.load::<T>(offset as usize)
        {
            return Ok(value);
        }
        self.read_slow(world, linear, seg)
    }

    #[cold]
    #[inline(never)]
    fn read_slow<T: Width>(&mut self, world: &mut dyn World, linear: u64, seg: u8) -> Step<T> {
        let mut bytes = [0; 8];
        self.read_bytes(world, linear, &mut bytes[..T::BYTES as usize], seg)?;
        Ok(T::from_u64(u64::from_le_bytes(bytes)))
    }

    /// Stores to a linear address with the current privilege.
    #[inline(always)]
    pub fn write<T: Width>(&mut self, world: &mut dyn World, linear: u64, seg: u8, value: T) -> Step {
        let entry = self.mmu.entry(linear);
        let offset = linear.wrapping_sub(entry.write);
        if offset <= 4096 - T::BYTES && entry.page.store::<T>(offset as usize, value).is_ok() {
            return Ok(());
        }
        self.write_slow(world, linear, seg, value)
    }

    #[cold]
    #[inline(never)]
    fn write_slow<T: Width>(&mut self, world: &mut dyn World, linear: u64, seg: u8, value: T) -> Step {
        self.write_bytes(
            world,
            linear,
            &value.to_u64().to_le_bytes()[..T::BYTES as usize],
            seg,
        )
    }

    /// Replaces the value at a linear address by `change` of it and returns what was there. With `lock`, other
    /// processors see one atomic step; across a page boundary or outside of memory they do not.
    #[inline(always)]
    pub fn modify<T: Width>(
        &mut self,
        world: &mut dyn World,
        linear: u64,
        seg: u8,
        lock: bool,
        change: impl Fn(T) -> T,
    ) -> Step<T> {
        let entry = self.mmu.entry(linear);
        let offset = linear.wrapping_sub(entry.write);
        if offset <= 4096 - T::BYTES {
            let page = entry.page;
            if let Ok(old) = replace(page, offset as usize, lock, &change) {
                self.note_lock(linear, T::BYTES, lock);
                return Ok(old);
            }
        }
        let old = self.modify_slow(world, linear, seg, lock, &change)?;
        self.note_lock(linear, T::BYTES, lock);
        Ok(old)
    }

    /// After a locked access: one to two cache lines locks the bus.
    #[inline(always)]
    fn note_lock(&mut self, linear: u64, size: u64, lock: bool) {
        if lock && self.reports_bus_locks && (linear & 63) + size > 64 {
            self.locked_bus = true;
            self.attention.0 |= Attention::BUS_LOCK;
        }
    }

    #[cold]
    #[inline(never)]
    fn modify_slow<T: Width>(
        &mut self,
        world: &mut dyn World,
        linear: u64,
        seg: u8,
        lock: bool,
        change: &dyn Fn(T) -> T,
    ) -> Step<T> {
        let size = T::BYTES as usize;
        self.check_access(linear, size, seg)?;
        let offset = (linear & 0xfff) as usize;
        if offset + size <= 4096 {
            let part = self.part(world, linear, Access::Write, self.privilege())?;
            if let Backing::Ram { page, direct } = part.backing {
                let old =
                    replace(page, offset, lock, &|old| change(old)).map_err(|_| self.lost(part.gpa.0))?;
                self.note_write(world, part.gpa, size, direct);
                self.watch(linear, size, Access::Write);
                return Ok(old);
            }
        } else {
            // Both pages must be writable before anything is changed.
            self.part(world, linear, Access::Write, self.privilege())?;
            self.part(world, self.next_page(linear), Access::Write, self.privilege())?;
        }
        let mut bytes = [0; 8];
        self.read_bytes(world, linear, &mut bytes[..size], seg)?;
        let old = T::from_u64(u64::from_le_bytes(bytes));
        self.write_bytes(world, linear, &change(old).to_u64().to_le_bytes()[..size], seg)?;
        Ok(old)
    }

    /// CMPXCHG16B's access: 16 aligned bytes. Returns what was there; equal to `expected` if it was replaced.
    pub fn compare_exchange16(
        &mut self,
        world: &mut dyn World,
        linear: u64,
        seg: u8,
        expected: u128,
        new: u128,
    ) -> Step<u128> {
        self.check_access(linear, 16, seg)?;
        let part = self.part(world, linear, Access::Write, self.privilege())?;
        let Backing::Ram { page, direct } = part.backing else {
            return Err(Stop::Unsupported);
        };
        let outcome = page.compare_exchange::<u128>((linear & 0xfff) as usize, expected, new);
        let old = match outcome.map_err(|_| self.lost(part.gpa.0))? {
            Ok(old) | Err(old) => old,
        };
        self.note_write(world, part.gpa, 16, direct);
        self.watch(linear, 16, Access::Write);
        Ok(old)
    }

    /// Reads any number of bytes at a linear address with the current privilege.
    pub fn read_bytes(&mut self, world: &mut dyn World, linear: u64, data: &mut [u8], seg: u8) -> Step {
        self.check_access(linear, data.len(), seg)?;
        let privilege = self.privilege();
        self.read_parts(world, linear, data, privilege)?;
        self.watch(linear, data.len(), Access::Read);
        Ok(())
    }

    /// Writes any number of bytes; nothing is written unless every page of the range may be.
    pub fn write_bytes(&mut self, world: &mut dyn World, linear: u64, data: &[u8], seg: u8) -> Step {
        self.check_access(linear, data.len(), seg)?;
        let privilege = self.privilege();
        self.write_parts(world, linear, data, privilege)?;
        self.watch(linear, data.len(), Access::Write);
        Ok(())
    }

    /// Reads system memory (descriptor tables, the TSS) as the processor itself does, at any CPL.
    pub fn read_system(&mut self, world: &mut dyn World, linear: u64, data: &mut [u8]) -> Step {
        self.read_parts(world, linear, data, self.system_privilege())
    }

    /// Writes system memory as the processor itself does.
    pub fn write_system(&mut self, world: &mut dyn World, linear: u64, data: &[u8]) -> Step {
        self.write_parts(world, linear, data, self.system_privilege())
    }

    /// The rights of the processor's own accesses: user pages are out of bounds only under SMAP.
    pub(crate) fn system_privilege(&self) -> Privilege {
        if self.state.cr4 & CR4_SMAP == 0 {
            Privilege::Open
        } else {
            Privilege::Supervisor
        }
    }

    /// Reads with rights that need not be those of the current privilege level; no alignment check is made.
    pub(crate) fn read_as(
        &mut self,
        world: &mut dyn World,
        linear: u64,
        data: &mut [u8],
        privilege: Privilege,
    ) -> Step {
        self.read_parts(world, linear, data, privilege)?;
        self.watch(linear, data.len(), Access::Read);
        Ok(())
    }

    /// The like for writes.
    pub(crate) fn write_as(
        &mut self,
        world: &mut dyn World,
        linear: u64,
        data: &[u8],
        privilege: Privilege,
    ) -> Step {
        self.write_parts(world, linear, data, privilege)?;
        self.watch(linear, data.len(), Access::Write);
        Ok(())
    }

    /// Reads part of an operand whose alignment has been checked.
    pub(crate) fn read_run(&mut self, world: &mut dyn World, linear: u64, data: &mut [u8], seg: u8) -> Step {
        self.check_canonical(linear, data.len(), seg)?;
        self.read_as(world, linear, data, self.privilege())
    }

    /// Writes part of an operand whose alignment has been checked.
    pub(crate) fn write_run(&mut self, world: &mut dyn World, linear: u64, data: &[u8], seg: u8) -> Step {
        self.check_canonical(linear, data.len(), seg)?;
        self.write_as(world, linear, data, self.privilege())
    }

    /// Checks that [`Core::write_run`] would succeed.
    pub(crate) fn probe_run(&mut self, world: &mut dyn World, linear: u64, size: usize, seg: u8) -> Step {
        self.check_canonical(linear, size, seg)?;
        self.probe_parts(world, linear, size, self.privilege())
    }

    /// Checks that a byte could be read, without reading it.
    pub(crate) fn probe_read(&mut self, world: &mut dyn World, linear: u64, seg: u8) -> Step {
        self.check_access(linear, 1, seg)?;
        let privilege = self.privilege();
        self.part(world, linear, Access::Read, privilege).map(|_| ())
    }

    /// Checks that a later write of `size` bytes would not fault; used before an instruction's first write.
    pub fn probe_write(&mut self, world: &mut dyn World, linear: u64, size: usize, seg: u8) -> Step {
        self.check_access(linear, size, seg)?;
        let privilege = self.privilege();
        self.probe_parts(world, linear, size, privilege)
    }

    /// Whether an access may go to memory, and no debug register wants to see it: the rest of its page may go with it.
    pub fn is_plain_memory(&mut self, world: &mut dyn World, linear: u64, access: Access) -> Step<bool> {
        let part = self.part(world, linear, access, self.privilege())?;
        Ok(matches!(part.backing, Backing::Ram { .. }) && !self.is_watched(linear & !0xfff))
    }

    /// As [`Core::probe_write`], with the processor's own rights.
    pub fn probe_write_system(&mut self, world: &mut dyn World, linear: u64, size: usize) -> Step {
        self.probe_parts(world, linear, size, self.system_privilege())
    }

    fn probe_parts(&mut self, world: &mut dyn World, linear: u64, size: usize, privilege: Privilege) -> Step {
        let mut at = linear;
        let mut left = size;
        while left > 0 {
            let here = left.min(4096 - (at & 0xfff) as usize);
            self.part(world, at, Access::Write, privilege)?;
            left -= here;
            at = self.next_page(at);
        }
        Ok(())
    }

    /// The canonical check, and the alignment check where it is on.
    #[inline]
    fn check_access(&self, linear: u64, size: usize, seg: u8) -> Step {
        self.check_canonical(linear, size, seg)?;
        if self.mmu.class() == Class::Checked && matches!(size, 2 | 4 | 8) && linear & (size as u64 - 1) != 0
        {
            return Err(Fault::AC0.into());
        }
        Ok(())
    }

    /// #GP or #SS unless all bytes have canonical addresses.
    #[inline]
    pub(crate) fn check_canonical(&self, linear: u64, size: usize, seg: u8) -> Step {
        if self.mode.code_bits == 64 {
            let last = linear.wrapping_add(size as u64 - 1);
            if !is_canonical(linear) || !is_canonical(last) {
                return Err(segment_fault(seg).into());
            }
        }
        Ok(())
    }

    pub(crate) fn next_page(&self, linear: u64) -> u64 {
        let next = (linear & !0xfff).wrapping_add(4096);
        if self.mode.long { next } else { next & 0xffff_ffff }
    }

    fn read_parts(
        &mut self,
        world: &mut dyn World,
        linear: u64,
        data: &mut [u8],
        privilege: Privilege,
    ) -> Step {
        let mut at = linear;
        let mut rest = data;
        while !rest.is_empty() {
            let here = rest.len().min(4096 - (at & 0xfff) as usize);
            let (chunk, tail) = rest.split_at_mut(here);
            let part = self.part(world, at, Access::Read, privilege)?;
            match part.backing {
                Backing::Ram { page, .. } => {
                    page.read((at & 0xfff) as usize, chunk)
                        .map_err(|_| self.lost(part.gpa.0))?;
                }
                Backing::Mmio => {
                    self.check_delivery(part.gpa)?;
                    for (index, piece) in chunk.chunks_mut(8).enumerate() {
                        self.attention.0 |= Attention::RETIRED;
                        world.mmio_read(GuestPhys(part.gpa.0 + 8 * index as u64), piece)?;
                    }
                }
            }
            rest = tail;
            at = self.next_page(at);
        }
        Ok(())
    }

    fn write_parts(&mut self, world: &mut dyn World, linear: u64, data: &[u8], privilege: Privilege) -> Step {
        if (linear & 0xfff) as usize + data.len() > 4096 {
            self.probe_parts(world, linear, data.len(), privilege)?;
        }
        let mut at = linear;
        let mut rest = data;
        while !rest.is_empty() {
            let here = rest.len().min(4096 - (at & 0xfff) as usize);
            let (chunk, tail) = rest.split_at(here);
            let part = self.part(world, at, Access::Write, privilege)?;
            match part.backing {
                Backing::Ram { page, direct } => {
                    page.write((at & 0xfff) as usize, chunk)
                        .map_err(|_| self.lost(part.gpa.0))?;
                    self.note_write(world, part.gpa, here, direct);
                }
                Backing::Mmio => {
                    self.check_delivery(part.gpa)?;
                    for (index, piece) in chunk.chunks(8).enumerate() {
                        let gpa = GuestPhys(part.gpa.0 + 8 * index as u64);
                        if world.mmio_write(gpa, piece) == Posted::Pause {
                            self.attention.0 |= Attention::POSTED;
                        }
                    }
                }
            }
            rest = tail;
            at = self.next_page(at);
        }
        Ok(())
    }

    /// After a write to memory: a page with translated code wants to know.
    #[inline]
    fn note_write(&mut self, world: &mut dyn World, gpa: GuestPhys, len: usize, direct: bool) {
        if !direct && world.code_written(gpa, len) {
            self.drop_code(gpa);
        }
    }

    /// The debug registers in force: the client's, or the guest's own.
    pub fn debug_registers(&self) -> ([u64; 4], u64) {
        self.debug.hardware.unwrap_or((self.state.dr, self.state.dr7))
    }

    /// Notes a hit of data breakpoints by an access that took the slow path; the trap comes after the
    /// instruction.
    fn watch(&mut self, linear: u64, size: usize, access: Access) {
        let (addresses, control) = self.debug_registers();
        if control & DR7_ENABLES == 0 {
            return;
        }
        for n in 0..4 {
            let kind = control >> (16 + 4 * n) & 3;
            let wanted = kind == 3 || kind == 1 && access == Access::Write;
            let length = [1, 2, 8, 4][(control >> (18 + 4 * n) & 3) as usize];
            let start = addresses[n] & !(length - 1);
            let overlaps = linear < start.wrapping_add(length) && start < linear.wrapping_add(size as u64);
            if control >> (2 * n) & 3 != 0 && wanted && overlaps {
                self.debug_status |= 1 << n;
                self.attention.0 |= Attention::DEBUG;
            }
        }
    }
}

/// Changes a value in a host page, atomically if `lock`.
#[inline(always)]
fn replace<T: Width>(
    page: HostPage,
    offset: usize,
    lock: bool,
    change: &impl Fn(T) -> T,
) -> Result<T, ring3_host::mem::HostFault> {
    let mut old = page.load::<T>(offset)?;
    if !lock {
        page.store::<T>(offset, change(old))?;
        return Ok(old);
    }
    loop {
        match page.compare_exchange::<T>(offset, old, change(old))? {
            Ok(_) => return Ok(old),
            Err(seen) => old = seen,
        }
    }
}

/// The mask that cuts an offset to an address size in bytes.
#[inline(always)]
pub fn size_mask(size: u8) -> u64 {
    match size {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

#[inline]
pub fn is_canonical(address: u64) -> bool {
    (address << 16) as i64 >> 16 == address as i64
}

/// The fault of a segment's limit, rights or canonical check.
pub fn segment_fault(seg: u8) -> Fault {
    if usize::from(seg) == SS {
        Fault::SS0
    } else {
        Fault::GP0
    }
}
