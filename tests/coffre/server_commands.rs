//! The commands on the server as a whole: settings that change while it runs, counters, `DEBUG`, idle times.

use std::time::Duration;

use crate::databases::write_databases;
use crate::harness::{Client, Reply, Server, folder, info_of, wait_until};

#[test]
fn settings_take_effect_at_once() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    let set = |client: &mut Client, line: &str| {
        assert_eq!(client.line(&format!("CONFIG SET {line}")), Reply::ok());
    };
    set(&mut client, "maxclients 2");
    let other = server.client();
    let refused = server.client().read_to_end();
    assert_eq!(refused, b"-ERR max number of clients reached\r\n");
    set(&mut client, "maxclients 100 maxmemory 1");
    assert!(client.line("SET a 1").error().starts_with("OOM"));
    set(&mut client, "maxmemory 0 slowlog-log-slower-than 0 slowlog-max-len 2");
    for _ in 0..5 {
        assert_eq!(client.line("SET a 1"), Reply::ok());
    }
    assert_eq!(client.line("SLOWLOG LEN"), Reply::Integer(2));
    // Nothing of what is refused in part is done.
    let refused = client.line("CONFIG SET slowlog-max-len 0 databases 3");
    assert!(refused.error().ends_with("can't set immutable config"), "{refused:?}");
    assert_eq!(client.line("SLOWLOG LEN"), Reply::Integer(2));
    set(&mut client, "timeout 1");
    drop(other);
    let mut idle = server.client();
    assert_eq!(idle.line("PING"), Reply::pong());
    assert_eq!(idle.read_to_end(), b"");
    // The next run begins as the flags say.
    assert!(server.terminate().0.success());
    let server = Server::start(&file);
    let mut client = server.client();
    assert_eq!(
        client.line("CONFIG GET timeout"),
        Reply::Array(["timeout", "0"].map(Reply::bulk).to_vec())
    );
}

#[test]
fn counters_begin_anew() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    for _ in 0..10 {
        client.line("GET a");
        client.line("FOO");
    }
    let read = |client: &mut Client, name| info_of(client, "stats", name).parse::<u64>().unwrap();
    assert_eq!(read(&mut client, "keyspace_misses"), 10);
    // As in Redis, what is no command counts too.
    assert_eq!(read(&mut client, "total_error_replies"), 10);
    client.line("GET");
    client.line("CONFIG FOO");
    assert_eq!(read(&mut client, "total_error_replies"), 12);
    assert_eq!(client.line("CONFIG RESETSTAT"), Reply::ok());
    assert_eq!(read(&mut client, "keyspace_misses"), 0);
    assert_eq!(read(&mut client, "total_error_replies"), 0);
    assert!(read(&mut client, "total_commands_processed") < 5);
    assert_eq!(read(&mut client, "total_connections_received"), 0);
}

#[test]
fn errors_are_counted_by_what_they_begin_with() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--requirepass", "secret"]);
    let mut client = server.client();
    for line in ["GET a", "AUTH wrong", "AUTH secret", "SET a x", "INCR a", "GET"] {
        client.line(line);
    }
    // Two errors within, and two that refuse a transaction whole.
    for line in ["MULTI", "INCR a", "INCR a", "EXEC", "MULTI", "NOSUCH", "EXEC"] {
        client.line(line);
    }
    let counts = |client: &mut Client| {
        String::from_utf8(client.line("INFO errorstats").into_bytes()).unwrap()
    };
    let expected = [
        "# Errorstats",
        "errorstat_ERR:count=5",
        "errorstat_EXECABORT:count=1",
        "errorstat_NOAUTH:count=1",
        "errorstat_WRONGPASS:count=1",
    ];
    assert_eq!(counts(&mut client).lines().collect::<Vec<_>>(), expected);
    assert_eq!(info_of(&mut client, "stats", "total_error_replies"), "8");
    // What is no request is answered by an error, too.
    let mut broken = server.client();
    broken.send(b"*1\r\n:1\r\n");
    broken.read_to_end();
    assert!(counts(&mut client).contains("errorstat_ERR:count=6\r\n"));
    assert_eq!(client.line("CONFIG RESETSTAT"), Reply::ok());
    assert_eq!(counts(&mut client), "# Errorstats\r\n");
}

