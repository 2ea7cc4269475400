//! The two commands that only answer, and those on all keys at once.

use super::{CommandError, Context, is};
use crate::protocol::request::Request;
use crate::server::unix_time;

type Result = std::result::Result<(), CommandError>;

pub fn ping(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    match request.len() {
        1 => context.replies.status("PONG"),
        2 => context.replies.bulk(&request[1]),
        _ => return Err(CommandError::Arity("ping".to_owned())),
    }
    Ok(())
}

pub fn echo(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    context.replies.bulk(&request[1]);
    Ok(())
}

pub fn dbsize(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let database = context.session.database();
    context.replies.count(context.session.counts()[database].keys);
    Ok(())
}

pub fn flush_all(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    flush(context, request, true)
}

pub fn flush_db(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    flush(context, request, false)
}

fn flush(context: &mut Context<'_, '_>, request: &Request<'_>, all: bool) -> Result {
    let known = |word: &[u8]| is(word, "ASYNC") || is(word, "SYNC");
    if request.len() > 2 || !request.words_from(1).all(known) {
        return Err(CommandError::Syntax);
    }
    context.session.flush(all)?;
    if !request.words_from(1).any(|word| is(word, "ASYNC")) {
        context.session.free_flushed()?;
    }
    context.replies.status("OK");
    Ok(())
}

/// Seconds of Unix time, and microseconds of the second.
pub fn time(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let now = unix_time();
    context.replies.array(2);
    context.replies.bulk(now.as_secs().to_string().as_bytes());
    context.replies.bulk(now.subsec_micros().to_string().as_bytes());
    Ok(())
}
