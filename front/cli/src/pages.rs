//! `ring3 pages DIR`, hidden: manual pages and completions, for packages.

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Options {
    /// Where to: man1/ and completions/ are made there
    directory: PathBuf,
}

/// Writes them.
pub fn write(options: &Options, command: Command) -> Result<()> {
    let man = directory(&options.directory, "man1")?;
    clap_mangen::generate_to(command.clone(), &man)
        .with_context(|| format!("writing to {}", man.display()))?;
    let completions = directory(&options.directory, "completions")?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command.clone(), "ring3", &completions)
            .with_context(|| format!("writing to {}", completions.display()))?;
    }
    Ok(())
}

fn directory(below: &Path, name: &str) -> Result<PathBuf> {
    let directory = below.join(name);
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arguments;
    use clap::CommandFactory;

    #[test]
    fn each_command_has_an_example() {
        let command = Arguments::command();
        let visible = command.get_subcommands().filter(|command| !command.is_hide_set());
        for command in visible.chain([&command]) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.starts_with("Example"), "{}: {help}", command.get_name());
            assert!(help.contains("ring3 "), "{}", command.get_name());
        }
    }

    #[test]
    fn each_command_has_a_page() {
        let scratch = tempfile::tempdir().expect("a directory");
        let options = Options {
            directory: scratch.path().to_path_buf(),
        };
        write(&options, Arguments::command()).expect("pages");
        for command in Arguments::command()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            let page = scratch
                .path()
                .join(format!("man1/ring3-{}.1", command.get_name()));
            let text = fs::read_to_string(&page).expect("a page");
            assert!(text.contains("Example"), "{}", page.display());
        }
        let main = fs::read_to_string(scratch.path().join("man1/ring3.1")).expect("the page");
        assert!(main.contains("RING3_PARAMETERS"));
        for name in ["ring3.bash", "_ring3", "ring3.fish"] {
            let file = fs::read_to_string(scratch.path().join("completions").join(name)).expect(name);
            assert!(file.contains("doctor"), "{name}");
        }
    }
}
