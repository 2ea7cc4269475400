//! What was acknowledged is there: after `kill -9` under load, after restarts, on a disk that refuses.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use coffre::text::{Words, split};

use crate::harness::{COFFRE, Client, Reply, Server, State, dump, folder, on_request, wait_until};

const WRITERS: usize = 50;
const KEYS_PER_WRITER: usize = 8;

/// One writer, alone on its keys, and what it knows of them.
struct Writer {
    number: usize,
    random: fastrand::Rng,
    /// Number of its next operation; never used twice.
    next: u64,
    /// Its keys as acknowledged.
    model: State,
    /// The key and value that the operation under way would leave.
    in_flight: Option<(Vec<u8>, Option<Vec<u8>>)>,
    /// Operations acknowledged in this cycle, of those that carry a token.
    acknowledged: Vec<u64>,
}

impl Writer {
    fn new(number: usize, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed ^ number as u64);
        let acknowledged = Vec::new();
        Self { number, random, next: 0, model: State::new(), in_flight: None, acknowledged }
    }

    /// Writes until the connection ends.
    fn run(&mut self, mut client: Client, flushes: bool) {
        self.acknowledged.clear();
        loop {
            let operation = self.next;
            self.next += 1;
            let key = format!("w{}:{}", self.number, self.random.usize(..KEYS_PER_WRITER));
            let token = format!("<{}-{operation}>", self.number);
            let old = self.model.get(key.as_bytes()).cloned();
            let (line, new, carries) = match self.random.u8(..100) {
                0 if flushes && self.number == 0 => ("FLUSHALL".to_owned(), None, false),
                0..60 => (format!("SET {key} {token}"), Some(token.into_bytes()), true),
                60..85 => {
                    let new = [old.unwrap_or_default(), token.clone().into_bytes()].concat();
                    (format!("APPEND {key} {token}"), Some(new), true)
                }
                _ => (format!("DEL {key}"), None, false),
            };
            self.in_flight = Some((key.into_bytes(), new));
            use std::io::Write;
            if client.stream.write_all(format!("{line}\r\n").as_bytes()).is_err() {
                return;
            }
            match client.try_reply() {
                None => return,
                Some(Reply::Error(error)) => panic!("{line}: {error}"),
                Some(_) => {}
            }
            match self.in_flight.take() {
                Some((key, Some(value))) => self.model.insert(key, value),
                Some((key, None)) => self.model.remove(&key),
                None => None,
            };
            if carries {
                self.acknowledged.push(operation);
            }
        }
    }

    /// Its keys must be as acknowledged, but for the one under way, which may be done or not.
    fn check(&mut self, found: &State, seed: u64) {
        let start = format!("w{}:", self.number).into_bytes();
        let own = |state: &State| -> State {
            state
                .iter()
                .filter(|(key, _)| key.starts_with(&start))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        };
        let found = own(found);
        let mut done = self.model.clone();
        match self.in_flight.take() {
            Some((key, Some(value))) => done.insert(key, value),
            Some((key, None)) => done.remove(&key),
            None => None,
        };
        assert!(
            found == self.model || found == done,
            "seed {seed}, writer {}: {found:?} is neither {:?} nor {done:?}",
            self.number,
            self.model
        );
        self.model = found;
    }
}

