//! Compaction: memory is written to a new file, shard by shard and in bounded steps, while clients go
//! on; what they commit meanwhile is added behind it; then the new file takes the place of the old.
//!
//! The copy is fuzzy, and exact nevertheless: records are idempotent, and every change after the moment
//! at which a key was copied follows its copy in the new file. A step holds one shard's lock, to copy
//! its keys or up to [`SNAPSHOT_COPY_BYTES_MAX`] of its values; beyond that no memory is taken.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::LocalEngine;
use super::key_arena::KeyArena;
use crate::engine::{CompactionStatus, Entry, Key};
use crate::journal::snapshot::{piece, write_piece};
use crate::journal::{Flush, Flushing, NewFile, SwitchError, TailReader};
use crate::limits::{
    DEAD_BYTES_MAX, LENGTH_BYTES_MAX, NEW_FILE_SYNC_BYTES, SHARDS, SNAPSHOT_COPY_BYTES_MAX,
};
use crate::text::quoted_bytes;
use crate::util::clock::unix_time_s;
use crate::util::memory::NoMemory;
use crate::util::rate_limit::RateLimit;
use crate::util::sync::{lock, wait_timeout};

/// What a piece's records take beside their keys and values, at most, in bytes.
const RECORD_REST_BYTES: usize = 256;

/// After a compaction that failed, how long until the next of its own; doubled each time.
const RETRY_AFTER: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(3600)];

/// A compaction during which databases are swapped, or flushed, begins again, but not more often than that.
const TRIES_MAX: usize = 10;

/// A new file under way. Dropped before [`finish`](Self::finish) it leaves nothing behind.
#[derive(Debug)]
pub struct Compaction<'a> {
    engine: &'a LocalEngine,
    new: NewFile,
    /// What clients write meanwhile, if they may.
    tail: Option<TailReader<'a>>,
    /// The database to copy.
    database: usize,
    /// The next shard of it to list.
    shard: usize,
    /// The keys still to be copied of the shard before it.
    keys: KeyArena,
    /// How much of the value of the last of them is copied, in bytes.
    offset: usize,
    /// Length of the new file when it was last synced, in bytes.
    synced: u64,
    /// How often databases had been swapped at the beginning. What is copied before another time would go to the wrong
    /// one, when the tail reader comes to that swap.
    swaps: u64,
}

/// Pieces of values, copied, in one buffer too.
#[derive(Debug, Default)]
struct Pieces {
    bytes: Vec<u8>,
    /// Of each: where its key ends, its offset in the value, where it ends; if the value does too, when that
    /// expires.
    ends: Vec<(usize, usize, usize, Option<Option<u64>>)>,
}

impl Pieces {
    fn push(&mut self, entry: &Entry, range: Range<usize>) -> Result<(), NoMemory> {
        let (key, value) = (entry.key(), entry.value());
        self.bytes.try_reserve(key.len() + range.len())?;
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        let last = (range.end == value.len()).then(|| entry.expires_ms());
        let offset = range.start;
        value.pieces(range).for_each(|piece| self.bytes.extend_from_slice(piece));
        self.ends.push((key_end, offset, self.bytes.len(), last));
        Ok(())
    }

    /// About how much memory they take, in bytes.
    fn size(&self) -> usize {
        self.bytes.len() + size_of_val(self.ends.as_slice())
    }
}

