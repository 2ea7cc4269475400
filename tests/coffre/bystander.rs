//! How long a client that only does `GET` and `SET` waits while another one does something large. It measures, so it is
//! run on request: `cargo test --release bystander -- --ignored --show-output`. The bound it asserts is generous;
//! `COFFRE_BYSTANDER_MS` sets another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Client, Reply, Server, folder, info_of, on_request, request, wait_until};

const LARGE_BYTES: usize = 200 << 20;
/// What no bystander may wait for, however slow the machine, in milliseconds.
const BOUND_MS: u64 = 10_000;

/// Something large that one client does.
struct Case {
    name: &'static str,
    /// Makes what it needs.
    prepare: fn(&mut Client),
    /// The request itself.
    bytes: fn() -> Vec<u8>,
    /// How many replies it has.
    replies: usize,
}

fn large(client: &mut Client, key: &str) {
    assert_eq!(client.call(&[b"SET", key.as_bytes(), &vec![b'v'; LARGE_BYTES]]), Reply::ok());
}

fn many_keys(client: &mut Client, count: usize) {
    for base in (0..count).step_by(10_000) {
        let words: Vec<String> = (base..base + 10_000)
            .flat_map(|number| [format!("many:{number}"), "value".to_owned()])
            .collect();
        let words: Vec<&[u8]> =
            [&b"MSET"[..]].into_iter().chain(words.iter().map(String::as_bytes)).collect();
        assert_eq!(client.call(&words), Reply::ok());
    }
}

fn line(text: &str) -> Vec<u8> {
    request(&text.split(' ').map(str::as_bytes).collect::<Vec<_>>())
}

fn named(command: &str, count: usize) -> Vec<u8> {
    let names: Vec<String> = (0..count).map(|number| format!("many:{number}")).collect();
    let words: Vec<&[u8]> =
        [command.as_bytes()].into_iter().chain(names.iter().map(String::as_bytes)).collect();
    request(&words)
}

fn in_exec(lines: &[&str]) -> Vec<u8> {
    let all = ["MULTI"].into_iter().chain(lines.iter().copied()).chain(["EXEC"]);
    all.flat_map(line).collect()
}

