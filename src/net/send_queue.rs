//! A connection's replies on their way out: committed together, sent together.
//!
//! A reply whose write, or whose shown write, could not be committed is replaced by the reason; those
//! before it still leave.
//!
//! Where somebody else commits what the replies show, they are left with him (`Outbox`): the connection's own
//! thread goes back to reading, and need not be waked to send what another thread can send while it is awake. One
//! burst of replies can be left so; the next waits until it was sent, and so replies keep their order.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::command::CommandError;
use crate::engine::local::Session;
use crate::journal::{Mark, Waiter, WriteRefused};
use crate::limits::{
    CLIENT_SPARE_BYTES_MAX, CLIENT_STACK_BYTES, DELIVERED_BYTES_MAX, MONITOR_QUEUE_BYTES_MAX,
};
use crate::protocol::reply::Replies;
use crate::server::{Client, Feed, is_timeout};
use crate::util::memory;
use crate::util::sync::{lock, vital, wait};

/// Replies on their way out.
#[derive(Debug)]
pub struct Output<'a> {
    client: &'a Client,
    outbox: Arc<Outbox>,
    waiter: Arc<dyn Waiter>,
    /// Those not sent yet.
    pub batch: Batch,
    /// The client watches every command: its replies go the same way.
    pub feed: Option<Arc<Feed>>,
}

/// The replies of a burst.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order.
    pub replies: Replies,
    /// Of these, those that show something uncommitted: where each begins and ends, and its mark.
    uncommitted: Vec<(usize, usize, Mark)>,
}

impl Batch {
    /// The reply from `start` on shows what `mark` says. It may be empty: then there is something to be
    /// committed, and nobody to be told.
    pub fn must_commit(&mut self, start: usize, mark: Mark) {
        self.uncommitted.push((start, self.replies.position(), mark));
    }

    /// Puts the reason in the place of each reply that `outcome` refuses.
    fn refuse_uncommitted(
        &mut self,
        mut outcome: impl FnMut(Mark) -> Result<(), WriteRefused>,
    ) -> io::Result<()> {
        let mut refusal = None;
        self.uncommitted.retain(|(_, _, mark)| {
            outcome(*mark).map_err(|refused| refusal = Some(refused)).is_err()
        });
        if let Some(refused) = refusal {
            self.take_back(&CommandError::from(refused).to_string())?;
        }
        self.uncommitted.clear();
        Ok(())
    }

    /// Puts `reason` in the place of every reply that is still listed as uncommitted.
    fn take_back(&mut self, reason: &str) -> io::Result<()> {
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

    /// All of it was sent.
    fn clear(&mut self) {
        self.replies.clear(CLIENT_SPARE_BYTES_MAX);
        self.uncommitted.clear();
        self.uncommitted.shrink_to(CLIENT_SPARE_BYTES_MAX / size_of::<(usize, usize, Mark)>());
    }
}

impl<'a> Output<'a> {
    /// To `client`, who may take nothing for so long; zero is for ever.
    pub fn new(client: &'a Arc<Client>, patience: Duration) -> Self {
        let outbox = Arc::new(Outbox {
            client: Arc::clone(client),
            patience,
            left: Mutex::default(),
            sent: Condvar::new(),
        });
        let waiter: Arc<dyn Waiter> = Arc::clone(&outbox) as _;
        Self { client, outbox, waiter, batch: Batch::default(), feed: None }
    }

