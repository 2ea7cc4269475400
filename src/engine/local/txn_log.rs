//! The records of a transaction, as they will stand in the data file.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::Key;
use crate::journal::format::{
    write_del, write_expiry, write_flush, write_select, write_set, write_set_end, write_set_range,
    write_set_range_end, write_set_range_start, write_set_start, write_swap,
};
use crate::journal::records::Records;
use crate::journal::snapshot::piece;
use crate::journal::{Addition, Flush};
use crate::limits::{CLIENT_SPARE_BYTES_MAX, DEL_LINE_BYTES_MAX, SNAPSHOT_VALUE_BYTES_MAX};
use crate::text::{quote, quoted_bytes};
use crate::util::memory::NoMemory;
use crate::value::{Long, View};

/// About what a `SETRANGE` record takes beside its key and value, in bytes.
const SET_RANGE_BYTES: usize = 16;

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

    /// A key is set. A long value is written in pieces that each replay inline, as a new file has it.
    pub fn set(
        &mut self,
        key: Key<'_>,
        value: View<'_>,
        expires_ms: Option<u64>,
    ) -> Result<(), NoMemory> {
        let Key { database, bytes: name } = key;
        let (short, rest) = match value {
            View::Short(bytes) => (bytes, None),
            View::Long(_) if value.len() <= SNAPSHOT_VALUE_BYTES_MAX => (&b""[..], None),
            View::Long(long) => (&b""[..], Some(long)),
        };
        let quoted = || quoted_bytes(name) + quoted_bytes(short);
        self.begin(database, name.len() + short.len(), quoted)?;
        self.state.count += 1;
        match value {
            View::Short(bytes) => write_set(name, bytes, expires_ms, self.records.room()),
            View::Long(long) => {
                let first = piece(name, 0, value.len());
                write_set_start(name, self.records.room());
                self.records.push_value(Arc::clone(long), first.clone());
                // A value in several pieces expires only after the last: replayed after its time the first would not
                // be there, and the second create another.
                write_set_end(expires_ms.filter(|_| rest.is_none()), self.records.tail());
                if let Some(long) = rest {
                    return self.set_rest(key, long, first.end, expires_ms);
                }
            }
        }
        Ok(())
    }

    /// The pieces of a long value from `start` on. One that is only padding is left out where a later one implies it.
    fn set_rest(
        &mut self,
        key: Key<'_>,
        long: &Arc<Long>,
        mut start: usize,
        expires_ms: Option<u64>,
    ) -> Result<(), NoMemory> {
        let view = View::Long(long);
        while start < view.len() {
            let range = piece(key.bytes, start, view.len());
            let is_last = range.end == view.len();
            let is_padding = view.written(range.clone()).next().is_none();
            let part = match (is_padding, is_last) {
                (true, false) => None,
                // The last byte alone gives the length.
                (true, true) => Some(range.end - 1..range.end),
                (false, _) => Some(range.clone()),
            };
            if let Some(part) = part {
                self.set_range(key, part.start, Part::OfValue(view, part))?;
            }
            start = range.end;
        }
        self.expire_again(key, expires_ms)
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
            match &part {
                Part::Bytes(bytes) if offset == 0 => {
                    return self.set(key, View::Short(bytes), None);
                }
                Part::OfValue(value, range) if *range == (0..value.len()) => {
                    return self.set(key, *value, None);
                }
                // Padding is not spelled out: 512 MiB of it would be 2 GiB of `\x00`.
                _ => self.set(key, View::Short(b""), None)?,
            }
        }
        let overhead = SET_RANGE_BYTES + quoted_bytes(key.bytes);
        self.state.garbage += if existed { overhead as u64 } else { 0 };
        self.set_range(key, offset, part)?;
        self.expire_again(key, expires_ms)
    }

    fn set_range(&mut self, key: Key<'_>, offset: usize, part: Part<'_>) -> Result<(), NoMemory> {
        let Key { database, bytes: name } = key;
        match part {
            Part::Bytes(bytes) | Part::OfValue(View::Short(bytes), _) => {
                let bytes = match part {
                    Part::OfValue(_, range) => &bytes[range],
                    Part::Bytes(_) => bytes,
                };
                let quoted = || 2 * quoted_bytes(name) + quoted_bytes(bytes);
                self.begin(database, name.len() + bytes.len(), quoted)?;
                write_set_range(name, offset, bytes, self.records.room());
            }
            Part::OfValue(View::Long(long), range) => {
                self.begin(database, name.len(), || 2 * quoted_bytes(name))?;
                write_set_range_start(name, offset, self.records.room());
                self.records.push_value(Arc::clone(long), range);
                write_set_range_end(self.records.tail());
            }
        }
        self.state.count += 1;
        Ok(())
    }

    fn expire_again(&mut self, key: Key<'_>, expires_ms: Option<u64>) -> Result<(), NoMemory> {
        if expires_ms.is_some() {
            self.begin(key.database, key.bytes.len(), || quoted_bytes(key.bytes))?;
            write_expiry(key.bytes, expires_ms, self.records.room());
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
        let is_selected = self.state.databases.is_some_and(|(_, selected)| selected == database);
        if let (Some(start), true) = (self.del_start, is_small && is_selected) {
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
