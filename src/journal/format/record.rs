//! Records: one write, as one line of the file. [`Record::parse`] reads a line, the `write_*` functions append one.
//!
//! Invariant: what a `write_*` function appends, `parse` reads back as the same record. Which bytes a word may hold
//! and how it is quoted is [`crate::text`]'s.

use crate::limits::{ARGUMENTS_MAX, DATABASES_MAX, DEL_LINE_BYTES_MAX, VALUE_BYTES_MAX};
use crate::text::{self, SplitError, Words, integer};
use crate::util::memory;
use crate::value::View;

/// How a time comment begins: it tells when the record or the seal after it was written, in seconds of Unix time.
const TIME_START: &str = "# unix time ";

/// A `SELECT` record is at most this long, in bytes, so that a reader that keeps only the start of a line recognises it.
pub const SELECT_BYTES_MAX: usize = 64;

/// The names of all records, the most frequent first.
const NAMES: [&str; 10] = [
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

/// One write, as a line of the file tells it.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// Sets the key to the value, until a time in milliseconds of Unix time.
    Set(&'a [u8], &'a [u8], Option<u64>),
    /// Removes the keys.
    Del(Vec<&'a [u8]>),
    /// Appends to the value. Only people write this record: it is not idempotent.
    Append(&'a [u8], &'a [u8]),
    /// Overwrites the value from the offset on. A key that does not exist is not created.
    SetRange(&'a [u8], usize, &'a [u8]),
    /// Makes the key, if it exists, expire at a time in milliseconds of Unix time.
    PExpireAt(&'a [u8], u64),
    /// Makes the key, if it exists, never expire.
    Persist(&'a [u8]),
    /// Removes every key of every database.
    FlushAll,
    /// Removes every key of the database.
    FlushDb,
    /// Makes the following records concern the database of this number, below [`DATABASES_MAX`]. Each batch begins
    /// and ends in database 0.
    Select(usize),
    /// Exchanges the keys of two databases.
    SwapDb(usize, usize),
}

/// Why a line is not a record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A raw control character: binary data, or a hole left by a power cut.
    #[error("byte 0x{0:02x} is not text (inside quotes it is written \\x{0:02x})")]
    NotText(u8),
    /// Bytes that are not UTF-8.
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
    /// A command that does not write, or one of a newer version.
    #[error("unknown record '{0}' (known: {known})", known = NAMES.join(", "))]
    Unknown(String),
    /// Too few or too many words.
    #[error("wrong number of arguments for '{0}'")]
    Arity(&'static str),
    /// An invalid time.
    #[error("a time is a number of milliseconds since 1970, after PXAT or PEXPIREAT")]
    Time,
    /// An invalid database number.
    #[error("a database is a number below {DATABASES_MAX}")]
    Database,
    /// An invalid offset, or a key or value that is too long.
    #[error("an offset, key or value is out of range: they end at 512 MiB")]
    Range,
}

impl RecordError {
    /// Why `line` is not text, if it is not.
    pub fn of_bytes(line: &[u8]) -> Option<Self> {
        if text::is_plain(line) {
            return None;
        }
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(byte) = text.iter().find(|byte| !text::is_text_byte(**byte)) {
            return Some(Self::NotText(*byte));
        }
        if str::from_utf8(line).is_err() {
            return Some(Self::NotUtf8);
        }
        (text.len() < line.len()).then_some(Self::CarriageReturn)
    }

    /// The first word of `line` does not name a record.
    pub fn unknown(line: &[u8]) -> Self {
        let word: String = String::from_utf8_lossy(first_word(line)).chars().take(32).collect();
        Self::Unknown(text::visible(word.as_bytes()))
    }
}

fn first_word(line: &[u8]) -> &[u8] {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.next().unwrap_or_default()
}

/// The record that `word` names, in any letter case.
fn known_name(word: &[u8]) -> Option<&'static str> {
    NAMES.into_iter().find(|name| word.eq_ignore_ascii_case(name.as_bytes()))
}

impl<'a> Record<'a> {
    /// Parses a line without its line end into `words`, which the record borrows.
    pub fn parse(line: &[u8], words: &'a mut Words) -> Result<Self, RecordError> {
        if let Some(error) = RecordError::of_bytes(line) {
            return Err(error);
        }
        // Without a bound, a word of one byte would take more memory than it takes of the line.
        match text::split_up_to(ARGUMENTS_MAX, line, words) {
            Ok(true) => {}
            Ok(false) => return Err(RecordError::Words),
            Err(SplitError::Unbalanced) => return Err(RecordError::Quotes),
            // No fault of the line, which must not be taken for damage.
            Err(SplitError::NoMemory(_)) => memory::refused::<Words>(),
        }
        match Self::from_words(words)? {
            Self::Select(_) if line.len() > SELECT_BYTES_MAX => Err(RecordError::Database),
            record => Ok(record),
        }
    }

    fn from_words(words: &'a Words) -> Result<Self, RecordError> {
        let word = words.iter().next().unwrap_or_default();
        let name = known_name(word).ok_or_else(|| RecordError::unknown(word))?;
        Ok(match (name, words.len()) {
            ("SET", 3) => Self::Set(bounded(&words[1])?, bounded(&words[2])?, None),
            ("SET", 5) if words[3].eq_ignore_ascii_case(b"PXAT") => {
                let expires_ms = time_ms(&words[4])?;
                Self::Set(bounded(&words[1])?, bounded(&words[2])?, Some(expires_ms))
            }
            ("DEL", 2..) => Self::Del(words.iter().skip(1).collect()),
            ("APPEND", 3) => Self::Append(&words[1], bounded(&words[2])?),
            ("SETRANGE", 4) => {
                let offset = integer(&words[2]).and_then(|offset| usize::try_from(offset).ok());
                let offset = offset.ok_or(RecordError::Range)?;
                if offset.saturating_add(words[3].len()) > VALUE_BYTES_MAX {
                    return Err(RecordError::Range);
                }
                Self::SetRange(&words[1], offset, &words[3])
            }
            ("PEXPIREAT", 3) => Self::PExpireAt(&words[1], time_ms(&words[2])?),
            ("PERSIST", 2) => Self::Persist(&words[1]),
            ("FLUSHALL", 1) => Self::FlushAll,
            ("FLUSHDB", 1) => Self::FlushDb,
            ("SELECT", 2) => Self::Select(database(&words[1])?),
            ("SWAPDB", 3) => Self::SwapDb(database(&words[1])?, database(&words[2])?),
            _ => return Err(RecordError::Arity(name)),
        })
    }

    /// Whether the first word of a line names a record.
    pub fn is_known(line: &[u8]) -> bool {
        known_name(first_word(line)).is_some()
    }

    /// The name of its command.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Set(..) => "SET",
            Self::Del(_) => "DEL",
            Self::Append(..) => "APPEND",
            Self::SetRange(..) => "SETRANGE",
            Self::PExpireAt(..) => "PEXPIREAT",
            Self::Persist(_) => "PERSIST",
            Self::FlushAll => "FLUSHALL",
            Self::FlushDb => "FLUSHDB",
            Self::Select(_) => "SELECT",
            Self::SwapDb(..) => "SWAPDB",
        }
    }
}

