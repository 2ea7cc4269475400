//! One client's thread: bytes in, replies out.
//!
//! One burst, one read, one commit, one write: every complete request in the buffer is executed, the
//! highest mark is waited for once, all replies leave together. A reply whose write, or whose shown
//! write, could not be committed is replaced by the reason; those before it still leave.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::command::{self, Client, CommandError, Context};
use crate::config::Config;
use crate::engine::{Engine, Session};
use crate::limits::{CLIENT_SPARE_BYTES_MAX, LINGER_BYTES_MAX, LINGER_MS_MAX, REPLY_BYTES_MAX};
use crate::persistence::Mark;
use crate::reply::Replies;
use crate::request::{ProtocolError, RequestReader};
use crate::seldom::Seldom;

/// A connected client.
#[derive(Debug)]
pub struct Connection<'a> {
    stream: &'a TcpStream,
    peer: SocketAddr,
    config: &'a Config,
    stopping: &'a AtomicBool,
    session: Session<'a>,
    client: Client,
    requests: RequestReader,
    replies: Replies,
    /// Of the replies not sent yet, those that show something uncommitted: where each begins and
    /// ends, and its mark.
    uncommitted: Vec<(usize, usize, Mark)>,
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

impl<'a> Connection<'a> {
    /// The connection of client number `id`. Once `stopping` is set and the stream is shut for
    /// reading, it answers what was received and ends.
    pub fn new(
        stream: &'a TcpStream,
        peer: SocketAddr,
        id: u64,
        engine: &'a Engine,
        config: &'a Config,
        stopping: &'a AtomicBool,
    ) -> Self {
        Self {
            stream,
            peer,
            config,
            stopping,
            session: Session::new(engine),
            client: Client { id, name: Vec::new(), quit: false },
            requests: RequestReader::default(),
            replies: Replies::default(),
            uncommitted: Vec::new(),
        }
    }

    /// Serves the client until it leaves, breaks the protocol, or the server stops.
    pub fn serve(mut self) -> io::Result<()> {
        loop {
            let end = self.burst();
            if let Burst::Broken(error) = &end {
                self.refuse(error);
            }
            self.send()?;
            match end {
                Burst::Full => {}
                Burst::Quit | Burst::Broken(_) => return self.linger(),
                Burst::Starved => {
                    if self.receive()? == 0 {
                        return self.farewell();
                    }
                }
            }
        }
    }

    /// Executes the complete requests in the buffer.
    fn burst(&mut self) -> Burst {
        loop {
            let request = match self.requests.next() {
                Ok(Some(request)) => request,
                Ok(None) => return Burst::Starved,
                Err(error) => return Burst::Broken(error),
            };
            let start = self.replies.position();
            let mut context = Context {
                session: &mut self.session,
                replies: &mut self.replies,
                client: &mut self.client,
                config: self.config,
            };
            command::run(&request, &mut context);
            let mark = self.session.take_mark();
            if !self.session.is_committed(mark) {
                self.uncommitted.push((start, self.replies.position(), mark));
            }
            if self.client.quit {
                return Burst::Quit;
            }
            if self.replies.len() > REPLY_BYTES_MAX || self.session.is_commit_due() {
                return Burst::Full;
            }
        }
    }

    /// Answers bytes that are no request.
    fn refuse(&mut self, error: &ProtocolError) {
        static LOGGED: Seldom = Seldom::new(Duration::from_secs(60));
        let foreign = matches!(error, ProtocolError::Http | ProtocolError::Tls);
        if foreign && LOGGED.now() {
            log::warn!("client {} at {}: {error}: closed", self.client.id, self.peer);
        }
        if *error != ProtocolError::Http {
            self.replies.error(&format!("ERR Protocol error: {error}"));
        }
    }

    /// Commits what the replies show, then sends them.
    fn send(&mut self) -> io::Result<()> {
        let mut refusal = None;
        self.uncommitted.retain(|(_, _, mark)| {
            let committed = self.session.commit(*mark);
            committed.map_err(|refused| refusal = Some(refused)).is_err()
        });
        if let Some(refused) = refusal {
            self.take_back(&CommandError::from(refused).to_string());
        }
        self.uncommitted.clear();
        self.uncommitted.shrink_to(CLIENT_SPARE_BYTES_MAX / size_of::<(usize, usize, Mark)>());
        self.replies.write_to(self.stream)?;
        self.replies.clear(CLIENT_SPARE_BYTES_MAX);
        Ok(())
    }

    /// Puts `reason` in the place of every reply that is still listed as uncommitted.
    fn take_back(&mut self, reason: &str) {
        let old = std::mem::take(&mut self.replies);
        let mut sent = 0;
        for (start, end, _) in &self.uncommitted {
            self.replies.copy(&old, sent..*start);
            self.replies.error(reason);
            sent = *end;
        }
        self.replies.copy(&old, sent..old.position());
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match self.requests.fill(self.stream) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// The stream ended. If it was us who ended it, the client is told.
    fn farewell(&mut self) -> io::Result<()> {
        if self.stopping.load(Ordering::Acquire) {
            self.replies.error("ERR server is shutting down");
            self.send()?;
        }
        Ok(())
    }

    /// Closes so that the peer can read the last reply: closing with bytes unread would reset the
    /// connection and throw that reply away.
    fn linger(self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let deadline = Instant::now() + Duration::from_millis(LINGER_MS_MAX);
        let mut scratch = [0; 4096];
        let mut thrown_away = 0;
        let mut stream = self.stream;
        while thrown_away < LINGER_BYTES_MAX {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut scratch)? {
                0 => break,
                count => thrown_away += count,
            }
        }
        Ok(())
    }
}
