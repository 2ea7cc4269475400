//! Compares the data file with memory: what a start would find, without one.

use std::time::Duration;

use super::shard::Shard;
use super::store::Store;
use super::{Loading, LocalEngine};
use crate::engine::{Admin, Entry, Key, VerifyError};
use crate::journal::Recovery;
use crate::util::clock::unix_time_ms;

impl LocalEngine {
    /// Makes everything durable, loads the file into a second store and compares, with every shard locked. It tries
    /// again some times, as other clients may write meanwhile.
    pub(super) fn compare_with_file(&self) -> Result<(), VerifyError> {
        const TRIES: usize = 20;
        for _ in 0..TRIES {
            self.save()?;
            let unreadable =
                |error: crate::journal::Error| VerifyError::Different(error.to_string());
            let recovery = Recovery::look_at(self.path()).map_err(unreadable)?;
            let store = Store::default().with_databases(self.databases());
            let loaded = Loading::load(&recovery, store).map_err(unreadable)?;
            if self.is_same(&loaded.store) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(VerifyError::Different("the data file does not tell what is in memory".to_owned()))
    }

    /// Whether memory is what was loaded, but for what has expired.
    fn is_same(&self, loaded: &Store) -> bool {
        let shards: Vec<_> = self.store.each().collect();
        let now_ms = unix_time_ms();
        let mut count = 0;
        for shard in &shards {
            for (database, entry) in live(shard, now_ms) {
                count += 1;
                let slot = loaded.slot(Key { database, bytes: entry.key() });
                let is_same = |other: &Entry| {
                    let (old, new) = (entry.value(), other.value());
                    other.expires_ms() == entry.expires_ms()
                        && old.len() == new.len()
                        && old.all().flatten().eq(new.all().flatten())
                };
                let other = loaded.lock(slot.shard());
                if !other.get(slot, entry.key()).is_some_and(is_same) {
                    return false;
                }
            }
        }
        count == loaded.each().map(|shard| live(&shard, now_ms).count()).sum::<usize>()
    }
}

/// The entries of all databases that have not expired.
fn live(shard: &Shard, now_ms: u64) -> impl Iterator<Item = (usize, &Entry)> {
    let all = (0..shard.databases())
        .flat_map(|database| shard.entries(database).map(move |entry| (database, entry)));
    all.filter(move |(_, entry)| !entry.is_expired(now_ms))
}
