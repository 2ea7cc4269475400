//! A part of the keys: tables, sequences, and undo for what is not committed yet.
//!
//! A transaction changes a shard's tables at once and keeps what undoes that. When the journal has taken its records it
//! *publishes* its changes: they get the sequence of their batch, and their undo waits here until the batch is
//! committed and the undo *released*, or aborted and *rolled back*.
//!
//! Sequences tell what a reply has to wait for. Several keys share one, so it may speak for more keys than were changed,
//! never for fewer. Sequences never go down but by [`abort_after`](Shard::abort_after).

use hashbrown::HashTable;
use std::collections::VecDeque;

use super::store::{Hashing, KeySlot};
use super::table::Table;
use super::undo::{Change, Undo};
use super::watchers::Watchers;
use crate::engine::Entry;
use crate::limits::{SEQUENCES_PER_SHARD, UNDO_RELEASED_MAX, UNDO_SPARE};
use crate::text::quoted_bytes;
use crate::util::clock::unix_time_ms;
use crate::util::memory::NoMemory;
use crate::value::{Value, View};

/// See the module.
#[derive(Debug)]
pub struct Shard {
    /// By database.
    tables: Vec<Table>,
    hashing: Hashing,
    /// The newest sequence of the keys that share a place.
    sequences: [u64; SEQUENCES_PER_SHARD],
    /// The newest of all.
    newest: u64,
    /// When a key of each place was last accessed, in seconds of the engine's age.
    accessed_s: [u32; SEQUENCES_PER_SHARD],
    /// What undoes published changes, the oldest first.
    undo: VecDeque<Published>,
    /// Goes up with each key that is new, and with whatever may bring keys otherwise.
    additions: u64,
    /// The connections that watch its keys.
    pub watchers: Watchers,
}

#[derive(Debug)]
struct Published {
    sequence: u64,
    /// Freeing it takes long. Looking that up in the entry would miss the cache.
    is_heavy: bool,
    change: Change,
}

/// Reading and changing keys.
impl Shard {
    /// An empty shard.
    pub fn new(hashing: Hashing) -> Self {
        Self {
            tables: Vec::new(),
            hashing,
            sequences: [0; SEQUENCES_PER_SHARD],
            newest: 0,
            accessed_s: [0; SEQUENCES_PER_SHARD],
            undo: VecDeque::new(),
            additions: 0,
            watchers: Watchers::default(),
        }
    }

    /// How many databases may have keys here.
    pub fn databases(&self) -> usize {
        self.tables.len()
    }

    /// The keys of a database, if it ever had any here.
    pub fn table(&self, database: usize) -> Option<&Table> {
        self.tables.get(database)
    }

    /// The keys of a database.
    pub fn table_mut(&mut self, database: usize) -> &mut Table {
        if database >= self.tables.len() {
            self.tables.resize_with(database + 1, Table::default);
        }
        &mut self.tables[database]
    }

    /// The entry of a key, whether it has expired or not.
    pub fn get(&self, slot: KeySlot, key: &[u8]) -> Option<&Entry> {
        self.table(slot.database())?.get(slot.hash(), key)
    }

    /// All entries of a database.
    pub fn entries(&self, database: usize) -> impl Iterator<Item = &Entry> {
        self.table(database).into_iter().flat_map(|table| table.entries.iter())
    }

    /// The entries of a database whose keys have this hash.
    pub fn with_hash(&self, database: usize, hash: u64) -> impl Iterator<Item = &Entry> {
        let table = self.table(database).into_iter();
        table.flat_map(move |table| with_hash(&table.entries, hash, &self.hashing))
    }

    /// The hashes of all keys of a database.
    pub fn hashes(&self, database: usize) -> impl Iterator<Item = u64> {
        self.entries(database).map(|entry| self.hashing.hash(entry.key()))
    }

    /// Number of keys of a database.
    pub fn len(&self, database: usize) -> usize {
        self.table(database).map_or(0, |table| table.entries.len())
    }

