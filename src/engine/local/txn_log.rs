//! The records of a transaction, as they will stand in the data file.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::Key;
use crate::journal::format::{
    write_del, write_expiry, write_flush, write_select, write_set, write_set_end, write_set_key,
    write_set_range, write_set_range_start, write_swap,
};
use crate::journal::records::Records;
use crate::journal::{Addition, Flush};
use crate::limits::{CLIENT_SPARE_BYTES_MAX, DEL_LINE_BYTES_MAX};
use crate::text::{quote, quoted_bytes};
use crate::util::memory::NoMemory;
use crate::value::View;

/// See the module. Between transactions it is empty and keeps its buffer.
#[derive(Debug, Default)]
pub struct TxnLog {
    records: Records,
    state: State,
    /// Where the last line begins, if it is a `DEL` that may take another key.
    del_start: Option<usize>,
}

/// What the records amount to.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Number of records.
    count: u64,
    /// The database of the first, and the one that the last have selected.
    databases: Option<(usize, usize)>,
    /// Bytes of the file that they supersede, or that say nothing from the beginning.
    garbage: u64,
    /// The last `FLUSHALL` or `FLUSHDB` among them.
    flush: Option<Flush>,
}

/// A state to go back to.
#[derive(Clone, Copy, Debug)]
pub struct LogMark {
    bytes: usize,
    state: State,
}

