//! One client's view of the engine: reads, writes, and what must be on disk before they show.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::atomic::{Effect, Held};
use super::search::Window;
use super::{Engine, changed_copy, with_expiry};
use crate::engine::local::entry::Entry;
use crate::engine::local::store::{PROVISIONAL, Place, Shard, Undo};
use crate::engine::local::watch::Watch;
use crate::journal::format::{
    write_del, write_expiry, write_flush, write_set, write_set_end, write_set_range,
    write_set_start, write_swap,
};
use crate::journal::records::Records;
use crate::journal::{Addition, CommitCallback, CommitPoint, Flush, WriteRefused};
use crate::limits::{
    CLIENT_SPARE_BYTES_MAX, KEYS_AT_ONCE, SHARDS, UNDO_BYTES_MAX, VALUE_BLOCK_BYTES,
    VALUE_BYTES_MAX, work,
};
use crate::text::{quote, quoted_bytes};
use crate::util::clock::{unix_time_ms, unix_time_s};
use crate::util::memory::{self, Claim, NoMemory};
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
    /// It would hold up others for too long.
    #[error("it would keep its keys locked for too long")]
    TooMuchWork,
}

/// One client's view of the engine.
#[derive(Debug)]
pub struct Session<'a> {
    engine: &'a Engine,
    /// The database it works with.
    database: usize,
    /// Longest value a write may make, in bytes.
    value_bytes_max: usize,
    /// The highest stamp of what was written or shown since the last [`take_mark`](Self::take_mark),
    /// and how often the journal had been healed at the first of them.
    mark: CommitPoint,
    /// Where records are written before they are appended.
    pub(super) record: Records,
    /// What they make of the file.
    pub(super) effect: Effect,
    /// The room that a large record and its entry are about to take.
    claim: Option<Claim>,
    /// Bytes kept for taking back what was written since the last commit.
    pub(super) undo_bytes: usize,
    /// What was just settled, to be forgotten.
    pub(super) settled: Vec<Undo>,
    lookups: Lookups,
    /// That it asks for keys does not count.
    is_unnoticed: bool,
    /// The time of the command under way, 0 as long as nobody asked.
    now_ms: u64,
    /// Where its last `SCAN` is.
    pub(super) window: Window,
    /// What is done at one moment.
    pub(super) held: Option<Held<'a>>,
}

/// What becomes of a key.
#[derive(Debug)]
pub enum Change {
    /// Nothing.
    Keep,
    /// It has this value, until a time in milliseconds of Unix time.
    Set(Vec<u8>, Option<u64>),
    /// It expires at a time, or not.
    Expire(Option<u64>),
    /// It is gone.
    Remove,
}

/// When a value that is set expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    /// At a time in milliseconds of Unix time, or not at all.
    At(Option<u64>),
    /// When the value before it does.
    AsBefore,
}

/// How much a database has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Keys.
    pub keys: usize,
    /// Those of them that expire.
    pub expiring: usize,
    /// The sum of the times at which they do, in milliseconds of Unix time.
    expiry_sum_ms: u128,
}

impl Counts {
    /// In how many milliseconds its keys expire, on the average; 0 where none does.
    pub fn average_ttl_ms(&self) -> u64 {
        let average_ms = self.expiry_sum_ms.checked_div(self.expiring as u128).unwrap_or(0);
        // What has expired and is not removed yet must not count below zero.
        let ttl_ms = average_ms.saturating_sub(u128::from(unix_time_ms()));
        u64::try_from(ttl_ms).unwrap_or(u64::MAX)
    }
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
            database: 0,
            value_bytes_max: VALUE_BYTES_MAX,
            mark: CommitPoint::default(),
            record: Records::default(),
            effect: Effect::default(),
            claim: None,
            undo_bytes: 0,
            settled: Vec::new(),
            lookups: Lookups::default(),
            is_unnoticed: false,
            now_ms: 0,
            window: Window::default(),
            held: None,
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

