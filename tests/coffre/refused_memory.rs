//! A request of many megabytes where the system refuses memory: whatever the command and wherever the long argument stands, it
//! gets an error, and the process goes on.
//!
//! The limit (`RLIMIT_AS`) is set just before each request, to what the process has and a little more, so that with
//! each amount of room another of a command's allocations fails.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use coffre::command::commands;

use crate::harness::{
    COFFRE, Client, Reply, Server, folder, on_request, request, status_of, wait_until,
};

/// How long an argument is, in MiB, unless `COFFRE_LONG_MIB` says otherwise.
const LONG_MIB: u64 = 9;
/// Room beyond what the process has, in percent of a long argument: for the request alone, for a copy or two, for less.
const ROOMS: [u64; 6] = [115, 205, 320, 420, 160, 90];
/// The same where the long argument is there already.
const ROOMS_STORED: [u64; 6] = [30, 115, 205, 60, 320, 420];
/// How many of them are tried unless `COFFRE_ROOMS` asks for more.
const ROOMS_DEFAULT: u64 = 1;

/// Requests of every command with its options. Each word of each is replaced by a long one.
#[rustfmt::skip]
const REQUESTS: &[&str] = &[
    "GET k", "SET k v KEEPTTL", "SET k v EX 100 GET", "SET k v PXAT 4000000000000", "SET k v IFEQ v",
    "SET k v IFNE x", "SET k v NX", "SET k v XX", "DEL k", "DEL k j", "EXISTS k j", "APPEND k v", "APPEND new v",
    "SETRANGE k 1 v", "MGET k j", "MSET k v j v", "MSETNX new v newer v", "INCR n", "DECR n", "INCRBY n 1",
    "DECRBY n 1", "INCRBYFLOAT n 1.5", "INCREX n BYINT 1 EX 100", "LCS k j LEN", "MSETEX 1 k v EX 100", "SETNX new v",
    "SETEX k 100 v", "PSETEX k 100000 v", "GETSET k v", "GETDEL k", "GETEX k EX 100", "DELEX k IFEQ v",
    "DELIFEQ k v", "STRLEN k", "GETRANGE k 0 -1", "SUBSTR k 0 -1", "UNLINK k j", "TOUCH k j", "TYPE k",
    "EXPIRE k 100 NX", "PEXPIRE k 100000", "EXPIREAT k 4000000000", "PEXPIREAT k 4000000000000", "TTL k", "PTTL k",
    "EXPIRETIME k", "PEXPIRETIME k", "PERSIST k", "RENAME k j", "RENAMENX k new", "COPY k j REPLACE",
    "COPY k new DB 1", "RANDOMKEY k", "SCAN 0 MATCH k* COUNT 10", "SCAN 0 TYPE string", "OBJECT ENCODING k",
    "OBJECT IDLETIME k", "OBJECT REFCOUNT k", "OBJECT FREQ k", "OBJECT HELP", "MEMORY USAGE k SAMPLES 0",
    "MEMORY HELP", "FLUSHDB ASYNC", "MULTI k", "EXEC k", "DISCARD k", "WATCH k j", "UNWATCH k", "SELECT 0",
    "EVAL return(redis.call('APPEND',KEYS[1],ARGV[1])) 1 k v", "EVAL_RO return(redis.call('GET',KEYS[1])..ARGV[1]) 1 k v",
    "EVALSHA 620cd258c2c9c88c9d10db67812ccf663d96bdc6 1 k v", "EVALSHA_RO 620cd258c2c9c88c9d10db67812ccf663d96bdc6 1 k v",
    "SCRIPT LOAD return(1)", "SCRIPT EXISTS 620cd258c2c9c88c9d10db67812ccf663d96bdc6", "SCRIPT FLUSH SYNC", "SCRIPT KILL k",
    "SCRIPT HELP", "SWAPDB 0 1", "MOVE k 1", "TIME k", "PING k", "ECHO k", "KEYS k*", "DBSIZE k", "FLUSHALL ASYNC", "BGREWRITEAOF k",
    "BGSAVE SCHEDULE", "SAVE k", "LASTSAVE k", "INFO server", "QUIT k", "AUTH user password", "AUTH password",
    "HELLO 2 AUTH default password SETNAME name", "RESET k", "HELP get", "CLIENT HELP", "CLIENT ID k",
    "CLIENT GETNAME k", "CLIENT SETNAME name", "CLIENT SETINFO lib-name name", "CLIENT SETINFO lib-ver 1",
    "CLIENT LIST ID 1", "CLIENT LIST TYPE normal", "CLIENT INFO k", "CLIENT KILL ADDR 127.0.0.1:1",
    "CLIENT KILL ID 1 USER default", "CLIENT NO-EVICT on", "CLIENT NO-TOUCH on", "CLIENT PAUSE 1 WRITE",
    "CLIENT REPLY ON", "CLIENT UNPAUSE k", "COMMAND COUNT k", "COMMAND DOCS get", "COMMAND INFO get",
    "COMMAND GETKEYS get k", "COMMAND LIST FILTERBY PATTERN x*", "COMMAND HELP", "CONFIG GET maxmemory",
    "CONFIG SET timeout 0", "CONFIG RESETSTAT k", "CONFIG REWRITE k", "CONFIG HELP", "SLOWLOG GET 1",
    "SLOWLOG LEN k", "SLOWLOG RESET k", "SLOWLOG HELP", "LATENCY LATEST k", "LATENCY HISTORY k",
    "LATENCY HISTOGRAM get", "LATENCY RESET k", "LATENCY DOCTOR k", "LATENCY HELP", "MODULE LIST k", "MODULE HELP",
    "CLUSTER INFO", "MONITOR k", "SHUTDOWN NOSAVE", "DEBUG OBJECT k", "DEBUG DIGEST-VALUE k",
    "DEBUG STRINGMATCH-LEN 10 k*",
];

