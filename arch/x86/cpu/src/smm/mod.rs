//! System management mode: an SMI saves the processor's state in memory of that mode's own and starts its handler in a mode
//! much like real mode; RSM loads the state again.
//!
//! [`Saved`] is what is saved, [`layout`](mod@layout) where each part of it lies, in the form of a processor with long mode (AMD's) or without
//! (the P6's), as in Linux. [`load`](mod@load) puts it back.
//!
//! As in Linux, the fields for a restart of an I/O instruction or of HLT are zero and not looked at: the processor that was
//! halted goes on behind the HLT.

mod layout;
mod load;

use crate::core::Attention;
use crate::op::Op;
use crate::state::*;
use crate::world::{Access, Backing};
use crate::{Core, Cpu, Fault, Step, Stop, World};
use layout::{Form, Image, SAVE_AREA};
use ring3_host::addr::{GuestPhys, PAGE_SIZE};
use ring3_host::mem::{HostFault, HostPage};

/// Where the handler begins, from SMBASE.
const ENTRY: u64 = 0x8000;

/// There is no memory where the state is to be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSaveArea;

/// What an SMI saves and RSM loads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Saved {
    gpr: [u64; 16],
    rip: u64,
    rflags: u64,
    dr6: u64,
    dr7: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    base: u64,
    /// What blocked interrupts, in KVM's encoding: bit 0 for a load of SS, bit 1 for STI.
    shadow: u64,
    seg: [Segment; 6],
    ldtr: Segment,
    tr: Segment,
    gdtr: Table,
    idtr: Table,
}

impl Saved {
    fn of(state: &State) -> Saved {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&state.gpr[..16]);
        let shadows = state.interruptibility;
        Saved {
            gpr,
            rip: state.rip,
            rflags: state.rflags(),
            dr6: state.dr6,
            dr7: state.dr7,
            cr0: state.cr0,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: state.efer,
            base: state.smm.base,
            shadow: u64::from(shadows.mov_ss_shadow) | u64::from(shadows.sti_shadow) << 1,
            seg: state.seg,
            ldtr: state.ldtr,
            tr: state.tr,
            gdtr: state.gdtr,
            idtr: state.idtr,
        }
    }
}

/// The form that the guest's CPUID implies.
fn form(core: &Core, world: &mut dyn World) -> Form {
    let [top, ..] = world.cpuid(&core.state, 0x8000_0000, 0);
    let extended = (0x8000_0001..=0x8000_ffff).contains(&top);
    if extended && world.cpuid(&core.state, 0x8000_0001, 0)[3] >> 29 & 1 != 0 {
        Form::Long
    } else {
        Form::Legacy
    }
}

impl Cpu {
    /// An SMI, at an instruction boundary and outside of system management mode.
    pub fn enter_smm(&mut self, world: &mut dyn World) -> Result<(), NoSaveArea> {
        self.core.enter_smm(world)
    }
}

impl Core {
    fn enter_smm(&mut self, world: &mut dyn World) -> Result<(), NoSaveArea> {
        let form = form(self, world);
        let image = Image::of(Saved::of(&self.state), form);
        self.state.smm.active = true;
        world.space_changed(&self.state);
        self.flush_tlb();
        let at = self.state.smm.base.wrapping_add(SAVE_AREA);
        let saved = self.physical_pieces(world, at, image.0.len(), Access::Write, |page, offset, piece| {
            page.write(offset, &image.0[piece])
        });
        self.start_handler(form);
        saved
    }

    /// The state in which the handler starts.
    fn start_handler(&mut self, form: Form) {
        let state = &mut self.state;
        state.smm.inside_nmi = state.interruptibility.nmi_blocked;
        state.interruptibility = Interruptibility {
            nmi_blocked: true,
            ..Default::default()
        };
        state.set_rflags(0);
        state.rip = ENTRY;
        state.cr0 &= !(CR0_PE | CR0_EM | CR0_TS | CR0_PG);
        state.cr4 = 0;
        if form == Form::Long {
            state.efer = 0;
        }
        state.idtr = Table::default();
        state.dr7 = DR7_FIXED;
        let data = Segment {
            selector: 0,
            base: 0,
            limit: u32::MAX,
            attributes: Attributes(0x8093),
        };
        state.seg = [data; 6];
        state.seg[CS].selector = (state.smm.base >> 4) as u16;
        state.seg[CS].base = state.smm.base;
        self.debug_status = 0;
        self.refresh();
        self.flush_tlb();
    }

    /// Calls `each` for every piece of `len` bytes of guest-physical memory that lies in one page: with the page, the piece's
    /// offset there, and its place among the bytes.
    fn physical_pieces(
        &mut self,
        world: &mut dyn World,
        at: u64,
        len: usize,
        access: Access,
        mut each: impl FnMut(HostPage, usize, std::ops::Range<usize>) -> Result<(), HostFault>,
    ) -> Result<(), NoSaveArea> {
        let mut done = 0;
        while done < len {
            let here = GuestPhys(at.wrapping_add(done as u64));
            let size = (PAGE_SIZE as usize - here.offset()).min(len - done);
            let Backing::Ram { page, direct } = world.page(here, access) else {
                return Err(NoSaveArea);
            };
            each(page, here.offset(), done..done + size).map_err(|_| NoSaveArea)?;
            if access == Access::Write && !direct && world.code_written(here, size) {
                self.drop_code(here);
            }
            done += size;
        }
        Ok(())
    }
}

/// RSM: exists in system management mode only; a state that cannot be loaded shuts the processor down.
pub(crate) fn rsm(core: &mut Core, _: &Op, world: &mut dyn World) -> Step {
    if !core.state.smm.active {
        return Err(Fault::UD.into());
    }
    let form = form(core, world);
    let at = core.state.smm.base.wrapping_add(SAVE_AREA);
    let mut image = Image::empty();
    core.physical_pieces(world, at, image.0.len(), Access::Read, |page, offset, piece| {
        page.read(offset, &mut image.0[piece])
    })
    .map_err(|NoSaveArea| Stop::TripleFault)?;
    let state = &mut core.state;
    if !state.smm.inside_nmi {
        state.interruptibility.nmi_blocked = false;
    }
    state.smm.active = false;
    state.smm.inside_nmi = false;
    world.space_changed(&core.state);
    core.flush_tlb();
    let saved = image.saved(form);
    let loaded = load::load(core, world, &saved, form);
    core.refresh();
    core.flush_tlb();
    core.attention.0 |= Attention::RESUMED;
    loaded.map_err(|load::Invalid| Stop::TripleFault)
}
