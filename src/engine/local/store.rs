//! The keys and values in memory: an array of shards, each a mutex-guarded set of hash tables.
//!
//! Hashing is keyed at random, so that no client can pile keys up in one place. A key has the same shard in all
//! databases.
//!
//! Lock order: shards in ascending order. No lock is held across I/O.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard};

use super::shard::Shard;
use crate::engine::Key;
use crate::limits::{DATABASES_MAX, SEQUENCES_PER_SHARD, SHARDS};
use crate::util::sync::lock;

/// All keys and values.
#[derive(Debug)]
pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    hashing: Hashing,
    databases: usize,
}

/// How keys are hashed: with random keys for each store, unless a test wants to see the same twice.
#[derive(Clone, Debug)]
pub enum Hashing {
    /// Keyed at random.
    Random(RandomState),
    /// The same for the same number: a client could pile keys up.
    Repeatable(u64),
}

impl Default for Hashing {
    fn default() -> Self {
        Self::Random(RandomState::new())
    }
}

impl Hashing {
    /// The hash of a key. Without its length, which `hash_one` adds to tell the members of a tuple apart.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = match self {
            Self::Random(keys) => keys.build_hasher(),
            Self::Repeatable(number) => {
                let mut hasher = DefaultHasher::new();
                hasher.write_u64(*number);
                hasher
            }
        };
        hasher.write(key);
        hasher.finish()
    }
}

/// Where a key lives: its database, its shard, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeySlot {
    database: u16,
    shard: u16,
    /// Which of the shard's sequences speaks for the key.
    pub(super) sequence: u16,
    hash: u64,
}

impl KeySlot {
    /// The number of the key's database.
    pub fn database(self) -> usize {
        self.database.into()
    }

    /// The number of the key's shard, below [`SHARDS`].
    pub fn shard(self) -> usize {
        self.shard.into()
    }

    /// The key's hash.
    pub fn hash(self) -> u64 {
        self.hash
    }

    /// The slot of the same key in another database.
    pub(super) fn in_database(self, database: usize) -> Self {
        Self { database: database as u16, ..self }
    }

    /// The slot that stands for a whole database in a shard, where a change concerns all of its keys.
    pub(super) fn of_database(database: usize, shard: usize) -> Self {
        Self { database: database as u16, shard: shard as u16, sequence: 0, hash: 0 }
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
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new(hashing.clone()))).collect();
        Self { shards, hashing, databases: DATABASES_MAX }
    }

    /// The same with fewer databases.
    pub fn with_databases(self, databases: usize) -> Self {
        Self { databases, ..self }
    }

    /// Number of databases.
    pub fn databases(&self) -> usize {
        self.databases
    }

    /// Where a key lives, whether it exists or not.
    pub fn slot(&self, key: Key<'_>) -> KeySlot {
        let hash = self.hashing.hash(key.bytes);
        // A shard's table places by the lowest bits and the highest seven.
        let (shard, sequence) = (shard_of(hash >> 24), (hash >> 40) as usize % SEQUENCES_PER_SHARD);
        KeySlot {
            database: key.database as u16,
            shard: shard as u16,
            sequence: sequence as u16,
            hash,
        }
    }

    /// Locks shard `number`, below [`SHARDS`]. The caller holds none with a number as high.
    pub fn lock(&self, number: usize) -> MutexGuard<'_, Shard> {
        lock(&self.shards[number])
    }

    /// Locks one shard after the other.
    pub fn each(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(lock)
    }

    /// Number of keys of all databases.
    pub fn keys(&self) -> usize {
        self.each().map(|shard| shard.keys()).sum()
    }
}

/// The shard of a number of 16 random bits.
///
/// Shards are not equally large: the last has twice the keys of the first, and the steps between are such that at
/// any time some have a table that was just doubled and some a full one. So they do not all grow at once, and a
/// key takes as much memory with a million keys as with two, not 57 to 65 bytes in turns.
fn shard_of(random: u64) -> usize {
    let x = random & 0xffff;
    // About log2(1 + x), of a fraction x: x + x(1 - x) / 3 has the same ends and bends alike.
    let bent = x + x * (0x1_0000 - x) / (3 * 0x1_0000);
    ((bent * SHARDS as u64) >> 16) as usize
}

const _: () = assert!(SHARDS <= 1 << 16 && DATABASES_MAX <= 1 << 16);

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(store: &Store, database: usize, bytes: &[u8]) -> KeySlot {
        store.slot(Key { database, bytes })
    }

    #[test]
    fn a_key_has_one_slot_in_a_store_and_another_in_the_next() {
        let (one, two) = (Store::default(), Store::default());
        let keys: Vec<_> = (0..64).map(|number| format!("key:{number}").into_bytes()).collect();
        assert!(keys.iter().all(|key| slot(&one, 0, key) == slot(&one, 0, key)));
        assert!(keys.iter().any(|key| slot(&one, 0, key) != slot(&two, 0, key)));
        assert_eq!(slot(&one, 0, b"key").shard(), slot(&one, 7, b"key").shard());
    }

    #[test]
    fn the_last_shard_has_twice_the_keys_of_the_first() {
        let mut sizes = [0; SHARDS];
        (0..=0xffff).for_each(|random| sizes[shard_of(random)] += 1);
        assert!(sizes.windows(2).all(|pair| pair[0] <= pair[1] + 2), "{sizes:?}");
        let (first, last) = (sizes[0], sizes[SHARDS - 1]);
        assert!((19 * first / 10..=21 * first / 10).contains(&last), "{first} and {last}");
    }
}
