//! A transaction that holds no lock: it remembers the revisions of all that it reads, and keeps what it writes to
//! itself until its end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use coffre::engine::{Counts, Entry, Key, Scope, Txn, TxnError};
use coffre::limits::{LOCKED_WORK_MAX, work};
use coffre::util::clock::unix_time_ms;
use coffre::value::{Value, View as Bytes};

use super::store::{Database, Store, Stored, View, count, order};
use super::{Optimistic, Seen, Watched};

/// See the module.
pub struct OptimisticTxn<'e> {
    engine: &'e Optimistic,
    /// Held after too many conflicts: nothing else commits meanwhile.
    exclusive: Option<MutexGuard<'e, ()>>,
    /// Keys are read one after the other, and not at one moment.
    is_each: bool,
    /// Several keys, whose work is bounded.
    is_many: bool,
    /// 0 until it is first asked for.
    now_ms: u64,
    work_ns: u64,
    /// What was read, by database and key.
    reads: HashMap<(usize, Vec<u8>), Read>,
    /// The databases that were read as a whole, with their revisions.
    ranges: BTreeMap<usize, u64>,
    /// When the first of what was seen alive expires.
    first_expiry_ms: u64,
    accessed: BTreeSet<(usize, Vec<u8>)>,
    /// Whether anything was read or written.
    is_used: bool,
    /// What was read is known to be of one moment, and nothing follows.
    is_released: bool,
    /// The databases as they will be, by number.
    views: Vec<View>,
    undo: Vec<Undo>,
    /// What is lent to the caller.
    shown: Option<Arc<Entry>>,
}

struct Read {
    revision: u64,
    entry: Option<Arc<Entry>>,
}

/// What a write replaced in the views.
enum Undo {
    /// Of a database the write of a key.
    Write(usize, Vec<u8>, Option<Option<Arc<Entry>>>),
    /// All of a database.
    View(usize, View),
    /// Nothing: two databases were exchanged.
    Swap(usize, usize),
}

impl<'e> OptimisticTxn<'e> {
    pub fn new(
        engine: &'e Optimistic,
        scope: Scope<'_>,
        exclusive: Option<MutexGuard<'e, ()>>,
    ) -> Self {
        let view = |number| View { source: Some(number), ..View::default() };
        Self {
            engine,
            exclusive,
            is_each: matches!(scope, Scope::Each),
            is_many: matches!(scope, Scope::Many(_) | Scope::All),
            now_ms: 0,
            work_ns: 0,
            reads: HashMap::new(),
            ranges: BTreeMap::new(),
            first_expiry_ms: u64::MAX,
            accessed: BTreeSet::new(),
            is_used: false,
            is_released: false,
            views: (0..engine.databases).map(view).collect(),
            undo: Vec::new(),
            shown: None,
        }
    }

    /// Whether anything was read or written: else there is nothing to run again for.
    pub fn is_used(&self) -> bool {
        self.is_used
    }

    /// Ends the transaction: compares the revisions of all that was read, and writes if `may_write`. `false` says that
    /// something was changed meanwhile, and that nothing was done.
    pub fn finish(mut self, may_write: bool) -> bool {
        let writes = may_write && !self.undo.is_empty();
        if !writes && self.accessed.is_empty() && self.is_of_one_moment() {
            return true;
        }
        let engine = self.engine;
        let _exclusive = match self.exclusive.take() {
            None if writes => Some(engine.commits.lock().unwrap()),
            held => held,
        };
        let mut store = engine.store.lock().unwrap();
        if !self.is_of_one_moment() && !self.is_current(&store) {
            return false;
        }
        for (database, key) in &self.accessed {
            if let Some(stored) = store.databases[*database].get_mut(key) {
                stored.accessed = Instant::now();
            }
        }
        if writes {
            let is_watched = Arc::strong_count(&engine.watching) > 1;
            // A watched key that came and went in this transaction counts as modified.
            let written = self.undo.drain(..).filter_map(|undo| match undo {
                Undo::Write(database, key, _) if is_watched => Some((database, key)),
                _ => None,
            });
            store.remember(written);
            let garbage = store.install(std::mem::take(&mut self.views), is_watched);
            drop(store);
            drop(garbage);
        }
        true
    }

