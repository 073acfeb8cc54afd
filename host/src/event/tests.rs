use super::*;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

fn counter() -> (Arc<AtomicU32>, Callback) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    let callback = move || {
        counted.fetch_add(1, SeqCst);
    };
    (count, Arc::new(callback))
}

fn eventually(what: impl Fn() -> bool) {
    for _ in 0..5000 {
        if what() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("waited in vain");
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter(|task| {
            let comm = task.as_ref().unwrap().path().join("comm");
            std::fs::read_to_string(comm).is_ok_and(|name| name.trim() == "ring3-events")
        })
        .count()
}

#[test]
fn a_readable_descriptor_calls_back_until_read() {
    let events = EventLoop::new();
    let file = Arc::new(fd::eventfd().unwrap());
    let sum = Arc::new(AtomicU32::new(0));
    let (from, to) = (file.clone(), sum.clone());
    let take = move || {
        if let Ok(Some(n)) = fd::eventfd_take(&*from) {
            to.fetch_add(n as u32, SeqCst);
        }
    };
    let watch = events.watch(file.clone(), Arc::new(take)).unwrap();
    for _ in 0..3 {
        fd::eventfd_signal(&*file).unwrap();
    }
    eventually(|| sum.load(SeqCst) == 3);
    drop(watch);
    fd::eventfd_signal(&*file).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(sum.load(SeqCst), 3);
    // The descriptor may be watched again.
    let (count, callback) = counter();
    let _watch = events.watch(file, callback).unwrap();
    eventually(|| count.load(SeqCst) > 0);
}

#[test]
fn what_cannot_be_watched_is_an_error() {
    let plain = tempfile::tempfile().unwrap();
    let events = EventLoop::new();
    let (_, callback) = counter();
    assert!(events.watch(Arc::new(plain.into()), callback).is_err());
}

#[test]
fn timers_expire_in_their_order_and_once() {
    let events = EventLoop::new();
    let order = Arc::new(Mutex::new(Vec::new()));
    let timers: Vec<_> = (0..4)
        .map(|n| {
            let order = order.clone();
            events
                .timer(Arc::new(move || order.lock().unwrap().push(n)))
                .unwrap()
        })
        .collect();
    let now = monotonic_now();
    timers[0].arm(now.after_ns(60_000_000));
    timers[1].arm(now.after_ns(30_000_000));
    timers[2].arm(Monotonic(0));
    timers[3].arm(now.after_ns(20_000_000));
    timers[3].disarm();
    eventually(|| order.lock().unwrap().len() == 3);
    assert!(monotonic_now() >= now.after_ns(60_000_000));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(*order.lock().unwrap(), [2, 1, 0]);
}

#[test]
fn a_timer_can_rearm_itself() {
    let events = EventLoop::new();
    let timer: Arc<Mutex<Option<Timer>>> = Arc::default();
    let (slot, count) = (timer.clone(), Arc::new(AtomicU32::new(0)));
    let counted = count.clone();
    let again = move || {
        if counted.fetch_add(1, SeqCst) < 9 {
            slot.lock()
                .unwrap()
                .as_ref()
                .unwrap()
                .arm(monotonic_now().after_ns(1_000_000));
        }
    };
    *timer.lock().unwrap() = Some(events.timer(Arc::new(again)).unwrap());
    timer.lock().unwrap().as_ref().unwrap().arm(Monotonic(0));
    eventually(|| count.load(SeqCst) == 10);
    *timer.lock().unwrap() = None;
}

#[test]
fn the_last_owner_may_be_a_callback() {
    let events = Arc::new(EventLoop::new());
    let holder = Arc::new(Mutex::new(Some(events.clone())));
    let done = Arc::new(AtomicU32::new(0));
    let (took, said) = (holder.clone(), done.clone());
    let let_go = move || {
        drop(took.lock().unwrap().take());
        said.store(1, SeqCst);
    };
    let timer = events.timer(Arc::new(let_go)).unwrap();
    drop(events);
    timer.arm(Monotonic(0));
    eventually(|| done.load(SeqCst) == 1);
}

#[test]
fn no_use_no_thread() {
    // Other tests run loops of their own meanwhile: only a fresh process could count exactly.
    let before = threads();
    let loops: Vec<_> = (0..50).map(|_| EventLoop::new()).collect();
    assert!(threads() < before + 50);
    drop(loops);
}
