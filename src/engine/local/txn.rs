//! A transaction on shards in memory and a journal.
//!
//! It locks the shards of its keys, changes their tables at once and keeps what undoes that. At its end it appends its
//! records to the journal and publishes its changes; if its body failed or the journal refuses, it rolls back. All of
//! that happens with the shards locked, so the file has the order of memory and no other transaction sees a part.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::LocalEngine;
use super::locks::Locks;
use super::search::Window;
use super::shard::{Shard, overwritten_bytes, spliced};
use super::store::KeySlot;
use super::txn_log::{LogMark, Part, TxnLog};
use super::undo::{Change, Undo};
use super::watchers::Watched;
use crate::engine::{Counts, Entry, Key, Txn, TxnError};
use crate::journal::{CommitPoint, Flush, WriteRefused};
use crate::limits::{LOCKED_WORK_MAX, SHARDS, UNDO_BYTES_MAX, work};
use crate::util::clock::{unix_time_ms, unix_time_s};
use crate::util::memory;
use crate::value::{Value, View};

/// What a connection keeps from one transaction to the next.
#[derive(Debug, Default)]
pub struct LocalSession {
    /// The highest sequence of what was written or shown since it was last taken, and its epoch.
    pub(super) point: CommitPoint,
    /// Undo kept since the last commit, in bytes.
    pub(super) undo_bytes: usize,
    /// Where its last `SCAN` is.
    pub(super) window: Window,
    log: TxnLog,
    changes: Vec<Change>,
    released: Vec<Undo>,
}

/// See the module.
pub struct LocalTxn<'e> {
    pub(super) engine: &'e LocalEngine,
    pub(super) session: &'e mut LocalSession,
    pub(super) locks: Locks<'e>,
    /// Whether the journal takes writes: asked once.
    permit: Option<Result<(), WriteRefused>>,
    /// 0 until it is first asked for: read with the keys locked, so that what another transaction saw expired does not
    /// live again.
    now_ms: u64,
    work_ns: u64,
}

impl<'e> LocalTxn<'e> {
    /// A transaction that has changed nothing yet.
    pub fn new(engine: &'e LocalEngine, session: &'e mut LocalSession, locks: Locks<'e>) -> Self {
        Self { engine, session, locks, permit: None, now_ms: 0, work_ns: 0 }
    }

    /// Ends the transaction: all of it happens, or nothing.
    pub fn finish<T, E: From<TxnError>>(mut self, result: Result<T, E>) -> Result<T, E> {
        if result.is_ok() && self.session.log.is_empty() {
            return result;
        }
        let result = result.and_then(|value| {
            self.append().map_err(TxnError::from)?;
            Ok(value)
        });
        if result.is_err() {
            self.undo_to(0);
        }
        let Self { engine, session, locks, .. } = self;
        // Large values take time to free: not with a shard locked.
        drop(locks);
        session.log.clear();
        engine.free_undo(&mut session.released);
        result
    }

    /// Appends the records and publishes the changes.
    fn append(&mut self) -> Result<(), WriteRefused> {
        let Self { engine, session, locks, .. } = self;
        let sequence = engine.journal.append(session.log.addition())?;
        session.depend_on(engine, sequence);
        let now_s = engine.age_s.load(Ordering::Relaxed);
        let committed = engine.journal.committed();
        for change in session.changes.drain(..) {
            let slot = change.slot;
            let shard = locks.shard(slot.shard());
            session.undo_bytes += shard.publish(change, sequence);
            shard.access(slot, now_s);
            shard.release_light(committed, &mut session.released);
        }
        Ok(())
    }

    fn undo_to(&mut self, count: usize) {
        for change in self.session.changes.drain(count..).rev() {
            self.locks.shard(change.slot.shard()).roll_back(change);
        }
    }

    /// Before a change: whether the journal takes writes.
    fn begin_write(&mut self, work_ns: u64) -> Result<(), TxnError> {
        let permit = self.permit.get_or_insert_with(|| self.engine.journal.check());
        permit.clone()?;
        self.charge(work_ns)
    }

