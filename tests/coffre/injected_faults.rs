//! Faults injected into the system calls of a running server. They need strace: `.ci/run` installs it
//! and runs these with `--ignored`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{COFFRE, Reply, Server, dump, folder, request, signal, wait_until};

/// A server under strace, which does what `inject` says to the calls on the data file.
struct Traced {
    strace: Server,
    coffre: u32,
}

impl Traced {
    fn start(file: &Path, inject: &str, flags: &[&str]) -> Self {
        let calls = inject.split(':').next().unwrap();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(file);
        command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={inject}"), COFFRE]);
        command.args(["--port", "0", "--file"]).arg(file).args(flags);
        let strace = Server::spawn(command);
        let children = format!("/proc/{0}/task/{0}/children", strace.pid());
        let children = std::fs::read_to_string(children).unwrap();
        let coffre = children.split_whitespace().next().unwrap().parse().unwrap();
        Self { strace, coffre }
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

#[test]
#[ignore = "needs strace"]
fn a_read_waits_for_the_write_it_shows() {
    let (_folder, file) = folder();
    prepare(&file);
    let server = Traced::start(&file, "fdatasync:delay_enter=500000:when=1", &[]);
    let (mut writer, mut reader) = (server.strace.client(), server.strace.client());
    let (mut counter, mut lister) = (server.strace.client(), server.strace.client());
    assert_eq!(reader.line("GET before"), Reply::bulk("1"));
    let started = Instant::now();
    writer.send(b"SET a new\r\n");
    // Until the write is in memory the old value may be shown, and then the answer is quick.
    let waited = loop {
        let asked = Instant::now();
        match reader.line("GET a") {
            Reply::Nil => assert!(asked.elapsed() < Duration::from_millis(400)),
            reply => {
                assert_eq!(reply, Reply::bulk("new"));
                break started.elapsed();
            }
        }
    };
    assert!(waited >= Duration::from_millis(500), "shown after {waited:?}, before the fsync");
    assert_eq!(writer.reply(), Reply::ok());
    assert_eq!(counter.line("DBSIZE"), Reply::Integer(2));
    assert!(matches!(lister.line("KEYS *"), Reply::Array(keys) if keys.len() == 2));
    assert_eq!(server.terminate(), Some(0));
}

#[test]
#[ignore = "needs strace"]
fn a_read_of_another_key_does_not_wait() {
    let (_folder, file) = folder();
    prepare(&file);
    let server = Traced::start(&file, "fdatasync:delay_enter=1000000:when=1", &[]);
    let (mut writer, mut reader) = (server.strace.client(), server.strace.client());
    assert_eq!(reader.line("PING"), Reply::Status("PONG".to_owned()));
    let started = Instant::now();
    writer.send(b"SET a new\r\n");
    let mut reads = 0;
    while started.elapsed() < Duration::from_millis(500) {
        assert_eq!(reader.line("GET before"), Reply::bulk("1"));
        reads += 1;
    }
    // Unless the two keys share their stamp, 1 in 32,768.
    assert!(reads > 10, "{reads} reads in half a second");
    assert_eq!(writer.reply(), Reply::ok());
}

#[test]
#[ignore = "needs strace"]
fn after_a_failed_fsync_nothing_more_is_acknowledged() {
    for nth in 1..=5_u64 {
        let (_folder, file) = folder();
        prepare(&file);
        let inject = format!("fdatasync:error=EIO:when={nth}");
        let server = Traced::start(&file, &inject, &[]);
        let mut client = server.strace.client();
        for number in 1..nth {
            assert_eq!(client.line(&format!("SET key:{number} 1")), Reply::ok());
        }
        let refused = "MISCONF Errors writing to the AOF file: Input/output error (os error 5)";
        assert_eq!(client.line("SET lost 1").error(), refused);
        // The next fsync would succeed: it is not asked.
        assert_eq!(client.line("SET lost 2").error(), refused);
        // Taken back: reads show what was acknowledged, and all of them are answered.
        assert_eq!(client.line("GET lost"), Reply::Nil);
        assert_eq!(dump(&mut client).len() as u64, nth);
        for number in 1..nth {
            assert_eq!(client.line(&format!("GET key:{number}")), Reply::bulk("1"));
        }
        let log = server.strace.log();
        assert_eq!(server.terminate(), Some(5), "{log}");
        let state = dump(&mut Server::start(&file).client());
        // A refused write may be there or not; nothing else may differ.
        let kept = state.keys().filter(|key| *key != b"lost").count();
        assert_eq!(kept as u64, nth);
    }
}

#[test]
#[ignore = "needs strace"]
fn under_everysec_a_failed_fsync_refuses_writes_too() {
    let (_folder, file) = folder();
    prepare(&file);
    let server = Traced::start(&file, "fdatasync:error=EIO:when=1", &["--fsync", "everysec"]);
    let mut client = server.strace.client();
    assert_eq!(client.line("SET a 1"), Reply::ok());
    wait_until("the next second", || matches!(client.line("SET a 2"), Reply::Error(_)));
    assert_eq!(server.terminate(), Some(5));
}

#[test]
#[ignore = "needs strace"]
fn killed_at_its_kth_write_or_fsync_it_keeps_what_it_acknowledged() {
    for call in ["write", "fdatasync"] {
        for kth in 1..=8 {
            let (_folder, file) = folder();
            prepare(&file);
            let server = Traced::start(&file, &format!("{call}:signal=SIGKILL:when={kth}"), &[]);
            let mut client = server.strace.client();
            let mut acknowledged = 0;
            for number in 0..20 {
                client.send(&request(&[b"APPEND", b"log", format!("{number},").as_bytes()]));
                match client.try_reply() {
                    Some(_) => acknowledged = number + 1,
                    None => break,
                }
            }
            assert!(acknowledged < 20, "it was not killed");
            drop(server);
            let state = dump(&mut Server::start(&file).client());
            let log = state.get(&b"log"[..]).cloned().unwrap_or_default();
            let found = String::from_utf8(log).unwrap();
            let up_to = |count| (0..count).map(|number| format!("{number},")).collect::<String>();
            assert!(
                found == up_to(acknowledged) || found == up_to(acknowledged + 1),
                "{call} {kth}: acknowledged {acknowledged}, found {found}"
            );
        }
    }
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
