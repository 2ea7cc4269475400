//! Which requests of several clients go to a cluster as one, and what comes of each.

use std::collections::HashSet;

use super::batches::Batched;
use super::gateway::{Bytes, Compare, Operation, RangeReply, RangeRequest, TxnReply, TxnRequest};
use super::slots::Committed;
use crate::engine::EngineError;
use crate::limits::{ETCD_BATCH_BYTES_MAX, ETCD_BATCH_STEPS_MAX, ETCD_READS_MAX};

/// Keys to be read.
#[derive(Debug)]
pub struct Reads(pub Vec<RangeRequest>);

/// Keys as they were read.
#[derive(Debug)]
pub struct ReadReply {
    /// The revision of the keyspace.
    pub revision: u64,
    /// One for each range.
    pub ranges: Vec<RangeReply>,
}

impl Batched for Reads {
    /// How many ranges it has.
    type Batch = usize;
    type Reply = Result<Option<ReadReply>, EngineError>;

    fn join(&self, count: &mut usize) -> bool {
        let fits = *count + self.0.len() <= ETCD_READS_MAX;
        if fits {
            *count += self.0.len();
        }
        fits
    }
}

/// What a batch of transactions does.
#[derive(Debug, Default)]
pub struct Touched {
    compared: HashSet<Vec<u8>>,
    changed: HashSet<Vec<u8>>,
    /// Steps of the one transaction of etcd.
    steps: usize,
    /// Most steps of one within it.
    inner_steps: usize,
    bytes: usize,
}

impl Batched for TxnRequest {
    type Batch = Touched;
    type Reply = Result<Committed, EngineError>;

    /// etcd asks all conditions before it changes anything, and refuses to change a key twice: so none may change what
    /// another one changes or compares. Then in whatever order they are thought to be done each finds what it compared.
    fn join(&self, batch: &mut Touched) -> bool {
        let compared = self.compare.iter().map(Compare::key).collect::<Option<Vec<_>>>();
        let changed = self.success.iter().map(Operation::changed_key).collect::<Option<Vec<_>>>();
        let (Some(compared), Some(changed)) = (compared, changed) else { return false };
        let is_changed = |key: &&Bytes| batch.changed.contains(&key.0);
        let is_compared = |key: &&Bytes| batch.compared.contains(&key.0);
        if compared.iter().any(is_changed)
            || changed.iter().any(|key| is_changed(key) || is_compared(key))
        {
            return false;
        }
        let (steps, inner_steps) = match self.compare.len() {
            0 => (batch.steps + changed.len(), batch.inner_steps),
            conditions => (batch.steps + 1, batch.inner_steps.max(changed.len()).max(conditions)),
        };
        let bytes = batch.bytes + self.success.iter().map(Operation::bytes).sum::<usize>();
        if steps + inner_steps > ETCD_BATCH_STEPS_MAX || bytes > ETCD_BATCH_BYTES_MAX {
            return false;
        }
        (batch.steps, batch.inner_steps, batch.bytes) = (steps, inner_steps, bytes);
        batch.compared.extend(compared.into_iter().map(|key| key.0.clone()));
        batch.changed.extend(changed.into_iter().map(|key| key.0.clone()));
        true
    }
}

/// One transaction of etcd that does `batch`: itself if it is one, or else the steps of those without conditions, and the
/// others each within it. It does that only if nothing has changed that `frame` compares; what `frame` does comes last.
pub fn combined(batch: &[TxnRequest], frame: TxnRequest) -> TxnRequest {
    let mut request = match batch {
        [one] => one.clone(),
        _ => {
            let steps = batch.iter().flat_map(|one| match one.compare.is_empty() {
                true => one.success.clone(),
                false => vec![Operation::Txn(one.clone())],
            });
            TxnRequest { success: steps.collect(), ..TxnRequest::default() }
        }
    };
    request.compare.extend(frame.compare);
    request.success.extend(frame.success);
    request.failure.extend(frame.failure);
    request
}

