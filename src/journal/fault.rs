//! What happens when the file fails: writes are refused and what is not committed is aborted, until a repair.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::breakage::{self, Breakage};
use super::group_commit::{Journal, State};
use super::phase::{Event, Intake, Repair};
use crate::util::sync::atomic::Ordering;
use crate::util::sync::{Waiters, lock, wait_timeout};

/// Why a write is not acknowledged. It may or may not be found after a restart.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct WriteRefused(Arc<str>);

impl WriteRefused {
    /// For a reason that can be told.
    pub fn new(reason: impl ToString) -> Self {
        Self(reason.to_string().into())
    }

    pub(super) fn stopping() -> Self {
        Self::new("the server is stopping")
    }
}

/// Why a batch is not committed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Write(io::Error),
    #[error("fsync: {0}")]
    Sync(io::Error),
    #[error("{0}")]
    Replaced(&'static str),
}

impl Failure {
    pub(super) fn repair(&self) -> Repair {
        match self {
            Self::Write(_) => Repair::CutBack,
            Self::Sync(_) => Repair::Rewrite,
            Self::Replaced(_) => Repair::RewriteBeside,
        }
    }
}

impl Journal {
    /// Refuses writes until the file is repaired, and aborts the batches that are not committed. Of several
    /// failures the one that needs the most counts: a failed fsync is never forgotten for a failed write.
    pub(super) fn fail(&self, state: &mut State, failure: &Failure) {
        let earlier = state.phase.fault();
        state.enter(Event::Fail(failure.repair()));
        if earlier.is_some() {
            if state.phase.fault() > earlier {
                state.reason = WriteRefused::new(failure);
                state.recent_fault = Some(state.reason.clone());
            }
            return;
        }
        state.committed_at_fault = self.committed();
        // The pending batch is aborted too, and so is its sequence.
        state.sequence += 1;
        state.aborted = Some(std::mem::take(&mut state.pending));
        state.has_leader = false;
        state.has_tail_reader = false;
        state.callbacks.iter_mut().for_each(|callbacks| state.completed.append(callbacks));
        self.has_completed.store(true, Ordering::Release);
        state.recent_fault = Some(WriteRefused::new(failure));
        self.refuse(state, WriteRefused::new(failure));
    }

    /// Refuses writes from now on, and wakes the threads that wait for one.
    pub(super) fn refuse(&self, state: &mut State, reason: WriteRefused) {
        state.reason = reason;
        self.refusing.store(true, Ordering::Release);
        self.woken.iter().for_each(Waiters::notify_all);
        self.faulted.notify_all();
    }

    /// Takes writes again: the file is repaired, and memory holds exactly what was committed. Begins an epoch.
    pub fn resume(&self) {
        let mut state = lock(&self.state);
        state.enter(Event::Resume);
        state.epoch_base = state.committed_at_fault;
        if !breakage::has(Breakage::ForgottenEpoch) {
            self.epoch.fetch_add(1, Ordering::Release);
        }
        self.refusing.store(state.intake != Intake::Open, Ordering::Release);
    }

    /// Waits for at most `timeout` until there is a fault, and says whether there is one.
    pub fn wait_for_fault(&self, timeout: Duration) -> bool {
        let state = lock(&self.state);
        let state = match state.phase.fault() {
            Some(_) => state,
            None => wait_timeout(&self.faulted, state, timeout),
        };
        state.phase.fault().is_some()
    }

    /// Why writes are refused; also after the repair, until a write has succeeded.
    pub fn fault(&self) -> Option<WriteRefused> {
        lock(&self.state).recent_fault.clone()
    }

    /// Whether there is a fault: the batches that were not committed are aborted, and memory may still hold them.
    pub fn is_faulted(&self) -> bool {
        lock(&self.state).phase.fault().is_some()
    }
}
