//! Databases: what is in each comes back from the file, whoever rewrote that, and by whatever way.

use std::fs;
use std::path::Path;
use std::time::Duration;

use coffre::engine::local::LocalEngine;
use coffre::journal::{Fsync, SwitchError};

use crate::handle::{Access, Handle};
use crate::harness::{Client, Reply, Server, dump, folder, recover, run_to_end, state, wait_until};

/// Writes to several databases what is told by records of each kind, and a value of so many bytes.
pub fn write_databases(client: &mut Client, bytes: u32) {
    let long: Vec<u8> = (0..bytes).map(|number| (number % 253) as u8).collect();
    for line in ["SET a 0", "SELECT 3", "SET a 3", "SET b 3 PXAT 33177117420123", "SELECT 1"] {
        assert_eq!(client.line(line), Reply::ok());
    }
    assert_eq!(client.call(&[b"SET", b"long", &long]), Reply::ok());
    assert_eq!(client.line("APPEND a 1"), Reply::Integer(1));
    assert_eq!(client.line("MOVE a 2"), Reply::Integer(1));
    assert_eq!(client.line("COPY long long DB 4"), Reply::Integer(1));
    assert_eq!(client.line("PEXPIREAT long 33177117420124"), Reply::Integer(1));
    assert_eq!(client.line("SWAPDB 3 5"), Reply::ok());
    client.send(b"MULTI\r\nSET t 1\r\nSELECT 2\r\nSET t 2\r\nSWAPDB 0 2\r\nSET t 3\r\nEXEC\r\n");
    for _ in 0..6 {
        client.reply();
    }
    let Reply::Array(replies) = client.reply() else { panic!() };
    assert_eq!(replies, vec![Reply::ok(); 5]);
    for line in ["SELECT 5", "SET gone 1", "SELECT 4", "FLUSHDB", "SET a 4"] {
        assert_eq!(client.line(line), Reply::ok());
    }
}

#[test]
fn each_comes_back_from_every_file() {
    let (folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    write_databases(&mut client, 300_000);
    let expected = dump(&mut client);
    assert_eq!([0, 1, 2, 3, 4, 5].map(|database| expected.count(database)), [2, 2, 2, 0, 1, 3]);
    let in_file = |file: &Path| {
        let (code, said) = run_to_end(&[&"check", &file]);
        assert_eq!(code, 0, "{said}");
        let server = Server::start(file);
        let found = dump(&mut server.client());
        assert!(found == expected, "{}", file.display());
    };

    // Compacted under a client, and killed.
    assert_eq!(client.line("SAVE"), Reply::ok());
    let raw = folder.path().join("raw.txt");
    fs::copy(&file, &raw).unwrap();
    let before = fs::metadata(&file).unwrap().len();
    client.line("BGREWRITEAOF");
    wait_until("it is compacted", || fs::metadata(&file).unwrap().len() < before);
    server.kill();
    in_file(&file);
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("SET ")).count(), 10);

    // By the tools.
    let [compacted, until, repaired, sealed] =
        ["compacted.txt", "until.txt", "repaired.txt", "sealed.txt"]
            .map(|name| folder.path().join(name));
    let run = |arguments: &[&dyn AsRef<std::ffi::OsStr>]| {
        let (code, said) = run_to_end(arguments);
        assert_eq!(code, 0, "{said}");
    };
    run(&[&"compact", &raw, &"--output", &compacted]);
    in_file(&compacted);
    let lines = fs::read_to_string(&raw).unwrap().lines().count().to_string();
    run(&[&"check", &raw, &"--until", &lines, &"--output", &until]);
    in_file(&until);
    run(&[&"repair", &raw, &"--output", &repaired]);
    in_file(&repaired);

    // As a person would write it, or edit it.
    let text = fs::read_to_string(&raw).unwrap();
    let records: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let written = folder.path().join("written.txt");
    fs::write(&written, records.join("\n")).unwrap();
    run(&[&"seal", &written, &"--output", &sealed]);
    in_file(&sealed);
    in_file(&written);
}

