//! Reads a data file and says what it is: a pure scan and a verdict. Nothing here writes.
//!
//! The scan walks the batches from the first line on. At the first that is not the good one it
//! expects, it goes on to the end of the file only to learn the highest durable mark of any valid
//! seal, and what follows. Then the verdict, by the table of `docs/format.md`: a broken batch that
//! the mark covers was acknowledged, so it is damage; one above the mark is the torn tail of a crash,
//! unless what is there is not what a crash leaves.
//!
//! Memory stays bounded whatever the file holds: only the first bytes of a line are kept, but for
//! lines of hand-written files and of a broken batch, which are parsed.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use super::format::{
    Checksum, FileId, HEADER_START, Header, Record, RecordError, SEAL_BYTES_MAX, SEAL_START, Seal,
    VERSION, is_record_line,
};
use crate::limits::RECORD_BYTES_MAX;
use crate::text::Words;

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
            for_each_record(file, 0..length, |_| {})?;
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
        Some(digits) if digits.iter().all(u8::is_ascii_digit) && digits != VERSION.as_bytes() => {
            Err(Cause::Newer(String::from_utf8_lossy(digits).into_owned()))
        }
        _ => Err(Cause::Header("it must read `# coffre 1 id=` and 12 digits 0-9 a-f")),
    }
}

/// The lines since the last seal.
struct Chunk {
    line: u64,
    offset: u64,
    records: u64,
    checksum: Checksum,
}

/// The first batch that is not as expected.
struct Fault {
    chunk: Chunk,
    /// Where its lines end and its seal begins.
    end: u64,
    /// Its seal, unless the file ends first, and how the two differ.
    mismatch: Option<Mismatch>,
    /// Number of the last valid seal in the tail so far.
    seen: u64,
    /// Records in the tail.
    records: u64,
    /// A header in the tail: line and offset.
    second_header: Option<(u64, u64)>,
}

struct Scan {
    good: Sealed,
    chunk: Chunk,
    fault: Option<Fault>,
    /// A header inside the chunk: line and offset.
    second_header: Option<(u64, u64)>,
}

impl Scan {
    fn new(id: FileId, header_bytes: u64) -> Self {
        let chunk =
            Chunk { line: 2, offset: header_bytes, records: 0, checksum: Checksum::new(id) };
        let good = Sealed {
            id,
            last: 0,
            last_with_records: 0,
            durable: 0,
            end: header_bytes,
            unterminated: false,
        };
        Self { good, chunk, fault: None, second_header: None }
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
        let end = lines.offset;
        if end > self.chunk.offset {
            let line = lines.number + 1;
            self.set_aside(None, end, line);
        }
        Ok((self.good, self.fault))
    }

    /// A line that is no seal.
    fn body(&mut self, line: &Line<'_>) {
        if line.whole {
            self.chunk.checksum.update(line.head);
        }
        self.chunk.records += u64::from(is_record_line(line.head));
        if line.head.starts_with(HEADER_START.as_bytes()) && self.second_header.is_none() {
            self.second_header = Some((line.number, line.offset));
        }
        // A flipped line end glues a seal to the line before. An empty batch's seal vouches for
        // itself wherever it stands, and its mark may be the one that covers the broken line.
        let text = line.text();
        if let Some(at) = memchr::memmem::rfind(text, SEAL_START.as_bytes())
            && let Some(seal) = Seal::parse(&text[at..])
            && self.is_empty_batch(&seal)
        {
            self.good.durable = self.good.durable.max(seal.durable);
        }
    }

