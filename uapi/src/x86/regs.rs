//! General, segment and control registers, and the set kept in step through the run page.

use super::KvmVcpuEvents;

/// KvmSregs2: flags.
pub const KVM_SREGS2_FLAGS_PDPTRS_VALID: u64 = 1;

/// Interrupt vectors there are.
pub const KVM_NR_INTERRUPTS: usize = 256;

// kvm_valid_regs and kvm_dirty_regs of the run page.
pub const KVM_SYNC_X86_REGS: u64 = 1 << 0;
pub const KVM_SYNC_X86_SREGS: u64 = 1 << 1;
pub const KVM_SYNC_X86_EVENTS: u64 = 1 << 2;
pub const KVM_SYNC_X86_VALID_FIELDS: u64 = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;

abi! {
    /// For KVM_GET_REGS and KVM_SET_REGS. The order is KVM's, not the instruction encoding's.
    struct KvmRegs {
        rax: u64, rbx: u64, rcx: u64, rdx: u64,
        rsi: u64, rdi: u64, rsp: u64, rbp: u64,
        r8: u64, r9: u64, r10: u64, r11: u64,
        r12: u64, r13: u64, r14: u64, r15: u64,
        rip: u64, rflags: u64,
    }

    /// A segment register with its hidden part.
    struct KvmSegment {
        base: u64,
        /// In bytes, already scaled by `g`.
        limit: u32,
        selector: u16,
        type_: u8,
        present: u8,
        dpl: u8,
        db: u8,
        s: u8,
        l: u8,
        g: u8,
        avl: u8,
        unusable: u8,
        padding: u8,
    }

    /// GDTR or IDTR.
    struct KvmDtable {
        base: u64,
        limit: u16,
        padding: [u16; 3],
    }

    /// For KVM_GET_SREGS and KVM_SET_SREGS.
    struct KvmSregs {
        cs: KvmSegment, ds: KvmSegment, es: KvmSegment, fs: KvmSegment, gs: KvmSegment, ss: KvmSegment,
        tr: KvmSegment, ldt: KvmSegment,
        gdt: KvmDtable, idt: KvmDtable,
        cr0: u64, cr2: u64, cr3: u64, cr4: u64, cr8: u64,
        efer: u64,
        apic_base: u64,
        /// At most one bit: the external interrupt that is being delivered.
        interrupt_bitmap: [u64; 4],
    }

    /// For KVM_GET_SREGS2 and KVM_SET_SREGS2.
    struct KvmSregs2 {
        cs: KvmSegment, ds: KvmSegment, es: KvmSegment, fs: KvmSegment, gs: KvmSegment, ss: KvmSegment,
        tr: KvmSegment, ldt: KvmSegment,
        gdt: KvmDtable, idt: KvmDtable,
        cr0: u64, cr2: u64, cr3: u64, cr4: u64, cr8: u64,
        efer: u64,
        apic_base: u64,
        flags: u64,
        pdptrs: [u64; 4],
    }

    /// The registers in the run page, under KVM_CAP_SYNC_REGS.
    struct KvmSyncRegs {
        regs: KvmRegs,
        sregs: KvmSregs,
        events: KvmVcpuEvents,
    }
}
