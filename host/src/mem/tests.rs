//! Memory with gaps: unmapped, protected, truncated.

use super::*;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

/// `pages` fresh pages of which the test may do anything to any.
struct Map {
    at: *mut std::ffi::c_void,
    len: usize,
}

impl Map {
    fn anonymous(pages: usize) -> Map {
        let len = pages * PAGE;
        // SAFETY: a new mapping disturbs no other.
        let at = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        Map { at: at.unwrap(), len }
    }

    fn region(&self) -> HostRegion {
        HostRegion::from_client(self.at as u64, self.len as u64).unwrap()
    }

    fn page(&self, index: u64) -> HostPage {
        self.region().page(index).unwrap()
    }

    fn protect(&self, flags: MprotectFlags) {
        // SAFETY: the mapping is the test's own.
        unsafe { rustix::mm::mprotect(self.at, self.len, flags) }.unwrap();
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is the test's own.
        unsafe { rustix::mm::munmap(self.at, self.len) }.unwrap();
    }
}

fn all_widths_fault(page: HostPage) {
    for offset in [0, 1, 8, 2048, 4080] {
        assert_eq!(page.load::<u8>(offset), Err(HostFault));
        assert_eq!(page.load::<u16>(offset), Err(HostFault));
        assert_eq!(page.load::<u32>(offset), Err(HostFault));
        assert_eq!(page.load::<u64>(offset), Err(HostFault));
        assert_eq!(page.load::<u128>(offset), Err(HostFault));
        assert_eq!(page.read(offset, &mut [0; 9]), Err(HostFault));
        all_writes_fault(page, offset);
    }
}

fn all_writes_fault(page: HostPage, offset: usize) {
    assert_eq!(page.store(offset, 1u8), Err(HostFault));
    assert_eq!(page.store(offset, 1u16), Err(HostFault));
    assert_eq!(page.store(offset, 1u32), Err(HostFault));
    assert_eq!(page.store(offset, 1u64), Err(HostFault));
    assert_eq!(page.store(offset, 1u128), Err(HostFault));
    assert_eq!(page.write(offset, &[1; 9]), Err(HostFault));
    assert_eq!(page.compare_exchange(offset, 0u8, 1), Err(HostFault));
    assert_eq!(page.compare_exchange(offset, 0u16, 1), Err(HostFault));
    assert_eq!(page.compare_exchange(offset, 0u32, 1), Err(HostFault));
    assert_eq!(page.compare_exchange(offset, 0u64, 1), Err(HostFault));
    assert_eq!(page.compare_exchange(offset, 0u128, 1), Err(HostFault));
}

fn round_trip<T: Word>(page: HostPage, offset: usize, a: T, b: T) {
    assert_eq!(page.store(offset, a), Ok(()));
    assert_eq!(page.load(offset), Ok(a));
    assert_eq!(page.compare_exchange(offset, b, a), Ok(Err(a)));
    assert_eq!(page.load(offset), Ok(a));
    assert_eq!(page.compare_exchange(offset, a, b), Ok(Ok(a)));
    assert_eq!(page.load(offset), Ok(b));
}

#[test]
fn every_width_goes_both_ways() {
    let map = Map::anonymous(1);
    let page = map.page(0);
    for offset in [0, 16, 4080] {
        round_trip(page, offset, 0x5au8, 0xff);
        round_trip(page, offset, 0x1234u16, 0xfedc);
        round_trip(page, offset, 0x1234_5678u32, 0xfedc_ba98);
        round_trip(page, offset, 0x1234_5678_9abc_def0u64, u64::MAX);
        round_trip(
            page,
            offset,
            0x1234_5678_9abc_def0_0fed_cba9_8765_4321u128,
            u128::MAX,
        );
    }
    round_trip(page, 3, 0x1234_5678_9abc_def0u64, 1);
    assert_eq!(
        page.store(5, 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00u128),
        Ok(())
    );
    assert_eq!(
        page.load::<u128>(5),
        Ok(0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00)
    );
    assert_eq!(page.load::<u16>(5), Ok(0xff00));
    assert_eq!(page.write(4090, b"abcdef"), Ok(()));
    let mut back = [0; 6];
    assert_eq!(page.read(4090, &mut back), Ok(()));
    assert_eq!(&back, b"abcdef");
}

#[test]
fn nothing_crosses_the_end_of_a_page() {
    let map = Map::anonymous(2);
    let page = map.page(0);
    assert_eq!(page.load::<u8>(4096), Err(HostFault));
    assert_eq!(page.load::<u64>(4089), Err(HostFault));
    assert_eq!(page.load::<u64>(usize::MAX), Err(HostFault));
    assert_eq!(page.store(4081, 0u128), Err(HostFault));
    assert_eq!(page.compare_exchange(8, 0u128, 1), Err(HostFault));
    assert_eq!(page.read(4096, &mut []), Ok(()));
    assert_eq!(page.read(4095, &mut [0; 2]), Err(HostFault));
    assert_eq!(page.write(usize::MAX, &[0; 2]), Err(HostFault));
}

#[test]
fn unmapped_memory_faults() {
    let page = {
        let map = Map::anonymous(64);
        map.page(32)
    };
    all_widths_fault(page);
}

#[test]
fn protected_memory_faults() {
    let map = Map::anonymous(1);
    let page = map.page(0);
    assert_eq!(page.store(8, 9u64), Ok(()));
    map.protect(MprotectFlags::READ);
    assert_eq!(page.load::<u64>(8), Ok(9));
    all_writes_fault(page, 16);
    map.protect(MprotectFlags::empty());
    all_widths_fault(page);
    map.protect(MprotectFlags::READ | MprotectFlags::WRITE);
    assert_eq!(page.store(16, 1u8), Ok(()));
}

#[test]
fn truncated_memory_faults() {
    let file = crate::fd::memfd_create("test", 2 * PAGE_SIZE).unwrap();
    // SAFETY: a new mapping disturbs no other.
    let at = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            2 * PAGE,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &file,
            0,
        )
    };
    let map = Map {
        at: at.unwrap(),
        len: 2 * PAGE,
    };
    assert_eq!(map.page(1).store(0, 1u8), Ok(()));
    rustix::fs::ftruncate(&file, PAGE_SIZE).unwrap();
    assert_eq!(map.page(0).store(0, 1u8), Ok(()));
    all_widths_fault(map.page(1));
}

#[test]
fn regions_are_pages_of_the_user_half() {
    assert!(HostRegion::from_client(0x1000, 0x3000).is_some());
    for (address, len) in [
        (0x1000, 0),
        (0x1001, 0x1000),
        (0x1000, 0x1001),
        (USER_END - 0x1000, 0x2000),
        (0x8000_0000_0000, 0x1000),
        (0xffff_ffff_ffff_f000, 0x1000),
        (0x1000, 0xffff_ffff_ffff_f000),
    ] {
        assert_eq!(
            HostRegion::from_client(address, len),
            None,
            "{address:#x}+{len:#x}"
        );
    }
    let region = HostRegion::from_client(0x5000, 0x2000).unwrap();
    assert_eq!(region.page(1).unwrap().address(), HostVirt(0x6000));
    assert_eq!(region.page(2), None);
}

#[test]
fn faults_are_caught_on_every_thread_at_once() {
    let map = Map::anonymous(1);
    let (good, bad) = (
        map.page(0),
        HostRegion::from_client(0x1000, 0x1000).unwrap().page(0).unwrap(),
    );
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..2000 {
                    assert_eq!(bad.load::<u32>(0), Err(HostFault));
                    assert!(good.load::<u32>(0).is_ok());
                }
            });
        }
    });
}
