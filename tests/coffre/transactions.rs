//! Transactions and commands on several keys: nobody sees half of one, and no crash leaves half.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::{
    Client, Reply, Server, folder, has_file, info_of, is_cluster, on_request, request, wait_until,
};

/// Sends the requests in one write and reads all replies.
fn burst(client: &mut Client, lines: &[String]) -> Vec<Reply> {
    client.send((lines.join("\r\n") + "\r\n").as_bytes());
    lines.iter().map(|_| client.reply()).collect()
}

#[test]
fn nobody_sees_half() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let keys = ["a", "b", "c", "d", "e", "f"];
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (server, is_over) = (&server, &is_over);
            scope.spawn(move || {
                let mut client = server.client();
                for number in 0..1_500 {
                    let value = format!("{writer}:{number}");
                    let pairs: Vec<_> = keys.iter().map(|key| format!("{key} {value}")).collect();
                    let lines = match number % 3 {
                        0 => vec![format!("MSET {}", pairs.join(" "))],
                        1 => vec![format!("MSETEX 6 {} EX 1000", pairs.join(" "))],
                        _ => {
                            let sets = pairs.iter().map(|pair| format!("SET {pair}"));
                            let begin = std::iter::once("MULTI".to_owned());
                            begin.chain(sets).chain(["EXEC".to_owned()]).collect()
                        }
                    };
                    let replies = burst(&mut client, &lines);
                    assert!(!matches!(replies.last(), Some(Reply::Error(_) | Reply::Nil)));
                }
                is_over.store(true, Ordering::Relaxed);
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                let (mut client, mut seen) = (server.client(), 0);
                while !is_over.load(Ordering::Relaxed) {
                    let Reply::Array(values) = client.line("MGET f e d c b a") else { panic!() };
                    assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
                    client.send(b"MULTI\r\nGET a\r\nGET f\r\nEXEC\r\n");
                    (0..3).for_each(|_| drop(client.reply()));
                    let Reply::Array(values) = client.reply() else { panic!() };
                    assert_eq!(values[0], values[1]);
                    seen += 1;
                }
                assert!(seen > 0);
            });
        }
    });
}

#[test]
fn who_watches_loses_no_update() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let (threads, each) = (4, 200);
    let conflicts = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut client = server.client();
                for _ in 0..each {
                    loop {
                        assert_eq!(client.line("WATCH n"), Reply::ok());
                        let number: u64 = match client.line("GET n") {
                            Reply::Nil => 0,
                            value => {
                                String::from_utf8(value.into_bytes()).unwrap().parse().unwrap()
                            }
                        };
                        let set = format!("SET n {}", number + 1);
                        let lines = ["MULTI".to_owned(), set, "EXEC".to_owned()];
                        match burst(&mut client, &lines).pop() {
                            Some(Reply::Nil) => conflicts.fetch_add(1, Ordering::Relaxed),
                            Some(Reply::Array(_)) => break,
                            other => panic!("{other:?}"),
                        };
                    }
                }
            });
        }
    });
    assert_eq!(server.client().line("GET n"), Reply::bulk(&(threads * each).to_string()));
    assert!(conflicts.into_inner() > 0, "nothing was tried");
}

