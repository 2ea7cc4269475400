//! Group commit on a disk in memory whose calls fail.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::format::write_set;
use super::memory_disk::{
    MemoryDisk, PATH, append, append_set, long_value, open, records_in_file, set_long,
};
use super::records::Records;
use super::{CommitCallback, CommitPoint, Fsync, WriteRefused};
use crate::limits::{GATHERED_MIN, RECORD_CHUNK_BYTES};

/// Notes what it is told.
#[derive(Debug)]
struct Recorder {
    point: CommitPoint,
    told: Mutex<Vec<bool>>,
}

impl Recorder {
    fn new(point: CommitPoint) -> Arc<Self> {
        Arc::new(Self { point, told: Mutex::default() })
    }

    fn told(&self) -> Vec<bool> {
        self.told.lock().unwrap().clone()
    }
}

impl CommitCallback for Recorder {
    fn completed(self: Arc<Self>, outcome: &dyn Fn(CommitPoint) -> Result<(), WriteRefused>) {
        self.told.lock().unwrap().push(outcome(self.point).is_ok());
    }
}

/// Wherever in the batch of a long value a write fails: the batch is refused, cut off, and written anew afterwards.
#[test]
fn a_write_that_fails_in_the_middle_of_a_long_value_leaves_nothing() {
    let (value, bytes) = long_value();
    let (mut before, mut expected) = (Vec::new(), Vec::new());
    write_set(b"before", b"1", None, &mut before);
    write_set(b"k", &bytes, None, &mut expected);
    let appends = 2 + expected.len() / (2 * RECORD_CHUNK_BYTES);
    for failing in 1..=appends {
        let disk = MemoryDisk::default();
        let journal = open(&disk, Fsync::Always);
        let mut records = Records::default();
        write_set(b"before", b"1", None, records.tail());
        journal.commit(append(&journal, &mut records)).unwrap();
        let length = journal.bytes();

        let point = append(&journal, &mut set_long(&value, bytes.len()));
        disk.fail_append(failing);
        assert!(journal.commit(point).is_err(), "append {failing}");
        assert!(disk.bytes(Path::new(PATH)).len() as u64 > length, "append {failing}");
        assert_eq!(journal.bytes(), length);
        assert!(journal.cut_back());
        assert_eq!(disk.bytes(Path::new(PATH)).len() as u64, length);
        journal.resume();
        assert!(!journal.is_committed(point));

        let overhead = journal.seal_bytes();
        journal.commit(append(&journal, &mut set_long(&value, bytes.len()))).unwrap();
        assert!(records_in_file(&disk) == [before.as_slice(), &expected].concat());
        let seal = journal.bytes() - length - expected.len() as u64;
        assert_eq!(journal.seal_bytes() - overhead, seal);
        assert_eq!(disk.bytes(Path::new(PATH)).len() as u64, journal.bytes());
    }
    assert_eq!(Arc::strong_count(&value), 1);
}

/// One leader writes what all have appended, and then runs the callbacks.
#[test]
fn records_that_are_appended_before_a_leader_takes_them_share_its_batch() {
    let disk = MemoryDisk::default();
    let journal = open(&disk, Fsync::Always);
    let (first, second) = (append_set(&journal, "a"), append_set(&journal, "b"));
    assert_eq!(first.sequence, second.sequence);
    let seals = |disk: &MemoryDisk| {
        let bytes = disk.bytes(Path::new(PATH));
        bytes.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"#= ")).count()
    };
    let before = seals(&disk);
    journal.commit(first).unwrap();
    assert!(journal.is_committed(second));
    assert_eq!(seals(&disk), before + 1);
    assert_eq!(records_in_file(&disk), b"SET a 1\nSET b 1\n");
}

#[test]
fn a_callback_is_registered_only_where_a_leader_will_run_it() {
    let disk = MemoryDisk::default();
    let journal = open(&disk, Fsync::Always);
    let point = append_set(&journal, "a");
    let recorder = Recorder::new(point);
    let callback: Arc<dyn CommitCallback> = Arc::clone(&recorder) as _;
    assert!(!journal.on_commit(point, &callback, false), "no thread leads the batch");
    journal.commit(point).unwrap();
    assert!(!journal.on_commit(point, &callback, false), "it is committed");
    journal.run_callbacks(|| panic!("nothing was aborted"));
    assert!(recorder.told().is_empty());
}

#[test]
fn a_batch_that_fails_is_told_to_its_callbacks_once_and_undone_before() {
    let disk = MemoryDisk::default();
    let journal = open(&disk, Fsync::Always);
    let point = append_set(&journal, "a");
    let recorder = Recorder::new(point);
    let callback: Arc<dyn CommitCallback> = Arc::clone(&recorder) as _;
    // As a thread that has entered `commit` leaves it.
    journal.state.lock().unwrap().has_leader = true;
    assert!(journal.on_commit(point, &callback, false));
    disk.fail_append(1);
    assert!(journal.commit(point).is_err());
    assert!(recorder.told().is_empty());
    let mut is_undone = false;
    journal.run_callbacks(|| {
        assert!(recorder.told().is_empty(), "memory is undone first");
        is_undone = true;
    });
    journal.run_callbacks(|| panic!("they ran already"));
    assert!(is_undone);
    assert_eq!(recorder.told(), [false]);
}

