//! The keys and values in memory: an array of shards, each a hash table behind its own `Mutex`.
//!
//! A shard's table is the one inside the standard library's `HashMap`, taken by itself: it lets a key be hashed
//! once, for the choice of the shard and for the place in its table, and a place in it be six bytes. Hashing is
//! keyed at random, so that no one can pile keys up in one place. Beside its table a shard keeps stamps: numbers
//! that the engine gives to the keys it changes. Several keys share a stamp's place, so a stamp may speak for
//! more keys than it was given for, never for fewer. And it keeps what its newest changes replaced, until the
//! engine says that they are safe, so that they can be taken back.
//!
//! Each database has a table of its own in each shard, from the first key on that it has there. A key has the same
//! shard in all of them.
//!
//! Lock order: an index before its shard, shards in ascending order. No caller keeps a lock across I/O.

use std::collections::VecDeque;
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard};

use hashbrown::HashTable;

use crate::engine::local::entry::{Entry, EntryId};
use crate::engine::local::expiry_queue::Due;
use crate::engine::local::key_arena::KeyList;
use crate::engine::local::prefix_index::{Index, News};
use crate::engine::local::watch::Watchers;
use crate::limits::{
    DATABASES_MAX, HEAVY_UNDO_BYTES, MARKS_PER_SHARD, SETTLED_SPARE, SHARDS, UNDOS_AT_ONCE,
};
use crate::util::buffer::Buffer;
use crate::util::memory::{self, NoMemory};
use crate::util::sync::{lock, try_lock};

/// All keys and values.
#[derive(Debug)]
pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    /// Of each shard, by database, those that it has. Locked before it.
    indexes: Box<[Mutex<Vec<Index>>]>,
    hashing: Hashing,
    databases: usize,
}

/// How keys are hashed: with keys of its own for each store, unless a test wants to see the same twice.
#[derive(Clone, Debug)]
pub enum Hashing {
    /// Keyed at random.
    Random(RandomState),
    /// The same for the same number: anyone could pile keys up.
    Repeatable(u64),
}

impl Default for Hashing {
    fn default() -> Self {
        Self::Random(RandomState::new())
    }
}

impl BuildHasher for Hashing {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        match self {
            Self::Random(keys) => keys.build_hasher(),
            Self::Repeatable(number) => {
                let mut hasher = DefaultHasher::new();
                hasher.write_u64(*number);
                hasher
            }
        }
    }
}

/// The stamps of changes whose batch is not known yet begin here; no batch has one.
pub const PROVISIONAL: u64 = 1 << 63;

/// Where a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    database: usize,
    shard: usize,
    stamp: usize,
    hash: u64,
}

impl Place {
    /// The key's database.
    pub fn database(self) -> usize {
        self.database
    }

    /// The number of the key's shard, below [`SHARDS`].
    pub fn shard(self) -> usize {
        self.shard
    }

    /// The key's hash.
    pub fn hash(self) -> u64 {
        self.hash
    }
}

/// Part of the keys.
#[derive(Debug)]
pub struct Shard {
    /// By database.
    tables: Vec<Table>,
    hashing: Hashing,
    stamps: [u64; MARKS_PER_SHARD],
    newest: u64,
    /// When the key of each place was last asked for or changed, in seconds of the engine's age.
    touched: [u32; MARKS_PER_SHARD],
    /// What changes replaced, oldest first.
    undo: VecDeque<Replaced>,
    /// How many entries may have to be put back, and how many times: there is always room for them.
    removed: usize,
    timed: usize,
    /// Goes up with each key that is new, and with whatever may bring keys otherwise.
    additions: u64,
    /// Who watches its keys.
    pub watchers: Watchers,
}

/// The keys of a database in a shard.
#[derive(Debug, Default)]
struct Table {
    entries: HashTable<Entry>,
    /// What its index does not know yet; `None` if it has none.
    news: Option<News>,
    /// When entries expire.
    due: Due,
}

/// What a change replaced, and in which database.
#[derive(Debug)]
struct Replaced {
    stamp: u64,
    database: usize,
    /// It puts an entry back, a time, and takes long to free: looking it up in the entry would miss the cache.
    puts_entry: bool,
    puts_time: bool,
    is_heavy: bool,
    undo: Undo,
}

impl Replaced {
    fn new(stamp: u64, database: usize, undo: Undo, bytes: usize) -> Self {
        let (puts_entry, puts_time) = undo.puts_back();
        let is_heavy = matches!(undo, Undo::Everything(_)) || bytes > HEAVY_UNDO_BYTES;
        Self { stamp, database, puts_entry, puts_time, is_heavy, undo }
    }
}

