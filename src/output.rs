//! A connection's replies on their way out: committed together, sent together.
//!
//! A reply whose write, or whose shown write, could not be committed is replaced by the reason; those
//! before it still leave.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::command::CommandError;
use crate::control::{Client, Feed};
use crate::engine::Session;
use crate::limits::{CLIENT_SPARE_BYTES_MAX, MONITOR_QUEUE_BYTES_MAX};
use crate::persistence::Mark;
use crate::reply::Replies;

/// Replies on their way out.
#[derive(Debug)]
pub struct Output<'a> {
    client: &'a Client,
    patience: Duration,
    /// Those not sent yet.
    pub replies: Replies,
    /// Of these, those that show something uncommitted: where each begins and ends, and its mark.
    uncommitted: Vec<(usize, usize, Mark)>,
    /// The client watches every command: its replies go the same way.
    pub feed: Option<Arc<Feed>>,
}

impl<'a> Output<'a> {
    /// To `client`, who may take nothing for so long; zero is for ever.
    pub fn new(client: &'a Client, patience: Duration) -> Self {
        Self { client, patience, replies: Replies::default(), uncommitted: Vec::new(), feed: None }
    }

    /// The reply from `start` on shows what `mark` says. It may be empty: then there is something to be
    /// committed, and nobody to be told.
    pub fn must_commit(&mut self, start: usize, mark: Mark) {
        self.uncommitted.push((start, self.replies.position(), mark));
    }

    /// Commits what the replies show, then sends them; returns how many bytes.
    pub fn send(&mut self, session: &mut Session<'_>) -> io::Result<u64> {
        let mut refusal = None;
        self.uncommitted.retain(|(_, _, mark)| {
            let committed = session.commit(*mark);
            committed.map_err(|refused| refusal = Some(refused)).is_err()
        });
        if let Some(refused) = refusal {
            self.take_back(&CommandError::from(refused).to_string())?;
        }
        self.uncommitted.clear();
        self.uncommitted.shrink_to(CLIENT_SPARE_BYTES_MAX / size_of::<(usize, usize, Mark)>());
        if self.replies.is_empty() {
            return Ok(0);
        }
        let bytes = self.replies.len();
        self.client.queued_bytes.store(bytes, Ordering::Relaxed);
        match &self.feed {
            None => self.replies.write_to(self.client.writer(self.patience))?,
            Some(feed) => {
                if bytes > MONITOR_QUEUE_BYTES_MAX {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                let mut copy = Vec::with_capacity(bytes);
                self.replies.write_to(&mut copy)?;
                // If it is closed, its thread has closed the connection.
                feed.push(&copy);
            }
        }
        self.client.queued_bytes.store(0, Ordering::Relaxed);
        self.replies.clear(CLIENT_SPARE_BYTES_MAX);
        Ok(bytes as u64)
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
        match self.replies.recover(0) {
            true => Err(io::ErrorKind::OutOfMemory.into()),
            false => Ok(()),
        }
    }

    /// The client is idle: gives back what memory it can.
    pub fn rest(&mut self) {
        self.replies.clear(0);
        self.uncommitted = Vec::new();
    }
}
