//! The commands on keys and values, and the two that only answer.

use super::{CommandError, Context, integer, is};
use crate::engine::WriteError;
use crate::glob::Pattern;
use crate::limits::VALUE_BYTES_MAX;
use crate::request::Request;
use crate::text::quoted;

type Result = std::result::Result<(), CommandError>;

pub fn ping(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    match request.len() {
        1 => context.replies.status("PONG"),
        _ => context.replies.bulk(&request[1]),
    }
    Ok(())
}

pub fn echo(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    context.replies.bulk(&request[1]);
    Ok(())
}

pub fn get(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let replies = &mut context.replies;
    context.session.get(&request[1], |value| match value {
        Some(value) => replies.value(value),
        None => replies.nil(),
    });
    Ok(())
}

pub fn set(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    if request.len() > 3 {
        let is_option = |known: &&str| is(&request[3], known);
        return Err(match request.inline && !SET_OPTIONS.iter().any(is_option) {
            true => unquoted(request),
            false => CommandError::Syntax,
        });
    }
    context.session.set(&request[1], &request[2])?;
    context.replies.status("OK");
    Ok(())
}

/// What Redis's SET takes after the value: whoever types one of these did not forget quotes.
const SET_OPTIONS: &[&str] =
    &["NX", "XX", "GET", "EX", "PX", "EXAT", "PXAT", "KEEPTTL", "IFEQ", "IFNE"];

/// What a person meant who typed `SET nom Jean Dupont`.
fn unquoted(request: &Request<'_>) -> CommandError {
    const VALUE_BYTES_MAX: usize = 128;
    let length: usize = request.words_from(2).map(|word| word.len() + 1).sum();
    if length > VALUE_BYTES_MAX {
        return CommandError::Syntax;
    }
    let value = request.words_from(2).collect::<Vec<_>>().join(&b' ');
    CommandError::Unquoted(format!("SET {} {}", quoted(&request[1]), quoted(&value)))
}

pub fn del(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let count = context.session.del(request.words_from(1))?;
    context.replies.count(count);
    Ok(())
}

pub fn exists(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let count = context.session.exists(request.words_from(1));
    context.replies.count(count);
    Ok(())
}

pub fn append(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let length = context.session.append(&request[1], &request[2])?;
    context.replies.count(length);
    Ok(())
}

pub fn set_range(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let offset = integer(&request[2])?;
    let offset = usize::try_from(offset).map_err(|_| CommandError::Offset)?;
    if offset > VALUE_BYTES_MAX && !request[3].is_empty() {
        return Err(CommandError::TooLong);
    }
    let length = context.session.set_range(&request[1], offset, &request[3])?;
    context.replies.count(length);
    Ok(())
}

pub fn keys(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let pattern = Pattern::new(&request[1])?;
    let (start, mut count) = (context.replies.position(), 0);
    let mut show = |key: &[u8]| {
        if pattern.matches(key) {
            context.replies.bulk(key);
            count += 1;
        }
    };
    if let Some(key) = pattern.only() {
        context.session.get(&key, |value| value.map(|_| show(&key)));
    } else {
        context.session.keys(&pattern.prefix(), show).map_err(WriteError::from)?;
    }
    context.replies.array_from(start, count);
    Ok(())
}

pub fn dbsize(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let (keys, _) = context.session.count();
    context.replies.count(keys);
    Ok(())
}

pub fn flush_all(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let known = |word: &[u8]| is(word, "ASYNC") || is(word, "SYNC");
    if request.len() > 2 || !request.words_from(1).all(known) {
        return Err(CommandError::Syntax);
    }
    context.session.flush_all()?;
    context.replies.status("OK");
    Ok(())
}
