//! The wall clock, by which keys expire, compared to one that never jumps.
//!
//! Times at which keys expire are absolute: a file read on another machine, or much later, means the same. So a wall
//! clock that is set forward makes keys expire early, and one that is set back makes them live longer. An expired key is
//! not seen, but it is removed only if the clock has gone evenly for a while: if the clock is corrected before that, the
//! keys are seen again.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::limits::{CLOCK_JUMP_MS, CLOCK_TRUST_MS};
use crate::util::sync::lock;

/// The wall clock, in milliseconds of Unix time.
pub fn unix_time_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The same in seconds.
pub fn unix_time_s() -> u64 {
    unix_time_ms() / 1000
}

/// Watches the wall clock.
#[derive(Debug)]
pub struct Clock {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Both clocks at the last call.
    looked: Reading,
    /// A jump forward for which the clock is not trusted.
    jump: Option<Jump>,
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    steady: Instant,
    wall_ms: u64,
}

impl Reading {
    /// By how many milliseconds the wall clock has gained on the steady one since.
    fn gained_ms(self, now: Self) -> i64 {
        let passed_ms = now.steady.saturating_duration_since(self.steady).as_millis() as i64;
        now.wall_ms as i64 - self.wall_ms as i64 - passed_ms
    }
}

/// A jump forward that was not taken back, and whatever else the wall clock did since.
#[derive(Debug)]
struct Jump {
    /// Both clocks before it: how far the wall clock stands ahead is counted from here.
    before: Reading,
    /// Both clocks after the last jump in either direction: the clock has gone evenly since.
    even_since: Reading,
}

impl Jump {
    fn is_old(&self, now: Instant) -> bool {
        let trust = Duration::from_millis(CLOCK_TRUST_MS);
        now.saturating_duration_since(self.even_since.steady) >= trust
    }
}

impl Clock {
    /// A clock that is trusted at first.
    pub fn new(now: Instant, now_ms: u64) -> Self {
        let looked = Reading { steady: now, wall_ms: now_ms };
        Self { state: Mutex::new(State { looked, jump: None }) }
    }

    /// Reads both clocks; returns by how many milliseconds the wall clock has jumped since the last call, if it has.
    /// Call it several times a second.
    pub fn look(&self, now: Instant, now_ms: u64) -> Option<i64> {
        let now = Reading { steady: now, wall_ms: now_ms };
        let mut state = lock(&self.state);
        let before = std::mem::replace(&mut state.looked, now);
        let jump_ms = before.gained_ms(now);
        state.jump.take_if(|jump| jump.is_old(now.steady));
        match &mut state.jump {
            None if jump_ms >= CLOCK_JUMP_MS => {
                state.jump = Some(Jump { before, even_since: now });
            }
            None => {}
            Some(jump) if jump.before.gained_ms(now) < CLOCK_JUMP_MS => state.jump = None,
            // Small steps add up: a clock that moves by seconds does not go evenly.
            Some(jump) if jump.even_since.gained_ms(now).abs() >= CLOCK_JUMP_MS => {
                jump.even_since = now;
            }
            Some(_) => {}
        }
        (jump_ms.abs() >= CLOCK_JUMP_MS).then_some(jump_ms)
    }

    /// Whether what has expired by the wall clock may be removed: it has gone evenly for a minute since it jumped
    /// forward, or that jump was taken back as a whole.
    pub fn is_trusted(&self, now: Instant) -> bool {
        lock(&self.state).jump.as_ref().is_none_or(|jump| jump.is_old(now))
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

    const DAY_MS: u64 = 24 * 60 * 60 * 1000;

    /// Plays what a wall clock shows, each 100 ms; whether it is trusted each time.
    fn trusted(offsets_ms: &[i64]) -> Vec<bool> {
        const START_MS: i64 = 1_700_000_000_000;
        let start = Instant::now();
        let clock = Clock::new(start, START_MS as u64);
        let look = |(index, offset_ms): (usize, &i64)| {
            let passed_ms = 100 * (index as u64 + 1);
            let now = start + Duration::from_millis(passed_ms);
            clock.look(now, (START_MS + passed_ms as i64 + offset_ms) as u64);
            clock.is_trusted(now)
        };
        offsets_ms.iter().enumerate().map(look).collect()
    }

    #[test]
    fn a_jump_that_is_taken_back_in_part_is_no_reason_for_trust() {
        let day_ms = DAY_MS as i64;
        let ahead_ms = day_ms - 10_000;
        assert_eq!(trusted(&[0, day_ms, ahead_ms, ahead_ms, 0]), [true, false, false, false, true]);
        // Back in steps that are no jumps each.
        assert_eq!(trusted(&[0, 12_000, 8001, 4002]), [true, false, false, true]);
        // Set back at first, then forward beyond what was right: it is not owed anything.
        assert_eq!(trusted(&[-day_ms, 0, -day_ms]), [true, false, true]);
    }

    #[test]
    fn the_minute_begins_anew_with_each_jump() {
        let day_ms = DAY_MS as i64;
        let minute = (CLOCK_TRUST_MS / 100) as usize;
        let mut offsets_ms = vec![day_ms; minute - 1];
        offsets_ms.extend(vec![day_ms - 10_000; minute + 1]);
        let trusted = trusted(&offsets_ms);
        assert!(trusted[..2 * minute - 1].iter().all(|trusted| !trusted));
        assert!(trusted[2 * minute - 1], "it has gone evenly for a minute");
    }
}
