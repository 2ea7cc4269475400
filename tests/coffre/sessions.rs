//! Plays the transcripts in `sessions/` to a running server.
//!
//! `> text` is sent with CR LF, `>> text` as it is, with `\r \n \xHH \\` decoded; `< text` must come
//! back with CR LF, `<< text` as it is; `closed` says that the server closes; `#` is a comment; `---`
//! begins a new connection. Each session begins with no keys.
//!
//! Each is played four ways: request by request, in one write before a half-close, byte by byte, and
//! once for every place where its bytes can be cut in two.

use std::path::Path;

use crate::harness::{Client, Reply, Server, folder, is_cluster};

enum Step {
    Send(Vec<u8>),
    Expect(Vec<u8>),
    Closed,
}

fn parse(transcript: &str) -> Vec<Vec<Step>> {
    let mut sessions = vec![Vec::new()];
    for line in transcript.lines() {
        let step = match line {
            "" => continue,
            "---" => {
                sessions.push(Vec::new());
                continue;
            }
            "closed" => Step::Closed,
            ">" => Step::Send(b"\r\n".to_vec()),
            _ if line.starts_with('#') => continue,
            _ => {
                let (kind, text) = line.split_once(' ').expect(line);
                match kind {
                    ">" => Step::Send([text.as_bytes(), b"\r\n"].concat()),
                    ">>" => Step::Send(unescape(text)),
                    "<" => Step::Expect([text.as_bytes(), b"\r\n"].concat()),
                    "<<" => Step::Expect(unescape(text)),
                    _ => panic!("what is {line}?"),
                }
            }
        };
        sessions.last_mut().unwrap().push(step);
    }
    sessions.retain(|session| !session.is_empty());
    sessions
}

/// The transcript's own escapes, simpler than those under test.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'r') => out.push(b'\r'),
            Some(b'n') => out.push(b'\n'),
            Some(b'\\') => out.push(b'\\'),
            Some(b'x') => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                out.push(u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            other => panic!("escape {other:?} in {text}"),
        }
    }
    out
}

/// Whether a step is about what only an engine with a data file has.
fn needs_file(step: &Step) -> bool {
    let Step::Send(bytes) = step else { return false };
    let line = bytes.escape_ascii().to_string();
    ["SWAPDB", "IDLETIME", "append*", "SAVE"].iter().any(|word| line.contains(word))
}

fn fresh(server: &Server) -> Client {
    let mut client = server.client();
    assert_eq!(client.line("FLUSHALL"), Reply::ok());
    client
}

fn play_step_by_step(server: &Server, session: &[Step]) {
    let mut client = fresh(server);
    for step in session {
        match step {
            Step::Send(bytes) => client.send(bytes),
            Step::Expect(bytes) => {
                let reply = client.read(bytes.len());
                assert_eq!(reply.escape_ascii().to_string(), bytes.escape_ascii().to_string());
            }
            Step::Closed => assert_eq!(client.read_to_end(), b""),
        }
    }
}

/// Sends the chunks of a whole session, half-closes, and compares all that comes back.
fn play_at_once<'a>(server: &Server, chunks: impl Iterator<Item = &'a [u8]>, expected: &[u8]) {
    let mut client = fresh(server);
    for chunk in chunks {
        client.send(chunk);
    }
    client.half_close();
    let replies = client.read_to_end();
    assert_eq!(replies.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

fn play(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/coffre/sessions").join(name);
    let transcript = std::fs::read_to_string(path).unwrap();
    let (_folder, file) = folder();
    // What is cut where has nothing to do with fsync.
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut sessions = parse(&transcript);
    if is_cluster() {
        sessions.retain(|session| !session.iter().any(needs_file));
    }
    for session in sessions {
        play_step_by_step(&server, &session);
        let (mut sent, mut expected) = (Vec::new(), Vec::new());
        for step in &session {
            match step {
                Step::Send(bytes) => sent.extend_from_slice(bytes),
                Step::Expect(bytes) => expected.extend_from_slice(bytes),
                Step::Closed => {}
            }
        }
        play_at_once(&server, [&sent[..]].into_iter(), &expected);
        play_at_once(&server, sent.chunks(1), &expected);
        for cut in 1..sent.len() {
            let (first, second) = sent.split_at(cut);
            play_at_once(&server, [first, second].into_iter(), &expected);
        }
    }
    assert_eq!(server.client().line("PING"), Reply::Status("PONG".to_owned()));
}

#[test]
fn the_nine_commands() {
    play("nine_commands.txt");
}

#[test]
fn inline_lines() {
    play("inline.txt");
}

#[test]
fn resp_arrays() {
    play("resp.txt");
}

#[test]
fn errors_that_keep_the_connection() {
    play("errors.txt");
}

#[test]
fn malformed_requests_that_close_it() {
    play("malformed.txt");
}

#[test]
fn help_and_the_commands_for_programs() {
    play("help.txt");
}

#[test]
fn the_commands_on_values() {
    play("strings.txt");
}

#[test]
fn keys_that_expire() {
    play("expiry.txt");
}

#[test]
fn the_commands_on_keys() {
    play("keys.txt");
}

#[test]
fn transactions() {
    play("transactions.txt");
}

#[test]
fn databases() {
    play("databases.txt");
}

#[test]
fn numbers_and_what_came_after_redis_7() {
    play("numbers.txt");
}

#[test]
fn the_commands_on_the_server() {
    play("server.txt");
}

#[test]
fn the_differences_from_redis() {
    play("differences.txt");
}

#[test]
fn the_recipes_of_the_readme() {
    play("recipes.txt");
}
