//! Too many clients, too little memory, no thread or descriptor for another: whoever asks for too much is
//! told, and nobody else notices.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Reply, Server, descriptors, dump, folder, info_of, limited, on_request, processor_time,
    request, resident_bytes, status_of, wait_until,
};

const MIB: u64 = 1 << 20;
const FULL: &[u8] = b"-ERR max number of clients reached\r\n";

/// A client that the server has let in.
fn admitted(server: &Server) -> Client {
    let mut client = server.client();
    assert_eq!(client.line("PING"), Reply::pong());
    client
}

fn used_memory(client: &mut Client) -> u64 {
    info_of(client, "memory", "used_memory").parse().unwrap()
}

#[test]
fn maxclients_is_lowered_to_what_the_system_allows() {
    let (_folder, file) = folder();
    let server = Server::spawn(limited(&file, "-n 64", &[]));
    server.expect_log("maxclients is 32, not 10000");
    let mut clients: Vec<_> = (0..32).map(|_| admitted(&server)).collect();
    assert_eq!(server.client().read_to_end(), FULL);
    let maxclients = info_of(&mut clients[0], "clients", "maxclients");
    assert_eq!(maxclients, "32");
    assert_eq!(info_of(&mut clients[0], "stats", "rejected_connections"), "1");
    // A rewrite needs descriptors too.
    assert_eq!(clients[1].line("SET a 1"), Reply::ok());
    assert!(matches!(clients[2].line("BGREWRITEAOF"), Reply::Status(_)));
    wait_until("it is compacted", || {
        info_of(&mut clients[0], "persistence", "rdb_bgsave_in_progress") == "0"
    });
    assert_eq!(info_of(&mut clients[0], "persistence", "aof_last_bgrewrite_status"), "ok");
    clients.pop();
    wait_until("a place is free", || server.client().line("PING") == Reply::pong());
}

#[test]
fn without_descriptors_accept_neither_spins_nor_ends() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = admitted(&server);
    // From here on there is none for another client.
    let pid = rustix::process::Pid::from_raw(server.pid() as i32);
    let now = descriptors(server.pid()) as u64;
    let set = |current: u64| {
        let limit = rustix::process::Rlimit { current: Some(current), maximum: Some(20_000) };
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    };
    set(now);
    // But for gaps that were left.
    let mut fillers = Vec::new();
    let told = loop {
        let mut client = server.client();
        match client.read_within(Duration::from_millis(500)) {
            None => fillers.push(client),
            Some(told) => break told,
        }
        assert!(fillers.len() < 20);
    };
    assert_eq!(told, FULL);
    let before = processor_time(server.pid());
    let started = Instant::now();
    for _ in 0..20 {
        assert_eq!(server.client().read_to_end(), FULL);
    }
    while started.elapsed() < Duration::from_secs(3) {
        assert_eq!(client.line("SET a 1"), Reply::ok());
        thread::sleep(Duration::from_millis(50));
    }
    let used = processor_time(server.pid()) - before;
    // A thread that spins uses all of one processor.
    assert!(used < started.elapsed() / 2, "{used:?} of processor in {:?}", started.elapsed());
    let log = server.expect_log("cannot accept clients for now: Too many open files");
    assert!(log.matches("cannot accept").count() <= 2, "{log}");
    set(now + 100);
    assert_eq!(admitted(&server).line("GET a"), Reply::bulk("1"));
}

/// The process may map less than the stack of one more thread.
#[test]
fn a_client_for_whom_there_is_no_thread_is_told() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut first = admitted(&server);
    let set = |current| {
        let pid = rustix::process::Pid::from_raw(server.pid() as i32);
        let limit = rustix::process::Rlimit { current, maximum: None };
        rustix::process::prlimit(pid, rustix::process::Resource::As, limit).unwrap();
    };
    set(Some((status_of(server.pid(), "VmSize") << 10) + 200_000));
    let mut told = 0;
    wait_until("ten clients are told", || {
        let mut client = server.client();
        client.send(b"PING\r\n");
        match client.try_reply() {
            Some(Reply::Error(text)) => {
                assert_eq!(text, "ERR no thread for another client");
                told += 1;
            }
            // A thread without a client serves it; or it is reset: it said PING before it was told.
            Some(Reply::Status(_)) | None => {}
            other => panic!("{other:?}"),
        }
        told == 10
    });
    assert_eq!(first.line("GET a"), Reply::Nil);
    server.expect_log("no thread for client");
    set(None);
    wait_until("there are threads again", || {
        let mut client = server.client();
        client.send(b"SET a 1\r\n");
        client.try_reply() == Some(Reply::ok())
    });
    assert!(server.terminate().0.success());
}