#[test]
fn what_expires_or_comes_is_a_change_to_who_watches() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let (mut one, mut two) = (server.client(), server.client());
    let exec = |client: &mut Client| {
        let lines = ["MULTI", "PING", "EXEC"].map(str::to_owned);
        burst(client, &lines).pop() == Some(Reply::Array(vec![Reply::pong()]))
    };
    one.line("SET a 1 PX 1000000");
    one.line("WATCH a");
    assert!(exec(&mut one), "not yet");
    // In one burst: watched while it was there. Gone is changed, whether it was removed yet or not.
    burst(&mut one, &["SET a 1 PX 200".to_owned(), "WATCH a".to_owned()]);
    wait_until("it has expired", || two.line("EXISTS a") == Reply::Integer(0));
    assert!(!exec(&mut one));
    one.line("WATCH new");
    two.line("SET new 1");
    assert!(!exec(&mut one));
    // Watched after it has expired: that it is removed is no change.
    one.line("SET b 1 PX 1");
    std::thread::sleep(Duration::from_millis(5));
    one.line("WATCH b");
    wait_until("it is removed", || info_of(&mut two, "stats", "expired_keys") == "2");
    assert!(exec(&mut one));
    // Each watches for itself, and only until it is told.
    one.line("WATCH k");
    two.line("WATCH other");
    two.line("SET k 1");
    assert!(exec(&mut two) && !exec(&mut one) && exec(&mut one));
    // What changes nothing is no change.
    one.line("WATCH k none");
    for line in
        ["DEL none", "SET k 2 NX", "EXPIRE none 10", "PERSIST k", "SELECT 1", "SET k 2", "FLUSHDB"]
    {
        two.line(line);
    }
    assert!(exec(&mut one));
    // Nor is it one for a key that does not exist what becomes of all others.
    let words = |word: fn(u32) -> String| (0..500).map(word).collect::<String>();
    one.line(&format!("WATCH{}", words(|number| format!(" none:{number}"))));
    two.line("SELECT 0");
    let pairs = words(|number| format!(" key:{number} 1"));
    assert_eq!(two.line(&format!("MSET{pairs}")), Reply::ok());
    for line in ["SWAPDB 0 1", "SWAPDB 0 1", "FLUSHDB"] {
        assert_eq!(two.line(line), Reply::ok());
    }
    assert!(exec(&mut one));
}

/// A key that had expired when it was first watched is not changed by what removes it.
#[test]
fn a_key_that_had_expired_is_no_change_to_who_watches_whatever_removes_it() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--enable-debug-command", "yes"]);
    let (mut one, mut two) = (server.client(), server.client());
    assert_eq!(two.line("DEBUG SET-ACTIVE-EXPIRE 0"), Reply::ok());
    let removing: &[&str] =
        if has_file() { &["FLUSHDB", "FLUSHALL", "SWAPDB 0 1"] } else { &["FLUSHDB"] };
    for removes in removing {
        for saw_it in [false, true] {
            let time_ms = if saw_it { 300 } else { 1 };
            let lines = [format!("SET k 1 PX {time_ms}"), "WATCH k".to_owned()];
            burst(&mut one, &lines[..if saw_it { 2 } else { 1 }]);
            wait_until("it has expired", || two.line("EXISTS k") == Reply::Integer(0));
            one.line("WATCH k");
            assert_eq!(two.line(removes), Reply::ok());
            let replies = burst(&mut one, &["MULTI", "PING", "EXEC"].map(str::to_owned));
            let expected = if saw_it { Reply::Nil } else { Reply::Array(vec![Reply::pong()]) };
            assert_eq!(replies[2], expected, "{removes}, {saw_it}");
        }
    }
}

#[test]
fn who_leaves_while_watching_leaves_nothing() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let used = |server: &Server| {
        crate::harness::info_of(&mut server.client(), "memory", "used_memory")
            .parse::<u64>()
            .unwrap()
    };
    let rush = || {
        for round in 0..50 {
            let mut client = server.client();
            let keys: Vec<_> = (0..1000).map(|number| format!("k:{round}:{number}")).collect();
            assert_eq!(client.line(&format!("WATCH {}", keys.join(" "))), Reply::ok());
            client.send(b"MULTI\r\nSET a 1\r\n");
            (0..2).for_each(|_| drop(client.reply()));
        }
    };
    rush();
    let before = used(&server);
    (0..5).for_each(|_| rush());
    assert_eq!(server.client().line("EXISTS a"), Reply::Integer(0));
    let after = used(&server);
    assert!(after < before + (2 << 20), "{before} {after}");
}

