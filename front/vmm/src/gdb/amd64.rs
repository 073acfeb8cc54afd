//! x86-64 as gdb is told of it: the core registers and SSE, segment bases and control registers, each by name and with its bits.

use gdbstub::arch::{Arch, Registers};
use gdbstub_arch::x86::reg::X86_64CoreRegs;
use std::fmt::Write;
use std::sync::LazyLock;

/// What gdb's own description has for the processor.
pub enum Amd64 {}

/// All registers, in the order of the description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amd64Registers {
    pub core: X86_64CoreRegs,
    pub system: System,
}

/// Registers that only a debugger of systems asks for, named as QEMU's stub names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct System {
    pub fs_base: u64,
    pub gs_base: u64,
    pub k_gs_base: u64,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
}

impl System {
    /// Each by its name.
    fn named(&mut self) -> [(&'static str, &mut u64); 9] {
        [
            ("fs_base", &mut self.fs_base),
            ("gs_base", &mut self.gs_base),
            ("k_gs_base", &mut self.k_gs_base),
            ("cr0", &mut self.cr0),
            ("cr2", &mut self.cr2),
            ("cr3", &mut self.cr3),
            ("cr4", &mut self.cr4),
            ("cr8", &mut self.cr8),
            ("efer", &mut self.efer),
        ]
    }
}

impl Registers for Amd64Registers {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.core.pc()
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.core.gdb_serialize(&mut write_byte);
        let mut system = self.system;
        for (_, value) in system.named() {
            value
                .to_le_bytes()
                .into_iter()
                .for_each(|byte| write_byte(Some(byte)));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        self.core.gdb_deserialize(bytes)?;
        let values = bytes.get(CORE_BYTES..).ok_or(())?.chunks_exact(8);
        for ((_, to), from) in self.system.named().into_iter().zip(values) {
            *to = from
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte));
        }
        Ok(())
    }
}

impl Arch for Amd64 {
    type Usize = u64;
    type Registers = Amd64Registers;
    type RegId = ();
    type BreakpointKind = usize;

    fn target_description_xml() -> Option<&'static str> {
        static TEXT: LazyLock<String> = LazyLock::new(description);
        Some(&TEXT)
    }
}

/// Bytes of the core registers and SSE.
const CORE_BYTES: usize = 0x218;
const GENERAL: [&str; 16] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const SEGMENTS: [&str; 6] = ["cs", "ss", "ds", "es", "fs", "gs"];
const X87: [&str; 8] = [
    "fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop",
];
/// The bits of RFLAGS that have names.
const FLAGS: [(&str, u32); 16] = [
    ("CF", 0),
    ("PF", 2),
    ("AF", 4),
    ("ZF", 6),
    ("SF", 7),
    ("TF", 8),
    ("IF", 9),
    ("DF", 10),
    ("OF", 11),
    ("NT", 14),
    ("RF", 16),
    ("VM", 17),
    ("AC", 18),
    ("VIF", 19),
    ("VIP", 20),
    ("ID", 21),
];
/// How an XMM register can be looked at: a field, the type of its parts, how many there are.
const VECTORS: [(&str, &str, u32); 6] = [
    ("v4_float", "ieee_single", 4),
    ("v2_double", "ieee_double", 2),
    ("v16_int8", "int8", 16),
    ("v8_int16", "int16", 8),
    ("v4_int32", "int32", 4),
    ("v2_int64", "int64", 2),
];

/// The description, in the features that gdb knows, and one more.
fn description() -> String {
    let mut core = String::new();
    core += "<flags id=\"rflags\" size=\"4\">";
    for (name, bit) in FLAGS {
        let _ = write!(core, "<field name=\"{name}\" start=\"{bit}\" end=\"{bit}\"/>");
    }
    core += "</flags>";
    for name in GENERAL {
        core += &register(
            name,
            64,
            if matches!(name, "rbp" | "rsp") {
                "data_ptr"
            } else {
                "int64"
            },
        );
    }
    core += &register("rip", 64, "code_ptr");
    core += &register("eflags", 32, "rflags");
    for name in SEGMENTS {
        core += &register(name, 32, "int32");
    }
    for n in 0..8 {
        core += &register(&format!("st{n}"), 80, "i387_ext");
    }
    for name in X87 {
        core += &register(name, 32, "int32");
    }

    let mut sse = String::new();
    for (name, part, count) in VECTORS {
        let _ = write!(sse, "<vector id=\"{name}\" type=\"{part}\" count=\"{count}\"/>");
    }
    sse += "<union id=\"vec128\">";
    for (name, ..) in VECTORS {
        let _ = write!(sse, "<field name=\"{name}\" type=\"{name}\"/>");
    }
    sse += "<field name=\"uint128\" type=\"uint128\"/></union>";
    for n in 0..16 {
        sse += &register(&format!("xmm{n}"), 128, "vec128");
    }
    sse += &register("mxcsr", 32, "int32");

    let mut system = System::default();
    let (mut bases, mut control) = (String::new(), String::new());
    for (n, (name, _)) in system.named().into_iter().enumerate() {
        let to = if n < 2 { &mut bases } else { &mut control };
        *to += &register(name, 64, if n < 3 { "data_ptr" } else { "int64" });
    }
    let feature = |name: &str, what: &str| format!("<feature name=\"{name}\">{what}</feature>");
    [
        "<target version=\"1.0\"><architecture>i386:x86-64</architecture>".to_string(),
        feature("org.gnu.gdb.i386.core", &core),
        feature("org.gnu.gdb.i386.sse", &sse),
        feature("org.gnu.gdb.i386.segments", &bases),
        feature("ring3.system", &control),
        "</target>".to_string(),
    ]
    .concat()
}

fn register(name: &str, bits: u32, kind: &str) -> String {
    format!("<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_as_long_as_the_registers() {
        let described: usize = description()
            .split("bitsize=\"")
            .skip(1)
            .map(|rest| {
                rest.split('"')
                    .next()
                    .and_then(|bits| bits.parse::<usize>().ok())
                    .expect("a number")
            })
            .sum();
        let mut bytes = Vec::new();
        Amd64Registers::default().gdb_serialize(|byte| bytes.extend(byte));
        assert_eq!(described, bytes.len() * 8);
    }

    #[test]
    fn registers_come_back() {
        let mut before = Amd64Registers::default();
        before.core.regs[5] = 0x0123_4567_89ab_cdef;
        before.core.mxcsr = 0x1f80;
        (before.system.fs_base, before.system.efer) = (0x1234_5678_9abc_def0, 0xd01);
        let mut bytes = Vec::new();
        before.gdb_serialize(|byte| bytes.extend(byte));
        let mut after = Amd64Registers::default();
        after.gdb_deserialize(&bytes).expect("as many as there are");
        assert_eq!(before, after);
        assert_eq!(after.gdb_deserialize(&bytes[..100]), Err(()));
    }
}
