//! Random sequences of commands, played to redis-server and to coffre: every reply the same to the byte, and at the end
//! the same keys, values and times.
//!
//! Where they may differ there is a [`Rule`], with its reason; one that a run of 10,000 or more never uses is a failure of its own. 1,500
//! sequences, or `COFFRE_SEQUENCES`; `COFFRE_SEED` replays one. Not sent is what Redis 7 has not: IFEQ,
//! DELEX, MSETEX, INCREX; `sessions/` has it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coffre::command::{Group, commands};

use crate::harness::{Client, Server, folder, is_cluster, on_request, request};
use crate::real_clients::Redis;

/// One request of a sequence.
#[derive(Clone, Debug)]
struct Step {
    /// Which of the clients sends it.
    client: usize,
    words: Vec<Vec<u8>>,
    /// As a line, or as an array.
    inline: bool,
    /// Wait before it, for what is about to expire.
    timed: bool,
}

impl Step {
    fn is(&self, name: &str) -> bool {
        self.words.first().is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    }

    fn bytes(&self) -> Vec<u8> {
        let words: Vec<_> = self.words.iter().map(Vec::as_slice).collect();
        if !self.inline {
            return request(&words);
        }
        let mut line = Vec::new();
        for word in words {
            coffre::text::quote(word, &mut line);
            line.push(b' ');
        }
        line.extend_from_slice(b"\r\n");
        line
    }
}

/// Where Redis's reply and coffre's may differ.
struct Rule {
    reason: &'static str,
    allows: fn(&Step, &[u8], &[u8]) -> bool,
    /// From there on they hold different data.
    ends: bool,
    used: AtomicU64,
}

impl Rule {
    const fn new(reason: &'static str, allows: fn(&Step, &[u8], &[u8]) -> bool) -> Self {
        Self { reason, allows, ends: false, used: AtomicU64::new(0) }
    }

    const fn that_ends(self) -> Self {
        Self { ends: true, ..self }
    }
}

static RULES: [Rule; 11] = [
    Rule::new("DBSIZE counts what has expired until it is removed", |step, redis, ours| {
        step.is("DBSIZE")
            && integer(redis)
                .zip(integer(ours))
                .is_some_and(|(redis, ours)| redis >= ours || step.timed)
    }),
    Rule::new("an echo is UTF-8, of 128 bytes at most, and ends at no NUL", |_, redis, ours| {
        let echoes: [&[u8]; 3] = [
            b"-ERR unknown command '",
            b"-ERR Unsupported option ",
            b"-ERR Syntax error in HELLO option '",
        ];
        echoes.iter().any(|begin| redis.starts_with(begin) && ours.starts_with(begin))
    }),
    Rule::new("who forgets the quotes of a line is told so", |_, redis, ours| {
        let hint =
            |line: &[u8]| line.starts_with(b"-ERR syntax error, put the value in quotes: SET ");
        let without =
            ours.split_inclusive(|byte| *byte == b'\n').flat_map(|line| match hint(line) {
                true => b"-ERR syntax error\r\n",
                false => line,
            });
        without.eq(redis)
    }),
    Rule::new("KEYS and SCAN promise no order", |step, redis, ours| {
        (step.is("KEYS") || step.is("SCAN")) && sorted(redis) == sorted(ours)
    }),
    Rule::new("RANDOMKEY is random", |step, redis, ours| {
        step.is("RANDOMKEY") && redis.starts_with(b"$") && ours.starts_with(b"$")
    }),
    Rule::new("the two clocks are not read at the same moment", |step, redis, ours| {
        let within = match () {
            () if step.is("TTL") || step.is("EXPIRETIME") => 1,
            () if step.is("PTTL") || step.is("PEXPIRETIME") => 1500,
            () => return false,
        };
        let both = integer(redis).zip(integer(ours));
        both.is_some_and(|(redis, ours)| redis > 0 && (redis - ours).abs() <= within)
    }),
    Rule::new(
        "how a value is kept is each server's own, once it has changed",
        |step, redis, ours| {
            step.is("OBJECT") && redis[..1] == ours[..1] && b"$:".contains(&ours[0])
        },
    ),
    Rule::new(
        "the version is coffre's, the client's number each server's own",
        |step, redis, ours| {
            step.is("HELLO") && redis.len().abs_diff(ours.len()) < 8 && redis[..3] == ours[..3]
        },
    ),
    Rule::new("a cursor is a number, no negative one: Redis takes any for one", |step, _, ours| {
        step.is("SCAN")
            && step.words.get(1).is_some_and(|cursor| cursor.is_empty() || cursor.starts_with(b"-"))
            && ours == b"-ERR invalid cursor\r\n"
    }),
    Rule::new("a sum of many digits is exact, Redis's has 64 bits", |step, redis, ours| {
        let number = |reply: &[u8]| {
            let text = str::from_utf8(reply).ok()?.lines().nth(1)?;
            text.parse::<f64>().ok()
        };
        step.is("INCRBYFLOAT")
            && number(redis)
                .zip(number(ours))
                // Beyond the greatest number of 64 bits both are infinite.
                .is_some_and(|(redis, ours)| {
                    redis == ours || (redis - ours).abs() <= 1e-15 * redis.abs()
                })
    })
    .that_ends(),
    Rule::new("LCS of long values has less memory and time than in Redis", |step, _, ours| {
        let says = |text: &str| memchr::memmem::find(ours, text.as_bytes()).is_some();
        (step.is("LCS") || step.is("EXEC"))
            && (says("transient memory for LCS") || says("keep its keys locked for too long"))
    })
    .that_ends(),
];

