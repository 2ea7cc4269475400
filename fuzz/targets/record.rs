//! A line of the data file: a record that is read and written again is the same record, and its line is text that a
//! client can send.

#![no_main]

use coffre::journal::format::{self, Record, RecordError};
use coffre::text::{Words, is_text_byte, quote, split};
use libfuzzer_sys::fuzz_target;

/// The line that coffre writes for a record; for `APPEND`, which only people write, theirs.
fn written(record: &Record<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match record {
        Record::Set(key, value, expires_ms) => format::write_set(key, value, *expires_ms, &mut out),
        Record::Del(keys) => {
            // Very many keys go on several lines.
            out.extend_from_slice(b"DEL");
            keys.iter().for_each(|key| {
                out.push(b' ');
                quote(key, &mut out);
            });
            out.push(b'\n');
        }
        Record::Append(key, value) => {
            out.extend_from_slice(b"APPEND ");
            quote(key, &mut out);
            out.push(b' ');
            quote(value, &mut out);
            out.push(b'\n');
        }
        Record::SetRange(key, offset, value) => {
            format::write_set_range(key, *offset, value, &mut out)
        }
        Record::PExpireAt(key, time_ms) => format::write_expiry(key, Some(*time_ms), &mut out),
        Record::Persist(key) => format::write_expiry(key, None, &mut out),
        Record::FlushAll => format::write_flush(true, 1, &mut out),
        Record::FlushDb => format::write_flush(false, 1, &mut out),
        Record::Select(database) => format::write_select(*database, &mut out),
        Record::SwapDb(one, two) => format::write_swap(*one, *two, &mut out),
    }
    out
}

fuzz_target!(|line: &[u8]| {
    // The caller cuts the file at its line ends.
    if line.contains(&b'\n') {
        return;
    }
    let mut words = Words::default();
    let record = match Record::parse(line, &mut words) {
        Ok(record) => record,
        Err(error) => {
            let is_text =
                line.iter().all(|byte| is_text_byte(*byte)) && str::from_utf8(line).is_ok();
            let of_bytes = matches!(error, RecordError::NotText(_) | RecordError::NotUtf8);
            assert!(!(is_text && of_bytes), "{error}");
            return;
        }
    };
    // The caller looks at the name as it stands before it reads a long line.
    let name = line.trim_ascii_start().split(u8::is_ascii_whitespace).next().unwrap_or_default();
    assert!(Record::is_known(line) || name.contains(&b'\'') || name.contains(&b'"'));
    let lines = written(&record);
    let line = lines.strip_suffix(b"\n").unwrap().rsplit(|byte| *byte == b'\n').next().unwrap();
    assert!(line.iter().all(|byte| is_text_byte(*byte)) && str::from_utf8(line).is_ok());
    let mut again = Words::default();
    assert_eq!(Record::parse(line, &mut again).as_ref(), Ok(&record));
    // The words are those of an inline request.
    let mut words = Words::default();
    split(line, &mut words).unwrap();
    assert!(words.iter().eq(again.iter()));
});
