//! Scripts: each is one transaction, bounded in time and memory, and its records are its effects.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Reply, Server, folder, has_file, info_of, request, signal, wait_until,
};

fn eval(client: &mut Client, script: &str, keys: &[&str], arguments: &[&str]) -> Reply {
    let count = keys.len().to_string();
    let words = ["EVAL", script, &count];
    let words: Vec<_> =
        words.iter().chain(keys).chain(arguments).map(|word| word.as_bytes()).collect();
    client.call(&words)
}

fn error(reply: Reply) -> String {
    match reply {
        Reply::Error(text) => text,
        other => panic!("no error: {other:?}"),
    }
}

#[test]
fn a_script_reads_and_changes_keys() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    let set = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('INCRBY', KEYS[1], 2)";
    assert_eq!(eval(&mut client, set, &["n"], &["40"]), Reply::Integer(42));
    assert_eq!(client.line("GET n"), Reply::bulk("42"));
    // Keys that it does not declare are locked all the same.
    let rename =
        "redis.call('SET', 'a', 'x') redis.call('RENAME', 'a', 'b') return redis.call('KEYS', '?')";
    let Reply::Array(keys) = eval(&mut client, rename, &["n"], &[]) else { panic!() };
    assert_eq!(keys.len(), 2);
    assert_eq!(client.line("MGET a b"), Reply::Array(vec![Reply::Nil, Reply::bulk("x")]));
    // The database that it selects is its own.
    eval(&mut client, "redis.call('SELECT', 1) redis.call('SET', 'there', 1)", &[], &[]);
    assert_eq!(client.line("EXISTS there"), Reply::Integer(0));
    assert_eq!(client.line("SELECT 1"), Reply::ok());
    assert_eq!(client.line("EXISTS there"), Reply::Integer(1));
}

#[test]
fn what_a_script_did_before_its_own_error_stays_and_what_ended_it_leaves_nothing() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--script-timeout", "1", "--script-memory", "4mb"]);
    let mut client = server.client();
    let reply = eval(
        &mut client,
        "redis.call('SET', 'a', 1) return redis.call('INCR', 'a', 2)",
        &["a"],
        &[],
    );
    assert!(error(reply).starts_with("ERR Wrong number of args calling Redis command from script"));
    assert_eq!(client.line("GET a"), Reply::bulk("1"));
    for (script, begins) in [
        ("redis.call('SET', 'b', 1) while true do end", "ERR the script ran for longer"),
        ("redis.call('SET', 'b', 1) while true do pcall(redis.call, 'GET', 'b') end", "ERR "),
        (
            "redis.call('SET', 'b', 1) local t = {} while true do t[#t + 1] = {} end",
            "OOM the script wanted more memory",
        ),
    ] {
        let text = error(eval(&mut client, script, &["b"], &[]));
        assert!(text.starts_with(begins), "{script}: {text}");
        assert_eq!(client.line("EXISTS b"), Reply::Integer(0), "{script}");
    }
    assert_eq!(eval(&mut client, "return 1", &[], &[]), Reply::Integer(1));
}

#[test]
fn a_script_in_exec_is_part_of_it() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--script-timeout", "1"]);
    let mut client = server.client();
    client.line("MULTI");
    client.line("SET a 1");
    eval(&mut client, "return redis.call('INCR', 'a')", &[], &[]);
    client.line("INCR a");
    let replies = vec![Reply::ok(), Reply::Integer(2), Reply::Integer(3)];
    assert_eq!(client.line("EXEC"), Reply::Array(replies));
    client.line("MULTI");
    client.line("SET a other");
    eval(&mut client, "while true do end", &[], &[]);
    assert!(error(client.line("EXEC")).starts_with("EXECABORT"));
    assert_eq!(client.line("GET a"), Reply::bulk("3"));
    // A script wakes up those that watch.
    client.line("WATCH a");
    eval(&mut server.client(), "redis.call('SET', KEYS[1], 'x')", &["a"], &[]);
    client.line("MULTI");
    client.line("SET a y");
    assert_eq!(client.line("EXEC"), Reply::Nil);
}