    /// Number of keys of all databases.
    pub fn keys(&self) -> usize {
        self.tables.iter().map(|table| table.entries.len()).sum()
    }

    /// Makes room for `more` keys of a database, of which a share so large is then known.
    pub fn reserve(&mut self, database: usize, more: usize, share: f64) -> Result<(), NoMemory> {
        let hashing = self.hashing.clone();
        self.table_mut(database).reserve(more, share, &hashing)
    }

    /// Gives back the room that no key will soon need.
    pub fn shrink(&mut self) {
        self.tables.iter_mut().for_each(|table| table.shrink(&self.hashing));
    }

    /// Puts an entry in the place of one with the same key, or adds it.
    pub fn put(&mut self, slot: KeySlot, entry: Entry) -> Result<Undo, NoMemory> {
        let hashing = self.hashing.clone();
        let undo = self.table_mut(slot.database()).put(slot.hash(), entry, &hashing)?;
        self.additions += u64::from(matches!(undo, Undo::Created(_)));
        Ok(undo)
    }

    /// Takes the entry of a key out.
    pub fn remove(&mut self, slot: KeySlot, key: &[u8]) -> Option<Entry> {
        let table = self.tables.get_mut(slot.database())?;
        table.remove(slot.hash(), |entry| entry.key() == key)
    }

    /// Changes when a key expires; `None` if there is no such key.
    pub fn expire(
        &mut self,
        slot: KeySlot,
        key: &[u8],
        expires_ms: Option<u64>,
    ) -> Result<Option<Undo>, NoMemory> {
        let table = self.table_mut(slot.database());
        let Some(entry) = table.get_mut(slot.hash(), key) else { return Ok(None) };
        let (id, old_ms) = (entry.id(), entry.expires_ms());
        if entry.set_expires_ms(expires_ms) {
            table.expiry.change(slot.hash(), old_ms, expires_ms);
            return Ok(Some(Undo::Expiry { id, expires_ms: old_ms }));
        }
        let copy = entry.with_expiry(expires_ms)?;
        self.replace_partly(slot, copy, 0).map(Some)
    }

    /// Puts an entry in the place of one whose value it has most of: so many bytes of the file are superseded.
    pub fn replace_partly(
        &mut self,
        slot: KeySlot,
        entry: Entry,
        garbage_bytes: usize,
    ) -> Result<Undo, NoMemory> {
        Ok(match self.put(slot, entry)? {
            Undo::Replaced(old) => Undo::PartlyReplaced(old, garbage_bytes),
            created => created,
        })
    }

    /// Writes `bytes` at `offset` of the value of a key, which exists.
    pub fn splice(
        &mut self,
        slot: KeySlot,
        key: &[u8],
        offset: usize,
        bytes: &[u8],
    ) -> Result<Option<Undo>, NoMemory> {
        let table = self.table_mut(slot.database());
        let Some(entry) = table.get_mut(slot.hash(), key) else { return Ok(None) };
        let id = entry.id();
        let Some(value) = entry.value_mut() else {
            // At its first change it becomes one that may change in place.
            let garbage = overwritten_bytes(entry.value(), offset, bytes.len());
            let mut value = entry.value().share()?;
            value.reserve(offset, bytes.len())?;
            value.write(offset, bytes);
            let grown = Entry::grown(key, value, entry.expires_ms())?;
            return self.replace_partly(slot, grown, garbage).map(Some);
        };
        let length = value.view().len();
        // Nothing stood beyond the old end.
        let (start, end) = (offset.min(length), (offset + bytes.len()).min(length));
        let old = value.view().copy(start..end)?;
        value.reserve(offset, bytes.len())?;
        value.write(offset, bytes);
        Ok(Some(Undo::Overwritten { id, offset: start, bytes: old, length }))
    }

    /// Takes every key of a database out; `None` if there is none.
    pub fn clear(&mut self, database: usize) -> Option<Undo> {
        let table = self.tables.get_mut(database).filter(|table| !table.entries.is_empty())?;
        let Table { entries, expiry, .. } = std::mem::take(table);
        Some(Undo::Cleared(Box::new((entries, expiry))))
    }

