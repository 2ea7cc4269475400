//! What stands for a cluster: the keys of all databases, each with the revision of its last change.
//!
//! Every commit has a revision of its own, so two states of a key never have the same one, but for a key that is not
//! there: that has the revision of its deletion while some connection watches keys, else 0.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use coffre::engine::{Counts, Entry};
use coffre::limits::EXPIRED_AT_ONCE;
use coffre::util::clock::unix_time_ms;

/// A key, its value, and when they were last changed and accessed.
pub struct Stored {
    pub entry: Arc<Entry>,
    pub revision: u64,
    pub accessed: Instant,
}

/// The keys of a database, in the order of their hashes.
#[derive(Default)]
pub struct Database {
    /// By [`order`]. None is empty.
    buckets: BTreeMap<u64, Vec<Stored>>,
    /// The keys that expire, by when they do.
    expiry: BTreeSet<(u64, Vec<u8>)>,
    /// Of what is in `buckets`.
    pub counts: Counts,
    /// When any of them was last changed.
    pub revision: u64,
}

/// What a transaction makes of a database.
#[derive(Default)]
pub struct View {
    /// The number of the database that it begins with, or of none: then it begins empty.
    pub source: Option<usize>,
    /// What was written since: values, and deletions.
    pub writes: BTreeMap<Vec<u8>, Option<Arc<Entry>>>,
}

/// Every database.
pub struct Store {
    pub databases: Vec<Database>,
    /// The last one given.
    revision: u64,
    /// When keys were deleted, while some connection watches.
    deleted: HashMap<(usize, Vec<u8>), u64>,
}

/// What a commit replaced, to be freed with nothing locked.
#[derive(Default)]
pub struct Garbage(Vec<Stored>, Vec<Database>);

/// The place of a key: its hash, cut so that a cursor may be one more.
pub fn order(key: &[u8]) -> u64 {
    const UNUSED_BITS: u32 = 16;
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() >> UNUSED_BITS
}

impl Database {
    pub fn get(&self, key: &[u8]) -> Option<&Stored> {
        let bucket = self.buckets.get(&order(key))?;
        bucket.iter().find(|stored| stored.entry.key() == key)
    }

    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut Stored> {
        let bucket = self.buckets.get_mut(&order(key))?;
        bucket.iter_mut().find(|stored| stored.entry.key() == key)
    }

    /// The keys whose place is not before `first`, by place.
    pub fn from(&self, first: u64) -> impl Iterator<Item = (u64, &[Stored])> {
        self.buckets.range(first..).map(|(order, bucket)| (*order, &bucket[..]))
    }

    fn all(&self) -> impl Iterator<Item = &Stored> {
        self.buckets.values().flatten()
    }

    fn put(&mut self, entry: Arc<Entry>, revision: u64) -> Option<Stored> {
        let replaced = self.remove(entry.key());
        count(&mut self.counts, &entry, true);
        self.expiry.extend(entry.expires_ms().map(|time_ms| (time_ms, entry.key().to_vec())));
        let bucket = self.buckets.entry(order(entry.key())).or_default();
        bucket.push(Stored { entry, revision, accessed: Instant::now() });
        replaced
    }

    fn remove(&mut self, key: &[u8]) -> Option<Stored> {
        let order = order(key);
        let bucket = self.buckets.get_mut(&order)?;
        let place = bucket.iter().position(|stored| stored.entry.key() == key)?;
        let removed = bucket.swap_remove(place);
        if bucket.is_empty() {
            self.buckets.remove(&order);
        }
        count(&mut self.counts, &removed.entry, false);
        if let Some(time_ms) = removed.entry.expires_ms() {
            self.expiry.remove(&(time_ms, key.to_vec()));
        }
        Some(removed)
    }
}

/// Adds an entry to `counts`, or takes it off.
pub fn count(counts: &mut Counts, entry: &Entry, is_added: bool) {
    let expires_ms = entry.expires_ms().map(u128::from);
    let (expiring, sum_ms) = (usize::from(expires_ms.is_some()), expires_ms.unwrap_or(0));
    if is_added {
        counts.keys += 1;
        counts.expiring += expiring;
        counts.expiry_sum_ms += sum_ms;
    } else {
        counts.keys -= 1;
        counts.expiring -= expiring;
        counts.expiry_sum_ms -= sum_ms;
    }
}

