//! Breakpoints and watchpoints, and what a KVM_EXIT_DEBUG means with them.

use super::turns::{Stop, Turn};
use gdbstub::target::ext::breakpoints::WatchKind;
use ring3_uapi::x86::KvmDebugExitArch;
use std::collections::BTreeMap;

/// INT3, which takes the place of an instruction's first byte.
pub const INT3: u8 = 0xcc;
/// Vectors of exceptions.
const DEBUG_EXCEPTION: u32 = 1;
const BREAKPOINT: u32 = 3;
/// DR7: bit 10 is always one.
const DR7_FIXED: u64 = 1 << 10;

/// What a debug register stops at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    Execution,
    /// So many bytes: 1, 2, 4 or 8, at a multiple of that.
    Access {
        kind: WatchKind,
        len: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Register {
    addr: u64,
    watched: Watched,
}

/// Where a byte was replaced, and what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Guest-physical: the guest may map something else there by the time the byte is put back.
    pub gpa: u64,
    pub byte: u8,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Points {
    software: BTreeMap<u64, Replaced>,
    hardware: [Option<Register>; 4],
}

/// What a KVM_EXIT_DEBUG means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The debugger is to be told.
    Break(Stop),
    /// INT3 of the guest's own.
    GuestsBreakpoint,
    /// Single steps of the guest's own.
    GuestsDebugException,
}

impl Points {
    pub fn any_software(&self) -> bool {
        !self.software.is_empty()
    }

    pub fn any_hardware(&self) -> bool {
        self.hardware.iter().any(Option::is_some)
    }

    /// The byte at a linear address was replaced.
    pub fn replaced(&mut self, addr: u64, what: Replaced) {
        self.software.insert(addr, what);
    }

    pub fn is_replaced(&self, addr: u64) -> bool {
        self.software.contains_key(&addr)
    }

    /// What to put back.
    pub fn take_replaced(&mut self, addr: u64) -> Option<Replaced> {
        self.software.remove(&addr)
    }

    /// All that is to be put back; nothing is watched any more.
    pub fn take_all(&mut self) -> Vec<Replaced> {
        self.hardware = [None; 4];
        std::mem::take(&mut self.software).into_values().collect()
    }

    /// What was at a guest-physical address before it was replaced.
    pub fn original(&self, gpa: u64) -> Option<u8> {
        let replaced = self.software.values().find(|replaced| replaced.gpa == gpa);
        replaced.map(|replaced| replaced.byte)
    }

    /// False if all registers are taken, or the processor cannot watch this.
    pub fn watch(&mut self, addr: u64, watched: Watched) -> bool {
        if let Watched::Access { len, .. } = watched
            && !(matches!(len, 1 | 2 | 4 | 8) && addr.is_multiple_of(len))
        {
            return false;
        }
        match self.hardware.iter_mut().find(|register| register.is_none()) {
            Some(free) => {
                *free = Some(Register { addr, watched });
                true
            }
            None => false,
        }
    }

    /// False if it was not watched.
    pub fn unwatch(&mut self, addr: u64, watched: Watched) -> bool {
        let wanted = Some(Register { addr, watched });
        match self.hardware.iter_mut().find(|register| **register == wanted) {
            Some(found) => {
                *found = None;
                true
            }
            None => false,
        }
    }

    /// DR0 to DR7.
    pub fn debug_registers(&self) -> [u64; 8] {
        let mut registers = [0; 8];
        registers[7] = DR7_FIXED;
        for (n, register) in self.hardware.iter().enumerate() {
            let Some(Register { addr, watched }) = register else {
                continue;
            };
            registers[n] = *addr;
            let condition: u64 = match watched {
                Watched::Execution => 0,
                Watched::Access { kind, len } => {
                    let width = match len {
                        1 => 0,
                        2 => 1,
                        8 => 2,
                        _ => 3,
                    };
                    // The processor cannot watch for reads alone.
                    let access = if *kind == WatchKind::Write { 1 } else { 3 };
                    access | width << 2
                }
            };
            registers[7] |= 2 << (2 * n) | condition << (16 + 4 * n);
        }
        registers
    }

