//! One client's view of the engine: reads, writes, and what must be on disk before they show.

use std::sync::{Arc, MutexGuard};
use std::thread;

use super::compaction::unix_time_s;
use super::{Engine, changed_copy};
use crate::entry::Entry;
use crate::keylist::KeyList;
use crate::limits::{
    CLIENT_SPARE_BYTES_MAX, KEYS_AT_ONCE, SHARDS, UNDO_BYTES_MAX, VALUE_BYTES_MAX,
};
use crate::memory::{self, NoMemory};
use crate::persistence::format::{write_del, write_flush_all, write_set, write_set_range};
use crate::persistence::{Mark, Waiter, WriteRefused};
use crate::store::{Place, Shard, Undo};
use crate::text::quoted_bytes;
use crate::value::View;

/// About what a `SETRANGE` record takes beside its key and value, in bytes.
const SET_RANGE_BYTES: usize = 16;

/// Why a write was not begun. Memory and file are as they were.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The journal takes no writes.
    #[error(transparent)]
    Refused(#[from] WriteRefused),
    /// The value would be longer than values may be.
    #[error("the value would be too long")]
    TooLong,
    /// It would take more memory than may be used.
    #[error("it would take too much memory")]
    Full,
    /// The system has no memory for it.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}

/// One client's view of the engine.
#[derive(Debug)]
pub struct Session<'a> {
    engine: &'a Engine,
    /// Longest value a write may make, in bytes.
    value_bytes_max: usize,
    /// The highest stamp of what was written or shown since the last [`take_mark`](Self::take_mark),
    /// and how often the journal had been healed at the first of them.
    mark: Mark,
    /// Where records are written before they are appended.
    record: Vec<u8>,
    /// Bytes kept for taking back what was written since the last commit.
    undo_bytes: usize,
    /// What was just settled, to be forgotten.
    settled: Vec<Undo>,
    lookups: Lookups,
}

/// How many keys were looked for to be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lookups {
    /// And were there.
    pub hits: u64,
    /// And were not.
    pub misses: u64,
}

impl Lookups {
    fn count(&mut self, found: bool) {
        match found {
            true => self.hits += 1,
            false => self.misses += 1,
        }
    }
}

impl<'a> Session<'a> {
    /// A view that has shown nothing yet.
    pub fn new(engine: &'a Engine) -> Self {
        Self {
            engine,
            value_bytes_max: VALUE_BYTES_MAX,
            mark: Mark::default(),
            record: Vec::new(),
            undo_bytes: 0,
            settled: Vec::new(),
            lookups: Lookups::default(),
        }
    }

    /// The same with a smaller bound to values, in bytes.
    pub fn with_value_bytes_max(self, value_bytes_max: usize) -> Self {
        Self { value_bytes_max, ..self }
    }

