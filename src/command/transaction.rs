//! Transactions: `MULTI` begins to keep requests, `EXEC` runs them all at one moment, unless a key that `WATCH`
//! named was modified.
//!
//! They are one transaction of the engine: no other client sees half, and no crash leaves half. Whether writes are taken,
//! and whether memory is at its bound, is asked once, for all of them. A request that fails changes nothing, and the
//! others are run all the same, as Redis does; but one that memory, time or the length of the reply does not allow ends
//! the whole transaction, of which nothing is left then. The few that act on more than keys, and would not do the same
//! again, follow the transaction: the engine may run it several times.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::error::Code;
use super::spec::{Flag, Group, Spec};
use super::table::body_of;
use super::{
    Before, Call, CommandError, CommandRef, ConnectionState, Context, Detour, LongArguments,
    Outcome, may_touch_any, may_write, record,
};
use crate::engine::{Admin, Engine, Key, Scope, Txn};
use crate::limits::{TRANSACTION_BYTES_SURE, WATCH_BYTES_MAX, work};
use crate::protocol::reply::Replies;
use crate::protocol::request::{QueuedRequest, Request};
use crate::server::{BurstStats, Client, Control};
use crate::util::buffer::Buffer;
use crate::util::memory::{self, NoMemory};

type Result<T = ()> = std::result::Result<T, CommandError>;

/// What `MULTI` and `WATCH` began.
pub struct Transaction<E: Engine> {
    /// The requests to run, since `MULTI`.
    queue: Option<Queue>,
    /// The keys that are watched, with their databases.
    watched: Watched<E>,
    /// About how much memory they take, in bytes.
    watched_bytes: usize,
}

type Watched<E> = HashMap<(usize, Vec<u8>), <E as Engine>::Watched>;

impl<E: Engine> Default for Transaction<E> {
    fn default() -> Self {
        Self { queue: None, watched: HashMap::new(), watched_bytes: 0 }
    }
}

#[derive(Debug, Default)]
struct Queue {
    requests: Vec<(CommandRef, QueuedRequest)>,
    /// How much memory they take, in bytes.
    bytes: usize,
    /// One could not be queued: `EXEC` runs none.
    is_broken: bool,
}

impl<E: Engine> Transaction<E> {
    /// Whether requests are kept.
    pub fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// How many requests are queued, if `MULTI` was called.
    pub fn length(&self) -> Option<usize> {
        self.queue.as_ref().map(|queue| queue.requests.len())
    }

    /// Whether one of them may change keys.
    pub fn writes(&self) -> bool {
        let requests = self.queue.iter().flat_map(|queue| &queue.requests);
        requests.into_iter().any(|(command, _)| may_write(command))
    }

    /// Marks the transaction as wrong: `EXEC` runs none of its requests.
    pub fn spoil(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.is_broken = true;
        }
    }
}

/// Whether a command is run though a transaction has begun.
fn is_run_at_once(command: CommandRef) -> bool {
    matches!(command.full_name(), "multi" | "exec" | "discard" | "watch" | "quit" | "reset")
}

/// Whether a command acts on more than keys and would not do the same again: `EXEC` runs it after its transaction, which
/// the engine may run several times or not at all.
fn is_run_after(command: CommandRef) -> bool {
    matches!(command.full_name(), "auth" | "bgrewriteaof" | "bgsave" | "client|kill")
}

/// Keeps a request for `EXEC`, if a transaction has begun; says whether it did.
pub fn keep<E: Engine>(
    command: CommandRef,
    request: &Request<'_>,
    context: &mut Context<'_, E>,
) -> Result<bool> {
    let most = context.control.config.max_request;
    let Some(queue) = &mut context.transaction.queue else { return Ok(false) };
    if is_run_at_once(command) {
        return Ok(false);
    }
    if command.flags.contains(Flag::NoMulti) {
        return Err(CommandError::NOT_IN_MULTI);
    }
    let kept = QueuedRequest::new(request).map_err(|_| CommandError::NO_MEMORY)?;
    queue.bytes += kept.bytes();
    if queue.bytes > most || queue.bytes > TRANSACTION_BYTES_SURE && !memory::has_room(kept.bytes())
    {
        queue.bytes -= kept.bytes();
        return Err(CommandError::NO_MEMORY);
    }
    queue.requests.try_reserve(1).map_err(|_| CommandError::NO_MEMORY)?;
    queue.requests.push((command, kept));
    context.replies.status("QUEUED");
    Ok(true)
}

