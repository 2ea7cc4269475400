//! Random mutations of a data file: bits, bytes, blocks and lines turned, cut, repeated, moved, spliced
//! in from another file. It loads exactly, or a prefix that no mark contradicts, or it is refused with
//! line and offset; it never panics, and nothing else comes out.
//!
//! 20,000 mutations, or `COFFRE_MUTATIONS`; `COFFRE_SEED` replays one.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coffre::engine::local::store::Store;
use coffre::engine::local::{Loading, LocalEngine};
use coffre::journal::format::Seal;
use coffre::journal::{Error, Fsync, Recovery};

use crate::corruption::{as_format_1, pieces};
use crate::handle::{Access, Handle};
use crate::harness::{State, on_request, state};
use crate::simulated_disk::SimulatedDisk;
use crate::state::replayed;

fn path() -> PathBuf {
    "/donnees.txt".into()
}

/// A cleanly closed file, and what it holds after each of its batches.
struct Sample {
    bytes: Vec<u8>,
    states: Vec<State>,
    seals: Vec<(Vec<u8>, Seal)>,
    /// How many batches its base has.
    base: u64,
}

impl Sample {
    /// A file that was empty at first, or compacted once, or of format 1.
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = SimulatedDisk::new(seed);
        let recovery = Recovery::on(Arc::new(disk.clone()), path()).unwrap();
        let engine = LocalEngine::start(recovery, Fsync::Always).unwrap();
        let mut session = Handle::new(&engine);
        let (mut states, mut base) = (vec![State::new(), State::new()], 1);
        for number in 0..12 {
            if number == 6 && seed.is_multiple_of(2) {
                engine.compact().unwrap();
                base = pieces(&disk.read(&path()).unwrap()).len() - 1;
                states = vec![state(&mut session); base + 1];
                states[0].clear();
            }
            for _ in 0..random.usize(1..4) {
                let key = [random.u8(b'a'..b'e')];
                let value: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
                match random.u8(..10) {
                    0 if number > 3 => session.flush(true).unwrap(),
                    1..3 => drop(session.del(&[&key[..]]).unwrap()),
                    3..6 => drop(session.append(&key, &value).unwrap()),
                    _ => session.set(&key, &value).unwrap(),
                }
            }
            // One more, so that each batch differs.
            session.append(b"n", &[b'0' + number]).unwrap();
            session.commit().unwrap();
            states.push(state(&mut session));
        }
        engine.close().unwrap();
        states.extend(states.last().cloned());
        let mut bytes = disk.read(&path()).unwrap();
        if seed % 4 == 3 {
            let mut pieces = pieces(&bytes);
            let head = pieces.drain(..2).collect::<Vec<_>>().concat();
            let (header, batches) = as_format_1(&head, &pieces);
            (bytes, base) = ([header, batches.concat()].concat(), 0);
            states.remove(0);
        }
        let lines = bytes.split(|byte| *byte == b'\n');
        let seals: Vec<_> =
            lines.filter_map(|line| Some((line.to_vec(), Seal::parse(line)?))).collect();
        assert_eq!(seals.len() + 1, states.len());
        Self { bytes, states, seals, base: base as u64 }
    }

    /// Whether a file of `bytes` may hold only the batches up to `last`: no seal that is still in it
    /// says that more was durable, and all of the base is there.
    fn may_end_at(&self, last: u64, bytes: &[u8]) -> bool {
        let has = |seal: &[u8]| bytes.split(|byte| *byte == b'\n').any(|line| line == seal);
        last >= self.base && !self.seals.iter().any(|(line, seal)| seal.durable > last && has(line))
    }
}

fn any_range(random: &mut fastrand::Rng, length: usize) -> Range<usize> {
    let start = random.usize(..=length);
    let most = if random.bool() { 8 } else { length };
    start..(start + random.usize(..=most)).min(length)
}

/// A range of whole lines.
fn any_lines(random: &mut fastrand::Rng, bytes: &[u8]) -> Range<usize> {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let starts: Vec<_> = std::iter::once(0).chain(ends).collect();
    let first = random.usize(..starts.len());
    let last = (first + random.usize(..6)).min(starts.len() - 1);
    starts[first]..starts[last]
}

fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut fastrand::Rng) {
    if bytes.is_empty() {
        return;
    }
    let range = match random.bool() {
        true => any_lines(random, bytes),
        false => any_range(random, bytes.len()),
    };
    let place = match random.bool() {
        true => any_lines(random, bytes).start,
        false => random.usize(..=bytes.len()),
    };
    let index = random.usize(..bytes.len());
    match random.u8(..9) {
        0 => bytes[index] ^= 1 << random.u8(..8),
        1 => bytes[index] = random.u8(..),
        2 => bytes[range].fill(0),
        3 => bytes[range].iter_mut().for_each(|byte| *byte = random.u8(..)),
        4 => bytes.truncate(place),
        5 => drop(bytes.drain(range)),
        6 => {
            let copy = bytes[range].to_vec();
            drop(bytes.splice(place..place, copy));
        }
        7 => {
            let moved: Vec<_> = bytes.drain(range).collect();
            let place = place.min(bytes.len());
            drop(bytes.splice(place..place, moved));
        }
        _ => {
            let foreign = any_lines(random, other);
            drop(bytes.splice(place..place, other[foreign].iter().copied()));
        }
    }
}

fn check(seed: u64, samples: &[Sample]) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let sample = &samples[random.usize(..samples.len())];
    let other = &samples[random.usize(..samples.len())];
    let mut bytes = sample.bytes.clone();
    for _ in 0..random.usize(1..4) {
        mutate(&mut bytes, &other.bytes, &mut random);
    }
    let disk = SimulatedDisk::new(seed);
    disk.write(&path(), &bytes);
    let loaded = Recovery::on(Arc::new(disk.clone()), path()).and_then(|recovery| {
        let loaded = Loading::load(&recovery, Store::default())?;
        Ok((recovery, loaded))
    });
    let (recovery, loaded) = match loaded {
        Ok(both) => both,
        Err(Error::Refused { refusal, .. }) => {
            let told = refusal.line >= 1 && refusal.offset <= bytes.len() as u64;
            return if told { Ok(()) } else { Err(format!("no place: {refusal}")) };
        }
        Err(error) => return Err(error.to_string()),
    };
    let begins = |line: &[u8]| line.starts_with(b"# coffre ") || line.starts_with(b"#= ");
    if !bytes.split(|byte| *byte == b'\n').any(begins) {
        // Nothing of a sealed file is left: it is one written by hand.
        return Ok(());
    }
    let found = replayed(&loaded);
    if bytes.is_empty() {
        // A copy that has not begun: a new file.
        return if found.is_empty() { Ok(()) } else { Err(format!("of nothing: {found:?}")) };
    }
    // Of equal states the last.
    let last = sample.states.iter().rposition(|state| *state == found);
    match last {
        Some(last) if sample.may_end_at(last as u64, &bytes) => {}
        Some(last) => return Err(format!("it ends at batch {last}, a mark says more is durable")),
        None => return Err(format!("found {found:?}")),
    }
    // And it can be gone on with: what was cut is aside.
    recovery.finish(Fsync::Always).map_err(|error| error.to_string())?;
    let again = Recovery::on(Arc::new(disk), path()).map_err(|error| error.to_string())?;
    let loaded = Loading::load(&again, Store::default()).map_err(|error| error.to_string())?;
    if replayed(&loaded) == found { Ok(()) } else { Err("another state after a start".to_owned()) }
}

#[test]
fn a_mutated_file_loads_exactly_or_is_refused() {
    let samples: Vec<_> = (0..8).map(Sample::new).collect();
    let seeds = match std::env::var("COFFRE_SEED") {
        Ok(seed) => seed.parse().unwrap()..seed.parse::<u64>().unwrap() + 1,
        Err(_) => 0..on_request("COFFRE_MUTATIONS", 20_000),
    };
    let next = AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let result = check(seed, &samples);
                    assert!(result.is_ok(), "COFFRE_SEED={seed}: {}", result.unwrap_err());
                }
            });
        }
    });
}
