//! The engine on a [`SimulatedDisk`](crate::simulated_disk): random writes to some databases, alone and several at one
//! moment, of keys that expire and others, compactions and restarts while
//! the power goes at any call, calls fail, and recovery is cut short too. After each it must start by
//! itself, and hold exactly the writes before some moment, with all that were acknowledged. A plain
//! map says what that is.
//!
//! 2,000 seeds, or `COFFRE_SIMULATIONS`; `COFFRE_SEED` replays one. That the test can fail is tested
//! too: disks that do not sync are journals that forget to, and a recovery that cuts at the first bad
//! line is caught.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coffre::engine::local::store::{Hashing, Store};
use coffre::engine::local::{Compaction, LocalEngine};
use coffre::engine::{Admin, Scope, Txn, TxnError};
use coffre::journal::format::Seal;
use coffre::journal::{Error, Fsync, Recovery};

use crate::handle::{Access, Handle, Part};
use crate::harness::on_request;
use crate::simulated_disk::{Lies, Plan, SimulatedDisk};

/// What is in memory: by database and key, the value and when it expires.
type Model = BTreeMap<(usize, Vec<u8>), (Vec<u8>, Option<u64>)>;

/// How many databases are written to.
const DATABASES: usize = 3;
/// No key expires before that, in milliseconds of Unix time.
const FAR_MS: u64 = 33_177_117_420_000;

/// All there is.
fn model(engine: &LocalEngine) -> Model {
    let mut handle = Handle::new(engine);
    let mut all = Model::new();
    for database in 0..DATABASES {
        handle.select(database);
        let mut keys = Vec::new();
        handle
            .run(Scope::Each, |txn| txn.keys(database, b"", &mut |key| keys.push(key.to_vec())))
            .unwrap();
        for key in keys {
            let held = handle.on(&key, |txn, key| {
                let entry = txn.peek(key)?.unwrap();
                Ok((entry.value().to_vec(), entry.expires_ms()))
            });
            all.insert((database, key), held.unwrap());
        }
    }
    all
}

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, Default)]
struct Broken {
    lies: Lies,
    /// Before each start the file is cut at the first line that is not as it should be.
    cuts_at_first_bad_line: bool,
    /// What is to be done at one moment is done at several.
    splits_transactions: bool,
}

/// What memory must hold, and what a start may find.
#[derive(Debug, Default)]
struct Oracle {
    /// What was acknowledged, in memory now.
    acknowledged: Model,
    /// What a power cut may leave beside that: older states not synced yet, and writes that were
    /// refused or were under way.
    possible: Vec<Model>,
}

impl Oracle {
    /// Everything acknowledged is on disk, and nothing else.
    fn synced(&mut self) {
        self.possible.clear();
    }

    fn check(&self, found: &Model) -> Result<(), String> {
        if *found == self.acknowledged || self.possible.contains(found) {
            return Ok(());
        }
        let Self { acknowledged, possible } = self;
        Err(format!("found {found:?}, acknowledged {acknowledged:?}, possible {possible:?}"))
    }
}

/// One seed's run.
struct Simulation {
    random: fastrand::Rng,
    disk: SimulatedDisk,
    path: PathBuf,
    fsync: Fsync,
    oracle: Oracle,
    broken: Broken,
    seed: u64,
    /// Instead of plans at random: one for the first run, and none after.
    scripted: Option<Plan>,
}

/// Why a run ended early, and well.
struct Refused;

type Outcome<T> = Result<T, String>;

