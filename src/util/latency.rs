//! How long the runs of a command took: a histogram in a few kilobytes, to which threads add without waiting.
//!
//! Its buckets are eight to each power of two: a time is told to within an eighth.

use std::sync::atomic::{AtomicU64, Ordering};

/// Eight of these are as wide as all before them.
const BUCKETS: usize = 256;
const EIGHTH_BITS: u32 = 3;
const EIGHTHS: usize = 1 << EIGHTH_BITS;
/// Longer times count as this one, in nanoseconds: 17 s.
const LONGEST_NS: u64 = (1 << 34) - 1;

/// See the module.
#[derive(Debug)]
pub struct Histogram([AtomicU64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Histogram {
    /// Adds a time in nanoseconds.
    pub fn add(&self, ns: u64) {
        self.0[bucket(ns)].fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets all times.
    pub fn reset(&self) {
        self.0.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }
}

/// The times of several histograms together.
#[derive(Clone, Debug)]
pub struct Latencies([u64; BUCKETS]);

impl Latencies {
    /// The sum of `histograms`.
    pub fn of<'h>(histograms: impl Iterator<Item = &'h Histogram>) -> Self {
        let mut sum = [0; BUCKETS];
        for histogram in histograms {
            for (sum, count) in sum.iter_mut().zip(&histogram.0) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        Self(sum)
    }

    /// How many times there are.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// A time, in nanoseconds, that is as long as this share of them, or longer by less than an eighth.
    pub fn quantile_ns(&self, share: f64) -> u64 {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut count = 0;
        let reached = self.0.iter().position(|more| {
            count += more;
            count >= wanted
        });
        reached.map_or(0, longest_ns)
    }

    /// How many times are shorter than 1,024 ns, 2,048 ns and so on, with the exponent of each power of two; only where
    /// that is more than before.
    pub fn shorter_than_powers(&self) -> impl Iterator<Item = (u32, u64)> {
        let mut before = 0;
        (10..=LONGEST_NS.ilog2() + 1).filter_map(move |exponent| {
            let buckets = bucket((1 << exponent) - 1) + 1;
            let count = self.0[..buckets].iter().sum();
            let is_more = count > before;
            before = count;
            is_more.then_some((exponent, count))
        })
    }
}

/// The bucket of a time.
fn bucket(ns: u64) -> usize {
    let ns = ns.min(LONGEST_NS);
    match ns.checked_ilog2() {
        Some(exponent @ EIGHTH_BITS..) => {
            let shift = exponent - EIGHTH_BITS;
            (shift as usize) * EIGHTHS + (ns >> shift) as usize
        }
        _ => ns as usize,
    }
}

/// The longest time of a bucket, in nanoseconds.
fn longest_ns(bucket: usize) -> u64 {
    match bucket.checked_sub(EIGHTHS) {
        None => bucket as u64,
        Some(above) => (((above % EIGHTHS + EIGHTHS + 1) as u64) << (above / EIGHTHS)) - 1,
    }
}

const _: () = assert!(BUCKETS == (34 - EIGHTH_BITS as usize + 1) * EIGHTHS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_the_bucket_that_ends_within_an_eighth() {
        let mut last = 0;
        for exponent in 0..34 {
            for ns in [1 << exponent, (1 << exponent) + (1 << exponent) / 3, (2 << exponent) - 1] {
                let bucket = bucket(ns);
                assert!(bucket >= last && bucket < BUCKETS, "{ns}");
                last = bucket;
                let longest = longest_ns(bucket);
                assert!(ns <= longest && longest - ns <= ns / 8, "{ns}: {longest}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(longest_ns(BUCKETS - 1), LONGEST_NS);
    }

    #[test]
    fn quantiles_and_powers_are_those_of_the_times() {
        let (one, two) = (Histogram::default(), Histogram::default());
        (0..90).for_each(|_| one.add(1_000));
        (0..9).for_each(|_| two.add(5_000));
        two.add(70_000);
        let all = Latencies::of([&one, &two].into_iter());
        assert_eq!(all.count(), 100);
        let quantiles = [0.5, 0.9, 0.99, 1.0].map(|share| all.quantile_ns(share));
        assert_eq!(quantiles, [1023, 1023, 5119, 73_727]);
        let powers: Vec<_> = all.shorter_than_powers().collect();
        assert_eq!(powers, [(10, 90), (13, 99), (17, 100)]);
        one.reset();
        assert_eq!(Latencies::of([&one].into_iter()).quantile_ns(0.5), 0);
    }
}
