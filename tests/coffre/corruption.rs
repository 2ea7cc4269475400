//! The data file under every kind of damage, in-process: exact state or refusal, never a third
//! outcome, and a file that is refused stays as it is to the byte.

use std::fs;
use std::path::Path;

use coffre::engine::local::LocalEngine;
use coffre::journal::{Error, Fsync};

use crate::handle::{Access, Handle};
use crate::harness::{State, folder, recover};

/// A data file in pieces: its header and base, then the batches after it with their seals.
struct Sample {
    head: Vec<u8>,
    batches: Vec<Vec<u8>>,
    /// How many batches the base has.
    base: usize,
}

impl Sample {
    /// Batches of all kinds of records, the last of them empty: its mark covers the others. Before them an
    /// empty base.
    fn new() -> Self {
        let (_folder, file) = folder();
        let engine = LocalEngine::start(recover(&file).unwrap(), Fsync::Always).unwrap();
        let mut session = Handle::new(&engine);
        session.set(b"ville", "Orléans".as_bytes()).unwrap();
        session.set(b"fleuve", b"Loire").unwrap();
        session.commit().unwrap();
        session.append(b"ville", b" sur Loire").unwrap();
        session.commit().unwrap();
        session.set(b"", b"\0\xff\n\"#= 1 1 00000000 0\"").unwrap();
        session.del(&[&b"fleuve"[..], b"rien"]).unwrap();
        session.commit().unwrap();
        session.flush(true).unwrap();
        session.commit().unwrap();
        session.set_range(b"trou", 3, b"x").unwrap();
        session.set(b"a", &[b'v'; 300]).unwrap();
        session.commit().unwrap();
        for number in 0..5 {
            session.append(b"log", format!("{number},").as_bytes()).unwrap();
            session.commit().unwrap();
        }
        engine.close().unwrap();
        let mut batches = pieces(&fs::read(&file).unwrap());
        assert_eq!(batches.len(), 13);
        let head = batches.drain(..2).collect::<Vec<_>>().concat();
        Self { head, batches, base: 1 }
    }

    /// The same as a file of format 1, which has no base.
    fn old() -> Self {
        let sample = Self::new();
        let (head, batches) = as_format_1(&sample.head, &sample.batches);
        Self { head, batches, base: 0 }
    }

    fn each() -> [Self; 2] {
        [Self::new(), Self::old()]
    }

    /// The number that the batch of this index has in the file.
    fn number(&self, index: usize) -> usize {
        self.base + index + 1
    }

    fn whole(&self) -> Vec<u8> {
        self.of(&(0..self.batches.len()).collect::<Vec<_>>())
    }

    /// A file of these batches, by index.
    fn of(&self, batches: &[usize]) -> Vec<u8> {
        let mut bytes = self.head.clone();
        batches.iter().for_each(|index| bytes.extend_from_slice(&self.batches[*index]));
        bytes
    }

    /// For each number of whole batches, where they end and what they hold.
    fn prefixes(&self) -> Vec<(usize, State)> {
        (0..=self.batches.len())
            .map(|count| {
                let bytes = self.of(&(0..count).collect::<Vec<_>>());
                (bytes.len(), load(&bytes).unwrap())
            })
            .collect()
    }
}

/// The header of a file, and its batches.
pub fn pieces(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let mut pieces = vec![lines.next().unwrap().to_vec(), Vec::new()];
    for line in lines {
        pieces.last_mut().unwrap().extend_from_slice(line);
        if line.starts_with(b"#= ") {
            pieces.push(Vec::new());
        }
    }
    assert_eq!(pieces.pop(), Some(Vec::new()));
    pieces
}

/// Header and batches of a file of format 1, which has `batches`; those of format 2 follow a base of one
/// batch.
pub fn as_format_1(head: &[u8], batches: &[Vec<u8>]) -> (Vec<u8>, Vec<Vec<u8>>) {
    use coffre::journal::format::{Checksum, Header, Seal};
    let first = head.split(|byte| *byte == b'\n').next().unwrap();
    let header = Header { version: 1, ..Header::parse(first).unwrap() };
    let sealed = batches.iter().map(|batch| {
        let text = batch.strip_suffix(b"\n").unwrap();
        let seal = text.rsplit(|byte| *byte == b'\n').next().unwrap();
        let body = &batch[..batch.len() - seal.len() - 1];
        let seal = Seal::parse(seal).unwrap();
        let mut checksum = Checksum::new(header.id);
        checksum.update(body);
        let seal = Seal::close(seal.number - 1, seal.records, seal.durable - 1, checksum);
        [body, seal.to_string().as_bytes()].concat()
    });
    (header.to_string().into_bytes(), sealed.collect())
}

