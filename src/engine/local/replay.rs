//! Loading: the records of a data file, applied to memory.
//!
//! The thread that parses queues what concerns one key by the shard of the key, and another one applies a shard's queue
//! at a time: both processors work, the records of a key stay in order, and what is looked up together lies together.
//! A record that concerns all keys waits until the queues are empty.
//!
//! What it gained, with two million keys on two processors: half of the processor time, and 0.65 s instead of 2 s. To see it:
//! `cargo bench --bench redis -- --only "2 million keys"`, start-up. Tables that doubled, and hashed each key again, had
//! taken a quarter of that time: now they grow once ([`Table::reserve`](super::table::Table::reserve)).

use std::io;
use std::mem;
use std::panic;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::key_record::{Change, KeyRecord};
use super::store::{KeySlot, Store};
use crate::engine::{Entry, Key};
use crate::journal::load::Located;
use crate::journal::pace::Pace;
use crate::journal::scan::Cause;
use crate::journal::{Context, Error, Flush, Record, Recovery};
use crate::limits::SHARDS;
use crate::util::buffer::Buffer;
use crate::util::memory::{self, NoMemory};
use crate::value::View;

/// A queue of so many records is handed over.
const QUEUE_RECORDS: usize = 512;
/// So is one of records of so many bytes.
const QUEUE_BYTES: u64 = 64 << 10;
/// A record of so many bytes is not queued: the queues would hold many of them at once.
const LONG_BYTES: u64 = 1 << 20;
/// How many queues may wait for the other thread.
const WAITING_MAX: usize = 16;

/// Memory while a file is read into it.
#[derive(Debug)]
pub struct Loading {
    store: Arc<Store>,
    /// By shard.
    queues: Vec<Queue>,
    queue_records: usize,
    /// The thread that applies queues, once one was full.
    applier: Option<Applier>,
    /// How many bytes there are to load in all, and up to where they are read.
    bytes: u64,
    offset: u64,
    /// See [`Loaded`]. Below 0 while garbage is counted before what it was.
    live_bytes: i64,
    flush: Option<Flush>,
    pace: Pace,
}

/// What was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// The keys and values.
    pub store: Store,
    /// About how much of the file is still said by nothing later, in bytes.
    pub live_bytes: u64,
    /// The last flush of the file that removed keys and tells its time.
    pub flush: Option<Flush>,
}

impl Default for Loading {
    fn default() -> Self {
        Self::new(Store::default(), 0)
    }
}

impl Loading {
    /// Begins to load so many bytes into a store, which is empty.
    pub fn new(store: Store, bytes: u64) -> Self {
        Self {
            store: Arc::new(store),
            queues: (0..SHARDS).map(|_| Queue::default()).collect(),
            queue_records: QUEUE_RECORDS,
            applier: None,
            bytes,
            offset: 0,
            live_bytes: 0,
            flush: None,
            pace: Pace::new(bytes),
        }
    }

    /// Loads all that `recovery` found into a store, which is empty.
    pub fn load(recovery: &Recovery, store: Store) -> Result<Loaded, Error> {
        let mut loading = Self::new(store, recovery.bytes());
        recovery.load(|found| loading.replay(found))?;
        loading.finish().at(recovery.path(), "load")
    }

    /// Takes the next record; an error if there is no memory left for it or for one before.
    pub fn replay(&mut self, found: Located<'_>) -> io::Result<()> {
        let bytes = found.bytes.end - found.bytes.start;
        self.offset = found.bytes.end;
        let database = found.database;
        let highest = match found.record {
            Record::SwapDb(one, two) => one.max(two),
            _ => database,
        };
        let databases = self.store.databases();
        if highest >= databases {
            return Err(io::Error::other(Cause::Databases { database: highest, databases }));
        }
        match found.record {
            Record::Set(key, value, expires_ms) => {
                let entry = Entry::new(key, View::Short(value), expires_ms)?;
                self.live_bytes += bytes as i64;
                self.queue(database, key, KeyRecord::Set(entry), bytes)?;
            }
            Record::Del(keys) => {
                for key in keys {
                    self.change(database, key, Change::Del, key.len() as u64)?;
                }
            }
            Record::Append(key, value) => {
                self.live_bytes += bytes as i64;
                self.change(database, key, Change::Append(Buffer::copy_of(value)?), bytes)?;
            }
            Record::SetRange(key, offset, value) => {
                let change = Change::SetRange(offset, Buffer::copy_of(value)?);
                self.change(database, key, change, bytes)?;
            }
            Record::PExpireAt(key, time_ms) => {
                self.change(database, key, Change::Expire(Some(time_ms)), bytes)?;
            }
            Record::Persist(key) => self.change(database, key, Change::Expire(None), bytes)?,
            Record::FlushAll => self.flush(None, found.time_s)?,
            Record::FlushDb => self.flush(Some(database), found.time_s)?,
            Record::SwapDb(one, two) => {
                self.settle()?;
                self.store.each().for_each(|mut shard| drop(shard.swap(one, two)));
            }
            Record::Select(_) => {}
        }
        if let Some(pace) = self.pace.reach(self.offset) {
            log::info!("loading the data file: {pace}, {} keys", self.store.keys());
        }
        Ok(())
    }

