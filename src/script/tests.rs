//! What scripts may do in a sandbox, and what they may not.

use std::thread;
use std::time::Duration;

use super::cache::Sha;
use super::{Calls, End, Input, Sandbox, Script};
use crate::limits::CLIENT_STACK_BYTES;
use crate::protocol::reply::{Protocol, Replies};
use crate::protocol::request::QueuedRequest;

/// Answers `GET` with what follows it, and ends a script by `END`.
struct Echo;

impl Calls for Echo {
    fn call(
        &mut self,
        request: &QueuedRequest,
        _protocol: Protocol,
        replies: &mut Replies,
    ) -> Result<(), End> {
        let request = request.request();
        match &request[0] {
            b"GET" => replies.bulk(&request[1]),
            b"END" => return Err(End::Refused),
            _ => replies.error("ERR unknown"),
        }
        Ok(())
    }
}

const MEMORY_BYTES: usize = 16 << 20;

fn run_in(sandbox: &mut Sandbox, text: &str, time: Duration) -> Result<String, End> {
    let script = Script::new(text.as_bytes()).unwrap();
    let input = Input { keys: &[b"k"], arguments: &[b"a"], time };
    let mut replies = Replies::default();
    match sandbox.run(&script, &input, &mut Echo, &mut replies)? {
        Some(error) => Ok(format!("-{error}")),
        None => Ok(String::from_utf8_lossy(replies.bytes().unwrap()).into_owned()),
    }
}

fn run(text: &str) -> Result<String, End> {
    let mut sandbox = Sandbox::new(MEMORY_BYTES).unwrap();
    run_in(&mut sandbox, text, Duration::from_secs(60))
}

#[test]
fn a_script_returns_a_reply() {
    for (text, reply) in [
        ("return {1, 'a', {2.9}, true, nil, 3}", "*4\r\n:1\r\n$1\r\na\r\n*1\r\n:2\r\n:1\r\n"),
        ("return {KEYS[1], ARGV[1]}", "*2\r\n$1\r\nk\r\n$1\r\na\r\n"),
        ("return redis.call('GET', 0.1)", "$19\r\n0.10000000000000001\r\n"),
        ("return redis.pcall('NOPE')", "-ERR unknown\r\n"),
        ("return {ok = 'FINE'}", "+FINE\r\n"),
    ] {
        assert_eq!(run(text).unwrap(), reply, "{text}");
    }
}

#[test]
fn an_error_says_where_it_was_raised() {
    let place = |text: &str, line: u32| {
        let sha = Sha::of(text.as_bytes());
        format!(" script: {sha}, on @user_script:{line}.")
    };
    for (text, error, line) in [
        ("return redis.call('NOPE')", "-ERR unknown", 1),
        ("local x = 1\nerror('boom')", "-ERR user_script:2: boom", 2),
        ("error({err = 'MYERR x'})", "-MYERR x", 1),
        ("error({})", "-ERR unknown error", 1),
        (
            "\nreturn nope",
            "-ERR user_script:2: Script attempted to access nonexistent global variable 'nope'",
            2,
        ),
        ("nope = 1", "-ERR user_script:1: Attempt to modify a readonly table", 1),
        ("local _ = ('x'):find('%')", "-ERR user_script:1: malformed pattern (ends with '%')", 1),
    ] {
        let expected = format!("{error}{}", place(text, line));
        assert_eq!(run(text).unwrap(), expected, "{text}");
    }
    let error = run("return return").unwrap();
    assert!(
        error.starts_with("-ERR Error compiling script (new function): user_script:1:"),
        "{error}"
    );
    assert!(run("return {pcall(redis.call, 'NOPE')}").unwrap().contains("ERR unknown"));
    assert!(
        run("return {xpcall(function() redis.call('NOPE') end, function(e) return e.err end)}")
            .unwrap()
            .contains("ERR unknown")
    );
    let co = "local co = coroutine.wrap(function() redis.call('NOPE') end) return {pcall(co)}";
    assert!(run(co).unwrap().contains("ERR unknown"));
}

