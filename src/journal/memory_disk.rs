//! A disk in memory for tests of the journal, with calls that fail on request, and what these tests share. `tests/coffre/simulated_disk.rs` has
//! one that loses sectors, too; this one is small enough to be used under a model checker.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::disk::{Disk, DiskFile, Status};
use super::format::{write_set, write_set_end, write_set_start};
use super::new_file::{NewFile, Segment};
use super::records::Records;
use super::{Addition, CommitPoint, Fsync, Journal};
use crate::limits::VALUE_BLOCK_BYTES;
use crate::util::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::util::sync::lock;
use crate::value::{Long, Value};

/// Names and files, none of which outlives the value.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    names: Mutex<BTreeMap<PathBuf, Arc<MemoryFile>>>,
    inodes: AtomicU64,
    faults: Faults,
}

/// Which call fails next: the one after so many others, 0 for none.
#[derive(Debug, Default)]
struct Faults {
    append: AtomicUsize,
    sync: AtomicUsize,
}

/// Counts one call down, and fails if it was the last.
fn pass(countdown: &AtomicUsize) -> io::Result<()> {
    let less = |left: usize| left.checked_sub(1);
    match countdown.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
        Ok(1) => Err(io::Error::other("injected")),
        _ => Ok(()),
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    inode: u64,
    bytes: Mutex<Vec<u8>>,
    /// How many of them a power cut leaves.
    synced: AtomicUsize,
    is_appending: AtomicBool,
}

impl MemoryDisk {
    /// A new data file at `path`, ready for a journal.
    pub fn create_data_file(&self, path: &Path) -> Segment {
        let draft = NewFile::create(Arc::new(self.clone()), path.with_extension("new"), None);
        draft.unwrap().link(path).unwrap()
    }

    /// The `count`th append from now on writes half of its bytes and fails.
    pub fn fail_append(&self, count: usize) {
        self.0.faults.append.store(count, Ordering::SeqCst);
    }

    /// The `count`th sync from now on fails.
    pub fn fail_sync(&self, count: usize) {
        self.0.faults.sync.store(count, Ordering::SeqCst);
    }

    /// The bytes of the file at `path`.
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        lock(&self.file(path).unwrap().bytes).clone()
    }

    /// The bytes of the file at `path` that a power cut leaves.
    pub fn durable_bytes(&self, path: &Path) -> Vec<u8> {
        let file = self.file(path).unwrap();
        let synced = file.synced.load(Ordering::SeqCst);
        let mut bytes = lock(&file.bytes).clone();
        bytes.truncate(synced);
        bytes
    }

    /// Gives `file` the name `path`, unless another has it.
    fn name(&self, path: &Path, file: &Arc<MemoryFile>) -> io::Result<()> {
        match lock(&self.0.names).entry(path.to_owned()) {
            Entry::Vacant(vacant) => {
                vacant.insert(Arc::clone(file));
                Ok(())
            }
            Entry::Occupied(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    fn file(&self, path: &Path) -> io::Result<Arc<MemoryFile>> {
        let names = lock(&self.0.names);
        names.get(path).map(Arc::clone).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(path)?)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::new(MemoryFile {
            disk: self.clone(),
            inode: self.0.inodes.fetch_add(1, Ordering::SeqCst),
            bytes: Mutex::default(),
            synced: AtomicUsize::new(0),
            is_appending: AtomicBool::new(false),
        });
        self.name(path, &file)?;
        Ok(file)
    }

    fn status(&self, path: &Path) -> io::Result<Status> {
        self.file(path)?.status()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.name(to, &self.file(from)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let file = self.file(from)?;
        let mut names = lock(&self.0.names);
        names.remove(from);
        names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = lock(&self.0.names).remove(path);
        removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(lock(&self.0.names).keys().cloned().collect())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn room(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = lock(&self.bytes);
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        assert!(!self.is_appending.swap(true, Ordering::SeqCst), "one leader at a time");
        let passed = pass(&self.disk.0.faults.append);
        let count = if passed.is_ok() { bytes.len() } else { bytes.len() / 2 };
        lock(&self.bytes).extend_from_slice(&bytes[..count]);
        self.is_appending.store(false, Ordering::SeqCst);
        passed
    }

    fn rewrite_in_place(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        lock(&self.bytes).truncate(length as usize);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let length = lock(&self.bytes).len();
        pass(&self.disk.0.faults.sync)?;
        self.synced.store(length, Ordering::SeqCst);
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn status(&self) -> io::Result<Status> {
        let names = lock(&self.disk.0.names);
        let links = names.values().filter(|file| file.inode == self.inode).count() as u64;
        let length = lock(&self.bytes).len() as u64;
        Ok(Status { identity: (1, self.inode), links, length, mode: 0o600, owner: (0, 0) })
    }

    fn copy_metadata(&self, _: &Status) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// Where the data file of the tests is.
pub const PATH: &str = "/donnees.txt";

/// A journal of a new data file at [`PATH`].
pub fn open(disk: &MemoryDisk, fsync: Fsync) -> Journal {
    let segment = disk.create_data_file(Path::new(PATH));
    Journal::new(Arc::new(disk.clone()), PATH.into(), fsync, segment)
}

/// Appends one record.
pub fn append(journal: &Journal, records: &mut Records) -> CommitPoint {
    let addition = Addition { records, count: 1, databases: (0, 0), garbage: 0, flush: None };
    let epoch = journal.epoch();
    CommitPoint { sequence: journal.append(addition).unwrap(), epoch }
}

/// Appends a `SET` of a key.
pub fn append_set(journal: &Journal, key: &str) -> CommitPoint {
    let mut records = Records::default();
    write_set(key.as_bytes(), b"1", None, records.tail());
    append(journal, &mut records)
}

/// The lines of the file at [`PATH`] that are records.
pub fn records_in_file(disk: &MemoryDisk) -> Vec<u8> {
    let bytes = disk.bytes(Path::new(PATH));
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"#")).flatten().copied().collect()
}

/// A long value with bytes that are escaped, and its bytes.
pub fn long_value() -> (Arc<Long>, Vec<u8>) {
    let bytes: Vec<u8> = "né\n\0".bytes().cycle().take(12 * VALUE_BLOCK_BYTES + 7).collect();
    let Value::Long(long) = Value::copy_of(&bytes).unwrap() else { panic!("a short value") };
    (long, bytes)
}

/// A `SET` that refers to the first bytes of `value`.
pub fn set_long(value: &Arc<Long>, length: usize) -> Records {
    let mut records = Records::default();
    write_set_start(b"k", records.tail());
    records.push_value(Arc::clone(value), 0..length);
    write_set_end(None, records.tail());
    records
}
