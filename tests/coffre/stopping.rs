//! Signals, `SHUTDOWN`, and panics: how it ends, and what is there afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Reply, Server, folder, info_of, is_durable, wait_until};

/// Without deadlines of clients a stop that waited for one would never end.
const NO_DEADLINES: [&str; 4] = ["--request-timeout", "0", "--write-timeout", "0"];

#[test]
fn a_thousand_waiting_clients_do_not_delay_the_end() {
    let (_folder, file) = folder();
    let mut server = Server::with(&file, &NO_DEADLINES);
    server.client().call(&[b"SET", b"big", &vec![b'v'; 32 << 20]]);
    let mut readers: Vec<_> = (0..1000).map(|_| server.client()).collect();
    readers.iter_mut().for_each(|client| client.send(b"PING\r\nSET half"));
    readers.iter_mut().for_each(|client| {
        assert_eq!(client.reply(), Reply::Status("PONG".to_owned()));
    });
    let mut writers: Vec<_> = (0..10).map(|_| server.client()).collect();
    writers.iter_mut().for_each(|client| client.send(b"SET a 1\r\nGET big\r\n"));
    writers.iter_mut().for_each(|client| assert_eq!(client.reply(), Reply::ok()));
    assert!(matches!(server.client().line("BGREWRITEAOF"), Reply::Status(_)));
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    for client in &mut readers {
        assert_eq!(client.read_to_end(), b"-ERR server is shutting down\r\n");
    }
    if is_durable() {
        assert_eq!(Server::start(&file).client().line("EXISTS a half big"), Reply::Integer(2));
    }
}

#[test]
fn shutdown_stops_as_a_signal_does() {
    for command in ["SHUTDOWN", "shutdown nosave", "SHUTDOWN SAVE NOW", "SHUTDOWN FORCE"] {
        let (_folder, file) = folder();
        let mut server = Server::with(&file, &["--fsync", "no"]);
        let (mut client, mut other) = (server.client(), server.client());
        assert_eq!(other.line("PING"), Reply::Status("PONG".to_owned()));
        client.send(format!("SET a 1\r\n{command}\r\nSET b 1\r\n").as_bytes());
        // No reply to it, as in Redis: the connection closes.
        assert_eq!(client.read_to_end(), b"+OK\r\n", "{command}");
        assert_eq!(other.read_to_end(), b"-ERR server is shutting down\r\n");
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        if is_durable() {
            assert_eq!(Server::start(&file).client().line("EXISTS a b"), Reply::Integer(1));
        }
    }
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    for (line, error) in [
        ("SHUTDOWN SAVE NOSAVE", "ERR syntax error"),
        ("SHUTDOWN later", "ERR syntax error"),
        ("SHUTDOWN ABORT", "ERR No shutdown in progress."),
    ] {
        assert_eq!(client.line(line).error(), error);
    }
}

#[test]
fn shutdown_is_refused_while_nothing_can_be_saved_unless_it_is_meant() {
    let (folder, file) = folder();
    let mut server = Server::start(&file);
    let mut client = server.client();
    assert_eq!(client.line("SET a 1"), Reply::ok());
    std::fs::remove_dir_all(folder.path()).unwrap();
    wait_until("it is noticed", || {
        info_of(&mut client, "persistence", "aof_last_write_status") == "err"
    });
    assert_eq!(client.line("SHUTDOWN").error(), "ERR Errors trying to SHUTDOWN. Check logs.");
    server.expect_log("SHUTDOWN refused: not everything can be saved");
    assert_eq!(client.line("GET a"), Reply::bulk("1"));
    client.send(b"SHUTDOWN NOSAVE\r\n");
    assert_eq!(server.wait().code(), Some(5), "{}", server.log());
}

#[test]
fn a_panic_in_a_connection_costs_that_connection() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--enable-debug-command", "yes"]);
    let mut other = server.client();
    for _ in 0..3 {
        let mut client = server.client();
        client.send(b"SET a 1\r\nDEBUG PANIC\r\nSET b 1\r\n");
        // What came before is not answered, and may have been done.
        assert_eq!(client.try_reply(), None);
    }
    assert_eq!(other.line("EXISTS b"), Reply::Integer(0));
    assert_eq!(other.line("SET c 1"), Reply::ok());
    wait_until("all are counted", || {
        info_of(&mut other, "stats", "coffre_panicked_clients") == "3"
    });
    wait_until("their places are free", || {
        info_of(&mut other, "clients", "connected_clients") == "1"
    });
    let (status, log) = server.terminate();
    assert!(status.success() && log.contains("its thread panicked: closed"), "{log}");
}

#[test]
fn a_panic_inside_a_lock_ends_the_process_and_a_restart_has_everything() {
    for place in ["SHARD", "JOURNAL"] {
        let (_folder, file) = folder();
        let mut server = Server::with(&file, &["--enable-debug-command", "local"]);
        let mut client = server.client();
        for number in 0..100 {
            assert_eq!(client.line(&format!("SET key:{number} {number}")), Reply::ok());
        }
        client.send(format!("DEBUG PANIC {place}\r\n").as_bytes());
        assert_eq!(client.try_reply(), None);
        // Aborted: no exit code, and no process that hangs.
        assert_eq!(server.wait().code(), None, "{place}");
        assert!(server.log().contains("a thread panicked inside a lock"), "{}", server.log());
        if is_durable() {
            let server = Server::start(&file);
            assert_eq!(server.client().line("DBSIZE"), Reply::Integer(100));
        }
    }
}

#[test]
fn a_storm_of_signals_has_no_effect() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let pid = rustix::process::Pid::from_raw(server.pid() as i32).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for signal in [Signal::WINCH, Signal::USR1, Signal::HUP] {
                    rustix::process::kill_process(pid, signal).unwrap();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let mut client = server.client();
        let value = vec![b'v'; 100_000];
        for number in 0..200 {
            let key = format!("key:{}", number % 5);
            assert_eq!(client.call(&[b"SET", key.as_bytes(), &value]), Reply::ok());
            assert_eq!(client.call(&[b"GET", key.as_bytes()]), Reply::Bulk(value.clone()));
        }
        over.store(true, Ordering::Relaxed);
    });
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    if is_durable() {
        assert_eq!(Server::start(&file).client().line("DBSIZE"), Reply::Integer(5));
    }
}