    /// Exchanges the keys of two databases.
    pub fn swap(&mut self, one: usize, two: usize) -> Undo {
        self.table_mut(one.max(two));
        self.tables.swap(one, two);
        self.additions += 1;
        Undo::Swapped(two)
    }

    /// Undoes the newest change.
    pub fn roll_back(&mut self, Change { slot, undo }: Change) {
        self.additions += 1;
        if let Undo::Swapped(other) = undo {
            self.tables.swap(slot.database(), other);
            return;
        }
        let hashing = self.hashing.clone();
        self.table_mut(slot.database()).roll_back(slot.hash(), undo, &hashing);
    }

    /// Goes up with each key that is new: a list of keys that was made at the same number lacks none.
    pub fn additions(&self) -> u64 {
        self.additions
    }

    /// A key is accessed in that second.
    pub fn access(&mut self, slot: KeySlot, now_s: u32) {
        self.accessed_s[usize::from(slot.sequence)] = now_s;
    }

    /// The second of the last access to a key, or to another of the same place.
    pub fn accessed_s(&self, slot: KeySlot) -> u32 {
        self.accessed_s[usize::from(slot.sequence)]
    }
}

/// Sequences, and undo of published changes.
impl Shard {
    /// The newest sequence that may be a key's.
    pub fn sequence(&self, slot: KeySlot) -> u64 {
        self.sequences[usize::from(slot.sequence)]
    }

    /// The newest sequence of any key.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Gives a change the sequence of its batch, tells the connections that watch its key, and keeps its undo; returns
    /// about how much memory that takes, in bytes.
    pub fn publish(&mut self, change: Change, sequence: u64) -> usize {
        self.newest = sequence;
        let Change { slot, undo } = &change;
        match undo {
            Undo::Cleared(all) => {
                self.sequences.fill(sequence);
                self.watchers.notify_if(|watched| {
                    let found = with_hash(&all.0, watched.hash(), &self.hashing);
                    have_expired(found.filter(|_| watched.database() == slot.database()))
                });
            }
            Undo::Swapped(other) => {
                self.sequences.fill(sequence);
                let both = [slot.database(), *other];
                self.watchers.notify_if(|watched| {
                    let is_swapped = both.contains(&watched.database());
                    let found =
                        both.iter().flat_map(|number| self.with_hash(*number, watched.hash()));
                    have_expired(found.filter(|_| is_swapped))
                });
            }
            _ => {
                self.sequences[usize::from(slot.sequence)] = sequence;
                self.watchers.notify(*slot, matches!(undo, Undo::Expired(_)));
            }
        }
        let memory_bytes = change.undo.memory_bytes();
        let is_heavy = change.undo.is_heavy(memory_bytes);
        self.undo.push_back(Published { sequence, is_heavy, change });
        memory_bytes
    }

    /// Releases undo of changes that are committed, up to `committed`, for the caller to free with no shard locked. Undo
    /// that takes long to free, and what follows it, is left to [`release_all`](Self::release_all): a writer does not
    /// free what another one replaced.
    pub fn release_light(&mut self, committed: u64, released: &mut Vec<Undo>) {
        let count = self.committed_undo(committed).min(UNDO_RELEASED_MAX);
        let light = self.undo.iter().take(count).take_while(|published| !published.is_heavy);
        self.release(light.count(), released);
    }

    /// The same of all kinds, a bounded number at once; says whether there are more.
    pub fn release_all(&mut self, committed: u64, released: &mut Vec<Undo>) -> bool {
        let count = self.committed_undo(committed);
        self.release(count.min(UNDO_RELEASED_MAX), released);
        count > UNDO_RELEASED_MAX
    }

    fn committed_undo(&self, committed: u64) -> usize {
        match self.newest <= committed {
            true => self.undo.len(),
            false => self.undo.partition_point(|published| published.sequence <= committed),
        }
    }

