//! All that a server, an engine or a data file holds: the one form in which tests compare it.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use coffre::engine::local::Loaded;
use coffre::engine::{Key, Scope, Txn};

use crate::handle::{Access, Handle};
use crate::harness::{Client, Reply};
use crate::resp::request;

pub type Keys = BTreeMap<Vec<u8>, Vec<u8>>;

/// The keys of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Database {
    pub values: Keys,
    /// When those of them expire that do, in milliseconds of Unix time.
    pub expires_ms: BTreeMap<Vec<u8>, u64>,
}

/// Every database; for most tests, which know no other, the keys and values of database 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    first: Database,
    /// Those that are not empty.
    others: BTreeMap<usize, Database>,
}

impl State {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key.
    pub fn put(&mut self, database: usize, key: &[u8], value: Vec<u8>, expires_ms: Option<u64>) {
        let database = match database {
            0 => &mut self.first,
            other => self.others.entry(other).or_default(),
        };
        database.values.insert(key.to_vec(), value);
        if let Some(expires_ms) = expires_ms {
            database.expires_ms.insert(key.to_vec(), expires_ms);
        }
    }

    /// The keys of a database, if it has any.
    pub fn database(&self, number: usize) -> Option<&Database> {
        match number {
            0 => Some(&self.first).filter(|first| !first.values.is_empty()),
            other => self.others.get(&other),
        }
    }

    /// How many keys a database has.
    pub fn count(&self, database: usize) -> usize {
        self.database(database).map_or(0, |database| database.values.len())
    }
}

impl Deref for State {
    type Target = Keys;

    fn deref(&self) -> &Keys {
        &self.first.values
    }
}

impl DerefMut for State {
    fn deref_mut(&mut self) -> &mut Keys {
        &mut self.first.values
    }
}

impl FromIterator<(Vec<u8>, Vec<u8>)> for State {
    fn from_iter<I: IntoIterator<Item = (Vec<u8>, Vec<u8>)>>(pairs: I) -> Self {
        let first = Database { values: pairs.into_iter().collect(), ..Database::default() };
        Self { first, ..Self::default() }
    }
}

impl<const N: usize> From<[(Vec<u8>, Vec<u8>); N]> for State {
    fn from(pairs: [(Vec<u8>, Vec<u8>); N]) -> Self {
        pairs.into_iter().collect()
    }
}

/// What a server holds, a Redis too; the client is in database 0 afterwards.
pub fn dump(client: &mut Client) -> State {
    let mut state = State::new();
    let keyspace = String::from_utf8(client.line("INFO keyspace").into_bytes()).unwrap();
    let databases = keyspace
        .lines()
        .filter_map(|line| line.strip_prefix("db")?.split_once(':')?.0.parse::<usize>().ok());
    for database in databases {
        assert_eq!(client.line(&format!("SELECT {database}")), Reply::ok());
        let Reply::Array(keys) = client.line("KEYS *") else { panic!() };
        let keys: Vec<_> = keys.into_iter().map(Reply::into_bytes).collect();
        // One request after the other of a chunk that fits the socket's buffers: replies may wait until all is sent.
        for chunk in keys.chunks(500) {
            let ask =
                |key: &Vec<u8>| [request(&[b"GET", key]), request(&[b"PEXPIRETIME", key])].concat();
            client.send(&chunk.iter().flat_map(ask).collect::<Vec<u8>>());
            for key in chunk {
                let value = client.reply().into_bytes();
                let Reply::Integer(expires_ms) = client.reply() else { panic!("a time") };
                state.put(database, key, value, u64::try_from(expires_ms).ok());
            }
        }
    }
    assert_eq!(client.line("SELECT 0"), Reply::ok());
    state
}

/// What an engine in this process holds.
pub fn state(handle: &mut Handle<'_>) -> State {
    let mut state = State::new();
    // Most of 256 databases are empty, and some tests load thousands of files.
    let counts = handle.run(Scope::Each, |txn| txn.counts()).unwrap();
    for (database, _) in counts.iter().enumerate().filter(|(_, counts)| counts.keys > 0) {
        let mut keys = Vec::new();
        let mut list = |key: &[u8]| keys.push(key.to_vec());
        handle.run(Scope::Each, |txn| txn.keys(database, b"", &mut list)).unwrap();
        for bytes in &keys {
            let key = Key { database, bytes };
            handle
                .run(Scope::One(bytes), |txn| {
                    let entry = txn.peek(key)?.unwrap();
                    state.put(database, bytes, entry.value().to_vec(), entry.expires_ms());
                    Ok(())
                })
                .unwrap();
        }
    }
    handle.take_commit_point();
    state
}

/// What was loaded from a data file.
pub fn replayed(loaded: &Loaded) -> State {
    let mut state = State::new();
    for shard in loaded.store.each() {
        for database in 0..loaded.store.databases() {
            for entry in shard.entries(database) {
                state.put(database, entry.key(), entry.value().to_vec(), entry.expires_ms());
            }
        }
    }
    state
}
