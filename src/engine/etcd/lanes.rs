//! After a conflict, the transactions of one coffre on the same keys go one by one: of many clients that change one key,
//! only one competes with those of other coffres.

use std::sync::{Condvar, Mutex};
use std::time::Instant;

use crate::limits::ETCD_LANES;
use crate::util::sync::{lock, wait_timeout};

/// See the module.
#[derive(Debug)]
pub struct Lanes {
    is_taken: Mutex<Box<[bool]>>,
    freed: Box<[Condvar]>,
}

/// Some lanes, until it is dropped.
#[derive(Debug)]
pub struct TakenLanes<'l> {
    lanes: &'l Lanes,
    /// In ascending order.
    taken: Vec<usize>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            is_taken: Mutex::new(vec![false; ETCD_LANES].into()),
            freed: (0..ETCD_LANES).map(|_| Condvar::new()).collect(),
        }
    }
}

impl Lanes {
    /// Takes the lanes of some hashes, in ascending order, so that no two wait for each other; none at the deadline.
    pub fn take(
        &self,
        hashes: impl Iterator<Item = u64>,
        deadline: Instant,
    ) -> Option<TakenLanes<'_>> {
        let mut wanted: Vec<_> = hashes.map(|hash| hash as usize % ETCD_LANES).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut taken = TakenLanes { lanes: self, taken: Vec::with_capacity(wanted.len()) };
        let mut is_taken = lock(&self.is_taken);
        for lane in wanted {
            while is_taken[lane] {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    drop(is_taken);
                    return None;
                }
                is_taken = wait_timeout(&self.freed[lane], is_taken, left);
            }
            is_taken[lane] = true;
            taken.taken.push(lane);
        }
        Some(taken)
    }
}

impl Drop for TakenLanes<'_> {
    fn drop(&mut self) {
        let mut is_taken = lock(&self.lanes.is_taken);
        for lane in &self.taken {
            is_taken[*lane] = false;
            self.lanes.freed[*lane].notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn transactions_in_a_lane_go_one_by_one() {
        let (lanes, inside) = (Lanes::default(), AtomicU32::new(0));
        thread::scope(|scope| {
            for first in 0..4 {
                let (lanes, inside) = (&lanes, &inside);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let deadline = Instant::now() + Duration::from_secs(60);
                        // All have lane 9 in common, and wait in the same order.
                        let taken =
                            lanes.take([9, first, 9 + ETCD_LANES as u64].into_iter(), deadline);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(taken.unwrap());
                    }
                });
            }
        });
        let held = lanes.take([1].into_iter(), Instant::now()).unwrap();
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(lanes.take([0, 1].into_iter(), soon).is_none());
        drop(held);
        assert!(lanes.take([0, 1].into_iter(), Instant::now()).is_some());
    }
}