    /// What it is a view of.
    pub fn engine(&self) -> &'a Engine {
        self.engine
    }

    /// The lookups since this was last asked.
    pub fn take_lookups(&mut self) -> Lookups {
        std::mem::take(&mut self.lookups)
    }

    /// Hands `show` the value of `key`, `None` if there is none, with the key's shard locked.
    pub fn get<T>(&mut self, key: &[u8], show: impl FnOnce(Option<View<'_>>) -> T) -> T {
        let place = self.engine.store.place(key);
        let shard = self.engine.store.lock(place);
        self.note(shard.stamp(place));
        let value = shard.get(place, key).map(Entry::value);
        self.lookups.count(value.is_some());
        show(value)
    }

    /// Counts the `keys` that exist; a key named twice counts twice. So many as [`KEYS_AT_ONCE`] are
    /// looked for at one moment: a million would hold up everybody.
    pub fn exists<'k>(&mut self, mut keys: impl Iterator<Item = &'k [u8]>) -> usize {
        let store = &self.engine.store;
        let mut count = 0;
        loop {
            let group: Vec<_> =
                keys.by_ref().take(KEYS_AT_ONCE).map(|key| (store.place(key), key)).collect();
            if group.is_empty() {
                return count;
            }
            let mut locked = store.lock_all(group.iter().map(|(place, _)| *place));
            for (place, key) in group {
                let shard = locked.shard(place);
                self.note(shard.stamp(place));
                let found = shard.get(place, key).is_some();
                self.lookups.count(found);
                count += usize::from(found);
            }
        }
    }

    /// Sets `key` to `value`.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.begin(key, value)?;
        write_set(key, value, &mut self.record);
        let entry = Entry::new(key, value)?;
        let place = self.engine.store.place(key);
        let mut shard = self.engine.store.lock(place);
        shard.make_room()?;
        let stamp = self.append_record(1)?;
        let undo = shard.put(place, entry);
        self.changed(shard, place, stamp, undo);
        Ok(())
    }

    /// Removes those of `keys` that exist, all at one moment, and counts them.
    pub fn del<'k>(
        &mut self,
        keys: impl ExactSizeIterator<Item = &'k [u8]>,
    ) -> Result<usize, WriteError> {
        self.begin(b"", b"")?;
        let mut named = Vec::new();
        memory::try_to(|| named.try_reserve_exact(keys.len()))?;
        named.extend(keys.map(|key| (self.engine.store.place(key), key)));
        // A key named twice is removed once.
        named.sort_unstable();
        named.dedup();
        // Each byte as `\xHH`, and quotes, a blank or the beginning of a line around each key.
        let most = named.iter().map(|(_, key)| 4 * key.len() + 8).sum();
        memory::try_to(|| self.record.try_reserve(most))?;
        let mut locked = self.engine.store.lock_all(named.iter().map(|(place, _)| *place));
        named.retain(|(place, key)| {
            let shard = locked.shard(*place);
            self.note(shard.stamp(*place));
            shard.get(*place, key).is_some()
        });
        if named.is_empty() {
            return Ok(0);
        }
        let records = write_del(named.iter().map(|(_, key)| *key), &mut self.record);
        let record_bytes = self.record.len();
        let stamp = self.append_record(records)?;
        for (place, key) in &named {
            let shard = locked.shard(*place);
            if let Some(old) = shard.remove(*place, key) {
                self.undo_bytes += shard.changed(*place, stamp, Undo::Entry(old));
            }
        }
        drop(locked);
        self.engine.waste(record_bytes);
        self.wrote();
        Ok(named.len())
    }

    /// Adds `value` to the end of the value of `key`, or sets it; returns the new length in bytes.
    pub fn append(&mut self, key: &[u8], value: &[u8]) -> Result<usize, WriteError> {
        self.change(key, value, |old| old.map_or(0, View::len))
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
            return Ok(self.get(key, |old| old.map_or(0, View::len)));
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
        offset: impl FnOnce(Option<View<'_>>) -> usize,
    ) -> Result<usize, WriteError> {
        self.begin(key, value)?;
        let place = self.engine.store.place(key);
        let mut shard = self.engine.store.lock(place);
        let old = shard.get(place, key).map(Entry::value);
        let offset = offset(old);
        if offset.saturating_add(value.len()) > self.value_bytes_max {
            return Err(WriteError::TooLong);
        }
        let (stamp, length, undo) = match old.map(View::len) {
            Some(length) if value.is_empty() => {
                // Nothing changes, but the length shows what others wrote.
                self.note(shard.stamp(place));
                return Ok(length);
            }
            Some(length) => {
                write_set_range(key, offset, value, &mut self.record);
                let (stamp, undo) = self.overwrite(&mut shard, place, key, offset, value)?;
                self.engine.waste(SET_RANGE_BYTES + quoted_bytes(key));
                (stamp, length.max(offset + value.len()), undo)
            }
            None => {
                shard.make_room()?;
                let new = Entry::grown(key, changed_copy(None, offset, value)?)?;
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
                (stamp, offset + value.len(), shard.put(place, new))
            }
        };
        self.changed(shard, place, stamp, undo);
        Ok(length)
    }

    /// Appends the record just written, and puts `value` at `offset` of the value of `key`, which exists.
    fn overwrite(
        &mut self,
        shard: &mut Shard,
        place: Place,
        key: &[u8],
        offset: usize,
        value: &[u8],
    ) -> Result<(u64, Undo), WriteError> {
        let Some((id, old)) = shard.get_mut(place, key).and_then(Entry::growing) else {
            // The first time it changes it becomes one that may grow.
            let new = Entry::grown(key, changed_copy(shard.get(place, key), offset, value)?)?;
            let stamp = self.append_record(1)?;
            return Ok((stamp, shard.put(place, new)));
        };
        let length = old.view().len();
        // Nothing stood beyond the old end.
        let (start, end) = (offset.min(length), (offset + value.len()).min(length));
        let bytes = old.view().copy(start..end)?;
        old.reserve(offset, value.len())?;
        let stamp = match self.append_record(1) {
            Ok(stamp) => stamp,
            Err(refused) => {
                old.give_back();
                return Err(refused.into());
            }
        };
        old.write(offset, value);
        Ok((stamp, Undo::Range { hash: place.hash(), id, offset: start, bytes, length }))
    }

    /// Removes every key, at one moment.
    pub fn flush_all(&mut self) -> Result<(), WriteError> {
        self.begin(b"", b"")?;
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
            count += shard.len();
        }
        count
    }

    /// Hands `visit` every key that exists throughout and begins with `prefix`, with no shard locked. An error if
    /// there is no memory for copies of a shard's keys.
    ///
    /// Where a prefix is given, by an index, built by the first such search ([`Store::find`]); else each shard's
    /// keys are copied under its lock.
    ///
    /// [`Store::find`]: crate::store::Store::find
    pub fn keys(&mut self, prefix: &[u8], mut visit: impl FnMut(&[u8])) -> Result<(), NoMemory> {
        for number in 0..SHARDS {
            let store = &self.engine.store;
            let found = (!prefix.is_empty())
                .then(|| store.find(number, prefix, |newest| self.note(newest)));
            match found {
                Some(Ok(found)) => self.visit_existing(number, &found, &mut visit),
                // Without memory for an index it is a search as any other.
                Some(Err(NoMemory)) | None => self.visit_all(number, prefix, &mut visit)?,
            }
        }
        Ok(())
    }

    /// Visits those of `found` that exist in shard `number`, looking for [`KEYS_AT_ONCE`] at one moment.
    fn visit_existing(&mut self, number: usize, found: &KeyList, mut visit: impl FnMut(&[u8])) {
        let mut first = 0;
        loop {
            let end = found.len().min(first + KEYS_AT_ONCE);
            let mut exists = [false; KEYS_AT_ONCE];
            let shard = self.engine.store.lock_nth(number);
            self.note(shard.newest());
            for (key, exists) in found.iter_from(first).zip(&mut exists) {
                *exists = shard.get(self.engine.store.place(key), key).is_some();
            }
            drop(shard);
            let there = found.iter_from(first).zip(exists);
            there.filter(|(_, exists)| *exists).for_each(|(key, _)| visit(key));
            if end == found.len() {
                return;
            }
            first = end;
        }
    }

    /// Visits the keys of shard `number` that begin with `prefix`.
    fn visit_all(
        &mut self,
        number: usize,
        prefix: &[u8],
        visit: impl FnMut(&[u8]),
    ) -> Result<(), NoMemory> {
        let mut keys = KeyList::default();
        let shard = self.engine.store.lock_nth(number);
        self.note(shard.newest());
        let begins = |key: &&[u8]| key.starts_with(prefix);
        shard.entries().map(Entry::key).filter(begins).try_for_each(|key| keys.push(key))?;
        drop(shard);
        keys.iter_from(0).for_each(visit);
        if keys.len() >= KEYS_AT_ONCE {
            // Whoever waits for a processor need not wait until all shards are visited.
            thread::yield_now();
        }
        Ok(())
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
        if committed.is_err() {
            self.engine.take_back();
        }
        self.engine.deliver();
        if committed.is_ok() && self.is_commit_due() {
            self.engine.settle();
        }
        self.undo_bytes = 0;
        committed
    }

    /// Leaves `waiter` to be told what became of everything up to `mark`, if somebody else commits that;
    /// otherwise it is left to [`commit`](Self::commit).
    pub fn leave(&mut self, mark: Mark, waiter: &Arc<dyn Waiter>) -> bool {
        let left = !self.is_commit_due() && self.engine.journal.leave(mark, waiter);
        if left {
            self.undo_bytes = 0;
        }
        left
    }

    /// Before a write of `value` to `key`: refuses while the journal does, and makes room for the record,
    /// with its key written twice.
    fn begin(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.engine.journal.check()?;
        if value.len() > self.value_bytes_max {
            return Err(WriteError::TooLong);
        }
        self.record.clear();
        self.record.shrink_to(CLIENT_SPARE_BYTES_MAX);
        if key.len() + value.len() > CLIENT_SPARE_BYTES_MAX {
            // Others may be about to take as much: a small one need not ask.
            if !memory::has_room(key.len() + value.len()) {
                return Err(WriteError::Full);
            }
            const REST_BYTES: usize = 256;
            let bytes = 2 * quoted_bytes(key) + quoted_bytes(value) + REST_BYTES;
            memory::try_to(|| self.record.try_reserve_exact(bytes))?;
        }
        Ok(())
    }

    /// After a change to one key of `shard`: stamps it, and forgets what is settled there.
    fn changed(&mut self, mut shard: MutexGuard<'_, Shard>, place: Place, stamp: u64, undo: Undo) {
        self.undo_bytes += shard.changed(place, stamp, undo);
        shard.settle(self.engine.journal.committed(), &mut self.settled);
        // A large value takes time to measure and to free: not with the lock held.
        drop(shard);
        self.engine.bury(&mut self.settled);
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
