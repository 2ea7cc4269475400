//! Transactions: `MULTI` begins to keep requests, `EXEC` runs them all at one moment, if nobody changed a key that
//! `WATCH` named.
//!
//! The locks of all keys that the requests name are held from the first to the last, and what they change goes to the
//! journal as one: no other client sees half, and no crash leaves half. Whether the journal takes writes, and whether
//! memory is at its bound, is asked once, for all of them. A request that fails changes nothing, and the others are run
//! all the same, as Redis does; but one that memory, time or the length of the reply does not allow ends the whole
//! transaction, of which nothing is left then.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use super::error::Code;
use super::spec::{Flag, Group, Spec};
use super::{CommandError, CommandRef, ConnectionState, Context, Outcome, record};
use crate::engine::local::{Session, ShardSet, Watch, WriteError};
use crate::limits::{TRANSACTION_BYTES_SURE, WATCH_BYTES_MAX, work};
use crate::protocol::request::{QueuedRequest, Request};
use crate::util::memory;

type Result<T = ()> = std::result::Result<T, CommandError>;

/// What `MULTI` and `WATCH` began.
#[derive(Debug, Default)]
pub struct Transaction {
    /// The requests to run, since `MULTI`.
    queue: Option<Queue>,
    watch: Arc<Watch>,
    /// The keys that are watched, with their databases, and whether each was there.
    watched: HashMap<(usize, Vec<u8>), bool>,
    /// About what they take, in bytes.
    watched_bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    requests: Vec<(CommandRef, QueuedRequest)>,
    /// What they take, in bytes.
    bytes: usize,
    /// One could not be taken.
    is_broken: bool,
}

impl Transaction {
    /// Whether requests are kept.
    pub fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// How many are, if they are.
    pub fn length(&self) -> Option<usize> {
        self.queue.as_ref().map(|queue| queue.requests.len())
    }

    /// Whether one of them may change keys.
    pub fn writes(&self) -> bool {
        let writes =
            |(command, _): &(CommandRef, QueuedRequest)| command.flags.contains(Flag::Write);
        self.queue.as_ref().is_some_and(|queue| queue.requests.iter().any(writes))
    }