/// What a change replaced.
///
/// Those that name an entry by its address name the right one: whatever removes the entry later keeps it in an undo of
/// its own, which is forgotten later than they are.
#[derive(Debug)]
pub enum Undo {
    /// Nothing: this entry's key is new.
    Nothing(u64, EntryId),
    /// This entry: its key has another.
    Entry(Entry),
    /// The same, and the other has most of its value: so many bytes of the file say nothing any more.
    Changed(Entry, usize),
    /// This entry: its key has none.
    Removed(Entry),
    /// Part of a value that changed in its place, and did not get shorter.
    Range {
        /// The hash of its key.
        hash: u64,
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
        /// The hash of its key.
        hash: u64,
        /// The entry.
        id: EntryId,
        /// The time, in milliseconds of Unix time.
        expires_ms: Option<u64>,
    },
    /// Every key, and when they expire.
    Everything(Box<(HashTable<Entry>, Due)>),
    /// All is as it was in another database, and the other way round.
    Swap(usize),
}

impl Undo {
    /// About how much memory it holds, in bytes; of a table only the number of its keys is looked at.
    pub fn bytes(&self) -> usize {
        const ENTRY_BYTES: usize = 100;
        ENTRY_BYTES
            + match self {
                Self::Nothing(..) | Self::Expiry { .. } | Self::Swap(_) => 0,
                Self::Entry(entry) | Self::Changed(entry, _) | Self::Removed(entry) => {
                    entry.capacity()
                }
                Self::Range { bytes, .. } => bytes.len(),
                Self::Everything(all) => ENTRY_BYTES * all.0.len(),
            }
    }

    /// Whether it puts back an entry where there is none, and a time.
    fn puts_back(&self) -> (bool, bool) {
        match self {
            Self::Removed(entry) => (true, entry.expires_ms().is_some()),
            Self::Entry(entry) | Self::Changed(entry, _) => (false, entry.expires_ms().is_some()),
            Self::Expiry { expires_ms, .. } => (false, expires_ms.is_some()),
            Self::Nothing(..) | Self::Range { .. } | Self::Everything(_) | Self::Swap(_) => {
                (false, false)
            }
        }
    }
}

impl Shard {
    fn new(hashing: Hashing) -> Self {
        Self {
            tables: Vec::new(),
            hashing,
            stamps: [0; MARKS_PER_SHARD],
            newest: 0,
            touched: [0; MARKS_PER_SHARD],
            undo: VecDeque::new(),
            removed: 0,
            timed: 0,
            additions: 0,
            watchers: Watchers::default(),
        }
    }

    /// How many databases may have keys here.
    pub fn databases(&self) -> usize {
        self.tables.len()
    }

    fn table(&mut self, database: usize) -> &mut Table {
        if database >= self.tables.len() {
            self.tables.resize_with(database + 1, Table::default);
        }
        &mut self.tables[database]
    }

    /// The entry of `key`, whose place is `place`.
    pub fn get(&self, place: Place, key: &[u8]) -> Option<&Entry> {
        let table = self.tables.get(place.database)?;
        table.entries.find(place.hash, |entry| entry.key() == key)
    }

    /// The same, to change its value; its time is changed by [`expire`](Self::expire).
    pub fn get_mut(&mut self, place: Place, key: &[u8]) -> Option<&mut Entry> {
        let table = self.tables.get_mut(place.database)?;
        table.entries.find_mut(place.hash, |entry| entry.key() == key)
    }

    /// Those of a database whose keys have this hash.
    pub fn with_hash(&self, database: usize, hash: u64) -> impl Iterator<Item = &Entry> {
        let tables = self.tables.get(database).into_iter();
        let candidates = tables.flat_map(move |table| table.entries.iter_hash(hash));
        candidates.filter(move |entry| self.hashing.hash_one(entry.key()) == hash)
    }

    /// The hashes of all keys of a database.
    pub fn hashes(&self, database: usize) -> impl Iterator<Item = u64> {
        self.entries(database).map(|entry| self.hashing.hash_one(entry.key()))
    }

    /// All entries of a database.
    pub fn entries(&self, database: usize) -> impl Iterator<Item = &Entry> {
        self.tables.get(database).into_iter().flat_map(|table| table.entries.iter())
    }

    /// Number of keys of a database.
    pub fn len(&self, database: usize) -> usize {
        self.tables.get(database).map_or(0, |table| table.entries.len())
    }

    /// Number of keys of all databases.
    pub fn keys(&self) -> usize {
        self.tables.iter().map(|table| table.entries.len()).sum()
    }

    /// How many keys of a database expire.
    pub fn expiring(&self, database: usize) -> usize {
        self.tables.get(database).map_or(0, |table| table.due.count())
    }

    /// The sum of the times at which keys of a database expire, in milliseconds of Unix time.
    pub fn expiry_sum_ms(&self, database: usize) -> u128 {
        self.tables.get(database).map_or(0, |table| table.due.sum_ms())
    }

    /// Makes room in a database for one more entry, or one more time.
    pub fn make_room(&mut self, database: usize, expires_ms: Option<u64>) -> Result<(), NoMemory> {
        self.make_room_for(database, 1, expires_ms)
    }