/// Each transaction gives three keys, in two databases, one number; after a crash they have the same, and at least the
/// last that was acknowledged.
#[test]
fn kill_9_leaves_no_half_transaction() {
    let (_folder, file) = folder();
    let clients = 8;
    let mut acknowledged = vec![0_u64; clients];
    for cycle in 0..on_request("COFFRE_KILL_CYCLES", 3) {
        let fsync = ["always", "everysec", "no"][cycle as usize % 3];
        let server = Server::with(&file, &["--fsync", fsync]);
        let mut client = server.client();
        for (number, acknowledged) in acknowledged.iter_mut().enumerate() {
            let lines = [
                "SELECT 0".to_owned(),
                format!("MGET t:{number}:a t:{number}:b"),
                "SELECT 1".to_owned(),
                format!("GET t:{number}:c"),
            ];
            let replies = burst(&mut client, &lines);
            let Reply::Array(values) = &replies[1] else { panic!() };
            let found: Vec<u64> = [&values[0], &values[1], &replies[3]]
                .into_iter()
                .map(|value| match value {
                    Reply::Nil => 0,
                    value => {
                        String::from_utf8(value.clone().into_bytes()).unwrap().parse().unwrap()
                    }
                })
                .collect();
            assert!(found.iter().all(|value| *value == found[0]), "cycle {cycle}: {found:?}");
            assert!(found[0] >= *acknowledged, "cycle {cycle}: {found:?}, {acknowledged}");
            *acknowledged = found[0];
        }
        client.line("SELECT 0");
        std::thread::scope(|scope| {
            for (number, acknowledged) in acknowledged.iter_mut().enumerate() {
                let port = server.port;
                scope.spawn(move || {
                    let mut client = Client::connect(port);
                    loop {
                        let value = (*acknowledged + 1).to_string();
                        let key = |name: &str| format!("t:{number}:{name}").into_bytes();
                        let (a, b, c) = (key("a"), key("b"), key("c"));
                        let words: [&[&[u8]]; 7] = [
                            &[b"MULTI"],
                            &[b"SET", &a, value.as_bytes()],
                            &[b"SET", &b, value.as_bytes(), b"EX", b"100000"],
                            &[b"SELECT", b"1"],
                            &[b"SET", &c, value.as_bytes()],
                            &[b"SELECT", b"0"],
                            &[b"EXEC"],
                        ];
                        let bytes: Vec<u8> =
                            words.iter().flat_map(|words| request(words)).collect();
                        if std::io::Write::write_all(&mut client.stream, &bytes).is_err() {
                            return;
                        }
                        for _ in 0..words.len() {
                            if client.try_reply().is_none() {
                                return;
                            }
                        }
                        *acknowledged += 1;
                    }
                });
            }
            if cycle % 2 == 0 {
                client.line("BGREWRITEAOF");
            }
            std::thread::sleep(Duration::from_millis(100 + 37 * (cycle % 7)));
            server.kill();
        });
    }
    assert!(acknowledged.iter().all(|number| *number > 0));
}

/// What a transaction may do while its keys are locked is bounded; one that would do more is taken back.
#[test]
fn a_transaction_that_takes_too_long_is_taken_back() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let value = |byte| vec![byte; 4_000];
    assert_eq!(client.call(&[b"MSET", b"a", &value(b'a'), b"b", &value(b'b')]), Reply::ok());
    assert_eq!(client.line("LCS a b LEN"), Reply::Integer(0));
    let lines = |count: usize| {
        let lcs = std::iter::repeat_n("LCS a b LEN".to_owned(), count);
        let begin = ["MULTI".to_owned(), "SET c 1".to_owned()];
        begin.into_iter().chain(lcs).chain(["EXEC".to_owned()]).collect::<Vec<_>>()
    };
    let replies = burst(&mut client, &lines(1));
    assert_eq!(replies.last(), Some(&Reply::Array(vec![Reply::ok(), Reply::Integer(0)])));
    assert_eq!(client.line("DEL c"), Reply::Integer(1));
    let replies = burst(&mut client, &lines(12));
    let error = replies.last().unwrap().error();
    assert!(error.starts_with("EXECABORT Transaction discarded because of: "), "{error}");
    assert!(error.contains("too long"), "{error}");
    assert_eq!(client.line("EXISTS c"), Reply::Integer(0), "nothing of it is left");
    assert_eq!(client.line("SET c 2"), Reply::ok());
}

