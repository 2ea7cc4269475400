//! Reads a data file and says what it is: a pure scan and a verdict. Nothing here writes.
//!
//! The scan walks the batches from the first line on. At the first that is not the good one it
//! expects, it goes on to the end of the file only to learn what follows: above all the highest durable
//! mark that any seal claims. Then the verdict, by the table of `docs/format.md`: a broken batch that a
//! mark covers was acknowledged, so it is damage; one above every mark is the torn tail of a crash,
//! unless what is there is not what a crash leaves. Within the base, which was on disk whole before the
//! file got its name, every fault is damage, and so is the end of the file.
//!
//! After the first bad batch a seal's mark counts even if its own batch is broken too: a crash's tail
//! never claims a mark that high, and no client can write a line that begins with `#= `.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

use super::disk::{self, DiskFile};
use super::format::{
    Checksum, FileId, HEADER_START, Header, OLDEST_VERSION, RecordError, SEAL_START, Seal, VERSION,
    time_s,
};
use super::lines::{Line, Lines};
use super::load::{Source, for_each_record};
use crate::text::{counted, integer};

/// What a data file is.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No byte: the file is new.
    Empty,
    /// Write commands typed by a person: no header, no seals.
    Handwritten,
    /// Whole from the first line to the last.
    Intact(Sealed),
    /// Whole up to a tail that was never acknowledged.
    Torn(Sealed, Tail),
}

/// The good batches of a sealed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The file's id.
    pub id: FileId,
    /// Number of the last good batch; 0 if there is none.
    pub last: u64,
    /// Number of the last good batch that holds records; 0 if there is none.
    pub last_with_records: u64,
    /// The highest durable mark of any valid seal.
    pub durable: u64,
    /// Where the good batches end, in bytes.
    pub end: u64,
    /// Whether the last good line lacks its line end.
    pub unterminated: bool,
    /// Where the last good batch begins, in bytes.
    last_start: u64,
    /// Numbers of some batches, in order, and where they end.
    milestones: Vec<(u64, u64)>,
}

/// What follows the good batches of a file whose server crashed.
#[derive(Debug, PartialEq, Eq)]
pub struct Tail {
    /// Its first line.
    pub line: u64,
    /// Its length, in bytes.
    pub bytes: u64,
    /// Lines in it that look like records.
    pub records: u64,
    /// What is wrong with its first batch.
    pub cause: String,
}

/// A file that must not be used, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The line at fault, from 1.
    pub line: u64,
    /// Where that line begins, in bytes from 0.
    pub offset: u64,
    /// What is wrong with it.
    pub cause: Cause,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, offset {}: {}", self.line, self.offset, self.cause)
    }
}

/// What makes a file unusable.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The first line tries to be a header.
    #[error("the header is damaged: {0}")]
    Header(&'static str),
    /// A format this program does not know.
    #[error(
        "the file has format {0}, this program knows formats {OLDEST_VERSION} to {VERSION}: use a newer \
         coffre"
    )]
    Newer(String),
    /// Text, but not as coffre writes it.
    #[error("the file {0}")]
    Encoding(Encoding),
    /// A file that Redis wrote.
    #[error("{0}")]
    Redis(Redis),
    /// A database that this server does not have.
    #[error("database {database} is needed, and --databases is {databases}")]
    Databases {
        /// The highest that the line names.
        database: usize,
        /// How many there are.
        databases: usize,
    },
    /// A line that is no write command.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Seals without the header that names the file they belong to.
    #[error("a seal or header in a file whose first line is no header")]
    LooseSeal,
    /// Lines that parse, under a seal that vouches for others.
    #[error("{0}: changed by hand, or by the disk")]
    Changed(Mismatch),
    /// A batch that stands twice.
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
    /// A broken batch that was once on disk for certain.
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
    /// The file ends before its base does.
    #[error(
        "the file ends within its base, at batch {number}: it is part of a copy, or its end is damaged"
    )]
    CutInBase {
        /// The batch that is missing, or not whole.
        number: u64,
    },
    /// A broken batch of the base.
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

