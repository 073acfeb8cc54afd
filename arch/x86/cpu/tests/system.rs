//! System instructions: who may use them, and what they leave behind.

mod machine;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use machine::*;
use ring3_x86_cpu::Leave;
use ring3_x86_cpu::state::*;

/// 64-bit mode with #UD, #NM and #GP leading to a HLT each, at 0x5000 + 16 * vector.
fn long() -> Machine {
    let mut m = Machine::long();
    for vector in [6, 7, 13] {
        m.vector64(vector, 0x5000 + 16 * vector, 0x8e, 0);
        m.code(64, 0x5000 + 16 * vector, |a| a.hlt());
    }
    m
}

/// The vector that code at level 3 ends with.
#[track_caller]
fn user_fault(m: &mut Machine, build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> u64 {
    m.code(64, 0x1000, build);
    m.user(0x1000, 0x7000);
    m.halt();
    (m.state().rip - 0x5000) / 16
}

/// The same for level 0; 0 if the code came to its own HLT.
#[track_caller]
fn kernel_fault(m: &mut Machine, build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> u64 {
    m.code(64, 0x1000, |a| {
        build(a)?;
        a.hlt()
    });
    m.halt();
    m.state()
        .rip
        .checked_sub(0x5000)
        .map_or(0, |distance| distance / 16)
}

type Build = fn(&mut CodeAssembler) -> Result<(), IcedError>;

#[test]
fn privileged_instructions_are_gp_for_users() {
    let privileged: [(&str, Build); 17] = [
        ("hlt", |a| a.hlt()),
        ("cli", |a| a.cli()),
        ("sti", |a| a.sti()),
        ("clts", |a| a.clts()),
        ("mov cr", |a| a.mov(rax, cr0)),
        ("mov to cr", |a| a.mov(cr3, rax)),
        ("mov dr", |a| a.mov(rax, dr7)),
        ("rdmsr", |a| a.rdmsr()),
        ("wrmsr", |a| a.wrmsr()),
        ("in", |a| a.in_(al, dx)),
        ("out", |a| a.out(0x80, al)),
        ("wbinvd", |a| a.wbinvd()),
        ("invlpg", |a| a.invlpg(ptr(rax))),
        ("lgdt", |a| a.lgdt(ptr(0x6000))),
        ("ltr", |a| a.ltr(ax)),
        ("swapgs", |a| a.swapgs()),
        ("sysretq", |a| a.sysretq()),
    ];
    for (name, build) in privileged {
        assert_eq!(user_fault(&mut long(), build), 13, "{name}");
    }
}

#[test]
fn undefined_instructions_are_ud() {
    let undefined: [(&str, Build); 7] = [
        ("ud2", |a| a.ud2()),
        ("rsm", |a| a.rsm()),
        ("vmxoff", |a| a.vmxoff()),
        ("xgetbv without OSXSAVE", |a| a.xgetbv()),
        ("rdfsbase without FSGSBASE", |a| a.rdfsbase(rax)),
        ("mov cr1", |a| a.db(&[0x0f, 0x20, 0xc8])),
        ("mov cs", |a| a.db(&[0x8e, 0xc8])),
    ];
    for (name, build) in undefined {
        assert_eq!(kernel_fault(&mut long(), build), 6, "{name}");
    }
}

#[test]
fn umip_hides_the_tables() {
    assert_eq!(
        user_fault(&mut long(), |a| {
            a.sgdt(ptr(0x6000))?;
            a.smsw(eax)?;
            a.ud2()
        }),
        6
    );
    let mut m = long();
    m.state().cr4 |= CR4_UMIP;
    assert_eq!(user_fault(&mut m, |a| a.sgdt(ptr(0x6000))), 13);
}

#[test]
fn control_registers_reject_what_is_reserved() {
    let bad: [(&str, Build); 6] = [
        ("PG without PE", |a| {
            a.mov(rax, 0x8000_0000u64)?;
            a.mov(cr0, rax)
        }),
        ("NW without CD", |a| {
            a.mov(rax, 0xa000_0001u64)?;
            a.mov(cr0, rax)
        }),
        ("unknown CR4 bit", |a| {
            a.mov(rax, 0x1000_0020u64)?;
            a.mov(cr4, rax)
        }),
        ("PCIDE that CPUID does not offer", |a| {
            a.mov(rax, 0x2_0020u64)?;
            a.mov(cr4, rax)
        }),
        ("clearing PAE", |a| {
            a.xor(eax, eax)?;
            a.mov(cr4, rax)
        }),
        ("CR3 beyond the physical address", |a| {
            a.mov(rax, 1u64 << 52)?;
            a.mov(cr3, rax)
        }),
    ];
    for (name, build) in bad {
        let mut m = long();
        let before = (m.state().cr0, m.state().cr3, m.state().cr4);
        assert_eq!(kernel_fault(&mut m, build), 13, "{name}");
        assert_eq!((m.state().cr0, m.state().cr3, m.state().cr4), before, "{name}");
    }
}

#[test]
fn popf_changes_what_the_level_may_change() {
    let all = "ID, AC, IOPL, IF and the arithmetic flags";
    let mut m = long();
    kernel_fault(&mut m, |a| {
        a.push(0x24_3ed5)?;
        a.popfq()
    });
    assert_eq!(m.state().rflags() & !flags::RF, 0x24_3ed7 & !flags::TF, "{all}");
    let mut m = long();
    user_fault(&mut m, |a| {
        a.push(0x24_3cd5)?;
        a.popfq()?;
        a.pushfq()?;
        a.pop(rbx)?;
        a.ud2()
    });
    assert_eq!(m.state().gpr[RBX], 0x24_0ed7, "IF stays on and IOPL stays 0");
}

#[test]
fn the_permission_map_opens_single_ports() {
    let open = |m: &mut Machine| {
        m.state().tr.limit = 0x68 + 16;
        m.world.poke(TSS + 0x66, &[0x68, 0]);
        m.world.poke(TSS + 0x68, &[0xff; 17]);
        m.world.poke(TSS + 0x68 + 4, &[0b1111_1001]); // ports 0x21 and 0x22
    };
    let mut m = long();
    open(&mut m);
    assert_eq!(
        user_fault(&mut m, |a| {
            a.out(0x21, ax)?;
            a.out(0x22, ax)
        }),
        13
    );
    assert_eq!(m.world.outputs, [(0x21, 2, 0)]);
    let mut m = long();
    open(&mut m);
    assert_eq!(
        user_fault(&mut m, |a| {
            a.mov(dx, 0x1000)?;
            a.in_(al, dx)
        }),
        13
    );
}

#[test]
fn repeated_port_input_resumes_where_it_paused() {
    let mut m = long();
    m.code(64, 0x1000, |a| {
        a.mov(edx, 0x1f0)?;
        a.mov(edi, 0x6000)?;
        a.mov(ecx, 3)?;
        a.rep().insw()?;
        a.hlt()
    });
    for value in [0x1111u32, 0x2222, 0x3333] {
        assert_eq!(m.run(), Leave::Paused);
        m.world.inputs.push_back(value);
    }
    m.halt();
    assert_eq!(m.words(0x6000, 2, 4), [0x1111, 0x2222, 0x3333, 0]);
    assert_eq!((m.state().gpr[RCX], m.state().gpr[RDI]), (0, 0x6006));
}

#[test]
fn repeated_port_output_counts_down() {
    let mut m = long();
    m.world.poke(0x6000, b"abc");
    kernel_fault(&mut m, |a| {
        a.mov(edx, 0x3f8)?;
        a.mov(esi, 0x6000)?;
        a.mov(ecx, 3)?;
        a.rep().outsb()
    });
    let written: Vec<u8> = m.world.outputs.iter().map(|(_, _, value)| *value as u8).collect();
    assert_eq!(written, b"abc");
    assert_eq!((m.state().gpr[RCX], m.state().gpr[RSI]), (0, 0x6003));
}

#[test]
fn lar_lsl_verr_verw() {
    let mut m = long();
    kernel_fault(&mut m, |a| {
        a.mov(eax, i32::from(DATA3))?;
        a.lar(ebx, eax)?;
        a.lsl(ecx, eax)?;
        a.mov(esi, i32::from(CODE3))?;
        a.verw(si)?;
        a.setz(dl)?;
        a.verr(si)?;
        a.setz(dh)?;
        a.mov(eax, 0xfff8)?;
        a.mov(edi, 7)?;
        a.lar(edi, eax)?;
        a.setz(al)
    });
    let gpr = m.state().gpr;
    assert_eq!(gpr[RBX] & 0xf0_ff00, 0xc0_f300);
    assert_eq!(gpr[RCX], 0xffff_ffff);
    assert_eq!(gpr[RDX] & 0xffff, 0x0100);
    assert_eq!((gpr[RDI], gpr[RAX] & 0xff), (7, 0));
}

#[test]
fn bases_and_swapgs() {
    let mut m = long();
    m.state().cr4 |= CR4_FSGSBASE;
    m.state().msr.kernel_gs_base = 0x7777;
    let vector = kernel_fault(&mut m, |a| {
        a.mov(rax, 0x1234_5000u64)?;
        a.wrgsbase(rax)?;
        a.swapgs()?;
        a.rdgsbase(rbx)?;
        a.mov(rax, 0x8000_0000_0000u64)?;
        a.wrfsbase(rax)
    });
    assert_eq!(vector, 13);
    assert_eq!(m.state().gpr[RBX], 0x7777);
    assert_eq!(m.state().msr.kernel_gs_base, 0x1234_5000);
}

#[test]
fn data_segments_check_privilege_and_presence() {
    let load: Build = |a| {
        a.mov(eax, i32::from(DATA0))?;
        a.mov(es, eax)
    };
    assert_eq!(user_fault(&mut long(), load), 13);
    let mut m = long();
    // A load sets the accessed bit.
    m.world.poke64(GDT + u64::from(DATA0), flat(0x92, 0xc));
    assert_eq!(kernel_fault(&mut m, load), 0);
    assert_eq!(m.words(GDT + u64::from(DATA0) + 5, 1, 1), [0x93]);
    // A null SS is for level 0 only.
    let null: Build = |a| {
        a.xor(eax, eax)?;
        a.mov(ss, eax)
    };
    assert_eq!(kernel_fault(&mut long(), null), 0);
    assert_eq!(user_fault(&mut long(), null), 13);
}

#[test]
fn task_switched_defers_to_nm() {
    let mut m = long();
    m.state().cr0 |= CR0_TS;
    assert_eq!(kernel_fault(&mut m, |a| a.fxsave(ptr(0x6000))), 7);
}

#[test]
fn vector_state_survives_fxsave_and_xsave() {
    let fill: Build = |a| {
        a.mov(rax, 0x1122_3344_5566_7788u64)?;
        a.movq(xmm3, rax)?;
        a.fld1()
    };
    let check = |m: &mut Machine| assert_eq!(m.state().gpr[RBX], 0x1122_3344_5566_7788);
    let mut m = long();
    kernel_fault(&mut m, |a| {
        fill(a)?;
        a.fxsave64(ptr(0x6000))?;
        a.pxor(xmm3, xmm3)?;
        a.fninit()?;
        a.fxrstor64(ptr(0x6000))?;
        a.movq(rbx, xmm3)
    });
    check(&mut m);
    assert_eq!(m.state().vector.x87.abridged_tags(), 0x80);
    let mut m = long();
    m.state().cr4 |= CR4_OSXSAVE;
    m.state().xcr0 = 3;
    kernel_fault(&mut m, |a| {
        fill(a)?;
        a.mov(eax, 3)?;
        a.xor(edx, edx)?;
        a.xsave64(ptr(0x6000))?;
        a.pxor(xmm3, xmm3)?;
        a.xrstor64(ptr(0x6000))?;
        a.movq(rbx, xmm3)
    });
    check(&mut m);
    assert_eq!(m.words(0x6200, 8, 1), [3]);
}

#[test]
fn xsetbv_takes_what_cpuid_offers() {
    let set = |value: i32| {
        let mut m = long();
        m.state().cr4 |= CR4_OSXSAVE;
        m.world.cpuid.insert(0xd, [7, 0, 0, 0]);
        let vector = kernel_fault(&mut m, |a| {
            a.xor(ecx, ecx)?;
            a.xor(edx, edx)?;
            a.mov(eax, value)?;
            a.xsetbv()
        });
        (vector, m.state().xcr0)
    };
    assert_eq!(set(7), (0, 7));
    assert_eq!(set(3), (0, 3));
    assert_eq!(set(6), (13, 1), "x87 is always on");
    assert_eq!(set(5), (13, 1), "AVX needs SSE");
    assert_eq!(set(0xe7), (13, 1), "AVX-512 is not offered");
}

#[test]
fn hypercalls_of_both_vendors() {
    let mut m = long();
    assert_eq!(
        kernel_fault(&mut m, |a| {
            a.vmcall()?;
            a.vmmcall()
        }),
        0
    );
    assert_eq!(m.world.hypercalls, 2);
}

#[test]
fn random_numbers_set_carry() {
    let mut m = long();
    kernel_fault(&mut m, |a| {
        a.rdrand(rbx)?;
        a.setc(al)?;
        a.rdseed(rcx)?;
        a.setc(ah)
    });
    let gpr = m.state().gpr;
    assert_eq!(gpr[RAX] & 0xffff, 0x0101);
    assert_ne!(gpr[RBX], gpr[RCX]);
}
