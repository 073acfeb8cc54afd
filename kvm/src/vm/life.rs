//! The end of a VM.

use super::Vm;
use crate::arch::{Arch, Vms};
use crate::errno::Errno;
use std::sync::{Arc, PoisonError};

/// Held by every descriptor of a VM; dropping the last one takes the VM apart.
pub(crate) struct Life<A: Arch> {
    vm: Arc<Vm<A>>,
}

impl<A: Arch> Life<A> {
    pub fn new(vm: Arc<Vm<A>>) -> Arc<Life<A>> {
        Arc::new(Life { vm })
    }

    pub fn vm(&self) -> &Arc<Vm<A>> {
        &self.vm
    }

    /// EIO on everything, once the VM is broken.
    pub fn check(&self) -> Result<(), Errno> {
        if self.vm.is_dead() {
            Err(Errno::EIO)
        } else {
            Ok(())
        }
    }

    /// A request of one of the VM's descriptors went wrong inside.
    pub fn broken(&self) {
        self.vm.die();
    }
}

impl<A: Arch> Drop for Life<A> {
    fn drop(&mut self) {
        let vm = &self.vm;
        vm.irqs.clear();
        <A as Vms>::closing(vm);
        vm.io.clear();
        let vcpus = std::mem::take(&mut *vm.vcpus.write().unwrap_or_else(PoisonError::into_inner));
        drop(vcpus);
    }
}
