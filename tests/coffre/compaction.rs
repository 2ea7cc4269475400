//! Compaction of a running server's file: when it happens, what it keeps, and what it costs if it fails.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    COFFRE, Client, Reply, Server, dump, folder, info_of, run_to_end, wait_until,
};

fn info(client: &mut Client, name: &str) -> String {
    info_of(client, "persistence", name)
}

fn id(file: &Path) -> String {
    let mut line = String::new();
    BufReader::new(fs::File::open(file).unwrap()).read_line(&mut line).unwrap();
    line
}

/// Asks for a compaction, after one that may be under way, and waits until it is done.
fn compact(client: &mut Client, file: &Path) {
    let mut before = String::new();
    wait_until("it may begin", || {
        before = id(file);
        let reply = client.line("BGREWRITEAOF");
        let text = reply.error_or_status();
        let begun = "Background append only file rewriting started";
        assert!(text == begun || text.ends_with("already in progress"), "{text}");
        matches!(reply, Reply::Status(_))
    });
    wait_until("the file is a new one", || id(file) != before);
    wait_until("it is over", || info(client, "aof_rewrite_in_progress") == "0");
}

#[test]
fn what_is_asked_for_is_done_and_nothing_is_lost() {
    let (folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    for number in 0..500 {
        assert_eq!(client.line(&format!("SET key:{} {number}", number % 50)), Reply::ok());
    }
    let value: Vec<u8> = (0..300_000_u32).map(|number| (number % 253) as u8).collect();
    assert_eq!(client.call(&[b"SET", b"big\n", &value]), Reply::ok());
    let keys = dump(&mut client);
    let before = fs::metadata(&file).unwrap().len();
    compact(&mut client, &file);
    let after = fs::metadata(&file).unwrap().len();
    assert!(after < before, "{before} {after}");
    let lines = fs::read_to_string(&file).unwrap();
    assert!(lines.lines().all(|line| line.len() < 1 << 20), "each line replays inline");
    assert_eq!(dump(&mut client), keys);
    assert_eq!(client.line("SET after 1"), Reply::ok());
    assert_eq!(client.line("DEL after"), Reply::Integer(1));
    compact(&mut client, &file);
    let before = id(&file);
    server.signal("USR1");
    wait_until("SIGUSR1 compacts too", || id(&file) != before);
    server.kill();
    let server = Server::start(&file);
    assert_eq!(dump(&mut server.client()), keys);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    // And what is not needed for it stays out: a file of nothing but keys.
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("SET ")).count(), keys.len());
}

#[test]
fn the_commands_answer_as_redis_does() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let status = |text: &str| Reply::Status(text.to_owned());
    let Reply::Integer(started_s) = client.line("LASTSAVE") else { panic!() };
    assert!(started_s > 1_700_000_000);
    wait_until("the next second", || {
        assert_eq!(client.line("SAVE"), Reply::ok());
        matches!(client.line("LASTSAVE"), Reply::Integer(saved_s) if saved_s > started_s)
    });
    assert_eq!(client.line("BGSAVE"), status("Background saving started"));
    wait_until("it is over", || info(&mut client, "rdb_bgsave_in_progress") == "0");
    assert_eq!(client.line("BGSAVE SCHEDULE").error_or_status(), "Background saving started");
    assert_eq!(client.line("BGSAVE NOW").error(), "ERR syntax error");
    assert_eq!(info(&mut client, "aof_last_bgrewrite_status"), "ok");
    assert_eq!(info(&mut client, "aof_enabled"), "1");
}

#[test]
fn save_makes_everything_durable_in_every_mode() {
    for fsync in ["always", "everysec", "no"] {
        let (_folder, file) = folder();
        let server = Server::with(&file, &["--fsync", fsync]);
        let mut client = server.client();
        assert_eq!(client.line("SET a 1"), Reply::ok());
        assert_eq!(client.line("SAVE"), Reply::ok());
        // The next seal may say so.
        assert_eq!(client.line("SET b 1"), Reply::ok());
        let text = fs::read_to_string(&file).unwrap();
        let seal = text.lines().rfind(|line| line.starts_with("#= ")).unwrap();
        let words: Vec<_> = seal.split(' ').collect();
        let (number, mark): (u64, u64) = (words[1].parse().unwrap(), words[4].parse().unwrap());
        assert_eq!(mark, number - 1, "{fsync}: {text}");
    }
}

