//! How a KVM_RUN ended, out of the run page. The client may write that page: nothing in it is relied on.

use crate::decode;
use crate::value::Value;
use ring3_host::shared::SharedPages;
use ring3_kvm::Errno;
use ring3_uapi::exit::*;
use ring3_uapi::layout::payload;
use ring3_uapi::run::{EXIT_REASON, PAYLOAD, PAYLOAD_SIZE, RunIo, RunMmio, RunMsr};
use std::fmt::{self, Display, Formatter};

/// Bytes of port data that are looked at.
const DATA: usize = 64;

/// Exits that are of one kind: the same reason, and the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Like {
    /// None for EINTR.
    pub reason: Option<u32>,
    pub place: Place,
}

/// Where the guest was at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    Nowhere,
    Port {
        write: bool,
        port: u16,
        size: u8,
    },
    Memory {
        write: bool,
        address: u64,
        len: u32,
    },
    Msr(u32),
    /// The number of a hypercall, or the first word of what else says what it is about.
    Number(u64),
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let way = |write| if write { "out" } else { "in" };
        match self {
            Place::Nowhere => Ok(()),
            Place::Port { write, port, size } => write!(f, "{} {port:#x}/{size}", way(*write)),
            Place::Memory {
                write: true,
                address,
                len,
            } => write!(f, "write {address:#x}/{len}"),
            Place::Memory { address, len, .. } => write!(f, "read {address:#x}/{len}"),
            Place::Msr(index) => write!(f, "msr {index:#x}"),
            Place::Number(number) => write!(f, "{number:#x}"),
        }
    }
}

/// How a KVM_RUN ended.
pub struct Exit {
    pub like: Like,
    pub payload: Option<Value>,
}

/// The name of an exit's reason.
pub fn reason_name(reason: Option<u32>) -> String {
    match reason {
        None => "EINTR".to_string(),
        Some(number) => lookup(number).map_or_else(|| format!("exit {number}"), |row| row.name.to_string()),
    }
}

/// Reads it from the run page; `None` if the call failed without an exit.
pub fn read(page: &SharedPages, result: Result<i64, Errno>) -> Option<Exit> {
    let reason: u32 = page.load(EXIT_REASON);
    match result {
        Ok(_) => {}
        Err(Errno::EINTR) => {
            let like = Like {
                reason: None,
                place: Place::Nowhere,
            };
            return Some(Exit { like, payload: None });
        }
        Err(Errno::EFAULT) if reason == KVM_EXIT_MEMORY_FAULT => {}
        Err(_) => return None,
    }
    let mut bytes = [0; PAYLOAD_SIZE];
    page.read(PAYLOAD, &mut bytes);
    let mut value = payload(reason, &bytes).map(|layout| decode::structure(layout, &bytes));
    let place = match reason {
        KVM_EXIT_IO => {
            let io: RunIo = page.load(PAYLOAD);
            if let Some(Value::Structure(fields)) = &mut value {
                fields.retain(|(name, _)| *name != "data_offset");
                if io.direction == KVM_EXIT_IO_OUT {
                    fields.push(("data", Value::Bytes(port_data(page, &io))));
                }
            }
            Place::Port {
                write: io.direction == KVM_EXIT_IO_OUT,
                port: io.port,
                size: io.size,
            }
        }
        KVM_EXIT_MMIO => {
            let mmio: RunMmio = page.load(PAYLOAD);
            if let Some(Value::Structure(fields)) = &mut value {
                for (name, data) in fields {
                    if let (&mut "data", Value::Bytes(data)) = (name, data) {
                        data.truncate(mmio.len as usize);
                    }
                }
            }
            Place::Memory {
                write: mmio.is_write != 0,
                address: mmio.phys_addr,
                len: mmio.len,
            }
        }
        KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR => Place::Msr(page.load::<RunMsr>(PAYLOAD).index),
        KVM_EXIT_HYPERCALL | KVM_EXIT_UNKNOWN => Place::Number(page.load(PAYLOAD)),
        KVM_EXIT_INTERNAL_ERROR | KVM_EXIT_SYSTEM_EVENT => {
            Place::Number(u64::from(page.load::<u32>(PAYLOAD)))
        }
        _ => Place::Nowhere,
    };
    Some(Exit {
        like: Like {
            reason: Some(reason),
            place,
        },
        payload: value,
    })
}

