//! What is counted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use coffre::engine::local::{LocalEngine, LocalSession};
use coffre::engine::{Engine, Key, Scope, Txn};
use coffre::journal::{Fsync, Recovery};
use coffre::protocol::reader::RequestReader;
use coffre::protocol::request::Limits;
use coffre::protocol::telnet::Telnet;
use coffre::value::View;

use crate::{Result, collected, counted};

/// An operation, and how often it is done.
pub struct Case {
    pub name: &'static str,
    /// A multiple of [`AT_ONCE`].
    pub operations: u64,
    work: Work,
}

enum Work {
    /// The command lines of one operation, sent to a server with a key of its own, and how long the replies are.
    Requests { lines: &'static [&'static str], reply_bytes: usize },
    /// Done in a process of its own.
    Here(fn(u64) -> Result<()>),
    /// A server starts on a sealed file with so many records.
    Start,
}

/// How many operations are sent in one write.
const AT_ONCE: u64 = 50;
/// How many keys there are.
const KEYS: u64 = 1000;
const VALUE: &str = "abcdefghijklmnop";

pub const CASES: &[Case] = &[
    requests("GET of a key that exists", &["GET key:K"], 5 + 18),
    requests("SET of a key that exists", &["SET key:K abcdefghijklmnop"], 5),
    requests("INCR", &["INCR number:K"], 10),
    requests(
        "EXEC of SET and INCR",
        &["MULTI", "SET key:K abcdefghijklmnop", "INCR number:K", "EXEC"],
        5 + 9 + 9 + 4 + 5 + 10,
    ),
    requests("EVAL of a GET", &["EVAL return(redis.call('get',KEYS[1])) 1 key:K"], 5 + 18),
    Case { name: "a burst of 16 GETs, parsed", operations: 10_000, work: Work::Here(parse) },
    Case { name: "a batch of one SET, committed", operations: 10_000, work: Work::Here(commit) },
    Case { name: "a record, loaded", operations: 50_000, work: Work::Start },
];

const fn requests(name: &'static str, lines: &'static [&'static str], reply_bytes: usize) -> Case {
    Case { name, operations: 10_000, work: Work::Requests { lines, reply_bytes } }
}

impl Case {
    /// The instructions of a process that does so many operations.
    pub fn instructions(&self, operations: u64) -> Result<u64> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("donnees.txt");
        match self.work {
            Work::Requests { lines, reply_bytes } => {
                serve(&file, |stream| send(stream, lines, reply_bytes, operations))
            }
            Work::Here(_) => {
                let mut command = counted(&std::env::current_exe()?);
                let output =
                    command.args(["--case", self.name, &operations.to_string()]).output()?;
                collected(&output.stderr)
            }
            Work::Start => {
                let line = |number| format!("SET key:{number:08} {VALUE}\n");
                std::fs::write(&file, (0..operations).map(line).collect::<String>())?;
                let sealed = folder.path().join("sealed.txt");
                let mut seal = Command::new(env!("CARGO_BIN_EXE_coffre"));
                if !seal
                    .arg("compact")
                    .arg(&file)
                    .arg("--output")
                    .arg(&sealed)
                    .output()?
                    .status
                    .success()
                {
                    return Err("the file is not sealed".into());
                }
                serve(&sealed, |_| Ok(()))
            }
        }
    }
}

/// Does the case of that name in this process, so many times.
pub fn run_here(name: &str, count: &str) -> Result<()> {
    let case = CASES.iter().find(|case| case.name == name).ok_or("no such case")?;
    match case.work {
        Work::Here(work) => work(count.parse()?),
        _ => Err("not of this process".into()),
    }
}

/// Counts what a server on `file` does from its start to its end, while `work` talks to it.
fn serve(file: &Path, work: impl FnOnce(&mut TcpStream) -> Result<()>) -> Result<u64> {
    let mut command = counted(Path::new(env!("CARGO_BIN_EXE_coffre")));
    let mut server = command.args(["--port", "0", "--fsync", "no", "--file"]).arg(file).spawn()?;
    let stdout = server.stdout.take().ok_or("no output")?;
    let mut ready = String::new();
    BufReader::new(stdout).read_line(&mut ready)?;
    let worked = match ready.trim().rsplit_once(' ') {
        Some((_, address)) => work(&mut TcpStream::connect(address)?),
        None => Err("the server does not start".into()),
    };
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let output = server.wait_with_output()?;
    worked?;
    collected(&output.stderr)
}

fn send(stream: &mut TcpStream, lines: &[&str], reply_bytes: usize, operations: u64) -> Result<()> {
    // Numbers of seven digits from the first to the last.
    let setup = |number| format!("SET key:{number} {VALUE}\r\nSET number:{number} 1000000\r\n");
    let setup: String = (0..KEYS).map(setup).collect();
    exchange(stream, setup.as_bytes(), 2 * 5 * KEYS as usize)?;
    for start in (0..operations).step_by(AT_ONCE as usize) {
        let requests: Vec<u8> = (start..start + AT_ONCE)
            .flat_map(|number| lines.iter().map(move |line| (number % KEYS, line)))
            .flat_map(|(key, line)| request(&line.replace(":K", &format!(":{key}"))))
            .collect();
        exchange(stream, &requests, reply_bytes * AT_ONCE as usize)?;
    }
    Ok(())
}

fn exchange(stream: &mut TcpStream, requests: &[u8], reply_bytes: usize) -> Result<()> {
    stream.write_all(requests)?;
    Ok(stream.read_exact(&mut vec![0; reply_bytes])?)
}

/// A RESP array of the words of a line.
fn request(line: &str) -> Vec<u8> {
    let words: Vec<&str> = line.split(' ').collect();
    let head = format!("*{}\r\n", words.len());
    let words = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
    std::iter::once(head).chain(words).collect::<String>().into_bytes()
}

fn parse(count: u64) -> Result<()> {
    let burst: Vec<u8> =
        (0..16).flat_map(|number| request(&format!("GET key:{number:010}"))).collect();
    let (limits, mut telnet) = (Limits::default(), Telnet::default());
    let mut reader = RequestReader::default();
    for _ in 0..count {
        let mut rest = &burst[..];
        let mut parsed = 0;
        while !rest.is_empty() {
            reader.fill(&mut rest)?;
            while reader.next(&limits, &mut telnet)?.is_some() {
                parsed += 1;
            }
        }
        if parsed != 16 {
            return Err("a burst was not parsed".into());
        }
    }
    Ok(())
}

fn commit(count: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let recovery = Recovery::begin(&folder.path().join("donnees.txt"))?;
    let engine = LocalEngine::start(recovery, Fsync::No)?;
    let mut session = LocalSession::default();
    for number in 0..count {
        let bytes = format!("key:{:04}", number % KEYS).into_bytes();
        let key = Key { database: 0, bytes: &bytes };
        let value = View::Short(VALUE.as_bytes());
        engine.run(&mut session, Scope::One(&bytes), |txn| txn.put(key, value, None))?;
        let point = engine.take_commit_point(&mut session);
        engine.commit(&mut session, point)?;
    }
    Ok(())
}