#[test]
fn how_long_commands_took_is_told() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--enable-debug-command", "yes"]);
    let mut client = server.client();
    client.line("HELLO 3");
    for line in ["GET a", "GET a", "DEBUG SLEEP 0.02", "GET", "CONFIG GET port"] {
        client.line(line);
    }
    let mut histograms = |line: &str| {
        let Reply::Map(commands) = client.line(line) else { panic!("{line}") };
        let of_command = |(name, histogram): (Reply, Reply)| {
            let Reply::Map(fields) = histogram else { panic!("{line}") };
            let [(_, Reply::Integer(calls)), (_, Reply::Map(counts))] = &fields[..] else {
                panic!("{fields:?}")
            };
            let counts = counts.iter().map(|pair| match pair {
                (Reply::Integer(longest_us), Reply::Integer(count)) => (*longest_us, *count),
                other => panic!("{other:?}"),
            });
            let counts: Vec<(i64, i64)> = counts.collect();
            (String::from_utf8(name.into_bytes()).unwrap(), *calls, counts)
        };
        commands.into_iter().map(of_command).collect::<Vec<_>>()
    };
    // One that was refused was not run.
    let all = histograms("LATENCY HISTOGRAM");
    let calls: Vec<_> = all.iter().map(|(name, calls, _)| (name.as_str(), *calls)).collect();
    assert_eq!(calls.len(), 4, "{calls:?}");
    for expected in [("get", 2), ("hello", 1), ("debug", 1), ("config|get", 1)] {
        assert!(calls.contains(&expected), "{calls:?}");
    }
    for (name, calls, counts) in &all {
        assert!(counts.is_sorted() && counts.last().unwrap().1 == *calls, "{name}: {counts:?}");
    }
    // 20 ms are more than 16.9 and less than 33.8.
    let slept = histograms("LATENCY HISTOGRAM debug nosuch");
    assert!(slept.len() == 1 && slept[0].2[0].0 >= 33_816, "{slept:?}");
    let of_config = histograms("LATENCY HISTOGRAM config");
    assert_eq!((of_config.len(), of_config[0].0.as_str()), (1, "config|get"));
    client.line("HELLO 2");
    let line = info_of(&mut client, "latencystats", "latency_percentiles_usec_debug");
    let shares: Vec<f64> = line
        .split(',')
        .zip(["p50=", "p99=", "p99.9="])
        .map(|(share, name)| share.strip_prefix(name).unwrap().parse().unwrap())
        .collect();
    assert!(shares.len() == 3 && shares[0] >= 20_000.0 && shares.is_sorted(), "{line}");
    client.line("CONFIG RESETSTAT");
    assert_eq!(client.line("LATENCY HISTOGRAM debug"), Reply::Array(Vec::new()));
}

#[test]
fn idle_times_are_those_of_the_key() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    client.line("SET a 1");
    let idle = |client: &mut Client| match client.line("OBJECT IDLETIME a") {
        Reply::Integer(idle_s) => idle_s,
        other => panic!("{other:?}"),
    };
    wait_until("it is idle", || idle(&mut client) == 2);
    // These look at it without asking for it.
    for line in ["TTL a", "TYPE a", "OBJECT ENCODING a", "EXISTS a", "CLIENT NO-TOUCH ON", "GET a"]
    {
        client.line(line);
    }
    assert!(idle(&mut client) >= 2);
    assert_eq!(client.line("TOUCH a b"), Reply::Integer(1));
    assert!(idle(&mut client) <= 1);
    wait_until("it is idle again", || idle(&mut client) == 2);
    assert_eq!(client.line("CLIENT NO-TOUCH OFF"), Reply::ok());
    assert_eq!(client.line("GET a"), Reply::bulk("1"));
    assert!(idle(&mut client) <= 1);
}