    fn is_empty_batch(&self, seal: &Seal) -> bool {
        let checksum = Checksum::new(self.good.id).finish(seal);
        seal.records == 0 && seal.checksum == checksum && seal.durable < seal.number
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
        let whole = mismatch.checksum == seal.checksum
            && mismatch.records == seal.records
            && seal.durable < seal.number;
        let valid = whole || self.is_empty_batch(seal);
        if !valid && !line.terminated {
            // The last digits of its mark may be missing: cut off, not changed.
            self.body(line);
            return Ok(());
        }
        if valid {
            self.good.durable = self.good.durable.max(seal.durable);
        }
        if whole && self.fault.is_none() && seal.number > expected {
            let cause = Cause::Missing { found: seal.number, expected };
            return Err(refuse(self.chunk.line, self.chunk.offset, cause));
        }
        // In the tail too: a crash never brings an earlier batch back.
        let seen = self.fault.as_ref().map_or(self.good.last, |fault| fault.seen);
        if seal.number <= self.good.last || valid && seal.number <= seen {
            let cause = Cause::Repeated { found: seal.number, expected };
            return Err(refuse(self.chunk.line, self.chunk.offset, cause));
        }
        if whole && self.fault.is_none() {
            self.good.last = seal.number;
            self.good.end = line.offset + line.length;
            self.good.unterminated = !line.terminated;
            if seal.records > 0 {
                self.good.last_with_records = seal.number;
            }
        } else {
            self.set_aside(Some(mismatch), line.offset, line.number + 1);
        }
        if let Some(fault) = &mut self.fault
            && valid
        {
            fault.seen = seal.number;
        }
        self.begin(line.number + 1, line.offset + line.length);
        Ok(())
    }

    /// Counts the chunk, which ends at `end`, to the tail, of which it may be the first.
    fn set_aside(&mut self, mismatch: Option<Mismatch>, end: u64, next_line: u64) {
        let chunk = self.begin(next_line, end);
        let second_header = self.second_header.take();
        let records = chunk.records;
        let seen = self.good.last;
        let fault = self.fault.get_or_insert(Fault {
            chunk,
            end,
            mismatch,
            seen,
            records: 0,
            second_header: None,
        });
        fault.records += records;
        fault.second_header = fault.second_header.or(second_header);
    }

    fn begin(&mut self, line: u64, offset: u64) -> Chunk {
        let checksum = Checksum::new(self.good.id);
        std::mem::replace(&mut self.chunk, Chunk { line, offset, records: 0, checksum })
    }
}