#[test]
fn maxmemory_refuses_what_adds_and_nothing_else() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no", "--maxmemory", "32mb"]);
    let mut client = server.client();
    let oom = "OOM command not allowed when used memory > 'maxmemory'.";
    let value = vec![b'v'; 100_000];
    let set = |client: &mut Client, number: usize| {
        client.call(&[b"SET", format!("key:{number}").as_bytes(), &value])
    };
    let count = (0..1000).find(|number| set(&mut client, *number) != Reply::ok()).unwrap();
    assert!((250..340).contains(&count), "{count} values of 100,000 bytes in 32 MiB");
    // Small ones still fit, until nothing does.
    for command in ["SET small", "APPEND key", "SETRANGE range"] {
        let mut replies = (0..10_000).map(|number| {
            let offset = if command == "SETRANGE range" { "0 " } else { "" };
            client.line(&format!("{command}:{number} {offset}{}", "x".repeat(2000)))
        });
        let refused = replies.find(|reply| matches!(reply, Reply::Error(_)));
        assert_eq!(refused, Some(Reply::Error(oom.to_owned())), "{command}");
    }
    assert!(matches!(client.line("GET key:0"), Reply::Bulk(_)));
    assert!(matches!(client.line("KEYS *"), Reply::Array(keys) if keys.len() >= count));
    // Many keys in one request, of a megabyte.
    let keys: Vec<_> =
        (0..30_000).map(|number| format!("a key that is not there:{number}")).collect();
    let del = [&b"DEL"[..]].into_iter().chain(keys.iter().map(String::as_bytes));
    assert_eq!(client.call(&del.collect::<Vec<_>>()), Reply::Integer(0));
    assert_eq!(client.line("DEL key:0 key:1 key:2"), Reply::Integer(3));
    wait_until("there is room", || client.line("SET a 1") == Reply::ok());
    // Requests count, complete or not: one that is too large for the rest is refused as a whole.
    let mut huge = server.client();
    let _ = huge.stream.write_all(&request(&[b"SET", b"huge", &vec![b'h'; 30 << 20]]));
    assert!(matches!(huge.try_reply(), None | Some(Reply::Error(_))));
    assert_eq!(client.line("EXISTS huge"), Reply::Integer(0));
    assert_eq!(client.line("FLUSHALL"), Reply::ok());
    wait_until("all is free", || used_memory(&mut client) < 4 * MIB);
    assert_eq!(set(&mut client, 0), Reply::ok());
}

#[test]
fn used_memory_is_what_the_process_uses() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let before = (used_memory(&mut client), resident_bytes(server.pid()));
    for base in (0..200_000).step_by(1000) {
        let sets: Vec<u8> = (base..base + 1000)
            .flat_map(|number| {
                request(&[b"SET", format!("key:{number:012}").as_bytes(), b"sixteen bytes xx"])
            })
            .collect();
        client.send(&sets);
        (0..1000).for_each(|_| assert_eq!(client.reply(), Reply::ok()));
    }
    let (used, resident) =
        (used_memory(&mut client) - before.0, resident_bytes(server.pid()) - before.1);
    assert!(used > 200_000 * 48, "{used}");
    let ratio = resident as f64 / used as f64;
    assert!((0.8..1.4).contains(&ratio), "{used} used, {resident} resident");
}

/// The system refuses memory for large values: they are refused, nothing ends, nothing is lost.
#[test]
fn a_failed_allocation_is_an_error_reply() {
    let (_folder, file) = folder();
    let mut command = limited(&file, "-v 700000", &["--fsync", "no"]);
    // Else each thread's heap reserves addresses of its own.
    command.env("MALLOC_ARENA_MAX", "1");
    let server = Server::spawn(command);
    let mut client = server.client();
    let mut kept = 0;
    // Each smaller than the last that was refused.
    for bytes in [64 << 20, 16 << 20, 4 << 20] {
        let value = vec![b'v'; bytes];
        for _ in 0..1_000 {
            let set = request(&[b"SET", format!("key:{kept}").as_bytes(), &value]);
            let sent = client.stream.write_all(&set);
            match sent.ok().and_then(|()| client.try_reply()) {
                Some(Reply::Status(_)) => kept += 1,
                Some(Reply::Error(text)) => {
                    let expected = text.starts_with("OOM") || text.starts_with("MISCONF");
                    assert!(expected, "{text}");
                    break;
                }
                // It did not even have memory for the request, and closed.
                None => break,
                other => panic!("{other:?}"),
            }
        }
        // Who is refused a place now gets one once the others' memory is back.
        wait_until("a client is let in", || {
            client = server.client();
            client.send(b"PING\r\n");
            client.try_reply() == Some(Reply::pong())
        });
    }
    println!("{}", server.log());
    assert!(kept > 5, "{kept} values");
    assert_eq!(client.line(&format!("EXISTS key:{}", kept - 1)), Reply::Integer(1));
    // A write for whose text there was no memory is a failed write: that heals within a second.
    wait_until("writes are taken", || client.line("FLUSHALL") == Reply::ok());
    wait_until("there is memory again", || client.line("SET a 1") == Reply::ok());
    // By kill -9: a disk that has just been given half a gigabyte may not answer as soon as a stop asks it to.
    let server = server.restart(&file);
    assert_eq!(server.client().line("GET a"), Reply::bulk("1"));
}

