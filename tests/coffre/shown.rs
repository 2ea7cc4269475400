//! No reply leaves before the write that it shows is on disk, whatever the command.
//!
//! A server in this process, on a disk whose fsyncs wait at a gate. While the gate is shut one client writes, and
//! another asks: its reply must not come before the gate is open. A table holds what each command shows, and a test
//! holds that no command is missing from it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

use coffre::command::commands;
use coffre::command::glob::Pattern;
use coffre::config::Arguments;
use coffre::engine::local::LocalEngine;
use coffre::engine::local::store::Store;
use coffre::journal::{Fsync, Recovery};
use coffre::net::listener::{Listener, Server, listen};
use coffre::server::Stop;

use crate::gated_disk::{GatedDisk, Gates};
use crate::harness::{Client, PATIENCE, Reply, request, wait_until};

/// What one command shows of a write.
struct Case {
    /// As the server counts it: `object|encoding`.
    command: &'static str,
    /// What is there, on disk, before.
    setup: &'static [&'static str],
    /// What the client that asks says before the write.
    ready: &'static [&'static str],
    /// The write that is not on disk yet; none where the command itself writes.
    write: &'static str,
    /// The command.
    asked: &'static str,
    /// Its reply once the write is on disk, as a glob pattern; it could not be this without the write.
    shows: &'static str,
}

/// A command that shows what `write` did.
const fn shows(
    command: &'static str,
    setup: &'static [&'static str],
    write: &'static str,
    asked: &'static str,
    shows: &'static str,
) -> Case {
    Case { command, setup, ready: &[], write, asked, shows }
}

/// A command that writes itself.
const fn writes(
    command: &'static str,
    setup: &'static [&'static str],
    asked: &'static str,
    shows: &'static str,
) -> Case {
    Case { command, setup, ready: &[], write: "", asked, shows }
}

