//! When keys expire, the soonest first.
//!
//! One place for each time that was set, kept until it comes: times that were changed, and keys that are gone,
//! stay in it until then or until they are too many. So who asks what is due looks each up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::util::memory::NoMemory;

/// The times at which the keys of a shard expire.
#[derive(Debug, Default)]
pub struct Due {
    /// Milliseconds of Unix time, and the key's hash.
    times: BinaryHeap<Reverse<(u64, u64)>>,
    /// How many keys expire.
    count: usize,
    /// The sum of the times at which they do, in milliseconds of Unix time.
    sum_ms: u128,
}

impl Due {
    /// How many keys expire.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The sum of the times at which they do, in milliseconds of Unix time.
    pub fn sum_ms(&self) -> u128 {
        self.sum_ms
    }

    /// Makes room for so many more.
    pub fn make_room(&mut self, count: usize) -> Result<(), NoMemory> {
        Ok(self.times.try_reserve(count)?)
    }

    /// How many there is room for.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.times.capacity()
    }

    /// A key's time was `old_ms` and is `new_ms`, if it had and has one. Room was made for it.
    pub fn change(&mut self, hash: u64, old_ms: Option<u64>, new_ms: Option<u64>) {
        self.count -= usize::from(old_ms.is_some());
        self.count += usize::from(new_ms.is_some());
        self.sum_ms -= u128::from(old_ms.unwrap_or(0));
        self.sum_ms += u128::from(new_ms.unwrap_or(0));
        if let (Some(time_ms), true) = (new_ms, new_ms != old_ms) {
            self.times.push(Reverse((time_ms, hash)));
        }
    }

    /// Whether there are so many times that say nothing any more that they should go.
    pub fn is_stale(&self) -> bool {
        const FEW: usize = 64;
        self.times.len() > 2 * self.count + FEW
    }

    /// Keeps those for which a key has that hash and that time.
    pub fn keep(&mut self, is_true: impl Fn(u64, u64) -> bool) {
        let mut last = None;
        self.times.retain(|Reverse((time_ms, hash))| is_true(*time_ms, *hash));
        // The same time twice: a key that was changed to and fro.
        let mut times = std::mem::take(&mut self.times).into_vec();
        times.sort_unstable();
        times.retain(|time| last.replace(*time) != Some(*time));
        self.times = times.into();
    }

    /// Gives back memory that it does not need. Not while changes may be taken back: room was made for their times.
    pub fn shrink(&mut self) {
        const FEW: usize = 64;
        if self.times.capacity() > 4 * self.times.len() + FEW {
            self.times.shrink_to(2 * self.times.len());
        }
    }

    /// The hash of a key that may have expired at `now_ms`, and the time it was to; it is not asked for again.
    pub fn next(&mut self, now_ms: u64) -> Option<(u64, u64)> {
        let Reverse((time_ms, _)) = self.times.peek()?;
        if *time_ms > now_ms {
            return None;
        }
        self.times.pop().map(|Reverse((time_ms, hash))| (hash, time_ms))
    }

    /// Asks for one again.
    pub fn again(&mut self, hash: u64, time_ms: u64) {
        self.times.push(Reverse((time_ms, hash)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soonest_come_first_and_the_stale_go() {
        let mut due = Due::default();
        for hash in 0..100 {
            due.change(hash, None, Some(1000 - hash));
        }
        assert_eq!((due.next(900), due.count()), (None, 100));
        assert_eq!(due.sum_ms(), (901..=1000).sum());
        assert_eq!(due.next(901), Some((99, 901)));
        for hash in 0..99 {
            due.change(hash, Some(1000 - hash), Some(5000));
        }
        assert!(!due.is_stale());
        for hash in 0..90 {
            due.change(hash, Some(5000), None);
        }
        due.change(99, Some(901), None);
        assert!(due.is_stale());
        due.keep(|time_ms, hash| time_ms == 5000 && hash >= 90);
        assert_eq!((due.count(), due.times.len()), (9, 9));
        assert_eq!(due.sum_ms(), 9 * 5000);
    }
}
