//! The board of a process that has VMs on ring3, read from outside: what `ring3 stat` shows.
//!
//! Finding it takes what looking into `/proc/PID/fd` takes: the same user, and a process that lets itself be looked at.

use crate::stats::read;
use crate::{Errno, StatsTable};
use ring3_kvm::stats::board::{Entry, Head, MAGIC, NAME, VCPU, VERSION, VM};
use std::fs::{self, File};
use std::path::Path;

/// Whose numbers they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The VM's number in its process, in the order they were made.
    pub vm: u32,
    /// The vCPU's, unless they are the VM's.
    pub vcpu: Option<u32>,
}

/// The board of a process.
#[derive(Debug)]
pub struct Board {
    file: File,
    head: Head,
}

impl Board {
    /// That of the process whose directory below `/proc` this is; `None` if it has none, or cannot be looked at.
    pub fn of(process: &Path) -> Option<Board> {
        let wanted = format!("/memfd:{NAME} (deleted)");
        let own = innermost_pid(&fs::read_to_string(process.join("status")).ok()?)?;
        let links = fs::read_dir(process.join("fd")).ok()?.flatten();
        let named =
            links.filter(|link| fs::read_link(link.path()).is_ok_and(|target| target == Path::new(&wanted)));
        // A forked child has its parent's board, too.
        named
            .filter_map(|link| Board::open(&link.path()).ok())
            .find(|board| board.head.pid == own)
    }

    fn open(path: &Path) -> Result<Board, Errno> {
        let file = File::open(path).map_err(|error| Errno(error.raw_os_error().unwrap_or(Errno::EIO.0)))?;
        let head: Head = read(&file, 0)?;
        if head.magic != MAGIC || head.version != VERSION {
            return Err(Errno::EIO);
        }
        Ok(Board { file, head })
    }

    /// What is on it now, VMs before their vCPUs. What is being put there or taken away meanwhile may be missing.
    pub fn tables(&self) -> Vec<(Owner, StatsTable)> {
        let mut tables: Vec<_> = (0..u64::from(self.head.slots))
            .filter_map(|slot| self.table(slot))
            .collect();
        tables.sort_by_key(|(owner, _)| *owner);
        tables
    }

    fn table(&self, slot: u64) -> Option<(Owner, StatsTable)> {
        let entry_at = u64::from(self.head.entries_offset) + slot * size_of::<Entry>() as u64;
        let entry: Entry = read(&self.file, entry_at).ok()?;
        let vcpu = match entry.kind {
            VM => None,
            VCPU => Some(entry.vcpu),
            _ => return None,
        };
        let at = u64::from(self.head.slots_offset) + slot * u64::from(self.head.slot_size);
        let table = StatsTable::read(self.file.try_clone().ok()?, at).ok()?;
        let still: Entry = read(&self.file, entry_at).ok()?;
        (still == entry).then_some((Owner { vm: entry.vm, vcpu }, table))
    }
}

/// What the process itself takes for its number, which is another one outside of its PID namespace.
fn innermost_pid(status: &str) -> Option<u32> {
    let line = |name| status.lines().find_map(|line| line.strip_prefix(name));
    let numbers = line("NSpid:").or_else(|| line("Pid:"))?;
    numbers.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kvm;

    #[test]
    fn the_innermost_number_counts() {
        assert_eq!(innermost_pid("Name:\tx\nPid:\t12\nNSpid:\t12\t7\n"), Some(7));
        assert_eq!(innermost_pid("Name:\tx\nPid:\t12\n"), Some(12));
        assert_eq!(innermost_pid(""), None);
    }

    #[test]
    fn a_vm_is_seen_as_long_as_it_is_there() {
        let kvm = Kvm::in_process().expect("in process");
        let vm = kvm.create_vm(0).expect("a VM");
        let vcpu = vm.create_vcpu(3).expect("a vCPU");
        let board = Board::of(Path::new("/proc/self")).expect("there is a VM");
        // Other tests have VMs, too, but no vCPU of this number.
        let find = |wanted: &dyn Fn(&Owner) -> bool| {
            let mut tables = board.tables().into_iter();
            tables.find(|(owner, _)| wanted(owner))
        };
        let (owner, table) = find(&|owner| owner.vcpu == Some(3)).expect("the vCPU");
        assert_eq!(table.one("runs"), Ok(0));
        vcpu.set_immediate_exit(1);
        assert_eq!(vcpu.run(), Err(Errno::EINTR));
        assert_eq!(table.one("runs"), Ok(1));
        // Also when the client reads them itself.
        let own = vcpu.stats().expect("statistics");
        assert_eq!(vcpu.run(), Err(Errno::EINTR));
        assert_eq!((table.one("runs"), own.one("runs")), (Ok(2), Ok(2)));
        let of_vm = Owner { vcpu: None, ..owner };
        let (_, table) = find(&|other| *other == of_vm).expect("the VM");
        assert_eq!(table.one("pages_4k"), Ok(0));
        drop((vcpu, own, vm));
        assert!(board.tables().iter().all(|(other, _)| other.vm != owner.vm));
    }
}
