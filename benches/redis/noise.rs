//! How noisy the machine is: the same work takes a different time where something else takes the processor.

use std::fs;
use std::hint::black_box;
use std::time::Instant;

use crate::error::{Context, Result};
use crate::figures::median;

/// How long the same work took, again and again, on an otherwise idle machine.
#[derive(Default)]
pub struct Noise {
    /// In milliseconds.
    times: Vec<f64>,
    load_average: f64,
}

/// How often the work is done each time.
const TIMES: usize = 50;
/// About a millisecond.
const ROUNDS: u64 = 1_000_000;

impl Noise {
    /// Asks the system how busy it was lately.
    pub fn new() -> Result<Self> {
        let text = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
        let first = text.split(' ').next().and_then(|it| it.parse().ok());
        Ok(Self { times: Vec::new(), load_average: first.unwrap_or(f64::NAN) })
    }

    /// Does the work some times more.
    pub fn measure(&mut self) {
        for _ in 0..TIMES {
            let started = Instant::now();
            let work = |state: u64, round: u64| (state ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            black_box((0..black_box(ROUNDS)).fold(1, work));
            self.times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }

    /// One sentence for people.
    pub fn told(&self) -> String {
        let mut sorted = self.times.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[(share * (sorted.len() - 1) as f64) as usize];
        let middle = median(&sorted).unwrap_or(f64::NAN);
        if sorted.is_empty() {
            return "not measured".to_owned();
        }
        format!(
            "work of {middle:.2} ms, done {} times between the measurements, took {:.2} times as long in one of ten, {:.2} \
             in one of a hundred, and {:.1} at most; the load average was {:.2} at the beginning",
            sorted.len(),
            at(0.9) / middle,
            at(0.99) / middle,
            at(1.0) / middle,
            self.load_average,
        )
    }
}
