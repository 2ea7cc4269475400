//! The sweep: deletes what has expired. No coffre shows it any more, but it takes room.
//!
//! One coffre does it for all: the one whose lease a key of the cluster names. It goes through the times of all keys page
//! by page, a bounded number in a second, and deletes a key if its time is still the one that was read.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::EtcdEngine;
use super::gateway::{
    Bytes, CompactRequest, Compare, KeyValue, Operation, RangeRequest, TxnRequest,
};
use super::layout::{Part, decode_time};
use super::slots::Committed;
use crate::engine::{EngineError, Key};
use crate::limits::{ETCD_PAGE_KEYS, ETCD_SWEEP_DELAY_MS, ETCD_SWEPT_AT_ONCE};
use crate::util::clock::unix_time_ms;
use crate::util::sync::lock;

/// Pages of times that one round reads.
const PAGES: usize = 5;

/// Where the sweep is.
#[derive(Debug, Default)]
pub struct Sweeper {
    /// The name to go on with; empty for the first.
    next: Vec<u8>,
    /// Revisions, and when they were the last ones.
    revisions: Vec<(Instant, u64)>,
}

impl EtcdEngine {
    /// One round, if this coffre is the one that does it, and its clock did not jump.
    pub(super) fn sweep(&self) {
        if self.keeps_expired.load(Ordering::Relaxed) || !self.clock.is_trusted(Instant::now()) {
            return;
        }
        if self.slots.is_down() {
            return;
        }
        if let Err(error) = self.try_sweep() {
            log::debug!("expired keys stay for now: {error}");
        }
    }

    fn try_sweep(&self) -> Result<(), EngineError> {
        let Some(revision) = self.claim()? else { return Ok(()) };
        for _ in 0..PAGES {
            let (start, end) = self.layout().whole(Part::Times);
            let mut from = std::mem::take(&mut lock(&self.sweeper).next);
            if from.is_empty() {
                from = start;
            }
            let page = RangeRequest {
                key: Bytes(from),
                range_end: Some(Bytes(end)),
                limit: ETCD_PAGE_KEYS,
                ..RangeRequest::default()
            };
            let Some(reply) = self.slots.read(&page, self.slots.cluster.deadline())? else { break };
            let before_ms = unix_time_ms().saturating_sub(ETCD_SWEEP_DELAY_MS);
            let is_due = |time: &&KeyValue| {
                decode_time(&time.value.0).is_some_and(|time_ms| time_ms <= before_ms)
            };
            let due: Vec<_> = reply.kvs.iter().filter(is_due).collect();
            for some in due.chunks(ETCD_SWEPT_AT_ONCE) {
                self.delete(some, revision)?;
            }
            let last = reply.kvs.last().filter(|_| reply.more);
            match last {
                Some(last) => lock(&self.sweeper).next = [&last.key.0[..], b"\0"].concat(),
                None => break,
            }
        }
        self.forget_history()
    }

    /// The revision at which this coffre became the one that sweeps, if it is.
    fn claim(&self) -> Result<Option<u64>, EngineError> {
        let deadline = self.slots.cluster.deadline();
        let Some(lease) = self.slots.lease.current() else { return Ok(None) };
        let (name, own) = (self.layout().sweeper_name(), format!("{lease:x}").into_bytes());
        let read = RangeRequest { key: Bytes(name.clone()), ..RangeRequest::default() };
        let Some(reply) = self.slots.read(&read, deadline)? else { return Ok(None) };
        if let Some(found) = reply.kvs.first() {
            return Ok((found.value.0 == own).then_some(found.mod_revision));
        }
        let put =
            Operation::Put { key: Bytes(name.clone()), value: Bytes(own), lease: Some(lease) };
        let claim = TxnRequest {
            compare: vec![Compare::is_unchanged(name, 0)],
            success: vec![put],
            failure: Vec::new(),
        };
        // The next round sees whether it was done.
        self.slots.commit(claim, deadline).map(|_| None)
    }

    /// Deletes keys whose times are these, if none of them has changed.
    fn delete(&self, times: &[&KeyValue], claimed: u64) -> Result<(), EngineError> {
        let mut request = TxnRequest {
            compare: vec![Compare::is_unchanged(self.layout().sweeper_name(), claimed)],
            ..TxnRequest::default()
        };
        for time in times {
            let Some((database, _, bytes)) = self.layout().parse(&time.key.0) else { continue };
            let name = self.layout().name(Part::Values, Key { database, bytes });
            request.compare.push(Compare::is_unchanged(time.key.0.clone(), time.mod_revision));
            request.success.push(Operation::delete(name));
            request.success.push(Operation::delete(time.key.0.clone()));
        }
        let deadline = self.slots.cluster.deadline();
        match self.slots.commit(request, deadline)? {
            Committed::Done(_) => {
                self.expired.fetch_add(times.len() as u64, Ordering::Relaxed);
            }
            // One of them: each by itself, so that what changes all the time keeps none of the others.
            Committed::Conflict(_) if times.len() > 1 => {
                for time in times {
                    self.delete(&[time], claimed)?;
                }
            }
            Committed::Conflict(_) => {}
        }
        Ok(())
    }

    /// Lets the cluster forget revisions that are old enough, if it is to.
    fn forget_history(&self) -> Result<(), EngineError> {
        const EVERY: Duration = Duration::from_secs(1);
        let Some(after) = self.compact_after else { return Ok(()) };
        let now = Instant::now();
        let newest = lock(&self.sweeper).revisions.last().map(|(seen, _)| *seen);
        if newest.is_some_and(|seen| now - seen < EVERY.max(after / 60)) {
            return Ok(());
        }
        let key = Bytes(self.layout().sweeper_name());
        let read = RangeRequest { key, ..RangeRequest::default() };
        let deadline = self.slots.cluster.deadline();
        let Some(reply) = self.slots.read(&read, deadline)? else { return Ok(()) };
        let old = {
            let revisions = &mut lock(&self.sweeper).revisions;
            revisions.push((now, reply.header.revision));
            let old = revisions.iter().take_while(|(seen, _)| now - *seen >= after).count();
            revisions.drain(..old).next_back()
        };
        if let Some((_, revision)) = old
            && let Err(failure) =
                self.slots.cluster.write(&CompactRequest { revision }, 0, deadline)
        {
            log::debug!("etcd was not compacted: {failure:?}");
        }
        Ok(())
    }
}