const CASES: &[Case] = &[
    Case { name: "nothing but PING", prepare: |_| {}, bytes: || line("PING"), replies: 1 },
    Case {
        name: "RENAME of 200 MB",
        prepare: |client| large(client, "v"),
        bytes: || line("RENAME v w"),
        replies: 1,
    },
    Case {
        name: "COPY of 200 MB",
        prepare: |client| large(client, "v"),
        bytes: || line("COPY v w"),
        replies: 1,
    },
    Case {
        name: "12 x LCS of 11 KB in EXEC with DBSIZE",
        prepare: |client| {
            for (key, text) in [("a", "abcdefghijk"), ("b", "kjihgfedcba")] {
                let set: [&[u8]; 3] = [b"SET", key.as_bytes(), &text.repeat(1_000).into_bytes()];
                assert_eq!(client.call(&set), Reply::ok());
            }
        },
        bytes: || in_exec(&[&["DBSIZE"][..], &["LCS a b LEN"; 12]].concat()),
        replies: 15,
    },
    Case {
        name: "LCS of 11 KB",
        prepare: |client| {
            for (key, text) in [("a", "abcdefghijk"), ("b", "kjihgfedcba")] {
                let set: [&[u8]; 3] = [b"SET", key.as_bytes(), &text.repeat(1_000).into_bytes()];
                assert_eq!(client.call(&set), Reply::ok());
            }
        },
        bytes: || line("LCS a b LEN"),
        replies: 1,
    },
    Case {
        name: "SET IFEQ of 200 MB",
        prepare: |client| large(client, "v"),
        bytes: || request(&[b"SET", b"v", b"x", b"IFEQ", &vec![b'v'; LARGE_BYTES]]),
        replies: 1,
    },
    Case {
        name: "SET of 200 MB",
        prepare: |_| {},
        bytes: || request(&[b"SET", b"v", &vec![b'v'; LARGE_BYTES]]),
        replies: 1,
    },
    Case {
        name: "SET KEEPTTL of 200 MB",
        prepare: |client| large(client, "v"),
        bytes: || request(&[b"SET", b"v", &vec![b'w'; LARGE_BYTES], b"KEEPTTL"]),
        replies: 1,
    },
    Case {
        name: "APPEND of 200 MB",
        prepare: |client| large(client, "v"),
        bytes: || request(&[b"APPEND", b"v", &vec![b'w'; LARGE_BYTES]]),
        replies: 1,
    },
    Case {
        name: "SETRANGE of 200 MB",
        prepare: |client| large(client, "v"),
        bytes: || request(&[b"SETRANGE", b"v", b"0", &vec![b'w'; LARGE_BYTES]]),
        replies: 1,
    },
    Case {
        name: "DELEX IFEQ of 200 MB",
        prepare: |client| large(client, "v"),
        bytes: || request(&[b"DELEX", b"v", b"IFEQ", &vec![b'v'; LARGE_BYTES]]),
        replies: 1,
    },
    Case {
        name: "GETSET of 200 MB",
        prepare: |client| large(client, "v"),
        bytes: || line("GETSET v x"),
        replies: 1,
    },
    Case {
        name: "GETRANGE of 200 MB",
        prepare: |client| large(client, "v"),
        bytes: || line("GETRANGE v 1 -2"),
        replies: 1,
    },
    Case {
        name: "DEL of 200 MB",
        prepare: |client| large(client, "v"),
        bytes: || line("DEL v"),
        replies: 1,
    },
    Case {
        name: "EXPIRE of 200 MB",
        prepare: |client| large(client, "v"),
        bytes: || line("EXPIRE v 100"),
        replies: 1,
    },
    Case {
        name: "MSET of 300,000 keys",
        prepare: |_| {},
        bytes: || {
            let words: Vec<String> = (0..300_000)
                .flat_map(|number| [format!("many:{number}"), "value".to_owned()])
                .collect();
            let words: Vec<&[u8]> =
                [&b"MSET"[..]].into_iter().chain(words.iter().map(String::as_bytes)).collect();
            request(&words)
        },
        replies: 1,
    },
    Case {
        name: "DEL of 1,000,000 keys",
        prepare: |client| many_keys(client, 1_000_000),
        bytes: || named("DEL", 1_000_000),
        replies: 1,
    },
    Case {
        name: "MGET of 300,000 keys",
        prepare: |client| many_keys(client, 300_000),
        bytes: || named("MGET", 300_000),
        replies: 1,
    },
    Case {
        name: "EXISTS of 1,000,000 keys",
        prepare: |client| many_keys(client, 1_000_000),
        bytes: || named("EXISTS", 1_000_000),
        replies: 1,
    },
    Case {
        name: "KEYS * of 1,000,000 keys",
        prepare: |client| many_keys(client, 1_000_000),
        bytes: || line("KEYS *"),
        replies: 1,
    },
    Case {
        name: "KEYS *99 in EXEC, of 1,000,000 keys",
        prepare: |client| many_keys(client, 1_000_000),
        bytes: || in_exec(&["KEYS *99"]),
        replies: 3,
    },
    Case {
        name: "EXEC of 100,000 INCR",
        prepare: |_| {},
        bytes: || in_exec(&["INCR n"; 100_000]),
        replies: 100_002,
    },
    Case {
        name: "EXEC of 100,000 GET",
        prepare: |client| assert_eq!(client.line("SET n 1"), Reply::ok()),
        bytes: || in_exec(&["GET n"; 100_000]),
        replies: 100_002,
    },
    Case {
        name: "FLUSHALL of 1,000,000 keys",
        prepare: |client| many_keys(client, 1_000_000),
        bytes: || line("FLUSHALL"),
        replies: 1,
    },
    Case {
        name: "SWAPDB of 1,000,000 keys",
        prepare: |client| many_keys(client, 1_000_000),
        bytes: || line("SWAPDB 0 1"),
        replies: 1,
    },
    Case {
        name: "BGREWRITEAOF of 1,000,000 keys and 200 MB",
        prepare: |client| {
            many_keys(client, 1_000_000);
            large(client, "v");
        },
        bytes: || line("BGREWRITEAOF"),
        replies: 1,
    },
];

