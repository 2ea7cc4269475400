//! The one place that knows both the store and the journal: every write changes memory and appends
//! its record under the same shard lock, so that the file has the order of memory.
//!
//! A [`Session`] is one client's view. It remembers the highest mark of what it wrote *or showed*;
//! [`Session::commit`] waits for that before any reply leaves. So what was acknowledged or observed
//! cannot be taken back by a power cut. A [`Compaction`] writes memory to a new file while clients go
//! on. After a failure of the disk memory is what was committed, and [`Engine::heal`] gives it a file
//! again.
//!
//! Lock order: `healing`, then `taking_back`, then indexes, then shards in ascending order, then the journal; the
//! compactor's status is held with none of them but the journal's. No lock is held across I/O, but for
//! `healing`, which no client takes.

mod atomic;
mod compaction;
pub mod entry;
mod expiry;
mod expiry_queue;
pub mod key_arena;
mod prefix_index;
mod prepared;
mod search;
mod session;
pub mod store;
mod verify;
mod watch;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::engine::local::entry::Entry;
use crate::engine::local::store::{Store, Undo};
use crate::journal::format;
use crate::journal::load::Located;
use crate::journal::pace::Pace;
use crate::journal::scan::Cause;
use crate::journal::{Error, Flush, Fsync, Journal, Record, Recovery, SwitchError, WriteRefused};
use crate::limits::{SETTLED_SPARE, SHARDS};
use crate::text::quoted_bytes;
use crate::util::clock::{Clock, unix_time_ms};
use crate::util::memory::{self, NoMemory};
use crate::util::sync::lock;
use crate::value::{Value, View};

pub use crate::engine::local::store::ShardSet;
pub use crate::engine::local::watch::Watch;
pub use compaction::{Compaction, Compactor, Status};
pub use prepared::{Compared, InDatabase};
pub use session::{Change, Counts, Expires, Session, WriteError};
pub use verify::VerifyError;

/// The keys, the values and the file they are kept in.
#[derive(Debug)]
pub struct Engine {
    store: Store,
    journal: Journal,
    /// About how much of the file says nothing any more, in bytes; seals are the journal's to count.
    dead_bytes: AtomicU64,
    compactor: Compactor,
    /// Held while memory goes back to what was committed, and while writes are let in again.
    taking_back: Mutex<()>,
    /// Held while the file is made well.
    healing: Mutex<()>,
    /// Goes up while a rewrite goes on.
    progress: AtomicU64,
    /// How many keys there were when last all was on disk.
    committed_keys: AtomicUsize,
    /// Keys removed because they had expired.
    expired: AtomicU64,
    /// Keys that have expired stay in memory, unseen.
    keeps_expired: AtomicBool,
    /// How often databases were swapped; changed with every shard locked.
    swaps: AtomicU64,
    /// What keys expire by.
    clock: Clock,
    /// When it began.
    started: Instant,
    /// How long ago that was at the last tick, in seconds.
    age_s: AtomicU32,
}

impl Engine {
    /// Loads what `recovery` found into memory, then makes the file ready for more.
    pub fn start(recovery: Recovery, fsync: Fsync) -> Result<Self, Error> {
        Self::start_with(recovery, fsync, Store::default())
    }

    /// The same with a store of its own, which is empty.
    pub fn start_with(recovery: Recovery, fsync: Fsync, store: Store) -> Result<Self, Error> {
        let mut loading = Loading::new(store, recovery.bytes());
        recovery.load(|found| loading.replay(found))?;
        let Loading { store, live_bytes, flush, .. } = loading;
        let journal = recovery.finish(fsync)?;
        journal.set_flush(flush);
        let dead_bytes = AtomicU64::new(journal.bytes().saturating_sub(live_bytes));
        let committed_keys = AtomicUsize::new(store.keys());
        Ok(Self {
            store,
            journal,
            dead_bytes,
            compactor: Compactor::default(),
            taking_back: Mutex::default(),
            healing: Mutex::default(),
            progress: AtomicU64::new(0),
            committed_keys,
            expired: AtomicU64::new(0),
            keeps_expired: AtomicBool::new(false),
            swaps: AtomicU64::new(0),
            clock: Clock::new(Instant::now(), unix_time_ms()),
            started: Instant::now(),
            age_s: AtomicU32::new(0),
        })
    }

    /// The data file's absolute path.
    pub fn path(&self) -> &Path {
        self.journal.path()
    }

