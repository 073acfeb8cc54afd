//! Processor and kernel: what ring3 makes use of, and what it means where that is missing.

use super::Finding::{self, Bad, Good, Note};
use ring3_client::Memory;
use ring3_host::machine;
use std::fs;
use std::thread::available_parallelism;

/// The first line of a file that the kernel keeps, if there is one.
fn line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(str::to_string)
}

pub fn kernel() -> Finding {
    let Some(release) = line("/proc/sys/kernel/osrelease") else {
        return Bad("no /proc: descriptors cannot be told apart without it".to_string());
    };
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|word| word.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (5, 10) {
        Note(format!(
            "Linux {release}: nobody tries ring3 on one older than 5.10"
        ))
    } else {
        Good(format!("Linux {release}"))
    }
}

pub fn processor() -> Finding {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("x86-64", |(_, name)| name.trim());
    let count = available_parallelism().map_or(1, usize::from);
    let each = "each virtual processor that works takes one";
    Good(format!("{model}; {count} usable, {each}"))
}

/// Guests have what the host has: their unprivileged instructions are executed by it.
pub fn features() -> Finding {
    let features: [(&str, bool); 6] = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("aes", is_x86_feature_detected!("aes")),
        ("sha", is_x86_feature_detected!("sha")),
    ];
    let names = |wanted: bool| -> Vec<&str> {
        let chosen = features.iter().filter(|(_, has)| *has == wanted);
        chosen.map(|(name, _)| *name).collect()
    };
    let has = format!("guests can be given {}", names(true).join(" "));
    match names(false)[..] {
        [] => Good(has),
        ref lacks => Good(format!("{has}; not {}, as the host", lacks.join(" "))),
    }
}

pub fn translator() -> Finding {
    let needs: [(&str, bool); 8] = [
        ("bmi1", is_x86_feature_detected!("bmi1")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("lzcnt", is_x86_feature_detected!("lzcnt")),
        ("popcnt", is_x86_feature_detected!("popcnt")),
        ("movbe", is_x86_feature_detected!("movbe")),
        ("adx", is_x86_feature_detected!("adx")),
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("FSGSBASE for programs", machine::fsgsbase()),
    ];
    let lacks: Vec<&str> = needs
        .iter()
        .filter(|(_, has)| !has)
        .map(|(name, _)| *name)
        .collect();
    if lacks.is_empty() {
        Good("the processor and FSGSBASE suffice".to_string())
    } else {
        Note(format!(
            "all guest code is interpreted, some twenty times slower: there is no {}",
            lacks.join(", no ")
        ))
    }
}

pub fn cpuid_faulting() -> Finding {
    if machine::cpuid_faulting() {
        Good("CPUID can be made to fault".to_string())
    } else {
        Note(
            "CPUID cannot be made to fault: a client that looks for vmx or svm itself (kvmtool) sees what the host has"
                .to_string(),
        )
    }
}

pub fn memory() -> Finding {
    if let Err(errno) = Memory::new(64 << 20) {
        return Bad(format!("64 MiB for a guest: {errno}"));
    }
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = info.lines().find_map(|line| {
        let words = line.strip_prefix("MemAvailable:")?;
        words.split_whitespace().next()?.parse::<u64>().ok()
    });
    match free.map(|kib| kib >> 10) {
        Some(mib) if mib < 512 => Note(format!("{mib} MiB are free: few guests fit")),
        Some(mib) => Good(format!("{mib} MiB are free")),
        None => Good("64 MiB for a guest can be had".to_string()),
    }
}

pub fn huge_pages() -> Finding {
    let chosen = line("/sys/kernel/mm/transparent_hugepage/enabled").and_then(|line| {
        let (_, rest) = line.split_once('[')?;
        Some(rest.split_once(']')?.0.to_string())
    });
    match chosen.as_deref() {
        Some("always") => Good("for all memory".to_string()),
        Some("madvise") => Good("for memory that asks for them, as clients do for the guest's".to_string()),
        Some(other) => Note(format!(
            "{other}: the guest's memory costs the host more TLB misses"
        )),
        None => Note("the kernel has none: the guest's memory costs the host more TLB misses".to_string()),
    }
}

pub fn dispatch() -> Finding {
    if machine::syscall_user_dispatch() {
        Good("system calls of static programs can be caught (Syscall User Dispatch)".to_string())
    } else {
        Note("no Syscall User Dispatch (Linux 5.11): system calls of statically linked clients are caught by a seccomp filter".to_string())
    }
}

pub fn seccomp() -> Finding {
    match line("/proc/sys/kernel/seccomp/actions_avail") {
        Some(actions) if actions.split(' ').any(|action| action == "trap") => {
            Good("clients can confine themselves by filters".to_string())
        }
        _ => Note("no seccomp filters: clients that insist on confining themselves do not start".to_string()),
    }
}

pub fn userfaultfd() -> Finding {
    match machine::userfaultfd() {
        Ok(()) => Good("clients can serve page faults of the guest's memory (userfaultfd)".to_string()),
        Err(error) => Note(format!(
            "no userfaultfd ({error}): clients cannot migrate by postcopy"
        )),
    }
}