impl LocalEngine {
    /// Begins a new file that makes every flush final; clients go on.
    pub fn compaction(&self) -> Result<Compaction<'_>, SwitchError> {
        self.begin_compaction(Flushing::Final)
    }

    fn begin_compaction(&self, flushing: Flushing) -> Result<Compaction<'_>, SwitchError> {
        // With a shard locked no swap is half done.
        let swaps = (self.store.lock(0), self.swaps.load(Ordering::Relaxed)).1;
        if swaps > 0 {
            // The tail reader must not see one that memory shows already.
            self.journal.save()?;
        }
        let tail = self.journal.tail_reader(flushing)?;
        let new = self.journal.new_file()?;
        Ok(Compaction { swaps, ..Compaction::new(self, new, Some(tail)) })
    }

    /// Compacts the file, whatever it holds.
    pub fn compact(&self) -> Result<(), SwitchError> {
        self.run(self.compaction()?)
    }

    fn run(&self, compaction: Compaction<'_>) -> Result<(), SwitchError> {
        let garbage_bytes = self.garbage();
        compaction.run()?;
        // What became garbage meanwhile may be in the new file, or not: it counts.
        let rest = |garbage: u64| Some(garbage.saturating_sub(garbage_bytes));
        let _ = self.garbage_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        Ok(())
    }

    /// Writes memory, which no transaction changes now, to a new file.
    pub(super) fn rewrite(&self) -> Result<(), SwitchError> {
        self.journal.keep_foreign_file()?;
        let had_flush = self.kept_flush().is_some();
        let new = self.journal.repair_file()?;
        Compaction::new(self, new, None).run()?;
        if had_flush {
            let path = self.path().display();
            log::warn!(
                "{path}: it was written anew, without what a flush removed: that cannot be undone any more"
            );
        }
        self.journal.take_garbage();
        self.garbage_bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// How much of the file says nothing any more, but for seals, in bytes.
    pub(super) fn garbage(&self) -> u64 {
        let told = self.journal.take_garbage();
        self.garbage_bytes.fetch_add(told, Ordering::Relaxed) + told
    }

    /// Waits for at most `timeout` until a compaction is asked for, and runs it, or one that is due.
    pub fn tend_compaction(&self, timeout: Duration) {
        self.tend_flushed();
        let mut status = lock(&self.compactor.status);
        if !status.is_requested {
            status = wait_timeout(&self.compactor.woken, status, timeout);
        }
        let may_begin = status.may_begin();
        self.journal.limit(if may_begin { self.length_max() } else { u64::MAX });
        let asked = status.is_requested;
        let due = may_begin && self.is_compaction_due();
        if !asked && !due {
            return;
        }
        (status.is_requested, status.is_running) = (false, true);
        drop(status);
        let (before, started) = (self.journal.bytes(), Instant::now());
        let compacted = || {
            let flushing = match self.kept_flush() {
                _ if asked => Flushing::Final,
                Some(flush) => Flushing::Keeps(self.journal.flushed_name(flush)),
                None => Flushing::GivesUp,
            };
            if matches!(flushing, Flushing::Keeps(_)) {
                // It may leave the file there though it fails.
                self.compactor.has_flushed.store(true, Ordering::Relaxed);
            }
            self.run(self.begin_compaction(flushing.clone())?)?;
            Ok(flushing)
        };
        // What came meanwhile is seen by the next try.
        let is_worth_another = |result: &Result<_, _>| {
            matches!(result, Err(SwitchError::Swapped | SwitchError::Flushed))
        };
        let mut result = compacted();
        for _ in 1..TRIES_MAX {
            if !is_worth_another(&result) {
                break;
            }
            result = compacted();
        }
        let mut status = lock(&self.compactor.status);
        status.is_running = false;
        self.compactor.woken.notify_all();
        status.took = Some(started.elapsed());
        status.has_failed = result.is_err();
        let path = self.path().display();
        match result {
            Ok(flushing) => {
                (status.saved_s, status.failures, status.retry_at) = (unix_time_s(), 0, None);
                drop(status);
                if let Flushing::Keeps(newest) = &flushing {
                    // One at a time: each may be as long as the data was.
                    self.remove_flushed(|name| name == newest);
                    let name = newest.display();
                    log::info!(
                        "{path}: the file with what a flush removed is kept as {name} until an hour after it"
                    );
                }
                let (after, ms) = (self.journal.bytes(), started.elapsed().as_millis());
                log::info!("{path}: compacted from {before} to {after} bytes in {ms} ms");
            }
            Err(error) => {
                let wait = status.failed(asked);
                drop(status);
                log::warn!(
                    "{path}: not compacted: {error}; it goes on as it was, the next try of its own is in \
                     {} min",
                    wait.as_secs().div_ceil(60)
                );
            }
        }
    }

    /// About how much of the file is not garbage, in bytes.
    pub(super) fn live_bytes(&self) -> u64 {
        self.journal.bytes().saturating_sub(self.garbage() + self.journal.seal_bytes())
    }

    /// The flush whose record is in the file, if it can be undone.
    fn kept_flush(&self) -> Option<Flush> {
        self.journal.flush().filter(Flush::is_kept)
    }

    /// How long the file may get before writers are slowed down, in bytes.
    fn length_max(&self) -> u64 {
        let live = self.live_bytes();
        let flushed = self.kept_flush().map_or(0, |flush| flush.bytes);
        live + live / 4 * 3 + flushed + LENGTH_BYTES_MAX
    }

    /// Whether so much of the file is dead that it would pass its bound soon.
    fn is_compaction_due(&self) -> bool {
        let live = self.live_bytes();
        let flushed = self.kept_flush().map_or(0, |flush| flush.bytes);
        self.journal.bytes() > live + live / 2 + flushed + DEAD_BYTES_MAX && self.fault().is_none()
    }

    /// Gives up what flushes removed once their hour is over, or where the disk has no room for it: then the file,
    /// and a compaction of it, would not fit.
    fn tend_flushed(&self) {
        let kept = self.kept_flush();
        let has_flushed = self.compactor.has_flushed.load(Ordering::Relaxed);
        if kept.is_none() && !has_flushed || !self.compactor.looks.allow() {
            return;
        }
        let path = self.path().display();
        let growth = self.length_max().saturating_sub(self.journal.bytes());
        let wanted = growth + self.live_bytes();
        let is_tight = self.journal.room().is_ok_and(|room| room < wanted);
        if is_tight && kept.is_some() {
            log::warn!(
                "{path}: the disk has no room for what a flush removed: it cannot be undone any more"
            );
            self.journal.set_flush(None);
        }
        if has_flushed {
            self.remove_flushed(|_| !is_tight);
        }
    }

    /// Removes the files kept for flushes, but for those that are wanted and can still be undone.
    fn remove_flushed(&self, is_wanted: impl Fn(&Path) -> bool) {
        static LOGGED: RateLimit = RateLimit::new(Duration::from_secs(60));
        match self.journal.remove_flushed(is_wanted) {
            Ok(left) => self.compactor.has_flushed.store(left > 0, Ordering::Relaxed),
            Err(error) if LOGGED.allow() => {
                let path = self.path().display();
                log::warn!("{path}: what was kept for a flush is still there: {error}");
            }
            Err(_) => {}
        }
    }
}

