//! One client's thread: bytes in, replies out.
//!
//! One burst, one read, one commit, one write: every complete request in the buffer is executed, the
//! highest mark is waited for once, all replies leave together ([`Output`]).
//!
//! A connection looks after its own deadlines: a read wakes up after [`TICK_MS`] at the latest. If nothing
//! has begun then, it gives its memory back and sleeps until there are bytes, or until its client has been
//! idle for too long; otherwise it looks at the clock each time. So does a write ([`Client::writer`]).

use std::io::{self, Read};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::command::{self, CommandError, Context, Conversation};
use crate::engine::local::{Engine, Session};
use crate::journal::Fsync;
use crate::limits::{
    CLIENT_STACK_BYTES, IDLE_BUFFER_BYTES, LINGER_BYTES_MAX, LINGER_MS_MAX, POLLS_MAX, POLLS_MORE,
    REPLY_BYTES_MAX, REQUEST_BYTES_PER_S, STRANGER_BYTES_MAX, TICK_MS,
};
use crate::net::send_queue::Output;
use crate::protocol::request::{Limits, ProtocolError, RequestReader};
use crate::protocol::telnet::Telnet;
use crate::server::{Client, Control, Done, Event, Feed, is_timeout};
use crate::util::memory::{self, Unauthenticated};
use crate::util::rate_limit::Seldom;

const TICK: Duration = Duration::from_millis(TICK_MS);

/// A connected client.
#[derive(Debug)]
pub struct Connection<'a> {
    control: &'a Control,
    client: &'a Arc<Client>,
    session: Session<'a>,
    conversation: Conversation,
    requests: RequestReader,
    telnet: Telnet,
    output: Output<'a>,
    limits: Limits,
    done: Done,
    /// When the request began that is under way, if one is.
    begun: Option<Instant>,
    /// How often a read may look for bytes before it waits for them.
    polls: u32,
    /// How long a read waits.
    patience: Option<Duration>,
    /// The thread that sends what this client watches.
    watcher: Option<JoinHandle<()>>,
    /// What it holds as long as it has not given the password.
    unauthenticated: Unauthenticated,
}

/// How large a request may be at this point of a conversation.
fn limits(conversation: &Conversation, control: &Control) -> Limits {
    match conversation.authenticated {
        true => Limits::new(control.config.max_value, control.config.max_request),
        false => Limits::STRANGER,
    }
}

/// How a burst ended.
enum Burst {
    /// More bytes are needed.
    Starved,
    /// The replies, or what is kept for taking writes back, have grown enough to be settled first.
    Full,
    Quit,
    Broken(ProtocolError),
}

/// How a read ended.
enum Received {
    Bytes,
    /// The peer sends no more, or somebody closed the connection.
    End,
    /// The client was idle for too long.
    Idle,
    /// A request takes too long, or a stranger has not given a password.
    TooSlow,
    NoMemory,
}

impl<'a> Connection<'a> {
    /// The connection of `client`.
    pub fn new(client: &'a Arc<Client>, engine: &'a Engine, control: &'a Control) -> Self {
        let config = &control.config;
        let conversation = Conversation::new(config.password().is_none());
        Self {
            control,
            client,
            session: Session::new(engine).with_value_bytes_max(config.max_value),
            limits: limits(&conversation, control),
            conversation,
            requests: RequestReader::default(),
            telnet: Telnet::default(),
            output: Output::new(client, Duration::from_secs(config.write_timeout.into())),
            done: Done::default(),
            begun: None,
            polls: 16,
            patience: None,
            watcher: None,
            unauthenticated: Unauthenticated::default(),
        }
    }

    /// Serves the client until it leaves, breaks the protocol, takes too long, or the server stops.
    pub fn serve(mut self) -> io::Result<()> {
        let served = self.converse().and_then(|()| self.output.finish());
        self.add_up();
        if let Err(error) = &served
            && is_timeout(error)
        {
            static LOGGED: Seldom = Seldom::new(Duration::from_secs(60));
            self.control.statistics.happened(Event::NotReading);
            if LOGGED.now() {
                let (id, peer) = (self.client.id, self.client.peer);
                log::warn!("client {id} at {peer} does not read its replies: closed");
            }
        }
        served
    }

