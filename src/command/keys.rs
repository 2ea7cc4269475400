//! The commands on keys, whatever their values.

use super::spec::{
    Flag::{Denyoom, Fast, Readonly, Write},
    Group, Spec,
};
use super::{CommandError, Context, integer, is};
use crate::command::glob::Pattern;
use crate::engine::local::entry::Entry;
use crate::engine::local::{Session, WriteError};
use crate::protocol::request::Request;
use crate::text;
use crate::value::View;

type Result<T = ()> = std::result::Result<T, CommandError>;

pub const DEL: Spec = Spec::new(Group::Generic, "1.0.0", "DEL key [key ...]")
    .flags(&[Write])
    .summary("Removes keys and tells how many there were.")
    .example("DEL brouillon ancien");

pub const UNLINK: Spec = Spec::new(Group::Generic, "4.0.0", "UNLINK key [key ...]")
    .flags(&[Write, Fast])
    .summary("Does what DEL does.")
    .example("UNLINK brouillon");

pub fn del(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let count = context.session.del(request.words_from(1))?;
    context.replies.count(count);
    Ok(())
}

pub const EXISTS: Spec = Spec::new(Group::Generic, "1.0.0", "EXISTS key [key ...]")
    .flags(&[Readonly, Fast])
    .summary("Counts how many of the keys exist; a key named twice counts twice.")
    .example("EXISTS ville");

pub fn exists(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let count = context.session.exists(request.words_from(1));
    context.replies.count(count);
    Ok(())
}

pub const TOUCH: Spec = Spec::new(Group::Generic, "3.2.1", "TOUCH key [key ...]")
    .flags(&[Readonly, Fast])
    .summary("Counts how many of the keys exist.")
    .example("TOUCH ville");

pub fn touch(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let count = request.words_from(1).filter(|key| context.session.touch(key)).count();
    context.replies.count(count);
    Ok(())
}

pub const KEYS: Spec = Spec::new(Group::Generic, "1.0.0", "KEYS pattern")
    .flags(&[Readonly])
    .summary("Lists the keys that match a pattern.")
    .example("KEYS vil*")
    .notes(&[
        "*      any bytes",
        "?      one byte",
        "[a-c]  one of these",
        "[^x]   one that is not",
        "\\x     x itself",
    ]);

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

pub const SCAN: Spec =
    Spec::new(Group::Generic, "2.8.0", "SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]")
        .flags(&[Readonly])
        .summary("Lists keys in steps: the cursor begins as 0, and ends as 0.")
        .example("SCAN 0 MATCH vil* COUNT 100");

pub fn scan(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    const COUNT: usize = 10;
    const COUNT_MAX: i64 = 100_000;
    let cursor = str::from_utf8(&request[1]).ok().and_then(|word| word.parse().ok());
    let cursor: u64 = cursor.ok_or(CommandError::err("invalid cursor"))?;
    let (mut pattern, mut count, mut is_string) = (None, COUNT, true);
    let mut words = request.words_from(2);
    while let Some(option) = words.next() {
        let value = words.next().ok_or(CommandError::SYNTAX)?;
        match option {
            _ if is(option, "MATCH") => pattern = Some(Pattern::new(value)?),
            _ if is(option, "COUNT") => match integer(value)? {
                number @ 1.. => count = number.min(COUNT_MAX) as usize,
                _ => return Err(CommandError::SYNTAX),
            },
            _ if is(option, "TYPE") => is_string = is(value, "string"),
            _ => return Err(CommandError::SYNTAX),
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

pub const RANDOMKEY: Spec = Spec::new(Group::Generic, "1.0.0", "RANDOMKEY")
    .flags(&[Readonly])
    .summary("Returns any key.")
    .example("RANDOMKEY");

pub fn random_key(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let replies = &mut context.replies;
    let found = context.session.random_key(|key| replies.bulk(key));
    if !found {
        context.replies.nil();
    }
    Ok(())
}

pub const TYPE: Spec = Spec::new(Group::Generic, "1.0.0", "TYPE key")
    .flags(&[Readonly, Fast])
    .summary("Returns string, or none if there is no such key.")
    .example("TYPE ville");

pub fn kind(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let exists = context.session.look(&request[1], |entry| entry.is_some());
    context.replies.status(if exists { "string" } else { "none" });
    Ok(())
}

pub const RENAME: Spec = Spec::new(Group::Generic, "1.0.0", "RENAME key newkey")
    .flags(&[Write])
    .summary("Gives a key another name.")
    .example("RENAME brouillon ville");

pub fn rename(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let here = context.session.database();
    if context.session.transfer((here, &request[1]), (here, &request[2]), true, true)?.is_none() {
        return Err(CommandError::err("no such key"));
    }
    context.replies.status("OK");
    Ok(())
}

pub const RENAMENX: Spec = Spec::new(Group::Generic, "1.0.0", "RENAMENX key newkey")
    .flags(&[Write, Fast])
    .summary("The same if there is no key of that name.")
    .example("RENAMENX brouillon ville");

pub fn rename_nx(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let here = context.session.database();
    match context.session.transfer((here, &request[1]), (here, &request[2]), false, true)? {
        None => Err(CommandError::err("no such key")),
        Some(was_done) => {
            context.replies.integer(i64::from(was_done));
            Ok(())
        }
    }
}

pub const COPY: Spec =
    Spec::new(Group::Generic, "6.2.0", "COPY source destination [DB destination-db] [REPLACE]")
        .flags(&[Write, Denyoom])
        .summary("Copies a key.")
        .example("COPY ville ancienne REPLACE");

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
            _ => return Err(CommandError::SYNTAX),
        }
    }
    let (from, to) = ((here, &request[1]), (there, &request[2]));
    if from == to {
        return Err(CommandError::err("source and destination objects are the same"));
    }
    let was_done = context.session.transfer(from, to, replace, false)?;
    context.replies.integer(i64::from(was_done == Some(true)));
    Ok(())
}

