//! A transaction on keys in etcd: it reads all at one revision, keeps what it writes to itself, and in the end lets
//! etcd compare what it has read and write.
//!
//! The first read fetches every key of the [`Scope`] with it. What only reads is done then: it saw one revision. What
//! writes names in its last request the revision of each key that it looked at.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::changes::{Change, Changes, Views};
use super::gateway::{Bytes, Compare, KeyValue, Operation, RangeReply, RangeRequest, TxnRequest};
use super::lanes::Known;
use super::layout::{Part, decode};
use super::slots::Committed;
use super::{Breakage, EtcdEngine};
use crate::engine::{Counts, EngineError, EngineErrorKind, Entry, Key, Scope, Txn, TxnError};
use crate::limits::{
    ETCD_PAGE_KEYS, ETCD_READS_MAX, ETCD_REQUEST_BYTES_MAX, LOCKED_WORK_MAX, work,
};
use crate::util::clock::unix_time_ms;
use crate::value::{Value, View as ValueView};

/// See the module.
pub struct EtcdTxn<'r> {
    pub(super) engine: &'r EtcdEngine,
    pub(super) scope: Scope<'r>,
    pub(super) deadline: Instant,
    /// The revision that is read; 0 until the first read.
    pub(super) revision: u64,
    /// What is known was told by another transaction, and may have changed since.
    is_told: bool,
    /// The revision is no longer there: all must be read again.
    is_stale: bool,
    /// 0 until it is first asked for.
    now_ms: u64,
    work_ns: u64,
    /// What was read, by name.
    reads: HashMap<Vec<u8>, Read>,
    /// The databases of which keys were listed or counted.
    pub(super) ranges: Vec<usize>,
    /// When the first of what was seen alive expires.
    first_expiry_ms: u64,
    pub(super) views: Views,
    /// What is lent to the caller.
    shown: Option<Arc<Entry>>,
}

/// A key as it was read.
#[derive(Clone, Debug)]
pub struct Read {
    /// The revision of its last change; 0 if it is missing.
    revision: u64,
    /// The number of its changes since it was created.
    version: u64,
    /// What it holds, whether that has expired or not.
    pub entry: Option<Arc<Entry>>,
    /// The transaction depends on it.
    is_used: bool,
}

/// What a connection remembers of a key that it watches.
#[derive(Debug, PartialEq, Eq)]
pub enum Watched {
    /// The key existed, and was last changed at this revision.
    There(u64),
    /// It did not exist.
    Missing {
        /// When that was seen.
        revision: u64,
        /// How often databases had been cleared.
        clears: u64,
    },
}

/// What comes of a transaction.
pub enum Finished {
    /// It is done; what it made of the keys that it had read.
    Done(Known),
    /// Something had changed; what it read is now that.
    Conflict(Known),
    /// The revision that it read is no longer there.
    Stale,
}

impl<'r> EtcdTxn<'r> {
    /// A transaction that has to be over by `deadline`. What is known already may be given, with its revision.
    pub fn new(
        engine: &'r EtcdEngine,
        scope: Scope<'r>,
        deadline: Instant,
        (reads, revision): Known,
    ) -> Self {
        let is_told = !reads.is_empty();
        Self {
            engine,
            scope,
            deadline,
            revision,
            is_told,
            is_stale: false,
            now_ms: 0,
            work_ns: 0,
            reads,
            ranges: Vec::new(),
            first_expiry_ms: u64::MAX,
            views: Views::default(),
            shown: None,
        }
    }

