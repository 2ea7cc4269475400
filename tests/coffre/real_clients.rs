//! The clients people use, against a running server. They must be installed: `.ci/run` does that and
//! runs these with `--ignored`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::databases::write_databases;
use crate::harness::{Client, Reply, Server, State, dump, folder, request, wait_until};

fn run(program: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = feeder.join();
    output
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn redis_cli(server: &Server, arguments: &[&str], input: &[u8]) -> String {
    let port = server.port.to_string();
    text(&run("redis-cli", &[&["-p", &port], arguments].concat(), input))
}

/// A redis-server without persistence, reaped.
pub struct Redis {
    child: Child,
    pub port: u16,
}

impl Redis {
    pub fn start(folder: &Path) -> Self {
        Self::with(folder, &[])
    }

    /// The same with more flags.
    pub fn with(folder: &Path, flags: &[&str]) -> Self {
        // A free port: nothing else here asks for that one meanwhile.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"])
            .args(flags)
            .arg("--dir")
            .arg(folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server");
        let redis = Self { child, port };
        wait_until("redis-server listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A data file with records of every kind.
fn rich_file(file: &Path) -> State {
    let server = Server::start(file);
    let mut client = server.client();
    let all_bytes: Vec<u8> = (0..=255).collect();
    for word in [&b""[..], b"a b", "Orl\u{e9}ans".as_bytes(), b"\r\n", b"it's \"so\"", &all_bytes] {
        client.call(&[b"SET", word, word]);
        client.call(&[b"APPEND", word, &all_bytes]);
    }
    client.line("SETRANGE trou 5 x");
    client.line("SET brouillon 1");
    client.line("DEL brouillon");
    for number in 0..2000 {
        client.send(&request(&[b"SET", format!("key:{number}").as_bytes(), b"value"]));
    }
    (0..2000).for_each(|_| assert_eq!(client.reply(), Reply::ok()));
    // Redis takes inline lines of 64 KiB.
    write_databases(&mut client, 10_000);
    let state = dump(&mut client);
    assert!(server.terminate().0.success());
    state
}

#[test]
#[ignore = "needs redis-tools"]
fn redis_cli_works_as_with_redis() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let cli = |arguments: &[&str]| redis_cli(&server, arguments, b"");
    assert_eq!(cli(&["SET", "ville", "Saint-Denis la Plaine"]), "OK\n");
    assert_eq!(cli(&["GET", "ville"]), "Saint-Denis la Plaine\n");
    assert_eq!(cli(&["--no-raw", "GET", "rien"]), "(nil)\n");
    assert_eq!(cli(&["--no-raw", "EXISTS", "ville", "ville"]), "(integer) 2\n");
    // It answers HELP itself, from COMMAND DOCS.
    let help = cli(&["HELP", "SET"]);
    assert!(help.contains("key value") && help.contains("Sets a key to a value"), "{help}");
    assert!(cli(&["FOO"]).starts_with("ERR unknown command 'FOO'"));
    // Lines on standard input, with its own quotes.
    let lines = b"SET a \"x\\ny\"\nAPPEND a z\nGET a\n";
    assert_eq!(redis_cli(&server, &[], lines), "OK\n4\nx\nyz\n");
    // Mass loading ends with an ECHO.
    let load: Vec<u8> = (0..10_000)
        .flat_map(|number| request(&[b"SET", format!("k{number}").as_bytes(), b"v"]))
        .collect();
    assert!(redis_cli(&server, &["--pipe"], &load).contains("errors: 0, replies: 10000"));
    assert_eq!(cli(&["DBSIZE"]), "10002\n");
    assert!(cli(&["COMMAND", "DOCS", "set"]).contains("Sets a key to a value"));
}

#[test]
#[ignore = "needs redis-tools"]
fn redis_benchmark_runs_ping_set_and_get() {
    let (_folder, file) = folder();
    for fsync in ["always", "everysec", "no"] {
        let server = Server::with(&file, &["--fsync", fsync]);
        let port = server.port.to_string();
        for pipeline in ["1", "16"] {
            let output = run(
                "redis-benchmark",
                &[
                    "-p",
                    &port,
                    "-t",
                    "ping,set,get",
                    "-n",
                    "20000",
                    "-r",
                    "1000",
                    "-P",
                    pipeline,
                    "-q",
                ],
                b"",
            );
            let text = text(&output);
            for test in ["PING_INLINE", "PING_MBULK", "SET", "GET"] {
                assert!(text.contains(&format!("{test}: ")), "{text}");
            }
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!text.contains("WARNING") && said.is_empty(), "{text}{said}");
        }
    }
}

#[test]
#[ignore = "needs netcat-openbsd"]
fn netcat_is_answered_in_full_after_it_half_closes() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let port = server.port.to_string();
    let output = run("nc", &["-N", "127.0.0.1", &port], b"SET a 1\r\nGET a\r\n");
    assert_eq!(text(&output), "+OK\r\n$1\r\n1\r\n");
}

#[test]
#[ignore = "needs netcat-openbsd, redis-tools and redis-server"]
fn a_data_file_replays_into_an_empty_coffre_and_into_redis() {
    let (folder, file) = folder();
    let state = rich_file(&file);
    let bytes = std::fs::read(&file).unwrap();

    let empty = folder.path().join("empty.txt");
    let server = Server::start(&empty);
    let replies = text(&run("nc", &["-N", "127.0.0.1", &server.port.to_string()], &bytes));
    assert!(!replies.contains("-ERR"), "{replies}");
    assert!(dump(&mut server.client()) == state);

    let lines: Vec<u8> = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| !line.starts_with(b"#"))
        .flatten()
        .copied()
        .collect();
    let redis = Redis::start(folder.path());
    let port = redis.port.to_string();
    for (program, arguments) in
        [("nc", ["-N", "127.0.0.1", &port]), ("redis-cli", ["-2", "-p", &port])]
    {
        let mut client = Client::connect(redis.port);
        assert_eq!(client.line("FLUSHALL"), Reply::ok());
        let replies = text(&run(program, &arguments, &lines));
        assert!(!replies.contains("ERR"), "{program}: {replies}");
        assert!(dump(&mut client) == state, "{program}");
    }
}

/// A name, what is sent, and what coffre answers otherwise than Redis, and why.
type Abuse = (&'static str, &'static [u8], Option<(&'static [u8], &'static str)>);

/// Abuse of the protocol, P01 to P22 of the list of faults: what is sent, and where coffre answers otherwise
/// than Redis, what it answers and why.
const ABUSE: &[Abuse] = &[
    ("P01", b"\r\n*0\r\n*-1\r\n*-10\r\nPING\r\n", None),
    ("P02", b"PING\n  PING\t \r\n", None),
    ("P03", b"SET a \"x y\\x00\\n\"\r\nGET a\r\n", None),
    ("P04", b"SET a \"b\r\n", None),
    ("P04", b"SET a \"b\"c\r\nPING\r\n", None),
    ("P06", b"*3000000000\r\n", None),
    ("P06", b"*2147483648\r\n", None),
    ("P06", b"*-9223372036854775809\r\n", None),
    ("P06", b"*1234567890123456789012\r\n", None),
    (
        "P07",
        b"*2147483647\r\n",
        Some((
            b"-ERR Protocol error: invalid multibulk length\r\n",
            "nobody sends so many: Redis waits",
        )),
    ),
    ("P08", b"*01\r\n", None),
    ("P08", b"*+1\r\n", None),
    ("P08", b"* 1\r\n", None),
    ("P08", b"*1abc\r\n", None),
    ("P08", b"*\r\n", None),
    ("P09", b"*1\r\n$-1\r\n", None),
    ("P09", b"*1\r\n$blabla\r\n", None),
    ("P09", b"*1\r\n$536870913\r\n", None),
    ("P09", b"*1\r\n$9223372036854775807\r\n", None),
    ("P09", b"*1\r\n$18446744073709551615\r\n", None),
    ("P09", b"*1\r\n$4294967296\r\n", None),
    ("P09", b"*1\r\n$0:\r\n", None),
    ("P10", b"*1\r\nfoo\r\n", None),
    ("P10", b"*1\r\n:1\r\n", None),
    ("P10", b"*1\r\n*1\r\n", None),
    (
        "P11",
        b"*1\r\n$4\r\nPINGXXPING\r\n",
        Some((
            b"-ERR Protocol error: expected CRLF after bulk\r\n",
            "a desync must not run commands",
        )),
    ),
    (
        "P12",
        b"*1\rX$4\r\nPING\r\n",
        Some((b"-ERR Protocol error: invalid multibulk length\r\n", "the same")),
    ),
    (
        "P12",
        b"*1\n$4\nPING\n",
        Some((b"-ERR Protocol error: invalid multibulk length\r\n", "Redis never answers")),
    ),
    (
        "P13",
        b"PI\0NG\r\nPING\r\n",
        Some((
            b"-ERR unknown command 'PI\0NG', with args beginning with: \r\n+PONG\r\n",
            "Redis never answers again",
        )),
    ),
    ("P14", b"*1\r\n$0\r\n\r\nPING\r\n", None),
    ("P15", b"*2\r\n$6\r\nA\r\nB\r\n\r\n$3\r\nx\r\n\r\n", None),
    ("P16", b"PING\r\nFOO\r\nPING\r\n", None),
    ("P17", b"*1\r\nfoo\r\nSET x 1\r\n", None),
    ("P18", b"QUIT\r\nSET x 1\r\n", None),
    ("P19", b"POST / HTTP/1.1\r\nHost: x\r\nSET x 1\r\n", None),
    ("P19", b"Host: a\r\nSET x 1\r\n", None),
    ("P19", b"GET / HTTP/1.1\r\nHost: x\r\nSET x 1\r\n", None),
    (
        "P20",
        b"\x16\x03\x01\x00\x05",
        Some((b"-ERR Protocol error: TLS on a plain-text port\r\n", "Redis says nothing")),
    ),
    (
        "P21",
        b"*3\r\n$3\r\nSET\r\n$2\r\n\xff\xfe\r\n$1\r\n\xc3\r\n*2\r\n$3\r\nGET\r\n$2\r\n\xff\xfe\r\n",
        None,
    ),
    ("P21", b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$0\r\n\r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n", None),
    ("P22", b"GET\r\nEXISTS\r\nSET a\r\nFLUSHALL foo\r\n", None),
    ("P22", b"*4\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n", None),
];

/// All that comes back, or what came until a server was silent for a while.
fn answer_to(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A silence, and a reset of what was not read, end it too.
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
#[ignore = "needs redis-server"]
fn abuse_is_answered_as_redis_does_or_better() {
    let (folder, file) = folder();
    let server = Server::start(&file);
    let redis = Redis::start(folder.path());
    let large: Vec<u8> =
        (0..10_001).flat_map(|key| format!("$5\r\n{key:05}\r\n").into_bytes()).collect();
    let del = [b"*10002\r\n$3\r\nDEL\r\n", &large[..]].concat();
    let pipelined = b"SET a 1\r\n".repeat(1000);
    let more = [("P22", &del[..], None), ("P23", &pipelined[..], None)];
    for (name, sent, differs) in ABUSE.iter().copied().chain(more) {
        let shown = sent[..sent.len().min(60)].escape_ascii();
        let theirs = answer_to(redis.port, sent);
        let ours = answer_to(server.port, sent);
        match differs {
            None => assert_eq!(
                ours.escape_ascii().to_string(),
                theirs.escape_ascii().to_string(),
                "{name} {shown}"
            ),
            Some((expected, reason)) => {
                assert_eq!(
                    ours.escape_ascii().to_string(),
                    expected.escape_ascii().to_string(),
                    "{name} {shown}"
                );
                assert_ne!(ours, theirs, "{name} {shown}: no difference any more: {reason}");
            }
        }
        assert_eq!(server.client().line("EXISTS x"), Reply::Integer(0), "{name} {shown}");
    }
}

/// The commands on clients, slow logs and passwords: their errors are Redis's to the byte.
#[test]
#[ignore = "needs redis-server"]
fn errors_of_the_commands_on_clients_are_those_of_redis() {
    let (folder, file) = folder();
    let server = Server::start(&file);
    let redis = Redis::start(folder.path());
    let mut clients = [Client::connect(redis.port), server.client()];
    for line in [
        "CLIENT KILL",
        "CLIENT KILL 1.2.3.4:5",
        "CLIENT KILL ID 0",
        "CLIENT KILL ID x",
        "CLIENT KILL ID 999",
        "CLIENT KILL TYPE king",
        "CLIENT KILL TYPE replica",
        "CLIENT KILL USER moi",
        "CLIENT KILL ID",
        "CLIENT KILL ADDR 1.2.3.4:5",
        "CLIENT KILL ID 1 SKIPME maybe",
        "CLIENT KILL LADDR 1.2.3.4:5 SKIPME no",
        "CLIENT LIST TYPE king",
        "CLIENT LIST ID x",
        "CLIENT LIST ALL",
        "CLIENT LIST TYPE replica",
        "CLIENT PAUSE",
        "CLIENT PAUSE x",
        "CLIENT PAUSE -1",
        "CLIENT PAUSE 1 READ",
        "CLIENT PAUSE 0",
        "CLIENT UNPAUSE",
        "CLIENT NO-EVICT on",
        "CLIENT NO-EVICT maybe",
        "CLIENT REPLY maybe",
        "CLIENT REPLY on",
        "CLIENT SETNAME \"a b\"",
        "CLIENT SETNAME moi",
        "CLIENT GETNAME",
        "CLIENT FOO",
        "CLIENT",
        "SLOWLOG",
        "SLOWLOG LEN x",
        "SLOWLOG GET x",
        "SLOWLOG GET -2",
        "SLOWLOG RESET",
        "SLOWLOG FOO",
        "AUTH",
        "AUTH x",
        "AUTH default x",
        "AUTH moi x",
        "AUTH a b c",
        "MONITOR x",
        "SHUTDOWN ABORT",
        "SHUTDOWN now later",
        "SHUTDOWN SAVE NOSAVE",
        "CONFIG GET",
        "INFO nothing",
        "CONFIG GET maxmemory-policy",
        "QUIT",
    ] {
        let [theirs, ours] = clients.each_mut().map(|client| client.line(line));
        assert_eq!(ours, theirs, "{line}");
    }
}

/// The telnet program itself, with its Ctrl-C: without the answer it would show nothing any more.
#[test]
#[ignore = "needs telnet"]
fn telnet_goes_on_after_ctrl_c() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    // Its escape character, then `send ip` and `send do timing-mark` as Ctrl-C does, on a terminal of its own.
    let script = format!(
        "import os, pty, sys, time\n\
         pid, terminal = pty.fork()\n\
         if pid == 0: os.execvp('telnet', ['telnet', '127.0.0.1', '{}'])\n\
         time.sleep(1)\n\
         for typed in [b'SET a before\\n', b'\\x03', b'\\n', b'GET a\\n', b'QUIT\\n']:\n\
         \x20   os.write(terminal, typed); time.sleep(0.5)\n\
         shown = b''\n\
         try:\n\
         \x20   while True:\n\
         \x20       piece = os.read(terminal, 1000)\n\
         \x20       if not piece: break\n\
         \x20       shown += piece\n\
         except OSError: pass\n\
         os.write(1, shown)\n",
        server.port
    );
    let shown = text(&run("timeout", &["20", "python3", "-c", &script], b""));
    assert!(shown.contains("+OK") && shown.contains("before\r\n"), "{shown}");
    assert!(shown.contains("$6\r\n"), "what comes after Ctrl-C is shown: {shown}");
}