/// Several requests, with `LONG` for the long word.
const SEVERAL: &[&[&str]] = &[
    &["MULTI", "GET LONG", "EXEC"],
    &["MULTI", "SET LONG v", "EXEC"],
    &["MULTI", "SET k LONG", "EXEC"],
    &["MULTI", "SET k LONG KEEPTTL", "GET k", "EXEC"],
    &["MULTI", "APPEND k LONG", "INCR n", "EXEC"],
    &["MULTI", "DEL LONG k", "EXEC"],
    &["MULTI", "MSET k v LONG v", "EXEC"],
    &["MULTI", "RENAME k LONG", "EXEC"],
    &["MULTI", "KEYS LONG", "EXEC"],
    &["MULTI", "CONFIG GET LONG", "EXEC"],
    &["MULTI", "ECHO LONG", "EXEC"],
    &["MULTI", "SET k LONG", "DISCARD"],
    &["MULTI", "EVAL return(redis.call('SET',KEYS[1],ARGV[1])) 1 k LONG", "EXEC"],
    &["EVAL return(ARGV[1]..ARGV[1]) 0 LONG"],
    &["EVAL return(redis.call('MSET',KEYS[1],ARGV[1],'j',ARGV[1])) 1 k LONG"],
    &["WATCH LONG", "MULTI", "PING", "EXEC"],
    &["WATCH LONG", "MULTI", "SET k v", "EXEC"],
    &["WATCH LONG", "UNWATCH"],
];

/// What is done to a long key and a long value that are there already.
#[rustfmt::skip]
const STORED: &[&[&str]] = &[
    &["GET LONG"], &["DEL LONG"], &["DEL LONG k"], &["UNLINK LONG v"], &["RENAME LONG j"], &["RENAME v j"], &["RENAMENX v new"],
    &["COPY LONG j"], &["COPY v j REPLACE"], &["COPY v v DB 1"], &["MOVE LONG 1"], &["MOVE v 1"], &["KEYS *"], &["KEYS b*"],
    &["KEYS *x"], &["SCAN 0 COUNT 1000"], &["RANDOMKEY"], &["EXPIRE LONG 100"], &["EXPIRE v 100"],
    &["PEXPIRE LONG 1", "PING"], &["EXPIREAT LONG 1"], &["PERSIST v"], &["GETEX v EX 100"], &["GETDEL v"],
    &["GETSET v x"], &["SET v x GET"], &["SET v x IFEQ y"], &["SET v x KEEPTTL"], &["DELEX v IFEQ x"],
    &["DELIFEQ v x"], &["APPEND v x"], &["APPEND LONG x"], &["SETRANGE v 0 x"], &["SETRANGE v 100000000 x"],
    &["GETRANGE v 1 -2"], &["SUBSTR v 1 -2"], &["STRLEN v"], &["MGET v v v LONG"], &["LCS v v LEN"], &["LCS k v"],
    &["INCR v"], &["INCR LONG"], &["INCRBYFLOAT v 1"], &["OBJECT ENCODING v"], &["MEMORY USAGE LONG"],
    &["EVAL return(redis.call('GET',KEYS[1])) 1 v"], &["DEBUG OBJECT v"], &["DEBUG DIGEST"], &["DEBUG DIGEST-VALUE v"], &["BGREWRITEAOF"], &["SAVE"], &["FLUSHALL"],
    &["FLUSHDB"], &["SWAPDB 0 1"], &["WATCH LONG", "MULTI", "DEL LONG", "EXEC"],
    &["MULTI", "SET v x", "KEYS *", "COPY LONG j", "EXEC"],
    // It expires while there is no memory for a copy. What begins with `!` is done before.
    &["!PEXPIRE LONG 200", "PING"], &["!PEXPIRE LONG 200", "!PEXPIRE v 200", "KEYS *"], &["!PEXPIRE LONG 200", "BGREWRITEAOF"],
];