    /// Whether what was read need not be compared: one thing was read, and nothing depends on it, or there is nothing
    /// that must be of the same moment.
    fn is_of_one_moment(&self) -> bool {
        let reads = self.reads.len() + self.ranges.len();
        self.is_each || self.is_released || self.undo.is_empty() && reads <= 1
    }

    /// Whether all that was read is still so.
    fn is_current(&self, store: &Store) -> bool {
        let is_read_current = |((database, key), read): (&(usize, Vec<u8>), &Read)| {
            store.revision(*database, key) == read.revision
        };
        let is_range_current =
            |(database, revision): (&usize, &u64)| store.databases[*database].revision == *revision;
        self.reads.iter().all(is_read_current)
            && self.ranges.iter().all(is_range_current)
            && (self.first_expiry_ms == u64::MAX || unix_time_ms() < self.first_expiry_ms)
    }

    /// The entry of a key in this transaction's eyes, whether it has expired or not, and the revision of what is stored.
    fn fetch(&mut self, key: Key<'_>) -> (u64, Option<Arc<Entry>>) {
        self.is_used = true;
        let view = &self.views[key.database];
        if let Some(written) = view.writes.get(key.bytes) {
            return (u64::MAX, written.clone());
        }
        let Some(source) = view.source else { return (u64::MAX, None) };
        let place = (source, key.bytes.to_vec());
        if let Some(read) = self.reads.get(&place) {
            return (read.revision, read.entry.clone());
        }
        let (revision, entry) = {
            let store = self.engine.store.lock().unwrap();
            let stored = store.databases[source].get(key.bytes);
            let entry = stored.map(|stored| Arc::clone(&stored.entry));
            (store.revision(source, key.bytes), entry)
        };
        if !self.is_each {
            self.reads.insert(place, Read { revision, entry: entry.clone() });
        }
        (revision, entry)
    }

    /// The same, if it has not expired.
    fn find(&mut self, key: Key<'_>) -> Option<Arc<Entry>> {
        let entry = self.fetch(key).1?;
        self.is_live(&entry).then_some(entry)
    }

    fn is_live(&mut self, entry: &Entry) -> bool {
        let Some(expires_ms) = entry.expires_ms() else { return true };
        let is_live = expires_ms > self.now_ms();
        if is_live {
            self.first_expiry_ms = self.first_expiry_ms.min(expires_ms);
        }
        is_live
    }

    /// What a connection remembers of a key to find out whether it was modified.
    fn see(&mut self, key: Key<'_>) -> Seen {
        let (revision, _) = self.fetch(key);
        match self.find(key) {
            Some(_) => Seen::There(revision),
            None => {
                let store = self.engine.store.lock().unwrap();
                Seen::Gone(store.deleted_revision(key.database, key.bytes))
            }
        }
    }

    fn access(&mut self, key: Key<'_>) {
        if let Some(source) = self.views[key.database].source {
            self.accessed.insert((source, key.bytes.to_vec()));
        }
    }

    /// Writes an entry, or a deletion.
    fn write(&mut self, key: Key<'_>, entry: Option<Entry>) {
        self.is_used = true;
        let writes = &mut self.views[key.database].writes;
        let old = writes.insert(key.bytes.to_vec(), entry.map(Arc::new));
        self.undo.push(Undo::Write(key.database, key.bytes.to_vec(), old));
    }

    /// Reads a database as a whole, in this transaction's eyes: `read` gets what is stored of it.
    fn range<T>(&mut self, database: usize, read: impl FnOnce(Option<&Database>) -> T) -> T {
        self.is_used = true;
        let Some(source) = self.views[database].source else { return read(None) };
        let store = self.engine.store.lock().unwrap();
        let stored = &store.databases[source];
        if !self.is_each {
            self.ranges.entry(source).or_insert(stored.revision);
        }
        read(Some(stored))
    }