    /// Locks the shard of a key, if it is not, and finds the key's entry if it has not expired.
    fn find(&mut self, key: Key<'_>) -> (KeySlot, Option<&Entry>) {
        let slot = self.locks.slot(key);
        let shard = self.locks.shard(slot.shard());
        self.session.depend_on(self.engine, shard.sequence(slot));
        let entry = shard.get(slot, key.bytes);
        if entry.is_some_and(|entry| entry.expires_ms().is_some()) {
            if self.now_ms == 0 {
                self.now_ms = unix_time_ms();
            }
            let now_ms = self.now_ms;
            return (slot, entry.filter(|entry| !entry.is_expired(now_ms)));
        }
        (slot, entry)
    }

    /// A change was made in a shard that is locked.
    fn changed(&mut self, slot: KeySlot, undo: Undo) {
        self.session.changes.push(Change { slot, undo });
    }

    /// What is shown depends on any key of shard `number`, which is locked, or is now.
    pub(super) fn shard(&mut self, number: usize) -> &Shard {
        let shard = self.locks.shard(number);
        self.session.depend_on(self.engine, shard.newest());
        shard
    }

    /// Removes the keys of a database in a shard that have expired, at most `count` of them; returns how many. Where
    /// there is no memory for a copy of a key, it has time until there is.
    pub(super) fn delete_expired(
        &mut self,
        database: usize,
        number: usize,
        count: usize,
    ) -> Result<usize, TxnError> {
        let now_ms = self.now_ms();
        let shard = self.locks.shard(number);
        let Some(table) = shard.table(database) else { return Ok(0) };
        let is_due = |(time_ms, hash): (u64, u64)| {
            let found = shard.with_hash(database, hash);
            let mut due = found.filter(move |entry| entry.expires_ms() == Some(time_ms));
            due.next().and_then(|entry| memory::copy(entry.key(), 0).ok())
        };
        let keys: Vec<Vec<u8>> =
            table.expiry.expired(now_ms).filter_map(is_due).take(count).collect();
        for bytes in &keys {
            let key = Key { database, bytes };
            self.begin_write(work::REMOVED_KEY)?;
            self.session.log.delete(key)?;
            let slot = self.locks.slot(key);
            if let Some(entry) = self.locks.shard(number).remove(slot, bytes) {
                self.changed(slot, Undo::Expired(entry));
            }
        }
        Ok(keys.len())
    }
}

impl LocalSession {
    /// What was just written or shown has this sequence. Call it with the lock of the sequence's shard held.
    pub(super) fn depend_on(&mut self, engine: &LocalEngine, sequence: u64) {
        if sequence == 0 {
            return;
        }
        if self.point.sequence == 0 {
            self.point.epoch = engine.journal.epoch();
        }
        self.point.sequence = self.point.sequence.max(sequence);
    }
}

/// A state of a transaction.
#[derive(Clone, Copy, Debug)]
pub struct Savepoint {
    changes: usize,
    log: LogMark,
}

