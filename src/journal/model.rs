//! The journal's threads under a model checker: it decides at each lock, wait and atomic access which thread runs next,
//! and tries as many orders as fit in the time.
//!
//! Each scenario is a few clients that write and commit as the engine does, beside what may come between them. In every
//! order must hold:
//! - nothing is acknowledged before its fsync returned;
//! - what was refused is never acknowledged later, and is neither in memory nor in the file after the repair;
//! - each callback runs exactly once;
//! - one thread at a time appends to the file (the disk asserts it);
//! - no thread waits for ever (the checker finds it).
//!
//! `cargo test --lib --features model model::` runs it; `COFFRE_MODEL_SECONDS` is the time for each scenario, 2 by
//! default.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner};

use super::breakage::{BROKEN, Breakage};
use super::format::write_set;
use super::memory_disk::{MemoryDisk, PATH, open};
use super::records::Records;
use super::{Addition, CommitCallback, CommitPoint, Flushing, Fsync, Journal, WriteRefused};
use crate::limits::GATHERED_MIN;
use crate::util::sync::{Mutex, lock, thread};

/// What stands for the engine: keys in memory, under one lock, and the journal.
struct Engine {
    journal: Journal,
    disk: MemoryDisk,
    /// Keys and the sequences of their writes.
    memory: Mutex<Vec<(String, u64)>>,
    repairing: Mutex<()>,
    undoing: Mutex<()>,
    /// What clients were told, and their callbacks. Not a lock of the model: it adds no order.
    told: StdMutex<Vec<Arc<Write>>>,
}

/// A write that a client waits for, and what it was told.
#[derive(Debug)]
struct Write {
    key: String,
    point: CommitPoint,
    disk: MemoryDisk,
    must_be_durable: bool,
    /// It was left to a callback.
    is_left: StdMutex<bool>,
    runs: AtomicUsize,
    outcome: StdMutex<Option<bool>>,
}

impl Write {
    fn is_told(&self) -> bool {
        self.outcome.lock().unwrap().is_some()
    }

    fn tell(&self, is_committed: bool) {
        if is_committed && self.must_be_durable {
            assert!(
                is_durable(&self.disk, &self.key),
                "{} acknowledged before its fsync",
                self.key
            );
        }
        let before = self.outcome.lock().unwrap().replace(is_committed);
        assert_eq!(before, None, "{} told twice", self.key);
    }
}

impl CommitCallback for Write {
    fn completed(self: Arc<Self>, outcome: &dyn Fn(CommitPoint) -> Result<(), WriteRefused>) {
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.tell(outcome(self.point).is_ok());
    }
}

fn is_durable(disk: &MemoryDisk, key: &str) -> bool {
    keys(&disk.durable_bytes(Path::new(PATH))).contains(key)
}

/// The keys of the `SET`s in a file.
fn keys(bytes: &[u8]) -> BTreeSet<String> {
    let text = str::from_utf8(bytes).unwrap();
    let keys = text.lines().filter_map(|line| line.strip_prefix("SET ")?.strip_suffix(" 1"));
    keys.map(str::to_owned).collect()
}

fn set(key: &str) -> Vec<u8> {
    let mut line = Vec::new();
    write_set(key.as_bytes(), b"1", None, &mut line);
    line
}

impl Engine {
    fn new(fsync: Fsync) -> Arc<Self> {
        let disk = MemoryDisk::default();
        let journal = open(&disk, fsync);
        Arc::new(Self {
            journal,
            disk,
            memory: Mutex::default(),
            repairing: Mutex::default(),
            undoing: Mutex::default(),
            told: StdMutex::default(),
        })
    }

    /// Writes a key and waits for it, or leaves that to a callback.
    fn write(&self, key: &str, may_leave: bool) {
        let point = {
            let mut memory = lock(&self.memory);
            let mut records = Records::default();
            records.tail().extend_from_slice(&set(key));
            let (records, count, databases) = (&mut records, 1, (0, 0));
            let addition = Addition { records, count, databases, garbage: 0, flush: None };
            let Ok(sequence) = self.journal.append(addition) else { return };
            memory.push((key.to_owned(), sequence));
            // No repair ends between the two: it undoes what was aborted, and waits for this lock.
            CommitPoint { sequence, epoch: self.journal.epoch() }
        };
        let write = Arc::new(Write {
            key: key.to_owned(),
            point,
            disk: self.disk.clone(),
            must_be_durable: self.journal.fsync == Fsync::Always,
            is_left: StdMutex::new(false),
            runs: AtomicUsize::new(0),
            outcome: StdMutex::default(),
        });
        self.told.lock().unwrap().push(Arc::clone(&write));
        let callback: Arc<dyn CommitCallback> = Arc::clone(&write) as _;
        if may_leave && self.journal.on_commit(point, &callback, true) {
            *write.is_left.lock().unwrap() = true;
            return;
        }
        let committed = self.journal.commit(point);
        write.tell(committed.is_ok());
        self.run_callbacks();
    }

    fn run_callbacks(&self) {
        self.journal.run_callbacks(|| self.undo());
    }

