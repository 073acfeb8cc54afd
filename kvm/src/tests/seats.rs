//! Requests, notices, kicks, and waiting for vCPUs to be out of guest mode.

use super::{Machine, Step};
use crate::vcpu::{Kick, KickBits, PageNotice, Request, Seat, Seats};
use ring3_host::time::monotonic_now;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

#[test]
fn a_request_is_taken_once() {
    let seat = Seat::new(7, 2);
    assert_eq!((seat.id(), seat.index()), (7, 2));
    assert!(!seat.has_requests() && seat.take_requests().is_empty());
    let own = Request::arch(5);
    seat.request(own);
    seat.request(Request::TLB_FLUSH);
    seat.request(own);
    assert!(seat.has_requests() && seat.kick().contains(KickBits::REQUEST));
    let requests = seat.take_requests();
    assert!(requests.contains(own) && requests.contains(Request::TLB_FLUSH));
    assert!(!requests.contains(Request::arch(4)) && !requests.contains(Request::DEAD));
    assert!(!seat.has_requests());
}

#[test]
fn taking_leaves_a_signal_pending() {
    let kick = Kick::default();
    kick.post(KickBits::SIGNAL | KickBits::EVENT);
    kick.post(KickBits::UNHALT);
    assert_eq!(kick.take(), KickBits::SIGNAL | KickBits::EVENT | KickBits::UNHALT);
    assert_eq!(kick.take(), KickBits::SIGNAL);
    assert!(kick.pending());
    kick.clear_signal();
    assert!(!kick.pending());
}

#[test]
fn sleep_ends_with_a_post_or_in_time() {
    let kick = Kick::default();
    let start = monotonic_now();
    assert!(kick.sleep(Some(start.after_ns(2_000_000))));
    assert!(monotonic_now().since(start) >= 2_000_000);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(5));
            kick.post(KickBits::EVENT);
        });
        assert!(kick.sleep(None));
    });
    // What is pending needs no sleep.
    assert!(!kick.sleep(None));
}

#[test]
fn a_kick_keeps_out_of_guest_mode() {
    let seat = Seat::new(0, 0);
    let guest = seat.enter_guest().expect("nothing is pending");
    assert!(seat.in_guest());
    drop(guest);
    assert!(!seat.in_guest());
    seat.event();
    assert!(seat.enter_guest().is_none() && seat.enter_guest_to_complete().is_none());
    assert!(!seat.in_guest());
    seat.kick().take();
    // A signal alone does not keep from completing an instruction.
    seat.kick().post(KickBits::SIGNAL);
    assert!(seat.enter_guest().is_none() && seat.enter_guest_to_complete().is_some());
}

#[test]
fn notices_are_listed_until_there_are_too_many() {
    let seat = Seat::new(0, 0);
    for gfn in [5, 6, 5] {
        seat.notice(PageNotice::CodeDropped(gfn));
    }
    seat.notice(PageNotice::WriteRevoked(5));
    assert!(seat.take_requests().contains(Request::PAGES));
    let notices = seat.take_notices();
    assert_eq!(
        (notices.code_dropped, notices.write_revoked),
        (vec![5, 6], vec![5])
    );
    for gfn in 0..300 {
        seat.notice(PageNotice::WriteRevoked(gfn));
    }
    let notices = seat.take_notices();
    assert!(notices.everything && notices.write_revoked.is_empty());
    assert!(!seat.take_notices().everything);
}

#[test]
fn whoever_waits_does_so_until_the_guest_is_left() {
    let machine = Machine::new();
    let vcpu = machine.vcpu(0);
    let (turns, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, told) = (Arc::clone(&turns), Arc::clone(&stop));
    vcpu.guest(move |vcpu| {
        // Leaves late, as a long block does.
        while !vcpu.seat().kick().pending() {
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_millis(1));
        counted.fetch_add(1, SeqCst);
        if told.load(SeqCst) {
            Step::Exit(1)
        } else {
            Step::Again
        }
    });
    std::thread::scope(|scope| {
        let runs = scope.spawn(|| vcpu.run());
        while !vcpu.vcpu.seat().in_guest() {
            std::thread::yield_now();
        }
        for done in 1..20 {
            machine.vm.seats().request_all_and_wait(None, Request::TLB_FLUSH);
            assert!(turns.load(SeqCst) >= done, "it was still in the guest");
            while !vcpu.vcpu.seat().in_guest() {
                std::thread::yield_now();
            }
        }
        stop.store(true, SeqCst);
        vcpu.vcpu.seat().event();
        assert_eq!(runs.join().expect("the guest does not panic"), Ok(0));
    });
    assert!(vcpu.vcpu.with_state(|state| state.flushes) >= 19);
}

#[test]
fn two_that_wait_for_each_other_go_on() {
    let seats = Seats::default();
    let both = [0, 1].map(|n| Arc::new(Seat::new(n, n)));
    both.iter().for_each(|seat| seats.add(Arc::clone(seat)));
    assert_eq!(seats.all().len(), 2);
    std::thread::scope(|scope| {
        for me in &both {
            let seats = &seats;
            scope.spawn(move || {
                for gfn in 0..2000 {
                    me.kick().take();
                    let Some(guest) = me.enter_guest() else { continue };
                    seats.notice_others_and_wait(Some(me), PageNotice::WriteRevoked(gfn));
                    assert!(me.in_guest());
                    drop(guest);
                }
            });
        }
    });
    assert!(
        both.iter()
            .any(|seat| seat.take_requests().contains(Request::PAGES))
    );
    // Whoever asks is not asked.
    both[0].take_requests();
    seats.notice_others(Some(&both[0]), PageNotice::CodeDropped(1));
    assert!(!both[0].has_requests() && both[1].has_requests());
}
