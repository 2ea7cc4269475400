//! The grammar of `donnees.txt`: header, records, seals. `docs/format.md` is its specification; a
//! test here checks that page's worked example byte for byte.
//!
//! Everything in this file is pure: bytes in, meaning out, and back.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::limits::{ARGUMENTS_MAX, DATABASES_MAX, DEL_LINE_BYTES_MAX, VALUE_BYTES_MAX};
use crate::text::{self, SplitError, Words, integer};
use crate::util::memory;
use crate::value::View;

/// How every header begins.
pub const HEADER_START: &str = "# coffre ";
/// How every seal begins.
pub const SEAL_START: &str = "#= ";
/// The format this program writes: a file begins with a base, see [`Seal::ends_base`].
pub const VERSION: u32 = 2;
/// The oldest format it reads: the same without a base.
pub const OLDEST_VERSION: u32 = 1;
/// No seal is longer, in bytes: three numbers of 20 digits, a checksum, blanks.
pub const SEAL_BYTES_MAX: usize = 80;

const ID_DIGITS: usize = 12;

/// The name a file is born with: 48 random bits, as lower-case hexadecimal digits. It is part of
/// every checksum, so that another file's batches are strangers here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId([u8; ID_DIGITS]);

impl FileId {
    /// A new name. The standard library's hash keys are its source of randomness.
    pub fn random() -> Self {
        let number = RandomState::new().build_hasher().finish();
        let mut digits = [0; ID_DIGITS];
        for (index, digit) in digits.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(number >> (4 * index)) as usize & 15];
        }
        Self(digits)
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Parses the digits.
    pub fn parse(digits: &[u8]) -> Option<Self> {
        let digits: [u8; ID_DIGITS] = digits.try_into().ok()?;
        digits.iter().all(is_lower_hex).then_some(Self(digits))
    }
}

fn is_lower_hex(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The first line of a file: format version and file id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format, from [`OLDEST_VERSION`] to [`VERSION`].
    pub version: u32,
    /// The file's name for itself.
    pub id: FileId,
}

impl Header {
    /// The header of a new file.
    pub fn new(id: FileId) -> Self {
        Self { version: VERSION, id }
    }

    /// Parses a header line without its line end.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let rest = line.strip_prefix(HEADER_START.as_bytes())?;
        (OLDEST_VERSION..=VERSION).find_map(|version| {
            let digits = rest.strip_prefix(version.to_string().as_bytes())?;
            let id = FileId::parse(digits.strip_prefix(b" id=")?)?;
            Some(Self { version, id })
        })
    }

    /// Whether the file begins with a base, of which a part is damage.
    pub fn has_base(&self) -> bool {
        self.version > OLDEST_VERSION
    }

    /// Whether a line is a header but for a byte or two: damaged, and not a person's comment.
    pub fn is_almost(line: &[u8]) -> bool {
        (OLDEST_VERSION..=VERSION).any(|version| {
            let model = Self { version, id: FileId([b'0'; ID_DIGITS]) }.to_string();
            let start = &model.as_bytes()[..model.len() - ID_DIGITS - 1];
            let differ = line.iter().zip(start).filter(|(byte, model)| byte != model).count();
            line.len() + 1 == model.len() && differ <= 2
        })
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER_START}{} id={}", self.version, self.id.as_str())
    }
}

/// The line that closes a batch and vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The batch's number: 1 for a file's first, and one more for each that follows.
    pub number: u64,
    /// How many records the batch holds.
    pub records: u64,
    /// CRC-32C, see [`Checksum`].
    pub checksum: u32,
    /// The durable mark: the highest batch known to be fsynced when this seal was written. The seal that
    /// ends the base names its own batch: the file gets its name only after the base was fsynced.
    pub durable: u64,
}

