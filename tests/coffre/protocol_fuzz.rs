//! Requests mutated at random, against whole connections in this process: nothing panics, nothing hangs,
//! every byte that comes back belongs to a reply, and the next client is answered.
//!
//! 100,000 in `cargo test`, more with `COFFRE_INPUTS`; a failing one prints its `COFFRE_SEED`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use coffre::command;
use coffre::config::Arguments;
use coffre::engine::local::LocalEngine;
use coffre::journal::Fsync;
use coffre::net::connection::Connection;
use coffre::server::Control;

use crate::harness::{PATIENCE, folder, on_request, recover, request};
use crate::resp::read_reply;

/// What is mutated: well-formed requests of every command, and the malformed ones of faults.md.
fn corpus() -> Vec<Vec<u8>> {
    let lines: &[&[u8]] = &[
        b"PING\r\n",
        b"PING\n",
        b"  PING\t \r\n",
        b"\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*-10\r\n",
        b"# a comment\r\n",
        b"SET a \"x y\\x00\\n\"\r\n",
        b"GET a\r\n",
        b"SET a 'it\\'s'\r\n",
        b"SET a \"b\r\n",
        b"SET a \"b\"c\r\n",
        b"*3000000000\r\n",
        b"*2147483647\r\n",
        b"*-9223372036854775809\r\n",
        b"*01\r\n",
        b"*+1\r\n",
        b"* 1\r\n",
        b"*1abc\r\n",
        b"*\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$blabla\r\n",
        b"*1\r\n$536870913\r\n",
        b"*1\r\n$0:\r\n",
        b"*1\r\nfoo\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n*1\r\n",
        b"*1\r\n$4\r\nPINGXXPING\r\n",
        b"*1\rX$4\r\nPING\r\n",
        b"*1\n$4\nPING\n",
        b"PI\0NG\r\nPING\r\n",
        b"*1\r\n$0\r\n\r\n",
        b"*2\r\n$6\r\nA\r\nB\r\n\r\n$3\r\nx\r\n\r\n",
        b"QUIT\r\nSET x 1\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"\xff\xf4\xff\xfd\x06PING\r\n",
        b"\xff\xfa\x1f\x00\x50\xff\xf0",
        b"PINF\x08G\r\n",
        b"SET nom Jean Dupont\r\n",
        b"SETRANGE a 70000 x\r\n",
        b"APPEND a b\r\n",
    ];
    let words: &[&[&str]] = &[
        &["SET", "key", "value"],
        &["GET", "key"],
        &["DEL", "a", "key"],
        &["EXISTS", "a", "a"],
        &["APPEND", "key", "more"],
        &["SETRANGE", "key", "3", "x"],
        &["PING", "m"],
        &["ECHO", "m"],
        &["KEYS", "*[a-c]?\\*"],
        &["DBSIZE"],
        &["FLUSHALL", "ASYNC"],
        &["BGREWRITEAOF"],
        &["BGSAVE"],
        &["LASTSAVE"],
        &["INFO", "all"],
        &["HELP", "SET"],
        &["AUTH", "default", "x"],
        &["CLIENT", "LIST"],
        &["CLIENT", "LIST", "ID", "1", "2"],
        &["CLIENT", "INFO"],
        &["CLIENT", "SETNAME", "moi"],
        &["CLIENT", "GETNAME"],
        &["CLIENT", "REPLY", "SKIP"],
        &["CLIENT", "SETINFO", "LIB-NAME", "x"],
        &["CLIENT", "KILL", "ID", "999999999"],
        &["CLIENT", "NO-EVICT", "on"],
        &["CLIENT", "UNPAUSE"],
        &["COMMAND"],
        &["COMMAND", "DOCS", "get"],
        &["COMMAND", "INFO", "get"],
        &["CONFIG", "GET", "*max*"],
        &["SLOWLOG", "GET", "-1"],
        &["SLOWLOG", "RESET"],
        &["MONITOR"],
        &["DEBUG", "PANIC"],
        &["SHUTDOWN", "ABORT"],
        &["QUIT"],
    ];
    let arrays = words
        .iter()
        .map(|words| request(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>()));
    let typed = words.iter().map(|words| format!("{}\r\n", words.join(" ")).into_bytes());
    lines.iter().map(|line| line.to_vec()).chain(arrays).chain(typed).collect()
}

