//! What there is to be counted, as rows: for each number its name, and what kind of number it is.
//!
//! The rows here are those that every architecture has. An architecture's own follow them
//! ([`Types::VM_STATS`](crate::arch::Types::VM_STATS), [`Types::VCPU_STATS`](crate::arch::Types::VCPU_STATS)).

use ring3_uapi::{
    KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_INSTANT, KVM_STATS_TYPE_LOG_HIST, KVM_STATS_TYPE_PEAK,
    KVM_STATS_UNIT_BOOLEAN, KVM_STATS_UNIT_NONE, KVM_STATS_UNIT_SECONDS,
};

/// A kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatKind {
    /// It grows.
    Count,
    /// It is what something is now.
    Now,
    /// One while something is so.
    NowTrue,
    /// The most that something ever was.
    Peak,
    /// Nanoseconds in all.
    Time,
    /// How often something took so long: for each power of two nanoseconds a number.
    Times,
}

/// Numbers in a histogram.
pub(super) const BUCKETS: usize = 32;

impl StatKind {
    const fn words(self) -> usize {
        match self {
            StatKind::Times => BUCKETS,
            _ => 1,
        }
    }

    pub(super) fn flags(self) -> u32 {
        match self {
            StatKind::Count => KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE,
            StatKind::Now => KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_NONE,
            StatKind::NowTrue => KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_BOOLEAN,
            StatKind::Peak => KVM_STATS_TYPE_PEAK | KVM_STATS_UNIT_NONE,
            StatKind::Time => KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_SECONDS,
            StatKind::Times => KVM_STATS_TYPE_LOG_HIST | KVM_STATS_UNIT_SECONDS,
        }
    }

    /// The power of ten that one is in its unit.
    pub(super) fn exponent(self) -> i16 {
        match self {
            StatKind::Time | StatKind::Times => -9,
            _ => 0,
        }
    }
}

/// A number that is shown.
#[derive(Clone, Copy, Debug)]
pub struct StatRow {
    pub name: &'static str,
    pub kind: StatKind,
}

/// A row.
pub const fn stat(name: &'static str, kind: StatKind) -> StatRow {
    StatRow { name, kind }
}

impl StatRow {
    /// How many 64-bit numbers it is.
    pub const fn words(&self) -> usize {
        self.kind.words()
    }
}

/// Where a row's numbers are among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub(super) usize);

impl Place {
    /// The place of the row with this name, in the rows behind the neutral ones of a VM.
    pub const fn of_vm(rows: &[StatRow], name: &str) -> Place {
        Place(words(VM) + place(rows, name))
    }

    /// The place of the row with this name, in the rows behind the neutral ones of a vCPU.
    pub const fn of_vcpu(rows: &[StatRow], name: &str) -> Place {
        Place(words(VCPU) + place(rows, name))
    }
}

const fn words(rows: &[StatRow]) -> usize {
    let (mut all, mut i) = (0, 0);
    while i < rows.len() {
        all += rows[i].words();
        i += 1;
    }
    all
}

const fn place(rows: &[StatRow], name: &str) -> usize {
    let (mut at, mut i) = (0, 0);
    while !same(rows[i].name, name) {
        at += rows[i].words();
        i += 1;
    }
    at
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// Of a VM.
pub const VM: &[StatRow] = &[
    stat("remote_tlb_flush", StatKind::Count),
    stat("remote_tlb_flush_requests", StatKind::Count),
];

/// Of a vCPU: Linux's, of which `halt_poll_invalid` stays zero (polling ends only for what also ends the halt), and behind
/// `blocking` those that only ring3 has. `guest_instructions` has all instructions while `counts_instructions` is one, and
/// else only those that were interpreted.
pub const VCPU: &[StatRow] = &[
    stat("halt_successful_poll", StatKind::Count),
    stat("halt_attempted_poll", StatKind::Count),
    stat("halt_poll_invalid", StatKind::Count),
    stat("halt_wakeup", StatKind::Count),
    stat("halt_poll_success_ns", StatKind::Time),
    stat("halt_poll_fail_ns", StatKind::Time),
    stat("halt_wait_ns", StatKind::Time),
    stat("halt_poll_success_hist", StatKind::Times),
    stat("halt_poll_fail_hist", StatKind::Times),
    stat("halt_wait_hist", StatKind::Times),
    stat("blocking", StatKind::NowTrue),
    stat("runs", StatKind::Count),
    stat("guest_ns", StatKind::Time),
    stat("guest_instructions", StatKind::Count),
    stat("counts_instructions", StatKind::NowTrue),
    stat("translations", StatKind::Count),
    stat("translated_bytes", StatKind::Count),
];

macro_rules! places {
    ($($name:ident: $rows:ident, $text:literal;)*) => {
        $(#[doc = concat!("Where `", $text, "` is.")]
        pub const $name: Place = Place(place($rows, $text));)*
    };
}

places! {
    REMOTE_TLB_FLUSH: VM, "remote_tlb_flush";
    REMOTE_TLB_FLUSH_REQUESTS: VM, "remote_tlb_flush_requests";
    HALT_SUCCESSFUL_POLL: VCPU, "halt_successful_poll";
    HALT_ATTEMPTED_POLL: VCPU, "halt_attempted_poll";
    HALT_WAKEUP: VCPU, "halt_wakeup";
    HALT_POLL_SUCCESS_NS: VCPU, "halt_poll_success_ns";
    HALT_POLL_FAIL_NS: VCPU, "halt_poll_fail_ns";
    HALT_WAIT_NS: VCPU, "halt_wait_ns";
    HALT_POLL_SUCCESS_HIST: VCPU, "halt_poll_success_hist";
    HALT_POLL_FAIL_HIST: VCPU, "halt_poll_fail_hist";
    HALT_WAIT_HIST: VCPU, "halt_wait_hist";
    BLOCKING: VCPU, "blocking";
    RUNS: VCPU, "runs";
    GUEST_NS: VCPU, "guest_ns";
    GUEST_INSTRUCTIONS: VCPU, "guest_instructions";
    COUNTS_INSTRUCTIONS: VCPU, "counts_instructions";
    TRANSLATIONS: VCPU, "translations";
    TRANSLATED_BYTES: VCPU, "translated_bytes";
}
