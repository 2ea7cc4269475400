//! A disk in memory that does what disks may do: what was not synced is, after a power cut, there or
//! lost or garbled, each sector by itself; names come back or not; calls fail, writes stop half way, and
//! what a failed sync left unwritten stays unwritten however often it is synced again.
//!
//! Two things are taken for granted, as every log on a disk takes them: bytes that are written again
//! as they were do not change, and a synced byte stays (but for [`SimulatedDisk::rot`]).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use coffre::journal::disk::{Disk, DiskFile, Status};

/// Smaller than any disk's: more can happen in a short file.
const SECTOR: usize = 64;

/// What goes wrong, counted in calls that change or sync something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// The calls that fail.
    pub failing: Option<(u64, u64, i32)>,
    /// The call during which the machine stops: nothing happens from then on.
    pub stop_at: Option<u64>,
}

/// What the disk promises and does not do: each is what a journal without that step would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lies {
    pub about_file_syncs: bool,
    pub about_folder_syncs: bool,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// As the system shows it.
    bytes: Vec<u8>,
    /// As a power cut leaves it at the worst.
    durable: Vec<u8>,
    /// By sector: whether the system knows it is to be written.
    dirty: Vec<bool>,
    locked: bool,
    /// A sync failed since the file was opened.
    sync_failed: bool,
}

type Names = BTreeMap<PathBuf, usize>;
/// Names that change at one moment.
type NameChange = Vec<(PathBuf, Option<usize>)>;

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: Names,
    durable_names: Names,
    /// Not synced yet, in order.
    name_changes: Vec<NameChange>,
    calls: u64,
    plan: Plan,
    lies: Lies,
    random: fastrand::Rng,
    /// A file got more bytes after one of its syncs had failed.
    wrote_after_failed_sync: bool,
    /// How many more bytes it says may be written, if not any number.
    room: Option<u64>,
}

/// The disk; a clone is the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    inode: usize,
    holds_lock: Mutex<bool>,
}

fn stopped() -> io::Error {
    io::Error::other("the machine has stopped")
}

/// What becomes of a call.
enum Fate {
    Happens,
    Fails(io::Error),
    /// The machine stops in the middle of it.
    Stops,
}

impl State {
    fn call(&mut self) -> io::Result<Fate> {
        self.calls += 1;
        if let Some(stop_at) = self.plan.stop_at {
            if self.calls == stop_at {
                return Ok(Fate::Stops);
            }
            if self.calls > stop_at {
                return Err(stopped());
            }
        }
        Ok(match self.plan.failing {
            Some((from, to, code)) if (from..to).contains(&self.calls) => {
                Fate::Fails(io::Error::from_raw_os_error(code))
            }
            _ => Fate::Happens,
        })
    }

    /// A call that changes names.
    fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        match self.call()? {
            Fate::Fails(error) => return Err(error),
            // It may just have happened.
            Fate::Stops if self.random.bool() => return Err(stopped()),
            Fate::Stops | Fate::Happens => {}
        }
        for (path, inode) in &change {
            match inode {
                Some(inode) => drop(self.names.insert(path.clone(), *inode)),
                None => drop(self.names.remove(path)),
            }
        }
        self.name_changes.push(change);
        Ok(())
    }

    fn lookup(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn status(&self, inode: usize) -> Status {
        let links = self.names.values().filter(|named| **named == inode).count() as u64;
        let length = self.inodes[inode].bytes.len() as u64;
        Status { identity: (1, inode as u64), links, length, mode: 0o600, owner: (0, 0) }
    }

    /// The bytes a power cut may leave of an inode.
    fn left_of(&mut self, inode: usize) -> Vec<u8> {
        let Inode { bytes, durable, dirty, .. } = &self.inodes[inode];
        let (shorter, longer) = (bytes.len().min(durable.len()), bytes.len().max(durable.len()));
        let length = self.random.usize(shorter..=longer);
        let mut left = vec![0; length];
        for start in (0..length).step_by(SECTOR) {
            let range = start..length.min(start + SECTOR);
            let known = dirty.get(start / SECTOR).copied().unwrap_or(false);
            let chance = self.random.u8(..8);
            for index in range {
                let (old, new) = (durable.get(index).copied(), bytes.get(index).copied());
                left[index] = match (old, new) {
                    (Some(old), None) => old,
                    (old, Some(new)) if old == Some(new) => new,
                    // What the system forgot to write, or what it had not come to.
                    (old, Some(_)) if !known || chance < 3 => old.unwrap_or(0),
                    (_, Some(_)) if chance == 3 => self.random.u8(..),
                    (_, Some(new)) => new,
                    (None, None) => 0,
                };
            }
        }
        left
    }
}

