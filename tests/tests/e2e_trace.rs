//! `ring3 trace` tells what a client does, in text and in JSON, of each process and thread.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ring3_client::{Errno, Kvm, Memory, Vcpu, VcpuExit, Vm};
use ring3_guest::places;
use ring3_tests::e2e::Bench;
use ring3_uapi::cap::{KVM_CAP_HLT, KVM_CAP_PV_MMU};
use ring3_uapi::ioctl::KVM_PPC_GET_RMMU_INFO;
use ring3_uapi::x86::{KvmMsrEntry, KvmRegs};
use serde_json::Value as Json;

/// Says that the test is to be a client, and which.
const CLIENT: &str = "RING3_TEST_CLIENT";
/// Writes to port 10H that each of the client's two threads has its guest make.
const WRITES: u64 = 200;

fn guest(vm: &Vm, vcpu: &Vcpu, code: &[u8]) -> Result<Memory> {
    let ram = Memory::new(0x10000)?;
    ram.write(0x1000, code)?;
    vm.add_memory(0, 0, &ram, 0)?;
    let mut sregs = vcpu.get_sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&KvmRegs {
        rip: 0x1000,
        rflags: 2,
        rsp: 0x8000,
        ..Default::default()
    })?;
    Ok(ram)
}

/// Two VMs on two threads, whose guests write a letter to a port, and halt at last.
fn run_guests() -> Result<()> {
    let threads = [b'A', b'B'].map(|letter| {
        std::thread::spawn(move || -> Result<()> {
            let vm = Kvm::open()?.create_vm(0)?;
            let vcpu = vm.create_vcpu(0)?;
            // mov al, letter; mov cx, WRITES; again: out 0x10, al; loop again; hlt
            let count = (WRITES as u16).to_le_bytes();
            let code = [
                0xb0, letter, 0xb9, count[0], count[1], 0xe6, 0x10, 0xe2, 0xfc, 0xf4,
            ];
            let _ram = guest(&vm, &vcpu, &code)?;
            for _ in 0..WRITES {
                let exit = vcpu.run()?;
                ensure!(matches!(exit, VcpuExit::IoOut(_)), "{exit:?}");
            }
            ensure!(vcpu.run()? == VcpuExit::Hlt, "{:?}", vcpu.last_exit());
            Ok(())
        })
    });
    for thread in threads {
        thread.join().expect("no panic")?;
    }
    Ok(())
}

/// Asks for things that nobody has.
fn ask_in_vain() -> Result<()> {
    let kvm = Kvm::open()?;
    kvm.check_extension(KVM_CAP_HLT)?;
    ensure!(kvm.check_extension(KVM_CAP_PV_MMU)? == 0);
    let vm = kvm.create_vm(0)?;
    ensure!(vm.enable_cap(KVM_CAP_PV_MMU, [0; 4]) == Err(Errno::EINVAL));
    ensure!(vm.raw(KVM_PPC_GET_RMMU_INFO, 0) == Err(Errno::ENOTTY));
    ensure!(vm.has_device(5) == Err(Errno::ENODEV));
    let vcpu = vm.create_vcpu(0)?;
    let msrs = [0x10, 0x1234_5678].map(|index| KvmMsrEntry {
        index,
        ..KvmMsrEntry::default()
    });
    ensure!(vcpu.get_msrs(&mut msrs.clone())? == 1);
    Ok(())
}

/// What `ring3 trace` runs.
#[test]
#[ignore = "is the client of the others: cargo xtask e2e"]
fn the_client() -> Result<()> {
    match std::env::var(CLIENT).as_deref() {
        Ok("parent") => {
            ask_in_vain()?;
            run_guests()?;
            let child = myself()?.env(CLIENT, "child").status()?;
            ensure!(child.success(), "the child ended with {child}");
            Ok(())
        }
        Ok("child") => ask_in_vain(),
        _ => Ok(()),
    }
}

fn myself() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(client_arguments());
    Ok(command)
}

fn client_arguments() -> [&'static str; 5] {
    [
        "the_client",
        "--exact",
        "--nocapture",
        "--include-ignored",
        "--test-threads=1",
    ]
}

/// What `ring3 trace` wrote of the client to a file.
fn trace(bench: &Bench, options: &[&str]) -> Result<String> {
    let path = bench.dir.path().join("trace");
    let mut command = Command::new(places::ring3()?);
    command.arg("trace").arg("-o").arg(&path).args(options).arg("--");
    command.arg(std::env::current_exe()?).args(client_arguments());
    let output = command.env(CLIENT, "parent").output()?;
    ensure!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!said.contains("KVM_"), "the trace is on stderr, too: {said}");
    std::fs::read_to_string(&path).context("the trace")
}