/// `committed` passes the sequence of an aborted batch after the repair; its point is refused all the same.
#[test]
fn an_aborted_point_stays_refused_in_later_epochs() {
    let disk = MemoryDisk::default();
    let journal = open(&disk, Fsync::Always);
    let safe = append_set(&journal, "a");
    journal.commit(safe).unwrap();
    let aborted = append_set(&journal, "b");
    for _ in 0..3 {
        let other = append_set(&journal, "c");
        disk.fail_append(1);
        assert!(journal.commit(other).is_err());
        assert!(journal.check().is_err());
        assert!(journal.cut_back());
        journal.resume();
        journal.commit(append_set(&journal, "d")).unwrap();
        assert!(journal.committed() > aborted.sequence);
        assert!(!journal.is_committed(aborted) && journal.commit(aborted).is_err());
    }
    assert!(journal.fault().is_none(), "a write has succeeded since");
    assert_eq!(records_in_file(&disk), b"SET a 1\nSET d 1\nSET d 1\nSET d 1\n");
}

#[test]
fn closing_writes_what_is_pending_and_refuses_the_rest() {
    for fsync in Fsync::ALL {
        let disk = MemoryDisk::default();
        let journal = open(&disk, fsync);
        let point = append_set(&journal, "a");
        journal.close().unwrap();
        assert!(journal.is_committed(point));
        assert!(journal.check().is_err());
        let length = disk.bytes(Path::new(PATH)).len();
        assert_eq!(records_in_file(&disk), b"SET a 1\n");
        assert_eq!(disk.durable_bytes(Path::new(PATH)).len(), length, "{fsync:?}");
        journal.close().unwrap();
        assert_eq!(disk.bytes(Path::new(PATH)).len(), length);
    }
}

/// Under `everysec` and `no` a commit waits for no fsync; `save` makes it durable whatever the mode.
#[test]
fn a_save_is_durable_in_every_mode() {
    for fsync in Fsync::ALL {
        let disk = MemoryDisk::default();
        let journal = open(&disk, fsync);
        let synced = disk.durable_bytes(Path::new(PATH)).len();
        journal.commit(append_set(&journal, "a")).unwrap();
        assert_eq!(disk.durable_bytes(Path::new(PATH)).len() > synced, fsync == Fsync::Always);
        append_set(&journal, "b");
        journal.save().unwrap();
        assert_eq!(disk.durable_bytes(Path::new(PATH)).len(), disk.bytes(Path::new(PATH)).len());
        assert_eq!(records_in_file(&disk), b"SET a 1\nSET b 1\n");
        journal.commit(append_set(&journal, "c")).unwrap();
        journal.sync_second();
        let is_synced =
            disk.durable_bytes(Path::new(PATH)).len() == disk.bytes(Path::new(PATH)).len();
        assert_eq!(is_synced, fsync != Fsync::No);
        append_set(&journal, "d");
        disk.fail_sync(1);
        assert!(journal.save().is_err(), "{fsync:?}");
    }
}

/// What the table of phases refuses is a bug, and is not gone on from.
#[test]
#[should_panic(expected = "Resume while Idle")]
fn an_event_that_must_not_happen_now_panics() {
    open(&MemoryDisk::default(), Fsync::Always).resume();
}

/// Once a batch has had several callbacks, the next needs no leader among the clients, where it may be gathered.
#[test]
fn a_batch_is_left_to_the_gatherer() {
    let disk = MemoryDisk::default();
    let journal = open(&disk, Fsync::Always);
    let leave = |key: &str, may_gather: bool| {
        let point = append_set(&journal, key);
        let recorder = Recorder::new(point);
        let callback: Arc<dyn CommitCallback> = Arc::clone(&recorder) as _;
        (journal.on_commit(point, &callback, may_gather), recorder)
    };
    assert!(!leave("a", true).0, "there is no gatherer");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2 {
                journal.lead_gathered();
                journal.run_callbacks(|| panic!("nothing was aborted"));
            }
        });
        while !journal.state.lock().unwrap().gather.is_there {
            std::thread::yield_now();
        }
        assert!(!leave("b", true).0, "the batches before were small");
        journal.state.lock().unwrap().gather.last = GATHERED_MIN;
        assert!(!leave("c", false).0, "it may not be gathered");
        for key in ["d", "e"] {
            let (is_left, recorder) = leave(key, true);
            assert!(is_left, "{key}");
            while recorder.told().is_empty() {
                std::thread::yield_now();
            }
            assert_eq!(recorder.told(), [true], "{key}");
            journal.state.lock().unwrap().gather.last = GATHERED_MIN;
        }
    });
    assert_eq!(records_in_file(&disk), b"SET a 1\nSET b 1\nSET c 1\nSET d 1\nSET e 1\n");
}