    fn undo(&self) {
        let _only_one = lock(&self.undoing);
        if self.journal.is_faulted() {
            let committed = self.journal.committed();
            lock(&self.memory).retain(|(_, sequence)| *sequence <= committed);
        }
    }

    fn repair(&self) {
        let _only_one = lock(&self.repairing);
        if !self.journal.is_faulted() {
            return;
        }
        self.undo();
        self.run_callbacks();
        if !self.journal.cut_back() {
            self.journal.keep_foreign_file().unwrap();
            let mut new = self.journal.repair_file().unwrap();
            for (key, _) in &*lock(&self.memory) {
                new.add(&set(key), 1).unwrap();
            }
            if self.journal.replace(new).is_err() {
                return;
            }
        }
        let _only_one = lock(&self.undoing);
        self.journal.resume();
    }

    fn compact(&self) {
        let Ok(mut tail) = self.journal.tail_reader(Flushing::Final) else { return };
        let mut new = self.journal.new_file().unwrap();
        let copied = lock(&self.memory).clone();
        for (key, _) in &copied {
            new.add(&set(key), 1).unwrap();
        }
        if tail.drain(&mut new).is_ok() {
            let _ = self.journal.switch(new, tail);
        }
        self.run_callbacks();
    }

    fn close(&self) {
        let closed = self.journal.close();
        self.run_callbacks();
        if closed.is_ok() {
            let memory = lock(&self.memory).clone();
            assert!(memory.iter().all(|(key, _)| is_durable(&self.disk, key)));
        }
        assert!(self.journal.check().is_err());
    }

    /// With all threads at their ends: everything that must hold then.
    fn verify(&self) {
        let told = self.told.lock().unwrap().clone();
        for write in &told {
            let runs = usize::from(*write.is_left.lock().unwrap());
            assert_eq!(write.runs.load(Ordering::SeqCst), runs, "callbacks of {}", write.key);
        }
        self.disk.fail_append(0);
        self.disk.fail_sync(0);
        self.repair();
        assert!(!self.journal.is_faulted());
        if self.journal.check().is_ok() {
            self.write("last", false);
            let last = self.told.lock().unwrap().last().cloned().unwrap();
            assert_eq!(*last.outcome.lock().unwrap(), Some(true), "it is repaired");
        }
        let memory: BTreeSet<_> = lock(&self.memory).iter().map(|(key, _)| key.clone()).collect();
        let file = keys(&self.disk.bytes(Path::new(PATH)));
        assert_eq!(memory, file);
        for write in &told {
            let is_committed = write.outcome.lock().unwrap().unwrap();
            assert_eq!(file.contains(&write.key), is_committed, "{}", write.key);
            // After repairs an old point may be refused although it was committed; never the other way.
            let is_still = |is_so: bool| is_committed || !is_so;
            assert!(is_still(self.journal.is_committed(write.point)), "{}", write.key);
            assert!(is_still(self.journal.commit(write.point).is_ok()), "{}", write.key);
        }
    }
}

/// What a thread does.
type Work = Box<dyn FnOnce(&Engine) + Send>;

/// Runs `threads` beside each other, and then verifies.
fn run(engine: &Arc<Engine>, threads: Vec<Work>) {
    let spawn = |work: Work| {
        let engine = Arc::clone(engine);
        thread::spawn(move || work(&engine))
    };
    let threads: Vec<_> = threads.into_iter().map(spawn).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // What is left to the gatherer it does soon, and what it has begun, too.
    while engine.told.lock().unwrap().iter().any(|write| !write.is_told()) {
        thread::yield_now();
    }
    engine.verify();
}

/// A client that writes so many keys, and leaves every other to a callback.
fn client(name: &'static str, writes: usize) -> Work {
    Box::new(move |engine| {
        (0..writes).for_each(|number| engine.write(&format!("{name}{number}"), number % 2 == 0));
    })
}

fn seconds() -> Duration {
    let seconds = std::env::var("COFFRE_MODEL_SECONDS").ok();
    Duration::from_secs(seconds.map_or(2, |seconds| seconds.parse().unwrap()))
}

/// Tries orders of `scenario` for the time there is: half of it at random, half by priorities that seldom change.
fn check(scenario: impl Fn() + Send + Sync + Clone + 'static) {
    let half = seconds() / 2;
    let random = explore(RandomScheduler::new(usize::MAX), half, scenario.clone());
    let by_priority = explore(PctScheduler::new(3, usize::MAX), half, scenario);
    println!("{} orders", random + by_priority);
}

fn explore(
    scheduler: impl Scheduler + 'static,
    time: Duration,
    scenario: impl Fn() + Send + Sync + 'static,
) -> usize {
    let mut config = Config::new();
    config.max_time = Some(time);
    config.stack_size = 256 << 10;
    // Other orders of memory than the sequential one are outside its reach, and it says so each time.
    config.silence_warnings = true;
    config.failure_persistence = FailurePersistence::Print;
    Runner::new(scheduler, config).run(scenario)
}

fn commits() {
    let engine = Engine::new(Fsync::Always);
    run(&engine, vec![client("a", 2), client("b", 2), client("c", 2), client("d", 1)]);
}

