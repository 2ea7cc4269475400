//! Keys that expire: nobody sees one again, whoever asks and however the server was started.

use std::fs;
use std::time::{Duration, SystemTime};

use crate::harness::{
    Client, Reply, Server, folder, has_file, info_of, is_durable, request, wait_until,
    with_enough_time,
};

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// All ways of looking say that `gone` is not there, and that `here` is.
fn expect_only_here(client: &mut Client) {
    let here = || Reply::Array(vec![Reply::bulk("here")]);
    for (line, reply) in [
        ("GET gone", Reply::Nil),
        ("EXISTS gone here", Reply::Integer(1)),
        ("TTL gone", Reply::Integer(-2)),
        ("PEXPIRETIME gone", Reply::Integer(-2)),
        ("TYPE gone", Reply::Status("none".to_owned())),
        ("STRLEN gone", Reply::Integer(0)),
        ("MGET gone here", Reply::Array(vec![Reply::Nil, Reply::bulk("1")])),
        ("KEYS *", here()),
        ("KEYS gon*", Reply::Array(vec![])),
        ("KEYS gone", Reply::Array(vec![])),
        ("SCAN 0 COUNT 1000", Reply::Array(vec![Reply::bulk("0"), here()])),
        ("RANDOMKEY", Reply::bulk("here")),
        ("OBJECT ENCODING gone", Reply::Nil),
        ("GETEX gone PERSIST", Reply::Nil),
        ("PERSIST gone", Reply::Integer(0)),
        ("EXPIRE gone 100", Reply::Integer(0)),
        ("SET gone 1 XX", Reply::Nil),
        ("COPY gone other", Reply::Integer(0)),
        ("RENAMENX here here", Reply::Integer(0)),
        ("GETDEL gone", Reply::Nil),
        ("DEL gone", Reply::Integer(0)),
    ] {
        assert_eq!(client.line(line), reply, "{line}");
    }
}

#[test]
fn what_has_expired_is_never_seen() {
    let (_folder, file) = folder();
    let flags = ["--enable-debug-command", "yes", "--fsync", "no"];
    let server = Server::with(&file, &flags);
    let mut client = server.client();
    // Nothing is removed behind its back: it is only not seen.
    client.line("DEBUG SET-ACTIVE-EXPIRE 0");
    client.line("SET here 1");
    client.line("SET gone 1 PX 1");
    pause(5);
    expect_only_here(&mut client);
    assert_eq!(client.line("DBSIZE"), Reply::Integer(2), "it is not removed");
    // A value that has expired is none to go on with.
    for (line, reply) in [
        ("APPEND gone x", Reply::Integer(1)),
        ("INCRBY gone 5", Reply::Integer(5)),
        ("SETRANGE gone 0 y", Reply::Integer(1)),
        ("INCRBYFLOAT gone 0.5", Reply::bulk("0.5")),
    ] {
        client.line("SET gone 123 PX 1");
        pause(5);
        assert_eq!(client.line(line), reply, "{line}");
        assert_eq!(client.line("TTL gone"), Reply::Integer(-1), "{line}");
    }
    client.line("SET gone 1 PX 1");
    pause(5);
    if is_durable() {
        server.kill();
        // A file that still has it, and after that one that says it is removed.
        for _ in 0..2 {
            let server = Server::with(&file, &flags);
            let mut client = server.client();
            expect_only_here(&mut client);
            wait_until("it is removed", || client.line("DBSIZE") == Reply::Integer(1));
        }
        assert!(fs::read_to_string(&file).unwrap().contains("\nDEL gone\n"));
    }
}

#[test]
fn removals_are_counted_and_written_down() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    client.line("SET stays 1");
    for number in 0..500 {
        client.line(&format!("SET k:{number} 1 PX {}", 500 + number % 50));
    }
    client.line("SELECT 3");
    client.line("SET k 1 PX 500");
    wait_until("all are removed", || info_of(&mut client, "stats", "expired_keys") == "501");
    assert_eq!(client.line("DBSIZE"), Reply::Integer(0));
    client.line("SELECT 0");
    assert_eq!(client.line("DBSIZE"), Reply::Integer(1));
    assert_eq!(client.line("SAVE"), Reply::ok());
    if has_file() {
        let text = fs::read_to_string(&file).unwrap();
        let removals = text.lines().filter(|line| line.starts_with("DEL "));
        assert_eq!(removals.map(|line| line.split(' ').count() - 1).sum::<usize>(), 501);
    }
}

