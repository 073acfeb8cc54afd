use super::*;

fn word(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        yes: 0,
        no: 0,
        k,
    }
}

fn jump_to(code: u16, k: u32, yes: u8, no: u8) -> Instruction {
    Instruction {
        code: JMP | code,
        yes,
        no,
        k,
    }
}

fn ret(k: u32) -> Instruction {
    word(RET, k)
}

/// What a program answers that ends by returning the accumulator.
fn result(body: &[Instruction]) -> u32 {
    let all = [body, &[word(RET | RET_A, 0)]].concat();
    Program::new(all).expect("a valid program").run(&DATA)
}

const DATA: Data = Data {
    number: 16,
    arch: 0xc000_003e,
    instruction: 0x1234_5678_9abc_def0,
    arguments: [1, 2 << 32 | 3, 4, 5, 6, 7 << 32 | 8],
};

fn is_valid(all: &[Instruction]) -> bool {
    Program::new(all.to_vec()).is_ok()
}

#[test]
fn loads_find_the_call() {
    let at = |offset| result(&[word(LD_ABS, offset)]);
    assert_eq!(
        (at(0), at(4), at(8), at(12)),
        (16, 0xc000_003e, 0x9abc_def0, 0x1234_5678)
    );
    assert_eq!((at(16), at(20), at(24), at(28)), (1, 0, 3, 2));
    assert_eq!((at(56), at(60), result(&[word(LD_LEN, 0)])), (8, 7, 64));
}

#[test]
fn arithmetic_is_of_32_bits() {
    let of = |a, operation, other| result(&[word(LD_IMM, a), word(ALU | operation, other)]);
    assert_eq!(
        (of(5, ADD, u32::MAX), of(5, SUB, 6), of(1 << 31, MUL, 2)),
        (4, u32::MAX, 0)
    );
    assert_eq!(
        (of(7, DIV, 2), of(6, AND, 3), of(6, OR, 3), of(6, XOR, 3)),
        (3, 2, 7, 5)
    );
    assert_eq!(
        (of(3, LSH, 31), of(1 << 31, RSH, 31), of(1, NEG, 0)),
        (1 << 31, 1, u32::MAX)
    );
    let by_x = |a, operation, x| result(&[word(LD_IMM, a), word(LDX_IMM, x), word(ALU | X | operation, 0)]);
    assert_eq!((by_x(9, DIV, 2), by_x(9, SUB, 4), by_x(1, LSH, 33)), (4, 5, 2));
    // Divided by zero, the program ends.
    assert_eq!(by_x(9, DIV, 0), 0);
}

#[test]
fn memory_and_moves() {
    let body = [
        word(LD_IMM, 7),
        word(ST, 3),
        word(MISC | TAX, 0),
        word(LD_IMM, 0),
        word(ALU | ADD | X, 0),
        word(STX, 15),
        word(LDX_MEM, 3),
        word(ALU | ADD | X, 0),
        word(MISC | TXA, 0),
        word(LDX_MEM, 15),
        word(ALU | MUL | X, 0),
    ];
    assert_eq!(result(&body), 49);
}

#[test]
fn jumps_compare() {
    let taken = |code, a, k| {
        let all = [word(LD_IMM, a), jump_to(code, k, 0, 1), ret(1), ret(2)];
        Program::new(all.to_vec()).unwrap().run(&DATA) == 1
    };
    assert!(taken(JEQ, 5, 5) && !taken(JEQ, 5, 4));
    assert!(taken(JGT, 6, 5) && !taken(JGT, 5, 5) && taken(JGT, u32::MAX, 1));
    assert!(taken(JGE, 5, 5) && !taken(JGE, 4, 5));
    assert!(taken(JSET, 6, 2) && !taken(JSET, 4, 2));
    let over = [word(JMP | JA, 1), ret(1), ret(2)];
    assert_eq!(Program::new(over.to_vec()).unwrap().run(&DATA), 2);
}

#[test]
fn what_linux_refuses_is_refused() {
    assert!(!is_valid(&[]) && !is_valid(&[word(LD_IMM, 0)]));
    assert!(is_valid(&vec![ret(0); MOST]) && !is_valid(&vec![ret(0); MOST + 1]));
    // Words of the call, at multiples of four.
    assert!(is_valid(&[word(LD_ABS, 60), ret(0)]));
    assert!(!is_valid(&[word(LD_ABS, 64), ret(0)]) && !is_valid(&[word(LD_ABS, 2), ret(0)]));
    // Half words, bytes, indirect loads, remainders: not for seccomp.
    for code in [0x28, 0x30, 0x40, 0xb1, 0x94, 0x9c, 0x8c, 0xffff] {
        assert!(!is_valid(&[word(code, 4), ret(0)]), "{code:#x}");
    }
    assert!(!is_valid(&[word(ALU | DIV, 0), ret(0)]) && !is_valid(&[word(ALU | LSH, 32), ret(0)]));
    assert!(!is_valid(&[word(ST, 16), ret(0)]) && !is_valid(&[word(RET | X, 0)]));
    assert!(!is_valid(&[word(JMP | JA, 1), ret(0)]) && !is_valid(&[word(JMP | JA, u32::MAX), ret(0)]));
    assert!(!is_valid(&[jump_to(JEQ, 0, 1, 0), ret(0)]) && !is_valid(&[jump_to(JEQ, 0, 0, 1), ret(0)]));
}

#[test]
fn memory_must_be_stored_before_it_is_loaded() {
    assert!(!is_valid(&[word(LD_MEM, 0), ret(0)]));
    assert!(is_valid(&[word(ST, 0), word(LD_MEM, 0), ret(0)]));
    // Stored on one of two ways only.
    let one = [jump_to(JEQ, 0, 1, 0), word(ST, 0), word(LD_MEM, 0), ret(0)];
    assert!(!is_valid(&one));
    let both = [
        jump_to(JEQ, 0, 2, 0),
        word(ST, 0),
        word(JMP | JA, 1),
        word(ST, 0),
        word(LD_MEM, 0),
        ret(0),
    ];
    assert!(is_valid(&both));
}

#[test]
fn no_valid_program_fails_to_end() {
    let mut random = 1u64;
    let mut next = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        random >> 20
    };
    let codes = [
        LD_IMM,
        LD_ABS,
        LDX_IMM,
        ST,
        STX,
        ALU | ADD,
        ALU | DIV | X,
        ALU | LSH | X,
        JMP | JEQ,
        JMP | JA,
        JMP | JSET | X,
        MISC | TAX,
        LD_MEM,
        RET,
        RET | RET_A,
        0xff,
    ];
    let mut valid = 0;
    for _ in 0..20_000 {
        let body = (0..6).map(|_| Instruction {
            code: codes[next() as usize % codes.len()],
            yes: next() as u8 % 4,
            no: next() as u8 % 4,
            k: next() as u32 % 70,
        });
        let all: Vec<Instruction> = body.chain([ret(1)]).collect();
        assert!(
            all.iter()
                .all(|one| Instruction::from_word(one.to_word()) == *one)
        );
        if let Ok(program) = Program::new(all) {
            program.run(&DATA);
            valid += 1;
        }
    }
    assert!(valid > 100, "{valid}");
}
