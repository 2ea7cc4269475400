//! Changes of the data file as a whole: it is cut back after a failed write, replaced by a complete new file after a
//! failed fsync or when another process changed it, and replaced by a smaller one when it is compacted.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::disk::{self, DiskFile};
use super::fault::{Failure, WriteRefused};
use super::format::SEAL_START;
use super::group_commit::{Journal, State};
use super::new_file::{NewFile, Segment, Unpublished};
use super::phase::{Event, Repair};
use super::recovery::{COMPACTING, HEALING, copy_lines, holder};
use crate::util::sync::atomic::Ordering;
use crate::util::sync::{AbortOnPanic, MutexGuard, Waiters, lock};

/// Why the data file was not replaced. It goes on as it was.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The journal is faulted or closing.
    #[error(transparent)]
    Refused(#[from] WriteRefused),
    /// The new file may hold the keys of two databases under each other's number.
    #[error("databases were swapped meanwhile")]
    Swapped,
    /// The new file would make a flush final that can be undone for an hour.
    #[error("a FLUSHALL or FLUSHDB came meanwhile, which can be undone for an hour")]
    Flushed,
}

/// What a new file means for a flush that can be undone by removing its line from the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flushing {
    /// The flush becomes final: a user asked for the new file.
    Final,
    /// There is no flush; one that is committed while the new file is written makes the replacement fail.
    GivesUp,
    /// The old file, which has the flush, is kept under this name, also if another flush is committed meanwhile.
    Keeps(PathBuf),
}

/// Reads what is committed to the old file while a new one is being written, and adds it to the new one. It reads the
/// old file itself, so it takes no memory however much that is.
#[derive(Debug)]
pub struct TailReader<'a> {
    journal: &'a Journal,
    /// The journal's epoch at the beginning.
    epoch: u64,
    /// Up to where in the old file the new one has everything, in bytes.
    copied: u64,
    /// How many flushes had been committed at the beginning.
    flushes: u64,
    flushing: Flushing,
}

impl TailReader<'_> {
    /// Adds to `new` what was committed since the last call, and returns its length in bytes; an error once the
    /// journal was faulted.
    pub fn drain(&mut self, new: &mut NewFile) -> Result<u64, SwitchError> {
        let segment = {
            let state = lock(&self.journal.state);
            self.check(&state)?;
            state.segment.clone()
        };
        Ok(self.copy(&segment, new)?)
    }

    fn check(&self, state: &State) -> Result<(), WriteRefused> {
        state.check()?;
        match state.has_tail_reader && self.epoch == self.journal.epoch() {
            true => Ok(()),
            // It was faulted and repaired meanwhile.
            false => Err(state.reason.clone()),
        }
    }

    fn copy(&mut self, segment: &Segment, new: &mut NewFile) -> io::Result<u64> {
        let range = self.copied..segment.end;
        copy_records(&*segment.file, range.clone(), new)?;
        self.copied = range.end;
        Ok(range.end - range.start)
    }
}

/// Copies lines of batches that were just written, without their seals.
fn copy_records(file: &dyn DiskFile, range: Range<u64>, new: &mut NewFile) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    copy_lines(disk::read(file, range), new, |line| !line.starts_with(SEAL_START.as_bytes()))
}

impl Drop for TailReader<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.journal.state);
        if self.epoch == self.journal.epoch() {
            state.has_tail_reader = false;
        }
    }
}

impl Journal {
    /// Waits until no write and no sync is under way, and lets none begin until [`release`](Self::release).
    fn reserve(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        while state.phase.is_reserved() {
            state = self.idle.wait(state);
        }
        state.enter(Event::Reserve);
        while state.phase.is_working() {
            state = self.idle.wait(state);
        }
        state
    }

    fn release(&self, state: &mut State) {
        state.enter(Event::Release);
        self.idle.notify_all();
        self.woken.iter().for_each(Waiters::notify_one);
    }

    /// After a failed write: cuts off what was written of the batch, and says whether that repaired the file. It does
    /// not where an fsync failed or another process changed the file: then only a new file helps.
    pub fn cut_back(&self) -> bool {
        let mut state = self.reserve();
        if state.phase.fault() != Some(Repair::CutBack) {
            self.release(&mut state);
            return false;
        }
        let segment = state.segment.clone();
        drop(state);
        // Synced, or a power cut could mix what was cut off into what is written in its place.
        let cut = segment.file.cut(segment.end).and_then(|()| segment.file.sync_data());
        let cut = cut.map_err(Failure::Sync).and_then(|()| self.verify(&segment, segment.end));
        let mut state = lock(&self.state);
        self.release(&mut state);
        match &cut {
            Ok(()) => state.segment.synced = segment.last,
            Err(failure) => self.fail(&mut state, failure),
        }
        cut.is_ok()
    }

