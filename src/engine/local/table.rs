//! The keys of one database in one shard: a hash table, their expiry, and an index by prefix if searches want one.
//!
//! The table is the one inside the standard library's `HashMap`, taken by itself: it lets a key be hashed once, for
//! the choice of the shard and for the place in its table.

use hashbrown::HashTable;

use super::expiry_queue::ExpiryQueue;
use super::prefix_index::PrefixIndex;
use super::store::Hashing;
use super::undo::Undo;
use crate::engine::Entry;
use crate::util::memory::NoMemory;

/// See the module.
#[derive(Debug, Default)]
pub struct Table {
    /// The keys and values.
    pub entries: HashTable<Entry>,
    /// When they expire.
    pub expiry: ExpiryQueue,
    /// All keys in order, once a search has asked for it.
    pub index: Option<PrefixIndex>,
    /// A search would have used an index.
    pub is_index_wanted: bool,
}

impl Table {
    /// The entry of a key with this hash.
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<&Entry> {
        self.entries.find(hash, |entry| entry.key() == key)
    }

    /// The same, to change its value.
    pub fn get_mut(&mut self, hash: u64, key: &[u8]) -> Option<&mut Entry> {
        self.entries.find_mut(hash, |entry| entry.key() == key)
    }

    /// Makes room for `more` keys. If it has to grow for that, it grows to what it will have in the end, of which it then has
    /// a share so large: a table that doubles looks at each of its entries again.
    pub fn reserve(&mut self, more: usize, share: f64, hashing: &Hashing) -> Result<(), NoMemory> {
        /// The share may be small, and the keys that come the same again.
        const SHARE_MIN: f64 = 1.0 / 16.0;
        let (length, capacity) = (self.entries.len(), self.entries.capacity());
        if capacity - length < more {
            let expected = (length + more) as f64 / share.clamp(SHARE_MIN, 1.0);
            let more = expected as usize - length;
            self.entries.try_reserve(more, |entry| hashing.hash(entry.key()))?;
        }
        Ok(())
    }

    /// Gives back the room of a table that is larger than its keys need.
    pub fn shrink(&mut self, hashing: &Hashing) {
        self.entries.shrink_to(0, |entry| hashing.hash(entry.key()));
    }

    /// Puts an entry in the place of one with the same key, or adds it.
    pub fn put(&mut self, hash: u64, entry: Entry, hashing: &Hashing) -> Result<Undo, NoMemory> {
        let expires_ms = entry.expires_ms();
        if let Some(old) = self.get_mut(hash, entry.key()) {
            let old = std::mem::replace(old, entry);
            self.expiry.change(hash, old.expires_ms(), expires_ms);
            return Ok(Undo::Replaced(old));
        }
        let rehash = |entry: &Entry| hashing.hash(entry.key());
        self.entries.try_reserve(1, rehash)?;
        Ok(self.add(hash, entry, hashing))
    }

    fn add(&mut self, hash: u64, entry: Entry, hashing: &Hashing) -> Undo {
        self.expiry.change(hash, None, entry.expires_ms());
        if let Some(index) = &mut self.index
            && (index.insert(entry.key()).is_err() || index.is_unused())
        {
            self.index = None;
        }
        let id = entry.id();
        self.entries.insert_unique(hash, entry, |entry| hashing.hash(entry.key()));
        Undo::Created(id)
    }

    /// Takes the entry out that `is_it` recognizes among those with this hash.
    pub fn remove(&mut self, hash: u64, is_it: impl FnMut(&Entry) -> bool) -> Option<Entry> {
        let entry = self.entries.find_entry(hash, is_it).ok()?.remove().0;
        self.expiry.change(hash, entry.expires_ms(), None);
        if let Some(index) = &mut self.index {
            index.remove(entry.key());
            if index.is_unused() {
                self.index = None;
            }
        }
        Some(entry)
    }

    /// Undoes a change to a key with this hash. The changes since are undone.
    pub fn roll_back(&mut self, hash: u64, undo: Undo, hashing: &Hashing) {
        match undo {
            Undo::Created(id) => drop(self.remove(hash, |entry| entry.id() == id)),
            Undo::Expiry { id, expires_ms } => {
                if let Some(entry) = self.entries.find_mut(hash, |entry| entry.id() == id) {
                    let old_ms = entry.expires_ms();
                    entry.set_expires_ms(expires_ms);
                    self.expiry.change(hash, old_ms, expires_ms);
                }
            }
            Undo::Replaced(entry) | Undo::PartlyReplaced(entry, _) => {
                let expires_ms = entry.expires_ms();
                if let Some(new) = self.get_mut(hash, entry.key()) {
                    let new = std::mem::replace(new, entry);
                    self.expiry.change(hash, new.expires_ms(), expires_ms);
                }
            }
            Undo::Deleted(entry) | Undo::Expired(entry) => drop(self.add(hash, entry, hashing)),
            Undo::Overwritten { id, offset, bytes, length } => {
                let entry = self.entries.find_mut(hash, |entry| entry.id() == id);
                if let Some(value) = entry.and_then(Entry::value_mut) {
                    value.truncate(length);
                    value.write(offset, &bytes);
                }
            }
            Undo::Cleared(all) => {
                (self.entries, self.expiry) = *all;
                self.index = None;
            }
            // A shard's to undo.
            Undo::Swapped(_) => {}
        }
    }
}
