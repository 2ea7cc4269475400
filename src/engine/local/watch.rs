//! Who watches keys, to know whether somebody changed one.
//!
//! A shard writes down who watches which of its keys, by their places: two keys of one hash are taken for each other,
//! which at worst reports a change where there was none. Who stops watching drops its [`Watch`], and is forgotten.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crate::engine::local::store::Place;
use crate::util::memory::NoMemory;

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
    /// By the key's place: whether the key was there, and who.
    by_place: HashMap<Place, Vec<(bool, Weak<Watch>)>>,
    /// How many there may be before those are looked for who do not watch any more.
    many: usize,
}

impl Watchers {
    /// Adds one.
    ///
    /// An error if there is no memory for it.
    pub fn add(&mut self, place: Place, exists: bool, watch: &Arc<Watch>) -> Result<(), NoMemory> {
        const FEW: usize = 16;
        if self.by_place.len() >= self.many {
            self.by_place.retain(|_, watchers| {
                watchers.retain(|(_, watch)| watch.strong_count() > 0);
                !watchers.is_empty()
            });
            self.many = FEW.max(2 * self.by_place.len());
        }
        self.by_place.try_reserve(1)?;
        let watchers = self.by_place.entry(place).or_default();
        watchers.retain(|(_, watch)| watch.strong_count() > 0);
        watchers.try_reserve(1)?;
        watchers.push((exists, Arc::downgrade(watch)));
        Ok(())
    }

    /// A key was changed.
    pub fn changed(&self, place: Place) {
        self.tell(place, |_| true);
    }

    /// A key is gone because it expired: who has seen it gone already knows.
    pub fn expired(&self, place: Place) {
        self.tell(place, |existed| existed);
    }

    /// The keys at all places were changed of which `concerns` says so.
    pub fn many_changed(&self, concerns: impl Fn(Place) -> bool) {
        self.by_place
            .keys()
            .filter(|place| concerns(**place))
            .for_each(|place| self.changed(*place));
    }

    fn tell(&self, place: Place, concerns: impl Fn(bool) -> bool) {
        if self.by_place.is_empty() {
            return;
        }
        for (existed, watch) in self.by_place.get(&place).into_iter().flatten() {
            if let (true, Some(watch)) = (concerns(*existed), watch.upgrade()) {
                watch.changed.store(true, Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::local::store::Store;

    #[test]
    fn who_watches_learns_of_a_change() {
        let store = Store::default();
        let [a, b, c] = [b"a", b"b", b"c"].map(|key| store.place(0, key));
        let (mut watchers, one, two) =
            (Watchers::default(), Arc::<Watch>::default(), Arc::<Watch>::default());
        watchers.add(a, true, &one).unwrap();
        watchers.add(b, false, &two).unwrap();
        watchers.expired(b);
        watchers.changed(c);
        watchers.changed(store.place(1, b"a"));
        assert!(!one.is_changed() && !two.is_changed());
        watchers.expired(a);
        assert!(one.is_changed() && !two.is_changed());
        watchers.many_changed(|place| place == b);
        assert!(two.is_changed());
    }

    #[test]
    fn who_watches_no_more_is_forgotten() {
        let (store, mut watchers) = (Store::default(), Watchers::default());
        for number in 0..10_000_u32 {
            watchers.add(store.place(0, &number.to_le_bytes()), true, &Arc::default()).unwrap();
        }
        assert!(watchers.by_place.len() <= 16);
    }
}
