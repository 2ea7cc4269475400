//! A connection's replies on their way out: committed together, sent together.
//!
//! A reply that reports or shows a write which could not be committed is replaced by the reason; the replies before it
//! are sent.
//!
//! Where another thread commits what the replies show, they wait in the [`SendQueue`] and that thread sends them: it is
//! awake, and the connection's own thread goes back to reading. One burst of replies may be in flight so; the next
//! waits until it was sent, so replies keep their order.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::command::CommandError;
use crate::engine::Engine;
use crate::journal::{CommitCallback, CommitPoint, WriteRefused};
use crate::limits::{
    CLIENT_SPARE_BYTES_MAX, CLIENT_STACK_BYTES, DELIVERED_BYTES_MAX, MONITOR_QUEUE_BYTES_MAX,
};
use crate::protocol::reply::Replies;
use crate::server::{Client, MonitorQueue, is_timeout};
use crate::util::buffer::Buffer;
use crate::util::memory;
use crate::util::sync::{abort_on_panic, lock, wait};

/// Replies on their way out.
#[derive(Debug)]
pub struct Output<'a> {
    client: &'a Client,
    queue: Arc<SendQueue>,
    callback: Arc<dyn CommitCallback>,
    /// The replies not sent yet.
    pub batch: Batch,
    /// The client monitors commands: its replies go through the same queue.
    pub monitor: Option<Arc<MonitorQueue>>,
}

/// The replies of a burst.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order.
    pub replies: Replies,
    /// Where each reply that shows something uncommitted begins and ends, and the point it waits for.
    uncommitted: Vec<(usize, usize, CommitPoint)>,
}

impl Batch {
    /// The reply from `start` on waits for `point`. It may be empty: the write is committed without a reply.
    pub fn must_commit(&mut self, start: usize, point: CommitPoint) {
        self.uncommitted.push((start, self.replies.position(), point));
    }

    /// Replaces each reply that `outcome` refuses by the reason.
    fn refuse_uncommitted(
        &mut self,
        mut outcome: impl FnMut(CommitPoint) -> Result<(), WriteRefused>,
    ) -> io::Result<()> {
        let mut refusal = None;
        self.uncommitted.retain(|(_, _, point)| {
            outcome(*point).map_err(|refused| refusal = Some(refused)).is_err()
        });
        if let Some(refused) = refusal {
            self.replace_uncommitted(&CommandError::from(refused).to_string())?;
        }
        self.uncommitted.clear();
        Ok(())
    }

    /// Replaces every reply that is still listed as uncommitted by `reason`.
    fn replace_uncommitted(&mut self, reason: &str) -> io::Result<()> {
        let old = std::mem::take(&mut self.replies);
        let mut sent = 0;
        for (start, end, _) in &self.uncommitted {
            self.replies.copy(&old, sent..*start);
            if start < end {
                self.replies.error(reason);
            }
            sent = *end;
        }
        self.replies.copy(&old, sent..old.position());
        self.replies.recover(0).map_err(|_| io::ErrorKind::OutOfMemory.into())
    }

    /// Everything was sent: keeps the buffers, if they are small.
    fn clear(&mut self) {
        self.replies.clear(CLIENT_SPARE_BYTES_MAX);
        self.uncommitted.clear();
        self.uncommitted
            .shrink_to(CLIENT_SPARE_BYTES_MAX / size_of::<(usize, usize, CommitPoint)>());
    }
}

impl<'a> Output<'a> {
    /// To `client`, which may take nothing for so long; zero is for ever.
    pub fn new(client: &'a Arc<Client>, patience: Duration) -> Self {
        let queue = Arc::new(SendQueue {
            client: Arc::clone(client),
            patience,
            in_flight: Mutex::default(),
            sent: Condvar::new(),
        });
        let callback: Arc<dyn CommitCallback> = Arc::clone(&queue) as _;
        Self { client, queue, callback, batch: Batch::default(), monitor: None }
    }