impl Inode {
    fn mark_dirty(&mut self, range: Range<usize>) {
        let sectors = self.bytes.len().max(self.durable.len()).div_ceil(SECTOR);
        self.dirty.resize(sectors.max(self.dirty.len()), false);
        if !range.is_empty() {
            self.dirty[range.start / SECTOR..=(range.end - 1) / SECTOR].fill(true);
        }
    }

    /// Writes the dirty sectors that `writes` picks.
    fn sync(&mut self, mut writes: impl FnMut() -> bool) {
        self.durable.resize(self.bytes.len(), 0);
        for (number, dirty) in self.dirty.iter_mut().enumerate() {
            let range = number * SECTOR..self.bytes.len().min((number + 1) * SECTOR);
            if std::mem::take(dirty) && range.start < range.end && writes() {
                self.durable[range.clone()].copy_from_slice(&self.bytes[range]);
            }
        }
    }
}

impl SimulatedDisk {
    pub fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self(Arc::new(Mutex::new(State { random, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    pub fn set_plan(&self, plan: Plan) {
        self.state().plan = plan;
    }

    pub fn set_room(&self, bytes: u64) {
        self.state().room = Some(bytes);
    }

    pub fn set_lies(&self, lies: Lies) {
        self.state().lies = lies;
    }

    /// Whether the machine has stopped, as the plan says.
    pub fn has_stopped(&self) -> bool {
        let state = self.state();
        state.plan.stop_at.is_some_and(|stop_at| state.calls >= stop_at)
    }

    /// Whether a file got more bytes after one of its syncs had failed, since this was last asked.
    pub fn take_write_after_failed_sync(&self) -> bool {
        std::mem::take(&mut self.state().wrote_after_failed_sync)
    }

    /// What is there after a power cut: a new disk, without a plan.
    pub fn power_cut(&self) -> Self {
        let mut state = self.state();
        let inodes: Vec<_> = (0..state.inodes.len())
            .map(|inode| {
                let bytes = state.left_of(inode);
                Inode { durable: bytes.clone(), bytes, ..Inode::default() }
            })
            .collect();
        // Names change in order on a disk with a journal, and in any order by the letter of POSIX.
        let (in_order, count) = (state.random.bool(), state.name_changes.len());
        let kept = state.random.usize(..=count);
        let mut names = state.durable_names.clone();
        for number in 0..count {
            let happened = if in_order { number < kept } else { state.random.bool() };
            if happened {
                for (path, inode) in state.name_changes[number].clone() {
                    match inode {
                        Some(inode) => drop(names.insert(path, inode)),
                        None => drop(names.remove(&path)),
                    }
                }
            }
        }
        let (durable_names, lies) = (names.clone(), state.lies);
        let random = state.random.fork();
        let state = State { inodes, names, durable_names, lies, random, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The bytes of a file, if it exists.
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let inode = state.lookup(path).ok()?;
        Some(state.inodes[inode].bytes.clone())
    }

    /// Puts a file there, durably.
    pub fn write(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.inodes.len();
        let (bytes, durable) = (bytes.to_vec(), bytes.to_vec());
        state.inodes.push(Inode { bytes, durable, ..Inode::default() });
        state.names.insert(path.to_owned(), inode);
        state.durable_names.insert(path.to_owned(), inode);
    }

    /// The files there are.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }

    /// A bit of a synced byte turns over.
    pub fn rot(&self, path: &Path) {
        let mut state = self.state();
        let inode = state.lookup(path).unwrap();
        let Inode { bytes, durable, .. } = &state.inodes[inode];
        let length = bytes.len().min(durable.len());
        let (index, bit) = (state.random.usize(..length), state.random.u8(..8));
        state.inodes[inode].bytes[index] ^= 1 << bit;
        state.inodes[inode].durable[index] ^= 1 << bit;
    }

    fn file(&self, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimulatedFile { disk: self.clone(), inode, holds_lock: Mutex::new(false) })
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let inode = state.lookup(path)?;
        // A start trusts nothing and writes again what no mark covers.
        state.inodes[inode].sync_failed = false;
        drop(state);
        Ok(self.file(inode))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        if state.lookup(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.change_names(vec![(path.to_owned(), Some(inode))])?;
        drop(state);
        Ok(self.file(inode))
    }

    fn status(&self, path: &Path) -> io::Result<Status> {
        let state = self.state();
        state.lookup(path).map(|inode| state.status(inode))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.lookup(from)?;
        if state.lookup(to).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.change_names(vec![(to.to_owned(), Some(inode))])
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.lookup(from)?;
        state.change_names(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))])
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.lookup(path)?;
        state.change_names(vec![(path.to_owned(), None)])
    }

    fn list(&self, _folder: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.files())
    }

    fn sync_folder(&self, _folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        match state.call()? {
            Fate::Fails(error) => return Err(error),
            Fate::Stops => return Err(stopped()),
            Fate::Happens if state.lies.about_folder_syncs => return Ok(()),
            Fate::Happens => {}
        }
        state.durable_names = state.names.clone();
        state.name_changes.clear();
        Ok(())
    }

    fn room(&self, _folder: &Path) -> io::Result<u64> {
        Ok(self.state().room.unwrap_or(u64::MAX))
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let bytes = &state.inodes[self.inode].bytes;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let (count, error) = match state.call()? {
            Fate::Happens => (bytes.len(), None),
            Fate::Fails(error) => (state.random.usize(..bytes.len()), Some(error)),
            Fate::Stops => (state.random.usize(..=bytes.len()), Some(stopped())),
        };
        state.wrote_after_failed_sync |= state.inodes[self.inode].sync_failed;
        let inode = &mut state.inodes[self.inode];
        let start = inode.bytes.len();
        inode.bytes.extend_from_slice(&bytes[..count]);
        inode.mark_dirty(start..start + count);
        error.map_or(Ok(()), Err)
    }

    fn rewrite_in_place(&self, range: Range<u64>) -> io::Result<()> {
        let mut state = self.disk.state();
        match state.call()? {
            Fate::Happens => {}
            Fate::Fails(error) => return Err(error),
            Fate::Stops => return Err(stopped()),
        }
        let inode = &mut state.inodes[self.inode];
        inode.mark_dirty(range.start as usize..inode.bytes.len().min(range.end as usize));
        Ok(())
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        match state.call()? {
            Fate::Happens => {}
            Fate::Fails(error) => return Err(error),
            Fate::Stops if state.random.bool() => return Err(stopped()),
            Fate::Stops => {}
        }
        let inode = &mut state.inodes[self.inode];
        inode.bytes.resize(length as usize, 0);
        // What was cut off is not written any more.
        inode.dirty.truncate(inode.bytes.len().div_ceil(SECTOR));
        inode.mark_dirty(0..0);
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.disk.state();
        let state = &mut *guard;
        match state.call()? {
            Fate::Happens if state.lies.about_file_syncs => Ok(()),
            Fate::Happens => {
                state.inodes[self.inode].sync(|| true);
                Ok(())
            }
            // Some sectors were written, the others never will be.
            Fate::Fails(error) => {
                let random = &mut state.random;
                state.inodes[self.inode].sync(|| random.bool());
                state.inodes[self.inode].sync_failed = true;
                Err(error)
            }
            Fate::Stops => Err(stopped()),
        }
    }

    fn status(&self) -> io::Result<Status> {
        Ok(self.disk.state().status(self.inode))
    }

    fn copy_metadata(&self, _other: &Status) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut state = self.disk.state();
        let mut holds_lock = self.holds_lock.lock().unwrap();
        let inode = &mut state.inodes[self.inode];
        let free = *holds_lock || !inode.locked;
        if free {
            (inode.locked, *holds_lock) = (true, true);
        }
        Ok(free)
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        if *self.holds_lock.lock().unwrap() {
            self.disk.state().inodes[self.inode].locked = false;
        }
    }
}
