//! The keys of a shard's database in order, to find those that begin alike.
//!
//! There is no index until a search asks for one, so a server that is never searched by prefix pays nothing. That search
//! looks at every key, and a thread that no client waits for builds the index. From then on each key that comes or goes is
//! put in or taken out. An index is given up when more keys came and went since the
//! last search than there are: keeping it costs more than building it again.
//!
//! Its price is in docs/performance.md: what it adds to each key, and how much a `SET` of a new key gets slower.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::key_arena::KeyArena;
use crate::util::buffer::Buffer;
use crate::util::memory::{self, NoMemory};

/// Below so many changes since the last search no index is given up.
const CHANGES_MIN: usize = 1024;

/// An ordered set of keys.
#[derive(Debug, Default)]
pub struct PrefixIndex {
    keys: BTreeSet<Box<[u8]>>,
    /// Keys that came or went since the last search.
    changes: usize,
}

impl PrefixIndex {
    /// An index of these keys.
    pub fn new(keys: &KeyArena) -> Result<Self, NoMemory> {
        let mut sorted = Buffer::with_capacity(keys.len())?;
        keys.iter().try_for_each(|key| sorted.push(key))?;
        sorted.sort_unstable();
        let keys: Result<_, NoMemory> = sorted.iter().map(|key| copy(key)).collect();
        Ok(Self { keys: keys?, changes: 0 })
    }

    /// A key is new. An error if there is no memory for it: the index lacks a key then, and is of no use.
    pub fn insert(&mut self, key: &[u8]) -> Result<(), NoMemory> {
        self.changes += 1;
        self.keys.insert(copy(key)?);
        Ok(())
    }

    /// A key is gone.
    pub fn remove(&mut self, key: &[u8]) {
        self.changes += 1;
        self.keys.remove(key);
    }

    /// Whether it costs more than it saves.
    pub fn is_unused(&self) -> bool {
        self.changes > self.keys.len().max(CHANGES_MIN)
    }

    /// The keys that begin with `prefix`, in order.
    pub fn find(&mut self, prefix: &[u8]) -> impl Iterator<Item = &[u8]> {
        self.changes = 0;
        let range = (Bound::Included(prefix), Bound::Unbounded);
        let keys = self.keys.range::<[u8], _>(range).map(|key| &**key);
        keys.take_while(move |key| key.starts_with(prefix))
    }
}

fn copy(key: &[u8]) -> Result<Box<[u8]>, NoMemory> {
    Ok(memory::copy(key, 0)?.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_their_prefix() {
        let mut arena = KeyArena::default();
        ["b", "ab", "", "a", "abc"].iter().for_each(|key| arena.push(key.as_bytes()).unwrap());
        let mut index = PrefixIndex::new(&arena).unwrap();
        let found = |index: &mut PrefixIndex, prefix: &str| -> Vec<String> {
            let name = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
            index.find(prefix.as_bytes()).map(name).collect()
        };
        assert_eq!(found(&mut index, "a"), ["a", "ab", "abc"]);
        assert_eq!(found(&mut index, "abcd"), [""; 0]);
        assert_eq!(found(&mut index, ""), ["", "a", "ab", "abc", "b"]);
        index.insert(b"abb").unwrap();
        index.remove(b"ab");
        assert_eq!(found(&mut index, "ab"), ["abb", "abc"]);
    }

    #[test]
    fn an_index_that_nothing_searches_is_given_up() {
        let mut index = PrefixIndex::default();
        for _ in 0..CHANGES_MIN {
            index.insert(b"key").unwrap();
        }
        assert!(!index.is_unused());
        index.insert(b"key").unwrap();
        assert!(index.is_unused());
        assert_eq!(index.find(b"k").count(), 1);
        assert!(!index.is_unused());
    }
}
