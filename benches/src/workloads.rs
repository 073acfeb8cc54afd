//! What is measured: a row for each workload, in the order of the report.

use anyhow::{Result, bail};

/// One workload.
#[derive(Debug, PartialEq, Eq)]
pub struct Workload {
    pub name: &'static str,
    pub what: &'static str,
    pub kind: Kind,
}

/// How a workload is run, and by whose clock it is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From the launch to init's first line, by the host's clock. There is no native one.
    Boot,
    /// A script for busybox's shell, from outside, by the host's clock.
    Script(&'static str),
    /// One of our C programs, which times itself.
    Program(Class),
    /// All programs of the compute class on two processors at once, against each alone.
    Smp,
    /// A way out of guest mode and back, in the client's own loop.
    Exit,
}

/// What a program is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// User code that hardly ever calls the kernel.
    Compute,
    /// Ways into the kernel and back.
    Kernel,
}

/// What a workload's figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    Seconds,
    Nanoseconds,
    /// The work of two processors in that of one.
    WorkOfOne,
}

impl Workload {
    pub fn unit(&self) -> Unit {
        match self.kind {
            Kind::Boot | Kind::Script(_) | Kind::Program(_) => Unit::Seconds,
            Kind::Smp => Unit::WorkOfOne,
            Kind::Exit => Unit::Nanoseconds,
        }
    }

    /// Whether a guest runs it besides booting, and the host runs it natively.
    pub fn runs_inside(&self) -> bool {
        matches!(self.kind, Kind::Script(_) | Kind::Program(_))
    }
}

const fn row(name: &'static str, kind: Kind, what: &'static str) -> Workload {
    Workload { name, what, kind }
}

const fn compute(name: &'static str, what: &'static str) -> Workload {
    row(name, Kind::Program(Class::Compute), what)
}

const fn kernel(name: &'static str, what: &'static str) -> Workload {
    row(name, Kind::Program(Class::Kernel), what)
}

const SH_LOOP: &str = include_str!("../programs/sh-loop.sh");
const FORK_EXEC: &str = include_str!("../programs/fork-exec.sh");

pub const WORKLOADS: [Workload; 26] = [
    row(
        "boot",
        Kind::Boot,
        "Debian's cloud kernel, from launch to the first line of init",
    ),
    row(
        "sh-loop",
        Kind::Script(SH_LOOP),
        "busybox ash counting to 200,000",
    ),
    row(
        "fork-exec",
        Kind::Script(FORK_EXEC),
        "300 times fork and exec of busybox true",
    ),
    kernel("syscall", "getppid in a loop"),
    kernel("pipe", "a byte to another process and back"),
    kernel("pagefault", "touching fresh pages"),
    compute("sha256", "rotates, adds and a table"),
    compute("qsort", "unforeseeable compares"),
    compute("hash", "scattered loads and stores"),
    compute("interp", "a switch in a loop"),
    compute("str", "a text, byte by byte"),
    compute("matmul", "floating point"),
    compute("fib", "calls and returns"),
    compute("lz", "matching and copying"),
    compute("vcall", "calls through tables"),
    compute("tree", "following pointers"),
    row("smp", Kind::Smp, "the compute programs on two processors at once"),
    row("pio-out", Kind::Exit, "a port write that the client handles"),
    row("pio-in", Kind::Exit, "a port read that the client answers"),
    row("mmio-write", Kind::Exit, "a store that the client handles"),
    row("mmio-read", Kind::Exit, "a load that the client answers"),
    row("hypercall", Kind::Exit, "a hypercall that the client answers"),
    row("hypercall-in", Kind::Exit, "a hypercall that KVM answers"),
    row("cpuid", Kind::Exit, "CPUID, which KVM answers"),
    row(
        "hlt-wake",
        Kind::Exit,
        "HLT, and an interrupt that the client queues",
    ),
    row(
        "ipi",
        Kind::Exit,
        "an interrupt to a halted processor, and one back",
    ),
];

/// Names that stand for several workloads.
const GROUPS: [(&str, Kind); 3] = [
    ("compute", Kind::Program(Class::Compute)),
    ("kernel", Kind::Program(Class::Kernel)),
    ("exits", Kind::Exit),
];

/// The workloads of a kind.
pub fn of_kind(kind: Kind) -> impl Iterator<Item = &'static Workload> {
    WORKLOADS.iter().filter(move |workload| workload.kind == kind)
}

/// The workloads that `names` mean, in the order of the table; all of them if it is empty.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Workload>> {
    let group = |name: &str| GROUPS.iter().find(|(group, _)| *group == name);
    let means = |name: &str, workload: &Workload| {
        name == workload.name || group(name).is_some_and(|(_, kind)| *kind == workload.kind)
    };
    if let Some(name) = names
        .iter()
        .find(|name| !WORKLOADS.iter().any(|workload| means(name, workload)))
    {
        let all = WORKLOADS.iter().map(|workload| workload.name);
        let all: Vec<&str> = all.chain(GROUPS.iter().map(|(group, _)| *group)).collect();
        bail!("there is no workload {name}; there are {}", all.join(", "));
    }
    let is_chosen = |workload: &&Workload| names.is_empty() || names.iter().any(|name| means(name, workload));
    Ok(WORKLOADS.iter().filter(is_chosen).collect())
}

#[cfg(test)]
mod tests {
    use super::{WORKLOADS, chosen};

    fn names(wanted: &[&str]) -> Vec<&'static str> {
        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        let chosen = chosen(&wanted).expect("they exist");
        chosen.into_iter().map(|workload| workload.name).collect()
    }

    #[test]
    fn names_and_groups_choose() {
        assert_eq!(names(&[]).len(), WORKLOADS.len());
        assert_eq!(names(&["fib", "boot"]), ["boot", "fib"]);
        assert_eq!(names(&["kernel"]), ["syscall", "pipe", "pagefault"]);
        assert_eq!(names(&["compute", "fib"]).len(), 10);
        assert!(chosen(&["gone".to_string()]).is_err());
    }
}
