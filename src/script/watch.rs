//! Whether a script is to end: its time is up, or another client asked for it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::sandbox::End;

/// The clock of one sandbox, which other threads may stop.
#[derive(Debug)]
pub struct Watch {
    origin: Instant,
    /// When its script began, in nanoseconds since `origin`; 0 if none runs.
    started_ns: AtomicU64,
    /// When it has to be over.
    deadline_ns: AtomicU64,
    /// Why it is to end: 0, or a number of [`End`].
    over: AtomicU8,
}

impl Watch {
    /// Of a sandbox in which no script runs.
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            started_ns: AtomicU64::new(0),
            deadline_ns: AtomicU64::new(u64::MAX),
            over: AtomicU8::new(0),
        }
    }

    fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// A script begins that may take so long.
    pub fn start(&self, time: Duration) {
        let now_ns = self.now_ns();
        self.over.store(0, Ordering::Relaxed);
        self.deadline_ns.store(now_ns + time.as_nanos() as u64, Ordering::Relaxed);
        self.started_ns.store(now_ns.max(1), Ordering::Release);
    }

    /// It is over.
    pub fn stop(&self) {
        self.started_ns.store(0, Ordering::Release);
    }

    /// Whether the script is to end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) != 0
    }

    /// The same, and whether its time is up is looked at.
    pub fn check(&self) -> bool {
        if !self.is_over() && self.now_ns() > self.deadline_ns.load(Ordering::Relaxed) {
            self.end(End::Time);
        }
        self.is_over()
    }

    /// Asks the script to end. The first reason stays.
    pub fn end(&self, reason: End) {
        let _ = self.over.compare_exchange(0, reason as u8, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Asks the script to end if one runs for longer than `time` already; says whether one does.
    pub fn end_older_than(&self, time: Duration) -> bool {
        let started_ns = self.started_ns.load(Ordering::Acquire);
        let is_old =
            started_ns != 0 && self.now_ns().saturating_sub(started_ns) >= time.as_nanos() as u64;
        if is_old {
            self.end(End::Killed);
        }
        is_old
    }

    /// Why it is to end.
    pub fn reason(&self) -> Option<End> {
        let over = self.over.load(Ordering::Relaxed);
        End::ALL.into_iter().find(|end| *end as u8 == over)
    }
}
