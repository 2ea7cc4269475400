//! Splits a sealed file into batches, good and bad. A batch is the lines up to a seal, or to the end of the file,
//! whatever they are; only [`Batch::good_seal`] says that they are what was written.
//!
//! Lines are never kept in memory, however long they are. Which batch may follow which is left to [`super`].

use std::io::{self, Read};

use super::verdict::{Cause, Foreign, ScanError, refuse};
use crate::journal::format::{
    Checksum, HEADER_START, Header, RecordError, SEAL_START, Seal, VERSION, time_s,
};
use crate::journal::lines::{Line, Lines};
use crate::text::{self, counted, integer};

/// The lines up to a seal, or to the end of the file.
#[derive(Debug, Default)]
pub struct Batch {
    /// Number of its first line.
    pub line: u64,
    /// Where its first line begins, in bytes.
    pub offset: u64,
    /// Number of its last line, which is the seal if it has one.
    pub last_line: u64,
    /// Where its lines end and its seal begins, in bytes.
    pub body_end: u64,
    /// Where the next batch begins, in bytes.
    pub end: u64,
    /// Number of lines that must be records.
    pub records: u64,
    /// The last time that a comment in it tells, in seconds of Unix time.
    pub time_s: Option<u64>,
    /// The seal that closes it, which may not match it.
    pub seal: Option<Seal>,
    /// The checksum that its seal must carry.
    checksum: u32,
    /// No good seal before it ended the file's base.
    in_base: bool,
    /// Its last line has a line end.
    pub(super) terminated: bool,
    /// Line and offset of a header among its lines.
    pub(super) second_header: Option<(u64, u64)>,
    /// The highest durable mark that a seal in it claims, good or not.
    pub(super) claimed: u64,
}

impl Batch {
    /// The seal, if it matches the lines.
    pub fn good_seal(&self) -> Option<&Seal> {
        self.seal.as_ref().filter(|seal| {
            seal.checksum == self.checksum
                && seal.records == self.records
                && seal.has_valid_mark(self.in_base)
        })
    }

    /// How its lines differ from what its seal, if there is one, says of batch `number`.
    pub fn mismatch(&self, number: u64) -> Option<String> {
        let seal = self.seal?;
        let (records, checksum) = (counted(self.records, "record"), self.checksum);
        let difference = match (seal.checksum == checksum, seal.records == self.records) {
            (false, false) => format!(
                "has {records} and checksum {checksum:08x}, its seal says {} and {:08x}",
                seal.records, seal.checksum
            ),
            (false, true) => {
                format!("has checksum {checksum:08x}, its seal says {:08x}", seal.checksum)
            }
            (true, false) => format!("has {records}, its seal says {}", seal.records),
            (true, true) => {
                format!("carries durable mark {}, which it cannot know", seal.durable)
            }
        };
        Some(format!("batch {number} (lines {} to {}) {difference}", self.line, self.last_line))
    }

    /// Adds a line that is not its seal.
    fn push(&mut self, line: &Line<'_>) {
        self.records += u64::from(line.is_record());
        self.time_s = time_s(line.text()).or(self.time_s);
        if line.head.starts_with(HEADER_START.as_bytes()) {
            self.second_header = self.second_header.or(Some((line.number, line.offset)));
        }
        // A damaged line end joins a seal to the seal or to the hole before it. No client can write a line that reads
        // so: a record does not begin with `#` and holds no raw control character.
        let ending = line.ending();
        if memchr::memchr(b'#', ending).is_some()
            && let Some(at) = memchr::memmem::rfind(ending, SEAL_START.as_bytes())
            && (line.head.starts_with(SEAL_START.as_bytes())
                || at > 0 && !text::is_text_byte(ending[at - 1]))
            && let Some(seal) = Seal::parse(&ending[at..])
        {
            self.claim(&seal);
        }
    }

    fn claim(&mut self, seal: &Seal) {
        if seal.has_valid_mark(self.in_base) {
            self.claimed = self.claimed.max(seal.durable);
        }
    }
}

