//! Kernel modules and the order in which they can be loaded.
//!
//! A module names what it needs in its `.modinfo` section (`depends=a,b`), so no `modules.dep` is needed:
//! Debian's package does not carry one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// One module, ready to be loaded.
pub struct Module {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// The modules of one kernel package.
pub struct Tree {
    files: BTreeMap<String, PathBuf>,
}

impl Tree {
    /// Finds every module below `root` (plain or xz-compressed).
    pub fn scan(root: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut pending = vec![root.to_path_buf()];
        while let Some(dir) = pending.pop() {
            let entries = std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    pending.push(entry.path());
                } else if let Some(name) = module_name(&entry.file_name().to_string_lossy()) {
                    files.insert(name, entry.path());
                }
            }
        }
        Ok(Self { files })
    }

    /// `wanted` and all they depend on, each after what it needs. A module that is not there is an error
    /// unless the kernel has it built in, which `builtin` tells.
    pub fn in_load_order(&self, wanted: &[&str], builtin: &[String]) -> Result<Vec<Module>> {
        let mut loaded = Vec::new();
        for name in wanted {
            self.add(name, builtin, &mut loaded)?;
        }
        Ok(loaded)
    }

    fn add(&self, name: &str, builtin: &[String], loaded: &mut Vec<Module>) -> Result<()> {
        if loaded.iter().any(|module| module.name == name) || builtin.iter().any(|b| b == name) {
            return Ok(());
        }
        let Some(file) = self.files.get(name) else {
            bail!("the kernel package holds no module {name}");
        };
        let bytes = read(file)?;
        for dependency in depends(&bytes) {
            self.add(&dependency, builtin, loaded)?;
        }
        loaded.push(Module {
            name: name.to_string(),
            bytes,
        });
        Ok(())
    }
}

/// `virtio-rng.ko.xz` is the module `virtio_rng`.
pub fn module_name(file: &str) -> Option<String> {
    let stem = file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko")?;
    Some(stem.replace('-', "_"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|ext| ext == "xz") {
        let output = Command::new("xz")
            .arg("-dc")
            .arg(file)
            .output()
            .context("running xz")?;
        if !output.status.success() {
            bail!("xz could not unpack {}", file.display());
        }
        return Ok(output.stdout);
    }
    std::fs::read(file).with_context(|| format!("reading {}", file.display()))
}

/// The names after `depends=`, which stands between two NULs in the module.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let list = &module[start + KEY.len()..];
    let end = list.iter().position(|byte| *byte == 0).unwrap_or(list.len());
    let list = String::from_utf8_lossy(&list[..end]);
    list.split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{depends, module_name};

    #[test]
    fn names() {
        assert_eq!(module_name("virtio-rng.ko").as_deref(), Some("virtio_rng"));
        assert_eq!(module_name("virtio_net.ko.xz").as_deref(), Some("virtio_net"));
        assert_eq!(module_name("modules.order"), None);
    }

    #[test]
    fn dependencies_come_from_modinfo() {
        assert_eq!(
            depends(b"\x7fELF\0license=GPL\0depends=a,b-c\0name=x\0"),
            ["a", "b_c"]
        );
        assert!(depends(b"\x7fELF\0depends=\0").is_empty());
        assert!(depends(b"nothing").is_empty());
    }
}
