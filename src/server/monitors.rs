//! `MONITOR`: every command, as it is run, to the clients that asked for them.
//!
//! The threads that run commands never wait for a monitor: a line goes into its queue, and a thread of its own sends the
//! queue. A queue that grows beyond its bound closes its client.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{Client, unix_time};
use crate::limits::{MONITOR_LINE_BYTES_MAX, MONITOR_QUEUE_BYTES_MAX};
use crate::util::buffer::Buffer;
use crate::util::sync::{lock, wait};

/// The clients in `MONITOR`.
#[derive(Debug, Default)]
pub struct Monitors {
    /// How many: all that a command reads where there is none.
    count: AtomicUsize,
    monitors: Mutex<Vec<Arc<MonitorQueue>>>,
}

/// The lines on their way to one monitor.
#[derive(Debug)]
pub struct MonitorQueue {
    client: Arc<Client>,
    patience: Duration,
    queue: Mutex<Queue>,
    /// There are bytes, or the queue is closed.
    woken: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: Buffer,
    closed: bool,
    /// The connection goes on without the queue.
    detached: bool,
}

impl Monitors {
    /// Whether there is any.
    pub fn is_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Adds one.
    pub fn add(&self, monitor: Arc<MonitorQueue>) {
        let mut monitors = lock(&self.monitors);
        monitors.push(monitor);
        self.count.store(monitors.len(), Ordering::Relaxed);
    }

    /// Removes one; its thread still sends what is in its queue.
    pub fn remove(&self, monitor: &Arc<MonitorQueue>) {
        let mut monitors = lock(&self.monitors);
        monitors.retain(|other| !Arc::ptr_eq(other, monitor));
        self.count.store(monitors.len(), Ordering::Relaxed);
    }

    /// Shows a client's command to all of them.
    pub fn show<'a>(&self, client: &Client, words: impl Iterator<Item = &'a [u8]>) {
        let line = line(client.database.load(Ordering::Relaxed), client.peer, words);
        let mut monitors = lock(&self.monitors);
        monitors.retain(|monitor| monitor.push(line.as_bytes()));
        self.count.store(monitors.len(), Ordering::Relaxed);
    }
}

impl MonitorQueue {
    /// For `client`, which may take nothing for so long; zero is for ever.
    pub fn new(client: Arc<Client>, patience: Duration) -> Self {
        Self { client, patience, queue: Mutex::default(), woken: Condvar::new() }
    }

    /// Adds bytes to the queue; `false` if it is closed. If it would grow beyond its bound, the client is killed.
    pub fn push(&self, bytes: &[u8]) -> bool {
        let mut queue = lock(&self.queue);
        let fits = queue.bytes.len() + bytes.len() <= MONITOR_QUEUE_BYTES_MAX;
        if !queue.closed && (!fits || queue.bytes.extend_from_slice(bytes).is_err()) {
            queue.closed = true;
            // The sending thread may be blocked in a write.
            self.client.kill();
        }
        self.woken.notify_one();
        !queue.closed
    }

    /// Sends the queue until it is closed, then ends the connection, unless the queue was detached.
    pub fn send(&self) {
        let mut lines = Buffer::default();
        let mut writer = self.client.writer(self.patience);
        while self.take(&mut lines) {
            if writer.write_all(&lines).is_err() {
                self.close();
                return self.client.kill();
            }
        }
        if !lock(&self.queue).detached {
            self.client.kill();
        }
    }

    /// Waits for bytes and takes them all into `taken`, whose buffer is used again; `false` once the queue is closed and
    /// empty.
    fn take(&self, taken: &mut Buffer) -> bool {
        taken.clear();
        let mut queue = lock(&self.queue);
        while queue.bytes.is_empty() && !queue.closed {
            queue = wait(&self.woken, queue);
        }
        std::mem::swap(&mut queue.bytes, taken);
        !taken.is_empty()
    }

    /// Refuses more bytes.
    pub fn close(&self) {
        lock(&self.queue).closed = true;
        self.woken.notify_one();
    }

    /// Closes the queue; the connection goes on without it.
    pub fn detach(&self) {
        lock(&self.queue).detached = true;
        self.close();
    }
}

/// As Redis: the time in seconds, the database and the client's address, the words in quotes.
fn line<'a>(database: usize, peer: SocketAddr, words: impl Iterator<Item = &'a [u8]>) -> String {
    let now = unix_time();
    let mut line = format!("+{}.{:06} [{database} {peer}]", now.as_secs(), now.subsec_micros());
    for word in words {
        let room = MONITOR_LINE_BYTES_MAX.saturating_sub(line.len());
        line.push_str(" \"");
        for byte in word.iter().take(room) {
            // A string takes everything.
            let _ = match byte {
                b'"' | b'\\' => write!(line, "\\{}", *byte as char),
                b'\n' => write!(line, "\\n"),
                b'\r' => write!(line, "\\r"),
                b'\t' => write!(line, "\\t"),
                0x07 => write!(line, "\\a"),
                0x08 => write!(line, "\\b"),
                b' '..=b'~' => write!(line, "{}", *byte as char),
                _ => write!(line, "\\x{byte:02x}"),
            };
        }
        line.push('"');
        if word.len() >= room {
            let _ = write!(line, "... ({} more bytes)", word.len() - room);
            break;
        }
    }
    line.push_str("\r\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Clients;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    #[test]
    fn a_line_is_redis_s() {
        let words = [&b"SET"[..], b"a b", b"\x00\"\\\n\xc3\xa9"];
        let line = line(3, "127.0.0.1:6".parse().unwrap(), words.into_iter());
        let rest = line.split_once(' ').unwrap().1;
        assert_eq!(rest, "[3 127.0.0.1:6] \"SET\" \"a b\" \"\\x00\\\"\\\\\\n\\xc3\\xa9\"\r\n");
    }

    #[test]
    fn a_queue_that_is_never_taken_from_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut watcher = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        let client = Clients::new(1, Instant::now()).admit(stream, peer).unwrap();
        let (monitors, monitor) =
            (Monitors::default(), Arc::new(MonitorQueue::new(Arc::clone(&client), Duration::ZERO)));
        monitors.add(Arc::clone(&monitor));
        // However many empty words there are: a line is bounded.
        monitors.show(&client, std::iter::repeat_n(&b""[..], 1 << 20));
        assert!(monitors.is_any());
        let (word, mut shown) = (vec![b'x'; 1 << 20], 0);
        while monitors.is_any() {
            monitors.show(&client, [&word[..]].into_iter());
            shown += 1;
        }
        assert!(shown > 20, "{shown} lines");
        let mut taken = Buffer::default();
        assert!(monitor.take(&mut taken) && taken.len() <= MONITOR_QUEUE_BYTES_MAX);
        assert!(!monitor.take(&mut taken));
        assert_eq!(watcher.read(&mut [0; 10]).unwrap(), 0, "its connection is closed");
    }
}
