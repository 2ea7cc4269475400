//! What a transaction writes: how it sees the databases meanwhile, and what that is in etcd in the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::gateway::Operation;
use super::layout::{Layout, Part, encode, encode_time};
use crate::engine::{Entry, Key};

/// What a transaction makes of a database.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// All that was stored before is deleted.
    pub is_cleared: bool,
    /// What was written since: values, and deletions.
    pub writes: BTreeMap<Vec<u8>, Option<Arc<Entry>>>,
}

/// What it makes of all, and how to undo that.
#[derive(Debug, Default)]
pub struct Views {
    views: BTreeMap<usize, View>,
    undo: Vec<Undo>,
}

/// What a write replaced in the views.
#[derive(Debug)]
enum Undo {
    /// Of a database the write of a key.
    Write(usize, Vec<u8>, Option<Option<Arc<Entry>>>),
    /// All of a database.
    View(usize, View),
}

impl Views {
    /// Whether nothing was written.
    pub fn is_unchanged(&self) -> bool {
        self.undo.is_empty()
    }

    /// What was written of a database.
    pub fn of(&self, database: usize) -> Option<&View> {
        self.views.get(&database)
    }

    /// The same of all in which something was.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &View)> {
        self.views.iter().map(|(database, view)| (*database, view))
    }

    /// Whether all that is stored of a database is deleted.
    pub fn is_cleared(&self, database: usize) -> bool {
        self.of(database).is_some_and(|view| view.is_cleared)
    }

    /// The databases of which all that is stored is deleted, in ascending order.
    pub fn cleared(&self) -> impl Iterator<Item = usize> {
        self.iter().filter(|(_, view)| view.is_cleared).map(|(database, _)| database)
    }

    /// What was made of a key; none if that is what is stored.
    pub fn get(&self, key: Key<'_>) -> Option<Option<Arc<Entry>>> {
        let view = self.of(key.database)?;
        let written = view.writes.get(key.bytes).cloned();
        if view.is_cleared { Some(written.flatten()) } else { written }
    }

    /// Writes an entry, or a deletion.
    pub fn write(&mut self, key: Key<'_>, entry: Option<Arc<Entry>>) {
        let writes = &mut self.views.entry(key.database).or_default().writes;
        let old = writes.insert(key.bytes.to_vec(), entry);
        self.undo.push(Undo::Write(key.database, key.bytes.to_vec(), old));
    }

    /// Deletes all of a database.
    pub fn clear(&mut self, database: usize) {
        let view = View { is_cleared: true, writes: BTreeMap::new() };
        let old = self.views.insert(database, view).unwrap_or_default();
        self.undo.push(Undo::View(database, old));
    }

    /// The state so far.
    pub fn savepoint(&self) -> usize {
        self.undo.len()
    }

    /// Undoes everything since `savepoint`.
    pub fn roll_back(&mut self, savepoint: usize) {
        for undo in self.undo.drain(savepoint..).rev() {
            match undo {
                Undo::View(database, old) => drop(self.views.insert(database, old)),
                Undo::Write(database, key, old) => {
                    let writes = &mut self.views.entry(database).or_default().writes;
                    match old {
                        Some(old) => drop(writes.insert(key, old)),
                        None => drop(writes.remove(&key)),
                    }
                }
            }
        }
    }
}

/// What is stored of a key before it is written.
#[derive(Clone, Copy, Debug)]
pub enum Change<'e> {
    /// It was not read.
    Anything,
    /// Nothing.
    Nothing,
    /// An entry, which may have expired.
    Entry(&'e Entry),
}

