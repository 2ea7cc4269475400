//! Removing what has expired: nobody sees it any more, but it takes memory and its lines stay in the file.
//!
//! A removal is written down as `DEL`. The file would say the same without it, as times are absolute; but a clock
//! that is put back would bring the key back at the next start, and nobody sees a key again that was gone.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use super::session::{Session, WriteError};
use crate::engine::local::store::{Shard, Undo};
use crate::journal::format::write_del;
use crate::limits::{EXPIRED_AT_ONCE, SHARDS};
use crate::text::quoted_bytes;
use crate::util::memory;

impl Session<'_> {
    /// Removes every key that has expired, a bounded number with a shard locked.
    pub fn remove_expired(&mut self) -> Result<(), WriteError> {
        let engine = self.engine();
        if engine.keeps_expired.load(Ordering::Relaxed) || !engine.clock.is_trusted(Instant::now())
        {
            return Ok(());
        }
        let databases =
            |session: &mut Self, number| session.locked(number, |_, shard| shard.databases());
        for number in 0..SHARDS {
            let mut left = 0..databases(self, number);
            while let Some(database) = left.clone().next() {
                let count = self.within(database, |session| session.remove_expired_of(number))?;
                self.engine().expired.fetch_add(count as u64, Ordering::Relaxed);
                if self.is_commit_due() {
                    let mark = self.take_mark();
                    self.commit(mark)?;
                }
                match count < EXPIRED_AT_ONCE {
                    true => left.start += 1,
                    false => thread::yield_now(),
                }
            }
        }
        let mark = self.take_mark();
        Ok(self.commit(mark)?)
    }

    /// Removes some of this database in shard `number`, at most [`EXPIRED_AT_ONCE`], and counts them.
    fn remove_expired_of(&mut self, number: usize) -> Result<usize, WriteError> {
        self.begin(b"", b"")?;
        let now_ms = self.now_ms();
        self.locked(number, |session, shard| {
            let mut expired = Vec::new();
            while expired.len() < EXPIRED_AT_ONCE
                && let Some((hash, time_ms, key)) = shard.next_expired(session.database(), now_ms)
            {
                // Where there is no memory for a copy, the key has time until there is.
                let Ok(copy) = memory::copy(key, key.len()) else {
                    shard.put_off(session.database(), hash, time_ms);
                    break;
                };
                expired.push((hash, time_ms, copy));
            }
            if expired.is_empty() {
                return Ok(0);
            }
            match session.log_removal(shard, &expired) {
                Err(refused) => {
                    for (hash, time_ms, _) in expired {
                        shard.put_off(session.database(), hash, time_ms);
                    }
                    Err(refused)
                }
                Ok(stamp) => {
                    for (_, _, key) in &expired {
                        let place = session.place(key);
                        if let Some(old) = shard.remove(place, key) {
                            let undo = Undo::Removed(old);
                            session.undo_bytes += shard.expired(place, stamp, undo);
                        }
                    }
                    shard.settle(session.engine().journal.committed(), &mut session.settled);
                    Ok(expired.len())
                }
            }
        })
    }

    /// Writes down that keys of `shard` are removed, and makes sure that they could be put back.
    fn log_removal(&mut self, shard: &mut Shard, expired: &[Expired]) -> Result<u64, WriteError> {
        let keys = || expired.iter().map(|(_, _, key)| key.as_slice());
        self.record.reserve(keys().map(|key| quoted_bytes(key) + 8).sum())?;
        shard.make_restorable(self.database(), expired.len())?;
        let count = write_del(keys(), self.record.room());
        self.effect.garbage += self.record.len() as u64;
        Ok(self.append_record(count)?)
    }
}

/// A key that has expired: its hash, its time and itself.
type Expired = (u64, u64, Vec<u8>);
