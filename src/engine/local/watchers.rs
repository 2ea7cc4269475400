//! The connections that watch keys of a shard, to be told when one is modified.
//!
//! A shard knows them by the slots of the keys: two keys of one hash are taken for each other, which at worst reports a
//! modification where there was none. A connection that stops watching drops its [`Watched`] and is forgotten.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::store::KeySlot;
use crate::util::memory::NoMemory;

/// What a connection remembers of a key that it watches.
#[derive(Debug)]
pub struct Watched {
    /// The key existed when it began to watch.
    pub existed: bool,
    is_modified: Arc<AtomicBool>,
}

impl Watched {
    /// Whether the key was modified since. Exact with its shard locked, but for its expiry.
    pub fn is_modified(&self) -> bool {
        self.is_modified.load(Ordering::Acquire)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Watchers {
    by_slot: HashMap<KeySlot, Vec<Watcher>>,
    /// At so many slots those without a watcher are removed.
    sweep_at: usize,
}

#[derive(Debug)]
struct Watcher {
    existed: bool,
    is_modified: Weak<AtomicBool>,
}

impl Watchers {
    /// Adds a watcher of a key; an error if there is no memory for it.
    pub fn add(&mut self, slot: KeySlot, existed: bool) -> Result<Watched, NoMemory> {
        const SLOTS_MIN: usize = 16;
        let is_watching = |watcher: &Watcher| watcher.is_modified.strong_count() > 0;
        if self.by_slot.len() >= self.sweep_at {
            self.by_slot.retain(|_, watchers| {
                watchers.retain(is_watching);
                !watchers.is_empty()
            });
            self.sweep_at = SLOTS_MIN.max(2 * self.by_slot.len());
        }
        self.by_slot.try_reserve(1)?;
        let watchers = self.by_slot.entry(slot).or_default();
        watchers.retain(is_watching);
        watchers.try_reserve(1)?;
        let is_modified = Arc::new(AtomicBool::new(false));
        watchers.push(Watcher { existed, is_modified: Arc::downgrade(&is_modified) });
        Ok(Watched { existed, is_modified })
    }

    /// A key was modified. If it expired, only those are told that saw it exist.
    pub fn notify(&self, slot: KeySlot, has_expired: bool) {
        if self.by_slot.is_empty() {
            return;
        }
        for watcher in self.by_slot.get(&slot).into_iter().flatten() {
            if let (true, Some(flag)) =
                (watcher.existed || !has_expired, watcher.is_modified.upgrade())
            {
                flag.store(true, Ordering::Release);
            }
        }
    }

    /// The watched keys of which `modified` says anything were modified: whether they had expired before.
    pub fn notify_if(&self, modified: impl Fn(KeySlot) -> Option<bool>) {
        for slot in self.by_slot.keys().copied() {
            if let Some(has_expired) = modified(slot) {
                self.notify(slot, has_expired);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Key;
    use crate::engine::local::store::Store;

    #[test]
    fn a_watcher_is_told_of_a_modification() {
        let store = Store::default();
        let slot = |database, bytes| store.slot(Key { database, bytes });
        let [a, b, c] = [b"a", b"b", b"c"].map(|key| slot(0, key));
        let mut watchers = Watchers::default();
        let (one, two) = (watchers.add(a, true).unwrap(), watchers.add(b, false).unwrap());
        watchers.notify(b, true);
        watchers.notify(c, false);
        watchers.notify(slot(1, b"a"), false);
        assert!(!one.is_modified() && !two.is_modified());
        watchers.notify(a, true);
        assert!(one.is_modified() && !two.is_modified());
        watchers.notify_if(|slot| (slot == b).then_some(true));
        assert!(!two.is_modified(), "it did not see the key that had expired");
        watchers.notify_if(|slot| (slot == b).then_some(false));
        assert!(two.is_modified());
    }

    #[test]
    fn a_watcher_that_stopped_is_forgotten() {
        let (store, mut watchers) = (Store::default(), Watchers::default());
        for number in 0..10_000_u32 {
            let slot = store.slot(Key { database: 0, bytes: &number.to_le_bytes() });
            watchers.add(slot, true).unwrap();
        }
        assert!(watchers.by_slot.len() <= 16);
    }
}
