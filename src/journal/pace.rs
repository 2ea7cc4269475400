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
        self.tell(offset, Instant::now())
    }

    fn tell(&mut self, offset: u64, now: Instant) -> Option<String> {
        if now - self.told < Duration::from_secs(1) {
            return None;
        }
        self.told = now;
        let percent = offset * 100 / self.total.max(1);
        let speed = offset as f64 / (now - self.started).as_secs_f64() / 1e6;
        Some(format!("{percent} %, {speed:.0} MB/s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_once_a_second() {
        let mut pace = Pace::new(1_000_000_000);
        assert_eq!(pace.reach(5 << 20), None);
        let after = |ms| pace.started + Duration::from_millis(ms);
        let (early, later, soon, last) = (after(900), after(2_000), after(2_900), after(4_000));
        assert_eq!(pace.tell(300_000_000, early), None);
        assert_eq!(pace.tell(450_000_000, later).as_deref(), Some("45 %, 225 MB/s"));
        assert_eq!(pace.tell(700_000_000, soon), None);
        assert_eq!(pace.tell(1_000_000_000, last).as_deref(), Some("100 %, 250 MB/s"));
    }
}
