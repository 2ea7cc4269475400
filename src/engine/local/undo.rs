//! What a change replaced: enough to undo it until it is committed.

use hashbrown::HashTable;

use super::expiry_queue::ExpiryQueue;
use super::store::KeySlot;
use crate::engine::{Entry, EntryId};
use crate::journal::format;
use crate::limits::HEAVY_UNDO_BYTES;
use crate::text::quoted_bytes;
use crate::util::buffer::Buffer;

/// A change to one key, or to all keys of a database in a shard, and what undoes it.
#[derive(Debug)]
pub struct Change {
    /// The key's slot.
    pub slot: KeySlot,
    /// What undoes it.
    pub undo: Undo,
}

/// What a change replaced.
///
/// An undo that names an entry by its identity names the right one: whatever removes the entry later keeps it in an
/// undo of its own, which is released later.
#[derive(Debug)]
pub enum Undo {
    /// Nothing: the key is new, and this is its entry.
    Created(EntryId),
    /// This entry.
    Replaced(Entry),
    /// This entry, by one with most of its value: so many bytes of the file are superseded.
    PartlyReplaced(Entry, usize),
    /// This entry: the key was deleted.
    Deleted(Entry),
    /// The same, because it had expired.
    Expired(Entry),
    /// Part of a value that changed in place and did not get shorter.
    Overwritten {
        /// The entry.
        id: EntryId,
        /// Where the part begins, at most `length`.
        offset: usize,
        /// The bytes that stood there.
        bytes: Buffer,
        /// The length of the whole value.
        length: usize,
    },
    /// The time at which an entry expires.
    Expiry {
        /// The entry.
        id: EntryId,
        /// The time, in milliseconds of Unix time.
        expires_ms: Option<u64>,
    },
    /// Every key of the database.
    Cleared(Box<(HashTable<Entry>, ExpiryQueue)>),
    /// The database and this one exchanged their keys.
    Swapped(usize),
}

impl Undo {
    /// About how much memory it holds, in bytes; of a table only the number of its keys is looked at.
    pub fn memory_bytes(&self) -> usize {
        const BASE_BYTES: usize = 100;
        BASE_BYTES
            + match self {
                Self::Created(_) | Self::Expiry { .. } | Self::Swapped(_) => 0,
                Self::Replaced(entry)
                | Self::PartlyReplaced(entry, _)
                | Self::Deleted(entry)
                | Self::Expired(entry) => entry.capacity(),
                Self::Overwritten { bytes, .. } => bytes.len(),
                Self::Cleared(all) => BASE_BYTES * all.0.len(),
            }
    }

    /// Whether freeing it, of so many bytes, takes long.
    pub fn is_heavy(&self, memory_bytes: usize) -> bool {
        matches!(self, Self::Cleared(_)) || memory_bytes > HEAVY_UNDO_BYTES
    }

    /// About how many bytes of the file its change superseded.
    pub fn garbage_bytes(&self) -> usize {
        match self {
            Self::Created(_) | Self::Expiry { .. } | Self::Swapped(_) => 0,
            Self::Replaced(entry) | Self::Deleted(entry) | Self::Expired(entry) => set_bytes(entry),
            Self::PartlyReplaced(_, garbage) => *garbage,
            Self::Overwritten { bytes, .. } => quoted_bytes(bytes),
            Self::Cleared(all) => all.0.iter().map(set_bytes).sum(),
        }
    }
}

/// About how many bytes a `SET` record of an entry takes.
pub fn set_bytes(entry: &Entry) -> usize {
    format::set_bytes(entry.key(), entry.value())
}
