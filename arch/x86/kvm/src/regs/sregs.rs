//! KVM_GET_SREGS, KVM_SET_SREGS and their second versions: segments, control registers, EFER, the APIC base.

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::KVM_MP_STATE_RUNNABLE;
use ring3_uapi::x86::{KVM_SREGS2_FLAGS_PDPTRS_VALID, KvmDtable, KvmSegment, KvmSregs, KvmSregs2};
use ring3_x86_cpu::State;
use ring3_x86_cpu::state::{
    Attributes, CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_FSGSBASE, CR4_OSXSAVE, CR4_PAE, CR4_PCIDE, CR4_PKE,
    CR4_SMAP, CR4_SMEP, CR4_UMIP, CS, DS, EFER_FFXSR, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE, ES, FS, GS, SS,
    Segment, Table,
};

use crate::apic;
use crate::cpuid::features;
use crate::msr::By;
use crate::vcpu::{Unit, VcpuState, X86Vcpu};

fn segment_to_wire(s: &Segment) -> KvmSegment {
    let a = s.attributes;
    KvmSegment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: a.kind(),
        present: a.present().into(),
        dpl: a.dpl(),
        db: a.big().into(),
        s: a.is_code_or_data().into(),
        l: a.long().into(),
        g: a.granular().into(),
        avl: a.avl().into(),
        unusable: (a.unusable() || !a.present()).into(),
        ..KvmSegment::default()
    }
}

fn segment_from_wire(w: &KvmSegment) -> Segment {
    let bit = |value: u8, at: u32| u32::from(value & 1) << at;
    let unusable = w.unusable != 0 || w.present == 0;
    let attributes = u32::from(w.type_ & 0xf)
        | bit(w.s, 4)
        | u32::from(w.dpl & 3) << 5
        | bit(w.present, 7)
        | bit(w.avl, 12)
        | bit(w.l, 13)
        | bit(w.db, 14)
        | bit(w.g, 15)
        | if unusable { Attributes::UNUSABLE } else { 0 };
    Segment {
        selector: w.selector,
        base: w.base,
        limit: w.limit,
        attributes: Attributes(attributes),
    }
}

fn table_to_wire(t: &Table) -> KvmDtable {
    KvmDtable {
        base: t.base,
        limit: t.limit,
        ..KvmDtable::default()
    }
}

fn table_from_wire(w: &KvmDtable) -> Table {
    Table {
        base: w.base,
        limit: w.limit,
    }
}

/// Without the interrupt bitmap.
fn common(vcpu: &X86Vcpu, s: &VcpuState) -> KvmSregs {
    let state = &s.cpu.core.state;
    let seg = |i: usize| segment_to_wire(&state.seg[i]);
    KvmSregs {
        cs: seg(CS),
        ds: seg(DS),
        es: seg(ES),
        fs: seg(FS),
        gs: seg(GS),
        ss: seg(SS),
        tr: segment_to_wire(&state.tr),
        ldt: segment_to_wire(&state.ldtr),
        gdt: table_to_wire(&state.gdtr),
        idt: table_to_wire(&state.idtr),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: apic::cr8(vcpu, &s.unit),
        efer: state.efer,
        apic_base: apic::base(vcpu, &s.unit),
        interrupt_bitmap: [0; 4],
    }
}

/// CR4 bits the guest's CPUID allows.
pub fn valid_cr4(unit: &Unit, cr4: u64) -> bool {
    // VME to OSXMMEXCPT are never refused.
    let mut allowed = 0x7ff;
    let rows = [
        (CR4_UMIP, features::UMIP),
        (CR4_FSGSBASE, features::FSGSBASE),
        (CR4_PCIDE, features::PCID),
        (CR4_OSXSAVE, features::XSAVE),
        (CR4_SMEP, features::SMEP),
        (CR4_SMAP, features::SMAP),
        (CR4_PKE, features::PKU),
    ];
    for (bit, feature) in rows {
        if unit.cpuid.has(feature) {
            allowed |= bit;
        }
    }
    cr4 & !allowed == 0
}

