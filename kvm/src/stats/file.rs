//! What stands behind a descriptor of KVM_GET_STATS_FD: nothing but that it keeps the VM. Reading is the kernel's.

use crate::arch::Arch;
use crate::errno::Errno;
use crate::file::{File, FileKind};
use crate::files::Files;
use crate::vm::Life;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub(crate) struct StatsFile<A: Arch> {
    _life: Arc<Life<A>>,
}

impl<A: Arch> StatsFile<A> {
    /// Gives the client a descriptor that reads a table.
    pub fn install(life: &Arc<Life<A>>, table: OwnedFd) -> Result<i64, Errno> {
        let file = StatsFile {
            _life: Arc::clone(life),
        };
        Ok(i64::from(Files::process().install(Arc::new(file), table)?))
    }
}

impl<A: Arch> File for StatsFile<A> {
    fn kind(&self) -> FileKind {
        FileKind::Stats
    }

    fn ioctl(&self, _: u32, _: u64) -> Result<i64, Errno> {
        Err(Errno::ENOTTY)
    }
}
