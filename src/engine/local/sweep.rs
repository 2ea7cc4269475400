//! The sweep: deletes expired keys, which are hidden already but take memory and lines of the file.
//!
//! A deletion is written down as `DEL`. The file would say the same without it, as times are absolute; but a clock that
//! is put back would bring the key back at the next start, after clients saw it gone.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use super::LocalEngine;
use super::locks::Locks;
use super::txn::{LocalSession, LocalTxn};
use crate::engine::{Engine, TxnError};
use crate::limits::{EXPIRED_AT_ONCE, SHARDS};

impl LocalEngine {
    /// Deletes every key that has expired, a bounded number with a shard locked, unless the clock has jumped.
    pub fn delete_expired(&self) -> Result<(), TxnError> {
        if self.keeps_expired.load(Ordering::Relaxed) || !self.clock.is_trusted(Instant::now()) {
            return Ok(());
        }
        let mut session = LocalSession::default();
        for number in 0..SHARDS {
            let databases = self.store.lock(number).databases();
            let mut database = 0;
            while database < databases {
                let locks = Locks::of_shard(&self.store, number);
                let mut txn = LocalTxn::new(self, &mut session, locks);
                let deleted = txn.delete_expired(database, number, EXPIRED_AT_ONCE);
                let count = txn.finish(deleted)?;
                self.expired.fetch_add(count as u64, Ordering::Relaxed);
                if self.is_commit_due(&session) {
                    self.commit_all(&mut session)?;
                }
                match count < EXPIRED_AT_ONCE {
                    true => database += 1,
                    false => thread::yield_now(),
                }
            }
        }
        self.commit_all(&mut session)
    }

    fn commit_all(&self, session: &mut LocalSession) -> Result<(), TxnError> {
        let point = self.take_commit_point(session);
        Ok(self.commit(session, point)?)
    }
}