/// 160 MB through one key: the file stays under twice that key's value and 64 MiB.
#[test]
fn the_file_stays_bounded_by_its_live_data() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let value = vec![b'v'; 1 << 20];
    let mut longest = 0;
    for _ in 0..160 {
        assert_eq!(client.call(&[b"SET", b"key", &value]), Reply::ok());
        longest = longest.max(fs::metadata(&file).unwrap().len());
        // As fast as a disk, not as memory: the compaction is checked for ten times a second.
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(longest <= (2 + 64) << 20, "{longest} bytes");
    assert!(longest > 24 << 20, "not at every write: {longest} bytes");
    server.expect_log("compacted from ");
    assert_eq!(client.call(&[b"GET", b"key"]), Reply::Bulk(value));
}

/// The same where the file takes four times what the values do, and where nothing but overwrites grows it.
#[test]
fn the_file_stays_bounded_where_every_byte_is_escaped() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let value = vec![0; 256 << 10];
    assert_eq!(client.call(&[b"SET", b"key", &value]), Reply::ok());
    let mut longest = 0;
    for _ in 0..150 {
        client.call(&[b"SETRANGE", b"key", b"0", &value]);
        longest = longest.max(fs::metadata(&file).unwrap().len());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(longest <= (2 + 64) << 20, "{longest} bytes");
    server.expect_log("compacted from ");
    // Padding is not spelled out.
    assert!(matches!(client.line("SETRANGE padded 50000000 x"), Reply::Integer(50_000_001)));
    compact(&mut client, &file);
    assert!(fs::metadata(&file).unwrap().len() < 4 << 20);
    server.kill();
    let server = Server::start(&file);
    let mut client = server.client();
    assert_eq!(client.line("APPEND padded \"\""), Reply::Integer(50_000_001));
    assert_eq!(client.call(&[b"GET", b"key"]), Reply::Bulk(value));
}

#[test]
fn a_key_longer_than_its_pieces_is_not_repeated_for_each() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let (key, value) = (vec![b'k'; 2 << 20], vec![b'v'; 8 << 20]);
    assert_eq!(client.call(&[b"SET", &key, &value]), Reply::ok());
    compact(&mut client, &file);
    assert!(fs::metadata(&file).unwrap().len() < 20 << 20);
    assert_eq!(client.call(&[b"GET", &key]), Reply::Bulk(value));
}

/// The files beside the data file that were kept for flushes.
fn kept_for_flushes(file: &Path) -> Vec<PathBuf> {
    let start = format!("{}.flushed-", file.file_name().unwrap().to_str().unwrap());
    let siblings = fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    siblings
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&start))
        .collect()
}

fn write_megabytes(client: &mut Client, count: usize) {
    let value = vec![b'v'; 1 << 20];
    for _ in 0..count {
        assert_eq!(client.call(&[b"SET", b"key", &value]), Reply::ok());
    }
}

#[test]
fn what_a_flush_removed_can_be_had_back_though_the_file_is_compacted() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    assert_eq!(client.line("SET before 1"), Reply::ok());
    assert_eq!(client.line("FLUSHALL"), Reply::ok());
    write_megabytes(&mut client, 80);
    server.expect_log("is kept as");
    server.expect_log("compacted");
    assert!(fs::metadata(&file).unwrap().len() < 70 << 20);
    assert!(!fs::read_to_string(&file).unwrap().contains("\nFLUSHALL\n"));
    server.kill();
    let [kept] = &kept_for_flushes(&file)[..] else { panic!("one is kept") };
    // As docs/format.md says: without its line the flush did not happen.
    let text = fs::read_to_string(kept).unwrap().replace("\nFLUSHALL\n", "\n");
    let undone = file.with_extension("undone");
    fs::write(&undone, text).unwrap();
    let (code, said) = run_to_end(&[&"seal", &undone]);
    assert_eq!(code, 0, "{said}");
    let server = Server::start(&undone);
    assert_eq!(server.client().line("GET before"), Reply::bulk("1"));
    server.kill();
    // A start leaves it, and removes it once its hour is over.
    let server = Server::start(&file);
    assert_eq!(kept_for_flushes(&file).len(), 1);
    fs::rename(kept, file.with_extension("txt.flushed-1")).unwrap();
    wait_until("the old one is removed", || kept_for_flushes(&file).is_empty());
    drop(server);
}

#[test]
fn after_a_flush_the_file_is_as_it_was_until_it_grows() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let value = vec![b'v'; 1 << 20];
    for number in 0..20_u8 {
        assert_eq!(client.call(&[b"SET", &[b'k', number], &value]), Reply::ok());
    }
    assert_eq!(client.line("FLUSHALL"), Reply::ok());
    write_megabytes(&mut client, 20);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!server.log().contains("compacted"), "{}", server.log());
    server.kill();
    // Nor after a restart; a user who asks makes it final.
    let server = Server::with(&file, &["--fsync", "no"]);
    std::thread::sleep(Duration::from_millis(500));
    assert!(fs::read_to_string(&file).unwrap().contains("\nFLUSHALL\n"));
    compact(&mut server.client(), &file);
    assert!(!fs::read_to_string(&file).unwrap().contains("\nFLUSHALL\n"));
    assert!(kept_for_flushes(&file).is_empty());
    assert!(fs::metadata(&file).unwrap().len() < 2 << 20);
}

