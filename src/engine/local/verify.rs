//! Whether the data file tells what is in memory: what a start would find, without one.

use std::time::Duration;

use super::{Engine, Loading};
use crate::engine::local::entry::Entry;
use crate::engine::local::store::{Shard, Store};
use crate::journal::{Error, Recovery, WriteRefused};
use crate::limits::SHARDS;
use crate::util::clock::unix_time_ms;

/// What keeps the file from being what it should be.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Not everything is on disk.
    #[error(transparent)]
    Refused(#[from] WriteRefused),
    /// The file cannot be loaded.
    #[error("{0}")]
    Unreadable(#[from] Error),
    /// The file tells something else, though nothing was under way.
    #[error("the data file does not tell what is in memory")]
    Different,
}

impl Engine {
    /// Makes all durable, loads the file into a second store and compares, with every shard locked. Others who write
    /// meanwhile make it try again, some times.
    pub fn verify(&self) -> Result<(), VerifyError> {
        const TRIES: usize = 20;
        for _ in 0..TRIES {
            self.save()?;
            let recovery = Recovery::look_at(self.path())?;
            let store = Store::default().with_databases(self.databases());
            let mut loading = Loading::new(store, recovery.bytes());
            recovery.load(|found| loading.replay(found))?;
            if self.tells_of(&loading.store) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(VerifyError::Different)
    }

    /// Whether memory is what was loaded, but for what has expired.
    fn tells_of(&self, loaded: &Store) -> bool {
        let mut locked = self.store.lock_all(0..SHARDS);
        let now_ms = unix_time_ms();
        let mut here = 0;
        for shard in locked.all() {
            for (database, entry) in live(shard, now_ms) {
                here += 1;
                let place = loaded.place(database, entry.key());
                let is_same = |other: &Entry| {
                    let (old, new) = (entry.value(), other.value());
                    other.expires_ms() == entry.expires_ms()
                        && old.len() == new.len()
                        && old.all().flatten().eq(new.all().flatten())
                };
                if !loaded.lock(place).get(place, entry.key()).is_some_and(is_same) {
                    return false;
                }
            }
        }
        here == loaded.each().map(|shard| live(&shard, now_ms).count()).sum::<usize>()
    }
}

/// What has not expired in any database.
fn live(shard: &Shard, now_ms: u64) -> impl Iterator<Item = (usize, &Entry)> {
    let all = (0..shard.databases())
        .flat_map(|database| shard.entries(database).map(move |entry| (database, entry)));
    all.filter(move |(_, entry)| !entry.is_expired(now_ms))
}
