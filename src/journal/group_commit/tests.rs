//! A journal on a disk in memory whose calls fail.

use std::path::Path;
use std::sync::Arc;

use super::{Addition, CommitPoint, Flushing, Fsync, Journal};
use crate::journal::format::{SEAL_START, write_set, write_set_end, write_set_start};
use crate::journal::memory_disk::MemoryDisk;
use crate::journal::records::Records;
use crate::limits::{RECORD_CHUNK_BYTES, VALUE_BLOCK_BYTES};
use crate::value::{Long, Value};

const PATH: &str = "/donnees.txt";

fn open(disk: &MemoryDisk, fsync: Fsync) -> Journal {
    let segment = disk.create_data_file(Path::new(PATH));
    Journal::new(Arc::new(disk.clone()), PATH.into(), fsync, segment)
}

fn append(journal: &Journal, records: &mut Records) -> CommitPoint {
    let addition = Addition { records, count: 1, databases: (0, 0), garbage: 0, flush: None };
    let epoch = journal.epoch();
    CommitPoint { sequence: journal.append(addition).unwrap(), epoch }
}

/// The lines of the file that are records.
fn records_in_file(disk: &MemoryDisk) -> Vec<u8> {
    let bytes = disk.bytes(Path::new(PATH));
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"#")).flatten().copied().collect()
}

/// A long value with bytes that are escaped, and its bytes.
fn long_value() -> (Arc<Long>, Vec<u8>) {
    let bytes: Vec<u8> = "né\n\0".bytes().cycle().take(20 * VALUE_BLOCK_BYTES + 7).collect();
    let Value::Long(long) = Value::copy_of(&bytes).unwrap() else { panic!("a short value") };
    (long, bytes)
}

fn set_long(value: &Arc<Long>, length: usize) -> Records {
    let mut records = Records::default();
    write_set_start(b"k", records.tail());
    records.push_value(Arc::clone(value), 0..length);
    write_set_end(None, records.tail());
    records
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

/// What is pending when a compaction ends is written to the new file, or to the old one if that fails.
#[test]
fn a_compaction_takes_the_long_values_that_are_pending() {
    let (value, bytes) = long_value();
    let mut expected = Vec::new();
    write_set(b"k", &bytes, None, &mut expected);
    for failing in [0, 3] {
        let disk = MemoryDisk::default();
        let journal = open(&disk, Fsync::Always);
        let tail = journal.tail_reader(Flushing::Final).unwrap();
        let new = journal.new_file().unwrap();
        let point = append(&journal, &mut set_long(&value, bytes.len()));
        disk.fail_append(failing);
        assert_eq!(journal.switch(new, tail).is_ok(), failing == 0);
        assert!(journal.is_committed(point));
        assert!(records_in_file(&disk) == expected);
        assert_eq!(disk.bytes(Path::new(PATH)).len() as u64, journal.bytes());
        let file = disk.bytes(Path::new(PATH));
        let last = file.strip_suffix(b"\n").unwrap().rsplit(|byte| *byte == b'\n').next();
        assert!(last.unwrap().starts_with(SEAL_START.as_bytes()));
        assert_eq!(disk.synced(Path::new(PATH)), file.len());
    }
}

/// A file of which an fsync failed is not cut back: only a new one will do.
#[test]
fn after_a_failed_fsync_only_a_new_file_will_do() {
    let disk = MemoryDisk::default();
    let journal = open(&disk, Fsync::Always);
    let mut records = Records::default();
    write_set(b"k", b"1", None, records.tail());
    let point = append(&journal, &mut records);
    disk.fail_sync(1);
    assert!(journal.commit(point).is_err());
    let length = disk.bytes(Path::new(PATH)).len();
    assert!(!journal.cut_back());
    assert_eq!(disk.bytes(Path::new(PATH)).len(), length);
    journal.replace(journal.repair_file().unwrap()).unwrap();
    journal.resume();
    assert!(!journal.is_committed(point));
    journal.commit(append(&journal, &mut records)).unwrap();
    assert_eq!(records_in_file(&disk), b"SET k 1\n");
}