#[test]
fn values_and_requests_are_bounded_by_flags() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--max-value", "1kb", "--max-request", "4kb"]);
    let mut client = server.client();
    assert_eq!(client.call(&[b"SET", b"a", &[b'v'; 1024]]), Reply::ok());
    let too_long = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    assert_eq!(client.line("APPEND a x").error(), too_long);
    assert_eq!(client.line("SETRANGE a 1024 x").error(), too_long);
    client.send(&request(&[b"SET", b"a", &[b'v'; 1025]]));
    assert_eq!(client.read_to_end(), b"-ERR Protocol error: invalid bulk length\r\n");
    let mut client = server.client();
    client.send(&request(
        &[&b"DEL"[..]; 1].into_iter().chain([&[b'k'; 1000][..]; 5]).collect::<Vec<_>>(),
    ));
    assert_eq!(client.read_to_end(), b"-ERR Protocol error: too big request\r\n");
    assert_eq!(server.client().line("STRLEN a"), Reply::Integer(1024));
    assert_eq!(server.client().line("EXISTS a"), Reply::Integer(1));
}

/// G10: what a connection that sends takes.
#[test]
fn a_request_takes_at_most_twice_what_was_received() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let before = resident_bytes(server.pid());
    let (connections, bytes) = (20, 1_500_000);
    let mut clients: Vec<_> = (0..connections).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send(b"*2\r\n$3\r\nGET\r\n$536870912\r\n");
        client.send(&vec![b'A'; bytes]);
    }
    let expected = u64::to_string(&(bytes as u64 + 25));
    let mut admin = server.client();
    wait_until("all is received", || {
        let list = String::from_utf8(admin.line("CLIENT LIST").into_bytes()).unwrap();
        list.matches(&format!(" tot-net-in={expected} ")).count() == connections
            || list.matches(" qbuf=").count() > 0
                && received(&list) >= connections as u64 * bytes as u64
    });
    let grown = resident_bytes(server.pid()).saturating_sub(before);
    let bound = connections as u64 * (2 * bytes as u64 + (64 << 10));
    assert!(grown <= bound, "{grown} bytes, at most {bound}");
}

/// Bytes of incomplete requests in a `CLIENT LIST`.
fn received(list: &str) -> u64 {
    let number =
        |field: &str| field.strip_prefix("qbuf=").and_then(|number| number.parse::<u64>().ok());
    list.split(' ').filter_map(number).sum()
}

/// G11: what a connection that does not read takes, whatever it asks for.
#[test]
fn unread_replies_take_at_most_two_mebibytes_each() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--write-timeout", "0"]);
    let mut client = server.client();
    client.call(&[b"SET", b"one", &vec![b'v'; 1 << 20]]);
    client.call(&[b"SET", b"hundred", &vec![b'v'; 100 << 20]]);
    client.call(&[b"SET", b"small", b"x"]);
    for line in ["GET one\r\n", "GET hundred\r\n", "GET small\r\n", "COMMAND\r\n", "INFO\r\n"] {
        wait_until("memory is at rest", || {
            let now = resident_bytes(server.pid());
            thread::sleep(Duration::from_millis(100));
            resident_bytes(server.pid()) == now
        });
        let before = resident_bytes(server.pid());
        let deaf: Vec<_> = (0..10)
            .map(|_| {
                let mut client = server.client();
                client.stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
                // As much as it takes: its replies are not read.
                let _ = client.stream.write_all(&line.as_bytes().repeat(100_000 / line.len()));
                client
            })
            .collect();
        thread::sleep(Duration::from_millis(500));
        let grown = resident_bytes(server.pid()).saturating_sub(before);
        assert!(grown <= 10 * 2 * MIB, "{line}: {grown} bytes for ten clients");
        assert_eq!(client.line("SET small y"), Reply::ok());
        drop(deaf);
        wait_until("they have left", || {
            info_of(&mut client, "clients", "connected_clients") == "1"
        });
    }
}

