//! `ring3 doctor`: what this machine offers, what each lack means, and whether ring3 works on it.
//!
//! [`host`] looks at processor and kernel, [`guest`] runs guests of a few instructions; here is what has to do with clients.

mod guest;
mod host;

use crate::run;
use ring3_client::Kvm;
use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

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

const CHECKS: [(&str, Check); 16] = [
    ("kernel", host::kernel),
    ("processor", host::processor),
    ("features", host::features),
    ("translator", host::translator),
    ("cpuid", host::cpuid_faulting),
    ("memory", host::memory),
    ("huge pages", host::huge_pages),
    ("dispatch", host::dispatch),
    ("seccomp", host::seccomp),
    ("faults", host::userfaultfd),
    ("guest", guest::interpreted),
    ("loop", guest::translated),
    ("library", library),
    ("preload", preload),
    ("/dev/kvm", device),
    ("clients", clients),
];

/// Prints every finding; fails if one is bad.
pub fn doctor() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (name, check) in CHECKS {
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
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(errno) => {
            return Note(format!(
                "this machine's own does not open ({errno}), nor is it needed"
            ));
        }
    };
    let modules = [
        ("kvm_intel", "VMX"),
        ("kvm_amd", "SVM"),
        ("kvm_pvm", "PVM: software too, and without real mode"),
    ];
    let by = modules
        .iter()
        .find(|(module, _)| Path::new("/sys/module").join(module).exists())
        .map_or("some module".to_string(), |(module, what)| {
            format!("{module}, {what}")
        });
    match kvm.create_vm(0).and_then(|vm| vm.create_vcpu(0)) {
        Ok(_) => Note(format!(
            "this machine's own ({by}) opens and has vCPUs; ring3 does without it"
        )),
        Err(errno) => Note(format!(
            "this machine's own ({by}) opens, but has no vCPUs ({errno}); ring3 has"
        )),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_about_the_host_is_said_and_nothing_of_it_is_bad_here() {
        // What follows needs the built library.
        for (name, check) in CHECKS.iter().take_while(|(name, _)| *name != "library") {
            match check() {
                Good(text) | Note(text) => {
                    assert!(!text.is_empty() && !text.contains('\n'), "{name}: {text}")
                }
                Bad(text) => panic!("{name}: {text}"),
            }
        }
    }
}