    /// Makes room in a database for so many more entries, each with a time if `expires_ms` is one.
    pub fn make_room_for(
        &mut self,
        database: usize,
        count: usize,
        expires_ms: Option<u64>,
    ) -> Result<(), NoMemory> {
        let hashing = self.hashing.clone();
        // What takes the changes back must be written down too.
        self.undo.try_reserve(count)?;
        let (removed, timed) = (self.removed, self.timed);
        let table = self.table(database);
        if expires_ms.is_some() || timed > 0 || table.due.count() > 0 {
            table.due.make_room(count + timed)?;
        }
        let hash = |entry: &Entry| hashing.hash_one(entry.key());
        Ok(table.entries.try_reserve(count + removed, hash)?)
    }

    /// Makes sure that `count` entries, which are about to be removed or replaced, could be put back. What was taken
    /// out of a table does not always leave a free place.
    pub fn make_restorable(&mut self, database: usize, count: usize) -> Result<(), NoMemory> {
        self.make_room_for(database, count, None)
    }

    /// Puts an entry at its place, in the place of one with the same key, and returns what brings the old state
    /// back. Room was made for it.
    pub fn put(&mut self, place: Place, entry: Entry) -> Undo {
        let hashing = self.hashing.clone();
        let undo = self.table(place.database).put(place.hash, entry, &hashing);
        self.additions += u64::from(matches!(undo, Undo::Nothing(..)));
        undo
    }

    /// Goes up with each key that is new: a list of keys that was made at the same number lacks none.
    pub fn additions(&self) -> u64 {
        self.additions
    }

    /// Changes when a key expires, and returns what brings the old state back. Room was made for it. `None` if
    /// there is no such key, or it needs another entry for that.
    pub fn expire(&mut self, place: Place, key: &[u8], expires_ms: Option<u64>) -> Option<Undo> {
        let entry = self.get_mut(place, key)?;
        let (id, old_ms) = (entry.id(), entry.expires_ms());
        if !entry.set_expires_ms(expires_ms) {
            return None;
        }
        self.table(place.database).reschedule(place.hash, old_ms, expires_ms);
        Some(Undo::Expiry { hash: place.hash, id, expires_ms: old_ms })
    }

    /// A key of a database that has expired at `now_ms` and was not named before, its hash and its time; it is named
    /// again after [`put_off`](Self::put_off).
    pub fn next_expired(&mut self, database: usize, now_ms: u64) -> Option<(u64, u64, &[u8])> {
        self.tables.get_mut(database)?.next_expired(now_ms, &self.hashing)
    }

    /// A key that has expired could not be removed.
    pub fn put_off(&mut self, database: usize, hash: u64, time_ms: u64) {
        self.table(database).due.again(hash, time_ms);
    }

    /// Takes the entry of a key out.
    pub fn remove(&mut self, place: Place, key: &[u8]) -> Option<Entry> {
        self.tables.get_mut(place.database)?.remove(place.hash, key)
    }

    /// Forgets every key of a database, for good.
    pub fn forget(&mut self, database: usize) {
        if let Some(table) = self.tables.get_mut(database) {
            *table = Table::default();
        }
    }

    /// Somebody asked for the key, or changed it, in that second.
    pub fn touch(&mut self, place: Place, now_s: u32) {
        self.touched[place.stamp] = now_s;
    }

    /// In which second that was last done with the key, or with another of the same place.
    pub fn touched(&self, place: Place) -> u32 {
        self.touched[place.stamp]
    }

    /// The newest stamp that may be the key's.
    pub fn stamp(&self, place: Place) -> u64 {
        self.stamps[place.stamp]
    }

    /// The newest stamp of any key.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Stamps the key at `place`, which was changed, and returns how many bytes are kept for taking
    /// that back. Stamps never go down but by [`take_back`](Self::take_back).
    pub fn changed(&mut self, place: Place, stamp: u64, undo: Undo) -> usize {
        self.watchers.changed(place);
        self.replaced(place, stamp, undo)
    }

    /// The same for a key that has expired and was removed.
    pub fn expired(&mut self, place: Place, stamp: u64, undo: Undo) -> usize {
        self.watchers.expired(place);
        self.replaced(place, stamp, undo)
    }

    fn replaced(&mut self, place: Place, stamp: u64, undo: Undo) -> usize {
        self.stamps[place.stamp] = stamp;
        self.newest = stamp;
        let bytes = undo.bytes();
        let replaced = Replaced::new(stamp, place.database, undo, bytes);
        self.removed += usize::from(replaced.puts_entry);
        self.timed += usize::from(replaced.puts_time);
        self.undo.push_back(replaced);
        bytes
    }

    fn all_changed(&mut self, stamp: u64) {
        self.stamps.fill(stamp);
        self.newest = stamp;
    }

    /// Removes every key of a database, and stamps them all, those that did not exist too; returns how many bytes
    /// are kept for taking that back.
    pub fn clear(&mut self, database: usize, stamp: u64) -> usize {
        self.all_changed(stamp);
        let Some(table) = self.tables.get_mut(database).filter(|table| !table.entries.is_empty())
        else {
            return 0;
        };
        let Table { entries, due, .. } = std::mem::take(table);
        self.watchers.many_changed(|place| {
            place.database == database && entries.iter_hash(place.hash).next().is_some()
        });
        let undo = Undo::Everything(Box::new((entries, due)));
        let bytes = undo.bytes();
        self.undo.push_back(Replaced::new(stamp, database, undo, bytes));
        bytes
    }

