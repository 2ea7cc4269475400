//! The primitives of [`sync`](super) outside of the model checker: those of the standard library.

use std::time::Duration;

pub use std::sync::{Condvar, Mutex, MutexGuard, atomic};
pub use std::thread;

use super::die;

/// Locks `mutex`. If a thread has panicked with it held, the process ends: what it guards may be
/// half changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| die())
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