    /// Commits what the replies show, and sends them; or leaves that to whoever commits the same, if `may_leave`.
    /// Returns how many bytes it is.
    pub fn send(&mut self, session: &mut Session<'_>, may_leave: bool) -> io::Result<u64> {
        let bytes = self.batch.replies.len();
        let highest = self.batch.uncommitted.iter().map(|(_, _, mark)| *mark);
        let highest = highest.max_by_key(|mark| mark.stamp);
        let is_small = bytes <= DELIVERED_BYTES_MAX && !self.batch.replies.shares();
        if let Some(mark) = highest
            && may_leave
            && is_small
            && self.feed.is_none()
            && !self.is_left()
        {
            self.client.queued_bytes.store(bytes, Ordering::Relaxed);
            self.outbox.put(&mut self.batch);
            if session.leave(mark, &self.waiter) {
                return Ok(bytes as u64);
            }
            self.outbox.take(&mut self.batch);
        }
        // First this, whatever becomes of the replies before: others read what was written.
        let committed = self.batch.refuse_uncommitted(|mark| session.commit(mark));
        self.finish()?;
        committed?;
        if self.batch.replies.is_empty() {
            return Ok(0);
        }
        let bytes = self.batch.replies.len();
        self.client.queued_bytes.store(bytes, Ordering::Relaxed);
        match &self.feed {
            None => self.batch.replies.write_to(self.client.writer(self.outbox.patience))?,
            Some(feed) => {
                if bytes > MONITOR_QUEUE_BYTES_MAX {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                let mut copy = Vec::with_capacity(bytes);
                self.batch.replies.write_to(&mut copy)?;
                // If it is closed, its thread has closed the connection.
                feed.push(&copy);
            }
        }
        self.client.queued_bytes.store(0, Ordering::Relaxed);
        self.batch.clear();
        Ok(bytes as u64)
    }

    /// Whether the last replies are still with somebody else.
    pub fn is_left(&self) -> bool {
        lock(&self.outbox.left).stage != Stage::Empty
    }

    /// Waits until what was left was sent.
    pub fn finish(&mut self) -> io::Result<()> {
        self.outbox.wait()
    }

    /// The client is idle: gives back what memory it can.
    pub fn rest(&mut self) {
        self.outbox.rest();
        self.batch = Batch::default();
    }
}

/// Where a connection leaves a burst of replies for somebody else to send.
#[derive(Debug)]
struct Outbox {
    client: Arc<Client>,
    patience: Duration,
    left: Mutex<Left>,
    /// It was sent, or could not be.
    sent: Condvar,
}

#[derive(Debug, Default)]
struct Left {
    stage: Stage,
    /// What was left; once it was sent, its buffers.
    batch: Batch,
    /// Why it could not be sent.
    error: Option<io::Error>,
}

/// How far what was left has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nothing is left.
    #[default]
    Empty,
    /// It is not committed yet.
    Waiting,
    /// Somebody is sending it.
    Leaving,
}

impl Outbox {
    /// Leaves `batch`, and gives the buffers of an older one for it. Nothing else is left here.
    fn put(&self, batch: &mut Batch) {
        let mut left = lock(&self.left);
        std::mem::swap(&mut left.batch, batch);
        left.stage = Stage::Waiting;
    }

    /// Takes back what was just left: nobody knows of it.
    fn take(&self, batch: &mut Batch) {
        let mut left = lock(&self.left);
        std::mem::swap(&mut left.batch, batch);
        left.stage = Stage::Empty;
    }

    /// Waits until nothing is left; an error if it could not be sent.
    fn wait(&self) -> io::Result<()> {
        let mut left = lock(&self.left);
        while left.stage != Stage::Empty {
            left = wait(&self.sent, left);
        }
        left.error.take().map_or(Ok(()), Err)
    }

    /// Gives back memory.
    fn rest(&self) {
        let mut left = lock(&self.left);
        if left.stage == Stage::Empty {
            left.batch = Batch::default();
        }
    }

    /// What was left has gone, or never will.
    fn done(&self, mut batch: Batch, result: io::Result<()>) {
        batch.clear();
        self.client.queued_bytes.store(0, Ordering::Relaxed);
        if result.is_err() {
            // Its thread may wait for a request.
            self.client.kill();
        }
        let mut left = lock(&self.left);
        *left = Left { stage: Stage::Empty, batch, error: result.err() };
        self.sent.notify_one();
    }

