//! What the client asked for and did not get, because there is no such thing here.

use crate::argument::Memory;
use crate::exit::{Exit, Place, reason_name};
use crate::{Call, On, Served};
use ring3_kvm::{Errno, FileKind};
use ring3_uapi::arch::Archs;
use ring3_uapi::device::{ATTR_GROUPS, DEVICE_TYPES, Owner};
use ring3_uapi::exit::KVM_EXIT_INTERNAL_ERROR;
use ring3_uapi::ioctl::*;
use ring3_uapi::layout::meanings::{Meaning, of};
use ring3_uapi::{cap, x86::pv};

/// One thing that is lacking.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lack {
    /// The kind of thing: capability, ioctl, device ...
    pub what: &'static str,
    pub name: String,
    /// What the client was told.
    pub how: String,
}

fn lack(what: &'static str, name: String, how: impl Into<String>) -> Option<Lack> {
    let how = how.into();
    Some(Lack { what, name, how })
}

/// What a call shows to be lacking. `device` is the type of the device that the call is on, if it is on one.
pub fn of_call(call: &Call, before: Option<&Memory>, device: Option<u32>) -> Option<Lack> {
    match (call.request, call.result) {
        (_, Err(errno)) if call.served == Served::No => lack(
            "ioctl",
            format!("{} on {}", call.name(), call.on.kind_name()),
            format!("{errno:?}"),
        ),
        (KVM_CHECK_EXTENSION, Ok(0)) => {
            let row = cap::lookup(u32::try_from(call.arg).ok()?)?;
            let ours = row.archs.contains(Archs::X86);
            ours.then(|| lack("capability", row.name.to_string(), "0"))
                .flatten()
        }
        (KVM_ENABLE_CAP, Err(errno)) => {
            let number = before?.number("cap")? as u32;
            let name = cap::lookup(number).map_or_else(|| number.to_string(), |row| row.name.to_string());
            lack("enabling", name, format!("{errno:?}"))
        }
        (KVM_CREATE_DEVICE, Err(errno)) => lack(
            "device",
            device_name(before?.number("type")? as u32),
            format!("{errno:?}"),
        ),
        (KVM_SET_DEVICE_ATTR | KVM_GET_DEVICE_ATTR | KVM_HAS_DEVICE_ATTR, Err(Errno::ENXIO)) => {
            let (group, attr) = (before?.number("group")?, before?.number("attr")?);
            lack("attribute", attribute(&call.on, device, group, attr), "ENXIO")
        }
        (KVM_GET_MSRS | KVM_SET_MSRS, Ok(done)) => {
            let done = usize::try_from(done).ok()?;
            let index = before?.entry_number(done, "index")?;
            let how = match call.request {
                KVM_GET_MSRS => "not read".to_string(),
                _ => format!("not set to {:#x}", before?.entry_number(done, "data")?),
            };
            lack("msr", msr(index as u32), how)
        }
        _ => None,
    }
}

/// What an exit shows to be lacking.
pub fn of_exit(exit: &Exit) -> Option<Lack> {
    let reason = exit.like.reason?;
    let Place::Number(suberror) = exit.like.place else {
        return None;
    };
    if reason != KVM_EXIT_INTERNAL_ERROR {
        return None;
    }
    let name = match of("RunInternal", "suberror") {
        Some(Meaning::Values(rows)) => rows.iter().find(|row| row.1 == suberror).map(|row| row.0),
        _ => None,
    };
    let name = name.map_or_else(|| suberror.to_string(), str::to_string);
    lack("exit", reason_name(Some(reason)), name)
}

fn device_name(number: u32) -> String {
    let row = DEVICE_TYPES.iter().find(|row| row.number == number);
    row.map_or_else(|| format!("type {number}"), |row| row.name.to_string())
}

fn attribute(on: &On, device: Option<u32>, group: u64, attr: u64) -> String {
    let owner = match on.kind {
        FileKind::System => Some(Owner::System),
        FileKind::Vm => Some(Owner::Vm),
        FileKind::Vcpu => Some(Owner::Vcpu),
        FileKind::Device => device.map(Owner::Device),
        FileKind::Stats | FileKind::GuestMemfd => None,
    };
    let row = ATTR_GROUPS.iter().find(|row| {
        Some(row.owner) == owner && u64::from(row.number) == group && row.archs.contains(Archs::X86)
    });
    let of = match device {
        Some(device) if on.kind == FileKind::Device => device_name(device),
        _ => on.kind_name().to_string(),
    };
    let group = row.map_or_else(|| format!("group {group}"), |row| row.name.to_string());
    format!("{group}, attribute {attr} of {of}")
}

fn msr(index: u32) -> String {
    match pv::MSRS.iter().find(|row| row.1 == index) {
        Some((name, _)) => format!("{index:#x} ({name})"),
        None => format!("{index:#x}"),
    }
}