fn sorted(reply: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = reply.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines
}

fn integer(reply: &[u8]) -> Option<i64> {
    str::from_utf8(reply.strip_prefix(b":")?).ok()?.trim().parse().ok()
}

/// Both servers.
struct Pair {
    ports: [u16; 2],
}

impl Pair {
    /// Plays a sequence; what they said where they differed without a rule.
    fn play(&self, steps: &[Step]) -> Option<String> {
        let connect = || self.ports.map(Client::connect);
        let mut clients = [connect(), connect(), connect()];
        let is_over = Cell::new(false);
        let mut ask = |client: usize, step: &Step| {
            if step.timed {
                std::thread::sleep(Duration::from_millis(5));
            }
            let bytes = step.bytes();
            let [redis, ours] = clients[client].each_mut().map(|client| {
                client.send(&bytes);
                client.raw_reply()
            });
            if redis == ours {
                return None;
            }
            let allows = |rule: &&Rule| (rule.allows)(step, &redis, &ours);
            if let Some(rule) = RULES.iter().find(allows) {
                rule.used.fetch_add(1, Ordering::Relaxed);
                is_over.set(is_over.get() || rule.ends);
                return None;
            }
            let [redis, ours] = [redis, ours].map(|reply| reply.escape_ascii().to_string());
            Some(format!("{}\n  redis  {redis}\n  coffre {ours}", show(step)))
        };
        let step = |line: &[&[u8]]| Step {
            client: 0,
            words: line.iter().map(|word| word.to_vec()).collect(),
            inline: false,
            timed: steps.iter().any(|step| step.timed),
        };
        ask(0, &step(&[b"FLUSHALL"]));
        for step in steps {
            let difference = ask(step.client, step);
            if difference.is_some() || is_over.get() {
                return difference;
            }
        }
        // What a client left open is closed first.
        ask(0, &step(&[b"RESET"]));
        for database in [&b"0"[..], b"1", b"2"] {
            let all = [&[&b"SELECT"[..], database][..], &[b"DBSIZE"], &[b"KEYS", b"*"]];
            let gets = KEYS.iter().flat_map(|key| {
                [[&b"GET"[..], key.as_bytes()], [&b"PEXPIRETIME"[..], key.as_bytes()]]
            });
            let gets: Vec<_> = gets.collect();
            for line in all.into_iter().chain(gets.iter().map(|line| &line[..])) {
                if let Some(difference) = ask(0, &step(line)) {
                    return Some(format!("at the end, {difference}"));
                }
            }
        }
        None
    }

