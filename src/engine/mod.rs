//! The seam between commands and data: an [`Engine`] runs transactions, a [`Txn`] is one of them.
//!
//! A command reads and changes keys through a `Txn` and knows nothing of locks, undo, records or commit points.
//! [`local`] is the engine of one machine: shards in memory, a journal on disk. [`etcd`] is that of several: a cluster
//! keeps the keys.

mod entry;
pub mod etcd;
pub mod local;

use std::sync::Arc;

use crate::journal::{CommitCallback, CommitPoint, WriteRefused};
use crate::util::memory::NoMemory;
use crate::value::{Value, View};

pub use entry::{Entry, EntryId};

/// Runs transactions on keys and values, and says when what they wrote is durable.
pub trait Engine: Admin + Sized + 'static {
    /// A transaction under way.
    type Txn<'e>: Txn<Watched = Self::Watched>;
    /// What `WATCH` remembers of a key.
    type Watched: Send + 'static;
    /// What a connection keeps from one transaction to the next: buffers, where its `SCAN` is.
    type Session: Default + Send;

    /// Whether keys are kept in a data file of this machine. Where they are not, what a command says of
    /// [files](Admin::save) has no meaning.
    const KEEPS_FILE: bool = true;
    /// Whether it gains by several requests in one transaction.
    const LIKES_FEW_TRANSACTIONS: bool = false;

    /// Runs `body` as one transaction: all of its changes are visible together, and found together after a crash, or
    /// none where it returns an error.
    ///
    /// An engine that finds a conflict at the end runs `body` again: whatever it does outside of the transaction must
    /// begin anew each time. A body that neither reads nor changes keys is run once. It may see keys of different moments
    /// before a conflict is found, and return an error because of that: then it is run again, too.
    fn run<T, E: From<TxnError>>(
        &self,
        session: &mut Self::Session,
        scope: Scope<'_>,
        body: impl FnMut(&mut Self::Txn<'_>) -> Result<T, E>,
    ) -> Result<T, E>;

    /// What to wait for before the replies to the transactions since the last call may leave the server.
    fn take_commit_point(&self, session: &mut Self::Session) -> CommitPoint;

    /// Whether everything up to `point` is committed.
    fn is_committed(&self, point: CommitPoint) -> bool;

    /// Whether a session keeps so much undo that a commit is due.
    fn is_commit_due(&self, session: &Self::Session) -> bool;

    /// Waits until everything up to `point` is committed.
    fn commit(&self, session: &mut Self::Session, point: CommitPoint) -> Result<(), WriteRefused>;

    /// Registers `callback` to run once everything up to `point` is committed or aborted, if another thread is about to
    /// commit it. If `may_gather` that may be a thread of the engine, which gathers what many clients wrote. `false` leaves
    /// it to [`commit`](Self::commit).
    fn on_commit(
        &self,
        session: &mut Self::Session,
        point: CommitPoint,
        callback: &Arc<dyn CommitCallback>,
        may_gather: bool,
    ) -> bool;
}

/// One transaction: reads see its own changes.
///
/// Keys are those of the [`Scope`] that the transaction was started with.
pub trait Txn {
    /// What `WATCH` remembers of a key.
    type Watched;
    /// A state of the transaction.
    type Savepoint: Copy;

    /// The transaction's time, in milliseconds of Unix time: the same throughout.
    fn now_ms(&mut self) -> u64;

    /// Whether it may touch a key that its scope does not name, or any key at all.
    fn reaches(&self, _key: Option<Key<'_>>) -> bool {
        true
    }

