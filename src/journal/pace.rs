//! The progress of reading a long file, for one log line a second. Logging it is left to the caller.

use std::time::{Duration, Instant};

/// Progress through a file.
#[derive(Debug)]
pub struct Pace {
    total: u64,
    started: Instant,
    reported: Instant,
    /// The offset at which to read the clock again.
    next: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Pace {
    /// Begins now; `total` is the length of the file, in bytes.
    pub fn new(total: u64) -> Self {
        let started = Instant::now();
        Self { total, started, reported: started, next: 0 }
    }

    /// The reader has reached `offset`. Returns a report, such as `45 %, 210 MB/s`, once a second.
    pub fn reach(&mut self, offset: u64) -> Option<String> {
        const CLOCK_EVERY_BYTES: u64 = 4 << 20;
        if offset < self.next {
            return None;
        }
        self.next = offset + CLOCK_EVERY_BYTES;
        self.report(offset, Instant::now())
    }

    fn report(&mut self, offset: u64, now: Instant) -> Option<String> {
        if now - self.reported < Duration::from_secs(1) {
            return None;
        }
        self.reported = now;
        let percent = offset * 100 / self.total.max(1);
        let speed = offset as f64 / (now - self.started).as_secs_f64() / 1e6;
        Some(format!("{percent} %, {speed:.0} MB/s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reports_once_a_second() {
        let mut pace = Pace::new(1_000_000_000);
        assert_eq!(pace.reach(5 << 20), None);
        let after = |ms| pace.started + Duration::from_millis(ms);
        let (early, later, soon, last) = (after(900), after(2_000), after(2_900), after(4_000));
        assert_eq!(pace.report(300_000_000, early), None);
        assert_eq!(pace.report(450_000_000, later).as_deref(), Some("45 %, 225 MB/s"));
        assert_eq!(pace.report(700_000_000, soon), None);
        assert_eq!(pace.report(1_000_000_000, last).as_deref(), Some("100 %, 250 MB/s"));
    }
}