    /// Gives each of two databases the keys of the other, and stamps all.
    pub fn swap(&mut self, one: usize, two: usize, stamp: u64) {
        self.all_changed(stamp);
        let tables = &self.tables;
        let exists = |database: usize, hash| {
            tables.get(database).is_some_and(|table| table.entries.iter_hash(hash).next().is_some())
        };
        self.watchers.many_changed(|place| {
            [one, two].contains(&place.database)
                && (exists(one, place.hash) || exists(two, place.hash))
        });
        self.swap_tables(one, two);
        self.undo.push_back(Replaced::new(stamp, one, Undo::Swap(two), 0));
    }

    fn swap_tables(&mut self, one: usize, two: usize) {
        self.table(one.max(two));
        self.tables.swap(one, two);
        self.additions += 1;
        // An index belongs to a database's number.
        (self.tables[one].news, self.tables[two].news) = (None, None);
    }

    /// The changes with [provisional](PROVISIONAL) stamps are in the batch of this one.
    pub fn seal(&mut self, stamp: u64) {
        let is_provisional = |stamp: &&mut u64| **stamp >= PROVISIONAL;
        let stamps = self.undo.iter_mut().rev().map(|replaced| &mut replaced.stamp);
        stamps.take_while(is_provisional).for_each(|old| *old = stamp);
        self.stamps.iter_mut().filter(is_provisional).for_each(|old| *old = stamp);
        if self.newest >= PROVISIONAL {
            self.newest = stamp;
        }
    }

    /// The changes up to stamp `safe` are not taken back any more; hands over what they replaced, for the caller to
    /// drop with no shard locked. What takes long to free, and what follows it, is left to
    /// [`settle_all`](Self::settle_all): no writer frees what another replaced.
    pub fn settle(&mut self, safe: u64, settled: &mut Vec<Undo>) {
        let committed = self.committed_undos(safe).min(UNDOS_AT_ONCE);
        let light = self.undo.iter().take(committed).take_while(|replaced| !replaced.is_heavy);
        let count = light.count();
        self.hand_over(count, settled);
    }

    /// The same of all kinds, a bounded number at once; says whether there are more.
    pub fn settle_all(&mut self, safe: u64, settled: &mut Vec<Undo>) -> bool {
        let count = self.committed_undos(safe);
        self.hand_over(count.min(UNDOS_AT_ONCE), settled);
        if self.timed == 0 {
            self.tables.iter_mut().for_each(|table| table.due.shrink());
        }
        count > UNDOS_AT_ONCE
    }

    fn committed_undos(&self, safe: u64) -> usize {
        match self.newest <= safe {
            true => self.undo.len(),
            false => self.undo.partition_point(|replaced| replaced.stamp <= safe),
        }
    }

    fn hand_over(&mut self, count: usize, settled: &mut Vec<Undo>) {
        if count == 0 {
            return;
        }
        for replaced in self.undo.drain(..count) {
            self.removed -= usize::from(replaced.puts_entry);
            self.timed -= usize::from(replaced.puts_time);
            settled.push(replaced.undo);
        }
        if self.undo.len() <= SETTLED_SPARE {
            self.undo.shrink_to(SETTLED_SPARE);
        }
    }

    /// Takes back every change with a stamp above `safe`, the newest first. It needs no memory that may not be there.
    pub fn take_back(&mut self, safe: u64) {
        while self.undo.back().is_some_and(|replaced| replaced.stamp > safe)
            && let Some(replaced) = self.undo.pop_back()
        {
            let Replaced { database, undo, puts_entry, puts_time, .. } = replaced;
            self.removed -= usize::from(puts_entry);
            self.timed -= usize::from(puts_time);
            self.additions += 1;
            if let Undo::Swap(other) = undo {
                self.swap_tables(database, other);
                continue;
            }
            let hashing = self.hashing.clone();
            let table = self.table(database);
            table.take_back(undo, &hashing);
            table.news = None;
        }
        self.stamps.iter_mut().for_each(|stamp| *stamp = safe.min(*stamp));
        self.newest = self.newest.min(safe);
    }

    /// Gives its indexes up.
    fn forget_indexes(&mut self) {
        self.tables.iter_mut().for_each(|table| table.news = None);
    }
}

impl Table {
    fn put(&mut self, hash: u64, entry: Entry, hashing: &Hashing) -> Undo {
        // In this order: to ask for a free place may make the table grow, even where none is needed.
        let expires_ms = entry.expires_ms();
        if let Some(old) = self.entries.find_mut(hash, |old| old.key() == entry.key()) {
            let old = std::mem::replace(old, entry);
            self.reschedule(hash, old.expires_ms(), expires_ms);
            return Undo::Entry(old);
        }
        self.reschedule(hash, None, expires_ms);
        let id = entry.id();
        if let Some(news) = &mut self.news
            && news.keys.push(entry.key()).is_err()
        {
            self.news = None;
        }
        self.entries.insert_unique(hash, entry, |entry| hashing.hash_one(entry.key()));
        self.judge_news();
        Undo::Nothing(hash, id)
    }

    fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Entry> {
        let found = self.entries.find_entry(hash, |entry| entry.key() == key).ok()?;
        let entry = found.remove().0;
        self.reschedule(hash, entry.expires_ms(), None);
        if let Some(news) = &mut self.news {
            news.gone += 1;
        }
        self.judge_news();
        Some(entry)
    }

    fn reschedule(&mut self, hash: u64, old_ms: Option<u64>, new_ms: Option<u64>) {
        if old_ms.is_none() && new_ms.is_none() {
            return;
        }
        self.due.change(hash, old_ms, new_ms);
        if self.due.is_stale() {
            let entries = &self.entries;
            self.due.keep(|time_ms, hash| {
                entries.find(hash, |entry| entry.expires_ms() == Some(time_ms)).is_some()
            });
        }
    }

    fn next_expired(&mut self, now_ms: u64, hashing: &Hashing) -> Option<(u64, u64, &[u8])> {
        loop {
            let (hash, time_ms) = self.due.next(now_ms)?;
            // A table looks at a few bits of a hash only. What borrows is found again: else the borrow would last for
            // the whole loop.
            let is_due = |entry: &Entry| {
                entry.expires_ms() == Some(time_ms) && hashing.hash_one(entry.key()) == hash
            };
            if self.entries.find(hash, is_due).is_some() {
                let key = self.entries.find(hash, is_due).map(Entry::key);
                return key.map(|key| (hash, time_ms, key));
            }
        }
    }

    /// Gives the index up if it is not worth keeping.
    fn judge_news(&mut self) {
        if self.news.as_ref().is_some_and(|news| news.is_too_much(self.entries.len())) {
            self.news = None;
        }
    }

    fn take_back(&mut self, undo: Undo, hashing: &Hashing) {
        match undo {
            Undo::Nothing(hash, id) => {
                if let Ok(found) = self.entries.find_entry(hash, |entry| entry.id() == id) {
                    let expires_ms = found.remove().0.expires_ms();
                    self.due.change(hash, expires_ms, None);
                }
            }
            Undo::Expiry { hash, id, expires_ms } => {
                let found = self.entries.find_mut(hash, |entry| entry.id() == id);
                if let Some(entry) = found {
                    let old_ms = entry.expires_ms();
                    entry.set_expires_ms(expires_ms);
                    self.due.change(hash, old_ms, expires_ms);
                }
            }
            Undo::Entry(entry) | Undo::Changed(entry, _) | Undo::Removed(entry) => {
                self.put(hashing.hash_one(entry.key()), entry, hashing);
            }
            Undo::Range { hash, id, offset, bytes, length } => {
                let found = self.entries.find_mut(hash, |entry| entry.id() == id);
                if let Some(value) = found.and_then(Entry::value_mut) {
                    value.truncate(length);
                    value.write(offset, &bytes);
                }
            }
            Undo::Everything(all) => (self.entries, self.due) = *all,
            Undo::Swap(_) => {}
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new(Hashing::default())
    }
}

impl Store {
    /// An empty store.
    pub fn new(hashing: Hashing) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new(hashing.clone()))).collect();
        let indexes = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, indexes, hashing, databases: DATABASES_MAX }
    }

    /// The same with fewer databases.
    pub fn with_databases(self, databases: usize) -> Self {
        Self { databases, ..self }
    }

    /// How many databases there are.
    pub fn databases(&self) -> usize {
        self.databases
    }

    /// Finds where `key` of a database lives, whether it exists or not.
    pub fn place(&self, database: usize, key: &[u8]) -> Place {
        let hash = self.hashing.hash_one(key);
        // A shard's table places by the lowest bits and the highest seven.
        let (shard, stamp) = (shard_of(hash >> 24), (hash >> 40) as usize % MARKS_PER_SHARD);
        Place { database, shard, stamp, hash }
    }

    /// Locks the shard of one key. The caller holds no other.
    pub fn lock(&self, place: Place) -> MutexGuard<'_, Shard> {
        lock(&self.shards[place.shard])
    }

    /// Locks the shards with these numbers, which are below [`SHARDS`]; the caller holds no other.
    pub fn lock_all(&self, numbers: impl Iterator<Item = usize>) -> Locked<'_> {
        let mut wanted = ShardSet::default();
        numbers.for_each(|number| wanted.add(number));
        Locked(wanted.iter().map(|number| (number, Some(lock(&self.shards[number])))).collect())
    }

    /// Number of keys of all databases.
    pub fn keys(&self) -> usize {
        self.each().map(|shard| shard.keys()).sum()
    }

    /// Locks shard number `index`, below [`SHARDS`]. The caller holds no other.
    pub fn lock_nth(&self, index: usize) -> MutexGuard<'_, Shard> {
        lock(&self.shards[index])
    }

    /// Lists keys of a database in shard `number`, below [`SHARDS`], that begin with `prefix`, by its index: all that
    /// exist throughout, each once, and some that are gone. `seen` gets the newest stamp of what that shows, with the
    /// shard locked. An error if there is no memory for the index; then there is none. The caller holds no lock.
    pub fn find(
        &self,
        number: usize,
        database: usize,
        prefix: &[u8],
        seen: impl FnOnce(u64),
    ) -> Result<KeyList, NoMemory> {
        let mut indexes = lock(&self.indexes[number]);
        if database >= indexes.len() {
            indexes.resize_with(database + 1, Index::default);
        }
        let index = &mut indexes[database];
        let shard = &self.shards[number];
        let found = update(shard, database, index, prefix, seen).and_then(|recent| {
            let mut found = KeyList::default();
            index.find(prefix).try_for_each(|key| found.push(key))?;
            // What was gone and came again is there already.
            let recent = Index::new(&recent)?;
            let mut more = recent.find(prefix).filter(|key| !index.contains(key));
            more.try_for_each(|key| found.push(key))?;
            Ok(found)
        });
        if found.is_err() {
            *index = Index::default();
            lock(shard).table(database).news = None;
        }
        found
    }

    /// Frees the indexes that were given up, and all where memory is at its bound; call it now and then. One that is just
    /// being built is left for the next time. The caller holds no lock.
    pub fn tidy(&self) {
        for (indexes, shard) in self.indexes.iter().zip(&self.shards) {
            let Some(mut indexes) = try_lock(indexes) else { continue };
            let mut shard = lock(shard);
            if memory::is_full() {
                shard.forget_indexes();
            }
            for (database, index) in indexes.iter_mut().enumerate() {
                if shard.tables.get(database).is_none_or(|table| table.news.is_none()) {
                    *index = Index::default();
                }
            }
        }
    }

    /// Locks one shard after the other.
    pub fn each(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(lock)
    }
}

