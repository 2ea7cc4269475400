//! The commands on keys, whatever their values.

use super::{CommandError, Context, integer, is};
use crate::command::glob::Pattern;
use crate::engine::local::entry::Entry;
use crate::engine::local::{Session, WriteError};
use crate::protocol::request::Request;
use crate::text;
use crate::value::View;

type Result<T = ()> = std::result::Result<T, CommandError>;

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

pub fn touch(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let count = request.words_from(1).filter(|key| context.session.touch(key)).count();
    context.replies.count(count);
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
        context.session.keys(&pattern.prefix(), show)?;
    }
    context.replies.array_from(start, count);
    Ok(())
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
pub fn scan(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    const COUNT: usize = 10;
    const COUNT_MAX: i64 = 100_000;
    let cursor = str::from_utf8(&request[1]).ok().and_then(|word| word.parse().ok());
    let cursor: u64 = cursor.ok_or(CommandError::Value("invalid cursor"))?;
    let (mut pattern, mut count, mut is_string) = (None, COUNT, true);
    let mut words = request.words_from(2);
    while let Some(option) = words.next() {
        let value = words.next().ok_or(CommandError::Syntax)?;
        match option {
            _ if is(option, "MATCH") => pattern = Some(Pattern::new(value)?),
            _ if is(option, "COUNT") => match integer(value)? {
                number @ 1.. => count = number.min(COUNT_MAX) as usize,
                _ => return Err(CommandError::Syntax),
            },
            _ if is(option, "TYPE") => is_string = is(value, "string"),
            _ => return Err(CommandError::Syntax),
        }
    }
    let (start, mut found) = (context.replies.position(), 0);
    let replies = &mut context.replies;
    let show = |key: &[u8]| {
        if is_string && pattern.as_ref().is_none_or(|pattern| pattern.matches(key)) {
            replies.bulk(key);
            found += 1;
        }
    };
    let next = context.session.scan(cursor, count, show).map_err(WriteError::from)?;
    context.replies.array_from(start, found);
    let middle = context.replies.position();
    context.replies.array(2);
    context.replies.bulk(next.to_string().as_bytes());
    context.replies.move_before(start, middle);
    Ok(())
}

pub fn random_key(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let replies = &mut context.replies;
    let found = context.session.random_key(|key| replies.bulk(key));
    if !found {
        context.replies.nil();
    }
    Ok(())
}

pub fn kind(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let exists = context.session.look(&request[1], |entry| entry.is_some());
    context.replies.status(if exists { "string" } else { "none" });
    Ok(())
}

/// `RENAME key newkey`
pub fn rename(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let here = context.session.database();
    if context.session.transfer((here, &request[1]), (here, &request[2]), true, true)?.is_none() {
        return Err(CommandError::Value("no such key"));
    }
    context.replies.status("OK");
    Ok(())
}

/// `RENAMENX key newkey`
pub fn rename_nx(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let here = context.session.database();
    match context.session.transfer((here, &request[1]), (here, &request[2]), false, true)? {
        None => Err(CommandError::Value("no such key")),
        Some(was_done) => {
            context.replies.integer(i64::from(was_done));
            Ok(())
        }
    }
}

/// `COPY source destination [DB database] [REPLACE]`
pub fn copy(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let here = context.session.database();
    let (mut replace, mut there) = (false, here);
    let mut words = request.words_from(3);
    while let Some(word) = words.next() {
        match word {
            _ if is(word, "REPLACE") => replace = true,
            _ if is(word, "DB") && words.len() > 0 => {
                there = database(context.session, words.next().unwrap_or_default())?;
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    let (from, to) = ((here, &request[1]), (there, &request[2]));
    if from == to {
        return Err(CommandError::Value("source and destination objects are the same"));
    }
    let was_done = context.session.transfer(from, to, replace, false)?;
    context.replies.integer(i64::from(was_done == Some(true)));
    Ok(())
}

/// `MOVE key database`
pub fn move_key(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let (here, there) = (context.session.database(), database(context.session, &request[2])?);
    if here == there {
        return Err(CommandError::Value("source and destination objects are the same"));
    }
    let was_done =
        context.session.transfer((here, &request[1]), (there, &request[1]), false, true)?;
    context.replies.integer(i64::from(was_done == Some(true)));
    Ok(())
}

/// How Redis would call the way in which a value is kept.
pub fn encoding(entry: &Entry) -> &'static str {
    const EMBEDDED_BYTES_MAX: usize = 44;
    match entry.value() {
        View::Short(bytes) if text::integer(bytes).is_some() => "int",
        // What changed in its place is not packed behind its key any more.
        value if value.len() <= EMBEDDED_BYTES_MAX && !entry.is_grown() => "embstr",
        _ => "raw",
    }
}

pub fn object_encoding(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    match context.session.look(&request[2], |entry| entry.map(encoding)) {
        Some(encoding) => context.replies.bulk(encoding.as_bytes()),
        None => context.replies.nil(),
    }
    Ok(())
}

pub fn object_idle_time(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    match context.session.idle_s(&request[2]) {
        Some(idle_s) => context.replies.integer(idle_s.into()),
        None => context.replies.nil(),
    }
    Ok(())
}

pub fn object_refcount(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    match context.session.look(&request[2], |entry| entry.is_some()) {
        true => context.replies.integer(1),
        false => context.replies.nil(),
    }
    Ok(())
}

/// `OBJECT FREQ`: nothing is counted, as in Redis unless its memory policy needs it.
pub fn object_freq(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    match context.session.look(&request[2], |entry| entry.is_some()) {
        true => Err(CommandError::Value(
            "An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
             switching between policies at runtime LRU and LFU data will take some time to adjust.",
        )),
        false => {
            context.replies.nil();
            Ok(())
        }
    }
}

/// `MEMORY USAGE key [SAMPLES count]`: what the key and its value take, in bytes.
pub fn memory_usage(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    match request.len() {
        3 => {}
        5 if is(&request[3], "SAMPLES") => {
            integer(&request[4])?;
        }
        _ => return Err(CommandError::Syntax),
    }
    match context.session.look(&request[2], |entry| entry.map(Entry::capacity)) {
        Some(bytes) => context.replies.count(bytes),
        None => context.replies.nil(),
    }
    Ok(())
}

/// The number of a database.
fn database(session: &Session<'_>, word: &[u8]) -> Result<usize> {
    let number = usize::try_from(integer(word)?).ok();
    let exists = |number: &usize| *number < session.engine().databases();
    number.filter(exists).ok_or(CommandError::Database)
}

pub fn select(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let database = database(context.session, &request[1])?;
    context.select(database);
    context.replies.status("OK");
    Ok(())
}

/// `SWAPDB database database`
pub fn swap_db(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let index = |word: &[u8], error: &'static str| {
        database(context.session, word).map_err(|known| match known {
            CommandError::NotAnInteger => CommandError::Value(error),
            other => other,
        })
    };
    let one = index(&request[1], "invalid first DB index");
    let two = index(&request[2], "invalid second DB index");
    // As Redis does: numbers first, whatever they are.
    let (one, two) = match (one, two) {
        (Err(CommandError::Database), Err(error @ CommandError::Value(_))) => return Err(error),
        (one, two) => (one?, two?),
    };
    if one != two {
        context.session.swap(one, two)?;
    }
    context.replies.status("OK");
    Ok(())
}
