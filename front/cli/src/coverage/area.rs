//! Parts of KVM/x86 that ring3 does not have at all, told by the names of what belongs to them.

/// An area, and what the names of its parts contain.
const AREAS: [(&str, &[&str]); 5] = [
    ("Xen", &["_XEN"]),
    ("Hyper-V", &["HYPERV", "_HV_"]),
    (
        "nested virtualization",
        &["NESTED", "ENLIGHTENED_VMCS", "HYPERV_ENLIGHTENED"],
    ),
    (
        "SEV",
        &["_SEV", "_SNP_", "MEMORY_ENCRYPT", "_ENC_CONTEXT", "AP_RESET_HOLD"],
    ),
    ("TDX", &["TDX"]),
];

/// The area that a name belongs to, if ring3 lacks one that it does.
pub fn of(name: &str) -> Option<&'static str> {
    let area = AREAS
        .iter()
        .find(|(_, parts)| parts.iter().any(|part| name.contains(part)))?;
    Some(area.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell() {
        assert_eq!(of("KVM_XEN_HVM_CONFIG"), Some("Xen"));
        assert_eq!(of("KVM_CAP_HYPERV_SYNIC"), Some("Hyper-V"));
        assert_eq!(of("KVM_GET_SUPPORTED_HV_CPUID"), Some("Hyper-V"));
        assert_eq!(of("KVM_MEMORY_ENCRYPT_OP"), Some("SEV"));
        assert_eq!(of("KVM_RUN"), None);
    }
}
