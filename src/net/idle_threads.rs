//! Threads of clients that have left: each waits a while for another client. Where many clients connect and leave that
//! is much cheaper than a new thread for each.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc::{self, SendError, SyncSender};
use std::time::Duration;

use crate::limits::{IDLE_THREAD_MS, IDLE_THREADS_MAX};
use crate::util::sync::lock;

/// Threads without work.
#[derive(Debug)]
pub struct IdleThreads<W> {
    /// One channel for each, the longest idle first; those of threads that have stopped waiting stand before all others.
    threads: Mutex<VecDeque<SyncSender<W>>>,
}

impl<W> Default for IdleThreads<W> {
    fn default() -> Self {
        Self { threads: Mutex::default() }
    }
}

impl<W> IdleThreads<W> {
    /// Gives work to a thread that has none; gives it back if there is no such thread.
    pub fn give(&self, mut work: W) -> Result<(), W> {
        loop {
            let Some(thread) = lock(&self.threads).pop_front() else { return Err(work) };
            // The channel has no room: either the thread takes the work, or it has stopped waiting.
            match thread.send(work) {
                Ok(()) => return Ok(()),
                Err(SendError(refused)) => work = refused,
            }
        }
    }

    /// Waits for work, for a while; `None` tells the thread to end.
    pub fn wait_for_work(&self) -> Option<W> {
        let (sender, work) = mpsc::sync_channel(0);
        let mut threads = lock(&self.threads);
        if threads.len() >= IDLE_THREADS_MAX {
            return None;
        }
        threads.push_back(sender);
        drop(threads);
        work.recv_timeout(Duration::from_millis(IDLE_THREAD_MS)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_work_is_done_once_or_given_back() {
        let threads = IdleThreads::default();
        assert_eq!(threads.give(0), Err(0));
        let done = Mutex::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(number) = threads.wait_for_work() {
                        *done.lock().unwrap() += number;
                    }
                });
            }
            let mut given = 0;
            while given < 10_000 {
                given += u64::from(threads.give(1_u64).is_ok());
            }
        });
        assert_eq!(*done.lock().unwrap(), 10_000);
        assert_eq!(threads.give(0), Err(0), "they have ended");
    }
}