    /// Commits what the replies show, and sends them; if `may_queue`, leaves that to the thread that commits the same,
    /// or, if `may_gather`, to one that will. Returns the number of bytes.
    pub fn send<E: Engine>(
        &mut self,
        engine: &E,
        session: &mut E::Session,
        may_queue: bool,
        may_gather: bool,
    ) -> io::Result<u64> {
        let bytes = self.batch.replies.len();
        let highest = self.batch.uncommitted.iter().map(|(_, _, point)| *point);
        let highest = highest.max_by_key(|point| point.sequence);
        let is_small = bytes <= DELIVERED_BYTES_MAX && !self.batch.replies.shares();
        if let Some(point) = highest
            && may_queue
            && is_small
            && self.monitor.is_none()
            && !self.is_in_flight()
        {
            self.client.queued_bytes.store(bytes, Ordering::Relaxed);
            self.queue.put(&mut self.batch);
            if engine.on_commit(session, point, &self.callback, may_gather) {
                return Ok(bytes as u64);
            }
            self.queue.take(&mut self.batch);
        }
        // Commit even if the replies before cannot be sent: other clients read what was written.
        let committed = self.batch.refuse_uncommitted(|point| engine.commit(session, point));
        self.finish()?;
        committed?;
        if self.batch.replies.is_empty() {
            return Ok(0);
        }
        let bytes = self.batch.replies.len();
        self.client.queued_bytes.store(bytes, Ordering::Relaxed);
        match &self.monitor {
            None => self.batch.replies.write_to(self.client.writer(self.queue.patience))?,
            Some(monitor) => {
                if bytes > MONITOR_QUEUE_BYTES_MAX {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                let mut copy = Buffer::with_capacity(bytes)?;
                self.batch.replies.write_to(&mut copy)?;
                // A closed queue has closed the connection.
                monitor.push(&copy);
            }
        }
        self.client.queued_bytes.store(0, Ordering::Relaxed);
        self.batch.clear();
        Ok(bytes as u64)
    }

    /// Whether another thread still has the last replies to send.
    pub fn is_in_flight(&self) -> bool {
        lock(&self.queue.in_flight).state != State::Empty
    }

    /// Waits until the replies in flight were sent.
    pub fn finish(&mut self) -> io::Result<()> {
        self.queue.wait()
    }

    /// The client is idle: releases the buffers.
    pub fn release_idle(&mut self) {
        self.queue.release_idle();
        self.batch = Batch::default();
    }
}

/// A burst of replies that the thread which commits it will send.
#[derive(Debug)]
struct SendQueue {
    client: Arc<Client>,
    patience: Duration,
    in_flight: Mutex<InFlight>,
    /// The replies in flight were sent, or could not be.
    sent: Condvar,
}

#[derive(Debug, Default)]
struct InFlight {
    state: State,
    /// The replies in flight; once they were sent, their buffers.
    batch: Batch,
    /// Why they could not be sent.
    error: Option<io::Error>,
    /// The connection's thread waits until they are: else a notification is a system call for nothing.
    is_awaited: bool,
}

/// What becomes of the replies in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// There are none.
    #[default]
    Empty,
    /// They are not committed yet.
    Waiting,
    /// A thread is sending them.
    Sending,
}

impl SendQueue {
    /// Puts `batch` in flight, and gives the buffers of an older one for it. Nothing else is in flight.
    fn put(&self, batch: &mut Batch) {
        let mut in_flight = lock(&self.in_flight);
        std::mem::swap(&mut in_flight.batch, batch);
        in_flight.state = State::Waiting;
    }

    /// Takes back what was just put in flight and is known to no other thread.
    fn take(&self, batch: &mut Batch) {
        let mut in_flight = lock(&self.in_flight);
        std::mem::swap(&mut in_flight.batch, batch);
        in_flight.state = State::Empty;
    }

    /// Waits until nothing is in flight; an error if it could not be sent.
    fn wait(&self) -> io::Result<()> {
        let mut in_flight = lock(&self.in_flight);
        while in_flight.state != State::Empty {
            in_flight.is_awaited = true;
            in_flight = wait(&self.sent, in_flight);
        }
        in_flight.error.take().map_or(Ok(()), Err)
    }

    /// Releases the spare buffers.
    fn release_idle(&self) {
        let mut in_flight = lock(&self.in_flight);
        if in_flight.state == State::Empty {
            in_flight.batch = Batch::default();
        }
    }

    /// The replies in flight were sent, or never will be.
    fn done(&self, mut batch: Batch, result: io::Result<()>) {
        batch.clear();
        self.client.queued_bytes.store(0, Ordering::Relaxed);
        if result.is_err() {
            // The connection's thread may be blocked in a read.
            self.client.kill();
        }
        let mut in_flight = lock(&self.in_flight);
        let is_awaited = in_flight.is_awaited;
        *in_flight =
            InFlight { state: State::Empty, batch, error: result.err(), is_awaited: false };
        if is_awaited {
            self.sent.notify_one();
        }
    }