/// Many keys at once are set, listed and removed at one moment, up to a number of which the error speaks.
#[test]
fn many_keys_at_once_are_all_changed_or_none() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let keys: Vec<_> = (0..300_000).map(|number| format!("key:{number}").into_bytes()).collect();
    let mut words: Vec<&[u8]> = vec![b"MSET"];
    keys.iter().for_each(|key| words.extend([key.as_slice(), b"v"]));
    assert_eq!(client.call(&words), Reply::ok());
    assert_eq!(client.line("DBSIZE"), Reply::Integer(300_000));
    let mut words: Vec<&[u8]> = vec![b"DEL"];
    words.extend(keys.iter().map(Vec::as_slice));
    let named = words.clone();
    words.extend(named[1..].iter().chain(&named[1..]));
    // The same key again is no more work.
    assert_eq!(client.call(&words), Reply::Integer(300_000));
    let many: Vec<_> = (0..900_000).map(|number| format!("key:{number}").into_bytes()).collect();
    let mut words: Vec<&[u8]> = vec![b"DEL", b"here"];
    words.extend(many.iter().map(Vec::as_slice));
    assert_eq!(client.line("SET here 1"), Reply::ok());
    let reply = client.call(&words);
    assert!(reply.error().contains("name fewer keys"), "{reply:?}");
    assert_eq!(client.line("EXISTS here"), Reply::Integer(1));
}

/// What acts on more than keys is done once, however often the engine runs the transaction, and not at all if that does
/// nothing.
#[test]
fn what_acts_on_more_than_keys_is_done_once() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let (mut client, mut other) = (server.client(), server.client());
    for round in 1..=6 {
        let (mut victim, mut watched) = (server.client(), server.client());
        let [id, watched_id] =
            [&mut victim, &mut watched].map(|client| match client.line("CLIENT ID") {
                Reply::Integer(id) => id,
                other => panic!("{other:?}"),
            });
        wait_until("no compaction is under way", || {
            info_of(&mut client, "persistence", "aof_rewrite_in_progress") == "0"
        });
        let lines = [
            "MULTI",
            "INCR n",
            &format!("CLIENT KILL ID {id}"),
            "BGREWRITEAOF",
            "GET n",
            &format!("CLIENT KILL ID {id}"),
            "EXEC",
        ];
        let replies = burst(&mut client, &lines.map(str::to_owned));
        let started = "Background append only file rewriting started".to_owned();
        let expected = [
            Reply::Integer(round),
            Reply::Integer(1),
            Reply::Status(started),
            Reply::bulk(&round.to_string()),
            Reply::Integer(0),
        ];
        assert_eq!(replies.last(), Some(&Reply::Array(expected.into())));
        assert_eq!(victim.try_reply(), None);
        client.line("WATCH n");
        other.line("SET m 1");
        other.line(&format!("SET n {round}"));
        let lines =
            ["MULTI", "GET m", &format!("CLIENT KILL ID {watched_id}"), "EXEC"].map(str::to_owned);
        assert_eq!(burst(&mut client, &lines).pop(), Some(Reply::Nil));
        assert_eq!(watched.line("PING"), Reply::pong());
    }
}

/// A key named twice has the last value, and a condition is asked of all.
#[test]
fn several_keys_are_set_in_their_order() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    assert_eq!(client.line("MSET a 1 b 2 a 3 c 4 a 5"), Reply::ok());
    assert_eq!(client.line("MGET a b c"), Reply::Array(["5", "2", "4"].map(Reply::bulk).into()));
    assert_eq!(client.line("MSETNX d 1 c 2"), Reply::Integer(0));
    assert_eq!(client.line("EXISTS d"), Reply::Integer(0));
    assert_eq!(client.line("MSETEX 2 x 1 y 2 EX 1000"), Reply::Integer(1));
    assert_eq!(client.line("MSETEX 2 x 7 a 8 XX KEEPTTL"), Reply::Integer(1));
    assert_eq!(client.line("TTL x"), Reply::Integer(1000));
    assert_eq!(client.line("MSETEX 2 x 1 y 2 PXAT 1"), Reply::Integer(1));
    assert_eq!(client.line("EXISTS x y"), Reply::Integer(0));
    let server = server.restart(&file);
    let mut client = server.client();
    assert_eq!(client.line("MGET a b c x"), {
        let values = ["8", "2", "4"].map(Reply::bulk).into_iter();
        Reply::Array(values.chain([Reply::Nil]).collect())
    });
}

