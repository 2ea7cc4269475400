//! The two commands that only answer, and those on all keys at once.

use super::spec::{
    Flag::{Fast, Readonly, Write},
    Group, Spec,
};
use super::{Call, CommandError, is};
use crate::engine::Txn;
use crate::server::unix_time;

type Result = std::result::Result<(), CommandError>;

pub const PING: Spec = Spec::new(Group::Connection, "1.0.0", "PING [message]")
    .flags(&[Fast])
    .summary("Returns PONG, or the message.")
    .example("PING");

pub fn ping<T: Txn>(call: &mut Call<'_, T>) -> Result {
    match call.request.len() {
        1 => call.replies.status("PONG"),
        2 => call.replies.bulk(&call.request[1]),
        _ => return Err(CommandError::arity("ping")),
    }
    Ok(())
}

pub const ECHO: Spec = Spec::new(Group::Connection, "1.0.0", "ECHO message")
    .flags(&[Fast])
    .summary("Returns the message.")
    .example("ECHO bonjour");

pub fn echo<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.replies.bulk(&call.request[1]);
    Ok(())
}

pub const DBSIZE: Spec = Spec::new(Group::Server, "1.0.0", "DBSIZE")
    .flags(&[Readonly, Fast])
    .summary("Returns the number of keys.")
    .example("DBSIZE");

pub fn dbsize<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let counts = call.txn.counts()?;
    call.replies.count(counts[call.connection.database].keys);
    Ok(())
}

pub const FLUSHALL: Spec = Spec::new(Group::Server, "1.0.0", "FLUSHALL [ASYNC|SYNC]")
    .flags(&[Write])
    .summary("Removes every key of every database.")
    .example("FLUSHALL")
    .notes(&["ASYNC and SYNC do the same: no other client waits while memory is freed."]);

pub fn flush_all<T: Txn>(call: &mut Call<'_, T>) -> Result {
    flush(call, None)
}

pub const FLUSHDB: Spec = Spec::new(Group::Server, "1.0.0", "FLUSHDB [ASYNC|SYNC]")
    .flags(&[Write])
    .summary("Removes every key of the database.")
    .example("FLUSHDB");

pub fn flush_db<T: Txn>(call: &mut Call<'_, T>) -> Result {
    flush(call, Some(call.connection.database))
}

fn flush<T: Txn>(call: &mut Call<'_, T>, database: Option<usize>) -> Result {
    if call.request.len() > 2 || !call.request.words_from(1).all(is_flush_type) {
        return Err(CommandError::SYNTAX);
    }
    call.check_writes()?;
    call.txn.clear(database)?;
    call.replies.status("OK");
    Ok(())
}

/// Whether a word says how memory is freed after something is forgotten.
pub fn is_flush_type(word: &[u8]) -> bool {
    is(word, "ASYNC") || is(word, "SYNC")
}

pub const TIME: Spec = Spec::new(Group::Server, "2.6.0", "TIME")
    .flags(&[Fast])
    .summary("Returns the Unix time in seconds, and microseconds.")
    .example("TIME");

/// Seconds of Unix time, and microseconds of the second.
pub fn time<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let now = unix_time();
    call.replies.array(2);
    call.replies.bulk(now.as_secs().to_string().as_bytes());
    call.replies.bulk(now.subsec_micros().to_string().as_bytes());
    Ok(())
}