/// What goes out.
fn port_data(page: &SharedPages, io: &RunIo) -> Vec<u8> {
    let len = usize::from(io.size).saturating_mul(io.count as usize).min(DATA);
    let fits = |from: &usize| from.checked_add(len).is_some_and(|end| end <= page.len());
    let mut data = vec![0; len];
    match usize::try_from(io.data_offset).ok().filter(fits) {
        Some(from) => page.read(from, &mut data),
        None => data.clear(),
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_uapi::run::{RunHypercall, X86_PIO_DATA};

    fn page(reason: u32) -> SharedPages {
        let (page, _) = SharedPages::create("test", 3).expect("memory");
        page.store(EXIT_REASON, &reason);
        page
    }

    fn text(exit: &Exit) -> String {
        exit.payload.as_ref().map(Value::to_string).unwrap_or_default()
    }

    #[test]
    fn ports_and_memory() {
        let page_ = page(KVM_EXIT_IO);
        let io = RunIo {
            direction: KVM_EXIT_IO_OUT,
            size: 1,
            port: 0x3f8,
            count: 3,
            data_offset: X86_PIO_DATA as u64,
        };
        page_.store(PAYLOAD, &io);
        page_.write(X86_PIO_DATA, b"abc");
        let exit = read(&page_, Ok(0)).expect("an exit");
        assert_eq!(
            text(&exit),
            "{direction=KVM_EXIT_IO_OUT, size=1, port=0x3f8, count=3, data=616263}"
        );
        assert_eq!(exit.like.place.to_string(), "out 0x3f8/1");
        // The client can write anything there.
        for data_offset in [u64::MAX, 3 * 4096, 3 * 4096 - 2] {
            page_.store(PAYLOAD, &RunIo { data_offset, ..io });
            assert!(text(&read(&page_, Ok(0)).expect("an exit")).ends_with("data=}"));
        }
        let page_ = page(KVM_EXIT_MMIO);
        let mmio = RunMmio {
            phys_addr: 0xfec0_0000,
            data: [1, 2, 3, 4, 5, 6, 7, 8],
            len: 4,
            is_write: 1,
            pad: [0; 3],
        };
        page_.store(PAYLOAD, &mmio);
        let exit = read(&page_, Ok(0)).expect("an exit");
        assert_eq!(
            text(&exit),
            "{phys_addr=0xfec00000, data=01020304, len=4, is_write=1}"
        );
        assert_eq!(exit.like.place.to_string(), "write 0xfec00000/4");
    }

    #[test]
    fn failures_and_other_reasons() {
        let page_ = page(KVM_EXIT_HYPERCALL);
        let call = RunHypercall {
            nr: 12,
            args: [4096, 1, 0, 0, 0, 0],
            ..RunHypercall::default()
        };
        page_.store(PAYLOAD, &call);
        let exit = read(&page_, Ok(0)).expect("an exit");
        assert!(
            text(&exit).starts_with("{nr=KVM_HC_MAP_GPA_RANGE, args=["),
            "{}",
            text(&exit)
        );
        assert_eq!(
            read(&page_, Err(Errno::EINTR)).map(|exit| exit.like.reason),
            Some(None)
        );
        assert!(read(&page_, Err(Errno::EFAULT)).is_none());
        assert!(read(&page_, Err(Errno::EIO)).is_none());
        assert!(read(&page(KVM_EXIT_MEMORY_FAULT), Err(Errno::EFAULT)).is_some());
        let unknown = read(&page(4711), Ok(0)).expect("an exit");
        assert_eq!(reason_name(unknown.like.reason), "exit 4711");
        assert!(unknown.payload.is_none());
    }
}