const OLD: &[&str] = &["SET k old"];
const BOTH: &[&str] = &["SET k old", "SET j old"];
const NUMBER: &[&str] = &["SET k 1"];
const SCRIPT: &[&str] = &["SCRIPT LOAD \"return redis.call('GET',KEYS[1])\"", "SET k old"];
const EXPIRING: &[&str] = &["SET k old EXAT 4000000000"];
/// A value as long as may be.
const LONGEST: &str = "SET k aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[rustfmt::skip]
const CASES: &[Case] = &[
    // What is read.
    shows("get", OLD, "SET k new", "GET k", "new"),
    shows("get", OLD, "DEL k", "GET k", "nil"),
    shows("get", OLD, "EVAL \"return redis.call('SET', 'k', 'new')\" 0", "GET k", "new"),
    shows("eval", OLD, "SET k new", "EVAL \"return redis.call('GET', KEYS[1])\" 1 k", "new"),
    shows("eval", OLD, "DEL k", "EVAL \"return redis.call('EXISTS', 'k')\" 0", ":0"),
    writes("eval", OLD, "EVAL \"return redis.call('APPEND', KEYS[1], 'er')\" 1 k", ":5"),
    shows("eval_ro", OLD, "SET k new", "EVAL_RO \"return redis.call('GET', KEYS[1])\" 1 k", "new"),
    shows("evalsha", SCRIPT, "SET k new", "EVALSHA 620cd258c2c9c88c9d10db67812ccf663d96bdc6 1 k", "new"),
    shows("evalsha_ro", SCRIPT, "SET k new", "EVALSHA_RO 620cd258c2c9c88c9d10db67812ccf663d96bdc6 1 k", "new"),
    shows("get", OLD, "FLUSHALL ASYNC", "GET k", "nil"),
    shows("get", OLD, "FLUSHDB ASYNC", "GET k", "nil"),
    shows("get", OLD, "SWAPDB 0 1", "GET k", "nil"),
    shows("get", OLD, "MOVE k 1", "GET k", "nil"),
    shows("get", OLD, "RENAME k j", "GET j", "old"),
    shows("get", OLD, "RENAME k j", "GET k", "nil"),
    shows("get", OLD, "COPY k j", "GET j", "old"),
    shows("get", OLD, "GETEX k EXAT 1", "GET k", "nil"),
    shows("get", OLD, "EXPIREAT k 1", "GET k", "nil"),
    shows("mget", OLD, "SET k new", "MGET other k", "(nil new)"),
    shows("mget", OLD, "DEL k", "MGET k", "(nil)"),
    shows("exists", &[], "SET k new", "EXISTS k", ":1"),
    shows("exists", OLD, "DEL k", "EXISTS k", ":0"),
    shows("touch", &[], "SET k new", "TOUCH k", ":1"),
    shows("touch", OLD, "DEL k", "TOUCH k", ":0"),
    shows("type", &[], "SET k new", "TYPE k", "+string"),
    shows("type", OLD, "DEL k", "TYPE k", "+none"),
    shows("strlen", OLD, "APPEND k er", "STRLEN k", ":5"),
    shows("strlen", OLD, "DEL k", "STRLEN k", ":0"),
    shows("getrange", OLD, "SETRANGE k 0 C", "GETRANGE k 0 0", "C"),
    shows("getrange", OLD, "DEL k", "GETRANGE k 0 0", ""),
    shows("substr", OLD, "SETRANGE k 0 C", "SUBSTR k 0 0", "C"),
    shows("lcs", OLD, "SET j cold", "LCS k j", "old"),
    shows("lcs", BOTH, "DEL j", "LCS k j LEN", ":0"),
    shows("lcs", BOTH, "SET j x", "LCS k j IDX", "(matches () len :0)"),
    shows("ttl", EXPIRING, "PERSIST k", "TTL k", ":-1"),
    shows("ttl", OLD, "DEL k", "TTL k", ":-2"),
    shows("pttl", EXPIRING, "PERSIST k", "PTTL k", ":-1"),
    shows("pttl", OLD, "DEL k", "PTTL k", ":-2"),
    shows("expiretime", OLD, "EXPIREAT k 4000000000", "EXPIRETIME k", ":4000000000"),
    shows("expiretime", OLD, "DEL k", "EXPIRETIME k", ":-2"),
    shows("pexpiretime", OLD, "PEXPIREAT k 4000000000000", "PEXPIRETIME k", ":4000000000000"),
    shows("pexpiretime", OLD, "GETEX k PXAT 4000000000000", "PEXPIRETIME k", ":4000000000000"),
    shows("object|encoding", OLD, "SET k 1", "OBJECT ENCODING k", "int"),
    shows("object|encoding", OLD, "DEL k", "OBJECT ENCODING k", "nil"),
    shows("object|idletime", &[], "SET k new", "OBJECT IDLETIME k", ":*"),
    shows("object|idletime", OLD, "DEL k", "OBJECT IDLETIME k", "nil"),
    shows("object|refcount", &[], "SET k new", "OBJECT REFCOUNT k", ":1"),
    shows("object|refcount", OLD, "DEL k", "OBJECT REFCOUNT k", "nil"),
    shows("object|freq", &[], "SET k new", "OBJECT FREQ k", "-ERR An LFU *"),
    shows("object|freq", OLD, "DEL k", "OBJECT FREQ k", "nil"),
    shows("memory|usage", &[], "SET k new", "MEMORY USAGE k", ":*"),
    shows("memory|usage", OLD, "DEL k", "MEMORY USAGE k", "nil"),
    // Which keys there are.
    shows("keys", &[], "SET k new", "KEYS *", "(k)"),
    shows("keys", &[], "SET k new", "KEYS k*", "(k)"),
    shows("keys", &[], "SET k new", "KEYS k", "(k)"),
    shows("keys", OLD, "DEL k", "KEYS *", "()"),
    shows("keys", OLD, "DEL k", "KEYS k*", "()"),
    shows("keys", OLD, "DEL k", "KEYS k", "()"),
    shows("keys", OLD, "RENAME k j", "KEYS *", "(j)"),
    shows("keys", OLD, "FLUSHALL ASYNC", "KEYS *", "()"),
    shows("scan", &[], "SET k new", "SCAN 0 COUNT 1000", "(0 (k))"),
    shows("scan", OLD, "DEL k", "SCAN 0 COUNT 1000", "(0 ())"),
    shows("scan", OLD, "FLUSHALL ASYNC", "SCAN 0 COUNT 1000", "(0 ())"),
    shows("randomkey", &[], "SET k new", "RANDOMKEY", "k"),
    shows("randomkey", OLD, "DEL k", "RANDOMKEY", "nil"),
    shows("randomkey", OLD, "RENAME k j", "RANDOMKEY", "j"),
    shows("randomkey", OLD, "FLUSHALL ASYNC", "RANDOMKEY", "nil"),
    shows("dbsize", &[], "SET k new", "DBSIZE", ":1"),
    shows("dbsize", OLD, "DEL k", "DBSIZE", ":0"),
    shows("dbsize", OLD, "FLUSHDB ASYNC", "DBSIZE", ":0"),
    shows("dbsize", OLD, "SWAPDB 0 1", "DBSIZE", ":0"),
    shows("info", &[], "SET k new", "INFO keyspace", "*db0:keys=1,*"),
    shows("info", OLD, "DEL k", "INFO keyspace", "# Keyspace\r\n"),
    shows("info", OLD, "EXPIREAT k 4000000000", "INFO keyspace", "*db0:keys=1,expires=1,*"),
    shows("info", OLD, "MOVE k 1", "INFO", "*db1:keys=1,*"),
    shows("info", &[], "SET k new", "INFO everything", "*db0:keys=1,*"),
    shows("debug", &[], "SET k new", "DEBUG OBJECT k", "+Value at*"),
    shows("debug", OLD, "DEL k", "DEBUG OBJECT k", "-ERR no such key"),
    shows("debug", &[], "SET k new", "DEBUG DIGEST", "+*"),
    shows("debug", OLD, "DEL k", "DEBUG DIGEST", "+0000000000000000000000000000000000000000"),
    shows("debug", &[], "SET k new", "DEBUG DIGEST-VALUE k", "(*)"),
    shows("debug", OLD, "DEL k", "DEBUG DIGEST-VALUE k", "(0000000000000000000000000000000000000000)"),
    // What a write does not do, and why.
    shows("set", &[], "SET k new", "SET k x NX", "nil"),
    shows("set", &[], "SET k new", "SET k x NX GET", "new"),
    shows("set", OLD, "DEL k", "SET k x XX", "nil"),
    shows("set", OLD, "SET k new", "SET k x IFEQ old", "nil"),
    shows("set", OLD, "SET k new", "SET k x IFNE new", "nil"),
    shows("set", OLD, "DEL k", "SET k x IFEQ old", "nil"),
    shows("setnx", &[], "SET k new", "SETNX k x", ":0"),
    shows("msetnx", &[], "SET k new", "MSETNX j x k x", ":0"),
    shows("msetex", &[], "SET k new", "MSETEX 2 j x k x NX", ":0"),
    shows("msetex", BOTH, "DEL k", "MSETEX 2 j x k x XX", ":0"),
    shows("del", OLD, "DEL k", "DEL k", ":0"),
    shows("del", OLD, "DEL k", "DEL k j", ":0"),
    shows("unlink", OLD, "DEL k", "UNLINK k", ":0"),
    shows("getdel", OLD, "DEL k", "GETDEL k", "nil"),
    shows("getex", OLD, "SET k new", "GETEX k", "new"),
    shows("getex", OLD, "DEL k", "GETEX k EX 100", "nil"),
    shows("getex", EXPIRING, "SET k new", "GETEX k PERSIST", "new"),
    shows("delex", OLD, "SET k new", "DELEX k IFEQ old", ":0"),
    shows("delex", OLD, "SET k new", "DELEX k IFNE new", ":0"),
    shows("delex", OLD, "DEL k", "DELEX k", ":0"),
    shows("delifeq", OLD, "SET k new", "DELIFEQ k old", ":*"),
    shows("delifeq", OLD, "DEL k", "DELIFEQ k old", ":*"),
    shows("expire", OLD, "DEL k", "EXPIRE k 100", ":0"),
    shows("expire", OLD, "EXPIREAT k 4000000000", "EXPIRE k 100 NX", ":0"),
    shows("expire", EXPIRING, "PERSIST k", "EXPIRE k 100 XX", ":0"),
    shows("pexpire", OLD, "DEL k", "PEXPIRE k 100000", ":0"),
    shows("expireat", OLD, "DEL k", "EXPIREAT k 4000000000", ":0"),
    shows("expireat", OLD, "EXPIREAT k 4000000000", "EXPIREAT k 3900000000 GT", ":0"),
    shows("pexpireat", OLD, "DEL k", "PEXPIREAT k 4000000000000", ":0"),
    shows("persist", EXPIRING, "PERSIST k", "PERSIST k", ":0"),
    shows("persist", EXPIRING, "DEL k", "PERSIST k", ":0"),
    shows("rename", OLD, "DEL k", "RENAME k j", "-ERR no such key"),
    shows("rename", &[], "SET k new", "RENAME k k", "+OK"),
    shows("renamenx", OLD, "DEL k", "RENAMENX k j", "-ERR no such key"),
    shows("renamenx", OLD, "SET j new", "RENAMENX k j", ":0"),
    shows("copy", OLD, "DEL k", "COPY k j", ":0"),
    shows("copy", OLD, "SET j new", "COPY k j", ":0"),
    shows("move", OLD, "DEL k", "MOVE k 1", ":0"),
    shows("move", OLD, "COPY k k DB 1", "MOVE k 1", ":0"),
    shows("append", OLD, "SET k newer", "APPEND k \"\"", ":5"),
    shows("append", OLD, LONGEST, "APPEND k x", "-ERR string exceeds *"),
    shows("setrange", OLD, "SET k newer", "SETRANGE k 0 \"\"", ":5"),
    shows("setrange", OLD, "DEL k", "SETRANGE k 0 \"\"", ":0"),
    shows("incr", NUMBER, "SET k new", "INCR k", "-ERR value is not an integer *"),
    shows("incr", NUMBER, "SET k 9223372036854775807", "INCR k", "-ERR increment or decrement *"),
    shows("decr", NUMBER, "SET k new", "DECR k", "-ERR value is not an integer *"),
    shows("incrby", NUMBER, "SET k new", "INCRBY k 2", "-ERR value is not an integer *"),
    shows("decrby", NUMBER, "SET k new", "DECRBY k 2", "-ERR value is not an integer *"),
    shows("incrbyfloat", NUMBER, "SET k new", "INCRBYFLOAT k 2", "-ERR value is not a valid float"),
    shows("increx", NUMBER, "SET k new", "INCREX k", "-ERR value is not an integer *"),
    shows("increx", NUMBER, "SET k 9", "INCREX k UBOUND 9", "(:9 :0)"),
    // Transactions.
    Case { ready: &["MULTI", "GET k"], ..shows("exec", OLD, "SET k new", "EXEC", "(new)") },
    Case { ready: &["MULTI", "DBSIZE", "PING"], ..shows("exec", OLD, "DEL k", "EXEC", "(:0 +PONG)") },
    Case { ready: &["MULTI", "KEYS *"], ..shows("exec", &[], "SET k new", "EXEC", "((k))") },
    Case { ready: &["MULTI", "RANDOMKEY"], ..shows("exec", &[], "SET k new", "EXEC", "(k)") },
    Case { ready: &["MULTI", "INFO keyspace"], ..shows("exec", &[], "SET k new", "EXEC", "(*db0:keys=1,*)") },
    Case { ready: &["MULTI", "RENAME k j", "GET j"],
        ..shows("exec", OLD, "DEL k", "EXEC", "(-ERR no such key nil)") },
    Case { ready: &["MULTI", "INCR k", "EXISTS k"],
        ..shows("exec", &[], "SET k new", "EXEC", "(-ERR value is not an integer * :1)") },
    Case { ready: &["WATCH k", "MULTI", "PING"], ..shows("exec", OLD, "SET k new", "EXEC", "nil") },
    Case { ready: &["WATCH k", "MULTI", "PING"], ..shows("exec", &[], "SET k new", "EXEC", "nil") },
    Case { ready: &["WATCH k", "MULTI", "PING"], ..shows("exec", OLD, "FLUSHALL ASYNC", "EXEC", "nil") },
    Case { ready: &["WATCH k", "MULTI", "PING"], ..shows("exec", OLD, "SWAPDB 0 1", "EXEC", "nil") },
    Case { ready: &["SELECT 1"], ..shows("get", OLD, "MOVE k 1", "GET k", "old") },
    Case { ready: &["SELECT 1"], ..shows("get", OLD, "SWAPDB 0 1", "GET k", "old") },
    // It says that everything so far is on disk.
    shows("save", &[], "SET k new", "SAVE", "+OK"),
    // What writes.
    writes("set", &[], "SET k new", "+OK"),
    writes("set", OLD, "SET k new GET", "old"),
    writes("del", OLD, "DEL k", ":1"),
    writes("append", OLD, "APPEND k er", ":5"),
    writes("setrange", OLD, "SETRANGE k 0 C", ":3"),
    writes("mset", &[], "MSET k new j new", "+OK"),
    writes("msetnx", &[], "MSETNX k new j new", ":1"),
    writes("msetex", &[], "MSETEX 1 k new EX 100", ":1"),
    writes("incr", &[], "INCR k", ":1"),
    writes("decr", &[], "DECR k", ":-1"),
    writes("incrby", &[], "INCRBY k 2", ":2"),
    writes("decrby", &[], "DECRBY k 2", ":-2"),
    writes("incrbyfloat", &[], "INCRBYFLOAT k 0.5", "0.5"),
    writes("increx", &[], "INCREX k", "(:1 :1)"),
    writes("setnx", &[], "SETNX k new", ":1"),
    writes("setex", &[], "SETEX k 100 new", "+OK"),
    writes("psetex", &[], "PSETEX k 100000 new", "+OK"),
    writes("getset", OLD, "GETSET k new", "old"),
    writes("getdel", OLD, "GETDEL k", "old"),
    writes("getex", OLD, "GETEX k EX 100", "old"),
    writes("delex", OLD, "DELEX k IFEQ old", ":1"),
    writes("delifeq", OLD, "DELIFEQ k old", ":1"),
    writes("unlink", OLD, "UNLINK k", ":1"),
    writes("expire", OLD, "EXPIRE k 100", ":1"),
    writes("pexpire", OLD, "PEXPIRE k 100000", ":1"),
    writes("expireat", OLD, "EXPIREAT k 4000000000", ":1"),
    writes("pexpireat", OLD, "PEXPIREAT k 4000000000000", ":1"),
    writes("persist", EXPIRING, "PERSIST k", ":1"),
    writes("rename", OLD, "RENAME k j", "+OK"),
    writes("renamenx", OLD, "RENAMENX k j", ":1"),
    writes("copy", OLD, "COPY k j", ":1"),
    writes("move", OLD, "MOVE k 1", ":1"),
    writes("flushdb", OLD, "FLUSHDB ASYNC", "+OK"),
    writes("flushall", OLD, "FLUSHALL ASYNC", "+OK"),
    writes("swapdb", OLD, "SWAPDB 0 1", "+OK"),
    Case { ready: &["MULTI", "INCR k"], ..writes("exec", &[], "EXEC", "(:1)") },
];