/// Whether the guest's CPUID allows these bits of EFER.
pub fn valid_efer(unit: &Unit, efer: u64) -> bool {
    // SCE is never refused.
    let rows = [
        (EFER_LME | EFER_LMA, features::LM),
        (EFER_NXE, features::NX),
        (EFER_FFXSR, features::FXSR_OPT),
    ];
    let allowed = rows
        .iter()
        .filter(|row| unit.cpuid.has(row.1))
        .fold(EFER_SCE, |allowed, row| allowed | row.0);
    efer & !allowed == 0
}

fn valid(unit: &Unit, w: &KvmSregs) -> bool {
    let long = w.efer & EFER_LME != 0 && w.cr0 & CR0_PG != 0;
    let mode = if long {
        let beyond = u64::MAX.checked_shl(unit.cpuid.physical_bits()).unwrap_or(0);
        w.cr4 & CR4_PAE != 0 && w.efer & EFER_LMA != 0 && w.cr3 & beyond == 0
    } else {
        w.efer & EFER_LMA == 0 && w.cs.l == 0
    };
    let needs = |bit, other| w.cr0 & bit == 0 || w.cr0 & other != 0;
    let cr0 = w.cr0 >> 32 == 0 && needs(CR0_PG, CR0_PE) && needs(CR0_NW, CR0_CD);
    mode && cr0 && valid_cr4(unit, w.cr4) && valid_efer(unit, w.efer)
}

fn apply_state(state: &mut State, w: &KvmSregs) {
    let segs = [
        (CS, &w.cs),
        (DS, &w.ds),
        (ES, &w.es),
        (FS, &w.fs),
        (GS, &w.gs),
        (SS, &w.ss),
    ];
    for (i, wire) in segs {
        state.seg[i] = segment_from_wire(wire);
    }
    state.tr = segment_from_wire(&w.tr);
    state.ldtr = segment_from_wire(&w.ldt);
    state.gdtr = table_from_wire(&w.gdt);
    state.idtr = table_from_wire(&w.idt);
    state.cr0 = w.cr0 | ring3_x86_cpu::state::CR0_ET;
    state.cr2 = w.cr2;
    state.cr3 = w.cr3;
    state.cr4 = w.cr4;
    state.efer = w.efer;
}

/// Everything but the interrupt bitmap and the PDPTRs.
fn apply_common(vcpu: &X86Vcpu, s: &mut VcpuState, w: &KvmSregs) -> Result<(), Errno> {
    if !valid(&s.unit, w) {
        return Err(Errno::EINVAL);
    }
    apic::set_base(vcpu, &mut s.unit, w.apic_base, By::Client).map_err(|_| Errno::EINVAL)?;
    apic::set_cr8(vcpu, &mut s.unit, w.cr8);
    let state = &mut s.cpu.core.state;
    apply_state(state, w);
    // Clients of old did not wake the boot processor on reset.
    let at_reset =
        state.rip == 0xfff0 && w.cs.selector == 0xf000 && w.cs.base == 0xffff_0000 && w.cr0 & CR0_PE == 0;
    if at_reset && crate::vcpu::is_boot_processor(vcpu.vm(), vcpu.id()) {
        s.unit.mp_state = KVM_MP_STATE_RUNNABLE;
    }
    s.state_changed();

    Ok(())
}

fn pae_paging(state: &State) -> bool {
    state.paging() && state.cr4 & CR4_PAE != 0 && !state.long_mode()
}

/// KVM_GET_SREGS.
pub fn get(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    arg.write(&to_wire(vcpu, s))?;
    Ok(0)
}

pub fn to_wire(vcpu: &X86Vcpu, s: &VcpuState) -> KvmSregs {
    let mut wire = common(vcpu, s);
    if let Some(irq) = s.unit.events.interrupt
        && !irq.soft
    {
        wire.interrupt_bitmap[usize::from(irq.vector) / 64] |= 1 << (irq.vector % 64);
    }
    wire
}

