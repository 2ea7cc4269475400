//! Scripts, played to redis-server and to coffre: every reply the same to the byte. They are what Redis's own tests of
//! scripting do with strings and keys, and what its documentation shows.

use crate::harness::{Client, Server, folder, request};
use crate::real_clients::Redis;

/// What is sent: the words of requests, where a script may stand as `EVAL`'s first argument.
type Words = &'static [&'static str];

const fn eval(script: &'static str) -> [&'static str; 3] {
    ["EVAL", script, "0"]
}

/// Scripts without keys and arguments.
#[rustfmt::skip]
const SCRIPTS: &[&str] = &[
    // Values of Lua as replies.
    "return 100", "return 100.5", "return -0.9", "return 'hello'", "return ''", "return true", "return false", "return nil",
    "return", "", "return {1, 2, 3, 'ciao', {1, 2}}", "return {1, nil, 3}", "return {}", "return {{}}", "return {a = 1}",
    "return {ok = 'fine'}", "return {ok = 'two\\nlines'}", "return {err = 'My Err'}", "return {err = 'ERR two\\r\\nlines'}",
    "return {1, {err = 'inside'}, {ok = 'there'}}", "return 9007199254740991", "return '\\0\\r\\n'", "return function() end",
    "return 1, 2", "return {1, 2, a = 3, 4}", "return {[1] = 'a', [3] = 'c'}", "return tostring(0.1)", "return tostring(1e100)",
    "return {double = 0.1}", "return {map = {a = 1}}", "return {set = {a = true}}", "return {big_number = '12345678901234567890'}",
    "return {verbatim_string = {string = 'text', format = 'txt'}}",
    "redis.setresp(3) return {double = 0.1}", "redis.setresp(3) return {map = {a = 1}}", "redis.setresp(3) return true",
    "redis.setresp(3) return {1, false, nil}", "redis.setresp(3) return redis.call('GET', 'none')",
    "redis.setresp(3) return redis.call('GET', 'none') == nil", "return redis.call('GET', 'none') == false",
    "redis.setresp(3) return redis.call('MGET', 'none', 's')", "redis.setresp(4)", "redis.setresp()",
    // Replies as values of Lua.
    "return redis.call('SET', 's', 'value')", "return redis.call('SET', 's', 'value').ok", "return redis.call('GET', 's')",
    "return {type(redis.call('GET', 's')), type(redis.call('STRLEN', 's')), type(redis.call('MGET', 's', 'none'))}",
    "return redis.call('MGET', 's', 'none')", "return #redis.call('MGET', 's', 'none')", "return redis.call('INCR', 'n') + 1",
    "return redis.call('INCRBY', 'n', 10)", "return redis.call('INCRBY', 'n', '10')", "return redis.call('SET', 'f', 0.1)",
    "return redis.call('GET', 'f')", "return redis.call('SET', 'f', 1e20)", "return redis.call('GET', 'f')",
    "return redis.call('SET', 'f', 12345678901234567890)", "return redis.call('GET', 'f')", "return redis.call('SET', 'f', -3.0)",
    "return redis.call('GET', 'f')", "return redis.call('INCRBYFLOAT', 'g', '0.5')", "return redis.call('APPEND', 's', '!')",
    "return redis.call('EXPIRE', 's', 100)", "return redis.call('TTL', 's')", "return redis.call('PERSIST', 's')",
    "return redis.call('TYPE', 's')", "return redis.call('TYPE', 's').ok", "return redis.call('EXISTS', 's', 'none')",
    "return redis.call('SET', 's', 'x', 'EX', '100', 'NX')", "return redis.call('SET', 's', 'x', 'GET')",
    "return redis.call('GETRANGE', 's', 0, -1)", "return redis.call('GETDEL', 's')", "return redis.call('DEL', 's', 'n')",
    "return redis.call('SETEX', 's', 100, 'v')", "return redis.call('SETNX', 's', 'w')", "return redis.call('RENAME', 's', 't')",
    "return redis.call('COPY', 't', 's')", "return redis.call('LCS', 's', 't')", "return redis.call('OBJECT', 'ENCODING', 's')",
    "return redis.call('PING')", "return redis.call('ECHO', 'x')", "return #redis.call('TIME')", "return redis.call('DBSIZE') >= 2",
    "return redis.call('SELECT', 9)", "return redis.call('SELECT', 99)", "redis.call('SELECT', 3) redis.call('SET', 'x', 1)",
    "return redis.call('EXISTS', 'x')", "return redis.call('FLUSHDB')", "return redis.call('RANDOMKEY')", "return redis.call('KEYS', '*')",
    // Errors.
    "return redis.call('INCR', 'f')", "redis.call('SET', 'f', 'x') return redis.call('INCR', 'f')", "return redis.pcall('INCR', 'f')",
    "return redis.pcall('INCR', 'f').err", "return redis.pcall('INCR', 'f')['err']", "local r = redis.pcall('INCR', 'f') return {r.err, 1}",
    "local ok, e = pcall(redis.call, 'INCR', 'f') return {tostring(ok), e.err}", "return {pcall(redis.call, 'NOPE')}",
    "return redis.call('nosuchcommand')", "return redis.pcall('nosuchcommand')", "return redis.call('GET', 'a', 'b', 'c')",
    "return redis.call('GET')", "return redis.call()", "return redis.pcall()", "return redis.call('GET', {})", "return redis.call({})",
    "return redis.call('GET', true)", "return redis.call('GET', nil)", "return redis.call('SET', 'k', function() end)",
    "return redis.call('MULTI')", "return redis.call('EXEC')", "return redis.call('WATCH', 'k')", "return redis.call('MONITOR')",
    "return redis.call('AUTH', 'x')", "return redis.call('HELLO', '3')", "return redis.call('EVAL', 'return 1', '0')",
    "return redis.call('SCRIPT', 'FLUSH')", "return redis.call('CLIENT', 'ID')", "return redis.call('CONFIG', 'GET', 'x')",
    "return redis.call('SHUTDOWN')", "return redis.call('RESET')", "return redis.call('QUIT')", "return redis.call('DEBUG', 'SLEEP', '0')",
    "error('boom')", "error({err = 'MYERR x'})", "error('boom', 0)", "error({err = 'x', source = 's', line = 9})",
    "local function f() error('deep') end f()", "\n\nerror('third line')", "return nope", "nope = 1", "local a = nil return a.b",
    "return 1 + 'x'", "return #5", "return {} .. 'x'", "return nil()", "return ('x')()", "return {} < {}", "return 1 < 'x'",
    "return this is no Lua", "return 'unfinished", "return (", "end", "goto x", "return 1 // 2", "for", "x =",
    "return redis.error_reply('My Err')", "return redis.error_reply('-CODE text')", "return redis.error_reply('CODE text').err",
    "return redis.error_reply()", "return redis.error_reply(1, 2)", "return redis.status_reply('FINE')",
    "return redis.status_reply()", "return redis.status_reply('a').ok", "redis.call('SET', 'before', 1) error('after')",
    "return redis.call('GET', 'before')",
    // Globals, and what a script may not change.
    "return redis.REPL_ALL", "return {redis.LOG_DEBUG, redis.LOG_VERBOSE, redis.LOG_NOTICE, redis.LOG_WARNING}",
    "return redis.REPL_NONE + redis.REPL_AOF + redis.REPL_SLAVE + redis.REPL_REPLICA", "redis.x = 1", "string.x = 1", "_G.x = 1",
    "return type(_G)", "return _G.redis == redis", "local t = {} t.x = 1 return t.x", "return rawget(_G, 'nope')",
    "return type(os)", "return type(io)", "return type(require)", "return type(print)", "return type(dofile)", "return type(loadfile)",
    "return redis.replicate_commands()", "return redis.breakpoint()", "return type(redis.call)", "return type(redis.nope)",
    "return {type(KEYS), #KEYS, type(ARGV), #ARGV}", "KEYS[1] = 'a' return KEYS[1]", "return redis.sha1hex('abc')", "return redis.sha1hex('')",
    "return redis.sha1hex(12)", "return redis.log(redis.LOG_DEBUG, 'x')", "redis.log('x')", "redis.log(1)", "redis.log('x', 'y')", "redis.log(9, 'x')",
    // The library of Lua.
    "return {string.find('hello', 'l'), string.find('hello', 'xyz'), string.find('', ''), string.find('a', '', 3)}",
    "return {string.find('hello world', 'o w')}", "return {string.find('hello', 'l', -2)}", "return {string.find('a+b', '+', 1, true)}",
    "return {string.find('key:123', '(%a+):(%d+)')}", "return {string.find('abc', '()b()')}", "return {('abc'):find('b', 10)}",
    "return {string.match('  x  ', '^%s*(.-)%s*$')}", "return string.match('2024-01-02', '(%d+)-(%d+)-(%d+)')", "return {string.match('x', '()')}",
    "return {string.match('x=1, y=2', '(%w+)=(%w+)')}", "return string.match('abc', '%d')", "return string.match('f(a(b)c)', '%b()')",
    "return {string.gsub('hello world', 'o', '0')}", "return {string.gsub('hello', '', '-')}", "return {string.gsub('abc', '%w', '%0%0')}",
    "return {string.gsub('abc', '(a)(b)', '%2%1')}", "return {string.gsub('hello', 'l', {l = 'L'})}", "return {string.gsub('$a $b', '%$(%w)', {a = 1})}",
    "return {string.gsub('abc', '%w', function(c) return c:upper() end)}", "return {string.gsub('abc', 'b', function() end)}",
    "return {string.gsub('aaa', 'a', 'b', 2)}", "return {string.gsub('aaa', '^a', 'b')}", "return {string.gsub('abc', 'b', '%%')}",
    "local t = {} for k, v in string.gmatch('a=1,b=2', '(%w+)=(%w+)') do t[#t + 1] = k .. v end return t",
    "local n = 0 for _ in ('aaa'):gmatch('') do n = n + 1 end return n", "return string.rep('ab', 3)", "return string.rep('a', -1)",
    "return {string.byte('abc', 1, -1)}", "return string.char(72, 105)", "return ('Hello'):upper() .. ('Hello'):lower()", "return ('abc'):reverse()",
    "return {('hello'):sub(2, -2), ('hello'):sub(-3), ('hello'):sub(9), #'four'}", "return string.format('%d|%5.1f|%s|%q|%x|%%', 7, 2.55, 'a', 'b\\n', 255)",
    "return string.format('%5s|%-5s|%05d', 'a', 'b', 42)", "return string.format('%s', nil)", "return string.format('%i', 3)",
    "return {tonumber('10'), tonumber('0x1f'), tonumber('1e2'), tonumber('z', 36), tonumber('nope')}", "return {tostring(1), tostring(1.5), tostring(true)}",
    "return table.concat({1, 2, 3}, ', ')", "local t = {3, 1, 2} table.sort(t) return t", "local t = {3, 1, 2} table.sort(t, function(a, b) return a > b end) return t",
    "local t = {1, 2} table.insert(t, 3) table.insert(t, 1, 0) return t", "local t = {1, 2, 3} return {table.remove(t), table.remove(t, 1), #t}",
    "return {unpack({1, 2, 3}, 2)}", "return {select('#', 1, nil, 3), select(2, 'a', 'b', 'c')}", "return table.maxn({1, 2, [9] = 1})",
    "return {math.floor(2.7), math.ceil(2.1), math.max(1, 5, 3), math.min(4, 2), math.abs(-3), math.fmod(7, 3)}", "return math.pi > 3.14 and math.huge > 1e300",
    "math.randomseed(42) return {math.random(100), math.random(100), math.random(5, 10)}", "return {math.modf(3.7)}", "return tostring(math.sqrt(2))",
    "local t = setmetatable({}, {__index = function(_, k) return k .. '!' end}) return t.x", "local t = setmetatable({}, {__call = function(_, x) return x end}) return t(5)",
    "return {pcall(error, 'x')}", "return {pcall(error, {code = 1})}", "return {xpcall(function() error('x', 0) end, function(e) return e .. '!' end)}",
    "return {pcall(function() return 1, 2 end)}", "return select(2, pcall(error))", "return {assert(1, 'x')}", "assert(false, 'said')", "assert(nil)", "assert(false)",
    "return loadstring('return 1 + 1')()", "return {loadstring('nope nope')}", "return {type(load), type(loadstring), type(next), type(rawequal), type(gcinfo)}",
    "local co = coroutine.wrap(function(a) local b = coroutine.yield(a + 1) return b * 2 end) return {co(1), co(10)}", "return coroutine.status(coroutine.create(function() end))",
    "for i = 10, 1, -3 do redis.call('RPUSHX', 'l', i) end", "local s = 0 for i = 1, 1000 do s = s + i end return s", "return 7 % 3 .. '' .. 2 ^ 10 .. ''", "return 5 / 2",
    "local t = {} for k, v in pairs({a = 1}) do t[#t + 1] = k .. v end for i, v in ipairs({5, 6}) do t[#t + 1] = i .. v end return t",
    "return bit.tobit(0xffffffff)", "return {bit.band(12, 10), bit.bor(12, 10), bit.bxor(12, 10), bit.bnot(0)}", "return {bit.lshift(1, 4), bit.rshift(256, 4), bit.arshift(-256, 4)}",
    "return {bit.rol(1, 31), bit.ror(1, 1), bit.bswap(0x12345678)}", "return {bit.tohex(255), bit.tohex(-1, 4), bit.tohex(255, -4)}",
    "return cjson.encode({1, 2, 3})", "return cjson.encode({})", "return cjson.encode({a = 1})", "return cjson.encode('a\"b\\\\c/d\\n\\t\\1')", "return cjson.encode(0.1)", "return cjson.encode(1e15)",
    "return cjson.encode({cjson.null, true, false, 'x'})", "return cjson.encode({[1] = 1, [2] = 2, [4] = 4})", "return cjson.encode({['1'] = 1})", "return cjson.encode(nil)",
    "return cjson.encode({[1.5] = 1})", "return cjson.encode(cjson.decode('[1,2.5,\"x\",null,true,{\"a\":[]}]'))", "return cjson.decode('{\"a\":{\"b\":[10,20]}}').a.b[2]",
    "return cjson.decode('1.5') * 2", "return cjson.decode('null') == cjson.null", "return cjson.decode('\"\\\\u00e9\\\\ud83d\\\\ude00\"')", "return cjson.encode(function() end)",
    "return cjson.encode(0/0)", "return cjson.encode({[100] = 1})", "return type(cjson.null)",
];

