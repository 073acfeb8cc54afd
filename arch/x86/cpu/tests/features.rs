//! Instructions that CPUID does not name do not exist.

mod machine;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use machine::*;
use ring3_x86_cpu::Features;
use ring3_x86_cpu::state::*;

type Build = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Whether the code comes to its HLT (and not to #UD).
fn runs(m: &mut Machine, build: Build) -> bool {
    m.vector64(6, 0x5000, 0x8e, 0);
    m.code(64, 0x5000, |a| a.hlt());
    m.code(64, 0x1000, |a| {
        build(a)?;
        a.hlt()
    });
    m.state().rip = 0x1000;
    m.halt();
    m.state().rip != 0x5001
}

#[test]
fn instructions_come_and_go_with_cpuid() {
    let rows: [(Features, Build); 12] = [
        (Features::SMAP, |a| a.clac()),
        (Features::RDPID, |a| a.rdpid(rax)),
        (Features::RDRAND, |a| a.rdrand(rax)),
        (Features::RDSEED, |a| a.rdseed(rax)),
        (Features::INVPCID, |a| {
            a.mov(eax, 2)?;
            a.invpcid(rax, xmmword_ptr(0x6000u64))
        }),
        (Features::FSGSBASE, |a| a.rdgsbase(rax)),
        (Features::XSAVE, |a| {
            a.xor(ecx, ecx)?;
            a.xgetbv()
        }),
        (Features::RDTSCP, |a| a.rdtscp()),
        (Features::MOVBE, |a| a.movbe(eax, dword_ptr(0x6000u64))),
        (Features::CLFLUSHOPT, |a| a.clflushopt(byte_ptr(0x6000u64))),
        (Features::CLWB, |a| a.clwb(byte_ptr(0x6000u64))),
        (Features::MONITOR, |a| a.monitor()),
    ];
    for (feature, build) in rows {
        let mut m = Machine::long();
        m.state().cr4 |= CR4_FSGSBASE | CR4_OSXSAVE;
        assert!(runs(&mut m, build), "{feature:?}");
        // What was decoded before must not outlive the change.
        m.cpu.set_features(Features::all() - feature);
        assert!(!runs(&mut m, build), "{feature:?}");
        m.cpu.set_features(feature);
        assert!(runs(&mut m, build), "{feature:?}");
    }
}

#[test]
fn rsm_is_unknown_outside_of_its_mode() {
    assert!(!runs(&mut Machine::long(), |a| a.rsm()));
}

#[test]
fn xsaves_writes_what_xrstors_alone_reads() {
    let area = 0x6000;
    let mut m = Machine::long();
    m.state().cr4 |= CR4_OSXSAVE;
    m.state().xcr0 = 7;
    m.code(64, 0x1000, |a| {
        a.mov(rax, 7u64)?;
        a.xor(edx, edx)?;
        a.movq(xmm3, rax)?;
        a.xsaves(ptr(area))?;
        a.pxor(xmm3, xmm3)?;
        a.xrstors(ptr(area))?;
        a.movq(rbx, xmm3)?;
        a.hlt()
    });
    m.halt();
    assert_eq!(m.state().gpr[RBX], 7);
    assert_eq!(
        m.words(area + 512 + 8, 8, 1),
        [1 << 63 | 7],
        "the compacted format"
    );
    // The standard format is XRSTOR's.
    m.world.poke64(area + 512 + 8, 0);
    m.vector64(13, 0x5000, 0x8e, 0);
    m.cpu.drop_all_code();
    assert!(!runs(&mut m, |a| a.xrstors(ptr(0x6000))));
}