/// What Redis keeps its data in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Redis {
    /// Its log of commands.
    #[error("this is an append-only file of Redis (AOF)")]
    Aof,
    /// The list of the files that such a log is in.
    #[error("this is the manifest of an append-only file of Redis, which lists its parts")]
    Manifest,
    /// Its snapshot.
    #[error("this is a snapshot of Redis (RDB), or an append-only file that begins with one")]
    Rdb,
}

impl Redis {
    /// What a file that begins with `line` is.
    fn of(line: &[u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(digits) = line.strip_prefix(b"*") {
            return integer(digits).map(|_| Self::Aof);
        }
        match line {
            // A time between its commands.
            _ if line.starts_with(b"#TS:") => Some(Self::Aof),
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

/// How text is written that is not plain UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Encoding {
    /// UTF-8 with a byte order mark.
    #[error("begins with a byte order mark: it must be plain UTF-8")]
    Marked,
    /// UTF-16.
    #[error("is UTF-16: it must be plain UTF-8")]
    Utf16,
}

/// In what a seal differs from its batch.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch {
    seal: Seal,
    expected: u64,
    records: u64,
    checksum: u32,
    first_line: u64,
    last_line: u64,
}

impl Mismatch {
    /// The number that the seal says.
    pub fn number(&self) -> u64 {
        self.seal.number
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seal, expected, records, checksum, first_line, last_line } = self;
        write!(f, "batch {expected} (lines {first_line} to {last_line}) ")?;
        let found = counted(*records, "record");
        if seal.checksum != *checksum && seal.records != *records {
            write!(
                f,
                "has {found} and checksum {checksum:08x}, its seal says {} and {:08x}",
                seal.records, seal.checksum
            )
        } else if seal.checksum != *checksum {
            write!(f, "has checksum {checksum:08x}, its seal says {:08x}", seal.checksum)
        } else if seal.records != *records {
            write!(f, "has {found}, its seal says {}", seal.records)
        } else {
            write!(f, "carries durable mark {}, which it cannot know", seal.durable)
        }
    }
}

/// Why there is no verdict.
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
    /// Whether the lines are in a format that this program can read, so that it can say what is wrong with
    /// them and what not.
    pub fn is_of_known_format(&self) -> bool {
        let Self::Refused(Refusal { cause, .. }) = self else { return true };
        !matches!(
            cause,
            Cause::Newer(_)
                | Cause::Encoding(_)
                | Cause::Redis(_)
                | Cause::Record(RecordError::CarriageReturn)
        )
    }
}

fn refuse(line: u64, offset: u64, cause: impl Into<Cause>) -> ScanError {
    ScanError::Refused(Refusal { line, offset, cause: cause.into() })
}

/// Reads the first `length` bytes of `file` and gives the verdict; `watch` is told how far it is.
pub fn scan(
    file: &dyn DiskFile,
    length: u64,
    watch: &mut dyn FnMut(u64),
) -> Result<Verdict, ScanError> {
    match Batches::begin(disk::read(file, 0..length))? {
        Beginning::Empty => Ok(Verdict::Empty),
        Beginning::Handwritten => {
            let each = |found: super::load::Located<'_>| {
                watch(found.bytes.end);
                Ok(())
            };
            for_each_record(file, 0..length, Source::Handwritten, each)?;
            Ok(Verdict::Handwritten)
        }
        Beginning::Sealed(mut batches) => {
            let mut scan = Scan::new(&batches.header, batches.offset());
            while let Some(batch) = batches.read()? {
                watch(batch.end);
                scan.judge(batch)?;
            }
            match scan.fault {
                None if scan.in_base => {
                    let number = scan.good.last + 1;
                    Err(refuse(batches.next_line(), scan.good.end, Cause::CutInBase { number }))
                }
                None => Ok(Verdict::Intact(scan.good)),
                Some(fault) => judge(file, scan.good, fault, scan.in_base, length),
            }
        }
    }
}

