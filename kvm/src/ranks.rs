//! The order of locks, as ranks (see `docs/locking.md`): a thread takes them in rising order.

use ring3_host::lock::Rank;

/// A vCPU's state: held for all of KVM_RUN and its ioctls.
pub const VCPU: Rank = Rank(100);
/// Creation of vCPUs, interrupt controllers and devices.
pub const VM: Rank = Rank(200);
/// Changes of memslots, and clearing of dirty logs.
pub const SLOTS: Rank = Rank(300);
/// Changes of the irq routing table.
pub const ROUTING: Rank = Rank(400);
/// The list of irqfds, and of resamplers.
pub const IRQFDS: Rank = Rank(500);
/// One irqfd, held while its interrupt is delivered.
pub const IRQFD: Rank = Rank(510);
/// Architectures' locks are from here up to [`ARCH_LAST`].
pub const ARCH_FIRST: Rank = Rank(1000);
pub const ARCH_LAST: Rank = Rank(7999);
/// Which pages hold translated code.
pub const CODE: Rank = Rank(8000);
/// The coalesced ring.
pub const RING: Rank = Rank(8100);
/// The eventfds of a resampled line.
pub const RESAMPLER: Rank = Rank(8200);
/// The files of a VFIO device.
pub const VFIO: Rank = Rank(8300);
/// A vCPU's page notices.
pub const NOTICES: Rank = Rank(9000);
