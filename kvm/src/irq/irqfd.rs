//! KVM_IRQFD: eventfds of the client's that stand for GSIs.
//!
//! A signal pulses the GSI; with KVM_IRQFD_FLAG_RESAMPLE it raises it, and at the guest's end of interrupt the line is lowered and the
//! second eventfd signalled, so that the client can raise it anew.
//!
//! An eventfd stands for one GSI, of all the process's VMs. An irqfd holds its eventfds open: where Linux drops it when the client closed the last descriptor, here it stays until it
//! is deassigned or the VM goes.

use super::{IrqSource, Level};
use crate::arch::Arch;
use crate::errno::Errno;
use crate::eventfd::EventFd;
use crate::ranks;
use crate::vm::Vm;
use ring3_host::event::Watch;
use ring3_host::lock::RankedMutex;
use ring3_uapi::{KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE, KvmIrqfd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    Gone,
}

struct Irqfd {
    event: EventFd,
    gsi: u32,
    resample: Option<Arc<EventFd>>,
    /// Held while injecting, so that who deassigns can wait for the last one.
    state: RankedMutex<State>,
}

struct Entry {
    irqfd: Arc<Irqfd>,
    _watch: Watch,
    _binding: Binding,
}

/// The eventfds that stand for a GSI, of whatever VM.
static BOUND: Mutex<Vec<Arc<Irqfd>>> = Mutex::new(Vec::new());

fn bound() -> MutexGuard<'static, Vec<Arc<Irqfd>>> {
    BOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An eventfd's entry there, as an eventfd can stand for one GSI only.
struct Binding(Arc<Irqfd>);

impl Binding {
    fn new(irqfd: &Arc<Irqfd>) -> Result<Binding, Errno> {
        let mut bound = bound();
        if bound.iter().any(|other| other.event.is(&irqfd.event)) {
            return Err(Errno::EBUSY);
        }
        bound.push(Arc::clone(irqfd));
        Ok(Binding(Arc::clone(irqfd)))
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // This one's is not the last, so nothing is closed under the lock.
        bound().retain(|other| !Arc::ptr_eq(other, &self.0));
    }
}

/// The eventfds to signal at the end of interrupt of a GSI, which share one line.
struct Resampler {
    gsi: u32,
    ack: u64,
    events: Arc<RankedMutex<Vec<Arc<EventFd>>>>,
}

#[derive(Default)]
struct Lists {
    irqfds: Vec<Entry>,
    resamplers: Vec<Resampler>,
}

/// A VM's irqfds.
pub struct Irqfds {
    lists: RankedMutex<Lists>,
}

impl Default for Irqfds {
    fn default() -> Irqfds {
        Irqfds {
            lists: RankedMutex::new(ranks::IRQFDS, Lists::default()),
        }
    }
}

impl Irqfds {
    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut *self.lists.lock());
        drop(gone);
    }
}

/// KVM_IRQFD.
pub(crate) fn ioctl<A: Arch>(vm: &Arc<Vm<A>>, args: &KvmIrqfd) -> Result<(), Errno> {
    if args.flags & !(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE) != 0 {
        return Err(Errno::EINVAL);
    }
    if args.flags & KVM_IRQFD_FLAG_DEASSIGN != 0 {
        deassign(vm, args)
    } else {
        assign(vm, args)
    }
}

