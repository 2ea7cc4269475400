//! The wall clock, which keys expire by, watched beside one that never jumps.
//!
//! Times at which keys expire are absolute: a file read on another machine, or much later, means the same. So a wall
//! clock that is set forward makes keys expire early, and one that is put back makes them live longer. What has
//! expired is not seen, but it is only removed where the clock has gone evenly for a while: who put it right in time
//! finds the keys again.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::limits::{CLOCK_JUMP_MS, CLOCK_TRUST_MS};
use crate::sync::lock;

/// The wall clock, in milliseconds of Unix time.
pub fn unix_time_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Watches the wall clock.
#[derive(Debug)]
pub struct Clock {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When it was last looked at, by both clocks.
    looked: (Instant, u64),
    /// When it last jumped forward.
    jumped: Option<Instant>,
}

impl Clock {
    /// One that is right at first.
    pub fn new(now: Instant, now_ms: u64) -> Self {
        Self { state: Mutex::new(State { looked: (now, now_ms), jumped: None }) }
    }

    /// Looks at both clocks; returns by how many milliseconds the wall clock has jumped since, if it has. Call it
    /// several times a second.
    pub fn look(&self, now: Instant, now_ms: u64) -> Option<i64> {
        let mut state = lock(&self.state);
        let (then, then_ms) = std::mem::replace(&mut state.looked, (now, now_ms));
        let expected_ms = then_ms as i64 + now.saturating_duration_since(then).as_millis() as i64;
        let jump_ms = now_ms as i64 - expected_ms;
        if jump_ms.abs() < CLOCK_JUMP_MS {
            return None;
        }
        state.jumped = (jump_ms > 0).then_some(now);
        Some(jump_ms)
    }

    /// Whether it has gone evenly for so long that what has expired by it may go.
    pub fn is_trusted(&self, now: Instant) -> bool {
        let jumped = lock(&self.state).jumped;
        let trust = Duration::from_millis(CLOCK_TRUST_MS);
        jumped.is_none_or(|jumped| now.saturating_duration_since(jumped) >= trust)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_forward_costs_trust_until_it_is_taken_back_or_old() {
        let (start, tick) = (Instant::now(), Duration::from_millis(100));
        let clock = Clock::new(start, 1_000_000);
        assert_eq!(clock.look(start + tick, 1_000_100), None);
        assert_eq!(clock.look(start + 2 * tick, 1_000_900), None, "it is set right now and then");
        assert!(clock.is_trusted(start + 2 * tick));
        let day_ms = 24 * 60 * 60 * 1000;
        assert_eq!(clock.look(start + 3 * tick, 1_001_000 + day_ms), Some(day_ms as i64));
        assert!(!clock.is_trusted(start + 3 * tick));
        assert_eq!(clock.look(start + 4 * tick, 1_001_100), Some(-(day_ms as i64)));
        assert!(clock.is_trusted(start + 4 * tick));
        assert_eq!(clock.look(start + 5 * tick, 1_001_200 + day_ms), Some(day_ms as i64));
        let later = start + 5 * tick + Duration::from_millis(CLOCK_TRUST_MS);
        assert_eq!(clock.look(later, 1_001_200 + day_ms + CLOCK_TRUST_MS), None);
        assert!(clock.is_trusted(later));
    }
}