    /// Ends the transaction; if `may_write`, with its writes.
    pub fn finish(mut self, may_write: bool) -> Result<Finished, EngineError> {
        if self.is_stale {
            return Ok(Finished::Stale);
        }
        if !may_write || self.views.is_unchanged() {
            // What is shown must be true now.
            return Ok(match self.is_told {
                true => Finished::Stale,
                false => Finished::Done(Known::default()),
            });
        }
        if self.first_expiry_ms != u64::MAX && unix_time_ms() >= self.first_expiry_ms {
            return Ok(Finished::Conflict(Known::default()));
        }
        let success = self.operations();
        let compares = !self.engine.has(Breakage::NothingCompared);
        let used = || self.reads.iter().filter(|(_, read)| read.is_used && compares);
        let mut compare: Vec<_> =
            used().map(|(name, read)| Compare::is_unchanged(name.clone(), read.revision)).collect();
        for database in &self.ranges {
            for part in [Part::Values, Part::Deletions] {
                let range = self.engine.layout().range(part, *database..*database + 1);
                compare.push(Compare::none_changed_since(range, self.revision));
            }
        }
        let names: Vec<_> = used().map(|(name, _)| name.clone()).collect();
        let failure = names.iter().map(|name| Operation::get(name.clone(), 0)).collect();
        let request = TxnRequest { compare, success, failure };
        match self.engine.slots.commit_together(request, self.deadline)? {
            Committed::Done(revision) => Ok(Finished::Done(self.written_at(revision))),
            Committed::Conflict(reply) => {
                self.reads.clear();
                let revision = reply.header.revision;
                let ranges = reply.responses.into_iter().map(|reply| reply.response_range);
                match self.keep(names, ranges.collect()) {
                    Ok(()) => Ok(Finished::Conflict((self.reads, revision))),
                    Err(_) => Ok(Finished::Conflict(Known::default())),
                }
            }
        }
    }

    /// Whether it writes something that depends on what it has read.
    pub fn may_meet_others(&self) -> bool {
        !self.views.is_unchanged() && self.reads.values().any(|read| read.is_used)
    }

    /// What is stored now, of one key that was read and written: transactions that count with it come one after the other.
    fn written_at(&self, revision: u64) -> Known {
        let Scope::One(bytes) = self.scope else { return Known::default() };
        let mut known = Known::default();
        for (database, view) in self.views.iter() {
            let name = self.name(Key { database, bytes });
            if let (Some(entry), Some(read)) = (view.writes.get(bytes), self.reads.get(&name)) {
                let is_there = entry.is_some();
                let read = Read {
                    revision: if is_there { revision } else { 0 },
                    version: if is_there { read.version + 1 } else { 0 },
                    entry: entry.clone(),
                    is_used: false,
                };
                known.0.insert(name, read);
                known.1 = revision;
            }
        }
        known
    }

    /// What the writes are in etcd.
    fn operations(&self) -> Vec<Operation> {
        let mut changes = Changes::new(self.engine.layout());
        let cleared: Vec<_> = self.views.cleared().collect();
        for (database, view) in self.views.iter() {
            for (bytes, written) in &view.writes {
                let key = Key { database, bytes };
                let name = self.engine.layout().name(Part::Values, key);
                let before = before(self.reads.get(&name), view.is_cleared);
                changes.write(key, before, written.as_deref());
            }
        }
        changes.clear(&cleared);
        changes.operations()
    }

    /// The name of a key's value.
    fn name(&self, key: Key<'_>) -> Vec<u8> {
        self.engine.layout().name(Part::Values, key)
    }

    /// Reads what names stand for, if it is not known, and every other key of the scope in this database with it.
    fn fetch(&mut self, database: usize, wanted: Vec<Vec<u8>>) -> Result<(), TxnError> {
        let is_new = |name: &Vec<u8>| !self.reads.contains_key(name);
        let mut names: BTreeSet<_> = wanted.into_iter().filter(is_new).collect();
        if names.is_empty() {
            return Ok(());
        }
        names.extend(self.names(database, Part::Values).filter(is_new));
        let names: Vec<_> = names.into_iter().collect();
        for names in names.chunks(ETCD_READS_MAX) {
            let serializable = self.engine.has(Breakage::SerializableReads);
            let reads = names.iter().map(|name| {
                let (key, revision) = (Bytes(name.clone()), self.revision);
                RangeRequest { key, revision, serializable, ..RangeRequest::default() }
            });
            let reply = self.engine.slots.read_together(reads.collect(), self.deadline)?;
            let Some(reply) = reply else { return Err(self.went_stale()) };
            self.revision = if self.revision == 0 { reply.revision } else { self.revision };
            self.keep(names.to_vec(), reply.ranges)?;
        }
        Ok(())
    }

