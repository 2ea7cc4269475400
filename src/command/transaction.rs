//! Transactions: `MULTI` begins to keep requests, `EXEC` runs them all at one moment, if nobody changed a key that
//! `WATCH` named.
//!
//! The locks of all keys that the requests name are held from the first to the last, and what they change goes to the
//! journal as one: no other client sees half, and no crash leaves half. A request that fails changes nothing, and the
//! others are run all the same, as Redis does.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use super::{Asked, CommandError, Context, Conversation, Flag, Found, Group, record};
use crate::engine::{Session, Watch};
use crate::memory;
use crate::request::{Kept, Request};

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
    requests: Vec<(Found, Kept)>,
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
        let writes = |(found, _): &(Found, Kept)| found.command.flags.contains(&Flag::Write);
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
fn is_run_at_once(found: Found) -> bool {
    matches!(found.command.name, "MULTI" | "EXEC" | "DISCARD" | "WATCH" | "QUIT" | "RESET")
}

/// Keeps a request for `EXEC`, if a transaction has begun; says whether it did.
pub fn keep(found: Found, request: &Request<'_>, context: &mut Context<'_, '_>) -> Result<bool> {
    let most = context.control.config.max_request;
    let Some(queue) = &mut context.conversation.transaction.queue else { return Ok(false) };
    if is_run_at_once(found) {
        return Ok(false);
    }
    if found.command.flags.contains(&Flag::NoMulti) {
        return Err(CommandError::Value("Command not allowed inside a transaction"));
    }
    let kept = Kept::new(request).map_err(|_| CommandError::NoMemory)?;
    queue.bytes += kept.bytes();
    if queue.bytes > most || queue.bytes > LARGE_BYTES && !memory::has_room(kept.bytes()) {
        queue.bytes -= kept.bytes();
        return Err(CommandError::NoMemory);
    }
    memory::try_to(|| queue.requests.try_reserve(1)).map_err(|_| CommandError::NoMemory)?;
    queue.requests.push((found, kept));
    context.replies.status("QUEUED");
    Ok(true)
}

/// A queue longer than this, in bytes, is one that `--maxmemory` may refuse.
const LARGE_BYTES: usize = 1 << 20;

pub fn multi(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let queue = &mut context.conversation.transaction.queue;
    if queue.is_some() {
        return Err(CommandError::Value("MULTI calls can not be nested"));
    }
    *queue = Some(Queue::default());
    context.replies.status("OK");
    Ok(())
}

pub fn discard(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    if !context.conversation.transaction.is_open() {
        return Err(CommandError::Value("DISCARD without MULTI"));
    }
    context.conversation.transaction = Transaction::default();
    context.replies.status("OK");
    Ok(())
}

pub fn watch(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    const ENTRY_BYTES: usize = 128;
    let most = context.control.config.max_request;
    let transaction = &mut context.conversation.transaction;
    if transaction.is_open() {
        return Err(CommandError::Value("WATCH inside MULTI is not allowed"));
    }
    let database = context.session.database();
    for key in request.words_from(1) {
        let copy = memory::copy(key, key.len()).map_err(|_| CommandError::NoMemory)?;
        memory::try_to(|| transaction.watched.try_reserve(1))
            .map_err(|_| CommandError::NoMemory)?;
        let Entry::Vacant(place) = transaction.watched.entry((database, copy)) else { continue };
        transaction.watched_bytes += key.len() + ENTRY_BYTES;
        if transaction.watched_bytes > most {
            return Err(CommandError::NoMemory);
        }
        place.insert(context.session.watch(key, &transaction.watch));
    }
    context.replies.status("OK");
    Ok(())
}

pub fn unwatch(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let Conversation { transaction, .. } = &mut *context.conversation;
    let queue = transaction.queue.take();
    *transaction = Transaction { queue, ..Transaction::default() };
    context.replies.status("OK");
    Ok(())
}

pub fn exec(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    if !context.conversation.transaction.is_open() {
        return Err(CommandError::Value("EXEC without MULTI"));
    }
    let Transaction { queue, watch, watched, .. } =
        std::mem::take(&mut context.conversation.transaction);
    let queue = queue.unwrap_or_default();
    if queue.is_broken {
        return Err(CommandError::Aborted);
    }
    let Context { session, replies, conversation, client, control, done } = context;
    let named = queue.requests.iter().flat_map(|(found, kept)| keys(*found, kept));
    let needs_all = queue.requests.iter().any(|(found, _)| needs_all(*found));
    let keys: Vec<Vec<u8>> = match needs_all {
        true => Vec::new(),
        false => named.chain(watched.keys().map(|(_, key)| key.clone())).collect(),
    };
    let work = |session: &mut Session<'_>| {
        // Who has expired meanwhile was changed, though nobody did it. All are looked at: the reply tells of each.
        let is_gone = |((database, key), existed): &(&(usize, Vec<u8>), &bool)| {
            !session.within(*database, |session| session.has(key)) && **existed
        };
        let gone = watched.iter().filter(is_gone).count();
        if gone > 0 || watch.is_changed() {
            replies.null_array();
            return Ok(());
        }
        replies.array(queue.requests.len());
        let mut context = Context { session, replies, conversation, client, control, done };
        for (found, kept) in &queue.requests {
            let request = kept.request();
            let started = Instant::now();
            let asked = Asked { found: Some(*found), error: None };
            let outcome = super::run(asked, &request, &mut context);
            let took = started.elapsed();
            record(&outcome, &request, took, context.client, context.control, context.done);
        }
        Ok::<_, CommandError>(())
    };
    let before = session.database();
    let done = match needs_all {
        true => session.at_one_moment(work),
        false => session.atomically(keys.iter().map(Vec::as_slice), work),
    };
    if done.is_err() {
        context.select(before);
    }
    done
}

/// What a command is answered that cannot be run: an `EXEC` then ends the transaction.
pub fn rejected(found: Found, error: CommandError, context: &mut Context<'_, '_>) -> CommandError {
    if found.command.name != "EXEC" {
        return error;
    }
    context.conversation.transaction = Transaction::default();
    let reason = error.to_string();
    CommandError::AbortedBy(reason.strip_prefix("ERR ").unwrap_or(&reason).to_owned())
}

/// Whether a command may look at any key.
fn needs_all(found: Found) -> bool {
    found.command.keys.0 == 0 && found.command.group != Group::Connection
}

/// The keys that a request names.
fn keys(found: Found, kept: &Kept) -> Vec<Vec<u8>> {
    let request = kept.request();
    found.command.key_places(&request).map(|index| request[index].to_vec()).collect()
}