/// A key or a value, if it is not too long for one.
fn bounded(word: &[u8]) -> Result<&[u8], RecordError> {
    if word.len() <= VALUE_BYTES_MAX { Ok(word) } else { Err(RecordError::Range) }
}

fn database(word: &[u8]) -> Result<usize, RecordError> {
    let number = integer(word).and_then(|number| usize::try_from(number).ok());
    number.filter(|number| *number < DATABASES_MAX).ok_or(RecordError::Database)
}

/// A time after 1970 in milliseconds.
fn time_ms(word: &[u8]) -> Result<u64, RecordError> {
    let time_ms = integer(word).and_then(|time_ms| u64::try_from(time_ms).ok());
    time_ms.filter(|time_ms| *time_ms > 0).ok_or(RecordError::Time)
}

/// Appends a `SET` record to `out`, with the time at which the key expires, if it does.
pub fn write_set(key: &[u8], value: &[u8], expires_ms: Option<u64>, out: &mut Vec<u8>) {
    write_set_start(key, out);
    text::quote(value, out);
    write_set_end(expires_ms, out);
}

/// Appends a `SET` record to `out` up to its value, which comes next as one word; [`write_set_end`] follows it.
pub fn write_set_start(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"SET ");
    text::quote(key, out);
    out.push(b' ');
}

