//! The threads of the clients: one each, and for a while after its client has left a thread waits for
//! another. Where many come and go that is much cheaper than a thread for each.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::limits::{IDLE_THREAD_MS, IDLE_THREADS_MAX};
use crate::util::sync::{lock, wait_timeout};

/// Threads without work, and work for them.
#[derive(Debug)]
pub struct Crew<W> {
    state: Mutex<State<W>>,
    woken: Condvar,
}

#[derive(Debug)]
struct State<W> {
    idle: usize,
    /// Never more than there are idle threads.
    work: VecDeque<W>,
}

impl<W> Default for Crew<W> {
    fn default() -> Self {
        Self { state: Mutex::new(State { idle: 0, work: VecDeque::new() }), woken: Condvar::new() }
    }
}

impl<W> Crew<W> {
    /// Gives work to a thread that has none; gives it back if there is no such thread.
    pub fn give(&self, work: W) -> Result<(), W> {
        let mut state = lock(&self.state);
        if state.work.len() >= state.idle {
            return Err(work);
        }
        state.work.push_back(work);
        self.woken.notify_one();
        Ok(())
    }

    /// Waits for work, for a while; `None` tells the thread to end.
    pub fn wait_for_work(&self) -> Option<W> {
        let mut state = lock(&self.state);
        if state.idle >= IDLE_THREADS_MAX {
            return None;
        }
        state.idle += 1;
        let deadline = Instant::now() + Duration::from_millis(IDLE_THREAD_MS);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let work = state.work.pop_front();
            // Work that was given is done, however late: others count on it.
            if work.is_some() || left.is_zero() {
                state.idle -= 1;
                return work;
            }
            state = wait_timeout(&self.woken, state, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_given_to_whoever_waits_and_never_lost() {
        let crew = Crew::default();
        assert_eq!(crew.give(0), Err(0));
        let done = Mutex::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(number) = crew.wait_for_work() {
                        *done.lock().unwrap() += number;
                    }
                });
            }
            let mut given = 0;
            while given < 10_000 {
                given += u64::from(crew.give(1_u64).is_ok());
            }
        });
        assert_eq!(*done.lock().unwrap(), 10_000);
        assert_eq!(crew.give(0), Err(0), "they have ended");
    }
}
