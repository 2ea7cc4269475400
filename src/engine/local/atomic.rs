//! Several changes at one moment: all of them are seen, and found after a crash, or none.
//!
//! The shards of all keys that are named stay locked from the first change to the last. Their records gather in
//! the session and go to the journal as one; until then the changes have [provisional](PROVISIONAL) stamps. What
//! is refused, in part or as a whole, is taken back before anybody has seen it.

use super::Session;
use super::session::WriteError;
use crate::engine::local::store::{Locked, PROVISIONAL};
use crate::journal::format::write_select;
use crate::journal::records::Records;
use crate::journal::{Flush, WriteRefused};
use crate::limits::{LOCKED_WORK_MAX, SHARDS};

/// What is done at one moment, so far.
#[derive(Debug)]
pub struct Held<'a> {
    /// The shards it may touch.
    pub shards: Locked<'a>,
    /// The newest stamp of each before it began, in their order.
    newest: Vec<u64>,
    /// Whether the journal takes writes: asked once, so that all of it is refused or nothing.
    pub permit: Result<(), WriteRefused>,
    /// What its records are, so far.
    written: Written,
    /// How many steps there were that can be taken back.
    step: u64,
    /// About how long it has worked with the shards locked, in nanoseconds.
    work_ns: u64,
}

/// The records of a transaction.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    /// How many there are.
    records: u64,
    /// How much of the session's buffer they are, in bytes.
    bytes: usize,
    /// The database of the first, and the one that the last have selected.
    databases: Option<(usize, usize)>,
    /// What they make of the file.
    effect: Effect,
}

/// What records make of the file they are written to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effect {
    /// How much of it says nothing any more, in bytes.
    pub garbage: u64,
    /// The last `FLUSHALL` or `FLUSHDB` among them.
    pub flush: Option<Flush>,
}

impl<'a> Held<'a> {
    fn new(mut shards: Locked<'a>, permit: Result<(), WriteRefused>) -> Self {
        let newest = shards.all().map(|shard| shard.newest()).collect();
        Self { shards, newest, permit, written: Written::default(), step: 0, work_ns: 0 }
    }

    /// What comes next concerns `database`: returns what the records so far make of the file.
    pub fn begin(&self, database: usize, records: &mut Records) -> Effect {
        records.truncate(self.written.bytes);
        if self.written.databases.is_some_and(|(_, selected)| selected != database) {
            write_select(database, records.tail());
        }
        self.written.effect
    }

    /// Counts the records at the end of `records`; returns the stamp of what they change.
    pub fn append(
        &mut self,
        database: usize,
        records: &Records,
        count: u64,
        effect: Effect,
    ) -> u64 {
        let written = &mut self.written;
        let (first, selected) = written.databases.unwrap_or((database, database));
        written.databases = Some((first, database));
        written.records += count + u64::from(selected != database);
        written.bytes = records.len();
        written.effect = effect;
        PROVISIONAL + self.step
    }

    /// The number of the step under way.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The newest stamp of shard `number` before this began.
    pub fn newest_before(&self, number: usize) -> u64 {
        self.shards.index(number).and_then(|index| self.newest.get(index)).copied().unwrap_or(0)
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
            self.lock(shards, Ok(()));
        }
        let seen = work(self);
        if is_outermost {
            self.held = None;
        }
        seen
    }

    fn lock(&mut self, shards: impl Iterator<Item = usize>, permit: Result<(), WriteRefused>) {
        self.held = Some(Held::new(self.engine().store.lock_all(shards), permit));
        // Read with the locks held: what another saw expired is not alive again.
        self.forget_time();
    }

    /// The same on any keys of these shards.
    pub fn hold<T, E: From<WriteError>>(
        &mut self,
        shards: impl Iterator<Item = usize>,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.held.is_some() {
            return self.step(work);
        }
        self.record.clear();
        let permit = self.engine().journal.check();
        self.lock(shards, permit);
        let done = work(self);
        let done = self.let_go(done);
        self.tidy();
        done
    }

    /// Part of what is done at one moment: after an error nothing of this part is left.
    fn step<T, E>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        let Some(held) = &mut self.held else { return work(self) };
        let before = held.written;
        let safe = PROVISIONAL + held.step;
        held.step += 1;
        let done = work(self);
        if let (Err(_), Some(held)) = (&done, &mut self.held) {
            held.written = before;
            held.shards.all().filter(|shard| shard.newest() > safe).for_each(|shard| {
                shard.take_back(safe);
            });
        }
        done
    }

    /// Appends all records, or takes everything back, and lets others in.
    fn let_go<T, E: From<WriteError>>(&mut self, done: Result<T, E>) -> Result<T, E> {
        let Some(mut held) = self.held.take() else { return done };
        let Written { records, bytes, databases, effect } = held.written;
        self.record.truncate(bytes);
        let mut stamp = None;
        let done = done.and_then(|done| {
            if records > 0 {
                self.effect = effect;
                let appended = self.append_all(records, databases.unwrap_or_default());
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

    /// Counts work that is done with shards locked for a transaction, about so many nanoseconds of it.
    pub fn spend(&mut self, work_ns: u64) {
        if let Some(held) = &mut self.held {
            held.work_ns = held.work_ns.saturating_add(work_ns);
        }
    }

    /// An error once a transaction has worked for longer than it may hold up others. It counts what it does and
    /// reads no clock: the same transaction on the same keys always fits or never.
    pub fn check_work(&self) -> Result<(), WriteError> {
        match &self.held {
            Some(held) if held.work_ns > LOCKED_WORK_MAX => Err(WriteError::TooMuchWork),
            _ => Ok(()),
        }
    }
}