/// Commands whose replies say nothing of any key, and why.
const NOT_OF_KEYS: &[(&str, &str)] = &[
    ("ping", "says what was sent"),
    ("echo", "says what was sent"),
    ("script", "the texts of scripts are in memory only"),
    ("time", "the clock"),
    ("select", "how many databases there are is a setting"),
    ("quit", "this connection"),
    ("auth", "this connection"),
    ("hello", "this connection"),
    ("reset", "this connection"),
    ("multi", "this connection"),
    ("discard", "this connection"),
    ("watch", "says OK whatever the keys are; EXEC tells of them"),
    ("unwatch", "this connection"),
    ("object", "only its subcommands are run"),
    ("object|help", "a text"),
    ("memory", "only its subcommands are run"),
    ("memory|help", "a text"),
    ("help", "a text"),
    ("bgrewriteaof", "that it has begun"),
    ("bgsave", "that it has begun"),
    ("lastsave", "when all was on disk that is"),
    ("monitor", "what clients ask, not what is there"),
    ("shutdown", "the connection ends once everything is on disk"),
    ("client", "connections"),
    ("command", "the table of commands"),
    ("config", "settings"),
    ("slowlog", "what clients asked, not what is there"),
    ("latency", "times"),
    ("module", "there is none"),
    ("cluster", "there is none"),
];

