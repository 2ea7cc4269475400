//! The connections to a cluster, and how a transaction is done at most once.
//!
//! A request takes a slot: there are only so many, so a slow cluster makes clients wait, and nothing grows. Each slot has a
//! token in the cluster: a key that no other slot writes. A transaction that writes asks that the token is as its slot
//! last left it, and changes it. So where no reply comes, a second transaction on the token finds out: if it can still
//! change it the first one was not done and never will be; if not, the token tells which of them came first.
//!
//! Transactions of several clients share a slot, a token and a journey: each is one within that which changes the token.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::batches::Batches;
use super::cluster::{Cluster, Failure, Reason};
use super::gateway::{
    Bytes, Compare, Operation, RangeReply, RangeRequest, Request, TxnReply, TxnRequest,
};
use super::layout::Layout;
use super::lease::Lease;
use super::together::{ReadReply, Reads, combined, outcomes};
use crate::engine::{EngineError, EngineErrorKind};
use crate::limits::{ETCD_BATCHES_MAX, ETCD_CONNECTIONS_MAX, ETCD_READS_MAX};
use crate::util::sync::{lock, wait_timeout};

/// What a transaction writes into its token, and what the one does that finds out whether it was done.
const WRITTEN: &[u8] = b"w";
const FENCED: &[u8] = b"f";

/// The way to a cluster for all clients.
#[derive(Debug)]
pub struct Slots {
    /// The cluster.
    pub cluster: Cluster,
    /// Where things stand in it.
    pub layout: Layout,
    /// What tokens are put with.
    pub lease: Lease,
    /// A bug, for tests: what may have been done is done again.
    does_twice: bool,
    /// The last request got no answer: whether there is a majority is asked before anything is written.
    is_down: AtomicBool,
    reads: Batches<Reads>,
    commits: Batches<TxnRequest>,
    free: Mutex<Vec<Slot>>,
    freed: Condvar,
}

/// See the module.
#[derive(Debug)]
struct Slot {
    number: usize,
    /// The lease of its token.
    lease: i64,
    /// The revision of the last change of the token; 0 for none.
    revision: u64,
    /// It may have been changed since.
    is_unsure: bool,
}

/// A slot in use.
struct Taken<'s> {
    slots: &'s Slots,
    slot: Option<Slot>,
}

/// What became of a transaction that was carried out.
#[derive(Debug)]
pub enum Committed {
    /// Its writes were done, at this revision.
    Done(u64),
    /// A condition did not hold: what it read then.
    Conflict(TxnReply),
}

impl Slots {
    /// All slots free.
    pub fn new(cluster: Cluster, layout: Layout, does_twice: bool) -> Self {
        let slot = |number| Slot { number, lease: 0, revision: 0, is_unsure: false };
        Self {
            cluster,
            layout,
            lease: Lease::default(),
            does_twice,
            is_down: AtomicBool::new(false),
            reads: Batches::new(ETCD_BATCHES_MAX),
            commits: Batches::new(ETCD_BATCHES_MAX),
            free: Mutex::new((0..ETCD_CONNECTIONS_MAX).rev().map(slot).collect()),
            freed: Condvar::new(),
        }
    }

