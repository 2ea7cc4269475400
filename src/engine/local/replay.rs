//! Loading: the records of a data file, applied to memory.

use std::io;

use super::shard::{overwritten_bytes, spliced};
use super::store::Store;
use super::undo::set_bytes;
use crate::engine::{Entry, Key};
use crate::journal::load::Located;
use crate::journal::pace::Pace;
use crate::journal::scan::Cause;
use crate::journal::{Flush, Record};
use crate::text::quoted_bytes;
use crate::util::memory::NoMemory;
use crate::value::View;

/// Memory while a file is read into it.
#[derive(Debug, Default)]
pub struct Loading {
    /// The keys and values so far.
    pub store: Store,
    /// About how much of the file is still said by nothing later, in bytes.
    pub(super) live_bytes: u64,
    /// The last flush of the file that removed keys and tells its time.
    pub(super) flush: Option<Flush>,
    pace: Pace,
}

impl Loading {
    pub(super) fn new(store: Store, bytes: u64) -> Self {
        let pace = Pace::new(bytes);
        Self { store, live_bytes: 0, flush: None, pace }
    }

    /// Applies a record to memory; an error if there is none left.
    pub fn replay(&mut self, found: Located<'_>) -> io::Result<()> {
        let record_bytes = found.bytes.end - found.bytes.start;
        let (store, database) = (&self.store, found.database);
        let mut garbage = 0;
        let highest = match found.record {
            Record::SwapDb(one, two) => one.max(two),
            _ => database,
        };
        if highest >= store.databases() {
            let databases = store.databases();
            return Err(io::Error::other(Cause::Databases { database: highest, databases }));
        }
        let key_in = |bytes| Key { database, bytes };
        match found.record {
            Record::Set(key, value, expires_ms) => {
                self.live_bytes += record_bytes;
                garbage = self.put(database, Entry::new(key, View::Short(value), expires_ms)?)?;
            }
            Record::Del(keys) => {
                for key in keys {
                    let slot = store.slot(key_in(key));
                    let old = store.lock(slot.shard()).remove(slot, key);
                    garbage += old.as_ref().map_or(0, set_bytes);
                }
            }
            Record::Append(key, value) => {
                let slot = store.slot(key_in(key));
                let shard = store.lock(slot.shard());
                let length = shard.get(slot, key).map_or(0, |old| old.value().len());
                drop(shard);
                self.splice(database, key, length, value)?;
                self.live_bytes += record_bytes;
            }
            Record::SetRange(key, offset, value) => {
                let slot = store.slot(key_in(key));
                let shard = store.lock(slot.shard());
                if let Some(old) = shard.get(slot, key).map(Entry::value) {
                    self.live_bytes += quoted_bytes(value) as u64;
                    garbage = overwritten_bytes(old, offset, value.len());
                    drop(shard);
                    self.splice(database, key, offset, value)?;
                }
            }
            Record::PExpireAt(key, time_ms) => self.expire(database, key, Some(time_ms))?,
            Record::Persist(key) => self.expire(database, key, None)?,
            Record::FlushAll => {
                store.each().for_each(|mut shard| {
                    (0..shard.databases()).for_each(|database| drop(shard.clear(database)));
                });
                self.flush = flush(found.time_s, self.live_bytes).or(self.flush);
                self.live_bytes = 0;
            }
            Record::FlushDb => {
                let cleared = store.each().filter_map(|mut shard| shard.clear(database));
                garbage = cleared.map(|undo| undo.garbage_bytes()).sum();
                self.flush = flush(found.time_s, garbage as u64).or(self.flush);
            }
            Record::SwapDb(one, two) => {
                store.each().for_each(|mut shard| drop(shard.swap(one, two)));
            }
            Record::Select(_) => {}
        }
        self.live_bytes = self.live_bytes.saturating_sub(garbage as u64);
        if let Some(pace) = self.pace.reach(found.bytes.end) {
            log::info!("loading the data file: {pace}, {} keys", self.store.keys());
        }
        Ok(())
    }

    /// Puts an entry into memory; returns about how many bytes of the file that supersedes.
    fn put(&self, database: usize, entry: Entry) -> Result<usize, NoMemory> {
        let slot = self.store.slot(Key { database, bytes: entry.key() });
        let undo = self.store.lock(slot.shard()).put(slot, entry)?;
        Ok(undo.garbage_bytes())
    }

    /// From here on a key expires at that time, if it exists.
    fn expire(&self, database: usize, key: &[u8], expires_ms: Option<u64>) -> Result<(), NoMemory> {
        let slot = self.store.slot(Key { database, bytes: key });
        self.store.lock(slot.shard()).expire(slot, key, expires_ms).map(drop)
    }

    /// Writes `bytes` at `offset` of the value of a key, which may be missing.
    fn splice(
        &self,
        database: usize,
        key: &[u8],
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), NoMemory> {
        let slot = self.store.slot(Key { database, bytes: key });
        let mut shard = self.store.lock(slot.shard());
        if shard.splice(slot, key, offset, bytes)?.is_none() {
            let entry = Entry::grown(key, spliced(None, offset, bytes)?, None)?;
            shard.put(slot, entry)?;
        }
        Ok(())
    }
}

/// A flush that tells its time and removed something.
fn flush(time_s: Option<u64>, bytes: u64) -> Option<Flush> {
    time_s.filter(|_| bytes > 0).map(|time_s| Flush { time_s, bytes })
}