    /// Waits until all of it is in memory; an error if there is none left.
    pub fn finish(mut self) -> io::Result<Loaded> {
        self.settle()?;
        let Self { store, live_bytes, flush, .. } = self;
        let Some(store) = Arc::into_inner(store) else {
            unreachable!("the other thread has ended");
        };
        store.each().for_each(|mut shard| shard.shrink());
        Ok(Loaded { store, live_bytes: u64::try_from(live_bytes).unwrap_or(0), flush })
    }

    /// Queues a change to a key that may be there already.
    fn change(
        &mut self,
        database: usize,
        key: &[u8],
        change: Change,
        bytes: u64,
    ) -> Result<(), NoMemory> {
        let record = KeyRecord::Change(Box::new((Buffer::copy_of(key)?, change)));
        self.queue(database, key, record, bytes)
    }

    fn queue(
        &mut self,
        database: usize,
        key: &[u8],
        record: KeyRecord,
        bytes: u64,
    ) -> Result<(), NoMemory> {
        let slot = self.store.slot(Key { database, bytes: key });
        if bytes >= LONG_BYTES {
            self.settle()?;
            self.live_bytes -= record.apply(slot, &mut self.store.lock(slot.shard()))?;
            return Ok(());
        }
        let queue = &mut self.queues[slot.shard()];
        queue.records.try_reserve(1)?;
        queue.records.push((slot, record));
        queue.bytes += bytes;
        if queue.records.len() >= self.queue_records || queue.bytes >= QUEUE_BYTES {
            self.hand_over(slot.shard())?;
        }
        Ok(())
    }

    /// Gives a queue to the other thread; where none can be started it is applied here.
    fn hand_over(&mut self, shard: usize) -> Result<(), NoMemory> {
        let records = mem::take(&mut self.queues[shard]).records;
        let share = if self.bytes == 0 { 1.0 } else { self.offset as f64 / self.bytes as f64 };
        let full = Full { shard, records, share };
        if self.applier.is_none() {
            self.applier = Applier::start(&self.store).ok();
        }
        match &self.applier {
            Some(applier) => match applier.queues.send(full) {
                Ok(()) => Ok(()),
                // It has ended because there was no memory: that is what `settle` returns.
                Err(_) => self.settle(),
            },
            None => {
                self.live_bytes -= full.apply(&self.store)?;
                Ok(())
            }
        }
    }

    /// Applies all that is queued.
    fn settle(&mut self) -> Result<(), NoMemory> {
        if let Some(applier) = self.applier.take() {
            self.live_bytes -= applier.join()?;
        }
        for (shard, queue) in self.queues.iter_mut().enumerate() {
            let records = mem::take(queue).records;
            if !records.is_empty() {
                self.live_bytes -= Full { shard, records, share: 1.0 }.apply(&self.store)?;
            }
        }
        Ok(())
    }

    /// Removes every key of a database, or of all.
    fn flush(&mut self, database: Option<usize>, time_s: Option<u64>) -> Result<(), NoMemory> {
        self.settle()?;
        let garbage = match database {
            Some(database) => {
                let cleared = self.store.each().filter_map(|mut shard| shard.clear(database));
                cleared.map(|undo| undo.garbage_bytes() as i64).sum()
            }
            None => {
                for mut shard in self.store.each() {
                    (0..shard.databases()).for_each(|database| drop(shard.clear(database)));
                }
                self.live_bytes
            }
        };
        self.live_bytes -= garbage;
        let bytes = u64::try_from(garbage).unwrap_or(0);
        let flush = time_s.filter(|_| bytes > 0).map(|time_s| Flush { time_s, bytes });
        self.flush = flush.or(self.flush);
        Ok(())
    }
}

/// What is to be applied to a shard.
#[derive(Debug, Default)]
struct Queue {
    records: Vec<(KeySlot, KeyRecord)>,
    /// How long they are, in bytes.
    bytes: u64,
}

/// A queue that was handed over.
struct Full {
    shard: usize,
    records: Vec<(KeySlot, KeyRecord)>,
    /// Which part of the file was read when it was.
    share: f64,
}

impl Full {
    /// Applies it; returns about how many bytes of the file that supersedes.
    fn apply(self, store: &Store) -> Result<i64, NoMemory> {
        let mut shard = store.lock(self.shard);
        if let Some((slot, _)) = self.records.first() {
            shard.reserve(slot.database(), self.records.len(), self.share)?;
        }
        let apply = |(slot, record): (KeySlot, KeyRecord)| record.apply(slot, &mut shard);
        self.records.into_iter().map(apply).sum()
    }
}