    /// Length of the data file, in bytes.
    pub fn bytes(&self) -> u64 {
        self.journal.bytes()
    }

    /// How often the file was healed after a failure.
    pub fn healed(&self) -> u64 {
        self.journal.epoch()
    }

    /// Goes up while a rewrite goes on: who waits for one can tell it from a disk that hangs.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Number of databases.
    pub fn databases(&self) -> usize {
        self.store.databases()
    }

    /// Number of keys in memory, on disk or not.
    pub fn keys(&self) -> usize {
        self.store.keys()
    }

    /// Number of keys when last everything that had changed it was on disk: just now, or before a write that waits
    /// for the disk. Waits for nothing.
    pub fn committed_keys(&self) -> usize {
        let mut session = Session::new(self);
        let keys = session.counts().iter().map(|counts| counts.keys).sum();
        let mark = session.take_mark();
        if session.is_committed(mark) {
            self.committed_keys.store(keys, Ordering::Relaxed);
        }
        self.committed_keys.load(Ordering::Relaxed)
    }

    /// Number of keys removed because they had expired.
    pub fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    /// Looks at the clocks; call it several times a second.
    pub fn tick(&self) {
        self.age_s.store(self.started.elapsed().as_secs() as u32, Ordering::Relaxed);
        if let Some(jump_ms) = self.clock.look(Instant::now(), unix_time_ms()) {
            let (seconds, where_to) =
                (jump_ms.abs() / 1000, if jump_ms > 0 { "forward" } else { "back" });
            log::warn!(
                "the system's clock jumped {where_to} by {seconds} s; keys expire by it, and those that expired by a \
                 jump forward are not seen, but kept for a minute in case it is put right"
            );
        }
    }

    /// Begins to count them anew.
    pub fn forget_expired(&self) {
        self.expired.store(0, Ordering::Relaxed);
    }

    /// Whether keys that have expired are removed, or only not seen.
    pub fn set_active_expiry(&self, is_active: bool) {
        self.keeps_expired.store(!is_active, Ordering::Relaxed);
    }

    /// See [`Journal::sync_second`].
    pub fn sync_second(&self) {
        self.journal.sync_second();
        self.deliver();
    }

    /// Tells those who wait for what is settled now.
    fn deliver(&self) {
        self.journal.run_callbacks(|| self.take_back());
    }

    /// See [`Journal::mark_idle`].
    pub fn mark_idle(&self, before: u64) -> u64 {
        let stamp = self.journal.mark_idle(before);
        self.deliver();
        stamp
    }

    /// Makes everything appended so far survive a power cut, whatever the mode.
    pub fn save(&self) -> Result<(), WriteRefused> {
        let saved = self.journal.save();
        self.deliver();
        saved?;
        self.compactor.saved();
        Ok(())
    }

    /// Frees what committed changes replaced, however much that is; call it now and then, on a thread that nothing
    /// waits for.
    pub fn settle(&self) {
        let committed = self.journal.committed();
        if self.journal.check().is_ok() {
            let mut settled = Vec::new();
            for number in 0..SHARDS {
                while self.store.lock_nth(number).settle_all(committed, &mut settled) {
                    self.bury(&mut settled);
                }
                self.bury(&mut settled);
            }
            self.store.tidy();
        }
        memory::flush_thread_count();
    }

    /// Frees what committed changes replaced, and counts the bytes of the file that say nothing any more.
    fn bury(&self, settled: &mut Vec<Undo>) {
        let bytes = |undo: &Undo| match undo {
            Undo::Nothing(..) | Undo::Expiry { .. } | Undo::Swap(_) => 0,
            Undo::Entry(entry) | Undo::Removed(entry) => set_bytes(entry),
            Undo::Changed(_, garbage) => *garbage,
            Undo::Range { bytes, .. } => quoted_bytes(bytes),
            Undo::Everything(all) => all.0.iter().map(set_bytes).sum(),
        };
        let garbage: usize = settled.iter().map(bytes).sum();
        settled.clear();
        settled.shrink_to(SETTLED_SPARE);
        if garbage > 0 {
            self.dead_bytes.fetch_add(garbage as u64, Ordering::Relaxed);
        }
    }

    /// Takes back what the journal refused, in memory: reads go on with what is on disk.
    fn take_back(&self) {
        let _only_one = lock(&self.taking_back);
        // Else it was healed meanwhile, and what is not committed now is under way.
        if self.journal.is_faulted() {
            let committed = self.journal.committed();
            self.store.each().for_each(|mut shard| shard.take_back(committed));
        }
    }

