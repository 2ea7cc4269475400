//! Keys of a database listed, counted, or chosen at random, by a transaction: pages of names, all at its revision.

use std::collections::BTreeMap;

use super::changes::View;
use super::gateway::{Bytes, KeyValue, RangeReply, RangeRequest};
use super::layout::{Part, decode_time};
use super::txn::EtcdTxn;
use crate::engine::{Counts, Entry, Key, Scope, Txn, TxnError};
use crate::limits::{ETCD_PAGE_KEYS, ETCD_READS_MAX, work};
use crate::util::random::random;

/// Keys, each with its hash, and the hash of the next.
type Page = (Vec<(u64, Vec<u8>)>, Option<u64>);

impl EtcdTxn<'_> {
    /// Reads ranges at the transaction's revision.
    fn read_ranges(&mut self, mut ranges: Vec<RangeRequest>) -> Result<Vec<RangeReply>, TxnError> {
        ranges.iter_mut().for_each(|range| range.revision = self.revision);
        let Some(reply) = self.engine.slots.read_ranges(ranges.iter(), self.deadline)? else {
            return Err(self.went_stale());
        };
        if self.revision == 0 {
            self.revision = reply.revision;
        }
        Ok(reply.ranges)
    }

    /// The transaction depends on which keys a database has.
    fn depend_on_all(&mut self, database: usize) {
        if !matches!(self.scope, Scope::Each) && !self.ranges.contains(&database) {
            self.ranges.push(database);
        }
    }

    /// A page of the keys of a database, in the transaction's eyes: those whose hash is not below `first`, about `count`
    /// of them, by hash; and the hash of the next one, if there are more.
    pub(super) fn page(
        &mut self,
        database: usize,
        first: u64,
        count: u64,
    ) -> Result<Page, TxnError> {
        self.depend_on_all(database);
        let (mut stored, mut next) = (Vec::new(), None);
        if !self.views.is_cleared(database) {
            (stored, next) = self.stored_page(database, first, count)?;
        }
        let is_here = |hash: u64| hash >= first && next.is_none_or(|next| hash < next);
        let layout = self.engine.layout();
        let written = self.views.of(database).into_iter().flat_map(|view| &view.writes);
        let written: Vec<_> = written
            .map(|(key, entry)| (layout.hash(key), key.clone(), entry.clone()))
            .filter(|(hash, ..)| is_here(*hash))
            .collect();
        let view = self.views.of(database);
        stored.retain(|(_, key)| !view.is_some_and(|view| view.writes.contains_key(key)));
        for (hash, key, entry) in written {
            if entry.is_some_and(|entry| self.is_live(&entry)) {
                stored.push((hash, key));
            }
        }
        stored.sort_unstable_by_key(|(hash, _)| *hash);
        self.charge(work::LISTED_KEY * stored.len() as u64)?;
        Ok((stored, next))
    }

    /// The same of what is stored. All keys of one hash are on one page.
    fn stored_page(&mut self, database: usize, first: u64, count: u64) -> Result<Page, TxnError> {
        let mut limit = count.max(1) + 1;
        loop {
            let range = |part| {
                let (start, end) = self.engine.layout().range_from(part, database, first);
                RangeRequest {
                    key: Bytes(start),
                    range_end: Some(Bytes(end)),
                    limit,
                    keys_only: part == Part::Values,
                    ..RangeRequest::default()
                }
            };
            // Keys that expire are some of all keys: so many of them reach as far.
            let read = self.read_ranges(vec![range(Part::Values), range(Part::Times)])?;
            let [values, times] = &read[..] else { return Err(self.went_stale()) };
            let layout = self.engine.layout();
            let now_ms = self.now_ms();
            let parsed = |read: &KeyValue| {
                layout.parse(&read.key.0).map(|(_, hash, key)| (hash, key.to_vec()))
            };
            let mut keys: Vec<_> = values.kvs.iter().filter_map(parsed).collect();
            let mut next = None;
            if values.more {
                next = keys.last().map(|(hash, _)| *hash);
                keys.retain(|(hash, _)| next.is_none_or(|next| *hash < next));
                if keys.is_empty() {
                    // More keys have this hash than fit on the page.
                    limit *= 2;
                    continue;
                }
            }
            let has_expired = |read: &&KeyValue| {
                decode_time(&read.value.0).is_some_and(|time_ms| time_ms <= now_ms)
            };
            for (_, expired) in times.kvs.iter().filter(has_expired).filter_map(parsed) {
                keys.retain(|(_, key)| *key != expired);
            }
            return Ok((keys, next));
        }
    }

    /// Visits every key of a database.
    pub(super) fn each(
        &mut self,
        database: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), TxnError> {
        let mut first = 0;
        loop {
            let (keys, next) = self.page(database, first, ETCD_PAGE_KEYS)?;
            keys.iter().for_each(|(_, key)| visit(key));
            match next {
                Some(next) => first = next,
                None => return Ok(()),
            }
        }
    }

    /// Visits a random one of the keys that follow a random hash: each with nearly the same probability.
    pub(super) fn any_key(
        &mut self,
        database: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, TxnError> {
        const AROUND: u64 = 100;
        let random = random();
        for first in [random >> (u64::BITS - super::layout::HASH_BITS), 0] {
            let mut first = Some(first);
            while let Some(from) = first {
                let (keys, next) = self.page(database, from, AROUND)?;
                if let Some((_, key)) = keys.get(random as usize % keys.len().max(1)) {
                    visit(key);
                    return Ok(true);
                }
                // All on this page have expired.
                first = next;
            }
        }
        Ok(false)
    }

    /// What each database holds.
    pub(super) fn count(&mut self) -> Result<Vec<Counts>, TxnError> {
        const PER_REQUEST: usize = ETCD_READS_MAX / 3;
        let all: Vec<_> = (0..self.engine.databases).collect();
        let mut counts = Vec::new();
        for databases in all.chunks(PER_REQUEST) {
            let ranges = databases.iter().flat_map(|database| {
                let range = |part, is_sample: bool| {
                    let (start, end) = self.engine.layout().range(part, *database..*database + 1);
                    RangeRequest {
                        key: Bytes(start),
                        range_end: Some(Bytes(end)),
                        count_only: !is_sample,
                        limit: if is_sample { ETCD_PAGE_KEYS } else { 0 },
                        ..RangeRequest::default()
                    }
                };
                [range(Part::Values, false), range(Part::Times, false), range(Part::Times, true)]
            });
            let read = self.read_ranges(ranges.collect())?;
            for (database, read) in databases.iter().zip(read.chunks(3)) {
                let [keys, expiring, sample] = read else { return Err(self.went_stale()) };
                self.depend_on_all(*database);
                counts.push(match self.views.is_cleared(*database) {
                    true => Counts::default(),
                    false => counted(keys.count, expiring.count, &sample.kvs),
                });
            }
        }
        let written: BTreeMap<usize, View> =
            self.views.iter().map(|(database, view)| (database, view.clone())).collect();
        for (database, view) in written {
            for (bytes, entry) in view.writes {
                let old = match view.is_cleared {
                    true => None,
                    false => self.stored(Key { database, bytes: &bytes })?.entry,
                };
                old.iter().for_each(|old| add(&mut counts[database], old, false));
                entry.iter().for_each(|entry| add(&mut counts[database], entry, true));
            }
        }
        Ok(counts)
    }
}

/// What a database holds; the mean of the times is that of a sample, and a sample by hash is a random one.
fn counted(keys: u64, expiring: u64, sample: &[KeyValue]) -> Counts {
    let times = sample.iter().filter_map(|read| decode_time(&read.value.0)).map(u128::from);
    let sum_ms: u128 = times.sum();
    let expiry_sum_ms = sum_ms * u128::from(expiring) / (sample.len().max(1) as u128);
    Counts { keys: keys as usize, expiring: expiring as usize, expiry_sum_ms }
}

/// Adds an entry to `counts`, or takes it off.
fn add(counts: &mut Counts, entry: &Entry, is_added: bool) {
    let expires_ms = entry.expires_ms().map(u128::from);
    let (expiring, sum_ms) = (usize::from(expires_ms.is_some()), expires_ms.unwrap_or(0));
    if is_added {
        counts.keys += 1;
        counts.expiring += expiring;
        counts.expiry_sum_ms += sum_ms;
    } else {
        counts.keys = counts.keys.saturating_sub(1);
        counts.expiring = counts.expiring.saturating_sub(expiring);
        counts.expiry_sum_ms = counts.expiry_sum_ms.saturating_sub(sum_ms);
    }
}