/// Whatever a transaction looks at after it wrote is answered: it waits for its own records, and for nothing else.
#[test]
fn everything_can_be_looked_at_after_a_write() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    assert_eq!(client.line("SET k v EX 1000"), Reply::ok());
    for line in [
        "GET k",
        "MGET k new",
        "EXISTS k new",
        "STRLEN k",
        "GETRANGE k 0 -1",
        "TYPE k",
        "TTL k",
        "PTTL k",
        "EXPIRETIME k",
        "TOUCH k",
        "KEYS *",
        "KEYS k*",
        "SCAN 0",
        "RANDOMKEY",
        "DBSIZE",
        "INFO",
        "INFO keyspace",
        "INFO all",
        "LASTSAVE",
        "OBJECT ENCODING k",
        "OBJECT IDLETIME k",
        "MEMORY USAGE k",
        "LCS k new",
        "RENAME nothing k",
        "COPY k new",
        "SETNX k 1",
        "PERSIST no",
        "INCR k",
        "APPEND k x",
        "DEL nothing",
        "GETEX k",
        "GETDEL nothing",
    ] {
        if is_cluster() && ["LASTSAVE", "OBJECT IDLETIME k"].contains(&line) {
            continue;
        }
        let lines =
            ["MULTI".to_owned(), "SET new 1".to_owned(), line.to_owned(), "EXEC".to_owned()];
        let replies = burst(&mut client, &lines);
        assert!(matches!(replies.last(), Some(Reply::Array(all)) if all.len() == 2), "{line}");
    }
    if has_file() {
        let before = std::fs::metadata(&file).unwrap().len();
        std::thread::sleep(Duration::from_millis(50));
        assert!(std::fs::metadata(&file).unwrap().len() < before + 1_000, "nothing goes on and on");
    }
}

/// Values in one piece are copied with the keys locked, so many of them are refused; a long one is shared, whatever its
/// length.
#[test]
fn a_transaction_writes_no_more_than_it_has_time_for() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let (piece, long) = (vec![b'v'; 64 << 10], vec![b'v'; 64 << 20]);
    let queued = || Reply::Status("QUEUED".to_owned());
    let mut exec = |words: &[&[u8]], count: usize| {
        assert_eq!(client.line("MULTI"), Reply::ok());
        assert_eq!(client.line("INCR before"), queued());
        (0..count).for_each(|_| assert_eq!(client.call(words), queued()));
        let reply = client.line("EXEC");
        (reply, client.line("GET before"))
    };
    for words in [
        vec![&b"SET"[..], b"k", &piece],
        vec![&b"SETRANGE"[..], b"k", b"7", &piece],
        vec![&b"SET"[..], b"k", &piece, b"KEEPTTL"],
        vec![&b"MSET"[..], b"k", &piece, b"l", b"v"],
    ] {
        let (reply, before) = exec(&words, 400);
        assert!(reply.error().contains("locked for too long"), "{reply:?}");
        assert_eq!(before, Reply::Nil);
    }
    for (number, words) in
        [vec![&b"SET"[..], b"k", &long], vec![&b"MSET"[..], b"k", &long]].into_iter().enumerate()
    {
        let (reply, before) = exec(&words, 1);
        assert_eq!(reply, Reply::Array(vec![Reply::Integer(number as i64 + 1), Reply::ok()]));
        assert_eq!(before, Reply::bulk(&(number + 1).to_string()));
    }
}
