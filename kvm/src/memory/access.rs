//! Guest memory for whoever is not a vCPU in guest mode: devices, paravirtual structures, ioctls.

use super::{Lines, Memory, Memslots};
use crate::vcpu::Seat;
use ring3_host::addr::{GuestPhys, PAGE_SIZE};
use ring3_host::mem::HostFault;

impl Memory {
    /// Reads guest memory of an address space; what is in no slot is a fault.
    pub fn read(&self, space: u16, at: GuestPhys, bytes: &mut [u8]) -> Result<(), HostFault> {
        let guard = self.spaces.get(usize::from(space)).ok_or(HostFault)?.read();
        let slots: &Memslots = &guard;
        let mut done = 0;
        while done < bytes.len() {
            let here = at.checked_add(done as u64).ok_or(HostFault)?;
            let len = (PAGE_SIZE as usize - here.offset()).min(bytes.len() - done);
            let page = slots.lookup(here.page()).ok_or(HostFault)?;
            page.host().read(here.offset(), &mut bytes[done..done + len])?;
            done += len;
        }
        Ok(())
    }

    /// Writes guest memory of an address space, with all that goes with it (dirty log, translated code). What is in no slot,
    /// or in a read-only one, is a fault. `me` is the vCPU whose thread calls, if any: it is told to drop its translations as
    /// any other.
    pub fn write(&self, space: u16, at: GuestPhys, bytes: &[u8]) -> Result<(), HostFault> {
        let guard = self.spaces.get(usize::from(space)).ok_or(HostFault)?.read();
        // Looking for other slots over the same page takes the lock again, which a waiting writer would block.
        let slots = std::sync::Arc::clone(&guard);
        let mut written = Vec::new();
        let mut done = 0;
        while done < bytes.len() {
            let here = at.checked_add(done as u64).ok_or(HostFault)?;
            let len = (PAGE_SIZE as usize - here.offset()).min(bytes.len() - done);
            let page = slots.lookup(here.page()).ok_or(HostFault)?;
            if !page.writable() {
                return Err(HostFault);
            }
            if page.mark_dirty() {
                self.unclaimed(page.dirty());
            }
            page.host().write(here.offset(), &bytes[done..done + len])?;
            written.push((page, Lines::of(here.offset(), len)));
            done += len;
        }
        drop(guard);
        for (page, lines) in written {
            self.code_written(None::<&Seat>, &page, lines);
        }
        Ok(())
    }
}