#[test]
fn debug_is_what_tests_need() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--enable-debug-command", "local", "--fsync", "no"]);
    let mut client = server.client();
    write_databases(&mut client, 100_000);
    let digest = client.line("DEBUG DIGEST");
    assert_eq!(client.line("DEBUG RELOAD"), Reply::ok());
    assert_eq!(client.line("DEBUG LOADAOF"), Reply::ok());
    assert_eq!(client.line("DEBUG DIGEST"), digest);
    client.line("SET other 1");
    assert_ne!(client.line("DEBUG DIGEST"), digest);
    client.line("DEL other");
    assert_eq!(client.line("DEBUG DIGEST"), digest);

    assert_eq!(client.line("DEBUG SET-ACTIVE-EXPIRE 0"), Reply::ok());
    assert_eq!(client.line("SELECT 9"), Reply::ok());
    assert_eq!(client.line("SET a 1 PX 1"), Reply::ok());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((client.line("GET a"), client.line("DBSIZE")), (Reply::Nil, Reply::Integer(1)));
    assert_eq!(client.line("DEBUG RELOAD"), Reply::ok());
    assert_eq!(client.line("DEBUG SET-ACTIVE-EXPIRE 1"), Reply::ok());
    wait_until("it is removed", || client.line("DBSIZE") == Reply::Integer(0));

    client.line("SET a 12");
    let shown = client.line("DEBUG OBJECT a");
    assert!(shown.error_or_status().contains(" encoding:int serializedlength:2 "), "{shown:?}");
    assert_eq!(client.line("DEBUG OBJECT b").error(), "ERR no such key");
    assert_eq!(client.line("DEBUG STRINGMATCH-LEN 1000 a*a*a*b"), Reply::Integer(0));
    assert_eq!(client.line("DEBUG STRINGMATCH-LEN 1000 a*a*a*"), Reply::Integer(1));
    let Reply::Array(digests) = client.line("DEBUG DIGEST-VALUE a b") else { panic!() };
    assert!(digests[0] != digests[1] && digests[1] == Reply::bulk(&"0".repeat(40)));
    assert_eq!(client.line("DEBUG JMAP"), Reply::ok());
    let Reply::Array(help) = client.line("DEBUG HELP") else { panic!() };
    let names = ["SLEEP", "PANIC", "OBJECT", "RELOAD", "HELP"];
    for name in names {
        let is_of = |line: &&Reply| line.error_or_status().starts_with(name);
        assert_eq!(help.iter().filter(is_of).count(), 1, "{name}: {help:?}");
    }
    let unknown = client.line("DEBUG SEGFAULT");
    assert_eq!(unknown.error(), "ERR unknown subcommand 'SEGFAULT'. Try DEBUG HELP.");
}

/// What is in the file and what is in memory are compared, not only read.
#[test]
fn a_reload_notices_a_file_that_tells_something_else() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--enable-debug-command", "yes", "--fsync", "no"]);
    let mut client = server.client();
    assert_eq!(client.line("SET key:1 value"), Reply::ok());
    assert_eq!(client.line("DEBUG RELOAD"), Reply::ok());
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("SET key:1 value", "SET key:2 value")).unwrap();
    assert!(client.line("DEBUG RELOAD").error().starts_with("ERR "));
}

/// What docs/compatibility.md says is not there.
#[test]
fn the_table_of_absent_commands_is_true() {
    let page = include_str!("../../docs/compatibility.md");
    let section = page.split("## Commands that are not there").nth(1).unwrap();
    let rows = section.split("## ").next().unwrap().lines().filter(|line| line.starts_with("| `"));
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let (mut client, mut count) = (server.client(), 0);
    for row in rows {
        let commands = row.split('|').nth(1).unwrap();
        for command in commands.split('`').skip(1).step_by(2) {
            let reply = client.line(command);
            assert!(reply.error().contains("unknown"), "{command}: {reply:?}");
            count += 1;
        }
    }
    assert!(count > 30, "{count} commands");
}