    /// Whether the last request got no answer.
    pub fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    fn take(&self, deadline: Instant) -> Result<Taken<'_>, EngineError> {
        let mut free = lock(&self.free);
        loop {
            if let Some(slot) = free.pop() {
                return Ok(Taken { slots: self, slot: Some(slot) });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(no_turn());
            }
            free = wait_timeout(&self.freed, free, left);
        }
    }

    /// Reads. `None` says that the revision asked for is no longer there.
    pub fn read<R: Request>(
        &self,
        request: &R,
        deadline: Instant,
    ) -> Result<Option<R::Reply>, EngineError> {
        let taken = self.take(deadline)?;
        let number = taken.slot.as_ref().map_or(0, |slot| slot.number);
        match self.cluster.read(request, number, deadline) {
            Ok(reply) => {
                self.is_down.store(false, Ordering::Relaxed);
                Ok(Some(reply))
            }
            Err(Failure::NotDone(Reason::Compacted, _)) => Ok(None),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    /// Reads keys, with those that other clients read. `None` as from [`read`](Self::read).
    pub fn read_together(
        &self,
        reads: Vec<RangeRequest>,
        deadline: Instant,
    ) -> Result<Option<ReadReply>, EngineError> {
        if reads.len() > ETCD_READS_MAX / 8 {
            // Little is gained, and others would wait for all of them.
            return self.read_ranges(reads.iter(), deadline);
        }
        let reply =
            self.reads.submit(Reads(reads), deadline, |batch| self.read_batch(batch, deadline));
        reply.unwrap_or_else(|| Err(no_turn()))
    }

    fn read_batch(
        &self,
        batch: Vec<Reads>,
        deadline: Instant,
    ) -> Vec<Result<Option<ReadReply>, EngineError>> {
        let counts: Vec<_> = batch.iter().map(|reads| reads.0.len()).collect();
        match self.read_ranges(batch.iter().flat_map(|reads| &reads.0), deadline) {
            Ok(Some(ReadReply { revision, ranges })) => {
                let mut ranges = ranges.into_iter();
                let each = counts.into_iter().map(|count| {
                    Ok(Some(ReadReply { revision, ranges: ranges.by_ref().take(count).collect() }))
                });
                each.collect()
            }
            // It is the fault of one of them.
            Ok(None) | Err(EngineError { kind: EngineErrorKind::TooLarge, .. })
                if batch.len() > 1 =>
            {
                batch.into_iter().flat_map(|one| self.read_batch(vec![one], deadline)).collect()
            }
            Ok(None) => batch.iter().map(|_| Ok(None)).collect(),
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Reads keys, by themselves. `None` as from [`read`](Self::read).
    pub fn read_ranges<'r>(
        &self,
        ranges: impl Iterator<Item = &'r RangeRequest>,
        deadline: Instant,
    ) -> Result<Option<ReadReply>, EngineError> {
        let ranges: Vec<_> = ranges.cloned().collect();
        if let [range] = &ranges[..] {
            // The request that etcd answers soonest.
            let reply = self.read(range, deadline)?;
            let read = |reply: RangeReply| ReadReply {
                revision: reply.header.revision,
                ranges: vec![reply],
            };
            return Ok(reply.map(read));
        }
        let success = ranges.into_iter().map(Operation::Range).collect();
        let reply = self.read(&TxnRequest { success, ..TxnRequest::default() }, deadline)?;
        Ok(reply.map(|reply| ReadReply {
            revision: reply.header.revision,
            ranges: reply.responses.into_iter().map(|reply| reply.response_range).collect(),
        }))
    }

    /// Carries out a transaction, at most once, with those of other clients that touch other keys.
    pub fn commit_together(
        &self,
        transaction: TxnRequest,
        deadline: Instant,
    ) -> Result<Committed, EngineError> {
        let outcome =
            self.commits.submit(transaction, deadline, |batch| self.commit_batch(batch, deadline));
        outcome.unwrap_or_else(|| Err(no_turn()))
    }

    /// Carries out a transaction, at most once.
    pub fn commit(
        &self,
        transaction: TxnRequest,
        deadline: Instant,
    ) -> Result<Committed, EngineError> {
        let outcome = self.commit_batch(vec![transaction], deadline).pop();
        outcome.unwrap_or_else(|| Err(no_turn()))
    }

    fn commit_batch(
        &self,
        batch: Vec<TxnRequest>,
        deadline: Instant,
    ) -> Vec<Result<Committed, EngineError>> {
        let failed = |error: EngineError| batch.iter().map(|_| Err(error.clone())).collect();
        let mut taken = match self.take(deadline) {
            Ok(taken) => taken,
            Err(error) => return failed(error),
        };
        let Some(slot) = &mut taken.slot else { unreachable!("it is given back at the end") };
        match self.commit_by(slot, &batch, deadline) {
            Ok(Some(outcomes)) => outcomes.into_iter().map(Ok).collect(),
            Ok(None) => self.look_back(&batch, slot.revision, deadline),
            // It is the fault of one of them.
            Err(Failure::NotDone(Reason::TooLarge | Reason::Refused, _)) if batch.len() > 1 => {
                drop(taken);
                batch.into_iter().flat_map(|one| self.commit_batch(vec![one], deadline)).collect()
            }
            Err(failure) => failed(self.failed(failure)),
        }
    }

    /// Carries out a batch by a slot; `None` if it was done, at the last revision of the token, but it is not known what
    /// became of each.
    fn commit_by(
        &self,
        slot: &mut Slot,
        batch: &[TxnRequest],
        deadline: Instant,
    ) -> Result<Option<Vec<Committed>>, Failure> {
        if self.is_down() {
            let look = Operation::get(self.layout.token_name(slot.lease, slot.number), 0);
            let look = TxnRequest { success: vec![look], ..TxnRequest::default() };
            self.cluster.read(&look, slot.number, deadline)?;
            self.is_down.store(false, Ordering::Relaxed);
        }
        loop {
            self.prepare(slot, deadline)?;
            let name = self.layout.token_name(slot.lease, slot.number);
            let mut frame = TxnRequest {
                compare: vec![Compare::is_unchanged(name.clone(), slot.revision)],
                success: vec![put_token(name.clone(), WRITTEN, slot.lease)],
                failure: vec![Operation::get(name, 0)],
            };
            if self.does_twice {
                frame.compare.clear();
            }
            slot.is_unsure = true;
            match self.cluster.write(&combined(batch, frame), slot.number, deadline) {
                Ok(reply) if reply.succeeded => {
                    slot.changed_at(reply.header.revision);
                    return Ok(Some(outcomes(reply, batch)));
                }
                Ok(mut reply) => {
                    let token = reply.responses.pop().unwrap_or_default().response_range.kvs.pop();
                    let before = slot.revision;
                    slot.changed_at(token.as_ref().map_or(0, |token| token.mod_revision));
                    match token {
                        _ if slot.revision == before => {
                            return Ok(Some(vec![Committed::Conflict(reply)]));
                        }
                        // The lease ran out, and the token with it. Nothing was done.
                        None => self.lease.lost(slot.lease),
                        // Something on the way sent the request twice, and the first was done.
                        Some(token) if token.value.0 == WRITTEN => return Ok(None),
                        Some(_) => {}
                    }
                }
                Err(Failure::NotDone(Reason::LeaseGone, _)) => self.lease.lost(slot.lease),
                Err(failure @ Failure::NotDone(..)) => {
                    slot.is_unsure = false;
                    return Err(failure);
                }
                Err(Failure::Unknown(reason)) => {
                    let unknown = |_| Failure::Unknown(reason.clone());
                    if !self.does_twice && self.find_out(slot, deadline).map_err(unknown)? {
                        return Ok(None);
                    }
                    if Instant::now() >= deadline {
                        return Err(Failure::NotDone(Reason::Unavailable, reason));
                    }
                }
            }
        }
    }

    /// What became of each transaction of a batch that was done at `revision`, if the reply was lost: what each compared
    /// is asked of the revision before. One by itself was done, as its conditions are those of its token's change.
    fn look_back(
        &self,
        batch: &[TxnRequest],
        revision: u64,
        deadline: Instant,
    ) -> Vec<Result<Committed, EngineError>> {
        let look = |one: &TxnRequest| {
            let before = one.compare.iter().filter_map(Compare::key).map(|key| RangeRequest {
                key: key.clone(),
                revision: revision - 1,
                ..RangeRequest::default()
            });
            let unknown = |reason: String| error(Failure::Unknown(reason));
            let reply = match one.compare.is_empty() || batch.len() == 1 {
                true => ReadReply { revision, ranges: Vec::new() },
                false => self
                    .read_ranges(before.collect::<Vec<_>>().iter(), deadline)
                    .map_err(|error| unknown(error.to_string()))?
                    .ok_or_else(|| unknown("its revision is no longer there".to_owned()))?,
            };
            let holds = one.compare.iter().zip(&reply.ranges).all(|(compare, range)| {
                compare.holds(range.kvs.first().map_or(0, |found| found.mod_revision))
            });
            Ok(if holds {
                Committed::Done(revision)
            } else {
                Committed::Conflict(TxnReply::default())
            })
        };
        batch.iter().map(look).collect()
    }

    /// Makes a slot fit for a transaction: with a token of the current lease, and a known state of it.
    fn prepare(&self, slot: &mut Slot, deadline: Instant) -> Result<(), Failure> {
        let not_done = |reason| Failure::NotDone(Reason::Unavailable, reason);
        let no_lease = || not_done("etcd grants no lease".to_owned());
        let lease = self.lease.get(deadline).ok_or_else(no_lease)?;
        if slot.lease != lease {
            // What is still under way with the old one puts a token with a lease that is gone, and so does nothing.
            *slot = Slot { number: slot.number, lease, revision: 0, is_unsure: false };
        }
        if slot.is_unsure {
            self.find_out(slot, deadline).map_err(not_done)?;
        }
        Ok(())
    }

    /// Finds out whether the last transaction of a slot was done, and sees to it that it is not done later. It may take
    /// half as long again as a command may.
    fn find_out(&self, slot: &mut Slot, deadline: Instant) -> Result<bool, String> {
        let name = self.layout.token_name(slot.lease, slot.number);
        let request = TxnRequest {
            compare: vec![Compare::is_unchanged(name.clone(), slot.revision)],
            success: vec![put_token(name.clone(), FENCED, slot.lease)],
            failure: vec![Operation::get(name, 0)],
        };
        let deadline =
            deadline.max(Instant::now()) + (self.cluster.deadline() - Instant::now()) / 2;
        loop {
            let reason = match self.cluster.write(&request, slot.number + 1, deadline) {
                Ok(reply) if reply.succeeded => {
                    slot.changed_at(reply.header.revision);
                    return Ok(false);
                }
                Ok(reply) => {
                    let tokens = reply.responses.into_iter().flat_map(|one| one.response_range.kvs);
                    let Some(token) = tokens.last() else {
                        self.lease.lost(slot.lease);
                        return Err("the lease of its token ran out".to_owned());
                    };
                    slot.changed_at(token.mod_revision);
                    return Ok(token.value.0 == WRITTEN);
                }
                Err(Failure::NotDone(Reason::LeaseGone, reason)) => {
                    self.lease.lost(slot.lease);
                    return Err(reason);
                }
                Err(Failure::NotDone(_, reason) | Failure::Unknown(reason)) => reason,
            };
            if Instant::now() >= deadline {
                return Err(reason);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The error that a command is answered by.
    fn failed(&self, failure: Failure) -> EngineError {
        let error = error(failure);
        if matches!(error.kind, EngineErrorKind::Unavailable | EngineErrorKind::OutcomeUnknown) {
            self.is_down.store(true, Ordering::Relaxed);
        }
        error
    }
}

/// The error that a failure is to a command.
pub fn error(failure: Failure) -> EngineError {
    use EngineErrorKind::{Full, OutcomeUnknown, TooLarge, Unavailable};
    let (kind, said, text) = match failure {
        Failure::NotDone(Reason::Unavailable, text) => (Unavailable, "etcd does not answer", text),
        Failure::NotDone(Reason::TooLarge, text) => (TooLarge, "too much for etcd", text),
        Failure::NotDone(Reason::Full, text) => (Full, "etcd is full", text),
        Failure::NotDone(_, text) => (Unavailable, "etcd refuses", text),
        Failure::Unknown(text) => {
            (OutcomeUnknown, "etcd did not say whether this was done, and it may still be", text)
        }
    };
    EngineError::new(kind, format!("{said}: {text}"))
}

impl Slot {
    /// The token was last changed at this revision.
    fn changed_at(&mut self, revision: u64) {
        self.revision = revision;
        self.is_unsure = false;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            lock(&self.slots.free).push(slot);
            self.slots.freed.notify_one();
        }
    }
}

fn no_turn() -> EngineError {
    let reason = "etcd is too slow: requests before this one took all the time that it had";
    EngineError::new(EngineErrorKind::Unavailable, reason)
}

fn put_token(name: Vec<u8>, value: &[u8], lease: i64) -> Operation {
    Operation::Put { key: Bytes(name), value: Bytes(value.to_vec()), lease: Some(lease) }
}
