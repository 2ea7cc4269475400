//! The clients people use, against a running server. They must be installed: `.ci/run` does that and
//! runs these with `--ignored`.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

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
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start(folder: &Path) -> Self {
        // A free port: nothing else here asks for that one meanwhile.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"])
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
    assert_eq!(dump(&mut server.client()), state);

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
        assert_eq!(dump(&mut client), state, "{program}");
    }
}

/// The same random sequences to both: every reply the same to the byte.
#[test]
#[ignore = "needs redis-server"]
fn replies_are_those_of_redis() {
    let (folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let redis = Redis::start(folder.path());
    let seed = crate::harness::on_request("COFFRE_SEED", fastrand::u64(..1 << 32));
    println!("COFFRE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut clients = [Client::connect(redis.port), server.client()];
    for step in 0..20_000 {
        let request = random_request(&mut random);
        let replies = clients.each_mut().map(|client| {
            client.send(&request);
            let reply = client.reply();
            match reply {
                // Neither promises an order.
                Reply::Array(mut keys)
                    if request.to_ascii_uppercase().windows(4).any(|w| w == b"KEYS") =>
                {
                    keys.sort_by_key(|key| format!("{key:?}"));
                    Reply::Array(keys)
                }
                other => other,
            }
        });
        let sent = request.escape_ascii();
        assert_eq!(replies[0], replies[1], "seed {seed}, step {step}: {sent}");
    }
}

/// A request that both answer alike, inline or as an array, right or wrong.
fn random_request(random: &mut fastrand::Rng) -> Vec<u8> {
    let pick =
        |random: &mut fastrand::Rng, words: &[&str]| words[random.usize(..words.len())].to_owned();
    let key = |random: &mut fastrand::Rng| {
        pick(random, &["a", "b", "key", "k\u{e9}y", "a b", "", "'", "\"q\"", "*"])
    };
    let value = |random: &mut fastrand::Rng| match random.u8(..4) {
        0 => "x".repeat(random.usize(..300)),
        1 => String::new(),
        _ => pick(random, &["1", "bonjour", "two words", "\n", "\\", "\t", "\u{1}"]),
    };
    let pattern = |random: &mut fastrand::Rng| {
        pick(random, &["*", "a*", "?", "[ab]", "[^a]*", "k*y", "\\*", "[", "*[a-b]", ""])
    };
    let words: Vec<String> = match random.u8(..20) {
        0..4 => vec!["SET".into(), key(random), value(random)],
        4..7 => vec!["get".into(), key(random)],
        7..9 => vec!["APPEND".into(), key(random), value(random)],
        9 => vec!["DEL".into(), key(random), key(random), key(random)],
        10 => vec!["Exists".into(), key(random), key(random)],
        11 => vec!["KEYS".into(), pattern(random)],
        12 => vec![
            "SETRANGE".into(),
            key(random),
            pick(random, &["0", "3", "-1", "x", "01", "600000000", ""]),
            value(random),
        ],
        13 => vec!["DBSIZE".into()],
        14 => vec!["PING".into(), value(random)],
        15 => vec!["ECHO".into(), value(random)],
        16 if random.u8(..10) == 0 => {
            vec![pick(random, &["FLUSHALL", "flushall"]), pick(random, &["ASYNC", "sync", "now"])]
        }
        // Wrong arity, and unknown commands.
        16 | 17 => vec![pick(
            random,
            &["GET", "SET", "DEL", "EXISTS", "APPEND", "KEYS", "ECHO", "SETRANGE"],
        )],
        18 => vec![
            pick(random, &["DBSIZE", "GET", "KEYS", "ECHO", "PING"]),
            key(random),
            key(random),
            key(random),
        ],
        _ => vec![pick(random, &["FOO", "bar\r\nbaz", "", "S\u{e9}T"]), value(random), key(random)],
    };
    let words: Vec<_> = words.iter().map(String::as_bytes).collect();
    if random.bool() {
        return request(&words);
    }
    let mut line = Vec::new();
    for word in words {
        coffre::text::quote(word, &mut line);
        line.push(b' ');
    }
    line.extend_from_slice(if random.bool() { b"\r\n" } else { b"\n" });
    line
}
