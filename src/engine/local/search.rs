//! Finding keys: all of a database, those that begin alike, some from a cursor on, one at random.
//!
//! Where a transaction holds no shard, each is locked by itself and only while its keys are copied.

use std::hash::{BuildHasher, RandomState};
use std::thread;

use super::LocalEngine;
use super::key_arena::KeyArena;
use super::prefix_index::PrefixIndex;
use super::shard::Shard;
use super::txn::LocalTxn;
use crate::engine::{Entry, Key, Txn, TxnError};
use crate::limits::{KEYS_AT_ONCE, SCAN_WINDOW, SHARDS, work};
use crate::util::buffer::Buffer;
use crate::util::memory::{self, NoMemory};

impl LocalTxn<'_> {
    /// See [`Txn::keys`]. A search for a prefix uses each shard's index. Where there is none it looks at every key, and
    /// [`LocalEngine::build_indexes`] builds one for the next search.
    pub(super) fn visit_keys(
        &mut self,
        database: usize,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), TxnError> {
        for number in 0..SHARDS {
            let mut keys = KeyArena::default();
            let looked_at = self.list_keys(database, number, prefix, &mut keys)?;
            self.charge((work::LISTED_KEY * looked_at as u64).max(keys.bytes() as u64))?;
            self.locks.pause();
            keys.iter().for_each(&mut *visit);
            if looked_at >= KEYS_AT_ONCE {
                // Threads that wait for a processor need not wait until all shards are visited.
                thread::yield_now();
            }
        }
        Ok(())
    }

    /// Lists the keys of shard `number` that begin with `prefix`, and returns how many keys it looked at.
    fn list_keys(
        &mut self,
        database: usize,
        number: usize,
        prefix: &[u8],
        keys: &mut KeyArena,
    ) -> Result<usize, TxnError> {
        let now_ms = self.now_ms();
        let count = self.shard(number).len(database);
        let slots = &self.engine.store;
        let shard = self.locks.shard(number);
        // Nearly always no key of the database expires, and none need be looked up.
        let expires = shard.table(database).is_some_and(|table| table.expiry.len() > 0);
        let table = shard.table_mut(database);
        let index = if prefix.is_empty() { None } else { table.index.take() };
        // Where memory is at its bound the index goes first.
        if let Some(mut index) = index.filter(|_| !memory::is_full()) {
            let is_live = |key: &&[u8]| {
                let slot = slots.slot(Key { database, bytes: key });
                !expires || shard.get(slot, key).is_some_and(|entry| !entry.is_expired(now_ms))
            };
            let listed = index.find(prefix).filter(is_live).try_for_each(|key| keys.push(key));
            shard.table_mut(database).index = Some(index);
            listed?;
            return Ok(keys.len());
        }
        shard.table_mut(database).is_index_wanted |= !prefix.is_empty();
        self.charge(work::LISTED_KEY * count as u64)?;
        let entries = self.shard(number).entries(database);
        let found = entries.filter(|entry| entry.key().starts_with(prefix));
        found
            .filter(|entry| !entry.is_expired(now_ms))
            .try_for_each(|entry| keys.push(entry.key()))?;
        Ok(count)
    }

    /// See [`Txn::scan`].
    ///
    /// Keys are visited by shard, and in a shard by their hashes, so a cursor is a number that means the same on every
    /// connection as long as the server runs. The next hashes of a shard are kept for the next call, which else would
    /// go through all of them again.
    pub(super) fn scan_keys(
        &mut self,
        database: usize,
        cursor: u64,
        count: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, TxnError> {
        let (mut number, mut from) = ((cursor >> ORDER_BITS) as usize, cursor & ORDER_MAX);
        let mut visited = 0;
        while number < SHARDS {
            let wanted = (count - visited).min(KEYS_AT_ONCE);
            let (keys, next) = self.scan_shard(database, number, from, wanted)?;
            self.locks.pause();
            keys.iter().for_each(&mut *visit);
            visited += keys.len();
            match next {
                Some(next) => from = next,
                None => (number, from) = (number + 1, 0),
            }
            if visited >= count {
                break;
            }
        }
        Ok(if number < SHARDS { (number as u64) << ORDER_BITS | from } else { 0 })
    }

    /// Lists keys of shard `number` from a place in their order on, and returns the next place; `None` at the end.
    fn scan_shard(
        &mut self,
        database: usize,
        number: usize,
        from: u64,
        count: usize,
    ) -> Result<(KeyArena, Option<u64>), TxnError> {
        let now_ms = self.now_ms();
        let mut window = std::mem::take(&mut self.session.window);
        let shard = self.shard(number);
        let is_current = window.additions == shard.additions();
        let is_wanted = (window.database, window.shard, window.from) == (database, number, from);
        if !is_current || !is_wanted || window.hashes.is_empty() {
            window = Window::open(database, number, from, shard)?;
        }
        let mut keys = KeyArena::default();
        while keys.len() < count
            && let Some(hash) = window.hashes.pop()
        {
            let live = |entry: &&Entry| !entry.is_expired(now_ms);
            let mut push = |hash| {
                let mut entries = shard.with_hash(database, hash).filter(live);
                entries.try_for_each(|entry| keys.push(entry.key()))
            };
            push(hash)?;
            window.from = order(hash) + 1;
            // Those that a cursor cannot tell apart are visited together.
            while let Some(next) = window.hashes.pop_if(|next| order(*next) == order(hash)) {
                push(next)?;
            }
        }
        let is_over = window.hashes.is_empty() && window.is_last;
        let next = (!is_over).then_some(window.from);
        if !window.hashes.is_empty() {
            self.session.window = window;
        }
        Ok((keys, next))
    }

    /// See [`Txn::random_key`].
    pub(super) fn pick_key(
        &mut self,
        database: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, TxnError> {
        let now_ms = self.now_ms();
        let lengths: Vec<u64> =
            (0..SHARDS).map(|number| self.shard(number).len(database) as u64).collect();
        let total: u64 = lengths.iter().sum();
        let mut place = RandomState::new().hash_one(total) % total.max(1);
        let first = lengths.iter().position(|length| {
            let is_here = place < *length;
            place -= if is_here { 0 } else { *length };
            is_here
        });
        // A key that has expired is not there: the next one is.
        for number in first.into_iter().flat_map(|first| (first..SHARDS).chain(0..=first)) {
            let skipped = std::mem::take(&mut place) as usize;
            let mut rest = self.shard(number).entries(database).skip(skipped);
            if let Some(entry) = rest.find(|entry| !entry.is_expired(now_ms)) {
                visit(entry.key());
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl LocalEngine {
    /// Builds the indexes that searches have asked for; to be called now and then, on a thread that no client waits for.
    pub fn build_indexes(&self) {
        for number in 0..SHARDS {
            let databases = self.store.lock(number).databases();
            (0..databases).for_each(|database| self.build_index(number, database));
        }
    }

    /// Builds an index of a shard's keys, unlocked meanwhile. Where keys came or went since, the next search asks again.
    fn build_index(&self, number: usize, database: usize) {
        let state = |shard: &Shard| (shard.additions(), shard.len(database));
        let (before, keys) = {
            let mut shard = self.store.lock(number);
            if !std::mem::take(&mut shard.table_mut(database).is_index_wanted) {
                return;
            }
            let mut keys = KeyArena::default();
            let listed = shard.entries(database).try_for_each(|entry| keys.push(entry.key()));
            if listed.is_err() || !memory::has_room(2 * keys.bytes()) {
                return;
            }
            (state(&shard), keys)
        };
        let Ok(index) = PrefixIndex::new(&keys) else { return };
        let mut shard = self.store.lock(number);
        if state(&shard) == before {
            shard.table_mut(database).index = Some(index);
        }
    }
}

/// How many bits of a hash order the keys of a shard, and one more: a place may be behind them all.
const ORDER_BITS: u32 = 49;
const ORDER_MAX: u64 = (1 << ORDER_BITS) - 1;

/// The place of a hash in its shard.
fn order(hash: u64) -> u64 {
    hash >> (u64::BITS - ORDER_BITS + 1)
}

/// The next hashes that a scan visits.
#[derive(Debug, Default)]
pub struct Window {
    database: usize,
    shard: usize,
    /// Where it begins.
    from: u64,
    /// The highest first.
    hashes: Buffer<u64>,
    /// It ends where its shard does.
    is_last: bool,
    /// The shard's [`additions`](Shard::additions) when it was made: a cursor of another connection may come back to
    /// its beginning, and that connection's keys must all be in it.
    additions: u64,
}

impl Window {
    fn open(database: usize, number: usize, from: u64, shard: &Shard) -> Result<Self, NoMemory> {
        let mut hashes = Vec::new();
        for hash in shard.hashes(database).filter(|hash| order(*hash) >= from) {
            hashes.try_reserve(1)?;
            hashes.push(hash);
        }
        let is_last = hashes.len() <= SCAN_WINDOW;
        if !is_last {
            let (_, highest, _) = hashes.select_nth_unstable(SCAN_WINDOW);
            let end = order(*highest);
            // All that a cursor cannot tell apart, or none.
            hashes.retain(|hash| order(*hash) < end);
        }
        hashes.sort_unstable_by(|a, b| b.cmp(a));
        let hashes = Buffer::copy_of(&hashes)?;
        Ok(Self { database, shard: number, from, hashes, is_last, additions: shard.additions() })
    }
}