    /// At least `count` keys of a database whose place is not before `first`, or all that there are, by place; and where
    /// the next begin, if there are more.
    fn page(
        &mut self,
        database: usize,
        first: u64,
        count: usize,
    ) -> Result<(Vec<Vec<u8>>, Option<u64>), TxnError> {
        let overlay = std::mem::take(&mut self.views[database].writes);
        let mut found: Vec<(u64, Arc<Entry>)> = Vec::new();
        let mut end = None;
        self.range(database, |stored| {
            let is_stored = |stored: &&Stored| !overlay.contains_key(stored.entry.key());
            for (order, bucket) in stored.into_iter().flat_map(|stored| stored.from(first)) {
                // All that have the same place, or none.
                if found.len() >= count {
                    end = Some(order);
                    break;
                }
                let bucket = bucket.iter().filter(is_stored);
                found.extend(bucket.map(|stored| (order, Arc::clone(&stored.entry))));
            }
        });
        let written = overlay.values().flatten().map(|entry| (order(entry.key()), entry));
        let is_here = |order: u64| order >= first && end.is_none_or(|end| order < end);
        let written = written.filter(|(order, _)| is_here(*order));
        found.extend(written.map(|(order, entry)| (order, Arc::clone(entry))));
        self.views[database].writes = overlay;
        found.sort_by_key(|(order, _)| *order);
        self.charge(work::LISTED_KEY * found.len() as u64)?;
        let live = found.into_iter().filter(|(_, entry)| self.is_live(entry));
        Ok((live.map(|(_, entry)| entry.key().to_vec()).collect(), end))
    }
}