/// What became of each transaction of `batch`, of which [`combined`] was done.
pub fn outcomes(reply: TxnReply, batch: &[TxnRequest]) -> Vec<Committed> {
    let header = reply.header;
    let is_done = |one: &TxnRequest| one.compare.is_empty() || batch.len() == 1;
    let mut replies = reply.responses.into_iter();
    let each = batch.iter().map(|one| {
        let steps = if is_done(one) { one.success.len() } else { 1 };
        let last = replies.by_ref().take(steps).last();
        let inner =
            last.and_then(|reply| reply.response_txn).map_or_else(Default::default, |reply| *reply);
        match is_done(one) || inner.succeeded {
            true => Committed::Done(header.revision),
            false => Committed::Conflict(TxnReply { header: header.clone(), ..inner }),
        }
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::etcd::gateway::{Header, OperationReply};

    /// Compares some keys, by their letters, and puts others.
    fn txn(compared: &str, put: &str) -> TxnRequest {
        let name = |letter: char| vec![letter as u8];
        TxnRequest {
            compare: compared.chars().map(|one| Compare::is_unchanged(name(one), 7)).collect(),
            success: put.chars().map(|one| Operation::put(name(one), name(one))).collect(),
            failure: compared.chars().map(|one| Operation::get(name(one), 0)).collect(),
        }
    }

    fn joined(transactions: &[TxnRequest]) -> Vec<bool> {
        let mut batch = Touched::default();
        transactions.iter().map(|one| one.join(&mut batch)).collect()
    }

    #[test]
    fn none_changes_what_another_one_touches() {
        assert_eq!(joined(&[txn("a", "a"), txn("b", "b"), txn("", "c")]), [true; 3]);
        assert_eq!(joined(&[txn("", "a"), txn("", "a")]), [true, false]);
        assert_eq!(joined(&[txn("a", "b"), txn("", "a")]), [true, false]);
        // Both of them in one revision would be neither order.
        assert_eq!(joined(&[txn("a", "b"), txn("b", "a")]), [true, false]);
        assert_eq!(joined(&[txn("a", "b"), txn("a", "c")]), [true, true]);
        let mut clear = txn("", "");
        clear.success.push(Operation::delete_range(b"a".to_vec(), b"b".to_vec()));
        assert_eq!(joined(&[clear, txn("", "x")]), [false, true]);
    }

    #[test]
    fn steps_and_bytes_are_within_what_etcd_takes() {
        let many = |count: usize, first: usize| TxnRequest {
            success: (first..first + count)
                .map(|number| Operation::put(number.to_string().into_bytes(), Vec::new()))
                .collect(),
            ..TxnRequest::default()
        };
        let most = ETCD_BATCH_STEPS_MAX;
        assert_eq!(joined(&[many(most, 0), txn("", "x")]), [true, false]);
        assert_eq!(joined(&[many(most - 1, 0), txn("a", "a")]), [true, false]);
        assert_eq!(joined(&[many(most - 2, 0), txn("a", "a")]), [true, true]);
        assert_eq!(joined(&[many(most + 1, 0)]), [false]);
        let long = |name: &str| TxnRequest {
            success: vec![Operation::put(name.into(), vec![0; ETCD_BATCH_BYTES_MAX / 2])],
            ..TxnRequest::default()
        };
        assert_eq!(joined(&[long("a"), long("b"), txn("", "c")]), [true, false, true]);
    }

    #[test]
    fn each_is_told_what_became_of_it() {
        let batch = [txn("", "ab"), txn("c", "c"), txn("d", "d")];
        let request = combined(&batch, txn("t", "t"));
        assert_eq!(request.success.len(), 5);
        assert_eq!((request.compare.len(), request.failure.len()), (1, 1));
        let inner = |succeeded| OperationReply {
            response_txn: Some(Box::new(TxnReply { succeeded, ..TxnReply::default() })),
            ..OperationReply::default()
        };
        let plain = OperationReply::default;
        let reply = TxnReply {
            header: Header { revision: 9 },
            succeeded: true,
            responses: vec![plain(), plain(), inner(false), inner(true), plain()],
        };
        let outcomes = outcomes(reply, &batch);
        let [Committed::Done(9), Committed::Conflict(conflict), Committed::Done(9)] = &outcomes[..]
        else {
            panic!("{outcomes:?}")
        };
        assert_eq!(conflict.header.revision, 9);
    }
}