impl Seal {
    /// Parses a seal line without its line end. Each seal has one form only: no sign, no leading
    /// zeros, one space between fields.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.strip_prefix(SEAL_START.as_bytes())?.split(|byte| *byte == b' ');
        let number = |field: &[u8]| u64::try_from(integer(field)?).ok();
        let seal = Self {
            number: number(fields.next()?)?,
            records: number(fields.next()?)?,
            checksum: match fields.next()? {
                digits if digits.len() == 8 && digits.iter().all(is_lower_hex) => {
                    u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?
                }
                _ => return None,
            },
            durable: number(fields.next()?)?,
        };
        fields.next().is_none().then_some(seal)
    }

    /// The durable mark, where it is one: no seal knows its own batch to be durable, but for the one that
    /// ends the base, where `in_base` says that this may be it.
    pub fn claimed(&self, in_base: bool) -> u64 {
        let is_mark = self.durable < self.number || in_base && self.ends_base();
        if is_mark { self.durable } else { 0 }
    }

    /// Whether it vouches for its own batch too, as only the last seal of a base does.
    pub fn ends_base(&self) -> bool {
        self.durable == self.number
    }

    /// The seal of a batch of which `body` has been summed.
    pub fn close(number: u64, records: u64, durable: u64, body: Checksum) -> Self {
        let mut seal = Self { number, records, checksum: 0, durable };
        seal.checksum = body.finish(&seal);
        seal
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, records, checksum, durable } = self;
        writeln!(f, "{SEAL_START}{number} {records} {checksum:08x} {durable}")
    }
}

/// CRC-32C over the file's id, the batch's raw bytes and its seal's three numbers as
/// `number records durable`: no field of a seal can change unnoticed.
#[derive(Clone, Copy, Debug)]
pub struct Checksum(u32);

impl Checksum {
    /// The checksum of an empty batch of the file `id`, so far.
    pub fn new(id: FileId) -> Self {
        Self(crc32c::crc32c(&id.0))
    }

    /// Adds raw bytes of the batch.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, bytes);
    }

    /// The checksum the batch's seal must carry.
    pub fn finish(self, seal: &Seal) -> u32 {
        let fields = format!("{} {} {}", seal.number, seal.records, seal.durable);
        crc32c::crc32c_append(self.0, fields.as_bytes())
    }
}

