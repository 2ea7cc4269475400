//! Clients that are idle, slow, deaf or gone.

use std::net::Shutdown;
use std::time::Duration;

use crate::harness::{
    Reply, Server, descriptors, folder, info_of, request, resident_bytes, status_of, wait_until,
};

/// The connections of a server but the one that asks.
fn others(server: &Server) -> u64 {
    let count = info_of(&mut server.client(), "clients", "connected_clients");
    count.parse::<u64>().unwrap() - 1
}

#[test]
fn an_idle_client_is_closed_if_that_is_asked_for() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--timeout", "3"]);
    let (mut busy, mut watcher, mut idle) = (server.client(), server.client(), server.client());
    assert_eq!(watcher.line("MONITOR"), Reply::ok());
    assert_eq!(idle.line("PING"), Reply::pong());
    // A few milliseconds between two of its requests.
    wait_until("the idle client is closed", || {
        info_of(&mut busy, "stats", "coffre_timed_out_clients") != "0"
    });
    assert_eq!(info_of(&mut busy, "stats", "coffre_timed_out_clients"), "1");
    assert_eq!(idle.read_to_end(), b"");
    // A monitor has been silent for longer, and is not idle.
    assert!(matches!(watcher.reply(), Reply::Status(_)));
}

#[test]
fn an_idle_client_stays_otherwise_and_may_go_on() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    let value = vec![b'v'; 100_000];
    for _ in 0..2 {
        assert_eq!(client.call(&[b"SET", b"a", &value]), Reply::ok());
        // It gives its buffers back after a second.
        std::thread::sleep(Duration::from_millis(1300));
        assert_eq!(client.call(&[b"GET", b"a"]), Reply::Bulk(value.clone()));
    }
}

#[test]
fn half_a_request_is_never_run_however_it_ends() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let set = request(&[b"SET", b"half", b"value"]);
    for length in 1..set.len() {
        let mut client = server.client();
        client.send(&set[..length]);
        match length % 3 {
            0 => drop(client),
            1 => {
                client.half_close();
                assert_eq!(client.read_to_end(), b"");
            }
            _ => {
                let socket = socket2::SockRef::from(&client.stream);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
                drop(client);
            }
        }
    }
    wait_until("all have left", || others(&server) == 0);
    assert_eq!(server.client().line("EXISTS half"), Reply::Integer(0));
    // What was complete before the end is answered.
    let mut client = server.client();
    client.send(b"SET a 1\r\nGET a\r\n");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end(), b"+OK\r\n$1\r\n1\r\n");
}

#[test]
fn a_request_has_a_deadline_as_a_whole() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--request-timeout", "2"]);
    let told = b"-ERR Protocol error: it took too long\r\n";
    // Silence in the middle, and a byte now and then.
    let mut silent = server.client();
    silent.send(b"PING\r\n*2\r\n$3\r\nGET\r\n");
    let mut trickling: Vec<_> = (0..20).map(|_| server.client()).collect();
    wait_until("all are closed", || {
        for client in &mut trickling {
            use std::io::Write;
            // Once it is closed that fails.
            let _ = client.stream.write_all(b"A");
        }
        std::thread::sleep(Duration::from_millis(200));
        info_of(&mut server.client(), "stats", "coffre_timed_out_clients") == "21"
    });
    assert_eq!(silent.read_to_end(), [b"+PONG\r\n", &told[..]].concat());
    for client in &mut trickling {
        let mut all = Vec::new();
        // What it sent after it was closed may have reset it.
        while let Some(reply) = client.try_reply() {
            all.push(reply);
        }
        assert!(all.len() <= 1, "{all:?}");
    }
    wait_until("their places are free", || others(&server) == 0);
}

#[test]
fn what_is_no_request_has_no_deadline_even_in_pieces() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--request-timeout", "1"]);
    let mut clients: Vec<_> = [("# com", "ment\r\n"), ("\r", "\n"), ("*0\r", "\n")]
        .map(|(first, second)| {
            let mut client = server.client();
            client.send(first.as_bytes());
            std::thread::sleep(Duration::from_millis(50));
            client.send(second.as_bytes());
            client
        })
        .into();
    std::thread::sleep(Duration::from_millis(2500));
    clients.iter_mut().for_each(|client| assert_eq!(client.line("PING"), Reply::pong()));
}

