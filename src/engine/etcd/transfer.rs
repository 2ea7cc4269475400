//! A whole keyspace out of a cluster and into it, for `coffre export` and `coffre import`.

use super::EtcdEngine;
use super::gateway::{Bytes, RangeRequest};
use super::layout::{Part, decode};
use crate::engine::{Engine, EngineError, EngineErrorKind, Entry, Key, Scope, Txn, TxnError};
use crate::limits::{ETCD_PAGE_KEYS, TOGETHER_BYTES_MAX, TOGETHER_MAX};
use crate::util::clock::unix_time_ms;

impl EtcdEngine {
    /// Visits every key that has not expired, with its database, all as they were at one revision, which is returned.
    pub fn export(&self, visit: &mut dyn FnMut(usize, Entry)) -> Result<u64, TxnError> {
        let (mut from, end) = self.layout().whole(Part::Values);
        let (mut revision, mut limit) = (0, ETCD_PAGE_KEYS);
        let now_ms = unix_time_ms();
        loop {
            let page = RangeRequest {
                key: Bytes(from.clone()),
                range_end: Some(Bytes(end.clone())),
                limit,
                revision,
                ..RangeRequest::default()
            };
            let reply = match self.slots.read(&page, self.slots.cluster.deadline()) {
                Ok(Some(reply)) => reply,
                Ok(None) => {
                    let reason =
                        "etcd compacted the revision that is exported: keep its history for longer";
                    return Err(EngineError::new(EngineErrorKind::Unavailable, reason).into());
                }
                // Long values: fewer keys fit in a reply.
                Err(error) if error.kind == EngineErrorKind::TooLarge && limit > 1 => {
                    limit /= 4;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if revision == 0 {
                revision = reply.header.revision;
            }
            for found in &reply.kvs {
                let Some((database, _, key)) = self.layout().parse(&found.key.0) else { continue };
                let entry = decode(key, &found.value.0)?;
                if let Some(entry) = entry.filter(|entry| !entry.is_expired(now_ms)) {
                    visit(database, entry);
                }
            }
            match reply.kvs.last() {
                Some(last) if reply.more => from = [&last.key.0[..], b"\0"].concat(),
                _ => return Ok(revision),
            }
        }
    }

    /// Sets keys of a database in as few transactions as fit, each of which is done as a whole; calls `done` with the
    /// number of keys after each.
    pub fn import(
        &self,
        database: usize,
        entries: &[&Entry],
        done: &mut dyn FnMut(usize),
    ) -> Result<(), TxnError> {
        let mut rest = entries;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(TOGETHER_MAX).take_while(|entry| {
                let before = bytes;
                bytes += entry.key().len() + entry.value().len();
                before < TOGETHER_BYTES_MAX
            });
            let (batch, after) = rest.split_at(fits.count());
            let keys: Vec<_> = batch.iter().map(|entry| entry.key()).collect();
            self.run::<_, TxnError>(&mut (), Scope::Many(&keys), |txn| {
                batch.iter().try_for_each(|entry| {
                    let key = Key { database, bytes: entry.key() };
                    txn.put(key, entry.value(), entry.expires_ms())
                })
            })?;
            done(batch.len());
            rest = after;
        }
        Ok(())
    }
}
