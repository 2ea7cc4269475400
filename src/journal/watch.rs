//! Checks that the data file is where it was and as long as it should be: after each write, and while none is under way.
//!
//! Another program may rename, remove, replace or change the file. Records appended to it would then not be found by the
//! next start, so a write is acknowledged only after a check.

use std::io;

use super::fault::Failure;
use super::group_commit::{Fsync, Journal};
use super::new_file::Segment;
use crate::util::sync::atomic::Ordering;
use crate::util::sync::lock;

impl Journal {
    /// Checks that the file is where it was, and of this length.
    pub(super) fn verify(&self, segment: &Segment, length: u64) -> Result<(), Failure> {
        let ours = segment.file.status().map_err(Failure::Write)?;
        match self.disk.status(&self.path) {
            Ok(named) if named.identity != segment.identity => {
                Err(Failure::Replaced("another file has taken the data file's name"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Failure::Replaced("the data file was removed or renamed"))
            }
            Err(error) => Err(Failure::Write(error)),
            Ok(_) if ours.length != length => {
                Err(Failure::Replaced("somebody else changed the data file's length"))
            }
            Ok(_) => Ok(()),
        }
    }

    /// The same after a write. The open file's own metadata show all but a rename; where there is no fsync to wait for,
    /// the path is looked up now and then only.
    pub(super) fn verify_after_write(&self, segment: &Segment, length: u64) -> Result<(), Failure> {
        const VERIFY_EVERY_MS: u64 = 5;
        let now_ms = self.started.elapsed().as_millis() as u64;
        let due_ms = self.verified_ms.load(Ordering::Relaxed) + VERIFY_EVERY_MS;
        if self.fsync != Fsync::Always && now_ms < due_ms {
            let ours = segment.file.status().map_err(Failure::Write)?;
            if ours.links > 0 && ours.length == length {
                return Ok(());
            }
        }
        self.verified_ms.store(now_ms, Ordering::Relaxed);
        self.verify(segment, length)
    }

    /// If nothing was appended since the last call, writes an empty batch whose seal marks the last records as durable,
    /// so that damage to them can be told from a crash. Also verifies the file, which otherwise only a write does.
    ///
    /// `before` is what the last call returned, at first 0.
    pub fn mark_idle(&self, before: u64) -> u64 {
        self.verify_at_rest();
        let state = lock(&self.state);
        let sequence = state.sequence;
        let idle = sequence == before && state.phase.may_write() && state.pending.is_empty();
        let segment = &state.segment;
        let durable = segment.last_with_records <= segment.synced;
        // After a repair it also shows that the file can be written to.
        let due = segment.is_unmarked() || state.recent_fault.is_some();
        if idle && durable && due && state.check().is_ok() {
            drop(self.lead_mark(state));
        }
        sequence
    }

    /// Verifies the file while no write is under way.
    pub(super) fn verify_at_rest(&self) {
        let (sequence, segment) = {
            let state = lock(&self.state);
            if !state.phase.may_write() {
                return;
            }
            (state.sequence, state.segment.clone())
        };
        let verified = self.verify(&segment, segment.end);
        let mut state = lock(&self.state);
        // Else a write may have changed the length meanwhile.
        let idle = state.sequence == sequence && state.phase.may_write();
        if let (Err(failure), true) = (verified, idle) {
            self.fail(&mut state, &failure);
        }
    }
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::journal::disk::Disk;
    use crate::journal::memory_disk::{MemoryDisk, PATH, append_set, open, records_in_file};
    use crate::journal::phase::Repair;

    /// What another program does to the file.
    type Harm = fn(&MemoryDisk);
    const HARMS: [(&str, Harm); 4] = [
        ("removed", |disk| disk.remove(Path::new(PATH)).unwrap()),
        ("renamed", |disk| disk.rename(Path::new(PATH), Path::new("/other")).unwrap()),
        ("replaced", |disk| {
            drop(disk.create(Path::new("/other")).unwrap());
            disk.rename(Path::new("/other"), Path::new(PATH)).unwrap();
        }),
        ("appended to", |disk| disk.open(Path::new(PATH)).unwrap().append(b"x").unwrap()),
    ];

    #[test]
    fn no_write_is_acknowledged_to_a_file_that_is_not_where_it_was() {
        for (name, harm) in HARMS {
            for fsync in Fsync::ALL {
                let disk = MemoryDisk::default();
                let journal = open(&disk, fsync);
                journal.commit(append_set(&journal, "a")).unwrap();
                harm(&disk);
                let point = append_set(&journal, "b");
                // Long ago: under the other modes the path is looked up now and then only.
                journal.verified_ms.store(0, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(10));
                assert!(journal.commit(point).is_err(), "{name}, {fsync:?}");
                let repair = lock(&journal.state).phase.fault();
                assert_eq!(repair, Some(Repair::RewriteBeside), "{name}, {fsync:?}");
            }
        }
    }

    #[test]
    fn a_change_is_found_while_nothing_is_written() {
        for (name, harm) in HARMS {
            let disk = MemoryDisk::default();
            let journal = open(&disk, Fsync::Always);
            let before = journal.mark_idle(0);
            assert!(!journal.is_faulted());
            harm(&disk);
            journal.mark_idle(before);
            assert!(journal.is_faulted(), "{name}");
            assert!(journal.check().is_err());
        }
    }

    #[test]
    fn records_at_rest_are_marked_once() {
        let disk = MemoryDisk::default();
        let journal = open(&disk, Fsync::Everysec);
        let start = journal.mark_idle(0);
        journal.commit(append_set(&journal, "a")).unwrap();
        let bytes = journal.bytes();
        let before = journal.mark_idle(start);
        assert_eq!(journal.mark_idle(before), before, "it is not durable yet");
        assert_eq!(journal.bytes(), bytes);
        journal.sync_second();
        let marked = journal.mark_idle(before);
        assert!(journal.bytes() > bytes);
        let bytes = journal.bytes();
        let rested = journal.mark_idle(marked);
        journal.mark_idle(rested);
        assert_eq!(journal.bytes(), bytes, "once is enough");
        assert_eq!(records_in_file(&disk), b"SET a 1\n");
    }

    #[test]
    fn a_repair_is_shown_to_have_worked_by_the_next_write() {
        let disk = MemoryDisk::default();
        let journal = open(&disk, Fsync::Always);
        disk.fail_append(1);
        assert!(journal.commit(append_set(&journal, "a")).is_err());
        assert!(journal.cut_back());
        journal.resume();
        assert!(!journal.is_faulted() && journal.check().is_ok());
        assert!(journal.fault().is_some(), "no write has succeeded yet");
        let before = journal.mark_idle(0);
        journal.mark_idle(before);
        assert!(journal.fault().is_none());
    }
}