    /// The names of all keys of the scope in a part of a database.
    fn names(&self, database: usize, part: Part) -> impl Iterator<Item = Vec<u8>> + use<'_> {
        let keys = if let Scope::Many(keys) = self.scope { keys } else { &[] };
        let keys = keys.iter().filter(|bytes| bytes.len() <= ETCD_REQUEST_BYTES_MAX);
        keys.map(move |bytes| self.engine.layout().name(part, Key { database, bytes }))
    }

    /// The revision that was read is gone: the transaction begins anew.
    pub(super) fn went_stale(&mut self) -> TxnError {
        self.is_stale = true;
        let reason = "etcd compacted the revision that was read";
        EngineError::new(EngineErrorKind::Contended, reason).into()
    }

    /// Keeps what was read under these names.
    fn keep(&mut self, names: Vec<Vec<u8>>, ranges: Vec<RangeReply>) -> Result<(), TxnError> {
        for (name, range) in names.into_iter().zip(ranges) {
            let read = match range.kvs.into_iter().next() {
                None => Read { revision: 0, version: 0, entry: None, is_used: false },
                Some(KeyValue { value, mod_revision: revision, version, .. }) => {
                    let key = self.engine.layout().parse(&name).map_or(&[][..], |(_, _, key)| key);
                    let entry = decode(key, &value.0)?.map(Arc::new);
                    Read { revision, version, entry, is_used: false }
                }
            };
            self.reads.insert(name, read);
        }
        Ok(())
    }

    /// A key as it is in etcd, on which the transaction depends from here on.
    pub(super) fn stored(&mut self, key: Key<'_>) -> Result<Read, TxnError> {
        let name = self.name(key);
        self.fetch(key.database, vec![name.clone()])?;
        self.used(&name)
    }

    fn used(&mut self, name: &[u8]) -> Result<Read, TxnError> {
        let is_each = matches!(self.scope, Scope::Each);
        let Some(read) = self.reads.get_mut(name) else { return Err(self.went_stale()) };
        read.is_used |= !is_each;
        Ok(read.clone())
    }

    /// The entry of a key in this transaction's eyes, if it has not expired.
    fn find(&mut self, key: Key<'_>) -> Result<Option<Arc<Entry>>, TxnError> {
        check_key(key)?;
        let entry = match self.views.get(key) {
            Some(written) => written,
            None => self.stored(key)?.entry,
        };
        Ok(entry.filter(|entry| self.is_live(entry)))
    }

    pub(super) fn is_live(&mut self, entry: &Entry) -> bool {
        let Some(expires_ms) = entry.expires_ms() else { return true };
        let is_live = expires_ms > self.now_ms();
        if is_live {
            self.first_expiry_ms = self.first_expiry_ms.min(expires_ms);
        }
        is_live
    }

    /// Writes an entry, or a deletion.
    fn write(&mut self, key: Key<'_>, entry: Option<Entry>) -> Result<(), TxnError> {
        check_key(key)?;
        if let Some(entry) = &entry
            && entry.value().len() > ETCD_REQUEST_BYTES_MAX
        {
            return Err(too_long(entry.value().len()));
        }
        self.views.write(key, entry.map(Arc::new));
        Ok(())
    }

    /// What tells a missing key from one that came and went: when a key whose hash begins as its own was last deleted, and
    /// how often, and when last, databases were cleared.
    fn deletions(&mut self, key: Key<'_>) -> Result<(Read, Read), TxnError> {
        let slot = self.engine.layout().name(Part::Deletions, key);
        let cleared = self.engine.layout().cleared_name();
        if !self.reads.contains_key(&slot) {
            let mut wanted: Vec<_> = self.names(key.database, Part::Deletions).collect();
            wanted.extend([self.name(key), slot.clone(), cleared.clone()]);
            self.fetch(key.database, wanted)?;
        }
        self.fetch(key.database, vec![self.name(key)])?;
        Ok((self.used(&slot)?, self.used(&cleared)?))
    }

    /// Whether a key was changed after the revision `since`, and existed when databases were cleared, `clears` times since
    /// then and the last time at the revision `last`.
    fn was_cleared(
        &mut self,
        key: Key<'_>,
        since: u64,
        clears: u64,
        mut last: u64,
    ) -> Result<bool, TxnError> {
        const STEPS_MAX: u64 = 8;
        let names = [self.name(key), self.engine.layout().cleared_name()];
        for _ in 0..clears.min(STEPS_MAX) {
            let before = names.iter().map(|name| Operation::get(name.clone(), last - 1));
            let request = TxnRequest { success: before.collect(), ..TxnRequest::default() };
            let Some(reply) = self.engine.slots.read(&request, self.deadline)? else {
                // Where that is no longer known it may have.
                return Ok(true);
            };
            let mut revisions = reply.responses.iter().map(|reply| {
                reply.response_range.kvs.first().map_or(0, |found| found.mod_revision)
            });
            if revisions.next().is_some_and(|changed| changed > since) {
                return Ok(true);
            }
            last = revisions.next().unwrap_or(0);
        }
        Ok(clears > STEPS_MAX)
    }
}