/// When compaction runs, and how the last one went.
#[derive(Debug)]
pub struct Compactor {
    status: Mutex<Status>,
    /// A compaction is asked for, or ended.
    woken: Condvar,
    /// There may be files that are kept for flushes.
    has_flushed: AtomicBool,
    /// How often it looks at them, and at how much room there is.
    looks: RateLimit,
}

impl Default for Compactor {
    fn default() -> Self {
        // The run before may have left some.
        let has_flushed = AtomicBool::new(true);
        let looks = RateLimit::new(Duration::from_secs(1));
        Self { status: Mutex::default(), woken: Condvar::new(), has_flushed, looks }
    }
}

impl Compactor {
    /// Waits for at most `timeout` until none is under way.
    pub fn wait_for_end(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut status = lock(&self.status);
        while status.is_running && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            status = wait_timeout(&self.woken, status, left);
        }
    }

    /// Asks for a compaction; `false` if one is asked for or under way already.
    pub fn request(&self) -> bool {
        let mut status = lock(&self.status);
        if status.is_requested || status.is_running {
            return false;
        }
        status.is_requested = true;
        self.woken.notify_all();
        true
    }

    /// Asks for a compaction after the one that is under way.
    pub fn schedule(&self) {
        lock(&self.status).is_requested = true;
        self.woken.notify_all();
    }

    /// How compaction stands.
    pub fn status(&self) -> CompactionStatus {
        let Status { is_requested, is_running, has_failed, took, saved_s, .. } =
            *lock(&self.status);
        CompactionStatus { is_requested, is_running, has_failed, took, saved_s }
    }

    /// Everything is on disk.
    pub fn saved(&self) {
        lock(&self.status).saved_s = unix_time_s();
    }
}

/// How compaction stands, and when it may begin again.
#[derive(Debug)]
struct Status {
    /// It is asked for and has not begun.
    is_requested: bool,
    /// It is under way.
    is_running: bool,
    /// The last one failed.
    has_failed: bool,
    /// How long the last one took.
    took: Option<Duration>,
    /// When everything was last on disk for certain, or at first the start: Unix time in seconds.
    saved_s: u64,
    /// Failures since the last success.
    failures: u32,
    /// After a failure: when to try again.
    retry_at: Option<Instant>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            is_requested: false,
            is_running: false,
            has_failed: false,
            took: None,
            saved_s: unix_time_s(),
            failures: 0,
            retry_at: None,
        }
    }
}

impl Status {
    /// One failed; returns how long it takes until the next may begin by itself.
    fn failed(&mut self, asked: bool) -> Duration {
        let wait = RETRY_AFTER[0].saturating_mul(1 << self.failures.min(6)).min(RETRY_AFTER[1]);
        let retry_at = Instant::now() + wait;
        self.failures += u32::from(!asked);
        self.retry_at = Some(self.retry_at.map_or(retry_at, |earlier| earlier.max(retry_at)));
        wait
    }

    /// Whether a compaction may begin by itself.
    fn may_begin(&self) -> bool {
        self.retry_at.is_none_or(|retry_at| retry_at <= Instant::now())
    }
}

impl<'a> Compaction<'a> {
    fn new(engine: &'a LocalEngine, new: NewFile, tail: Option<TailReader<'a>>) -> Self {
        let synced = new.bytes();
        Self {
            engine,
            new,
            tail,
            database: 0,
            shard: 0,
            keys: KeyArena::default(),
            offset: 0,
            synced,
            swaps: engine.swaps.load(Ordering::Relaxed),
        }
    }

