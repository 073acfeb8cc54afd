//! The hardware task switch, by JMP, CALL, IRET or an event through a task gate.
//!
//! Up to the point where TR names the new task, a fault belongs to the old task and nothing was changed; from
//! there on it is raised in the new one.

use crate::core::Attention;
use crate::exec::descriptor::{Busy, Descriptor, is_null, kind, rpl, selector_error};
use crate::exec::frame::Frame;
use crate::mmu::Cached;
use crate::state::{CR0_TS, CR4_PAE, CS, DR6_BT, DS, ES, FS, GS, SS, Segment, flags};
use crate::{Core, Fault, Step, Stop, World};

/// What switches tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskCause {
    Jump,
    Call,
    Return,
    Event { external: u32, error: Option<u32> },
}

impl TaskCause {
    fn external(self) -> u32 {
        match self {
            TaskCause::Event { external, .. } => external,
            _ => 0,
        }
    }

    /// The new task links back to the old one.
    fn nests(self) -> bool {
        matches!(self, TaskCause::Call | TaskCause::Event { .. })
    }
}

const SEGMENTS: [usize; 6] = [ES, CS, SS, DS, FS, GS];

/// Where the two formats of a TSS keep things.
struct Layout {
    /// Size of registers and slots in bytes.
    word: u64,
    rip: u64,
    flags: u64,
    gpr: u64,
    segments: u64,
    /// FS and GS are there only in the 32-bit format.
    segment_count: usize,
    ldt: u64,
    /// Bytes that a switch needs.
    size: usize,
}

const TSS32: Layout = Layout {
    word: 4,
    rip: 0x20,
    flags: 0x24,
    gpr: 0x28,
    segments: 0x48,
    segment_count: 6,
    ldt: 0x60,
    size: 0x68,
};
const TSS16: Layout = Layout {
    word: 2,
    rip: 0xe,
    flags: 0x10,
    gpr: 0x12,
    segments: 0x22,
    segment_count: 4,
    ldt: 0x2a,
    size: 0x2c,
};

const CR3_OFFSET: u64 = 0x1c;
const TRAP_OFFSET: u64 = 0x64;
/// The breakpoint enables of DR7 that belong to one task.
const DR7_LOCAL: u64 = 0x155;

fn layout(kind: u8) -> &'static Layout {
    if kind & 8 != 0 { &TSS32 } else { &TSS16 }
}

/// The bytes of a TSS.
struct Image {
    layout: &'static Layout,
    bytes: [u8; 0x68],
}

impl Image {
    fn word(&self, at: u64) -> u32 {
        let at = at as usize;
        if self.layout.word == 4 {
            self.dword(at)
        } else {
            u32::from(self.half(at))
        }
    }
    fn half(&self, at: usize) -> u16 {
        self.bytes
            .get(at..at + 2)
            .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
    }
    fn dword(&self, at: usize) -> u32 {
        self.bytes
            .get(at..at + 4)
            .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
    fn segment(&self, n: usize) -> u16 {
        if n < self.layout.segment_count {
            self.half((self.layout.segments + self.layout.word * n as u64) as usize)
        } else {
            0
        }
    }
}

impl Core {
    /// Switches to the task of `selector`. `next` and `image` are the RIP and the RFLAGS that the old task will
    /// continue with.
    pub(crate) fn task_switch(
        &mut self,
        world: &mut dyn World,
        selector: u16,
        cause: TaskCause,
        next: u64,
        image: u64,
    ) -> Step {
        let descriptor = self.task_descriptor(world, selector, cause)?;
        let new = descriptor.segment(selector);
        let layout = layout(descriptor.kind());
        let mut tss = Image {
            layout,
            bytes: [0; 0x68],
        };
        self.read_system(world, new.base, &mut tss.bytes[..layout.size])?;
        self.probe_write_system(world, new.base, layout.size)?;
        self.save_task(world, cause, next, image)?;
        if cause != TaskCause::Return {
            self.write_busy(world, &descriptor, Busy::Set)?;
        }
        if cause.nests() {
            let link = self.state.tr.selector;
            self.write_system(world, new.base, &link.to_le_bytes())?;
        }
        self.state.tr = new;
        self.state.tr.attributes.0 |= 2;
        self.state.cr0 |= CR0_TS;
        self.state.dr7 &= !DR7_LOCAL;
        let switched = self.enter_task(world, &tss, cause);
        self.refresh();
        self.resync();
        match switched {
            Err(Stop::Fault(fault)) => self.raise(fault, world),
            other => other,
        }
    }

    fn task_descriptor(
        &mut self,
        world: &mut dyn World,
        selector: u16,
        cause: TaskCause,
    ) -> Step<Descriptor> {
        let external = cause.external();
        let error = selector_error(selector) | external;
        let wrong = if cause == TaskCause::Return {
            Fault::ts(error)
        } else {
            Fault::gp(error)
        };
        if selector & 4 != 0 || is_null(selector) {
            return Err(wrong.into());
        }
        let raise = if cause == TaskCause::Return {
            Fault::ts
        } else {
            Fault::gp
        };
        let descriptor = self.descriptor(world, selector, raise, external)?;
        let expected = match cause {
            TaskCause::Return => [kind::TSS_BUSY, kind::TSS16_BUSY],
            _ => [kind::TSS, kind::TSS16],
        };
        if !descriptor.is_system() || !expected.contains(&descriptor.kind()) {
            return Err(wrong.into());
        }
        if !descriptor.present() {
            return Err(Fault::np(error).into());
        }
        if (descriptor.limit() as usize) < layout(descriptor.kind()).size - 1 {
            return Err(Fault::ts(error).into());
        }
        Ok(descriptor)
    }