fn start(file: &Path) -> Result<LocalEngine, Error> {
    LocalEngine::start(recover(file)?, Fsync::No)
}

fn state(engine: &LocalEngine) -> State {
    crate::harness::state(&mut Handle::new(engine))
}

/// What a server would hold that starts on these bytes, or why it would not; then the file must be
/// as it was.
fn load(bytes: &[u8]) -> Result<State, String> {
    let (folder, file) = folder();
    fs::write(&file, bytes).unwrap();
    match start(&file) {
        Ok(engine) => Ok(state(&engine)),
        Err(error) => {
            assert!(matches!(error, Error::Refused { .. }), "{error}");
            assert_eq!(fs::read(&file).unwrap(), bytes);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
            Err(error.to_string())
        }
    }
}

/// The refusal names a line, an offset, and each of `parts`.
#[track_caller]
fn assert_refused(bytes: &[u8], parts: &[&str]) {
    let error = load(bytes).expect_err("it must be refused");
    for part in ["line ", "offset ", "Nothing was changed."].iter().chain(parts) {
        assert!(error.contains(part), "'{part}' is not in: {error}");
    }
}

#[test]
fn cut_anywhere_it_holds_the_whole_batches_before_the_cut_and_goes_on() {
    for sample in Sample::each() {
        cut_anywhere(&sample);
    }
}

fn cut_anywhere(sample: &Sample) {
    let (whole, prefixes) = (sample.whole(), sample.prefixes());
    let header_length = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for length in 0..whole.len() {
        let (folder, file) = folder();
        fs::write(&file, &whole[..length]).unwrap();
        let engine = match start(&file) {
            Ok(engine) => engine,
            Err(error) => {
                // The last seal of a base is whole without its line end.
                let head_end = sample.head.len() - sample.base;
                assert!((1..head_end).contains(&length), "{length}: {error}");
                let expected = match length < header_length {
                    true => "the header is damaged: it is cut short",
                    false => "the file ends within its base, at batch 1",
                };
                assert!(error.to_string().contains(expected), "{length}: {error}");
                assert_eq!(fs::read(&file).unwrap(), whole[..length]);
                continue;
            }
        };
        // A seal is whole without its line end.
        let good = prefixes.iter().rev().find(|(end, _)| *end <= length + 1 && *end <= whole.len());
        let (end, mut expected) = match good {
            Some((end, state)) if length > 0 => (*end, state.clone()),
            _ => (0, State::new()),
        };
        assert_eq!(state(&engine), expected, "cut at {length}");
        let aside = folder.path().join(format!("donnees.txt.torn-{end}"));
        if length > end {
            assert_eq!(fs::read(&aside).unwrap(), whole[end..length], "cut at {length}");
        } else {
            assert!(!aside.exists(), "cut at {length}");
        }
        // One more write, and two restarts.
        let mut session = Handle::new(&engine);
        session.set(b"after", b"1").unwrap();
        session.commit().unwrap();
        expected.insert(b"after".to_vec(), b"1".to_vec());
        drop(session);
        drop(engine);
        for _ in 0..2 {
            let engine = start(&file).unwrap();
            assert_eq!(state(&engine), expected, "cut at {length}");
            engine.close().unwrap();
        }
    }
}

#[test]
fn with_any_bit_flipped_it_is_exact_or_refused() {
    for sample in Sample::each() {
        flip_any_bit(&sample);
    }
}

fn flip_any_bit(sample: &Sample) {
    let whole = sample.whole();
    let expected = load(&whole).unwrap();
    let (mut exact, mut refused) = (0, 0);
    for index in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[index] ^= 1 << bit;
            match load(&bytes) {
                Ok(found) => {
                    assert_eq!(found, expected, "byte {index}, bit {bit}");
                    exact += 1;
                }
                Err(error) => {
                    assert!(error.contains("line "), "byte {index}, bit {bit}: {error}");
                    refused += 1;
                }
            }
        }
    }
    // Exact: flips in the closing empty batch, which leave a tail without records.
    assert!(exact > 0 && exact < 200 && refused > 0, "{exact} exact, {refused} refused");
}

