//! `CLIENT PAUSE`: commands wait, on the threads of their clients, until its time is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::util::sync::{lock, wait_timeout};

/// Who must wait.
#[derive(Debug, Default)]
pub struct Pause {
    /// There may be one: all that a command looks at when there is none.
    on: AtomicBool,
    now: Mutex<Option<(Instant, Paused)>>,
    /// It began, ended, or whoever waits should look at something else.
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
    /// Pauses for `time` from now. A pause under way is never made shorter or weaker.
    pub fn begin(&self, time: Duration, what: Paused) {
        let mut now = lock(&self.now);
        let wanted = Instant::now().checked_add(time);
        // What no clock can hold is for ever: thirty years.
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

    /// Whether there may be one.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Lets those who wait look whether they still should.
    pub fn wake(&self) {
        drop(lock(&self.now));
        self.changed.notify_all();
    }

    /// Waits while what `kind` says is held up and `should_wait`, which is asked each second.
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
