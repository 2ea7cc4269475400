//! Locks without half-done state: a panic while one is held ends the process, and the journal
//! replays what was acknowledged.
//!
//! What is model-checked takes all its primitives from here: they are the standard library's, and in the unit tests of
//! the feature `model` those of a checker that decides which thread runs next.

#[cfg(all(test, feature = "model"))]
#[path = "sync/model.rs"]
mod primitives;
#[cfg(not(all(test, feature = "model")))]
#[path = "sync/system.rs"]
mod primitives;

use std::process::abort;
use std::time::Duration;

pub use primitives::{Condvar, Mutex, MutexGuard, atomic, lock, thread, wait, wait_timeout};

fn die() -> ! {
    log::error!("a thread panicked inside a lock: the process ends, a restart replays the journal");
    crate::util::logging::flush();
    abort()
}

/// A condition variable that knows how many threads wait on it. The standard library's makes a system call for each
/// notification, and most find no thread that waits: about four for each batch of the journal.
#[derive(Debug, Default)]
pub struct Waiters {
    condvar: Condvar,
    /// Goes up with the mutex held: it is seen by every thread that changes later what is waited for.
    count: atomic::AtomicUsize,
}

impl Waiters {
    /// Waits on it, as [`wait`] does.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.count.fetch_add(1, atomic::Ordering::Relaxed);
        let guard = wait(&self.condvar, guard);
        self.count.fetch_sub(1, atomic::Ordering::Relaxed);
        guard
    }

    /// Waits on it for at most `timeout`, as [`wait_timeout`] does.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        self.count.fetch_add(1, atomic::Ordering::Relaxed);
        let guard = wait_timeout(&self.condvar, guard, timeout);
        self.count.fetch_sub(1, atomic::Ordering::Relaxed);
        guard
    }

    /// Wakes one thread, if any waits. What it waits for was changed with the mutex held.
    pub fn notify_one(&self) {
        if self.count.load(atomic::Ordering::Relaxed) > 0 {
            self.condvar.notify_one();
        }
    }

    /// Wakes all threads that wait. What they wait for was changed with the mutex held.
    pub fn notify_all(&self) {
        if self.count.load(atomic::Ordering::Relaxed) > 0 {
            self.condvar.notify_all();
        }
    }
}

/// Does `work`, on which other threads rely: a panic in it ends the process.
pub fn abort_on_panic(work: impl FnOnce()) {
    let guard = AbortOnPanic;
    work();
    std::mem::forget(guard);
}

/// Ends the process if it is dropped, as a panic does: forget it when the work is done.
pub struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        // The checker ends threads by a panic.
        if !cfg!(all(test, feature = "model")) {
            die()
        }
    }
}
