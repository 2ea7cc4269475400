//! All kinds of clients at once, good and bad, for as long as is asked for: the good ones lose nothing and
//! hardly notice, and nothing is left of the bad ones.
//!
//! `COFFRE_SOAK_S` is how long each half takes, in seconds: first the good clients alone, then all. The times
//! of the good ones are printed side by side.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Reply, Server, descriptors, dump, folder, on_request, request, resident_bytes,
    status_of, wait_until,
};

const GOOD: usize = 8;
const BAD: usize = 24;

/// What one good client knows of its own keys: only it writes them.
type Oracle = HashMap<String, Vec<u8>>;

/// Writes and reads its own keys until `over`, checks each reply, and returns how long each took.
fn good(
    mut client: Client,
    number: usize,
    oracle: &mut Oracle,
    over: &AtomicBool,
) -> Vec<Duration> {
    let mut random = fastrand::Rng::with_seed(number as u64);
    let mut took = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let key = format!("good:{number}:{}", random.usize(..200));
        let value = random.u32(..).to_string().into_bytes();
        let started = Instant::now();
        match random.u8(..4) {
            0 => {
                assert_eq!(client.call(&[b"SET", key.as_bytes(), &value]), Reply::ok());
                oracle.insert(key, value);
            }
            1 => {
                let old = oracle.entry(key.clone()).or_default();
                if old.len() < 5000 {
                    old.extend_from_slice(&value);
                    let expected = Reply::Integer(old.len() as i64);
                    assert_eq!(client.call(&[b"APPEND", key.as_bytes(), &value]), expected);
                }
            }
            2 => {
                let there = i64::from(oracle.remove(&key).is_some());
                assert_eq!(client.call(&[b"DEL", key.as_bytes()]), Reply::Integer(there));
            }
            _ => {
                let expected = oracle.get(&key).cloned().map_or(Reply::Nil, Reply::Bulk);
                assert_eq!(client.call(&[b"GET", key.as_bytes()]), expected);
            }
        }
        took.push(started.elapsed());
        // As a client that has something else to do: the machine is not to be full.
        thread::sleep(Duration::from_millis(2));
    }
    took
}

/// One misdeed after the other until `over`. What comes of it is the server's affair.
fn bad(server: &Server, number: usize, over: &AtomicBool, misdeeds: &AtomicU64) {
    let mut random = fastrand::Rng::with_seed(1_000_000 + number as u64);
    while !over.load(Ordering::Relaxed) {
        let client = Client::connect(server.port);
        let mut stream = &client.stream;
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let key = format!("bad:{number}");
        match random.u8(..9) {
            // It asks for a lot and reads nothing.
            0 => {
                let _ = stream.write_all(&request(&[b"SET", key.as_bytes(), &vec![b'x'; 300_000]]));
                let _ = stream.write_all(&request(&[b"GET", key.as_bytes()]).repeat(200));
                thread::sleep(Duration::from_millis(300));
            }
            // Half a request, then silence, an end, or a reset.
            1 => {
                let _ = stream.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1000000\r\nxxxx");
                thread::sleep(Duration::from_millis(300));
            }
            2 => {
                let _ = stream.write_all(b"SET a 1\r\nGET a\r\nSET half");
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read(&mut [0; 100]);
            }
            3 => {
                let _ = stream.write_all(b"GET a\r\nKEYS *\r\n");
                let linger = Some(Duration::ZERO);
                let _ = socket2::SockRef::from(stream).set_linger(linger);
            }
            // Garbage.
            4 => {
                let garbage: Vec<u8> = (0..random.usize(1..5000)).map(|_| random.u8(..)).collect();
                let _ = stream.write_all(&garbage);
                let _ = stream.read(&mut [0; 100]);
            }
            5 => drop(stream.write_all(b"*1048576\r\n*1\r\n$536870912\r\n")),
            // A byte now and then.
            6 => {
                for byte in b"PING\r\nPI" {
                    let _ = stream.write_all(&[*byte]);
                    thread::sleep(Duration::from_millis(20));
                }
            }
            // It comes and goes.
            7 => {}
            _ => {
                let _ = stream.write_all(b"MONITOR\r\n");
                thread::sleep(Duration::from_millis(100));
            }
        }
        misdeeds.fetch_add(1, Ordering::Relaxed);
    }
}

fn percentile(took: &mut [Duration], percent: usize) -> Duration {
    took.sort_unstable();
    took[(took.len() * percent / 100).min(took.len() - 1)]
}

#[test]
#[ignore = "takes as long as COFFRE_SOAK_S says, ten seconds by itself"]
fn good_clients_hardly_notice_bad_ones() {
    let seconds = on_request("COFFRE_SOAK_S", 5);
    let (_folder, file) = folder();
    let flags = ["--fsync", "everysec", "--request-timeout", "2", "--write-timeout", "2"];
    let server = Server::with(&file, &flags);
    let mut oracles: Vec<Oracle> = vec![Oracle::new(); GOOD];
    let misdeeds = AtomicU64::new(0);
    let rest = |server: &Server| {
        wait_until("only the server's own threads are left", || {
            status_of(server.pid(), "Threads") < 12
        });
        (descriptors(server.pid()), resident_bytes(server.pid()) >> 20)
    };
    let mut half = |bad_ones: usize| {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let good: Vec<_> = oracles
                .iter_mut()
                .enumerate()
                .map(|(number, oracle)| {
                    let (client, over) = (server.client(), &over);
                    scope.spawn(move || good(client, number, oracle, over))
                })
                .collect();
            for number in 0..bad_ones {
                let (server, over, misdeeds) = (&server, &over, &misdeeds);
                scope.spawn(move || bad(server, number, over, misdeeds));
            }
            thread::sleep(Duration::from_secs(seconds));
            over.store(true, Ordering::Relaxed);
            let mut took: Vec<_> = good.into_iter().flat_map(|good| good.join().unwrap()).collect();
            let (p50, p99) = (percentile(&mut took, 50), percentile(&mut took, 99));
            (took.len(), p50, p99)
        })
    };
    let alone = half(0);
    let before = rest(&server);
    let among = half(BAD);
    let after = rest(&server);
    println!(
        "{GOOD} good clients alone: {} requests, p50 {:?}, p99 {:?}",
        alone.0, alone.1, alone.2
    );
    println!(
        "with {BAD} bad ones ({} misdeeds): {} requests, p50 {:?}, p99 {:?}",
        misdeeds.load(Ordering::Relaxed),
        among.0,
        among.1,
        among.2
    );
    println!("descriptors and MB resident before {before:?} and after {after:?}");
    assert_eq!(before.0, after.0, "file descriptors");
    assert!(after.1 < before.1 + 64, "{before:?} {after:?}");
    let check = |server: &Server| {
        let state = dump(&mut server.client());
        let found = state.iter().filter(|(key, _)| key.starts_with(b"good:")).count();
        assert_eq!(found, oracles.iter().map(HashMap::len).sum::<usize>());
        for (key, value) in oracles.iter().flatten() {
            assert!(state[key.as_bytes()] == *value, "{key}");
        }
    };
    check(&server);
    server.kill();
    check(&Server::start(&file));
}
