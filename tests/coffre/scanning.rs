//! `SCAN` while keys come and go: a key that is there throughout is seen once, whatever happens to the others. `KEYS` with a
//! prefix, with an index and without one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coffre::engine::local::LocalEngine;
use coffre::journal::{Fsync, Recovery};

use crate::handle::{Access, Handle};
use crate::harness::{Client, Reply, Server, folder, request};
use crate::simulated_disk::SimulatedDisk;

/// Everything that a full iteration shows, each request on the next of the connections.
fn scan_all(clients: &mut [Client], options: &str) -> HashMap<Vec<u8>, u32> {
    let (mut cursor, mut seen, mut turn) = ("0".to_owned(), HashMap::new(), 0);
    loop {
        let client = turn % clients.len();
        turn += 1;
        let Reply::Array(mut reply) = clients[client].line(&format!("SCAN {cursor} {options}"))
        else {
            panic!("no array")
        };
        let Some(Reply::Array(keys)) = reply.pop() else { panic!("no keys") };
        for key in keys {
            *seen.entry(key.into_bytes()).or_insert(0) += 1;
        }
        cursor = String::from_utf8(reply.pop().unwrap().into_bytes()).unwrap();
        if cursor == "0" {
            return seen;
        }
        assert!(turn < 1_000_000, "it does not end");
    }
}

#[test]
fn who_is_there_throughout_is_seen_once() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let stay = 5_000;
    let mut client = server.client();
    let sets: Vec<u8> = (0..stay)
        .flat_map(|number| request(&[b"SET", format!("stay:{number}").as_bytes(), b"1"]))
        .collect();
    client.send(&sets);
    (0..stay).for_each(|_| assert_eq!(client.reply(), Reply::ok()));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (server, is_over) = (&server, &is_over);
            scope.spawn(move || {
                let (mut client, mut random) = (server.client(), fastrand::Rng::with_seed(seed));
                let mut most = 0;
                while !is_over.load(Ordering::Relaxed) {
                    // Tables grow to several times their size, and keys that stay are written again.
                    most = if most > 20_000 { 0 } else { most + 2_000 };
                    let mut lines = String::new();
                    for number in 0..500 {
                        let key = random.u32(..20_000);
                        let line = match number % 5 {
                            _ if key > most => format!("DEL come:{key}\r\n"),
                            0 => format!("SET stay:{} {number}\r\n", key % 5_000),
                            1 => format!("EXPIRE stay:{} 100000\r\n", key % 5_000),
                            _ => format!("SET come:{key} 1\r\n"),
                        };
                        lines.push_str(&line);
                    }
                    client.send(lines.as_bytes());
                    (0..500).for_each(|_| drop(client.reply()));
                }
            });
        }
        let mut clients = [server.client(), server.client()];
        for options in ["COUNT 7", "COUNT 100", "COUNT 1000", "MATCH stay:* COUNT 333", ""] {
            let seen = scan_all(&mut clients, options);
            for number in 0..stay {
                let times = seen.get(format!("stay:{number}").as_bytes());
                assert_eq!(times, Some(&1), "stay:{number}, {options}");
            }
            assert!(seen.values().all(|times| *times >= 1));
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn one_by_one_and_by_database() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    for database in 0..2 {
        client.line(&format!("SELECT {database}"));
        for number in 0..300 {
            client.line(&format!("SET {database}:{number} 1"));
        }
    }
    let seen = scan_all(std::slice::from_mut(&mut client), "COUNT 1");
    assert_eq!(seen.len(), 300);
    assert!(seen.iter().all(|(key, times)| key.starts_with(b"1:") && *times == 1));
    // Cursors that nobody was given are places like any other.
    for cursor in ["1", "18446744073709551615", "9223372036854775807", "4611686018427387904"] {
        assert!(matches!(client.line(&format!("SCAN {cursor}")), Reply::Array(_)), "{cursor}");
    }
}

/// Keys come between the first page of one connection and that of another; the first then takes up where the other
/// stopped, at the same cursor.
#[test]
fn a_cursor_means_the_same_on_every_connection() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let mut set = |from: u32, to: u32| {
        let sets: Vec<u8> = (from..to)
            .flat_map(|number| request(&[b"SET", format!("key:{number}").as_bytes(), b"1"]))
            .collect();
        client.send(&sets);
        (from..to).for_each(|_| assert_eq!(client.reply(), Reply::ok()));
    };
    set(0, 20_000);
    for round in 0..20 {
        let (mut first, mut second) = (server.client(), server.client());
        let page = |client: &mut Client| {
            let Reply::Array(mut reply) = client.line("SCAN 0 COUNT 20") else { panic!() };
            let keys = reply.pop().unwrap();
            (String::from_utf8(reply.pop().unwrap().into_bytes()).unwrap(), keys)
        };
        drop(page(&mut first));
        let keys = 20_000 + 300 * (round + 1);
        set(keys - 300, keys);
        // All keys are there from here on.
        let (mut cursor, Reply::Array(shown)) = page(&mut second) else { panic!() };
        let mut seen = shown.len();
        while cursor != "0" {
            let Reply::Array(mut reply) = first.line(&format!("SCAN {cursor} COUNT 1000")) else {
                panic!()
            };
            let Some(Reply::Array(shown)) = reply.pop() else { panic!() };
            seen += shown.len();
            cursor = String::from_utf8(reply.pop().unwrap().into_bytes()).unwrap();
        }
        assert_eq!(seen, keys as usize, "round {round}");
    }
}

/// A search by prefix finds the same with an index, without one, and with one that was built while keys came and went.
#[test]
fn an_index_finds_what_a_look_at_every_key_finds() {
    let (disk, path) = (SimulatedDisk::new(7), "/donnees.txt".into());
    let recovery = Recovery::on(Arc::new(disk), path).unwrap();
    let engine = LocalEngine::start(recovery, Fsync::No).unwrap();
    let mut handle = Handle::new(&engine);
    let mut random = fastrand::Rng::with_seed(7);
    let mut model = [BTreeSet::new(), BTreeSet::new()];
    for round in 0..400 {
        let key = format!("{}:{}", random.u8(0..3), random.u16(0..2000)).into_bytes();
        let database = random.usize(..2);
        handle.select(database);
        match random.u8(..20) {
            0..13 => {
                for number in 0..20 {
                    let key = [&key[..], format!(":{number}").as_bytes()].concat();
                    handle.set(&key, b"v").unwrap();
                    model[database].insert(key);
                }
            }
            13..17 => {
                let gone: Vec<_> = model[database].range(key..).take(20).cloned().collect();
                let names: Vec<&[u8]> = gone.iter().map(Vec::as_slice).collect();
                handle.del(&names).unwrap();
                gone.iter().for_each(|key| assert!(model[database].remove(key)));
            }
            17 => {
                handle.swap(0, 1).unwrap();
                model.swap(0, 1);
            }
            18 if round % 3 == 0 => {
                handle.flush(false).unwrap();
                model[database].clear();
            }
            _ => engine.build_indexes(),
        }
        let prefix = format!("{}:", random.u8(0..3)).into_bytes();
        let mut found = BTreeSet::new();
        let mut visit = |key: &[u8]| assert!(found.insert(key.to_vec()), "twice");
        handle.keys(&prefix, &mut visit).unwrap();
        let expected = model[database].iter().filter(|key| key.starts_with(&prefix)).cloned();
        assert_eq!(found, expected.collect(), "round {round}");
    }
}
