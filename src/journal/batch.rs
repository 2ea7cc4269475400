//! Records between an append and the file: the pending batch, and the batch that a leader writes.

use std::io::{self, Write};

use super::format::{Checksum, SELECT_BYTES_MAX, Seal, write_select, write_time};
use super::new_file::Segment;
use super::records::Records;
use crate::limits::JOURNAL_SPARE_BYTES_MAX;
use crate::util::memory::NoMemory;

/// What a command or a transaction adds to the file: all of it or nothing.
#[derive(Debug)]
pub struct Addition<'a> {
    /// Whole lines. They are taken: a large record changes hands, and is not copied.
    pub records: &'a mut Records,
    /// How many records they are.
    pub count: u64,
    /// The database in which they begin, and the one that they have selected at the end.
    pub databases: (usize, usize),
    /// How much of the file they supersede, in bytes.
    pub garbage: u64,
    /// The last `FLUSHALL` or `FLUSHDB` among them.
    pub flush: Option<Flush>,
}

/// A `FLUSHALL` or `FLUSHDB` whose record is in the file: without its line the keys are there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// When it ran, in seconds of Unix time.
    pub time_s: u64,
    /// About how much of the file the removed keys are, in bytes.
    pub bytes: u64,
}

/// The records that the next leader takes.
#[derive(Debug, Default)]
pub(super) struct Pending {
    records: Records,
    count: u64,
    /// The database that they have selected at the end.
    database: usize,
    /// How much of them only selects databases, or is a comment, in bytes.
    overhead: usize,
    garbage: u64,
    flush: Option<Flush>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether a flush is among them.
    pub(super) fn has_flush(&self) -> bool {
        self.flush.is_some()
    }

    /// Adds all of it, or nothing if there is no memory for it.
    pub(super) fn add(&mut self, addition: Addition<'_>) -> Result<(), NoMemory> {
        let Addition { records, count, databases, garbage, flush } = addition;
        let tail = self.records.tail();
        if tail.capacity() - tail.len() < 2 * SELECT_BYTES_MAX {
            tail.try_reserve(2 * SELECT_BYTES_MAX)?;
        }
        let before = (self.records.len(), self.count, self.database, self.overhead);
        self.select(databases.0);
        if let Err(error) = self.records.take(records) {
            (_, self.count, self.database, self.overhead) = before;
            self.records.truncate(before.0);
            return Err(error);
        }
        self.database = databases.1;
        self.count += count;
        self.garbage += garbage;
        self.flush = flush.or(self.flush);
        Ok(())
    }

    /// Makes the records select a database at their end.
    fn select(&mut self, database: usize) {
        if self.database != database {
            let start = self.records.len();
            write_select(database, self.records.tail());
            self.overhead += self.records.len() - start;
            self.count += 1;
            self.database = database;
        }
    }

    /// Adds a comment that tells the time.
    pub(super) fn add_time(&mut self, unix_time_s: u64) {
        let start = self.records.len();
        write_time(unix_time_s, self.records.tail());
        self.overhead += self.records.len() - start;
    }

    /// Takes all of it as the batch of `sequence`; `spare` is a buffer for the next records.
    pub(super) fn take(&mut self, sequence: u64, spare: Vec<u8>) -> Batch {
        self.select(0);
        let next = Self { records: Records::with_spare(spare), ..Self::default() };
        let Self { records, count, overhead, garbage, flush, .. } = std::mem::replace(self, next);
        let (length, durable, spare) = (0, 0, Vec::new());
        Batch { records, count, overhead, length, sequence, durable, garbage, flush, spare }
    }
}

/// Records on their way to the file.
#[derive(Debug)]
pub(super) struct Batch {
    /// The records, and once it is written its seal.
    pub(super) records: Records,
    pub(super) count: u64,
    /// How much of that only selects databases, or is a comment, or the seal, in bytes.
    pub(super) overhead: usize,
    /// How much of it was written, in bytes.
    pub(super) length: u64,
    pub(super) sequence: u64,
    /// The durable mark of its seal.
    pub(super) durable: u64,
    /// How much of the file it supersedes, in bytes.
    pub(super) garbage: u64,
    pub(super) flush: Option<Flush>,
    /// A buffer for other records, once its own are written.
    pub(super) spare: Vec<u8>,
}

impl Batch {
    /// Frees the records. They may be large: not with the lock held.
    pub(super) fn free_records(&mut self) {
        self.spare = std::mem::take(&mut self.records).into_spare();
        self.spare.shrink_to(JOURNAL_SPARE_BYTES_MAX);
    }

    /// Seals the batch as the next of `segment` and appends it there.
    pub(super) fn append_to(&mut self, segment: &Segment) -> io::Result<()> {
        let mut checksum = Checksum::new(segment.id);
        // The end goes with the seal: most batches are one small piece, and one call.
        let mut end = std::mem::take(self.records.tail());
        self.length = 0;
        self.records.write_to(|text| {
            checksum.update(text);
            self.length += text.len() as u64;
            segment.file.append(text)
        })?;
        checksum.update(&end);
        let start = end.len();
        write!(end, "{}", Seal::close(segment.last + 1, self.count, segment.synced, checksum))?;
        segment.file.append(&end)?;
        self.length += end.len() as u64;
        self.overhead += end.len() - start;
        self.durable = segment.synced;
        *self.records.tail() = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(records: &Records) -> Vec<u8> {
        let mut bytes = Vec::new();
        let written = records.write_to(|piece| {
            bytes.extend_from_slice(piece);
            Ok::<_, NoMemory>(())
        });
        written.unwrap();
        bytes
    }

    fn add(pending: &mut Pending, line: &[u8], databases: (usize, usize), garbage: u64) {
        let mut records = Records::default();
        records.tail().extend_from_slice(line);
        let flush = None;
        let addition = Addition { records: &mut records, count: 1, databases, garbage, flush };
        pending.add(addition).unwrap();
    }

    #[test]
    fn a_batch_selects_databases_between_its_records_and_ends_in_0() {
        let mut pending = Pending::default();
        add(&mut pending, b"SET a 1\n", (0, 0), 5);
        add(&mut pending, b"SET b 1\n", (3, 3), 6);
        add(&mut pending, b"SET c 1\nSELECT 7\nSET d 1\n", (3, 7), 0);
        let batch = pending.take(9, Vec::new());
        let text = "SET a 1\nSELECT 3\nSET b 1\nSET c 1\nSELECT 7\nSET d 1\nSELECT 0\n";
        assert_eq!(String::from_utf8(bytes(&batch.records)).unwrap(), text);
        let overhead = "SELECT 3\n".len() + "SELECT 0\n".len();
        assert_eq!((batch.sequence, batch.count, batch.garbage), (9, 5, 11));
        assert_eq!(batch.overhead, overhead);
    }

    #[test]
    fn the_buffer_of_a_written_batch_is_the_next_ones() {
        let mut pending = Pending::default();
        add(&mut pending, b"SET a 1\n", (0, 0), 0);
        let mut batch = pending.take(1, Vec::new());
        batch.free_records();
        assert!(batch.spare.is_empty() && batch.spare.capacity() > 0);
        let address = batch.spare.as_ptr();
        pending.take(2, batch.spare);
        add(&mut pending, b"SET b 1\n", (0, 0), 0);
        assert_eq!(pending.take(3, Vec::new()).records.tail().as_ptr(), address);
    }
}
