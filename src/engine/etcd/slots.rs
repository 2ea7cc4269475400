//! The connections to a cluster, and how a transaction is done at most once.
//!
//! A request takes a slot: there are only so many, so a slow cluster makes clients wait, and nothing grows. Each slot has a
//! token in the cluster: a key that no other slot writes. A transaction that writes asks that the token is as its slot
//! last left it, and changes it. So where no reply comes, a second transaction on the token finds out: if it can still
//! change it the first one was not done and never will be; if not, the token tells which of them came first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, Failure, Reason};
use super::gateway::{Bytes, Compare, Operation, Request, TxnReply, TxnRequest};
use super::layout::Layout;
use super::lease::Lease;
use crate::engine::{EngineError, EngineErrorKind};
use crate::limits::ETCD_CONNECTIONS_MAX;
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
                let reason = format!("all {ETCD_CONNECTIONS_MAX} connections to etcd are in use");
                return Err(EngineError::new(EngineErrorKind::Unavailable, reason));
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

    /// Carries out a transaction, at most once.
    pub fn commit(
        &self,
        transaction: TxnRequest,
        deadline: Instant,
    ) -> Result<Committed, EngineError> {
        let mut taken = self.take(deadline)?;
        let Some(slot) = &mut taken.slot else { unreachable!("it is given back at the end") };
        if self.is_down() {
            let look = Operation::get(self.layout.token_name(slot.lease, slot.number), 0);
            let look = TxnRequest { success: vec![look], ..TxnRequest::default() };
            self.cluster
                .read(&look, slot.number, deadline)
                .map_err(|failure| self.failed(failure))?;
            self.is_down.store(false, Ordering::Relaxed);
        }
        let mut request = transaction;
        let plain = (request.compare.len(), request.success.len(), request.failure.len());
        loop {
            self.prepare(slot, deadline)?;
            request.compare.truncate(plain.0);
            request.success.truncate(plain.1);
            request.failure.truncate(plain.2);
            let name = self.layout.token_name(slot.lease, slot.number);
            request.compare.push(Compare::is_unchanged(name.clone(), slot.revision));
            request.success.push(put_token(name.clone(), WRITTEN, slot.lease));
            request.failure.push(Operation::get(name, 0));
            slot.is_unsure = true;
            if self.does_twice {
                request.compare.pop();
            }
            match self.cluster.write(&request, slot.number, deadline) {
                Ok(reply) if reply.succeeded => {
                    slot.changed_at(reply.header.revision);
                    return Ok(Committed::Done(slot.revision));
                }
                Ok(mut reply) => {
                    let token = reply.responses.pop().unwrap_or_default().response_range.kvs.pop();
                    let before = slot.revision;
                    slot.changed_at(token.as_ref().map_or(0, |token| token.mod_revision));
                    match token {
                        _ if slot.revision == before => return Ok(Committed::Conflict(reply)),
                        // The lease ran out, and the token with it. Nothing was done.
                        None => self.lease.lost(slot.lease),
                        // Something on the way sent the request twice, and the first was done.
                        Some(token) if token.value.0 == WRITTEN => {
                            return Ok(Committed::Done(slot.revision));
                        }
                        Some(_) => {}
                    }
                }
                Err(Failure::NotDone(Reason::LeaseGone, _)) => self.lease.lost(slot.lease),
                Err(failure @ Failure::NotDone(..)) => {
                    slot.is_unsure = false;
                    return Err(self.failed(failure));
                }
                Err(Failure::Unknown(reason)) => {
                    let unknown = |_| self.failed(Failure::Unknown(reason.clone()));
                    if !self.does_twice && self.find_out(slot, deadline).map_err(unknown)? {
                        return Ok(Committed::Done(slot.revision));
                    }
                    if Instant::now() >= deadline {
                        return Err(self.failed(Failure::NotDone(Reason::Unavailable, reason)));
                    }
                }
            }
        }
    }

    /// Makes a slot fit for a transaction: with a token of the current lease, and a known state of it.
    fn prepare(&self, slot: &mut Slot, deadline: Instant) -> Result<(), EngineError> {
        let no_lease = || {
            let reason = "etcd grants no lease".to_owned();
            self.failed(Failure::NotDone(Reason::Unavailable, reason))
        };
        let lease = self.lease.get(deadline).ok_or_else(no_lease)?;
        if slot.lease != lease {
            // What is still under way with the old one puts a token with a lease that is gone, and so does nothing.
            *slot = Slot { number: slot.number, lease, revision: 0, is_unsure: false };
        }
        if slot.is_unsure {
            let found = self.find_out(slot, deadline);
            found.map_err(|reason| self.failed(Failure::NotDone(Reason::Unavailable, reason)))?;
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

fn put_token(name: Vec<u8>, value: &[u8], lease: i64) -> Operation {
    Operation::Put { key: Bytes(name), value: Bytes(value.to_vec()), lease: Some(lease) }
}
