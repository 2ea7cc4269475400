//! Single writes and reads on an engine in this process, each a transaction of its own or part of a larger one.

use coffre::engine::local::{LocalEngine, LocalSession, LocalTxn};
use coffre::engine::{Engine, Key, Scope, Txn, TxnError};
use coffre::journal::{CommitPoint, WriteRefused};
use coffre::value::View;

/// A connection's view of an engine, without the connection.
pub struct Handle<'e> {
    pub engine: &'e LocalEngine,
    session: LocalSession,
    pub database: usize,
}

/// The writes that tests make, on a database of their choice.
pub trait Writes {
    /// Makes one on the keys of `scope`.
    fn write<T>(
        &mut self,
        scope: Scope<'_>,
        write: impl FnMut(&mut LocalTxn<'_>) -> Result<T, TxnError>,
    ) -> Result<T, TxnError>;

    fn set(&mut self, key: Key<'_>, value: &[u8], expires_ms: Option<u64>) -> Result<(), TxnError> {
        self.write(Scope::One(key.bytes), |txn| txn.put(key, View::Short(value), expires_ms))
    }

    fn del(&mut self, database: usize, keys: &[&[u8]]) -> Result<usize, TxnError> {
        self.write(Scope::Many(keys), |txn| {
            let mut count = 0;
            for bytes in keys {
                count += usize::from(txn.delete(Key { database, bytes })?);
            }
            Ok(count)
        })
    }

    fn append(&mut self, key: Key<'_>, value: &[u8]) -> Result<usize, TxnError> {
        self.write(Scope::One(key.bytes), |txn| {
            let length = txn.get(key)?.map_or(0, |old| old.value().len());
            txn.splice(key, length, value)
        })
    }

    fn set_range(&mut self, key: Key<'_>, offset: usize, value: &[u8]) -> Result<usize, TxnError> {
        self.write(Scope::One(key.bytes), |txn| match value.is_empty() {
            true => Ok(txn.get(key)?.map_or(0, |old| old.value().len())),
            false => txn.splice(key, offset, value),
        })
    }

    fn expire(&mut self, key: Key<'_>, expires_ms: Option<u64>) -> Result<bool, TxnError> {
        self.write(Scope::One(key.bytes), |txn| txn.expire(key, expires_ms))
    }

    fn clear(&mut self, database: Option<usize>) -> Result<(), TxnError> {
        self.write(Scope::All, |txn| txn.clear(database))
    }

    fn swap(&mut self, one: usize, two: usize) -> Result<(), TxnError> {
        self.write(Scope::All, |txn| txn.swap(one, two))
    }
}

impl<'e> Handle<'e> {
    pub fn new(engine: &'e LocalEngine) -> Self {
        Self { engine, session: LocalSession::default(), database: 0 }
    }

    /// A key of the database that is selected.
    pub fn key<'k>(&self, bytes: &'k [u8]) -> Key<'k> {
        Key { database: self.database, bytes }
    }

    pub fn take_commit_point(&mut self) -> CommitPoint {
        self.engine.take_commit_point(&mut self.session)
    }

    pub fn commit_to(&mut self, point: CommitPoint) -> Result<(), WriteRefused> {
        self.engine.commit(&mut self.session, point)
    }

    /// Commits everything so far.
    pub fn commit(&mut self) -> Result<(), WriteRefused> {
        let point = self.take_commit_point();
        self.commit_to(point)
    }

    pub fn get(&mut self, key: Key<'_>) -> Option<Vec<u8>> {
        self.write(Scope::One(key.bytes), |txn| Ok(txn.get(key)?.map(|old| old.value().to_vec())))
            .unwrap()
    }
}

impl Writes for Handle<'_> {
    fn write<T>(
        &mut self,
        scope: Scope<'_>,
        write: impl FnMut(&mut LocalTxn<'_>) -> Result<T, TxnError>,
    ) -> Result<T, TxnError> {
        self.engine.run(&mut self.session, scope, write)
    }
}

/// Writes that are parts of one transaction on all keys.
pub struct Part<'t, 'e>(pub &'t mut LocalTxn<'e>);

impl Writes for Part<'_, '_> {
    fn write<T>(
        &mut self,
        _: Scope<'_>,
        mut write: impl FnMut(&mut LocalTxn<'_>) -> Result<T, TxnError>,
    ) -> Result<T, TxnError> {
        let savepoint = self.0.savepoint();
        let written = write(self.0);
        if written.is_err() {
            self.0.roll_back(savepoint);
        }
        written
    }
}
