//! `coffre check`, `repair`, `seal` and `compact`: what they say, what they write, how they end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coffre::journal::format::Seal;
use coffre::text::counted;

use crate::harness::{COFFRE, Reply, Server, State, dump, folder, request, run_to_end, wait_until};

/// Runs a tool in `folder`: exit code, standard output, standard error.
fn coffre(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(COFFRE);
    // A variable of the server's must not get in a tool's way.
    command.args(arguments).current_dir(folder).env("COFFRE_PORT", "1").stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A file of an empty base and eight batches, `SET key:N N` each, cleanly closed: `donnees.txt` in a folder.
/// Line 1 is its header, lines 2 and 3 are the base, key N stands in line 2N + 2.
fn sample() -> (tempfile::TempDir, PathBuf) {
    let (folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    for number in 1..=8 {
        assert_eq!(client.line(&format!("SET key:{number} {number}")), Reply::ok());
    }
    assert!(server.terminate().0.success());
    (folder, file)
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
}

fn write_lines(file: &Path, lines: &[String]) {
    fs::write(file, lines.join("\n") + "\n").unwrap();
}

/// When the base of the file was written, as `check` tells it.
fn time_of_base(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let time = text.lines().find_map(|line| line.strip_prefix("# unix time ")).unwrap();
    jiff::Timestamp::from_second(time.parse().unwrap()).unwrap().to_string()
}

/// What a server finds in the file.
fn load(file: &Path) -> State {
    dump(&mut Server::start(file).client())
}

fn keys(numbers: impl IntoIterator<Item = u32>) -> State {
    let entry = |number: u32| (format!("key:{number}").into(), number.to_string().into());
    numbers.into_iter().map(entry).collect()
}

#[test]
fn check_counts_what_is_whole() {
    let (folder, file) = sample();
    let bytes = fs::read(&file).unwrap();
    let (code, said, _) = coffre(folder.path(), &["check", "donnees.txt"]);
    assert_eq!(code, 0);
    assert!(said.starts_with("donnees.txt: whole\nformat 2, id "), "{said}");
    let counts = format!("8 records (8 SET); 21 lines, {} bytes\n", bytes.len());
    let batches = "; 10 batches, durable mark 9, the base ends at batch 1\n";
    assert!(said.contains(batches) && said.ends_with(&counts), "{said}");
    let base_s = time_of_base(&file);
    // The last batch was written as the server stopped, and tells when.
    let told = said
        .lines()
        .find_map(|line| line.strip_prefix("last seal: batch 10; batch 10 was written at "));
    assert!(told >= Some(base_s.as_str()), "{said}");

    fs::write(folder.path().join("hand"), "# mine\nSET a 1\n\nDEL b\n").unwrap();
    let (code, said, _) = coffre(folder.path(), &["check", "hand"]);
    assert_eq!((code, said.lines().next()), (0, Some("hand: hand-written: a start seals it")));
    assert!(said.contains("2 records (1 DEL, 1 SET)"), "{said}");

    fs::write(folder.path().join("empty"), "").unwrap();
    let (code, said, _) = coffre(folder.path(), &["check", "empty"]);
    assert_eq!((code, said.as_str()), (0, "empty: empty: a start makes it a new data file\n"));
    assert_eq!(fs::read(&file).unwrap(), bytes);
    assert_eq!(coffre(folder.path(), &["check", "nowhere"]).0, 1);
    assert_eq!(coffre(folder.path(), &["check"]).0, 2);
    assert_eq!(coffre(folder.path(), &["check", "donnees.txt", "--until", "3"]).0, 2);
}

#[test]
fn check_tells_a_torn_end_from_damage() {
    let (folder, file) = sample();
    let whole = fs::read(&file).unwrap();
    fs::write(&file, [&whole[..], b"SET half"].concat()).unwrap();
    let (code, said, _) = coffre(folder.path(), &["check", "donnees.txt"]);
    assert_eq!(code, 6);
    let expected = format!("donnees.txt: torn at line 22, offset {}: ", whole.len());
    assert!(said.starts_with(&expected) && said.contains("8 bytes (1 record) follow"), "{said}");

    let mut edited = lines(&file);
    edited[7] = "SET key:3 three".to_owned();
    write_lines(&file, &edited);
    let (code, said, error) = coffre(folder.path(), &["check", "donnees.txt"]);
    assert_eq!(code, 3);
    assert!(said.starts_with("donnees.txt: damaged; before the damage:\n"), "{said}");
    assert!(said.contains("3 batches") && said.contains("2 records (2 SET); 7 lines"), "{said}");
    for part in ["line 8, offset ", "batch 4", "has checksum", "coffre repair", "coffre seal"] {
        assert!(error.contains(part), "'{part}' is not in: {error}");
    }
}

#[test]
fn check_is_right_while_a_server_writes() {
    let (folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for number in 0..30_000 {
                assert_eq!(client.line(&format!("SET key:{} {number}", number % 100)), Reply::ok());
            }
        });
        let mut checks = 0;
        while !writer.is_finished() {
            let (code, said, error) = coffre(folder.path(), &["check", "donnees.txt"]);
            assert_eq!(code, 0, "{said}{error}");
            assert!(said.starts_with("donnees.txt: whole"), "{said}");
            checks += 1;
        }
        assert!(checks > 1);
    });
}