    /// The database it works with.
    pub fn database(&self) -> usize {
        self.database
    }

    /// Works with another database, from here on; `false` if there is none of this number.
    pub fn select(&mut self, database: usize) -> bool {
        let exists = database < self.engine.store.databases();
        if exists {
            self.database = database;
        }
        exists
    }

    /// Does `work` in another database, which exists.
    pub fn within<T>(&mut self, database: usize, work: impl FnOnce(&mut Self) -> T) -> T {
        let here = std::mem::replace(&mut self.database, database);
        let done = work(self);
        self.database = here;
        done
    }

    /// Where a key lives.
    pub(super) fn place(&self, key: &[u8]) -> Place {
        self.engine.store.place(self.database, key)
    }

    /// The number of a key's shard, the same in all databases.
    pub fn shard_of(&self, key: &[u8]) -> usize {
        self.place(key).shard()
    }

    /// An error while writes are refused; within a transaction what was so at its beginning.
    pub fn check_writes(&self) -> Result<(), WriteRefused> {
        match &self.held {
            Some(held) => held.permit.clone(),
            None => self.engine.journal.check(),
        }
    }

    /// The lookups since this was last asked.
    pub fn take_lookups(&mut self) -> Lookups {
        std::mem::take(&mut self.lookups)
    }

    /// Hands `show` the value of `key`, `None` if there is none, with the key's shard locked.
    pub fn get<T>(&mut self, key: &[u8], show: impl FnOnce(Option<View<'_>>) -> T) -> T {
        self.entry(key, |entry| show(entry.map(Entry::value)))
    }

    /// Hands `show` the entry of `key`, `None` if there is none, with the key's shard locked.
    pub fn entry<T>(&mut self, key: &[u8], show: impl FnOnce(Option<&Entry>) -> T) -> T {
        let touches = !self.is_unnoticed;
        self.find(key, touches, show)
    }

    /// The same, but it does not count as asking for the key.
    pub fn look<T>(&mut self, key: &[u8], show: impl FnOnce(Option<&Entry>) -> T) -> T {
        self.find(key, false, show)
    }

    /// Asks for a key, and says whether it exists.
    pub fn touch(&mut self, key: &[u8]) -> bool {
        self.find(key, true, |entry| entry.is_some())
    }

    fn find<T>(&mut self, key: &[u8], touches: bool, show: impl FnOnce(Option<&Entry>) -> T) -> T {
        let place = self.place(key);
        self.locked(place.shard(), |session, shard| {
            session.note_key(shard, place);
            if touches {
                shard.touch(place, session.engine.age_s.load(Ordering::Relaxed));
            }
            let entry = session.live(shard.get(place, key));
            session.lookups.count(entry.is_some());
            show(entry)
        })
    }

    /// Seconds since the last access to a key, if it exists: a lower bound, as keys share places.
    pub fn idle_s(&mut self, key: &[u8]) -> Option<u32> {
        let place = self.place(key);
        self.locked(place.shard(), |session, shard| {
            session.note_key(shard, place);
            let exists = session.live(shard.get(place, key)).is_some();
            // Read with the lock held, and still it may be older than a touch by a thread that read it later.
            let now_s = session.engine.age_s.load(Ordering::Relaxed);
            exists.then(|| now_s.saturating_sub(shard.touched(place)))
        })
    }

    /// From here on it asks for keys without being noticed, or not.
    pub fn set_unnoticed(&mut self, is_unnoticed: bool) {
        self.is_unnoticed = is_unnoticed;
    }

    /// Whether a key exists; this counts as no lookup.
    pub fn has(&mut self, key: &[u8]) -> bool {
        self.peek(key, |entry| entry.is_some())
    }

    /// Hands `show` the entry of `key`, `None` if there is none, with the key's shard locked; this counts as no lookup.
    pub(super) fn peek<T>(&mut self, key: &[u8], show: impl FnOnce(Option<&Entry>) -> T) -> T {
        let place = self.place(key);
        self.locked(place.shard(), |session, shard| {
            session.note_key(shard, place);
            show(session.live(shard.get(place, key)))
        })
    }

    /// Counts the `keys` that exist; a key named twice counts twice. So many as [`KEYS_AT_ONCE`] are
    /// looked for at one moment: a million would hold up everybody.
    pub fn exists<'k>(&mut self, mut keys: impl Iterator<Item = &'k [u8]>) -> usize {
        let mut count = 0;
        loop {
            let group: Vec<_> = keys.by_ref().take(KEYS_AT_ONCE).collect();
            if group.is_empty() {
                return count;
            }
            let exists = |session: &mut Self, key| session.look(key, |entry| entry.is_some());
            let found =
                |session: &mut Self| group.iter().filter(|key| exists(session, key)).count();
            count += match group.as_slice() {
                [_] => found(self),
                _ => self.look_at(group.iter().copied(), found),
            };
        }
    }