fn input(corpus: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..5) {
        bytes.extend_from_slice(&corpus[random.usize(..corpus.len())]);
    }
    for _ in 0..random.usize(..5) {
        let at = random.usize(..=bytes.len());
        let to = (at + random.usize(..12)).min(bytes.len());
        match random.u8(..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            1 if at < bytes.len() => bytes[at] = b"\r\n*$: \"'\\\0\xff\x7f0-9"[random.usize(..15)],
            2 => drop(bytes.drain(at..to)),
            3 => bytes.truncate(at),
            4 => {
                let again = bytes[at..to].repeat(random.usize(1..40));
                bytes.splice(at..at, again);
            }
            5 => {
                let other = &corpus[random.usize(..corpus.len())];
                bytes.splice(at..to, other[random.usize(..other.len())..].to_vec());
            }
            6 => {
                let number = [0, 1, 9, 16_384, 1 << 20, 1 << 29, i64::MAX][random.usize(..7)];
                bytes.splice(at..to, number.to_string().into_bytes());
            }
            _ => bytes.insert(at, random.u8(..)),
        }
    }
    bytes
}

/// A server without threads: each connection is served by who plays its client.
struct Played {
    engine: LocalEngine,
    control: Control,
    listener: TcpListener,
}

impl Played {
    fn new(file: &Path) -> Self {
        let flags = ["coffre", "--max-value", "1mb", "--slowlog-log-slower-than", "0"];
        let config = Arguments::parse_from(flags).config;
        Self {
            engine: LocalEngine::start(recover(file).unwrap(), Fsync::No).unwrap(),
            control: Control::new(config, command::names().len()),
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        }
    }

    /// All that comes back for `input`, sent in one piece and half-closed.
    fn play(&self, input: &[u8]) -> Vec<u8> {
        let mut client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = self.listener.accept().unwrap();
        client.write_all(input).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let served = self.control.clients.admit(stream, peer).unwrap();
        // A reply to one who has gone is an error of its own.
        let _ = Connection::new(&served, &self.engine, &self.control).serve();
        self.control.clients.leave(served.id);
        drop(served);
        let mut replies = Vec::new();
        client.read_to_end(&mut replies).unwrap();
        // No port waits for late packets: there are not so many.
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        replies
    }
}

/// The rest after one reply, or after an answer to telnet.
fn after_reply(mut bytes: &[u8]) -> Result<&[u8], String> {
    if let [0xff, 0xfb..=0xfe, _, rest @ ..] = bytes {
        return Ok(rest);
    }
    let start = bytes;
    read_reply(&mut bytes, &mut Vec::new())
        .map_err(|error| format!("{error}: {}", start[..start.len().min(80)].escape_ascii()))?;
    Ok(bytes)
}

#[test]
fn mutated_requests_are_answered_or_refused() {
    let corpus = corpus();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let seeds = match std::env::var("COFFRE_SEED") {
        Ok(seed) => seed.parse().unwrap()..seed.parse::<u64>().unwrap() + 1,
        Err(_) => 0..on_request("COFFRE_INPUTS", 100_000),
    };
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut place = folder();
        let mut played = Played::new(&place.1);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let mut random = fastrand::Rng::with_seed(seed);
            let input = input(&corpus, &mut random);
            let started = Instant::now();
            let replies = played.play(&input);
            let took = started.elapsed();
            let told = || format!("COFFRE_SEED={seed}: {}", input.escape_ascii());
            // A fraction of a millisecond for most: what loops ends never, or much later.
            assert!(took < PATIENCE, "{took:?}: {}", told());
            let mut rest = &replies[..];
            while !rest.is_empty() {
                rest = after_reply(rest).unwrap_or_else(|error| panic!("{error}: {}", told()));
            }
            if played.control.is_stopping() {
                let said = input.to_ascii_uppercase();
                assert!(said.windows(8).any(|word| word == b"SHUTDOWN"), "{}", told());
                place = folder();
                played = Played::new(&place.1);
            }
            if seed.is_multiple_of(1000) {
                assert_eq!(played.play(b"PING\r\n"), b"+PONG\r\n", "{}", told());
                assert_eq!(played.play(b"FLUSHALL\r\n"), b"+OK\r\n", "{}", told());
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
}