#[test]
fn idleness_is_bounded_in_the_middle_of_a_request_and_for_strangers_too() {
    let (_folder, file) = folder();
    let flags = ["--timeout", "1", "--request-timeout", "0"];
    let server = Server::with(&file, &flags);
    let mut half = server.client();
    half.send(b"GET a");
    assert_eq!(half.read_to_end(), b"");
    drop(server);
    let server = Server::with(&file, &[&flags[..], &["--requirepass", "x"]].concat());
    assert_eq!(server.client().read_to_end(), b"");
}

#[test]
fn a_large_request_that_goes_on_has_all_the_time_it_needs() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--request-timeout", "1"]);
    let mut client = server.client();
    let value = vec![b'v'; 300_000];
    let set = request(&[b"SET", b"a", &value]);
    // For three seconds, faster than 16 KiB each.
    for piece in set.chunks(10_000) {
        client.send(piece);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(client.reply(), Reply::ok());
    assert_eq!(client.call(&[b"GET", b"a"]), Reply::Bulk(value));
}

#[test]
fn a_reader_that_takes_nothing_is_closed() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--write-timeout", "1"]);
    let mut client = server.client();
    client.call(&[b"SET", b"big", &vec![b'v'; 8 << 20]]);
    let mut deaf = server.client();
    deaf.send(&b"GET big\r\n".repeat(3));
    wait_until("its bytes wait", || {
        let Reply::Bulk(list) = client.line("CLIENT LIST ID 2") else { panic!() };
        String::from_utf8(list).unwrap().contains(" omem=8388")
    });
    wait_until("it is closed", || others(&server) == 1);
    assert_eq!(info_of(&mut client, "stats", "coffre_not_reading_clients"), "1");
    server.expect_log("does not read its replies: closed");
    // A slow one that takes something each time is served.
    let mut slow = server.client();
    slow.send(b"GET big\r\n");
    for _ in 0..16 {
        slow.read(512 << 10);
        std::thread::sleep(Duration::from_millis(150));
    }
    slow.read(12);
    assert_eq!(slow.line("PING"), Reply::pong());
}

#[test]
fn the_network_is_asked_whether_a_silent_client_is_still_there() {
    let (_folder, file) = folder();
    for (flags, timer) in [(&[][..], "02"), (&["--tcp-keepalive", "0"], "00")] {
        let server = Server::with(&file, flags);
        let mut client = server.client();
        assert_eq!(client.line("PING"), Reply::pong());
        // The kernel's own list: local address, peer, state 01 for established, queues, timer.
        let peer = format!(":{:04X}", client.stream.local_addr().unwrap().port());
        wait_until("no packet is on its way", || {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let line = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let ours = |words: &Vec<&str>| words[2].ends_with(&peer) && words[3] == "01";
            line.filter(ours).any(|words| words[5].starts_with(timer))
        });
    }
}

/// Half of them are reset, some before they are accepted.
#[test]
fn clients_that_come_and_go_at_once_leave_nothing() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let files = descriptors(server.pid());
    let rush = || {
        std::thread::scope(|scope| {
            for half in 0..2 {
                let server = &server;
                scope.spawn(move || {
                    for _ in 0..2000 {
                        let client = server.client();
                        let linger = (half == 0).then_some(Duration::ZERO);
                        socket2::SockRef::from(&client.stream).set_linger(linger).unwrap();
                    }
                });
            }
        });
        wait_until("all have left", || others(&server) == 0);
        wait_until("their threads have ended", || status_of(server.pid(), "Threads") < 12);
        // There may have been one more when they were counted: the server looks through its folder at first.
        wait_until("their connections are closed", || descriptors(server.pid()) <= files);
        let used = info_of(&mut server.client(), "memory", "used_memory");
        (resident_bytes(server.pid()), used.parse::<u64>().unwrap())
    };
    let (before, after) = (rush(), rush());
    assert!(after.0 <= before.0 + (4 << 20), "resident {before:?} {after:?}");
    assert!(after.1 <= before.1 + (100 << 10), "used {before:?} {after:?}");
}
