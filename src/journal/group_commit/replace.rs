//! What happens to the data file as a whole: it is cut back after a failed write, replaced by a complete
//! new one after worse, or by a smaller one when it is compacted.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, MutexGuard};

use super::{Failure, Journal, Remedy, State, WriteRefused};
use crate::journal::disk::{self, DiskFile};
use crate::journal::format::SEAL_START;
use crate::journal::new_file::{Draft, Segment, Unpublished};
use crate::journal::recovery::{COMPACTING, HEALING, copy_lines, holder};
use crate::util::sync::{AbortOnPanic, lock, wait};

/// Why the data file was not replaced. It goes on as it was.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The journal failed, or stops.
    #[error(transparent)]
    Refused(#[from] WriteRefused),
    /// What was copied of two databases is worth nothing.
    #[error("databases were swapped meanwhile")]
    Swapped,
    /// It would make a flush final that can be undone for an hour.
    #[error("a FLUSHALL or FLUSHDB came meanwhile, which can be undone for an hour")]
    Flushed,
}

/// What a new file means for a flush that can be undone by removing its line from the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flushing {
    /// It becomes final: a user asked for the new file.
    Final,
    /// There is none; one that comes while the new file is written ends that.
    GivesUp,
    /// The old file, which has it, is kept under this name, also if another comes meanwhile.
    Keeps(PathBuf),
}

/// What is committed to the file while a new one is being written. It is read back from the old file:
/// no memory is taken, however much it is.
#[derive(Debug)]
pub struct Tee<'a> {
    journal: &'a Journal,
    /// How often the journal had been healed at the beginning.
    healed: u64,
    /// Where what the new file does not have begins, in the old file, in bytes.
    copied: u64,
    /// How many flushes had been committed at the beginning.
    flushes: u64,
    flushing: Flushing,
}

impl Tee<'_> {
    /// Adds to `draft` what was committed since this was last called, and returns its length in bytes;
    /// an error once the journal has failed.
    pub fn drain(&mut self, draft: &mut Draft) -> Result<u64, SwitchError> {
        let segment = {
            let state = lock(&self.journal.state);
            self.check(&state)?;
            state.segment.clone()
        };
        Ok(self.copy(&segment, draft)?)
    }

    fn check(&self, state: &State) -> Result<(), WriteRefused> {
        state.check()?;
        match state.teed && self.healed == self.journal.healed() {
            true => Ok(()),
            // It failed and was healed meanwhile.
            false => Err(state.reason.clone()),
        }
    }

    fn copy(&mut self, segment: &Segment, draft: &mut Draft) -> io::Result<u64> {
        let range = self.copied..segment.end;
        copy_records(&*segment.file, range.clone(), draft)?;
        self.copied = range.end;
        Ok(range.end - range.start)
    }
}

/// Copies lines of batches that were just written, without their seals.
fn copy_records(file: &dyn DiskFile, range: Range<u64>, draft: &mut Draft) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    copy_lines(disk::read(file, range), draft, |line| !line.starts_with(SEAL_START.as_bytes()))
}

impl Drop for Tee<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.journal.state);
        if self.healed == self.journal.healed() {
            state.teed = false;
        }
    }
}

impl Journal {
    /// Waits until nobody writes or syncs, and keeps it so until it is [released](Self::release).
    fn reserve(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        while state.reserved {
            state = wait(&self.rested, state);
        }
        state.reserved = true;
        while state.writing || state.syncing {
            state = wait(&self.rested, state);
        }
        state
    }

    fn release(&self, state: &mut State) {
        state.reserved = false;
        self.rested.notify_all();
        self.woken.iter().for_each(Condvar::notify_one);
    }

    /// After a failed write: cuts off what was written of the batch, and says whether that was enough.
    /// It is not where an fsync failed or somebody else was at the file: then only a new one helps.
    pub fn cut_back(&self) -> bool {
        let mut state = self.reserve();
        if state.trouble != Some(Remedy::CutBack) {
            self.release(&mut state);
            return false;
        }
        let segment = state.segment.clone();
        drop(state);
        // Synced: else a power cut could mix what was cut off into what comes in its place.
        let cut = segment.file.cut(segment.end).and_then(|()| segment.file.sync_data());
        let cut = cut.map_err(Failure::Sync).and_then(|()| self.look(&segment, segment.end));
        let mut state = lock(&self.state);
        self.release(&mut state);
        match &cut {
            Ok(()) => state.segment.synced = segment.last,
            Err(failure) => self.fail(&mut state, failure),
        }
        cut.is_ok()
    }

    /// The file is well again, and memory is what was committed: takes writes again.
    pub fn resume(&self) {
        let mut state = lock(&self.state);
        (state.trouble, state.unproven) = (None, true);
        state.safe = state.safe_when_failed;
        self.healed.fetch_add(1, Ordering::Release);
        self.refusing.store(state.closing, Ordering::Release);
    }

