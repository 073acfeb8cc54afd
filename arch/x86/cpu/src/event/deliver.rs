//! One delivery through the interrupt table of the current mode. Until everything that can fault has succeeded,
//! the processor's state stays as it was.

use super::{Event, TaskCause};
use crate::exec::descriptor::{Descriptor, kind};
use crate::exec::frame::Frame;
use crate::mmu::access::is_canonical;
use crate::state::{CS, DS, ES, FS, GS, RSP, SS, Segment, flags};
use crate::{Core, Fault, Step, World};

/// What a delivery needs to know of its event.
#[derive(Clone, Copy)]
pub(super) struct Delivery {
    pub vector: u8,
    pub error: Option<u32>,
    /// The RIP that the handler returns to.
    pub rip: u64,
    /// RFLAGS as the handler finds it on its stack.
    pub image: u64,
    /// The EXT bit of error codes.
    pub external: u32,
    /// The gate's DPL matters.
    pub software: bool,
}

impl Delivery {
    fn new(event: Event, core: &Core) -> Delivery {
        let rip = match event {
            Event::Software { next, .. } | Event::PrivilegedSoftware { next, .. } => next,
            _ => core.state.rip,
        };
        let error = match event {
            Event::Exception { error, .. } => error,
            _ => None,
        };
        // A fault's handler returns with RF set, so that a breakpoint on the instruction does not hit again.
        let is_fault =
            matches!(event, Event::Exception { vector, .. } if !matches!(vector, 1 | 3 | 4 | 8 | 18));
        Delivery {
            vector: event.vector(),
            error,
            rip,
            image: core.state.rflags() | if is_fault { flags::RF } else { 0 },
            external: event.external(),
            software: matches!(event, Event::Software { .. }),
        }
    }

    /// The error code that names the event's gate.
    fn gate_error(&self) -> u32 {
        u32::from(self.vector) << 3 | 2 | self.external
    }
}

impl Core {
    /// Delivers an event; a fault on the way is the caller's to raise.
    pub(crate) fn deliver_once(&mut self, event: Event, world: &mut dyn World) -> Step {
        self.delivering = Some(event);
        let delivered = self.deliver_by_mode(event, world);
        self.delivering = None;
        delivered
    }

    fn deliver_by_mode(&mut self, event: Event, world: &mut dyn World) -> Step {
        let delivery = Delivery::new(event, self);
        if !self.state.protected() {
            self.deliver_real(&delivery, self.state.idtr.base, world)?;
        } else if self.state.long_mode() {
            self.deliver_long(&delivery, world)?;
        } else {
            self.deliver_protected(&delivery, world)?;
        }
        self.state.interruptibility.sti_shadow = false;
        self.state.interruptibility.mov_ss_shadow = false;
        if event == Event::Nmi {
            self.state.interruptibility.nmi_blocked = true;
        }
        self.refresh();
        Ok(())
    }

    /// INT n in virtual-8086 mode that CR4.VME sends to the 8086 program's own handler; `image` is FLAGS as
    /// that handler shall see it.
    pub(crate) fn deliver_virtual(
        &mut self,
        vector: u8,
        next: u64,
        image: u64,
        world: &mut dyn World,
    ) -> Step {
        let mut frame = Frame::current(self);
        let (offset, selector) = self.real_vector(0, vector, world)?;
        frame.push(self, world, 2, image)?;
        frame.push(self, world, 2, u64::from(self.state.seg[CS].selector))?;
        frame.push(self, world, 2, next)?;
        frame.commit(self);
        self.state.seg[CS] = self.real_segment(CS, selector);
        self.state.rip = u64::from(offset);
        Ok(())
    }

    fn real_vector(&mut self, table: u64, vector: u8, world: &mut dyn World) -> Step<(u16, u16)> {
        let mut entry = [0; 4];
        let at = self.system_address(table, 4 * u64::from(vector));
        self.read_system(world, at, &mut entry)?;
        Ok((
            u16::from_le_bytes([entry[0], entry[1]]),
            u16::from_le_bytes([entry[2], entry[3]]),
        ))
    }

    fn deliver_real(&mut self, delivery: &Delivery, table: u64, world: &mut dyn World) -> Step {
        if 4 * u32::from(delivery.vector) + 3 > u32::from(self.state.idtr.limit) {
            return Err(Fault::gp(delivery.gate_error()).into());
        }
        let (offset, selector) = self.real_vector(table, delivery.vector, world)?;
        let mut frame = Frame::current(self);
        frame.push(self, world, 2, delivery.image)?;
        frame.push(self, world, 2, u64::from(self.state.seg[CS].selector))?;
        frame.push(self, world, 2, delivery.rip)?;
        frame.commit(self);
        self.state.flags.system &= !(flags::IF | flags::TF | flags::RF | flags::AC);
        self.state.seg[CS] = self.real_segment(CS, selector);
        self.state.rip = u64::from(offset);
        Ok(())
    }

