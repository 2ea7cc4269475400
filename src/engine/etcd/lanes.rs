//! The transactions of one coffre that change the same key go one by one, once they have met: of many clients that count
//! with one key, only one competes with those of other coffres.
//!
//! Who has a lane is given what the transaction before it wrote, so that it need not read that again. Transactions get a
//! lane in the order in which they came.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::txn::Read;
use crate::limits::ETCD_LANES;
use crate::util::sync::{lock, wait_timeout};

/// What is known of some keys, by name, and the revision at which it was so.
pub type Known = (HashMap<Vec<u8>, Read>, u64);

/// See the module.
#[derive(Debug)]
pub struct Lanes(Box<[Mutex<Lane>]>);

#[derive(Debug, Default)]
struct Lane {
    is_taken: bool,
    waiting: VecDeque<Arc<Waiter>>,
    /// What the transaction before wrote.
    known: Known,
}

#[derive(Debug, Default)]
struct Waiter {
    /// Notified when the lane was given to it, and it is no longer among those that wait.
    given: Condvar,
}

/// A lane, until it is dropped.
#[derive(Debug)]
pub struct TakenLane<'l> {
    lane: &'l Mutex<Lane>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self((0..ETCD_LANES).map(|_| Mutex::default()).collect())
    }
}

impl Lanes {
    fn lane(&self, hash: u64) -> &Mutex<Lane> {
        &self.0[hash as usize % self.0.len()]
    }

    /// Whether some transaction has the lane of a hash.
    pub fn is_busy(&self, hash: u64) -> bool {
        lock(self.lane(hash)).is_taken
    }

    /// Takes the lane of a hash, and what is known by it; none at the deadline.
    pub fn take(&self, hash: u64, deadline: Instant) -> Option<(TakenLane<'_>, Known)> {
        let lane = self.lane(hash);
        let mut state = lock(lane);
        if state.is_taken {
            let waiter = Arc::new(Waiter::default());
            state.waiting.push_back(Arc::clone(&waiter));
            loop {
                let place = state.waiting.iter().position(|other| Arc::ptr_eq(other, &waiter));
                let left = deadline.saturating_duration_since(Instant::now());
                match place {
                    None => break,
                    Some(place) if left.is_zero() => {
                        state.waiting.remove(place);
                        return None;
                    }
                    Some(_) => state = wait_timeout(&waiter.given, state, left),
                }
            }
        }
        state.is_taken = true;
        let known = std::mem::take(&mut state.known);
        Some((TakenLane { lane }, known))
    }
}

impl TakenLane<'_> {
    /// Leaves what a transaction wrote to the next.
    pub fn leave(&self, known: Known) {
        let mut state = lock(self.lane);
        if !state.waiting.is_empty() {
            state.known = known;
        }
    }
}

impl Drop for TakenLane<'_> {
    fn drop(&mut self) {
        let mut state = lock(self.lane);
        match state.waiting.pop_front() {
            // It stays taken.
            Some(next) => next.given.notify_one(),
            None => state.is_taken = false,
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
    fn transactions_in_a_lane_go_one_by_one_in_their_order() {
        let (lanes, inside) = (Lanes::default(), AtomicU32::new(0));
        let late = Instant::now() + Duration::from_secs(60);
        let (first, _) = lanes.take(9, late).unwrap();
        assert!(lanes.is_busy(9) && !lanes.is_busy(8));
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for number in 0..4 {
                let (lanes, inside) = (&lanes, &inside);
                threads.push(scope.spawn(move || {
                    let taken = lanes.take(9 + ETCD_LANES as u64, late).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), number);
                    drop(taken);
                }));
                // The next comes after it.
                let waiting = || lock(lanes.lane(9)).waiting.len() as u32;
                while waiting() <= number {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        assert!(!lanes.is_busy(9));
    }

    #[test]
    fn a_lane_that_is_not_given_in_time_is_given_to_others() {
        let lanes = Lanes::default();
        let (held, _) = lanes.take(1, Instant::now()).unwrap();
        assert!(lanes.take(1, Instant::now() + Duration::from_millis(5)).is_none());
        drop(held);
        assert!(!lanes.is_busy(1) && lanes.take(1, Instant::now()).is_some());
    }
}