/// One write, as a line of the file tells it.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// The key holds the value, whatever it held before, until a time in milliseconds of Unix time.
    Set(&'a [u8], &'a [u8], Option<u64>),
    /// The keys are gone.
    Del(Vec<&'a [u8]>),
    /// The bytes go to the end of the value. Only people write this one: it is not idempotent.
    Append(&'a [u8], &'a [u8]),
    /// The bytes overwrite the value from the offset on. A key that does not exist stays so.
    SetRange(&'a [u8], usize, &'a [u8]),
    /// The key, if it exists, expires at a time in milliseconds of Unix time.
    PExpireAt(&'a [u8], u64),
    /// The key, if it exists, does not expire.
    Persist(&'a [u8]),
    /// Every key of every database is gone.
    FlushAll,
    /// Every key of the database is gone.
    FlushDb,
    /// What follows concerns the database of this number, below [`DATABASES_MAX`]; each batch begins and ends in 0.
    Select(usize),
    /// Each of two databases has the keys of the other.
    SwapDb(usize, usize),
}

/// Why a line is no record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A raw control character: no text, or a hole left by a power cut.
    #[error("byte 0x{0:02x} is not text (inside quotes it is written \\x{0:02x})")]
    NotText(u8),
    /// Bytes that are no UTF-8.
    #[error("not UTF-8 (inside quotes other bytes are written \\xHH)")]
    NotUtf8,
    /// A CR before the line end.
    #[error("the line ends in CR LF")]
    CarriageReturn,
    /// Quotes that do not close.
    #[error("unbalanced quotes")]
    Quotes,
    /// More words than a request may have.
    #[error("a line has at most {ARGUMENTS_MAX} words")]
    Words,
    /// A command that is no write, or of a newer version.
    #[error("unknown record '{0}' (known: {known})", known = NAMES.join(", "))]
    Unknown(String),
    /// Too few or too many words.
    #[error("wrong number of arguments for '{0}'")]
    Arity(&'static str),
    /// A time that is none.
    #[error("a time is a number of milliseconds since 1970, after PXAT or PEXPIREAT")]
    Time,
    /// A database that there cannot be.
    #[error("a database is a number below {DATABASES_MAX}")]
    Database,
    /// An offset that is no number, or a key or value longer than they may be.
    #[error("an offset, key or value is out of range: they end at 512 MiB")]
    Range,
}

impl RecordError {
    /// What keeps bytes from being a line of text.
    pub fn of_bytes(line: &[u8]) -> Option<Self> {
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(byte) = text.iter().find(|byte| !text::is_text_byte(**byte)) {
            return Some(Self::NotText(*byte));
        }
        if str::from_utf8(line).is_err() {
            return Some(Self::NotUtf8);
        }
        (text.len() < line.len()).then_some(Self::CarriageReturn)
    }

    /// The first word of `line` is the name of no record.
    pub fn unknown(line: &[u8]) -> Self {
        let name = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty());
        let name = String::from_utf8_lossy(name.unwrap_or_default());
        let name: String = name.chars().take(32).collect();
        Self::Unknown(text::visible(name.as_bytes()))
    }
}

impl<'a> Record<'a> {
    /// Parses a line without its line end; `words` lends its memory.
    pub fn parse(line: &[u8], words: &'a mut Words) -> Result<Self, RecordError> {
        if let Some(error) = RecordError::of_bytes(line) {
            return Err(error);
        }
        // Each word takes more memory than a byte of the line.
        match text::split_up_to(ARGUMENTS_MAX, line, words) {
            Ok(true) => {}
            Ok(false) => return Err(RecordError::Words),
            Err(SplitError::Unbalanced) => return Err(RecordError::Quotes),
            // No fault of the line, which must not be taken for damage.
            Err(SplitError::NoMemory(_)) => memory::refused::<Words>(),
        }
        let record = Self::from_words(words)?;
        match record {
            Self::Select(_) if line.len() > SELECT_BYTES_MAX => Err(RecordError::Database),
            record => Ok(record),
        }
    }

    fn from_words(words: &'a Words) -> Result<Self, RecordError> {
        let is = |name: &str| words[0].eq_ignore_ascii_case(name.as_bytes());
        let fits =
            |end: usize| if end <= VALUE_BYTES_MAX { Ok(()) } else { Err(RecordError::Range) };
        let exactly = |name, count| match words.len() == count {
            true => Ok(()),
            false => Err(RecordError::Arity(name)),
        };
        if words.is_empty() {
            return Err(RecordError::Unknown(String::new()));
        }
        if is("SET") {
            let expires_ms = match words.len() {
                5 if words[3].eq_ignore_ascii_case(b"PXAT") => Some(time_ms(&words[4])?),
                _ => exactly("SET", 3).map(|()| None)?,
            };
            fits(words[1].len())?;
            fits(words[2].len())?;
            return Ok(Self::Set(&words[1], &words[2], expires_ms));
        }
        if is("PEXPIREAT") {
            exactly("PEXPIREAT", 3)?;
            return Ok(Self::PExpireAt(&words[1], time_ms(&words[2])?));
        }
        if is("PERSIST") {
            exactly("PERSIST", 2)?;
            return Ok(Self::Persist(&words[1]));
        }
        if is("DEL") {
            return match words.len() {
                1 => Err(RecordError::Arity("DEL")),
                _ => Ok(Self::Del(words.iter().skip(1).collect())),
            };
        }
        if is("APPEND") {
            exactly("APPEND", 3)?;
            fits(words[2].len())?;
            return Ok(Self::Append(&words[1], &words[2]));
        }
        if is("SETRANGE") {
            exactly("SETRANGE", 4)?;
            let offset = integer(&words[2]).and_then(|offset| usize::try_from(offset).ok());
            let offset = offset.ok_or(RecordError::Range)?;
            fits(offset.saturating_add(words[3].len()))?;
            return Ok(Self::SetRange(&words[1], offset, &words[3]));
        }
        if is("FLUSHALL") {
            exactly("FLUSHALL", 1)?;
            return Ok(Self::FlushAll);
        }
        if is("FLUSHDB") {
            exactly("FLUSHDB", 1)?;
            return Ok(Self::FlushDb);
        }
        if is("SELECT") {
            exactly("SELECT", 2)?;
            return Ok(Self::Select(database(&words[1])?));
        }
        if is("SWAPDB") {
            exactly("SWAPDB", 3)?;
            return Ok(Self::SwapDb(database(&words[1])?, database(&words[2])?));
        }
        Err(RecordError::unknown(&words[0]))
    }

    /// Whether a line begins with the name of a record.
    pub fn is_known(line: &[u8]) -> bool {
        let name = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty());
        let is =
            |known: &&str| name.is_some_and(|name| name.eq_ignore_ascii_case(known.as_bytes()));
        NAMES.iter().any(is)
    }
}