    /// Waits for at most `timeout` until the journal is in trouble, and says whether it is.
    pub fn wait_for_trouble(&self, timeout: Duration) -> bool {
        self.journal.wait_for_fault(timeout)
    }

    /// Why writes are refused, if they are.
    pub fn trouble(&self) -> Option<WriteRefused> {
        self.journal.fault()
    }

    /// After a failure: takes back in memory what was not committed, then gives it a file that can be
    /// trusted, and lets writes in again. An error says why the disk does not let it.
    pub fn heal(&self) -> Result<(), SwitchError> {
        let _only_one = lock(&self.healing);
        if !self.journal.is_faulted() {
            return Ok(());
        }
        self.take_back();
        self.deliver();
        if !self.journal.cut_back() {
            self.rewrite()?;
        }
        let _only_one = lock(&self.taking_back);
        self.journal.resume();
        Ok(())
    }

    /// Makes everything durable and refuses all further writes, see [`Journal::close`].
    ///
    /// In trouble it tries once more to heal: memory may be all there is.
    pub fn close(&self) -> Result<(), WriteRefused> {
        self.close_without_healing().or_else(|refused| match self.heal() {
            Ok(()) => self.close_without_healing(),
            Err(error) => {
                log::error!("{}: {error}", self.path().display());
                Err(refused)
            }
        })
    }

    /// The same, but in trouble nothing more is tried.
    pub fn close_without_healing(&self) -> Result<(), WriteRefused> {
        let closed = self.journal.close();
        self.deliver();
        closed
    }

    /// Waits for at most `timeout` until no compaction is under way; one gives up once this is closed.
    pub fn wait_for_compaction(&self, timeout: Duration) {
        self.compactor.wait_for_end(timeout);
    }
}

/// For tests of what a panic does.
impl Engine {
    /// Panics with a shard locked.
    pub fn panic_in_shard(&self) -> ! {
        let _shard = self.store.lock_nth(0);
        panic!("asked for, with a shard locked");
    }

    /// Panics with the journal locked.
    pub fn panic_in_journal(&self) -> ! {
        self.journal.panic_locked()
    }

    /// After a panic: ends the process if it left a lock behind.
    pub fn assert_sound(&self) {
        self.store.each().for_each(drop);
        self.journal.is_faulted();
        self.compaction_status();
        drop((lock(&self.healing), lock(&self.taking_back)));
    }
}

/// Memory while a file is read into it.
#[derive(Debug, Default)]
pub struct Loading {
    /// The keys and values so far.
    pub store: Store,
    /// About how much of the file is still said by nothing later, in bytes.
    live_bytes: u64,
    /// The last flush of the file that removed keys and tells its time.
    flush: Option<Flush>,
    pace: Pace,
}

impl Loading {
    fn new(store: Store, bytes: u64) -> Self {
        let pace = Pace::new(bytes);
        Self { store, live_bytes: 0, flush: None, pace }
    }

