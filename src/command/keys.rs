//! The commands on keys, whatever their values.

use super::spec::{
    Flag::{Denyoom, Fast, Readonly, Write},
    Group, Spec,
};
use super::{Call, CommandError, integer, is};
use crate::command::glob::Pattern;
use crate::engine::{Admin, Entry, Key, Txn, TxnError};
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

pub fn del<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.check_writes()?;
    let mut count = 0;
    // Each key once: to look for it again would take time with the others locked.
    for key in call.keys {
        count += usize::from(call.txn.delete(call.key_of(key))?);
    }
    if call.keys.is_empty() {
        for key in call.request.words_from(1) {
            count += usize::from(call.txn.delete(call.key_of(key))?);
        }
    }
    call.replies.count(count);
    Ok(())
}

pub const EXISTS: Spec = Spec::new(Group::Generic, "1.0.0", "EXISTS key [key ...]")
    .flags(&[Readonly, Fast])
    .summary("Counts how many of the keys exist; a key named twice counts twice.")
    .example("EXISTS ville");

pub fn exists<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let mut count = 0;
    for key in call.request.words_from(1) {
        count += usize::from(call.look(call.key_of(key))?.is_some());
    }
    call.replies.count(count);
    Ok(())
}

pub const TOUCH: Spec = Spec::new(Group::Generic, "3.2.1", "TOUCH key [key ...]")
    .flags(&[Readonly, Fast])
    .summary("Counts how many of the keys exist.")
    .example("TOUCH ville");

pub fn touch<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let mut count = 0;
    for key in call.request.words_from(1) {
        // An access whatever `CLIENT NO-TOUCH` says.
        let entry = call.txn.get(call.key_of(key))?;
        count += usize::from(call.stats.lookup(entry).is_some());
    }
    call.replies.count(count);
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

pub fn keys<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let pattern = Pattern::new(&call.request[1])?;
    let (start, mut count) = (call.replies.position(), 0);
    if let Some(key) = pattern.only() {
        let (entry, replies) = call.read(call.key_of(&key))?;
        if entry.is_some() && pattern.matches(&key) {
            replies.bulk(&key);
            count = 1;
        }
    } else {
        call.txn.keys(call.connection.database, &pattern.prefix(), &mut |key| {
            if pattern.matches(key) {
                call.replies.bulk(key);
                count += 1;
            }
        })?;
    }
    call.replies.array_from(start, count);
    Ok(())
}

pub const SCAN: Spec =
    Spec::new(Group::Generic, "2.8.0", "SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]")
        .flags(&[Readonly])
        .summary("Lists keys in steps: the cursor begins as 0, and ends as 0.")
        .example("SCAN 0 MATCH vil* COUNT 100");

pub fn scan<T: Txn>(call: &mut Call<'_, T>) -> Result {
    const COUNT: usize = 10;
    const COUNT_MAX: i64 = 100_000;
    let cursor = str::from_utf8(&call.request[1]).ok().and_then(|word| word.parse().ok());
    let cursor: u64 = cursor.ok_or(CommandError::err("invalid cursor"))?;
    let (mut pattern, mut count, mut is_string) = (None, COUNT, true);
    let mut words = call.request.words_from(2);
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
    let (start, mut found) = (call.replies.position(), 0);
    let next = call.txn.scan(call.connection.database, cursor, count, &mut |key| {
        if is_string && pattern.as_ref().is_none_or(|pattern| pattern.matches(key)) {
            call.replies.bulk(key);
            found += 1;
        }
    })?;
    call.replies.array_from(start, found);
    let middle = call.replies.position();
    call.replies.array(2);
    call.replies.bulk(next.to_string().as_bytes());
    call.replies.move_before(start, middle);
    Ok(())
}

pub const RANDOMKEY: Spec = Spec::new(Group::Generic, "1.0.0", "RANDOMKEY")
    .flags(&[Readonly])
    .summary("Returns any key.")
    .example("RANDOMKEY");

pub fn random_key<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let database = call.connection.database;
    let found = call.txn.random_key(database, &mut |key| call.replies.bulk(key))?;
    if !found {
        call.replies.nil();
    }
    Ok(())
}