/// Replays a data file by the plainest rules there are, and collects each writer's tokens in order.
fn replay(file: &Path) -> (State, HashMap<usize, Vec<u64>>) {
    let text = std::fs::read_to_string(file).unwrap();
    let (mut state, mut tokens) = (State::new(), HashMap::<usize, Vec<u64>>::new());
    let mut words = Words::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        split(line.as_bytes(), &mut words).unwrap();
        let words: Vec<_> = words.iter().map(<[u8]>::to_vec).collect();
        match (&words[0][..], words.len()) {
            (b"SET", 3) => drop(state.insert(words[1].clone(), words[2].clone())),
            (b"SETRANGE", 4) => {
                let value = state.get_mut(&words[1]).expect(line);
                let offset: usize = String::from_utf8_lossy(&words[2]).parse().unwrap();
                assert_eq!(offset, value.len(), "an APPEND is logged at the old length: {line}");
                value.extend_from_slice(&words[3]);
            }
            (b"DEL", _) => words[1..].iter().for_each(|key| drop(state.remove(key))),
            (b"FLUSHALL", 1) => state.clear(),
            _ => panic!("{line}"),
        }
        if let Some(token) = line.rsplit('<').next().and_then(|rest| rest.strip_suffix('>')) {
            let (writer, operation) = token.split_once('-').unwrap();
            tokens.entry(writer.parse().unwrap()).or_default().push(operation.parse().unwrap());
        }
    }
    (state, tokens)
}

/// Kills a server under load again and again: 20 times, or `COFFRE_KILL_CYCLES`.
#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    kill_under_load(on_request("COFFRE_KILL_CYCLES", 20), false);
}

/// The same while the file is compacted 20 times a second.
#[test]
fn nothing_acknowledged_is_lost_by_kill_9_during_compaction() {
    kill_under_load(on_request("COFFRE_KILL_CYCLES", 20), true);
}

fn kill_under_load(cycles: u64, compacting: bool) {
    let seed = on_request("COFFRE_SEED", fastrand::u64(..1 << 32));
    println!("COFFRE_SEED={seed}");
    let (folder, file) = folder();
    let mut writers: Vec<_> = (0..WRITERS).map(|number| Writer::new(number, seed)).collect();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut idle = 0;
    for cycle in 0..cycles {
        if cycle % 25 == 24 {
            // A file that is never compacted would make each cycle longer than the last.
            std::fs::remove_file(&file).unwrap();
            writers.iter_mut().for_each(|writer| writer.model.clear());
        }
        let fsync = ["always", "everysec", "no"][cycle as usize % 3];
        let flushes = cycle % 4 == 3 && !compacting;
        let server = Server::with(&file, &["--fsync", fsync]);
        thread::scope(|scope| {
            for writer in &mut writers {
                let client = server.client();
                scope.spawn(move || writer.run(client, flushes));
            }
            let end = Instant::now() + Duration::from_millis(random.u64(20..150));
            while Instant::now() < end {
                if compacting {
                    server.signal("USR1");
                }
                thread::sleep(Duration::from_millis(50).min(end - Instant::now().min(end)));
            }
            server.kill();
        });
        let server = Server::with(&file, &["--fsync", fsync]);
        let after = dump(&mut server.client());
        server.kill();

        // A compacted file tells no history: only each writer knows what it must hold.
        let (replayed, tokens) = match compacting {
            true => (after.clone(), HashMap::new()),
            false => replay(&file),
        };
        assert!(after == replayed, "seed {seed}: memory differs from the file");
        let mut acknowledged = 0;
        for writer in &mut writers {
            if compacting {
                writer.check(&after, seed);
                acknowledged += writer.acknowledged.len();
                continue;
            }
            let logged = tokens.get(&writer.number).map(Vec::as_slice).unwrap_or_default();
            assert!(logged.is_sorted_by(|a, b| a < b), "seed {seed}: out of order, or twice");
            for operation in &writer.acknowledged {
                assert!(
                    logged.binary_search(operation).is_ok(),
                    "seed {seed}: acknowledged {operation} of writer {} is lost",
                    writer.number
                );
            }
            acknowledged += writer.acknowledged.len();
            if flushes {
                let start = format!("w{}:", writer.number).into_bytes();
                let own = after.iter().filter(|(key, _)| key.starts_with(&start));
                writer.model = own.map(|(key, value)| (key.clone(), value.clone())).collect();
                writer.in_flight = None;
            } else {
                writer.check(&after, seed);
            }
        }
        idle += u64::from(acknowledged == 0);
    }
    assert!(!folder.path().join("donnees.txt.tmp").exists());
    // On a busy machine some are killed before they have answered anybody.
    assert!(2 * idle < cycles, "{idle} of {cycles} cycles acknowledged nothing");
}