#[test]
fn a_flip_in_the_last_commit_before_a_crash_is_refused_or_leaves_the_commits_before_it() {
    for sample in Sample::each() {
        flip_after_a_crash(&sample);
    }
}

fn flip_after_a_crash(sample: &Sample) {
    let last = sample.batches.len() - 2;
    let bytes = sample.of(&(0..=last).collect::<Vec<_>>());
    let (start_of_last, before) = sample.prefixes()[last].clone();
    let all = load(&bytes).unwrap();
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1 << bit;
            match load(&flipped) {
                // The honest limit: broken text that no mark covers looks like a crash.
                Ok(found) if index >= start_of_last => assert!(found == before || found == all),
                Ok(found) => assert_eq!(found, all, "byte {index}, bit {bit}"),
                Err(error) => assert!(error.contains("line "), "{error}"),
            }
        }
    }
}

#[test]
fn nul_bytes_after_the_last_record_are_cut() {
    let sample = Sample::new();
    let expected = load(&sample.whole()).unwrap();
    for count in [1, 12, 4096] {
        let bytes = [sample.whole(), vec![0; count]].concat();
        assert_eq!(load(&bytes), Ok(expected.clone()));
    }
}

/// The bytes of `range` become NUL.
fn holed(bytes: &[u8], range: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[range].fill(0);
    bytes
}

#[test]
fn a_hole_above_the_mark_is_a_torn_tail_even_with_good_batches_after_it() {
    let sample = Sample::new();
    let prefixes = sample.prefixes();
    // Batches 9 and 10, of which 9 is holed: under `everysec` no mark would cover either.
    let (_folder, file) = folder();
    let base = sample.of(&[]);
    fs::write(&file, &base).unwrap();
    let engine = start(&file).unwrap();
    let mut session = Handle::new(&engine);
    for number in 0..3 {
        session.set(format!("key:{number}").as_bytes(), b"some value").unwrap();
        session.commit().unwrap();
    }
    drop(session);
    drop(engine);
    let bytes = fs::read(&file).unwrap();
    let mark = format!(" {}\n", sample.base);
    let marked = bytes.ends_with(mark.as_bytes());
    assert!(marked, "no batch of the log is marked durable: {}", bytes.escape_ascii());
    let second = base.len() + (bytes.len() - base.len()) / 3;
    let holed_file = holed(&bytes, second + 4..second + 12);
    fs::write(&file, &holed_file).unwrap();
    let engine = start(&file).unwrap();
    let keys: Vec<_> = state(&engine).keys().cloned().collect();
    assert_eq!(keys, [b"key:0".to_vec()]);

    // The same hole below the mark.
    let whole = sample.whole();
    let (start_of_third, _) = prefixes[2];
    let error = load(&holed(&whole, start_of_third + 2..start_of_third + 6)).unwrap_err();
    assert!(error.contains("acknowledged data is damaged: batch 4 is on or below durable mark 11"));
    assert!(error.contains("byte 0x00 is not text"), "{error}");
}

#[test]
fn half_a_record_of_nul_at_the_end_is_cut() {
    let sample = Sample::new();
    let last = sample.batches.len() - 2;
    let bytes = sample.of(&(0..=last).collect::<Vec<_>>());
    let (start_of_last, before) = sample.prefixes()[last].clone();
    let middle = (start_of_last + bytes.len()) / 2;
    assert_eq!(load(&holed(&bytes, middle..bytes.len())), Ok(before));
}

#[test]
fn repeated_missing_and_swapped_batches_are_refused_by_number() {
    for sample in Sample::each() {
        let count = sample.batches.len();
        let all: Vec<_> = (0..count).collect();
        let with = |extra: &[usize]| sample.of(&[&all[..], extra].concat());
        let repeated = |index: usize| {
            let (found, next) = (sample.number(index), sample.number(count));
            format!("batch {found} is repeated: batch {next} must follow here")
        };
        assert_refused(&with(&[count - 1]), &[&repeated(count - 1)]);
        assert_refused(&with(&all[count - 3..]), &[&repeated(count - 3)]);
        assert_refused(&with(&all[count / 2..]), &[&repeated(count / 2)]);
        for missing in 0..count - 1 {
            let left: Vec<_> = all.iter().copied().filter(|index| *index != missing).collect();
            let (number, found) = (sample.number(missing), sample.number(missing + 1));
            let expected = format!("batch {number} is missing: batch {found} follows here");
            assert_refused(&sample.of(&left), &[&expected]);
            let mut swapped = all.clone();
            swapped.swap(missing, missing + 1);
            assert_refused(&sample.of(&swapped), &[&expected]);
        }
    }
    // The base too.
    let sample = Sample::new();
    let (header, base) = sample.head.split_at(27);
    let without = [header, &sample.batches.concat()].concat();
    assert_refused(&without, &["batch 1 is missing: batch 2 follows here"]);
    let twice = [header, base, base, &sample.batches.concat()].concat();
    assert_refused(&twice, &["batch 1 is repeated: batch 2 must follow here"]);
}