/// The names of all records.
const NAMES: &[&str] = &[
    "SET",
    "DEL",
    "APPEND",
    "SETRANGE",
    "PEXPIREAT",
    "PERSIST",
    "FLUSHALL",
    "FLUSHDB",
    "SELECT",
    "SWAPDB",
];

fn database(word: &[u8]) -> Result<usize, RecordError> {
    let number = integer(word).and_then(|number| usize::try_from(number).ok());
    number.filter(|number| *number < DATABASES_MAX).ok_or(RecordError::Database)
}

/// A time after 1970 in milliseconds.
fn time_ms(word: &[u8]) -> Result<u64, RecordError> {
    let time_ms = integer(word).and_then(|time_ms| u64::try_from(time_ms).ok());
    time_ms.filter(|time_ms| *time_ms > 0).ok_or(RecordError::Time)
}

/// Appends a `SET` record to `out`, with the time at which it expires, if it does.
pub fn write_set(key: &[u8], value: &[u8], expires_ms: Option<u64>, out: &mut Vec<u8>) {
    write_set_start(key, value, out);
    write_set_end(expires_ms, out);
}

/// Appends a `SET` record to `out` but for its end.
pub fn write_set_start(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"SET ");
    text::quote(key, out);
    out.push(b' ');
    text::quote(value, out);
}

/// Appends the end of a `SET` record: the time at which it expires, if it does.
pub fn write_set_end(expires_ms: Option<u64>, out: &mut Vec<u8>) {
    if let Some(time_ms) = expires_ms {
        out.extend_from_slice(format!(" PXAT {time_ms}").as_bytes());
    }
    out.push(b'\n');
}

/// Appends a `PEXPIREAT` record to `out`, or a `PERSIST`.
pub fn write_expiry(key: &[u8], expires_ms: Option<u64>, out: &mut Vec<u8>) {
    match expires_ms {
        Some(_) => out.extend_from_slice(b"PEXPIREAT "),
        None => out.extend_from_slice(b"PERSIST "),
    }
    text::quote(key, out);
    if let Some(time_ms) = expires_ms {
        out.extend_from_slice(format!(" {time_ms}").as_bytes());
    }
    out.push(b'\n');
}

/// About how many bytes a `SET` record of a value takes, but for padding, which is not spelled out.
pub fn set_bytes(key: &[u8], value: View<'_>) -> usize {
    let value: usize = value.written(0..value.len()).map(text::quoted_bytes).sum();
    "SET".len() + " ".len() + text::quoted_bytes(key) + " ".len() + value + 1
}

/// Appends a `SETRANGE` record to `out`.
pub fn write_set_range(key: &[u8], offset: usize, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"SETRANGE ");
    text::quote(key, out);
    out.extend_from_slice(format!(" {offset} ").as_bytes());
    text::quote(value, out);
    out.push(b'\n');
}

/// Appends `DEL` records for `keys` to `out` and returns how many: lines stay short enough to be
/// replayed inline.
pub fn write_del<'a>(keys: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) -> u64 {
    let mut records = 0;
    let mut line_start = out.len();
    for key in keys {
        if records == 0 || out.len() - line_start > DEL_LINE_BYTES_MAX {
            if records > 0 {
                out.push(b'\n');
            }
            line_start = out.len();
            out.extend_from_slice(b"DEL");
            records += 1;
        }
        out.push(b' ');
        text::quote(key, out);
    }
    if records > 0 {
        out.push(b'\n');
    }
    records
}

/// How the comment begins that tells when the record or the seal after it was written, in seconds of
/// Unix time.
pub const TIME_START: &str = "# unix time ";

/// Appends a comment with a time to `out`.
pub fn write_time(unix_time_s: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{TIME_START}{unix_time_s}\n").as_bytes());
}