pub const TYPE: Spec = Spec::new(Group::Generic, "1.0.0", "TYPE key")
    .flags(&[Readonly, Fast])
    .summary("Returns string, or none if there is no such key.")
    .example("TYPE ville");

pub fn kind<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let exists = call.look(call.key(1))?.is_some();
    call.replies.status(if exists { "string" } else { "none" });
    Ok(())
}

pub const RENAME: Spec = Spec::new(Group::Generic, "1.0.0", "RENAME key newkey")
    .flags(&[Write])
    .summary("Gives a key another name.")
    .example("RENAME brouillon ville");

pub fn rename<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let (from, to) = (call.key(1), call.key(2));
    let was_done = transfer(call, from, to, true, true)?;
    was_done.ok_or(CommandError::err("no such key"))?;
    call.replies.status("OK");
    Ok(())
}

pub const RENAMENX: Spec = Spec::new(Group::Generic, "1.0.0", "RENAMENX key newkey")
    .flags(&[Write, Fast])
    .summary("The same if there is no key of that name.")
    .example("RENAMENX brouillon ville");

pub fn rename_nx<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let (from, to) = (call.key(1), call.key(2));
    let was_done = transfer(call, from, to, false, true)?;
    let was_done = was_done.ok_or(CommandError::err("no such key"))?;
    call.replies.integer(i64::from(was_done));
    Ok(())
}

/// Gives the value of one key to another, and when it expires; `None` if there is no such key, `Some(false)` if there is
/// another that is not to be replaced. Of a long value no byte is copied.
fn transfer<T: Txn>(
    call: &mut Call<'_, T>,
    from: Key<'_>,
    to: Key<'_>,
    replace: bool,
    remove: bool,
) -> Result<Option<bool>> {
    let old = call.txn.peek(from)?.map(|old| (old.value().share(), old.expires_ms()));
    let Some((value, expires_ms)) = old else { return Ok(None) };
    if !replace && call.has(to)? {
        return Ok(Some(false));
    }
    if from == to {
        return Ok(Some(true));
    }
    call.check_writes()?;
    let value = value.map_err(TxnError::from)?;
    if remove {
        call.txn.delete(from)?;
    }
    call.txn.put(to, value.view(), expires_ms)?;
    Ok(Some(true))
}

pub const COPY: Spec =
    Spec::new(Group::Generic, "6.2.0", "COPY source destination [DB destination-db] [REPLACE]")
        .flags(&[Write, Denyoom])
        .summary("Copies a key.")
        .example("COPY ville ancienne REPLACE");

pub fn copy<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let (mut replace, mut there) = (false, call.connection.database);
    let mut words = call.request.words_from(3);
    while let Some(word) = words.next() {
        match word {
            _ if is(word, "REPLACE") => replace = true,
            _ if is(word, "DB") && words.len() > 0 => {
                there = database(call.admin, words.next().unwrap_or_default())?;
            }
            _ => return Err(CommandError::SYNTAX),
        }
    }
    let (from, to) = (call.key(1), Key { database: there, bytes: &call.request[2] });
    if from == to {
        return Err(CommandError::err("source and destination objects are the same"));
    }
    let was_done = transfer(call, from, to, replace, false)?;
    call.replies.integer(i64::from(was_done == Some(true)));
    Ok(())
}

pub const MOVE: Spec = Spec::new(Group::Generic, "1.0.0", "MOVE key db")
    .flags(&[Write, Fast])
    .summary("Moves a key to another database, unless it has such a key.")
    .example("MOVE brouillon 1");

pub fn move_key<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let from = call.key(1);
    let to = Key { database: database(call.admin, &call.request[2])?, ..from };
    if from == to {
        return Err(CommandError::err("source and destination objects are the same"));
    }
    let was_done = transfer(call, from, to, false, true)?;
    call.replies.integer(i64::from(was_done == Some(true)));
    Ok(())
}

