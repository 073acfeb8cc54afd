//! What Linux has as parameters of its module: the same names, off unless asked for.
//!
//! They are the process's; a VM keeps those that it was made with. Not supported: those of Linux's that say how it uses the
//! hardware, and those whose default is the only value here.

use std::sync::{PoisonError, RwLock};

use ring3_x86_cpu::core::Prefix;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// UD2 followed by "kvm" has the instruction behind it emulated.
    pub force_emulation_prefix: Prefix,
    /// Programs of the guest's reach VMware's ports whatever IOPL and the TSS say, and its pseudo performance counters whatever
    /// CR4 says.
    pub enable_vmware_backdoor: Ports,
}

/// VMware's two ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// Like any other.
    #[default]
    Guarded,
    Open,
}

const VMWARE_PORTS: [u16; 2] = [0x5658, 0x5659];

impl Ports {
    pub fn open(self, port: u16) -> bool {
        self == Ports::Open && VMWARE_PORTS.contains(&port)
    }
}

static IN_FORCE: RwLock<Option<Parameters>> = RwLock::new(None);

impl Parameters {
    /// Those of VMs that are made now.
    pub fn in_force() -> Parameters {
        let parameters = IN_FORCE.read().unwrap_or_else(PoisonError::into_inner);
        parameters.unwrap_or_default()
    }

    /// Puts them in force for VMs that are made from now on.
    pub fn put_in_force(self) {
        *IN_FORCE.write().unwrap_or_else(PoisonError::into_inner) = Some(self);
    }

    /// Reads `name=value,...`; `Err` with what is not understood.
    pub fn parse(text: &str) -> Result<Parameters, String> {
        let mut parameters = Parameters::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (name, value) = item.split_once('=').unwrap_or((item, "Y"));
            let on = match value {
                "Y" | "y" | "1" => true,
                "N" | "n" | "0" => false,
                _ => return Err(item.to_string()),
            };
            match name {
                "force_emulation_prefix" => {
                    parameters.force_emulation_prefix = if on { Prefix::Skipped } else { Prefix::Undefined };
                }
                "enable_vmware_backdoor" => {
                    parameters.enable_vmware_backdoor = if on { Ports::Open } else { Ports::Guarded };
                }
                _ => return Err(item.to_string()),
            }
        }
        Ok(parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_off_unless_asked_for() {
        let none = Parameters::parse("").unwrap();
        assert_eq!(none, Parameters::default());
        assert!(!none.enable_vmware_backdoor.open(0x5658));
        let both = Parameters::parse("force_emulation_prefix=1, enable_vmware_backdoor=Y").unwrap();
        assert_eq!(both.force_emulation_prefix, Prefix::Skipped);
        assert!(both.enable_vmware_backdoor.open(0x5658));
        assert!(both.enable_vmware_backdoor.open(0x5659));
        assert!(!both.enable_vmware_backdoor.open(0x5657));
        assert_eq!(Parameters::parse("force_emulation_prefix=0"), Ok(none));
    }

    #[test]
    fn what_is_not_known_is_named() {
        assert_eq!(Parameters::parse("tdp=1"), Err("tdp=1".to_string()));
        let odd = "force_emulation_prefix=2";
        assert_eq!(Parameters::parse(odd), Err(odd.to_string()));
    }
}
