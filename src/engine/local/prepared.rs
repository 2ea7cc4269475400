//! Changes that take long to work out: they are prepared with no shard locked, and made in a moment.
//!
//! What a change depends on is looked at first ([`Snapshot`]); its records and entries are made; then, with the lock
//! held, it takes place if the key is still what it was, and begins again if it is not. After some tries it is
//! prepared with the lock held. Within a transaction the locks are held anyway.

use std::sync::Arc;

use super::changed_copy;
use super::session::{Change, Expires, Session, WriteError, overwritten_bytes};
use crate::engine::local::entry::Entry;
use crate::engine::local::store::Place;
use crate::journal::format::{write_del, write_set};
use crate::journal::records::Records;
use crate::journal::snapshot::{piece, write_piece};
use crate::limits::{CLIENT_SPARE_BYTES_MAX, KEYS_AT_ONCE, VALUE_BLOCK_BYTES, work};
use crate::text::quoted_bytes;
use crate::util::memory::NoMemory;
use crate::value::{Long, Value, View};

/// How often a change is prepared without the lock.
const TRIES: usize = 8;

/// A key in one of the databases.
pub type InDatabase<'k> = (usize, &'k [u8]);

/// What a key held at some moment.
#[derive(Debug)]
struct Snapshot {
    value: Value,
    expires_ms: Option<u64>,
}

impl Snapshot {
    fn of(entry: &Entry) -> Result<Self, WriteError> {
        Ok(Self { value: entry.value().share()?, expires_ms: entry.expires_ms() })
    }

    /// Whether a key holds that still.
    fn is_still(&self, entry: Option<&Entry>) -> bool {
        entry.is_some_and(|entry| {
            entry.expires_ms() == self.expires_ms
                && match (entry.value(), self.value.view()) {
                    (View::Short(now), View::Short(then)) => now == then,
                    // As long as it is held here nothing else has its address.
                    (View::Long(now), View::Long(then)) => Arc::ptr_eq(now, then),
                    _ => false,
                }
        })
    }
}

/// The result of comparing a long value with some bytes.
#[derive(Debug)]
pub struct Compared {
    value: Arc<Long>,
    /// Whether they are the same.
    pub is_equal: bool,
}

impl Compared {
    /// Whether it is this value that was compared.
    pub fn is_of(&self, value: View<'_>) -> bool {
        matches!(value, View::Long(long) if Arc::ptr_eq(long, &self.value))
    }
}

/// A key's new entry, and its records.
struct Prepared {
    /// What its source held.
    source: Snapshot,
    entry: Entry,
    records: Records,
    /// How many they are.
    count: u64,
}

/// One of several keys that are set at one moment.
struct Set {
    place: Place,
    /// Its place among those named.
    number: usize,
    entry: Entry,
}