/// KVM_SET_SREGS.
pub fn set(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let wire: KvmSregs = arg.read()?;
    apply(vcpu, s, &wire)?;
    Ok(0)
}

pub fn apply(vcpu: &X86Vcpu, s: &mut VcpuState, wire: &KvmSregs) -> Result<(), Errno> {
    apply_common(vcpu, s, wire)?;
    if pae_paging(&s.cpu.core.state) {
        load_pdptrs(vcpu, s);
    }
    let queued = (0..256u32).find(|v| wire.interrupt_bitmap[*v as usize / 64] >> (v % 64) & 1 != 0);
    if let Some(vector) = queued {
        s.unit.events.queue_interrupt(vector as u8);
    }
    Ok(())
}

/// Reads the four page-directory pointers that CR3 names; an unreadable one is not present.
fn load_pdptrs(vcpu: &X86Vcpu, s: &mut VcpuState) {
    let base = s.cpu.core.state.cr3 & 0xffff_ffe0;
    for i in 0..4 {
        let mut bytes = [0; 8];
        let at = ring3_host::addr::GuestPhys(base + 8 * i as u64);
        let ok = s.unit.read_guest(vcpu, at, &mut bytes);
        s.cpu.core.state.pdptr[i] = if ok.is_ok() { u64::from_le_bytes(bytes) } else { 0 };
    }
}

/// KVM_GET_SREGS2.
pub fn get2(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let w = common(vcpu, s);
    let state = &s.cpu.core.state;
    let pae = pae_paging(state);
    arg.write(&KvmSregs2 {
        cs: w.cs,
        ds: w.ds,
        es: w.es,
        fs: w.fs,
        gs: w.gs,
        ss: w.ss,
        tr: w.tr,
        ldt: w.ldt,
        gdt: w.gdt,
        idt: w.idt,
        cr0: w.cr0,
        cr2: w.cr2,
        cr3: w.cr3,
        cr4: w.cr4,
        cr8: w.cr8,
        efer: w.efer,
        apic_base: w.apic_base,
        flags: if pae { KVM_SREGS2_FLAGS_PDPTRS_VALID } else { 0 },
        pdptrs: if pae { state.pdptr } else { [0; 4] },
    })?;
    Ok(0)
}

/// KVM_SET_SREGS2.
pub fn set2(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let w: KvmSregs2 = arg.read()?;
    if w.flags & !KVM_SREGS2_FLAGS_PDPTRS_VALID != 0 {
        return Err(Errno::EINVAL);
    }
    let pdptrs = w.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID != 0;
    let pae = w.cr0 & CR0_PG != 0 && w.cr4 & CR4_PAE != 0 && w.efer & EFER_LMA == 0;
    if pdptrs && !pae {
        return Err(Errno::EINVAL);
    }
    let common = KvmSregs {
        cs: w.cs,
        ds: w.ds,
        es: w.es,
        fs: w.fs,
        gs: w.gs,
        ss: w.ss,
        tr: w.tr,
        ldt: w.ldt,
        gdt: w.gdt,
        idt: w.idt,
        cr0: w.cr0,
        cr2: w.cr2,
        cr3: w.cr3,
        cr4: w.cr4,
        cr8: w.cr8,
        efer: w.efer,
        apic_base: w.apic_base,
        interrupt_bitmap: [0; 4],
    };
    apply_common(vcpu, s, &common)?;
    if pdptrs {
        s.cpu.core.state.pdptr = w.pdptrs;
    } else if pae {
        load_pdptrs(vcpu, s);
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_survive_a_round_trip() {
        let code64 = Segment {
            selector: 8,
            base: 0,
            limit: 0xffff_ffff,
            attributes: Attributes::from_descriptor(0x00af_9b00),
        };
        assert_eq!(segment_from_wire(&segment_to_wire(&code64)), code64);
        let null = Segment::null(0);
        assert_eq!(segment_from_wire(&segment_to_wire(&null)), null);
    }
}