    /// Leaves out what is not needed for a difference.
    fn shrink(&self, mut steps: Vec<Step>) -> Vec<Step> {
        let mut index = steps.len();
        while index > 0 {
            index -= 1;
            let mut fewer = steps.clone();
            fewer.remove(index);
            if self.play(&fewer).is_some() {
                steps = fewer;
            }
        }
        steps
    }
}

fn show(step: &Step) -> String {
    let words: Vec<_> =
        step.words.iter().map(|word| format!("\"{}\"", word.escape_ascii())).collect();
    format!("client {}: {}", step.client, words.join(" "))
}

const KEYS: &[&str] = &["a", "b", "c", "k\u{e9}y", "a b", ""];

/// What random requests are made of: words in capitals as they are, others stand for [`word`]s.
const FORMS: &[&str] = &[
    "GET key",
    "get key",
    "SET key value",
    "SET key value",
    "SET key value option",
    "SET key value option option",
    "SET key value option option option",
    "SET key value time",
    "SET key value time option",
    "SETNX key value",
    "SETEX key seconds value",
    "PSETEX key milliseconds value",
    "GETSET key value",
    "GETDEL key",
    "GETEX key",
    "GETEX key time",
    "GETEX key PERSIST",
    "GETEX key option",
    "MGET key key key",
    "MSET key value key value",
    "MSET key value key",
    "MSETNX key value key value",
    "STRLEN key",
    "GETRANGE key integer integer",
    "SUBSTR key integer integer",
    "SETRANGE key offset value",
    "APPEND key value",
    "APPEND key value",
    "INCR key",
    "DECR key",
    "INCRBY key integer",
    "DECRBY key integer",
    "INCRBYFLOAT key float",
    "LCS key key",
    "LCS key key lcs",
    "LCS key key lcs lcs",
    "DEL key",
    "DEL key key key",
    "UNLINK key key",
    "EXISTS key key",
    "TOUCH key key",
    "TYPE key",
    "RENAME key key",
    "RENAMENX key key",
    "COPY key key",
    "COPY key key REPLACE",
    "COPY key key DB database",
    "COPY key key DB database REPLACE",
    "MOVE key database",
    "SELECT database",
    "SWAPDB database database",
    "EXPIRE key seconds",
    "EXPIRE key seconds condition",
    "EXPIRE key seconds condition condition",
    "PEXPIRE key milliseconds condition",
    "EXPIREAT key at",
    "EXPIREAT key at condition",
    "PEXPIREAT key at_ms condition",
    "PEXPIREAT key at_ms condition condition",
    "TTL key",
    "PTTL key",
    "EXPIRETIME key",
    "PEXPIRETIME key",
    "PERSIST key",
    "SCAN cursor COUNT 1000",
    "SCAN cursor MATCH pattern COUNT 1000",
    "SCAN cursor COUNT 1000 TYPE type",
    "SCAN cursor COUNT no_count",
    "SCAN cursor option",
    "KEYS pattern",
    "DBSIZE",
    "RANDOMKEY",
    "OBJECT ENCODING key",
    "OBJECT REFCOUNT key",
    "OBJECT FREQ key",
    "MULTI",
    "MULTI",
    "MULTI",
    "EXEC",
    "EXEC",
    "EXEC",
    "DISCARD",
    "WATCH key",
    "WATCH key key",
    "UNWATCH",
    "FLUSHALL",
    "FLUSHDB option",
    "FLUSHDB",
    "ECHO value",
    "PING",
    "PING value",
    "HELLO 3",
    "HELLO 2",
    "HELLO integer",
    "RESET",
    "FOO value key",
    "MODULE LIST",
    "OBJECT IDLETIME key",
    "RESET value",
    "HELLO 2 AUTH default value",
    "HELLO 2 SETNAME type",
    "EVAL script 1 key value",
    "EVAL script 1 key value",
    "EVAL script integer key value",
    "EVAL_RO script 1 key value",
    "EVALSHA type 0",
    "EVALSHA_RO type 0",
    "SCRIPT EXISTS type",
    "SCRIPT LOAD script",
    "SCRIPT FLUSH option",
    "SCRIPT KILL",
];

