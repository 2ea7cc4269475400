//! Reads a data file and says what it is: a pure scan and a verdict. Nothing here writes.
//!
//! The scan walks the batches from the first line on. At the first that is not the good one it
//! expects, it goes on to the end of the file only to learn what follows: above all the highest durable
//! mark that any seal claims. Then the verdict, by the table of `docs/format.md`: a broken batch that a
//! mark covers was acknowledged, so it is damage; one above every mark is the torn tail of a crash,
//! unless what is there is not what a crash leaves.
//!
//! After the first bad batch a seal's mark counts even if its own batch is broken too: a crash's tail
//! never claims a mark that high, and no client can write a line that begins with `#= `.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use super::format::{
    Checksum, FileId, HEADER_START, Header, RecordError, SEAL_START, Seal, VERSION,
};
use super::lines::{Line, Lines};
use super::load::{Source, for_each_record};

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
    #[error("the file has format {0}, this program knows format {VERSION}: use a newer coffre")]
    Newer(String),
    /// Text, but not as coffre writes it.
    #[error("the file {0}")]
    Encoding(&'static str),
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

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seal, expected, records, checksum, first_line, last_line } = self;
        write!(f, "batch {expected} (lines {first_line} to {last_line}) ")?;
        if seal.checksum != *checksum {
            write!(f, "has checksum {checksum:08x}, its seal says {:08x}", seal.checksum)
        } else if seal.records != *records {
            write!(f, "has {records} records, its seal says {}", seal.records)
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

fn refuse(line: u64, offset: u64, cause: impl Into<Cause>) -> ScanError {
    ScanError::Refused(Refusal { line, offset, cause: cause.into() })
}

/// Reads all of `file` and gives the verdict.
pub fn scan<F: Read + Seek>(file: &mut F) -> Result<Verdict, ScanError> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut lines = Lines::new(&mut *file, length);
    let Some(first) = lines.next(|_| {})? else { return Ok(Verdict::Empty) };
    let id = match header(&first) {
        Ok(Some(header)) => header.id,
        Ok(None) => {
            for_each_record(file, 0..length, Source::Handwritten, |_| {})?;
            return Ok(Verdict::Handwritten);
        }
        Err(cause) => return Err(refuse(1, 0, cause)),
    };
    let (sealed, fault) = Scan::new(id, first.length).run(&mut lines)?;
    match fault {
        None => Ok(Verdict::Intact(sealed)),
        Some(fault) => judge(file, sealed, fault, length),
    }
}