/// The batches of a file, in order.
pub struct Batches<R> {
    lines: Lines<R>,
    /// The file's first line.
    pub header: Header,
    /// No good seal so far ended the base.
    in_base: bool,
    /// No seal so far, good or bad, ended the base.
    has_no_base_end: bool,
}

/// What a file begins with.
pub enum Beginning<R> {
    /// Nothing: it is empty.
    Empty,
    /// No header.
    Handwritten,
    /// A header, before batches.
    Sealed(Batches<R>),
}

impl<R: Read> Batches<R> {
    /// Reads the header of `source`; refuses a damaged one.
    pub fn begin(source: R) -> Result<Beginning<R>, ScanError> {
        let mut lines = Lines::new(source);
        let Some(first) = lines.next(|_| {})? else { return Ok(Beginning::Empty) };
        Ok(match header(&first).map_err(|cause| refuse(1, 0, cause))? {
            None => Beginning::Handwritten,
            Some(header) => {
                let (in_base, has_no_base_end) = (header.has_base(), header.has_base());
                Beginning::Sealed(Self { lines, header, in_base, has_no_base_end })
            }
        })
    }

    /// Where the next batch begins, in bytes.
    pub fn offset(&self) -> u64 {
        self.lines.offset
    }

    /// The number of the next batch's first line.
    pub fn next_line(&self) -> u64 {
        self.lines.number + 1
    }

    /// Whether the file has a base of which no seal so far, good or bad, is the end.
    pub fn has_no_base_end(&self) -> bool {
        self.has_no_base_end
    }

    /// Reads the next batch.
    pub fn read(&mut self) -> io::Result<Option<Batch>> {
        let offset = self.offset();
        let mut batch = Batch {
            line: self.next_line(),
            offset,
            body_end: offset,
            end: offset,
            in_base: self.in_base,
            terminated: true,
            ..Batch::default()
        };
        let mut checksum = Checksum::new(self.header.id);
        while let Some(line) = self.lines.next(|bytes| checksum.update(bytes))? {
            (batch.last_line, batch.terminated) = (line.number, line.terminated);
            batch.end = line.offset + line.length;
            if line.whole
                && let Some(seal) = Seal::parse(line.text())
            {
                batch.checksum = checksum.finish(&seal);
                batch.seal = Some(seal);
                let is_good = batch.good_seal().is_some();
                if line.terminated || is_good {
                    batch.claim(&seal);
                    self.in_base &= !(is_good && seal.ends_base());
                    self.has_no_base_end &= !seal.ends_base();
                    return Ok(Some(batch));
                }
                // The last digits of its mark may be missing: the seal is cut, not changed.
                batch.seal = None;
            }
            if line.whole {
                checksum.update(line.head);
            }
            batch.body_end = batch.end;
            batch.push(&line);
        }
        Ok((batch.end > batch.offset).then_some(batch))
    }
}

/// Reads a first line: a header, no header, or a damaged one.
fn header(first: &Line<'_>) -> Result<Option<Header>, Cause> {
    let text = first.text();
    if let Some(kind) = Foreign::of(text) {
        return Err(Cause::Foreign(kind));
    }
    let is_cut = !first.terminated && HEADER_START.as_bytes().starts_with(text);
    if !is_cut && !text.starts_with(HEADER_START.as_bytes()) {
        return match Header::is_almost(text) {
            true => Err(Cause::Header("`# coffre 2 id=` is misspelt")),
            false => Ok(None),
        };
    }
    if text.ends_with(b"\r") {
        return Err(RecordError::CarriageReturn.into());
    }
    if !first.terminated {
        return Err(Cause::Header("it is cut short"));
    }
    if let Some(header) = Header::parse(text) {
        return Ok(Some(header));
    }
    let version = text[HEADER_START.len()..].split(|byte| *byte == b' ').next().unwrap_or_default();
    match integer(version).filter(|version| *version > i64::from(VERSION)) {
        Some(version) => Err(Cause::Newer(version.to_string())),
        None => Err(Cause::Header(
            "it must read `# coffre 2 id=` and 12 digits 0-9 a-f (no other comment may begin so)",
        )),
    }
}