/// Appends a `FLUSHALL` or `FLUSHDB` record to `out`, and before it a comment with its time: who undoes it by hand
/// must find it, and for how long it can be undone.
pub fn write_flush(all: bool, unix_time_s: u64, out: &mut Vec<u8>) {
    let name = if all { "FLUSHALL" } else { "FLUSHDB" };
    write_time(unix_time_s, out);
    out.extend_from_slice(format!("{name}\n").as_bytes());
}

/// No `SELECT` record is longer, in bytes: who copies lines must know it from its beginning.
pub const SELECT_BYTES_MAX: usize = 64;

/// Appends a `SELECT` record to `out`.
pub fn write_select(database: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("SELECT {database}\n").as_bytes());
}

/// The database that a line selects, if it does.
pub fn selected(line: &[u8]) -> Option<usize> {
    let is_one = line.len() <= SELECT_BYTES_MAX
        && line
            .trim_ascii_start()
            .get(..6)
            .is_some_and(|name| name.eq_ignore_ascii_case(b"SELECT"));
    let mut words = Words::default();
    match is_one.then(|| Record::parse(line, &mut words))? {
        Ok(Record::Select(database)) => Some(database),
        _ => None,
    }
}

/// Appends a `SWAPDB` record to `out`.
pub fn write_swap(one: usize, two: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("SWAPDB {one} {two}\n").as_bytes());
}

