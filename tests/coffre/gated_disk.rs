//! A disk on which appends to the data file and its fsyncs wait at gates.

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use coffre::journal::disk::{Disk, DiskFile, Status};

use crate::harness::wait_until;
use crate::simulated_disk::{Plan, SimulatedDisk};

/// Every call but those at a [`Gate`] goes to the disk behind it at once.
#[derive(Clone, Debug)]
pub struct GatedDisk {
    pub disk: SimulatedDisk,
    pub gates: Arc<Gates>,
}

/// Files that are written to take the data file's place have none.
#[derive(Debug, Default)]
pub struct Gates {
    pub append: Gate,
    pub sync: Gate,
}

/// Holds up calls while it is shut, and says how the first that waits then ends.
#[derive(Debug, Default)]
pub struct Gate {
    is_shut: AtomicBool,
    is_reached: AtomicBool,
    /// The system's error code; 0 is success.
    code: AtomicI32,
}

impl Gate {
    pub fn shut(&self) {
        self.is_reached.store(false, Ordering::SeqCst);
        self.is_shut.store(true, Ordering::SeqCst);
    }

    pub fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::SeqCst)
    }

    /// Lets the call that waits here go on, and end with `code`.
    pub fn open(&self, code: i32) {
        self.code.store(code, Ordering::SeqCst);
        self.is_shut.store(false, Ordering::SeqCst);
    }

    pub fn await_call(&self) {
        wait_until("a call is at the gate", || self.is_reached.load(Ordering::SeqCst));
    }

    /// Makes a call of the disk once the gate is open.
    fn pass<T>(&self, disk: &SimulatedDisk, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if !self.is_shut() {
            return call();
        }
        self.is_reached.store(true, Ordering::SeqCst);
        // As long as the test likes: some measure what happens meanwhile by the millisecond.
        while self.is_shut() {
            std::thread::sleep(Duration::from_micros(200));
        }
        let code = self.code.swap(0, Ordering::SeqCst);
        if code != 0 {
            let at = disk.calls() + 1;
            disk.set_plan(Plan { failing: Some((at, at + 1, code)), ..Plan::default() });
        }
        call()
    }
}

#[derive(Debug)]
struct GatedFile {
    file: Arc<dyn DiskFile>,
    disk: GatedDisk,
    is_rewrite: bool,
}

impl GatedDisk {
    pub fn new() -> Self {
        Self { disk: SimulatedDisk::new(1), gates: Arc::default() }
    }

    fn gated(&self, file: Arc<dyn DiskFile>, path: &Path) -> Arc<dyn DiskFile> {
        let extension = path.extension().and_then(OsStr::to_str);
        let is_rewrite = matches!(extension, Some("tmp" | "heal"));
        Arc::new(GatedFile { file, disk: self.clone(), is_rewrite })
    }
}

impl GatedFile {
    fn pass<T>(&self, gate: &Gate, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.is_rewrite { call() } else { gate.pass(&self.disk.disk, call) }
    }
}

impl Disk for GatedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.gated(self.disk.open(path)?, path))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.gated(self.disk.create(path)?, path))
    }
    fn status(&self, path: &Path) -> io::Result<Status> {
        self.disk.status(path)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(folder)
    }
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.disk.sync_folder(folder)
    }
    fn room(&self, folder: &Path) -> io::Result<u64> {
        self.disk.room(folder)
    }
}

impl DiskFile for GatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.pass(&self.disk.gates.append, || self.file.append(bytes))
    }
    fn rewrite_in_place(&self, range: Range<u64>) -> io::Result<()> {
        self.file.rewrite_in_place(range)
    }
    fn cut(&self, length: u64) -> io::Result<()> {
        self.file.cut(length)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.pass(&self.disk.gates.sync, || self.file.sync_data())
    }
    fn sync_all(&self) -> io::Result<()> {
        self.pass(&self.disk.gates.sync, || self.file.sync_all())
    }
    fn status(&self) -> io::Result<Status> {
        self.file.status()
    }
    fn copy_metadata(&self, other: &Status) -> io::Result<()> {
        self.file.copy_metadata(other)
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }
}
