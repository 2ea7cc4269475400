//! The shards that a transaction has locked.

use std::sync::MutexGuard;

use super::shard::Shard;
use super::store::{KeySlot, Store};
use crate::engine::{Key, Scope};
use crate::limits::SHARDS;

/// Locked shards. Dropped, it unlocks them.
#[derive(Debug)]
pub struct Locks<'e> {
    store: &'e Store,
    locked: Locked<'e>,
}

#[derive(Debug)]
enum Locked<'e> {
    /// The shard of one key, which need not be hashed again.
    One { key: &'e [u8], slot: KeySlot, shard: MutexGuard<'e, Shard> },
    /// Some shards, in ascending order.
    Many(Vec<(usize, MutexGuard<'e, Shard>)>),
    /// The shard that was used last: another one takes its place.
    Each(Option<(usize, MutexGuard<'e, Shard>)>),
}

impl<'e> Locks<'e> {
    /// Locks the shards of the keys in `scope`, in ascending order.
    pub fn new(store: &'e Store, scope: Scope<'e>) -> Self {
        let slot = |bytes| store.slot(Key { database: 0, bytes });
        let many = |numbers: &mut dyn Iterator<Item = usize>| {
            Locked::Many(numbers.map(|number| (number, store.lock(number))).collect())
        };
        let locked = match scope {
            Scope::One(key) => {
                let slot = slot(key);
                Locked::One { key, slot, shard: store.lock(slot.shard()) }
            }
            Scope::Many(keys) => {
                let mut is_wanted = [false; SHARDS];
                keys.iter().for_each(|key| is_wanted[slot(key).shard()] = true);
                many(&mut (0..SHARDS).filter(|number| is_wanted[*number]))
            }
            Scope::All => many(&mut (0..SHARDS)),
            Scope::Each => Locked::Each(None),
        };
        Self { store, locked }
    }

    /// Locks one shard.
    pub fn of_shard(store: &'e Store, number: usize) -> Self {
        Self { store, locked: Locked::Many(vec![(number, store.lock(number))]) }
    }

    /// Whether no more than one shard is locked at a time, and none for long.
    pub fn is_each(&self) -> bool {
        matches!(self.locked, Locked::Each(_))
    }

    /// Whether the shards of several keys are locked together.
    pub fn is_many(&self) -> bool {
        matches!(self.locked, Locked::Many(_))
    }

    /// Whether the shard of a key is locked; of none: whether all are.
    pub fn reach(&self, key: Option<Key<'_>>) -> bool {
        let wanted = key.map(|key| self.store.slot(key).shard());
        match (&self.locked, wanted) {
            (Locked::One { slot, .. }, Some(wanted)) => slot.shard() == wanted,
            (Locked::One { .. }, None) => false,
            (Locked::Many(shards), Some(wanted)) => {
                shards.binary_search_by_key(&wanted, |(number, _)| *number).is_ok()
            }
            (Locked::Many(shards), None) => shards.len() == SHARDS,
            (Locked::Each(_), _) => true,
        }
    }

    /// Where a key lives.
    #[inline]
    pub fn slot(&self, wanted: Key<'_>) -> KeySlot {
        match &self.locked {
            // The key of the scope lives as long as this: nothing else can have its address.
            Locked::One { key, slot, .. } if std::ptr::eq(*key, wanted.bytes) => {
                slot.in_database(wanted.database)
            }
            _ => self.store.slot(wanted),
        }
    }

    /// Shard `number`, which is locked, or is now.
    #[inline]
    pub fn shard(&mut self, number: usize) -> &mut Shard {
        match &mut self.locked {
            Locked::One { slot, shard, .. } if slot.shard() == number => shard,
            Locked::One { .. } => out_of_scope(),
            Locked::Many(shards) => {
                match shards.binary_search_by_key(&number, |(number, _)| *number) {
                    Ok(index) => &mut shards[index].1,
                    Err(_) => out_of_scope(),
                }
            }
            Locked::Each(current) => {
                if current.as_ref().is_none_or(|(locked, _)| *locked != number) {
                    // First unlocked: the order of locks is ascending, that of reads is any.
                    *current = None;
                }
                let (_, shard) = current.get_or_insert_with(|| (number, self.store.lock(number)));
                shard
            }
        }
    }

    /// Unlocks the shard that was used last, where each is locked by itself.
    pub fn pause(&mut self) {
        if let Locked::Each(current) = &mut self.locked {
            *current = None;
        }
    }

    /// Unlocks everything.
    pub fn release(&mut self) {
        self.locked = Locked::Each(None);
    }
}

/// A command touched a key that its usage line does not name.
fn out_of_scope() -> ! {
    unreachable!("a transaction stays within its scope")
}