    /// Does all of it. Where clients go on meanwhile it rests after each step, for half as long as that
    /// took: it is not to take a processor from them.
    fn run(mut self) -> Result<(), SwitchError> {
        loop {
            let started = Instant::now();
            if !self.step()? {
                return self.finish();
            }
            if self.tail.is_some() {
                std::thread::sleep(started.elapsed() / 2);
            }
        }
    }

    /// Goes on for a bounded while; `false` once everything is written.
    pub fn step(&mut self) -> Result<bool, SwitchError> {
        if self.keys.last().is_none() {
            let has_more = self.list()?;
            self.check_swaps()?;
            return Ok(has_more);
        }
        self.engine.progress.fetch_add(1, Ordering::Relaxed);
        let pieces = self.copy()?;
        self.check_swaps()?;
        self.new.select(self.database);
        let (mut lines, mut start) = (Vec::new(), 0);
        for (key_end, offset, end, last) in pieces.ends {
            let (key, piece) = (&pieces.bytes[start..key_end], &pieces.bytes[key_end..end]);
            let most = 2 * quoted_bytes(key) + quoted_bytes(piece) + RECORD_REST_BYTES;
            lines.try_reserve(most).map_err(NoMemory::from).map_err(io::Error::from)?;
            let records = write_piece(key, offset, piece, last, &mut lines);
            self.new.add(&lines, records)?;
            self.new.seal_if_full()?;
            lines.clear();
            start = end;
        }
        self.drain()?;
        if self.new.bytes() > self.synced + NEW_FILE_SYNC_BYTES {
            // In pieces: one long fsync at the end would hold up those of all clients.
            self.sync()?;
        }
        Ok(true)
    }

    /// What was copied, and what was found to be nowhere, is so only as long as no databases are swapped.
    fn check_swaps(&self) -> Result<(), SwitchError> {
        match self.engine.swaps.load(Ordering::Relaxed) == self.swaps {
            true => Ok(()),
            false => Err(SwitchError::Swapped),
        }
    }

    /// Lists the keys of the next shard that has any; `false` if there is none.
    fn list(&mut self) -> Result<bool, SwitchError> {
        while self.database < self.engine.store.databases() {
            while self.shard < SHARDS {
                let shard = self.engine.store.lock(self.shard);
                let mut entries = shard.entries(self.database);
                entries
                    .try_for_each(|entry| self.keys.push(entry.key()))
                    .map_err(io::Error::from)?;
                self.shard += 1;
                if self.keys.last().is_some() {
                    return Ok(true);
                }
            }
            (self.database, self.shard) = (self.database + 1, 0);
        }
        Ok(false)
    }

    /// Copies the next values, or pieces of a large one, with their shard locked.
    fn copy(&mut self) -> Result<Pieces, SwitchError> {
        let shard = self.engine.store.lock(self.shard - 1);
        let mut pieces = Pieces::default();
        while pieces.size() < SNAPSHOT_COPY_BYTES_MAX
            && let Some(key) = self.keys.last()
        {
            // A key that is gone meanwhile, or a value that ends before: the tail says what happened.
            let goes_on = |entry: &&Entry| self.offset == 0 || self.offset < entry.value().len();
            let slot = self.engine.store.slot(Key { database: self.database, bytes: key });
            let entry = shard.get(slot, key).filter(goes_on);
            let mut next = None;
            if let Some(entry) = entry {
                let length = entry.value().len();
                let range = piece(key, self.offset, length);
                let end = range.end;
                pieces.push(entry, range).map_err(io::Error::from)?;
                next = (end < length).then_some(end);
            }
            self.offset = next.unwrap_or(0);
            if next.is_none() {
                self.keys.pop();
            }
        }
        Ok(pieces)
    }

    /// Adds what was committed meanwhile; returns how much that was, in bytes.
    fn drain(&mut self) -> Result<u64, SwitchError> {
        match &mut self.tail {
            Some(tail) => tail.drain(&mut self.new),
            None => Ok(0),
        }
    }

    fn sync(&mut self) -> Result<(), SwitchError> {
        self.new.sync()?;
        self.synced = self.new.bytes();
        Ok(())
    }

    /// Once everything is written: puts the new file in the place of the old.
    pub fn finish(mut self) -> Result<(), SwitchError> {
        // Writers wait for the last sync: the less there is left to sync the better.
        const ROUNDS: usize = 4;
        const LITTLE_BYTES: u64 = 64 << 10;
        for _ in 0..ROUNDS {
            self.sync()?;
            if self.drain()? < LITTLE_BYTES {
                break;
            }
        }
        let engine = self.engine;
        match self.tail {
            Some(tail) => {
                let switched = engine.journal.switch(self.new, tail);
                engine.run_callbacks();
                switched
            }
            None => engine.journal.replace(self.new),
        }
    }
}