    /// Sends what the client does not take at once, on a thread that can wait for it.
    fn send_rest(self: Arc<Self>, batch: Batch, sent: usize) {
        // Not the thread's own until it runs: one that cannot be started takes with it what it owns.
        let batch = Arc::new(Mutex::new(Some(batch)));
        let (outbox, taken) = (Arc::clone(&self), Arc::clone(&batch));
        let send = move || {
            let batch = lock(&taken).take();
            if let Some(batch) = batch {
                let rest = Rest { stream: outbox.client.writer(outbox.patience), skip: sent };
                let result = batch.replies.write_to(rest);
                outbox.done(batch, result);
            }
            drop((outbox, taken));
            memory::thread_exit();
        };
        let name = format!("send-{}", self.client.id);
        let thread = thread::Builder::new().name(name).stack_size(CLIENT_STACK_BYTES);
        if let Err(error) = thread.spawn(|| vital(send))
            && let Some(batch) = lock(&batch).take()
        {
            self.done(batch, Err(error));
        }
    }
}

impl Waiter for Outbox {
    fn settled(self: Arc<Self>, outcome: &dyn Fn(Mark) -> Result<(), WriteRefused>) {
        let mut batch = {
            let mut left = lock(&self.left);
            left.stage = Stage::Leaving;
            std::mem::take(&mut left.batch)
        };
        let mut hasty = Hasty { client: &self.client, sent: 0 };
        let result =
            batch.refuse_uncommitted(outcome).and_then(|()| batch.replies.write_to(&mut hasty));
        let sent = hasty.sent;
        match result {
            Err(error) if is_timeout(&error) => self.send_rest(batch, sent),
            result => self.done(batch, result),
        }
    }
}

/// Writes what a client takes at once; then it fails, with `WouldBlock`.
struct Hasty<'a> {
    client: &'a Client,
    /// Bytes taken so far.
    sent: usize,
}

impl Write for Hasty<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.client.write_at_once(bytes)?;
        self.sent += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all but the first bytes, which were written before.
struct Rest<W> {
    stream: W,
    /// How many are still to be left out.
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

    fn outbox() -> (Arc<Outbox>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, address) = listener.accept().unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(10))).unwrap();
        let client = Clients::new(1, Instant::now()).admit(stream, address).unwrap();
        let (left, sent) = (Mutex::default(), Condvar::new());
        (Arc::new(Outbox { client, patience: Duration::from_secs(60), left, sent }), peer)
    }

    fn batch(values: usize) -> Batch {
        let mut batch = Batch::default();
        (0..values).for_each(|_| batch.replies.bulk(&[b'v'; 1000]));
        batch
    }

    #[test]
    fn what_a_client_does_not_take_at_once_waits_for_it_elsewhere() {
        const VALUES: usize = 20_000;
        let (outbox, mut peer) = outbox();
        outbox.put(&mut batch(VALUES));
        Arc::clone(&outbox).settled(&|_| Ok(()));
        assert_eq!(lock(&outbox.left).stage, Stage::Leaving, "it is too much to be taken at once");
        let mut expected = Vec::new();
        batch(VALUES).replies.write_to(&mut expected).unwrap();
        let mut received = vec![0; expected.len()];
        peer.read_exact(&mut received).unwrap();
        assert!(received == expected);
        outbox.wait().unwrap();
        // And the next, which it takes at once.
        outbox.put(&mut batch(1));
        Arc::clone(&outbox).settled(&|_| Ok(()));
        outbox.wait().unwrap();
        peer.read_exact(&mut received[..1009]).unwrap();
        assert!(received[..1009] == expected[..1009]);
    }

    #[test]
    fn a_client_that_leaves_lets_go_of_its_replies() {
        let (outbox, peer) = outbox();
        outbox.put(&mut batch(20_000));
        Arc::clone(&outbox).settled(&|_| Ok(()));
        drop(peer);
        assert!(outbox.wait().is_err());
        assert!(outbox.wait().is_ok(), "it is told once");
        assert!(outbox.client.is_killed());
    }
}
