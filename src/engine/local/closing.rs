//! The end of a run: closes the engine, and does not wait for ever for a disk that does not answer.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::LocalEngine;
use crate::engine::Admin;
use crate::journal::WriteRefused;
use crate::limits::{DRAIN_MS_MAX, REWRITE_MS_MAX, STOP_MS_MAX};

/// Why not everything is known to be on disk.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// The last writes, or with the file gone all of them, could not be written.
    #[error("stopped, but not everything is on disk: {0}")]
    Refused(#[from] WriteRefused),
    /// The disk did not answer.
    #[error("stopped, but not everything is known to be on disk: it took too long to answer")]
    Hung,
}

impl LocalEngine {
    /// Closes the engine, which was asked to stop at `asked`; after a fault the file is repaired if `may_repair`. A disk that does not answer is given up soon; a rewrite is
    /// waited for while it makes progress, because memory may hold the only copy of the data.
    pub fn close_by(self: &Arc<Self>, may_repair: bool, asked: Instant) -> Result<(), CloseError> {
        let (sender, end) = mpsc::channel();
        let closing = Arc::clone(self);
        let work = move || drop(sender.send(close_in_any_time(&closing, may_repair)));
        if thread::Builder::new().name("close".to_owned()).spawn(work).is_err() {
            return Ok(close_in_any_time(self, may_repair)?);
        }
        let mut progress = self.progress();
        // The drain of the clients may have taken longer than it should: half of what then follows is always there.
        let least = Duration::from_millis(STOP_MS_MAX - DRAIN_MS_MAX) / 2;
        let mut patience =
            Duration::from_millis(STOP_MS_MAX).saturating_sub(asked.elapsed()).max(least);
        loop {
            match end.recv_timeout(patience) {
                Ok(closed) => {
                    // A compaction under way gives up, and removes its file.
                    self.wait_for_compaction(Duration::from_millis(200));
                    return Ok(closed?);
                }
                Err(_) if self.status().fault.is_none() => return Err(CloseError::Hung),
                Err(_) => {
                    let before = std::mem::replace(&mut progress, self.progress());
                    if asked.elapsed() > Duration::from_millis(REWRITE_MS_MAX) && progress == before
                    {
                        return Err(CloseError::Hung);
                    }
                    patience = Duration::from_millis(REWRITE_MS_MAX);
                }
            }
        }
    }
}

fn close_in_any_time(engine: &LocalEngine, may_repair: bool) -> Result<(), WriteRefused> {
    match may_repair {
        true => engine.close(),
        false => engine.close_without_repair(),
    }
}