/// A server in this process, and the gate of its disk.
struct World {
    server: Arc<Server<LocalEngine>>,
    port: u16,
    gates: Arc<Gates>,
    run: Option<thread::JoinHandle<()>>,
}

impl World {
    fn start() -> Self {
        let flags = ["coffre", "--port", "0", "--max-value", "64", "--enable-debug-command", "yes"];
        let config = Arguments::parse_from(flags).config;
        let disk = GatedDisk::new();
        let gates = Arc::clone(&disk.gates);
        let recovery = Recovery::on(Arc::new(disk), "/donnees.txt".into()).unwrap();
        let store = Store::default().with_databases(16);
        let engine = LocalEngine::start_with(recovery, Fsync::Always, store).unwrap();
        let listeners: Vec<Arc<Listener>> =
            listen(&config, 0).unwrap().into_iter().map(Arc::new).collect();
        let port = listeners[0].address.port();
        let server = Server::new(config, engine);
        server.start(&listeners).unwrap();
        let running = Arc::clone(&server);
        let run = thread::spawn(move || {
            let _ = running.run(&listeners);
        });
        Self { server, port, gates, run: Some(run) }
    }

    fn client(&self) -> Client {
        Client::connect(self.port)
    }

    fn shut(&self, is_shut: bool) {
        match is_shut {
            true => self.gates.sync.shut(),
            false => self.gates.sync.open(0),
        }
    }

