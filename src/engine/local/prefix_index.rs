//! Finds keys by how they begin, without a look at all the others.
//!
//! Each shard may have an index: its keys once more, sorted. A search is a binary search in each, and takes time
//! by what it finds. There is none until somebody searches; whoever never does pays nothing. From then on a
//! shard writes down, in no order, which of its keys are new ([`News`]), and the next search sorts them in, once
//! they are more than a few. Keys that are gone stay in the index, until they are too many: it says what may be
//! there, and who asks looks for what it found among the entries.
//!
//! An index is given up, and built again by the next search, when half its keys are gone, when changes were taken
//! back, or when more keys are new than there are: nobody has searched for long.
//!
//! Its price is in docs/performance.md: what it adds to each key, and how much a `SET` of a new key gets slower.

use crate::engine::local::key_arena::KeyList;
use crate::limits::{NEWS_KEYS_MAX, NEWS_SHARE};
use crate::util::memory::NoMemory;

/// What an index does not know yet.
#[derive(Debug, Default)]
pub struct News {
    /// Keys that are new, in the order they came.
    pub keys: KeyList,
    /// How many keys are gone that the index may still have.
    pub gone: usize,
}

impl News {
    /// Whether there is so much that the index is not worth keeping, of a shard with `count` keys.
    pub fn is_too_much(&self, count: usize) -> bool {
        self.gone > (count / 2).max(NEWS_KEYS_MAX) || self.keys.len() > count.max(NEWS_KEYS_MAX)
    }
}

/// The keys of a shard, sorted; some may be gone.
#[derive(Debug, Default)]
pub struct Index {
    sorted: KeyList,
}

impl Index {
    /// An index of these keys, in any order.
    pub fn new(keys: &KeyList) -> Result<Self, NoMemory> {
        let mut index = Self::default();
        index.add(keys)?;
        Ok(index)
    }

    /// Whether so many new keys are better sorted in than looked through each time.
    pub fn should_add(&self, count: usize) -> bool {
        count > (self.sorted.len() / NEWS_SHARE).max(NEWS_KEYS_MAX)
    }

    /// Sorts more keys in. After an error the index is as it was.
    pub fn add(&mut self, keys: &KeyList) -> Result<(), NoMemory> {
        self.sorted = self.merged(keys)?;
        Ok(())
    }

    fn merged(&self, keys: &KeyList) -> Result<KeyList, NoMemory> {
        let mut news: Vec<&[u8]> = Vec::new();
        news.try_reserve_exact(keys.len())?;
        news.extend(keys.iter_from(0));
        news.sort_unstable();
        let mut merged = KeyList::default();
        let (count, bytes) = (self.sorted.len() + keys.len(), self.sorted.length() + keys.length());
        merged.reserve(count, bytes)?;
        let mut old = self.sorted.iter_from(0).peekable();
        let mut news = news.into_iter().peekable();
        loop {
            let next = match (old.peek(), news.peek()) {
                (Some(a), Some(b)) if a <= b => old.next(),
                (Some(_), None) => old.next(),
                _ => news.next(),
            };
            let Some(key) = next else { break };
            // A key that was gone and came again is there twice.
            if merged.last() != Some(key) {
                merged.push(key)?;
            }
        }
        Ok(merged)
    }

    /// Whether a key is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.find(key).next() == Some(key)
    }

    /// The keys that begin with `prefix`.
    pub fn find(&self, prefix: &[u8]) -> impl Iterator<Item = &[u8]> {
        let first = self.sorted.position(prefix);
        self.sorted.iter_from(first).take_while(move |key| key.starts_with(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list<'a>(keys: impl IntoIterator<Item = &'a str>) -> KeyList {
        let mut list = KeyList::default();
        keys.into_iter().for_each(|key| list.push(key.as_bytes()).unwrap());
        list
    }

    #[test]
    fn keys_are_found_by_how_they_begin() {
        let mut index = Index::new(&list(["b", "ab", "", "a", "abc", "b"])).unwrap();
        let found = |index: &Index, prefix: &str| -> Vec<String> {
            let name = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
            index.find(prefix.as_bytes()).map(name).collect()
        };
        assert_eq!(found(&index, "a"), ["a", "ab", "abc"]);
        assert_eq!(found(&index, "abcd"), [""; 0]);
        assert_eq!(found(&index, ""), ["", "a", "ab", "abc", "b"]);
        index.add(&list(["abb", "a", "c"])).unwrap();
        assert_eq!(found(&index, "ab"), ["ab", "abb", "abc"]);
        assert_eq!(found(&index, ""), ["", "a", "ab", "abb", "abc", "b", "c"]);
    }

    #[test]
    fn random_keys_are_found_as_a_scan_finds_them() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut key =
                || -> Vec<u8> { (0..random.usize(..4)).map(|_| random.u8(b'a'..b'd')).collect() };
            let (mut index, mut all) = (Index::default(), std::collections::BTreeSet::new());
            for _ in 0..5 {
                let mut keys = KeyList::default();
                for _ in 0..10 {
                    let key = key();
                    keys.push(&key).unwrap();
                    all.insert(key);
                }
                index.add(&keys).unwrap();
                let prefix = key();
                let expected: Vec<_> =
                    all.iter().filter(|key| key.starts_with(&prefix)).cloned().collect();
                let found: Vec<_> = index.find(&prefix).map(<[u8]>::to_vec).collect();
                assert_eq!(found, expected, "seed {seed}");
            }
        }
    }
}
