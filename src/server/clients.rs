//! The list of connected clients, as other threads see and end them.
//!
//! A client's own thread writes into its entry with plain stores, once a burst; `CLIENT LIST` reads them. Entries are in
//! the order of their numbers.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::BurstStats;
use crate::limits::{MANY_CLIENTS, TICK_MS};
use crate::util::sync::{lock, wait_timeout};

/// The connected clients.
#[derive(Debug)]
pub struct Clients {
    // Constant after construction.
    started: Instant,

    // Their own synchronization.
    most: AtomicUsize,
    next_id: AtomicU64,
    /// How many there are; changes with the state locked.
    count: AtomicUsize,

    state: Mutex<State>,
    /// The last client has left.
    empty: Condvar,
}

#[derive(Debug, Default)]
struct State {
    all: BTreeMap<u64, Arc<Client>>,
    /// No client is admitted any more.
    closed: bool,
}

/// Why a client is not admitted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There are as many clients as there may be.
    #[error("ERR max number of clients reached")]
    Full,
    /// The server stops.
    #[error("ERR server is shutting down")]
    Closed,
}

/// A connected client, as other threads see it.
#[derive(Debug)]
pub struct Client {
    // Constant after construction.
    /// Its number: 1 for the first client of this run.
    pub id: u64,
    /// The address of the peer.
    pub peer: SocketAddr,
    /// The connection.
    pub stream: TcpStream,
    /// When it connected.
    pub connected: Instant,
    started: Instant,

    // Their own synchronization; written by its own thread.
    /// When it last sent something, in milliseconds since the server's start.
    seen_ms: AtomicU64,
    /// Commands run.
    pub commands: AtomicU64,
    /// Bytes received.
    pub received: AtomicU64,
    /// Bytes sent.
    pub sent: AtomicU64,
    /// The number of the command it last sent; [`Client::NO_COMMAND`] at first.
    pub last_command: AtomicUsize,
    /// Bytes received of requests that are not complete.
    pub pending_bytes: AtomicUsize,
    /// Memory its buffers hold, in bytes.
    pub buffer_bytes: AtomicUsize,
    /// Bytes of replies that the peer has not taken yet.
    pub queued_bytes: AtomicUsize,
    /// The number of the database it works with.
    pub database: AtomicUsize,
    /// How many requests it has queued for `EXEC`, plus one; 0 outside a transaction.
    pub kept: AtomicUsize,
    /// The version of RESP in its replies.
    pub protocol: AtomicUsize,
    /// It is in `MONITOR`.
    pub is_monitor: AtomicBool,
    /// It asked for `CLIENT NO-EVICT`.
    pub no_evict: AtomicBool,
    /// It asked for `CLIENT NO-TOUCH`.
    pub no_touch: AtomicBool,
    killed: AtomicBool,

    names: Mutex<Names>,
}

/// What a client calls itself.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// What `CLIENT SETNAME` set.
    pub name: String,
    /// Its library, and the version of that.
    pub library: [String; 2],
}

impl Clients {
    /// For at most so many; times count from `started`.
    pub fn new(most: usize, started: Instant) -> Self {
        Self {
            most: AtomicUsize::new(most),
            started,
            next_id: AtomicU64::new(1),
            count: AtomicUsize::new(0),
            state: Mutex::default(),
            empty: Condvar::new(),
        }
    }

    /// Admits a client, or gives its stream back.
    pub fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<Arc<Client>, (TcpStream, Refusal)> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut state = lock(&self.state);
        match state.all.len() < self.most() {
            _ if state.closed => Err((stream, Refusal::Closed)),
            false => Err((stream, Refusal::Full)),
            true => {
                let client = Arc::new(Client::new(id, stream, peer, self.started));
                state.all.insert(id, Arc::clone(&client));
                self.count.store(state.all.len(), Ordering::Relaxed);
                Ok(client)
            }
        }
    }

    /// Takes a client off the list.
    pub fn leave(&self, id: u64) {
        let mut state = lock(&self.state);
        let client = state.all.remove(&id);
        self.count.store(state.all.len(), Ordering::Relaxed);
        let is_empty = state.all.is_empty();
        drop(state);
        // The last reference closes the connection: not with the list locked.
        drop(client);
        if is_empty {
            self.empty.notify_all();
        }
    }

    /// How many there may be.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Changes that; connected clients stay.
    pub fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there are so many that their threads had better not run more often than they must.
    pub fn are_many(&self) -> bool {
        self.count() >= MANY_CLIENTS
    }

    /// All of them, in the order in which they connected.
    pub fn all(&self) -> Vec<Arc<Client>> {
        lock(&self.state).all.values().cloned().collect()
    }

    /// Admits no client any more; returns the connected ones.
    pub fn close(&self) -> Vec<Arc<Client>> {
        lock(&self.state).closed = true;
        self.all()
    }

    /// Waits until all have left, at most until `deadline`; returns how many have not.
    pub fn wait_until_empty(&self, deadline: Instant) -> usize {
        let mut state = lock(&self.state);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.all.is_empty() || left.is_zero() {
                return state.all.len();
            }
            state = wait_timeout(&self.empty, state, left);
        }
    }
}

