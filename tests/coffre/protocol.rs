//! Abuse of the protocol that takes size, time or a look at memory: no transcript shows it.

use std::thread;
use std::time::Duration;

use crate::harness::{
    Reply, Server, folder, has_file, request, resident_bytes, status_of, wait_until,
};

const MIB: u64 = 1 << 20;

/// The server answers a new client.
fn assert_alive(server: &Server) {
    assert_eq!(server.client().line("PING"), Reply::pong());
}

#[test]
fn a_request_may_come_one_byte_at_a_time_with_pauses() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    for byte in b"PING\r\n" {
        client.send(&[*byte]);
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(client.reply(), Reply::pong());
}

#[test]
fn an_endless_inline_line_is_refused_in_bounded_memory() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let before = resident_bytes(server.pid());
    let mut client = server.client();
    client.send(&vec![b'A'; 1_048_577]);
    let expected = b"-ERR Protocol error: too big inline request\r\n";
    assert_eq!(client.read_to_end(), expected);
    let grown = resident_bytes(server.pid()).saturating_sub(before);
    assert!(grown < 4 * MIB, "{grown} bytes");
    assert_alive(&server);
}

#[test]
fn nothing_is_reserved_from_declared_lengths() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let before = resident_bytes(server.pid());
    let clients: Vec<_> = (0..100)
        .map(|number| {
            let mut client = server.client();
            client.send(match number % 2 {
                0 => b"*2\r\n$3\r\nGET\r\n$536870912\r\nA",
                _ => b"*1048576\r\n",
            });
            client
        })
        .collect();
    assert_eq!(server.client().line("SET a 1"), Reply::ok());
    // 16 KiB of buffer and a few pages of stack each.
    let grown = resident_bytes(server.pid()).saturating_sub(before);
    assert!(grown < 8 * MIB, "{grown} bytes for {} clients", clients.len());
}

#[test]
fn keys_and_values_may_hold_any_byte_and_survive_a_restart() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let all_bytes: Vec<u8> = (0..=255).collect();
    let words: &[&[u8]] = &[
        b"",
        b" ",
        b"\n",
        b"\r\n",
        b"\"",
        b"'",
        b"\\",
        b"#",
        b"#= 1 1 00000000 0",
        b"\0",
        &all_bytes,
    ];
    let mut client = server.client();
    for word in words {
        assert_eq!(client.call(&[b"SET", word, word]), Reply::ok());
        assert_eq!(client.call(&[b"APPEND", word, word]), Reply::Integer(2 * word.len() as i64));
    }
    let server = server.restart(&file);
    let mut client = server.client();
    for word in words {
        assert_eq!(client.call(&[b"GET", word]), Reply::Bulk(word.repeat(2)));
    }
    if has_file() {
        assert!(str::from_utf8(&std::fs::read(&file).unwrap()).is_ok());
    }
}

#[test]
fn a_del_of_ten_thousand_keys_is_one_request() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    let keys: Vec<_> = (0..10_000).map(|number| format!("key:{number}").into_bytes()).collect();
    let sets: Vec<_> = keys.iter().flat_map(|key| request(&[b"SET", key, b"1"])).collect();
    client.send(&sets);
    keys.iter().for_each(|_| assert_eq!(client.reply(), Reply::ok()));
    let mut words = vec![&b"DEL"[..]];
    words.extend(keys.iter().map(Vec::as_slice));
    words.push(b"no such key");
    assert_eq!(client.call(&words), Reply::Integer(10_000));
    server.kill();
    assert_eq!(Server::start(&file).client().line("DBSIZE"), Reply::Integer(0));
}

#[test]
fn a_hundred_thousand_requests_in_one_write_are_answered_in_order() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    let mut sent = Vec::new();
    for number in 0..100_000 {
        sent.extend_from_slice(format!("SET key:{} {number}\r\n", number % 1000).as_bytes());
    }
    for key in 0..1000 {
        sent.extend_from_slice(format!("GET key:{key}\r\n").as_bytes());
    }
    client.send(&sent);
    client.half_close();
    (0..100_000).for_each(|_| assert_eq!(client.reply(), Reply::ok()));
    for key in 0..1000 {
        assert_eq!(client.reply(), Reply::bulk(&(99_000 + key).to_string()));
    }
    assert_eq!(client.read_to_end(), b"");
}

#[test]
fn a_request_cut_short_is_never_executed() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let whole = request(&[b"SET", b"half", b"value"]);
    for cut in 1..whole.len() {
        let mut client = server.client();
        client.send(&whole[..cut]);
        client.half_close();
        assert_eq!(client.read_to_end(), b"");
    }
    assert_eq!(server.client().line("EXISTS half"), Reply::Integer(0));
}

#[test]
fn hostile_patterns_are_answered() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    client.call(&[b"SET", &[b'a'; 100], b"1"]);
    client.call(&[b"SET", &[b'a'; 40_000], b"1"]);
    let patterns = [
        [b"a*".repeat(50), b"b".to_vec()].concat(),
        [b"*[".to_vec(), vec![b'z'; 40_000], b"]".to_vec()].concat(),
        b"*?".repeat(30_000),
        [b"*a?".to_vec(), vec![b'a'; 20_000], b"b*".to_vec()].concat(),
        b"[".to_vec(),
        b"[^".to_vec(),
        b"\\".to_vec(),
    ];
    for pattern in &patterns {
        // A matcher that backtracks answers the first one never.
        assert!(matches!(client.call(&[b"KEYS", pattern]), Reply::Array(_)));
    }
    let reply = client.call(&[b"KEYS", &vec![b'a'; 65_537]]);
    assert_eq!(reply.error(), "ERR pattern is longer than 65536 bytes");
    assert_alive(&server);
}