    /// How often a command was run so far. What a connection did is counted before its replies leave.
    fn calls(&self, command: &str) -> u64 {
        let totals = self.server.control().statistics.totals();
        let names = coffre::command::names();
        let number = names.iter().position(|name| name == command).expect(command);
        totals.called[number].calls
    }

    /// Sends a line and waits until it was run.
    fn run(&self, client: &mut Client, command: &str, line: &str) {
        let before = self.calls(command);
        client.send(format!("{line}\r\n").as_bytes());
        wait_until(&format!("{line} was run"), || self.calls(command) > before);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shut(false);
        self.server.control().stop(Stop::NoSave);
        let ended = self.run.take().map(thread::JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))));
        }
    }
}

/// A reply as the table writes it.
fn shown(reply: &Reply) -> String {
    match reply {
        Reply::Nil => "nil".to_owned(),
        Reply::Status(text) => format!("+{text}"),
        Reply::Error(text) => format!("-{text}"),
        Reply::Integer(number) => format!(":{number}"),
        Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Array(replies) => {
            format!("({})", replies.iter().map(shown).collect::<Vec<_>>().join(" "))
        }
        other => panic!("none of RESP2: {other:?}"),
    }
}

/// A first byte that comes within a moment, which is all that a reply that waits for nothing needs.
fn comes_early(client: &Client) -> bool {
    client.stream.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
    let comes = client.stream.peek(&mut [0]).is_ok();
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    comes
}