    /// Sets `key` to `value`.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.set_if(key, value, Expires::At(None), |_| Ok(true)).map(drop)
    }

    /// Sets `key` to `value` if `decide` says so of the old entry, looked at with the key's shard locked; says
    /// whether it did. One that expires at a time that has passed removes the key.
    pub fn set_if<E: From<WriteError>>(
        &mut self,
        key: &[u8],
        value: &[u8],
        expires: Expires,
        decide: impl FnOnce(Option<&Entry>) -> Result<bool, E>,
    ) -> Result<bool, E> {
        self.begin(key, value)?;
        let start = self.record.len();
        write_set_start(key, self.record.room());
        quote(value, self.record.room());
        let expires_ms = match expires {
            Expires::At(expires_ms) => expires_ms,
            Expires::AsBefore => None,
        };
        let mut entry = Entry::new(key, value, expires_ms).map_err(WriteError::from)?;
        let place = self.place(key);
        self.locked(place.shard(), |session, shard| {
            session.note_key(shard, place);
            let old = session.live(shard.get(place, key));
            if !decide(old)? {
                return Ok(false);
            }
            let exists = old.is_some();
            let expires_ms = match expires {
                Expires::At(expires_ms) => expires_ms,
                Expires::AsBefore => old.and_then(Entry::expires_ms),
            };
            if session.is_past(expires_ms) {
                session.record.truncate(start);
                if exists {
                    session.log_and_remove(shard, place, key)?;
                }
                return Ok(true);
            }
            if !entry.set_expires_ms(expires_ms) {
                // A short value, which a copy with a place for the time takes no longer than this.
                entry = Entry::new(key, value, expires_ms).map_err(WriteError::from)?;
            }
            write_set_end(expires_ms, session.record.room());
            session.put(shard, place, entry, 1)?;
            Ok(true)
        })
    }

    /// Whether a time has passed.
    fn is_past(&mut self, expires_ms: Option<u64>) -> bool {
        expires_ms.is_some_and(|time_ms| time_ms <= self.now_ms())
    }

    /// Removes a key that exists, and writes that down.
    fn log_and_remove(
        &mut self,
        shard: &mut Shard,
        place: Place,
        key: &[u8],
    ) -> Result<(), WriteError> {
        let start = self.record.len();
        self.record.reserve(quoted_bytes(key) + 8)?;
        let count = write_del([key].into_iter(), self.record.room());
        self.effect.garbage += (self.record.len() - start) as u64;
        shard.make_restorable(place.database(), 1)?;
        let stamp = self.append_record(count)?;
        self.remove(shard, place, key, stamp);
        Ok(())
    }

    /// Puts an entry at its place; its records were just written.
    pub(super) fn put(
        &mut self,
        shard: &mut Shard,
        place: Place,
        entry: Entry,
        records: u64,
    ) -> Result<(), WriteError> {
        shard.make_room(place.database(), entry.expires_ms())?;
        let stamp = self.append_record(records)?;
        let undo = shard.put(place, entry);
        self.changed(shard, place, stamp, undo);
        Ok(())
    }

    /// The same for one whose value is that of the old entry but for a part: so many bytes of the file say nothing
    /// any more.
    pub(super) fn put_changed(
        &mut self,
        shard: &mut Shard,
        place: Place,
        entry: Entry,
        records: u64,
        garbage: usize,
    ) -> Result<(), WriteError> {
        shard.make_room(place.database(), entry.expires_ms())?;
        let stamp = self.append_record(records)?;
        let undo = match shard.put(place, entry) {
            Undo::Entry(old) => Undo::Changed(old, garbage),
            other => other,
        };
        self.changed(shard, place, stamp, undo);
        Ok(())
    }

    /// Changes `key` as `decide` says of the old entry, looked at with the key's shard locked, and returns what it
    /// says beside that. Values that may be long are better [set](Self::set_if): this writes their records with
    /// the shard locked.
    pub fn update<T, E: From<WriteError>>(
        &mut self,
        key: &[u8],
        decide: impl FnOnce(Option<&Entry>) -> Result<(Change, T), E>,
    ) -> Result<T, E> {
        self.begin(key, b"")?;
        let place = self.place(key);
        self.locked(place.shard(), |session, shard| {
            // What it finds is shown, or the reason of what it shows.
            session.note_key(shard, place);
            let old = session.live(shard.get(place, key));
            let (change, shown) = decide(old)?;
            let exists = old.is_some();
            let change = match change {
                Change::Set(_, expires_ms) if session.is_past(expires_ms) => Change::Remove,
                Change::Expire(expires_ms) if session.is_past(expires_ms) => Change::Remove,
                other => other,
            };
            match (change, exists) {
                (Change::Keep, _) | (Change::Remove | Change::Expire(_), false) => {}
                (Change::Set(value, expires_ms), _) => {
                    if value.len() > session.value_bytes_max {
                        return Err(WriteError::TooLong.into());
                    }
                    session.spend(work::WRITTEN_BYTE * value.len() as u64);
                    let entry = Entry::new(key, &value, expires_ms).map_err(WriteError::from)?;
                    session.reserve_record(key, &value)?;
                    write_set(key, &value, expires_ms, session.record.room());
                    session.put(shard, place, entry, 1)?;
                }
                (Change::Expire(expires_ms), true) => {
                    session.expire(shard, place, key, expires_ms)?;
                }
                (Change::Remove, true) => session.log_and_remove(shard, place, key)?,
            }
            Ok(shown)
        })
    }

    /// Changes when a key that exists expires.
    fn expire(
        &mut self,
        shard: &mut Shard,
        place: Place,
        key: &[u8],
        expires_ms: Option<u64>,
    ) -> Result<(), WriteError> {
        let start = self.record.len();
        write_expiry(key, expires_ms, self.record.room());
        self.effect.garbage += (self.record.len() - start) as u64;
        shard.make_room(place.database(), expires_ms)?;
        let Some(old) = shard.get(place, key) else { return Ok(()) };
        let copy = match old.has_time() {
            true => None,
            false => Some(with_expiry(old, expires_ms)?),
        };
        let stamp = self.append_record(1)?;
        let undo = match copy {
            Some(copy) => Some(shard.put(place, copy)),
            None => shard.expire(place, key, expires_ms),
        };
        if let Some(undo) = undo {
            self.changed(shard, place, stamp, undo);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, shard: &mut Shard, place: Place, key: &[u8], stamp: u64) {
        if let Some(old) = shard.remove(place, key) {
            self.changed(shard, place, stamp, Undo::Removed(old));
        }
    }

    /// Adds `value` to the end of the value of `key`, or sets it; returns the new length in bytes.
    pub fn append(&mut self, key: &[u8], value: &[u8]) -> Result<usize, WriteError> {
        self.change(key, value, |length| length)
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

    /// Puts `value` at the offset that `offset` gives for the old length, and returns the new length.
    ///
    /// Logged as `SETRANGE`, which is idempotent; a key that is new is logged as `SET` first. A key that expires
    /// is told so again: replayed when it has, `SETRANGE` would make a new one.
    pub(super) fn change(
        &mut self,
        key: &[u8],
        value: &[u8],
        offset: impl Fn(usize) -> usize,
    ) -> Result<usize, WriteError> {
        if value.len() > VALUE_BLOCK_BYTES && self.held.is_none() {
            return self.change_prepared(key, value, offset);
        }
        self.begin(key, value)?;
        let place = self.place(key);
        self.locked(place.shard(), |session, shard| {
            session.note_key(shard, place);
            let old = session.live(shard.get(place, key));
            let expires_ms = old.and_then(Entry::expires_ms);
            let old_length = old.map(|old| old.value().len());
            let offset = offset(old_length.unwrap_or(0));
            session.check_length(offset, value)?;
            if let (Some(length), true) = (old_length, value.is_empty()) {
                return Ok(length);
            }
            let count = session.write_change(key, old_length.is_some(), offset, value, expires_ms);
            match old_length {
                Some(_) => session.overwrite(shard, place, key, offset, value, count)?,
                None => {
                    let new = Entry::grown(key, changed_copy(None, offset, value)?, None)?;
                    session.put(shard, place, new, count)?;
                }
            }
            Ok(old_length.unwrap_or(0).max(offset + value.len()))
        })
    }

    /// An error if `value` at `offset` would make a value longer than values may be.
    pub(super) fn check_length(&self, offset: usize, value: &[u8]) -> Result<(), WriteError> {
        match offset.saturating_add(value.len()) > self.value_bytes_max {
            true => Err(WriteError::TooLong),
            false => Ok(()),
        }
    }

    /// Writes the records of a change to part of a value, and returns how many they are.
    pub(super) fn write_change(
        &mut self,
        key: &[u8],
        exists: bool,
        offset: usize,
        value: &[u8],
        expires_ms: Option<u64>,
    ) -> u64 {
        match (exists, offset) {
            (true, _) => {
                self.effect.garbage += (SET_RANGE_BYTES + quoted_bytes(key)) as u64;
                write_set_range(key, offset, value, self.record.room());
                if expires_ms.is_none() {
                    return 1;
                }
                write_expiry(key, expires_ms, self.record.room());
                2
            }
            (false, 0) => {
                write_set(key, value, None, self.record.room());
                1
            }
            // Padding is not spelled out: 512 MiB of it would be 2 GiB of `\x00`.
            (false, _) => {
                write_set(key, b"", None, self.record.room());
                write_set_range(key, offset, value, self.record.room());
                2
            }
        }
    }

    /// Appends the records just written, and puts `value` at `offset` of the value of `key`, which exists.
    fn overwrite(
        &mut self,
        shard: &mut Shard,
        place: Place,
        key: &[u8],
        offset: usize,
        value: &[u8],
        records: u64,
    ) -> Result<(), WriteError> {
        shard.make_room(place.database(), None)?;
        let Some((id, old)) = shard.get_mut(place, key).and_then(Entry::growing) else {
            // The first time it changes it becomes one that may grow.
            let old = shard.get(place, key);
            let expires_ms = old.and_then(Entry::expires_ms);
            let garbage = old.map_or(0, |old| overwritten_bytes(old.value(), offset, value));
            let new =
                Entry::grown(key, changed_copy(old.map(Entry::value), offset, value)?, expires_ms)?;
            return self.put_changed(shard, place, new, records, garbage);
        };
        let length = old.view().len();
        // Nothing stood beyond the old end.
        let (start, end) = (offset.min(length), (offset + value.len()).min(length));
        let bytes = old.view().copy(start..end)?;
        old.reserve(offset, value.len())?;
        let stamp = match self.append_record(records) {
            Ok(stamp) => stamp,
            Err(refused) => {
                old.give_back();
                return Err(refused.into());
            }
        };
        old.write(offset, value);
        let undo = Undo::Range { hash: place.hash(), id, offset: start, bytes, length };
        self.changed(shard, place, stamp, undo);
        Ok(())
    }

    /// Removes every key of this database, or of all, at one moment. Where there is none nothing is written.
    pub fn flush(&mut self, all: bool) -> Result<(), WriteError> {
        let database = if all { 0 } else { self.database };
        self.everywhere(database, |session| {
            let (mut removed, mut keys) = (0, 0);
            for number in 0..SHARDS {
                session.locked(number, |session, shard| {
                    session.note_shard(number, shard);
                    keys += shard.keys();
                    removed += if all { shard.keys() } else { shard.len(database) };
                });
            }
            if removed == 0 {
                return Ok(());
            }
            let time_s = unix_time_s();
            // Of one database, its share.
            let bytes = u128::from(session.engine.live_bytes()) * removed as u128 / keys as u128;
            session.effect.flush = Some(Flush { time_s, bytes: bytes as u64 });
            write_flush(all, time_s, session.record.tail());
            let stamp = session.append_record(1)?;
            for number in 0..SHARDS {
                session.undo_bytes += session.locked(number, |_, shard| match all {
                    false => shard.clear(database, stamp),
                    true => (0..shard.databases().max(1))
                        .map(|database| shard.clear(database, stamp))
                        .sum(),
                });
            }
            Ok(())
        })
    }

    /// Commits what was written, and frees what it replaced: after a flush its memory is there for the next write. In a
    /// transaction that is left to a thread of its own.
    pub fn free_flushed(&mut self) -> Result<(), WriteRefused> {
        if self.held.is_some() {
            return Ok(());
        }
        self.commit(self.mark)?;
        self.engine.settle();
        Ok(())
    }

    /// Gives each of two databases, which exist, the keys of the other, at one moment.
    pub fn swap(&mut self, one: usize, two: usize) -> Result<(), WriteError> {
        self.everywhere(0, |session| {
            let start = session.record.len();
            write_swap(one, two, session.record.tail());
            session.effect.garbage += (session.record.len() - start) as u64;
            let stamp = session.append_record(1)?;
            for number in 0..SHARDS {
                session.locked(number, |_, shard| shard.swap(one, two, stamp));
            }
            session.engine.swaps.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Changes any keys at one moment; what is written down concerns `database`.
    fn everywhere<T>(
        &mut self,
        database: usize,
        work: impl FnOnce(&mut Self) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        self.within(database, |session| {
            session.at_one_moment(|session| {
                session.begin(b"", b"")?;
                work(session)
            })
        })
    }

    /// Lets `watch` know of changes to `key` from now on; returns whether the key exists. An error if there is no
    /// memory for that.
    pub fn watch(&mut self, key: &[u8], watch: &Arc<Watch>) -> Result<bool, NoMemory> {
        let place = self.place(key);
        self.locked(place.shard(), |session, shard| {
            session.note_key(shard, place);
            let exists = session.live(shard.get(place, key)).is_some();
            shard.watchers.add(place, exists, watch)?;
            Ok(exists)
        })
    }

    /// What each database has. Keys that have expired, and are not removed yet, count.
    pub fn counts(&mut self) -> Vec<Counts> {
        let mut counts = vec![Counts::default(); self.engine.store.databases()];
        for number in 0..SHARDS {
            self.locked(number, |session, shard| {
                session.note_shard(number, shard);
                for (database, counts) in counts.iter_mut().enumerate().take(shard.databases()) {
                    counts.keys += shard.len(database);
                    counts.expiring += shard.expiring(database);
                    counts.expiry_sum_ms += shard.expiry_sum_ms(database);
                }
            });
        }
        counts
    }

    /// What to wait for before what was written or shown since this was last asked may leave.
    pub fn take_mark(&mut self) -> CommitPoint {
        self.now_ms = 0;
        self.claim = None;
        std::mem::take(&mut self.mark)
    }

    /// Whether what has this mark may leave the server already.
    pub fn is_committed(&self, mark: CommitPoint) -> bool {
        self.engine.journal.is_committed(mark)
    }

    /// Whether so much is kept for taking writes back that a commit is due.
    pub fn is_commit_due(&self) -> bool {
        self.undo_bytes > UNDO_BYTES_MAX
    }

    /// Waits until everything up to `mark` may leave the server. If it never may, what is not
    /// committed is taken back.
    pub fn commit(&mut self, mark: CommitPoint) -> Result<(), WriteRefused> {
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

    /// Leaves `callback` to be told what became of everything up to `mark`, if somebody else commits that;
    /// otherwise it is left to [`commit`](Self::commit).
    pub fn leave(&mut self, mark: CommitPoint, callback: &Arc<dyn CommitCallback>) -> bool {
        let left = !self.is_commit_due() && self.engine.journal.on_commit(mark, callback);
        if left {
            self.undo_bytes = 0;
        }
        left
    }

    /// Before a write of `value` to `key`: refuses while the journal does, and makes room for the record,
    /// with its key written twice.
    pub(super) fn begin(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.check_write(value)?;
        self.effect = match &self.held {
            // What a change wrote that then was refused is cut off.
            Some(held) => held.begin(self.database, &mut self.record),
            None => {
                self.record.clear();
                Effect::default()
            }
        };
        self.spend(work::WRITTEN_BYTE * value.len() as u64);
        self.check_work()?;
        self.reserve_record(key, value)
    }

    /// Claims the room for what is about to be allocated; what was claimed before is allocated by now.
    pub(super) fn claim(&mut self, bytes: usize) -> Result<(), WriteError> {
        self.claim = None;
        self.claim = Some(memory::claim(bytes).ok_or(WriteError::Full)?);
        Ok(())
    }

    /// An error while writes are refused, or if `value` is longer than values may be.
    pub(super) fn check_write(&self, value: &[u8]) -> Result<(), WriteError> {
        self.check_writes()?;
        self.check_length(0, value)
    }

    /// Makes room for the record of a value, with its key written twice.
    pub(super) fn reserve_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        let length = key.len() + value.len();
        if length > CLIENT_SPARE_BYTES_MAX {
            const REST_BYTES: usize = 256;
            let bytes = 2 * quoted_bytes(key) + quoted_bytes(value) + REST_BYTES;
            // The record, and the entry.
            self.claim(bytes + length)?;
            self.record.reserve(bytes)?;
        } else {
            // A piece that is long already ends before it.
            self.record.tail();
        }
        Ok(())
    }

    /// Works with shard `number` locked, for this alone or for all that is done at one moment.
    pub(super) fn locked<T>(
        &mut self,
        number: usize,
        work: impl FnOnce(&mut Self, &mut Shard) -> T,
    ) -> T {
        let engine = self.engine;
        let mut shard = match &mut self.held {
            None => {
                let shard = engine.store.lock_nth(number);
                // Read with the lock held: what another saw expired is not alive again.
                self.forget_time();
                shard
            }
            Some(held) => held.shards.take(number),
        };
        self.spend(work::KEY);
        let done = work(self, &mut shard);
        match &mut self.held {
            Some(held) => held.shards.put_back(number, shard),
            None => {
                // A large value takes time to measure and to free: not with the lock held.
                drop(shard);
                self.tidy();
            }
        }
        done
    }

    /// Forgets what need not be kept; no shard is locked.
    pub(super) fn tidy(&mut self) {
        if !self.settled.is_empty() {
            self.engine.bury(&mut self.settled);
        }
        self.record.clear();
        self.claim = None;
    }

    /// After a change to one key of `shard`: stamps it, and notes what is settled there.
    pub(super) fn changed(&mut self, shard: &mut Shard, place: Place, stamp: u64, undo: Undo) {
        self.undo_bytes += shard.changed(place, stamp, undo);
        shard.touch(place, self.engine.age_s.load(Ordering::Relaxed));
        if self.held.is_none() {
            shard.settle(self.engine.journal.committed(), &mut self.settled);
        }
    }

    /// Appends the records just written, with the lock of every shard they change held; or keeps them until
    /// all is done that is done at one moment.
    pub(super) fn append_record(&mut self, count: u64) -> Result<u64, WriteRefused> {
        if let Some(held) = &mut self.held {
            return Ok(held.append(self.database, &self.record, count, self.effect));
        }
        self.append_all(count, (self.database, self.database))
    }

    /// The stamp of what the step of the transaction under way changes.
    pub(super) fn provisional_stamp(&self) -> u64 {
        PROVISIONAL + self.held.as_ref().map_or(0, Held::step)
    }

    /// Appends the records just written, which begin in the first of `databases` and end in the second.
    pub(super) fn append_all(
        &mut self,
        count: u64,
        databases: (usize, usize),
    ) -> Result<u64, WriteRefused> {
        let Effect { garbage, flush } = self.effect;
        let records = &mut self.record;
        let addition = Addition { records, count, databases, garbage, flush };
        let stamp = self.engine.journal.append(addition)?;
        self.note(stamp);
        Ok(stamp)
    }

    /// What is shown depends on a key of `shard`.
    pub(super) fn note_key(&mut self, shard: &Shard, place: Place) {
        self.note_of(place.shard(), shard.stamp(place));
    }

    /// What is shown depends on any key of shard `number`.
    pub(super) fn note_shard(&mut self, number: usize, shard: &Shard) {
        self.note_of(number, shard.newest());
    }

    fn note_of(&mut self, number: usize, stamp: u64) {
        let stamp = match &self.held {
            // The transaction's own change may hide an earlier one by another client.
            Some(held) if stamp >= PROVISIONAL => held.newest_before(number),
            _ => stamp,
        };
        self.note(stamp);
    }

    /// What was just written or shown has this stamp. Call it with the lock of the stamp's shard held,
    /// or for a stamp just appended.
    pub(super) fn note(&mut self, stamp: u64) {
        // Nothing ever commits a provisional stamp.
        debug_assert!(stamp < PROVISIONAL);
        if self.mark.sequence == 0 {
            self.mark.epoch = self.engine.journal.epoch();
        }
        self.mark.sequence = self.mark.sequence.max(stamp);
    }

    /// The time of the command under way, in milliseconds of Unix time: it stands still while the same shards are
    /// locked.
    pub fn now_ms(&mut self) -> u64 {
        if self.now_ms == 0 {
            self.now_ms = unix_time_ms();
        }
        self.now_ms
    }

    /// The next to ask for the time gets a new one.
    pub(super) fn forget_time(&mut self) {
        self.now_ms = 0;
    }

    /// An entry, if it has not expired.
    pub(super) fn live<'e>(&mut self, entry: Option<&'e Entry>) -> Option<&'e Entry> {
        entry.filter(|entry| entry.expires_ms().is_none_or(|time_ms| time_ms > self.now_ms()))
    }
}

/// How many bytes of the file say nothing any more once `new` is written at `offset` of a value.
pub(super) fn overwritten_bytes(old: View<'_>, offset: usize, new: &[u8]) -> usize {
    let (start, end) = (offset.min(old.len()), (offset + new.len()).min(old.len()));
    old.written(start..end).map(quoted_bytes).sum()
}