/// Reads a first line: a good header, none, or a damaged one.
fn header(first: &Line<'_>) -> Result<Option<Header>, Cause> {
    let text = first.text();
    match text {
        [0xef, 0xbb, 0xbf, ..] => {
            return Err(Cause::Encoding("begins with a byte order mark: save it as plain UTF-8"));
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            return Err(Cause::Encoding("is UTF-16: save it as plain UTF-8"));
        }
        _ => {}
    }
    let cut_short = !first.terminated && HEADER_START.as_bytes().starts_with(text);
    if !cut_short && !text.starts_with(HEADER_START.as_bytes()) {
        return Ok(None);
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
    let version = text[HEADER_START.len()..].split(|byte| *byte == b' ').next();
    match version {
        Some(digits @ [_, ..])
            if digits.iter().all(u8::is_ascii_digit) && digits != VERSION.as_bytes() =>
        {
            Err(Cause::Newer(String::from_utf8_lossy(digits).into_owned()))
        }
        _ => Err(Cause::Header(
            "it must read `# coffre 1 id=` and 12 digits 0-9 a-f (no other comment may begin so)",
        )),
    }
}

/// The lines since the last seal.
struct Chunk {
    line: u64,
    offset: u64,
    records: u64,
    checksum: Checksum,
    /// A header among them: line and offset.
    second_header: Option<(u64, u64)>,
    /// The durable mark of a seal that stands at the end of a broken line.
    glued_mark: u64,
}

impl Chunk {
    fn new(id: FileId, line: u64, offset: u64) -> Self {
        let checksum = Checksum::new(id);
        Self { line, offset, records: 0, checksum, second_header: None, glued_mark: 0 }
    }
}

/// The first batch that is not as expected, and what follows it.
struct Fault {
    chunk: Chunk,
    /// Where its lines end and its seal begins.
    end: u64,
    /// Its seal, unless the file ends first, and how the two differ.
    mismatch: Option<Mismatch>,
    /// The highest durable mark that any seal from here on claims.
    claimed: u64,
    /// Number of the last valid seal so far.
    seen: u64,
    /// Records from here on.
    records: u64,
    /// The first header from here on: line and offset.
    second_header: Option<(u64, u64)>,
}

struct Scan {
    good: Sealed,
    chunk: Chunk,
    fault: Option<Fault>,
}

impl Scan {
    fn new(id: FileId, header_bytes: u64) -> Self {
        let good = Sealed {
            id,
            last: 0,
            last_with_records: 0,
            durable: 0,
            end: header_bytes,
            unterminated: false,
        };
        Self { good, chunk: Chunk::new(id, 2, header_bytes), fault: None }
    }

    fn run<R: Read>(mut self, lines: &mut Lines<R>) -> Result<(Sealed, Option<Fault>), ScanError> {
        loop {
            let checksum = &mut self.chunk.checksum;
            let Some(line) = lines.next(|bytes| checksum.update(bytes))? else { break };
            match Seal::parse(line.text()) {
                Some(seal) if line.whole => self.close(&seal, &line)?,
                _ => self.body(&line),
            }
        }
        if lines.offset > self.chunk.offset {
            self.set_aside(None, lines.offset, lines.number + 1);
        }
        Ok((self.good, self.fault))
    }

    /// A line that is no seal.
    fn body(&mut self, line: &Line<'_>) {
        let chunk = &mut self.chunk;
        if line.whole {
            chunk.checksum.update(line.head);
        }
        chunk.records += u64::from(line.is_record());
        if line.head.starts_with(HEADER_START.as_bytes()) {
            chunk.second_header = chunk.second_header.or(Some((line.number, line.offset)));
        }
        // A broken line end glues a seal to the seal before, or to a hole. No client can write
        // either: a record does not begin with `#`, and holds no raw control character.
        let ending = line.ending();
        if let Some(at) = memchr::memmem::rfind(ending, SEAL_START.as_bytes())
            && (line.head.starts_with(SEAL_START.as_bytes())
                || at > 0 && !crate::text::is_text_byte(ending[at - 1]))
            && let Some(seal) = Seal::parse(&ending[at..])
        {
            chunk.glued_mark = chunk.glued_mark.max(seal.claimed());
        }
    }

    /// A seal: judges the chunk it closes and begins the next.
    fn close(&mut self, seal: &Seal, line: &Line<'_>) -> Result<(), ScanError> {
        let expected = self.good.last + 1;
        let mismatch = Mismatch {
            seal: *seal,
            expected,
            records: self.chunk.records,
            checksum: self.chunk.checksum.finish(seal),
            first_line: self.chunk.line,
            last_line: line.number,
        };
        let valid = mismatch.checksum == seal.checksum
            && mismatch.records == seal.records
            && seal.durable < seal.number;
        if !valid && !line.terminated {
            // The last digits of its mark may be missing: cut off, not changed.
            self.body(line);
            return Ok(());
        }
        let refuse_here = |cause| Err(refuse(self.chunk.line, self.chunk.offset, cause));
        if valid && self.fault.is_none() && seal.number > expected {
            return refuse_here(Cause::Missing { found: seal.number, expected });
        }
        // After a fault too: a crash never brings an earlier batch back.
        let seen = self.fault.as_ref().map_or(self.good.last, |fault| fault.seen);
        if seal.number <= self.good.last || valid && seal.number <= seen {
            return refuse_here(Cause::Repeated { found: seal.number, expected });
        }
        if valid && self.fault.is_none() {
            self.good.last = seal.number;
            self.good.durable = self.good.durable.max(seal.durable);
            self.good.end = line.offset + line.length;
            self.good.unterminated = !line.terminated;
            if seal.records > 0 {
                self.good.last_with_records = seal.number;
            }
            self.begin(line.number + 1, self.good.end);
        } else {
            let fault = self.set_aside(Some(mismatch), line.offset, line.number + 1);
            fault.claimed = fault.claimed.max(seal.claimed());
            if valid {
                fault.seen = seal.number;
            }
            self.begin(line.number + 1, line.offset + line.length);
        }
        Ok(())
    }

    /// Counts the chunk, which ends at `end`, to the fault, of which it may be the first.
    fn set_aside(&mut self, mismatch: Option<Mismatch>, end: u64, next_line: u64) -> &mut Fault {
        let chunk = self.begin(next_line, end);
        let Chunk { records, second_header, glued_mark, .. } = chunk;
        let fault = self.fault.get_or_insert(Fault {
            chunk,
            end,
            mismatch,
            claimed: 0,
            seen: self.good.last,
            records: 0,
            second_header: None,
        });
        fault.records += records;
        fault.claimed = fault.claimed.max(glued_mark);
        fault.second_header = fault.second_header.or(second_header);
        fault
    }

    fn begin(&mut self, line: u64, offset: u64) -> Chunk {
        std::mem::replace(&mut self.chunk, Chunk::new(self.good.id, line, offset))
    }
}

/// The verdict on a file with a fault: one row of the table in `docs/format.md`.
fn judge<F: Read + Seek>(
    file: &mut F,
    sealed: Sealed,
    fault: Fault,
    length: u64,
) -> Result<Verdict, ScanError> {
    let Fault { chunk, end, mismatch, .. } = fault;
    let number = sealed.last + 1;
    let durable = sealed.durable.max(fault.claimed);
    let malformed = first_malformed(file, &chunk, end)?;
    let (line, offset) = match &malformed {
        Some(refusal) => (refusal.line, refusal.offset),
        None => (chunk.line, chunk.offset),
    };
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
    // A crash leaves holes and cuts, never whole lines that differ.
    if let (None, Some(mismatch)) = (malformed, mismatch) {
        return Err(refuse(line, offset, Cause::Changed(mismatch)));
    }
    let bytes = length - sealed.end;
    let tail = Tail { line: chunk.line, bytes, records: fault.records, cause: detail };
    Ok(Verdict::Torn(sealed, tail))
}

/// The first line of the chunk that is no record, comment or blank.
fn first_malformed<F: Read + Seek>(
    file: &mut F,
    chunk: &Chunk,
    end: u64,
) -> Result<Option<Refusal>, ScanError> {
    match for_each_record(file, chunk.offset..end, Source::Sealed, |_| {}) {
        Ok(()) => Ok(None),
        Err(ScanError::Refused(mut refusal)) => {
            refusal.line += chunk.line - 1;
            Ok(Some(refusal))
        }
        Err(error) => Err(error),
    }
}
