//! A tracer, told of calls that nobody made.

use super::*;
use crate::On;
use ring3_uapi::cap::{KVM_CAP_HLT, KVM_CAP_XEN_HVM};
use ring3_uapi::device::{KVM_DEV_TYPE_VFIO, KvmCreateDevice, KvmDeviceAttr};
use ring3_uapi::exit::{KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, KVM_EXIT_IO_OUT};
use ring3_uapi::ioctl::*;
use ring3_uapi::run::{EXIT_REASON, PAYLOAD, RunInternal, RunIo, X86_PIO_DATA};
use ring3_uapi::x86::{KvmMsrEntry, KvmMsrs};
use serde_json::Value as Json;
use std::path::PathBuf;
use zerocopy::IntoBytes;

const VM: On = On {
    fd: 11,
    kind: FileKind::Vm,
    vcpu: None,
};
const VCPU: On = On {
    fd: 13,
    kind: FileKind::Vcpu,
    vcpu: Some(3),
};

struct Traced {
    tracer: Tracer,
    path: PathBuf,
}

impl Traced {
    fn new(name: &str, form: Form, lines: Lines) -> Traced {
        let path = std::env::temp_dir().join(format!("ring3-trace-{name}-{}", std::process::id()));
        let tracer = Tracer::new(Wanted {
            options: Options { form, lines },
            file: Some(path.clone().into_os_string()),
            start: None,
        });
        Traced { tracer, path }
    }

    fn call(&self, on: On, request: u32, arg: u64, result: Result<i64, Errno>) {
        let begun = self.tracer.begin(on, request, arg);
        let served = match result {
            Err(Errno::ENOTTY) => Served::No,
            _ => Served::Yes,
        };
        self.tracer.end(begun, (result, served), None);
    }

    fn run(&self, page: &SharedPages, result: Result<i64, Errno>) {
        let begun = self.tracer.begin(VCPU, KVM_RUN, 0);
        self.tracer.end(begun, (result, Served::Yes), Some(page));
    }

    fn lines(self) -> Vec<String> {
        self.tracer.finish();
        self.tracer.finish();
        let text = std::fs::read_to_string(&self.path).expect("a file");
        std::fs::remove_file(&self.path).expect("a file");
        text.lines().map(str::to_string).collect()
    }
}

fn out_exit(page: &SharedPages, port: u16, byte: u8) {
    page.store(EXIT_REASON, &KVM_EXIT_IO);
    let io = RunIo {
        direction: KVM_EXIT_IO_OUT,
        size: 1,
        port,
        count: 1,
        data_offset: X86_PIO_DATA as u64,
    };
    page.store(PAYLOAD, &io);
    page.store(X86_PIO_DATA, &byte);
}

fn pages() -> SharedPages {
    SharedPages::create("test", 3).expect("memory").0
}

#[test]
fn of_calls_alike_the_first_get_lines_and_all_are_counted() {
    let traced = Traced::new("fold", Form::Text, Lines::Folded);
    let page = pages();
    for n in 0..150 {
        out_exit(&page, 0x3f8, n);
        traced.run(&page, Ok(0));
        let level = ring3_uapi::KvmIrqLevel {
            irq: 4,
            level: u32::from(n % 2),
        };
        traced.call(VM, KVM_IRQ_LINE, level.as_bytes().as_ptr() as u64, Ok(0));
    }
    out_exit(&page, 0x80, 1);
    traced.run(&page, Ok(0));
    let lines = traced.lines();
    assert!(
        lines[0].contains("vcpu 3 (fd 13): KVM_RUN = 0 <")
            && lines[0].ends_with("port=0x3f8, count=1, data=00}"),
        "{lines:?}"
    );
    let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    // The first five, the tenth and the hundredth.
    assert_eq!(count("port=0x3f8"), 7, "{lines:?}");
    assert_eq!(count("data=63} [the 100th like this]"), 1, "{lines:?}");
    assert_eq!(
        (count("{irq=4, level=0}"), count("{irq=4, level=1}")),
        (6, 6),
        "{lines:?}"
    );
    assert_eq!(count("port=0x80, count=1, data=01}"), 1, "{lines:?}");
    let exits = lines
        .iter()
        .find(|line| line.contains("KVM_EXIT_IO: "))
        .expect("a summary");
    assert!(
        exits.trim_start().starts_with("151 ") && exits.ends_with("out 0x3f8/1 (150), out 0x80/1 (1)"),
        "{exits}"
    );
    assert_eq!(lines.iter().filter(|line| line.contains("---")).count(), 1);
}