/// One command's reply takes a bounded amount of memory, however short the command.
#[test]
fn a_short_command_has_no_endless_reply() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let too_large = |reply: &Reply| reply.error().contains("reply would be too large");
    let value = vec![b'v'; 64_000];
    assert_eq!(client.call(&[b"SET", b"k", &value]), Reply::ok());
    let mut words: Vec<&[u8]> = vec![b"MGET"];
    words.extend(std::iter::repeat_n(&b"k"[..], 16_000));
    let before = used_memory(&mut client);
    assert!(too_large(&client.call(&words)));
    assert_eq!(client.line("MULTI"), Reply::ok());
    for _ in 0..1_200 {
        client.send(b"GET k\r\n");
    }
    (0..1_200).for_each(|_| drop(client.reply()));
    let reply = client.line("EXEC");
    assert!(reply.error().starts_with("EXECABORT ") && too_large(&reply));
    for number in 0..80 {
        let key = [vec![b'k'; 1 << 20], vec![number]].concat();
        assert_eq!(client.call(&[b"SET", &key, b"v"]), Reply::ok());
    }
    assert!(too_large(&client.line("KEYS *")));
    assert!(too_large(&client.line("SCAN 0 COUNT 1000")));
    // What is shared with memory is no copy: as much as one likes of the same value.
    let value = vec![b'v'; 1 << 20];
    assert_eq!(client.call(&[b"SET", b"long", &value]), Reply::ok());
    words.truncate(201);
    words[1..].fill(b"long");
    assert!(matches!(client.call(&words), Reply::Array(values) if values.len() == 200));
    assert_eq!(client.line("GETRANGE long 1 -1"), Reply::Bulk(value[1..].to_vec()));
    let peak: u64 = info_of(&mut client, "memory", "used_memory_peak").parse().unwrap();
    assert!(peak < before + 400 * MIB, "{peak} bytes");
}

#[test]
fn after_a_flush_its_memory_is_there_for_the_next_write() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no", "--maxmemory", "64mb"]);
    let mut client = server.client();
    for round in 0..3 {
        let mut number = 0;
        while client.line(&format!("SET key:{number} {}", "v".repeat(10_000))) == Reply::ok() {
            number += 1;
        }
        assert!(number > 1_000, "{number} keys");
        let flush = if round == 1 { "FLUSHDB" } else { "FLUSHALL" };
        assert_eq!(client.line(flush), Reply::ok());
        assert_eq!(client.line("SET a 1"), Reply::ok(), "round {round}");
    }
}

#[test]
fn watching_takes_a_bounded_amount_of_memory() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let before = used_memory(&mut client);
    let key = |number: u32| format!("{}{number}", "k".repeat(1_000)).into_bytes();
    let mut watched = 0;
    let refused = loop {
        match client.call(&[b"WATCH", &key(watched)]) {
            Reply::Error(error) => break error,
            reply => assert_eq!(reply, Reply::ok()),
        }
        watched += 1;
        assert!(watched < 20_000);
    };
    assert!(refused.contains("too many keys are watched"), "{refused}");
    assert!(used_memory(&mut client) < before + 32 * MIB);
    assert_eq!(client.call(&[b"SET", &key(0), b"1"]), Reply::ok());
    assert_eq!(client.line("MULTI"), Reply::ok());
    assert_eq!(client.line("EXEC"), Reply::Nil, "those that are watched still are");
}

/// Clients that set large values all at once stay about within the bound, and so do their requests.
#[test]
fn maxmemory_holds_for_many_large_requests_at_once() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no", "--maxmemory", "60mb"]);
    let value = vec![b'v'; 10 << 20];
    thread::scope(|scope| {
        for number in 0..32 {
            let (server, value) = (&server, &value);
            scope.spawn(move || {
                let set = request(&[b"SET", format!("key:{number}").as_bytes(), value]);
                for _ in 0..4 {
                    let mut client = server.client();
                    // A request that is refused is not read to its end.
                    if client.stream.write_all(&set).is_ok() {
                        drop(client.try_reply());
                    }
                }
            });
        }
    });
    let mut client = server.client();
    let peak: u64 = info_of(&mut client, "memory", "used_memory_peak").parse().unwrap();
    assert!(peak < 80 * MIB, "{} MiB", peak / MIB);
    assert_eq!(client.line("FLUSHALL"), Reply::ok());
    assert_eq!(client.line("SET a 1"), Reply::ok());
}