/// Alone and in `EXEC`: it may write.
#[test]
fn a_pause_of_writes_holds_up_scripts() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let (mut admin, mut client) = (server.client(), server.client());
    let script = b"return redis.call('INCR', KEYS[1])";
    let eval = request(&[b"EVAL", script, b"1", b"k"]);
    let exec = [b"MULTI\r\n", &eval[..], b"EXEC\r\n"].concat();
    for (sent, last, replies) in [(eval, "eval", 0), (exec, "exec", 2)] {
        assert_eq!(admin.line("CLIENT PAUSE 600000 WRITE"), Reply::ok());
        let before = admin.line("GET k");
        client.send(&sent);
        (0..replies).for_each(|_| drop(client.reply()));
        wait_until("it waits", || {
            let list = String::from_utf8(admin.line("CLIENT LIST").into_bytes()).unwrap();
            list.contains(&format!(" cmd={last} "))
        });
        assert_eq!(admin.line("GET k"), before);
        assert_eq!(admin.line("CLIENT UNPAUSE"), Reply::ok());
        client.reply();
        assert_ne!(admin.line("GET k"), before);
    }
}

#[test]
fn scripts_are_known_by_their_sha1() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    let sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    let asked = format!("EVALSHA {sha} 0");
    assert_eq!(error(client.line(&asked)), "NOSCRIPT No matching script. Please use EVAL.");
    assert_eq!(client.call(&[b"SCRIPT", b"LOAD", b"return 1"]), Reply::bulk(sha));
    assert_eq!(client.line(&asked), Reply::Integer(1));
    assert_eq!(client.line(&asked.to_uppercase()), Reply::Integer(1));
    let exists = format!("SCRIPT EXISTS {sha} nope");
    assert_eq!(client.line(&exists), Reply::Array(vec![Reply::Integer(1), Reply::Integer(0)]));
    assert_eq!(client.line("SCRIPT FLUSH"), Reply::ok());
    assert_eq!(client.line(&exists), Reply::Array(vec![Reply::Integer(0), Reply::Integer(0)]));
    assert!(error(client.line("SCRIPT LOAD return(")).contains("Error compiling script"));
    assert_eq!(error(client.line("SCRIPT KILL")), "NOTBUSY No scripts in execution right now.");
    assert_eq!(info_of(&mut client, "memory", "number_of_cached_scripts"), "0");
}

#[test]
fn a_script_that_runs_for_long_is_killed_on_request() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--script-timeout", "600"]);
    let (mut client, mut other) = (server.client(), server.client());
    client.send(&request(&[
        b"EVAL",
        b"redis.call('SET', KEYS[1], 1) while true do end",
        b"1",
        b"k",
    ]));
    wait_until("the script is old enough to be killed", || {
        other.line("SCRIPT KILL") == Reply::ok()
    });
    assert_eq!(error(client.reply()), "ERR Script killed by user with SCRIPT KILL...");
    assert_eq!(client.line("EXISTS k"), Reply::Integer(0));
}

