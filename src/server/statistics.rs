//! What has happened so far, in numbers.
//!
//! A connection adds what a burst did here once, to one of several stripes, so that threads that count at the same time
//! seldom share a cache line. Reading adds the stripes up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::engine::Entry;
use crate::util::latency::{Histogram, Latencies};
use crate::util::sync::lock;

const STRIPES: usize = 16;

/// There are no more words that an error reply may begin with.
pub const ERROR_CODES_MAX: usize = 16;

/// What has happened so far.
#[derive(Debug)]
pub struct Statistics {
    stripes: Box<[Stripe]>,
    events: [AtomicU64; Event::ALL.len()],
    refused: [AtomicU64; ERROR_CODES_MAX],
    pace: Mutex<Pace>,
}

/// Counters that few threads share. Aligned, so that no two stripes share a line of the cache.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe {
    called: Box<[[AtomicU64; 4]]>,
    /// How long the runs of each command took, if there were any.
    latencies: Box<[OnceLock<Box<Histogram>>]>,
    hits: AtomicU64,
    misses: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

/// Rare events, each counted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client was admitted.
    Connected,
    /// A client was rejected: there were too many, or no thread for another.
    Rejected,
    /// A client was closed because it was idle, or took too long over a request.
    TimedOut,
    /// A client was closed because it did not read its replies.
    NotReading,
    /// Bytes were no request.
    Malformed,
    /// A wrong password.
    WrongPassword,
    /// A connection's thread panicked.
    Panicked,
}

impl Event {
    const ALL: [Self; 7] = [
        Self::Connected,
        Self::Rejected,
        Self::TimedOut,
        Self::NotReading,
        Self::Malformed,
        Self::WrongPassword,
        Self::Panicked,
    ];
}

/// How often one command was called.
#[derive(Clone, Copy, Debug, Default)]
pub struct Called {
    /// How often it was run.
    pub calls: u64,
    /// How long that took in all, in nanoseconds.
    pub ns: u64,
    /// How often it was not run: arity, password, memory.
    pub rejected: u64,
    /// How often it was run and answered by an error.
    pub failed: u64,
}

/// What all connections have burst.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// By the number of the command.
    pub called: Vec<Called>,
    /// Error replies, by the number of what they begin with.
    pub refused: [u64; ERROR_CODES_MAX],
    /// Keys looked for to be read, and there.
    pub hits: u64,
    /// Keys looked for to be read, and not there.
    pub misses: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

impl Totals {
    /// Commands run.
    pub fn commands(&self) -> u64 {
        self.called.iter().map(|called| called.calls).sum()
    }

    /// Error replies.
    pub fn errors(&self) -> u64 {
        self.refused.iter().sum()
    }
}

/// What a connection did since it was last added to the statistics.
#[derive(Clone, Copy, Debug, Default)]
pub struct BurstStats {
    /// The command that `called` speaks of.
    command: usize,
    called: Called,
    /// Commands run.
    pub commands: u64,
    /// Keys looked for to be read, and there.
    pub hits: u64,
    /// Keys looked for to be read, and not there.
    pub misses: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

impl BurstStats {
    /// Counts a look-up, a hit or a miss, and passes its result through.
    pub(crate) fn lookup<'e>(&mut self, entry: Option<&'e Entry>) -> Option<&'e Entry> {
        match entry {
            Some(_) => self.hits += 1,
            None => self.misses += 1,
        }
        entry
    }
}

/// Rates per second, as of the last sample.
#[derive(Debug)]
struct Pace {
    at: Instant,
    before: [u64; 3],
    /// Commands, bytes received, bytes sent.
    per_second: [f64; 3],
}