    fn release(&mut self, count: usize, released: &mut Vec<Undo>) {
        if count == 0 {
            return;
        }
        released.extend(self.undo.drain(..count).map(|published| published.change.undo));
        if self.undo.len() <= UNDO_SPARE {
            self.undo.shrink_to(UNDO_SPARE);
        }
    }

    /// Rolls back every published change with a sequence above `committed`: their batch will never be committed.
    pub fn abort_after(&mut self, committed: u64) {
        while self.undo.back().is_some_and(|published| published.sequence > committed)
            && let Some(aborted) = self.undo.pop_back()
        {
            self.roll_back(aborted.change);
        }
        self.sequences.iter_mut().for_each(|sequence| *sequence = committed.min(*sequence));
        self.newest = self.newest.min(committed);
    }
}

/// About how many bytes of the file are superseded once `length` bytes are written at `offset` of a value.
pub fn overwritten_bytes(old: View<'_>, offset: usize, length: usize) -> usize {
    let (start, end) = (offset.min(old.len()), (offset + length).min(old.len()));
    old.written(start..end).map(quoted_bytes).sum()
}

/// `old`, or nothing, with `bytes` written at `offset`.
pub fn spliced(old: Option<View<'_>>, offset: usize, bytes: &[u8]) -> Result<Value, NoMemory> {
    let mut value = old.map_or_else(|| Ok(Value::default()), View::share)?;
    value.reserve(offset, bytes.len())?;
    value.write(offset, bytes);
    Ok(value)
}

/// The entries whose keys have this hash: a table looks at a few bits of it only.
fn with_hash<'t>(
    entries: &'t HashTable<Entry>,
    hash: u64,
    hashing: &'t Hashing,
) -> impl Iterator<Item = &'t Entry> {
    entries.iter_hash(hash).filter(move |entry| hashing.hash(entry.key()) == hash)
}