pub const MULTI: Spec = Spec::new(Group::Transactions, "1.2.0", "MULTI")
    .flags(&[Flag::Fast])
    .summary("Begins a transaction: what follows is kept until EXEC.")
    .example("MULTI");

pub fn multi<E: Engine>(context: &mut Context<'_, E>, _request: &Request<'_>) -> Result {
    let queue = &mut context.transaction.queue;
    if queue.is_some() {
        return Err(CommandError::err("MULTI calls can not be nested"));
    }
    *queue = Some(Queue::default());
    context.replies.status("OK");
    Ok(())
}

pub const DISCARD: Spec = Spec::new(Group::Transactions, "2.0.0", "DISCARD")
    .flags(&[Flag::Fast])
    .summary("Forgets what was kept.")
    .example("DISCARD");

pub fn discard<E: Engine>(context: &mut Context<'_, E>, _request: &Request<'_>) -> Result {
    if !context.transaction.is_open() {
        return Err(CommandError::err("DISCARD without MULTI"));
    }
    *context.transaction = Transaction::default();
    context.replies.status("OK");
    Ok(())
}

pub const WATCH: Spec = Spec::new(Group::Transactions, "2.2.0", "WATCH key [key ...]")
    .flags(&[Flag::Fast])
    .summary("Lets EXEC do nothing if somebody changes one of the keys.")
    .example("WATCH ville");

pub fn watch<E: Engine>(context: &mut Context<'_, E>, request: &Request<'_>) -> Result {
    // In this table, and in the engine's.
    const ENTRY_BYTES: usize = 256;
    let transaction = &mut *context.transaction;
    if transaction.is_open() {
        return Err(CommandError::err("WATCH inside MULTI is not allowed"));
    }
    let no_memory = |NoMemory| CommandError::NO_MEMORY;
    let too_many = || CommandError::err("too many keys are watched, or too long ones");
    let database = context.connection.database;
    let mut keys = Buffer::default();
    request.words_from(1).try_for_each(|key| keys.push(key)).map_err(no_memory)?;
    keys.sort_and_dedup();
    let mut bytes = transaction.watched_bytes;
    let mut new = Buffer::default();
    for key in keys.iter() {
        if key.len() > WATCH_BYTES_MAX {
            return Err(too_many());
        }
        let place = (database, memory::copy(key, key.len()).map_err(no_memory)?);
        if transaction.watched.contains_key(&place) {
            continue;
        }
        bytes += key.len() + ENTRY_BYTES;
        if bytes > WATCH_BYTES_MAX {
            return Err(too_many());
        }
        if bytes > TRANSACTION_BYTES_SURE && !memory::has_room(bytes - transaction.watched_bytes) {
            return Err(CommandError::MAX_MEMORY);
        }
        new.push(place).map_err(no_memory)?;
    }
    let watched = &mut transaction.watched;
    watched.try_reserve(new.len()).map_err(|_| CommandError::NO_MEMORY)?;
    let mut seen = Buffer::with_capacity(new.len()).map_err(no_memory)?;
    context.engine.run(context.session, Scope::Many(&keys), |txn| {
        seen.clear();
        for (database, bytes) in new.iter() {
            let key = Key { database: *database, bytes };
            seen.push(txn.watch(key)?).map_err(no_memory)?;
        }
        Ok::<_, CommandError>(())
    })?;
    while let (Some(place), Some(seen)) = (new.pop(), seen.pop()) {
        watched.insert(place, seen);
    }
    transaction.watched_bytes = bytes;
    context.replies.status("OK");
    Ok(())
}

pub const UNWATCH: Spec = Spec::new(Group::Transactions, "2.2.0", "UNWATCH")
    .flags(&[Flag::Fast])
    .summary("Forgets what is watched.")
    .example("UNWATCH");

pub fn unwatch<E: Engine>(context: &mut Context<'_, E>, _request: &Request<'_>) -> Result {
    let queue = context.transaction.queue.take();
    *context.transaction = Transaction { queue, ..Transaction::default() };
    context.replies.status("OK");
    Ok(())
}

/// In `EXEC` nothing is watched any more.
pub fn unwatch_in_exec<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.replies.status("OK");
    Ok(())
}

pub const EXEC: Spec = Spec::new(Group::Transactions, "1.2.0", "EXEC")
    .summary("Runs what was kept, all at one moment.")
    .example("EXEC");