    /// Reads the event's gate and checks that it may be used.
    fn gate(&mut self, delivery: &Delivery, world: &mut dyn World) -> Step<Descriptor> {
        let error = delivery.gate_error();
        let size = if self.state.long_mode() { 16 } else { 8 };
        let offset = u64::from(delivery.vector) * size;
        if offset + size - 1 > u64::from(self.state.idtr.limit) {
            return Err(Fault::gp(error).into());
        }
        let at = self.system_address(self.state.idtr.base, offset);
        let mut bytes = [0; 16];
        self.read_system(world, at, &mut bytes[..size as usize])?;
        let gate = Descriptor::from_bytes(&bytes, at);
        let kind_ok = match gate.kind() {
            kind::INTERRUPT_GATE | kind::TRAP_GATE => true,
            kind::INTERRUPT_GATE16 | kind::TRAP_GATE16 | kind::TASK_GATE => size == 8,
            _ => false,
        };
        if !gate.is_system() || !kind_ok || delivery.software && gate.dpl() < self.state.cpl() {
            return Err(Fault::gp(error).into());
        }
        if !gate.present() {
            return Err(Fault::np(error).into());
        }
        Ok(gate)
    }

    fn deliver_long(&mut self, delivery: &Delivery, world: &mut dyn World) -> Step {
        let gate = self.gate(delivery, world)?;
        let target = self.handler_code(world, gate.gate_selector(), delivery.external)?;
        let ist = gate.interrupt_stack();
        let raised = target.cpl < self.state.cpl();
        let sp = if ist != 0 {
            self.tss_stack64(world, 0x24 + 8 * u64::from(ist - 1), delivery.external)?
        } else if raised {
            self.tss_stack64(world, 4 + 8 * u64::from(target.cpl), delivery.external)?
        } else {
            self.state.gpr[RSP]
        };
        let rip = gate.gate_offset(8);
        if !is_canonical(rip) {
            return Err(Fault::gp(delivery.external).into());
        }
        let mut frame = Frame::long(self, sp & !0xf, target.cpl, delivery.external);
        let old = [
            u64::from(self.state.seg[SS].selector),
            self.state.gpr[RSP],
            delivery.image,
            u64::from(self.state.seg[CS].selector),
            delivery.rip,
        ];
        for value in old {
            frame.push(self, world, 8, value)?;
        }
        if let Some(error) = delivery.error {
            frame.push(self, world, 8, u64::from(error))?;
        }
        self.mark_accessed(world, &target.descriptor)?;
        if raised {
            self.state.seg[SS] = crate::exec::segment::null_stack(u16::from(target.cpl), target.cpl);
        }
        frame.commit(self);
        self.enter_handler(&gate, target.segment, rip);
        Ok(())
    }

    fn deliver_protected(&mut self, delivery: &Delivery, world: &mut dyn World) -> Step {
        let gate = self.gate(delivery, world)?;
        if gate.kind() == kind::TASK_GATE {
            let cause = TaskCause::Event {
                external: delivery.external,
                error: delivery.error,
            };
            return self.task_switch(world, gate.gate_selector(), cause, delivery.rip, delivery.image);
        }
        let size = if gate.kind() & 8 != 0 { 4 } else { 2 };
        let target = self.handler_code(world, gate.gate_selector(), delivery.external)?;
        let old_cpl = self.state.cpl();
        let from_vm = self.state.virtual_8086();
        let rip = gate.gate_offset(size);
        let inner = if target.cpl < old_cpl {
            Some(self.inner_stack(world, target.cpl, delivery.external)?)
        } else {
            None
        };
        let mut frame = match inner {
            Some(ref stack) => stack.frame(self, delivery.external),
            None => Frame::current(self).with_error(delivery.external),
        };
        if inner.is_some() {
            if from_vm {
                for seg in [GS, FS, DS, ES] {
                    frame.push(self, world, size, u64::from(self.state.seg[seg].selector))?;
                }
            }
            frame.push(self, world, size, u64::from(self.state.seg[SS].selector))?;
            frame.push(self, world, size, self.state.gpr[RSP])?;
        }
        frame.push(self, world, size, delivery.image)?;
        frame.push(self, world, size, u64::from(self.state.seg[CS].selector))?;
        frame.push(self, world, size, delivery.rip)?;
        if let Some(error) = delivery.error {
            frame.push(self, world, size, u64::from(error))?;
        }
        if rip > u64::from(target.segment.limit) {
            return Err(Fault::gp(delivery.external).into());
        }
        self.mark_accessed(world, &target.descriptor)?;
        if let Some(stack) = inner {
            self.mark_accessed(world, &stack.descriptor)?;
            self.state.seg[SS] = stack.segment;
            if from_vm {
                for seg in [GS, FS, DS, ES] {
                    self.state.seg[seg] = Segment::null(0);
                }
            }
        }
        frame.commit(self);
        self.enter_handler(&gate, target.segment, rip);
        Ok(())
    }

    fn enter_handler(&mut self, gate: &Descriptor, code: Segment, rip: u64) {
        self.state.seg[CS] = code;
        self.state.rip = rip;
        let mut cleared = flags::TF | flags::NT | flags::RF | flags::VM;
        if gate.kind() & 1 == 0 {
            cleared |= flags::IF;
        }
        self.state.flags.system &= !cleared;
    }
}

impl Descriptor {
    /// The number of the interrupt stack that a gate of IA-32e mode names; zero for none.
    fn interrupt_stack(&self) -> u8 {
        (self.high & 7) as u8
    }
}
