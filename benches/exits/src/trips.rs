//! The ways out of a single processor.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ring3_client::{Kvm, VcpuExit};
use ring3_uapi::cap::KVM_CAP_EXIT_HYPERCALL;
use ring3_uapi::x86::KvmRegs;
use ring3_uapi::x86::pv::{KVM_EXIT_HYPERCALL_VALID_MASK, KVM_HC_MAP_GPA_RANGE, KVM_HC_VAPIC_POLL_IRQ};

use crate::guest::{DEVICE, Guest, HANDLERS, Irqchip, PORT, run};
use crate::{BATCH, Pace};

const VECTOR: u8 = 0x40;
const IRETQ: [u8; 2] = [0x48, 0xcf];

/// A client's loop: one KVM_RUN for each trip, of which `expected` says whether it came back as it should.
fn exits(kvm: &Kvm, time: Duration, code: &[u8], expected: fn(&VcpuExit) -> bool) -> Result<Pace> {
    let guest = Guest::new(kvm, Irqchip::Client)?;
    let regs = KvmRegs {
        rdx: PORT.into(),
        rbx: DEVICE,
        ..KvmRegs::default()
    };
    let vcpu = guest.processor(0, code, regs)?;
    Pace::of(time, || {
        for _ in 0..BATCH {
            let exit = run(&vcpu)?;
            ensure!(expected(&exit), "the guest came back with {exit:?}");
        }
        Ok(())
    })
}

pub fn pio_out(kvm: &Kvm, time: Duration) -> Result<Pace> {
    // out dx, al; jmp to it
    exits(kvm, time, &[0xee, 0xeb, 0xfd], |exit| {
        matches!(exit, VcpuExit::IoOut(_))
    })
}

pub fn pio_in(kvm: &Kvm, time: Duration) -> Result<Pace> {
    // in al, dx; jmp to it
    exits(kvm, time, &[0xec, 0xeb, 0xfd], |exit| {
        matches!(exit, VcpuExit::IoIn(_))
    })
}

pub fn mmio_write(kvm: &Kvm, time: Duration) -> Result<Pace> {
    // mov [rbx], eax; jmp to it
    exits(kvm, time, &[0x89, 0x03, 0xeb, 0xfc], |exit| {
        matches!(exit, VcpuExit::MmioWrite { .. })
    })
}

pub fn mmio_read(kvm: &Kvm, time: Duration) -> Result<Pace> {
    // mov eax, [rbx]; jmp to it
    exits(kvm, time, &[0x8b, 0x03, 0xeb, 0xfc], |exit| {
        matches!(exit, VcpuExit::MmioRead { .. })
    })
}

/// Code that does `body` BATCH times, and then leaves by a port write; and so on. R15 counts.
pub fn batches(body: &[u8]) -> Result<Vec<u8>> {
    let back = |distance: usize| {
        let distance = i8::try_from(distance).ok().context("the body is too long")?;
        Ok::<u8, anyhow::Error>((-distance).cast_unsigned())
    };
    // mov r15d, BATCH
    let mut code = vec![0x41, 0xbf];
    code.extend(BATCH.to_le_bytes());
    code.extend(body);
    // dec r15d; jnz to the body
    code.extend([0x41, 0xff, 0xcf, 0x75, back(body.len() + 5)?]);
    // mov dx, PORT; out dx, al; jmp to the beginning
    code.extend([0x66, 0xba]);
    code.extend(PORT.to_le_bytes());
    code.extend([0xee, 0xeb, back(code.len() + 3)?]);
    Ok(code)
}

/// What KVM answers by itself: a batch of trips for each KVM_RUN. In the end `check` looks at the registers.
fn inside(
    kvm: &Kvm,
    time: Duration,
    body: fn(&Guest) -> Vec<u8>,
    check: fn(&KvmRegs) -> bool,
) -> Result<Pace> {
    let guest = Guest::new(kvm, Irqchip::Client)?;
    let vcpu = guest.processor(0, &batches(&body(&guest))?, KvmRegs::default())?;
    let pace = Pace::of(time, || match run(&vcpu)? {
        VcpuExit::IoOut(_) => Ok(()),
        exit => bail!("the guest came back with {exit:?}"),
    })?;
    let regs = vcpu.get_regs()?;
    ensure!(check(&regs), "the guest was answered wrongly: {regs:?}");
    Ok(pace)
}

/// A hypercall that the client asked for, and answers.
pub fn hypercall(kvm: &Kvm, time: Duration) -> Result<Pace> {
    const ANSWER: u64 = 7;
    let guest = Guest::new(kvm, Irqchip::Client)?;
    guest
        .vm
        .enable_cap(KVM_CAP_EXIT_HYPERCALL, [KVM_EXIT_HYPERCALL_VALID_MASK, 0, 0, 0])
        .context("KVM_CAP_EXIT_HYPERCALL")?;
    // mov eax, number; vmcall or vmmcall; jmp to the first
    let last = if guest.is_amd() { 0xd9 } else { 0xc1 };
    let code = [
        0xb8,
        KVM_HC_MAP_GPA_RANGE as u8,
        0,
        0,
        0,
        0x0f,
        0x01,
        last,
        0xeb,
        0xf6,
    ];
    let regs = KvmRegs {
        rcx: 1,
        ..KvmRegs::default()
    };
    let vcpu = guest.processor(0, &code, regs)?;
    Pace::of(time, || {
        for _ in 0..BATCH {
            let exit = run(&vcpu)?;
            ensure!(
                matches!(exit, VcpuExit::Hypercall(_)),
                "the guest came back with {exit:?}"
            );
            vcpu.complete_hypercall(ANSWER);
        }
        Ok(())
    })
}

/// One that KVM answers by itself.
pub fn hypercall_inside(kvm: &Kvm, time: Duration) -> Result<Pace> {
    // mov eax, KVM_HC_VAPIC_POLL_IRQ, which does nothing and answers 0; vmcall or vmmcall
    let body = |guest: &Guest| {
        let last = if guest.is_amd() { 0xd9 } else { 0xc1 };
        vec![0xb8, KVM_HC_VAPIC_POLL_IRQ as u8, 0, 0, 0, 0x0f, 0x01, last]
    };
    inside(kvm, time, body, |regs| regs.rax == 0)
}

pub fn cpuid(kvm: &Kvm, time: Duration) -> Result<Pace> {
    // xor eax, eax; xor ecx, ecx; cpuid
    let body = |_: &Guest| vec![0x31, 0xc0, 0x31, 0xc9, 0x0f, 0xa2];
    inside(kvm, time, body, |regs| regs.rax != 0 && regs.rbx != 0)
}

/// The guest halts, the client queues an interrupt, the guest handles it and halts again.
pub fn hlt_wake(kvm: &Kvm, time: Duration) -> Result<Pace> {
    let guest = Guest::new(kvm, Irqchip::Client)?;
    guest.handle(VECTOR, HANDLERS, &IRETQ)?;
    // sti; hlt; jmp to the first
    let vcpu = guest.processor(0, &[0xfb, 0xf4, 0xeb, 0xfc], KvmRegs::default())?;
    Pace::of(time, || {
        for _ in 0..BATCH {
            let exit = run(&vcpu)?;
            ensure!(exit == VcpuExit::Hlt, "the guest came back with {exit:?}");
            vcpu.interrupt(VECTOR.into()).context("KVM_INTERRUPT")?;
        }
        Ok(())
    })
}
