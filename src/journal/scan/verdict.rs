//! What a scan finds out: the verdict on a file, or the refusal with its cause. The conditions of each are in
//! [`super::decision`].

use std::fmt;
use std::io;

use super::batch::Batch;
use crate::journal::format::{FileId, Header, OLDEST_VERSION, RecordError, Seal, VERSION};
use crate::text::integer;

/// What a data file is.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No bytes: the file is new.
    Empty,
    /// Records written by a person, without header and seals.
    Handwritten,
    /// Whole from the first line to the last.
    Intact(Sealed),
    /// Whole up to a torn tail: what a crash left of batches that were not committed.
    Torn(Sealed, Tail),
}

/// The good batches of a sealed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The file's format.
    pub version: u32,
    /// The file's id.
    pub id: FileId,
    /// Number of the last good batch; 0 if there is none.
    pub last: u64,
    /// Number of the last good batch that holds records; 0 if there is none.
    pub last_with_records: u64,
    /// The highest durable mark of their seals.
    pub durable: u64,
    /// Number of the batch that ends the base, if it is among them.
    pub base_end: Option<u64>,
    /// The last time that one of them tells, in seconds of Unix time, and its number.
    pub time: Option<(u64, u64)>,
    /// Where they end, in bytes.
    pub end: u64,
    /// Whether the last line lacks its line end.
    pub unterminated: bool,
    /// Where the last batch begins, in bytes.
    last_start: u64,
    /// Numbers of some batches, ascending, and where they end, in bytes.
    milestones: Vec<(u64, u64)>,
}

impl Sealed {
    /// No batches yet: only a header of so many bytes.
    pub(super) fn new(header: &Header, header_bytes: u64) -> Self {
        Self {
            version: header.version,
            id: header.id,
            last: 0,
            last_with_records: 0,
            durable: 0,
            base_end: None,
            time: None,
            end: header_bytes,
            unterminated: false,
            last_start: header_bytes,
            milestones: vec![(0, header_bytes)],
        }
    }

    /// Adds the next good batch.
    pub(super) fn push(&mut self, seal: &Seal, batch: &Batch) {
        const MILESTONE_BYTES: u64 = 1 << 20;
        self.last = seal.number;
        self.durable = self.durable.max(seal.durable);
        (self.last_start, self.end) = (batch.offset, batch.end);
        self.unterminated = !batch.terminated;
        if seal.records > 0 {
            self.last_with_records = seal.number;
        }
        if seal.ends_base() {
            self.base_end = Some(seal.number);
        }
        if let Some(time_s) = batch.time_s {
            self.time = Some((time_s, seal.number));
        }
        if self.milestones.last().is_none_or(|(_, end)| batch.end >= end + MILESTONE_BYTES) {
            self.milestones.push((seal.number, batch.end));
        }
    }

    /// Whether the base has not ended yet.
    pub(super) fn is_in_base(&self) -> bool {
        let header = Header { version: self.version, id: self.id };
        header.has_base() && self.base_end.is_none()
    }

    /// Where the batches begin that no durable mark covers, or a little before.
    pub fn unmarked_from(&self) -> u64 {
        match self.last - self.durable {
            0 => return self.end,
            1 => return self.last_start,
            _ => {}
        }
        let covered = self.milestones.partition_point(|(number, _)| *number <= self.durable);
        self.milestones[..covered].last().map_or(0, |(_, end)| *end)
    }
}

/// The torn tail that follows the good batches of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Tail {
    /// Its first line.
    pub line: u64,
    /// Its length, in bytes.
    pub bytes: u64,
    /// Number of lines in it that look like records.
    pub records: u64,
    /// What is wrong with its first batch.
    pub cause: String,
}

