//! `cargo xtask container`: a container image of the package and QEMU, in which a guest is then booted.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ring3_guest::{Assets, places};

use crate::deb;
use crate::run::{output, run};

const IMAGE: &str = "ring3";
/// Where the guest's kernel and initramfs are in the container.
const INSIDE: &str = "/guest";

/// What makes containers, in the order they are looked for.
const BUILDERS: [&str; 3] = ["podman", "buildah", "docker"];

/// Builds the image and tries it. `base` is another image to begin with than the file names.
pub fn make(base: Option<&str>) -> Result<()> {
    let builder = BUILDERS
        .into_iter()
        .find_map(places::program)
        .with_context(|| format!("none of {} is installed", BUILDERS.join(", ")))?;
    deb::make()?;
    let mut build = Command::new(&builder);
    build.args(["build", "-t", IMAGE, "-f"]);
    build.arg(places::workspace().join("Containerfile"));
    if let Some(base) = base {
        build.arg("--build-arg").arg(format!("BASE={base}"));
    }
    run(build.arg(places::target().join("deb")))?;
    let assets = Assets::get()?;
    let container = Container::new(&builder)?;
    print!("{}", container.run(None, &["ring3", "doctor"])?);
    let inside = |path: &Path| -> Result<String> {
        let path = path.strip_prefix(places::target().join("assets"))?;
        Ok(format!("{INSIDE}/{}", path.display()))
    };
    let (kernel, initramfs) = (inside(&assets.kernel)?, inside(&assets.initramfs)?);
    let boot = [
        "ring3",
        "run",
        "--",
        "qemu-system-x86_64",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-m",
        "256",
        "-nographic",
        "-no-reboot",
        "-nic",
        "none",
        "-kernel",
        &kernel,
        "-initrd",
        &initramfs,
        "-append",
        "console=ttyS0 panic=-1 reboot=k ring3.then=reboot",
    ];
    let console = container.run(Some(&places::target().join("assets")), &boot)?;
    let up = console.lines().find(|line| line.starts_with("guest: up"));
    println!(
        "{}",
        up.with_context(|| format!("the guest did not come up:\n{console}"))?
    );
    println!("ok: the image {IMAGE}");
    Ok(())
}

/// A way to run commands in the image.
struct Container<'a> {
    builder: &'a Path,
    /// buildah's container, which stays until it is removed; the others make one for each command.
    working: Option<String>,
}

impl Container<'_> {
    fn new(builder: &Path) -> Result<Container<'_>> {
        let stays = builder.ends_with("buildah");
        let made = stays.then(|| output(Command::new(builder).args(["from", "--pull-never", IMAGE])));
        let working = made.transpose()?.map(|name| name.trim().to_string());
        Ok(Container { builder, working })
    }

    /// What a command prints, with a directory of the host's where the guest's files are to be.
    fn run(&self, shared: Option<&Path>, line: &[&str]) -> Result<String> {
        let mut command = Command::new(self.builder);
        command.arg("run");
        if let Some(shared) = shared {
            command.arg("-v").arg(format!("{}:{INSIDE}:ro", shared.display()));
        }
        let (program, arguments) = line.split_first().context("a command")?;
        match &self.working {
            Some(name) => command.args([name, "--", program]),
            None => command.args(["--rm", "--entrypoint", program, IMAGE]),
        };
        let done = command.args(arguments).output()?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let error = String::from_utf8_lossy(&done.stderr);
        ensure!(
            done.status.success(),
            "{program} in the container: {}\n{text}{error}",
            done.status
        );
        Ok(text)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.working {
            let _ = Command::new(self.builder).args(["rm", name]).output();
        }
    }
}