/// What scripts may try, and what the next one must not see of it.
#[test]
fn a_script_leaves_nothing_to_the_next() {
    let mut sandbox = Sandbox::new(MEMORY_BYTES).unwrap();
    let minute = Duration::from_secs(60);
    for text in [
        "rawset(_G, 'x', 1)",
        "x = 1",
        "string.rep = 1",
        "rawset(string, 'rep', 1)",
        "setmetatable(_G, {})",
        "setmetatable(string, {})",
        "getmetatable('').__index = nil",
        "getmetatable(_G).__index = nil",
        "table.insert(string, 'x')",
        "table.insert(_G, 'x')",
        "redis.call = 1",
        "rawset(redis, 'call', 1)",
        "local f = loadstring('x = 1') f()",
        "KEYS = {} x = 1",
        "coroutine.wrap(function() error('x') end)()",
        "debug.sethook()",
        "return newproxy(true)",
        "return setfenv(1, {})",
        "return getfenv(0)",
        "return require('os')",
        "return dofile('/etc/passwd')",
        "return io.open('/etc/passwd')",
        "return os.exit()",
        "return string.dump(function() end)",
        "return loadstring('\\27Lua')()",
        "return module('x')",
        "return collectgarbage('stop')",
    ] {
        let _ = run_in(&mut sandbox, text, minute);
        if !sandbox.tidy() {
            sandbox = Sandbox::new(MEMORY_BYTES).unwrap();
        }
        let clean = "local t = {} for k in pairs(_G) do t[#t + 1] = k end
             return {rawget(_G, 'x') == nil, rawget(string, 'x') == nil, #t, string.rep('a', 2), ('a'):rep(2),
                 redis.call('GET', 'a'), #KEYS, type(coroutine.wrap(function() return 1 end)())}";
        let expected =
            "*8\r\n:1\r\n:1\r\n:0\r\n$2\r\naa\r\n$2\r\naa\r\n$1\r\na\r\n:1\r\n$6\r\nnumber\r\n";
        assert_eq!(run_in(&mut sandbox, clean, minute).unwrap(), expected, "after {text}");
    }
    for escape in [
        "debug", "newproxy", "setfenv", "getfenv", "require", "dofile", "io", "os", "module",
        "print", "loadfile",
    ] {
        let found = run(&format!("return type({escape})")).unwrap();
        assert!(found.contains("nonexistent global variable"), "{escape}: {found}");
    }
    assert_eq!(run("return type(string.dump)").unwrap(), "$3\r\nnil\r\n");
}

#[test]
fn a_script_that_takes_too_long_is_ended_whatever_it_does() {
    for text in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do pcall(error) end",
        "local function f() return pcall(f) end while true do f() end",
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
        "while true do coroutine.wrap(function() while true do end end)() end",
        "while true do pcall(coroutine.wrap(function() while true do pcall(function() while true do end end) end end)) end",
        "local co = coroutine.create(function() while true do coroutine.yield() end end) while true do coroutine.resume(co) end",
        "local s = ('a'):rep(30) while true do pcall(string.find, s, ('a?'):rep(30) .. s) end",
        "while true do ('a'):rep(1000000):gsub('a', 'b') end",
        "while true do for _ in ('a'):rep(100000):gmatch('.') do end end",
        "local t = {} for n = 1, 300000 do t[n] = n end while true do table.sort(t, function() return true end) end",
        "local t = {} for n = 1, 1000 do t[n] = ('x'):rep(100000) .. n % 2 end while true do table.sort(t) end",
        "return setmetatable({}, {__index = function(t, k) while true do end end}).x",
        "local t = setmetatable({}, {__gc = function() while true do end end}) t = nil while true do t = {} end",
        "while true do tostring(setmetatable({}, {__tostring = function() while true do end end})) end",
        "while true do redis.call('GET', 'k') end",
        "while true do redis.pcall('NOPE') end",
        "load(function() return 'x ' end)",
        "while true do collectgarbage() end",
        "local s = ('x'):rep(1000000) while true do local _ = s .. 'y' < s .. 'z' end",
        "while true do cjson.encode({cjson.decode('[[1,2],[3]]')}) end",
        "error(setmetatable({}, {__tostring = function() while true do end end}))",
    ] {
        let mut sandbox = Sandbox::new(MEMORY_BYTES).unwrap();
        let outcome = run_in(&mut sandbox, text, Duration::from_millis(50));
        let is_ended = matches!(outcome, Err(End::Time | End::Memory))
            || outcome.as_ref().is_ok_and(|reply| reply.starts_with("-ERR"));
        assert!(is_ended, "{text}: {outcome:?}");
    }
}