    /// Begins to follow what is committed, for a new file; one new file may be under way at a time.
    pub fn tail_reader(&self, flushing: Flushing) -> Result<TailReader<'_>, WriteRefused> {
        let mut state = lock(&self.state);
        state.check()?;
        if state.has_tail_reader {
            return Err(WriteRefused::new("a rewrite is under way"));
        }
        state.has_tail_reader = true;
        let (copied, flushes) = (state.segment.end, state.flushes);
        Ok(TailReader { journal: self, epoch: self.epoch(), copied, flushes, flushing })
    }

    /// A new file beside this one for a compaction, of the same mode and owner.
    pub fn new_file(&self) -> io::Result<NewFile> {
        self.create_beside(COMPACTING)
    }

    /// The same for a repair, under another name: a compaction that has not yet noticed the fault may hold its own.
    pub fn repair_file(&self) -> io::Result<NewFile> {
        self.create_beside(HEALING)
    }

    fn create_beside(&self, suffix: &str) -> io::Result<NewFile> {
        let file = Arc::clone(&lock(&self.state).segment.file);
        let name = disk::beside(&self.path, suffix);
        NewFile::create(Arc::clone(&self.disk), name, Some(&file.status()?))
    }

    /// Puts what `write` writes in the place of the file, and closes. No other thread may use the journal.
    pub fn rewrite(&self, write: impl FnOnce(&mut NewFile) -> io::Result<()>) -> io::Result<()> {
        let refused = |refused: WriteRefused| io::Error::other(refused.to_string());
        let (tail, mut new) =
            (self.tail_reader(Flushing::Final).map_err(refused)?, self.new_file()?);
        write(&mut new)?;
        self.switch(new, tail).map_err(|error| io::Error::other(error.to_string()))?;
        self.close().map_err(refused)
    }

    /// Before a repair replaces the file: gives a second name to a file that another process put in its place or changed,
    /// so that its content is kept.
    pub fn keep_foreign_file(&self) -> io::Result<()> {
        let (segment, fault) = {
            let state = lock(&self.state);
            (state.segment.clone(), state.phase.fault())
        };
        let status = match self.disk.status(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let is_ours = status.identity == segment.identity;
        if is_ours && fault != Some(Repair::RewriteBeside) {
            return Ok(());
        }
        if !is_ours
            && let Ok(found) = self.disk.open(&self.path)
            // A link to our own file may stand there.
            && found.status()?.identity != segment.identity
            && !found.try_lock()?
        {
            let holder = holder(&found.status()?);
            let holder = holder.as_deref().unwrap_or("another process");
            let error = format!("{holder} holds the file that has taken the data file's name");
            return Err(io::Error::other(error));
        }
        let aside = disk::beside(&self.path, &format!(".aside-{}", status.identity.1));
        match self.disk.link(&self.path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // An earlier try made it, if it is this file.
                return match self.disk.status(&aside)?.identity == status.identity {
                    true => Ok(()),
                    false => Err(error),
                };
            }
            other => other?,
        }
        log::warn!(
            "{}: what stands there is not what was committed: it is kept as {}",
            self.path.display(),
            aside.display()
        );
        Ok(())
    }

    /// While faulted, when memory holds exactly what was committed: puts `new`, which holds all of it, in the place of
    /// the file.
    pub fn replace(&self, new: NewFile) -> Result<(), SwitchError> {
        let mut state = self.reserve();
        if state.phase.fault().is_none() {
            self.release(&mut state);
            return Err(io::Error::other("the journal is not faulted").into());
        }
        drop(state);
        let published = new.replace(&self.path);
        let mut state = lock(&self.state);
        let (segment, outcome) = match published {
            Ok(segment) => (Some(segment), Ok(())),
            Err(Unpublished::Before(error)) => (None, Err(error.into())),
            Err(Unpublished::After(segment, error)) => (Some(*segment), Err(error.into())),
        };
        let old = segment.map(|segment| {
            // The file at the path is ours now, whatever else is wrong.
            state.enter(Event::Install);
            self.install(&mut state, segment)
        });
        self.release(&mut state);
        drop(state);
        // The last close of a large file frees its blocks, which takes time: not with the lock held.
        drop(old);
        outcome
    }

    /// Adds to `new` the rest of `tail` and the pending batch, and puts it in the place of the file. Writers wait
    /// meanwhile; if it fails, the pending batch is written to the old file.
    pub fn switch(&self, mut new: NewFile, mut tail: TailReader<'_>) -> Result<(), SwitchError> {
        let mut state = self.reserve();
        if let Err(refused) = tail.check(&state) {
            self.release(&mut state);
            return Err(refused.into());
        }
        let is_flushed = state.flushes != tail.flushes || state.pending.has_flush();
        if is_flushed && tail.flushing == Flushing::GivesUp {
            self.release(&mut state);
            return Err(SwitchError::Flushed);
        }
        let old = state.segment.clone();
        let mut batch = state.take_batch();
        drop(state);
        let guard = AbortOnPanic;
        let (mut state, outcome) = match self.verify(&old, old.end) {
            // The file at the path is another process's.
            Err(replaced) => {
                let error = io::Error::other(replaced.to_string());
                (self.conclude(lock(&self.state), batch, Err(replaced)), Err(error))
            }
            Ok(()) => {
                let added = tail.copy(&old, &mut new);
                new.select(0);
                let added = added.and_then(|_| {
                    let mut count = batch.count;
                    batch.records.write_to(|text| new.add(text, std::mem::take(&mut count)))
                });
                let added = added.and_then(|()| self.keep_beside(&tail, &old));
                let published = added.map_err(Unpublished::Before);
                match published.and_then(|()| new.replace(&self.path)) {
                    Ok(segment) => {
                        batch.free_records();
                        let mut state = lock(&self.state);
                        self.install(&mut state, segment);
                        self.count(&mut state, &batch);
                        // A flush that was pending is in this file; the keys it removed are not.
                        state.flush = None;
                        self.acknowledge(&state, batch.sequence);
                        self.finish(&mut state, batch);
                        (state, Ok(()))
                    }
                    Err(Unpublished::Before(error)) => {
                        let written = self.write(&old, &mut batch);
                        (self.conclude(lock(&self.state), batch, written), Err(error))
                    }
                    Err(Unpublished::After(segment, error)) => {
                        let mut state = lock(&self.state);
                        self.install(&mut state, *segment);
                        let told = io::Error::other(error.to_string());
                        (self.conclude(state, batch, Err(Failure::Sync(error))), Err(told))
                    }
                }
            }
        };
        std::mem::forget(guard);
        self.release(&mut state);
        drop(state);
        // The last close of a large file frees its blocks, which takes time: not with the lock held.
        drop(old);
        outcome.map_err(SwitchError::from)
    }

    /// Gives the file, which is `old`, the second name that `tail` asks for, if it does.
    fn keep_beside(&self, tail: &TailReader<'_>, old: &Segment) -> io::Result<()> {
        let Flushing::Keeps(name) = &tail.flushing else { return Ok(()) };
        match self.disk.link(&self.path, name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // An earlier try made it, or there was another flush in the same second.
                if self.disk.status(name)?.identity != old.identity {
                    self.disk.remove(name)?;
                    self.disk.link(&self.path, name)?;
                }
                Ok(())
            }
            linked => linked,
        }
    }

    /// The file is another one now; returns the old.
    fn install(&self, state: &mut State, segment: Segment) -> Segment {
        // The keys that a flush removed are not in the new file.
        state.flush = None;
        self.bytes.store(segment.end, Ordering::Relaxed);
        self.seal_bytes.store(0, Ordering::Relaxed);
        std::mem::replace(&mut state.segment, segment)
    }
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::journal::disk::Disk;
    use crate::journal::format::write_set;
    use crate::journal::memory_disk::{
        MemoryDisk, PATH, append, append_set, long_value, open, records_in_file, set_long,
    };
    use crate::journal::records::Records;
    use crate::journal::{Addition, Flush, Fsync};

    /// What is pending when a compaction ends is written to the new file, or to the old one if that fails.
    #[test]
    fn a_compaction_takes_the_long_values_that_are_pending() {
        let (value, bytes) = long_value();
        let mut expected = Vec::new();
        write_set(b"k", &bytes, None, &mut expected);
        for failing in [0, 3] {
            let disk = MemoryDisk::default();
            let journal = open(&disk, Fsync::Always);
            let tail = journal.tail_reader(Flushing::Final).unwrap();
            let new = journal.new_file().unwrap();
            let point = append(&journal, &mut set_long(&value, bytes.len()));
            disk.fail_append(failing);
            assert_eq!(journal.switch(new, tail).is_ok(), failing == 0);
            assert!(journal.is_committed(point));
            assert!(records_in_file(&disk) == expected);
            assert_eq!(disk.bytes(Path::new(PATH)).len() as u64, journal.bytes());
            let file = disk.bytes(Path::new(PATH));
            let last = file.strip_suffix(b"\n").unwrap().rsplit(|byte| *byte == b'\n').next();
            assert!(last.unwrap().starts_with(SEAL_START.as_bytes()));
            assert_eq!(disk.durable_bytes(Path::new(PATH)).len(), file.len());
        }
    }

    /// A file of which an fsync failed is not cut back: only a new one will do.
    #[test]
    fn after_a_failed_fsync_only_a_new_file_will_do() {
        let disk = MemoryDisk::default();
        let journal = open(&disk, Fsync::Always);
        let mut records = Records::default();
        write_set(b"k", b"1", None, records.tail());
        let point = append(&journal, &mut records);
        disk.fail_sync(1);
        assert!(journal.commit(point).is_err());
        let length = disk.bytes(Path::new(PATH)).len();
        assert!(!journal.cut_back());
        assert_eq!(disk.bytes(Path::new(PATH)).len(), length);
        journal.replace(journal.repair_file().unwrap()).unwrap();
        journal.resume();
        assert!(!journal.is_committed(point));
        journal.commit(append(&journal, &mut records)).unwrap();
        assert_eq!(records_in_file(&disk), b"SET k 1\n");
    }

    #[test]
    fn a_tail_reader_gives_up_once_there_was_a_fault() {
        let disk = MemoryDisk::default();
        let journal = open(&disk, Fsync::Always);
        let start = journal.bytes();
        let mut tail = journal.tail_reader(Flushing::Final).unwrap();
        assert!(journal.tail_reader(Flushing::Final).is_err(), "one at a time");
        let mut new = journal.new_file().unwrap();
        journal.commit(append_set(&journal, "a")).unwrap();
        assert_eq!(tail.drain(&mut new).unwrap(), journal.bytes() - start);
        disk.fail_append(2);
        assert!(journal.commit(append_set(&journal, "b")).is_ok());
        assert!(journal.commit(append_set(&journal, "c")).is_err());
        assert!(tail.drain(&mut new).is_err());
        assert!(journal.cut_back());
        journal.resume();
        assert!(tail.drain(&mut new).is_err(), "it is of another epoch");
        assert!(journal.switch(new, tail).is_err());
        let next = journal.tail_reader(Flushing::Final).unwrap();
        journal.switch(journal.new_file().unwrap(), next).unwrap();
        assert_eq!(records_in_file(&disk), b"");
    }

    #[test]
    fn a_flush_during_a_compaction_ends_it_or_keeps_the_old_file() {
        for flushing in [Flushing::GivesUp, Flushing::Keeps("/kept".into()), Flushing::Final] {
            let disk = MemoryDisk::default();
            let journal = open(&disk, Fsync::Always);
            journal.commit(append_set(&journal, "a")).unwrap();
            let old = disk.bytes(Path::new(PATH));
            let tail = journal.tail_reader(flushing.clone()).unwrap();
            let mut records = Records::default();
            records.tail().extend_from_slice(b"FLUSHALL\n");
            let flush = Some(Flush { time_s: 1, bytes: 8 });
            let databases = (0, 0);
            let addition =
                Addition { records: &mut records, count: 1, databases, garbage: 0, flush };
            journal.append(addition).unwrap();
            let switched = journal.switch(journal.new_file().unwrap(), tail);
            let is_flushed = matches!(switched, Err(SwitchError::Flushed));
            assert_eq!(is_flushed, flushing == Flushing::GivesUp);
            let kept = disk.open(Path::new("/kept")).map(|_| disk.bytes(Path::new("/kept")));
            match flushing {
                Flushing::Keeps(_) => assert_eq!(kept.unwrap(), old),
                _ => assert!(kept.is_err()),
            }
            assert!(journal.check().is_ok());
        }
    }

    #[test]
    fn a_foreign_file_is_kept_before_a_repair_takes_its_place() {
        let disk = MemoryDisk::default();
        let journal = open(&disk, Fsync::Always);
        let foreign = disk.create(Path::new("/foreign")).unwrap();
        foreign.append(b"precious\n").unwrap();
        disk.rename(Path::new("/foreign"), Path::new(PATH)).unwrap();
        assert!(journal.commit(append_set(&journal, "a")).is_err());
        assert!(!journal.cut_back(), "cutting back is not enough");
        for _ in 0..2 {
            journal.keep_foreign_file().unwrap();
        }
        journal.replace(journal.repair_file().unwrap()).unwrap();
        assert!(journal.is_faulted(), "memory is not repaired yet");
        journal.resume();
        journal.commit(append_set(&journal, "b")).unwrap();
        assert_eq!(records_in_file(&disk), b"SET b 1\n");
        let names = disk.list(Path::new("/")).unwrap();
        let aside = names.iter().find(|name| name.to_string_lossy().contains(".aside-"));
        assert_eq!(disk.bytes(aside.unwrap()), b"precious\n");
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(journal.replace(journal.new_file().unwrap()).is_err(), "there is no fault");
        assert!(journal.check().is_ok());
    }
}