impl Simulation {
    fn new(seed: u64, broken: Broken) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = SimulatedDisk::new(random.u64(..));
        disk.set_lies(broken.lies);
        // `no` promises nothing against a power cut.
        let fsync = Fsync::ALL[random.usize(..2)];
        let path = PathBuf::from("/donnees.txt");
        let (oracle, scripted) = (Oracle::default(), None);
        Self { random, disk, path, fsync, oracle, broken, seed, scripted }
    }

    fn run(&mut self) -> Outcome<()> {
        if let Some(plan) = self.scripted {
            self.disk.set_plan(plan);
            let Ok(engine) = self.start(false)? else { return Ok(()) };
            self.disk.set_plan(plan);
            for _ in 0..3 {
                self.work(&engine)?;
            }
            self.end(engine)?;
            return self.start(false).map(drop);
        }
        for round in 0..self.random.usize(2..5) {
            let Ok(engine) = self.start(round > 0)? else { return Ok(()) };
            self.plan();
            self.work(&engine)?;
            self.end(engine)?;
        }
        Ok(())
    }

    /// Plans a stop, or calls that fail, or neither, within the next calls.
    fn plan(&mut self) {
        if self.scripted.is_some() {
            return;
        }
        let at = self.disk.calls() + self.random.u64(1..40);
        let code = [libc_codes::EIO, libc_codes::ENOSPC][self.random.usize(..2)];
        let plan = match self.random.u8(..4) {
            0 => Plan::default(),
            1 => Plan { stop_at: Some(at), ..Plan::default() },
            2 => Plan { failing: Some((at, at + self.random.u64(1..12), code)), ..Plan::default() },
            _ => Plan {
                failing: Some((at, at + self.random.u64(1..12), code)),
                stop_at: Some(at + self.random.u64(1..20)),
            },
        };
        self.disk.set_plan(plan);
    }

    /// Recovers, through crashes and failing calls; `Err(Refused)` where a damaged file must not be
    /// used.
    fn start(&mut self, may_rot: bool) -> Outcome<Result<LocalEngine, Refused>> {
        // Only where a mark covers everything: elsewhere damage may look like a crash.
        let rots = may_rot && self.is_marked() && self.random.u8(..6) == 0;
        if rots {
            self.disk.rot(&self.path);
        }
        if self.broken.cuts_at_first_bad_line {
            cut_at_first_bad_line(&self.disk, &self.path);
        }
        for attempt in 0.. {
            if attempt < 3 && self.random.u8(..3) == 0 {
                self.plan();
            }
            let before = self.disk.read(&self.path);
            match self.recover() {
                Ok(engine) => {
                    self.disk.set_plan(Plan::default());
                    let found = model(&engine);
                    self.oracle.check(&found)?;
                    self.oracle = Oracle { acknowledged: found, possible: Vec::new() };
                    return Ok(Ok(engine));
                }
                Err(_) if self.disk.has_stopped() => self.disk = self.disk.power_cut(),
                Err(Error::Refused { .. }) if rots => {
                    if self.disk.read(&self.path) != before {
                        return Err("a refused file was changed".to_owned());
                    }
                    return Ok(Err(Refused));
                }
                Err(Error::Io { .. }) if attempt < 3 => {}
                Err(error) => return Err(format!("it does not start: {error}")),
            }
            self.disk.set_plan(Plan::default());
        }
        unreachable!("attempts do not end")
    }

    fn recover(&self) -> Result<LocalEngine, Error> {
        let recovery = Recovery::on(Arc::new(self.disk.clone()), self.path.clone())?;
        LocalEngine::start_with(recovery, self.fsync, Store::new(Hashing::Repeatable(self.seed)))
    }

    /// Whether a mark covers every record.
    fn is_marked(&self) -> bool {
        let text = self.disk.read(&self.path).unwrap_or_default();
        let lines = text.split(|byte| *byte == b'\n');
        let seals: Vec<_> = lines.filter_map(Seal::parse).collect();
        let marked = seals.iter().map(|seal| seal.durable).max().unwrap_or(0);
        !text.is_empty() && seals.iter().all(|seal| seal.records == 0 || seal.number <= marked)
    }

    fn work(&mut self, engine: &LocalEngine) -> Outcome<()> {
        let mut handle = Handle::new(engine);
        let mut compaction: Option<Compaction<'_>> = None;
        let mut idle = 0;
        for _ in 0..self.random.usize(1..25) {
            match self.random.u8(..12) {
                0..6 => {
                    let steps = self.random.usize(..200);
                    self.write(engine, &mut handle, &mut compaction, steps)?;
                }
                6 => {
                    engine.sync_second();
                    if self.fsync == Fsync::Everysec && engine.fault().is_none() {
                        self.oracle.synced();
                    }
                }
                7 => {
                    idle = engine.mark_idle(idle);
                    idle = engine.mark_idle(idle);
                    engine.free_all_undo();
                }
                8 => compaction = engine.compaction().ok(),
                9 => {
                    if engine.save().is_ok() {
                        self.oracle.synced();
                    }
                }
                10 if engine.fault().is_some() => {
                    drop(compaction.take());
                    if engine.repair().is_ok() {
                        self.oracle.synced();
                    }
                }
                _ => {
                    if let Some(mut running) = compaction.take() {
                        let rest = loop {
                            match running.step() {
                                Ok(true) => {}
                                rest => break rest,
                            }
                        };
                        if rest.is_ok() && running.finish().is_ok() {
                            self.oracle.synced();
                        }
                    }
                }
            }
            // Reads go on, whatever the disk does, and show what was acknowledged.
            let shown = model(engine);
            if shown != self.oracle.acknowledged {
                let acknowledged = &self.oracle.acknowledged;
                return Err(format!("memory is {shown:?}, acknowledged {acknowledged:?}"));
            }
        }
        drop(compaction);
        // Once the disk is well, so is the engine.
        if !self.disk.has_stopped() && self.random.bool() {
            self.disk.set_plan(Plan::default());
            engine.repair().map_err(|error| format!("a well disk does not heal it: {error}"))?;
            self.write(engine, &mut handle, &mut None, 0)?;
            engine.save().map_err(|reason| format!("a well disk refuses: {reason}"))?;
            self.oracle.synced();
        }
        Ok(())
    }

    /// Writes a group and commits it, while a compaction goes on.
    fn write(
        &mut self,
        engine: &LocalEngine,
        handle: &mut Handle<'_>,
        compaction: &mut Option<Compaction<'_>>,
        steps: usize,
    ) -> Outcome<()> {
        let mut next = self.oracle.acknowledged.clone();
        let count = self.random.usize(1..4);
        let mut refused = false;
        for _ in 0..count {
            refused |= match self.random.u8(..5) {
                0 => !self.random_transaction(handle, &mut next),
                _ => !random_write(&mut self.random, handle, &mut next),
            };
        }
        let point = handle.take_commit_point();
        for _ in 0..steps {
            match compaction.as_mut().map(Compaction::step) {
                Some(Ok(true)) => {}
                Some(Err(_)) => *compaction = None,
                None | Some(Ok(false)) => break,
            }
        }
        let committed = handle.commit_to(point).is_ok() && !refused;
        if refused && engine.fault().is_none() {
            return Err("a write was refused without trouble".to_owned());
        }
        if committed {
            let old = std::mem::replace(&mut self.oracle.acknowledged, next);
            match self.fsync {
                // In trouble only what changes nothing is acknowledged: it settles nothing either.
                Fsync::Always if engine.fault().is_none() => self.oracle.synced(),
                _ => self.oracle.possible.push(old),
            }
        } else {
            self.oracle.possible.push(next);
        }
        Ok(())
    }

    /// Several writes in one transaction, and among them one that is rolled back; `false` if they were refused.
    fn random_transaction(&mut self, handle: &mut Handle<'_>, model: &mut Model) -> bool {
        let random = &mut self.random;
        let count = random.usize(2..5);
        let failing = random.usize(..8);
        if self.broken.splits_transactions {
            return (0..count)
                .all(|_| random_write(random, handle, model) && handle.commit().is_ok());
        }
        let written = handle.run(Scope::All, |txn| {
            for number in 0..count {
                if number == failing {
                    let savepoint = txn.savepoint();
                    random_write(random, &mut Part(txn, 0), &mut model.clone());
                    txn.roll_back(savepoint);
                }
                if !random_write(random, &mut Part(txn, 0), model) {
                    return Err(TxnError::TooMuchWork);
                }
            }
            Ok(())
        });
        written.is_ok()
    }

    /// The process ends, or the power does.
    fn end(&mut self, engine: LocalEngine) -> Outcome<()> {
        if self.disk.take_write_after_failed_sync() {
            return Err("a file of which a sync failed got more bytes".to_owned());
        }
        match self.random.u8(..6) {
            0 if !self.disk.has_stopped() => {
                self.disk.set_plan(Plan::default());
                if engine.close().is_ok() {
                    self.oracle.synced();
                }
                drop(engine);
            }
            // `kill -9`: what was written is in the system's hands.
            1 if !self.disk.has_stopped() => {
                drop(engine);
                self.disk.set_plan(Plan::default());
            }
            _ => {
                drop(engine);
                self.disk = self.disk.power_cut();
            }
        }
        Ok(())
    }
}

