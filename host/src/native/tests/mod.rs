//! Small facts with known answers. The random comparison with the host CPU is in the `tests` crate.

use iced_x86::{CpuidFeature, Decoder, DecoderOptions};

use super::gather::Indexed;
use super::xsave::{PointerWidth, XFEATURES, XSAVE_SIZE};
use super::*;

fn step_in(bitness: u32, bytes: &[u8]) -> NativeStep {
    let instr = Decoder::new(bitness, bytes, DecoderOptions::NONE).decode();
    compile(&instr).unwrap_or_else(|_| panic!("{instr} is not supported"))
}

fn step(bytes: &[u8]) -> NativeStep {
    step_in(64, bytes)
}

struct Machine {
    frame: NativeFrame,
    vector: VectorState,
    gpr: [u64; 16],
}

impl Machine {
    fn new() -> Self {
        Self {
            frame: NativeFrame::default(),
            vector: VectorState::new(),
            gpr: std::array::from_fn(|i| 0x1111 * i as u64),
        }
    }

    fn run(&mut self, bytes: &[u8]) -> Outcome {
        step(bytes).run(&mut self.frame, &mut self.vector, &mut self.gpr)
    }
}

#[test]
fn legacy_sse_keeps_and_vex_zeroes_the_upper_halves() {
    let mut m = Machine::new();
    m.vector.zmm[0] = Zmm([1, 2, 3, 4, 5, 6, 7, 8]);
    m.vector.zmm[1] = Zmm([10, 20, 30, 40, 50, 60, 70, 80]);
    assert_eq!(m.run(&[0x66, 0x0f, 0xd4, 0xc1]), Outcome::Done); // paddq xmm0, xmm1
    assert_eq!(m.vector.zmm[0], Zmm([11, 22, 3, 4, 5, 6, 7, 8]));
    if std::arch::is_x86_feature_detected!("avx") {
        assert_eq!(m.run(&[0xc5, 0xf9, 0xd4, 0xc1]), Outcome::Done); // vpaddq xmm0, xmm0, xmm1
        assert_eq!(m.vector.zmm[0].0[..4], [21, 42, 0, 0]);
        if std::arch::is_x86_feature_detected!("avx512f") {
            assert_eq!(m.vector.zmm[0].0[4..], [0; 4]);
        }
    }
}

#[test]
fn vzeroall_knows_as_many_registers_as_the_code_has() {
    if !std::arch::is_x86_feature_detected!("avx") {
        return;
    }
    for (bits, cleared) in [(64, 16), (32, 8), (64, 16)] {
        let mut m = Machine::new();
        m.vector.zmm = [Zmm([1; 8]); 32];
        let step = step_in(bits, &[0xc5, 0xfc, 0x77]);
        assert_eq!(step.run(&mut m.frame, &mut m.vector, &mut m.gpr), Outcome::Done);
        let zero = m.vector.zmm.iter().filter(|z| **z == Zmm::default()).count();
        assert_eq!(zero, cleared, "in {bits} bits");
    }
}

#[test]
fn memory_operands_are_the_bounce_buffer_in_every_mode() {
    let mut m = Machine::new();
    m.frame.mem[..16].copy_from_slice(&77u128.to_le_bytes());
    let forms: [(u32, &[u8]); 3] = [
        (64, &[0x66, 0x0f, 0x6f, 0x84, 0x8c, 0, 1, 0, 0]), // movdqa xmm0, [rsp+rcx*4+100h]
        (32, &[0x66, 0x0f, 0x6f, 0x05, 1, 2, 3, 4]),       // movdqa xmm0, [4030201h]
        (16, &[0x66, 0x0f, 0x6f, 0x42, 0x11]),             // movdqa xmm0, [bp+si+11h]
    ];
    for (bitness, bytes) in forms {
        let s = step_in(bitness, bytes);
        let memory = s.info().memory.expect("a memory operand");
        assert_eq!(
            (memory.size, memory.direction, memory.alignment),
            (16, Direction::Read, 16)
        );
        assert_eq!((s.info().gpr_read, s.info().gpr_written), (0, 0));
        assert_eq!(s.touched(&m.vector), 0xffff);
        m.vector.zmm[0] = Zmm::default();
        assert_eq!(s.run(&mut m.frame, &mut m.vector, &mut m.gpr), Outcome::Done);
        assert_eq!(m.vector.zmm[0].low(), 77);
    }
}

