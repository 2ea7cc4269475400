//! Locks without half-done state: a panic while one is held ends the process, and the journal replays what was
//! acknowledged.

use std::process::abort;
use std::sync::{Condvar, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

/// Locks `mutex`. If a thread has panicked with it held the process ends: what it guards may be half changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| die())
}

/// As [`lock`], or `None` while another thread holds it.
pub fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Poisoned(_)) => die(),
    }
}

/// Waits on `condvar`, as [`lock`] does.
pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(|_| die())
}

/// Waits on `condvar` for at most `timeout`, as [`lock`] does.
pub fn wait_timeout<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Duration,
) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, timeout).unwrap_or_else(|_| die()).0
}

fn die() -> ! {
    log::error!("a thread panicked inside a lock: the process ends, a restart replays the journal");
    crate::util::logging::flush();
    abort()
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
        die()
    }
}
