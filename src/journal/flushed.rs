//! What a `FLUSHALL` or `FLUSHDB` removed stays in the file for an hour, so that a user can undo it by removing its
//! line. A compaction within that hour keeps the old file under a name of its own, which tells when the flush was.

use std::io;
use std::path::{Path, PathBuf};

use super::batch::Flush;
use super::disk;
use super::group_commit::Journal;
use crate::util::clock::unix_time_s;
use crate::util::sync::lock;

/// How long a flush can be undone, in seconds.
const KEPT_S: u64 = 3600;

/// What the name of a file ends in that was kept for a flush, before the time of that.
const SUFFIX: &str = ".flushed-";

impl Flush {
    /// Whether it is recent enough to be undone.
    pub fn is_kept(&self) -> bool {
        is_kept(self.time_s)
    }
}

fn is_kept(time_s: u64) -> bool {
    // A clock that was set back makes it a future time.
    unix_time_s().abs_diff(time_s) < KEPT_S
}

impl Journal {
    /// The last flush whose record is in the file.
    pub fn flush(&self) -> Option<Flush> {
        lock(&self.state).flush
    }

    /// Sets the last flush whose record is in the file, as recovery found it. `None` gives up undoing one.
    pub fn set_flush(&self, flush: Option<Flush>) {
        lock(&self.state).flush = flush;
    }

    /// The name under which the file is kept for `flush`.
    pub fn flushed_name(&self, flush: Flush) -> PathBuf {
        disk::beside(&self.path, &format!("{SUFFIX}{}", flush.time_s))
    }

    /// Free space on the disk of the file, in bytes.
    pub fn room(&self) -> io::Result<u64> {
        self.disk.room(disk::folder(&self.path))
    }

    /// Removes the files kept for flushes that cannot be undone any more, and those that `is_wanted` does not want;
    /// returns how many are left.
    pub fn remove_flushed(&self, is_wanted: impl Fn(&Path) -> bool) -> io::Result<usize> {
        let start = disk::beside(&self.path, SUFFIX);
        let start = start.as_os_str().as_encoded_bytes();
        let mut left = 0;
        for path in self.disk.list(disk::folder(&self.path))? {
            let time = path.as_os_str().as_encoded_bytes().strip_prefix(start);
            let time = time.and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
            match time {
                None => {}
                Some(time_s) if is_kept(time_s) && is_wanted(&path) => left += 1,
                Some(_) => {
                    self.disk.remove(&path)?;
                    log::info!("{}: removed: the flush cannot be undone any more", path.display());
                }
            }
        }
        Ok(left)
    }
}
