//! VMware's pseudo performance counters, which tell the time. As in Linux, they exist where any counters do; programs may read
//! them where the client has asked for VMware's interface.

use ring3_host::time::{boottime_now, host_tsc};

use crate::vm::X86Vm;

const HOST_TSC: u32 = 0x10000;
/// Nanoseconds, by the host and by the VM's clock.
const REAL_TIME: u32 = 0x10001;
const APPARENT_TIME: u32 = 0x10002;

pub fn is_counter(index: u32) -> bool {
    (HOST_TSC..=APPARENT_TIME).contains(&index)
}

pub fn read(vm: &X86Vm, index: u32) -> Option<u64> {
    match index {
        HOST_TSC => Some(host_tsc()),
        REAL_TIME => Some(boottime_now().0),
        APPARENT_TIME => Some(vm.arch().clock.now()),
        _ => None,
    }
}
