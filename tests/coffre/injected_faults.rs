//! Faults injected into the system calls of a running server. They need strace: `.ci/run` installs it
//! and runs these with `--ignored`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{COFFRE, Client, Reply, Server, dump, folder, request, signal, wait_until};

/// A server under strace, which does what `inject` says to the calls on the data file.
pub struct Traced {
    strace: Server,
    coffre: u32,
}

impl Traced {
    pub fn start(file: &Path, inject: &str, flags: &[&str]) -> Self {
        Self::try_start(file, inject, flags).expect("a server that starts")
    }

    /// `None` if it was killed before it was ready.
    fn try_start(file: &Path, inject: &str, flags: &[&str]) -> Option<Self> {
        let calls = inject.split(':').next().unwrap();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(file);
        for rewrite in ["donnees.txt.tmp", "donnees.txt.heal"] {
            command.arg("-P").arg(file.with_file_name(rewrite));
        }
        command.arg("-P").arg(file.parent().unwrap());
        command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={inject}"), COFFRE]);
        command.args(["--port", "0", "--file"]).arg(file).args(flags);
        let strace = Server::try_spawn(command).ok()?;
        let children = format!("/proc/{0}/task/{0}/children", strace.pid());
        let children = std::fs::read_to_string(children).unwrap();
        let coffre = children.split_whitespace().next().unwrap().parse().unwrap();
        Some(Self { strace, coffre })
    }

    pub fn server(&self) -> &Server {
        &self.strace
    }

    /// `kill -9` of coffre, reaped.
    pub fn kill(mut self) {
        let pid = Pid::from_raw(self.coffre as i32).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        self.strace.wait();
    }

    fn terminate(mut self) -> Option<i32> {
        signal(self.coffre, "TERM");
        self.strace.wait().code()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // Killing strace alone would leave its child behind.
        if self.strace.is_running() {
            // It may be dying already.
            let pid = self.coffre.to_string();
            let _ = Command::new("kill").args(["-9", &pid]).stderr(Stdio::null()).status();
            self.strace.wait();
        }
    }
}

/// A file that exists, so that the calls that create it are not counted.
fn prepare(file: &Path) {
    let server = Server::start(file);
    assert_eq!(server.client().line("SET before 1"), Reply::ok());
    assert!(server.terminate().0.success());
}

/// With a thousand clients waiting and a disk that does not answer: out within a second, and not with 0.
#[test]
#[ignore = "needs strace"]
fn a_dead_disk_does_not_delay_the_end() {
    let (_folder, file) = folder();
    prepare(&file);
    const DELAY: Duration = Duration::from_secs(20);
    let fault = format!("fdatasync:delay_enter={}:when=1+", DELAY.as_micros());
    let mut server = Traced::start(&file, &fault, &[]);
    let mut clients: Vec<_> = (0..1000).map(|_| server.strace.client()).collect();
    for client in &mut clients {
        assert_eq!(client.line("PING").error_or_status(), "PONG");
    }
    clients.iter_mut().take(10).for_each(|client| client.send(b"SET a 1\r\n"));
    std::thread::sleep(Duration::from_millis(100));
    let started = Instant::now();
    signal(server.coffre, "TERM");
    // What it waits for cannot be ended before it answers: its threads are, and its sockets are closed.
    server.strace.expect_log("stopped, but not everything is known to be on disk");
    let took = started.elapsed();
    assert!(took < DELAY - Duration::from_secs(1), "{took:?}: it waited for the disk");
    assert_eq!(server.strace.wait().code(), Some(5));
    let server = Server::start(&file);
    assert_eq!(server.client().line("GET before"), Reply::bulk("1"));
}

#[test]
#[ignore = "needs strace"]
fn a_read_waits_for_the_write_it_shows() {
    let (_folder, file) = folder();
    prepare(&file);
    let server = Traced::start(&file, "fdatasync:delay_enter=3000000:when=1", &[]);
    let (mut writer, mut reader) = (server.strace.client(), server.strace.client());
    let (mut counter, mut lister) = (server.strace.client(), server.strace.client());
    assert_eq!(reader.line("GET before"), Reply::bulk("1"));
    let started = Instant::now();
    writer.send(b"SET a new\r\n");
    // Until the write is in memory the old value may be shown, and then the answer is quick.
    let waited = loop {
        let asked = Instant::now();
        match reader.line("GET a") {
            Reply::Nil => assert!(asked.elapsed() < Duration::from_secs(2)),
            reply => {
                assert_eq!(reply, Reply::bulk("new"));
                break started.elapsed();
            }
        }
    };
    assert!(waited >= Duration::from_secs(3), "shown after {waited:?}, before the fsync");
    assert_eq!(writer.reply(), Reply::ok());
    assert_eq!(counter.line("DBSIZE"), Reply::Integer(2));
    assert!(matches!(lister.line("KEYS *"), Reply::Array(keys) if keys.len() == 2));
    // It is not stopped here: strace counts for each thread, and would delay the last fsync too.
}