/// What a transaction has allocated is not claimed a second time.
#[test]
fn several_large_values_at_once_fit_where_there_is_room() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no", "--maxmemory", "70mb"]);
    let mut client = server.client();
    let value = vec![b'v'; 9 << 20];
    assert_eq!(client.call(&[b"MSET", b"a", &value, b"b", &value]), Reply::ok());
    assert_eq!(client.line("FLUSHALL"), Reply::ok());
    for _ in 0..3 {
        assert_eq!(client.line("MULTI"), Reply::ok());
        for key in [b"a", b"b"] {
            assert!(matches!(client.call(&[b"SET", key, &value]), Reply::Status(_)));
        }
        let reply = client.line("EXEC");
        assert_eq!(reply, Reply::Array(vec![Reply::ok(), Reply::ok()]));
        assert_eq!(client.line("FLUSHALL"), Reply::ok());
    }
}

/// A reader that takes nothing keeps a value that is gone until its time to read is over.
#[test]
fn a_deaf_reader_lets_go_of_memory_after_its_time() {
    let (_folder, file) = folder();
    let flags = ["--fsync", "no", "--maxmemory", "100mb", "--write-timeout", "1"];
    let server = Server::with(&file, &flags);
    let mut client = server.client();
    let value = vec![b'v'; 24 << 20];
    let mut deaf = Vec::new();
    for _ in 0..2 {
        assert_eq!(client.call(&[b"SET", b"big", &value]), Reply::ok());
        let mut reader = server.client();
        reader.send(b"GET big\r\n");
        assert_eq!(reader.read(11), b"$25165824\r\n");
        deaf.push(reader);
        assert_eq!(client.line("DEL big"), Reply::Integer(1));
    }
    wait_until("there is room", || {
        let mut client = server.client();
        let set = request(&[b"SET", b"big", &value]);
        client.stream.write_all(&set).is_ok() && client.try_reply() == Some(Reply::ok())
    });
    assert!(!deaf.is_empty());
}

/// What is only padding takes no memory, however long, and what is refused keeps none.
#[test]
fn a_short_command_takes_little_memory() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let mut deaf = Vec::new();
    for _ in 0..20 {
        assert_eq!(client.line("SETRANGE k 300000000 x"), Reply::Integer(300_000_001));
        let mut reader = server.client();
        reader.send(b"GET k\r\n");
        assert_eq!(reader.read(12), b"$300000001\r\n");
        deaf.push(reader);
        assert_eq!(client.line("DEL k"), Reply::Integer(1));
    }
    let used = used_memory(&mut client);
    assert!(used < 8 * MIB, "{used} for twenty values of 300 MB padding");
    let value = vec![b'v'; 100_000];
    assert_eq!(client.call(&[b"SET", b"k", &value]), Reply::ok());
    assert!(matches!(client.line("SETRANGE k 536870911 xx"), Reply::Error(_)));
    assert!(used_memory(&mut client) < 8 * MIB);
}

/// Words by the million, where the system has no memory for as many.
#[test]
fn requests_of_many_words_fail_without_harm() {
    let (_folder, file) = folder();
    let mut command = limited(&file, "-v 260000", &["--fsync", "no"]);
    command.env("MALLOC_ARENA_MAX", "1");
    let server = Server::spawn(command);
    let kill =
        [b"*1048576\r\n$6\r\nCLIENT\r\n$4\r\nKILL\r\n".to_vec(), b"$1\r\n1\r\n".repeat(1_048_574)]
            .concat();
    let list = [
        b"*1048576\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n$2\r\nID\r\n".to_vec(),
        b"$1\r\n1\r\n".repeat(1_048_573),
    ]
    .concat();
    let line = [b"DEL".to_vec(), b" a".repeat(500_000), b"\r\n".to_vec()].concat();
    let typed = [b"SET a".to_vec(), b" a".repeat(500_000), b"\r\n".to_vec()].concat();
    for request in [&kill, &list, &line, &typed] {
        let mut clients: Vec<_> = (0..4).map(|_| server.client()).collect();
        thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(move || {
                    let _ = client.stream.write_all(request);
                    client.try_reply()
                });
            }
        });
    }
    wait_until("a client is let in", || {
        let mut client = server.client();
        client.send(b"SET a 1\r\n");
        client.try_reply() == Some(Reply::ok())
    });
    assert!(server.terminate().0.success());
}

