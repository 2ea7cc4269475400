//! Passwords, strangers, foreign protocols.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Reply, Server, folder, has_file, info_of, keep_keys_in, program, request,
    resident_bytes, run_to_end, wait_until,
};

const NOAUTH: &str = "NOAUTH Authentication required.";
const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";

#[test]
fn a_password_is_asked_for_before_anything_else() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--requirepass", "sesame ouvre-toi"]);
    let mut client = server.client();
    for line in ["PING", "SET a 1", "CLIENT ID", "INFO", "HELP", "SHUTDOWN", "MONITOR"] {
        assert_eq!(client.line(line).error(), NOAUTH, "{line}");
    }
    // As in Redis, what is no command, or none of that form, is said first.
    assert!(client.line("FOO").error().starts_with("ERR unknown command 'FOO'"));
    assert_eq!(client.line("GET").error(), "ERR wrong number of arguments for 'get' command");
    assert_eq!(client.line("AUTH").error(), "ERR wrong number of arguments for 'auth' command");
    assert_eq!(client.line("AUTH a b c").error(), "ERR syntax error");
    for line in ["AUTH x", "AUTH \"\"", "AUTH default x", "AUTH moi \"sesame ouvre-toi\""] {
        assert_eq!(client.line(line).error(), WRONGPASS, "{line}");
    }
    let password = b"sesame ouvre-toi";
    for length in 0..password.len() {
        assert_eq!(client.call(&[b"AUTH", &password[..length]]).error(), WRONGPASS);
    }
    (0..1000).for_each(|_| assert_eq!(client.line("AUTH wrong").error(), WRONGPASS));
    assert_eq!(client.call(&[b"AUTH", password]), Reply::ok());
    assert_eq!(client.line("SET a 1"), Reply::ok());
    // A wrong one takes nothing away.
    assert_eq!(client.line("AUTH x").error(), WRONGPASS);
    assert_eq!(client.line("GET a"), Reply::bulk("1"));
    let wrong: u64 = info_of(&mut client, "stats", "acl_access_denied_auth").parse().unwrap();
    assert_eq!(wrong, 4 + password.len() as u64 + 1000 + 1);
    assert_eq!(server.client().call(&[b"AUTH", b"default", password]), Reply::ok());
    // Leaving needs none.
    let mut other = server.client();
    other.send(b"QUIT\r\n");
    assert_eq!(other.read_to_end(), b"+OK\r\n");
    let (_, log) = server.terminate();
    assert_eq!(log.matches("wrong password").count(), 1, "{log}");
    assert!(!log.contains("sesame"), "{log}");
}

#[test]
fn auth_without_a_password_says_so() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    let told = "ERR AUTH <password> called without any password configured for the default user. \
                Are you sure your configuration is correct?";
    assert_eq!(client.line("AUTH x").error(), told);
    assert_eq!(client.line("AUTH default x"), Reply::ok());
    assert_eq!(client.line("AUTH moi x").error(), WRONGPASS);
}

#[test]
fn a_password_may_come_from_a_file_or_the_environment() {
    let (folder, file) = folder();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "sesame\nand nothing more\n").unwrap();
    let server = Server::with(&file, &["--requirepass-file", secret.to_str().unwrap()]);
    assert_eq!(server.client().line("PING").error(), NOAUTH);
    assert_eq!(server.client().line("AUTH sesame"), Reply::ok());
    drop(server);
    let mut command = program();
    command.args(["--port", "0"]).env("COFFRE_REQUIREPASS", "ouvre");
    keep_keys_in(&mut command, &file, &[]);
    let server = Server::spawn(command);
    assert_eq!(server.client().line("AUTH ouvre"), Reply::ok());
    drop(server);
    // One that cannot be read, or says nothing, is no reason to serve everybody.
    std::fs::write(&secret, "\n").unwrap();
    for path in [secret, folder.path().join("nothing")] {
        let (code, said) =
            run_to_end(&[&"--port", &"0", &"--file", &file, &"--requirepass-file", &path]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("the password file {}", path.display())), "{said}");
    }
    // --help shows what the variable is called, not what it holds.
    let output = program().arg("--help").env("COFFRE_REQUIREPASS", "ouvre").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("COFFRE_REQUIREPASS") && !help.contains("ouvre"), "{help}");
}

/// As a script makes it whose own variable is not set: to serve everybody is not what it asks for.
#[test]
fn an_empty_password_is_a_reason_not_to_start() {
    let (_folder, file) = folder();
    for (flags, variable) in [(&["--requirepass", ""][..], None), (&[], Some(""))] {
        let mut command = program();
        command.args(["--port", "0", "--bind", "127.0.0.1"]);
        keep_keys_in(&mut command, &file, flags);
        variable.map(|value| command.env("COFFRE_REQUIREPASS", value));
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--requirepass") && said.contains("empty password"), "{said}");
        assert!(!file.exists());
    }
}