#[test]
fn a_line_concerns_the_database_that_is_selected_before_it() {
    let (_folder, file) = folder();
    // More than a batch of it, and the last database is not 0.
    let many: String = (0..60_000).map(|number| format!("SET key:{number} {number}\n")).collect();
    let text = format!("SET a 0\nselect 2\n# mine\nSET a 2\n{many}SELECT 1\nSET a 1\n");
    fs::write(&file, text).unwrap();
    for _ in 0..2 {
        let server = Server::start(&file);
        let mut client = server.client();
        for (database, keys) in [(0, 1), (1, 1), (2, 60_001), (3, 0)] {
            client.line(&format!("SELECT {database}"));
            assert_eq!(client.line("DBSIZE"), Reply::Integer(keys));
        }
        client.line("SELECT 2");
        assert_eq!(client.line("GET a"), Reply::bulk("2"));
    }
    // Each batch says all by itself.
    let text = fs::read_to_string(&file).unwrap();
    let mut database = "0";
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("SELECT", number)) => database = number,
            Some(("#=", _)) => assert_eq!(database, "0"),
            _ => {}
        }
    }
}

#[test]
fn a_file_with_more_of_them_is_refused_and_kept() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--databases", "256"]);
    let mut client = server.client();
    assert_eq!(client.line("SELECT 255"), Reply::ok());
    assert_eq!(client.line("SET a 1"), Reply::ok());
    assert_eq!(client.line("SELECT 256").error(), "ERR DB index is out of range");
    assert_eq!(
        client.line("CONFIG GET databases"),
        Reply::Array(vec![Reply::bulk("databases"), Reply::bulk("256"),])
    );
    assert!(server.terminate().0.success());
    let before = fs::read(&file).unwrap();
    let (code, said) = run_to_end(&[&"--port", &"0", &"--file", &file]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("line 4, offset "), "{said}");
    let parts =
        ["database 255 is needed, and --databases is 16", "Start with --databases 256 or more"];
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    assert_eq!(fs::read(&file).unwrap(), before);

    fs::write(&file, "SELECT 256\n").unwrap();
    let (code, said) = run_to_end(&[&"--port", &"0", &"--file", &file]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("line 1") && said.contains("a database is a number below 256"), "{said}");
}

/// What was copied of a database before it became another's would come back in the wrong one.
#[test]
fn a_compaction_during_which_databases_are_swapped_begins_again() {
    let (_folder, file) = folder();
    let engine = LocalEngine::start(recover(&file).unwrap(), Fsync::No).unwrap();
    let mut session = Handle::new(&engine);
    for number in 0..2000 {
        session.set(format!("key:{number}").as_bytes(), &[b'v'; 200]).unwrap();
    }
    session.commit().unwrap();
    for round in 0..40 {
        let mut compaction = engine.compaction().unwrap();
        let mut steps = 0;
        while steps < round && compaction.step().unwrap() {
            steps += 1;
        }
        // The swap may still be pending when the next one begins.
        session.swap(0, 1).unwrap();
        session.set(b"round", round.to_string().as_bytes()).unwrap();
        let rest = loop {
            match compaction.step() {
                Ok(true) => {}
                other => break other,
            }
        };
        assert!(matches!(rest, Err(SwitchError::Swapped)), "{rest:?}");
        drop(compaction);
        engine.compact().unwrap();
        session.commit().unwrap();
        if round % 10 == 0 {
            let expected = state(&mut session);
            let copy = file.with_extension("copy");
            fs::copy(&file, &copy).unwrap();
            let found = LocalEngine::start(recover(&copy).unwrap(), Fsync::No).unwrap();
            assert!(state(&mut Handle::new(&found)) == expected, "round {round}");
        }
    }
}

/// The same with clients that do nothing else, and a server that is killed.
#[test]
fn databases_that_are_swapped_all_the_time_keep_their_keys() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    for number in 0..1000 {
        client.line(&format!("SET key:{number} zero"));
    }
    client.line("SELECT 1");
    assert_eq!(client.line("SET one 1"), Reply::ok());
    let mut swaps = 0;
    std::thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            let mut client = server.client();
            for number in 0..400 {
                assert_eq!(client.line("SWAPDB 0 1"), Reply::ok());
                swaps = number + 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        while !swapping.is_finished() {
            client.line("BGREWRITEAOF");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(swaps, 400);
    let expected = dump(&mut client);
    assert_eq!((expected.count(0), expected.count(1)), (1000, 1));
    server.kill();
    assert!(dump(&mut Server::start(&file).client()) == expected);
}
