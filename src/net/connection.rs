//! One client's thread: bytes in, replies out.
//!
//! One burst, one read, one commit, one write: the thread executes every complete request in the buffer, waits once for
//! the highest commit point, and sends all replies together ([`Output`]).
//!
//! A connection checks its own deadlines: a read returns after [`TICK_MS`] at the latest. If no request has begun by
//! then, the connection releases its memory and sleeps until bytes arrive or the idle timeout is over; otherwise it
//! checks the clock at every tick. So does a write ([`Client::writer`]).

use std::io::{self, Read};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::command::{self, CommandError, ConnectionState, Context, Together, Transaction};
use crate::engine::Engine;
use crate::journal::Fsync;
use crate::limits::{
    CLIENT_STACK_BYTES, IDLE_BUFFER_BYTES, LINGER_BYTES_MAX, LINGER_MS_MAX, POLLS_MAX, POLLS_MORE,
    REPLY_BYTES_MAX, REQUEST_BYTES_PER_S, TICK_MS, UNAUTHENTICATED_ARGUMENT_BYTES_MAX,
};
use crate::net::send_queue::Output;
use crate::protocol::reader::RequestReader;
use crate::protocol::request::{Limits, ProtocolError};
use crate::protocol::telnet::Telnet;
use crate::server::{BurstStats, Client, Control, Event, MonitorQueue, is_timeout};
use crate::util::memory::{self, Unauthenticated};
use crate::util::rate_limit::RateLimit;

const TICK: Duration = Duration::from_millis(TICK_MS);

/// A connected client.
pub struct Connection<'a, E: Engine> {
    control: &'a Control,
    client: &'a Arc<Client>,
    engine: &'a E,
    session: E::Session,
    state: ConnectionState,
    transaction: Transaction<E>,
    requests: RequestReader,
    telnet: Telnet,
    output: Output<'a>,
    limits: Limits,
    stats: BurstStats,
    /// When the incomplete request in the buffer began, if there is one.
    begun: Option<Instant>,
    /// How often a read polls before it blocks.
    polls: u32,
    /// The read timeout of the socket; `None` for ever.
    patience: Option<Duration>,
    /// The thread that sends this client the lines of `MONITOR`.
    monitor_thread: Option<JoinHandle<()>>,
    /// What the client holds before it has given the password.
    unauthenticated: Unauthenticated,
}

/// How large a request may be: little before the password is given.
fn limits(state: &ConnectionState, control: &Control) -> Limits {
    match state.authenticated {
        true => Limits::new(control.config.max_value, control.config.max_request),
        false => Limits::UNAUTHENTICATED,
    }
}

/// How a burst ended.
enum Burst {
    /// More bytes are needed.
    Starved,
    /// The replies, or the undo of the writes, have reached their bound: commit and send first.
    Full,
    /// The client ends the connection.
    Quit,
    /// The next bytes are no request.
    Broken(ProtocolError),
}

/// How a read ended.
enum Received {
    Bytes,
    /// The peer sends no more, or the server closed the connection.
    End,
    /// The client was idle for too long.
    Idle,
    /// A request takes too long, or the password does.
    TooSlow,
    /// The request may not grow.
    NoMemory,
}

/// What the commands of a connection are run with. A function would borrow the request's bytes, too.
macro_rules! context {
    ($connection:ident) => {
        Context {
            engine: $connection.engine,
            session: &mut $connection.session,
            transaction: &mut $connection.transaction,
            replies: &mut $connection.output.batch.replies,
            connection: &mut $connection.state,
            client: $connection.client,
            control: $connection.control,
            stats: &mut $connection.stats,
        }
    };
}

impl<'a, E: Engine> Connection<'a, E> {
    /// The connection of `client`.
    pub fn new(client: &'a Arc<Client>, engine: &'a E, control: &'a Control) -> Self {
        let config = &control.config;
        let state = ConnectionState::new(control.settings.password().is_none());
        Self {
            control,
            client,
            engine,
            session: E::Session::default(),
            transaction: Transaction::default(),
            limits: limits(&state, control),
            state,
            requests: RequestReader::default(),
            telnet: Telnet::default(),
            output: Output::new(client, Duration::from_secs(config.write_timeout.into())),
            stats: BurstStats::default(),
            begun: None,
            polls: 16,
            patience: None,
            monitor_thread: None,
            unauthenticated: Unauthenticated::default(),
        }
    }