/// A large value is not copied for each who reads it, and what they read is what it was.
#[test]
fn a_large_value_is_shared_with_those_who_read_it() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let mut value: Vec<u8> = (0..64 << 20).map(|at| (at / 4096) as u8).collect();
    assert_eq!(client.call(&[b"SET", b"a", &value]), Reply::ok());
    let before = status_of(server.pid(), "VmRSS");
    let mut readers: Vec<_> = (0..20).map(|_| server.client()).collect();
    for reader in &mut readers {
        reader.send(b"GET a\r\n");
        // It has begun: from here on its value stays what it is.
        assert_eq!(reader.read(11), b"$67108864\r\n");
    }
    let grown = status_of(server.pid(), "VmRSS").saturating_sub(before) >> 10;
    assert!(grown < 30, "{grown} MB for twenty readers of 64");
    client.line("SETRANGE a 1000000 changed");
    client.line("APPEND a more");
    let mut first = readers.remove(0);
    assert!(first.read(value.len()) == value);
    drop(readers);
    value[1_000_000..1_000_007].copy_from_slice(b"changed");
    value.extend_from_slice(b"more");
    assert!(client.call(&[b"GET", b"a"]).into_bytes() == value);
    assert_eq!(client.line("DEL a"), Reply::Integer(1));
    server.kill();
    assert!(dump(&mut Server::start(&file).client()).is_empty());
}

/// G13, and as many connections again and again: nothing grows. More with `COFFRE_CROWDS`.
#[test]
#[ignore = "needs thousands of file descriptors"]
fn thousands_of_clients_come_and_go() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let wanted = 10_000.min(room_for_clients());
    let crowds = on_request("COFFRE_CROWDS", 5);
    let start = resident_bytes(server.pid());
    let mut first = admitted(&server);
    let mut growth = Vec::new();
    for crowd in 0..crowds {
        let began = Instant::now();
        let mut clients: Vec<_> = (1..wanted).map(|_| server.client()).collect();
        let connected = began.elapsed();
        clients.iter_mut().for_each(|client| client.send(b"PING\r\n"));
        clients.iter_mut().for_each(|client| assert_eq!(client.reply(), Reply::pong()));
        let answered = began.elapsed();
        if crowd == 0 {
            thread::sleep(Duration::from_secs(3));
            let each = (resident_bytes(server.pid()) - start) / wanted as u64;
            let mut latencies: Vec<_> = (0..1000)
                .map(|_| {
                    let asked = Instant::now();
                    assert_eq!(first.line("PING"), Reply::pong());
                    asked.elapsed()
                })
                .collect();
            latencies.sort();
            println!(
                "{wanted} clients connected in {connected:?}, answered in {answered:?}; {each} bytes \
                 resident each; PING p99 {:?}",
                latencies[990]
            );
            assert!(each <= 16 << 10, "{each} bytes for each client");
        }
        drop(clients);
        wait_until("all have left", || info_of(&mut first, "clients", "connected_clients") == "1");
        wait_until("their threads have ended", || status_of(server.pid(), "Threads") < 13);
        let used: u64 = info_of(&mut first, "memory", "used_memory").parse().unwrap();
        growth.push((used, resident_bytes(server.pid()), descriptors(server.pid())));
    }
    println!(
        "allocated and resident after each crowd, in kB: {:?}",
        growth.iter().map(|(used, bytes, _)| (used >> 10, bytes >> 10)).collect::<Vec<_>>()
    );
    let ((first_used, first_bytes, first_files), (last_used, last_bytes, last_files)) =
        (growth[0], growth[growth.len() - 1]);
    assert!(last_used <= first_used + (64 << 10), "{first_used} became {last_used}");
    // The C library keeps up to 40 MiB of the stacks of threads that have ended.
    assert!(last_bytes <= first_bytes + 40 * MIB, "{first_bytes} became {last_bytes}");
    assert_eq!(first_files, last_files);
}

/// As many as this process may connect.
fn room_for_clients() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20).min(1 << 20);
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum }).unwrap();
    // Two for each: a client reads and writes through descriptors of its own.
    let room = (most as usize - 200) / 2;
    if room < 10_000 {
        println!(
            "SKIPPED: 10,000 clients; {room} instead, the limit of file descriptors is {most}"
        );
    }
    room
}