    /// Writes the current task to its TSS, and releases it unless it will be returned to.
    fn save_task(&mut self, world: &mut dyn World, cause: TaskCause, next: u64, image: u64) -> Step {
        let tr = self.state.tr;
        let layout = layout(tr.attributes.kind());
        let first = layout.rip;
        let mut bytes = Vec::with_capacity(0x60);
        let mut put = |value: u64| bytes.extend_from_slice(&value.to_le_bytes()[..layout.word as usize]);
        put(next);
        put(if cause == TaskCause::Return {
            image & !flags::NT
        } else {
            image
        });
        for register in 0..8 {
            put(self.state.gpr[register]);
        }
        for seg in &SEGMENTS[..layout.segment_count] {
            put(u64::from(self.state.seg[*seg].selector));
        }
        let at = self.system_address(tr.base, first);
        self.probe_write_system(world, at, bytes.len())?;
        if !cause.nests() && !is_null(tr.selector) {
            let old = self.descriptor(world, tr.selector & !4, Fault::ts, 0)?;
            self.write_busy(world, &old, Busy::Clear)?;
        }
        self.write_system(world, at, &bytes)
    }

    /// Loads the new task's state; faults belong to the new task.
    fn enter_task(&mut self, world: &mut dyn World, tss: &Image, cause: TaskCause) -> Step {
        let layout = tss.layout;
        let mut eflags = u64::from(tss.word(layout.flags));
        if cause.nests() {
            eflags |= flags::NT;
        }
        self.state.rip = u64::from(tss.word(layout.rip));
        self.state.set_rflags(eflags);
        for register in 0..8u64 {
            let value = u64::from(tss.word(layout.gpr + layout.word * register));
            self.state.gpr[register as usize] = value;
        }
        let virtual_8086 = eflags & flags::VM != 0;
        let cpl = if virtual_8086 { 3 } else { rpl(tss.segment(1)) };
        for (n, seg) in SEGMENTS.into_iter().enumerate() {
            self.state.seg[seg] = if virtual_8086 {
                Segment::real(tss.segment(n), 0xf3)
            } else {
                crate::exec::segment::null_stack(tss.segment(n), cpl)
            };
        }
        self.state.ldtr = Segment::null(tss.half(layout.ldt as usize));
        self.refresh();
        if layout.word == 4 && self.state.paging() {
            self.load_task_cr3(world, u64::from(tss.dword(CR3_OFFSET as usize)))?;
        }
        if layout.word == 4 && tss.dword(TRAP_OFFSET as usize) & 1 != 0 {
            self.debug_status |= DR6_BT;
            self.attention.0 |= Attention::DEBUG;
        }
        self.load_task_ldt(world)?;
        if !virtual_8086 {
            // The stack and the code first: what the handler of a later fault is entered from.
            for seg in [CS, SS, ES, DS, FS, GS] {
                let selector = self.state.seg[seg].selector;
                self.load_task_segment(world, seg, selector, cpl)?;
            }
        }
        self.refresh();
        if self.state.rip > u64::from(self.state.seg[CS].limit) {
            return Err(Fault::GP0.into());
        }
        if let TaskCause::Event {
            error: Some(error), ..
        } = cause
        {
            let mut frame = Frame::current(self);
            frame.push(self, world, layout.word as u8, u64::from(error))?;
            frame.commit(self);
        }
        if self.state.flags.has(flags::IF) {
            self.attention.0 |= Attention::WINDOW;
        }
        Ok(())
    }

    fn load_task_cr3(&mut self, world: &mut dyn World, cr3: u64) -> Step {
        self.state.cr3 = cr3;
        self.switch_space(Cached::Void);
        if self.state.cr4 & CR4_PAE != 0 {
            self.load_pdptrs(world)
        } else {
            Ok(())
        }
    }

    fn load_task_ldt(&mut self, world: &mut dyn World) -> Step {
        let selector = self.state.ldtr.selector;
        if is_null(selector) {
            return Ok(());
        }
        let fault = Fault::ts(selector_error(selector));
        if selector & 4 != 0 {
            return Err(fault.into());
        }
        let descriptor = self.descriptor(world, selector, Fault::ts, 0)?;
        if !descriptor.is_system() || descriptor.kind() != kind::LDT || !descriptor.present() {
            return Err(fault.into());
        }
        self.state.ldtr = descriptor.segment(selector);
        Ok(())
    }

    fn load_task_segment(&mut self, world: &mut dyn World, seg: usize, selector: u16, cpl: u8) -> Step {
        let error = selector_error(selector);
        if is_null(selector) {
            if seg == CS || seg == SS {
                return Err(Fault::ts(0).into());
            }
            self.state.seg[seg] = Segment::null(selector);
            return Ok(());
        }
        let descriptor = self.descriptor(world, selector, Fault::ts, 0)?;
        let rights = descriptor.attributes();
        let (dpl, rpl) = (rights.dpl(), rpl(selector));
        let allowed = match seg {
            CS => {
                rights.is_code()
                    && if rights.is_conforming() {
                        dpl <= rpl
                    } else {
                        dpl == rpl
                    }
            }
            SS => rights.is_writable() && dpl == cpl && rpl == cpl,
            _ => rights.is_readable() && (rights.is_conforming() || dpl >= rpl.max(cpl)),
        };
        if !allowed {
            return Err(Fault::ts(error).into());
        }
        if !rights.present() {
            let fault = if seg == SS {
                Fault::ss(error)
            } else {
                Fault::np(error)
            };
            return Err(fault.into());
        }
        self.mark_accessed(world, &descriptor)?;
        self.state.seg[seg] = descriptor.segment(selector);
        Ok(())
    }
}
