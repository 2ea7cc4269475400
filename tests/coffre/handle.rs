//! Single writes and reads on an engine in this process, each a transaction of its own or part of a larger one.

use coffre::engine::local::{LocalEngine, LocalSession, LocalTxn};
use coffre::engine::{Engine, Key, Scope, Txn, TxnError};
use coffre::journal::{CommitPoint, WriteRefused};
use coffre::value::View;

/// A connection's view of an engine, without the connection.
pub struct Handle<'e> {
    engine: &'e LocalEngine,
    session: LocalSession,
    /// The database that is selected.
    database: usize,
}

/// Part of a transaction on all keys, with the database that is selected.
pub struct Part<'t, 'e>(pub &'t mut LocalTxn<'e>, pub usize);

/// The writes and reads of tests, on the keys of one database.
pub trait Access {
    fn database(&self) -> usize;

    fn select(&mut self, database: usize);

    fn run<T>(
        &mut self,
        scope: Scope<'_>,
        body: impl FnMut(&mut LocalTxn<'_>) -> Result<T, TxnError>,
    ) -> Result<T, TxnError>;

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TxnError> {
        self.set_until(key, value, None)
    }

    fn set_until(
        &mut self,
        key: &[u8],
        value: &[u8],
        expires_ms: Option<u64>,
    ) -> Result<(), TxnError> {
        self.on(key, |txn, key| txn.put(key, View::Short(value), expires_ms))
    }

    fn del(&mut self, keys: &[&[u8]]) -> Result<usize, TxnError> {
        let database = self.database();
        self.run(Scope::Many(keys), |txn| {
            let mut count = 0;
            for bytes in keys {
                count += usize::from(txn.delete(Key { database, bytes })?);
            }
            Ok(count)
        })
    }

    fn append(&mut self, key: &[u8], value: &[u8]) -> Result<usize, TxnError> {
        self.on(key, |txn, key| {
            let length = txn.get(key)?.map_or(0, |old| old.value().len());
            txn.splice(key, length, value)
        })
    }

    fn set_range(&mut self, key: &[u8], offset: usize, value: &[u8]) -> Result<usize, TxnError> {
        self.on(key, |txn, key| match value.is_empty() {
            true => Ok(txn.get(key)?.map_or(0, |old| old.value().len())),
            false => txn.splice(key, offset, value),
        })
    }

    fn expire(&mut self, key: &[u8], expires_ms: Option<u64>) -> Result<bool, TxnError> {
        self.on(key, |txn, key| txn.expire(key, expires_ms))
    }

    /// Deletes the keys of this database, or of all.
    fn flush(&mut self, all: bool) -> Result<(), TxnError> {
        let database = (!all).then_some(self.database());
        self.run(Scope::All, |txn| txn.clear(database))
    }

    fn swap(&mut self, one: usize, two: usize) -> Result<(), TxnError> {
        self.run(Scope::All, |txn| txn.swap(one, two))
    }

    fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.on(key, |txn, key| Ok(txn.get(key)?.map(|old| old.value().to_vec()))).unwrap()
    }

    /// Visits the keys of this database that begin with `prefix`.
    fn keys(&mut self, prefix: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<(), TxnError> {
        let database = self.database();
        self.run(Scope::Each, |txn| txn.keys(database, prefix, visit))
    }

    fn on<T>(
        &mut self,
        key: &[u8],
        mut body: impl FnMut(&mut LocalTxn<'_>, Key<'_>) -> Result<T, TxnError>,
    ) -> Result<T, TxnError> {
        let key = Key { database: self.database(), bytes: key };
        self.run(Scope::One(key.bytes), |txn| body(txn, key))
    }
}

impl<'e> Handle<'e> {
    pub fn new(engine: &'e LocalEngine) -> Self {
        Self { engine, session: LocalSession::default(), database: 0 }
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
}

impl Access for Handle<'_> {
    fn database(&self) -> usize {
        self.database
    }

    fn select(&mut self, database: usize) {
        self.database = database;
    }

    fn run<T>(
        &mut self,
        scope: Scope<'_>,
        body: impl FnMut(&mut LocalTxn<'_>) -> Result<T, TxnError>,
    ) -> Result<T, TxnError> {
        self.engine.run(&mut self.session, scope, body)
    }
}

impl Access for Part<'_, '_> {
    fn database(&self) -> usize {
        self.1
    }

    fn select(&mut self, database: usize) {
        self.1 = database;
    }

    fn run<T>(
        &mut self,
        _: Scope<'_>,
        mut body: impl FnMut(&mut LocalTxn<'_>) -> Result<T, TxnError>,
    ) -> Result<T, TxnError> {
        body(self.0)
    }
}
