//! Finding keys: all of them, or those that begin alike.

use std::hash::{BuildHasher, RandomState};
use std::thread;

use super::{Session, WriteError};
use crate::engine::local::entry::Entry;
use crate::engine::local::key_arena::KeyList;
use crate::engine::local::store::Shard;
use crate::limits::{KEYS_AT_ONCE, SCAN_WINDOW, SHARDS, work};
use crate::util::memory::NoMemory;

impl Session<'_> {
    /// Hands `visit` every key of this database that exists throughout and begins with `prefix`, with no shard locked.
    /// An error if there is no memory for copies of a shard's keys, or if that takes too long within a transaction.
    ///
    /// Where a prefix is given, by an index, built by the first such search ([`Store::find`]); else each shard's
    /// keys are copied under its lock.
    ///
    /// [`Store::find`]: crate::engine::local::store::Store::find
    pub fn keys(&mut self, prefix: &[u8], mut visit: impl FnMut(&[u8])) -> Result<(), WriteError> {
        for number in 0..SHARDS {
            let store = &self.engine().store;
            // With shards locked no index may be locked any more.
            let found = (!prefix.is_empty() && self.held.is_none())
                .then(|| store.find(number, self.database(), prefix, |newest| self.note(newest)));
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
            self.locked(number, |session, shard| {
                session.note_shard(number, shard);
                for (key, exists) in found.iter_from(first).zip(&mut exists) {
                    *exists = session.live(shard.get(session.place(key), key)).is_some();
                }
            });
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
    ) -> Result<(), WriteError> {
        let mut keys = KeyList::default();
        self.check_work()?;
        self.locked(number, |session, shard| {
            session.note_shard(number, shard);
            session.spend(work::LISTED_KEY * shard.len(session.database()) as u64);
            let entries = shard.entries(session.database());
            let mut live = entries.filter(|entry| session.live(Some(entry)).is_some());
            let begins = |key: &&[u8]| key.starts_with(prefix);
            live.by_ref().map(Entry::key).filter(begins).try_for_each(|key| keys.push(key))
        })?;
        self.spend((work::LISTED_KEY * keys.len() as u64).max(keys.length() as u64));
        keys.iter_from(0).for_each(visit);
        if keys.len() >= KEYS_AT_ONCE {
            // Whoever waits for a processor need not wait until all shards are visited.
            thread::yield_now();
        }
        Ok(())
    }

    /// Hands `visit` about `count` keys, from the place on that a cursor tells, and returns the next cursor; 0 is the
    /// beginning, and the end. From one to the other each key that exists throughout is visited, whatever comes and
    /// goes meanwhile, and none twice.
    ///
    /// Keys are visited by shard, and in a shard by their hashes: so a cursor is a number, and means the same on every
    /// connection as long as the server runs. The next hashes of a shard are kept for the next call, which else would
    /// look at all of them again.
    pub fn scan(
        &mut self,
        cursor: u64,
        count: usize,
        mut visit: impl FnMut(&[u8]),
    ) -> Result<u64, NoMemory> {
        let (mut number, mut from) = ((cursor >> ORDER_BITS) as usize, cursor & ORDER_MAX);
        let mut visited = 0;
        while number < SHARDS {
            let (keys, next) =
                self.scan_shard(number, from, (count - visited).min(KEYS_AT_ONCE))?;
            keys.iter_from(0).for_each(&mut visit);
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

    /// Lists keys of shard `number` from a place in their order on, and returns the next; `None` at the end.
    fn scan_shard(
        &mut self,
        number: usize,
        from: u64,
        count: usize,
    ) -> Result<(KeyList, Option<u64>), NoMemory> {
        let mut window = std::mem::take(&mut self.window);
        let found = self.locked(number, |session, shard| {
            session.note_shard(number, shard);
            let wanted = (session.database(), number, from);
            let is_current = window.additions == shard.additions();
            let is_wanted = (window.database, window.shard, window.from) == wanted;
            if !is_current || !is_wanted || window.hashes.is_empty() {
                window = Window::open(wanted, shard)?;
            }
            let mut keys = KeyList::default();
            while keys.len() < count
                && let Some(hash) = window.hashes.pop()
            {
                let live = |entry: &&Entry| session.live(Some(entry)).is_some();
                shard
                    .with_hash(window.database, hash)
                    .filter(live)
                    .try_for_each(|entry| keys.push(entry.key()))?;
                window.from = order(hash) + 1;
                // Those that a cursor cannot tell apart are visited together.
                while let Some(next) = window.hashes.pop_if(|next| order(*next) == order(hash)) {
                    let live = |entry: &&Entry| session.live(Some(entry)).is_some();
                    let mut same = shard.with_hash(window.database, next).filter(live);
                    same.try_for_each(|entry| keys.push(entry.key()))?;
                }
            }
            Ok::<_, NoMemory>(keys)
        })?;
        let is_over = window.hashes.is_empty() && window.is_last;
        let next = (!is_over).then_some(window.from);
        if !window.hashes.is_empty() {
            self.window = window;
        }
        Ok((found, next))
    }

    /// Hands `visit` a key, each as likely as any other; `false` if there is none.
    pub fn random_key(&mut self, visit: impl FnOnce(&[u8])) -> bool {
        let mut lengths = Vec::with_capacity(SHARDS);
        for number in 0..SHARDS {
            self.locked(number, |session, shard| {
                session.note_shard(number, shard);
                lengths.push(shard.len(session.database()) as u64);
            });
        }
        let total: u64 = lengths.iter().sum();
        let mut place = RandomState::new().hash_one(total) % total.max(1);
        let first = lengths.iter().position(|length| {
            let is_here = place < *length;
            place -= if is_here { 0 } else { *length };
            is_here
        });
        let mut visit = Some(visit);
        // What has expired is not there: the next one is.
        for number in first.into_iter().flat_map(|first| (first..SHARDS).chain(0..=first)) {
            let skipped = std::mem::take(&mut place) as usize;
            self.locked(number, |session, shard| {
                session.note_shard(number, shard);
                let mut rest = shard.entries(session.database()).skip(skipped);
                if let Some(entry) = rest.find(|entry| session.live(Some(entry)).is_some())
                    && let Some(visit) = visit.take()
                {
                    visit(entry.key());
                }
            });
            if visit.is_none() {
                return true;
            }
        }
        false
    }
}

/// How many bits of a hash order the keys of a shard, and one more: a place may be behind them all.
const ORDER_BITS: u32 = 49;
const ORDER_MAX: u64 = (1 << ORDER_BITS) - 1;

/// The place of a hash in its shard.
fn order(hash: u64) -> u64 {
    hash >> (u64::BITS - ORDER_BITS + 1)
}

/// The next hashes that a [`scan`](Session::scan) visits.
#[derive(Debug, Default)]
pub struct Window {
    database: usize,
    shard: usize,
    /// Where it begins.
    from: u64,
    /// The highest first.
    hashes: Vec<u64>,
    /// It ends where its shard does.
    is_last: bool,
    /// The shard's [`additions`](Shard::additions) when it was made: a cursor of another connection may come back to
    /// its beginning, and that connection's keys must all be in it.
    additions: u64,
}

impl Window {
    fn open(
        (database, number, from): (usize, usize, u64),
        shard: &Shard,
    ) -> Result<Self, NoMemory> {
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
        hashes.shrink_to_fit();
        let additions = shard.additions();
        Ok(Self { database, shard: number, from, hashes, is_last, additions })
    }
}