    /// Serves the client until it disconnects, breaks the protocol, takes too long, or the server stops.
    pub fn serve(mut self) -> io::Result<()> {
        let served = self.serve_bursts().and_then(|()| self.output.finish());
        self.add_statistics();
        if let Err(error) = &served
            && is_timeout(error)
        {
            static LOGGED: RateLimit = RateLimit::new(Duration::from_secs(60));
            self.control.statistics.happened(Event::NotReading);
            if LOGGED.allow() {
                let (id, peer) = (self.client.id, self.client.peer);
                log::warn!("client {id} at {peer} does not read its replies: closed");
            }
        }
        served
    }

    fn serve_bursts(&mut self) -> io::Result<()> {
        self.client.stream.set_write_timeout(Some(TICK))?;
        self.wait_for(Some(TICK))?;
        loop {
            let end = self.burst()?;
            if let Burst::Broken(error) = &end {
                self.refuse(error);
            }
            // Another thread may send the replies only if this one has nothing to do after them but read.
            let is_ordinary = matches!(end, Burst::Starved) && self.state.monitor.is_none();
            self.send(is_ordinary)?;
            self.update_monitor()?;
            match end {
                Burst::Full => {}
                Burst::Quit | Burst::Broken(_) => return self.drain_and_close(),
                Burst::Starved => match self.receive()? {
                    Received::Bytes => {}
                    Received::End => return self.on_eof(),
                    Received::Idle => {
                        self.control.statistics.happened(Event::TimedOut);
                        return Ok(());
                    }
                    Received::TooSlow => {
                        self.control.statistics.happened(Event::TimedOut);
                        return self.close_with_error(&CommandError::err(
                            "Protocol error: it took too long",
                        ));
                    }
                    Received::NoMemory => {
                        return self.close_with_error(&CommandError::NO_MEMORY);
                    }
                },
            }
        }
    }

    /// Executes the complete requests in the buffer.
    fn burst(&mut self) -> io::Result<Burst> {
        let Self { control, client, engine, .. } = *self;
        let mut before = Instant::now();
        client.seen(before);
        let mut together = Together::default();
        loop {
            let request = self.requests.next(&self.limits, &mut self.telnet);
            if let Some(answers) = self.telnet.take_answers() {
                self.output.batch.replies.raw(&answers);
            }
            if E::LIKES_FEW_TRANSACTIONS {
                let (state, transaction) = (&self.state, &self.transaction);
                let joins = match &request {
                    Ok(Some(request)) if !control.pause.is_on() => {
                        together.join(&command::find(request), request, state, transaction)
                    }
                    _ => false,
                };
                if !together.is_empty() && (!joins || together.is_full()) {
                    let mut context = context!(self);
                    command::run_together(std::mem::take(&mut together), &mut context);
                    before = Instant::now();
                }
                if joins {
                    self.begun = None;
                    continue;
                }
            }
            let request = match request {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(Burst::Starved),
                Err(error) => return Ok(Burst::Broken(error)),
            };
            self.begun = None;
            let asked = command::find(&request);
            if let Some(number) = asked.number() {
                client.last_command.store(number, Ordering::Relaxed);
            }
            if control.pause.is_on()
                && let Some(kind) = command::held_up_by(&asked, &self.state, &self.transaction)
            {
                self.stats.sent += self.output.send(engine, &mut self.session, false, false)?;
                control.pause.wait(kind, || !control.is_stopping() && !client.is_cut_off());
                if client.is_cut_off() {
                    return Err(Errno::CONNABORTED.into());
                }
                before = Instant::now();
            }
            let start = self.output.batch.replies.position();
            let mut context = context!(self);
            let outcome = command::run(asked, &request, &mut context);
            let now = Instant::now();
            let took = now - before;
            before = now;
            command::record(&outcome, &request, took, client, control, &mut self.stats);
            if self.state.suppresses_reply() {
                self.output.batch.replies.truncate(start);
            }
            let point = engine.take_commit_point(&mut self.session);
            if !engine.is_committed(point) || engine.is_commit_due(&self.session) {
                self.output.batch.must_commit(start, point);
            }
            if self.limits.is_unauthenticated == self.state.authenticated {
                self.limits = limits(&self.state, control);
                self.unauthenticated.hold(0);
            }
            if self.state.is_over {
                return Ok(Burst::Quit);
            }
            let most = match self.limits.is_unauthenticated {
                true => UNAUTHENTICATED_ARGUMENT_BYTES_MAX,
                false => REPLY_BYTES_MAX,
            };
            if self.output.batch.replies.len() > most || engine.is_commit_due(&self.session) {
                return Ok(Burst::Full);
            }
        }
    }

    /// Sends an error that answers no request, unless the client has turned replies off.
    fn say(&mut self, error: &CommandError) {
        self.control.statistics.refused(error.code() as usize);
        if !self.state.replies_are_off() {
            self.output.batch.replies.error(&error.to_string());
        }
    }