impl Txn for OptimisticTxn<'_> {
    type Watched = Watched;
    type Savepoint = usize;

    fn now_ms(&mut self) -> u64 {
        if self.now_ms == 0 {
            self.now_ms = unix_time_ms();
        }
        self.now_ms
    }

    fn get(&mut self, key: Key<'_>) -> Result<Option<&Entry>, TxnError> {
        self.access(key);
        self.peek(key)
    }

    fn peek(&mut self, key: Key<'_>) -> Result<Option<&Entry>, TxnError> {
        self.charge(work::KEY)?;
        self.shown = self.find(key);
        Ok(self.shown.as_deref())
    }

    fn idle_s(&mut self, key: Key<'_>) -> Result<Option<u32>, TxnError> {
        if self.find(key).is_none() {
            return Ok(None);
        }
        let view = &self.views[key.database];
        let is_written = view.writes.contains_key(key.bytes);
        let source = view.source.filter(|_| !is_written);
        let store = self.engine.store.lock().unwrap();
        let stored = source.and_then(|source| store.databases[source].get(key.bytes));
        Ok(Some(stored.map_or(0, |stored| stored.accessed.elapsed().as_secs() as u32)))
    }

    fn put(
        &mut self,
        key: Key<'_>,
        value: Bytes<'_>,
        expires_ms: Option<u64>,
    ) -> Result<(), TxnError> {
        if expires_ms.is_some_and(|time_ms| time_ms <= self.now_ms()) {
            // As in Redis a key that was not there is modified, too: it came and went.
            if !self.delete(key)? {
                self.put(key, value, None)?;
                self.delete(key)?;
            }
            return Ok(());
        }
        let copied = if let Bytes::Short(bytes) = value { bytes.len() } else { 0 };
        self.charge(work::KEY + work::WRITTEN_BYTE * copied as u64)?;
        self.write(key, Some(Entry::new(key.bytes, value, expires_ms)?));
        Ok(())
    }

    fn splice(&mut self, key: Key<'_>, offset: usize, bytes: &[u8]) -> Result<usize, TxnError> {
        self.charge(work::KEY + work::WRITTEN_BYTE * bytes.len() as u64)?;
        let old = self.find(key);
        if let (Some(old), true) = (&old, bytes.is_empty()) {
            return Ok(old.value().len());
        }
        let mut value = match &old {
            Some(old) => old.value().share()?,
            None => Value::default(),
        };
        value.reserve(offset, bytes.len())?;
        value.write(offset, bytes);
        let length = value.view().len();
        let expires_ms = old.and_then(|old| old.expires_ms());
        self.write(key, Some(Entry::grown(key.bytes, value, expires_ms)?));
        Ok(length)
    }

    fn put_part(
        &mut self,
        key: Key<'_>,
        value: &Value,
        _part: Range<usize>,
    ) -> Result<(), TxnError> {
        self.charge(work::KEY)?;
        let expires_ms = self.find(key).and_then(|old| old.expires_ms());
        self.write(key, Some(Entry::grown(key.bytes, value.view().share()?, expires_ms)?));
        Ok(())
    }

    fn expire(&mut self, key: Key<'_>, expires_ms: Option<u64>) -> Result<bool, TxnError> {
        if expires_ms.is_some_and(|time_ms| time_ms <= self.now_ms()) {
            return self.delete(key);
        }
        self.charge(work::KEY)?;
        let Some(old) = self.find(key) else { return Ok(false) };
        // To the same time, too: the key counts as modified, as in Redis.
        self.write(key, Some(old.with_expiry(expires_ms)?));
        Ok(true)
    }

    fn delete(&mut self, key: Key<'_>) -> Result<bool, TxnError> {
        self.charge(work::REMOVED_KEY)?;
        let exists = self.find(key).is_some();
        if exists {
            self.write(key, None);
        }
        Ok(exists)
    }

    fn clear(&mut self, database: Option<usize>) -> Result<(), TxnError> {
        self.is_used = true;
        let all = 0..self.views.len();
        for number in database.map_or(all, |database| database..database + 1) {
            let old = std::mem::take(&mut self.views[number]);
            self.undo.push(Undo::View(number, old));
        }
        Ok(())
    }

    fn swap(&mut self, one: usize, two: usize) -> Result<(), TxnError> {
        self.is_used = true;
        self.views.swap(one, two);
        self.undo.push(Undo::Swap(one, two));
        Ok(())
    }

    fn keys(
        &mut self,
        database: usize,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), TxnError> {
        let (keys, _) = self.page(database, 0, usize::MAX)?;
        keys.iter().filter(|key| key.starts_with(prefix)).for_each(|key| visit(key));
        Ok(())
    }

    fn scan(
        &mut self,
        database: usize,
        cursor: u64,
        count: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, TxnError> {
        let (keys, next) = self.page(database, cursor, count)?;
        keys.iter().for_each(|key| visit(key));
        Ok(next.unwrap_or(0))
    }

    fn random_key(
        &mut self,
        database: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, TxnError> {
        let (keys, _) = self.page(database, 0, usize::MAX)?;
        let chosen = fastrand::choice(&keys);
        if let Some(key) = chosen {
            visit(key);
        }
        Ok(chosen.is_some())
    }

    fn counts(&mut self) -> Result<Vec<Counts>, TxnError> {
        let mut all = Vec::new();
        for database in 0..self.views.len() {
            let writes = std::mem::take(&mut self.views[database].writes);
            all.push(self.range(database, |stored| {
                let mut counts = stored.map_or(Counts::default(), |stored| stored.counts);
                for (key, written) in &writes {
                    if let Some(old) = stored.and_then(|stored| stored.get(key)) {
                        count(&mut counts, &old.entry, false);
                    }
                    written.iter().for_each(|entry| count(&mut counts, entry, true));
                }
                counts
            }));
            self.views[database].writes = writes;
        }
        Ok(all)
    }

    fn watch(&mut self, key: Key<'_>) -> Result<Watched, TxnError> {
        // Before the key is read: deletions from then on are remembered.
        let watching = Arc::clone(&self.engine.watching);
        Ok(Watched { seen: self.see(key), _watching: watching })
    }

    fn is_modified(&mut self, key: Key<'_>, watched: &Watched) -> Result<bool, TxnError> {
        Ok(self.see(key) != watched.seen)
    }

    fn charge(&mut self, work_ns: u64) -> Result<(), TxnError> {
        // After conflicts others may wait for it, so its work is bounded whether they do or not.
        if self.is_many {
            self.work_ns = self.work_ns.saturating_add(work_ns);
        }
        match self.work_ns > LOCKED_WORK_MAX {
            true => Err(TxnError::TooMuchWork),
            false => Ok(()),
        }
    }

    fn release(&mut self) {
        let is_current = self.is_current(&self.engine.store.lock().unwrap());
        debug_assert!(self.undo.is_empty(), "what was written must be installed first");
        self.is_released = is_current;
        self.exclusive = None;
    }

    fn savepoint(&mut self) -> usize {
        self.undo.len()
    }

    fn roll_back(&mut self, savepoint: usize) {
        for undo in self.undo.drain(savepoint..).rev() {
            match undo {
                Undo::Write(database, key, old) => {
                    let writes = &mut self.views[database].writes;
                    match old {
                        Some(old) => drop(writes.insert(key, old)),
                        None => drop(writes.remove(&key)),
                    }
                }
                Undo::View(database, old) => self.views[database] = old,
                Undo::Swap(one, two) => self.views.swap(one, two),
            }
        }
    }
}