/// Commands that are not drawn, and why.
const NOT_DRAWN: &[(&str, &str)] = &[
    ("INCREX", "Redis 7 has it not"),
    ("MSETEX", "Redis 7 has it not"),
    ("DELEX", "Redis 7 has it not"),
    ("DELIFEQ", "Redis 7 has it not"),
    ("AUTH", "there is no password: security.rs"),
    ("QUIT", "it ends the sequence"),
    ("HELP", "coffre's own"),
    ("CLIENT", "compared in real_clients.rs, as it tells of connections"),
];

/// Options that are not drawn, and why.
const OPTIONS_NOT_DRAWN: &[(&str, &str)] =
    &[("IFEQ", "Redis 7 has it not"), ("IFNE", "Redis 7 has it not")];

/// Not between `MULTI` and `EXEC`, whose reply would be one of several rules' at once.
const ALONE: &[&str] = &[
    "DBSIZE",
    "KEYS",
    "SCAN",
    "RANDOMKEY",
    "TTL",
    "PTTL",
    "EXPIRETIME",
    "PEXPIRETIME",
    "OBJECT",
    "HELLO",
    "INCRBYFLOAT",
];

fn word(random: &mut fastrand::Rng, kind: &str, short: bool) -> Vec<u8> {
    let mut pick = |words: &[&str]| words[random.usize(..words.len())].as_bytes().to_vec();
    match kind {
        "key" => pick(&KEYS[..3 + usize::from(short)]),
        "value" => match pick(&["0", "1", "2", "3", "4", "5", "6"])[0] {
            b'0' => vec![b'x'; 45],
            b'1' => (0..=255).collect(),
            b'2' => vec![b'y'; 4000],
            _ => pick(&[
                "1",
                "10",
                "-7",
                " 12",
                "012",
                "+5",
                "-0",
                "1e3",
                "3.0",
                ".5",
                "0.1",
                "abc",
                "",
                "abcabc",
                "two words",
                "9223372036854775807",
                "-9223372036854775808",
                "9223372036854775808",
                "xaby",
                "1.0e2",
                "inf",
                "nan",
            ]),
        },
        "option" => pick(&[
            "NX", "XX", "GET", "KEEPTTL", "EX", "PX", "ASYNC", "SYNC", "PERSIST", "nx", "foo",
            "100", "COUNT", "MATCH",
        ]),
        "time" => {
            let (unit, kind) =
                [("EX", "seconds"), ("PX", "milliseconds"), ("EXAT", "at"), ("PXAT", "at_ms")]
                    [random.usize(..4)];
            [unit.as_bytes(), b"|", &word(random, kind, short)].concat()
        }
        "seconds" if short => pick(&["100000"]),
        "seconds" => pick(&[
            "100",
            "100000",
            "0",
            "-1",
            "x",
            "",
            "9223372036854775807",
            "9223372036854775",
            "1.5",
        ]),
        "milliseconds" if short => pick(&["1", "1", "100000"]),
        "milliseconds" => pick(&["100000", "200000", "0", "-1", "x", "9223372036854775807"]),
        "at" => pick(&["33177117420", "33177117421", "1", "0", "-5", "x", "9223372036854775807"]),
        "at_ms" => {
            pick(&["33177117420123", "33177117420999", "1", "0", "x", "9223372036854775807"])
        }
        "integer" => pick(&[
            "0",
            "1",
            "-1",
            "3",
            "-3",
            "100",
            "x",
            "",
            "01",
            "+1",
            " 1",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "2",
            "3.0",
        ]),
        "script" => pick(&[
            "return redis.call('SET',KEYS[1],ARGV[1])",
            "return redis.call('GET',KEYS[1])",
            "return redis.call('INCR',KEYS[1])",
            "return redis.pcall('APPEND',KEYS[1],ARGV[1])",
            "redis.call('SET',KEYS[1],ARGV[1]) error('after')",
            "return {redis.call('DEL','a','b'),redis.call('EXISTS',KEYS[1])}",
            "redis.setresp(3) return redis.call('GET',KEYS[1])",
            "redis.call('SELECT',1) return redis.call('SET',KEYS[1],ARGV[1])",
            "return nope",
            "return return",
        ]),
        "no_count" => pick(&["0", "-1", "x", ""]),
        "offset" => pick(&["0", "3", "10", "-1", "x", "01", "600000000", "536870911", ""]),
        "float" => pick(&[
            "0.1",
            "-0.3",
            "1e3",
            "5.",
            ".5",
            "x",
            "",
            " 1",
            "inf",
            "-infinity",
            "nan",
            "1e-3",
            "100",
            "3.0e3",
            "1e10",
        ]),
        "lcs" => pick(&["LEN", "IDX", "WITHMATCHLEN", "MINMATCHLEN", "2", "foo"]),
        "condition" => pick(&["NX", "XX", "GT", "LT", "lt", "foo"]),
        "database" => pick(&["0", "1", "2", "1", "16", "-1", "x"]),
        "cursor" => pick(&["0", "0", "0", "x", "-1", ""]),
        "pattern" => pick(&["*", "a*", "?", "[ab]", "[^a]*", "k*y", "\\*", "[", "*[a-b]", ""]),
        "type" => pick(&["string", "STRING", "hash", "nothing"]),
        fixed => fixed.as_bytes().to_vec(),
    }
}

