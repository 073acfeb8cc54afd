use iced_x86::code_asm::*;
use ring3_x86_cpu::state::*;
use ring3_x86_cpu::testing::TestWorld;
use ring3_x86_cpu::Cpu;
use std::sync::atomic::AtomicU32;
fn main() {
    let mut world = TestWorld::new(512);
    world.poke64(0x10_0000, 0x10_1003);
    world.poke64(0x10_1000, 0x10_2003);
    world.poke64(0x10_2000, 0x83);
    let mut cpu = Cpu::new();
    let state = &mut cpu.core.state;
    state.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
    state.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    state.cr3 = 0x10_0000;
    state.efer = EFER_LME | EFER_LMA | EFER_NXE;
    state.seg[CS] = Segment { selector: 8, base: 0, limit: u32::MAX, attributes: Attributes(0xa09b) };
    for seg in [ES, SS, DS, FS, GS] {
        state.seg[seg] = Segment { selector: 16, base: 0, limit: u32::MAX, attributes: Attributes(0xc093) };
    }
    state.rip = 0x1000;
    state.gpr[RSP] = 0x8000;
    cpu.core.refresh();
    let mut a = CodeAssembler::new(64).unwrap();
    let which = std::env::args().nth(1).unwrap_or_default();
    let mut top = a.create_label();
    let mut f = a.create_label();
    let mut skip = a.create_label();
    a.mov(ecx, 30_000_000).unwrap();
    a.mov(ebx, 0x9000).unwrap();
    a.set_label(&mut top).unwrap();
    match which.as_str() {
        "mem" => {
            a.mov(rax, qword_ptr(rbx)).unwrap();
            a.add(rax, rcx).unwrap();
            a.mov(qword_ptr(rbx + 8), rax).unwrap();
            a.movzx(edx, byte_ptr(rbx + 3)).unwrap();
            a.cmp(edx, 7).unwrap();
            a.lea(rsi, qword_ptr(rbx + rdx)).unwrap();
        }
        "call" => {
            a.push(rbx).unwrap();
            a.call(f).unwrap();
            a.pop(rbx).unwrap();
            a.test(eax, eax).unwrap();
        }
        "sse" => {
            a.movdqu(xmm0, xmmword_ptr(rbx)).unwrap();
            a.pxor(xmm0, xmm1).unwrap();
            a.movdqu(xmmword_ptr(rbx + 16), xmm0).unwrap();
        }
        _ => {
            a.add(rax, rcx).unwrap();
            a.xor(rdx, rax).unwrap();
            a.shl(rdx, 3).unwrap();
            a.mov(rsi, rdx).unwrap();
        }
    }
    a.dec(ecx).unwrap();
    a.jne(top).unwrap();
    a.jmp(skip).unwrap();
    a.set_label(&mut f).unwrap();
    a.lea(rax, qword_ptr(rdx + 1)).unwrap();
    a.ret().unwrap();
    a.set_label(&mut skip).unwrap();
    a.hlt().unwrap();
    world.poke(0x1000, &a.assemble(0x1000).unwrap());
    let kick = AtomicU32::new(0);
    let t = std::time::Instant::now();
    let l = cpu.run(&mut world, &kick);
    let d = t.elapsed().as_secs_f64();
    println!("{which} {l:?} {:.0} M/s", cpu.core.instructions as f64 / d / 1e6);
}
