//! `SLOWLOG`: the commands that took long, newest first.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::{Client, unix_time};
use crate::limits::{SLOW_ARGUMENT_BYTES_MAX, SLOW_ARGUMENTS_MAX, SLOWLOG_ENTRIES_MAX};
use crate::util::sync::lock;

/// The commands that took long.
#[derive(Debug)]
pub struct Slowlog {
    /// How long one must take, in microseconds; negative if none does.
    threshold_us: AtomicI64,
    /// How many are kept.
    most: AtomicUsize,
    next_id: AtomicU64,
    entries: Mutex<VecDeque<Slow>>,
}

/// A command that took long.
#[derive(Clone, Debug)]
pub struct Slow {
    /// Counts from 0.
    pub id: u64,
    /// When it ended, in seconds of Unix time.
    pub time_s: u64,
    /// How long it took, without waiting for the disk.
    pub took: Duration,
    /// Its words, shortened.
    pub words: Vec<Vec<u8>>,
    /// The address of its client.
    pub peer: String,
    /// The name of its client.
    pub name: String,
}

impl Slowlog {
    /// Keeps what takes `threshold_us` microseconds or more; nothing if that is negative.
    pub fn new(threshold_us: i64) -> Self {
        let (threshold_us, most) =
            (AtomicI64::new(threshold_us), AtomicUsize::new(SLOWLOG_ENTRIES_MAX));
        Self { threshold_us, most, next_id: AtomicU64::new(0), entries: Mutex::default() }
    }

    /// Whether a command that took so long belongs here.
    pub fn is_slow(&self, took: Duration) -> bool {
        u64::try_from(self.threshold_us())
            .is_ok_and(|threshold_us| took >= Duration::from_micros(threshold_us))
    }

    /// How long one must take, in microseconds; negative if none does.
    pub fn threshold_us(&self) -> i64 {
        self.threshold_us.load(Ordering::Relaxed)
    }

    /// Changes that.
    pub fn set_threshold(&self, threshold_us: i64) {
        self.threshold_us.store(threshold_us, Ordering::Relaxed);
    }

    /// How many are kept.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Changes that; the oldest entries are removed.
    pub fn set_most(&self, most: usize) {
        let mut entries = lock(&self.entries);
        self.most.store(most, Ordering::Relaxed);
        entries.truncate(most);
    }

    /// Keeps a command.
    pub fn add<'a>(
        &self,
        client: &Client,
        words: impl ExactSizeIterator<Item = &'a [u8]>,
        took: Duration,
    ) {
        let slow = Slow {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            time_s: unix_time().as_secs(),
            took,
            words: shorten(words),
            peer: client.peer.to_string(),
            name: client.names().name,
        };
        let mut entries = lock(&self.entries);
        entries.push_front(slow);
        entries.truncate(self.most());
    }

    /// The newest `most`.
    pub fn newest(&self, most: usize) -> Vec<Slow> {
        lock(&self.entries).iter().take(most).cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        lock(&self.entries).len()
    }

    /// Removes all of them.
    pub fn clear(&self) {
        lock(&self.entries).clear();
    }
}

/// As Redis does: the last of many words says how many more there are, and the end of a long word how many more bytes.
fn shorten<'a>(words: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let count = words.len();
    let shown = if count > SLOW_ARGUMENTS_MAX { SLOW_ARGUMENTS_MAX - 1 } else { count };
    let short = |word: &[u8]| match word.get(..SLOW_ARGUMENT_BYTES_MAX) {
        Some(start) if word.len() > SLOW_ARGUMENT_BYTES_MAX => {
            [start, format!("... ({} more bytes)", word.len() - start.len()).as_bytes()].concat()
        }
        _ => word.to_vec(),
    };
    let mut words: Vec<_> = words.take(shown).map(short).collect();
    if count > shown {
        words.push(format!("... ({} more arguments)", count - shown).into_bytes());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_requests_are_shortened_as_redis_does() {
        let word = [b'x'; 200];
        let words = shorten(std::iter::repeat_n(&word[..], 40));
        assert_eq!(words.len(), SLOW_ARGUMENTS_MAX);
        assert!(words[0].ends_with(b"x... (72 more bytes)") && words[0].len() == 128 + 19);
        assert_eq!(words[31], b"... (9 more arguments)");
        assert_eq!(shorten([&b"GET"[..], b"a"].into_iter()), [b"GET".to_vec(), b"a".to_vec()]);
    }
}
