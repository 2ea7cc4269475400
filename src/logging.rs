//! Log lines on standard error that nobody ever waits for: a thread of its own writes them, and where they
//! are not read (a stopped terminal, a full pipe) some are lost, and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use crate::limits::LOG_LINES_MAX;

/// Lines handed over and not written yet.
static WAITING: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicUsize = AtomicUsize::new(0);

/// Begins to log what `RUST_LOG` says, at first from `level` on.
pub fn begin(level: &str) -> io::Result<()> {
    let (lines, receiver) = mpsc::sync_channel(LOG_LINES_MAX);
    thread::Builder::new().name("log".to_owned()).spawn(move || write(&receiver))?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
        .target(env_logger::Target::Pipe(Box::new(Lines(lines))))
        .init();
    Ok(())
}

/// Waits a little until what was logged is written: the process ends.
pub fn flush() {
    let deadline = Instant::now() + Duration::from_millis(200);
    while WAITING.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Where the logger writes to: each record in one piece.
struct Lines(SyncSender<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        WAITING.fetch_add(1, Ordering::AcqRel);
        if self.0.try_send(line.to_vec()).is_err() {
            WAITING.fetch_sub(1, Ordering::AcqRel);
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(lines: &Receiver<Vec<u8>>) {
    for line in lines {
        // Not `eprintln!`: it panics where nobody listens.
        let _ = io::stderr().write_all(&line);
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(io::stderr(), "{lost} log lines were lost: nobody read them");
        }
        WAITING.fetch_sub(1, Ordering::AcqRel);
    }
}
