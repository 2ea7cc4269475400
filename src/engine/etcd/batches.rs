//! What several clients ask of a cluster at the same time, carried out as one.
//!
//! Few batches are under way at once. While they are, requests wait, and the first of them leads the next batch: it takes
//! all that fit with it, in their order, carries them out and hands out what came of each. So a client alone waits for no
//! other, and of many each journey serves as many as came meanwhile.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use crate::util::sync::{lock, wait, wait_timeout};

/// A request that may be carried out with others.
pub trait Batched {
    /// What must be known of a batch to tell what fits into it.
    type Batch: Default;
    /// What comes of it.
    type Reply: Debug;

    /// Joins a batch, if it fits.
    fn join(&self, batch: &mut Self::Batch) -> bool;
}

/// See the module.
#[derive(Debug)]
pub struct Batches<Q: Batched> {
    under_way_max: usize,
    state: Mutex<State<Q>>,
}

#[derive(Debug)]
struct State<Q: Batched> {
    waiting: VecDeque<Arc<Member<Q>>>,
    /// Batches that have a leader.
    under_way: usize,
}

#[derive(Debug)]
struct Member<Q: Batched> {
    /// Until the leader takes it.
    request: Mutex<Option<Q>>,
    turn: Mutex<Turn<Q::Reply>>,
    changed: Condvar,
}

/// How it stands with a request.
#[derive(Debug)]
enum Turn<R> {
    Waits,
    /// It leads a batch that is under way.
    Leads,
    /// Its leader is through; `None` if that panicked.
    Over(Option<R>),
}

/// A batch under way, until it is dropped.
struct Led<'b, Q: Batched> {
    batches: &'b Batches<Q>,
    followers: Vec<Arc<Member<Q>>>,
}

impl<Q: Batched> Batches<Q> {
    /// None under way, and so many at most.
    pub fn new(under_way_max: usize) -> Self {
        let state = State { waiting: VecDeque::new(), under_way: 0 };
        Self { under_way_max, state: Mutex::new(state) }
    }

    /// Carries out a request with those that wait: `carry_out` is called by the thread that leads, and returns what came of
    /// each in their order. `None` if no batch began before `deadline`, or a leader panicked.
    pub fn submit(
        &self,
        request: Q,
        deadline: Instant,
        carry_out: impl FnOnce(Vec<Q>) -> Vec<Q::Reply>,
    ) -> Option<Q::Reply> {
        let mut state = lock(&self.state);
        if state.under_way < self.under_way_max && state.waiting.is_empty() {
            state.under_way += 1;
            drop(state);
            return self.lead(request, carry_out);
        }
        let member = Arc::new(Member {
            request: Mutex::new(Some(request)),
            turn: Mutex::new(Turn::Waits),
            changed: Condvar::new(),
        });
        state.waiting.push_back(Arc::clone(&member));
        drop(state);
        match self.wait_for_turn(&member, deadline) {
            Turn::Waits => None,
            Turn::Over(reply) => reply,
            Turn::Leads => {
                let request = lock(&member.request).take()?;
                self.lead(request, carry_out)
            }
        }
    }

