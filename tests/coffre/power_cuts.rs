//! What a power cut can leave of a file: everything fsynced is there; of the rest each sector is kept,
//! lost (NUL) or garbage, and the file ends anywhere. It must start by itself, and hold exactly a prefix
//! of the commits, with all that was fsynced. Then it must go on, through a second cut.
//!
//! 2,000 seeds, or `COFFRE_POWER_CUTS`; `COFFRE_SEED` replays one.

use std::fs;
use std::ops::Range;
use std::path::Path;

use coffre::engine::{Engine, Session};
use coffre::persistence::Fsync;

use crate::harness::{State, folder, on_request, recover};

const SECTOR: usize = 512;

/// A run of commits: what each left in memory, and how much of the file was fsynced last.
struct Run {
    /// The state after each commit, the first being that of the start.
    states: Vec<State>,
    /// The last of them that was fsynced.
    synced: usize,
    /// The length of the file then, in bytes.
    synced_bytes: usize,
}

fn state(session: &mut Session<'_>) -> State {
    let mut keys = Vec::new();
    session.keys(|key| keys.push(key.to_vec()));
    let value =
        |session: &mut Session<'_>, key: &[u8]| session.get(key, |value| value.unwrap().to_vec());
    let state = keys.into_iter().map(|key| (key.clone(), value(session, &key))).collect();
    session.take_mark();
    state
}

fn random_write(session: &mut Session<'_>, random: &mut fastrand::Rng) {
    let key = [random.u8(b'a'..b'f')];
    let length = if random.u8(..8) == 0 { random.usize(..2000) } else { random.usize(..30) };
    let value: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
    match random.u8(..20) {
        0 => session.flush_all().unwrap(),
        1..4 => drop(session.del([&key[..], b"a"].into_iter()).unwrap()),
        4..9 => drop(session.append(&key, &value).unwrap()),
        9..11 => drop(session.set_range(&key, random.usize(..20), &value).unwrap()),
        _ => session.set(&key, &value).unwrap(),
    }
}

/// Starts on `file`, commits some writes, fsyncs now and then, and stops dead.
fn run(file: &Path, random: &mut fastrand::Rng) -> Run {
    let fsync = Fsync::ALL[random.usize(..2)];
    let engine = Engine::start(recover(file).unwrap(), fsync).unwrap();
    let length = || fs::metadata(file).unwrap().len() as usize;
    let mut session = Session::new(&engine);
    let mut run = Run { states: vec![state(&mut session)], synced: 0, synced_bytes: length() };
    let mut idle = 0;
    for _ in 0..random.usize(1..15) {
        for _ in 0..random.usize(1..4) {
            random_write(&mut session, random);
        }
        let mark = session.take_mark();
        session.commit(mark).unwrap();
        run.states.push(state(&mut session));
        if random.u8(..4) == 0 {
            // Twice without a write in between: an empty batch marks the last one.
            idle = engine.mark_idle(idle);
            idle = engine.mark_idle(idle);
        }
        if fsync == Fsync::Always || random.u8(..4) == 0 {
            engine.sync_second();
            (run.synced, run.synced_bytes) = (run.states.len() - 1, length());
        }
    }
    run
}

/// What is left of `bytes` when the power goes after `synced` of them were fsynced.
fn cut(bytes: &[u8], synced: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut left = bytes[..random.usize(synced..=bytes.len())].to_vec();
    let mut start = synced;
    while start < left.len() {
        let end = left.len().min((start / SECTOR + 1) * SECTOR);
        let sector: Range<usize> = start..end;
        match random.u8(..4) {
            0 => left[sector].fill(0),
            1 => left[sector].iter_mut().for_each(|byte| *byte = random.u8(..)),
            _ => {}
        }
        start = end;
    }
    left
}

fn check(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (_folder, file) = folder();
    for _ in 0..3 {
        let run = run(&file, &mut random);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, cut(&bytes, run.synced_bytes, &mut random)).unwrap();
        let engine = recover(&file).and_then(|found| Engine::start(found, Fsync::No));
        let engine = engine.unwrap_or_else(|error| panic!("COFFRE_SEED={seed}: {error}"));
        let found = state(&mut Session::new(&engine));
        let is_prefix = run.states[run.synced..].contains(&found);
        assert!(is_prefix, "COFFRE_SEED={seed}: not a prefix, or something fsynced is lost");
    }
}

#[test]
fn a_power_cut_leaves_a_prefix_with_all_that_was_fsynced() {
    if std::env::var("COFFRE_SEED").is_ok() {
        return check(on_request("COFFRE_SEED", 0));
    }
    let first = fastrand::u64(..1 << 40);
    println!("the first COFFRE_SEED={first}");
    (first..first + on_request("COFFRE_POWER_CUTS", 2_000)).for_each(check);
}