#[test]
fn a_list_that_was_refused_has_no_entries_afterwards() {
    let traced = Traced::new("refused", Form::Text, Lines::All);
    let list = [0u32, 0xdead];
    let arg = list.as_ptr() as u64;
    let on = On {
        fd: 3,
        kind: FileKind::System,
        vcpu: None,
    };
    let begun = traced.tracer.begin(on, KVM_GET_MSR_INDEX_LIST, arg);
    ring3_host::user::UserPtr::new(arg).write(&1u32).expect("there");
    traced.tracer.end(begun, (Err(Errno::E2BIG), Served::Yes), None);
    let lines = traced.lines();
    let text = "KVM_GET_MSR_INDEX_LIST({nmsrs=0, entries=[]} → {nmsrs=1}) = E2BIG <";
    assert!(lines[0].contains(text), "{lines:?}");
}

#[test]
fn json_has_each_exit_and_every_field() {
    let traced = Traced::new("json", Form::Json, Lines::Folded);
    let page = pages();
    for byte in *b"ab" {
        out_exit(&page, 0x3f8, byte);
        traced.run(&page, Ok(0));
    }
    traced.run(&page, Err(Errno::EINTR));
    traced.tracer.event(VCPU, Event::Close);
    let lines: Vec<Json> = traced
        .lines()
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 5);
    let payload = &lines[1]["exit"]["payload"];
    assert_eq!(
        (&payload["port"], &payload["data"]),
        (&Json::from(0x3f8), &Json::from("62"))
    );
    assert_eq!(payload["direction_name"], "KVM_EXIT_IO_OUT");
    assert_eq!(
        (&lines[0]["vcpu"], &lines[0]["name"]),
        (&Json::from(3), &Json::from("KVM_RUN"))
    );
    assert_eq!(
        (&lines[2]["errno"], &lines[2]["exit"]["reason"]),
        (&"EINTR".into(), &"EINTR".into())
    );
    assert_eq!(lines[3]["call"], "close");
    assert_eq!(lines[4]["call"], "summary");
    assert_eq!(lines[4]["ioctls"][0]["count"], 3);
    assert_eq!(lines[4]["ioctls"][0]["errors"]["EINTR"], 1);
}

