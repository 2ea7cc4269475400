//! The keys and values in memory: an array of shards, each a `HashMap` behind its own `Mutex`.
//!
//! Hashing is keyed at random, for the choice of the shard too, so that no one can pile keys up in
//! one place. Beside its map a shard keeps stamps: numbers that the engine gives to the keys it
//! changes. Several keys share a stamp's place, so a stamp may speak for more keys than it was given
//! for, never for fewer.
//!
//! Lock order: shards in ascending order. No caller keeps a lock across I/O.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard};

use crate::limits::{MARKS_PER_SHARD, SHARDS};
use crate::sync::lock;

/// All keys and values.
#[derive(Debug)]
pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

/// Where a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    shard: usize,
    stamp: usize,
}

/// Part of the keys.
#[derive(Debug)]
pub struct Shard {
    /// The keys and their values.
    pub entries: HashMap<Box<[u8]>, Vec<u8>>,
    stamps: [u64; MARKS_PER_SHARD],
    newest: u64,
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

    /// Stamps the key at `place`. Stamps never go down.
    pub fn set_stamp(&mut self, place: Place, stamp: u64) {
        self.stamps[place.stamp] = stamp;
        self.newest = stamp;
    }

    /// Stamps every key, those that do not exist too.
    pub fn stamp_all(&mut self, stamp: u64) {
        self.stamps.fill(stamp);
        self.newest = stamp;
    }
}

impl Default for Store {
    fn default() -> Self {
        let shard = || Shard { entries: HashMap::new(), stamps: [0; MARKS_PER_SHARD], newest: 0 };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Store {
    /// Finds where `key` lives, whether it exists or not.
    pub fn place(&self, key: &[u8]) -> Place {
        let hash = self.hasher.hash_one(key) as usize;
        Place { shard: hash % SHARDS, stamp: hash / SHARDS % MARKS_PER_SHARD }
    }

    /// Locks the shard of one key. The caller holds no other.
    pub fn lock(&self, place: Place) -> MutexGuard<'_, Shard> {
        lock(&self.shards[place.shard])
    }

    /// Locks the shards of several keys.
    pub fn lock_all(&self, places: &[Place]) -> Locked<'_> {
        let mut numbers: Vec<_> = places.iter().map(|place| place.shard).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Locked(numbers.into_iter().map(|number| (number, lock(&self.shards[number]))).collect())
    }

    /// Locks every shard.
    pub fn lock_everything(&self) -> Vec<MutexGuard<'_, Shard>> {
        self.shards.iter().map(lock).collect()
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
        store.lock(a).set_stamp(a, 7);
        assert_eq!(store.lock(a).stamp(a), 7);
        assert_eq!(store.lock(a).newest(), 7);
        store.lock_everything().iter_mut().for_each(|shard| shard.stamp_all(9));
        assert_eq!(store.lock(b).stamp(b), 9);
    }

    #[test]
    fn several_keys_may_share_a_shard() {
        let store = Store::default();
        let keys: Vec<_> = (0..3 * SHARDS).map(|number| number.to_string().into_bytes()).collect();
        let places: Vec<_> = keys.iter().map(|key| store.place(key)).collect();
        let mut locked = store.lock_all(&places);
        for (key, place) in keys.iter().zip(&places) {
            locked.shard(*place).entries.insert(key.as_slice().into(), Vec::new());
        }
        drop(locked);
        assert_eq!(store.each().map(|shard| shard.entries.len()).sum::<usize>(), keys.len());
    }
}