/// What is wrong with a case, if anything is.
fn try_case(world: &World, case: &Case) -> Result<(), String> {
    let title = format!("{} after {:?}", case.asked, case.write);
    let (mut writer, mut reader) = (world.client(), world.client());
    assert_eq!(writer.line("FLUSHALL"), Reply::ok());
    for line in case.setup {
        let reply = writer.line(line);
        assert!(!matches!(reply, Reply::Error(_)), "{title}: {line}: {reply:?}");
    }
    for line in case.ready {
        let reply = reader.line(line);
        assert!(!matches!(reply, Reply::Error(_)), "{title}: {line}: {reply:?}");
    }
    world.shut(true);
    if !case.write.is_empty() {
        let command = case.write.split(' ').next().unwrap().to_ascii_lowercase();
        world.run(&mut writer, &command, case.write);
    }
    let before = world.calls(case.command);
    reader.send(format!("{}\r\n", case.asked).as_bytes());
    // One that waits for the disk while it runs is counted later.
    let deadline = Instant::now() + Duration::from_millis(500);
    while world.calls(case.command) == before && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    let is_early = comes_early(&reader);
    let is_written = !case.write.is_empty() && comes_early(&writer);
    world.shut(false);
    let reply = shown(&reader.reply());
    if !case.write.is_empty() {
        let written = writer.reply();
        assert!(!matches!(written, Reply::Error(_)), "{title}: {written:?}");
    }
    if !Pattern::new(case.shows.as_bytes()).unwrap().matches(reply.as_bytes()) {
        return Err(format!("{title} answered {reply:?}, not {:?}", case.shows));
    }
    match (is_early, is_written) {
        (true, _) => Err(format!("{title} answered {reply:?} before it was on disk")),
        (_, true) => Err(format!("{title}: the write was acknowledged before it was on disk")),
        _ => Ok(()),
    }
}