/// Why a file must not be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The line at fault, from 1.
    pub line: u64,
    /// Where that line begins, in bytes from 0.
    pub offset: u64,
    /// What is wrong with it.
    pub cause: Cause,
    /// The good batches before it, if the file has a valid header.
    pub good: Option<Box<Sealed>>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, offset {}: {}", self.line, self.offset, self.cause)
    }
}

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The first line is a damaged header.
    #[error("the header is damaged: {0}")]
    Header(&'static str),
    /// A format this program does not know.
    #[error(
        "the file has format {0}, this program knows formats {OLDEST_VERSION} to {VERSION}: use a newer \
         coffre"
    )]
    Newer(String),
    /// A file of another kind.
    #[error("{0}")]
    Foreign(Foreign),
    /// A database that this server does not have.
    #[error("database {database} is needed, and --databases is {databases}")]
    Databases {
        /// The highest that the line names.
        database: usize,
        /// How many there are.
        databases: usize,
    },
    /// A line that is not a record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A seal without the header that has the file's id.
    #[error("a seal or header in a file whose first line is no header")]
    LooseSeal,
    /// Well-formed lines that do not match their seal.
    #[error("{0}: changed by hand, or by the disk")]
    Changed(String),
    /// A batch that was there before.
    #[error("batch {found} is repeated: batch {expected} must follow here")]
    Repeated {
        /// The number found.
        found: u64,
        /// The number expected.
        expected: u64,
    },
    /// A batch that is not there.
    #[error("batch {expected} is missing: batch {found} follows here")]
    Missing {
        /// The number found.
        found: u64,
        /// The number expected.
        expected: u64,
    },
    /// A header after the first line.
    #[error("a second header: another file was pasted here")]
    SecondHeader,
    /// A bad batch that was durable: a durable mark covers it.
    #[error(
        "acknowledged data is damaged: batch {number} is on or below durable mark {durable}: {detail}"
    )]
    Acknowledged {
        /// The batch.
        number: u64,
        /// The highest durable mark of the file.
        durable: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// The file ends within its base.
    #[error(
        "the file ends within its base, at batch {number}: it is part of a copy, or its end is damaged"
    )]
    CutInBase {
        /// The batch that is missing or cut.
        number: u64,
    },
    /// A bad batch within the base.
    #[error(
        "batch {number} is damaged, and is part of the base, which was on disk whole: {detail}"
    )]
    BrokenBase {
        /// The batch.
        number: u64,
        /// What is wrong with it.
        detail: String,
    },
}

/// Files that cannot be a data file: text that is not plain UTF-8, and files of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// UTF-8 with a byte order mark.
    #[error("the file begins with a byte order mark: it must be plain UTF-8")]
    ByteOrderMark,
    /// UTF-16.
    #[error("the file is UTF-16: it must be plain UTF-8")]
    Utf16,
    /// An append-only file of Redis.
    #[error("this is an append-only file of Redis (AOF)")]
    Aof,
    /// The manifest of an append-only file.
    #[error("this is the manifest of an append-only file of Redis, which lists its parts")]
    Manifest,
    /// A snapshot of Redis.
    #[error("this is a snapshot of Redis (RDB), or an append-only file that begins with one")]
    Rdb,
}

impl Foreign {
    /// Which of them begins with `line`, if any does.
    pub(super) fn of(line: &[u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line {
            [0xef, 0xbb, 0xbf, ..] => Some(Self::ByteOrderMark),
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some(Self::Utf16),
            [b'*', count @ ..] => integer(count).map(|_| Self::Aof),
            // A time stamp between the commands.
            [b'#', b'T', b'S', b':', ..] => Some(Self::Aof),
            [b'R', b'E', b'D', b'I', b'S', version @ ..] => {
                version.get(..4)?.iter().all(u8::is_ascii_digit).then_some(Self::Rdb)
            }
            [b'f', b'i', b'l', b'e', b' ', rest @ ..] => {
                memchr::memmem::find(rest, b" seq ").map(|_| Self::Manifest)
            }
            _ => None,
        }
    }
}

/// Why a file has no verdict.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file must not be used.
    #[error("{0}")]
    Refused(Refusal),
}

impl ScanError {
    /// Whether the file is damaged, in a format that this program can read: so it can tell good lines from bad ones.
    pub fn is_damage(&self) -> bool {
        let Self::Refused(Refusal { cause, .. }) = self else { return false };
        !matches!(
            cause,
            Cause::Newer(_) | Cause::Foreign(_) | Cause::Record(RecordError::CarriageReturn)
        )
    }
}

pub(in crate::journal) fn refuse(line: u64, offset: u64, cause: impl Into<Cause>) -> ScanError {
    ScanError::Refused(Refusal { line, offset, cause: cause.into(), good: None })
}
