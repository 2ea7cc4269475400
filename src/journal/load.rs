//! Parses lines into records. It is the second pass over a sealed file, once the scan has found its good bytes, and
//! the only one over a hand-written file or a bad batch.
//!
//! Only one line is in memory at a time, and a long one only if it looks like a record. Applying records is left to the
//! caller.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

use super::disk::{self, DiskFile};
use super::format::{self, HEADER_START, Record, RecordError, SEAL_START};
use super::lines::READ_BYTES;
use super::scan::{Cause, ScanError, refuse};
use crate::limits::VALUE_BYTES_MAX;
use crate::text::{self, Words};

/// The kind of file that lines come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// With a header: seals are comments.
    Sealed,
    /// Without a header: a seal proves nothing and is refused.
    Handwritten,
}

/// A record and its position.
#[derive(Debug)]
pub struct Located<'a> {
    /// The record.
    pub record: Record<'a>,
    /// The database it concerns.
    pub database: usize,
    /// The number of its line, counted from the start of what is read.
    pub line: u64,
    /// From the start of its line to the start of the next, in bytes.
    pub bytes: Range<u64>,
    /// The time that the comment before it tells, in seconds of Unix time.
    pub time_s: Option<u64>,
}

/// Parses the lines in `range` of `file`, passes each record to `apply`, and returns the number of lines. The first
/// line that is no record, comment or blank line is refused. An error of `apply` ends the pass; if it holds a [`Cause`],
/// the line is refused for it. Line numbers count from the start of the range.
pub fn for_each_record(
    file: &dyn DiskFile,
    range: Range<u64>,
    source: Source,
    mut apply: impl FnMut(Located<'_>) -> io::Result<()>,
) -> Result<u64, ScanError> {
    let mut pass = Pass { source, number: 1, offset: range.start, time_s: None, database: 0 };
    let mut reader = BufReader::with_capacity(READ_BYTES, disk::read(file, range));
    let (mut long, mut words) = (Vec::new(), Words::default());
    loop {
        // Nearly every line stands in the reader's buffer, and needs no copy. That, and `text::is_plain`, took a quarter of
        // the instructions of a loaded record away: `cargo bench --bench instructions`.
        let buffer = reader.fill_buf()?;
        let buffer = &buffer[..buffer.len().min(HEAD_BYTES)];
        if let Some(end) = memchr::memchr(b'\n', buffer) {
            pass.take(&buffer[..=end], &mut words, &mut apply)?;
            reader.consume(end + 1);
        } else {
            match read_long(&mut reader, &mut long)? {
                Ok(()) if long.is_empty() => return Ok(pass.number - 1),
                Ok(()) => pass.take(&long, &mut words, &mut apply)?,
                Err(error) => return Err(pass.refuse(error.into())),
            }
            // Free the memory of a huge line.
            long.clear();
            long.shrink_to(READ_BYTES);
        }
        words.clear(READ_BYTES);
    }
}

/// Where a pass over the lines is, and what earlier lines say of the next.
struct Pass {
    source: Source,
    /// The number of the next line.
    number: u64,
    /// Where it begins.
    offset: u64,
    /// The time that the comment before it tells.
    time_s: Option<u64>,
    /// The database it concerns.
    database: usize,
}

impl Pass {
    /// Takes the next line, with its line end.
    fn take(
        &mut self,
        line: &[u8],
        words: &mut Words,
        apply: &mut impl FnMut(Located<'_>) -> io::Result<()>,
    ) -> Result<(), ScanError> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let bytes = self.offset..self.offset + line.len() as u64;
        if !text.starts_with(b"#") && !text.iter().all(u8::is_ascii_whitespace) {
            let record = Record::parse(text, words).map_err(|error| self.refuse(error.into()))?;
            if let Record::Select(other) = record {
                self.database = other;
            }
            let (database, line, time_s) = (self.database, self.number, self.time_s.take());
            let located = Located { record, database, line, bytes: bytes.clone(), time_s };
            apply(located).map_err(|error| match error.downcast::<Cause>() {
                Ok(cause) => self.refuse(cause),
                Err(error) => ScanError::Io(error),
            })?;
        } else if let Some(cause) = comment_fault(text, self.source) {
            return Err(self.refuse(cause));
        } else if let Some(time) = format::time_s(text) {
            self.time_s = Some(time);
        } else if self.source == Source::Sealed && text.starts_with(SEAL_START.as_bytes()) {
            // Each batch begins in database 0, and a time at its end is the seal's.
            (self.database, self.time_s) = (0, None);
        }
        self.number += 1;
        self.offset = bytes.end;
        Ok(())
    }

    /// Refuses the next line.
    fn refuse(&self, cause: Cause) -> ScanError {
        refuse(self.number, self.offset, cause)
    }
}

/// Why a comment or a blank line is refused, if it is.
fn comment_fault(line: &[u8], source: Source) -> Option<Cause> {
    let begins = |start: &str| line.starts_with(start.as_bytes());
    if source == Source::Handwritten && (begins(SEAL_START) || begins(HEADER_START)) {
        return Some(Cause::LooseSeal);
    }
    RecordError::of_bytes(line).map(Cause::from)
}

/// A longer line is read into memory only if it begins like a record or a comment.
const HEAD_BYTES: usize = 64 << 10;

/// Reads one line with its end into `line`, which is empty and stays so at the end of the file.
fn read_long(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Result<(), RecordError>> {
    /// A key and a value of the greatest length, each byte written as `\xHH`, and the command around them.
    const RECORD_BYTES_MAX: usize = 2 * 4 * VALUE_BYTES_MAX + 64;
    reader.take(HEAD_BYTES as u64).read_until(b'\n', line)?;
    if line.len() == HEAD_BYTES && !line.ends_with(b"\n") {
        if let Some(byte) = line.iter().find(|byte| !text::is_text_byte(**byte)) {
            return Ok(Err(RecordError::NotText(*byte)));
        }
        if !line.starts_with(b"#") && !Record::is_known(line) {
            return Ok(Err(RecordError::unknown(line)));
        }
        reader.take(RECORD_BYTES_MAX as u64).read_until(b'\n', line)?;
        if line.len() > RECORD_BYTES_MAX {
            return Ok(Err(RecordError::Range));
        }
    }
    Ok(Ok(()))
}
