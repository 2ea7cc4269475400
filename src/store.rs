//! The keys and values in memory: an array of shards, each a `HashMap` behind its own `Mutex`.
//!
//! Hashing is keyed at random, for the choice of the shard too, so that no one can pile keys up in
//! one place. Beside its map a shard keeps stamps: numbers that the engine gives to the keys it
//! changes. Several keys share a stamp's place, so a stamp may speak for more keys than it was given
//! for, never for fewer. And it keeps what its newest changes replaced, until the engine says that they
//! are safe, so that they can be taken back.
//!
//! Lock order: shards in ascending order. No caller keeps a lock across I/O.

use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard};

use crate::limits::{MARKS_PER_SHARD, SHARDS};
use crate::sync::lock;
use crate::value::Value;

/// All keys and values.
#[derive(Debug)]
pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    hashing: Hashing,
}

/// How keys are hashed: with keys of its own for each store, unless a test wants to see the same twice.
#[derive(Clone, Debug)]
pub enum Hashing {
    /// Keyed at random.
    Random(RandomState),
    /// The same for the same number: anyone could pile keys up.
    Repeatable(u64),
}

impl Default for Hashing {
    fn default() -> Self {
        Self::Random(RandomState::new())
    }
}

impl BuildHasher for Hashing {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        match self {
            Self::Random(keys) => keys.build_hasher(),
            Self::Repeatable(number) => {
                let mut hasher = DefaultHasher::new();
                hasher.write_u64(*number);
                hasher
            }
        }
    }
}

/// Where a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    shard: usize,
    stamp: usize,
}

/// A shard's keys and their values.
pub type Entries = HashMap<Box<[u8]>, Value, Hashing>;

/// Part of the keys.
#[derive(Debug)]
pub struct Shard {
    /// The keys and their values.
    pub entries: Entries,
    stamps: [u64; MARKS_PER_SHARD],
    newest: u64,
    /// What changes replaced, with their stamps, oldest first.
    undo: Vec<(u64, Undo)>,
}

/// What a change replaced.
#[derive(Debug)]
pub enum Undo {
    /// A key's whole value, `None` if there was none.
    Value(Box<[u8]>, Option<Value>),
    /// Part of a key's value, which did not get shorter.
    Range {
        /// The key.
        key: Box<[u8]>,
        /// Where the part begins, at most `length`.
        offset: usize,
        /// The bytes that stood there.
        bytes: Vec<u8>,
        /// The length of the whole value.
        length: usize,
    },
    /// Every key.
    Everything(Entries),
}

impl Undo {
    /// About how much memory it holds, in bytes; of a map only the number of its keys is looked at.
    pub fn bytes(&self) -> usize {
        const ENTRY_BYTES: usize = 100;
        ENTRY_BYTES
            + match self {
                Self::Value(key, value) => key.len() + value.as_ref().map_or(0, Value::capacity),
                Self::Range { key, bytes, .. } => key.len() + bytes.len(),
                Self::Everything(entries) => ENTRY_BYTES * entries.len(),
            }
    }
}

impl Shard {
    /// The newest stamp that may be the key's.
    pub fn stamp(&self, place: Place) -> u64 {
        self.stamps[place.stamp]
    }

    /// The newest stamp of any key.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Stamps the key at `place`, which was changed, and returns how many bytes are kept for taking
    /// that back. Stamps never go down but by [`take_back`](Self::take_back).
    pub fn changed(&mut self, place: Place, stamp: u64, undo: Undo) -> usize {
        self.stamps[place.stamp] = stamp;
        self.newest = stamp;
        let bytes = undo.bytes();
        self.undo.push((stamp, undo));
        bytes
    }

    /// Removes every key, and stamps them all, those that did not exist too; returns how many bytes
    /// are kept for taking that back.
    pub fn clear(&mut self, stamp: u64) -> usize {
        self.stamps.fill(stamp);
        self.newest = stamp;
        if self.entries.is_empty() {
            return 0;
        }
        let empty = Entries::with_hasher(self.entries.hasher().clone());
        let undo = Undo::Everything(std::mem::replace(&mut self.entries, empty));
        let bytes = undo.bytes();
        self.undo.push((stamp, undo));
        bytes
    }

    /// The changes up to stamp `safe` are not taken back any more; returns what they replaced, for
    /// the caller to drop where it holds up nobody.
    #[must_use = "drop it without the lock"]
    pub fn settle(&mut self, safe: u64) -> Vec<(u64, Undo)> {
        if self.newest <= safe {
            return std::mem::take(&mut self.undo);
        }
        let settled = self.undo.partition_point(|(stamp, _)| *stamp <= safe);
        self.undo.drain(..settled).collect()
    }

    /// Takes back every change with a stamp above `safe`, the newest first.
    pub fn take_back(&mut self, safe: u64) {
        while let Some((_, undo)) = self.undo.pop_if(|(stamp, _)| *stamp > safe) {
            match undo {
                Undo::Value(key, Some(value)) => drop(self.entries.insert(key, value)),
                Undo::Value(key, None) => drop(self.entries.remove(&key)),
                Undo::Range { key, offset, bytes, length } => {
                    if let Some(value) = self.entries.get_mut(&key) {
                        value.truncate(length);
                        value.write(offset, &bytes);
                    }
                }
                Undo::Everything(entries) => self.entries = entries,
            }
        }
        self.stamps.iter_mut().for_each(|stamp| *stamp = safe.min(*stamp));
        self.newest = self.newest.min(safe);
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new(Hashing::default())
    }
}

