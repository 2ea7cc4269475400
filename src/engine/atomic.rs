//! Several changes at one moment: all of them are seen, and found after a crash, or none.
//!
//! The shards of all keys that are named stay locked from the first change to the last. Their records gather in
//! the session and go to the journal as one; until then the changes have [provisional](PROVISIONAL) stamps. What
//! is refused, in part or as a whole, is taken back before anybody has seen it.

use super::Session;
use super::session::WriteError;
use crate::limits::SHARDS;
use crate::persistence::format::write_select;
use crate::store::{Locked, PROVISIONAL};

/// What is done at one moment, so far.
#[derive(Debug)]
pub struct Held<'a> {
    /// The shards it may touch.
    pub shards: Locked<'a>,
    /// The newest stamp of each before it began, in their order.
    newest: Vec<u64>,
    /// How many records it has.
    records: u64,
    /// How much of the session's buffer they are, in bytes.
    record_bytes: usize,
    /// The database of the first, and the one that the last have selected.
    databases: Option<(usize, usize)>,
    /// How many steps there were that can be taken back.
    step: u64,
}

impl<'a> Held<'a> {
    fn new(mut shards: Locked<'a>) -> Self {
        let newest = shards.all().map(|shard| shard.newest()).collect();
        Self { shards, newest, records: 0, record_bytes: 0, databases: None, step: 0 }
    }

    /// What comes next concerns `database`.
    pub fn begin(&self, database: usize, record: &mut Vec<u8>) {
        record.truncate(self.record_bytes);
        if self.databases.is_some_and(|(_, selected)| selected != database) {
            write_select(database, record);
        }
    }

    /// Counts the records at the end of `record`; returns the stamp of what they change.
    pub fn append(&mut self, database: usize, record: &[u8], records: u64) -> u64 {
        let (first, selected) = self.databases.unwrap_or((database, database));
        self.databases = Some((first, database));
        self.records += records + u64::from(selected != database);
        self.record_bytes = record.len();
        PROVISIONAL + self.step
    }
}

impl<'a> Session<'a> {
    /// Does `work` on these keys, and on no others, at one moment; after an error nothing of it is left.
    pub fn atomically<'k, T, E: From<WriteError>>(
        &mut self,
        keys: impl Iterator<Item = &'k [u8]>,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let store = &self.engine().store;
        // A key has the same shard in all databases.
        self.hold(keys.map(|key| store.place(0, key).shard()), work)
    }

    /// The same on any keys.
    pub fn at_one_moment<T, E: From<WriteError>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.hold(0..SHARDS, work)
    }

    /// The same for looking only.
    pub fn look_at<'k, T>(
        &mut self,
        keys: impl Iterator<Item = &'k [u8]>,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let store = &self.engine().store;
        let shards = keys.map(|key| store.place(0, key).shard());
        let is_outermost = self.held.is_none();
        if is_outermost {
            self.held = Some(Held::new(store.lock_all(shards)));
        }
        let seen = work(self);
        if is_outermost {
            self.held = None;
        }
        seen
    }

    fn hold<T, E: From<WriteError>>(
        &mut self,
        shards: impl Iterator<Item = usize>,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.held.is_some() {
            return self.step(work);
        }
        self.record.clear();
        self.held = Some(Held::new(self.engine().store.lock_all(shards)));
        let done = work(self);
        let done = self.let_go(done);
        self.tidy();
        done
    }

    /// Part of what is done at one moment: after an error nothing of this part is left.
    fn step<T, E>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        let Some(held) = &mut self.held else { return work(self) };
        let before = (held.records, held.record_bytes, held.databases);
        let safe = PROVISIONAL + held.step;
        held.step += 1;
        let done = work(self);
        if let (Err(_), Some(held)) = (&done, &mut self.held) {
            (held.records, held.record_bytes, held.databases) = before;
            held.shards.all().filter(|shard| shard.newest() > safe).for_each(|shard| {
                shard.take_back(safe);
            });
        }
        done
    }

    /// Appends all records, or takes everything back, and lets others in.
    fn let_go<T, E: From<WriteError>>(&mut self, done: Result<T, E>) -> Result<T, E> {
        let Some(mut held) = self.held.take() else { return done };
        self.record.truncate(held.record_bytes);
        let mut stamp = None;
        let done = done.and_then(|done| {
            if held.records > 0 {
                let databases = held.databases.unwrap_or_default();
                let appended = self.append_all(held.records, databases);
                stamp = Some(appended.map_err(WriteError::from)?);
            }
            Ok(done)
        });
        for (shard, newest) in held.shards.all().zip(&held.newest) {
            match stamp {
                _ if shard.newest() < PROVISIONAL => {}
                Some(stamp) => shard.seal(stamp),
                None => shard.take_back(*newest),
            }
        }
        done
    }
}
