//! `ring3 doctor`: what this machine offers, and whether ring3 works on it.

use crate::run;
use anyhow::{Result, ensure};
use ring3_client::{Kvm, Memory, Vcpu, VcpuExit};
use std::env;
use std::process::{Command, ExitCode};
use std::thread::available_parallelism;

/// What a line says.
enum Finding {
    /// Works.
    Good(String),
    /// Nice to know, or nice to have.
    Note(String),
    /// ring3 does not work like this.
    Bad(String),
}

use Finding::{Bad, Good, Note};

type Check = fn() -> Finding;

/// Prints every finding; fails if one is bad.
pub fn doctor() -> ExitCode {
    let checks: [(&str, Check); 7] = [
        ("processor", processor),
        ("memory", memory),
        ("guest", guest),
        ("library", library),
        ("preload", preload),
        ("/dev/kvm", device),
        ("clients", clients),
    ];
    let mut code = ExitCode::SUCCESS;
    for (name, check) in checks {
        let (mark, text) = match check() {
            Good(text) => ("ok", text),
            Note(text) => ("--", text),
            Bad(text) => {
                code = ExitCode::FAILURE;
                ("BAD", text)
            }
        };
        println!("{mark:<4}{name:<11}{text}");
    }
    code
}

fn processor() -> Finding {
    let features: [(&str, bool); 6] = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("aes", is_x86_feature_detected!("aes")),
        ("sha", is_x86_feature_detected!("sha")),
    ];
    let has: Vec<&str> = features
        .iter()
        .filter(|(_, has)| *has)
        .map(|(name, _)| *name)
        .collect();
    let count = available_parallelism().map_or(1, usize::from);
    Good(format!(
        "x86-64, {count} usable, guests can be given {}",
        has.join(" ")
    ))
}

fn memory() -> Finding {
    match Memory::new(64 << 20) {
        Ok(_) => Good("64 MiB for a guest can be had".to_string()),
        Err(errno) => Bad(format!("64 MiB for a guest: {errno}")),
    }
}

/// A guest of three instructions, in this process.
fn guest() -> Finding {
    match run_a_guest() {
        Ok(()) => Good("a guest runs in this process".to_string()),
        Err(error) => Bad(format!("a guest in this process: {error:#}")),
    }
}

fn run_a_guest() -> Result<()> {
    let vm = Kvm::in_process()?.create_vm(0)?;
    let memory = Memory::new(4096)?;
    // mov al, 42; out 16, al; hlt
    memory.write(0, &[0xb0, 42, 0xe6, 16, 0xf4])?;
    vm.add_memory(0, 0, &memory, 0)?;
    let vcpu: Vcpu = vm.create_vcpu(0)?;
    let mut sregs = vcpu.get_sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    regs.rip = 0;
    vcpu.set_regs(&regs)?;
    let exit = vcpu.run()?;
    let VcpuExit::IoOut(io) = exit else {
        anyhow::bail!("unexpected exit {exit:?}");
    };
    ensure!(
        vcpu.port_data(&io) == [42],
        "the guest wrote {:?}",
        vcpu.port_data(&io)
    );
    let exit = vcpu.run()?;
    ensure!(exit == VcpuExit::Hlt, "unexpected exit {exit:?}");
    Ok(())
}

fn library() -> Finding {
    match run::library() {
        Ok(path) => Good(path.display().to_string()),
        Err(refusal) => Bad(refusal.message),
    }
}

/// Whether a program under `ring3 run` finds a KVM.
fn preload() -> Finding {
    let probe = env::current_exe().and_then(|own| {
        Command::new(&own)
            .args(["run", "--"])
            .arg(&own)
            .arg("probe")
            .output()
    });
    match probe {
        Ok(output) if output.status.success() => {
            Good("a program under `ring3 run` finds /dev/kvm".to_string())
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Bad(format!(
                "a program under `ring3 run`: {}: {}",
                output.status,
                said.trim()
            ))
        }
        Err(error) => Bad(format!("starting a program under `ring3 run`: {error}")),
    }
}

/// What [`preload`] runs: opens `/dev/kvm`, whose version must be right.
pub fn probe() -> ExitCode {
    match Kvm::open().and_then(|kvm| kvm.api_version()) {
        Ok(12) => ExitCode::SUCCESS,
        Ok(version) => {
            eprintln!("ring3: /dev/kvm speaks version {version}");
            ExitCode::FAILURE
        }
        Err(errno) => {
            eprintln!("ring3: /dev/kvm: {errno}");
            ExitCode::FAILURE
        }
    }
}

/// The machine's own KVM, which ring3 does without.
fn device() -> Finding {
    match Kvm::open() {
        Err(errno) => Note(format!(
            "this machine's own does not open ({errno}), nor is it needed"
        )),
        Ok(kvm) => match kvm.create_vm(0).and_then(|vm| vm.create_vcpu(0)) {
            Ok(_) => Note("this machine's own opens and has vCPUs; ring3 does without it".to_string()),
            Err(errno) => Note(format!("this machine's own opens, but has no vCPUs ({errno})")),
        },
    }
}

/// Programs on the path that ring3 can run.
fn clients() -> Finding {
    const KNOWN: [&str; 6] = [
        "qemu-system-x86_64",
        "kvm",
        "lkvm",
        "crosvm",
        "cloud-hypervisor",
        "firecracker",
    ];
    let path = env::var_os("PATH").unwrap_or_default();
    let here = |name: &&str| env::split_paths(&path).any(|directory| directory.join(name).is_file());
    let found: Vec<&str> = KNOWN.into_iter().filter(here).collect();
    if found.is_empty() {
        Note(format!(
            "none of {} is installed; `ring3 boot` needs none",
            KNOWN.join(", ")
        ))
    } else {
        Good(found.join(", "))
    }
}