#[test]
fn a_value_that_changes_after_its_time_is_another() {
    let (_folder, file) = with_enough_time(Duration::from_millis(300), |time| {
        let (folder, file) = folder();
        let server = Server::start(&file);
        let mut client = server.client();
        let set = |key: &str| format!("SET {key} 1 PX {}", time.as_millis());
        for line in [&set("a"), "APPEND a 2", "SETRANGE a 5 x", &set("b"), "BGREWRITEAOF"] {
            assert!(!matches!(client.line(line), Reply::Error(_)), "{line}");
        }
        let in_time = client.line("EXISTS a") == Reply::Integer(1);
        server.kill();
        in_time.then(|| {
            std::thread::sleep(time);
            (folder, file)
        })
    });
    // Replayed when it has expired, nothing of it is there.
    let server = Server::start(&file);
    let mut client = server.client();
    assert_eq!(client.line("EXISTS a b"), Reply::Integer(0));
    assert_eq!(client.line("SET b 2"), Reply::ok());
    server.kill();
    let server = Server::start(&file);
    assert_eq!(server.client().line("GET b"), Reply::bulk("2"));
}

#[test]
fn times_to_live_are_what_is_left() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    client.line("SET a 1 EX 1000");
    let number = |reply| match reply {
        Reply::Integer(number) => number,
        other => panic!("{other:?}"),
    };
    assert!((900..=1000).contains(&number(client.line("TTL a"))));
    assert!((900_000..=1_000_000).contains(&number(client.line("PTTL a"))));
    let at = number(client.line("PEXPIRETIME a"));
    let server = server.restart(&file);
    let mut client = server.client();
    assert_eq!(number(client.line("PEXPIRETIME a")), at, "times are absolute");
}

#[test]
fn the_mean_time_to_live_is_that_of_the_keys_that_expire() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    let ttl_s = |client: &mut Client, database: &str| {
        let shown = info_of(client, "keyspace", database);
        let ttl_ms = shown.rsplit_once("avg_ttl=").unwrap().1.parse::<u64>().unwrap();
        (ttl_ms + 50_000) / 100_000 * 100
    };
    client.line("MSET plain 1 other 2");
    assert_eq!(ttl_s(&mut client, "db0"), 0);
    client.line("SET a 1 EX 1000");
    client.line("SET b 1 EX 3000");
    client.line("SET c 1 EX 10000");
    client.line("EXPIRE c 20000");
    assert_eq!(ttl_s(&mut client, "db0"), 8000);
    // What goes, or stays for good, counts no more.
    client.line("PERSIST c");
    assert_eq!(ttl_s(&mut client, "db0"), 2000);
    client.line("RENAME a plain");
    client.line("DEL b");
    client.line("MOVE other 3");
    assert_eq!(ttl_s(&mut client, "db0"), 1000);
    client.line("SWAPDB 0 3");
    assert_eq!((ttl_s(&mut client, "db0"), ttl_s(&mut client, "db3")), (0, 1000));
    let server = server.restart(&file);
    let mut client = server.client();
    assert_eq!((ttl_s(&mut client, "db0"), ttl_s(&mut client, "db3")), (0, 1000));
    client.line("FLUSHALL");
    client.line("SET a 1 EX 500");
    assert_eq!(ttl_s(&mut client, "db0"), 500);
}

/// A crowd that expires at one moment holds nobody up.
#[test]
fn many_that_expire_at_once_go_bit_by_bit() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let count = 100_000;
    with_enough_time(Duration::from_secs(4), |time| {
        client.line("FLUSHALL");
        client.line("CONFIG RESETSTAT");
        let at = (SystemTime::now() + time).duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let at = at.as_millis().to_string();
        for start in (0..count).step_by(1000) {
            let set = |number| {
                let key = format!("k:{number}");
                request(&[b"SET", key.as_bytes(), b"value", b"PXAT", at.as_bytes()])
            };
            client.send(&(start..start + 1000).flat_map(set).collect::<Vec<u8>>());
            (0..1000).for_each(|_| drop(client.reply()));
        }
        (client.line("EXISTS k:0") == Reply::Integer(1)).then_some(())
    });
    let mut between = 0;
    wait_until("all are removed", || {
        let expired: usize = info_of(&mut client, "stats", "expired_keys").parse().unwrap();
        between += usize::from(expired > 0 && expired < count);
        expired == count
    });
    assert!(between > 0, "others are answered in between");
    assert_eq!(client.line("DBSIZE"), Reply::Integer(0));
}
