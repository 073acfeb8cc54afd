//! KVM_IRQFD: eventfds of the client's that stand for GSIs.
//!
//! A signal pulses the GSI; with KVM_IRQFD_FLAG_RESAMPLE it raises it, and at the guest's end of interrupt the line is lowered and the
//! second eventfd signalled, so that the client can raise it anew.
//!
//! An eventfd stands for one GSI, of all the process's VMs. An irqfd ends with the last descriptor of its eventfd, whoever has it. Where the
//! kernel does not let files be compared (`kcmp`), it holds the eventfd open and stays until it is deassigned or the VM goes.

use super::{IrqSource, Level};
use crate::arch::Arch;
use crate::errno::Errno;
use crate::eventfd::EventFd;
use crate::ranks;
use crate::vm::Vm;
use ring3_host::event::{Callback, ClientWatch, EventLoop, Watch};
use ring3_host::fd::eventfd_take;
use ring3_host::lock::RankedMutex;
use ring3_uapi::{KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE, KvmIrqfd};
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    Gone,
}

/// How an eventfd is watched.
enum Source {
    /// As long as the client has it open.
    Client(ClientWatch),
    /// By a descriptor of our own, where the kernel does not compare files.
    Held { event: EventFd, _watch: Watch },
}

impl Source {
    fn is(&self, event: &EventFd) -> bool {
        match self {
            Source::Client(watch) => watch.is(&*event.shared()),
            Source::Held { event: held, .. } => held.is(event),
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self, Source::Client(watch) if watch.is_gone())
    }

    /// Empties it; whether there was anything.
    fn take(&self) -> bool {
        match self {
            // Where the client's number is closed and others have the eventfd, it stays full, and is signalled all the same.
            Source::Client(watch) => watch
                .open()
                .is_none_or(|fd| matches!(eventfd_take(&fd), Ok(Some(_)))),
            Source::Held { event, .. } => event.take(),
        }
    }
}

struct Irqfd {
    /// Set before anybody else has it.
    source: OnceLock<Source>,
    gsi: u32,
    resample: Option<Arc<EventFd>>,
    /// Held while injecting, so that who deassigns can wait for the last one.
    state: RankedMutex<State>,
}

impl Irqfd {
    fn is(&self, event: &EventFd) -> bool {
        self.source.get().is_some_and(|source| source.is(event))
    }

    fn is_gone(&self) -> bool {
        self.source.get().is_some_and(Source::is_gone)
    }
}

struct Entry {
    irqfd: Arc<Irqfd>,
    _binding: Binding,
}

/// The irqfds of all VMs, as an eventfd can stand for one GSI only.
static BOUND: Mutex<Vec<Arc<Irqfd>>> = Mutex::new(Vec::new());

fn bound() -> MutexGuard<'static, Vec<Arc<Irqfd>>> {
    BOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An irqfd's entry there.
struct Binding(Arc<Irqfd>);

impl Binding {
    /// Begins to watch an eventfd, by `watch`, that stands for no GSI yet.
    fn new(
        irqfd: &Arc<Irqfd>,
        event: EventFd,
        watch: impl FnOnce(EventFd) -> Result<Source, Errno>,
    ) -> Result<Binding, Errno> {
        let mut bound = bound();
        if bound.iter().any(|other| other.is(&event)) {
            return Err(Errno::EBUSY);
        }
        let source = watch(event)?;
        // Nobody else has set it.
        let _ = irqfd.source.set(source);
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
    /// How many there are, those that are gone and not found out included.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.lists.lock().irqfds.len()
    }

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
        source: OnceLock::new(),
        gsi: args.gsi,
        resample,
        state: RankedMutex::new(ranks::IRQFD, State::Active),
    });
    // The client's closing an eventfd tells nobody: what is gone is found when there is something new.
    remove(vm, |old| old.is_gone());
    let mut lists = vm.irqs().irqfds.lists.lock();
    // An eventfd that is signalled already fires as soon as it is watched, but not before this is done.
    let beginning = irqfd.state.lock();
    let (weak, of) = (Arc::downgrade(vm), Arc::downgrade(&irqfd));
    let fires: Callback = Arc::new(move || fired(&weak, &of));
    let binding = Binding::new(&irqfd, event, |event| {
        watch(vm.events(), args.fd as RawFd, event, fires)
    })?;
    drop(beginning);
    if let Some(event) = &irqfd.resample {
        lists.add_resampler(vm, irqfd.gsi, Arc::clone(event));
    }
    lists.irqfds.push(Entry {
        irqfd,
        _binding: binding,
    });
    Ok(())
}

/// Watches an eventfd that the client's number stands for.
fn watch(events: &EventLoop, number: RawFd, event: EventFd, fires: Callback) -> Result<Source, Errno> {
    match events
        .watch_client(number, &*event.shared(), Arc::clone(&fires))
        .map_err(Errno::from)
    {
        Ok(Some(watch)) => return Ok(Source::Client(watch)),
        Ok(None) => {}
        // Another thread has deassigned it, and is not quite done.
        Err(Errno::EEXIST) => return Err(Errno::EBUSY),
        Err(errno) => return Err(errno),
    }
    let watch = events.watch(event.shared(), fires)?;
    Ok(Source::Held { event, _watch: watch })
}

fn deassign<A: Arch>(vm: &Arc<Vm<A>>, args: &KvmIrqfd) -> Result<(), Errno> {
    let event = EventFd::of_client(args.fd as i32)?;
    remove(vm, |irqfd| irqfd.gsi == args.gsi && irqfd.is(&event));
    Ok(())
}

/// Takes irqfds out.
fn remove<A: Arch>(vm: &Arc<Vm<A>>, which: impl Fn(&Irqfd) -> bool) {
    let mut lists = vm.irqs().irqfds.lists.lock();
    let gone: Vec<Entry> = lists.irqfds.extract_if(.., |entry| which(&entry.irqfd)).collect();
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
}

/// On the service thread: the eventfd is readable.
fn fired<A: Arch>(vm: &Weak<Vm<A>>, irqfd: &Weak<Irqfd>) {
    let (Some(vm), Some(irqfd)) = (vm.upgrade(), irqfd.upgrade()) else {
        return;
    };
    let state = irqfd.state.lock();
    if *state == State::Gone || !irqfd.source.get().is_some_and(Source::take) {
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
