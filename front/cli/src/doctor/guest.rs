//! Guests of a few instructions, in this process: one that is interpreted, and one whose loop must be translated.

use super::Finding::{self, Bad, Good, Note};
use anyhow::{Result, ensure};
use ring3_client::{Kvm, Memory, Vcpu, VcpuExit, Vm};
use ring3_uapi::x86::{KvmRegs, KvmSegment};

pub fn interpreted() -> Finding {
    match run_a_guest() {
        Ok(()) => Good("a guest runs in this process".to_string()),
        Err(error) => Bad(format!("a guest in this process: {error:#}")),
    }
}

pub fn translated() -> Finding {
    match run_a_loop() {
        Ok(0) => Note("a guest's loop was only interpreted: see `translator`".to_string()),
        Ok(_) => Good("a guest's loop was translated to the host's code".to_string()),
        Err(error) => Bad(format!("a guest's loop in this process: {error:#}")),
    }
}

/// A processor at address zero of a page that has this code.
fn machine(code: &[u8]) -> Result<(Vm, Vcpu)> {
    let vm = Kvm::in_process()?.create_vm(0)?;
    let memory = Memory::new(4096)?;
    memory.write(0, code)?;
    vm.add_memory(0, 0, &memory, 0)?;
    let vcpu = vm.create_vcpu(0)?;
    let mut sregs = vcpu.get_sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&KvmRegs {
        rflags: 2,
        ..KvmRegs::default()
    })?;
    Ok((vm, vcpu))
}

fn run_a_guest() -> Result<()> {
    // mov al, 42; out 16, al; hlt
    let (_vm, vcpu) = machine(&[0xb0, 42, 0xe6, 16, 0xf4])?;
    let exit = vcpu.run()?;
    let VcpuExit::IoOut(io) = exit else {
        anyhow::bail!("unexpected exit {exit:?}");
    };
    let data = vcpu.port_data(&io);
    ensure!(data == [42], "the guest wrote {data:?}");
    let exit = vcpu.run()?;
    ensure!(exit == VcpuExit::Hlt, "unexpected exit {exit:?}");
    Ok(())
}

/// Runs a loop of 32-bit code in flat segments, and says how often something was translated.
fn run_a_loop() -> Result<u64> {
    // mov ecx, 100000; l: add eax, ecx; dec ecx; jnz l; hlt
    let (_vm, vcpu) = machine(&[0xb9, 0xa0, 0x86, 1, 0, 1, 0xc8, 0x49, 0x75, 0xfb, 0xf4])?;
    let mut sregs = vcpu.get_sregs()?;
    let flat = |type_| KvmSegment {
        limit: 0xffff_ffff,
        selector: 8,
        type_,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..KvmSegment::default()
    };
    sregs.cs = flat(0xb);
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = flat(3);
    }
    sregs.cr0 |= 1;
    vcpu.set_sregs(&sregs)?;
    let exit = vcpu.run()?;
    ensure!(exit == VcpuExit::Hlt, "unexpected exit {exit:?}");
    let sum = (1..=100_000u64).sum::<u64>() & 0xffff_ffff;
    let rax = vcpu.get_regs()?.rax;
    ensure!(rax == sum, "it computed {rax:#x}, not {sum:#x}");
    Ok(vcpu.stats()?.one("translations")?)
}