#[test]
#[ignore = "needs the built ring3: cargo xtask e2e"]
fn text_shows_calls_exits_and_what_lacks() -> Result<()> {
    let bench = Bench::new()?;
    if !bench.needs_ring3("ring3 trace") {
        return Ok(());
    }
    let text = trace(&bench, &[])?;
    for wanted in [
        "open(\"/dev/kvm\") = ",
        "KVM_CHECK_EXTENSION(KVM_CAP_HLT) = 1 <",
        "KVM_CREATE_VM(KVM_X86_DEFAULT_VM) = ",
        "KVM_SET_USER_MEMORY_REGION({slot=0, flags=0, guest_phys_addr=0, memory_size=0x10000, userspace_addr=0x",
        "KVM_SET_REGS({rsp=0x8000, rip=0x1000, rflags=2, …=0}) = 0 <",
        "KVM_EXIT_IO {direction=KVM_EXIT_IO_OUT, size=1, port=0x10, count=1, data=41}",
        "KVM_EXIT_IO {direction=KVM_EXIT_IO_OUT, size=1, port=0x10, count=1, data=42}",
        "KVM_EXIT_HLT\n",
        ": mmap(0x",
        ": close\n",
    ] {
        ensure!(text.contains(wanted), "no {wanted:?} in:\n{text}");
    }
    ensure!(text.matches("[the 100th like this]").count() == 2, "{text}");
    let all = trace(&bench, &["--all"])?;
    let writes = all
        .matches("KVM_EXIT_IO {direction=KVM_EXIT_IO_OUT, size=1, port=0x10")
        .count();
    ensure!(writes as u64 == 2 * WRITES, "{writes} writes have a line");

    let summaries: Vec<&str> = text
        .split("--- ")
        .filter(|part| part.contains("lacking in ring3"))
        .collect();
    ensure!(summaries.len() == 2, "{} summaries in:\n{text}", summaries.len());
    for summary in summaries {
        for lack in [
            "capability KVM_CAP_PV_MMU: 0",
            "enabling KVM_CAP_PV_MMU: EINVAL",
            "ioctl KVM_PPC_GET_RMMU_INFO on vm: ENOTTY",
            "device KVM_DEV_TYPE_ARM_VGIC_V2: ENODEV",
            "msr 0x12345678: not read",
        ] {
            ensure!(summary.contains(lack), "no {lack:?} in:\n{summary}");
        }
        ensure!(!summary.contains("KVM_CAP_HLT"), "{summary}");
    }
    let only = trace(&bench, &["--summary"])?;
    ensure!(!only.contains("open("), "{only}");
    ensure!(only.contains("lacking in ring3"), "{only}");
    Ok(())
}

#[test]
#[ignore = "needs the built ring3: cargo xtask e2e"]
fn json_lines_are_whole_and_complete() -> Result<()> {
    let bench = Bench::new()?;
    if !bench.needs_ring3("ring3 trace") {
        return Ok(());
    }
    let text = trace(&bench, &["--json"])?;
    let lines: Vec<Json> = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_string()))
        .collect::<Result<_>>()?;
    let numbers = |field: &str| {
        lines
            .iter()
            .filter_map(|line| line[field].as_u64())
            .collect::<BTreeSet<_>>()
    };
    ensure!(numbers("pid").len() == 2, "processes: {:?}", numbers("pid"));
    ensure!(numbers("tid").len() >= 4, "threads: {:?}", numbers("tid"));
    let runs = |letter: &str| {
        let written = |line: &&Json| line["exit"]["payload"]["data"] == letter;
        lines.iter().filter(written).count() as u64
    };
    ensure!(
        runs("41") == WRITES && runs("42") == WRITES,
        "{} and {} writes",
        runs("41"),
        runs("42")
    );
    let set = lines
        .iter()
        .find(|line| line["name"] == "KVM_SET_SREGS")
        .context("no KVM_SET_SREGS")?;
    ensure!(
        set["in"]["cs"]["limit"] == 0xffff && set["on"] == "vcpu" && set["vcpu"] == 0,
        "{set}"
    );
    let failed = lines
        .iter()
        .find(|line| line["name"] == "KVM_ENABLE_CAP")
        .context("no KVM_ENABLE_CAP")?;
    ensure!(
        failed["errno"] == "EINVAL" && failed["in"]["cap_name"] == "KVM_CAP_PV_MMU",
        "{failed}"
    );
    let summaries: Vec<&Json> = lines.iter().filter(|line| line["call"] == "summary").collect();
    ensure!(summaries.len() == 2, "{summaries:?}");
    let parent = summaries
        .iter()
        .find(|summary| summary["exits"].as_array().is_some_and(|exits| !exits.is_empty()))
        .context("no process with a guest")?;
    let io = parent["exits"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|exit| exit["reason"] == "KVM_EXIT_IO");
    ensure!(io.is_some_and(|io| io["count"] == 2 * WRITES), "{parent}");
    Ok(())
}