#[test]
fn a_flush_that_removes_nothing_keeps_no_compaction_off() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    assert_eq!(client.line("SET k v"), Reply::ok());
    assert_eq!(client.line("SELECT 9"), Reply::ok());
    assert_eq!(client.line("FLUSHDB"), Reply::ok());
    assert_eq!(client.line("SELECT 0"), Reply::ok());
    assert!(!fs::read_to_string(&file).unwrap().contains("FLUSHDB"));
    write_megabytes(&mut client, 80);
    server.expect_log("compacted");
    assert!(kept_for_flushes(&file).is_empty());
}

/// A flush that meets a compaction does not keep the next one off.
#[test]
fn the_file_stays_bounded_though_one_flush_follows_the_other() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let value = vec![b'v'; 1 << 20];
    for _ in 0..8 {
        for number in 0..20_u8 {
            assert_eq!(client.call(&[b"SET", &[b'k', number], &value]), Reply::ok());
        }
        assert_eq!(client.line("FLUSHALL"), Reply::ok());
    }
    write_megabytes(&mut client, 150);
    // Twice the live data, what the last flush removed, and 64 MiB.
    wait_until("it is compacted", || fs::metadata(&file).unwrap().len() < (2 + 20 + 64) << 20);
    assert!(!server.log().contains("not compacted"), "{}", server.log());
    assert!(kept_for_flushes(&file).len() <= 1);
}

#[test]
fn links_mode_owner_and_lock_are_kept() {
    let (folder, file) = folder();
    fs::write(&file, "SET a 1\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let as_root = fs::metadata(&file).unwrap().uid() == 0;
    if as_root {
        std::os::unix::fs::chown(&file, Some(1234), Some(4321)).unwrap();
    }
    let link = folder.path().join("link");
    symlink(&file, &link).unwrap();
    // A server that creates files for everybody.
    let mut command = Command::new("sh");
    command.args(["-c", "umask 000; exec \"$0\" --port 0 --file \"$1\"", COFFRE]).arg(&link);
    let server = Server::spawn(command);
    let mut client = server.client();
    for _ in 0..3 {
        compact(&mut client, &file);
        assert!(link.is_symlink());
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
        if as_root {
            assert_eq!((metadata.uid(), metadata.gid()), (1234, 4321));
        }
        for path in [&file, &link] {
            let (code, said) = run_to_end(&[&"--port", &"0", &"--file", path]);
            assert_eq!(code, 1);
            assert!(said.contains(&format!("process {} ", server.pid())), "{said}");
        }
    }
    assert_eq!(client.line("GET a"), Reply::bulk("1"));
    // A new file is its owner's only, whatever the umask.
    let new = folder.path().join("new");
    let mut command = Command::new("sh");
    command.args(["-c", "umask 000; exec \"$0\" --port 0 --file \"$1\"", COFFRE]).arg(&new);
    let _server = Server::spawn(command);
    assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_compaction_that_fails_costs_nothing() {
    let (folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    assert_eq!(client.line("SET a 1"), Reply::ok());
    let before = id(&file);
    let obstacle = folder.path().join("donnees.txt.tmp");
    fs::create_dir(&obstacle).unwrap();
    assert!(matches!(client.line("BGREWRITEAOF"), Reply::Status(_)));
    server.expect_log("not compacted: ");
    wait_until("INFO says so", || info(&mut client, "aof_last_bgrewrite_status") == "err");
    assert_eq!(client.line("SET a 2"), Reply::ok());
    assert_eq!(id(&file), before);
    fs::remove_dir(&obstacle).unwrap();
    compact(&mut client, &file);
    assert_eq!(info(&mut client, "aof_last_bgrewrite_status"), "ok");
    server.kill();
    assert_eq!(Server::start(&file).client().line("GET a"), Reply::bulk("2"));
}

#[test]
fn a_stop_during_a_compaction_leaves_one_whole_file() {
    let (folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let value = vec![b'v'; 4 << 20];
    for number in 0..32 {
        let key = format!("key:{number}");
        assert_eq!(client.call(&[b"SET", key.as_bytes(), &value]), Reply::ok());
    }
    assert!(matches!(client.line("BGREWRITEAOF"), Reply::Status(_)));
    let (status, log) = server.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(dump(&mut Server::start(&file).client()).len(), 32);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
