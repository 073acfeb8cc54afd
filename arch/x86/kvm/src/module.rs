//! What Linux's modules were loaded with, as clients read it below `/sys/module`: kvm's parameters, and those of the
//! processor maker's module, as far as they say something of ring3.

use crate::parameters::{Parameters, Ports};
use ring3_kvm::vcpu::DEFAULT_HALT_POLL_NS;
use ring3_x86_cpu::core::Prefix;
use std::arch::x86_64::__cpuid;

/// A parameter's value, without the newline that follows it in its file. `None` for what there is none of.
pub fn parameter(module: &str, name: &str) -> Option<String> {
    let makers = makers_module();
    let parameters = Parameters::in_force();
    let value = match (module, name) {
        ("kvm", "halt_poll_ns") => return Some(DEFAULT_HALT_POLL_NS.to_string()),
        ("kvm", "force_emulation_prefix") => match parameters.force_emulation_prefix {
            Prefix::Skipped => "1",
            Prefix::Undefined => "0",
        },
        ("kvm", "enable_vmware_backdoor") => match parameters.enable_vmware_backdoor {
            Ports::Open => "Y",
            Ports::Guarded => "N",
        },
        // Nothing is known of how Linux's own two MMUs map, split and zap pages: there are none here.
        ("kvm", "ignore_msrs" | "tdp_mmu" | "eager_page_split") => "N",
        ("kvm", "enable_pmu") => "Y",
        _ if Some(module) != makers => return None,
        // A guest's own page tables are walked as they are, in any mode.
        ("kvm_intel", "ept" | "unrestricted_guest") | ("kvm_amd", "npt") => "Y",
        ("kvm_intel", "enable_mediated_pmu" | "allow_smaller_maxphyaddr" | "nested") => "N",
        ("kvm_amd", "enable_mediated_pmu" | "avic") => "N",
        ("kvm_amd", "lbrv" | "nested") => "0",
        _ => return None,
    };
    Some(value.to_string())
}

/// The module that Linux would have loaded on this host: of the makers that call themselves otherwise, too.
fn makers_module() -> Option<&'static str> {
    let leaf = __cpuid(0);
    let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
    match name.as_slice() {
        b"GenuineIntel" | b"CentaurHauls" | b"  Shanghai  " => Some("kvm_intel"),
        b"AuthenticAMD" | b"HygonGenuine" => Some("kvm_amd"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_this_maker_only() {
        assert_eq!(parameter("kvm", "tdp_mmu").as_deref(), Some("N"));
        assert_eq!(parameter("kvm", "halt_poll_ns").as_deref(), Some("200000"));
        assert_eq!(parameter("kvm", "none_such"), None);
        let modules = ["kvm_intel", "kvm_amd"];
        let known = modules
            .iter()
            .filter(|module| parameter(module, "nested").is_some());
        assert_eq!(known.count(), usize::from(makers_module().is_some()));
    }
}
