//! When the keys of a shard's database expire, the soonest first.

use std::collections::BTreeSet;

/// The times at which keys expire, in milliseconds of Unix time, each with its key's hash.
///
/// Two keys of the same hash that expire in the same millisecond share a place. That is as rare as a collision of a
/// keyed 64-bit hash, and costs no more than that the sweep overlooks one of them: it stays hidden.
#[derive(Debug, Default)]
pub struct ExpiryQueue {
    times: BTreeSet<(u64, u64)>,
    sum_ms: u128,
}

impl ExpiryQueue {
    /// Number of keys that expire.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// The sum of the times at which they do, in milliseconds of Unix time.
    pub fn sum_ms(&self) -> u128 {
        self.sum_ms
    }

    /// The time of a key with this hash was `old_ms` and is `new_ms`.
    pub fn change(&mut self, hash: u64, old_ms: Option<u64>, new_ms: Option<u64>) {
        if old_ms == new_ms {
            return;
        }
        if let Some(time_ms) = old_ms.filter(|time_ms| self.times.remove(&(*time_ms, hash))) {
            self.sum_ms -= u128::from(time_ms);
        }
        if let Some(time_ms) = new_ms.filter(|time_ms| self.times.insert((*time_ms, hash))) {
            self.sum_ms += u128::from(time_ms);
        }
    }

    /// The times, and the hashes, of the keys that have expired at `now_ms`.
    pub fn expired(&self, now_ms: u64) -> impl Iterator<Item = (u64, u64)> {
        self.times.iter().copied().take_while(move |(time_ms, _)| *time_ms <= now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soonest_come_first() {
        let mut queue = ExpiryQueue::default();
        (0..100).for_each(|hash| queue.change(hash, None, Some(1000 - hash)));
        assert_eq!((queue.len(), queue.sum_ms()), (100, (901..=1000).sum()));
        assert_eq!(queue.expired(900).next(), None);
        assert_eq!(queue.expired(902).collect::<Vec<_>>(), [(901, 99), (902, 98)]);
        queue.change(99, Some(901), Some(5000));
        queue.change(98, Some(902), None);
        queue.change(97, Some(903), Some(903));
        assert_eq!((queue.len(), queue.expired(903).next()), (99, Some((903, 97))));
        assert_eq!(queue.sum_ms(), (903..=1000).sum::<u128>() + 5000);
    }
}
