//! How fast a long file is read, told once a second.

use std::time::{Duration, Instant};

/// Progress through a file.
#[derive(Debug)]
pub struct Pace {
    total: u64,
    started: Instant,
    told: Instant,
    /// When to look at the clock again.
    next: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Pace {
    /// Through `total` bytes, from now on.
    pub fn new(total: u64) -> Self {
        let started = Instant::now();
        Self { total, started, told: started, next: 0 }
    }

    /// The reader is at `offset`: what to tell, if it is time to; like `45 %, 210 MB/s`.
    pub fn reach(&mut self, offset: u64) -> Option<String> {
        const LOOK_EVERY_BYTES: u64 = 4 << 20;
        if offset < self.next {
            return None;
        }
        self.next = offset + LOOK_EVERY_BYTES;
        if self.told.elapsed() < Duration::from_secs(1) {
            return None;
        }
        self.told = Instant::now();
        let percent = offset * 100 / self.total.max(1);
        let speed = offset as f64 / self.started.elapsed().as_secs_f64() / 1e6;
        Some(format!("{percent} %, {speed:.0} MB/s"))
    }
}