/// Appends the end of a `SET` record: the time at which the key expires, if it does.
pub fn write_set_end(expires_ms: Option<u64>, out: &mut Vec<u8>) {
    if let Some(time_ms) = expires_ms {
        out.extend_from_slice(format!(" PXAT {time_ms}").as_bytes());
    }
    out.push(b'\n');
}

/// Appends a `PEXPIREAT` record to `out`, or a `PERSIST` record if there is no time.
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

/// About how many bytes a `SET` record takes. Padding of the value does not count, as it is never written in full.
pub fn set_bytes(key: &[u8], value: View<'_>) -> usize {
    let value: usize = value.written(0..value.len()).map(text::quoted_bytes).sum();
    "SET".len() + " ".len() + text::quoted_bytes(key) + " ".len() + value + 1
}

/// Appends a `SETRANGE` record to `out`.
pub fn write_set_range(key: &[u8], offset: usize, value: &[u8], out: &mut Vec<u8>) {
    write_set_range_start(key, offset, out);
    text::quote(value, out);
    write_set_range_end(out);
}

/// Appends a `SETRANGE` record to `out` up to its value, which comes next as one word; [`write_set_range_end`] follows
/// it.
pub fn write_set_range_start(key: &[u8], offset: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"SETRANGE ");
    text::quote(key, out);
    out.extend_from_slice(format!(" {offset} ").as_bytes());
}

/// Appends what follows the value of a `SETRANGE` record.
pub fn write_set_range_end(out: &mut Vec<u8>) {
    out.push(b'\n');
}

/// Appends `DEL` records for `keys` to `out` and returns how many. Each line stays short enough to be replayed
/// inline.
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

/// Appends a time comment to `out`.
pub fn write_time(unix_time_s: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{TIME_START}{unix_time_s}\n").as_bytes());
}

/// Appends a `FLUSHALL` or `FLUSHDB` record to `out` after a time comment, by which a person who undoes the flush
/// finds it, and the compaction knows for how long that is possible.
pub fn write_flush(all: bool, unix_time_s: u64, out: &mut Vec<u8>) {
    let name = if all { "FLUSHALL" } else { "FLUSHDB" };
    write_time(unix_time_s, out);
    out.extend_from_slice(format!("{name}\n").as_bytes());
}

/// Appends a `SELECT` record to `out`.
pub fn write_select(database: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("SELECT {database}\n").as_bytes());
}

/// The database that a line selects, if it is a `SELECT` record.
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

/// The time that a line tells, if it is a time comment.
pub fn time_s(comment: &[u8]) -> Option<u64> {
    u64::try_from(integer(comment.strip_prefix(TIME_START.as_bytes())?)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_is_written_is_read_back() {
        let (key, value) = (&b"a b"[..], &b"\x00\xff\""[..]);
        let mut file = Vec::new();
        write_set(key, value, None, &mut file);
        write_set(key, value, Some(5), &mut file);
        write_set_range(key, 7, value, &mut file);
        write_expiry(key, Some(5), &mut file);
        write_expiry(key, None, &mut file);
        write_del([key, value].into_iter(), &mut file);
        write_flush(true, 9, &mut file);
        write_flush(false, 9, &mut file);
        write_select(3, &mut file);
        write_swap(1, 2, &mut file);
        let mut expected = vec![
            Record::Set(key, value, None),
            Record::Set(key, value, Some(5)),
            Record::SetRange(key, 7, value),
            Record::PExpireAt(key, 5),
            Record::Persist(key),
            Record::Del(vec![key, value]),
            Record::FlushAll,
            Record::FlushDb,
            Record::Select(3),
            Record::SwapDb(1, 2),
        ]
        .into_iter();
        for line in file.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n') {
            if line.starts_with(b"#") {
                assert_eq!(time_s(line), Some(9));
                continue;
            }
            let mut words = Words::default();
            let record = Record::parse(line, &mut words).unwrap();
            assert_eq!(Some(&record), expected.next().as_ref());
            assert!(line.starts_with(record.name().as_bytes()));
        }
        assert_eq!(expected.next(), None);
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