/// The steps of a transaction of etcd.
#[derive(Debug)]
pub struct Changes<'l> {
    layout: &'l Layout,
    /// By name: what is put, or that it is deleted. etcd takes each name once.
    names: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// What is deleted between them.
    ranges: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'l> Changes<'l> {
    /// No steps.
    pub fn new(layout: &'l Layout) -> Self {
        Self { layout, names: BTreeMap::new(), ranges: Vec::new() }
    }

    /// Writes an entry, or a deletion, in the place of what is stored.
    pub fn write(&mut self, key: Key<'_>, before: Change<'_>, entry: Option<&Entry>) {
        let (name, time) =
            (self.layout.name(Part::Values, key), self.layout.name(Part::Times, key));
        let old_time = match before {
            Change::Anything => None,
            Change::Nothing => Some(None),
            Change::Entry(entry) => Some(entry.expires_ms()),
        };
        let new_time = entry.and_then(Entry::expires_ms);
        if old_time != Some(new_time) {
            self.names.insert(time, new_time.map(encode_time));
        }
        match entry {
            Some(entry) => drop(self.names.insert(name, Some(encode(entry)))),
            None => {
                if !matches!(before, Change::Nothing) {
                    self.names.insert(name, None);
                }
                // A connection that watches the missing key finds that it came and went.
                self.names.insert(self.layout.name(Part::Deletions, key), Some(Vec::new()));
            }
        }
    }

    /// Deletes all that is stored of some databases, in ascending order.
    pub fn clear(&mut self, databases: &[usize]) {
        if databases.is_empty() {
            return;
        }
        for together in databases.chunk_by(|one, next| one + 1 == *next) {
            let databases = together[0]..together[together.len() - 1] + 1;
            for part in [Part::Values, Part::Times] {
                self.ranges.push(self.layout.range(part, databases.clone()));
            }
        }
        self.names.insert(self.layout.cleared_name(), Some(Vec::new()));
    }

    /// The steps, in the order of their names.
    pub fn operations(self) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (start, end) in self.ranges {
            // etcd refuses to put what the same transaction deletes, so the ranges leave out what is put.
            let mut from = start.clone();
            for (name, _) in self.names.range(start..end.clone()) {
                if from < *name {
                    operations.push(Operation::delete_range(from, name.clone()));
                }
                from = [name, &b"\0"[..]].concat();
            }
            operations.push(Operation::delete_range(from, end));
        }
        operations.extend(self.names.into_iter().map(|(name, value)| match value {
            Some(value) => Operation::put(name, value),
            None => Operation::delete(name),
        }));
        operations
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::View as Bytes;

    const fn key(bytes: &[u8]) -> Key<'_> {
        Key { database: 0, bytes }
    }

    fn entry(expires_ms: Option<u64>) -> Entry {
        Entry::new(b"a", Bytes::Short(b"v"), expires_ms).unwrap()
    }

    fn layout() -> Layout {
        Layout::of("/", &Layout::new_description([1, 2])).unwrap()
    }

    /// What is put (`+`) and deleted (`-`), by the first letter of its name.
    fn steps(change: impl FnOnce(&mut Changes<'_>)) -> String {
        let layout = layout();
        let mut changes = Changes::new(&layout);
        change(&mut changes);
        let letter = |name: &super::super::gateway::Bytes| char::from(name.0[1]);
        let shown = changes.operations().into_iter().map(|operation| match operation {
            Operation::Put { key, .. } => format!("+{}", letter(&key)),
            Operation::Delete { key, range_end: None } => format!("-{}", letter(&key)),
            Operation::Delete { key, .. } => format!("*{}", letter(&key)),
            Operation::Range(_) | Operation::Txn(_) => "?".to_owned(),
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_key_takes_as_few_steps_as_what_is_known_of_it_allows() {
        let (never, soon) = (entry(None), entry(Some(7)));
        let write = |before, after| steps(|changes| changes.write(key(b"a"), before, after));
        assert_eq!(write(Change::Anything, Some(&never)), "-e +k");
        assert_eq!(write(Change::Nothing, Some(&never)), "+k");
        assert_eq!(write(Change::Entry(&never), Some(&never)), "+k");
        assert_eq!(write(Change::Entry(&soon), Some(&never)), "-e +k");
        assert_eq!(write(Change::Entry(&soon), Some(&soon)), "+k");
        assert_eq!(write(Change::Anything, Some(&soon)), "+e +k");
        assert_eq!(write(Change::Entry(&never), None), "+d -k");
        assert_eq!(write(Change::Entry(&soon), None), "+d -e -k");
        // It came and went within the transaction.
        assert_eq!(write(Change::Nothing, None), "+d");
    }

    #[test]
    fn what_is_put_is_left_out_of_what_is_deleted() {
        assert_eq!(steps(|changes| changes.clear(&[0, 1, 2])), "*k *e +c");
        assert_eq!(steps(|changes| changes.clear(&[0, 2])), "*k *e *k *e +c");
        let both = |changes: &mut Changes<'_>| {
            changes.write(key(b"a"), Change::Nothing, Some(&entry(Some(7))));
            changes.clear(&[0]);
        };
        assert_eq!(steps(both), "*k *k *e *e +c +e +k");
    }

    #[test]
    fn a_view_is_what_was_written_and_can_be_undone() {
        let (mut views, new) = (Views::default(), Arc::new(entry(None)));
        views.write(key(b"a"), Some(Arc::clone(&new)));
        let savepoint = views.savepoint();
        views.write(key(b"a"), None);
        views.clear(0);
        views.write(key(b"b"), Some(new));
        assert!(views.is_cleared(0) && views.cleared().eq([0]));
        assert!(matches!(views.get(key(b"a")), Some(None)), "it is known to be gone");
        assert!(matches!(views.get(key(b"b")), Some(Some(_))));
        views.roll_back(savepoint);
        assert!(matches!(views.get(key(b"a")), Some(Some(_))));
        assert!(views.get(key(b"b")).is_none() && !views.is_cleared(0));
        views.roll_back(0);
        assert!(views.is_unchanged() && views.get(key(b"a")).is_none());
    }
}