/// Requests with more than a script.
#[rustfmt::skip]
const REQUESTS: &[Words] = &[
    &["EVAL", "return {KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]}", "2", "a", "b", "c", "d"], &["EVAL", "return #KEYS + #ARGV", "1", "k", "x", "y"],
    &["EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", "key", "value"], &["EVAL", "return redis.call('GET', KEYS[1])", "1", "key"],
    &["EVAL", "return ARGV[1]", "0", "\u{e9}\r\n"], &["EVAL", "return 1"], &["EVAL"], &["EVAL", "return 1", "x"], &["EVAL", "return 1", "-1"],
    &["EVAL", "return 1", "2", "a"], &["EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"], &["EVALSHA", "E0E1F9FABFC9D4800C877A703B823AC0578FF8DB", "0"],
    &["EVAL", "return 1", "0"], &["EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"], &["EVALSHA", "nope", "0"],
    &["EVALSHA", "ffffffffffffffffffffffffffffffffffffffff", "0"], &["SCRIPT", "EXISTS", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "nope"],
    &["SCRIPT", "LOAD", "return 'loaded'"], &["EVALSHA", "b534286061d4b9e4026607613b95c06c06015ae8", "0"], &["SCRIPT", "FLUSH", "ASYNC"], &["SCRIPT", "EXISTS", "b534286061d4b9e4026607613b95c06c06015ae8"],
    &["SCRIPT", "FLUSH", "nope"], &["SCRIPT", "KILL"], &["SCRIPT", "LOAD"], &["SCRIPT", "EXISTS"], &["EVAL_RO", "return redis.call('SET', KEYS[1], 1)", "1", "key"],
    &["EVAL_RO", "return redis.call('GET', KEYS[1])", "1", "key"], &["EVALSHA_RO", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"],
    &["EVAL", "#!lua\nreturn 1", "0"], &["EVAL", "#!lua flags=no-writes\nreturn redis.call('SET', 'a', 1)", "0"], &["EVAL", "#!lua flags=nope\nreturn 1", "0"], &["EVAL", "#!lua nope=1\nreturn 1", "0"],
    &["EVAL", "#!js\nreturn 1", "0"], &["EVAL", "#!lua", "0"], &["EVAL", "#!lua\nerror('second line')", "0"],
    &["MULTI"], &["EVAL", "return redis.call('INCR', KEYS[1])", "1", "counter"], &["EVAL", "return redis.call('INCR', KEYS[1])", "1", "key"], &["EVAL", "error('x')", "0"], &["GET", "counter"], &["EXEC"],
    &["MULTI"], &["EVAL", "return 1"], &["EXEC"], &["MULTI"], &["SCRIPT", "LOAD", "return 7"], &["EVALSHA", "nope", "0"], &["EXEC"], &["DBSIZE"],
    &["SELECT", "2"], &["EVAL", "return redis.call('DBSIZE')", "0"], &["EVAL", "redis.call('SELECT', 4) redis.call('SET', 'in4', 1) return redis.call('DBSIZE')", "0"], &["DBSIZE"], &["SELECT", "4"], &["GET", "in4"], &["SELECT", "0"],
];

/// Where they differ, and why.
#[rustfmt::skip]
const DIFFERENT: &[(&str, &str)] = &[
    ("for i = 10, 1, -3 do redis.call('RPUSHX'", "there are no lists"),
];

fn raw(client: &mut Client, words: &[&str]) -> Vec<u8> {
    let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
    client.send(&request(&words));
    client.raw_reply()
}

#[test]
#[ignore = "needs redis-server"]
fn scripts_are_answered_as_by_redis() {
    let (directory, file) = folder();
    let redis = Redis::start(directory.path());
    let server = Server::start(&file);
    let (mut differences, mut compared) = (Vec::new(), 0);
    for protocol in ["2", "3"] {
        let (mut theirs, mut ours) = (Client::connect(redis.port), server.client());
        for client in [&mut theirs, &mut ours] {
            raw(client, &["HELLO", protocol]);
            raw(client, &["FLUSHALL"]);
            raw(client, &["SCRIPT", "FLUSH"]);
        }
        let scripts: Vec<_> = SCRIPTS.iter().map(|script| eval(script)).collect();
        let scripts = scripts.iter().map(|words| &words[..]);
        for words in scripts.chain(REQUESTS.iter().copied()) {
            let (redis, coffre) = (raw(&mut theirs, words), raw(&mut ours, words));
            compared += 1;
            let is_known =
                DIFFERENT.iter().any(|(begin, _)| words.iter().any(|word| word.starts_with(begin)));
            if (redis == coffre) == is_known {
                let shown = |reply: &[u8]| String::from_utf8_lossy(reply).into_owned();
                differences.push(format!(
                    "RESP{protocol} {words:?}\n  redis:  {:?}\n  coffre: {:?}",
                    shown(&redis),
                    shown(&coffre)
                ));
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {compared} differ, or are listed and do not:\n{}",
        differences.len(),
        differences.join("\n")
    );
}
