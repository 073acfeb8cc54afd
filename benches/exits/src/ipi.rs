//! Two processors that wake each other: an interrupt there, and one back. Both halt while they wait, inside KVM, so this
//! is also what it costs to put a vCPU's thread to sleep and to wake it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ring3_client::{Kvm, Vcpu, VcpuExit};
use ring3_uapi::x86::KvmRegs;
use ring3_uapi::{KVM_MP_STATE_RUNNABLE, KvmMpState, KvmMsi};

use crate::Pace;
use crate::guest::{DATA, Guest, HANDLERS, Irqchip, PORT, run};
use crate::trips::batches;

/// To the second processor, back to the first, and the end.
const ASK: u8 = 0x40;
const ANSWER: u8 = 0x41;
const STOP: u8 = 0x42;

// Registers of the x2APIC.
const EOI: u32 = 0x80b;
const SPURIOUS: u32 = 0x80f;
const COMMAND: u32 = 0x830;
/// Software enable, and a vector.
const ENABLED: u64 = 0x1ff;

/// wrmsr, which needs RAX, RCX and RDX
fn write_msr(msr: u32, value: u64) -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend(msr.to_le_bytes());
    code.push(0xb8);
    code.extend((value as u32).to_le_bytes());
    code.push(0xba);
    code.extend(((value >> 32) as u32).to_le_bytes());
    code.extend([0x0f, 0x30]);
    code
}

fn send(vector: u8, to: u64) -> Vec<u8> {
    write_msr(COMMAND, to << 32 | u64::from(vector))
}

/// The first processor: asks, and halts until the count at R14 is another one.
fn first() -> Result<Vec<u8>> {
    // mov rbx, [r14]
    let mut trip = vec![0x49, 0x8b, 0x1e];
    trip.extend(send(ASK, 1));
    // cli; cmp [r14], rbx; jne to the last; sti; hlt; jmp to the cli; sti
    trip.extend([0xfa, 0x49, 0x39, 0x1e, 0x75, 0x04, 0xfb, 0xf4, 0xeb, 0xf6, 0xfb]);
    Ok([write_msr(SPURIOUS, ENABLED), batches(&trip)?].concat())
}

/// mov dx, PORT; out dx, al
fn leave() -> [u8; 5] {
    let port = PORT.to_le_bytes();
    [0x66, 0xba, port[0], port[1], 0xee]
}

/// The second one: says that it can be asked, and halts.
fn second() -> Vec<u8> {
    let mut code = write_msr(SPURIOUS, ENABLED);
    code.extend(leave());
    // sti; hlt; jmp to the sti
    code.extend([0xfb, 0xf4, 0xeb, 0xfc]);
    code
}

fn handlers(guest: &Guest) -> Result<()> {
    let end = write_msr(EOI, 0);
    // iretq
    let back = vec![0x48, 0xcf];
    let ask = [end.clone(), send(ANSWER, 0), back.clone()].concat();
    // push rax, rcx, rdx; inc qword [r14]; ...; pop rdx, rcx, rax
    let around = [vec![0x50, 0x51, 0x52, 0x49, 0xff, 0x06], vec![0x5a, 0x59, 0x58]];
    let answer = [&around[0][..], &end, &around[1], &back].concat();
    guest.handle(ASK, HANDLERS, &ask)?;
    guest.handle(ANSWER, HANDLERS + 0x100, &answer)?;
    guest.handle(STOP, HANDLERS + 0x200, &leave())
}

/// Runs a processor until it has something to say.
fn run_to_port(vcpu: &Vcpu) -> Result<()> {
    match run(vcpu)? {
        VcpuExit::IoOut(_) => Ok(()),
        exit => bail!("the guest came back with {exit:?}"),
    }
}

pub fn there_and_back(kvm: &Kvm, time: Duration) -> Result<Pace> {
    let guest = Guest::new(kvm, Irqchip::Kvm)?;
    handlers(&guest)?;
    let regs = KvmRegs {
        r14: DATA,
        ..KvmRegs::default()
    };
    let vcpu = guest.processor(0, &first()?, regs)?;
    let other = guest.processor(1, &second(), KvmRegs::default())?;
    other
        .set_mp_state(&KvmMpState {
            mp_state: KVM_MP_STATE_RUNNABLE,
        })
        .context("KVM_SET_MP_STATE")?;
    // Only an enabled APIC can be asked.
    run_to_port(&other)?;
    thread::scope(|scope| {
        let served = scope.spawn(|| run_to_port(&other));
        let pace = Pace::of(time, || run_to_port(&vcpu));
        let stop = KvmMsi {
            address_lo: 0xfee0_0000 | 1 << 12,
            data: STOP.into(),
            ..KvmMsi::default()
        };
        guest.vm.signal_msi(&stop).context("KVM_SIGNAL_MSI")?;
        served
            .join()
            .map_err(|_| anyhow!("the second processor's thread panicked"))??;
        pace
    })
}
