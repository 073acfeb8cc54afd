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
}

/// What a program is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// User code that hardly ever calls the kernel.
    Compute,
    /// Ways into the kernel and back.
    Kernel,
}

const fn program(name: &'static str, class: Class, what: &'static str) -> Workload {
    Workload {
        name,
        what,
        kind: Kind::Program(class),
    }
}

use Class::{Compute, Kernel};

pub const WORKLOADS: [Workload; 16] = [
    Workload {
        name: "boot",
        what: "Debian's cloud kernel, from launch to the first line of init",
        kind: Kind::Boot,
    },
    Workload {
        name: "sh-loop",
        what: "busybox ash counting to 200,000",
        kind: Kind::Script(include_str!("../programs/sh-loop.sh")),
    },
    Workload {
        name: "fork-exec",
        what: "300 times fork and exec of busybox true",
        kind: Kind::Script(include_str!("../programs/fork-exec.sh")),
    },
    program("syscall", Kernel, "getppid in a loop"),
    program("pipe", Kernel, "a byte to another process and back"),
    program("pagefault", Kernel, "touching fresh pages"),
    program("sha256", Compute, "rotates, adds and a table"),
    program("qsort", Compute, "unforeseeable compares"),
    program("hash", Compute, "scattered loads and stores"),
    program("interp", Compute, "a switch in a loop"),
    program("str", Compute, "a text, byte by byte"),
    program("matmul", Compute, "floating point"),
    program("fib", Compute, "calls and returns"),
    program("lz", Compute, "matching and copying"),
    program("vcall", Compute, "calls through tables"),
    program("tree", Compute, "following pointers"),
];

/// Names that stand for several workloads.
const GROUPS: [(&str, Class); 2] = [("compute", Compute), ("kernel", Kernel)];

/// The workloads that `names` mean, in the order of the table; all of them if it is empty.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Workload>> {
    let known = |name: &String| {
        WORKLOADS.iter().any(|workload| workload.name == name)
            || GROUPS.iter().any(|(group, _)| group == name)
    };
    if let Some(name) = names.iter().find(|name| !known(name)) {
        let all: Vec<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
        bail!(
            "there is no workload {name}; there are {}, compute, kernel",
            all.join(", ")
        );
    }
    let is_chosen = |workload: &&Workload| {
        names.is_empty()
            || names.iter().any(|name| {
                let group = GROUPS.iter().find(|(group, _)| group == name);
                name == workload.name
                    || group.is_some_and(|(_, class)| workload.kind == Kind::Program(*class))
            })
    };
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
