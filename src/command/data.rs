//! The two commands that only answer, and those on all keys at once.

use super::spec::{
    Flag::{Fast, Readonly, Write},
    Group, Spec,
};
use super::{CommandError, Context, is};
use crate::protocol::request::Request;
use crate::server::unix_time;

type Result = std::result::Result<(), CommandError>;

pub const PING: Spec = Spec::new(Group::Connection, "1.0.0", "PING [message]")
    .flags(&[Fast])
    .summary("Returns PONG, or the message.")
    .example("PING");

pub fn ping(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    match request.len() {
        1 => context.replies.status("PONG"),
        2 => context.replies.bulk(&request[1]),
        _ => return Err(CommandError::arity("ping")),
    }
    Ok(())
}

pub const ECHO: Spec = Spec::new(Group::Connection, "1.0.0", "ECHO message")
    .flags(&[Fast])
    .summary("Returns the message.")
    .example("ECHO bonjour");

pub fn echo(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    context.replies.bulk(&request[1]);
    Ok(())
}

pub const DBSIZE: Spec = Spec::new(Group::Server, "1.0.0", "DBSIZE")
    .flags(&[Readonly, Fast])
    .summary("Returns the number of keys.")
    .example("DBSIZE");

pub fn dbsize(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let database = context.session.database();
    context.replies.count(context.session.counts()[database].keys);
    Ok(())
}

pub const FLUSHALL: Spec = Spec::new(Group::Server, "1.0.0", "FLUSHALL [ASYNC|SYNC]")
    .flags(&[Write])
    .summary("Removes every key of every database.")
    .example("FLUSHALL")
    .notes(&["ASYNC and SYNC do the same: no other client waits while memory is freed."]);

pub fn flush_all(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    flush(context, request, true)
}

pub const FLUSHDB: Spec = Spec::new(Group::Server, "1.0.0", "FLUSHDB [ASYNC|SYNC]")
    .flags(&[Write])
    .summary("Removes every key of the database.")
    .example("FLUSHDB");

pub fn flush_db(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    flush(context, request, false)
}

fn flush(context: &mut Context<'_, '_>, request: &Request<'_>, all: bool) -> Result {
    let known = |word: &[u8]| is(word, "ASYNC") || is(word, "SYNC");
    if request.len() > 2 || !request.words_from(1).all(known) {
        return Err(CommandError::SYNTAX);
    }
    context.session.flush(all)?;
    if !request.words_from(1).any(|word| is(word, "ASYNC")) {
        context.session.free_flushed()?;
    }
    context.replies.status("OK");
    Ok(())
}

pub const TIME: Spec = Spec::new(Group::Server, "2.6.0", "TIME")
    .flags(&[Fast])
    .summary("Returns the Unix time in seconds, and microseconds.")
    .example("TIME");

/// Seconds of Unix time, and microseconds of the second.
pub fn time(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let now = unix_time();
    context.replies.array(2);
    context.replies.bulk(now.as_secs().to_string().as_bytes());
    context.replies.bulk(now.subsec_micros().to_string().as_bytes());
    Ok(())
}