/// The longest that it waited, by command, and how often it asked.
#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    get: Duration,
    set: Duration,
    count: u64,
}

/// Keys in every shard, nearly: what is locked is met whichever it is.
const BYSTANDER_KEYS: usize = 1_024;

/// All its keys set in one write, then all of them read, until it is told to end. Undisturbed either takes a few
/// milliseconds.
fn stand_by(mut client: Client, is_over: &AtomicBool) -> Waits {
    let keys: Vec<String> = (0..BYSTANDER_KEYS).map(|number| format!("near:{number}")).collect();
    let sets: Vec<u8> =
        keys.iter().flat_map(|key| request(&[b"SET", key.as_bytes(), b"1"])).collect();
    let gets: Vec<u8> = keys.iter().flat_map(|key| request(&[b"GET", key.as_bytes()])).collect();
    let mut waits = Waits::default();
    while !is_over.load(Ordering::SeqCst) {
        let began = Instant::now();
        client.send(&sets);
        keys.iter().for_each(|_| assert_eq!(client.reply(), Reply::ok()));
        let middle = Instant::now();
        client.send(&gets);
        for _ in &keys {
            // `FLUSHALL` may have come between.
            let got = client.reply();
            assert!(got == Reply::bulk("1") || got == Reply::Nil, "{got:?}");
        }
        waits.set = waits.set.max(middle - began);
        waits.get = waits.get.max(middle.elapsed());
        waits.count += 1;
    }
    waits
}

fn measure(case: &Case) -> (Waits, Duration) {
    let (_folder, file) = folder();
    // Without fsync: how long the disk takes is another question.
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    client.stream.set_write_timeout(Some(Duration::from_secs(120))).unwrap();
    (case.prepare)(&mut client);
    let bytes = (case.bytes)();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let bystander = scope.spawn(|| stand_by(server.client(), &is_over));
        thread::sleep(Duration::from_millis(200));
        let began = Instant::now();
        let mut writer = client.stream.try_clone().unwrap();
        let send = scope.spawn(move || std::io::Write::write_all(&mut writer, &bytes).unwrap());
        // An error, where it is too much, is an answer too.
        (0..case.replies).for_each(|_| drop(client.reply()));
        let took = began.elapsed();
        send.join().unwrap();
        // What is done after the reply: a compaction, freeing.
        wait_until("the file is not compacted any more", || {
            info_of(&mut client, "persistence", "aof_rewrite_in_progress") == "0"
        });
        thread::sleep(Duration::from_millis(500));
        is_over.store(true, Ordering::SeqCst);
        (bystander.join().unwrap(), took)
    })
}

#[test]
#[ignore = "measures, and takes a minute"]
fn a_bystander_waits_for_no_other_client() {
    let bound = Duration::from_millis(on_request("COFFRE_BYSTANDER_MS", BOUND_MS));
    let mut late = Vec::new();
    println!("| another client does | longest GET, ms | longest SET, ms | it took, ms |");
    println!("|---|---|---|---|");
    for case in CASES {
        let (waits, took) = measure(case);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "| {} | {:.1} | {:.1} | {:.0} |",
            case.name,
            ms(waits.get),
            ms(waits.set),
            ms(took)
        );
        assert!(waits.count > 3, "{}: the bystander did nothing", case.name);
        if waits.get.max(waits.set) > bound {
            late.push(case.name);
        }
    }
    assert!(late.is_empty(), "longer than {bound:?}: {late:?}");
}