/// The thread that applies queues.
#[derive(Debug)]
struct Applier {
    queues: SyncSender<Full>,
    thread: JoinHandle<Result<i64, NoMemory>>,
}

impl Applier {
    fn start(store: &Arc<Store>) -> io::Result<Self> {
        let store = Arc::clone(store);
        let (queues, full): (_, Receiver<Full>) = sync_channel(WAITING_MAX);
        let run = move || {
            let garbage = full.into_iter().map(|full| full.apply(&store)).sum();
            memory::thread_exit();
            garbage
        };
        let thread = thread::Builder::new().name("load".to_owned()).spawn(run)?;
        Ok(Self { queues, thread })
    }

    /// Waits until all queues are applied.
    fn join(self) -> Result<i64, NoMemory> {
        drop(self.queues);
        self.thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Database and key, value and time.
    type Keys = BTreeMap<(usize, Vec<u8>), (Vec<u8>, Option<u64>)>;

    #[derive(Debug, PartialEq, Eq)]
    struct Found {
        keys: Keys,
        live_bytes: u64,
        flush: Option<(u64, u64)>,
    }

    /// Loads a file of these lines with queues of so many records.
    fn load(lines: &str, queue_records: usize) -> Found {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines).unwrap();
        let recovery = Recovery::look_at(file.path()).unwrap();
        let mut loading = Loading::new(Store::default(), recovery.bytes());
        loading.queue_records = queue_records;
        recovery.load(|found| loading.replay(found)).unwrap();
        let Loaded { store, live_bytes, flush } = loading.finish().unwrap();
        let mut keys = Keys::new();
        for shard in store.each() {
            for database in 0..shard.databases() {
                for entry in shard.entries(database) {
                    let value = (entry.value().to_vec(), entry.expires_ms());
                    keys.insert((database, entry.key().to_vec()), value);
                }
            }
        }
        Found { keys, live_bytes, flush: flush.map(|flush| (flush.time_s, flush.bytes)) }
    }

    /// Records of all kinds on a few keys.
    fn random_lines(random: &mut fastrand::Rng) -> String {
        let mut line = || {
            let (key, number) = (random.u8(0..12), random.u32(..));
            match random.u8(..100) {
                0..45 => format!("SET k{key} {number}\n"),
                45..55 => format!("SET k{key} {number} PXAT 400000000000{}\n", key % 10),
                55..63 => format!("DEL k{key} k{}\n", random.u8(0..12)),
                63..73 => format!("APPEND k{key} \"a {number}\"\n"),
                73..83 => format!("SETRANGE k{key} {} x{number}\n", number % 20),
                83..88 => format!("PEXPIREAT k{key} 500000000000{}\n", key % 10),
                88..92 => format!("PERSIST k{key}\n"),
                92..95 => format!("SELECT {}\n", number % 3),
                95..97 => format!("SWAPDB {} {}\n", number % 3, key % 3),
                97 => format!("# unix time 17{:08}\nFLUSHDB\n", number % 100_000_000),
                98 => "FLUSHDB\n".to_owned(),
                _ => format!("# unix time 16{:08}\nFLUSHALL\n", number % 100_000_000),
            }
        };
        (0..300).map(|_| line()).collect()
    }

    #[test]
    fn the_other_thread_loads_what_this_one_does() {
        for seed in 0..200 {
            let lines = random_lines(&mut fastrand::Rng::with_seed(seed));
            // Of 300 records none fills a queue of so many: this thread applies them all.
            let here = load(&lines, 1000);
            for queue_records in [1, 3, 20] {
                assert_eq!(load(&lines, queue_records), here, "seed {seed}");
            }
        }
    }

    #[test]
    fn a_record_after_a_long_one_comes_after_it() {
        let long = "x".repeat(LONG_BYTES as usize);
        let lines = format!("SET k 1\nSET k {long}\nAPPEND k y\nSET j {long}\nDEL j\n");
        for queue_records in [1, 1000] {
            let found = load(&lines, queue_records);
            let value = (format!("{long}y").into_bytes(), None);
            assert_eq!(found.keys, BTreeMap::from([((0, b"k".to_vec()), value)]));
        }
    }

    #[test]
    fn tables_are_as_large_as_their_keys_need() {
        // New keys first, then the same again: the first part of the file does not tell how many there will be.
        let keys = (0..200_000).map(|number| format!("SET k{number} v\n"));
        let again = (0..400_000).map(|number| format!("SET k{} v\n", number % 50));
        let lines: String = keys.chain(again).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines).unwrap();
        let recovery = Recovery::look_at(file.path()).unwrap();
        let Loaded { store, .. } = Loading::load(&recovery, Store::default()).unwrap();
        assert_eq!(store.keys(), 200_000);
        for shard in store.each() {
            let entries = &shard.table(0).unwrap().entries;
            assert!(entries.capacity() <= 2 * entries.len() + 8, "{}", entries.len());
        }
    }
}