/// Starts servers and counts how many ended.
struct Trial {
    folder: (tempfile::TempDir, std::path::PathBuf),
    server: Option<Server>,
    long: Vec<u8>,
    ended: Vec<String>,
}

impl Trial {
    fn new() -> Self {
        let long = vec![b'b'; (on_request("COFFRE_LONG_MIB", LONG_MIB) << 20) as usize];
        Self { folder: folder(), server: None, long, ended: Vec::new() }
    }

    fn server(&mut self) -> &mut Server {
        let file = &self.folder.1;
        self.server.get_or_insert_with(|| {
            let mut command = Command::new(COFFRE);
            command.args([
                "--port",
                "0",
                "--fsync",
                "no",
                "--enable-debug-command",
                "yes",
                "--file",
            ]);
            // What is long is asked of the system, each time: else the C library has address space of its own for it.
            command.arg(file).env("MALLOC_MMAP_THRESHOLD_", "1048576").env("MALLOC_ARENA_MAX", "1");
            // And it keeps nothing for later: where a long argument takes what is left, the next small thing is refused.
            command.env("MALLOC_TOP_PAD_", "0").env("MALLOC_TRIM_THRESHOLD_", "0");
            command.env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");
            Server::spawn(command)
        })
    }

    fn words<'w>(&'w self, line: &'w str) -> Vec<&'w [u8]> {
        let word = |word: &'w str| if word == "LONG" { &self.long[..] } else { word.as_bytes() };
        line.split(' ').map(word).collect()
    }

    /// Small keys, and `stored` a long key and a long value.
    fn prepare(&mut self, stored: bool) -> Client {
        self.server();
        let server = self.server.as_ref().unwrap();
        wait_until("it takes writes", || {
            let mut client = server.client();
            client.send(b"FLUSHALL\r\n");
            client.try_reply() == Some(Reply::ok())
        });
        let mut client = server.client();
        for line in ["SET k value", "SET j value", "SET n 1"] {
            assert_eq!(client.line(line), Reply::ok());
        }
        if stored {
            for line in ["SET LONG value", "SET v LONG"] {
                let words = self.words(line);
                let reply = client.call(&words);
                assert_eq!(reply, Reply::ok());
            }
        }
        client
    }

