//! Parses lines into records: the second pass over a file, after the scan has found which of its
//! bytes are good; and the only one over a hand-written file and over a broken batch.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

use super::disk::{self, DiskFile};
use super::format::{self, HEADER_START, Record, RecordError, SEAL_START};
use super::lines::READ_BYTES;
use super::scan::{Cause, Refusal, ScanError};
use crate::limits::RECORD_BYTES_MAX;
use crate::text::{self, Words};

/// Where the lines come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file with a header, where seals are comments like any other.
    Sealed,
    /// A file without, where a seal vouches for nothing and is refused.
    Handwritten,
}

/// A record, and where it stands.
#[derive(Debug)]
pub struct Located<'a> {
    /// What the line says.
    pub record: Record<'a>,
    /// The database it concerns.
    pub database: usize,
    /// Its number, counted from the start of what is read.
    pub line: u64,
    /// Where it begins, and where the next line does, in bytes.
    pub bytes: Range<u64>,
    /// The time that a comment before it tells, in seconds of Unix time.
    pub time_s: Option<u64>,
}

/// Parses the lines in `range` of `file` and hands each record to `apply`, whose error ends it, and refuses the
/// line if it holds a [`Cause`]; the first line that is no record, comment or blank refuses. Line numbers count
/// from the start of the range.
pub fn for_each_record(
    file: &dyn DiskFile,
    range: Range<u64>,
    source: Source,
    mut apply: impl FnMut(Located<'_>) -> io::Result<()>,
) -> Result<(), ScanError> {
    let (mut number, mut offset) = (1, range.start);
    let mut reader = BufReader::with_capacity(READ_BYTES, disk::read(file, range));
    let (mut line, mut words) = (Vec::new(), Words::default());
    let (mut time_s, mut database) = (None, 0);
    loop {
        line.clear();
        let refuse = |cause: Cause| ScanError::Refused(Refusal { line: number, offset, cause });
        let length = match read_line(&mut reader, &mut line)? {
            Ok(0) => return Ok(()),
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
            // A batch says all by itself; a time at its end is the seal's.
            (database, time_s) = (0, None);
        }
        number += 1;
        offset += length;
        // One huge line must not keep its memory to the end.
        line.shrink_to(READ_BYTES);
        words.clear(READ_BYTES);
    }
}

/// What is wrong with a comment or a blank line, if anything.
fn comment_fault(line: &[u8], source: Source) -> Option<Cause> {
    let begins = |start: &str| line.starts_with(start.as_bytes());
    if source == Source::Handwritten && (begins(SEAL_START) || begins(HEADER_START)) {
        return Some(Cause::LooseSeal);
    }
    RecordError::of_bytes(line).map(Cause::from)
}

/// Reads one line with its end into `line` and returns its length, 0 at the end of the file. A long
/// line must look like a record before the rest of it takes memory.
fn read_line(
    reader: &mut impl BufRead,
    line: &mut Vec<u8>,
) -> io::Result<Result<u64, RecordError>> {
    const HEAD_BYTES: u64 = 64 << 10;
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