impl Store {
    pub fn new(databases: usize) -> Self {
        let databases = (0..databases).map(|_| Database::default()).collect();
        Self { databases, revision: 0, deleted: HashMap::new() }
    }

    /// The revision of a key, whether it exists or not.
    pub fn revision(&self, database: usize, key: &[u8]) -> u64 {
        match self.databases[database].get(key) {
            Some(stored) => stored.revision,
            None => self.deleted_revision(database, key),
        }
    }

    /// When a key that does not exist, or has expired, was last deleted, or written before that; 0 if that is not known.
    pub fn deleted_revision(&self, database: usize, key: &[u8]) -> u64 {
        match self.deleted.is_empty() {
            true => 0,
            false => self.deleted.get(&(database, key.to_vec())).copied().unwrap_or(0),
        }
    }

    /// The next commit writes these keys, whatever it makes of them in the end.
    pub fn remember(&mut self, written: impl Iterator<Item = (usize, Vec<u8>)>) {
        self.deleted.extend(written.map(|place| (place, self.revision + 1)));
    }

    /// Makes the databases what `views` are, one for each: in one commit. Remembers deletions if some connection
    /// watches.
    pub fn install(&mut self, views: Vec<View>, is_watched: bool) -> Garbage {
        self.revision += 1;
        let mut garbage = Garbage::default();
        if !is_watched {
            self.deleted.clear();
        }
        if views.iter().enumerate().any(|(number, view)| view.source != Some(number)) {
            self.rearrange(&views, is_watched, &mut garbage);
        }
        for (number, view) in views.into_iter().enumerate() {
            let database = &mut self.databases[number];
            for (key, entry) in view.writes {
                database.revision = self.revision;
                garbage.0.extend(match entry {
                    Some(entry) => database.put(entry, self.revision),
                    None => database.remove(&key),
                });
                if is_watched {
                    self.deleted.insert((number, key), self.revision);
                }
            }
        }
        garbage
    }

    /// Puts the database in each place with which its view begins. All keys of a place where that is another one are
    /// changed.
    fn rearrange(&mut self, views: &[View], is_watched: bool, garbage: &mut Garbage) {
        let now_ms = unix_time_ms();
        let mut old: Vec<_> = std::mem::take(&mut self.databases).into_iter().map(Some).collect();
        if is_watched {
            for (number, _) in views.iter().enumerate().filter(|(n, view)| view.source != Some(*n))
            {
                // One that had expired is changed for those only that saw it: they find that it is gone.
                let gone = old[number].iter().flat_map(Database::all);
                let gone = gone.filter(|stored| !stored.entry.is_expired(now_ms));
                let gone = gone.map(|stored| (number, stored.entry.key().to_vec()));
                self.deleted.extend(gone.map(|place| (place, self.revision)));
            }
        }
        for (number, view) in views.iter().enumerate() {
            let mut database = view.source.and_then(|source| old[source].take());
            if view.source != Some(number) {
                let database = database.get_or_insert_default();
                database.revision = self.revision;
                let all = database.buckets.values_mut().flatten();
                all.for_each(|stored| stored.revision = self.revision);
            }
            self.databases.push(database.unwrap_or_default());
        }
        garbage.1.extend(old.into_iter().flatten());
    }

    /// Removes what has expired at `now_ms`, at most [`EXPIRED_AT_ONCE`] keys. A key that was seen to have expired is
    /// the same after that, so nothing is remembered of its deletion.
    pub fn delete_expired(&mut self, now_ms: u64) -> Vec<Stored> {
        let mut deleted = Vec::new();
        for database in &mut self.databases {
            while deleted.len() < EXPIRED_AT_ONCE
                && let Some((expires_ms, key)) = database.expiry.pop_first()
            {
                if expires_ms > now_ms {
                    database.expiry.insert((expires_ms, key));
                    break;
                }
                self.revision += 1;
                database.revision = self.revision;
                deleted.extend(database.remove(&key));
            }
        }
        deleted
    }
}
