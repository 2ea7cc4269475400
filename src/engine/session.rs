//! One client's view of the engine: reads, writes, and what must be on disk before they show.

use std::sync::MutexGuard;

use super::Engine;
use super::compaction::unix_time_s;
use crate::limits::{CLIENT_SPARE_BYTES_MAX, UNDO_BYTES_MAX, VALUE_BYTES_MAX};
use crate::persistence::format::{write_del, write_flush_all, write_set, write_set_range};
use crate::persistence::{Mark, WriteRefused};
use crate::store::{Place, Shard, Undo};
use crate::text::quoted_bytes;

/// About what a `SETRANGE` record takes beside its key and value, in bytes.
const SET_RANGE_BYTES: usize = 16;

/// Why a write was not begun. Memory and file are as they were.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The journal takes no writes.
    #[error(transparent)]
    Refused(#[from] WriteRefused),
    /// The value would be longer than [`VALUE_BYTES_MAX`].
    #[error("the value would be longer than {VALUE_BYTES_MAX} bytes")]
    TooLong,
}

/// One client's view of the engine.
#[derive(Debug)]
pub struct Session<'a> {
    engine: &'a Engine,
    /// The highest stamp of what was written or shown since the last [`take_mark`](Self::take_mark),
    /// and how often the journal had been healed at the first of them.
    mark: Mark,
    /// Where records are written before they are appended.
    record: Vec<u8>,
    /// Bytes kept for taking back what was written since the last commit.
    undo_bytes: usize,
}

impl<'a> Session<'a> {
    /// A view that has shown nothing yet.
    pub fn new(engine: &'a Engine) -> Self {
        Self { engine, mark: Mark::default(), record: Vec::new(), undo_bytes: 0 }
    }