#[test]
fn a_script_that_wants_too_much_memory_is_ended() {
    for text in [
        "return ('x'):rep(100000000)",
        "local s = 'x' while true do s = s .. s end",
        "local t = {} while true do t[#t + 1] = {} end",
        "local t = {} for n = 1, 1000000 do t[n] = ('x'):rep(100) .. n end return t",
        "local s = ('x'):rep(1000000) local t = {} for n = 1, 1000 do t[n] = s end return table.concat(t)",
        "return (('x'):rep(1000000):gsub('x', ('y'):rep(1000)))",
        "local t = {} for n = 1, 10000 do t[n] = coroutine.create(function() end) end return cjson.decode('[' .. ('1,'):rep(8000000) .. '1]')",
    ] {
        let outcome = run(text);
        assert_eq!(outcome, Err(End::Memory), "{text}");
    }
    // An error of the script's own, which it may handle.
    let many = "local s = ('x'):rep(1000000) local t = {} for n = 1, 100 do t[n] = s end return cjson.encode(t)";
    assert!(run(many).is_err() || run(many).unwrap().contains("not enough memory"));
}

/// On the stack that a client's thread has.
#[test]
fn a_script_that_calls_itself_does_not_use_up_the_stack() {
    let corpus = [
        "local function f() return 1 + f() end return f()",
        "local function f() return pcall(f) end return f()",
        "local function f() return f() end f()",
        "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k .. 'x'] end return t.x",
        "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k .. 'x'] end
             return coroutine.wrap(function() return t.x end)()",
        "local t = setmetatable({}, {}) getmetatable(t).__eq = function(a, b) return a == setmetatable({}, getmetatable(t)) end
             return t == setmetatable({}, getmetatable(t))",
        "local t = setmetatable({}, {}) getmetatable(t).__concat = function(a, b) return t .. b end return t .. 'x'",
        "local function f() return coroutine.wrap(f)() end return f()",
        "local function f(n) return pcall(coroutine.wrap(function() return f(n + 1) end)) end return {f(1)}",
        "local t = setmetatable({}, {}) getmetatable(t).__tostring = function() return tostring(t) end return tostring(t)",
        "local function f(s) return s:gsub('.', f) end return f('abc')",
        "local t = {} t[1] = t return t",
        "local t = {} t[1] = t return cjson.encode(t)",
        "return cjson.decode(('['):rep(100000))",
        "return loadstring('return ' .. ('('):rep(10000) .. '1' .. (')'):rep(10000))",
        "return loadstring(('do '):rep(10000))",
        "return loadstring('return ' .. ('{'):rep(10000))",
        "return loadstring('return ' .. ('-'):rep(1) .. ('not '):rep(10000) .. '1')",
        "return loadstring('return ' .. ('a..'):rep(10000) .. '1')",
        "local function f() return xpcall(f, f) end return f()",
        "local t = {} for n = 1, 5000 do t = {t} end return t",
        "return ('a'):rep(100000):find(('a-'):rep(10000) .. 'b')",
        "return {unpack({}, 1, 1e8)}",
        "return select(-1, unpack({}, 1, 7000))",
        "return table.foreach({1}, function() return ('x'):rep(10) end)",
    ];
    let work = move || {
        for text in corpus {
            let mut sandbox = Sandbox::new(MEMORY_BYTES).unwrap();
            let _ = run_in(&mut sandbox, text, Duration::from_secs(2));
            let alive = run_in(&mut sandbox, "return 1", Duration::from_secs(60));
            assert_eq!(alive.unwrap(), ":1\r\n", "after {text}");
        }
    };
    let thread = thread::Builder::new().stack_size(CLIENT_STACK_BYTES);
    thread.spawn(work).unwrap().join().unwrap();
}

#[test]
fn a_first_line_counts_as_one() {
    assert!(run("#!lua\nreturn nope").unwrap().contains("user_script:2:"));
}

#[test]
fn what_a_called_command_ends_cannot_be_caught() {
    for text in [
        "pcall(redis.call, 'END') return 1",
        "redis.pcall('END') return 1",
        "coroutine.wrap(function() pcall(redis.pcall, 'END') end)() return 1",
    ] {
        assert_eq!(run(text), Err(End::Refused), "{text}");
    }
}