/// Redis's name for the way in which a value is stored.
pub fn encoding(entry: &Entry) -> &'static str {
    const EMBEDDED_BYTES_MAX: usize = 44;
    match entry.value() {
        View::Short(bytes) if text::integer(bytes).is_some() => "int",
        // A value that was changed in place no longer stands behind its key.
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

pub fn object_encoding<T: Txn>(call: &mut Call<'_, T>) -> Result {
    match call.look(call.key(2))?.map(encoding) {
        Some(encoding) => call.replies.bulk(encoding.as_bytes()),
        None => call.replies.nil(),
    }
    Ok(())
}

pub const OBJECT_IDLETIME: Spec = Spec::new(Group::Generic, "2.2.3", "OBJECT IDLETIME key")
    .flags(&[Readonly])
    .needs_file()
    .summary("Returns for how many seconds nobody has asked for a key.");

pub fn object_idle_time<T: Txn>(call: &mut Call<'_, T>) -> Result {
    match call.txn.idle_s(call.key(2))? {
        Some(idle_s) => call.replies.integer(idle_s.into()),
        None => call.replies.nil(),
    }
    Ok(())
}

pub const OBJECT_REFCOUNT: Spec = Spec::new(Group::Generic, "2.2.3", "OBJECT REFCOUNT key")
    .flags(&[Readonly])
    .summary("Returns 1.");

pub fn object_refcount<T: Txn>(call: &mut Call<'_, T>) -> Result {
    match call.look(call.key(2))?.is_some() {
        true => call.replies.integer(1),
        false => call.replies.nil(),
    }
    Ok(())
}

pub const OBJECT_FREQ: Spec = Spec::new(Group::Generic, "4.0.0", "OBJECT FREQ key")
    .flags(&[Readonly])
    .summary("Returns an error: nothing is counted.");

/// `OBJECT FREQ`: nothing is counted, as in Redis unless its memory policy needs it.
pub fn object_freq<T: Txn>(call: &mut Call<'_, T>) -> Result {
    match call.look(call.key(2))?.is_some() {
        true => Err(CommandError::err(
            "An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
             switching between policies at runtime LRU and LFU data will take some time to adjust.",
        )),
        false => {
            call.replies.nil();
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
pub fn memory_usage<T: Txn>(call: &mut Call<'_, T>) -> Result {
    match call.request.len() {
        3 => {}
        5 if is(&call.request[3], "SAMPLES") => {
            integer(&call.request[4])?;
        }
        _ => return Err(CommandError::SYNTAX),
    }
    match call.look(call.key(2))?.map(Entry::capacity) {
        Some(bytes) => call.replies.count(bytes),
        None => call.replies.nil(),
    }
    Ok(())
}

/// The number of a database.
fn database(admin: &dyn Admin, word: &[u8]) -> Result<usize> {
    let number = usize::try_from(integer(word)?).ok();
    let exists = |number: &usize| *number < admin.databases();
    number.filter(exists).ok_or(CommandError::DATABASE)
}

pub const SELECT: Spec = Spec::new(Group::Connection, "1.0.0", "SELECT index")
    .flags(&[Fast])
    .summary("Chooses the database for what follows; at first it is 0.")
    .example("SELECT 1")
    .notes(&["A key belongs to a database: each client can keep its own pairs apart."]);

pub fn select<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let database = database(call.admin, &call.request[1])?;
    call.select(database);
    call.replies.status("OK");
    Ok(())
}

pub const SWAPDB: Spec = Spec::new(Group::Server, "4.0.0", "SWAPDB index1 index2")
    .flags(&[Write, Fast])
    .needs_file()
    .summary("Gives each of two databases the keys of the other.")
    .example("SWAPDB 0 1");

pub fn swap_db<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let index = |word: &[u8], error: &'static str| {
        database(call.admin, word).map_err(|known| match known {
            known if known == CommandError::NOT_AN_INTEGER => CommandError::err(error),
            known => known,
        })
    };
    let one = index(&call.request[1], "invalid first DB index");
    let two = index(&call.request[2], "invalid second DB index");
    // As in Redis: whether both are numbers is checked first.
    let (one, two) = match (one, two) {
        (Err(one), Err(two)) if one == CommandError::DATABASE => return Err(two),
        (one, two) => (one?, two?),
    };
    if one != two {
        call.check_writes()?;
        call.txn.swap(one, two)?;
    }
    call.replies.status("OK");
    Ok(())
}