    /// Answers bytes that are no request.
    fn refuse(&mut self, error: &ProtocolError) {
        static LOGGED: RateLimit = RateLimit::new(Duration::from_secs(60));
        self.control.statistics.happened(Event::Malformed);
        let foreign = matches!(error, ProtocolError::Http | ProtocolError::Tls);
        if foreign && LOGGED.allow() {
            log::warn!("client {} at {}: {error}: closed", self.client.id, self.client.peer);
        }
        match error {
            ProtocolError::Http => {}
            ProtocolError::NoMemory => self.say(&CommandError::NO_MEMORY),
            _ => self.say(&CommandError::err(format!("Protocol error: {error}"))),
        }
    }

    /// Counts, then sends the replies, so that `INFO` agrees with a reply already received. If `may_queue`, the thread
    /// that commits them may send them.
    fn send(&mut self, may_queue: bool) -> io::Result<()> {
        self.add_statistics();
        let may_gather = self.control.clients.are_many();
        self.stats.sent +=
            self.output.send(self.engine, &mut self.session, may_queue, may_gather)?;
        Ok(())
    }

    fn add_statistics(&mut self) {
        self.client.did(&self.stats);
        self.control.statistics.add(self.client.id, &mut self.stats);
    }

    /// Waits for more bytes.
    fn receive(&mut self) -> io::Result<Received> {
        let pending = self.requests.pending_bytes();
        match pending {
            // Blank lines and comments are no request, even in pieces.
            0 => self.begun = None,
            _ => drop(self.begun.get_or_insert_with(Instant::now)),
        }
        self.client.pending_bytes.store(pending, Ordering::Relaxed);
        let kept = self.transaction.length().map_or(0, |length| length + 1);
        self.client.kept.store(kept, Ordering::Relaxed);
        let buffers = self.requests.capacity() + self.output.batch.replies.capacity();
        self.client.buffer_bytes.store(buffers, Ordering::Relaxed);
        memory::flush_thread_count();
        let mut silence = Duration::ZERO;
        // A client whose replies wait for the disk sends nothing soon; among many clients that is true of any commit.
        let is_slow = self.control.config.fsync == Fsync::Always || self.control.clients.are_many();
        let is_in_flight = is_slow && self.output.is_in_flight();
        let mut none = 0;
        loop {
            let polls = if is_in_flight { &mut none } else { &mut self.polls };
            let stream = SpinReader { client: self.client, polls };
            match self.requests.fill(stream) {
                Ok(0) => return Ok(Received::End),
                Ok(count) => {
                    self.stats.received += count as u64;
                    self.wait_for(Some(TICK))?;
                    if self.limits.is_unauthenticated && !self.hold_unauthenticated() {
                        return Ok(Received::NoMemory);
                    }
                    return Ok(if self.is_late() { Received::TooSlow } else { Received::Bytes });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                    return Ok(Received::NoMemory);
                }
                Err(error) if is_timeout(&error) => {
                    silence += self.patience.unwrap_or_default();
                    if let Some(end) = self.check_deadlines(silence)? {
                        return Ok(end);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Counts the memory of a client that has not given the password, beyond what every client has; `false` if all such
    /// clients together hold too much.
    fn hold_unauthenticated(&mut self) -> bool {
        let buffers = self.requests.capacity() + self.output.batch.replies.capacity();
        self.unauthenticated.hold(buffers.saturating_sub(IDLE_BUFFER_BYTES))
    }

    /// Nothing was received for `silence`: returns how the connection ends, if a deadline is over.
    fn check_deadlines(&mut self, silence: Duration) -> io::Result<Option<Received>> {
        let settings = &self.control.settings;
        let within = settings.request_timeout.time();
        if self.is_late() || self.begun.is_some() && !within.is_zero() && silence >= within {
            return Ok(Some(Received::TooSlow));
        }
        let idle = settings.timeout.time();
        let never = idle.is_zero() || self.output.monitor.is_some();
        if !never && silence >= idle {
            return Ok(Some(Received::Idle));
        }
        self.requests.shrink();
        self.output.release_idle();
        if self.limits.is_unauthenticated {
            self.hold_unauthenticated();
        }
        self.client.buffer_bytes.store(self.requests.capacity(), Ordering::Relaxed);
        memory::flush_thread_count();
        let has_deadline = self.begun.is_some() || !self.state.authenticated;
        match has_deadline && !within.is_zero() {
            true => {}
            false => self.wait_for((!never).then(|| idle - silence))?,
        }
        Ok(None)
    }

    /// Whether a request, or the password, has taken longer than it may.
    fn is_late(&self) -> bool {
        let within = self.control.settings.request_timeout.time();
        if within.is_zero() {
            return false;
        }
        let more = |bytes: usize| Duration::from_millis(1000 * bytes as u64 / REQUEST_BYTES_PER_S);
        let request = self
            .begun
            .is_some_and(|begun| begun.elapsed() > within + more(self.requests.pending_bytes()));
        request || !self.state.authenticated && self.client.connected.elapsed() > within
    }

    /// Sets the read timeout; `None` is for ever.
    fn wait_for(&mut self, patience: Option<Duration>) -> io::Result<()> {
        if self.patience != patience {
            self.client.stream.set_read_timeout(patience)?;
            self.patience = patience;
        }
        Ok(())
    }

    /// The stream ended: if the server ended it, says so.
    fn on_eof(&mut self) -> io::Result<()> {
        if self.control.is_stopping() {
            self.say(&CommandError::err("server is shutting down"));
            self.send(false)?;
        }
        Ok(())
    }

    /// Sends `reason`, and closes.
    fn close_with_error(&mut self, reason: &CommandError) -> io::Result<()> {
        self.say(reason);
        self.send(false)?;
        self.drain_and_close()
    }

    /// Closes so that the peer can read the last reply: to close with bytes unread would reset the connection, and lose
    /// that reply.
    fn drain_and_close(&self) -> io::Result<()> {
        if self.monitor_thread.is_some() {
            return Ok(());
        }
        let mut stream = &self.client.stream;
        stream.shutdown(Shutdown::Write)?;
        let deadline = Instant::now() + Duration::from_millis(LINGER_MS_MAX);
        // Not on the stack: each client's stack would keep the touched page.
        let mut scratch = vec![0; 4096];
        let mut dropped = 0;
        while dropped < LINGER_BYTES_MAX {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut scratch) {
                Ok(0) => break,
                Ok(count) => dropped += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Begins or ends `MONITOR`, as the commands of the burst said, once their replies are sent.
    fn update_monitor(&mut self) -> io::Result<()> {
        let wanted = self.state.monitor.as_ref().map(Arc::as_ptr);
        if wanted == self.output.monitor.as_ref().map(Arc::as_ptr) {
            return Ok(());
        }
        if let Some(old) = self.output.monitor.take() {
            old.detach();
            let _ = self.monitor_thread.take().map(JoinHandle::join);
        }
        match &self.state.monitor {
            Some(monitor) => self.watch(Arc::clone(monitor)),
            None => Ok(()),
        }
    }

    /// Starts the thread that sends this client the monitored commands, and from here on its replies.
    fn watch(&mut self, monitor: Arc<MonitorQueue>) -> io::Result<()> {
        let sent = Arc::clone(&monitor);
        let send = move || {
            sent.send();
            drop(sent);
            memory::thread_exit();
        };
        let name = format!("monitor-{}", self.client.id);
        let thread = thread::Builder::new().name(name).stack_size(CLIENT_STACK_BYTES);
        self.monitor_thread = Some(thread.spawn(send)?);
        self.output.monitor = Some(monitor);
        Ok(())
    }
}

/// Reads that poll a few times, and yield to other threads in between, before they block.
///
/// To be waked costs a thread more than to poll: where clients send again soon, be it one that waits for its reply or
/// fifty that take turns, most polls find bytes. After a poll in vain the next read polls less often, down to once; an
/// idle client costs nothing.
///
/// What it gains: `redis-benchmark -t get`, each server in a session of its own, ratio to redis-server 7.0.15 before
/// and after: 50 clients 0.81 and 0.95 to 1.1, one client 1.05 and 2.0; 99 in 100 replies took 1.5 times as long as
/// Redis's, before and after. In one session with the load they took five times as long: Linux then divides the
/// processors among fifty threads and one.
struct SpinReader<'a> {
    client: &'a Client,
    /// How often this read may poll.
    polls: &'a mut u32,
}

impl Read for SpinReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for _ in 0..*self.polls {
            match self.client.read_at_once(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
                read => {
                    *self.polls = (*self.polls + POLLS_MORE).min(POLLS_MAX);
                    return read;
                }
            }
        }
        if *self.polls > 1 {
            *self.polls -= 1;
        }
        (&self.client.stream).read(buffer)
    }
}

impl<E: Engine> Drop for Connection<'_, E> {
    fn drop(&mut self) {
        // After a panic, too: the monitor queue keeps the connection open.
        if let Some(monitor) = &self.state.monitor {
            self.control.monitors.remove(monitor);
        }
        if let Some(monitor) = &self.output.monitor {
            monitor.close();
        }
        if let Some(monitor_thread) = self.monitor_thread.take() {
            // It sends the rest, then closes.
            let _ = monitor_thread.join();
        }
    }
}