/// Half of them declare their keys.
#[test]
fn no_client_sees_half_of_a_script() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let is_over = AtomicBool::new(false);
    let write = "local v = ARGV[1] redis.call('SET', 'a', v) redis.call('SET', 'b', v) redis.call('SET', 'c', v)";
    std::thread::scope(|scope| {
        let (server, is_over) = (&server, &is_over);
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                scope.spawn(move || {
                    let mut client = server.client();
                    for number in 0..400 {
                        let keys: &[&str] = if number % 2 == 0 { &["a", "b", "c"] } else { &[] };
                        eval(&mut client, write, keys, &[&format!("{writer}:{number}")]);
                    }
                })
            })
            .collect();
        scope.spawn(move || {
            let mut client = server.client();
            while !is_over.load(Ordering::Relaxed) {
                let Reply::Array(values) = client.line("MGET c b a") else { panic!() };
                assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
                let read = "return {redis.call('GET', 'c'), redis.call('GET', 'a')}";
                let Reply::Array(values) = eval(&mut client, read, &[], &[]) else { panic!() };
                assert_eq!(values[0], values[1]);
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_data_file_has_the_effects_of_scripts() {
    if !has_file() {
        return;
    }
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    eval(
        &mut client,
        "redis.call('SET', 'a', 'x') redis.call('APPEND', 'a', 'y') redis.call('SET', 'b', math.random())",
        &[],
        &[],
    );
    let random = client.line("GET b").into_bytes();
    server.kill();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("\nSETRANGE a 1 y\n") && !text.contains("EVAL"), "{text}");
    let server = Server::start(&file);
    let mut client = server.client();
    assert_eq!(client.line("GET a"), Reply::bulk("xy"));
    assert_eq!(client.line("GET b").into_bytes(), random);
}

/// A crash leaves all of a script, or nothing.
#[test]
fn a_crash_leaves_no_half_of_a_script() {
    if !has_file() {
        return;
    }
    let (_folder, file) = folder();
    let mut server = Server::start(&file);
    for _ in 0..5 {
        let clients: Vec<_> = (0..4).map(|_| server.client()).collect();
        std::thread::scope(|scope| {
            for mut client in clients {
                scope.spawn(move || {
                    let script = "for n = 1, 20 do redis.call('INCR', 'n' .. n) end return 1";
                    let request = request(&[b"EVAL", script.as_bytes(), b"0"]);
                    for _ in 0..200 {
                        use std::io::Write;
                        if client.stream.write_all(&request).is_err()
                            || client.try_reply().is_none()
                        {
                            return;
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(20));
            signal(server.pid(), "KILL");
        });
        server = server.restart(&file);
        let keys: Vec<_> = (1..=20).map(|number| format!("n{number}")).collect();
        let Reply::Array(values) = server.client().line(&format!("MGET {}", keys.join(" "))) else {
            panic!()
        };
        assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
    }
}

/// Clients with scripts that do all that they can to keep the server busy; another one is answered all the while.
#[test]
fn hostile_scripts_hold_up_no_other_client() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--script-timeout", "1"]);
    let corpus = [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "return ('x'):rep(1e9)",
        "local s = 'x' while true do s = s .. s end",
        "local function f() return 1 + f() end return f()",
        "local function f() return coroutine.wrap(f)() end return f()",
        "local s = ('a'):rep(30) return s:find(('a?'):rep(30) .. s)",
        "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k .. 'x'] end return t.x",
        "local t = {} t[1] = t return t",
        "local a = {1} for n = 1, 60 do a = {a, a} end return a",
        "return cjson.decode(('['):rep(1000000))",
        "while true do redis.call('SET', 'k', ('x'):rep(1000000)) end",
        "while true do redis.pcall('KEYS', '*') end",
        "return string.format('%99.99f', 1e308)",
        "while true do redis.log(3, ('x'):rep(100000)) end",
        "return {unpack({}, 1, 1e8)}",
    ];
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (server, is_over) = (&server, &is_over);
        let pinging = scope.spawn(move || {
            let (mut client, mut longest) = (server.client(), Duration::ZERO);
            while !is_over.load(Ordering::Relaxed) {
                let started = Instant::now();
                assert_eq!(client.line("PING"), Reply::pong());
                longest = longest.max(started.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            longest
        });
        let threads: Vec<_> = corpus
            .into_iter()
            .map(|script| {
                scope.spawn(move || drop(eval(&mut server.client(), script, &["k"], &[])))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        is_over.store(true, Ordering::Relaxed);
        println!("longest PING: {:?}", pinging.join().unwrap());
    });
    assert_eq!(eval(&mut server.client(), "return 1", &[], &[]), Reply::Integer(1));
}