fn assign<A: Arch>(vm: &Arc<Vm<A>>, args: &KvmIrqfd) -> Result<(), Errno> {
    let resample = args.flags & KVM_IRQFD_FLAG_RESAMPLE != 0;
    let allowed = if resample {
        A::has_pins(vm)
    } else {
        A::irqchip_in_kernel(vm)
    };
    if !allowed {
        return Err(Errno::EINVAL);
    }
    let event = EventFd::of_client(args.fd as i32)?;
    let resample = match resample {
        true => Some(Arc::new(EventFd::of_client(args.resamplefd as i32)?)),
        false => None,
    };
    let irqfd = Arc::new(Irqfd {
        event,
        gsi: args.gsi,
        resample,
        state: RankedMutex::new(ranks::IRQFD, State::Active),
    });
    let mut lists = vm.irqs().irqfds.lists.lock();
    let binding = Binding::new(&irqfd)?;
    // An eventfd that is signalled already fires as soon as it is watched.
    let (weak, of) = (Arc::downgrade(vm), Arc::clone(&irqfd));
    let watch = vm
        .events()
        .watch(irqfd.event.shared(), Arc::new(move || fired(&weak, &of)))?;
    if let Some(event) = &irqfd.resample {
        lists.add_resampler(vm, irqfd.gsi, Arc::clone(event));
    }
    lists.irqfds.push(Entry {
        irqfd,
        _watch: watch,
        _binding: binding,
    });
    Ok(())
}

fn deassign<A: Arch>(vm: &Arc<Vm<A>>, args: &KvmIrqfd) -> Result<(), Errno> {
    let event = EventFd::of_client(args.fd as i32)?;
    let mut lists = vm.irqs().irqfds.lists.lock();
    let gone: Vec<Entry> = lists
        .irqfds
        .extract_if(.., |entry| {
            entry.irqfd.event.is(&event) && entry.irqfd.gsi == args.gsi
        })
        .collect();
    let mut lowered = Vec::new();
    for entry in &gone {
        if let Some(event) = &entry.irqfd.resample
            && let Some(ack) = lists.remove_resampler(entry.irqfd.gsi, event)
        {
            lowered.push((entry.irqfd.gsi, ack));
        }
    }
    drop(lists);
    for entry in &gone {
        // An injection that has begun ends first; none begins after.
        *entry.irqfd.state.lock() = State::Gone;
    }
    for (gsi, ack) in lowered {
        vm.irqs().acks.remove(ack);
        vm.set_irq(gsi, IrqSource::Resample, Level::Low);
    }
    Ok(())
}

/// On the service thread: the eventfd is readable.
fn fired<A: Arch>(vm: &Weak<Vm<A>>, irqfd: &Irqfd) {
    let Some(vm) = vm.upgrade() else { return };
    let state = irqfd.state.lock();
    if *state == State::Gone || !irqfd.event.take() {
        return;
    }
    if irqfd.resample.is_some() {
        vm.set_irq(irqfd.gsi, IrqSource::Resample, Level::High);
    } else {
        vm.set_irq(irqfd.gsi, IrqSource::Client, Level::High);
        vm.set_irq(irqfd.gsi, IrqSource::Client, Level::Low);
    }
}

impl Lists {
    fn add_resampler<A: Arch>(&mut self, vm: &Arc<Vm<A>>, gsi: u32, event: Arc<EventFd>) {
        if let Some(resampler) = self.resamplers.iter().find(|resampler| resampler.gsi == gsi) {
            resampler.events.lock().push(event);
            return;
        }
        let events = Arc::new(RankedMutex::new(ranks::RESAMPLER, vec![event]));
        let (weak, of) = (Arc::downgrade(vm), Arc::clone(&events));
        let acked = move || {
            let Some(vm) = weak.upgrade() else { return };
            // Once for all that share the line: a second lowering could undo a raise in between.
            vm.set_irq(gsi, IrqSource::Resample, Level::Low);
            let events = of.lock().clone();
            events.iter().for_each(|event| event.signal());
        };
        let ack = vm.irqs().acks.add(gsi, Arc::new(acked));
        self.resamplers.push(Resampler { gsi, ack, events });
    }

    /// The number of the notifier to remove, if this was the line's last eventfd.
    fn remove_resampler(&mut self, gsi: u32, event: &Arc<EventFd>) -> Option<u64> {
        let at = self
            .resamplers
            .iter()
            .position(|resampler| resampler.gsi == gsi)?;
        let mut events = self.resamplers[at].events.lock();
        events.retain(|other| !Arc::ptr_eq(other, event));
        let last = events.is_empty();
        drop(events);
        last.then(|| self.resamplers.swap_remove(at).ack)
    }
}
