//! Requests of one burst, run in one transaction: for an engine to which each transaction is a journey.
//!
//! A client that sends several requests at once wants each answered by itself, but it does not mind that they happen at
//! one moment. What only reads and writes the keys that it names joins; everything else is run by itself. If the engine
//! says that it was too much, half of the requests are run at a time.

use std::time::{Duration, Instant};

use super::error::Code;
use super::spec::Flag;
use super::transaction::{Ran, Shared, keys_of, run_one};
use super::{
    Before, CommandError, CommandRef, ConnectionState, Context, LongArguments, Outcome, ReplyMode,
    Resolved, Transaction, find, record, run,
};
use crate::engine::{Engine, Scope};
use crate::limits::{TOGETHER_BYTES_MAX, TOGETHER_MAX};
use crate::protocol::request::{QueuedRequest, Request};
use crate::util::buffer::Buffer;

/// Requests that wait to be run together.
#[derive(Debug, Default)]
pub struct Together {
    requests: Vec<(CommandRef, QueuedRequest)>,
    bytes: usize,
}

impl Together {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether there is no room for another.
    pub fn is_full(&self) -> bool {
        self.requests.len() >= TOGETHER_MAX || self.bytes >= TOGETHER_BYTES_MAX
    }

    /// Takes a request, if it may be run together with others.
    pub fn join<E: Engine>(
        &mut self,
        resolved: &Resolved,
        request: &Request<'_>,
        connection: &ConnectionState,
        transaction: &Transaction<E>,
    ) -> bool {
        let Resolved { command: Some(command), error: None } = resolved else { return false };
        let is = |flag| command.flags.contains(flag);
        let is_of_keys = command.keys.is_any() && (is(Flag::Write) || is(Flag::Readonly));
        let is_plain = connection.authenticated
            && connection.monitor.is_none()
            && connection.reply_mode == ReplyMode::On
            && !transaction.is_open();
        let places = command.key_places(request).take(TOGETHER_MAX + 1).count();
        if !is_of_keys || !is_plain || command.spec.needs_file || places > TOGETHER_MAX {
            return false;
        }
        let Ok(kept) = QueuedRequest::new(request) else { return false };
        self.bytes += kept.bytes();
        self.requests.push((command, kept));
        true
    }
}

/// Runs requests in as few transactions as possible, writes a reply to each, and reports what became of them.
pub fn run_together<E: Engine>(together: Together, context: &mut Context<'_, E>) {
    let mut waiting = vec![&together.requests[..]];
    while let Some(requests) = waiting.pop() {
        if let [(_, kept)] = requests {
            let (request, started) = (kept.request(), Instant::now());
            let outcome = run(find(&request), &request, context);
            report(&outcome, &request, started.elapsed(), context);
            continue;
        }
        let (start, started) = (context.replies.position(), Instant::now());
        let mut ran = Buffer::default();
        let result = try_together(requests, &mut ran, context);
        let took = started.elapsed() / requests.len() as u32;
        if let Err(error) = &result {
            context.replies.truncate(start);
            if matches!(error.code(), Code::Err | Code::Bound) {
                let (first, second) = requests.split_at(requests.len() / 2);
                waiting.extend([second, first]);
                continue;
            }
        }
        for (index, (command, kept)) in requests.iter().enumerate() {
            let failed = match &result {
                Ok(()) => ran.get(index).and_then(|ran| ran.failed),
                Err(error) => {
                    context.replies.error(&error.to_string());
                    Some(error.code())
                }
            };
            report(&Outcome::Ran { command, failed }, &kept.request(), took, context);
        }
        if context.replies.recover(start).is_err() {
            // As after a single request: with a reply missing, all that follow would answer the wrong requests.
            context.connection.is_over = true;
            return;
        }
    }
}

fn report<E: Engine>(
    outcome: &Outcome,
    request: &Request<'_>,
    took: Duration,
    context: &mut Context<'_, E>,
) {
    record(outcome, request, took, context.client, context.control, context.stats);
}

/// Runs requests in one transaction. After an error none of them has changed anything, and the replies are worth nothing.
fn try_together<E: Engine>(
    requests: &[(CommandRef, QueuedRequest)],
    ran: &mut Buffer<Ran>,
    context: &mut Context<'_, E>,
) -> Result<(), CommandError> {
    for (command, _) in requests {
        if let Some(error) = super::obstacle(command, context) {
            return Err(error);
        }
    }
    let Context { engine, session, replies, connection, client, control, stats, .. } = context;
    let before = Before::of(replies, connection, stats);
    let mut long = Buffer::with_capacity(requests.len()).map_err(|_| CommandError::NO_MEMORY)?;
    for (command, kept) in requests {
        let arguments = LongArguments::of(command, &kept.request());
        long.push(arguments).map_err(|_| CommandError::NO_MEMORY)?;
    }
    let mut keys = Buffer::default();
    keys_of(requests, &mut keys).map_err(|_| CommandError::NO_MEMORY)?;
    engine.run(session, Scope::Many(&keys), |txn| {
        before.restore(replies, connection, stats);
        ran.clear();
        let mut shared = Shared { replies, connection, client, control, stats, admin: *engine };
        let mut each = requests.iter().zip(long.iter());
        each.try_for_each(|(kept, long)| run_one(txn, kept, long, ran, &mut shared))
    })
}