pub fn exec<E: Engine>(context: &mut Context<'_, E>, _request: &Request<'_>) -> Result {
    if !context.transaction.is_open() {
        return Err(CommandError::err("EXEC without MULTI"));
    }
    let Transaction { queue, watched, .. } = std::mem::take(context.transaction);
    let queue = queue.unwrap_or_default();
    if queue.is_broken {
        let text = "Transaction discarded because of previous errors.";
        return Err(CommandError::new(Code::ExecAbort, text));
    }
    // Decided once, for all of them.
    if queue.is_any(Flag::Denyoom) && memory::is_full() {
        return Err(aborted_by(&CommandError::MAX_MEMORY));
    }
    let before = context.connection.database;
    let mut ran = Buffer::default();
    let done = run_queue(&queue, &watched, &mut ran, context);
    let Context { connection, client, control, stats, .. } = context;
    if done.is_err() {
        connection.database = before;
    }
    client.database.store(connection.database, Ordering::Relaxed);
    for ((command, kept), Ran { failed, took }) in queue.requests.iter().zip(ran.iter()) {
        let outcome = Outcome::Ran { command, failed: *failed };
        record(&outcome, &kept.request(), *took, client, control, stats);
    }
    done.map_err(|error| match error {
        aborted if aborted.code() == Code::ExecAbort => aborted,
        // It cannot be said that it was discarded.
        unknown if unknown.code() == Code::Unknown => unknown,
        error => aborted_by(&error),
    })
}

/// How a request of a transaction went.
pub struct Ran {
    /// By which error, if it did.
    pub failed: Option<Code>,
    took: Duration,
}

/// Runs all requests in one transaction, but for some that follow it; says in `ran` how those went that were run.
fn run_queue<E: Engine>(
    queue: &Queue,
    watched: &Watched<E>,
    ran: &mut Buffer<Ran>,
    context: &mut Context<'_, E>,
) -> Result {
    let no_memory = |NoMemory| CommandError::NO_MEMORY;
    let Context { engine, session, replies, connection, client, control, stats, .. } = context;
    let before = Before::of(replies, connection, stats);
    let mut long = Buffer::with_capacity(queue.requests.len()).map_err(no_memory)?;
    for (command, kept) in &queue.requests {
        long.push(LongArguments::of(command, &kept.request())).map_err(no_memory)?;
    }
    let keys = queue.keys::<E>(watched).map_err(no_memory)?;
    let scope = keys.as_ref().map_or(Scope::All, |keys| Scope::Many(keys));
    let mut after = Buffer::default();
    engine.run(session, scope, |txn| {
        before.restore(replies, connection, stats);
        ran.clear();
        after.clear();
        let mut is_modified = false;
        // Each request that was run has a reply in the array.
        for ((database, key), watched) in watched {
            is_modified |= txn.is_modified(Key { database: *database, bytes: key }, watched)?;
        }
        if is_modified {
            replies.null_array();
            return Ok(());
        }
        if queue.is_any(Flag::Write) {
            engine.check_writes().map_err(|refused| aborted_by(&refused.into()))?;
        }
        replies.array(queue.requests.len());
        for (index, (kept, long)) in queue.requests.iter().zip(long.iter()).enumerate() {
            if is_run_after(kept.0) {
                after.push((index, replies.position())).map_err(no_memory)?;
                ran.push(Ran { failed: None, took: Duration::ZERO }).map_err(no_memory)?;
                continue;
            }
            let mut shared = Shared { replies, connection, client, control, stats, admin: *engine };
            run_one(txn, kept, long, ran, &mut shared)?;
        }
        Ok::<_, CommandError>(())
    })?;
    match after.is_empty() {
        true => Ok(()),
        false => run_after(queue, &after, ran, context),
    }
}

/// Runs requests that follow the transaction, each given by its number and the place of its reply. Where there is no
/// memory for the replies, what was done is not told, and what is left is not done.
fn run_after<E: Engine>(
    queue: &Queue,
    after: &[(usize, usize)],
    ran: &mut Buffer<Ran>,
    context: &mut Context<'_, E>,
) -> Result {
    let Context { engine, session, replies, connection, client, control, stats, .. } = context;
    let others = std::mem::take(&mut **replies);
    let mut copied = 0;
    for (index, place) in after {
        replies.copy(&others, copied..*place);
        if replies.is_lost() {
            break;
        }
        copied = *place;
        let (start, started) = (replies.position(), Instant::now());
        let mut one = Buffer::default();
        let done = engine.run(session, Scope::Each, |txn| {
            one.clear();
            let mut shared = Shared { replies, connection, client, control, stats, admin: *engine };
            let long = LongArguments::default();
            run_one(txn, &queue.requests[*index], &long, &mut one, &mut shared)
        });
        let failed = match done {
            Ok(()) => one.pop().and_then(|ran| ran.failed),
            Err(error) => {
                replies.truncate(start);
                replies.error(&error.to_string());
                Some(error.code())
            }
        };
        ran[*index] = Ran { failed, took: started.elapsed() };
    }
    if !replies.is_lost() {
        replies.copy(&others, copied..others.position());
    }
    if replies.is_lost() {
        // The replies before this one are sent all the same.
        **replies = others;
        return Err(CommandError::NO_MEMORY);
    }
    Ok(())
}

