//! The primitives of [`sync`](super) under the model checker, for the tests of the feature `model`: those of
//! `shuttle` where the journal uses them, and still the standard library's elsewhere, so each function takes both.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};
pub use shuttle::thread;

/// A mutex of either kind.
pub trait Lock {
    /// Its guard.
    type Guard<'a>
    where
        Self: 'a;
    /// See [`lock`].
    fn acquire(&self) -> Self::Guard<'_>;
}

/// A condition variable of either kind, for its guards.
pub trait Wait<G> {
    /// See [`wait`].
    fn wait_with(&self, guard: G) -> G;
    /// See [`wait_timeout`].
    fn wait_at_most(&self, guard: G, timeout: Duration) -> G;
}

// The checker ends threads by a panic: a poisoned lock means nothing here.
macro_rules! primitives {
    ($mutex:path, $guard:ident, $guard_path:path, $condvar:path) => {
        use $guard_path as $guard;

        impl<T> Lock for $mutex {
            type Guard<'a>
                = $guard<'a, T>
            where
                Self: 'a;

            fn acquire(&self) -> $guard<'_, T> {
                self.lock().unwrap_or_else(PoisonError::into_inner)
            }
        }

        impl<'a, T> Wait<$guard<'a, T>> for $condvar {
            fn wait_with(&self, guard: $guard<'a, T>) -> $guard<'a, T> {
                self.wait(guard).unwrap_or_else(PoisonError::into_inner)
            }

            fn wait_at_most(&self, guard: $guard<'a, T>, timeout: Duration) -> $guard<'a, T> {
                self.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    };
}

primitives!(std::sync::Mutex<T>, StdGuard, std::sync::MutexGuard, std::sync::Condvar);
primitives!(Mutex<T>, ModelGuard, shuttle::sync::MutexGuard, Condvar);

impl<M: Lock> Lock for Arc<M> {
    type Guard<'a>
        = M::Guard<'a>
    where
        Self: 'a;

    fn acquire(&self) -> Self::Guard<'_> {
        M::acquire(self)
    }
}

/// Locks `mutex`.
pub fn lock<M: Lock>(mutex: &M) -> M::Guard<'_> {
    mutex.acquire()
}

/// Waits on `condvar`.
pub fn wait<G>(condvar: &impl Wait<G>, guard: G) -> G {
    condvar.wait_with(guard)
}

/// Waits on `condvar`; no time passes under the checker.
pub fn wait_timeout<G>(condvar: &impl Wait<G>, guard: G, timeout: Duration) -> G {
    condvar.wait_at_most(guard, timeout)
}
