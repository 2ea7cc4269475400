//! `coffre check`, `repair`, `seal` and `compact`: what they say, what they write, how they end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{COFFRE, Reply, Server, State, dump, folder};

/// Runs a tool in `folder`: exit code, standard output, standard error.
fn coffre(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(COFFRE);
    // A variable of the server's must not get in a tool's way.
    command.args(arguments).current_dir(folder).env("COFFRE_PORT", "1").stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A file of eight batches, `SET key:N N` each, cleanly closed: `donnees.txt` in a folder.
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
    assert!(said.starts_with("donnees.txt: whole\nformat 1, id "), "{said}");
    let counts = format!("8 records (8 SET); 18 lines, {} bytes\n", bytes.len());
    assert!(said.contains("; 9 batches, durable mark 8\n") && said.ends_with(&counts), "{said}");

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
    let expected = format!("donnees.txt: torn at line 19, offset {}: ", whole.len());
    assert!(said.starts_with(&expected) && said.contains("8 bytes (1 records) follow"), "{said}");

    let mut edited = lines(&file);
    edited[5] = "SET key:3 three".to_owned();
    write_lines(&file, &edited);
    let (code, said, error) = coffre(folder.path(), &["check", "donnees.txt"]);
    assert_eq!(code, 3);
    assert!(said.starts_with("donnees.txt: damaged; before the damage:\n"), "{said}");
    assert!(said.contains("2 batches") && said.contains("2 records (2 SET); 5 lines"), "{said}");
    for part in ["line 6, offset ", "batch 3", "has checksum", "coffre repair", "coffre seal"] {
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
fn until_gives_the_data_as_it_was_at_a_line() {
    let (folder, file) = sample();
    for (line, last) in [(1, 0), (2, 1), (3, 1), (10, 5), (18, 8)] {
        let line = line.to_string();
        let new = format!("until-{line}");
        let arguments = ["check", "donnees.txt", "--until", &line, "--output", &new];
        let (code, said, error) = coffre(folder.path(), &arguments);
        assert_eq!(code, 0, "{error}");
        assert!(said.contains(&format!("{last} keys, as they were after line {line}")), "{said}");
        assert_eq!(load(&folder.path().join(&new)), keys(1..=last));
        // Never over a file that exists.
        assert_eq!(coffre(folder.path(), &arguments).0, 1);
    }
    for line in ["0", "19"] {
        let arguments = ["check", "donnees.txt", "--until", line, "--output", "new"];
        let (code, _, error) = coffre(folder.path(), &arguments);
        assert!(code == 1 && error.contains("which end at line 18"), "{error}");
    }
    // Before damage too.
    let mut damaged = lines(&file);
    damaged[11] = "???".to_owned();
    write_lines(&file, &damaged);
    let arguments = ["check", "donnees.txt", "--until", "8", "--output", "saved"];
    assert_eq!(coffre(folder.path(), &arguments).0, 0);
    assert_eq!(load(&folder.path().join("saved")), keys(1..=4));
}

#[test]
fn repair_keeps_what_seals_prove_and_lists_the_rest() {
    let whole = {
        let (_folder, file) = sample();
        lines(&file)
    };
    let batch = |number: usize| whole[2 * number - 1..=2 * number].to_vec();
    let of = |numbers: &[usize]| {
        let batches = numbers.iter().flat_map(|number| batch(*number));
        [whole[..1].to_vec(), batches.collect()].concat()
    };
    let mut edited = of(&[1, 2, 3, 4, 5, 6, 7, 8]);
    edited[5] = "SET key:3 three".to_owned();
    let mut foreign = of(&[1, 2, 3]);
    foreign
        .extend(["# coffre 1 id=000000000000", "SET x 1", "#= 1 1 00000000 0"].map(str::to_owned));
    let cases: [(Vec<String>, Vec<u32>, &[&str]); 5] = [
        (edited, vec![1, 2, 4, 5, 6, 7, 8], &["lines 6 to 7", "SET key:3 three", "batches 3 to 3"]),
        (of(&[1, 2, 2, 3]), vec![1, 2, 3], &["batch 2 is repeated"]),
        (of(&[1, 3, 2, 4]), vec![1, 2, 3, 4], &["4 batches kept"]),
        (of(&[1, 2, 4]), vec![1, 2, 4], &["missing: batches 3 to 3 are nowhere whole"]),
        (foreign, vec![1, 2, 3], &["lines 8 to 10", "SET x 1", "has checksum"]),
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
    assert!(
        said.contains("dropped: lines 2 to 2") && said.contains("unknown record 'GET'"),
        "{said}"
    );
    assert_eq!(load(&folder.path().join("new")), keys(1..=2));
    assert_eq!(fs::read(folder.path().join("new.dropped")).unwrap(), b"GET key:1\n");
}

#[test]
fn of_garbage_nothing_is_repaired() {
    let (folder, file) = folder();
    for garbage in
        [&b"\x7fELF\0\0\n\xff\xfe"[..], b"# only a comment\n", b"# coffre 1 id=7f3a9c2e51d0\nx\n"]
    {
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
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn seal_shows_and_takes_edits_and_keeps_comments() {
    let (folder, file) = sample();
    let mut edited = lines(&file);
    edited[5] = "SET key:3 three".to_owned();
    edited.push("# added by hand".to_owned());
    edited.push("SET key:9 9".to_owned());
    write_lines(&file, &edited);
    let before = fs::read(&file).unwrap();
    let arguments = ["seal", "donnees.txt", "--output", "new"];
    let (code, said, _) = coffre(folder.path(), &arguments);
    assert_eq!(code, 0);
    let parts = [
        "changed: batch 3 (lines 6 to 7)",
        "    SET key:3 three",
        "new: lines 19 to 20",
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
    edited[5] = "INCR key:3".to_owned();
    write_lines(&file, &edited);
    let before = fs::read(&file).unwrap();
    let (code, _, error) = coffre(folder.path(), &["seal", "donnees.txt"]);
    assert_eq!(code, 3);
    assert!(
        error.contains("line 6, offset ") && error.contains("unknown record 'INCR'"),
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
        assert!(lines.last().unwrap().starts_with("#= 2 0 "), "a mark covers it");
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
    assert!(lines(&file).iter().any(|line| line.len() > 1 << 20));
    assert_eq!(coffre(folder.path(), &["compact", "donnees.txt"]).0, 0);
    assert!(lines(&file).iter().all(|line| line.len() <= 1 << 20));
    assert_eq!(load(&file), State::from([(b"big".to_vec(), value)]));
}