/// One write to the engine and to the model; `false` if it was refused.
fn random_write(random: &mut fastrand::Rng, access: &mut impl Access, model: &mut Model) -> bool {
    let database = random.usize(..DATABASES);
    access.select(database);
    let key = vec![random.u8(b'a'..b'g')];
    let place = (database, key.clone());
    let length = if random.u8(..16) == 0 { random.usize(..600) } else { random.usize(..20) };
    let value: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
    let expires_ms = random.bool().then(|| FAR_MS + random.u64(..1000));
    match random.u8(..24) {
        0 => {
            model.clear();
            access.flush(true).is_ok()
        }
        1 => {
            model.retain(|(other, _), _| *other != database);
            access.flush(false).is_ok()
        }
        2 => {
            let other = random.usize(..DATABASES);
            let swapped = |number| match number {
                _ if number == database => other,
                _ if number == other => database,
                number => number,
            };
            let old = std::mem::take(model);
            model.extend(
                old.into_iter().map(|((number, key), held)| ((swapped(number), key), held)),
            );
            access.swap(database, other).is_ok()
        }
        3..6 => {
            model.remove(&place);
            model.remove(&(database, b"a".to_vec()));
            access.del(&[&key[..], b"a"]).is_ok()
        }
        6..9 => {
            model.entry(place).or_default().0.extend_from_slice(&value);
            access.append(&key, &value).is_ok()
        }
        9..12 => {
            let offset = random.usize(..30);
            if !value.is_empty() {
                let old = &mut model.entry(place).or_default().0;
                old.resize(old.len().max(offset + value.len()), 0);
                old[offset..offset + value.len()].copy_from_slice(&value);
            }
            access.set_range(&key, offset, &value).is_ok()
        }
        12..15 => {
            if let Some(held) = model.get_mut(&place) {
                held.1 = expires_ms;
            }
            access.expire(&key, expires_ms).is_ok()
        }
        _ => {
            let done = access.set_until(&key, &value, expires_ms).is_ok();
            model.insert(place, (value, expires_ms));
            done
        }
    }
}