/// Whether a step needs no data file, and no value that is too long for etcd.
fn is_taken_by_etcd(step: &Step) -> bool {
    let has = |word: &[u8]| step.words.iter().any(|other| other.eq_ignore_ascii_case(word));
    !["SWAPDB", "IDLETIME", "536870911"].iter().any(|word| has(word.as_bytes()))
}

/// A random sequence; a `short` one is about keys that expire while it goes on.
fn sequence(seed: u64, short: bool) -> Vec<Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut steps, mut open) = (Vec::new(), [false; 3]);
    let clients = random.usize(1..=3);
    for _ in 0..random.usize(10..50) {
        let client = random.usize(..clients);
        let form = FORMS[random.usize(..FORMS.len())];
        if open[client] && ALONE.iter().any(|name| form.starts_with(name)) {
            continue;
        }
        let mut words = Vec::new();
        for kind in form.split(' ') {
            let word = word(&mut random, kind, short);
            match kind {
                "time" => words.extend(word.splitn(2, |byte| *byte == b'|').map(<[u8]>::to_vec)),
                _ => words.push(word),
            }
        }
        match random.u8(..40) {
            0 if words.len() > 1 => drop(words.pop()),
            1 => words.push(word(&mut random, "option", short)),
            2 => words[0].make_ascii_lowercase(),
            _ => {}
        }
        match form {
            "MULTI" => open[client] = true,
            "EXEC" | "DISCARD" | "RESET" => open[client] = false,
            _ => {}
        }
        let step = Step { client, words, inline: random.u8(..4) == 0, timed: short };
        if !is_cluster() || is_taken_by_etcd(&step) {
            steps.push(step);
        }
    }
    steps
}