#[test]
fn no_reply_comes_before_what_it_shows_is_on_disk() {
    let threads = 4;
    let found: Vec<String> = thread::scope(|scope| {
        let work = |number: usize| {
            move || {
                let world = World::start();
                let cases = CASES.iter().skip(number).step_by(threads);
                cases.filter_map(|case| try_case(&world, case).err()).collect::<Vec<_>>()
            }
        };
        let work: Vec<_> = (0..threads).map(|number| scope.spawn(work(number))).collect();
        work.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(found.is_empty(), "{} of {} cases:\n{}", found.len(), CASES.len(), found.join("\n"));
}

#[test]
fn no_command_is_missing_from_the_table() {
    let tried: BTreeSet<&str> = CASES.iter().map(|case| case.command).collect();
    let exempt: BTreeSet<&str> = NOT_OF_KEYS.iter().map(|(name, _)| *name).collect();
    assert_eq!(tried.intersection(&exempt).count(), 0);
    let mut known = BTreeSet::new();
    for command in commands() {
        let name = command.name.to_ascii_lowercase();
        let subcommands: Vec<_> = command
            .subcommands()
            .iter()
            .map(|sub| format!("{name}|{}", sub.name.to_ascii_lowercase()))
            .collect();
        // Where no subcommand is of keys, one line is for all of them.
        let is_split = tried.iter().any(|tried| tried.starts_with(&format!("{name}|")));
        let of_keys = command.subcommands().iter().any(|sub| sub.keys.is_any());
        if of_keys {
            assert!(is_split, "{name} has subcommands on keys, of which none is tried");
        }
        known.insert(name);
        known.extend(subcommands.into_iter().filter(|_| is_split));
    }
    for name in &known {
        let is_known = tried.contains(name.as_str()) || exempt.contains(name.as_str());
        assert!(is_known, "{name} is neither tried nor said to show no key");
    }
    for name in tried.union(&exempt) {
        assert!(known.contains(*name), "{name} is no command");
    }
}

/// A key that comes while a command looks through all of them is shown with its mark too.
#[test]
fn a_key_that_comes_while_others_are_looked_through_is_not_shown_early() {
    const TRIES: u64 = 150;
    const RENAMES: u64 = 100;
    for asked in ["RANDOMKEY", "KEYS *", "KEYS key:*", "SCAN 0 COUNT 1000"] {
        let world = World::start();
        let mut writer = world.client();
        assert_eq!(writer.line("SET key:0 1"), Reply::ok());
        let (committed, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let asker = || {
            let mut client = world.client();
            while !is_over.load(Ordering::SeqCst) {
                let reply = shown(&client.line(asked));
                let is_shut = world.gates.sync.is_shut();
                let before = committed.load(Ordering::SeqCst);
                let names = reply.split(|end: char| !(end.is_alphanumeric() || end == ':'));
                let newest = names.filter_map(|name| name.strip_prefix("key:")?.parse().ok()).max();
                // Still shut, so that what it shows was not on disk when it came.
                if is_shut && newest.is_some_and(|newest: u64| newest > before) {
                    return Err(format!("{asked} answered {reply}, {before} was on disk"));
                }
            }
            Ok(())
        };
        let found: Vec<String> = thread::scope(|scope| {
            let askers: Vec<_> = (0..4).map(|_| scope.spawn(asker)).collect();
            for number in 0..TRIES {
                let start = number * RENAMES;
                committed.store(start, Ordering::SeqCst);
                world.shut(true);
                // They ask on: nothing is written yet.
                thread::sleep(Duration::from_micros(500));
                let before = world.calls("rename");
                let rename = |number: u64| {
                    let (from, to) = (format!("key:{number}"), format!("key:{}", number + 1));
                    request(&[b"RENAME", from.as_bytes(), to.as_bytes()])
                };
                writer.send(&(start..start + RENAMES).flat_map(rename).collect::<Vec<_>>());
                wait_until("some are renamed", || world.calls("rename") > before);
                thread::sleep(Duration::from_millis(1));
                world.shut(false);
                (0..RENAMES).for_each(|_| assert_eq!(writer.reply(), Reply::ok()));
            }
            is_over.store(true, Ordering::SeqCst);
            askers.into_iter().filter_map(|asker| asker.join().unwrap().err()).collect()
        });
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

/// The metrics count keys, which are on disk.
#[test]
fn metrics_count_no_key_before_it_is_on_disk() {
    let world = World::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = Arc::clone(&world.server);
    let serve = thread::spawn(move || {
        coffre::net::metrics::serve(&listener, server.control(), &**server.engine());
    });
    let ask = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream
    };
    // None where a busy machine took too long for the deadline of a request.
    let keys = |mut stream: TcpStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("coffre_keys "));
        Some(line.expect("coffre_keys").parse::<f64>().unwrap())
    };
    let mut writer = world.client();
    assert_eq!(writer.line("SET a 1"), Reply::ok());
    wait_until("the first key is counted", || keys(ask()) == Some(1.0));
    world.shut(true);
    world.run(&mut writer, "set", "SET b 1");
    let asked = ask();
    // It may wait for the disk, or tell of what is there.
    asked.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let comes = asked.peek(&mut [0]).is_ok();
    asked.set_read_timeout(Some(PATIENCE)).unwrap();
    let early = if comes { keys(asked) } else { None };
    world.shut(false);
    assert_eq!(writer.reply(), Reply::ok());
    assert!(early.is_none_or(|early| early == 1.0), "{early:?} keys, of which 1 was on disk");
    wait_until("the new key is counted", || keys(ask()) == Some(2.0));
    world.server.control().stop(Stop::NoSave);
    // It looks whether the server stops once it has answered.
    drop(ask());
    serve.join().unwrap();
}