#[test]
fn a_stranger_may_ask_for_little() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--requirepass", "x"]);
    for (sent, told) in [
        (&b"*11\r\n"[..], "unauthenticated multibulk length"),
        (b"*2\r\n$4\r\nAUTH\r\n$16385\r\n", "unauthenticated bulk length"),
        (&[b'A'; 16_385], "too big inline request"),
    ] {
        let mut client = server.client();
        client.send(sent);
        assert_eq!(client.read_to_end(), format!("-ERR Protocol error: {told}\r\n").as_bytes());
    }
    let before = resident_bytes(server.pid());
    let deaf: Vec<_> = (0..20)
        .map(|_| {
            let client = server.client();
            client.stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
            let _ = (&client.stream).write_all(&b"GET a\r\n".repeat(200_000));
            client
        })
        .collect();
    let grown = resident_bytes(server.pid()).saturating_sub(before);
    assert!(grown < 20 << 20, "{grown} bytes for twenty");
    drop(deaf);
    // With the password the same are ordinary requests.
    let mut client = server.client();
    assert_eq!(client.line("AUTH x"), Reply::ok());
    assert_eq!(client.call(&[b"SET", b"a", &[b'v'; 20_000]]), Reply::ok());
    assert_eq!(
        client.call(&[&b"DEL"[..]; 1].into_iter().chain([&b"k"[..]; 20]).collect::<Vec<_>>()),
        Reply::Integer(0)
    );
}

#[test]
fn a_stranger_has_so_long_to_give_the_password() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--requirepass", "x", "--request-timeout", "1"]);
    let started = Instant::now();
    let mut silent = server.client();
    let mut known = server.client();
    assert_eq!(known.line("AUTH x"), Reply::ok());
    assert_eq!(silent.read_to_end(), b"-ERR Protocol error: it took too long\r\n");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(known.line("PING"), Reply::Status("PONG".to_owned()));
}

/// An address of this machine that is not its loopback, if it has one.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

fn client_at(address: IpAddr, port: u16) -> Client {
    let stream = TcpStream::connect((address, port)).unwrap();
    Client::of(stream)
}

/// A client that comes from an address of this machine to its loopback.
fn client_from(address: IpAddr, port: u16) -> Client {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(address, 0).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    Client::of(socket.into())
}

#[test]
fn strangers_are_turned_away_where_no_password_is_set() {
    let Some(outside) = outer_address() else {
        println!("SKIPPED: this machine has no address but its loopback");
        return;
    };
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--bind", "0.0.0.0"]);
    // Between two addresses of this machine, as a stranger's packets look.
    let told = String::from_utf8(client_from(outside, server.port).read_to_end()).unwrap();
    assert!(told.starts_with("-DENIED coffre is running in protected mode"), "{told}");
    assert!(told.contains("--requirepass-file") && told.lines().count() == 1, "{told}");
    // From this machine's loopback, and from the very address that the client comes to.
    assert_eq!(server.client().line("SET a 1"), Reply::ok());
    assert_eq!(client_at(outside, server.port).line("PING"), Reply::pong());
    drop(server);
    for flags in [["--requirepass", "x"], ["--protected-mode", "no"]] {
        let server = Server::with(&file, &[&["--bind", "0.0.0.0"], &flags[..]].concat());
        let reply = client_from(outside, server.port).line("PING");
        assert!(!reply.error_or_status().starts_with("DENIED"), "{reply:?}");
    }
}

#[test]
fn foreign_protocols_are_closed_and_logged_once_a_minute() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    for _ in 0..5 {
        for attack in [
            &b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET pwn 1\r\n"[..],
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\nSET pwn 1\r\n",
            b"Host: a\r\nSET pwn 1\r\n",
        ] {
            let mut client = server.client();
            client.send(attack);
            assert_eq!(client.read_to_end(), b"");
        }
    }
    let mut client = server.client();
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    assert_eq!(client.read_to_end(), b"-ERR Protocol error: TLS on a plain-text port\r\n");
    assert_eq!(server.client().line("EXISTS pwn"), Reply::Integer(0));
    let (_, log) = server.terminate();
    assert_eq!(log.matches("an HTTP request").count(), 1, "{log}");
}

/// One line of it, and what follows: with `Host:` or without, whatever the method, in any letter case.
#[test]
fn no_line_of_an_http_request_is_run() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    assert_eq!(client.line("SET a 1"), Reply::ok());
    for line in [
        "FLUSHALL / HTTP/1.1",
        "SET /x HTTP/1.1",
        "PROPFIND / HTTP/1.1",
        "GET / http/1.1",
        "FLUSHALL HTTP/1.0",
        "SET pwn HTTP/1.1",
    ] {
        for header in ["", "Host: localhost\r\n", "Accept: */*\r\n"] {
            let mut browser = server.client();
            browser.send(format!("{line}\r\n{header}\r\nSET pwn 1\r\n").as_bytes());
            assert_eq!(browser.read_to_end(), b"", "{line}");
        }
        assert_eq!(client.line("EXISTS a /x pwn"), Reply::Integer(1), "{line}");
    }
    // As a value it is stored, and a data file that holds it can be sent to a server.
    let words = [&b"SET"[..], b"version", b"HTTP/1.1"];
    assert_eq!(client.call(&words), Reply::ok());
    if !has_file() {
        return;
    }
    let text = std::fs::read(&file).unwrap();
    let (_folder, other) = folder();
    let other = Server::start(&other);
    let mut restored = other.client();
    restored.send(&text);
    restored.half_close();
    assert_eq!(restored.read_to_end(), b"+OK\r\n+OK\r\n");
    assert_eq!(other.client().line("GET version"), Reply::bulk("HTTP/1.1"));
}