impl Client {
    /// The value of `last_command` before the first one.
    pub const NO_COMMAND: usize = usize::MAX;

    fn new(id: u64, stream: TcpStream, peer: SocketAddr, started: Instant) -> Self {
        let connected = Instant::now();
        let client = Self {
            id,
            peer,
            stream,
            connected,
            started,
            seen_ms: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            last_command: AtomicUsize::new(Self::NO_COMMAND),
            pending_bytes: AtomicUsize::new(0),
            buffer_bytes: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            database: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            protocol: AtomicUsize::new(2),
            is_monitor: AtomicBool::new(false),
            no_evict: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            names: Mutex::default(),
        };
        client.seen(connected);
        client
    }

    /// The client just sent something.
    pub fn seen(&self, now: Instant) {
        let since = now.saturating_duration_since(self.started);
        self.seen_ms.store(since.as_millis() as u64, Ordering::Relaxed);
    }

    /// Counts what a burst did.
    pub fn did(&self, burst: &BurstStats) {
        let add = |counter: &AtomicU64, more: u64| {
            // Only the client's own thread writes.
            counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        };
        add(&self.commands, burst.commands);
        add(&self.received, burst.received);
        add(&self.sent, burst.sent);
    }

    /// How long the client has sent nothing.
    pub fn idle(&self) -> Duration {
        let seen = Duration::from_millis(self.seen_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(seen)
    }

    /// What the client calls itself.
    pub fn names(&self) -> Names {
        lock(&self.names).clone()
    }

    /// Changes what it calls itself.
    pub fn rename(&self, change: impl FnOnce(&mut Names)) {
        change(&mut lock(&self.names));
    }

    /// The server's address on this connection.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// The file descriptor of the connection.
    pub fn descriptor(&self) -> i32 {
        self.stream.as_raw_fd()
    }

    /// Where its replies go. A write that makes progress gets all the time it needs; one of which the client took
    /// nothing for `patience` (zero is for ever) fails, with `WouldBlock`.
    pub fn writer(&self, patience: Duration) -> impl Write {
        DeadlineWriter { client: self, patience, blocked_since: None }
    }

    /// Reads without blocking: an error of kind `WouldBlock` if there is nothing.
    pub fn read_at_once(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.stream, buffer, RecvFlags::DONTWAIT)?.1)
    }

    /// Writes without blocking: an error of kind `WouldBlock` if the peer takes nothing.
    pub fn write_at_once(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    /// Whether it was killed, or the stream is at its end: for a thread that does not read from it now.
    pub fn is_gone(&self) -> bool {
        self.peek().map_or(true, |count| count == Some(0))
    }

    /// Whether it was killed, or reset: a peer that sends no more may still wait for its replies.
    pub fn is_cut_off(&self) -> bool {
        self.peek().is_err()
    }

    /// How many bytes can be read now, at most one; 0 is the end of the stream, `None` is nothing yet.
    fn peek(&self) -> Result<Option<usize>, Errno> {
        if self.is_killed() {
            return Err(Errno::CONNABORTED);
        }
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(&self.stream, &mut [0; 1], flags) {
            Ok((_, count)) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends the connection: its thread finds the stream closed, whether it reads or writes.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Whether it was killed.
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }
}

/// See [`Client::writer`].
struct DeadlineWriter<'a> {
    client: &'a Client,
    patience: Duration,
    /// Since when the peer has taken nothing.
    blocked_since: Option<Instant>,
}

impl Write for DeadlineWriter<'_> {
    /// The stream's own writes time out after [`TICK_MS`], to check the deadline.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const TICK: Duration = Duration::from_millis(TICK_MS);
        loop {
            match (&self.client.stream).write(bytes) {
                Err(error) if is_timeout(&error) => {
                    let since = *self.blocked_since.get_or_insert_with(|| {
                        Instant::now().checked_sub(TICK).unwrap_or(self.client.connected)
                    });
                    if !self.patience.is_zero() && since.elapsed() >= self.patience {
                        return Err(error);
                    }
                }
                written => {
                    self.blocked_since = None;
                    return written;
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a read or a write timed out.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