#[test]
fn what_lacks_is_listed_by_name() {
    let traced = Traced::new("lack", Form::Json, Lines::Summary);
    traced.call(VM, KVM_CHECK_EXTENSION, u64::from(KVM_CAP_XEN_HVM), Ok(0));
    traced.call(VM, KVM_CHECK_EXTENSION, u64::from(KVM_CAP_XEN_HVM), Ok(0));
    traced.call(VM, KVM_CHECK_EXTENSION, u64::from(KVM_CAP_HLT), Ok(1));
    // PowerPC's.
    traced.call(VM, KVM_CHECK_EXTENSION, 64, Ok(0));
    traced.call(VM, KVM_GET_PIT, 0, Err(Errno::ENOTTY));
    traced.call(VM, 0xae_ff, 0, Err(Errno::ENOTTY));
    let enable = ring3_uapi::KvmEnableCap {
        cap: KVM_CAP_XEN_HVM,
        ..ring3_uapi::KvmEnableCap::default()
    };
    traced.call(
        VM,
        KVM_ENABLE_CAP,
        enable.as_bytes().as_ptr() as u64,
        Err(Errno::EINVAL),
    );
    let mut device = KvmCreateDevice {
        type_: 5,
        ..KvmCreateDevice::default()
    };
    traced.call(
        VM,
        KVM_CREATE_DEVICE,
        device.as_mut_bytes().as_ptr() as u64,
        Err(Errno::ENODEV),
    );
    (device.type_, device.fd) = (KVM_DEV_TYPE_VFIO, 20);
    traced.call(
        VM,
        KVM_CREATE_DEVICE,
        device.as_mut_bytes().as_ptr() as u64,
        Ok(0),
    );
    let attr = KvmDeviceAttr {
        group: 1,
        attr: 9,
        ..KvmDeviceAttr::default()
    };
    let on = On {
        fd: 20,
        kind: FileKind::Device,
        vcpu: None,
    };
    traced.call(
        on,
        KVM_SET_DEVICE_ATTR,
        attr.as_bytes().as_ptr() as u64,
        Err(Errno::ENXIO),
    );
    let mut msrs = KvmMsrs { nmsrs: 2, pad: 0 }.as_bytes().to_vec();
    for index in [0x10, 0x4b56_4d02] {
        let data = 7;
        msrs.extend_from_slice(
            KvmMsrEntry {
                index,
                reserved: 0,
                data,
            }
            .as_bytes(),
        );
    }
    traced.call(VCPU, KVM_SET_MSRS, msrs.as_ptr() as u64, Ok(1));
    traced.call(VCPU, KVM_GET_MSRS, msrs.as_ptr() as u64, Ok(2));
    let page = pages();
    page.store(EXIT_REASON, &KVM_EXIT_INTERNAL_ERROR);
    page.store(
        PAYLOAD,
        &RunInternal {
            suberror: 1,
            ..RunInternal::default()
        },
    );
    traced.run(&page, Ok(0));

    let lines = traced.lines();
    let summary: Json = serde_json::from_str(&lines[0]).expect("JSON");
    let lacks: Vec<String> = summary["lacks"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|lack| {
            let text = |field: &str| lack[field].as_str().unwrap_or_default().to_string();
            format!(
                "{} {}: {} x{}",
                text("what"),
                text("name"),
                text("answer"),
                lack["count"]
            )
        })
        .collect();
    assert_eq!(
        lacks,
        [
            "attribute KVM_DEV_VFIO_FILE, attribute 9 of KVM_DEV_TYPE_VFIO: ENXIO x1",
            "capability KVM_CAP_XEN_HVM: 0 x2",
            "device KVM_DEV_TYPE_ARM_VGIC_V2: ENODEV x1",
            "enabling KVM_CAP_XEN_HVM: EINVAL x1",
            "exit KVM_EXIT_INTERNAL_ERROR: KVM_INTERNAL_ERROR_EMULATION x1",
            "ioctl 0x0000aeff on vm: ENOTTY x1",
            "ioctl KVM_GET_PIT on vm: ENOTTY x1",
            "msr 0x4b564d02 (MSR_KVM_ASYNC_PF_EN): not set to 0x7 x1",
        ]
    );
}

#[test]
fn calls_show_what_went_in_and_what_changed() {
    let traced = Traced::new("text", Form::Text, Lines::All);
    let mut device = KvmCreateDevice {
        type_: KVM_DEV_TYPE_VFIO,
        ..KvmCreateDevice::default()
    };
    let arg = device.as_mut_bytes().as_mut_ptr() as u64;
    let begun = traced.tracer.begin(VM, KVM_CREATE_DEVICE, arg);
    ring3_host::user::UserPtr::new(arg + 4)
        .write(&20u32)
        .expect("there");
    traced.tracer.end(begun, (Ok(0), Served::Yes), None);
    traced.call(VM, KVM_CHECK_EXTENSION, 1, Ok(1));
    traced.call(VM, KVM_SET_USER_MEMORY_REGION, 16, Err(Errno::EFAULT));
    traced.call(VM, KVM_CREATE_IRQCHIP, 0, Ok(0));
    let lines = traced.lines();
    let ends = [
        "vm (fd 11): KVM_CREATE_DEVICE({type=KVM_DEV_TYPE_VFIO, fd=0, flags=0} → {fd=20}) = 0 <",
        "vm (fd 11): KVM_CHECK_EXTENSION(KVM_CAP_HLT) = 1 <",
        "vm (fd 11): KVM_SET_USER_MEMORY_REGION(0x10) = EFAULT <",
        "vm (fd 11): KVM_CREATE_IRQCHIP() = 0 <",
    ];
    for (line, end) in lines.iter().zip(ends) {
        assert!(line.contains(end), "{line} lacks {end}");
    }
}