    /// Waits until it is a member's turn; [`Turn::Waits`] at the deadline.
    fn wait_for_turn(&self, member: &Arc<Member<Q>>, deadline: Instant) -> Turn<Q::Reply> {
        let mut turn = lock(&member.turn);
        let mut is_listed = true;
        loop {
            if !matches!(*turn, Turn::Waits) {
                return std::mem::replace(&mut *turn, Turn::Waits);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !is_listed {
                // A leader has it, and tells within its own deadline.
                turn = wait(&member.changed, turn);
            } else if !left.is_zero() {
                turn = wait_timeout(&member.changed, turn, left);
            } else {
                drop(turn);
                let mut state = lock(&self.state);
                let place = state.waiting.iter().position(|other| Arc::ptr_eq(other, member));
                if let Some(place) = place {
                    state.waiting.remove(place);
                    return Turn::Waits;
                }
                drop(state);
                is_listed = false;
                turn = lock(&member.turn);
            }
        }
    }

    /// Leads a batch that is counted already.
    fn lead(
        &self,
        request: Q,
        carry_out: impl FnOnce(Vec<Q>) -> Vec<Q::Reply>,
    ) -> Option<Q::Reply> {
        let mut batch = Q::Batch::default();
        // The leader goes in any case: alone if it fits with nothing.
        let takes_others = request.join(&mut batch);
        let mut led = Led { batches: self, followers: Vec::new() };
        let mut requests = vec![request];
        if takes_others {
            let mut state = lock(&self.state);
            for member in std::mem::take(&mut state.waiting) {
                let mut request = lock(&member.request);
                match request.take_if(|request| request.join(&mut batch)) {
                    None => {
                        drop(request);
                        state.waiting.push_back(member);
                    }
                    Some(joined) => {
                        drop(request);
                        requests.push(joined);
                        led.followers.push(member);
                    }
                }
            }
        }
        let mut replies = carry_out(requests).into_iter();
        let own = replies.next();
        for (member, reply) in led.followers.drain(..).zip(replies) {
            member.tell(Turn::Over(Some(reply)));
        }
        own
    }
}

impl<Q: Batched> Member<Q> {
    fn tell(&self, turn: Turn<Q::Reply>) {
        *lock(&self.turn) = turn;
        self.changed.notify_one();
    }
}

impl<Q: Batched> Drop for Led<'_, Q> {
    fn drop(&mut self) {
        let next = {
            let mut state = lock(&self.batches.state);
            let next = state.waiting.pop_front();
            if next.is_none() {
                state.under_way -= 1;
            }
            next
        };
        if let Some(next) = next {
            next.tell(Turn::Leads);
        }
        // There are some only where the leader did not come to tell them.
        self.followers.iter().for_each(|member| member.tell(Turn::Over(None)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Joins those of its parity, up to three.
    #[derive(Debug)]
    struct Number(u32);

    impl Batched for Number {
        type Batch = Vec<u32>;
        type Reply = Vec<u32>;

        fn join(&self, batch: &mut Vec<u32>) -> bool {
            let fits = batch.len() < 3 && batch.iter().all(|other| other % 2 == self.0 % 2);
            if fits {
                batch.push(self.0);
            }
            fits
        }
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// Of each the batch that it was in.
    fn carry_out(numbers: Vec<Number>) -> Vec<Vec<u32>> {
        let all: Vec<_> = numbers.iter().map(|number| number.0).collect();
        vec![all; numbers.len()]
    }

    /// Submits 0, which is under way until all of `numbers` wait; returns what came of them. `last` is called with 0 then.
    fn behind_a_batch(numbers: &[u32], last: impl FnOnce() + Send) -> Vec<Option<Vec<u32>>> {
        let batches = &Batches::<Number>::new(1);
        thread::scope(|scope| {
            let (begin, began) = mpsc::channel();
            let (end, ended) = mpsc::channel::<()>();
            scope.spawn(move || {
                let reply = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    batches.submit(Number(0), late(), |numbers| {
                        begin.send(()).unwrap();
                        let _ = ended.recv();
                        last();
                        carry_out(numbers)
                    })
                }));
                assert!(reply.is_err() || reply.unwrap() == Some(vec![0]));
            });
            began.recv().unwrap();
            let mut threads = Vec::new();
            for (place, number) in numbers.iter().enumerate() {
                threads
                    .push(scope.spawn(move || batches.submit(Number(*number), late(), carry_out)));
                while lock(&batches.state).waiting.len() <= place {
                    thread::yield_now();
                }
            }
            end.send(()).unwrap();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn what_waits_goes_together_as_far_as_it_fits() {
        let replies = behind_a_batch(&[2, 3, 4, 5, 6, 8], || {});
        let batch = |numbers: &[u32]| Some(numbers.to_vec());
        assert_eq!(replies[0], batch(&[2, 4, 6]));
        assert_eq!(replies[1], batch(&[3, 5]));
        assert_eq!(replies[5], batch(&[8]));
        assert_eq!(
            [&replies[2], &replies[3], &replies[4]],
            [&replies[0], &replies[1], &replies[0]]
        );
    }

    #[test]
    fn a_leader_that_panics_does_not_stop_the_next() {
        let replies = behind_a_batch(&[2], || panic!("meant"));
        assert_eq!(replies, [Some(vec![2])]);
    }

    #[test]
    fn one_whose_deadline_passes_leaves() {
        let batches = &Batches::<Number>::new(1);
        let reply = batches.submit(Number(0), late(), |numbers| {
            let soon = Instant::now() + Duration::from_millis(5);
            assert_eq!(batches.submit(Number(2), soon, carry_out), None);
            carry_out(numbers)
        });
        assert_eq!(reply, Some(vec![0]));
        assert_eq!(batches.submit(Number(4), late(), carry_out), Some(vec![4]));
    }
}