#[test]
fn every_mode_keeps_what_it_acknowledged_through_kill_9() {
    for fsync in ["always", "everysec", "no"] {
        let (_folder, file) = folder();
        let server = Server::with(&file, &["--fsync", fsync]);
        let mut client = server.client();
        for number in 0..100 {
            assert_eq!(client.line(&format!("SET key:{number} {number}")), Reply::ok());
        }
        server.kill();
        assert_eq!(dump(&mut Server::start(&file).client()).len(), 100, "{fsync}");
    }
}

#[test]
fn a_second_after_the_last_write_its_mark_is_in_the_file() {
    for fsync in ["always", "everysec"] {
        let (_folder, file) = folder();
        let server = Server::with(&file, &["--fsync", fsync]);
        assert_eq!(server.client().line("SET a 1"), Reply::ok());
        wait_until("an empty batch marks batch 2 as durable", || {
            let text = std::fs::read_to_string(&file).unwrap();
            let last = text.lines().last().unwrap();
            last.starts_with("#= 3 0 ") && last.ends_with(" 2")
        });
        // And then the file is at rest.
        let length = std::fs::metadata(&file).unwrap().len();
        thread::sleep(Duration::from_millis(1200));
        assert_eq!(std::fs::metadata(&file).unwrap().len(), length);
    }
}

#[test]
fn a_write_the_disk_refuses_is_not_acknowledged_and_reads_go_on() {
    let (_folder, file) = folder();
    // The file may not grow beyond 16 blocks: 8 or 16 KiB.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 16; exec \"$0\" --port 0 --file \"$1\"", COFFRE]).arg(&file);
    let server = Server::spawn(command);
    let mut client = server.client();
    let mut acknowledged = State::new();
    let value = vec![b'v'; 700];
    let refused = loop {
        let key = format!("key:{}", acknowledged.len()).into_bytes();
        match client.call(&[b"SET", &key, &value]) {
            Reply::Error(error) => break error,
            _ => acknowledged.insert(key, value.clone()),
        };
        assert!(acknowledged.len() < 100);
    };
    assert!(
        refused.starts_with("MISCONF Errors writing to the AOF file: File too large"),
        "{refused}"
    );
    server.expect_log("File too large");
    // Refused before memory changes, from now on.
    for line in ["SET key:0 other", "DEL key:0", "APPEND key:0 x", "FLUSHALL", "SETRANGE key:0 0 x"]
    {
        assert_eq!(client.line(line).error(), refused, "{line}");
    }
    for (key, value) in acknowledged.iter() {
        assert_eq!(client.call(&[b"GET", key]), Reply::Bulk(value.clone()));
    }
    assert_eq!(client.line("PING"), Reply::Status("PONG".to_owned()));
    // The refused write was taken back: reads show what is on disk, all of them.
    assert_eq!(client.line(&format!("GET key:{}", acknowledged.len())), Reply::Nil);
    assert_eq!(dump(&mut client), acknowledged);
    assert_eq!(client.line("DBSIZE"), Reply::Integer(acknowledged.len() as i64));
    // In one burst, what stands before the refused write is answered.
    client.send(b"GET key:0\r\nSET a 1\r\nPING\r\n");
    assert_eq!(client.reply(), Reply::Bulk(value.clone()));
    assert_eq!(client.reply().error(), refused);
    assert_eq!(client.reply(), Reply::Status("PONG".to_owned()));
    let (status, log) = server.terminate();
    // 0 where its closing mark still fits.
    assert!(matches!(status.code(), Some(0 | 5)), "{log}");
    let server = Server::start(&file);
    assert_eq!(dump(&mut server.client()), acknowledged);
    assert_eq!(server.client().line("SET a 1"), Reply::ok());
}

