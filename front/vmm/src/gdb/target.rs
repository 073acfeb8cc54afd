//! What the `gdbstub` crate asks of a machine that is debugged.

use super::amd64::{Amd64, Amd64Registers};
use super::points::{INT3, Replaced, Watched};
use super::registers;
use super::turns::{Turn, Turns};
use crate::memory::GuestMemory;
use anyhow::{Context, Result};
use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use ring3_client::Vcpu;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

const PAGE: u64 = 4096;

/// A machine as the debugger sees it.
pub struct Debugged {
    turns: Arc<Turns>,
    memory: GuestMemory,
    /// What each processor is to do next.
    next: Vec<Option<Turn>>,
    /// What those are to do that nothing was said of.
    others: Turn,
}

/// gdb's number of a processor.
pub fn tid(index: usize) -> Tid {
    Tid::MIN.saturating_add(index)
}

fn index(tid: Tid) -> usize {
    tid.get() - 1
}

impl Debugged {
    pub fn new(turns: Arc<Turns>, memory: GuestMemory) -> Debugged {
        let count = turns.vcpus().len();
        Debugged {
            turns,
            memory,
            next: vec![None; count],
            others: Turn::Run,
        }
    }

    pub fn stop(&self) {
        self.turns.stop();
    }

    pub fn round(&self) -> u64 {
        self.turns.round()
    }

    /// Without a debugger the guest runs on, and nothing of the debugger's is left in it.
    pub fn release(&mut self) -> Result<()> {
        self.turns.stop();
        for Replaced { gpa, byte } in self.turns.with_points(|points| points.take_all()) {
            self.memory.write_obj(byte, GuestAddress(gpa))?;
        }
        self.turns.resume(&vec![Turn::Run; self.next.len()])
    }

    fn vcpu(&self, tid: Tid) -> TargetResult<&Vcpu, Self> {
        let vcpu = self.turns.vcpus().get(index(tid));
        vcpu.map(|vcpu| &**vcpu).ok_or(TargetError::NonFatal)
    }

    /// Where a linear address is in guest-physical memory, as one processor sees it now.
    fn translate(&self, addr: u64, tid: Tid) -> TargetResult<u64, Self> {
        let found = self.vcpu(tid)?.translate(addr);
        match found {
            Ok(found) if found.valid != 0 => Ok(found.physical_address),
            _ => Err(TargetError::NonFatal),
        }
    }

    /// As [`Self::translate`], by whichever processor has the address mapped: a breakpoint belongs to none of them.
    fn translate_for_any(&self, addr: u64) -> Option<u64> {
        (0..self.next.len()).find_map(|n| self.translate(addr, tid(n)).ok())
    }

    fn set(&mut self, tid: Tid, turn: Turn) {
        if let Some(next) = self.next.get_mut(index(tid)) {
            *next = Some(turn);
        }
    }
}

/// The parts of a range that are each in one page.
fn pages(start: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let addr = start.wrapping_add(at as u64);
        let more = (len - at).min((PAGE - addr % PAGE) as usize);
        let range = at..at + more;
        at += more;
        (more > 0).then_some((addr, range))
    })
}

impl Target for Debugged {
    type Arch = Amd64;
    type Error = anyhow::Error;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Debugged {
    fn read_registers(&mut self, regs: &mut Amd64Registers, tid: Tid) -> TargetResult<(), Self> {
        *regs = registers::read(self.vcpu(tid)?)
            .context("reading registers")
            .map_err(TargetError::Fatal)?;
        Ok(())
    }

    fn write_registers(&mut self, regs: &Amd64Registers, tid: Tid) -> TargetResult<(), Self> {
        registers::write(self.vcpu(tid)?, regs).map_err(|_| TargetError::NonFatal)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let mut done = 0;
        for (addr, range) in pages(start, data.len()) {
            let Ok(gpa) = self.translate(addr, tid) else { break };
            let part = &mut data[range];
            if self.memory.read_slice(part, GuestAddress(gpa)).is_err() {
                break;
            }
            // Breakpoints are not to be seen.
            self.turns.with_points(|points| {
                for (n, byte) in part.iter_mut().enumerate().filter(|(_, byte)| **byte == INT3) {
                    *byte = points.original(gpa + n as u64).unwrap_or(*byte);
                }
            });
            done += part.len();
        }
        if done == 0 && !data.is_empty() {
            return Err(TargetError::NonFatal);
        }
        Ok(done)
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        for (addr, range) in pages(start, data.len()) {
            let gpa = self.translate(addr, tid)?;
            self.memory
                .write_slice(&data[range], GuestAddress(gpa))
                .map_err(|_| TargetError::NonFatal)?;
        }
        Ok(())
    }

    fn list_active_threads(&mut self, register: &mut dyn FnMut(Tid)) -> Result<(), Self::Error> {
        (0..self.next.len()).for_each(|n| register(tid(n)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl ThreadExtraInfo for Debugged {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, Self::Error> {
        let text = format!("processor {}", index(tid));
        let len = text.len().min(buf.len());
        buf[..len].copy_from_slice(&text.as_bytes()[..len]);
        Ok(len)
    }
}

impl MultiThreadResume for Debugged {
    fn resume(&mut self) -> Result<(), Self::Error> {
        let turns: Vec<Turn> = self.next.iter().map(|turn| turn.unwrap_or(self.others)).collect();
        self.turns.resume(&turns)
    }

    fn clear_resume_actions(&mut self) -> Result<(), Self::Error> {
        self.next.fill(None);
        self.others = Turn::Run;
        Ok(())
    }

    /// Signals are gdb's affair: a guest has none.
    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Self::Error> {
        self.set(tid, Turn::Run);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Debugged {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Self::Error> {
        self.set(tid, Turn::Step);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Debugged {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Self::Error> {
        self.others = Turn::Stay;
        Ok(())
    }
}

impl Breakpoints for Debugged {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Debugged {
    fn add_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        if self.turns.with_points(|points| points.is_replaced(addr)) {
            return Ok(true);
        }
        let Some(gpa) = self.translate_for_any(addr) else {
            return Ok(false);
        };
        let Ok(byte) = self.memory.read_obj(GuestAddress(gpa)) else {
            return Ok(false);
        };
        if self.memory.write_obj(INT3, GuestAddress(gpa)).is_err() {
            return Ok(false);
        }
        self.turns
            .with_points(|points| points.replaced(addr, Replaced { gpa, byte }));
        Ok(true)
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        let Some(Replaced { gpa, byte }) = self.turns.with_points(|points| points.take_replaced(addr)) else {
            return Ok(false);
        };
        Ok(self.memory.write_obj(byte, GuestAddress(gpa)).is_ok())
    }
}

impl HwBreakpoint for Debugged {
    fn add_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self
            .turns
            .with_points(|points| points.watch(addr, Watched::Execution)))
    }

    fn remove_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self
            .turns
            .with_points(|points| points.unwatch(addr, Watched::Execution)))
    }
}

impl HwWatchpoint for Debugged {
    fn add_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let watched = Watched::Access { kind, len };
        Ok(self.turns.with_points(|points| points.watch(addr, watched)))
    }

    fn remove_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let watched = Watched::Access { kind, len };
        Ok(self.turns.with_points(|points| points.unwatch(addr, watched)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_pages() {
        let cut: Vec<_> = pages(0x1ffe, 0x1004).collect();
        assert_eq!(
            cut,
            [(0x1ffe, 0..2), (0x2000, 2..0x1002), (0x3000, 0x1002..0x1004)]
        );
        assert_eq!(pages(0x1000, 0).count(), 0);
    }
}