/// What is stored of a key when it is written, as far as that is certain: what was read and is not compared may be another
/// thing by now, one that expires.
fn before(read: Option<&Read>, is_cleared: bool) -> Change<'_> {
    match read.filter(|read| read.is_used) {
        _ if is_cleared => Change::Nothing,
        None => Change::Anything,
        Some(Read { entry: None, .. }) => Change::Nothing,
        Some(Read { entry: Some(entry), .. }) => Change::Entry(entry),
    }
}

/// An error if a key is longer than any request.
fn check_key(key: Key<'_>) -> Result<(), TxnError> {
    match key.bytes.len() > ETCD_REQUEST_BYTES_MAX {
        true => Err(too_long(key.bytes.len())),
        false => Ok(()),
    }
}

fn too_long(bytes: usize) -> TxnError {
    let reason = format!("too much for etcd: it takes no key or value of {bytes} bytes");
    EngineError::new(EngineErrorKind::TooLarge, reason).into()
}

impl Txn for EtcdTxn<'_> {
    type Watched = Watched;
    type Savepoint = usize;

    fn now_ms(&mut self) -> u64 {
        if self.now_ms == 0 {
            self.now_ms = unix_time_ms();
        }
        self.now_ms
    }

    fn get(&mut self, key: Key<'_>) -> Result<Option<&Entry>, TxnError> {
        self.peek(key)
    }

    fn peek(&mut self, key: Key<'_>) -> Result<Option<&Entry>, TxnError> {
        self.charge(work::KEY)?;
        self.shown = self.find(key)?;
        Ok(self.shown.as_deref())
    }

    /// Accesses are not counted: a read would be a write.
    fn idle_s(&mut self, key: Key<'_>) -> Result<Option<u32>, TxnError> {
        Ok(self.find(key)?.map(|_| 0))
    }

    fn put(
        &mut self,
        key: Key<'_>,
        value: ValueView<'_>,
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
        let copied = if let ValueView::Short(bytes) = value { bytes.len() } else { 0 };
        self.charge(work::KEY + work::WRITTEN_BYTE * copied as u64)?;
        self.write(key, Some(Entry::new(key.bytes, value, expires_ms)?))
    }

    fn splice(&mut self, key: Key<'_>, offset: usize, bytes: &[u8]) -> Result<usize, TxnError> {
        self.charge(work::KEY + work::WRITTEN_BYTE * bytes.len() as u64)?;
        if offset > ETCD_REQUEST_BYTES_MAX {
            return Err(too_long(offset));
        }
        let old = self.find(key)?;
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
        self.write(key, Some(Entry::grown(key.bytes, value, expires_ms)?))?;
        Ok(length)
    }

    fn put_part(
        &mut self,
        key: Key<'_>,
        value: &Value,
        _part: Range<usize>,
    ) -> Result<(), TxnError> {
        self.charge(work::KEY)?;
        let expires_ms = self.find(key)?.and_then(|old| old.expires_ms());
        self.write(key, Some(Entry::grown(key.bytes, value.view().share()?, expires_ms)?))
    }

    fn expire(&mut self, key: Key<'_>, expires_ms: Option<u64>) -> Result<bool, TxnError> {
        if expires_ms.is_some_and(|time_ms| time_ms <= self.now_ms()) {
            return self.delete(key);
        }
        self.charge(work::KEY)?;
        let Some(old) = self.find(key)? else { return Ok(false) };
        // To the same time, too: the key counts as modified, as in Redis.
        self.write(key, Some(old.with_expiry(expires_ms)?))?;
        Ok(true)
    }

    fn delete(&mut self, key: Key<'_>) -> Result<bool, TxnError> {
        self.charge(work::REMOVED_KEY)?;
        let exists = self.find(key)?.is_some();
        if exists {
            self.write(key, None)?;
        }
        Ok(exists)
    }

    fn clear(&mut self, database: Option<usize>) -> Result<(), TxnError> {
        let all = 0..self.engine.databases;
        for number in database.map_or(all, |database| database..database + 1) {
            self.views.clear(number);
        }
        Ok(())
    }

    /// Not reached: `SWAPDB` is refused before.
    fn swap(&mut self, _one: usize, _two: usize) -> Result<(), TxnError> {
        let reason = "etcd cannot exchange the keys of two databases";
        Err(EngineError::new(EngineErrorKind::TooLarge, reason).into())
    }

    fn keys(
        &mut self,
        database: usize,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), TxnError> {
        self.each(database, &mut |key| {
            if key.starts_with(prefix) {
                visit(key);
            }
        })
    }

    fn scan(
        &mut self,
        database: usize,
        cursor: u64,
        count: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, TxnError> {
        let (keys, next) = self.page(database, cursor, (count as u64).min(ETCD_PAGE_KEYS))?;
        keys.iter().for_each(|(_, key)| visit(key));
        Ok(next.unwrap_or(0))
    }

    fn random_key(
        &mut self,
        database: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, TxnError> {
        self.any_key(database, visit)
    }

    fn counts(&mut self) -> Result<Vec<Counts>, TxnError> {
        self.count()
    }

    fn watch(&mut self, key: Key<'_>) -> Result<Watched, TxnError> {
        check_key(key)?;
        let (_, cleared) = self.deletions(key)?;
        let stored = self.stored(key)?;
        Ok(match stored.entry.filter(|entry| self.is_live(entry)) {
            Some(_) => Watched::There(stored.revision),
            None => Watched::Missing { revision: self.revision, clears: cleared.version },
        })
    }

    fn is_modified(&mut self, key: Key<'_>, watched: &Watched) -> Result<bool, TxnError> {
        let (slot, cleared) = self.deletions(key)?;
        let stored = self.stored(key)?;
        let is_there = stored.entry.is_some_and(|entry| self.is_live(&entry));
        match *watched {
            Watched::There(revision) => Ok(!is_there || stored.revision != revision),
            Watched::Missing { revision, clears } => {
                let was_touched =
                    is_there || stored.revision > revision || slot.revision > revision;
                let clears = cleared.version.saturating_sub(clears);
                Ok(was_touched || self.was_cleared(key, revision, clears, cleared.revision)?)
            }
        }
    }

    fn charge(&mut self, work_ns: u64) -> Result<(), TxnError> {
        if matches!(self.scope, Scope::Many(_) | Scope::All) {
            self.work_ns = self.work_ns.saturating_add(work_ns);
        }
        match self.work_ns > LOCKED_WORK_MAX {
            true => Err(TxnError::TooMuchWork),
            false => Ok(()),
        }
    }

    fn release(&mut self) {}

    fn savepoint(&mut self) -> usize {
        self.views.savepoint()
    }

    fn roll_back(&mut self, savepoint: usize) {
        self.views.roll_back(savepoint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_compared_is_not_relied_on() {
        let entry = Arc::new(Entry::new(b"k", ValueView::Short(b"v"), None).unwrap());
        let read = |entry: Option<&Arc<Entry>>, is_used| Read {
            revision: 7,
            version: 1,
            entry: entry.cloned(),
            is_used,
        };
        for found in [None, Some(&entry)] {
            assert!(matches!(before(Some(&read(found, false)), false), Change::Anything));
        }
        assert!(matches!(before(None, false), Change::Anything));
        assert!(matches!(before(Some(&read(None, true)), false), Change::Nothing));
        assert!(matches!(before(Some(&read(Some(&entry), true)), false), Change::Entry(_)));
        assert!(matches!(before(Some(&read(Some(&entry), true)), true), Change::Nothing));
    }
}