impl Session<'_> {
    fn snapshot(&mut self, key: &[u8]) -> Result<Option<Snapshot>, WriteError> {
        self.peek(key, |entry| entry.map(Snapshot::of).transpose())
    }

    /// Compares the value of `key` with `bytes`, if both are long: a decision under the lock can use the result. Within
    /// a transaction they are compared later, with the lock held; an error if that would take too long.
    pub fn compare_ahead(
        &mut self,
        key: &[u8],
        bytes: &[u8],
    ) -> Result<Option<Compared>, WriteError> {
        if bytes.len() <= VALUE_BLOCK_BYTES {
            return Ok(None);
        }
        if self.held.is_some() {
            self.spend(work::FOUR_BYTES * bytes.len() as u64 / 4);
            self.check_work()?;
            return Ok(None);
        }
        let value = self.peek(key, |entry| match entry.map(Entry::value) {
            Some(View::Long(long)) if long.length() == bytes.len() => Some(Arc::clone(long)),
            _ => None,
        });
        let compare = |value: Arc<Long>| {
            let is_equal = View::Long(&value).equals(bytes);
            Compared { value, is_equal }
        };
        Ok(value.map(compare))
    }

    /// Puts a long `value` at the offset that `offset` gives for the old length, and returns the new length.
    pub(super) fn change_prepared(
        &mut self,
        key: &[u8],
        value: &[u8],
        offset: impl Fn(usize) -> usize,
    ) -> Result<usize, WriteError> {
        let place = self.place(key);
        for _ in 0..TRIES {
            let old = self.snapshot(key)?;
            let old_length = old.as_ref().map_or(0, |old| old.value.view().len());
            let offset = offset(old_length);
            self.check_length(offset, value)?;
            self.begin(key, value)?;
            let expires_ms = old.as_ref().and_then(|old| old.expires_ms);
            let count = self.write_change(key, old.is_some(), offset, value, expires_ms);
            let garbage =
                old.as_ref().map_or(0, |old| overwritten_bytes(old.value.view(), offset, value));
            let changed = changed_copy(old.as_ref().map(|old| old.value.view()), offset, value)?;
            let entry = Entry::grown(key, changed, expires_ms)?;
            let length = self.locked(place.shard(), |session, shard| {
                session.note_key(shard, place);
                let now = session.live(shard.get(place, key));
                let is_still = match &old {
                    Some(old) => old.is_still(now),
                    None => now.is_none(),
                };
                match is_still {
                    true => {
                        session.put_changed(shard, place, entry, count, garbage)?;
                        Ok::<_, WriteError>(Some(old_length.max(offset + value.len())))
                    }
                    false => Ok(None),
                }
            })?;
            if let Some(length) = length {
                return Ok(length);
            }
        }
        // Other clients change it all the time: this once they wait.
        self.atomically([key].into_iter(), |session| session.change(key, value, offset))
    }

    /// Gives the value of one key to another, and when it expires; `None` if there is no such key, `Some(false)` if
    /// there is another that is not to be replaced. Of a long value no byte is copied in memory.
    pub fn transfer(
        &mut self,
        from: InDatabase<'_>,
        to: InDatabase<'_>,
        replace: bool,
        remove: bool,
    ) -> Result<Option<bool>, WriteError> {
        // What needs no copy of the value is decided without one.
        let decided = self.look_at([from.1, to.1].into_iter(), |session| {
            let exists = session.within(from.0, |session| session.has(from.1));
            let is_in_the_way = !replace && session.within(to.0, |session| session.has(to.1));
            match exists {
                false => Some(None),
                true if is_in_the_way => Some(Some(false)),
                true => (from == to).then_some(Some(true)),
            }
        });
        if let Some(decided) = decided {
            return Ok(decided);
        }
        for attempt in 0.. {
            let is_locked = self.held.is_some() || attempt == TRIES;
            let mut prepared = None;
            if !is_locked {
                match self.prepare(from, to)? {
                    Some(found) => prepared = Some(found),
                    None => return Ok(None),
                }
            }
            let done = self.atomically([from.1, to.1].into_iter(), |session| {
                let prepared = match prepared {
                    Some(prepared) => {
                        let is_still = |entry: Option<&Entry>| prepared.source.is_still(entry);
                        match session.within(from.0, |session| session.peek(from.1, is_still)) {
                            true => prepared,
                            false => return Ok(None),
                        }
                    }
                    None => match session.prepare(from, to)? {
                        Some(prepared) => prepared,
                        None => return Ok(Some(None)),
                    },
                };
                session
                    .make_transfer(from, to, replace, remove, prepared)
                    .map(|done| Some(Some(done)))
            })?;
            if let Some(done) = done {
                return Ok(done);
            }
        }
        unreachable!("the last try is made with the lock held")
    }

    /// Makes the entry of `to` from what `from` holds, and its records.
    fn prepare(
        &mut self,
        from: InDatabase<'_>,
        to: InDatabase<'_>,
    ) -> Result<Option<Prepared>, WriteError> {
        let Some(source) = self.within(from.0, |session| session.snapshot(from.1))? else {
            return Ok(None);
        };
        let (key, value, expires_ms) = (to.1, source.value.view(), source.expires_ms);
        self.spend(work::WRITTEN_BYTE * value.len() as u64);
        self.check_work()?;
        let (mut records, mut count) = (Records::default(), 0);
        let mut start = 0;
        loop {
            let range = piece(key, start, value.len());
            let last = (range.end == value.len()).then_some(expires_ms);
            let bytes = value.copy(range.clone())?;
            const REST_BYTES: usize = 256;
            let most = 2 * quoted_bytes(key) + quoted_bytes(&bytes) + REST_BYTES;
            if most > CLIENT_SPARE_BYTES_MAX {
                self.claim(most)?;
            }
            records.reserve(most)?;
            count += write_piece(key, start, &bytes, last, records.room());
            start = range.end;
            if last.is_some() {
                break;
            }
        }
        let entry = match value {
            View::Short(bytes) => Entry::new(key, bytes, expires_ms)?,
            View::Long(long) => Entry::grown(key, Value::Long(Arc::clone(long)), expires_ms)?,
        };
        Ok(Some(Prepared { source, entry, records, count }))
    }

    fn make_transfer(
        &mut self,
        from: InDatabase<'_>,
        to: InDatabase<'_>,
        replace: bool,
        remove: bool,
        prepared: Prepared,
    ) -> Result<bool, WriteError> {
        if !replace && self.within(to.0, |session| session.has(to.1)) {
            return Ok(false);
        }
        if remove {
            let remove = |_: Option<&Entry>| Ok::<_, WriteError>((Change::Remove, ()));
            self.within(from.0, |session| session.update(from.1, remove))?;
        }
        let Prepared { entry, mut records, count, .. } = prepared;
        self.within(to.0, |session| {
            session.begin(b"", b"")?;
            session.record.take(&mut records)?;
            let place = session.place(to.1);
            session.locked(place.shard(), |session, shard| session.put(shard, place, entry, count))
        })?;
        Ok(true)
    }

    /// Sets several keys at one moment, if `decide` says so once their shards are locked; says whether it did.
    pub fn set_all<'k, E: From<WriteError>>(
        &mut self,
        pairs: impl ExactSizeIterator<Item = (&'k [u8], &'k [u8])> + Clone,
        expires_ms: Option<u64>,
        decide: impl FnOnce(&mut Self) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let keys = pairs.clone().map(|(key, _)| key);
        if expires_ms.is_some_and(|time_ms| time_ms <= self.now_ms()) {
            return self.atomically(keys, |session| {
                let is_met = decide(session)?;
                if is_met {
                    for (key, value) in pairs {
                        let expires = Expires::At(expires_ms);
                        session.set_if(key, value, expires, |_| Ok::<_, WriteError>(true))?;
                        session.spend(work::COMMAND);
                        session.check_work()?;
                    }
                }
                Ok(is_met)
            });
        }
        let (mut records, count) = (Records::default(), pairs.len());
        let mut sets = self.prepare_all(pairs, expires_ms, &mut records)?;
        // By shard, each locked and worked on once; a key that is named twice keeps the last value.
        sets.sort_unstable_by_key(|set| (set.place.shard(), set.number));
        // What is not set is freed with no shard locked.
        let mut sets = Some(sets);
        self.atomically(keys, |session| {
            session.spend(work::KEY * count as u64);
            session.check_work()?;
            if !decide(session)? {
                return Ok(false);
            }
            let sets = sets.take().unwrap_or_default();
            session.put_all(sets, count, &mut records, expires_ms)?;
            Ok(true)
        })
    }

    fn prepare_all<'k>(
        &mut self,
        pairs: impl ExactSizeIterator<Item = (&'k [u8], &'k [u8])>,
        expires_ms: Option<u64>,
        records: &mut Records,
    ) -> Result<Vec<Set>, WriteError> {
        let mut sets = Vec::new();
        sets.try_reserve_exact(pairs.len()).map_err(NoMemory::from)?;
        for (number, (key, value)) in pairs.enumerate() {
            self.check_write(value)?;
            let length = key.len() + value.len();
            self.spend(work::WRITTEN_BYTE * length as u64 + work::KEY);
            self.check_work()?;
            const REST_BYTES: usize = 64;
            let bytes = quoted_bytes(key) + quoted_bytes(value) + REST_BYTES;
            if length > CLIENT_SPARE_BYTES_MAX {
                self.claim(bytes + length)?;
            }
            records.reserve(bytes)?;
            write_set(key, value, expires_ms, records.tail());
            let entry = Entry::new(key, value, expires_ms)?;
            sets.push(Set { place: self.place(key), number, entry });
        }
        Ok(sets)
    }

    fn put_all(
        &mut self,
        sets: Vec<Set>,
        count: usize,
        records: &mut Records,
        expires_ms: Option<u64>,
    ) -> Result<(), WriteError> {
        self.begin(b"", b"")?;
        self.record.take(records)?;
        let database = self.database();
        for group in sets.chunk_by(|one, two| one.place.shard() == two.place.shard()) {
            self.locked(group[0].place.shard(), |_, shard| {
                shard.make_room_for(database, group.len(), expires_ms)
            })?;
        }
        let stamp = self.append_record(count as u64)?;
        let mut sets = sets.into_iter().peekable();
        while let Some(first) = sets.next() {
            let number = first.place.shard();
            self.locked(number, |session, shard| {
                let mut next = Some(first);
                while let Some(Set { place, entry, .. }) = next {
                    let undo = shard.put(place, entry);
                    session.changed(shard, place, stamp, undo);
                    next = sets.next_if(|set| set.place.shard() == number);
                }
            });
        }
        Ok(())
    }

    /// Removes those of `keys` that exist, all at one moment, and counts them.
    pub fn del<'k>(
        &mut self,
        keys: impl ExactSizeIterator<Item = &'k [u8]>,
    ) -> Result<usize, WriteError> {
        let mut named: Vec<(Place, &[u8])> = Vec::new();
        named.try_reserve_exact(keys.len()).map_err(NoMemory::from)?;
        named.extend(keys.map(|key| (self.place(key), key)));
        // By shard, each locked and worked on once; a key named twice is removed once.
        named.sort_unstable_by_key(|(place, key)| (place.shard(), place.hash(), *key));
        named.dedup();
        if let [(_, key)] = named[..] {
            let remove = |old: Option<&Entry>| {
                Ok(if old.is_some() { (Change::Remove, 1) } else { (Change::Keep, 0) })
            };
            return self.update(key, remove);
        }
        let mut shards = Vec::new();
        shards.try_reserve_exact(named.len()).map_err(NoMemory::from)?;
        shards.extend(named.iter().map(|(place, _)| place.shard()));
        self.hold(shards.into_iter(), |session| session.remove_all(named))
    }

    /// Removes those that exist of keys that are sorted by their shards, which are locked. The keys go first and their
    /// record follows: an error takes all of it back.
    fn remove_all(&mut self, mut named: Vec<(Place, &[u8])>) -> Result<usize, WriteError> {
        self.begin(b"", b"")?;
        self.spend(work::REMOVED_KEY * named.len() as u64);
        self.check_work()?;
        let stamp = self.provisional_stamp();
        let (mut kept, mut first) = (0, 0);
        while first < named.len() {
            let number = named[first].0.shard();
            let rest = named[first..].iter();
            let length = rest.take_while(|(place, _)| place.shard() == number).count();
            kept = self.locked(number, |session, shard| {
                let mut kept = kept;
                for index in first..first + length {
                    let (place, key) = named[index];
                    session.note_key(shard, place);
                    if session.live(shard.get(place, key)).is_some() {
                        shard.make_restorable(place.database(), 1)?;
                        session.remove(shard, place, key, stamp);
                        named[kept] = (place, key);
                        kept += 1;
                    }
                }
                Ok::<_, WriteError>(kept)
            })?;
            first += length;
        }
        if kept == 0 {
            return Ok(0);
        }
        named.truncate(kept);
        if kept <= KEYS_AT_ONCE {
            // A person reads it.
            named.sort_unstable_by_key(|(_, key)| *key);
        }
        // Each byte as `\xHH`, and quotes, a blank or the beginning of a line around each key.
        let most = named.iter().map(|(_, key)| 4 * key.len() + 8).sum();
        self.record.reserve(most)?;
        let start = self.record.len();
        let count = write_del(named.iter().map(|(_, key)| *key), self.record.room());
        self.effect.garbage += (self.record.len() - start) as u64;
        self.append_record(count)?;
        Ok(kept)
    }
}