pub const MOVE: Spec = Spec::new(Group::Generic, "1.0.0", "MOVE key db")
    .flags(&[Write, Fast])
    .summary("Moves a key to another database, unless it has such a key.")
    .example("MOVE brouillon 1");

pub fn move_key(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let (here, there) = (context.session.database(), database(context.session, &request[2])?);
    if here == there {
        return Err(CommandError::err("source and destination objects are the same"));
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

pub const OBJECT: Spec = Spec::new(Group::Generic, "2.2.3", "OBJECT subcommand")
    .summary("Tells how a value is kept.")
    .example("OBJECT ENCODING ville");

pub const OBJECT_ENCODING: Spec = Spec::new(Group::Generic, "2.2.3", "OBJECT ENCODING key")
    .flags(&[Readonly])
    .summary("Returns int, embstr or raw.");

pub fn object_encoding(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    match context.session.look(&request[2], |entry| entry.map(encoding)) {
        Some(encoding) => context.replies.bulk(encoding.as_bytes()),
        None => context.replies.nil(),
    }
    Ok(())
}

pub const OBJECT_IDLETIME: Spec = Spec::new(Group::Generic, "2.2.3", "OBJECT IDLETIME key")
    .flags(&[Readonly])
    .summary("Returns for how many seconds nobody has asked for a key.");

pub fn object_idle_time(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    match context.session.idle_s(&request[2]) {
        Some(idle_s) => context.replies.integer(idle_s.into()),
        None => context.replies.nil(),
    }
    Ok(())
}

pub const OBJECT_REFCOUNT: Spec = Spec::new(Group::Generic, "2.2.3", "OBJECT REFCOUNT key")
    .flags(&[Readonly])
    .summary("Returns 1.");

pub fn object_refcount(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    match context.session.look(&request[2], |entry| entry.is_some()) {
        true => context.replies.integer(1),
        false => context.replies.nil(),
    }
    Ok(())
}

pub const OBJECT_FREQ: Spec = Spec::new(Group::Generic, "4.0.0", "OBJECT FREQ key")
    .flags(&[Readonly])
    .summary("Returns an error: nothing is counted.");

/// `OBJECT FREQ`: nothing is counted, as in Redis unless its memory policy needs it.
pub fn object_freq(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    match context.session.look(&request[2], |entry| entry.is_some()) {
        true => Err(CommandError::err(
            "An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
             switching between policies at runtime LRU and LFU data will take some time to adjust.",
        )),
        false => {
            context.replies.nil();
            Ok(())
        }
    }
}

pub const MEMORY: Spec = Spec::new(Group::Server, "4.0.0", "MEMORY subcommand")
    .summary("Tells what a key takes.")
    .example("MEMORY USAGE ville");

pub const MEMORY_USAGE: Spec =
    Spec::new(Group::Server, "4.0.0", "MEMORY USAGE key [SAMPLES count]")
        .flags(&[Readonly])
        .summary("Returns how much memory a key and its value take, in bytes.");

/// `MEMORY USAGE key [SAMPLES count]`: what the key and its value take, in bytes.
pub fn memory_usage(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    match request.len() {
        3 => {}
        5 if is(&request[3], "SAMPLES") => {
            integer(&request[4])?;
        }
        _ => return Err(CommandError::SYNTAX),
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
    number.filter(exists).ok_or(CommandError::DATABASE)
}

pub const SELECT: Spec = Spec::new(Group::Connection, "1.0.0", "SELECT index")
    .flags(&[Fast])
    .summary("Chooses the database for what follows; at first it is 0.")
    .example("SELECT 1")
    .notes(&["A key belongs to a database: each client can keep its own pairs apart."]);

pub fn select(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let database = database(context.session, &request[1])?;
    context.select(database);
    context.replies.status("OK");
    Ok(())
}

pub const SWAPDB: Spec = Spec::new(Group::Server, "4.0.0", "SWAPDB index1 index2")
    .flags(&[Write, Fast])
    .summary("Gives each of two databases the keys of the other.")
    .example("SWAPDB 0 1");

pub fn swap_db(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let index = |word: &[u8], error: &'static str| {
        database(context.session, word).map_err(|known| match known {
            known if known == CommandError::NOT_AN_INTEGER => CommandError::err(error),
            known => known,
        })
    };
    let one = index(&request[1], "invalid first DB index");
    let two = index(&request[2], "invalid second DB index");
    // As Redis does: numbers first, whatever they are.
    let (one, two) = match (one, two) {
        (Err(one), Err(two)) if one == CommandError::DATABASE => return Err(two),
        (one, two) => (one?, two?),
    };
    if one != two {
        context.session.swap(one, two)?;
    }
    context.replies.status("OK");
    Ok(())
}
