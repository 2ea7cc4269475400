//! A whole data file: the scan gives a verdict on any bytes, a torn file cut where its good batches end is whole, and
//! of a sealed file that is damaged no batch is good that was not written.
//!
//! The first byte chooses: the rest is the file as it is, or the lines of its batches, which are sealed here and then
//! damaged in one place.

#![no_main]

use std::io;
use std::ops::Range;

use coffre::journal::disk::{DiskFile, Status};
use coffre::journal::format::{Checksum, FileId, Header, Record, Seal};
use coffre::journal::load::{Source, for_each_record};
use coffre::journal::scan::{ScanError, Verdict, scan};
use libfuzzer_sys::fuzz_target;

/// A file in memory, which is only read.
#[derive(Debug)]
struct Bytes<'a>(&'a [u8]);

impl DiskFile for Bytes<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = &self.0[self.0.len().min(offset as usize)..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
    fn append(&self, _: &[u8]) -> io::Result<()> {
        unreachable!()
    }
    fn rewrite_in_place(&self, _: Range<u64>) -> io::Result<()> {
        unreachable!()
    }
    fn cut(&self, _: u64) -> io::Result<()> {
        unreachable!()
    }
    fn sync_data(&self) -> io::Result<()> {
        unreachable!()
    }
    fn sync_all(&self) -> io::Result<()> {
        unreachable!()
    }
    fn status(&self) -> io::Result<Status> {
        unreachable!()
    }
    fn copy_metadata(&self, _: &Status) -> io::Result<()> {
        unreachable!()
    }
    fn try_lock(&self) -> io::Result<bool> {
        unreachable!()
    }
}

/// The verdict; it must hold for the good part of the file by itself, and for its records.
fn verdict_on(bytes: &[u8]) -> Option<Verdict> {
    let file = Bytes(bytes);
    let verdict = match scan(&file, bytes.len() as u64, &mut |_| {}) {
        Ok(verdict) => verdict,
        Err(ScanError::Refused(refusal)) => {
            assert!(refusal.line >= 1 && refusal.offset <= bytes.len() as u64, "{refusal}");
            return None;
        }
        Err(ScanError::Io(error)) => panic!("{error}"),
    };
    match &verdict {
        Verdict::Empty => assert!(bytes.is_empty()),
        Verdict::Handwritten => {}
        Verdict::Intact(good) => {
            assert_eq!(good.end, bytes.len() as u64);
            assert!(good.durable <= good.last && good.last_with_records <= good.last);
        }
        Verdict::Torn(good, tail) => {
            assert_eq!(good.end + tail.bytes, bytes.len() as u64);
            assert!(tail.bytes > 0 && good.durable <= good.last);
            let start = &bytes[..good.end as usize];
            let again = scan(&Bytes(start), good.end, &mut |_| {});
            assert!(matches!(&again, Ok(Verdict::Intact(same)) if same == good), "{again:?}");
        }
    }
    Some(verdict)
}

/// How many records there are, if all lines are good.
fn records(bytes: &[u8], source: Source) -> Option<u64> {
    let mut count = 0;
    let each = |_: coffre::journal::load::Located<'_>| {
        count += 1;
        Ok(())
    };
    for_each_record(&Bytes(bytes), 0..bytes.len() as u64, source, each).ok()?;
    Some(count)
}

/// A file whose batches hold the given lines, two each, and where each batch ends. The base is the first of them.
fn sealed(lines: &[&[u8]]) -> (Vec<u8>, Vec<usize>) {
    let id = FileId::parse(b"0123456789ab").unwrap();
    let mut bytes = Header::new(id).to_string().into_bytes();
    let mut ends = Vec::new();
    for (index, lines) in lines.chunks(2).enumerate() {
        let number = index as u64 + 1;
        let body: Vec<u8> = lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect();
        let mut checksum = Checksum::new(id);
        checksum.update(&body);
        let durable = if number == 1 { 1 } else { number - 1 };
        let seal = Seal::close(number, lines.len() as u64, durable, checksum);
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(seal.to_string().as_bytes());
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fuzz_target!(|data: &[u8]| {
    let [choice, bytes @ ..] = data else { return };
    if choice % 2 == 0 {
        if let Some(Verdict::Handwritten) = verdict_on(bytes) {
            assert!(records(bytes, Source::Handwritten).is_some());
        }
        return;
    }
    let [place, more, with, bytes @ ..] = bytes else { return };
    let mut words = coffre::text::Words::default();
    let is_record = |line: &&[u8]| Record::parse(line, &mut words).is_ok();
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').filter(is_record).collect();
    let (mut bytes, ends) = sealed(&lines);
    let Some(last) = ends.last() else { return };
    let whole = verdict_on(&bytes);
    assert!(matches!(&whole, Some(Verdict::Intact(good)) if good.last == ends.len() as u64));
    assert_eq!(records(&bytes, Source::Sealed), Some(lines.len() as u64));

    let place = (usize::from(*place) << 8 | usize::from(*more)) % last;
    let before = bytes.clone();
    match choice / 2 % 3 {
        0 => bytes.truncate(place),
        1 => bytes[place] ^= with.max(&1),
        _ => bytes.insert(place, *with),
    }
    match verdict_on(&bytes) {
        Some(Verdict::Intact(good) | Verdict::Torn(good, _)) => {
            // The batches up to there, and each of them as it was written.
            let end = ends[good.last as usize - 1];
            assert_eq!(bytes[..end - 1], before[..end - 1]);
            assert!(good.last >= 1, "the base was durable");
        }
        Some(Verdict::Empty) => assert!(bytes.is_empty()),
        // Its header is gone.
        Some(Verdict::Handwritten) => assert!(!bytes.starts_with(b"# coffre 2 id=")),
        None => {}
    }
});