/// The verdict on a file with a fault: one row of the table in `docs/format.md`.
fn judge<F: Read + Seek>(
    file: &mut F,
    mut sealed: Sealed,
    fault: Fault,
    length: u64,
) -> Result<Verdict, ScanError> {
    let Fault { chunk, end, mismatch, .. } = fault;
    let number = sealed.last + 1;
    let malformed = first_malformed(file, &chunk, end)?;
    if let (Some(malformed), Some(Mismatch { seal, .. })) = (&malformed, &mismatch)
        && vouches_for_rest(file, sealed.id, seal, malformed.offset..end)?
    {
        sealed.durable = sealed.durable.max(seal.durable);
    }
    let (line, offset) = match &malformed {
        Some(refusal) => (refusal.line, refusal.offset),
        None => (chunk.line, chunk.offset),
    };
    let detail = match (&malformed, &mismatch) {
        (Some(refusal), _) => refusal.cause.to_string(),
        (None, Some(mismatch)) => mismatch.to_string(),
        (None, None) => format!("batch {number} has no seal"),
    };
    if number <= sealed.durable {
        let cause = Cause::Acknowledged { number, durable: sealed.durable, detail };
        return Err(refuse(line, offset, cause));
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

/// Whether the broken line at the start of `range` hid the seal of one batch from the next, which is
/// whole: then the lines after it, or what follows a broken line end inside it, add up to `seal`.
fn vouches_for_rest<F: Read + Seek>(
    file: &mut F,
    id: FileId,
    seal: &Seal,
    range: std::ops::Range<u64>,
) -> io::Result<bool> {
    let sums_up = |file: &mut F, start: u64| -> io::Result<bool> {
        let mut checksum = Checksum::new(id);
        file.seek(SeekFrom::Start(start))?;
        let mut reader = BufReader::with_capacity(READ_BYTES, file.take(range.end - start));
        loop {
            let bytes = reader.fill_buf()?;
            let count = bytes.len();
            if count == 0 {
                return Ok(checksum.finish(seal) == seal.checksum && seal.durable < seal.number);
            }
            checksum.update(bytes);
            reader.consume(count);
        }
    };
    file.seek(SeekFrom::Start(range.start))?;
    let mut lines = Lines::new(file.take(range.end - range.start), range.end);
    let Some(line) = lines.next(|_| {})? else { return Ok(false) };
    let text = line.text();
    let broken = text.iter().position(|byte| !crate::text::is_text_byte(*byte));
    let broken = broken.or(str::from_utf8(text).err().map(|error| error.valid_up_to()));
    let after_line = range.start + line.length;
    if let Some(broken) = broken
        && sums_up(file, range.start + broken as u64 + 1)?
    {
        return Ok(true);
    }
    Ok(after_line < range.end && sums_up(file, after_line)?)
}

/// The first line of the chunk that is no record, comment or blank.
fn first_malformed<F: Read + Seek>(
    file: &mut F,
    chunk: &Chunk,
    end: u64,
) -> Result<Option<Refusal>, ScanError> {
    match for_each_record(file, chunk.offset..end, |_| {}) {
        Ok(()) => Ok(None),
        Err(ScanError::Refused(mut refusal)) => {
            refusal.line += chunk.line - 1;
            Ok(Some(refusal))
        }
        Err(error) => Err(error),
    }
}

/// Parses the lines in `range` of `file` and hands each record to `apply`; the first line that is no
/// record, comment or blank refuses. Line numbers count from the start of the range.
///
/// Comments are taken as they are when the file begins with a header; in a hand-written file a
/// header or a seal is refused.
pub fn for_each_record<F: Read + Seek>(
    file: &mut F,
    range: std::ops::Range<u64>,
    mut apply: impl FnMut(Record<'_>),
) -> Result<(), ScanError> {
    file.seek(SeekFrom::Start(range.start))?;
    let mut reader = BufReader::with_capacity(READ_BYTES, file.take(range.end - range.start));
    let mut progress = Progress::new("loading", range.end);
    let (mut line, mut words) = (Vec::new(), Words::default());
    let (mut number, mut offset, mut sealed) = (0, range.start, range.start > 0);
    loop {
        line.clear();
        let length =
            read_line(&mut reader, &mut line).map_err(|fault| fault.at(number + 1, offset))?;
        if length == 0 {
            return Ok(());
        }
        number += 1;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        sealed |= number == 1 && Header::parse(text).is_some();
        if is_record_line(text) {
            let record = Record::parse(text, &mut words);
            apply(record.map_err(|error| refuse(number, offset, error))?);
        } else if let Some(cause) = comment_fault(text, sealed) {
            return Err(refuse(number, offset, cause));
        }
        offset += length;
        progress.reach(offset);
        // One huge line must not keep its memory to the end.
        line.shrink_to(READ_BYTES);
        words.clear(READ_BYTES);
    }
}

/// What is wrong with a comment or a blank line, if anything.
fn comment_fault(text: &[u8], sealed: bool) -> Option<Cause> {
    let is_seal =
        text.starts_with(SEAL_START.as_bytes()) || text.starts_with(HEADER_START.as_bytes());
    if is_seal && !sealed {
        return Some(Cause::LooseSeal);
    }
    if text.ends_with(b"\r") {
        return Some(RecordError::CarriageReturn.into());
    }
    if let Some(byte) = text.iter().find(|byte| !crate::text::is_text_byte(**byte)) {
        return Some(RecordError::NotText(*byte).into());
    }
    str::from_utf8(text).is_err().then_some(RecordError::NotUtf8.into())
}

/// What reading a line may find.
enum LineFault {
    Io(io::Error),
    Line(RecordError),
}

impl LineFault {
    fn at(self, line: u64, offset: u64) -> ScanError {
        match self {
            Self::Io(error) => error.into(),
            Self::Line(error) => refuse(line, offset, error),
        }
    }
}

/// Reads one line with its end into `line` and returns its length, 0 at the end of the file. A long
/// line must look like a record before the rest of it takes memory.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> Result<u64, LineFault> {
    const HEAD_BYTES: u64 = 64 << 10;
    let read = |reader: &mut dyn BufRead, line: &mut Vec<u8>, most| {
        reader.take(most).read_until(b'\n', line).map_err(LineFault::Io)
    };
    read(reader, line, HEAD_BYTES)?;
    if line.len() as u64 == HEAD_BYTES && !line.ends_with(b"\n") {
        if let Some(byte) = line.iter().find(|byte| !crate::text::is_text_byte(**byte)) {
            return Err(LineFault::Line(RecordError::NotText(*byte)));
        }
        let name = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        let known = [&b"SET"[..], b"DEL", b"APPEND", b"SETRANGE"];
        if !line.starts_with(b"#") && !known.iter().any(|known| name.eq_ignore_ascii_case(known)) {
            let shown = String::from_utf8_lossy(&name[..name.len().min(32)]).into_owned();
            return Err(LineFault::Line(RecordError::Unknown(shown)));
        }
        read(reader, line, RECORD_BYTES_MAX as u64)?;
        if line.len() > RECORD_BYTES_MAX {
            return Err(LineFault::Line(RecordError::Range));
        }
    }
    Ok(line.len() as u64)
}

/// How much is read at once, in bytes.
const READ_BYTES: usize = 256 << 10;

/// A file's lines, of which only the first bytes are kept.
struct Lines<R> {
    reader: BufReader<R>,
    progress: Progress,
    /// Number of the last line read, from 1.
    number: u64,
    /// Where the next line begins.
    offset: u64,
    head: Vec<u8>,
}

/// One line of [`Lines`].
struct Line<'a> {
    number: u64,
    offset: u64,
    /// With its line end.
    length: u64,
    terminated: bool,
    /// Whether `head` is all of it.
    whole: bool,
    head: &'a [u8],
}

impl Line<'_> {
    /// The head without the line end.
    fn text(&self) -> &[u8] {
        self.head.strip_suffix(b"\n").unwrap_or(self.head)
    }
}

