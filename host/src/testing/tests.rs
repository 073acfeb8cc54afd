//! Known instructions with known ends.

use super::*;
use crate::native::VectorState;

const CODE: u64 = 0x2000_0000;
const DATA: u64 = 0x2001_0000;

struct Bench {
    direct: Direct,
    registers: Registers,
    vector: VectorState,
}

impl Bench {
    fn new() -> Bench {
        let window = |address, page, rights| Window {
            address,
            page,
            pages: 1,
            rights,
        };
        let windows = [window(CODE, 0, Rights::Execute), window(DATA, 1, Rights::Write)];
        let segments = [SegmentKind::Code, SegmentKind::Data].map(|kind| Segment {
            base: if kind == SegmentKind::Code { CODE } else { DATA } as u32,
            limit: 0xfff,
            kind,
        });
        Bench {
            direct: Direct::spawn(2, &windows, &segments).unwrap(),
            registers: Registers::default(),
            vector: VectorState::new(),
        }
    }

    fn run(&mut self, code: &[u8]) -> Result<Trap, Lost> {
        self.run_at(CODE, code)
    }

    /// Runs code that begins at this offset in its segment.
    fn run_at(&mut self, offset: u64, code: &[u8]) -> Result<Trap, Lost> {
        self.direct.memory().write(0, &[0xcc; 64]);
        self.direct.memory().write(0, code);
        self.registers.rip = offset;
        self.direct.run(&mut self.registers, &mut self.vector)
    }
}

#[test]
fn registers_go_in_and_come_out() {
    let mut bench = Bench::new();
    bench.registers = Registers {
        gpr: std::array::from_fn(|n| 0x1111_1111_1111_1111 * n as u64),
        rip: 0,
        rflags: 1 << 14 | 1 << 18 | 1 << 21 | 1,
        fs_base: 0x1234,
        gs_base: 0x5678,
        ..Default::default()
    };
    bench.vector.zmm[3].set_low(77);
    bench.vector.x87.set_st(1, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    bench.vector.x87.set_fsw(0x3800);
    let (registers, vector) = (bench.registers, bench.vector.clone());
    let trap = bench.run(&[0x48, 0x83, 0xd4, 0x00]).unwrap(); // adc rsp, 0
    assert_eq!((trap.vector, trap.error), (3, 0));
    assert_eq!(bench.registers.rip, CODE + 5);
    assert_eq!(bench.registers.gpr[4], registers.gpr[4] + 1);
    bench.registers.gpr[4] -= 1;
    assert_eq!(bench.registers.gpr, registers.gpr);
    assert_eq!(
        bench.registers.rflags & 0x3f_ffff,
        1 << 14 | 1 << 18 | 1 << 21 | 1 << 9 | 2
    );
    assert_eq!(
        (bench.registers.fs_base, bench.registers.gs_base),
        (0x1234, 0x5678)
    );
    assert_eq!(bench.vector, vector);
}

#[test]
fn thirty_two_bit_code_runs() {
    let mut bench = Bench::new();
    bench.registers.cs = CODE32;
    bench.registers.ds = super::DATA;
    bench.registers.gpr[0] = 0xffff_ffff;
    bench.registers.gpr[3] = DATA;
    // inc eax; mov gs:[ebx], ds
    let trap = bench.run(&[0x40, 0x65, 0x8c, 0x1b]).unwrap();
    assert_eq!((trap.vector, bench.registers.rip), (3, CODE + 5));
    assert_eq!((bench.registers.gpr[0], bench.registers.cs), (0, CODE32));
    assert_eq!(bench.direct.memory().load::<u16>(4096), 0x2b);
    // In 64-bit mode again, the first is a prefix.
    (bench.registers.cs, bench.registers.ds) = (CODE64, 0);
    assert_eq!(bench.run(&[0x40, 0x8c, 0xd8]).unwrap().vector, 3);
    assert_eq!(bench.registers.gpr[0], 0);
}

#[test]
fn sixteen_bit_code_runs() {
    let mut bench = Bench::new();
    if !bench.direct.has_segments() {
        return;
    }
    bench.registers.cs = Segment::selector(0);
    (bench.registers.ds, bench.registers.ss) = (Segment::selector(1), Segment::selector(1));
    bench.registers.gpr[4] = 0x1234_0100;
    bench.registers.gpr[0] = 0xabcd;
    // push ax; mov [bx], ax
    let trap = bench.run_at(0, &[0x50, 0x89, 0x07]).unwrap();
    assert_eq!((trap.vector, bench.registers.rip), (3, 4));
    // The kernel makes up what is above.
    assert_eq!(bench.registers.gpr[4] as u32, 0x1234_00fe);
    assert_eq!(bench.direct.memory().load::<u16>(4096 + 0xfe), 0xabcd);
    assert_eq!(bench.direct.memory().load::<u16>(4096), 0xabcd);
    // Beyond the limit.
    bench.registers.gpr[3] = 0xfff;
    let trap = bench.run_at(0, &[0x89, 0x07]).unwrap();
    assert_eq!((trap.vector, trap.error), (13, 0));
}

#[test]
fn exceptions_are_told_apart() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(&[0x0f, 0x0b]).unwrap().vector, 6); // ud2
    assert_eq!(bench.run(&[0xf7, 0xf1]).unwrap().vector, 0); // div ecx
    assert_eq!(bench.run(&[0xf4]).unwrap().vector, 13); // hlt
    let trap = bench.run(&[0x89, 0x03]).unwrap(); // mov [rbx], eax
    assert_eq!((trap.vector, trap.error, trap.cr2), (14, 6, 0));
    bench.registers.gpr[3] = DATA + 8;
    bench.registers.gpr[0] = 5;
    assert_eq!(bench.run(&[0x89, 0x03]).unwrap().vector, 3);
    assert_eq!(bench.direct.memory().load::<u64>(4096 + 8), 5);
}

#[test]
fn system_calls_end_the_child_and_harm_nobody() {
    let mut bench = Bench::new();
    bench.registers.gpr[0] = 62; // kill(0, 0)
    assert_eq!(bench.run(&[0x0f, 0x05]), Err(Lost)); // syscall
    assert_eq!(bench.run(&[0x90]), Err(Lost));
}