#[test]
fn another_files_content_pasted_in_is_refused() {
    let (sample, other) = (Sample::new(), Sample::new());
    let pasted = |batches: &[u8]| [&sample.whole()[..], batches].concat();
    assert_refused(&pasted(&other.whole()), &[]);
    assert_refused(&pasted(&other.head[..27]), &["a second header: another file was pasted here"]);
    assert_refused(&pasted(&other.batches[0]), &["batch 2 is repeated"]);
    // Even with the very number that is expected.
    let cut = sample.of(&[0, 1, 2]);
    let foreign = [&cut[..], &other.batches[3]].concat();
    assert_refused(&foreign, &["batch 5 (lines 12 to 14) has checksum"]);
}

#[test]
fn lines_changed_by_hand_are_refused_with_both_checksums_and_a_way_on() {
    let sample = Sample::new();
    let text = String::from_utf8(sample.whole()).unwrap();
    let changed = text.replacen("fleuve Loire", "fleuve Rhin", 1);
    let way_on = ["`coffre repair ", "`coffre seal "];
    assert_refused(
        changed.as_bytes(),
        &["line 4, ", "batch 2 (lines 4 to 6) has checksum", way_on[0], way_on[1]],
    );
    // In the last commit, which no mark covers: a crash does not edit.
    let last = sample.batches.len() - 2;
    let text = String::from_utf8(sample.of(&(0..=last).collect::<Vec<_>>())).unwrap();
    assert_refused(text.replace("4,", "5,").as_bytes(), &["has checksum", "its seal says"]);
    let removed = text.replace(text.lines().rev().nth(1).unwrap(), "");
    assert_refused(removed.as_bytes(), &["has 0 records and checksum", "its seal says 1 and"]);
    // The way on works.
    let lines: String = changed
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(load(lines.as_bytes()).unwrap(), load(text.as_bytes()).unwrap());
}

#[test]
fn whole_lines_that_differ_are_a_torn_tail_if_garbage_follows() {
    let sample = Sample::new();
    let last = sample.batches.len() - 2;
    let (_, before) = sample.prefixes()[last].clone();
    let text = String::from_utf8(sample.of(&(0..=last).collect::<Vec<_>>())).unwrap();
    // A sector of garbage at the end may hit just the last digit and look like a whole seal.
    let edited = text.replace("4,", "5,").into_bytes();
    assert_refused(&edited, &["has checksum"]);
    assert_eq!(load(&[&edited[..], b"\xfe\xdc"].concat()), Ok(before));
}

#[test]
fn a_header_with_a_bit_turned_is_no_comment_of_a_hand_written_file() {
    let unsealed = b"# coffre 1 id=7f3a9c2e51d0\nSET a 1\n";
    assert_eq!(load(unsealed), Ok(State::new()));
    for index in 1..26 {
        for bit in 0..8 {
            let mut flipped = unsealed.to_vec();
            flipped[index] ^= 1 << bit;
            match load(&flipped) {
                Ok(found) => assert_eq!(found, State::new(), "byte {index}, bit {bit}"),
                Err(error) => assert!(error.contains("line 1, offset 0"), "{error}"),
            }
        }
    }
}

#[test]
fn empty_files_and_headers() {
    assert_eq!(load(b""), Ok(State::new()));
    let header = b"# coffre 1 id=7f3a9c2e51d0\n";
    assert_eq!(load(header), Ok(State::new()));
    for length in 1..header.len() {
        assert_refused(
            &header[..length],
            &["line 1, offset 0", "the header is damaged: it is cut short"],
        );
    }
    assert_refused(b"# coffre 1 id=7F3A9C2E51D0\n", &["it must read"]);
    assert_refused(
        b"# coffre 2 id=7f3a9c2e51d0\n",
        &["line 2, offset 27", "the file ends within its base, at batch 1"],
    );
    for newer in ["3", "10", "99999999999"] {
        let header = format!("# coffre {newer} id=7f3a9c2e51d0\n");
        let expected = format!("the file has format {newer}, this program knows formats 1 to 2");
        assert_refused(header.as_bytes(), &[&expected]);
    }
    for none in ["0", "-1", "02", "x", ""] {
        let header = format!("# coffre {none} id=7f3a9c2e51d0\n");
        assert_refused(
            header.as_bytes(),
            &["the header is damaged: it must read `# coffre 2 id=`"],
        );
    }
}