/// The time that a comment tells, if it does.
pub fn time_s(comment: &[u8]) -> Option<u64> {
    u64::try_from(integer(comment.strip_prefix(TIME_START.as_bytes())?)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_of_the_specification_is_exact() {
        let page = include_str!("../../docs/format.md");
        let example = page.split("```coffre\n").nth(1).and_then(|rest| rest.split("```").next());
        let header = Header::parse(b"# coffre 2 id=7f3a9c2e51d0").unwrap();

        let mut first = Vec::new();
        write_set(b"ville", "Orléans".as_bytes(), None, &mut first);
        write_set("île".as_bytes(), b"Saint-Denis la Plaine", None, &mut first);
        write_time(1_795_561_276, &mut first);
        let mut second = Vec::new();
        write_set_range(b"ville", 8, b", Loiret", &mut second);
        assert_eq!(write_del([&b"brouillon"[..], b"a b\n\xff"].into_iter(), &mut second), 1);

        let mut file = header.to_string().into_bytes();
        for (number, body, records, durable) in
            [(1, &first, 2, 1), (2, &second, 2, 1), (3, &vec![], 0, 2)]
        {
            let mut checksum = Checksum::new(header.id);
            checksum.update(body);
            file.extend_from_slice(body);
            file.extend_from_slice(
                Seal::close(number, records, durable, checksum).to_string().as_bytes(),
            );
        }
        assert_eq!(String::from_utf8(file).unwrap(), example.unwrap());
    }

    #[test]
    fn a_seal_has_one_form() {
        let seal = Seal { number: 41, records: 2, checksum: 0x0f3a_12bc, durable: 40 };
        assert_eq!(seal.to_string(), "#= 41 2 0f3a12bc 40\n");
        assert_eq!(Seal::parse(b"#= 41 2 0f3a12bc 40"), Some(seal));
        for line in [
            "#= 41 2 0f3a12bc",
            "#= 41 2 0f3a12bc 40 ",
            "#= 41 2 0f3a12bc 40\r",
            "#= 41 2  0f3a12bc 40",
            "#= 041 2 0f3a12bc 40",
            "#= +41 2 0f3a12bc 40",
            "#= -41 2 0f3a12bc 40",
            "#= 41 2 0F3A12BC 40",
            "#= 41 2 f3a12bc 40",
            "#=41 2 0f3a12bc 40",
            "#= 99999999999999999999 2 0f3a12bc 40",
        ] {
            assert_eq!(Seal::parse(line.as_bytes()), None, "{line}");
        }
        let longest = Seal {
            number: i64::MAX as u64,
            records: i64::MAX as u64,
            checksum: 0,
            durable: i64::MAX as u64,
        };
        assert!(longest.to_string().len() <= SEAL_BYTES_MAX);
    }

    #[test]
    fn a_misspelt_header_is_no_comment() {
        assert!(Header::is_almost(b"# coffse 1 id=7f3a9c2e51d0"));
        assert!(Header::is_almost(b"# coffsf 2 id=7f3a9c2e51d0"));
        assert!(!Header::is_almost(b"# my notes on this server."));
        assert!(!Header::is_almost(b"# coffre"));
    }

    #[test]
    fn every_field_of_a_seal_is_summed() {
        let id = FileId::random();
        let body = Checksum::new(id);
        let seal = Seal::close(7, 3, 6, body);
        for other in
            [Seal { number: 8, ..seal }, Seal { records: 4, ..seal }, Seal { durable: 5, ..seal }]
        {
            assert_ne!(body.finish(&other), seal.checksum);
        }
        assert_ne!(Checksum::new(FileId(*b"000000000000")).finish(&seal), seal.checksum);
    }

    #[test]
    fn records_are_write_commands() {
        const TIME: &str = "a time is a number of milliseconds since 1970, after PXAT or PEXPIREAT";
        const RANGE: &str = "an offset, key or value is out of range: they end at 512 MiB";
        let parse = |line: &str| {
            let mut words = Words::default();
            Record::parse(line.as_bytes(), &mut words).map(|record| format!("{record:?}"))
        };
        for line in
            ["set a 1", "DEL a b", "APPEND a ' x'", "SETRANGE a 0 \"\"", "flushall", "\tSET a 1 "]
        {
            assert!(parse(line).is_ok(), "{line}");
        }
        let cases = [
            (
                "GET a",
                "unknown record 'GET' (known: SET, DEL, APPEND, SETRANGE, PEXPIREAT, PERSIST, \
                 FLUSHALL, FLUSHDB, SELECT, SWAPDB)",
            ),
            ("SET a 1 PXAT 0", TIME),
            ("PEXPIREAT a -1", TIME),
            ("SET a 1 EX 5", "wrong number of arguments for 'SET'"),
            ("PERSIST", "wrong number of arguments for 'PERSIST'"),
            ("SET a", "wrong number of arguments for 'SET'"),
            ("DEL", "wrong number of arguments for 'DEL'"),
            ("FLUSHALL ASYNC", "wrong number of arguments for 'FLUSHALL'"),
            ("SELECT 256", "a database is a number below 256"),
            ("SELECT -1", "a database is a number below 256"),
            ("SWAPDB 1 x", "a database is a number below 256"),
            ("SELECT", "wrong number of arguments for 'SELECT'"),
            ("SETRANGE a -1 x", RANGE),
            ("SETRANGE a 536870912 x", RANGE),
            ("SET a \"1", "unbalanced quotes"),
            ("SET a \0", "byte 0x00 is not text (inside quotes it is written \\x00)"),
            ("SET a 1\r", "the line ends in CR LF"),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line).unwrap_err().to_string(), expected);
        }
        let del = |keys: usize| format!("DEL{}", " a".repeat(keys));
        assert!(parse(&del(ARGUMENTS_MAX - 1)).is_ok());
        assert_eq!(parse(&del(ARGUMENTS_MAX)).unwrap_err(), RecordError::Words);
        let padded = format!("SELECT 1{}", " ".repeat(100));
        assert_eq!(parse(&padded).unwrap_err(), RecordError::Database);
        assert_eq!(selected(b" select '3' "), Some(3));
        assert_eq!(selected(b"# SELECT 3"), None);
        let mut words = Words::default();
        assert_eq!(Record::parse(b"SET a \xff", &mut words), Err(RecordError::NotUtf8));
    }

    #[test]
    fn a_long_del_is_written_on_several_lines() {
        let keys: Vec<_> = (0..10_000).map(|number| format!("key:{number}").into_bytes()).collect();
        let mut out = Vec::new();
        let records = write_del(keys.iter().map(Vec::as_slice), &mut out);
        let lines: Vec<_> = out.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').collect();
        assert_eq!(records, lines.len() as u64);
        assert!(records > 1 && lines.iter().all(|line| line.len() < 2 * DEL_LINE_BYTES_MAX));
        let mut found = Vec::new();
        for line in lines {
            let mut words = Words::default();
            let Record::Del(keys) = Record::parse(line, &mut words).unwrap() else { panic!() };
            found.extend(keys.into_iter().map(<[u8]>::to_vec));
        }
        assert_eq!(found, keys);
    }
}