impl Store {
    /// An empty store.
    pub fn new(hashing: Hashing) -> Self {
        let shard = || Shard {
            entries: Entries::with_hasher(hashing.clone()),
            stamps: [0; MARKS_PER_SHARD],
            newest: 0,
            undo: Vec::new(),
        };
        Self { shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(), hashing }
    }

    /// Finds where `key` lives, whether it exists or not.
    pub fn place(&self, key: &[u8]) -> Place {
        // A shard's map hashes likewise, and places by the lowest bits and the highest seven.
        let hash = (self.hashing.hash_one(key) >> 32) as usize;
        Place { shard: hash % SHARDS, stamp: hash / SHARDS % MARKS_PER_SHARD }
    }

    /// Locks the shard of one key. The caller holds no other.
    pub fn lock(&self, place: Place) -> MutexGuard<'_, Shard> {
        lock(&self.shards[place.shard])
    }

    /// Locks the shards of several keys.
    pub fn lock_all(&self, places: impl Iterator<Item = Place>) -> Locked<'_> {
        let mut wanted = [false; SHARDS];
        places.for_each(|place| wanted[place.shard] = true);
        let numbers = (0..SHARDS).filter(|number| wanted[*number]);
        Locked(numbers.map(|number| (number, lock(&self.shards[number]))).collect())
    }

    /// Locks every shard.
    pub fn lock_everything(&self) -> Vec<MutexGuard<'_, Shard>> {
        self.shards.iter().map(lock).collect()
    }

    /// Number of keys.
    pub fn keys(&self) -> usize {
        self.each().map(|shard| shard.entries.len()).sum()
    }

    /// Locks shard number `index`, below [`SHARDS`]. The caller holds no other.
    pub fn lock_nth(&self, index: usize) -> MutexGuard<'_, Shard> {
        lock(&self.shards[index])
    }

    /// Locks one shard after the other.
    pub fn each(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(lock)
    }
}

/// Several locked shards.
#[derive(Debug)]
pub struct Locked<'a>(Vec<(usize, MutexGuard<'a, Shard>)>);

impl Locked<'_> {
    /// The locked shard of a key that was among those locked for.
    pub fn shard(&mut self, place: Place) -> &mut Shard {
        let index = self.0.binary_search_by_key(&place.shard, |(number, _)| *number);
        &mut self.0[index.unwrap_or_else(|_| unreachable!("the shard was locked"))].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_place_in_a_store_and_another_in_the_next() {
        let (one, two) = (Store::default(), Store::default());
        let keys: Vec<_> = (0..64).map(|number| format!("key:{number}").into_bytes()).collect();
        assert!(keys.iter().all(|key| one.place(key) == one.place(key)));
        assert!(keys.iter().any(|key| one.place(key) != two.place(key)));
    }

    #[test]
    fn stamps_speak_for_their_key() {
        let store = Store::default();
        let (a, b) = (store.place(b"a"), store.place(b"b"));
        store.lock(a).changed(a, 7, Undo::Value(b"a"[..].into(), None));
        assert_eq!(store.lock(a).stamp(a), 7);
        assert_eq!(store.lock(a).newest(), 7);
        // Empty shards have nothing to take back.
        assert!(store.lock_everything().iter_mut().all(|shard| shard.clear(9) == 0));
        assert_eq!(store.lock(b).stamp(b), 9);
    }

    /// Random changes to one shard, taken back to any stamp: the state of that stamp.
    #[test]
    fn changes_are_taken_back_to_any_stamp() {
        for seed in 0..2_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let store = Store::default();
            let place = store.place(b"the shard");
            let mut shard = store.lock(place);
            let mut states = vec![shard.entries.clone()];
            let settled = random.u64(0..5);
            for stamp in 1..20 {
                let key: Box<[u8]> = vec![random.u8(b'a'..b'd')].into();
                match (random.u8(..8), shard.entries.get_mut(&key)) {
                    (0, _) => assert!(shard.clear(stamp) < 1000),
                    (1, _) => {
                        let old = shard.entries.remove(&key);
                        shard.changed(place, stamp, Undo::Value(key, old));
                    }
                    (2..5, Some(value)) => {
                        let offset = random.usize(..=value.len());
                        let (bytes, length) =
                            (value.copy(offset..value.len()).unwrap(), value.len());
                        let mut new = vec![stamp as u8; random.usize(..5)];
                        new.resize(new.len().max(bytes.len()), 0);
                        value.write(offset, &new);
                        shard.changed(place, stamp, Undo::Range { key, offset, bytes, length });
                    }
                    _ => {
                        let old = shard
                            .entries
                            .insert(key.clone(), Value::copy_of(&[stamp as u8; 3]).unwrap());
                        shard.changed(place, stamp, Undo::Value(key, old));
                    }
                }
                states.push(shard.entries.clone());
                if stamp == settled {
                    assert!(shard.settle(stamp).len() <= stamp as usize);
                }
            }
            let safe = random.u64(settled..20);
            shard.take_back(safe);
            assert_eq!(shard.entries, states[safe as usize], "seed {seed}");
            assert!(shard.newest() <= safe && shard.stamp(place) <= safe);
        }
    }

    #[test]
    fn several_keys_may_share_a_shard() {
        let store = Store::default();
        let keys: Vec<_> = (0..3 * SHARDS).map(|number| number.to_string().into_bytes()).collect();
        let places: Vec<_> = keys.iter().map(|key| store.place(key)).collect();
        let mut locked = store.lock_all(places.iter().copied());
        for (key, place) in keys.iter().zip(&places) {
            locked.shard(*place).entries.insert(key.as_slice().into(), Value::default());
        }
        drop(locked);
        assert_eq!(store.each().map(|shard| shard.entries.len()).sum::<usize>(), keys.len());
    }
}