/// Reads a first line: a good header, none, or a damaged one.
fn header(first: &Line<'_>) -> Result<Option<Header>, Cause> {
    let text = first.text();
    match text {
        [0xef, 0xbb, 0xbf, ..] => {
            return Err(Cause::Encoding(Encoding::Marked));
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            return Err(Cause::Encoding(Encoding::Utf16));
        }
        _ => {}
    }
    if let Some(file) = Redis::of(text) {
        return Err(Cause::Redis(file));
    }
    let cut_short = !first.terminated && HEADER_START.as_bytes().starts_with(text);
    if !cut_short && !text.starts_with(HEADER_START.as_bytes()) {
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

/// The lines up to a seal, or to the end of the file, whatever they are.
#[derive(Debug)]
pub struct Batch {
    /// Its first line, and where that begins.
    pub line: u64,
    /// In bytes.
    pub offset: u64,
    /// Its last line: the seal, if it has one.
    pub last_line: u64,
    /// Where its lines end and its seal begins.
    pub body_end: u64,
    /// Where the next batch begins.
    pub end: u64,
    /// Lines that must be records.
    pub records: u64,
    /// The last time that a comment in it tells, in seconds of Unix time.
    pub time_s: Option<u64>,
    /// What closes it.
    pub seal: Option<Seal>,
    /// What its seal must say.
    checksum: u32,
    /// No seal before it ended the file's base.
    in_base: bool,
    /// Its last line has a line end.
    terminated: bool,
    /// A header among its lines: line and offset.
    second_header: Option<(u64, u64)>,
    /// The durable mark of a seal that stands at the end of a broken line.
    glued_mark: u64,
}

impl Batch {
    /// The seal, if it vouches for the lines.
    pub fn good_seal(&self) -> Option<&Seal> {
        self.seal.as_ref().filter(|seal| {
            seal.checksum == self.checksum
                && seal.records == self.records
                && (seal.durable < seal.number || self.in_base && seal.ends_base())
        })
    }

    /// How it differs from what its seal says; `expected` is the number it must have.
    pub fn mismatch(&self, expected: u64) -> Option<Mismatch> {
        self.seal.map(|seal| Mismatch {
            seal,
            expected,
            records: self.records,
            checksum: self.checksum,
            first_line: self.line,
            last_line: self.last_line,
        })
    }
}

/// A file's batches, good and bad.
pub struct Batches<R> {
    lines: Lines<R>,
    /// The file's first line.
    pub header: Header,
    /// No good seal so far ended the base.
    in_base: bool,
    /// Nor any other.
    has_no_end: bool,
}

/// What a file begins as.
pub enum Beginning<R> {
    /// No byte.
    Empty,
    /// No header.
    Handwritten,
    /// A header, and batches.
    Sealed(Batches<R>),
}

impl<R: Read> Batches<R> {
    /// Reads the header of `source`; a damaged one refuses.
    pub fn begin(source: R) -> Result<Beginning<R>, ScanError> {
        let mut lines = Lines::new(source);
        let Some(first) = lines.next(|_| {})? else { return Ok(Beginning::Empty) };
        match header(&first) {
            Ok(None) => Ok(Beginning::Handwritten),
            Ok(Some(header)) => {
                let (in_base, has_no_end) = (header.has_base(), header.has_base());
                Ok(Beginning::Sealed(Self { lines, header, in_base, has_no_end }))
            }
            Err(cause) => Err(refuse(1, 0, cause)),
        }
    }

    /// Where the next batch begins, in bytes.
    pub fn offset(&self) -> u64 {
        self.lines.offset
    }

    /// The number of the next batch's first line.
    pub fn next_line(&self) -> u64 {
        self.lines.number + 1
    }

    /// Whether no seal so far, good or not, says that it ends the file's base.
    pub fn has_no_base_end(&self) -> bool {
        self.has_no_end
    }

    /// Reads the next batch.
    pub fn read(&mut self) -> io::Result<Option<Batch>> {
        let (line, offset) = (self.lines.number + 1, self.lines.offset);
        let mut batch = Batch {
            line,
            offset,
            last_line: 0,
            body_end: offset,
            end: offset,
            records: 0,
            time_s: None,
            seal: None,
            checksum: 0,
            in_base: self.in_base,
            terminated: true,
            second_header: None,
            glued_mark: 0,
        };
        let mut sum = Checksum::new(self.header.id);
        while let Some(line) = self.lines.next(|bytes| sum.update(bytes))? {
            (batch.last_line, batch.terminated) = (line.number, line.terminated);
            batch.end = line.offset + line.length;
            if line.whole
                && let Some(seal) = Seal::parse(line.text())
            {
                batch.checksum = sum.finish(&seal);
                batch.seal = Some(seal);
                let good = batch.good_seal();
                self.in_base &= !good.is_some_and(Seal::ends_base);
                if line.terminated || good.is_some() {
                    self.has_no_end &= !seal.ends_base();
                    return Ok(Some(batch));
                }
                // The last digits of its mark may be missing: cut off, not changed.
                batch.seal = None;
            }
            if line.whole {
                sum.update(line.head);
            }
            batch.body_end = batch.end;
            batch.take(&line);
        }
        Ok((batch.end > batch.offset).then_some(batch))
    }
}

impl Batch {
    /// A line that is not its seal.
    fn take(&mut self, line: &Line<'_>) {
        self.records += u64::from(line.is_record());
        self.time_s = time_s(line.text()).or(self.time_s);
        if line.head.starts_with(HEADER_START.as_bytes()) {
            self.second_header = self.second_header.or(Some((line.number, line.offset)));
        }
        // A broken line end glues a seal to the seal before, or to a hole. No client can write
        // either: a record does not begin with `#`, and holds no raw control character.
        let ending = line.ending();
        if let Some(at) = memchr::memmem::rfind(ending, SEAL_START.as_bytes())
            && (line.head.starts_with(SEAL_START.as_bytes())
                || at > 0 && !crate::text::is_text_byte(ending[at - 1]))
            && let Some(seal) = Seal::parse(&ending[at..])
        {
            self.glued_mark = self.glued_mark.max(seal.claimed(self.in_base));
        }
    }
}

/// The first batch that is not as expected, and what follows it.
struct Fault {
    batch: Batch,
    /// The highest durable mark that any seal from here on claims.
    claimed: u64,
    /// Number of the last valid seal so far.
    seen: u64,
    /// Records from here on.
    records: u64,
    /// The first header from here on: line and offset.
    second_header: Option<(u64, u64)>,
    /// The first batch from here on that was there before: line, offset and number.
    repeated: Option<(u64, u64, u64)>,
}

struct Scan {
    good: Sealed,
    fault: Option<Fault>,
    /// The good batches do not reach to the end of the base.
    in_base: bool,
}

impl Scan {
    fn new(header: &Header, header_bytes: u64) -> Self {
        let good = Sealed {
            id: header.id,
            last: 0,
            last_with_records: 0,
            durable: 0,
            end: header_bytes,
            unterminated: false,
            last_start: header_bytes,
            milestones: vec![(0, header_bytes)],
        };
        Self { good, fault: None, in_base: header.has_base() }
    }

    /// Counts the next batch to the good ones, or to the fault.
    fn judge(&mut self, batch: Batch) -> Result<(), ScanError> {
        let expected = self.good.last + 1;
        let Some(seal) = batch.seal else {
            self.set_aside(batch);
            return Ok(());
        };
        let good = batch.good_seal().is_some();
        let refuse_here = |cause| Err(refuse(batch.line, batch.offset, cause));
        if good && self.fault.is_none() && seal.number > expected {
            return refuse_here(Cause::Missing { found: seal.number, expected });
        }
        let seen = self.fault.as_ref().map_or(self.good.last, |fault| fault.seen);
        let repeated = seal.number <= self.good.last || good && seal.number <= seen;
        if repeated && self.fault.is_none() {
            return refuse_here(Cause::Repeated { found: seal.number, expected });
        }
        if good && self.fault.is_none() {
            self.good.take(&seal, &batch);
            self.in_base &= !seal.ends_base();
            return Ok(());
        }
        let (place, claimed) = ((batch.line, batch.offset), seal.claimed(batch.in_base));
        let fault = self.set_aside(batch);
        fault.claimed = fault.claimed.max(claimed);
        if repeated {
            fault.repeated = fault.repeated.or(Some((place.0, place.1, seal.number)));
        } else if good {
            fault.seen = seal.number;
        }
        Ok(())
    }

    /// Counts a batch to the fault, of which it may be the first.
    fn set_aside(&mut self, batch: Batch) -> &mut Fault {
        let Batch { records, second_header, glued_mark, .. } = batch;
        let fault = self.fault.get_or_insert(Fault {
            batch,
            claimed: 0,
            seen: self.good.last,
            records: 0,
            second_header: None,
            repeated: None,
        });
        fault.records += records;
        fault.claimed = fault.claimed.max(glued_mark);
        fault.second_header = fault.second_header.or(second_header);
        fault
    }
}

impl Sealed {
    fn take(&mut self, seal: &Seal, batch: &Batch) {
        const MILESTONE_BYTES: u64 = 1 << 20;
        self.last = seal.number;
        self.durable = self.durable.max(seal.durable);
        (self.last_start, self.end) = (batch.offset, batch.end);
        self.unterminated = !batch.terminated;
        if seal.records > 0 {
            self.last_with_records = seal.number;
        }
        if self.milestones.last().is_none_or(|(_, end)| batch.end >= end + MILESTONE_BYTES) {
            self.milestones.push((seal.number, batch.end));
        }
    }

    /// Where the batches begin that no mark covers, or a little before.
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

/// The verdict on a file with a fault: one row of the table in `docs/format.md`.
fn judge(
    file: &dyn DiskFile,
    sealed: Sealed,
    fault: Fault,
    in_base: bool,
    length: u64,
) -> Result<Verdict, ScanError> {
    let batch = fault.batch;
    let number = sealed.last + 1;
    let mismatch = batch.mismatch(number);
    let durable = sealed.durable.max(fault.claimed);
    let malformed = first_malformed(file, batch.offset..batch.body_end)?;
    let (line, offset) = match &malformed {
        Some(refusal) => (refusal.line + batch.line - 1, refusal.offset),
        None => (batch.line, batch.offset),
    };
    // A cut may go through a line: then that one alone is malformed.
    let is_cut = batch.seal.is_none()
        && (malformed.is_none() || line == batch.last_line && !batch.terminated);
    let detail = match (&malformed, &mismatch) {
        (Some(refusal), _) => refusal.cause.to_string(),
        (None, Some(mismatch)) => mismatch.to_string(),
        (None, None) => format!("batch {number} has no seal"),
    };
    if number <= durable {
        return Err(refuse(line, offset, Cause::Acknowledged { number, durable, detail }));
    }
    if let Some((line, offset)) = fault.second_header {
        return Err(refuse(line, offset, Cause::SecondHeader));
    }
    // A crash never brings an earlier batch back.
    if let Some((line, offset, found)) = fault.repeated {
        return Err(refuse(line, offset, Cause::Repeated { found, expected: number }));
    }
    // A crash leaves holes and cuts, not lines that differ, whole to the end of the file.
    if let (None, Some(mismatch)) = (malformed, mismatch)
        && first_malformed(file, batch.end..length)?.is_none()
    {
        return Err(refuse(line, offset, Cause::Changed(mismatch)));
    }
    if in_base {
        return Err(match is_cut {
            true => refuse(line, offset, Cause::CutInBase { number }),
            false => refuse(line, offset, Cause::BrokenBase { number, detail }),
        });
    }
    let bytes = length - sealed.end;
    let tail = Tail { line: batch.line, bytes, records: fault.records, cause: detail };
    Ok(Verdict::Torn(sealed, tail))
}

/// The first line in `range` that is no record, comment or blank; lines count from there.
pub fn first_malformed(
    file: &dyn DiskFile,
    range: Range<u64>,
) -> Result<Option<Refusal>, ScanError> {
    match for_each_record(file, range, Source::Sealed, |_| Ok(())) {
        Ok(()) => Ok(None),
        Err(ScanError::Refused(refusal)) => Ok(Some(refusal)),
        Err(error) => Err(error),
    }
}
