//! Finding keys: all of them, or those that begin alike.

use std::thread;

use super::Session;
use crate::entry::Entry;
use crate::keylist::KeyList;
use crate::limits::{KEYS_AT_ONCE, SHARDS};
use crate::memory::NoMemory;

impl Session<'_> {
    /// Hands `visit` every key that exists throughout and begins with `prefix`, with no shard locked. An error if
    /// there is no memory for copies of a shard's keys.
    ///
    /// Where a prefix is given, by an index, built by the first such search ([`Store::find`]); else each shard's
    /// keys are copied under its lock.
    ///
    /// [`Store::find`]: crate::store::Store::find
    pub fn keys(&mut self, prefix: &[u8], mut visit: impl FnMut(&[u8])) -> Result<(), NoMemory> {
        for number in 0..SHARDS {
            let store = &self.engine().store;
            // With shards locked no index may be locked any more.
            let found = (!prefix.is_empty() && self.held.is_none())
                .then(|| store.find(number, prefix, |newest| self.note(newest)));
            match found {
                Some(Ok(found)) => self.visit_existing(number, &found, &mut visit),
                // Without memory for an index it is a search as any other.
                Some(Err(NoMemory)) | None => self.visit_all(number, prefix, &mut visit)?,
            }
        }
        Ok(())
    }

    /// Visits those of `found` that exist in shard `number`, looking for [`KEYS_AT_ONCE`] at one moment.
    fn visit_existing(&mut self, number: usize, found: &KeyList, mut visit: impl FnMut(&[u8])) {
        let mut first = 0;
        loop {
            let end = found.len().min(first + KEYS_AT_ONCE);
            let mut exists = [false; KEYS_AT_ONCE];
            self.locked(number, |session, shard| {
                session.note(shard.newest());
                let store = &session.engine().store;
                for (key, exists) in found.iter_from(first).zip(&mut exists) {
                    *exists = session.live(shard.get(store.place(key), key)).is_some();
                }
            });
            let there = found.iter_from(first).zip(exists);
            there.filter(|(_, exists)| *exists).for_each(|(key, _)| visit(key));
            if end == found.len() {
                return;
            }
            first = end;
        }
    }

    /// Visits the keys of shard `number` that begin with `prefix`.
    fn visit_all(
        &mut self,
        number: usize,
        prefix: &[u8],
        visit: impl FnMut(&[u8]),
    ) -> Result<(), NoMemory> {
        let mut keys = KeyList::default();
        self.locked(number, |session, shard| {
            session.note(shard.newest());
            let mut live = shard.entries().filter(|entry| session.live(Some(entry)).is_some());
            let begins = |key: &&[u8]| key.starts_with(prefix);
            live.by_ref().map(Entry::key).filter(begins).try_for_each(|key| keys.push(key))
        })?;
        keys.iter_from(0).for_each(visit);
        if keys.len() >= KEYS_AT_ONCE {
            // Whoever waits for a processor need not wait until all shards are visited.
            thread::yield_now();
        }
        Ok(())
    }
}