    fn converse(&mut self) -> io::Result<()> {
        self.client.stream.set_write_timeout(Some(TICK))?;
        self.wait_for(Some(TICK))?;
        loop {
            let end = self.burst()?;
            if let Burst::Broken(error) = &end {
                self.refuse(error);
            }
            // Nobody else may send what comes before something that is this thread's to do.
            let is_ordinary = matches!(end, Burst::Starved) && self.conversation.feed.is_none();
            self.send(is_ordinary)?;
            self.mind_the_feed()?;
            match end {
                Burst::Full => {}
                Burst::Quit | Burst::Broken(_) => return self.linger(),
                Burst::Starved => match self.receive()? {
                    Received::Bytes => {}
                    Received::End => return self.farewell(),
                    Received::Idle => {
                        self.control.statistics.happened(Event::TimedOut);
                        return Ok(());
                    }
                    Received::TooSlow => {
                        self.control.statistics.happened(Event::TimedOut);
                        return self.dismiss("ERR Protocol error: it took too long");
                    }
                    Received::NoMemory => return self.dismiss(&CommandError::NoMemory.to_string()),
                },
            }
        }
    }

    /// Executes the complete requests in the buffer.
    fn burst(&mut self) -> io::Result<Burst> {
        let Self { control, client, .. } = *self;
        let mut before = Instant::now();
        client.seen(before);
        loop {
            let request = self.requests.next(&self.limits, &mut self.telnet);
            if let Some(answers) = self.telnet.take_answers() {
                self.output.batch.replies.raw(&answers);
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
                && let Some(kind) = command::held_up_by(&asked, &self.conversation)
            {
                self.done.sent += self.output.send(&mut self.session, false)?;
                control.pause.wait(kind, || !control.is_stopping() && !client.is_cut_off());
                if client.is_cut_off() {
                    return Err(Errno::CONNABORTED.into());
                }
                before = Instant::now();
            }
            let start = self.output.batch.replies.position();
            let mut context = Context {
                session: &mut self.session,
                replies: &mut self.output.batch.replies,
                conversation: &mut self.conversation,
                client,
                control,
                done: &mut self.done,
            };
            let outcome = command::run(asked, &request, &mut context);
            let now = Instant::now();
            let took = now - before;
            before = now;
            command::record(&outcome, &request, took, client, control, &mut self.done);
            if self.conversation.is_silent() {
                self.output.batch.replies.truncate(start);
            }
            let mark = self.session.take_mark();
            if !self.session.is_committed(mark) {
                self.output.batch.must_commit(start, mark);
            }
            if self.limits.is_strangers == self.conversation.authenticated {
                self.limits = limits(&self.conversation, control);
                self.unauthenticated.hold(0);
            }
            if self.conversation.is_over {
                return Ok(Burst::Quit);
            }
            let most = match self.limits.is_strangers {
                true => STRANGER_BYTES_MAX,
                false => REPLY_BYTES_MAX,
            };
            if self.output.batch.replies.len() > most || self.session.is_commit_due() {
                return Ok(Burst::Full);
            }
        }
    }

    /// Says something that is no reply, to who did not ask for silence.
    fn say(&mut self, error: &str) {
        if !self.conversation.is_mute() {
            self.output.batch.replies.error(error);
        }
    }

    /// Answers bytes that are no request.
    fn refuse(&mut self, error: &ProtocolError) {
        static LOGGED: Seldom = Seldom::new(Duration::from_secs(60));
        self.control.statistics.happened(Event::Malformed);
        let foreign = matches!(error, ProtocolError::Http | ProtocolError::Tls);
        if foreign && LOGGED.now() {
            log::warn!("client {} at {}: {error}: closed", self.client.id, self.client.peer);
        }
        match error {
            ProtocolError::Http => {}
            ProtocolError::NoMemory => self.say(&CommandError::NoMemory.to_string()),
            _ => self.say(&format!("ERR Protocol error: {error}")),
        }
    }

    /// Adds up what was done, and sends what is ready: who has the reply finds it counted. Another thread may do
    /// it, if `may_leave`.
    fn send(&mut self, may_leave: bool) -> io::Result<()> {
        self.add_up();
        self.done.sent += self.output.send(&mut self.session, may_leave)?;
        Ok(())
    }

    fn add_up(&mut self) {
        let lookups = self.session.take_lookups();
        self.done.hits += lookups.hits;
        self.done.misses += lookups.misses;
        self.client.did(&self.done);
        self.control.statistics.add(self.client.id, &mut self.done);
    }

    /// Waits for more bytes.
    fn receive(&mut self) -> io::Result<Received> {
        let pending = self.requests.pending_bytes();
        match pending {
            // A blank line, a comment: no request has begun, whatever came in pieces.
            0 => self.begun = None,
            _ => drop(self.begun.get_or_insert_with(Instant::now)),
        }
        self.client.pending_bytes.store(pending, Ordering::Relaxed);
        let kept = self.conversation.transaction.length().map_or(0, |length| length + 1);
        self.client.kept.store(kept, Ordering::Relaxed);
        let buffers = self.requests.capacity() + self.output.batch.replies.capacity();
        self.client.buffer_bytes.store(buffers, Ordering::Relaxed);
        memory::flush_thread_count();
        let mut silence = Duration::ZERO;
        // Whose replies wait for a disk sends nothing soon.
        let is_disk_awaited = self.control.config.fsync == Fsync::Always && self.output.is_left();
        let mut once = 1;
        loop {
            let polls = if is_disk_awaited { &mut once } else { &mut self.polls };
            let stream = Eager { client: self.client, polls };
            match self.requests.fill(stream) {
                Ok(0) => return Ok(Received::End),
                Ok(count) => {
                    self.done.received += count as u64;
                    self.wait_for(Some(TICK))?;
                    if self.limits.is_strangers && !self.hold_unauthenticated() {
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
                    if let Some(end) = self.look_at_the_clock(silence)? {
                        return Ok(end);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Counts what the client holds before it has given the password, beside what every client has; `false` if all such
    /// clients together hold too much.
    fn hold_unauthenticated(&mut self) -> bool {
        let buffers = self.requests.capacity() + self.output.batch.replies.capacity();
        self.unauthenticated.hold(buffers.saturating_sub(IDLE_BUFFER_BYTES))
    }

    /// Nothing came for a while: should that end the connection?
    fn look_at_the_clock(&mut self, silence: Duration) -> io::Result<Option<Received>> {
        let settings = &self.control.settings;
        let within = settings.request_timeout.time();
        if self.is_late() || self.begun.is_some() && !within.is_zero() && silence >= within {
            return Ok(Some(Received::TooSlow));
        }
        let idle = settings.timeout.time();
        let never = idle.is_zero() || self.output.feed.is_some();
        if !never && silence >= idle {
            return Ok(Some(Received::Idle));
        }
        self.requests.rest();
        self.output.rest();
        if self.limits.is_strangers {
            self.hold_unauthenticated();
        }
        self.client.buffer_bytes.store(self.requests.capacity(), Ordering::Relaxed);
        memory::flush_thread_count();
        let has_deadline = self.begun.is_some() || !self.conversation.authenticated;
        match has_deadline && !within.is_zero() {
            true => {}
            false => self.wait_for((!never).then(|| idle - silence))?,
        }
        Ok(None)
    }

    /// Whether a request, or a stranger's password, has taken longer than it may.
    fn is_late(&self) -> bool {
        let within = self.control.settings.request_timeout.time();
        if within.is_zero() {
            return false;
        }
        let more = |bytes: usize| Duration::from_millis(1000 * bytes as u64 / REQUEST_BYTES_PER_S);
        let request = self
            .begun
            .is_some_and(|begun| begun.elapsed() > within + more(self.requests.pending_bytes()));
        request || !self.conversation.authenticated && self.client.connected.elapsed() > within
    }

    /// From here on a read waits for so long; `None` for ever.
    fn wait_for(&mut self, patience: Option<Duration>) -> io::Result<()> {
        if self.patience != patience {
            self.client.stream.set_read_timeout(patience)?;
            self.patience = patience;
        }
        Ok(())
    }

    /// The stream ended. If it was us who ended it, the client is told.
    fn farewell(&mut self) -> io::Result<()> {
        if self.control.is_stopping() {
            self.say("ERR server is shutting down");
            self.send(false)?;
        }
        Ok(())
    }

    /// Tells the client why its connection ends.
    fn dismiss(&mut self, reason: &str) -> io::Result<()> {
        self.say(reason);
        self.send(false)?;
        self.linger()
    }

    /// Closes so that the peer can read the last reply: closing with bytes unread would reset the
    /// connection and throw that reply away.
    fn linger(&self) -> io::Result<()> {
        if self.watcher.is_some() {
            return Ok(());
        }
        let mut stream = &self.client.stream;
        stream.shutdown(Shutdown::Write)?;
        let deadline = Instant::now() + Duration::from_millis(LINGER_MS_MAX);
        // Not on the stack, of which each client has one.
        let mut scratch = vec![0; 4096];
        let mut thrown_away = 0;
        while thrown_away < LINGER_BYTES_MAX {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut scratch) {
                Ok(0) => break,
                Ok(count) => thrown_away += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// What the client said about what it wants to watch takes effect once its replies are on their way.
    fn mind_the_feed(&mut self) -> io::Result<()> {
        let wanted = self.conversation.feed.as_ref().map(Arc::as_ptr);
        if wanted == self.output.feed.as_ref().map(Arc::as_ptr) {
            return Ok(());
        }
        if let Some(old) = self.output.feed.take() {
            old.part();
            let _ = self.watcher.take().map(JoinHandle::join);
        }
        match &self.conversation.feed {
            Some(feed) => self.watch(Arc::clone(feed)),
            None => Ok(()),
        }
    }

    /// From here on a thread of its own sends this client what it watches, and its replies.
    fn watch(&mut self, feed: Arc<Feed>) -> io::Result<()> {
        let sent = Arc::clone(&feed);
        let send = move || {
            sent.send();
            drop(sent);
            memory::thread_exit();
        };
        let name = format!("monitor-{}", self.client.id);
        let thread = thread::Builder::new().name(name).stack_size(CLIENT_STACK_BYTES);
        self.watcher = Some(thread.spawn(send)?);
        self.output.feed = Some(feed);
        Ok(())
    }
}

/// Reads that look for bytes some times, and let other threads run in between, before they wait.
///
/// To be waked costs a thread more than to look: where clients come back soon, be it one that waits for its reply
/// or fifty that take turns, most reads then find what they look for. One that looked in vain looks less often the
/// next time, down to once; an idle client costs nothing.
///
/// What it gains: `redis-benchmark -t get`, each server in a session of its own, ratio to redis-server 7.0.15 before
/// and after: 50 clients 0.81 and 0.95 to 1.1, one client 1.05 and 2.0; 99 in 100 replies took 1.5 times as long as
/// Redis's, before and after. In one session with the load they took five times as long: Linux then divides the
/// processors among fifty threads and one.
struct Eager<'a> {
    client: &'a Client,
    /// How often this one may look.
    polls: &'a mut u32,
}

impl Read for Eager<'_> {
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
        *self.polls = (*self.polls - 1).max(1);
        (&self.client.stream).read(buffer)
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        // By a panic, too: what feeds a client holds on to its connection.
        if let Some(feed) = &self.conversation.feed {
            self.control.monitors.remove(feed);
        }
        if let Some(feed) = &self.output.feed {
            feed.close();
        }
        if let Some(watcher) = self.watcher.take() {
            // It sends what is left, then closes.
            let _ = watcher.join();
        }
    }
}