impl<R: Read> Lines<R> {
    /// Seals, and headers, are shorter.
    const HEAD_BYTES: usize = 2 * SEAL_BYTES_MAX;

    fn new(source: R, length: u64) -> Self {
        let reader = BufReader::with_capacity(READ_BYTES, source);
        Self {
            reader,
            progress: Progress::new("checking", length),
            number: 0,
            offset: 0,
            head: Vec::new(),
        }
    }

    /// Reads the next line; one that is longer than its head goes to `long`, piece by piece.
    fn next(&mut self, mut long: impl FnMut(&[u8])) -> io::Result<Option<Line<'_>>> {
        let head = &mut self.head;
        head.clear();
        let (mut length, mut whole, mut terminated) = (0, true, false);
        while !terminated {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            let end = memchr::memchr(b'\n', buffer);
            terminated = end.is_some();
            let piece = &buffer[..end.map_or(buffer.len(), |end| end + 1)];
            if whole && head.len() + piece.len() > Self::HEAD_BYTES {
                whole = false;
                long(head);
            }
            if !whole {
                long(piece);
            }
            let room = Self::HEAD_BYTES - head.len();
            head.extend_from_slice(&piece[..piece.len().min(room)]);
            let consumed = piece.len();
            length += consumed as u64;
            self.reader.consume(consumed);
        }
        if length == 0 {
            return Ok(None);
        }
        self.number += 1;
        let offset = self.offset;
        self.offset += length;
        self.progress.reach(self.offset);
        Ok(Some(Line { number: self.number, offset, length, terminated, whole, head }))
    }
}

/// Logs, once a second, how far a long file is read.
struct Progress {
    action: &'static str,
    total: u64,
    started: Instant,
    logged: Instant,
    calls: u32,
}

impl Progress {
    fn new(action: &'static str, total: u64) -> Self {
        let started = Instant::now();
        Self { action, total, started, logged: started, calls: 0 }
    }

    fn reach(&mut self, offset: u64) {
        self.calls = self.calls.wrapping_add(1);
        if !self.calls.is_multiple_of(1024) || self.logged.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.logged = Instant::now();
        let percent = offset * 100 / self.total.max(1);
        let speed = offset as f64 / self.started.elapsed().as_secs_f64() / 1e6;
        log::info!("{} the data file: {percent} % ({speed:.0} MB/s)", self.action);
    }
}
