//! The data file under every kind of damage, in-process: exact state or refusal, never a third
//! outcome, and a file that is refused stays as it is to the byte.

use std::fs;
use std::path::Path;

use coffre::engine::{Engine, Session};
use coffre::persistence::{Error, Fsync};

use crate::harness::{State, folder, recover};

/// A data file in pieces: its header, then its batches with their seals.
struct Sample {
    header: Vec<u8>,
    batches: Vec<Vec<u8>>,
}

impl Sample {
    /// Batches of all kinds of records, the last of them empty: its mark covers the others.
    fn new() -> Self {
        let (_folder, file) = folder();
        let engine = Engine::start(recover(&file).unwrap(), Fsync::Always).unwrap();
        let mut session = Session::new(&engine);
        let commit = |session: &mut Session<'_>| {
            let mark = session.take_mark();
            session.commit(mark).unwrap();
        };
        session.set(b"ville", "Orléans".as_bytes()).unwrap();
        session.set(b"fleuve", b"Loire").unwrap();
        commit(&mut session);
        session.append(b"ville", b" sur Loire").unwrap();
        commit(&mut session);
        session.set(b"", b"\0\xff\n\"#= 1 1 00000000 0\"").unwrap();
        session.del([&b"fleuve"[..], b"rien"].into_iter()).unwrap();
        commit(&mut session);
        session.flush(true).unwrap();
        commit(&mut session);
        session.set_range(b"trou", 3, b"x").unwrap();
        session.set(b"a", &[b'v'; 300]).unwrap();
        commit(&mut session);
        for number in 0..5 {
            session.append(b"log", format!("{number},").as_bytes()).unwrap();
            commit(&mut session);
        }
        engine.close().unwrap();
        let bytes = fs::read(&file).unwrap();
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let header = lines.next().unwrap().to_vec();
        let mut batches = vec![Vec::new()];
        for line in lines {
            batches.last_mut().unwrap().extend_from_slice(line);
            if line.starts_with(b"#= ") {
                batches.push(Vec::new());
            }
        }
        assert_eq!(batches.pop(), Some(Vec::new()));
        assert_eq!(batches.len(), 11);
        Self { header, batches }
    }

    fn whole(&self) -> Vec<u8> {
        self.of(&(0..self.batches.len()).collect::<Vec<_>>())
    }

    /// A file of these batches, by index.
    fn of(&self, batches: &[usize]) -> Vec<u8> {
        let mut bytes = self.header.clone();
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

fn start(file: &Path) -> Result<Engine, Error> {
    Engine::start(recover(file)?, Fsync::No)
}

fn state(engine: &Engine) -> State {
    crate::harness::state(&mut Session::new(engine))
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
    let sample = Sample::new();
    let (whole, prefixes) = (sample.whole(), sample.prefixes());
    for length in 0..whole.len() {
        let (folder, file) = folder();
        fs::write(&file, &whole[..length]).unwrap();
        let engine = match start(&file) {
            Ok(engine) => engine,
            Err(error) => {
                assert!((1..sample.header.len()).contains(&length), "{length}: {error}");
                assert!(error.to_string().contains("the header is damaged: it is cut short"));
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
        let mut session = Session::new(&engine);
        session.set(b"after", b"1").unwrap();
        let mark = session.take_mark();
        session.commit(mark).unwrap();
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
    let sample = Sample::new();
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
    let sample = Sample::new();
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
    let mut session = Session::new(&engine);
    for number in 0..3 {
        session.set(format!("key:{number}").as_bytes(), b"some value").unwrap();
        let mark = session.take_mark();
        session.commit(mark).unwrap();
    }
    drop(session);
    drop(engine);
    let bytes = fs::read(&file).unwrap();
    assert!(bytes.ends_with(b" 0\n"), "no batch is marked durable: {}", bytes.escape_ascii());
    let second = base.len() + (bytes.len() - base.len()) / 3;
    let holed_file = holed(&bytes, second + 4..second + 12);
    fs::write(&file, &holed_file).unwrap();
    let engine = start(&file).unwrap();
    let keys: Vec<_> = state(&engine).into_keys().collect();
    assert_eq!(keys, [b"key:0".to_vec()]);

    // The same hole below the mark.
    let whole = sample.whole();
    let (start_of_third, _) = prefixes[2];
    let error = load(&holed(&whole, start_of_third + 2..start_of_third + 6)).unwrap_err();
    assert!(error.contains("acknowledged data is damaged: batch 3 is on or below durable mark 10"));
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
    let sample = Sample::new();
    let count = sample.batches.len();
    let all: Vec<_> = (0..count).collect();
    let with = |extra: &[usize]| sample.of(&[&all[..], extra].concat());
    assert_refused(&with(&[count - 1]), &["batch 11 is repeated: batch 12 must follow here"]);
    assert_refused(&with(&all[count - 3..]), &["batch 9 is repeated: batch 12 must follow here"]);
    assert_refused(&with(&all[count / 2..]), &["batch 6 is repeated"]);
    for missing in 0..count - 1 {
        let left: Vec<_> = all.iter().copied().filter(|index| *index != missing).collect();
        let found = missing + 2;
        let expected = format!("batch {} is missing: batch {found} follows here", missing + 1);
        assert_refused(&sample.of(&left), &[&expected]);
        let mut swapped = all.clone();
        swapped.swap(missing, missing + 1);
        assert_refused(&sample.of(&swapped), &[&expected]);
    }
}

#[test]
fn another_files_content_pasted_in_is_refused() {
    let (sample, other) = (Sample::new(), Sample::new());
    let pasted = |batches: &[u8]| [&sample.whole()[..], batches].concat();
    assert_refused(&pasted(&other.whole()), &[]);
    assert_refused(&pasted(&other.header), &["a second header: another file was pasted here"]);
    assert_refused(&pasted(&other.batches[0]), &["batch 1 is repeated"]);
    // Even with the very number that is expected.
    let cut = sample.of(&[0, 1, 2]);
    let foreign = [&cut[..], &other.batches[3]].concat();
    assert_refused(&foreign, &["batch 4 (lines 10 to 12) has checksum"]);
}

#[test]
fn lines_changed_by_hand_are_refused_with_both_checksums_and_a_way_on() {
    let sample = Sample::new();
    let text = String::from_utf8(sample.whole()).unwrap();
    let changed = text.replacen("fleuve Loire", "fleuve Rhin", 1);
    let way_on = ["`coffre repair ", "`coffre seal "];
    assert_refused(
        changed.as_bytes(),
        &["line 2, ", "batch 1 (lines 2 to 4) has checksum", way_on[0], way_on[1]],
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
        &["the file has format 2, this program knows format 1"],
    );
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
    use coffre::persistence::format::{Checksum, Header, Seal};
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
    assert!(header.starts_with("# coffre 1 id="));
    assert!(rest.starts_with(&format!("{text}#= 1 4 ")), "{rest}");
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
    use coffre::persistence::format::{Checksum, Header, Seal};
    let (_folder, file) = folder();
    let engine = start(&file).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let header = Header::parse(text.trim_end().as_bytes()).unwrap();
    let seal = Seal::close(999_999, 0, 999_998, Checksum::new(header.id)).to_string();
    let words: Vec<_> = seal.trim_end().split(' ').map(str::as_bytes).collect();
    let mut session = Session::new(&engine);
    for word in &words {
        session.set(word, b"1").unwrap();
    }
    session.del(words.iter().copied()).unwrap();
    session.set(seal.trim_end().as_bytes(), seal.trim_end().as_bytes()).unwrap();
    let mark = session.take_mark();
    session.commit(mark).unwrap();
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