#[test]
fn check_is_right_while_a_server_compacts_all_the_time_and_when_it_ends() {
    let (folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "everysec"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (mut client, stop) = (server.client(), &stop);
            scope.spawn(move || {
                let lines: String = (0..20).map(|n| format!("SET key:{writer}:{n} 1\n")).collect();
                while !stop.load(Ordering::Relaxed) {
                    client.send(lines.as_bytes());
                    (0..20).for_each(|_| assert_eq!(client.reply(), Reply::ok()));
                }
            });
        }
        let (mut client, stop) = (server.client(), &stop);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                client.line("BGREWRITEAOF");
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let checks = (0..40).map(|_| coffre(folder.path(), &["check", "donnees.txt"]));
        let wrong = checks.filter(|(code, ..)| *code != 0).collect::<Vec<_>>();
        stop.store(true, Ordering::Relaxed);
        assert!(wrong.is_empty(), "{wrong:?}");
    });
    assert!(server.terminate().0.success());
    assert!(coffre(folder.path(), &["check", "donnees.txt"]).1.starts_with("donnees.txt: whole\n"));
}

#[test]
fn check_waits_for_what_is_being_written_though_it_cannot_tell_by_whom() {
    let (folder, file) = sample();
    let whole = fs::read(&file).unwrap();
    let cut = whole.len() - 5;
    let open = || fs::OpenOptions::new().append(true).open(&file).unwrap();
    for _ in 0..5 {
        fs::write(&file, &whole[..cut]).unwrap();
        // As a server that ends just after its last batch: the lock is gone once there is something to see.
        let mut writing = open();
        let late = std::thread::spawn({
            let rest = whole[cut..].to_vec();
            move || {
                std::thread::sleep(Duration::from_millis(20));
                std::io::Write::write_all(&mut writing, &rest).unwrap();
            }
        });
        let (code, said, error) = coffre(folder.path(), &["check", "donnees.txt"]);
        late.join().unwrap();
        assert!(code == 0 && said.starts_with("donnees.txt: whole\n"), "{said}{error}");
    }
}

#[test]
fn until_gives_the_data_as_it_was_at_a_line() {
    let (folder, file) = sample();
    for (line, last) in [(1, 0), (3, 0), (4, 1), (5, 1), (12, 5), (21, 8)] {
        let line = line.to_string();
        let new = format!("until-{line}");
        let arguments = ["check", "donnees.txt", "--until", &line, "--output", &new];
        let (code, said, error) = coffre(folder.path(), &arguments);
        assert_eq!(code, 0, "{error}");
        assert!(
            said.contains(&format!(
                "{}, as they were after line {line}",
                counted(last.into(), "key")
            )),
            "{said}"
        );
        assert_eq!(load(&folder.path().join(&new)), keys(1..=last));
        // Never over a file that exists.
        assert_eq!(coffre(folder.path(), &arguments).0, 1);
    }
    for line in ["0", "22"] {
        let arguments = ["check", "donnees.txt", "--until", line, "--output", "new"];
        let (code, _, error) = coffre(folder.path(), &arguments);
        assert!(code == 1 && error.contains("which end at line 21"), "{error}");
    }
    // Before damage too.
    let mut damaged = lines(&file);
    damaged[13] = "???".to_owned();
    write_lines(&file, &damaged);
    let arguments = ["check", "donnees.txt", "--until", "10", "--output", "saved"];
    assert_eq!(coffre(folder.path(), &arguments).0, 0);
    assert_eq!(load(&folder.path().join("saved")), keys(1..=4));
}