#[test]
fn one_client_too_many_is_told_and_a_place_comes_back() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--maxclients", "3"]);
    let mut clients: Vec<_> = (0..3).map(|_| server.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.line("PING"), Reply::pong()));
    assert_eq!(server.client().read_to_end(), b"-ERR max number of clients reached\r\n");
    clients.iter_mut().for_each(|client| assert_eq!(client.line("PING"), Reply::pong()));
    clients.pop();
    wait_until("a place is free", || {
        let mut client = server.client();
        client.send(b"PING\r\n");
        client.try_reply() == Some(Reply::pong())
    });
}

#[test]
fn a_reader_that_never_reads_does_not_hold_the_others_up() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--write-timeout", "0"]);
    let mut client = server.client();
    client.call(&[b"SET", b"big", &vec![b'v'; 1 << 20]]);
    let mut deaf = server.client();
    deaf.send(&b"GET big\r\n".repeat(300));
    for number in 0..100 {
        assert_eq!(client.line(&format!("SET big {number}")), Reply::ok());
    }
    let resident = resident_bytes(server.pid());
    assert!(resident < 64 * MIB, "{resident} bytes");
    assert_alive(&server);
}

#[test]
fn what_a_burst_keeps_for_taking_writes_back_is_bounded() {
    let (_folder, file) = folder();
    for (fsync, line) in [
        ("always", "SETRANGE a 20000000 x\r\nDEL a\r\n"),
        ("no", "SETRANGE a 20000000 x\r\nSET a 1\r\n"),
        ("no", "FLUSHALL\r\nFLUSHALL\r\n"),
    ] {
        let server = Server::with(&file, &["--fsync", fsync]);
        let mut client = server.client();
        client.send(line.repeat(50).as_bytes());
        (0..100).for_each(|_| assert!(!matches!(client.reply(), Reply::Error(_))));
        let peak = status_of(server.pid(), "VmHWM");
        assert!(peak < 128 << 10, "{line}: {peak} kB");
    }
}

#[test]
fn foreign_protocols_are_logged_once_a_minute() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    for _ in 0..5 {
        let mut client = server.client();
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(client.read_to_end(), b"");
    }
    let (_, log) = server.terminate();
    assert_eq!(log.matches("an HTTP request").count(), 1, "{log}");
}

#[test]
fn hello_chooses_the_form_of_replies() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    let id = match client.line("CLIENT ID") {
        Reply::Integer(id) => id,
        other => panic!("{other:?}"),
    };
    let mut expect = |line: &str, reply: &str| {
        client.send(format!("{line}\r\n").as_bytes());
        assert_eq!(
            client.read(reply.len()).escape_ascii().to_string(),
            reply.as_bytes().escape_ascii().to_string()
        );
    };
    let hello = |start: &str, protocol: u8| {
        format!(
            "{start}$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.4.0\r\n$5\r\nproto\r\n:{protocol}\r\n\
             $2\r\nid\r\n:{id}\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n\
             $7\r\nmodules\r\n*0\r\n"
        )
    };
    expect("HELLO", &hello("*14\r\n", 2));
    expect("GET none", "$-1\r\n");
    expect("HELLO 3 AUTH default anything SETNAME me", &hello("%7\r\n", 3));
    expect("GET none", "_\r\n");
    expect("CLIENT GETNAME", "$2\r\nme\r\n");
    expect("CONFIG GET appendonly", "%1\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n");
    expect("INFO cluster", "=34\r\ntxt:# Cluster\r\ncluster_enabled:0\r\n\r\n");
    expect("HELLO", &hello("%7\r\n", 3));
    expect("RESET", "+RESET\r\n");
    expect("GET none", "$-1\r\n");
    expect("CLIENT GETNAME", "$-1\r\n");
}

#[test]
fn hello_and_reset_mind_the_password() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--requirepass", "sesame"]);
    let mut client = server.client();
    assert!(client.line("HELLO 3").error().starts_with("NOAUTH HELLO must be called with"));
    assert!(client.line("HELLO 3 AUTH default wrong").error().starts_with("WRONGPASS "));
    assert!(client.line("PING").error().starts_with("NOAUTH "));
    assert!(matches!(client.line("HELLO 2 AUTH default sesame"), Reply::Array(_)));
    assert_eq!(client.line("PING"), Reply::pong());
    assert_eq!(client.line("RESET"), Reply::Status("RESET".to_owned()));
    assert!(client.line("PING").error().starts_with("NOAUTH "));
    // And a stranger's requests are tiny again.
    client.send(b"*11\r\n");
    assert!(client.reply().error().contains("unauthenticated multibulk length"));
}

#[test]
fn commands_are_counted_as_they_are_listed() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    let Reply::Array(names) = client.line("COMMAND LIST") else { panic!() };
    assert!(names.contains(&Reply::bulk("get")));
    assert!(names.contains(&Reply::bulk("client|list")));
    // As in Redis, subcommands are listed, and do not count.
    let is_whole = |name: &&Reply| !(*name).clone().into_bytes().contains(&b'|');
    let count = names.iter().filter(is_whole).count();
    assert_eq!(client.line("COMMAND COUNT"), Reply::Integer(count as i64));
}
