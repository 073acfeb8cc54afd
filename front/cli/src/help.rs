//! What `--help` and the manual pages say besides the options: an example each, and the environment.

pub const COMMAND: &str = "\
Example:
  ring3 run -- qemu-system-x86_64 -accel kvm -cpu host -nographic -kernel vmlinuz

Environment:
  RING3_LOG         What is worth a line on standard error: warn, debug, ring3_kvm=debug, ... (warn for this command, nothing for \
clients)
  RING3_PARAMETERS  Parameters of Linux's module, as name=value,...: force_emulation_prefix, enable_vmware_backdoor
  RING3_ENGINE      interpreter: nothing is translated
  RING3_STATS       A file; each process that had VMs writes what its guests did there at its end, as JSON, and counts all \
instructions
  RING3_PERF        jitdump, map, or both with a comma: what perf is to know of translated code, in jit-PID.dump in the directory of \
temporary files, or in /tmp/perf-PID.map
  RING3_SYMBOLS     A System.map, a copy of the guest's /proc/kallsyms, or an ELF file: symbols for RING3_PERF";

pub const RUN: &str = "\
Example:
  ring3 run -- qemu-system-x86_64 -accel kvm -cpu host -m 1G -nographic -kernel vmlinuz -append console=ttyS0

The command takes the place of this process. It exits as the command does; with 127 if that is not found, and with 126 if it cannot \
be run. What it does is governed by RING3_LOG, RING3_PARAMETERS, RING3_ENGINE, RING3_STATS, RING3_PERF and RING3_SYMBOLS, which \
`ring3 --help` explains.";

pub const TRACE: &str = "\
Example:
  ring3 trace --summary -- qemu-system-x86_64 -accel kvm -display none -kernel vmlinuz

A line has the process, seconds since it opened /dev/kvm, the descriptor, the request with its structures, and how long it took. \
The environment is that of `ring3 run`.";

pub const BOOT: &str = "\
Examples:
  ring3 boot --kernel vmlinuz --initrd initramfs.cpio --cpus 2
  ring3 boot --kernel vmlinuz --gdb 1234, and then: gdb -ex 'target remote :1234'

RING3_LOG, RING3_ENGINE, RING3_PERF and RING3_SYMBOLS, which `ring3 --help` explains, are heeded here, too.";

pub const COVERAGE: &str = "\
Example:
  ring3 coverage

It prints what COVERAGE.md has; with other options, a part of it.";

pub const DOCTOR: &str = "\
Example:
  ring3 doctor

A line that begins with `ok` tells what works, one with `--` what is nice to know or missing without harm, one with `BAD` what keeps \
ring3 from working. The exit status is 1 if there is one of the latter.";
