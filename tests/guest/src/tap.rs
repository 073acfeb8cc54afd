//! A network of a test's own, with a TAP device for a guest in it, and a server that sends back whatever it gets.
//!
//! It is a network namespace in a user namespace, which most systems let anybody make, and needs `/dev/net/tun`. Nothing outside is reached
//! from there, or changed.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::guest::{Process, patience};
use crate::{Assets, places};

/// The device's name.
pub const NAME: &str = "tap0";
/// The host's address, and one for the guest.
pub const HOST: &str = "10.0.2.2";
pub const GUEST: &str = "10.0.2.15";
/// The port of the server.
pub const PORT: u16 = 7;

/// The process that holds the namespaces; they end with it.
pub struct Tap {
    holder: Process,
}

impl Tap {
    /// A network, or why there can be none.
    pub fn new(assets: &Assets) -> Result<Result<Tap, String>> {
        let device = Path::new("/dev/net/tun");
        if let Err(error) = OpenOptions::new().read(true).write(true).open(device) {
            return Ok(Err(format!("{}: {error}", device.display())));
        }
        if !Command::new(unshare()?)
            .args(["-rn", "true"])
            .output()?
            .status
            .success()
        {
            return Ok(Err("this user may make no namespaces".to_string()));
        }
        let script = format!(
            "ip() {{ \"$0\" ip \"$@\"; }}
            set -e
            \"$0\" tunctl -t {NAME} >/dev/null
            ip link set lo up
            ip addr add {HOST}/24 dev {NAME}
            ip link set {NAME} up
            echo network: up
            exec \"$0\" nc -ll -p {PORT} -e \"$0\" cat"
        );
        let mut command = Command::new(unshare()?);
        command.args(["-rn", "sh", "-c", &script]).arg(&assets.busybox);
        let holder = Process::start(command)?;
        holder.expect("network: up", patience(10))?;
        Ok(Ok(Tap { holder }))
    }

    /// `command`, to be started in that network.
    pub fn inside(&self, command: &Command) -> Result<Command> {
        let nsenter = places::need("nsenter", "util-linux")?;
        let mut inside = Command::new(nsenter);
        let target = self.holder.id().to_string();
        inside
            .args(["--preserve-credentials", "-U", "-n", "-t", &target, "--"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            ensure!(
                value.is_some(),
                "what is taken from the environment is not passed on"
            );
            inside.env(name, value.context("a value")?);
        }
        Ok(inside)
    }
}

fn unshare() -> Result<std::path::PathBuf> {
    places::need("unshare", "util-linux")
}