/// What the requests of a transaction share beside it.
pub struct Shared<'s> {
    pub replies: &'s mut Replies,
    pub connection: &'s mut ConnectionState,
    pub client: &'s Arc<Client>,
    pub control: &'s Control,
    pub stats: &'s mut BurstStats,
    pub admin: &'s dyn Admin,
}

/// Runs one request of a transaction, and says in `ran` how it went; an error ends the transaction.
pub fn run_one<T: Txn>(
    txn: &mut T,
    (command, kept): &(CommandRef, QueuedRequest),
    long: &LongArguments,
    ran: &mut Buffer<Ran>,
    shared: &mut Shared<'_>,
) -> Result {
    let Shared { replies, connection, client, control, stats, admin } = shared;
    let started = Instant::now();
    let call = Call {
        txn,
        request: &kept.request(),
        keys: &[],
        replies,
        connection,
        client,
        control,
        stats,
        admin: *admin,
        long,
        detour: &mut Detour::shared(),
    };
    let done = run(command, call);
    let failed = match &done {
        Ok(failed) => *failed,
        Err(error) => Some(error.code()),
    };
    let took = started.elapsed();
    ran.push(Ran { failed, took }).map_err(|NoMemory| CommandError::NO_MEMORY)?;
    done.map(drop)
}

/// Runs one request of a transaction; says how it failed, if it did. One that fails changes nothing, and the others are run all
/// the same, as in Redis; but where the server lacks what it needs, none of them is.
pub fn run<T: Txn>(command: CommandRef, mut call: Call<'_, T>) -> Result<Option<Code>> {
    let start = call.replies.position();
    let savepoint = call.txn.savepoint();
    call.replies.speak(call.connection.protocol);
    call.txn.charge(work::COMMAND)?;
    let result = body_of(command.number)(&mut call);
    call.replies.recover(start)?;
    match &result {
        Err(error) if error.is_for_want() => return Err(error.clone()),
        Err(error) => {
            call.txn.roll_back(savepoint);
            call.replies.truncate(start);
            call.replies.error(&error.to_string());
            call.replies.recover(start)?;
        }
        Ok(()) => {}
    }
    Ok(result.err().map(|error| error.code()))
}

impl Queue {
    /// Whether one of its commands has this flag.
    fn is_any(&self, flag: Flag) -> bool {
        self.requests.iter().any(|(command, _)| command.flags.contains(flag))
    }

    /// All keys that it names, and those that are watched; `None` if a command may touch any.
    fn keys<'k, E: Engine>(
        &'k self,
        watched: &'k Watched<E>,
    ) -> std::result::Result<Option<Buffer<&'k [u8]>>, NoMemory> {
        if self.requests.iter().any(|(command, _)| may_touch_any(command)) {
            return Ok(None);
        }
        let mut keys = Buffer::default();
        keys_of(&self.requests, &mut keys)?;
        watched.keys().try_for_each(|(_, key)| keys.push(key))?;
        Ok(Some(keys))
    }
}

/// Lists all keys that requests name.
pub fn keys_of<'k>(
    requests: &'k [(CommandRef, QueuedRequest)],
    keys: &mut Buffer<&'k [u8]>,
) -> std::result::Result<(), NoMemory> {
    for (command, kept) in requests {
        let request = kept.request();
        let word = |place| request.words_from(place).next().unwrap_or_default();
        command.key_places(&request).try_for_each(|place| keys.push(word(place)))?;
    }
    Ok(())
}

/// What a command is answered that cannot be run: an `EXEC` then ends the transaction.
pub fn rejected<E: Engine>(
    command: CommandRef,
    error: CommandError,
    context: &mut Context<'_, E>,
) -> CommandError {
    if command.name != "EXEC" {
        return error;
    }
    *context.transaction = Transaction::default();
    aborted_by(&error)
}

/// What `EXEC` is answered where `error` keeps it from being run.
fn aborted_by(error: &CommandError) -> CommandError {
    let reason = error.to_string();
    let reason = reason.strip_prefix("ERR ").unwrap_or(&reason);
    CommandError::new(Code::ExecAbort, format!("Transaction discarded because of: {reason}"))
}