#[test]
fn repair_keeps_what_seals_prove_and_lists_the_rest() {
    let whole = {
        let (_folder, file) = sample();
        lines(&file)
    };
    let batch = |key: usize| whole[2 * key + 1..=2 * key + 2].to_vec();
    let of = |numbers: &[usize]| {
        let batches = numbers.iter().flat_map(|key| batch(*key));
        [whole[..3].to_vec(), batches.collect()].concat()
    };
    let mut edited = of(&[1, 2, 3, 4, 5, 6, 7, 8]);
    edited[7] = "SET key:3 three".to_owned();
    let mut foreign = of(&[1, 2, 3]);
    foreign
        .extend(["# coffre 1 id=000000000000", "SET x 1", "#= 1 1 00000000 0"].map(str::to_owned));
    let cases: [(Vec<String>, Vec<u32>, &[&str]); 5] = [
        (edited, vec![1, 2, 4, 5, 6, 7, 8], &["lines 8 to 9", "SET key:3 three", "batch 4"]),
        (of(&[1, 2, 2, 3]), vec![1, 2, 3], &["batch 3 is repeated"]),
        (of(&[1, 3, 2, 4]), vec![1, 2, 3, 4], &["5 batches kept, with 4 records"]),
        (of(&[1, 2, 4]), vec![1, 2, 4], &["missing: batch 4 is nowhere whole"]),
        (foreign, vec![1, 2, 3], &["lines 10 to 12", "SET x 1", "has checksum"]),
    ];
    for (lines, kept, parts) in cases {
        let (folder, file) = folder();
        write_lines(&file, &lines);
        let before = fs::read(&file).unwrap();
        let arguments = ["repair", "donnees.txt", "--output", "new"];
        let (code, said, error) = coffre(folder.path(), &arguments);
        assert_eq!(code, 0, "{error}");
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
        assert_eq!(fs::read(&file).unwrap(), before);
        let new = folder.path().join("new");
        assert!(coffre(folder.path(), &["check", "new"]).1.starts_with("new: whole"));
        assert_eq!(load(&new), keys(kept), "{said}");
        let dropped = said.contains("dropped: ");
        assert_eq!(folder.path().join("new.dropped").exists(), dropped, "{said}");
        assert_eq!(coffre(folder.path(), &arguments).0, 1, "never over a file that exists");
    }
}

#[test]
fn repair_of_a_hand_written_file_drops_the_lines_that_are_no_records() {
    let (folder, file) = folder();
    fs::write(&file, "SET key:1 1\nGET key:1\nSET key:2 2").unwrap();
    let (code, said, _) = coffre(folder.path(), &["repair", "donnees.txt", "--output", "new"]);
    assert_eq!(code, 0);
    assert!(said.contains("dropped: line 2,") && said.contains("unknown record 'GET'"), "{said}");
    assert_eq!(load(&folder.path().join("new")), keys(1..=2));
    assert_eq!(fs::read(folder.path().join("new.dropped")).unwrap(), b"GET key:1\n");
}