impl Statistics {
    /// Of so many commands and subcommands.
    pub fn new(commands: usize) -> Self {
        let stripe = || Stripe {
            called: (0..commands).map(|_| Default::default()).collect(),
            latencies: (0..commands).map(|_| OnceLock::new()).collect(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        };
        let pace = Pace { at: Instant::now(), before: [0; 3], per_second: [0.0; 3] };
        Self {
            stripes: (0..STRIPES).map(|_| stripe()).collect(),
            events: Default::default(),
            refused: Default::default(),
            pace: Mutex::new(pace),
        }
    }

    /// Something happened.
    pub fn happened(&self, event: Event) {
        self.events[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A request was answered by an error whose first word has this number, below [`ERROR_CODES_MAX`].
    pub fn refused(&self, code: usize) {
        self.refused[code].fetch_add(1, Ordering::Relaxed);
    }

    /// How often something has happened.
    pub fn times(&self, event: Event) -> u64 {
        self.events[event as usize].load(Ordering::Relaxed)
    }

    /// Begins to count anew.
    pub fn reset(&self) {
        for stripe in &self.stripes {
            let counters = [&stripe.hits, &stripe.misses, &stripe.received, &stripe.sent];
            let counters = counters.into_iter().chain(stripe.called.iter().flatten());
            counters.for_each(|counter| counter.store(0, Ordering::Relaxed));
            stripe.latencies.iter().filter_map(OnceLock::get).for_each(|it| it.reset());
        }
        let rare = self.events.iter().chain(&self.refused);
        rare.for_each(|counter| counter.store(0, Ordering::Relaxed));
        lock(&self.pace).before = [0; 3];
    }

    /// Counts a command of client number `id`, run or rejected, in `burst`; adds the counts of the command before to the
    /// stripe if that was another one.
    pub fn count(&self, id: u64, burst: &mut BurstStats, command: usize, called: Called) {
        if burst.command != command {
            self.add_called(id, burst);
            burst.command = command;
        }
        if called.calls > 0 {
            self.stripe(id).latencies[command].get_or_init(Box::default).add(called.ns);
        }
        burst.commands += called.calls;
        burst.called.calls += called.calls;
        burst.called.ns += called.ns;
        burst.called.rejected += called.rejected;
        burst.called.failed += called.failed;
    }

    /// Adds what client number `id` did to its stripe.
    pub fn add(&self, id: u64, burst: &mut BurstStats) {
        self.add_called(id, burst);
        let stripe = self.stripe(id);
        let BurstStats { hits, misses, received, sent, .. } = *burst;
        for (counter, more) in [
            (&stripe.hits, hits),
            (&stripe.misses, misses),
            (&stripe.received, received),
            (&stripe.sent, sent),
        ] {
            add(counter, more);
        }
        *burst = BurstStats { command: burst.command, ..BurstStats::default() };
    }

    fn add_called(&self, id: u64, burst: &mut BurstStats) {
        let Called { calls, ns, rejected, failed } = std::mem::take(&mut burst.called);
        let counters = &self.stripe(id).called[burst.command];
        for (counter, more) in counters.iter().zip([calls, ns, rejected, failed]) {
            add(counter, more);
        }
    }

    fn stripe(&self, id: u64) -> &Stripe {
        &self.stripes[id as usize % STRIPES]
    }

    /// The sum of all stripes.
    pub fn totals(&self) -> Totals {
        let commands = self.stripes[0].called.len();
        let mut totals = Totals {
            called: vec![Called::default(); commands],
            refused: std::array::from_fn(|code| self.refused[code].load(Ordering::Relaxed)),
            ..Totals::default()
        };
        for stripe in &self.stripes {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            for (called, [calls, ns, rejected, failed]) in
                totals.called.iter_mut().zip(&stripe.called)
            {
                called.calls += load(calls);
                called.ns += load(ns);
                called.rejected += load(rejected);
                called.failed += load(failed);
            }
            totals.hits += load(&stripe.hits);
            totals.misses += load(&stripe.misses);
            totals.received += load(&stripe.received);
            totals.sent += load(&stripe.sent);
        }
        totals
    }

    /// How long the runs of a command took.
    pub fn latencies(&self, command: usize) -> Latencies {
        Latencies::of(
            self.stripes
                .iter()
                .filter_map(|stripe| stripe.latencies[command].get().map(Box::as_ref)),
        )
    }

    /// Computes the rates since the last call; call it each second.
    pub fn sample(&self) {
        let totals = self.totals();
        let now = [totals.commands(), totals.received, totals.sent];
        let mut pace = lock(&self.pace);
        let seconds = pace.at.elapsed().as_secs_f64().max(0.001);
        for (index, count) in now.into_iter().enumerate() {
            pace.per_second[index] = count.saturating_sub(pace.before[index]) as f64 / seconds;
        }
        (pace.at, pace.before) = (Instant::now(), now);
    }

    /// Commands, bytes received and bytes sent per second, as of the last sample.
    pub fn per_second(&self) -> [f64; 3] {
        lock(&self.pace).per_second
    }
}

/// Most counts are zero: then nothing is written to a shared cache line.
fn add(counter: &AtomicU64, more: u64) {
    if more > 0 {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

impl Called {
    /// One run, which took so long.
    pub fn once(took: Duration, failed: bool) -> Self {
        let ns = took.as_nanos() as u64;
        Self { calls: 1, ns, rejected: 0, failed: u64::from(failed) }
    }

    /// One that was not run.
    pub fn rejected() -> Self {
        Self { rejected: 1, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_add_up_whatever_they_mix() {
        let statistics = Statistics::new(3);
        for id in 0..100 {
            let mut burst = BurstStats { received: 10, sent: 20, ..BurstStats::default() };
            for command in [0, 0, 2, 0, 2, 2] {
                let called = Called::once(Duration::from_nanos(5), command == 2);
                statistics.count(id, &mut burst, command, called);
            }
            statistics.count(id, &mut burst, 1, Called::rejected());
            (burst.hits, burst.misses) = (3, 1);
            assert_eq!(burst.commands, 6);
            statistics.add(id, &mut burst);
            statistics.add(id, &mut burst);
        }
        let totals = statistics.totals();
        assert_eq!((totals.commands(), totals.errors()), (600, 0));
        let counts = totals.called.iter().map(|called| (called.rejected, called.failed));
        assert_eq!(counts.collect::<Vec<_>>(), [(0, 0), (100, 0), (0, 300)]);
        [0, 2, 2].into_iter().for_each(|code| statistics.refused(code));
        let totals = statistics.totals();
        assert_eq!((totals.refused[0], totals.refused[2], totals.errors()), (1, 2, 3));
        assert_eq!(totals.called.iter().map(|called| called.ns).sum::<u64>(), 3000);
        assert_eq!((totals.hits, totals.misses), (300, 100));
        assert_eq!((totals.received, totals.sent), (1000, 2000));
    }

    #[test]
    fn every_event_has_its_counter() {
        for (index, event) in Event::ALL.into_iter().enumerate() {
            assert_eq!(event as usize, index);
        }
    }
}