/// Whether all of some entries have expired; none if there is no entry.
fn have_expired<'e>(entries: impl Iterator<Item = &'e Entry>) -> Option<bool> {
    let mut entries = entries.peekable();
    entries.peek()?;
    let now_ms = unix_time_ms();
    Some(entries.all(|entry| entry.is_expired(now_ms)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::Key;
    use crate::engine::local::store::Store;

    /// One change to a shard.
    #[derive(Clone, Debug)]
    enum Step {
        Put { key: u8, length: usize, expires_ms: Option<u64> },
        Grow { key: u8, length: usize },
        Splice { key: u8, offset: usize, length: usize },
        Expire { key: u8, expires_ms: Option<u64> },
        Remove { key: u8 },
        Clear,
        Swap,
    }

    fn steps() -> impl Strategy<Value = Step> {
        let time = || proptest::option::of(1..100_u64);
        prop_oneof![
            4 => (0..4_u8, 0..40_usize, time())
                .prop_map(|(key, length, expires_ms)| Step::Put { key, length, expires_ms }),
            2 => (0..4_u8, 0..40_usize).prop_map(|(key, length)| Step::Grow { key, length }),
            3 => (0..4_u8, 0..50_usize, 1..30_usize)
                .prop_map(|(key, offset, length)| Step::Splice { key, offset, length }),
            2 => (0..4_u8, time()).prop_map(|(key, expires_ms)| Step::Expire { key, expires_ms }),
            2 => (0..4_u8).prop_map(|key| Step::Remove { key }),
            1 => Just(Step::Clear),
            1 => Just(Step::Swap),
        ]
    }

    /// Database, key, value and expiry of each key, and what the queues of times say of them.
    type State = (BTreeMap<(usize, Vec<u8>), (Vec<u8>, Option<u64>)>, Vec<(usize, u128)>);

    fn state(shard: &Shard) -> State {
        let mut all = BTreeMap::new();
        for database in 0..2 {
            for entry in shard.entries(database) {
                let value = (entry.value().to_vec(), entry.expires_ms());
                all.insert((database, entry.key().to_vec()), value);
            }
        }
        let queue = |table: &Table| (table.expiry.len(), table.expiry.sum_ms());
        (all, (0..2).map(|database| shard.table(database).map_or((0, 0), queue)).collect())
    }

    fn apply(shard: &mut Shard, store: &Store, step: &Step, fill: u8) -> Option<Change> {
        let slot = |key: u8| store.slot(Key { database: 0, bytes: &[key] });
        let bytes = |length: usize| vec![fill; length];
        let (slot, undo) = match *step {
            Step::Put { key, length, expires_ms } => {
                let value = bytes(length);
                let entry = Entry::new(&[key], View::Short(&value), expires_ms).unwrap();
                (slot(key), Some(shard.put(slot(key), entry).unwrap()))
            }
            Step::Grow { key, length } => {
                let value = Value::copy_of(&bytes(length)).unwrap();
                let entry = Entry::grown(&[key], value, None).unwrap();
                (slot(key), Some(shard.put(slot(key), entry).unwrap()))
            }
            Step::Splice { key, offset, length } => {
                let spliced = shard.splice(slot(key), &[key], offset, &bytes(length));
                (slot(key), spliced.unwrap())
            }
            Step::Expire { key, expires_ms } => {
                (slot(key), shard.expire(slot(key), &[key], expires_ms).unwrap())
            }
            Step::Remove { key } => (slot(key), shard.remove(slot(key), &[key]).map(Undo::Deleted)),
            Step::Clear => (KeySlot::of_database(0, 0), shard.clear(0)),
            Step::Swap => (KeySlot::of_database(0, 0), Some(shard.swap(0, 1))),
        };
        undo.map(|undo| Change { slot, undo })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Published changes are rolled back to any sequence, and unpublished ones to any number: to the state of then.
        #[test]
        fn changes_are_undone_to_any_state(
            steps in proptest::collection::vec(steps(), 1..30),
            released in 0..5_u64,
            committed in any::<prop::sample::Index>(),
            kept in any::<prop::sample::Index>(),
        ) {
            let store = Store::default();
            // Any of its shards will do: all hash alike.
            let mut shard = store.lock(0);
            let mut states = vec![state(&shard)];
            for (step, sequence) in steps.iter().zip(1..) {
                if let Some(change) = apply(&mut shard, &store, step, sequence as u8) {
                    prop_assert!(shard.publish(change, sequence) > 0);
                    prop_assert_eq!(shard.newest(), sequence);
                }
                states.push(state(&shard));
                if sequence == released {
                    let mut undo = Vec::new();
                    shard.release_light(sequence, &mut undo);
                    prop_assert!(undo.len() <= sequence as usize);
                }
            }
            let last = steps.len() as u64;
            let first = released.min(last);
            let committed = first + committed.index((last - first) as usize + 1) as u64;
            shard.abort_after(committed);
            prop_assert_eq!(&state(&shard), &states[committed as usize]);
            prop_assert!(shard.newest() <= committed);

            let mut changes = Vec::new();
            let mut states = vec![state(&shard)];
            for (step, fill) in steps.iter().zip(100_u8..) {
                if let Some(change) = apply(&mut shard, &store, step, fill) {
                    changes.push(change);
                    states.push(state(&shard));
                }
            }
            let kept = kept.index(changes.len() + 1);
            changes.drain(kept..).rev().for_each(|change| shard.roll_back(change));
            prop_assert_eq!(&state(&shard), &states[kept]);
        }
    }

    #[test]
    fn a_sequence_speaks_for_its_key() {
        let store = Store::default();
        let slot = store.slot(Key { database: 0, bytes: b"a" });
        let mut shard = store.lock(0);
        let undo = shard.put(slot, Entry::new(b"a", View::Short(b""), None).unwrap()).unwrap();
        shard.publish(Change { slot, undo }, 7);
        assert_eq!((shard.sequence(slot), shard.newest()), (7, 7));
        let undo = shard.clear(0).unwrap();
        assert!(shard.clear(0).is_none(), "an empty database has nothing to undo");
        shard.publish(Change { slot: KeySlot::of_database(0, 0), undo }, 9);
        let other = store.slot(Key { database: 0, bytes: b"b" });
        assert_eq!(shard.sequence(other), 9);
    }
}
