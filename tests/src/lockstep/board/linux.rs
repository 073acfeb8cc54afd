//! Linux in a board's memory, by its boot protocol's 64-bit entry.

use super::Board;
use anyhow::{Context, Result, ensure};
use ring3_x86_cpu::Cpu;
use ring3_x86_cpu::state::*;

const GDT: u64 = 0x500;
const ZERO_PAGE: u64 = 0x7000;
const TABLES: u64 = 0x9000;
const CMDLINE: u64 = 0x2_0000;
const KERNEL: u64 = 0x10_0000;
const HEADER: usize = 0x1f1;
/// So far into the protected-mode part.
const ENTRY: u64 = 0x200;
const E820_COUNT: u64 = 0x1e8;
const E820: u64 = 0x2d0;

/// Puts a bzImage, an initramfs and a command line in memory, and what the processor finds there.
pub fn load(board: &mut Board, image: &[u8], initramfs: &[u8], cmdline: &str, mebibytes: u64) -> Result<()> {
    ensure!(
        image.get(0x202..0x206) == Some(b"HdrS"),
        "the kernel is no bzImage"
    );
    let sectors = match image[HEADER] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let protected = image
        .get((sectors + 1) * 512..)
        .context("the kernel is cut off")?;
    let memory = &mut board.memory;
    memory.poke(KERNEL, protected);
    memory.poke(CMDLINE, cmdline.as_bytes());
    let end = 0x202 + usize::from(image[0x201]);
    memory.poke(ZERO_PAGE + HEADER as u64, &image[HEADER..end]);
    let put32 =
        |board: &mut Board, at: u64, value: u32| board.memory.poke(ZERO_PAGE + at, &value.to_le_bytes());
    let top = mebibytes << 20;
    let ramdisk = (top - initramfs.len() as u64) & !0xfff;
    board.memory.poke(ramdisk, initramfs);
    board.memory.poke(ZERO_PAGE + 0x210, &[0xff]);
    put32(board, 0x218, ramdisk as u32);
    put32(board, 0x21c, initramfs.len() as u32);
    put32(board, 0x228, CMDLINE as u32);
    board.memory.poke(ZERO_PAGE + E820_COUNT, &[2]);
    for (n, (from, to)) in [(0, 0x9_fc00), (KERNEL, top)].into_iter().enumerate() {
        let row = ZERO_PAGE + E820 + 20 * n as u64;
        board.memory.poke64(row, from);
        board.memory.poke64(row + 8, to - from);
        board.memory.poke(row + 16, &[1, 0, 0, 0]);
    }
    tables(board);
    Ok(())
}

/// Descriptors, and page tables that map the first four GiB one to one.
fn tables(board: &mut Board) {
    let memory = &mut board.memory;
    memory.poke64(GDT + 0x10, 0x00af_9b00_0000_ffff);
    memory.poke64(GDT + 0x18, 0x00cf_9300_0000_ffff);
    memory.poke64(TABLES, (TABLES + 0x1000) | 3);
    for gib in 0..4 {
        let directory = TABLES + 0x2000 + gib * 0x1000;
        memory.poke64(TABLES + 0x1000 + 8 * gib, directory | 3);
        for n in 0..512 {
            memory.poke64(directory + 8 * n, (gib << 30 | n << 21) | 0x83);
        }
    }
}

/// A processor at the kernel's entry.
pub fn cpu() -> Cpu {
    let mut cpu = Cpu::new();
    let state = &mut cpu.core.state;
    let segment = |selector, attributes| Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes: Attributes(attributes),
    };
    state.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
    state.cr4 = CR4_PAE;
    state.cr3 = TABLES;
    state.efer = EFER_LME | EFER_LMA;
    state.physical_bits = 40;
    (state.gdtr.base, state.gdtr.limit) = (GDT, 0x1f);
    state.seg[CS] = segment(0x10, 0xa09b);
    for seg in [ES, SS, DS, FS, GS] {
        state.seg[seg] = segment(0x18, 0xc093);
    }
    state.gpr = [0; 32];
    (state.gpr[RSI], state.rip) = (ZERO_PAGE, KERNEL + ENTRY);
    cpu.core.refresh();
    let features = |leaf, subleaf| if subleaf == 0 { identity(leaf) } else { [0; 4] };
    cpu.set_features(ring3_x86_cpu::Features::from_cpuid(features));
    cpu
}

fn identity(leaf: u32) -> [u32; 4] {
    let mut memory = ring3_x86_cpu::testing::TestWorld::new(1);
    super::identify(&mut memory);
    memory.cpuid.get(&leaf).copied().unwrap_or_default()
}
