//! Firecracker boots Debian's kernel, with disk and network; a guest of its is paused, and restored from snapshots in another Firecracker.
//!
//! `RING3_FIRECRACKER` names the program, which may be linked dynamically or statically. The network is a TAP device in namespaces of the
//! test's own; where none can be made, the guest has no network.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use ring3_guest::cpio::Archive;
use ring3_guest::firecracker::{DirtyLog, Firecracker, Microvm, Snapshot};
use ring3_guest::guest::patience;
use ring3_guest::tap::{self, Tap};
use ring3_guest::{Assets, Guest, keeper, noise, places, programs, vmlinux};
use ring3_tests::e2e::Bench;

const HALF: usize = 4 << 20;
/// Not among the keeper's lines, since it says it for the last time.
const LOST: &str = "LOST";

/// Sends the disk's first half, which init's test has left in a file, to the host and back.
const SEND: &str = "#!/bin/busybox sh
ip link set eth0 up && ip addr add $2/24 dev eth0 2>/dev/null
nc $1 7 </tmp/half >/tmp/echo && cmp /tmp/half /tmp/echo && echo same bytes
";

/// Compares both halves of the disk, past the page cache, with what they were; then writes zeroes to the second.
const ZERO: &str = "#!/bin/busybox sh
count=$(($(cat /sys/block/vda/size) / 2 / 128))
for half in 0 1; do
    dd if=/dev/vda bs=64k count=$count skip=$((half * count)) iflag=direct 2>/dev/null | cmp - /tmp/half || exit 1
done
dd if=/dev/zero of=/dev/vda bs=64k count=$count seek=$count conv=fsync 2>/dev/null && echo all zeroes
";

/// What a test has: the client, a disk, and a network if there can be one.
struct Scene {
    bench: Bench,
    program: PathBuf,
    machine: Microvm,
    disk: Vec<u8>,
    tap: Option<Tap>,
    started: u32,
}

