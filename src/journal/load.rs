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
    let (mut number, mut offset) = (1, range.start);
    let mut reader = BufReader::with_capacity(READ_BYTES, disk::read(file, range));
    let (mut line, mut words) = (Vec::new(), Words::default());
    let (mut time_s, mut database) = (None, 0);
    loop {
        line.clear();
        let refuse = |cause: Cause| refuse(number, offset, cause);
        let length = match read_line(&mut reader, &mut line)? {
            Ok(0) => return Ok(number - 1),
            Ok(length) => length,
            Err(error) => return Err(refuse(error.into())),
        };
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if !text.starts_with(b"#") && !text.iter().all(u8::is_ascii_whitespace) {
            let record = Record::parse(text, &mut words).map_err(|error| refuse(error.into()))?;
            if let Record::Select(other) = record {
                database = other;
            }
            let bytes = offset..offset + length;
            let located = Located { record, database, line: number, bytes, time_s: time_s.take() };
            apply(located).map_err(|error| match error.downcast::<Cause>() {
                Ok(cause) => refuse(cause),
                Err(error) => ScanError::Io(error),
            })?;
        } else if let Some(cause) = comment_fault(text, source) {
            return Err(refuse(cause));
        } else if let Some(time) = format::time_s(text) {
            time_s = Some(time);
        } else if source == Source::Sealed && text.starts_with(SEAL_START.as_bytes()) {
            // Each batch begins in database 0, and a time at its end is the seal's.
            (database, time_s) = (0, None);
        }
        number += 1;
        offset += length;
        // Free the memory of a huge line.
        line.shrink_to(READ_BYTES);
        words.clear(READ_BYTES);
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

/// Reads one line with its end into `line` and returns its length, 0 at the end of the file. Of a long line, it reads
/// the rest into memory only if the line begins like a record or a comment.
fn read_line(
    reader: &mut impl BufRead,
    line: &mut Vec<u8>,
) -> io::Result<Result<u64, RecordError>> {
    const HEAD_BYTES: u64 = 64 << 10;
    /// A key and a value of the greatest length, each byte written as `\xHH`, and the command around them.
    const RECORD_BYTES_MAX: usize = 2 * 4 * VALUE_BYTES_MAX + 64;
    reader.take(HEAD_BYTES).read_until(b'\n', line)?;
    if line.len() as u64 == HEAD_BYTES && !line.ends_with(b"\n") {
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
    Ok(Ok(line.len() as u64))
}
