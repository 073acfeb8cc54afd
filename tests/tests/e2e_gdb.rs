//! gdb attaches to a guest: to QEMU's stub under `ring3 run`, and to that of `ring3 boot`. Breakpoints in hardware and in software,
//! a watchpoint, single steps, registers, memory, and the guest goes on afterwards.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ring3_guest::guest::{Process, patience};
use ring3_guest::{Guest, places};
use ring3_tests::e2e::Bench;

/// What Linux does where the shell says `sync`.
const SYMBOL: &str = "__x64_sys_sync";

/// gdb, where it is installed.
fn gdb() -> Option<PathBuf> {
    let found = places::program("gdb");
    if found.is_none() {
        println!("skipped: gdb is not installed (apt-get install gdb)");
    }
    found
}

/// gdb with these commands, connected to the stub.
fn attach(gdb: &Path, bench: &Bench, socket: &Path, commands: &str) -> Result<Process> {
    let script = bench.dir.path().join("script.gdb");
    let start = format!(
        "set confirm off\nset pagination off\nset architecture i386:x86-64\ntarget remote {}\n",
        socket.display()
    );
    std::fs::write(&script, start + commands)?;
    let mut command = Command::new(gdb);
    command.args(["-nx", "-batch", "-x"]).arg(script);
    Process::start(command)
}

/// The address of [`SYMBOL`], from the guest's own list.
fn address(guest: &mut Guest) -> Result<u64> {
    let line = guest.run(&format!("grep ' {SYMBOL}$' /proc/kallsyms"), patience(30))?;
    let word = line.split_whitespace().next().context("no such symbol")?;
    u64::from_str_radix(word, 16).with_context(|| format!("{line:?}"))
}

/// Stops where the guest is told to `sync`, in several ways, and lets it go.
fn debug_a_running_guest(gdb: &Path, bench: &Bench, socket: &Path, guest: &mut Guest) -> Result<()> {
    let at = address(guest)?;
    ensure!(at >> 63 == 1, "{SYMBOL} is at {at:#x}");
    let commands = format!(
        "hbreak *{at:#x}\n\
         continue\n\
         printf \"hardware %lx %x\\n\", $rip, $eflags & 2\n\
         set $back = *(unsigned long *) $rsp\n\
         stepi\n\
         printf \"stepped %d\\n\", $rip != {at:#x}\n\
         delete\n\
         break *{at:#x}\n\
         continue\n\
         printf \"software %lx %x\\n\", $rip, *(unsigned char *) $rip != 0xcc\n\
         printf \"paging %x, entries %x, base %x\\n\", $cr0 >> 31 & 1, $efer & 1, $gs_base != 0 && $cr3 != 0\n\
         set $old = $r15\n\
         set $r15 = 0x1234567\n\
         printf \"written %lx\\n\", $r15\n\
         set $r15 = $old\n\
         delete\n\
         watch *(unsigned long *) ($rsp - 8)\n\
         continue\n\
         printf \"watched\\n\"\n\
         delete\n\
         info threads\n\
         detach\n"
    );
    let mut debugger = attach(gdb, bench, socket, &commands)?;
    // The guest is stopped; what is typed waits for it.
    debugger.expect("Hardware assisted breakpoint", patience(60))?;
    guest.process.console.skip();
    guest.process.send("sync; echo on' and 'on\n")?;
    debugger.expect(&format!("hardware {at:x} 2"), patience(60))?;
    debugger.expect("stepped 1", patience(60))?;
    guest.process.expect("on and on", patience(60))?;
    guest.process.send("sync; echo once' more'\n")?;
    debugger.expect(&format!("software {at:x} 1"), patience(60))?;
    debugger.expect("paging 1, entries 1, base 1", patience(60))?;
    debugger.expect("written 1234567", patience(60))?;
    debugger.expect("watched", patience(60))?;
    debugger.wait_success(patience(60))?;
    guest.process.expect("once more", patience(60))?;
    ensure!(
        guest.run("echo $((6 * 7))", patience(30))? == "42",
        "the shell is gone"
    );
    guest.process.send("poweroff -f\n")?;
    guest.process.wait_success(patience(60))
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn gdb_on_qemus_stub() -> Result<()> {
    let bench = Bench::new()?;
    let Some(gdb) = gdb() else { return Ok(()) };
    let socket = bench.dir.path().join("gdb");
    let mut machine = bench.machine();
    machine.cpus = 2;
    let mut command = machine.command(&bench.assets)?;
    let chardev = format!("unix:path={},server=on,wait=off", socket.display());
    command.args(["-S", "-gdb", &chardev]);
    let mut guest = Guest {
        process: Process::start(command)?,
    };
    wait_for(&socket)?;
    // The kernel's own 32-bit entry, where QEMU's firmware jumps to.
    let mut debugger = attach(
        &gdb,
        &bench,
        &socket,
        "hbreak *0x100000\ncontinue\nprintf \"entry %lx\\n\", $rip\nstepi\nprintf \"then %lx\\n\", $rip\ndelete\ndetach\n",
    )?;
    debugger.expect("entry 100000", patience(120))?;
    debugger.expect("then 100001", patience(60))?;
    debugger.wait_success(patience(60))?;
    guest.shell()?;
    debug_a_running_guest(&gdb, &bench, &socket, &mut guest)
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn gdb_on_the_bundled_vmm() -> Result<()> {
    let bench = Bench::new()?;
    if !bench.needs_ring3("ring3 boot --gdb") {
        return Ok(());
    }
    let Some(gdb) = gdb() else { return Ok(()) };
    let socket = bench.dir.path().join("gdb");
    let mut command = Command::new(places::ring3()?);
    command.arg("boot").arg("--kernel").arg(&bench.assets.kernel);
    command.arg("--initrd").arg(&bench.assets.initramfs);
    let line = "console=ttyS0 panic=-1 reboot=k nokaslr ring3.cpus=2";
    command
        .args(["--cmdline", line, "--cpus", "2", "--gdb"])
        .arg(&socket);
    let mut guest = Guest {
        process: Process::start(command)?,
    };
    guest.process.expect("waiting for a debugger", patience(60))?;
    // It waits at the kernel's 64-bit entry; where the kernel is unpacked to is known, as it is told not to choose.
    let mut debugger = attach(
        &gdb,
        &bench,
        &socket,
        "info threads\nprintf \"entry %lx\\n\", $rip\nstepi\nprintf \"then %lx\\n\", $rip\nhbreak *0x1000000\ncontinue\n\
         printf \"unpacked %lx\\n\", $rip\ndelete\ndetach\n",
    )?;
    debugger.expect("processor 1", patience(60))?;
    debugger.expect("entry 100200", patience(60))?;
    debugger.expect("then 100201", patience(60))?;
    debugger.expect("unpacked 1000000", patience(120))?;
    debugger.wait_success(patience(60))?;
    guest.shell()?;
    debug_a_running_guest(&gdb, &bench, &socket, &mut guest)?;
    ensure!(!socket.exists(), "{} was left behind", socket.display());
    Ok(())
}

/// Until a socket is there.
fn wait_for(socket: &Path) -> Result<()> {
    let deadline = std::time::Instant::now() + patience(60);
    while !socket.exists() {
        ensure!(std::time::Instant::now() < deadline, "no {}", socket.display());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}