#[test]
fn every_kind_of_refused_write_is_taken_back() {
    for line in [
        "SET a other",
        "SET new 1",
        "APPEND a x",
        "SETRANGE a 1 x",
        "SETRANGE a 99 x",
        "DEL a b",
        "FLUSHALL",
    ] {
        let (_folder, file) = folder();
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -f 1; exec \"$0\" --port 0 --file \"$1\"", COFFRE]).arg(&file);
        // 512 or 1024 bytes: all but 5 are taken, and then the next write does not fit.
        let room = {
            let mut probe = Command::new("sh");
            probe.args(["-c", "ulimit -f 1; yes > \"$0\"; exit 0"]).arg(folder_file(&file));
            probe.stderr(std::process::Stdio::null()).status().unwrap();
            std::fs::metadata(folder_file(&file)).unwrap().len() as usize
        };
        let text = "SET a value\nSET b 1\n";
        let padding = "#"
            .repeat(room - 5 - text.len() - 28 - "#= 1 2 00000000 0\n#= 2 0 00000000 1\n\n".len());
        std::fs::write(&file, format!("{text}{padding}\n")).unwrap();
        // Sealed by a server without the limit.
        assert!(Server::start(&file).terminate().0.success());
        let server = Server::spawn(command);
        let mut client = server.client();
        let before = dump(&mut client);
        assert_eq!(before.len(), 2);
        assert!(client.line(line).error().starts_with("MISCONF "), "{line}");
        assert_eq!(dump(&mut client), before, "{line}");
        server.kill();
        assert_eq!(dump(&mut Server::start(&file).client()), before, "{line}");
    }
}

fn folder_file(file: &Path) -> std::path::PathBuf {
    file.with_file_name("room")
}

#[test]
fn a_torn_tail_is_cut_with_a_warning_and_kept_aside() {
    let (folder, file) = folder();
    let server = Server::start(&file);
    assert_eq!(server.client().line("SET a 1"), Reply::ok());
    server.kill();
    let good = std::fs::read(&file).unwrap();
    let tail = b"SET b 2\nSET c";
    std::fs::write(&file, [&good[..], tail].concat()).unwrap();
    let server = Server::start(&file);
    assert_eq!(dump(&mut server.client()), State::from([(b"a".to_vec(), b"1".to_vec())]));
    let log = server.expect_log("were moved to");
    let expected = format!("line 6, offset {}: ", good.len());
    assert!(log.contains(&expected) && log.contains("13 bytes (2 records) were moved to"), "{log}");
    let aside = folder.path().join(format!("donnees.txt.torn-{}", good.len()));
    assert_eq!(std::fs::read(aside).unwrap(), tail);
}

#[test]
fn lines_that_were_added_by_hand_and_cut_off_are_accepted_as_the_warning_says() {
    let (folder, file) = folder();
    let server = Server::start(&file);
    assert_eq!(server.client().line("SET a 1"), Reply::ok());
    assert!(server.terminate().0.success());
    let mut opened = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
    std::io::Write::write_all(&mut opened, b"SET b 2\n# mine\nSET c 3\n").unwrap();
    let server = Server::start(&file);
    let log = server.expect_log("were moved to");
    assert_eq!(server.client().line("SET d 4"), Reply::ok());
    assert!(server.terminate().0.success());
    let way_on = log.split('`').nth(1).unwrap().replace("coffre seal", &format!("{COFFRE} seal"));
    assert!(way_on.starts_with(&format!("cat {}", folder.path().display())), "{log}");
    assert!(Command::new("sh").args(["-c", &way_on]).status().unwrap().success());
    let entries = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"d", b"4")];
    let expected = entries.map(|(key, value)| (key.to_vec(), value.to_vec()));
    assert_eq!(dump(&mut Server::start(&file).client()), State::from(expected));
}