    /// Applies a record to memory; an error if there is none left.
    pub fn replay(&mut self, found: Located<'_>) -> io::Result<()> {
        let record_bytes = found.bytes.end - found.bytes.start;
        let (store, database) = (&self.store, found.database);
        let mut dead = 0;
        let highest = match found.record {
            Record::SwapDb(one, two) => one.max(two),
            _ => database,
        };
        if highest >= store.databases() {
            let databases = store.databases();
            return Err(io::Error::other(Cause::Databases { database: highest, databases }));
        }
        match found.record {
            Record::Set(key, value, expires_ms) => {
                self.live_bytes += record_bytes;
                dead = self.put(database, Entry::new(key, value, expires_ms)?)?;
            }
            Record::Del(keys) => {
                for key in keys {
                    let place = store.place(database, key);
                    let old = store.lock(place).remove(place, key);
                    dead += old.as_ref().map_or(0, set_bytes);
                }
            }
            Record::Append(key, value) => {
                let place = store.place(database, key);
                let length = store.lock(place).get(place, key).map_or(0, |old| old.value().len());
                self.overwrite(database, key, length, value)?;
                self.live_bytes += record_bytes;
            }
            Record::SetRange(key, offset, value) => {
                let place = store.place(database, key);
                let shard = store.lock(place);
                if let Some(old) = shard.get(place, key).map(Entry::value) {
                    self.live_bytes += quoted_bytes(value) as u64;
                    let end = old.len().min(offset + value.len());
                    dead = old.written(offset..end).map(quoted_bytes).sum();
                    drop(shard);
                    self.overwrite(database, key, offset, value)?;
                }
            }
            Record::PExpireAt(key, time_ms) => self.expire(database, key, Some(time_ms))?,
            Record::Persist(key) => self.expire(database, key, None)?,
            Record::FlushAll => {
                store.each().for_each(|mut shard| {
                    (0..shard.databases()).for_each(|database| shard.forget(database));
                });
                self.flush = flush(found.time_s, self.live_bytes).or(self.flush);
                self.live_bytes = 0;
            }
            Record::FlushDb => {
                store.each().for_each(|mut shard| {
                    dead += shard.entries(database).map(set_bytes).sum::<usize>();
                    shard.forget(database);
                });
                self.flush = flush(found.time_s, dead as u64).or(self.flush);
            }
            Record::SwapDb(one, two) => store.each().for_each(|mut shard| {
                shard.swap(one, two, 0);
                shard.settle_all(0, &mut Vec::new());
            }),
            Record::Select(_) => {}
        }
        self.live_bytes = self.live_bytes.saturating_sub(dead as u64);
        if let Some(pace) = self.pace.reach(found.bytes.end) {
            log::info!("loading the data file: {pace}, {} keys", self.store.keys());
        }
        Ok(())
    }

    /// Puts an entry into memory; returns about how many bytes of the file say nothing any more now.
    fn put(&self, database: usize, entry: Entry) -> Result<usize, NoMemory> {
        let place = self.store.place(database, entry.key());
        let mut shard = self.store.lock(place);
        shard.make_room(database, entry.expires_ms())?;
        match shard.put(place, entry) {
            Undo::Entry(old) => Ok(set_bytes(&old)),
            _ => Ok(0),
        }
    }

    /// From here on a key expires at that time, if it exists.
    fn expire(&self, database: usize, key: &[u8], expires_ms: Option<u64>) -> Result<(), NoMemory> {
        let place = self.store.place(database, key);
        let mut shard = self.store.lock(place);
        shard.make_room(database, expires_ms)?;
        if shard.expire(place, key, expires_ms).is_none()
            && let Some(old) = shard.get(place, key)
        {
            let entry = with_expiry(old, expires_ms)?;
            shard.put(place, entry);
        }
        Ok(())
    }

    /// Writes `value` at `offset` of the value of `key`, which may not be there.
    fn overwrite(
        &self,
        database: usize,
        key: &[u8],
        offset: usize,
        value: &[u8],
    ) -> Result<(), NoMemory> {
        let place = self.store.place(database, key);
        let mut shard = self.store.lock(place);
        if let Some(old) = shard.get_mut(place, key).and_then(Entry::value_mut) {
            old.reserve(offset, value.len())?;
            old.write(offset, value);
            return Ok(());
        }
        let old = shard.get(place, key);
        let expires_ms = old.and_then(Entry::expires_ms);
        let changed = changed_copy(old.map(Entry::value), offset, value)?;
        drop(shard);
        self.put(database, Entry::grown(key, changed, expires_ms)?).map(drop)
    }
}

/// A flush that tells its time and removed something.
fn flush(time_s: Option<u64>, bytes: u64) -> Option<Flush> {
    time_s.filter(|_| bytes > 0).map(|time_s| Flush { time_s, bytes })
}

/// The value of `old`, or none, with `bytes` written at `offset`.
fn changed_copy(old: Option<View<'_>>, offset: usize, bytes: &[u8]) -> Result<Value, NoMemory> {
    let mut value = match old {
        None => Value::default(),
        Some(old) => old.share()?,
    };
    value.reserve(offset, bytes.len())?;
    value.write(offset, bytes);
    Ok(value)
}

/// A copy of an entry whose value does not grow, with another time at which it expires.
fn with_expiry(old: &Entry, expires_ms: Option<u64>) -> Result<Entry, NoMemory> {
    match old.value() {
        View::Short(value) => Entry::new(old.key(), value, expires_ms),
        View::Long(long) => Entry::grown(old.key(), Value::Long(Arc::clone(long)), expires_ms),
    }
}

/// About how many bytes a `SET` record of an entry takes.
fn set_bytes(entry: &Entry) -> usize {
    format::set_bytes(entry.key(), entry.value())
}
