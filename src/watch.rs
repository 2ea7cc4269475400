//! Who watches keys, to know whether somebody changed one.
//!
//! A shard writes down who watches which of its keys, by their hashes: two keys of one hash are taken for each other,
//! which at worst reports a change where there was none. Who stops watching drops its [`Watch`], and is forgotten.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Held by who watches; knows whether one of the keys was changed.
#[derive(Debug, Default)]
pub struct Watch {
    changed: AtomicBool,
}

impl Watch {
    /// Whether one of the keys was changed. Exact with their shards locked.
    pub fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }
}

/// Who watches the keys of a shard.
#[derive(Debug, Default)]
pub struct Watchers {
    /// By the key's hash: whether the key was there, and who.
    by_hash: HashMap<u64, Vec<(bool, Weak<Watch>)>>,
    /// How many there may be before those are looked for who do not watch any more.
    many: usize,
}

impl Watchers {
    /// Adds one.
    pub fn add(&mut self, hash: u64, exists: bool, watch: &Arc<Watch>) {
        const FEW: usize = 16;
        if self.by_hash.len() >= self.many {
            self.by_hash.retain(|_, watchers| {
                watchers.retain(|(_, watch)| watch.strong_count() > 0);
                !watchers.is_empty()
            });
            self.many = FEW.max(2 * self.by_hash.len());
        }
        let watchers = self.by_hash.entry(hash).or_default();
        watchers.retain(|(_, watch)| watch.strong_count() > 0);
        watchers.push((exists, Arc::downgrade(watch)));
    }

    /// A key was changed.
    pub fn changed(&mut self, hash: u64) {
        self.tell(hash, |_| true);
    }

    /// A key is gone because it expired: who has seen it gone already knows.
    pub fn expired(&mut self, hash: u64) {
        self.tell(hash, |existed| existed);
    }

    /// Every key was removed; `exists` says whether one was there.
    pub fn cleared(&mut self, exists: impl Fn(u64) -> bool) {
        let hashes: Vec<_> = self.by_hash.keys().copied().filter(|hash| exists(*hash)).collect();
        hashes.into_iter().for_each(|hash| self.changed(hash));
    }

    fn tell(&mut self, hash: u64, concerns: impl Fn(bool) -> bool) {
        if self.by_hash.is_empty() {
            return;
        }
        for (existed, watch) in self.by_hash.get(&hash).into_iter().flatten() {
            if let (true, Some(watch)) = (concerns(*existed), watch.upgrade()) {
                watch.changed.store(true, Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_watches_learns_of_a_change() {
        let (mut watchers, one, two) =
            (Watchers::default(), Arc::<Watch>::default(), Arc::<Watch>::default());
        watchers.add(1, true, &one);
        watchers.add(2, false, &two);
        watchers.expired(2);
        watchers.changed(3);
        assert!(!one.is_changed() && !two.is_changed());
        watchers.expired(1);
        watchers.cleared(|hash| hash == 1);
        assert!(one.is_changed() && !two.is_changed());
        watchers.changed(2);
        assert!(two.is_changed());
    }

    #[test]
    fn who_watches_no_more_is_forgotten() {
        let mut watchers = Watchers::default();
        for hash in 0..10_000 {
            watchers.add(hash, true, &Arc::default());
        }
        assert!(watchers.by_hash.len() <= 16);
    }
}