    /// Sends the lines with so much room, then looks whether the server lives.
    fn attempt(&mut self, lines: &[&str], stored: bool, room: u64) {
        let mut client = self.prepare(stored);
        let (before, lines): (Vec<&str>, Vec<&str>) =
            lines.iter().partition(|line| line.starts_with('!'));
        for line in &before {
            assert_eq!(client.call(&self.words(&line[1..])), Reply::Integer(1));
        }
        let bytes: Vec<u8> = lines.iter().flat_map(|line| request(&self.words(line))).collect();
        let server = self.server.as_ref().unwrap();
        let pid = Pid::from_raw(server.pid() as i32);
        let set = |current| {
            let limit = Rlimit { current, maximum: None };
            // The process may have ended.
            let _ = prlimit(pid, Resource::As, limit);
        };
        set(Some((status_of(server.pid(), "VmSize") << 10) + room));
        client.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let is_sent = client.stream.write_all(&bytes).is_ok();
        let mut got = 0;
        while is_sent && got < lines.len() && client.try_reply().is_some() {
            got += 1;
        }
        if !before.is_empty() || lines.contains(&"BGREWRITEAOF") || lines[0].starts_with("PEXPIRE")
        {
            // Other threads do the rest. Where memory is refused they may not get done with it.
            thread::sleep(Duration::from_millis(600));
        }
        set(None);
        let port = server.port;
        let is_alive = || {
            let stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
            let mut client = Client::of(stream);
            client.stream.write_all(b"PING\r\n").ok()?;
            (client.try_reply()? == Reply::pong()).then_some(())
        };
        drop(client);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let server = self.server.as_mut().unwrap();
            if !server.is_running() {
                let status = server.wait();
                let log = server.log();
                let last = log.lines().find(|line| line.contains("allocation")).unwrap_or_default();
                let place = if stored { " where a long key is stored" } else { "" };
                self.ended.push(format!(
                    "{before:?} {lines:?}{place}, {} MiB of room: {status}: {last}",
                    room >> 20
                ));
                (self.server, self.folder) = (None, folder());
                return;
            }
            if is_alive().is_some() {
                return;
            }
            assert!(Instant::now() < deadline, "{lines:?}: it lives, but answers no PING");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Every request with each of its words replaced.
fn requests() -> Vec<String> {
    let mut all = Vec::new();
    for line in REQUESTS {
        let words: Vec<&str> = line.split(' ').collect();
        for place in 0..words.len() {
            let mut words = words.clone();
            words[place] = "LONG";
            all.push(words.join(" "));
        }
    }
    // Many are the same: what is no command.
    all.sort();
    all.dedup();
    all
}

/// Shares the work among servers; fails with what ended one.
fn try_all(work: &[(Vec<&str>, bool)], rooms: &[u64; 6]) {
    let rooms = &rooms[..on_request("COFFRE_ROOMS", ROOMS_DEFAULT).min(6) as usize];
    // Most of the time each waits until its server has memory again.
    let threads = 6;
    let started = Instant::now();
    let ended: Vec<String> = thread::scope(|scope| {
        let share = |number: usize| {
            move || {
                let mut trial = Trial::new();
                for (lines, stored) in work.iter().skip(number).step_by(threads) {
                    for room in rooms {
                        let room = trial.long.len() as u64 * room / 100;
                        trial.attempt(lines, *stored, room);
                    }
                }
                trial.ended
            }
        };
        let shares: Vec<_> = (0..threads).map(|number| scope.spawn(share(number))).collect();
        shares.into_iter().flat_map(|share| share.join().unwrap()).collect()
    });
    println!("{} requests, {rooms:?} % of room, {:?}", work.len(), started.elapsed());
    assert!(ended.is_empty(), "{} ended the process:\n{}", ended.len(), ended.join("\n"));
}

#[test]
fn no_long_argument_ends_the_process() {
    let requests = requests();
    let mut work: Vec<(Vec<&str>, bool)> =
        requests.iter().map(|line| (vec![line.as_str()], false)).collect();
    work.extend(SEVERAL.iter().map(|lines| (lines.to_vec(), false)));
    try_all(&work, &ROOMS);
}

#[test]
fn nothing_done_to_a_long_key_or_value_ends_the_process() {
    let work: Vec<_> = STORED.iter().map(|lines| (lines.to_vec(), true)).collect();
    try_all(&work, &ROOMS_STORED);
}

/// Where the value takes all but a little, the small allocations after it are refused: the reserve is for them.
#[test]
fn a_long_value_leaves_enough_for_what_is_small() {
    let mut trial = Trial::new();
    // What was read and what is kept are a copy each.
    for copies in 1..=2 {
        let long = copies * trial.long.len() as u64;
        for spare in (0..64 << 10).step_by(2 << 10) {
            trial.attempt(&["SET k LONG"], false, long + spare - (32 << 10));
        }
    }
    assert!(trial.ended.is_empty(), "it ended:\n{}", trial.ended.join("\n"));
}

#[test]
fn every_command_is_tried_with_a_long_argument() {
    let tried: BTreeSet<String> = REQUESTS
        .iter()
        .flat_map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            [words[0].to_owned(), words[..2].join(" ")]
        })
        .collect();
    for command in commands() {
        assert!(tried.contains(command.name), "{} is not tried", command.name);
        for sub in command.subcommands() {
            let name = format!("{} {}", command.name, sub.name);
            assert!(tried.contains(&name), "{name} is not tried");
        }
    }
}