#[test]
fn of_garbage_nothing_is_repaired() {
    let (folder, file) = folder();
    for garbage in [
        &b"\x7fELF\0\0\n\xff\xfe"[..],
        b"x\n",
        b"# coffre 1 id=7f3a9c2e51d0\nSET a 1\n#= 1 1 00000000 0\n",
    ] {
        fs::write(&file, garbage).unwrap();
        let (code, _, error) = coffre(folder.path(), &["repair", "donnees.txt", "--output", "new"]);
        assert!(code == 3 && error.contains("nothing in it can be proved"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn without_its_header_nothing_can_be_proved() {
    let (folder, file) = sample();
    let mut damaged = lines(&file);
    damaged[0].replace_range(3..4, "0");
    write_lines(&file, &damaged);
    let (code, _, error) = coffre(folder.path(), &["repair", "donnees.txt", "--output", "new"]);
    assert_eq!(code, 3);
    assert!(
        error.contains("nothing in it can be proved") && error.contains("coffre seal"),
        "{error}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(coffre(folder.path(), &["seal", "donnees.txt"]).0, 0);
    assert_eq!(load(&file), keys(1..=8));
}

#[test]
fn seal_undoes_a_flushall_of_which_the_line_was_deleted() {
    let (folder, file) = sample();
    let server = Server::start(&file);
    assert_eq!(server.client().line("FLUSHALL"), Reply::ok());
    assert!(server.terminate().0.success());
    let edited: Vec<_> = lines(&file).into_iter().filter(|line| line != "FLUSHALL").collect();
    write_lines(&file, &edited);
    let (code, said, _) = coffre(folder.path(), &["seal", "donnees.txt"]);
    assert_eq!(code, 0);
    assert!(said.contains("has 0 records") && said.contains("its seal says 1 "), "{said}");
    assert!(said.ends_with("donnees.txt: sealed, with 8 records\n"), "{said}");
    assert_eq!(load(&file), keys(1..=8));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "itself, and what it was");
}

#[test]
fn seal_shows_and_takes_edits_and_keeps_comments() {
    let (folder, file) = sample();
    let mut edited = lines(&file);
    edited[7] = "SET key:3 three".to_owned();
    edited.push("# added by hand".to_owned());
    edited.push("SET key:9 9".to_owned());
    write_lines(&file, &edited);
    let before = fs::read(&file).unwrap();
    let arguments = ["seal", "donnees.txt", "--output", "new"];
    let (code, said, _) = coffre(folder.path(), &arguments);
    assert_eq!(code, 0);
    let parts = [
        "changed: batch 4 (lines 8 to 9)",
        "    SET key:3 three",
        "new: lines 22 to 23",
        "SET key:9",
    ];
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(coffre(folder.path(), &["seal", "donnees.txt"]).0, 0);
    for file in [file, folder.path().join("new")] {
        assert!(fs::read_to_string(&file).unwrap().contains("\n# added by hand\nSET key:9 9\n"));
        let mut expected = keys(1..=9);
        expected.insert("key:3".into(), "three".into());
        assert_eq!(load(&file), expected);
    }
    let (code, said, _) = coffre(folder.path(), &["seal", "donnees.txt"]);
    assert!(code == 0 && said.contains("there is nothing to accept"), "{said}");
}

#[test]
fn seal_refuses_what_is_no_record_and_what_a_server_holds() {
    let (folder, file) = sample();
    let mut edited = lines(&file);
    edited[7] = "INCR key:3".to_owned();
    write_lines(&file, &edited);
    let before = fs::read(&file).unwrap();
    let (code, _, error) = coffre(folder.path(), &["seal", "donnees.txt"]);
    assert_eq!(code, 3);
    assert!(
        error.contains("line 8, offset ") && error.contains("unknown record 'INCR'"),
        "{error}"
    );
    assert_eq!(fs::read(&file).unwrap(), before);

    let (folder, file) = sample();
    let server = Server::start(&file);
    for tool in ["seal", "compact"] {
        let (code, _, error) = coffre(folder.path(), &[tool, "donnees.txt"]);
        assert_eq!(code, 1);
        assert!(error.contains(&format!("process {} (coffre) holds it", server.pid())), "{error}");
    }
}

#[test]
fn compact_leaves_one_record_per_key_sorted() {
    let (folder, file) = sample();
    let server = Server::start(&file);
    let mut client = server.client();
    for line in ["APPEND key:2 2", "DEL key:5", "SET key:1 one", "SET \"a b\" 1"] {
        client.line(line);
    }
    let expected = dump(&mut client);
    assert!(server.terminate().0.success());
    let (code, said, _) =
        coffre(folder.path(), &["compact", "donnees.txt", "--output", "small.txt"]);
    assert!(code == 0 && said.contains(": 8 keys; "), "{said}");
    assert_eq!(coffre(folder.path(), &["compact", "donnees.txt"]).0, 0);
    for file in [file, folder.path().join("small.txt")] {
        let lines = lines(&file);
        let records: Vec<_> = lines.iter().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(records[..3], ["SET \"a b\" 1", "SET key:1 one", "SET key:2 22"]);
        assert_eq!(records.len(), 8);
        let seal = lines.last().unwrap();
        assert!(
            seal.starts_with("#= 1 8 ") && seal.ends_with(" 1"),
            "it vouches for itself: {seal}"
        );
        assert_eq!(load(&file), expected);
    }
}

#[test]
fn a_large_value_is_written_in_pieces_that_replay_inline() {
    let (folder, file) = folder();
    let server = Server::start(&file);
    let value: Vec<u8> = (0..400_000_u32).map(|number| (number % 251) as u8).collect();
    assert_eq!(server.client().call(&[b"SET", b"big", &value]), Reply::ok());
    assert!(server.terminate().0.success());
    assert!(lines(&file).iter().all(|line| line.len() <= 1 << 20));
    assert_eq!(coffre(folder.path(), &["compact", "donnees.txt"]).0, 0);
    assert!(lines(&file).iter().all(|line| line.len() <= 1 << 20));
    assert_eq!(load(&file), State::from([(b"big".to_vec(), value)]));
}

/// The file at each of its seals: how many bytes there are up to its end, and its number.
fn seals(file: &Path) -> Vec<(usize, u64)> {
    let text = fs::read(file).unwrap();
    let mut end = 0;
    let ends = text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| {
        end += line.len();
        Some((end, Seal::parse(line.strip_suffix(b"\n")?)?.number))
    });
    ends.collect()
}

/// `check` and a start tell a part of this file, which is all base, from a whole one; a start refuses it.
#[track_caller]
fn assert_parts_are_refused(folder: &Path, name: &str) {
    let whole = fs::read(folder.join(name)).unwrap();
    let seals = seals(&folder.join(name));
    let last = seals.last().unwrap().1;
    let (code, said, _) = coffre(folder, &["check", name]);
    assert!(code == 0 && said.contains(&format!(", the base ends at batch {last}\n")), "{said}");
    assert!(
        said.contains(&format!("last seal: batch {last}; batch {last} was written at 20")),
        "{said}"
    );
    assert!(seals.len() > 2);
    // At a seal, and in the middle of a line.
    let cuts =
        seals.iter().rev().skip(1).flat_map(|(end, number)| [(*end, *number), (end + 9, *number)]);
    for (length, number) in cuts.take(6) {
        let part = folder.join("part");
        fs::write(&part, &whole[..length]).unwrap();
        let expected = format!("the file ends within its base, at batch {}", number + 1);
        let (code, said, error) = coffre(folder, &["check", "part"]);
        assert!(
            code == 3 && said.contains(&format!("last seal: batch {number}\n")),
            "{said}{error}"
        );
        assert!(error.contains(&expected) && error.contains("copy it again"), "{error}");
        let (code, said) = run_to_end(&[&"--port", &"0", &"--file", &part]);
        assert!(code == 3 && said.contains(&expected), "{code}: {said}");
        assert_eq!(fs::read(&part).unwrap(), whole[..length]);
        // What can be proved can be kept, and it is said that the rest is not there.
        let _ = fs::remove_file(folder.join("kept"));
        let _ = fs::remove_file(folder.join("kept.dropped"));
        let (code, said, error) = coffre(folder, &["repair", "part", "--output", "kept"]);
        assert_eq!(code, 0, "{error}");
        assert!(said.contains("missing: the end of the base, and whatever followed it"), "{said}");
    }
}

#[test]
fn a_part_of_what_seal_or_compact_wrote_is_refused_and_said_to_be_one() {
    let (folder, file) = folder();
    let value = "v".repeat(1000);
    let lines: String = (0..4000).map(|number| format!("SET key:{number} {value}\n")).collect();
    fs::write(&file, lines).unwrap();
    assert_eq!(coffre(folder.path(), &["seal", "donnees.txt"]).0, 0);
    assert_parts_are_refused(folder.path(), "donnees.txt");
    assert_eq!(coffre(folder.path(), &["compact", "donnees.txt", "--output", "compact"]).0, 0);
    assert_parts_are_refused(folder.path(), "compact");
    let until = ["check", "compact", "--until", "4000", "--output", "until"];
    assert_eq!(coffre(folder.path(), &until).0, 0);
    assert_parts_are_refused(folder.path(), "until");
}

#[test]
fn a_part_of_what_a_servers_compaction_wrote_is_refused() {
    let (folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    for number in 0..4000 {
        let key = format!("key:{number}");
        client.send(&request(&[b"SET", key.as_bytes(), &[b'v'; 1000]]));
    }
    (0..4000).for_each(|_| assert_eq!(client.reply(), Reply::ok()));
    let before = fs::read(&file).unwrap();
    assert!(client.line("BGREWRITEAOF").error_or_status().contains("rewriting started"));
    wait_until("it is compacted", || {
        let text = fs::read(&file).unwrap();
        text[..27] != before[..27]
    });
    server.kill();
    assert_parts_are_refused(folder.path(), "donnees.txt");
}

#[test]
fn a_file_that_is_all_base_is_at_rest_and_its_time_goes_with_its_seal() {
    let (folder, file) = folder();
    fs::write(&file, "SET a 1\n# unix time 1\nFLUSHALL\nSET b 2\n").unwrap();
    assert_eq!(coffre(folder.path(), &["seal", "donnees.txt"]).0, 0);
    let sealed = fs::read(&file).unwrap();
    // No mark is missing: neither a start nor a stop has anything to write.
    assert!(Server::start(&file).terminate().0.success());
    assert_eq!(fs::read(&file).unwrap(), sealed);
    // Sealed once more, only the comments of records stay.
    let mut edited = lines(&file);
    edited.push("FLUSHALL".to_owned());
    write_lines(&file, &edited);
    assert_eq!(coffre(folder.path(), &["seal", "donnees.txt"]).0, 0);
    let again = lines(&file);
    let expected = ["SET a 1", "# unix time 1", "FLUSHALL", "SET b 2", "FLUSHALL"];
    assert_eq!(again[1..6], expected);
    assert!(again[6].starts_with("# unix time 1") && again.len() == 8, "{again:?}");
}

#[test]
fn a_file_of_a_newer_format_is_refused_by_every_tool_and_stays_as_it_is() {
    let (folder, file) = folder();
    // Whatever its lines look like.
    for lines in ["SET a 1\n#= 1 1 00000000 1\n", "", "ZADD a 1 b\n"] {
        let text = format!("# coffre 3 id=7f3a9c2e51d0\n{lines}");
        fs::write(&file, &text).unwrap();
        let output = ["--output", "new"];
        for arguments in [
            vec!["check", "donnees.txt"],
            vec!["seal", "donnees.txt"],
            vec!["compact", "donnees.txt"],
            [&["seal", "donnees.txt"][..], &output].concat(),
            [&["compact", "donnees.txt"][..], &output].concat(),
            [&["repair", "donnees.txt"][..], &output].concat(),
            [&["check", "donnees.txt", "--until", "1"][..], &output].concat(),
        ] {
            let (code, said, error) = coffre(folder.path(), &arguments);
            assert_eq!((code, said.as_str()), (3, ""), "{arguments:?}: {error}");
            let parts = ["line 1, offset 0", "has format 3, this program knows formats 1 to 2"];
            assert!(parts.iter().all(|part| error.contains(part)), "{arguments:?}: {error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text, "{arguments:?}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{arguments:?}");
        }
    }
}

#[test]
fn repair_of_a_healthy_file_says_that_it_is_whole_whatever_it_holds() {
    let (folder, file) = folder();
    let header = "# coffre 1 id=7f3a9c2e51d0\n";
    let (_kept, empty) = self::folder();
    assert!(Server::start(&empty).terminate().0.success());
    let new = fs::read_to_string(&empty).unwrap();
    let (_kept, eight) = sample();
    let eight = fs::read_to_string(&eight).unwrap();
    for (text, kept) in [
        (header, "new: 0 records kept\n"),
        ("# only a comment\n", "new: 0 records kept\n"),
        ("SET a 1\n", "new: 1 record kept\n"),
        (&new, "new: 1 batch kept, with 0 records\n"),
        (&eight, "new: 10 batches kept, with 8 records\n"),
    ] {
        fs::write(&file, text).unwrap();
        let (code, said, error) =
            coffre(folder.path(), &["repair", "donnees.txt", "--output", "new"]);
        assert_eq!(code, 0, "{text}: {error}");
        let expected = format!("donnees.txt: whole: there is nothing to repair\n{kept}");
        assert!(said.starts_with("donnees.txt: whole") && said.contains(kept), "{said}");
        assert_eq!(said.replace(&format!("{}/", folder.path().display()), ""), expected);
        assert_eq!(load(&folder.path().join("new")), load(&file));
        fs::remove_file(folder.path().join("new")).unwrap();
    }
    fs::write(&file, "").unwrap();
    let (code, _, error) = coffre(folder.path(), &["repair", "donnees.txt", "--output", "new"]);
    assert!(code == 3 && error.contains("it is empty: there is nothing to repair"), "{error}");
}

#[test]
fn repair_that_can_keep_no_record_says_what_is_lost() {
    let (folder, file) = folder();
    // Of format 1: an empty batch is all that is whole.
    let old = "# coffre 1 id=7f3a9c2e51d0\nSET a 2\n#= 1 1 628f068d 0\n#= 2 0 ad0b3ec5 1\n";
    // All in one batch.
    let text: String = (0..50).map(|number| format!("SET key:{number} 1\n")).collect();
    fs::write(&file, text).unwrap();
    assert_eq!(coffre(folder.path(), &["seal", "donnees.txt"]).0, 0);
    let sealed = fs::read_to_string(&file).unwrap().replacen("key:7 1", "key:7 2", 1);
    for (text, lost) in
        [(old, "lines 2 to 3, 1 record: batch"), (&sealed, "lines 2 to 53, 50 records: batch 1")]
    {
        fs::write(&file, text).unwrap();
        let names = || fs::read_dir(folder.path()).unwrap().count();
        let before = names();
        let (code, said, error) =
            coffre(folder.path(), &["repair", "donnees.txt", "--output", "new"]);
        assert_eq!((code, said.as_str()), (3, ""), "{error}");
        let expected = format!("of its records none is whole: {lost}");
        assert!(
            error.contains(&expected) && error.contains("`coffre seal donnees.txt`"),
            "{error}"
        );
        assert_eq!(names(), before, "nothing is written");
    }
}

#[test]
fn the_way_on_for_text_of_another_kind_works() {
    let (_sample, whole) = sample();
    let whole = fs::read_to_string(&whole).unwrap();
    let utf16: Vec<u8> =
        "\u{feff}SET key:1 1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let crlf = whole.replace('\n', "\r\n").into_bytes();
    let marked = [b"\xef\xbb\xbf", whole.as_bytes()].concat();
    let cases: [(&[u8], &str, _); 5] = [
        (&crlf, "tr -d '\\r' < donnees.txt > NEW", keys(1..=8)),
        (b"SET key:1 1\r\n", "tr -d '\\r' < donnees.txt > NEW", keys(1..=1)),
        (b"SET key:1 1\nSET key:2 2\r\n", "tr -d '\\r' < donnees.txt > NEW", keys(1..=2)),
        (&marked, "sed '1s/^\\xef\\xbb\\xbf//' donnees.txt > NEW", keys(1..=8)),
        (&utf16, "iconv -f UTF-16 -t UTF-8 donnees.txt > NEW", keys(1..=1)),
    ];
    for (bytes, way_on, expected) in cases {
        let (folder, file) = folder();
        fs::write(&file, bytes).unwrap();
        for tool in ["check", "seal", "compact", "repair"] {
            let output = ["--output", "unused"];
            let more = if tool == "repair" { &output[..] } else { &[] };
            let arguments = [&[tool, "donnees.txt"], more].concat();
            let (code, said, error) = coffre(folder.path(), &arguments);
            assert_eq!((code, said.contains("coffre seal")), (3, false), "{tool}: {error}");
            // A start and `compact` know the path in full.
            let error = error.replace(&format!("{}/", folder.path().display()), "");
            assert!(error.contains(&format!("`{way_on}`")), "{tool}: {error}");
            assert!(!error.contains("coffre seal"), "{tool}: {error}");
        }
        let mut shell = Command::new("sh");
        let done = shell.args(["-c", way_on]).current_dir(folder.path()).status().unwrap();
        assert!(done.success());
        assert_eq!(load(&folder.path().join("NEW")), expected);
    }
}

#[test]
fn seal_keeps_the_file_as_it_was_and_overwrites_none_that_it_kept_before() {
    let (folder, file) = sample();
    let mut kept = Vec::new();
    for (number, name) in ["before-seal", "before-seal-2", "before-seal-3"].iter().enumerate() {
        let mut edited = lines(&file);
        edited.push(format!("SET new:{number} 1"));
        write_lines(&file, &edited);
        let name = format!("donnees.txt.{name}");
        kept.push((folder.path().join(&name), fs::read(&file).unwrap()));
        let (code, said, error) = coffre(folder.path(), &["seal", "donnees.txt"]);
        assert_eq!(code, 0, "{error}");
        assert!(said.contains(&format!("{name}: the file as it was before\n")), "{said}");
        // A server that goes on with the new file leaves the old one alone.
        let server = Server::start(&file);
        assert_eq!(server.client().line("SET more 1"), Reply::ok());
        assert!(server.terminate().0.success());
        for (path, bytes) in &kept {
            assert_eq!(fs::read(path).unwrap(), *bytes, "{}", path.display());
        }
    }
    // Not where nothing is replaced, nor where nothing could be.
    let count = || fs::read_dir(folder.path()).unwrap().count();
    assert_eq!((count(), coffre(folder.path(), &["seal", "donnees.txt"]).0), (4, 0));
    let mut edited = lines(&file);
    edited.push("SET new 1".to_owned());
    write_lines(&file, &edited);
    assert_eq!(coffre(folder.path(), &["seal", "donnees.txt", "--output", "new"]).0, 0);
    assert_eq!(count(), 5);
    edited.push("INCR new".to_owned());
    write_lines(&file, &edited);
    assert_eq!((coffre(folder.path(), &["seal", "donnees.txt"]).0, count()), (3, 5));
}

#[test]
fn seal_says_of_a_long_batch_what_can_be_told() {
    let (folder, file) = folder();
    let text: String = (0..500).map(|number| format!("SET key:{number} 1\n")).collect();
    fs::write(&file, text).unwrap();
    let server = Server::start(&file);
    let mut client = server.client();
    for line in ["SET key:7 2", "APPEND key:8 x", "DEL key:9 key:10", "SELECT 1", "SET key:11 1"] {
        client.line(line);
    }
    assert!(server.terminate().0.success());
    let whole = fs::read_to_string(&file).unwrap();

    let edited = whole.replacen("SET key:400 1", "set key:400 '5'", 1);
    fs::write(&file, edited.replacen("SET key:401 1", "SET key:401 6", 1)).unwrap();
    let (code, said, _) = coffre(folder.path(), &["seal", "donnees.txt"]);
    assert_eq!(code, 0);
    let expected = "compare them with those of a backup: sed -n '2,502p' donnees.txt\n    \
                    3 of its 500 records are superseded by later ones: an edit there changes nothing\n    \
                    not as coffre writes them:\n    set key:400 '5'\n";
    assert!(said.starts_with("changed: batch 1 (lines 2 to 503) has checksum"), "{said}");
    assert!(said.contains(expected), "{said}");
    assert!(!said.contains("key:401"), "{said}");

    // Where little of it counts still, that is named.
    let flushed = whole.replacen("SET key:3 1", "SET key:3 4", 1).replacen(
        "SET key:450 1",
        "FLUSHALL\nSELECT 2\nSET key:450 1",
        1,
    );
    fs::write(&file, flushed).unwrap();
    let (code, said, _) = coffre(folder.path(), &["seal", "donnees.txt", "--output", "new"]);
    let others: Vec<_> = (452..504).map(|line: u32| line.to_string()).collect();
    let named = format!("    the others are on lines {}\n", others.join(", "));
    assert_eq!((code, said.contains(&named)), (0, false), "more than 20: {said}");
    assert!(said.contains("450 of its 502 records are superseded"), "{said}");
    let flushed = whole.replacen("SET key:495 1", "FLUSHALL\nSET key:495 1", 1);
    fs::write(&file, flushed).unwrap();
    let (_, said, _) = coffre(folder.path(), &["seal", "donnees.txt", "--output", "newer"]);
    assert!(said.contains("the others are on lines 497, 498, 499, 500, 501, 502\n"), "{said}");
}

#[test]
fn what_is_not_seen_reaches_no_terminal() {
    let (folder, file) = folder();
    let server = Server::start(&file);
    let value = "\u{9b}2J\u{202e}\u{2066}\u{2028}\u{200b}\u{feff}\u{ad}é".as_bytes();
    assert_eq!(server.client().call(&[b"SET", value, value]), Reply::ok());
    let expected = dump(&mut server.client());
    assert!(server.terminate().0.success());
    let hidden = |text: &str| text.replace('\n', "").contains(coffre::text::is_invisible);
    let text = fs::read_to_string(&file).unwrap();
    assert!(!hidden(&text) && text.contains("\\xc2\\x9b2J\\xe2\\x80\\xae"), "{text}");
    assert_eq!(load(&file), expected);
    // As an older version wrote it, or a person.
    let raw = format!("SET \"{0}\" \"{0}\"\n", String::from_utf8_lossy(value));
    fs::write(&file, &raw).unwrap();
    assert_eq!(load(&file), expected);

    let name = "GET\u{9b}2J\u{202e}";
    for text in [format!("{raw}{name} x\n"), format!("# coffre 1 id=7f3a9c2e51d0\n{name} x\n")] {
        for tool in ["check", "seal", "compact", "repair"] {
            fs::write(&file, &text).unwrap();
            for name in ["new", "new.dropped"] {
                let _ = fs::remove_file(folder.path().join(name));
            }
            let output = ["--output", "new"];
            let more = if tool == "repair" { &output[..] } else { &[] };
            let arguments = [&[tool, "donnees.txt"], more].concat();
            let (_, said, error) = coffre(folder.path(), &arguments);
            let shown = format!("{said}{error}");
            assert!(!hidden(&shown), "{tool}: {}", shown.escape_debug());
            assert!(shown.contains("GET\\xc2\\x9b2J\\xe2\\x80\\xae"), "{tool}: {shown}");
        }
    }
    // Lines that are shown.
    fs::write(&file, text.replacen("é", "e", 1)).unwrap();
    let (_, said, _) = coffre(folder.path(), &["seal", "donnees.txt"]);
    assert!(said.contains("    SET \"\\xc2\\x9b2J") && !hidden(&said), "{}", said.escape_debug());
    fs::write(&file, raw + "\x1b[2J\n").unwrap();
    let (_, said, _) = coffre(folder.path(), &["repair", "donnees.txt", "--output", "newer"]);
    assert!(said.contains("    \\x1b[2J\n") && !hidden(&said), "{}", said.escape_debug());
}

#[test]
fn a_line_of_very_many_words_takes_little_more_memory_than_its_bytes() {
    let (folder, file) = folder();
    const BYTES: usize = 16 << 20;
    fs::write(&file, "DEL".to_owned() + &" a".repeat(BYTES / 2) + "\n").unwrap();
    // What is reserved counts, and the stack of the main thread.
    let limit = format!("ulimit -v {}; exec \"$0\" check donnees.txt", 10 * BYTES / 1024);
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", &limit, COFFRE]).current_dir(folder.path()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("line 1, offset 0: a line has at most 1048576 words"), "{error}");
}