#[test]
fn a_last_line_without_its_end_is_kept_and_the_next_begins_a_new_one() {
    let sample = Sample::new();
    let (_folder, file) = folder();
    let mut bytes = sample.whole();
    bytes.pop();
    fs::write(&file, &bytes).unwrap();
    let engine = start(&file).unwrap();
    assert_eq!(fs::read(&file).unwrap(), sample.whole());
    assert_eq!(state(&engine), load(&sample.whole()).unwrap());
    // A hand-written file too.
    assert_eq!(load(b"SET a 1\nSET b 2").unwrap().len(), 2);
}

#[test]
fn foreign_files_are_refused_on_line_1_with_the_reason() {
    let sample = Sample::new();
    let crlf = String::from_utf8(sample.whole()).unwrap().replace('\n', "\r\n");
    assert_refused(crlf.as_bytes(), &["line 1, offset 0", "the line ends in CR LF"]);
    assert_refused(b"SET a 1\r\n", &["line 1, offset 0", "the line ends in CR LF"]);
    assert_refused(b"\xef\xbb\xbfSET a 1\n", &["begins with a byte order mark"]);
    let utf16: Vec<u8> = "SET a 1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_refused(&[b"\xff\xfe".to_vec(), utf16].concat(), &["is UTF-16"]);
    let redis = "redis-cli -p PORT --pipe < ";
    assert_refused(b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n", &["append-only file of Redis", redis]);
    assert_refused(b"#TS:1628217470\r\n*2\r\n", &["append-only file of Redis", redis]);
    assert_refused(
        b"file appendonly.aof.1.base.rdb seq 1 type b\n",
        &["the manifest of an append-only file of Redis", "each part, in order", redis],
    );
    assert_refused(
        b"REDIS0010\xfa\x09redis-ver\x057.0.15",
        &["a snapshot of Redis (RDB)", "--aof-use-rdb-preamble no", redis],
    );
    assert_refused(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &["line 1, offset 0", "not UTF-8"]);
    assert_refused(
        &fs::read(crate::harness::COFFRE).unwrap(),
        &["line 1, offset 0", "byte 0x7f is not text"],
    );
    assert_refused(b"Dear diary,\n", &["unknown record 'Dear'"]);
    assert_refused(&vec![b'A'; 4 << 20], &["line 1, offset 0", "unknown record 'AAAAAAAA"]);
}

#[test]
fn a_record_of_a_newer_version_under_a_good_seal_is_refused_by_name() {
    use coffre::journal::format::{Checksum, Header, Seal};
    let header = Header::parse(b"# coffre 1 id=7f3a9c2e51d0").unwrap();
    let mut checksum = Checksum::new(header.id);
    let body = b"SET a 1\nZADD b 1 c\n";
    checksum.update(body);
    let seal = Seal::close(1, 2, 0, checksum).to_string();
    let bytes = [header.to_string().as_bytes(), body, seal.as_bytes()].concat();
    assert_refused(&bytes, &["line 3, offset 35", "unknown record 'ZADD'"]);
}

#[test]
fn hand_written_files_are_taken_and_sealed_as_they_are() {
    let (_folder, file) = folder();
    let text = "# my towns\nset a \"Orl\u{e9}ans\"\n\nAPPEND a !\nSET b 1\ndel b\n";
    fs::write(&file, text).unwrap();
    let engine = start(&file).unwrap();
    let expected = State::from([(b"a".to_vec(), "Orl\u{e9}ans!".as_bytes().to_vec())]);
    assert_eq!(state(&engine), expected);
    drop(engine);
    let sealed = fs::read_to_string(&file).unwrap();
    let (header, rest) = sealed.split_once('\n').unwrap();
    assert!(header.starts_with("# coffre 2 id="));
    let seals = rest.strip_prefix(text).unwrap();
    let (time, seal) = seals.split_once('\n').unwrap();
    assert!(time.starts_with("# unix time ") && seal.starts_with("#= 1 4 "), "{seals}");
    for _ in 0..2 {
        let engine = start(&file).unwrap();
        assert_eq!(state(&engine), expected);
        engine.close().unwrap();
    }
}

#[test]
fn long_blanks_before_a_command_are_no_comment() {
    let (_folder, file) = folder();
    fs::write(&file, format!("{}SET a 1\n{}\n", " ".repeat(200), " ".repeat(200))).unwrap();
    for _ in 0..2 {
        assert_eq!(state(&start(&file).unwrap()).len(), 1);
    }
}

#[test]
fn a_client_cannot_forge_a_durable_mark() {
    use coffre::journal::format::{Checksum, Header, Seal};
    let (_folder, file) = folder();
    let engine = start(&file).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let header = Header::parse(text.lines().next().unwrap().as_bytes()).unwrap();
    let seal = Seal::close(999_999, 0, 999_998, Checksum::new(header.id)).to_string();
    let words: Vec<_> = seal.trim_end().split(' ').map(str::as_bytes).collect();
    let mut session = Handle::new(&engine);
    for word in &words {
        session.set(word, b"1").unwrap();
    }
    session.del(&words).unwrap();
    session.set(seal.trim_end().as_bytes(), seal.trim_end().as_bytes()).unwrap();
    session.commit().unwrap();
    drop(session);
    drop(engine);
    // A torn tail after it is still one.
    let bytes = fs::read(&file).unwrap();
    assert_eq!(load(&[&bytes[..], b"SET torn"].concat()).unwrap().len(), 1);
}

#[test]
fn a_hole_that_ends_in_the_last_batch_is_damage_by_that_batchs_mark() {
    let sample = Sample::new();
    let last = sample.batches.len() - 2;
    let bytes = sample.of(&(0..=last).collect::<Vec<_>>());
    let prefixes = sample.prefixes();
    let last_seal = bytes.len() - 1 - bytes.rsplit(|byte| *byte == b'\n').nth(1).unwrap().len();
    for first in 0..last {
        // Up to the last batch, and even up to its seal.
        for end in [prefixes[last].0, last_seal] {
            let error = load(&holed(&bytes, prefixes[first].0..end)).unwrap_err();
            assert!(error.contains("acknowledged data is damaged"), "{error}");
        }
    }
}

#[test]
fn the_first_bad_line_of_a_hand_written_file_refuses_it() {
    assert_refused(
        b"SET a 1\n# note\nGET a\nSET\n",
        &["line 3, offset 15", "unknown record 'GET'"],
    );
    assert_refused(b"SET a 1\nSET a\n", &["line 2, offset 8", "wrong number of arguments"]);
    assert_refused(b"SET a \"1\n", &["line 1, offset 0", "unbalanced quotes"]);
    assert_refused(b"SET a \xff\n", &["not UTF-8"]);
    assert_refused(b"SET a 1\n# \x07\n", &["line 2, offset 8", "byte 0x07 is not text"]);
    // Its first line lost, a sealed file is no hand-written one.
    let sample = Sample::new();
    assert_refused(
        &sample.batches.concat(),
        &["a seal or header in a file whose first line is no header"],
    );
}

/// A file with a base of four batches, of which a sync after the second is known, and three batches after
/// it; and where each of its batches ends.
fn based() -> (Vec<u8>, Vec<usize>) {
    use coffre::journal::format::{Checksum, FileId, Header, Seal};
    let header = Header::new(FileId::parse(b"7f3a9c2e51d0").unwrap());
    let mut bytes = header.to_string().into_bytes();
    let mut ends = vec![bytes.len()];
    for (number, durable) in [(1, 0), (2, 0), (3, 2), (4, 4), (5, 4), (6, 4), (7, 6)] {
        let time = if number == 4 { "# unix time 1795561276\n" } else { "" };
        let body = format!("SET key:{number} \"value {number}\"\nAPPEND log {number}\n{time}");
        let mut checksum = Checksum::new(header.id);
        checksum.update(body.as_bytes());
        bytes.extend_from_slice(body.as_bytes());
        let seal = Seal::close(number, 2, durable, checksum);
        bytes.extend_from_slice(seal.to_string().as_bytes());
        ends.push(bytes.len());
    }
    (bytes, ends)
}

#[test]
fn cut_in_its_base_it_is_refused_and_after_it_holds_the_batches_before_the_cut() {
    let (bytes, ends) = based();
    let log = |count: usize| -> Vec<u8> { (1..=count).map(|n| b'0' + n as u8).collect() };
    for length in 1..=bytes.len() {
        // A seal is whole without its line end.
        let whole = ends.iter().rposition(|end| *end <= length + 1).unwrap_or(0);
        let loaded = load(&bytes[..length]);
        if whole >= 4 {
            assert_eq!(loaded.unwrap()[&b"log"[..]], log(whole), "cut at {length}");
            continue;
        }
        let expected = match length < ends[0] {
            true => "the header is damaged: it is cut short".to_owned(),
            false => format!("the file ends within its base, at batch {}", whole + 1),
        };
        let error = loaded.expect_err("a part of the base");
        assert!(error.contains(&expected), "cut at {length}: {error}");
        let way_on = ["copy it again", "`coffre repair ", "Nothing was changed."];
        assert!(length < ends[0] || way_on.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn with_any_bit_flipped_in_a_file_with_a_base_or_in_a_part_of_one_no_other_data_is_loaded() {
    let (bytes, ends) = based();
    // Whole; without its log; and cut within its base.
    for length in [bytes.len(), ends[4], ends[3]] {
        let expected = load(&bytes[..length]);
        for index in 0..length {
            for bit in 0..8 {
                let mut flipped = bytes[..length].to_vec();
                flipped[index] ^= 1 << bit;
                match (load(&flipped), &expected) {
                    (Ok(found), Ok(expected)) if index < ends[6] => assert_eq!(found, *expected),
                    // The honest limit: no mark covers the last batch.
                    (Ok(found), Ok(_)) => assert!(found[&b"log"[..]].starts_with(b"123456")),
                    (Ok(_), Err(error)) => panic!("byte {index}, bit {bit}, though {error}"),
                    (Err(error), _) => assert!(error.contains("line "), "{error}"),
                }
            }
        }
    }
}

#[test]
fn a_broken_base_is_damage_though_no_mark_covers_it() {
    let (bytes, ends) = based();
    // The third batch, which no seal but the base's last covers, in a file that was cut after it.
    let cut = &bytes[..ends[3]];
    let holed_file = holed(cut, ends[2] + 4..ends[2] + 9);
    assert_refused(
        &holed_file,
        &["batch 3 is damaged, and is part of the base", "0x00 is not text"],
    );
    let error = load(&holed(&bytes, ends[2] + 4..ends[2] + 9)).unwrap_err();
    assert!(error.contains("batch 3 is on or below durable mark 6"), "{error}");
    // A seal that vouches for itself is none in a file of format 1, nor after the base.
    let old = String::from_utf8(bytes.clone()).unwrap().replacen("coffre 2", "coffre 1", 1);
    assert_refused(old.as_bytes(), &["carries durable mark 4, which it cannot know"]);
    use coffre::journal::format::{Checksum, FileId, Seal};
    let id = FileId::parse(b"7f3a9c2e51d0").unwrap();
    let seal = Seal::close(8, 0, 8, Checksum::new(id)).to_string();
    let again = [&bytes[..], seal.as_bytes()].concat();
    assert_refused(&again, &["carries durable mark 8, which it cannot know"]);
}

#[test]
fn a_time_at_the_end_of_a_batch_is_not_that_of_the_next_record() {
    use coffre::journal::format::{Checksum, Header, Seal, write_flush, write_time};
    let header = Header::parse(b"# coffre 2 id=7f3a9c2e51d0").unwrap();
    let (mut base, mut flushes) = (Vec::new(), Vec::new());
    write_time(1_795_561_276, &mut base);
    flushes.extend_from_slice(b"FLUSHALL\n");
    write_flush(true, 1_795_561_277, &mut flushes);
    let mut bytes = header.to_string().into_bytes();
    for (number, records, body) in [(1, 0, &base), (2, 2, &flushes)] {
        let mut checksum = Checksum::new(header.id);
        checksum.update(body);
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(Seal::close(number, records, 1, checksum).to_string().as_bytes());
    }
    let (_folder, file) = folder();
    fs::write(&file, &bytes).unwrap();
    let mut times = Vec::new();
    recover(&file)
        .unwrap()
        .load(|found| {
            times.push(found.time_s);
            Ok(())
        })
        .unwrap();
    assert_eq!(times, [None, Some(1_795_561_277)]);
}