/// Makes an index of a shard's database, or sorts what is new into it if that is much; else returns what of that begins
/// with `prefix`.
fn update(
    shard: &Mutex<Shard>,
    database: usize,
    index: &mut Index,
    prefix: &[u8],
    seen: impl FnOnce(u64),
) -> Result<KeyList, NoMemory> {
    let mut recent = KeyList::default();
    let mut shard = lock(shard);
    // A key that is not there may be taken back before anybody looks again.
    seen(shard.newest);
    let table = shard.table(database);
    match table.news.take() {
        Some(news) if !index.should_add(news.keys.len()) => {
            let begins = |key: &&[u8]| key.starts_with(prefix);
            news.keys.iter_from(0).filter(begins).try_for_each(|key| recent.push(key))?;
            table.news = Some(news);
        }
        Some(news) => {
            table.news = Some(News { keys: KeyList::default(), ..news });
            drop(shard);
            index.add(&news.keys)?;
        }
        None => {
            *index = Index::default();
            let mut all = KeyList::default();
            table.entries.iter().try_for_each(|entry| all.push(entry.key()))?;
            table.news = Some(News::default());
            drop(shard);
            if !memory::has_room(all.bytes()) {
                return Err(NoMemory);
            }
            *index = Index::new(&all)?;
        }
    }
    Ok(recent)
}

/// The shard of a number of 16 random bits.
///
/// Shards are not equally large: the last has twice the keys of the first, and the steps between are such that at
/// any time some have a table that was just doubled and some a full one. So they do not all grow at once, and a
/// key takes as much memory with a million keys as with two, not 57 to 65 bytes in turns.
fn shard_of(random: u64) -> usize {
    let x = random & 0xffff;
    // About log2(1 + x), of a fraction x: x + x(1 - x) / 3 has the same ends and bends alike.
    let bent = x + x * (0x1_0000 - x) / (3 * 0x1_0000);
    ((bent * SHARDS as u64) >> 16) as usize
}

/// Numbers of shards.
#[derive(Clone, Debug)]
pub struct ShardSet([bool; SHARDS]);

impl Default for ShardSet {
    fn default() -> Self {
        Self([false; SHARDS])
    }
}

impl ShardSet {
    /// Adds one, below [`SHARDS`].
    pub fn add(&mut self, number: usize) {
        self.0[number] = true;
    }

    /// All of them, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        (0..SHARDS).filter(|number| self.0[*number])
    }
}

/// Several locked shards, in ascending order.
#[derive(Debug)]
pub struct Locked<'a>(Vec<(usize, Option<MutexGuard<'a, Shard>>)>);

impl<'a> Locked<'a> {
    /// The place of shard `number` among them.
    pub fn index(&self, number: usize) -> Option<usize> {
        self.0.binary_search_by_key(&number, |(number, _)| *number).ok()
    }