    /// What an exit of a processor means, whose turn it was to run so.
    pub fn meaning(&self, exit: &KvmDebugExitArch, turn: Turn) -> Meaning {
        match exit.exception {
            BREAKPOINT if self.is_replaced(exit.pc) => return Meaning::Break(Stop::Software),
            BREAKPOINT => return Meaning::GuestsBreakpoint,
            DEBUG_EXCEPTION => {}
            _ => return Meaning::GuestsDebugException,
        }
        let hit = (0..4)
            .filter(|n| exit.dr6 >> n & 1 != 0)
            .find_map(|n| self.hardware[n]);
        match hit {
            Some(Register {
                watched: Watched::Execution,
                ..
            }) => Meaning::Break(Stop::Hardware),
            Some(Register {
                addr,
                watched: Watched::Access { kind, .. },
            }) => Meaning::Break(Stop::Watch { kind, addr }),
            None if turn == Turn::Step => Meaning::Break(Stop::Stepped),
            None => Meaning::GuestsDebugException,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(exception: u32, pc: u64, dr6: u64) -> KvmDebugExitArch {
        KvmDebugExitArch {
            exception,
            pad: 0,
            pc,
            dr6,
            dr7: 0,
        }
    }

    #[test]
    fn registers_say_what_is_watched() {
        let mut points = Points::default();
        assert!(!points.any_hardware());
        assert!(points.watch(0x1000, Watched::Execution));
        let write = Watched::Access {
            kind: WatchKind::Write,
            len: 8,
        };
        assert!(points.watch(0x2000, write));
        let read = Watched::Access {
            kind: WatchKind::Read,
            len: 4,
        };
        assert!(points.watch(0x3004, read));
        let registers = points.debug_registers();
        assert_eq!(registers[..4], [0x1000, 0x2000, 0x3004, 0]);
        assert_eq!(registers[7], 0x400 | 0b10_10_10 | 0b1001 << 20 | 0b1111 << 24);
        assert!(!points.watch(0x3001, read), "not aligned");
        assert!(points.watch(0x4000, Watched::Execution));
        assert!(!points.watch(0x5000, Watched::Execution), "there are four");
        assert!(points.unwatch(0x2000, write) && !points.unwatch(0x2000, write));
        assert!(points.watch(0x5000, Watched::Execution));
    }

    #[test]
    fn exits_are_the_debuggers_or_the_guests() {
        let mut points = Points::default();
        points.replaced(
            0x10,
            Replaced {
                gpa: 0x110,
                byte: 0x90,
            },
        );
        points.watch(0x20, Watched::Execution);
        points.watch(
            0x28,
            Watched::Access {
                kind: WatchKind::Write,
                len: 8,
            },
        );
        let run = |exit: &KvmDebugExitArch| points.meaning(exit, Turn::Run);
        assert_eq!(run(&exit(3, 0x10, 0)), Meaning::Break(Stop::Software));
        assert_eq!(run(&exit(3, 0x11, 0)), Meaning::GuestsBreakpoint);
        assert_eq!(run(&exit(1, 0x20, 1)), Meaning::Break(Stop::Hardware));
        let watch = Stop::Watch {
            kind: WatchKind::Write,
            addr: 0x28,
        };
        assert_eq!(run(&exit(1, 0x77, 2)), Meaning::Break(watch));
        assert_eq!(run(&exit(1, 0x77, 1 << 14)), Meaning::GuestsDebugException);
        assert_eq!(
            points.meaning(&exit(1, 0x77, 1 << 14), Turn::Step),
            Meaning::Break(Stop::Stepped)
        );
        assert_eq!(points.original(0x110), Some(0x90));
        assert_eq!(points.take_all().len(), 1);
        assert!(!points.any_software() && !points.any_hardware());
    }
}