#[test]
fn integer_forms_use_guest_registers_rsp_included() {
    let mut m = Machine::new();
    (m.gpr[4], m.gpr[7], m.frame.rflags) = (0xffff_ffff_ffff_ffff, 1, 2);
    assert_eq!(m.run(&[0x48, 0x01, 0xfc]), Outcome::Done); // add rsp, rdi
    assert_eq!((m.gpr[4], m.gpr[7], m.frame.rflags), (0, 1, 0x57));
    m.gpr[0] = 0x1234;
    assert_eq!(m.run(&[0x00, 0xc4]), Outcome::Done); // add ah, al
    assert_eq!(m.gpr[0], 0x4634);
    // A shift by zero changes no flag.
    (m.gpr[1], m.frame.rflags) = (0, 0x8d7);
    assert_eq!(m.run(&[0x48, 0xd3, 0xe0]), Outcome::Done); // shl rax, cl
    assert_eq!(m.frame.rflags, 0x8d7);
}

#[test]
fn simd_exceptions_change_nothing_but_the_flags() {
    let mut m = Machine::new();
    let divps = [0x0f, 0x5e, 0xc1]; // divps xmm0, xmm1
    m.vector.zmm[0] = Zmm([0x3f80_0000_3f80_0000, 0x3f80_0000_3f80_0000, 9, 9, 9, 9, 9, 9]);
    let before = m.vector.zmm[0];
    m.vector.set_mxcsr(0x1f80 & !0x200).unwrap(); // divide by zero unmasked
    assert_eq!(m.run(&divps), Outcome::SimdException);
    assert_eq!((m.vector.zmm[0], m.vector.mxcsr()), (before, 0x1d84));
    m.vector.set_mxcsr(0x1f80).unwrap();
    assert_eq!(m.run(&divps), Outcome::Done);
    assert_eq!(
        (m.vector.zmm[0].0[0], m.vector.mxcsr()),
        (0x7f80_0000_7f80_0000, 0x1f84)
    );
}

#[test]
fn exact_tiny_results_trap_when_underflow_does() {
    let mut m = Machine::new();
    let mulss = [0xf3, 0x0f, 0x59, 0xc1]; // mulss xmm0, xmm1
    m.vector.zmm[0].set_low(0x0080_0000); // the smallest normal number
    m.vector.zmm[1].set_low(0x3f00_0000); // a half
    m.vector.set_mxcsr(0x1f80 & !0x800).unwrap(); // underflow unmasked
    assert_eq!(m.run(&mulss), Outcome::SimdException);
    assert_eq!((m.vector.zmm[0].low(), m.vector.mxcsr()), (0x0080_0000, 0x1790));
    m.vector.set_mxcsr(0x1f80).unwrap();
    assert_eq!(m.run(&mulss), Outcome::Done);
    assert_eq!((m.vector.zmm[0].low(), m.vector.mxcsr()), (0x0040_0000, 0x1f80));
}