/// As on Linux.
mod libc_codes {
    pub const EIO: i32 = 5;
    pub const ENOSPC: i32 = 28;
}

/// What a recovery without a verdict does.
fn cut_at_first_bad_line(disk: &SimulatedDisk, path: &Path) {
    use coffre::journal::disk::Disk;
    use coffre::journal::scan::{Verdict, scan};
    let Some(bytes) = disk.read(path) else { return };
    let good = |length: usize| {
        let copy = SimulatedDisk::new(0);
        copy.write(path, &bytes[..length]);
        let file = copy.open(path).unwrap();
        matches!(scan(&*file, length as u64, &mut |_| {}), Ok(Verdict::Intact(_)))
    };
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let end = ends.rev().find(|end| good(*end)).unwrap_or(0);
    let file = disk.open(path).unwrap();
    file.cut(end as u64).unwrap();
    file.sync_data().unwrap();
}

/// Runs seeds on all cores until one fails.
fn first_failure(seeds: std::ops::Range<u64>, broken: Broken) -> Option<String> {
    let next = AtomicU64::new(seeds.start);
    let failure = std::sync::Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while failure.lock().unwrap().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if let Err(error) = Simulation::new(seed, broken).run() {
                        *failure.lock().unwrap() = Some(format!("COFFRE_SEED={seed}: {error}"));
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap()
}

#[test]
fn a_disk_that_fails_or_loses_power_leaves_a_prefix_with_all_that_was_acknowledged() {
    let seeds = match std::env::var("COFFRE_SEED") {
        Ok(seed) => seed.parse().unwrap()..seed.parse::<u64>().unwrap() + 1,
        Err(_) => 0..on_request("COFFRE_SIMULATIONS", 2_000),
    };
    assert_eq!(first_failure(seeds, Broken::default()), None);
}

/// A fixed scenario of each kind, stopped at its kth call, or with that call failing, or all from it on,
/// for every k.
#[test]
fn every_call_may_be_the_last_or_fail() {
    let mut calls = 0;
    for seed in 0..12 {
        let mut undisturbed = Simulation::new(seed, Broken::default());
        undisturbed.scripted = Some(Plan::default());
        undisturbed.run().unwrap();
        let total = undisturbed.disk.calls();
        for kth in 1..=total {
            let code = [libc_codes::EIO, libc_codes::ENOSPC][kth as usize % 2];
            for plan in [
                Plan { stop_at: Some(kth), ..Plan::default() },
                Plan { failing: Some((kth, kth + 1, code)), ..Plan::default() },
                Plan { failing: Some((kth, u64::MAX, code)), ..Plan::default() },
                Plan { failing: Some((kth, kth + 2, code)), stop_at: Some(kth + 4) },
            ] {
                let mut simulation = Simulation::new(seed, Broken::default());
                simulation.scripted = Some(plan);
                let result = simulation.run();
                assert!(result.is_ok(), "seed {seed}, {plan:?}: {}", result.unwrap_err());
            }
        }
        calls += total;
    }
    assert!(calls > 200, "{calls} calls");
}

#[test]
fn a_journal_that_acknowledges_too_early_is_caught() {
    let lies = Lies { about_file_syncs: true, ..Lies::default() };
    let failure = first_failure(0..2_000, Broken { lies, ..Broken::default() });
    assert!(failure.is_some());
}

#[test]
fn a_journal_that_forgets_to_sync_the_folder_is_caught() {
    let lies = Lies { about_folder_syncs: true, ..Lies::default() };
    let failure = first_failure(0..2_000, Broken { lies, ..Broken::default() });
    assert!(failure.is_some());
}

#[test]
fn a_recovery_that_cuts_at_the_first_bad_line_is_caught() {
    let broken = Broken { cuts_at_first_bad_line: true, ..Broken::default() };
    assert!(first_failure(0..2_000, broken).is_some());
}

#[test]
fn half_a_transaction_is_caught() {
    let broken = Broken { splits_transactions: true, ..Broken::default() };
    assert!(first_failure(0..2_000, broken).is_some());
}
