//! A rate limit for log lines that clients can provoke.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::util::sync::lock;

/// Lets one event in each period pass.
#[derive(Debug)]
pub struct RateLimit {
    period: Duration,
    last: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// One event in `period`.
    pub const fn new(period: Duration) -> Self {
        Self { period, last: Mutex::new(None) }
    }

    /// Whether this event may pass.
    pub fn allow(&self) -> bool {
        let mut last = lock(&self.last);
        let due = last.is_none_or(|last| last.elapsed() >= self.period);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}