#[test]
#[ignore = "needs strace"]
fn a_read_of_another_key_does_not_wait() {
    let (_folder, file) = folder();
    prepare(&file);
    let server = Traced::start(&file, "fdatasync:delay_enter=5000000:when=1", &[]);
    let (mut writer, mut reader) = (server.strace.client(), server.strace.client());
    assert_eq!(reader.line("PING"), Reply::Status("PONG".to_owned()));
    writer.send(b"SET a new\r\n");
    // Unless the two keys share their stamp, 1 in 32,768.
    for _ in 0..20 {
        assert_eq!(reader.line("GET before"), Reply::bulk("1"));
    }
    writer.stream.set_nonblocking(true).unwrap();
    let early = writer.stream.peek(&mut [0]).is_ok();
    writer.stream.set_nonblocking(false).unwrap();
    assert!(!early, "the reads came after the fsync");
    assert_eq!(writer.reply(), Reply::ok());
}

/// Appends numbers to one key, and compacts every fourth time; returns which were acknowledged, and
/// whether the server lived.
fn append_and_compact(client: &mut Client) -> (Vec<u64>, bool) {
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        client.send(&request(&[b"APPEND", b"log", format!("{number},").as_bytes()]));
        match client.try_reply() {
            Some(Reply::Integer(_)) => acknowledged.push(number),
            Some(reply) => {
                assert!(reply.error().starts_with("MISCONF "), "{reply:?}");
                std::thread::sleep(Duration::from_millis(20));
            }
            None => return (acknowledged, false),
        }
        if number % 4 == 3 {
            client.send(b"BGREWRITEAOF\r\n");
            let mut running = client.try_reply().is_some();
            while running {
                client.send(b"INFO persistence\r\n");
                let Some(Reply::Bulk(info)) = client.try_reply() else {
                    return (acknowledged, false);
                };
                let info = String::from_utf8(info).unwrap();
                running = info.contains("aof_rewrite_in_progress:1")
                    || info.contains("aof_rewrite_scheduled:1");
            }
        }
    }
    (acknowledged, true)
}

fn log_of(numbers: &[u64]) -> String {
    numbers.iter().map(|number| format!("{number},")).collect()
}

fn found_log(file: &Path) -> String {
    let state = dump(&mut Server::start(file).client());
    String::from_utf8(state.get(&b"log"[..]).cloned().unwrap_or_default()).unwrap()
}

/// What a data file's life is made of.
const CALLS: [&str; 6] = ["write", "fdatasync", "fsync", "rename", "ftruncate", "openat"];

#[test]
#[ignore = "needs strace"]
fn an_error_in_any_call_is_survived_and_healed() {
    for (call, code) in CALLS[..5].iter().flat_map(|call| [(*call, "EIO"), (*call, "ENOSPC")]) {
        let mut refused = 0;
        for kth in 1..=6_u64 {
            let (_folder, file) = folder();
            prepare(&file);
            // The calls of the start are the main thread's: they must not be hit, or it does not start.
            let inject =
                format!("{call}:error={code}:when={}", kth + 2 * u64::from(call == "fsync"));
            let server = Traced::start(&file, &inject, &[]);
            let mut client = server.strace.client();
            let (acknowledged, lived) = append_and_compact(&mut client);
            assert!(lived, "{call} {code} {kth}: {}", server.strace.log());
            refused += 20 - acknowledged.len();
            wait_until("writes are taken again", || client.line("SET end 1") == Reply::ok());
            // Refused writes were taken back; what was acknowledged is all there is.
            let expected = log_of(&acknowledged);
            assert_eq!(client.line("GET log"), Reply::bulk(&expected), "{call} {code} {kth}");
            // The last thread's k-th call may be its last: then it says that not all is durable.
            assert!(matches!(server.terminate(), Some(0 | 5)));
            assert_eq!(found_log(&file), expected, "{call} {code} {kth}");
        }
        // An fsync of a compaction is felt where it is the folder's: the new file is in place then.
        let hits_writers = ["write", "fdatasync", "fsync"].contains(&call);
        assert_eq!(refused > 0, hits_writers, "{call} {code}: {refused} refused");
    }
}

#[test]
#[ignore = "needs strace"]
fn while_every_fsync_fails_nothing_is_acknowledged_and_every_read_answered() {
    let (_folder, file) = folder();
    prepare(&file);
    let server = Traced::start(&file, "fdatasync,fsync:error=EIO:when=3+", &[]);
    let mut client = server.strace.client();
    for number in 0..2 {
        assert_eq!(client.line(&format!("SET key:{number} 1")), Reply::ok());
    }
    let refused = "MISCONF Errors writing to the AOF file: fsync: Input/output error (os error 5)";
    for _ in 0..20 {
        assert_eq!(client.line("SET lost 1").error(), refused);
        assert_eq!(client.line("GET lost"), Reply::Nil);
        assert_eq!(dump(&mut client).len(), 3);
        std::thread::sleep(Duration::from_millis(50));
    }
    server.strace.expect_log("still read-only: ");
    assert_eq!(server.terminate(), Some(5));
    let state = dump(&mut Server::start(&file).client());
    // A refused write may be there or not; nothing else may differ.
    assert_eq!(state.keys().filter(|key| *key != b"lost").count(), 3);
}