    /// What it is a view of.
    pub fn engine(&self) -> &'a Engine {
        self.engine
    }

    /// Hands `show` the value of `key`, `None` if there is none, with the key's shard locked.
    pub fn get<T>(&mut self, key: &[u8], show: impl FnOnce(Option<&[u8]>) -> T) -> T {
        let place = self.engine.store.place(key);
        let shard = self.engine.store.lock(place);
        self.note(shard.stamp(place));
        show(shard.entries.get(key).map(Vec::as_slice))
    }

    /// Counts the `keys` that exist, at one moment; a key named twice counts twice.
    pub fn exists<'k>(&mut self, keys: impl Iterator<Item = &'k [u8]> + Clone) -> usize {
        let places: Vec<_> = keys.clone().map(|key| self.engine.store.place(key)).collect();
        let mut locked = self.engine.store.lock_all(&places);
        let mut count = 0;
        for (key, place) in keys.zip(places) {
            let shard = locked.shard(place);
            self.note(shard.stamp(place));
            count += usize::from(shard.entries.contains_key(key));
        }
        count
    }

    /// Sets `key` to `value`.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.begin(value.len())?;
        write_set(key, value, &mut self.record);
        let value = value.to_vec();
        let place = self.engine.store.place(key);
        let mut shard = self.engine.store.lock(place);
        let stamp = self.append_record(1)?;
        let old = match shard.entries.get_mut(key) {
            Some(old) => Some(std::mem::replace(old, value)),
            None => shard.entries.insert(key.into(), value),
        };
        self.changed(shard, place, stamp, Undo::Value(key.into(), old));
        Ok(())
    }

    /// Removes those of `keys` that exist, all at one moment, and counts them.
    pub fn del<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k [u8]> + Clone,
    ) -> Result<usize, WriteError> {
        self.begin(0)?;
        let mut keys: Vec<_> = keys.map(|key| (self.engine.store.place(key), key)).collect();
        // A key named twice is removed once.
        keys.sort_unstable();
        keys.dedup();
        let places: Vec<_> = keys.iter().map(|(place, _)| *place).collect();
        let mut locked = self.engine.store.lock_all(&places);
        keys.retain(|(place, key)| {
            let shard = locked.shard(*place);
            self.note(shard.stamp(*place));
            shard.entries.contains_key(*key)
        });
        if keys.is_empty() {
            return Ok(0);
        }
        let records = write_del(keys.iter().map(|(_, key)| *key), &mut self.record);
        let record_bytes = self.record.len();
        let stamp = self.append_record(records)?;
        for (place, key) in &keys {
            let shard = locked.shard(*place);
            if let Some((key, old)) = shard.entries.remove_entry(*key) {
                self.undo_bytes += shard.changed(*place, stamp, Undo::Value(key, Some(old)));
            }
        }
        drop(locked);
        self.engine.waste(record_bytes);
        self.wrote();
        Ok(keys.len())
    }

    /// Adds `value` to the end of the value of `key`, or sets it; returns the new length in bytes.
    pub fn append(&mut self, key: &[u8], value: &[u8]) -> Result<usize, WriteError> {
        self.change(key, value, |old| old.map_or(0, <[u8]>::len))
    }

    /// Overwrites the value of `key` from `offset` on, growing it by NULs as needed; returns the new
    /// length in bytes. An empty `value` changes nothing.
    pub fn set_range(
        &mut self,
        key: &[u8],
        offset: usize,
        value: &[u8],
    ) -> Result<usize, WriteError> {
        if value.is_empty() {
            return Ok(self.get(key, |old| old.map_or(0, <[u8]>::len)));
        }
        self.change(key, value, |_| offset)
    }

    /// Puts `value` at the offset that `offset` gives for the old value, and returns the new length.
    ///
    /// Logged as `SETRANGE`, which is idempotent; a key that is new is logged as `SET` first.
    fn change(
        &mut self,
        key: &[u8],
        value: &[u8],
        offset: impl FnOnce(Option<&[u8]>) -> usize,
    ) -> Result<usize, WriteError> {
        self.begin(value.len())?;
        let place = self.engine.store.place(key);
        let mut shard = self.engine.store.lock(place);
        let old = shard.entries.get_mut(key);
        let offset = offset(old.as_deref().map(Vec::as_slice));
        if offset.saturating_add(value.len()) > VALUE_BYTES_MAX {
            return Err(WriteError::TooLong);
        }
        let (stamp, length, undo) = match old {
            Some(old) if value.is_empty() => {
                // Nothing changes, but the length shows what others wrote.
                let length = old.len();
                self.note(shard.stamp(place));
                return Ok(length);
            }
            Some(old) => {
                write_set_range(key, offset, value, &mut self.record);
                let stamp = self.append_record(1)?;
                let length = old.len();
                // Nothing stood beyond the old end.
                let (start, end) = (offset.min(length), (offset + value.len()).min(length));
                let bytes = old[start..end].to_vec();
                let undo = Undo::Range { key: key.into(), offset: start, bytes, length };
                super::overwrite(old, offset, value);
                self.engine.waste(SET_RANGE_BYTES + quoted_bytes(key));
                (stamp, old.len(), undo)
            }
            None => {
                let mut new = Vec::new();
                // Padding is not spelled out: 512 MiB of it would be 2 GiB of `\x00`.
                let records = match offset {
                    0 => {
                        write_set(key, value, &mut self.record);
                        1
                    }
                    _ => {
                        write_set(key, b"", &mut self.record);
                        write_set_range(key, offset, value, &mut self.record);
                        2
                    }
                };
                let stamp = self.append_record(records)?;
                super::overwrite(&mut new, offset, value);
                let length = new.len();
                shard.entries.insert(key.into(), new);
                (stamp, length, Undo::Value(key.into(), None))
            }
        };
        self.changed(shard, place, stamp, undo);
        Ok(length)
    }

    /// Removes every key, at one moment.
    pub fn flush_all(&mut self) -> Result<(), WriteError> {
        self.begin(0)?;
        let now_s = unix_time_s();
        write_flush_all(now_s, &mut self.record);
        let mut shards = self.engine.store.lock_everything();
        let stamp = self.append_record(1)?;
        self.engine.flushed_at(now_s);
        self.undo_bytes += shards.iter_mut().map(|shard| shard.clear(stamp)).sum::<usize>();
        drop(shards);
        self.wrote();
        Ok(())
    }

    /// Number of keys.
    pub fn count(&mut self) -> usize {
        let mut count = 0;
        for shard in self.engine.store.each() {
            self.note(shard.newest());
            count += shard.entries.len();
        }
        count
    }

    /// Hands `visit` every key that exists throughout; each shard's keys are copied under its lock
    /// and visited without it.
    pub fn keys(&mut self, mut visit: impl FnMut(&[u8])) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for shard in self.engine.store.each() {
            self.note(shard.newest());
            bytes.clear();
            ends.clear();
            for key in shard.entries.keys() {
                bytes.extend_from_slice(key);
                ends.push(bytes.len());
            }
            drop(shard);
            let mut start = 0;
            for end in &ends {
                visit(&bytes[start..*end]);
                start = *end;
            }
        }
    }

    /// What to wait for before what was written or shown since this was last asked may leave.
    pub fn take_mark(&mut self) -> Mark {
        std::mem::take(&mut self.mark)
    }

    /// Whether what has this mark may leave the server already.
    pub fn is_committed(&self, mark: Mark) -> bool {
        self.engine.journal.is_committed(mark)
    }

    /// Whether so much is kept for taking writes back that a commit is due.
    pub fn is_commit_due(&self) -> bool {
        self.undo_bytes > UNDO_BYTES_MAX
    }

    /// Waits until everything up to `mark` may leave the server. If it never may, what is not
    /// committed is taken back.
    pub fn commit(&mut self, mark: Mark) -> Result<(), WriteRefused> {
        let committed = self.engine.journal.commit(mark);
        match &committed {
            Err(_) => self.engine.take_back(),
            Ok(()) if self.is_commit_due() => self.engine.settle(),
            Ok(()) => {}
        }
        self.undo_bytes = 0;
        committed
    }

    /// Before a write: refuses while the journal does, and empties the record.
    fn begin(&mut self, value_bytes: usize) -> Result<(), WriteError> {
        self.engine.journal.check()?;
        if value_bytes > VALUE_BYTES_MAX {
            return Err(WriteError::TooLong);
        }
        self.record.clear();
        self.record.shrink_to(CLIENT_SPARE_BYTES_MAX);
        Ok(())
    }

    /// After a change to one key of `shard`: stamps it, and forgets what is settled there.
    fn changed(&mut self, mut shard: MutexGuard<'_, Shard>, place: Place, stamp: u64, undo: Undo) {
        self.undo_bytes += shard.changed(place, stamp, undo);
        let settled = shard.settle(self.engine.journal.committed());
        // A large value takes time to measure and to free: not with the lock held.
        drop(shard);
        self.engine.bury(settled);
        self.wrote();
    }

    /// Appends the record just written, with the lock of every shard it changes held.
    fn append_record(&mut self, records: u64) -> Result<u64, WriteRefused> {
        let stamp = self.engine.journal.append(&mut self.record, records)?;
        self.note(stamp);
        Ok(stamp)
    }

    /// What was just written or shown has this stamp. Call it with the lock of the stamp's shard held,
    /// or for a stamp just appended.
    fn note(&mut self, stamp: u64) {
        if self.mark.stamp == 0 {
            self.mark.healed = self.engine.journal.healed();
        }
        self.mark.stamp = self.mark.stamp.max(stamp);
    }

    fn wrote(&mut self) {
        self.record.clear();
        self.record.shrink_to(CLIENT_SPARE_BYTES_MAX);
    }
}
