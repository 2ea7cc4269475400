//! `CLIENT PAUSE`: commands wait, on the threads of their clients, until its time is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::util::sync::{lock, wait_timeout};

/// Which commands must wait, and until when.
#[derive(Debug, Default)]
pub struct Pause {
    /// There may be a pause: all that a command reads where there is none.
    on: AtomicBool,
    now: Mutex<Option<(Instant, Paused)>>,
    /// The pause began or ended, or the waiting threads should check whether to wait on.
    changed: Condvar,
}

/// What a pause holds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Paused {
    /// What may change keys.
    Writes,
    /// Everything.
    All,
}

impl Pause {
    /// Pauses for `time` from now. This makes no pause under way shorter or weaker.
    pub fn begin(&self, time: Duration, what: Paused) {
        let mut now = lock(&self.now);
        let wanted = Instant::now().checked_add(time);
        // More than the clock can hold is thirty years.
        let wanted = wanted.unwrap_or_else(|| Instant::now() + Duration::from_secs(1 << 30));
        let (until, held) = now.unwrap_or((wanted, what));
        let over = until <= Instant::now();
        *now = Some((wanted.max(until), if over { what } else { what.max(held) }));
        self.on.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Ends it.
    pub fn end(&self) {
        let mut now = lock(&self.now);
        *now = None;
        self.on.store(false, Ordering::Release);
        self.changed.notify_all();
    }

    /// Whether there may be a pause.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Makes the waiting threads check whether to wait on.
    pub fn wake(&self) {
        drop(lock(&self.now));
        self.changed.notify_all();
    }

    /// Waits while the pause holds up `kind` and `should_wait()`, which is called each second.
    pub fn wait(&self, kind: Paused, should_wait: impl Fn() -> bool) {
        let mut now = lock(&self.now);
        while let Some((until, held)) = *now {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                *now = None;
                self.on.store(false, Ordering::Release);
                return;
            }
            // A pause of everything holds up writes too.
            if held < kind || !should_wait() {
                return;
            }
            now = wait_timeout(&self.changed, now, left.min(Duration::from_secs(1)));
        }
    }
}