#[test]
fn x87_stack_and_pending_exceptions() {
    let mut m = Machine::new();
    m.frame.x87_pointers.fip = 0x1234;
    m.frame.x87_pointers.fop = 0x1eb;
    assert_eq!(m.run(&[0xd9, 0xe8]), Outcome::Done); // fld1
    assert_eq!(m.run(&[0xd9, 0xeb]), Outcome::Done); // fldpi
    assert_eq!((m.vector.x87.fsw(), m.vector.x87.abridged_tags()), (0x3000, 0xc0));
    assert_eq!(
        (m.vector.x87.pointers.fop, m.vector.x87.pointers.fip),
        (0x1eb, 0x1234)
    );
    assert_eq!(m.vector.x87.st(1), [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
    assert_eq!(m.run(&[0xd9, 0xee]), Outcome::Done); // fldz
    m.vector.x87.set_fcw(0x37b); // divide by zero unmasked
    assert_eq!(m.run(&[0xd8, 0xf2]), Outcome::Done); // fdiv st(0), st(2): 0 / 1
    assert_eq!(m.run(&[0xdc, 0xf9]), Outcome::Done); // fdiv st(1), st(0): pi / 0
    assert!(m.vector.x87.exception_pending());
    assert!(step(&[0xd9, 0xee]).info().checks_pending_x87);
    assert_eq!(m.run(&[0xd9, 0xee]), Outcome::X87Exception);
    assert_eq!(m.run(&[0xdb, 0xe2]), Outcome::Done); // fnclex
    assert!(!m.vector.x87.exception_pending());
    // An unmasked stack underflow suppresses the store and the pop.
    m.vector.x87.init();
    m.vector.x87.set_fcw(0x37e);
    assert_eq!(m.run(&[0xd9, 0x18]), Outcome::DoneWithoutStore); // fstp dword [rax]
    assert_eq!(m.vector.x87.fsw(), 0x80c1);
}

#[test]
fn environments_survive_a_round_trip_in_all_layouts() {
    let mut m = Machine::new();
    assert_eq!(m.run(&[0xd9, 0xe8]), Outcome::Done); // fld1
    assert_eq!(m.run(&[0xd9, 0xee]), Outcome::Done); // fldz
    let tags = m.vector.x87.full_tags();
    assert_eq!(tags, 0x1fff);
    m.vector.x87.pointers = X87Pointers {
        fop: 0x123,
        fip: 0x4567,
        fcs: 0,
        fdp: 0x89ab,
        fds: 0,
    };
    for layout in [EnvLayout::Protected, EnvLayout::Real] {
        m.frame.env_layout = layout;
        let before = m.vector.clone();
        let (save, restore): (&[u8], &[u8]) = (&[0xdd, 0x30], &[0xdd, 0x20]);
        assert_eq!(m.run(save), Outcome::Done);
        assert_eq!((m.vector.x87.fsw(), m.vector.x87.abridged_tags()), (0, 0));
        assert_eq!(m.run(restore), Outcome::Done);
        assert_eq!(m.vector, before);
    }
}

#[test]
fn masked_operands_tell_which_bytes_they_touch() {
    let mut m = Machine::new();
    let maskmovdqu = step(&[0x66, 0x0f, 0xf7, 0xca]); // maskmovdqu xmm1, xmm2
    m.vector.zmm[2] = Zmm([0x8000_0000_0000_0080, 0x80, 0, 0, 0, 0, 0, 0]);
    assert_eq!(maskmovdqu.touched(&m.vector), 0x181);
    m.vector.zmm[1] = Zmm([0x1122_3344_5566_7788, 0x99, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        maskmovdqu.run(&mut m.frame, &mut m.vector, &mut m.gpr),
        Outcome::Done
    );
    assert_eq!(
        (m.frame.mem[0], m.frame.mem[7], m.frame.mem[8]),
        (0x88, 0x11, 0x99)
    );
    if std::arch::is_x86_feature_detected!("avx512f") {
        m.vector.k[1] = 0x8005;
        let masked = step(&[0x62, 0xf1, 0x7d, 0x49, 0x6f, 0x00]); // vmovdqa32 zmm0{k1}, [rax]
        assert_eq!(masked.touched(&m.vector), 0xf000_0000_0000_0f0f);
        assert_eq!(
            masked.info().memory.map(|o| (o.alignment, o.is_masked())),
            Some((64, true))
        );
        let stored = step(&[0x62, 0xf2, 0x7d, 0x49, 0x8b, 0x00]); // vpcompressd [rax]{k1}, zmm0
        assert_eq!(stored.touched(&m.vector), 0xfff);
        assert_eq!(stored.info().memory.map(|o| o.direction), Some(Direction::Write));
    }
    if host_has(CpuidFeature::AVX512_FP16) {
        let complex = step(&[0x62, 0xf6, 0x46, 0x09, 0xd7, 0x00]); // vfmulcsh xmm0{k1}, xmm7, [rax]
        for (mask, touched) in [(1, 0xf), (2, 0)] {
            m.vector.k[1] = mask;
            assert_eq!(complex.touched(&m.vector), touched);
        }
    }
}

#[test]
fn gathers_come_apart() {
    let bytes = [0xc4, 0xe2, 0x6d, 0x90, 0x04, 0x88]; // vpgatherdd ymm0, [rax+ymm1*4], ymm2
    let instr = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
    assert_eq!(compile(&instr).err(), Some(Unsupported));
    let gather = Indexed::of(&instr).expect("a gather");
    let mut vector = VectorState::new();
    vector.zmm[0] = Zmm([u64::MAX; 8]);
    vector.zmm[1].set_lane(4, 3, -5i64 as u64);
    vector.zmm[2].set_lane(4, 3, 1 << 31);
    assert!(!gather.registers_collide());
    assert_eq!(
        (gather.lanes, gather.pending(&vector), gather.index(&vector, 3)),
        (8, 8, -5)
    );
    gather.loaded(&mut vector, 3, 7);
    assert_eq!(gather.pending(&vector), 0);
    gather.finish(&mut vector);
    assert_eq!(vector.zmm[0].lane(4, 3), 7);
    assert_eq!(vector.zmm[0].0[4..], [0; 4]);
}

#[test]
fn xsave_images_survive_a_round_trip() {
    let mut vector = VectorState::new();
    for (i, z) in vector.zmm.iter_mut().enumerate() {
        z.0 = std::array::from_fn(|n| (i * 8 + n + 1) as u64);
    }
    vector.k = std::array::from_fn(|i| i as u64 + 100);
    vector.x87.set_st(2, [9; 10]);
    vector.x87.set_fsw(0x3800);
    assert_eq!(vector.in_use(), XFEATURES);
    let mut area = vec![0; XSAVE_SIZE];
    vector.to_xsave(XFEATURES, &mut area, PointerWidth::Quad);
    let mut again = VectorState::new();
    again.from_xsave(XFEATURES, &area, PointerWidth::Quad).unwrap();
    assert_eq!(again, vector);
    again
        .from_xsave(XFEATURES, &vec![0; XSAVE_SIZE], PointerWidth::Quad)
        .unwrap();
    assert_eq!(again.in_use(), 0);
}

#[test]
fn what_is_not_computation_is_refused() {
    let refused: [&[u8]; 12] = [
        &[0xf0, 0x01, 0x08], // lock add [rax], ecx
        &[0x87, 0x08],       // xchg [rax], ecx
        &[0x0f, 0xa3, 0x08], // bt [rax], ecx
        &[0xf7, 0xf1],       // div ecx
        &[0x50],             // push rax
        &[0xa4],             // movsb
        &[0x0f, 0xa2],       // cpuid
        &[0x0f, 0x31],       // rdtsc
        &[0x48, 0x8d, 0x00], // lea rax, [rax]
        &[0x0f, 0x20, 0xc0], // mov rax, cr0
        &[0x8e, 0xd8],       // mov ds, eax
        &[0x0f, 0xae, 0x00], // fxsave [rax]
    ];
    for bytes in refused {
        let instr = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
        assert!(compile(&instr).is_err(), "{instr}");
    }
}

/// Not an assertion: prints what a step costs here. `cargo test --release -- --ignored --nocapture step_cost`.
#[test]
#[ignore = "a measurement, not a test"]
fn step_cost() {
    let forms: [(&str, &[u8]); 7] = [
        ("pxor xmm0, xmm1", &[0x66, 0x0f, 0xef, 0xc1]),
        ("movdqu xmm0, [rax]", &[0xf3, 0x0f, 0x6f, 0x00]),
        ("vpxor ymm0, ymm1, ymm2", &[0xc5, 0xf5, 0xef, 0xc2]),
        ("addsd xmm0, xmm1", &[0xf2, 0x0f, 0x58, 0xc1]),
        ("ptest xmm0, xmm1", &[0x66, 0x0f, 0x38, 0x17, 0xc1]),
        ("fadd st0, st1", &[0xd8, 0xc1]),
        ("shld rax, rcx, 3", &[0x48, 0x0f, 0xa4, 0xc8, 3]),
    ];
    let mut m = Machine::new();
    for (name, bytes) in forms {
        let s = step(bytes);
        let start = std::time::Instant::now();
        for _ in 0..1_000_000 {
            let _ = std::hint::black_box(&s).run(&mut m.frame, &mut m.vector, &mut m.gpr);
        }
        println!("{name}: {:.1} ns", start.elapsed().as_secs_f64() * 1e3);
    }
}
