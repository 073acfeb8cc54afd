//! A statistics descriptor: a file that says of itself what is in it.

use crate::Errno;
use crate::handle::Fd;
use ring3_host::fd::with_raw;
use ring3_uapi::{KvmStatsDesc, KvmStatsHeader};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use zerocopy::{FromBytes, IntoBytes};

/// More descriptors than any file has.
const MOST_ROWS: u32 = 4096;
/// Bytes that no name has.
const LONGEST_NAME: u32 = 4096;

/// The numbers of a VM or vCPU, by name.
#[derive(Debug)]
pub struct Stats {
    fd: Fd,
    table: StatsTable,
}

/// Numbers by name, in a file that may have more in it.
#[derive(Debug)]
pub struct StatsTable {
    file: File,
    /// Where in the file they begin.
    at: u64,
    header: KvmStatsHeader,
    rows: Vec<(String, KvmStatsDesc)>,
}

fn errno(error: io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(Errno::EIO.0))
}

/// What is at a place of a file.
pub(crate) fn read<T: FromBytes + IntoBytes>(file: &File, at: u64) -> Result<T, Errno> {
    let mut value = T::new_zeroed();
    file.read_exact_at(value.as_mut_bytes(), at).map_err(errno)?;
    Ok(value)
}

fn text(file: &File, at: u64, size: u32) -> Result<String, Errno> {
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, at).map_err(errno)?;
    let end = bytes.iter().position(|&byte| byte == 0).ok_or(Errno::EIO)?;
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

impl Stats {
    pub(crate) fn new(fd: Fd) -> Result<Stats, Errno> {
        let again = with_raw(fd.0.as_raw_fd(), |fd| fd.try_clone_to_owned());
        let file = File::from(again.and_then(|again| again).map_err(errno)?);
        Ok(Stats {
            fd,
            table: StatsTable::read(file, 0)?,
        })
    }

    /// The descriptor's number.
    pub fn as_raw_fd(&self) -> RawFd {
        self.fd.0.as_raw_fd()
    }

    /// Any request.
    pub fn raw(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        self.fd.value(request, arg)
    }
}

impl Deref for Stats {
    type Target = StatsTable;

    fn deref(&self) -> &StatsTable {
        &self.table
    }
}

impl StatsTable {
    /// Those that begin at a place of a file. EIO if there are none.
    pub(crate) fn read(file: File, at: u64) -> Result<StatsTable, Errno> {
        let header: KvmStatsHeader = read(&file, at)?;
        if header.num_desc > MOST_ROWS || header.name_size > LONGEST_NAME {
            return Err(Errno::EIO);
        }
        let size = size_of::<KvmStatsDesc>() as u64;
        let row = |i: u32| {
            let at = at + u64::from(header.desc_offset) + u64::from(i) * (size + u64::from(header.name_size));
            Ok((text(&file, at + size, header.name_size)?, read(&file, at)?))
        };
        let rows = (0..header.num_desc).map(row).collect::<Result<_, Errno>>()?;
        Ok(StatsTable {
            file,
            at,
            header,
            rows,
        })
    }

    /// Whose they are.
    pub fn id(&self) -> Result<String, Errno> {
        let at = self.at + u64::from(self.header.id_offset);
        text(&self.file, at, self.header.name_size)
    }

    /// What there is, in the order of the file.
    pub fn rows(&self) -> &[(String, KvmStatsDesc)] {
        &self.rows
    }

    /// The numbers with this name, as they are now; ENOENT if there are none.
    pub fn get(&self, name: &str) -> Result<Vec<u64>, Errno> {
        let row = self.rows.iter().find(|row| row.0 == name);
        let (_, descriptor) = row.ok_or(Errno::ENOENT)?;
        let at = self.at + u64::from(self.header.data_offset) + u64::from(descriptor.offset);
        (0..u64::from(descriptor.size))
            .map(|i| read(&self.file, at + i * 8))
            .collect()
    }

    /// As `get`, of what is one number only.
    pub fn one(&self, name: &str) -> Result<u64, Errno> {
        self.get(name)?.first().copied().ok_or(Errno::ENOENT)
    }
}