    /// Sends what the client did not take at once, on a thread that may block.
    fn send_rest(self: Arc<Self>, batch: Batch, sent: usize) {
        // Shared until the thread runs: one that cannot be started drops what it owns.
        let batch = Arc::new(Mutex::new(Some(batch)));
        let (queue, taken) = (Arc::clone(&self), Arc::clone(&batch));
        let send = move || {
            let batch = lock(&taken).take();
            if let Some(batch) = batch {
                let rest = Rest { stream: queue.client.writer(queue.patience), skip: sent };
                let result = batch.replies.write_to(rest);
                queue.done(batch, result);
            }
            drop((queue, taken));
            memory::thread_exit();
        };
        let name = format!("send-{}", self.client.id);
        let thread = thread::Builder::new().name(name).stack_size(CLIENT_STACK_BYTES);
        if let Err(error) = thread.spawn(|| abort_on_panic(send))
            && let Some(batch) = lock(&batch).take()
        {
            self.done(batch, Err(error));
        }
    }
}

impl CommitCallback for SendQueue {
    fn completed(self: Arc<Self>, outcome: &dyn Fn(CommitPoint) -> Result<(), WriteRefused>) {
        let mut batch = {
            let mut in_flight = lock(&self.in_flight);
            in_flight.state = State::Sending;
            std::mem::take(&mut in_flight.batch)
        };
        let mut writer = NonBlockingWriter { client: &self.client, sent: 0 };
        let result =
            batch.refuse_uncommitted(outcome).and_then(|()| batch.replies.write_to(&mut writer));
        let sent = writer.sent;
        match result {
            Err(error) if is_timeout(&error) => self.send_rest(batch, sent),
            result => self.done(batch, result),
        }
    }
}

/// Writes what the client takes without blocking; then fails, with `WouldBlock`.
struct NonBlockingWriter<'a> {
    client: &'a Client,
    /// Bytes taken so far.
    sent: usize,
}

impl Write for NonBlockingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.client.write_at_once(bytes)?;
        self.sent += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all but the first `skip` bytes, which were written before.
struct Rest<W> {
    stream: W,
    /// How many bytes are still to be skipped.
    skip: usize,
}

impl<W: Write> Write for Rest<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        match skipped {
            0 => self.stream.write(bytes),
            skipped => Ok(skipped),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;
    use crate::server::Clients;

    fn queue() -> (Arc<SendQueue>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, address) = listener.accept().unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(10))).unwrap();
        let client = Clients::new(1, Instant::now()).admit(stream, address).unwrap();
        let (in_flight, sent) = (Mutex::default(), Condvar::new());
        (Arc::new(SendQueue { client, patience: Duration::from_secs(60), in_flight, sent }), peer)
    }

    fn batch(values: usize) -> Batch {
        let mut batch = Batch::default();
        (0..values).for_each(|_| batch.replies.bulk(&[b'v'; 1000]));
        batch
    }

    #[test]
    fn another_thread_sends_what_a_client_does_not_take_at_once() {
        const VALUES: usize = 20_000;
        let (queue, mut peer) = queue();
        queue.put(&mut batch(VALUES));
        Arc::clone(&queue).completed(&|_| Ok(()));
        assert_eq!(
            lock(&queue.in_flight).state,
            State::Sending,
            "the client cannot take so much at once"
        );
        let mut expected = Vec::new();
        batch(VALUES).replies.write_to(&mut expected).unwrap();
        let mut received = vec![0; expected.len()];
        peer.read_exact(&mut received).unwrap();
        assert!(received == expected);
        queue.wait().unwrap();
        // And the next, which it takes at once.
        queue.put(&mut batch(1));
        Arc::clone(&queue).completed(&|_| Ok(()));
        queue.wait().unwrap();
        peer.read_exact(&mut received[..1009]).unwrap();
        assert!(received[..1009] == expected[..1009]);
    }

    #[test]
    fn replies_to_a_client_that_disconnects_are_dropped() {
        let (queue, peer) = queue();
        queue.put(&mut batch(20_000));
        Arc::clone(&queue).completed(&|_| Ok(()));
        drop(peer);
        assert!(queue.wait().is_err());
        assert!(queue.wait().is_ok(), "the error is returned once");
        assert!(queue.client.is_killed());
    }
}