#[test]
fn nothing_moves_the_file_the_port_the_password_or_what_is_promised() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    for name in [
        "dir",
        "appendfilename",
        "appendfsync",
        "appendonly",
        "bind",
        "port",
        "protected-mode",
        "enable-debug-command",
    ] {
        let reply = client.line(&format!("CONFIG SET {name} 1"));
        assert!(reply.error().ends_with("can't set immutable config"), "{reply:?}");
    }
    let reply = client.line("CONFIG SET requirepass 1");
    assert!(reply.error().starts_with("ERR Unknown option"), "{reply:?}");
    for line in ["DEBUG PANIC", "SLAVEOF a 1", "REPLICAOF a 1", "MODULE LOAD x", "EVAL 1 0"] {
        assert!(matches!(client.line(line), Reply::Error(_)), "{line}");
    }
    // No echo of a request forges a reply.
    let reply = client.call(&[b"A\r\n+OK\r\n", b"x\r\n:1\r\n"]);
    assert!(reply.error().starts_with("ERR unknown command 'A  +OK  '"), "{reply:?}");
    assert_eq!(
        client.call(&[b"CLIENT", b"SETNAME", b"a\nid=1"]).error().split(' ').next(),
        Some("ERR")
    );
    client.send(&request(&[b"PING"]));
    assert_eq!(client.reply(), Reply::Status("PONG".to_owned()));
}

/// What the telnet program does with Ctrl-C: the mark is answered, the session goes on.
#[test]
fn ctrl_c_in_telnet_keeps_the_session() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    client.send(b"PING\r\n\xff\xf4\xff\xfd\x06");
    assert_eq!(client.read(10), b"+PONG\r\n\xff\xfb\x06");
    client.send(b"\r\nPINF\x08G\r\n");
    assert_eq!(client.read(7), b"+PONG\r\n");
    // Part of it may come as urgent data.
    client.send(b"\xff\xf4\xff");
    socket2::SockRef::from(&client.stream).send_out_of_band(b"\xf2").unwrap();
    client.send(b"SET nom \"h\xc3\xa9\x7fe\"\r\nGET nom\r\n");
    assert_eq!(client.read(13), b"+OK\r\n$2\r\nhe\r\n");
}

/// Requests of clients without the password, each within its bounds, take no room from the others.
#[test]
fn strangers_together_hold_little() {
    let (_folder, file) = folder();
    let server =
        Server::with(&file, &["--requirepass", "x", "--maxmemory", "24mb", "--fsync", "no"]);
    let mut client = server.client();
    assert_eq!(client.line("AUTH x"), Reply::ok());
    let half =
        [&b"*10\r\n"[..], &[&b"$16384\r\n"[..], &[b'x'; 16_384], b"\r\n"].concat().repeat(9)];
    let half = half.concat();
    let mut strangers: Vec<_> = (0..200)
        .map(|_| {
            let mut stranger = server.client();
            let _ = stranger.stream.write_all(&half);
            stranger
        })
        .collect();
    // Some are turned away; a new one can give the password all the same.
    let mut told = Vec::new();
    wait_until("one is turned away", || {
        told = strangers.pop().unwrap().read_within(Duration::from_millis(200)).unwrap_or_default();
        !told.is_empty()
    });
    assert!(told.starts_with(b"-OOM"), "{}", told.escape_ascii());
    for number in 0..100 {
        assert_eq!(client.line(&format!("SET key:{number} {}", "v".repeat(1_000))), Reply::ok());
    }
    assert_eq!(server.client().line("AUTH x"), Reply::ok());
}

#[test]
fn the_password_changes_where_that_is_allowed() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--enable-protected-configs", "local"]);
    let mut client = server.client();
    assert_eq!(client.line("CONFIG SET masterauth x requirepass ouvre"), Reply::ok());
    // Who was in stays in; who comes is asked.
    assert_eq!(client.line("SET a 1"), Reply::ok());
    let mut other = server.client();
    assert_eq!(other.line("GET a"), Reply::Error("NOAUTH Authentication required.".to_owned()));
    assert!(
        matches!(other.line("AUTH wrong"), Reply::Error(text) if text.starts_with("WRONGPASS"))
    );
    assert_eq!(other.line("AUTH ouvre"), Reply::ok());
    // It is shown nowhere.
    assert_eq!(client.line("CONFIG GET requirepass"), Reply::Array(Vec::new()));
    let long = "x".repeat(600);
    assert!(matches!(client.line(&format!("CONFIG SET requirepass {long}")), Reply::Error(_)));
    assert_eq!(client.line("CONFIG SET requirepass \"\""), Reply::ok());
    assert_eq!(server.client().line("GET a"), Reply::Bulk(b"1".to_vec()));
}