    /// One of them is wrong: none will be run.
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

/// Keeps a request for `EXEC`, if a transaction has begun; says whether it did.
pub fn keep(
    command: CommandRef,
    request: &Request<'_>,
    context: &mut Context<'_, '_>,
) -> Result<bool> {
    let most = context.control.config.max_request;
    let Some(queue) = &mut context.connection.transaction.queue else { return Ok(false) };
    if is_run_at_once(command) {
        return Ok(false);
    }
    if command.flags.contains(Flag::NoMulti) {
        return Err(CommandError::err("Command not allowed inside a transaction"));
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

pub fn multi(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let queue = &mut context.connection.transaction.queue;
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

pub fn discard(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    if !context.connection.transaction.is_open() {
        return Err(CommandError::err("DISCARD without MULTI"));
    }
    context.connection.transaction = Transaction::default();
    context.replies.status("OK");
    Ok(())
}

pub const WATCH: Spec = Spec::new(Group::Transactions, "2.2.0", "WATCH key [key ...]")
    .flags(&[Flag::Fast])
    .summary("Lets EXEC do nothing if somebody changes one of the keys.")
    .example("WATCH ville");

pub fn watch(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    // In this table, and in the shard's.
    const ENTRY_BYTES: usize = 256;
    let transaction = &mut context.connection.transaction;
    if transaction.is_open() {
        return Err(CommandError::err("WATCH inside MULTI is not allowed"));
    }
    let database = context.session.database();
    for key in request.words_from(1) {
        if key.len() > WATCH_BYTES_MAX {
            return Err(CommandError::err("too many keys are watched, or too long ones"));
        }
        let copy = memory::copy(key, key.len()).map_err(|_| CommandError::NO_MEMORY)?;
        transaction.watched.try_reserve(1).map_err(|_| CommandError::NO_MEMORY)?;
        let Entry::Vacant(place) = transaction.watched.entry((database, copy)) else { continue };
        let bytes = transaction.watched_bytes + key.len() + ENTRY_BYTES;
        if bytes > WATCH_BYTES_MAX {
            return Err(CommandError::err("too many keys are watched, or too long ones"));
        }
        if bytes > TRANSACTION_BYTES_SURE && !memory::has_room(key.len() + ENTRY_BYTES) {
            return Err(CommandError::MAX_MEMORY);
        }
        place.insert(context.session.watch(key, &transaction.watch).map_err(WriteError::from)?);
        transaction.watched_bytes = bytes;
    }
    context.replies.status("OK");
    Ok(())
}

pub const UNWATCH: Spec = Spec::new(Group::Transactions, "2.2.0", "UNWATCH")
    .flags(&[Flag::Fast])
    .summary("Forgets what is watched.")
    .example("UNWATCH");

pub fn unwatch(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let ConnectionState { transaction, .. } = &mut *context.connection;
    let queue = transaction.queue.take();
    *transaction = Transaction { queue, ..Transaction::default() };
    context.replies.status("OK");
    Ok(())
}

pub const EXEC: Spec = Spec::new(Group::Transactions, "1.2.0", "EXEC")
    .summary("Runs what was kept, all at one moment.")
    .example("EXEC");

pub fn exec(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    if !context.connection.transaction.is_open() {
        return Err(CommandError::err("EXEC without MULTI"));
    }
    let Transaction { queue, watch, watched, .. } =
        std::mem::take(&mut context.connection.transaction);
    let queue = queue.unwrap_or_default();
    if queue.is_broken {
        let text = "Transaction discarded because of previous errors.";
        return Err(CommandError::new(Code::ExecAbort, text));
    }
    let is_any = |flag| queue.requests.iter().any(|(command, _)| command.flags.contains(flag));
    // Decided once, for all of them.
    if is_any(Flag::Denyoom) && memory::is_full() {
        return Err(aborted_by(&CommandError::MAX_MEMORY));
    }
    let shards = shards(&queue, &watched, context.session)?;
    let Context { session, replies, connection, client, control, stats } = context;
    let is_refused = |session: &Session<'_>| {
        session.check_writes().map_err(|refused| aborted_by(&refused.into()))
    };
    let work = |session: &mut Session<'_>| {
        // An expired watched key counts as modified. All are looked at: the reply tells of each.
        let is_gone = |((database, key), existed): &(&(usize, Vec<u8>), &bool)| {
            !session.within(*database, |session| session.has(key)) && **existed
        };
        let gone = watched.iter().filter(is_gone).count();
        if gone > 0 || watch.is_changed() {
            replies.null_array();
            return Ok(());
        }
        if is_any(Flag::Write) {
            is_refused(session)?;
        }
        replies.array(queue.requests.len());
        let mut context = Context { session, replies, connection, client, control, stats };
        queue.requests.iter().try_for_each(|(command, kept)| run(command, kept, &mut context))
    };
    let before = session.database();
    let done = match &shards {
        None => session.at_one_moment(work),
        Some(shards) => session.hold(shards.iter(), work),
    };
    if done.is_err() {
        context.select(before);
    }
    done.map_err(|error| match error {
        aborted if aborted.code() == Code::ExecAbort => aborted,
        error => aborted_by(&error),
    })
}

/// Runs one request of a transaction. One that fails changes nothing, and the others are run all the same, as in
/// Redis; but where the server lacks what it needs, none of them is.
fn run(command: CommandRef, kept: &QueuedRequest, context: &mut Context<'_, '_>) -> Result {
    let (request, started) = (kept.request(), Instant::now());
    let start = context.replies.position();
    context.replies.speak(context.connection.protocol);
    context.session.spend(work::COMMAND);
    let result = super::execute(command, &request, context);
    let outcome = Outcome::Ran { command, failed: result.is_err() };
    let took = started.elapsed();
    record(&outcome, &request, took, context.client, context.control, context.stats);
    match result {
        Err(error) if error.is_for_want() => return Err(error),
        Err(error) => {
            context.replies.truncate(start);
            context.replies.error(&error.to_string());
        }
        Ok(()) => {}
    }
    context.session.check_work()?;
    Ok(context.replies.recover(start)?)
}

/// The shards of all keys that a transaction names or watches; `None` is all that there are.
fn shards(
    queue: &Queue,
    watched: &HashMap<(usize, Vec<u8>), bool>,
    session: &Session<'_>,
) -> Result<Option<ShardSet>> {
    if queue.requests.iter().any(|(command, _)| needs_all(command)) {
        return Ok(None);
    }
    let mut shards = ShardSet::default();
    for (command, kept) in &queue.requests {
        let request = kept.request();
        let places = command.key_places(&request);
        places.for_each(|place| shards.add(session.shard_of(&request[place])));
    }
    watched.keys().for_each(|(_, key)| shards.add(session.shard_of(key)));
    Ok(Some(shards))
}

/// What a command is answered that cannot be run: an `EXEC` then ends the transaction.
pub fn rejected(
    command: CommandRef,
    error: CommandError,
    context: &mut Context<'_, '_>,
) -> CommandError {
    if command.name != "EXEC" {
        return error;
    }
    context.connection.transaction = Transaction::default();
    aborted_by(&error)
}

/// What `EXEC` is answered where `error` keeps it from being run.
fn aborted_by(error: &CommandError) -> CommandError {
    let reason = error.to_string();
    let reason = reason.strip_prefix("ERR ").unwrap_or(&reason);
    CommandError::new(Code::ExecAbort, format!("Transaction discarded because of: {reason}"))
}

/// Whether a command may look at any key.
fn needs_all(command: CommandRef) -> bool {
    !command.keys.is_any() && command.spec.group != Group::Connection
}