fn failing_writes() {
    let engine = Engine::new(Fsync::Always);
    engine.disk.fail_append(thread_rng().gen_range(1..4));
    let repairer = Box::new(|engine: &Engine| {
        engine.repair();
        engine.repair();
    });
    run(&engine, vec![client("a", 2), client("b", 3), client("c", 2), repairer]);
}

fn failing_syncs() {
    let engine = Engine::new(Fsync::Always);
    // Maybe that of the repair.
    engine.disk.fail_append(thread_rng().gen_range(0..4));
    engine.disk.fail_sync(thread_rng().gen_range(1..4));
    let repairer = Box::new(|engine: &Engine| {
        engine.repair();
        engine.repair();
    });
    run(&engine, vec![client("a", 2), client("b", 2), client("c", 1), repairer]);
}

/// The thread that repairs sleeps until there is something to repair.
fn fault_that_wakes() {
    let engine = Engine::new(Fsync::Always);
    engine.disk.fail_append(1);
    let repairer = Box::new(|engine: &Engine| {
        assert!(engine.journal.wait_for_fault(Duration::MAX));
        engine.repair();
    });
    run(&engine, vec![client("a", 2), client("b", 2), repairer]);
}

fn close_while_others_commit() {
    let engine = Engine::new(Fsync::Always);
    engine.disk.fail_append(thread_rng().gen_range(0..5));
    run(&engine, vec![client("a", 2), client("b", 2), client("c", 1), Box::new(Engine::close)]);
}

fn syncs_in_the_background() {
    let engine = Engine::new(Fsync::Everysec);
    engine.disk.fail_append(thread_rng().gen_range(0..4));
    engine.disk.fail_sync(thread_rng().gen_range(0..4));
    let syncer = Box::new(|engine: &Engine| {
        engine.journal.sync_second();
        engine.run_callbacks();
        engine.repair();
        let _ = engine.journal.save();
        engine.run_callbacks();
    });
    run(&engine, vec![client("a", 3), client("b", 2), syncer]);
}

fn compaction() {
    let engine = Engine::new(Fsync::Always);
    engine.disk.fail_append(thread_rng().gen_range(0..6));
    engine.disk.fail_sync(thread_rng().gen_range(0..6));
    run(
        &engine,
        vec![client("a", 2), client("b", 2), Box::new(Engine::compact), Box::new(Engine::repair)],
    );
}

/// The gatherer leads some batches.
fn gathered_batches() {
    let engine = Engine::new(Fsync::Always);
    engine.disk.fail_append(thread_rng().gen_range(0..5));
    lock(&engine.journal.state).gather.last = GATHERED_MIN;
    let is_over = Arc::new(AtomicBool::new(false));
    let (gatherer, has_ended) = (Arc::clone(&engine), Arc::clone(&is_over));
    let thread = thread::spawn(move || {
        while !has_ended.load(Ordering::SeqCst) {
            gatherer.journal.lead_gathered();
            gatherer.run_callbacks();
        }
    });
    run(&engine, vec![client("a", 2), client("b", 2), Box::new(Engine::repair)]);
    // It waits for a batch that nothing leaves to it any more.
    is_over.store(true, Ordering::SeqCst);
    {
        let mut state = lock(&engine.journal.state);
        state.gather.last = GATHERED_MIN;
        engine.journal.leave_to_gatherer(&mut state);
    }
    thread.join().unwrap();
}

#[test]
fn a_gatherer_leads_batches() {
    check(gathered_batches);
}

#[test]
fn clients_commit() {
    check(commits);
}

#[test]
fn a_write_fails() {
    check(failing_writes);
}

#[test]
fn an_fsync_fails() {
    check(failing_syncs);
}

#[test]
fn a_fault_wakes_the_repair() {
    check(fault_that_wakes);
}

#[test]
fn the_journal_is_closed_while_clients_commit() {
    check(close_while_others_commit);
}

#[test]
fn an_fsync_in_the_background_fails_beside_writes() {
    check(syncs_in_the_background);
}

#[test]
fn the_file_is_replaced_while_clients_commit() {
    check(compaction);
}

/// What the checker says of `scenario` with a bug in it.
fn complaint(breakage: Breakage, scenario: fn()) -> String {
    BROKEN.set(Some(breakage));
    let time = Duration::from_secs(60);
    let found = std::panic::catch_unwind(|| explore(RandomScheduler::new(100_000), time, scenario));
    BROKEN.set(None);
    let panic = found.expect_err("the bug was not found");
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default().to_owned()
}

#[test]
fn a_lost_wakeup_is_found() {
    let complaint = complaint(Breakage::LostWakeup, commits);
    assert!(complaint.contains("deadlock"), "{complaint}");
}

#[test]
fn an_early_acknowledgement_is_found() {
    let complaint = complaint(Breakage::EarlyAcknowledgement, commits);
    assert!(complaint.contains("acknowledged before its fsync"), "{complaint}");
}

#[test]
fn a_repair_that_begins_no_epoch_is_found() {
    complaint(Breakage::ForgottenEpoch, failing_writes);
}
