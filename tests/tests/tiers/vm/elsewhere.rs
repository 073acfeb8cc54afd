//! The same code at another linear address, as each process has its libraries.

use super::{CALLS, caller, port};
use ring3_tests::bare::guest::Guest;
use ring3_tests::bare::places::*;

const FUNCTION: u64 = 0x20_0000;
const HERE: u64 = 0x80_0000_0000;
const THERE: u64 = 0x81_0000_0000;

fn translations(guest: &Guest) -> u64 {
    let stats = guest.vcpu().stats().expect("KVM_GET_STATS_FD");
    stats.get("translations").expect("a number of that name")[0]
}

#[test]
fn it_is_translated_there_only_if_much_is_done_there() {
    let mut guest = caller(HERE);
    guest.map(HERE, FUNCTION, P | W, Size::Small);
    guest.map(THERE, FUNCTION, P | W, Size::Small);
    // MOV EAX, 7; RET
    guest
        .ram
        .0
        .write(FUNCTION as usize, &[0xb8, 7, 0, 0, 0, 0xc3])
        .expect("fits");
    let rounds = |n| (0..n).for_each(|_| assert_eq!(port(guest.vcpu()), 7 * CALLS));
    rounds(3);
    let before = translations(&guest);
    if before == 0 {
        // The interpreter is alone.
        return;
    }
    let mut regs = guest.vcpu().get_regs().expect("KVM_GET_REGS");
    regs.r15 = THERE;
    guest.vcpu().set_regs(&regs).expect("KVM_SET_REGS");
    rounds(3);
    assert_eq!(translations(&guest), before);
    rounds(30);
    assert!(translations(&guest) > before);
}