#[test]
#[ignore = "needs redis-server"]
fn replies_are_those_of_redis() {
    let (folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let redis = Redis::start(folder.path());
    let pair = Pair { ports: [redis.port, server.port] };
    let count = on_request("COFFRE_SEQUENCES", 1_500);
    let seeds = match std::env::var("COFFRE_SEED") {
        Ok(seed) => seed.parse().unwrap()..seed.parse::<u64>().unwrap() + 1,
        Err(_) => {
            let first = fastrand::u64(..1 << 40);
            first..first + count
        }
    };
    // So many that the rarest difference, of long values, shows up.
    let is_long = seeds.end - seeds.start >= 100_000;
    for seed in seeds {
        // Few of them, as they take time.
        let steps = sequence(seed, seed % 50 == 0);
        if pair.play(&steps).is_some() {
            let steps = pair.shrink(steps);
            let all: Vec<_> = steps.iter().map(show).collect();
            let difference = pair.play(&steps).unwrap_or_default();
            panic!("COFFRE_SEED={seed}\n{}\nthey differ: {difference}", all.join("\n"));
        }
    }
    for rule in &RULES {
        let used = rule.used.load(Ordering::Relaxed);
        println!("{used} times: {}", rule.reason);
        assert!(used > 0 || !is_long, "never needed: {}", rule.reason);
    }
}

/// A new command, or a new option of one, must be drawn, or be listed with a reason.
#[test]
fn no_command_and_no_option_is_forgotten() {
    const SEQUENCES: u64 = 20_000;
    let mut drawn: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for seed in 0..SEQUENCES {
        for step in sequence(seed, seed.is_multiple_of(4)) {
            let mut words = step
                .words
                .iter()
                .map(|word| String::from_utf8_lossy(&word[..word.len().min(40)]).to_uppercase());
            let name = words.next().unwrap_or_default();
            drawn.entry(name).or_default().extend(words);
        }
    }
    let is_listed =
        |list: &[(&str, &str)], name: &str| list.iter().any(|(listed, _)| *listed == name);
    let mut forgotten = Vec::new();
    for command in commands() {
        if command.spec.group == Group::Server && !drawn.contains_key(command.name) {
            // What the server says of itself is compared where it is tested.
            continue;
        }
        let Some(words) = drawn.get(command.name) else {
            if !is_listed(NOT_DRAWN, command.name) {
                forgotten.push(command.name.to_owned());
            }
            continue;
        };
        assert!(!is_listed(NOT_DRAWN, command.name), "{} is drawn", command.name);
        let usage = command.usage();
        let fixed =
            usage.split(|byte: char| !byte.is_ascii_alphanumeric() && !"-_".contains(byte)).skip(1);
        for option in fixed.filter(|word| word.len() > 1 && *word == word.to_uppercase()) {
            let is_number = option.bytes().all(|byte| byte.is_ascii_digit());
            if !words.contains(option) && !is_number && !is_listed(OPTIONS_NOT_DRAWN, option) {
                forgotten.push(format!("{} {option}", command.name));
            }
        }
    }
    assert!(forgotten.is_empty(), "never drawn: {}", forgotten.join(", "));
}

#[test]
#[ignore = "needs redis-server"]
fn types_of_replies_and_counts_of_errors_are_those_of_redis() {
    let (folder, file) = folder();
    let flags = ["--enable-debug-command", "yes"];
    let (server, redis) = (Server::with(&file, &flags), Redis::with(folder.path(), &flags));
    let types =
        "string integer double bignum null array set map attrib push verbatim true false none";
    let mut lines: Vec<String> =
        types.split(' ').map(|kind| format!("DEBUG PROTOCOL {kind}")).collect();
    let errors = [
        "DEBUG ERROR \"MY own error\"",
        "NOSUCH",
        "GET",
        "CONFIG NOSUCH",
        "SET k abc",
        "INCR k",
        "MULTI",
        "INCR k",
        "GET",
        "EXEC",
        "MULTI",
        "INCR k",
        "SET k 1",
        "INCR k",
        "EXEC",
        "AUTH wrong",
        "HELLO 9",
        "INFO errorstats",
        "CONFIG RESETSTAT",
        "INFO errorstats",
        "QUIT",
    ];
    lines.extend(errors.map(str::to_owned));
    for protocol in ["2", "3"] {
        let replies = [redis.port, server.port].map(|port| {
            let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let mut client = Client::of(stream);
            client.send(format!("HELLO {protocol}\r\n").as_bytes());
            client.raw_reply();
            client.send((lines.join("\r\n") + "\r\n").as_bytes());
            String::from_utf8(client.read_to_end()).unwrap()
        });
        let [redis, ours] = &replies;
        assert_eq!(ours, redis, "RESP{protocol}");
    }
}
