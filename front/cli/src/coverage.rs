//! `ring3 coverage`: each ioctl, capability, exit and group of attributes of the KVM API, and where ring3 has it.
//!
//! What there is comes from the rows that a client's requests go through; what there could be, from the rows of the ABI.

mod area;
mod render;

use clap::{Args, ValueEnum};
use ring3_client::{Tables, in_process};
use ring3_uapi::arch::{Archs, Level};
use ring3_uapi::cap::{CAPABILITIES, CapRow, Kind};
use ring3_uapi::device::{ATTR_GROUPS, AttrGroupRow, DEVICE_TYPES, Owner};
use ring3_uapi::exit::EXITS;
use ring3_uapi::ioctl::{IOCTLS, IoctlRow};

#[derive(Args)]
pub struct Options {
    /// How it is printed; COVERAGE.md is the markdown
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Markdown,
    Json,
}

/// Guest architectures, by the names of their columns.
const ARCHS: [(&str, Archs); 7] = [
    ("x86", Archs::X86),
    ("arm64", Archs::ARM64),
    ("s390", Archs::S390),
    ("ppc", Archs::PPC),
    ("riscv", Archs::RISCV),
    ("loongarch", Archs::LOONGARCH),
    ("mips", Archs::MIPS),
];

/// Whether an architecture has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The API does not have it for this architecture.
    Foreign,
    Present,
    /// A capability that can be asked for, but not switched as it should be.
    QueryOnly,
    Absent,
    /// Absent, with all of the area that it belongs to.
    AreaAbsent(&'static str),
}

impl State {
    fn of(present: bool, name: &str) -> State {
        match (present, area::of(name)) {
            (true, _) => State::Present,
            (false, Some(area)) => State::AreaAbsent(area),
            (false, None) => State::Absent,
        }
    }
}

/// One line of a section.
struct Entry {
    name: String,
    /// The kind of descriptor, the number, or what else tells it from others.
    detail: String,
    states: [State; ARCHS.len()],
}

struct Section {
    title: &'static str,
    entries: Vec<Entry>,
}

pub fn coverage(options: &Options) -> String {
    let sections = sections();
    match options.format {
        Format::Text => render::text(&sections),
        Format::Markdown => render::markdown(&sections),
        Format::Json => render::json(&sections),
    }
}

/// What ring3 has for an architecture, if anything.
fn tables(arch: Archs) -> Option<Tables> {
    (arch == Archs::X86).then(in_process::tables)
}

fn sections() -> Vec<Section> {
    let all: Vec<_> = ARCHS.map(|(_, arch)| (arch, tables(arch))).into();
    let states = |archs: Archs, name: &str, present: &dyn Fn(&Tables) -> bool| {
        let mut states = [State::Foreign; ARCHS.len()];
        for (state, (arch, tables)) in states.iter_mut().zip(&all) {
            if archs.contains(*arch) {
                *state = State::of(tables.as_ref().is_some_and(present), name);
            }
        }
        states
    };
    let ioctls = IOCTLS
        .iter()
        .flat_map(|row: &IoctlRow| row.on.iter().map(move |on| (row, on.level, on.archs)));
    let ioctls = ioctls.map(|(row, level, archs)| Entry {
        name: row.name.to_string(),
        detail: descriptor(level).to_string(),
        states: states(archs, row.name, &|tables| {
            tables.requests(level).contains(&row.request)
        }),
    });
    let capabilities = CAPABILITIES.iter().map(|row| {
        let mut states = states(row.archs, row.name, &|tables| {
            tables.capabilities.contains(&row.number)
        });
        for (state, (_, tables)) in states.iter_mut().zip(&all) {
            if *state == State::Present && !tables.as_ref().is_some_and(|tables| is_switched(tables, row)) {
                *state = State::QueryOnly;
            }
        }
        Entry {
            name: row.name.to_string(),
            detail: row.number.to_string(),
            states,
        }
    });
    let exits = EXITS.iter().map(|row| Entry {
        name: row.name.to_string(),
        detail: row.number.to_string(),
        states: states(row.archs, row.name, &|tables| tables.exits.contains(&row.number)),
    });
    let types = DEVICE_TYPES.iter().map(|row| Entry {
        name: row.name.to_string(),
        detail: row.number.to_string(),
        states: states(row.archs, row.name, &|tables| {
            tables.device_types.contains(&row.number)
        }),
    });
    let groups = ATTR_GROUPS.iter().map(|row: &AttrGroupRow| Entry {
        name: row.name.to_string(),
        detail: owner(row.owner),
        states: states(row.archs, row.name, &|tables| {
            tables.attributes.contains(&(row.owner, row.number))
        }),
    });
    vec![
        Section {
            title: "Ioctls",
            entries: ioctls.collect(),
        },
        Section {
            title: "Capabilities",
            entries: capabilities.collect(),
        },
        Section {
            title: "Exits",
            entries: exits.collect(),
        },
        Section {
            title: "Device types",
            entries: types.collect(),
        },
        Section {
            title: "Groups of attributes",
            entries: groups.collect(),
        },
    ]
}

/// Whether KVM_ENABLE_CAP takes a capability that is there to be switched.
fn is_switched(tables: &Tables, row: &CapRow) -> bool {
    match row.kind {
        Kind::Query => true,
        Kind::EnableVm => tables.enabled_on_vm.contains(&row.number),
        Kind::EnableVcpu => tables.enabled_on_vcpu.contains(&row.number),
    }
}

fn descriptor(level: Level) -> &'static str {
    match level {
        Level::System => "system",
        Level::Vm => "vm",
        Level::Vcpu => "vcpu",
        Level::Device => "device",
    }
}

fn owner(owner: Owner) -> String {
    match owner {
        Owner::System => "system".to_string(),
        Owner::Vm => "vm".to_string(),
        Owner::Vcpu => "vcpu".to_string(),
        Owner::Device(number) => DEVICE_TYPES
            .iter()
            .find(|row| row.number == number)
            .map_or_else(|| number.to_string(), |row| row.name.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(section: &str, name: &str) -> State {
        let sections = sections();
        let section = sections.iter().find(|s| s.title == section).expect("a section");
        let entry = section.entries.iter().find(|e| e.name == name).expect(name);
        entry.states[0]
    }

    #[test]
    fn what_is_there_and_what_is_not() {
        assert_eq!(state("Ioctls", "KVM_RUN"), State::Present);
        assert_eq!(state("Ioctls", "KVM_ARM_VCPU_INIT"), State::Foreign);
        assert_eq!(state("Ioctls", "KVM_XEN_HVM_CONFIG"), State::AreaAbsent("Xen"));
        assert_eq!(state("Capabilities", "KVM_CAP_USER_MEMORY"), State::Present);
        assert_eq!(state("Capabilities", "KVM_CAP_SGX_ATTRIBUTE"), State::Absent);
        assert_eq!(state("Exits", "KVM_EXIT_IO"), State::Present);
        assert_eq!(state("Device types", "KVM_DEV_TYPE_VFIO"), State::Present);
    }

    #[test]
    fn the_document_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../COVERAGE.md");
        let document = std::fs::read_to_string(path).expect("COVERAGE.md is in the repository");
        assert!(
            document == render::markdown(&sections()),
            "COVERAGE.md is stale: ring3 coverage --format markdown > COVERAGE.md"
        );
    }
}
