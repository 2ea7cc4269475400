//! Finding keys: all of a database, those that begin alike, some from a cursor on, one at random.
//!
//! Where a transaction holds no shard, each is locked by itself and only while its keys are copied.

use std::hash::{BuildHasher, RandomState};
use std::thread;

use super::key_arena::KeyArena;
use super::prefix_index::PrefixIndex;
use super::shard::Shard;
use super::txn::LocalTxn;
use crate::engine::{Entry, Txn, TxnError};
use crate::limits::{KEYS_AT_ONCE, SCAN_WINDOW, SHARDS, work};
use crate::util::buffer::Buffer;
use crate::util::memory::{self, NoMemory};

impl LocalTxn<'_> {
    /// See [`Txn::keys`]. A search for a prefix uses each shard's index, and builds it where there is none.
    pub(super) fn visit_keys(
        &mut self,
        database: usize,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), TxnError> {
        for number in 0..SHARDS {
            let keys = match prefix.is_empty() {
                true => self.all_keys(database, number)?,
                false => self.keys_with_prefix(database, number, prefix)?,
            };
            self.charge((work::LISTED_KEY * keys.len() as u64).max(keys.bytes() as u64))?;
            self.locks.pause();
            keys.iter().filter(|key| key.starts_with(prefix)).for_each(&mut *visit);
            if keys.len() >= KEYS_AT_ONCE {
                // Threads that wait for a processor need not wait until all shards are visited.
                thread::yield_now();
            }
        }
        Ok(())
    }

    fn all_keys(&mut self, database: usize, number: usize) -> Result<KeyArena, TxnError> {
        let now_ms = self.now_ms();
        let count = self.shard(number).len(database);
        self.charge(work::LISTED_KEY * count as u64)?;
        let mut keys = KeyArena::default();
        let entries = self.shard(number).entries(database);
        let mut live = entries.filter(|entry| !entry.is_expired(now_ms));
        live.try_for_each(|entry| keys.push(entry.key()))?;
        Ok(keys)
    }

    fn keys_with_prefix(
        &mut self,
        database: usize,
        number: usize,
        prefix: &[u8],
    ) -> Result<KeyArena, TxnError> {
        let now_ms = self.now_ms();
        self.shard(number);
        let shard = self.locks.shard(number);
        // Where memory is at its bound the index goes first.
        let index = shard.table_mut(database).index.take().filter(|_| !memory::is_full());
        let Some(mut index) = index else {
            let keys = self.all_keys(database, number)?;
            self.build_index(database, number, &keys);
            return Ok(keys);
        };
        let mut keys = KeyArena::default();
        let mut found = index.find(prefix);
        // Nearly always no key of the database expires, and none need be looked up.
        let expires = shard.table(database).is_some_and(|table| table.expiry.len() > 0);
        let slots = &self.engine.store;
        let is_live = |key: &&[u8]| {
            let slot = slots.slot(crate::engine::Key { database, bytes: key });
            !expires || shard.get(slot, key).is_some_and(|entry| !entry.is_expired(now_ms))
        };
        let listed = found.by_ref().filter(is_live).try_for_each(|key| keys.push(key));
        drop(found);
        shard.table_mut(database).index = Some(index);
        listed?;
        Ok(keys)
    }

    /// Builds an index of a shard's keys, unlocked meanwhile if that is possible; none if the shard has changed since.
    fn build_index(&mut self, database: usize, number: usize, keys: &KeyArena) {
        let state = |shard: &Shard| (shard.additions(), shard.len(database));
        let before = state(self.locks.shard(number));
        // A key that has expired and is not deleted yet is missing in the list.
        if keys.len() != before.1 || self.locks.is_many() || !memory::has_room(2 * keys.bytes()) {
            return;
        }
        self.locks.pause();
        let Ok(index) = PrefixIndex::new(keys) else { return };
        let shard = self.locks.shard(number);
        if state(shard) == before {
            shard.table_mut(database).index = Some(index);
        }
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
