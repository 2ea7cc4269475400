//! A record of the file that concerns one key, by itself: what [`super::replay`] queues.

use super::shard::{Shard, overwritten_bytes, spliced};
use super::store::KeySlot;
use super::undo::set_bytes;
use crate::engine::Entry;
use crate::text::quoted_bytes;
use crate::util::buffer::Buffer;
use crate::util::memory::NoMemory;

/// See the module. Small, as most are entries.
#[derive(Debug)]
pub enum KeyRecord {
    /// Sets the key of the entry.
    Set(Entry),
    /// Changes a key.
    Change(Box<(Buffer, Change)>),
}

/// What becomes of a key that may be there.
#[derive(Debug)]
pub enum Change {
    /// It is removed.
    Del,
    /// These bytes are appended to its value, or become it.
    Append(Buffer),
    /// These bytes are written at an offset of its value, if it is there.
    SetRange(usize, Buffer),
    /// It expires at that time, in milliseconds of Unix time, or never, if it is there.
    Expire(Option<u64>),
}

impl KeyRecord {
    /// Applies it to the shard of the key's slot. Returns about how many bytes of the file that supersedes, less those by
    /// which a `SETRANGE` adds to what is live.
    pub fn apply(self, slot: KeySlot, shard: &mut Shard) -> Result<i64, NoMemory> {
        let (key, change) = match self {
            Self::Set(entry) => return Ok(shard.put(slot, entry)?.garbage_bytes() as i64),
            Self::Change(change) => *change,
        };
        Ok(match change {
            Change::Del => {
                let old = shard.remove(slot, &key);
                old.as_ref().map_or(0, set_bytes) as i64
            }
            Change::Append(bytes) => {
                let length = shard.get(slot, &key).map_or(0, |old| old.value().len());
                if shard.splice(slot, &key, length, &bytes)?.is_none() {
                    shard.put(slot, Entry::grown(&key, spliced(None, 0, &bytes)?, None)?)?;
                }
                0
            }
            Change::SetRange(offset, bytes) => {
                let Some(old) = shard.get(slot, &key).map(Entry::value) else { return Ok(0) };
                let garbage = overwritten_bytes(old, offset, bytes.len()) as i64;
                shard.splice(slot, &key, offset, &bytes)?;
                garbage - quoted_bytes(&bytes) as i64
            }
            Change::Expire(expires_ms) => {
                shard.expire(slot, &key, expires_ms)?;
                0
            }
        })
    }
}