    /// The entry of a key that has not expired. It counts as an access.
    fn get(&mut self, key: Key<'_>) -> Result<Option<&Entry>, TxnError>;

    /// The same, but no access.
    fn peek(&mut self, key: Key<'_>) -> Result<Option<&Entry>, TxnError>;

    /// Seconds since the last access to a key that exists: a lower bound.
    fn idle_s(&mut self, key: Key<'_>) -> Result<Option<u32>, TxnError>;

    /// Sets a key. One that would have expired already is deleted.
    fn put(
        &mut self,
        key: Key<'_>,
        value: View<'_>,
        expires_ms: Option<u64>,
    ) -> Result<(), TxnError>;

    /// Writes `bytes`, at most [`VALUE_BLOCK_BYTES`](crate::limits::VALUE_BLOCK_BYTES) of them, at `offset` of a value,
    /// which grows by NULs as needed; returns its new length in bytes. A key that is missing is created.
    fn splice(&mut self, key: Key<'_>, offset: usize, bytes: &[u8]) -> Result<usize, TxnError>;

    /// Replaces the value of a key, or creates it, by `value`, which differs from the old one, or from nothing, only in
    /// `part`.
    fn put_part(
        &mut self,
        key: Key<'_>,
        value: &Value,
        part: std::ops::Range<usize>,
    ) -> Result<(), TxnError>;

    /// Changes when a key expires, or that it never does; `false` if there is no such key. A time that has passed
    /// deletes it.
    fn expire(&mut self, key: Key<'_>, expires_ms: Option<u64>) -> Result<bool, TxnError>;

    /// Deletes a key; `false` if there is none.
    fn delete(&mut self, key: Key<'_>) -> Result<bool, TxnError>;

    /// Deletes every key of a database, or of all. For [`Scope::All`].
    fn clear(&mut self, database: Option<usize>) -> Result<(), TxnError>;

    /// Exchanges the keys of two databases. For [`Scope::All`].
    fn swap(&mut self, one: usize, two: usize) -> Result<(), TxnError>;

    /// Visits the keys of a database that begin with `prefix`: each that exists throughout, once.
    fn keys(
        &mut self,
        database: usize,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), TxnError>;

    /// Visits about `count` keys of a database from `cursor` on and returns the next cursor; 0 is the beginning and
    /// the end. From one to the other each key that exists throughout is visited once.
    fn scan(
        &mut self,
        database: usize,
        cursor: u64,
        count: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, TxnError>;

    /// Visits a key of a database, each with the same probability; `false` if it is empty.
    fn random_key(
        &mut self,
        database: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, TxnError>;

    /// What each database holds.
    fn counts(&mut self) -> Result<Vec<Counts>, TxnError>;

    /// Begins to watch a key.
    fn watch(&mut self, key: Key<'_>) -> Result<Self::Watched, TxnError>;

    /// Whether a watched key was modified since. One that expired meanwhile counts as modified.
    fn is_modified(&mut self, key: Key<'_>, watched: &Self::Watched) -> Result<bool, TxnError>;

    /// Counts about `work_ns` nanoseconds of work that others wait for; an error once it is too much for one
    /// transaction. No clock is read: the same transaction on the same keys always fits or never.
    fn charge(&mut self, work_ns: u64) -> Result<(), TxnError>;

    /// The transaction neither reads nor changes anything from here on: others need not wait for its end.
    fn release(&mut self);

    /// The state so far, to [roll back](Self::roll_back) to.
    fn savepoint(&mut self) -> Self::Savepoint;

    /// Undoes everything since `savepoint`.
    fn roll_back(&mut self, savepoint: Self::Savepoint);
}

/// A key of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key<'k> {
    /// The number of the database, below [`Admin::databases`].
    pub database: usize,
    /// The key itself.
    pub bytes: &'k [u8],
}

/// The keys that a transaction may touch.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'k> {
    /// One key, whatever its database.
    One(&'k [u8]),
    /// Several keys.
    Many(&'k [&'k [u8]]),
    /// Any key, but only to read them one after the other: not all at one moment.
    Each,
    /// Every key at one moment.
    All,
}

/// What a database holds. Keys that have expired and are not deleted yet count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Keys.
    pub keys: usize,
    /// Those of them that expire.
    pub expiring: usize,
    /// The sum of the times at which they do, in milliseconds of Unix time.
    pub expiry_sum_ms: u128,
}

impl Counts {
    /// The mean time until its keys expire, in milliseconds; 0 if none does.
    pub fn average_ttl_ms(&self, now_ms: u64) -> u64 {
        let average_ms = self.expiry_sum_ms.checked_div(self.expiring as u128).unwrap_or(0);
        // An expired key that is not deleted yet must not count below zero.
        u64::try_from(average_ms.saturating_sub(u128::from(now_ms))).unwrap_or(u64::MAX)
    }
}

/// Why a transaction was not run. Memory and file are as they were.
#[derive(Debug, thiserror::Error)]
pub enum TxnError {
    /// The engine takes no writes.
    #[error(transparent)]
    Refused(#[from] WriteRefused),
    /// The system has no memory for it.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// It would hold up others for too long.
    #[error("it would keep its keys locked for too long")]
    TooMuchWork,
    /// What the engine stands on does not do it.
    #[error(transparent)]
    Failed(#[from] EngineError),
}

/// Why what an engine stands on did not do what was asked of it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct EngineError {
    /// What follows from it.
    pub kind: EngineErrorKind,
    /// A sentence for people.
    pub reason: Arc<str>,
}

/// What follows from an [`EngineError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineErrorKind {
    /// It cannot be reached, or has no majority: nothing was changed.
    Unavailable,
    /// Other transactions changed the same keys again and again: nothing was changed.
    Contended,
    /// It has no room for more: nothing was changed.
    Full,
    /// A transaction was sent, and whether it was done cannot be found out.
    OutcomeUnknown,
    /// It never takes so much in one transaction, or so long a value.
    TooLarge,
}

impl EngineError {
    /// An error of this kind.
    pub fn new(kind: EngineErrorKind, reason: impl Into<Arc<str>>) -> Self {
        Self { kind, reason: reason.into() }
    }
}

/// What is asked of an engine beside transactions. None of it is on the path of an ordinary command.
pub trait Admin: Send + Sync {
    /// Number of databases.
    fn databases(&self) -> usize;

    /// Whether writes are taken.
    fn check_writes(&self) -> Result<(), WriteRefused>;

    /// How the engine is, for `INFO` and metrics. It waits for no transaction: a command calls it in its own.
    fn status(&self) -> Status;

    /// Number of keys when all that was written was last durable. Not to be called in a transaction.
    fn committed_keys(&self) -> usize;

    /// Makes everything written so far durable.
    fn save(&self) -> Result<(), WriteRefused>;

    /// Asks for a compaction; `false` if one is asked for or under way already.
    fn request_compaction(&self) -> bool;

    /// Asks for a compaction after the one that is under way.
    fn schedule_compaction(&self);

    /// Whether expired keys are deleted, or only hidden.
    fn set_active_expiry(&self, is_active: bool);

    /// Counts expired keys from zero again.
    fn reset_expired(&self);

    /// Compares what is on disk with what is in memory. The error is a sentence for people.
    fn verify(&self) -> Result<(), VerifyError>;

    /// Panics in the middle of its work at `place`, for tests of what a panic does.
    fn panic_at(&self, place: PanicAt) -> !;

    /// After a panic of a client's thread: ends the process if that left a lock behind.
    fn assert_sound(&self);

    /// What only this kind of engine has to tell.
    fn figures(&self) -> Vec<Figure> {
        Vec::new()
    }
}

/// A fact about an engine, for `INFO` and metrics.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Its name, without a prefix.
    pub name: &'static str,
    /// As it is shown to people.
    pub shown: String,
    /// As a number, if it is one.
    pub number: Option<f64>,
    /// What it is, if it is a number.
    pub help: &'static str,
}

/// Where [`Admin::panic_at`] panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicAt {
    /// With keys locked.
    Keys,
    /// With the journal locked.
    Journal,
}

/// Why [`Admin::verify`] failed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Not everything is durable.
    #[error(transparent)]
    Refused(#[from] WriteRefused),
    /// What is on disk is not what is in memory.
    #[error("{0}")]
    Different(String),
}

/// How an engine is.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Keys deleted because they had expired.
    pub expired: u64,
    /// Why writes are refused, if they are.
    pub fault: Option<WriteRefused>,
    /// Length of the data file, in bytes.
    pub file_bytes: u64,
    /// How much of it is superseded, in bytes.
    pub garbage_bytes: u64,
    /// How often the data file was repaired.
    pub repairs: u64,
    /// How compaction stands.
    pub compaction: CompactionStatus,
}

/// How compaction stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompactionStatus {
    /// It is asked for and has not begun.
    pub is_requested: bool,
    /// It is under way.
    pub is_running: bool,
    /// The last one failed.
    pub has_failed: bool,
    /// How long the last one took.
    pub took: Option<std::time::Duration>,
    /// When everything was last known to be durable, at first the start: Unix time in seconds.
    pub saved_s: u64,
}