impl Scene {
    /// `None`, having said why, if there is no client.
    fn new(words: &str) -> Result<Option<Scene>> {
        let Some(program) = std::env::var_os("RING3_FIRECRACKER").map(PathBuf::from) else {
            eprintln!("skipped: RING3_FIRECRACKER names no program");
            return Ok(None);
        };
        let bench = Bench::new()?;
        if !bench.needs_ring3("Firecracker") {
            return Ok(None);
        }
        let dir = bench.dir.path();
        let assets = with_scripts(&keeper::assets(&bench.assets, dir)?, dir)?;
        let kernel = dir.join("vmlinux");
        vmlinux::extract(&assets.kernel, &kernel)?;
        let disk = noise::bytes(5, HALF);
        let path = dir.join("disk");
        std::fs::write(&path, [&disk[..], &vec![0; HALF]].concat())?;
        let tap = match Tap::new(&assets)? {
            Ok(tap) => Some(tap),
            Err(why) => {
                eprintln!("skipped: the network of Firecracker's guest: {why}");
                None
            }
        };
        let machine = Microvm {
            kernel,
            initramfs: assets.initramfs,
            words: words.to_string(),
            cpus: 2,
            memory_mib: 192,
            disk: Some(path),
            tap: tap.is_some().then(|| tap::NAME.to_string()),
            dirty_log: DirtyLog::Off,
        };
        Ok(Some(Scene {
            bench,
            program,
            machine,
            disk,
            tap,
            started: 0,
        }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bench.dir.path().join(name)
    }

    /// A Firecracker under ring3, in the test's network.
    fn firecracker(&mut self) -> Result<Firecracker> {
        self.started += 1;
        let mut command = Command::new(places::ring3()?);
        command.args(["run", "--"]).arg(&self.program);
        let command = match &self.tap {
            Some(tap) => tap.inside(&command)?,
            None => command,
        };
        Firecracker::start(command, &self.path(&format!("api{}", self.started)))
    }

    /// Bytes go through the network to the host and back, if there is one.
    fn network_works(&self, guest: &mut Guest) -> Result<()> {
        if self.tap.is_none() {
            return Ok(());
        }
        let command = format!("sh /work/send.sh {} {}", tap::HOST, tap::GUEST);
        says(guest, &command, "same bytes")
    }

    /// The guest has copied the first half of the disk to the second, or written zeroes there.
    fn disk_is(&self, second: &[u8]) -> Result<()> {
        let all = std::fs::read(self.path("disk"))?;
        ensure!(
            all.len() == 2 * HALF && all[..HALF] == self.disk,
            "the guest changed what it should not"
        );
        ensure!(
            &all[HALF..] == second,
            "what is on the disk is not what the guest wrote"
        );
        Ok(())
    }
}

fn with_scripts(assets: &Assets, dir: &Path) -> Result<Assets> {
    let mut archive = Archive::new();
    archive.file("work/send.sh", 0o755, SEND.as_bytes());
    archive.file("work/zero.sh", 0o755, ZERO.as_bytes());
    programs::pack(assets, archive, &dir.join("initramfs.cpio"))
}

/// Has the guest's shell do something, which must say that it went well.
fn says(guest: &mut Guest, command: &str, what: &str) -> Result<()> {
    let said = guest.run(command, patience(60))?;
    ensure!(
        said.contains(what),
        "{command} said {said:?}; the console ends:\n{}",
        guest.process.console.tail()
    );
    Ok(())
}

/// The number of the keeper's next line.
fn line(guest: &Guest) -> Result<u32> {
    let console = &guest.process.console;
    let seen = console.expect_any(&["keeper: ", LOST], patience(60))?;
    let rest = console.rest_of_line(patience(60))?;
    let number = rest.split(' ').next().and_then(|word| word.parse().ok());
    match number {
        Some(number) if seen.index == 0 => Ok(number),
        _ => anyhow::bail!("the guest lost something: {rest}\n{}", console.tail()),
    }
}

/// The keeper's next few lines, in order, the first of them not before `least`. Returns the last one's number.
fn goes_on(guest: &Guest, least: u32) -> Result<u32> {
    let first = line(guest)?;
    ensure!(first >= least, "line {first} comes after line {least}");
    for next in first + 1..first + 5 {
        let found = line(guest)?;
        ensure!(found == next, "line {found} comes instead of {next}");
    }
    Ok(first + 4)
}

/// Pauses the guest, which then says nothing more.
fn stop(firecracker: &mut Firecracker) -> Result<()> {
    firecracker.pause()?;
    let console = &firecracker.guest.process.console;
    // What it said before may still be on its way.
    std::thread::sleep(Duration::from_millis(300));
    let before = console.len();
    std::thread::sleep(Duration::from_secs(1));
    ensure!(
        console.len() == before,
        "a paused guest goes on:\n{}",
        console.tail()
    );
    console.skip();
    Ok(())
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn firecracker_boots_with_a_disk_and_a_network() -> Result<()> {
    let Some(mut scene) = Scene::new("ring3.test=smp,blk ring3.cpus=2 ring3.then=shell")? else {
        return Ok(());
    };
    let mut firecracker = scene.firecracker()?;
    firecracker.boot(&scene.machine)?;
    let guest = &mut firecracker.guest;
    let booted = guest.booted()?;
    println!("init after {:?}", booted.at - guest.process.started);
    guest.passed("smp", patience(60))?;
    guest.passed("blk", patience(60))?;
    guest.shell()?;
    scene.network_works(guest)?;
    guest.process.send("reboot -f\n")?;
    guest.process.wait_success(patience(30))?;
    scene.disk_is(&scene.disk)
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn firecrackers_snapshots_lose_nothing() -> Result<()> {
    let Some(mut scene) = Scene::new("ring3.test=blk ring3.then=shell")? else {
        return Ok(());
    };
    scene.machine.dirty_log = DirtyLog::On;
    let mut first = scene.firecracker()?;
    first.boot(&scene.machine)?;
    first.guest.passed("blk", patience(180))?;
    first.guest.shell()?;
    scene.network_works(&mut first.guest)?;
    first.guest.process.send("/work/keeper 2\n")?;
    let mut last = goes_on(&first.guest, 0)?;

    stop(&mut first)?;
    first.resume()?;
    last = goes_on(&first.guest, last + 1)?;

    // All of it, then what has changed.
    stop(&mut first)?;
    let whole = Snapshot {
        state: scene.path("whole.state"),
        memory: scene.path("memory"),
    };
    first.save(&whole, "Full")?;
    first.resume()?;
    last = goes_on(&first.guest, last + 1)?;
    stop(&mut first)?;
    let changed = Snapshot {
        state: scene.path("changed.state"),
        memory: scene.path("changed.memory"),
    };
    first.save(&changed, "Diff")?;
    drop(first);

    let mut second = scene.firecracker()?;
    second.load(&whole, DirtyLog::Off)?;
    goes_on(&second.guest, 0)?;
    drop(second);

    merge(&changed.memory, &whole.memory)?;
    let restored = Snapshot {
        state: changed.state,
        memory: whole.memory,
    };
    let mut third = scene.firecracker()?;
    third.load(&restored, DirtyLog::On)?;
    goes_on(&third.guest, last + 1)?;
    let guest = &mut third.guest;
    guest.process.send("\x03")?;
    guest.process.expect("# ", patience(10))?;
    scene.network_works(guest)?;
    says(guest, "sh /work/zero.sh", "all zeroes")?;
    guest.process.send("reboot -f\n")?;
    guest.process.wait_success(patience(30))?;
    scene.disk_is(&vec![0; HALF])
}

/// Puts what is in a file with holes over another file.
fn merge(changed: &Path, whole: &Path) -> Result<()> {
    use rustix::fs::{SeekFrom, seek};
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    let from = File::open(changed)?;
    let to = File::options().write(true).open(whole)?;
    let length = from.metadata()?.len();
    ensure!(to.metadata()?.len() == length, "the files' sizes differ");
    let mut at = 0;
    let mut merged = 0;
    while let Ok(start) = seek(&from, SeekFrom::Data(at)) {
        at = seek(&from, SeekFrom::Hole(start))?;
        let mut bytes = vec![0; usize::try_from(at - start)?];
        from.read_exact_at(&mut bytes, start)?;
        to.write_all_at(&bytes, start)?;
        merged += bytes.len();
    }
    println!("{} of {} KiB have changed", merged >> 10, length >> 10);
    ensure!(merged > 0, "nothing has changed");
    Ok(())
}