impl TxnLog {
    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.state.count == 0
    }

    /// The state so far.
    pub fn mark(&mut self) -> LogMark {
        // A later key must not join a line from before.
        self.del_start = None;
        LogMark { bytes: self.records.len(), state: self.state }
    }

    /// Forgets what was written since `mark`.
    pub fn truncate(&mut self, mark: LogMark) {
        self.records.truncate(mark.bytes);
        self.state = mark.state;
        self.del_start = None;
    }

    /// Forgets everything, and gives back unusually much memory.
    pub fn clear(&mut self) {
        self.records.clear();
        self.state = State::default();
        self.del_start = None;
    }

    /// For [`Journal::append`](crate::journal::Journal::append).
    pub fn addition(&mut self) -> Addition<'_> {
        let State { count, databases, garbage, flush } = self.state;
        let databases = databases.unwrap_or_default();
        Addition { records: &mut self.records, count, databases, garbage, flush }
    }

    /// Begins records of a database with keys and values of so many bytes, `quoted` at most so long.
    fn begin(
        &mut self,
        database: usize,
        bytes: usize,
        quoted: impl FnOnce() -> usize,
    ) -> Result<(), NoMemory> {
        self.del_start = None;
        // A piece that is long already ends before the next record.
        self.records.tail();
        let (first, selected) = self.state.databases.unwrap_or((database, database));
        if selected != database {
            write_select(database, self.records.tail());
            self.state.count += 1;
        }
        self.state.databases = Some((first, database));
        if bytes > CLIENT_SPARE_BYTES_MAX {
            const REST_BYTES: usize = 256;
            self.records.reserve(quoted() + REST_BYTES)?;
        }
        Ok(())
    }

    /// A key is set.
    pub fn set(
        &mut self,
        key: Key<'_>,
        value: View<'_>,
        expires_ms: Option<u64>,
    ) -> Result<(), NoMemory> {
        let Key { database, bytes: key } = key;
        match value {
            View::Short(value) => {
                let quoted = || quoted_bytes(key) + quoted_bytes(value);
                self.begin(database, key.len() + value.len(), quoted)?;
                write_set(key, value, expires_ms, self.records.room());
            }
            View::Long(long) => {
                self.begin(database, key.len(), || quoted_bytes(key))?;
                write_set_key(key, self.records.room());
                self.records.push_value(Arc::clone(long), 0..value.len())?;
                write_set_end(expires_ms, self.records.tail());
            }
        }
        self.state.count += 1;
        Ok(())
    }

    /// Part of the value of a key, which existed or not, was written at `offset`. A key that expires is told so again:
    /// replayed after its time, `SETRANGE` creates a new one.
    pub fn splice(
        &mut self,
        key: Key<'_>,
        existed: bool,
        expires_ms: Option<u64>,
        offset: usize,
        part: Part<'_>,
    ) -> Result<(), NoMemory> {
        if !existed {
            if let (0, Part::Bytes(bytes)) = (offset, &part) {
                return self.set(key, View::Short(bytes), None);
            }
            // Padding is not spelled out: 512 MiB of it would be 2 GiB of `\x00`.
            self.set(key, View::Short(b""), None)?;
        }
        let start = self.records.len();
        let Key { database, bytes: key } = key;
        match part {
            Part::Bytes(bytes) => {
                let quoted = || 2 * quoted_bytes(key) + quoted_bytes(bytes);
                self.begin(database, key.len() + bytes.len(), quoted)?;
                write_set_range(key, offset, bytes, self.records.room());
                let text_bytes = quoted_bytes(bytes);
                let overhead = (self.records.len() - start).saturating_sub(text_bytes);
                self.state.garbage += if existed { overhead as u64 } else { 0 };
            }
            Part::OfValue(View::Short(value), range) => {
                return self.splice_again(key, database, expires_ms, offset, &value[range]);
            }
            Part::OfValue(View::Long(long), range) => {
                self.begin(database, key.len(), || 2 * quoted_bytes(key))?;
                write_set_range_start(key, offset, self.records.room());
                if existed {
                    self.state.garbage += (self.records.len() - start) as u64;
                }
                self.records.push_value(Arc::clone(long), range)?;
                self.records.tail().push(b'\n');
            }
        }
        self.state.count += 1;
        if expires_ms.is_some() {
            write_expiry(key, expires_ms, self.records.tail());
            self.state.count += 1;
        }
        Ok(())
    }

    /// A key expires at another time, or never.
    pub fn expire(&mut self, key: Key<'_>, expires_ms: Option<u64>) -> Result<(), NoMemory> {
        let Key { database, bytes: key } = key;
        self.begin(database, key.len(), || quoted_bytes(key))?;
        let start = self.records.len();
        write_expiry(key, expires_ms, self.records.room());
        self.state.garbage += (self.records.len() - start) as u64;
        self.state.count += 1;
        Ok(())
    }

    /// A key is deleted: several that follow each other share a line.
    pub fn delete(&mut self, key: Key<'_>) -> Result<(), NoMemory> {
        let Key { database, bytes: key } = key;
        let is_small = key.len() <= CLIENT_SPARE_BYTES_MAX;
        if let (Some(start), true) = (self.del_start, is_small) {
            let before = self.records.len();
            if before - start <= DEL_LINE_BYTES_MAX {
                let line = self.records.room();
                line.pop();
                line.push(b' ');
                quote(key, line);
                line.push(b'\n');
                self.state.garbage += (self.records.len() - before) as u64;
                return Ok(());
            }
        }
        self.begin(database, key.len(), || quoted_bytes(key))?;
        let start = self.records.len();
        self.state.count += write_del([key].into_iter(), self.records.room());
        self.state.garbage += (self.records.len() - start) as u64;
        self.del_start = is_small.then_some(start);
        Ok(())
    }

    /// Every key of a database, or of all, is deleted.
    pub fn clear_keys(&mut self, database: Option<usize>, flush: Flush) -> Result<(), NoMemory> {
        self.begin(database.unwrap_or(0), 0, || 0)?;
        write_flush(database.is_none(), flush.time_s, self.records.tail());
        self.state.count += 1;
        self.state.flush = Some(flush);
        Ok(())
    }

    /// Two databases exchange their keys.
    pub fn swap(&mut self, one: usize, two: usize) -> Result<(), NoMemory> {
        self.begin(0, 0, || 0)?;
        let start = self.records.len();
        write_swap(one, two, self.records.tail());
        self.state.garbage += (self.records.len() - start) as u64;
        self.state.count += 1;
        Ok(())
    }
}

/// What was written into a value.
#[derive(Clone, Debug)]
pub enum Part<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// These bytes of the new value.
    OfValue(View<'a>, Range<usize>),
}