    /// From here on what is committed is needed by a new file too; one may be under way at a time.
    pub fn tee(&self, flushing: Flushing) -> Result<Tee<'_>, WriteRefused> {
        let mut state = lock(&self.state);
        state.check()?;
        if state.teed {
            return Err(WriteRefused("a rewrite is under way".into()));
        }
        state.teed = true;
        let (copied, flushes) = (state.segment.end, state.flushes);
        Ok(Tee { journal: self, healed: self.healed(), copied, flushes, flushing })
    }

    /// A draft of a compacted file beside this one, of the same mode and owner.
    pub fn draft(&self) -> io::Result<Draft> {
        self.draft_called(COMPACTING)
    }

    /// The same to heal this one: a compaction that has not noticed yet may still have its own.
    pub fn healing_draft(&self) -> io::Result<Draft> {
        self.draft_called(HEALING)
    }

    fn draft_called(&self, suffix: &str) -> io::Result<Draft> {
        let file = Arc::clone(&lock(&self.state).segment.file);
        let name = disk::beside(&self.path, suffix);
        Draft::create(Arc::clone(&self.disk), name, Some(&file.status()?))
    }

    /// Puts what `write` writes in the place of the file, and closes: nobody else uses the journal.
    pub fn rewrite(&self, write: impl FnOnce(&mut Draft) -> io::Result<()>) -> io::Result<()> {
        let refused = |refused: WriteRefused| io::Error::other(refused.to_string());
        let (tee, mut draft) = (self.tee(Flushing::Final).map_err(refused)?, self.draft()?);
        write(&mut draft)?;
        self.switch(draft, tee).map_err(|error| io::Error::other(error.to_string()))?;
        self.close().map_err(refused)
    }

    /// Before a rewrite in trouble: what stands in the file's place and is not what was committed is
    /// somebody's work. It keeps a name of its own.
    pub fn set_strangers_aside(&self) -> io::Result<()> {
        let (segment, trouble) = {
            let state = lock(&self.state);
            (state.segment.clone(), state.trouble)
        };
        let status = match self.disk.look(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let is_ours = status.identity == segment.identity;
        if is_ours && trouble != Some(Remedy::RewriteBeside) {
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
                return match self.disk.look(&aside)?.identity == status.identity {
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

    /// In trouble, when memory is what was committed and nothing is appended: puts `draft`, which holds
    /// all of it, in the place of the file.
    pub fn replace(&self, draft: Draft) -> Result<(), SwitchError> {
        let mut state = self.reserve();
        if state.trouble.is_none() {
            self.release(&mut state);
            return Err(io::Error::other("it is well already").into());
        }
        drop(state);
        let published = draft.replace(&self.path);
        let mut state = lock(&self.state);
        let (segment, outcome) = match published {
            Ok(segment) => (Some(segment), Ok(())),
            Err(Unpublished::Before(error)) => (None, Err(error.into())),
            Err(Unpublished::After(segment, error)) => (Some(*segment), Err(error.into())),
        };
        let old = segment.map(|segment| {
            // What stands there now is ours, whatever else is wrong.
            state.trouble = Some(Remedy::Rewrite);
            self.install(&mut state, segment)
        });
        self.release(&mut state);
        drop(state);
        // Who closes a large file last frees its blocks: not with the lock held.
        drop(old);
        outcome
    }

    /// Puts `draft`, which holds what was copied since `tee` began, in the place of the file, after the
    /// rest of the tee and what is pending now was added to it. Writers wait meanwhile; if it fails, the
    /// old file takes what is pending.
    pub fn switch(&self, mut draft: Draft, mut tee: Tee<'_>) -> Result<(), SwitchError> {
        let mut state = self.reserve();
        if let Err(refused) = tee.check(&state) {
            self.release(&mut state);
            return Err(refused.into());
        }
        let is_flushed = state.flushes != tee.flushes || state.pending.flush.is_some();
        if is_flushed && tee.flushing == Flushing::GivesUp {
            self.release(&mut state);
            return Err(SwitchError::Flushed);
        }
        let old = state.segment.clone();
        let mut batch = state.take_batch();
        drop(state);
        let guard = AbortOnPanic;
        let (mut state, outcome) = match self.look(&old, old.end) {
            // What stands there is somebody's work.
            Err(astray) => {
                let error = io::Error::other(astray.to_string());
                (self.conclude(lock(&self.state), batch, Err(astray)), Err(error))
            }
            Ok(()) => {
                let added = tee.copy(&old, &mut draft);
                draft.select(0);
                let added = added.and_then(|_| {
                    let mut count = batch.count;
                    batch.records.write_to(|text| draft.add(text, std::mem::take(&mut count)))
                });
                let added = added.and_then(|()| self.keep_beside(&tee, &old));
                let published = added.map_err(Unpublished::Before);
                match published.and_then(|()| draft.replace(&self.path)) {
                    Ok(segment) => {
                        batch.free_records();
                        let mut state = lock(&self.state);
                        self.install(&mut state, segment);
                        self.count(&mut state, &batch);
                        // A flush that was pending is in this file, but not what it removed.
                        state.flush = None;
                        self.acknowledge(&state, batch.stamp);
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
        // Who closes a large file last frees its blocks: not with the lock held.
        drop(old);
        outcome.map_err(SwitchError::from)
    }

    /// Gives the file, which is `old`, the second name that `tee` asks for, if it does.
    fn keep_beside(&self, tee: &Tee<'_>, old: &Segment) -> io::Result<()> {
        let Flushing::Keeps(name) = &tee.flushing else { return Ok(()) };
        match self.disk.link(&self.path, name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // An earlier try made it, or there was another flush in the same second.
                if self.disk.look(name)?.identity != old.identity {
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
        // What a flush removed is not in the new one.
        state.flush = None;
        self.bytes.store(segment.end, Ordering::Relaxed);
        self.seal_bytes.store(0, Ordering::Relaxed);
        std::mem::replace(&mut state.segment, segment)
    }
}