impl Txn for LocalTxn<'_> {
    type Watched = Watched;
    type Savepoint = Savepoint;

    fn now_ms(&mut self) -> u64 {
        if self.now_ms == 0 {
            self.now_ms = unix_time_ms();
        }
        self.now_ms
    }

    fn reaches(&self, key: Option<Key<'_>>) -> bool {
        self.locks.reach(key)
    }

    fn get(&mut self, key: Key<'_>) -> Result<Option<&Entry>, TxnError> {
        let now_s = self.engine.age_s.load(Ordering::Relaxed);
        let slot = self.locks.slot(key);
        self.locks.shard(slot.shard()).access(slot, now_s);
        self.peek(key)
    }

    fn peek(&mut self, key: Key<'_>) -> Result<Option<&Entry>, TxnError> {
        self.charge(work::KEY)?;
        Ok(self.find(key).1)
    }

    fn idle_s(&mut self, key: Key<'_>) -> Result<Option<u32>, TxnError> {
        let (slot, entry) = self.find(key);
        let exists = entry.is_some();
        // Read with the lock held, and still it may be older than an access by a thread that read it later.
        let now_s = self.engine.age_s.load(Ordering::Relaxed);
        let accessed_s = self.locks.shard(slot.shard()).accessed_s(slot);
        Ok(exists.then(|| now_s.saturating_sub(accessed_s)))
    }

    fn put(
        &mut self,
        key: Key<'_>,
        value: View<'_>,
        expires_ms: Option<u64>,
    ) -> Result<(), TxnError> {
        if expires_ms.is_some_and(|time_ms| time_ms <= self.now_ms()) {
            self.begin_write(0)?;
            // As in Redis a key that was not there is modified, too: it came and went.
            if !self.delete(key)? {
                self.put(key, value, None)?;
                self.delete(key)?;
            }
            return Ok(());
        }
        let copied = if let View::Short(bytes) = value { bytes.len() } else { 0 };
        self.begin_write(work::KEY + work::WRITTEN_BYTE * copied as u64)?;
        let entry = Entry::new(key.bytes, value, expires_ms)?;
        self.session.log.set(key, value, expires_ms)?;
        let slot = self.locks.slot(key);
        let undo = self.locks.shard(slot.shard()).put(slot, entry)?;
        self.changed(slot, undo);
        Ok(())
    }

    fn splice(&mut self, key: Key<'_>, offset: usize, bytes: &[u8]) -> Result<usize, TxnError> {
        self.begin_write(work::KEY + work::WRITTEN_BYTE * bytes.len() as u64)?;
        let (slot, old) = self.find(key);
        let state = old.map(|old| (old.value().len(), old.expires_ms()));
        let length = state.map_or(0, |(length, _)| length);
        if state.is_some() && bytes.is_empty() {
            return Ok(length);
        }
        let expires_ms = state.and_then(|(_, expires_ms)| expires_ms);
        self.session.log.splice(key, state.is_some(), expires_ms, offset, Part::Bytes(bytes))?;
        let undo = match state {
            Some(_) => self.locks.shard(slot.shard()).splice(slot, key.bytes, offset, bytes)?,
            None => {
                let entry = Entry::grown(key.bytes, spliced(None, offset, bytes)?, None)?;
                Some(self.locks.shard(slot.shard()).put(slot, entry)?)
            }
        };
        if let Some(undo) = undo {
            self.changed(slot, undo);
        }
        Ok(length.max(offset + bytes.len()))
    }

    fn put_part(
        &mut self,
        key: Key<'_>,
        value: &Value,
        part: Range<usize>,
    ) -> Result<(), TxnError> {
        self.begin_write(work::KEY)?;
        let (slot, old) = self.find(key);
        let expires_ms = old.and_then(Entry::expires_ms);
        let garbage = old.map(|old| overwritten_bytes(old.value(), part.start, part.len()));
        let entry = Entry::grown(key.bytes, value.view().share()?, expires_ms)?;
        let (offset, written) = (part.start, Part::OfValue(value.view(), part));
        self.session.log.splice(key, garbage.is_some(), expires_ms, offset, written)?;
        let shard = self.locks.shard(slot.shard());
        let undo = shard.replace_partly(slot, entry, garbage.unwrap_or(0))?;
        self.changed(slot, undo);
        Ok(())
    }

    fn expire(&mut self, key: Key<'_>, expires_ms: Option<u64>) -> Result<bool, TxnError> {
        if expires_ms.is_some_and(|time_ms| time_ms <= self.now_ms()) {
            return self.delete(key);
        }
        self.begin_write(work::KEY)?;
        let (slot, entry) = self.find(key);
        if entry.is_none() {
            return Ok(false);
        }
        self.session.log.expire(key, expires_ms)?;
        let undo = self.locks.shard(slot.shard()).expire(slot, key.bytes, expires_ms)?;
        if let Some(undo) = undo {
            self.changed(slot, undo);
        }
        Ok(true)
    }

    fn delete(&mut self, key: Key<'_>) -> Result<bool, TxnError> {
        self.begin_write(work::REMOVED_KEY)?;
        let (slot, entry) = self.find(key);
        if entry.is_none() {
            return Ok(false);
        }
        self.session.log.delete(key)?;
        if let Some(entry) = self.locks.shard(slot.shard()).remove(slot, key.bytes) {
            self.changed(slot, Undo::Deleted(entry));
        }
        Ok(true)
    }

    fn clear(&mut self, database: Option<usize>) -> Result<(), TxnError> {
        self.begin_write(0)?;
        let (mut removed, mut keys) = (0, 0);
        for number in 0..SHARDS {
            let shard = self.shard(number);
            keys += shard.keys();
            removed += database.map_or_else(|| shard.keys(), |database| shard.len(database));
        }
        if removed == 0 {
            return Ok(());
        }
        // Of one database, its share.
        let bytes = u128::from(self.engine.live_bytes()) * removed as u128 / keys as u128;
        let flush = Flush { time_s: unix_time_s(), bytes: bytes as u64 };
        self.session.log.clear_keys(database, flush)?;
        for number in 0..SHARDS {
            let shard = self.locks.shard(number);
            let all = 0..shard.databases();
            for database in database.map_or(all, |database| database..database + 1) {
                if let Some(undo) = self.locks.shard(number).clear(database) {
                    self.changed(KeySlot::of_database(database, number), undo);
                }
            }
        }
        // Freed before the reply is sent: its memory is there for the next write.
        self.session.undo_bytes = UNDO_BYTES_MAX + 1;
        Ok(())
    }

    fn swap(&mut self, one: usize, two: usize) -> Result<(), TxnError> {
        self.begin_write(0)?;
        self.session.log.swap(one, two)?;
        for number in 0..SHARDS {
            let undo = self.locks.shard(number).swap(one, two);
            self.changed(KeySlot::of_database(one, number), undo);
        }
        self.engine.swaps.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn keys(
        &mut self,
        database: usize,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), TxnError> {
        self.visit_keys(database, prefix, visit)
    }

    fn scan(
        &mut self,
        database: usize,
        cursor: u64,
        count: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, TxnError> {
        self.scan_keys(database, cursor, count, visit)
    }

    fn random_key(
        &mut self,
        database: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, TxnError> {
        self.pick_key(database, visit)
    }

    fn counts(&mut self) -> Result<Vec<Counts>, TxnError> {
        let mut counts = vec![Counts::default(); self.engine.store.databases()];
        for number in 0..SHARDS {
            let shard = self.shard(number);
            for (database, counts) in counts.iter_mut().enumerate().take(shard.databases()) {
                counts.keys += shard.len(database);
                if let Some(table) = shard.table(database) {
                    counts.expiring += table.expiry.len();
                    counts.expiry_sum_ms += table.expiry.sum_ms();
                }
            }
        }
        Ok(counts)
    }

    fn watch(&mut self, key: Key<'_>) -> Result<Watched, TxnError> {
        let (slot, entry) = self.find(key);
        let exists = entry.is_some();
        Ok(self.locks.shard(slot.shard()).watchers.add(slot, exists)?)
    }

    fn is_modified(&mut self, key: Key<'_>, watched: &Watched) -> Result<bool, TxnError> {
        let exists = self.peek(key)?.is_some();
        Ok(watched.is_modified() || watched.existed && !exists)
    }

    fn charge(&mut self, work_ns: u64) -> Result<(), TxnError> {
        // Where one shard is locked at a time nothing waits for long.
        if !self.locks.is_many() {
            return Ok(());
        }
        self.work_ns = self.work_ns.saturating_add(work_ns);
        match self.work_ns > LOCKED_WORK_MAX {
            true => Err(TxnError::TooMuchWork),
            false => Ok(()),
        }
    }

    fn release(&mut self) {
        self.locks.release();
    }

    fn savepoint(&mut self) -> Savepoint {
        Savepoint { changes: self.session.changes.len(), log: self.session.log.mark() }
    }

    fn roll_back(&mut self, savepoint: Savepoint) {
        self.undo_to(savepoint.changes);
        self.session.log.truncate(savepoint.log);
    }
}
