//! Many clients at once, against what must be true whatever the order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::harness::{Client, Reply, Server, dump, folder};

const CLIENTS: usize = 16;
const ROUNDS: usize = 200;

/// Runs `work` for each of the clients at once; it gets the client and its number.
fn at_once(server: &Server, work: impl Fn(Client, usize) + Sync) {
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (client, work) = (server.client(), &work);
            scope.spawn(move || work(client, number));
        }
    });
}

#[test]
fn appends_of_many_clients_are_all_there_once_and_in_order() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    at_once(&server, |mut client, number| {
        let mut last_length = 0;
        for round in 0..ROUNDS {
            let reply = client.line(&format!("APPEND log {number}-{round},"));
            let Reply::Integer(length) = reply else { panic!("{reply:?}") };
            assert!(length > last_length);
            last_length = length;
        }
    });
    let state = dump(&mut server.client());
    let log = String::from_utf8(state[&b"log"[..]].clone()).unwrap();
    let mut next: HashMap<&str, usize> = HashMap::new();
    for token in log.split_terminator(',') {
        let (client, round) = token.split_once('-').unwrap();
        let expected = next.entry(client).or_default();
        assert_eq!(round.parse(), Ok(*expected));
        *expected += 1;
    }
    assert!(next.len() == CLIENTS && next.values().all(|count| *count == ROUNDS));
    assert_eq!(dump(&mut server.restart(&file).client()), state);
}

#[test]
fn each_client_reads_its_own_writes() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    at_once(&server, |mut client, number| {
        for round in 0..ROUNDS {
            let key = format!("key:{number}:{}", round % 10);
            assert_eq!(client.line(&format!("SET {key} {round}")), Reply::ok());
            assert_eq!(client.line(&format!("GET {key}")), Reply::bulk(&round.to_string()));
            if round % 7 == 0 {
                assert_eq!(client.line(&format!("DEL {key} nothing")), Reply::Integer(1));
                assert_eq!(client.line(&format!("GET {key}")), Reply::Nil);
            }
        }
    });
}

#[test]
fn del_and_exists_of_several_keys_happen_at_one_moment() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    // One DEL of three keys removes all three, another none, and EXISTS counts all of them or none.
    let mut setter = server.client();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = server.client();
            while !is_over.load(Ordering::Relaxed) {
                let count = client.line("EXISTS a b c");
                assert!(matches!(count, Reply::Integer(0 | 3)), "{count:?}");
            }
        });
        for round in 0..ROUNDS {
            assert_eq!(setter.line(&format!("MSET a {round} b {round} c {round}")), Reply::ok());
            let wins: Vec<_> = (0..2)
                .map(|_| {
                    let mut client = server.client();
                    scope.spawn(move || client.line("DEL a b c"))
                })
                .collect();
            let mut wins: Vec<_> =
                wins.into_iter().map(|win| format!("{:?}", win.join())).collect();
            wins.sort();
            assert_eq!(wins, ["Ok(Integer(0))", "Ok(Integer(3))"]);
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_flushall_among_writers_is_replayed_as_it_happened() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    thread::scope(|scope| {
        for client_number in 0..8 {
            let mut client = server.client();
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    assert_eq!(
                        client.line(&format!("SET k:{client_number}:{round} 1")),
                        Reply::ok()
                    );
                }
            });
        }
        let mut client = server.client();
        scope.spawn(move || (0..20).for_each(|_| assert_eq!(client.line("FLUSHALL"), Reply::ok())));
    });
    let before = dump(&mut server.client());
    let server = server.restart(&file);
    assert_eq!(dump(&mut server.client()), before);
    assert_eq!(server.client().line("FLUSHALL"), Reply::ok());
    server.kill();
    assert!(dump(&mut Server::start(&file).client()).is_empty());
}