#[test]
#[ignore = "needs strace"]
fn under_everysec_a_failed_fsync_refuses_writes_until_it_is_healed() {
    let (_folder, file) = folder();
    prepare(&file);
    let server = Traced::start(&file, "fdatasync:error=EIO:when=1", &["--fsync", "everysec"]);
    let mut client = server.strace.client();
    assert_eq!(client.line("SET a 1"), Reply::ok());
    server.strace.expect_log("fsync: Input/output error");
    wait_until("writes are taken again", || client.line("APPEND a 2") == Reply::Integer(2));
    // The first of the thread that ends it fails as well, and is healed too.
    assert_eq!(server.terminate(), Some(0));
    let state = dump(&mut Server::start(&file).client());
    assert_eq!(state[&b"a"[..]], b"12");
}

#[test]
#[ignore = "needs strace"]
fn killed_at_any_call_it_keeps_what_it_acknowledged() {
    for call in CALLS {
        let mut killed = 0;
        for kth in 1..=8 {
            let (folder, file) = folder();
            prepare(&file);
            let inject = format!("{call}:signal=SIGKILL:when={kth}");
            let Some(server) = Traced::try_start(&file, &inject, &[]) else {
                // Killed at its start: a start must mend that too.
                killed += 1;
                assert_eq!(found_log(&file), "", "{call} {kth}");
                continue;
            };
            let mut client = server.strace.client();
            let (acknowledged, lived) = append_and_compact(&mut client);
            killed += usize::from(!lived);
            drop(server);
            let found = found_log(&file);
            let next = acknowledged.last().map_or(0, |last| last + 1);
            let with_next = [&acknowledged[..], &[next]].concat();
            assert!(
                found == log_of(&acknowledged) || found == log_of(&with_next),
                "{call} {kth}: acknowledged {acknowledged:?}, found {found}"
            );
            assert!(!folder.path().join("donnees.txt.tmp").exists());
        }
        // `ftruncate` is for torn tails and failed writes: no kill here.
        assert_eq!(killed > 0, call != "ftruncate", "{call}");
    }
}

/// Sets how long a process's files may be, in bytes.
fn limit_files(pid: u32, limit: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--fsize={limit}:unlimited")])
        .status();
    assert!(status.unwrap().success());
}

#[test]
#[ignore = "needs prlimit"]
fn a_short_write_at_every_byte_is_cut_back_and_writes_resume() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    let mut expected = String::new();
    // Longer than any record here with its seal.
    for room in 0..70 {
        let length = std::fs::metadata(&file).unwrap().len();
        limit_files(server.pid(), &(length + room).to_string());
        let reply = client.line(&format!("APPEND log {room},"));
        if let Reply::Integer(_) = reply {
            expected.push_str(&format!("{room},"));
            assert!(room > 40, "room for {room} bytes");
        } else {
            let refused = "MISCONF Errors writing to the AOF file: File too large (os error 27)";
            assert_eq!(reply.error(), refused);
            assert_eq!(client.line("EXISTS log"), Reply::Integer(i64::from(room > 0)));
            limit_files(server.pid(), "unlimited");
            let line = format!("APPEND log {room}!");
            wait_until("writes are taken again", || {
                matches!(client.line(&line), Reply::Integer(_))
            });
            expected.push_str(&format!("{room}!"));
        }
        assert_eq!(client.line("GET log"), Reply::bulk(&expected));
        let (code, said) = crate::harness::run_to_end(&[&"check", &file]);
        assert_eq!(code, 0, "{said}");
    }
    assert!(expected.contains(','), "there was room in the end");
    server.kill();
    let state = dump(&mut Server::start(&file).client());
    assert_eq!(state[&b"log"[..]], expected.as_bytes());
}

/// The 512 MiB limit for real: too heavy for every run.
#[test]
#[ignore = "takes 2 GB of memory and disk"]
fn append_stops_at_512_mib_and_logs_nothing_beyond() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut client = server.client();
    let part = vec![b'a'; 128 << 20];
    for count in 1..=4_i64 {
        assert_eq!(client.call(&[b"APPEND", b"big", &part]), Reply::Integer(count << 27));
    }
    let length = std::fs::metadata(&file).unwrap().len();
    let refused = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    assert_eq!(client.line("APPEND big x").error(), refused);
    assert_eq!(client.line("SETRANGE big 536870912 x").error(), refused);
    assert_eq!(client.line("APPEND big \"\""), Reply::Integer(512 << 20));
    assert_eq!(std::fs::metadata(&file).unwrap().len(), length);
    server.kill();
    let server = Server::start(&file);
    assert_eq!(server.client().line("APPEND big \"\""), Reply::Integer(512 << 20));
}