    /// One of them, to be [put back](Self::put_back).
    pub fn take(&mut self, number: usize) -> MutexGuard<'a, Shard> {
        let shard = self.slot(number).take();
        shard.unwrap_or_else(|| unreachable!("nobody else has shard {number}"))
    }

    /// One that was taken is among them again.
    pub fn put_back(&mut self, number: usize, shard: MutexGuard<'a, Shard>) {
        *self.slot(number) = Some(shard);
    }

    /// All that were not taken.
    pub fn all(&mut self) -> impl Iterator<Item = &mut Shard> {
        self.0.iter_mut().filter_map(|(_, shard)| shard.as_deref_mut())
    }

    fn slot(&mut self, number: usize) -> &mut Option<MutexGuard<'a, Shard>> {
        let index = self.index(number);
        &mut self.0[index.unwrap_or_else(|| unreachable!("shard {number} was locked"))].1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::value::Value;

    #[test]
    fn a_key_has_one_place_in_a_store_and_another_in_the_next() {
        let (one, two) = (Store::default(), Store::default());
        let keys: Vec<_> = (0..64).map(|number| format!("key:{number}").into_bytes()).collect();
        assert!(keys.iter().all(|key| one.place(0, key) == one.place(0, key)));
        assert!(keys.iter().any(|key| one.place(0, key) != two.place(0, key)));
    }

    #[test]
    fn stamps_speak_for_their_key() {
        let store = Store::default();
        let (a, b) = (store.place(0, b"a"), store.place(0, b"b"));
        store.lock(a).changed(a, 7, Undo::Entry(Entry::new(b"a", b"", None).unwrap()));
        assert_eq!(store.lock(a).stamp(a), 7);
        assert_eq!(store.lock(a).newest(), 7);
        // Empty shards have nothing to take back.
        assert!(store.each().all(|mut shard| shard.clear(0, 9) == 0));
        assert_eq!(store.lock(b).stamp(b), 9);
    }

    /// Random changes to one shard, taken back to any stamp: the state of that stamp.
    #[test]
    fn changes_are_taken_back_to_any_stamp() {
        for seed in 0..2_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let store = Store::default();
            let place = store.place(0, b"the shard");
            let mut shard = store.lock(place);
            let state = |shard: &Shard| -> BTreeMap<Vec<u8>, Vec<u8>> {
                let pair = |entry: &Entry| (entry.key().to_vec(), entry.value().to_vec());
                shard.entries(0).map(pair).collect()
            };
            let mut states = vec![state(&shard)];
            let settled = random.u64(0..5);
            for stamp in 1..20 {
                let key = [random.u8(b'a'..b'd')];
                let at = store.place(0, &key);
                let value = vec![stamp as u8; 3];
                shard.make_room(0, None).unwrap();
                let growing = shard.get_mut(at, &key).and_then(Entry::growing);
                let undo = match (random.u8(..8), growing) {
                    (0, _) => None,
                    (1, _) => shard.remove(at, &key).map(Undo::Removed),
                    (2..5, Some((id, old))) => {
                        let length = old.view().len();
                        let offset = random.usize(..=length);
                        let bytes = old.view().copy(offset..length).unwrap();
                        let mut new = vec![stamp as u8; random.usize(..5)];
                        new.resize(new.len().max(bytes.len()), 0);
                        old.write(offset, &new);
                        Some(Undo::Range { hash: at.hash, id, offset, bytes, length })
                    }
                    (5, _) => Some(shard.put(at, Entry::new(&key, &value, None).unwrap())),
                    _ => {
                        let value = Value::copy_of(&value).unwrap();
                        Some(shard.put(at, Entry::grown(&key, value, None).unwrap()))
                    }
                };
                match undo {
                    None => assert!(shard.clear(0, stamp) < 1000),
                    Some(undo) => assert!(shard.changed(place, stamp, undo) < 1000),
                }
                states.push(state(&shard));
                if stamp == settled {
                    let mut gone = Vec::new();
                    shard.settle(stamp, &mut gone);
                    assert!(gone.len() <= stamp as usize);
                }
            }
            let safe = random.u64(settled..20);
            shard.take_back(safe);
            assert_eq!(state(&shard), states[safe as usize], "seed {seed}");
            assert!(shard.newest() <= safe && shard.stamp(place) <= safe);
        }
    }

    /// Keys come and go in a table that is nearly full, and all is taken back: the table and the list of times have the
    /// room for it.
    #[test]
    fn taking_back_needs_no_memory() {
        let mut is_full = 0;
        for seed in 0..2_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let store = Store::new(Hashing::Repeatable(seed));
            let number = store.place(0, b"key").shard();
            let mut shard = store.lock_nth(number);
            let put = |shard: &mut Shard, key: u32, stamp: u64, random: &mut fastrand::Rng| {
                let key = key.to_le_bytes();
                let expires_ms = random.bool().then(|| random.u64(1..100));
                let place = Place { shard: number, ..store.place(0, &key) };
                shard.make_room(0, expires_ms).unwrap();
                let undo = shard.put(place, Entry::new(&key, b"", expires_ms).unwrap());
                assert!(shard.changed(place, stamp, undo) > 0);
            };
            let keys = random.u32(50..400);
            (0..keys).for_each(|key| put(&mut shard, key, 1, &mut random));
            assert!(!shard.settle_all(1, &mut Vec::new()), "few are settled at once");
            let steps = random.usize(1..300);
            for _ in 0..steps {
                let key = random.u32(0..keys).to_le_bytes();
                let place = Place { shard: number, ..store.place(0, &key) };
                match random.u8(..3) {
                    0 => put(&mut shard, random.u32(keys..1000), 2, &mut random),
                    _ if shard.get(place, &key).is_some() => {
                        shard.make_restorable(0, 1).unwrap();
                        let old = shard.remove(place, &key).unwrap();
                        assert!(shard.changed(place, 2, Undo::Removed(old)) > 0);
                    }
                    _ => {}
                }
            }
            let table = &shard.tables[0];
            let before = (table.entries.allocation_size(), table.due.capacity());
            is_full += usize::from(table.entries.capacity() == table.entries.len() + shard.removed);
            shard.take_back(1);
            let table = &shard.tables[0];
            let after = (table.entries.allocation_size(), table.due.capacity());
            assert_eq!(before, after, "seed {seed}");
            assert_eq!(table.entries.len(), keys as usize, "seed {seed}");
            assert_eq!((shard.removed, shard.timed), (0, 0), "seed {seed}");
        }
        assert!(is_full > 0, "some had no place to spare");
    }

    #[test]
    fn the_last_shard_has_twice_the_keys_of_the_first() {
        let mut sizes = [0; SHARDS];
        (0..=0xffff).for_each(|random| sizes[shard_of(random)] += 1);
        assert!(sizes.windows(2).all(|pair| pair[0] <= pair[1] + 2), "{sizes:?}");
        let (first, last) = (sizes[0], sizes[SHARDS - 1]);
        assert!((19 * first / 10..=21 * first / 10).contains(&last), "{first} and {last}");
    }

    /// Keys come, go, come again, are taken back and all removed: a search finds what a look at all would.
    #[test]
    fn a_search_by_prefix_finds_what_exists() {
        let mut random = fastrand::Rng::with_seed(7);
        let (store, mut model) = (Store::default(), BTreeMap::new());
        let key = |number: usize| format!("{:05}", number * 7919 % 100_000).into_bytes();
        for round in 1..60 {
            let before = model.clone();
            let many = if round % 4 == 1 { 10_000 } else { 300 };
            for _ in 0..many {
                let key = key(random.usize(..30_000));
                let place = store.place(0, &key);
                let mut shard = store.lock(place);
                shard.make_room(0, None).unwrap();
                let undo = match random.u8(..3) {
                    0 => shard.remove(place, &key).map(Undo::Removed),
                    _ => Some(shard.put(place, Entry::new(&key, b"", None).unwrap())),
                };
                let exists = shard.get(place, &key).is_some();
                undo.map(|undo| shard.changed(place, round, undo));
                if exists {
                    model.insert(key, ())
                } else {
                    model.remove(&key)
                };
            }
            match random.u8(..12) {
                0 => {
                    store.each().for_each(|mut shard| assert!(shard.clear(0, round) < 1 << 20));
                    model.clear();
                }
                1..3 => {
                    store.each().for_each(|mut shard| shard.take_back(round - 1));
                    model = before;
                }
                _ => {}
            }
            store.each().for_each(|mut shard| while shard.settle_all(round, &mut Vec::new()) {});
            store.tidy();
            let prefix = format!("{:0width$}", random.usize(..100), width = random.usize(1..4));
            let mut found = Vec::new();
            for number in 0..SHARDS {
                let keys = store.find(number, 0, prefix.as_bytes(), |_| {}).unwrap();
                let exists =
                    |key: &&[u8]| store.lock_nth(number).get(store.place(0, key), key).is_some();
                found.extend(keys.iter_from(0).filter(exists).map(<[u8]>::to_vec));
            }
            found.sort();
            let begins = |key: &&Vec<u8>| key.starts_with(prefix.as_bytes());
            let expected: Vec<_> = model.keys().filter(begins).cloned().collect();
            assert_eq!(found, expected, "round {round}, prefix {prefix}");
        }
    }

    #[test]
    fn tidying_waits_for_no_index_that_is_being_built() {
        let store = Store::default();
        let building = lock(&store.indexes[0]);
        store.tidy();
        drop(building);
    }

    #[test]
    fn several_keys_may_share_a_shard() {
        let store = Store::default();
        let keys: Vec<_> = (0..3 * SHARDS).map(|number| number.to_string().into_bytes()).collect();
        let places: Vec<_> = keys.iter().map(|key| store.place(0, key)).collect();
        let mut locked = store.lock_all(places.iter().map(|place| place.shard));
        for (key, place) in keys.iter().zip(&places) {
            let mut shard = locked.take(place.shard);
            shard.make_room(0, None).unwrap();
            shard.put(*place, Entry::new(key, b"", None).unwrap());
            locked.put_back(place.shard, shard);
        }
        drop(locked);
        assert_eq!(store.each().map(|shard| shard.len(0)).sum::<usize>(), keys.len());
    }
}
