//! Random inputs that shrink to the smallest that fails: sequences of commands against a model that is a plain map,
//! and requests cut anywhere.
//!
//! A few seconds by default; `PROPTEST_CASES` says how many cases each property gets.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use coffre::protocol::reader::RequestReader;
use coffre::protocol::request::Limits;
use coffre::protocol::telnet::Telnet;
use coffre::text::quote;

use crate::harness::{Client, Reply, Server, State, dump, folder, is_cluster, request};

/// A key, of few; so commands meet.
type Key = &'static str;
type Value = &'static str;

const KEYS: [Key; 4] = ["a", "b", "c d", ""];
const VALUES: [Value; 8] =
    ["", "x", "10", "-3", "abc", "9223372036854775807", "01", "a\r\n\0\u{e9}"];
/// Moments far from now, so that no clock matters: a key expires at once or not in this century.
const PAST_MS: u64 = 1000;
const TIMES_MS: [u64; 3] = [PAST_MS, 33_177_117_420_000, 33_177_117_420_999];
const DATABASES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Only {
    Always,
    IfNew,
    IfThere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifetime {
    Forever,
    Kept,
    Until(u64),
}

#[derive(Clone, Debug)]
enum Command {
    Get(Key),
    Set(Key, Value, Only, bool, Lifetime),
    GetDel(Key),
    GetEx(Key, Option<Lifetime>),
    MGet(Vec<Key>),
    MSet(Vec<(Key, Value)>),
    MSetNx(Vec<(Key, Value)>),
    Append(Key, Value),
    SetRange(Key, usize, Value),
    GetRange(Key, i64, i64),
    StrLen(Key),
    IncrBy(Key, i64),
    Del(Vec<Key>),
    Exists(Vec<Key>),
    Rename(Key, Key),
    RenameNx(Key, Key),
    Copy(Key, Key, usize, bool),
    Move(Key, usize),
    PExpireAt(Key, u64, &'static str),
    Persist(Key),
    PExpireTime(Key),
    DbSize,
    Keys,
    Select(usize),
    SwapDb(usize, usize),
    FlushDb,
    FlushAll,
    Multi,
    Exec,
    Discard,
    Watch(Vec<Key>),
    Unwatch,
}

use Command as C;

impl Command {
    fn words(&self) -> Vec<String> {
        let join = |name: &str, words: &[&str]| {
            std::iter::once(name).chain(words.iter().copied()).map(str::to_owned).collect()
        };
        let pairs = |pairs: &[(Key, Value)]| {
            pairs.iter().flat_map(|(key, value)| [*key, *value]).collect::<Vec<_>>()
        };
        let time = |lifetime: &Lifetime| match lifetime {
            Lifetime::Forever => Vec::new(),
            Lifetime::Kept => vec!["KEEPTTL".to_owned()],
            Lifetime::Until(time_ms) => vec!["PXAT".to_owned(), time_ms.to_string()],
        };
        match self {
            C::Get(key) => join("GET", &[key]),
            C::Set(key, value, only, get, lifetime) => {
                let mut words: Vec<String> = join("SET", &[key, value]);
                match only {
                    Only::Always => {}
                    Only::IfNew => words.push("NX".to_owned()),
                    Only::IfThere => words.push("XX".to_owned()),
                }
                words.extend(get.then(|| "GET".to_owned()));
                words.extend(time(lifetime));
                words
            }
            C::GetDel(key) => join("GETDEL", &[key]),
            C::GetEx(key, None) => join("GETEX", &[key]),
            C::GetEx(key, Some(Lifetime::Until(time_ms))) => {
                join("GETEX", &[key, "PXAT", &time_ms.to_string()])
            }
            C::GetEx(key, Some(_)) => join("GETEX", &[key, "PERSIST"]),
            C::MGet(keys) => join("MGET", keys),
            C::MSet(list) => join("MSET", &pairs(list)),
            C::MSetNx(list) => join("MSETNX", &pairs(list)),
            C::Append(key, value) => join("APPEND", &[key, value]),
            C::SetRange(key, offset, value) => join("SETRANGE", &[key, &offset.to_string(), value]),
            C::GetRange(key, from, to) => {
                join("GETRANGE", &[key, &from.to_string(), &to.to_string()])
            }
            C::StrLen(key) => join("STRLEN", &[key]),
            C::IncrBy(key, by) => join("INCRBY", &[key, &by.to_string()]),
            C::Del(keys) => join("DEL", keys),
            C::Exists(keys) => join("EXISTS", keys),
            C::Rename(from, to) => join("RENAME", &[from, to]),
            C::RenameNx(from, to) => join("RENAMENX", &[from, to]),
            C::Copy(from, to, database, replace) => {
                let mut words: Vec<String> = join("COPY", &[from, to, "DB", &database.to_string()]);
                words.extend(replace.then(|| "REPLACE".to_owned()));
                words
            }
            C::Move(key, database) => join("MOVE", &[key, &database.to_string()]),
            C::PExpireAt(key, time_ms, "") => join("PEXPIREAT", &[key, &time_ms.to_string()]),
            C::PExpireAt(key, time_ms, only) => {
                join("PEXPIREAT", &[key, &time_ms.to_string(), only])
            }
            C::Persist(key) => join("PERSIST", &[key]),
            C::PExpireTime(key) => join("PEXPIRETIME", &[key]),
            C::DbSize => join("DBSIZE", &[]),
            C::Keys => join("KEYS", &["*"]),
            C::Select(database) => join("SELECT", &[&database.to_string()]),
            C::SwapDb(one, two) => join("SWAPDB", &[&one.to_string(), &two.to_string()]),
            C::FlushDb => join("FLUSHDB", &[]),
            C::FlushAll => join("FLUSHALL", &[]),
            C::Multi => join("MULTI", &[]),
            C::Exec => join("EXEC", &[]),
            C::Discard => join("DISCARD", &[]),
            C::Watch(keys) => join("WATCH", keys),
            C::Unwatch => join("UNWATCH", &[]),
        }
    }
}

fn commands() -> impl Strategy<Value = Command> {
    let key = || select(&KEYS[..]);
    let value = || select(&VALUES[..]);
    let keys = || vec(key(), 1..4);
    let pairs = || vec((key(), value()), 1..4);
    let database = || 0..DATABASES;
    let time = || select(&TIMES_MS[..]);
    let lifetime = || {
        prop_oneof![
            3 => Just(Lifetime::Forever),
            1 => Just(Lifetime::Kept),
            2 => time().prop_map(Lifetime::Until),
        ]
    };
    let only = || select(vec![Only::Always, Only::Always, Only::IfNew, Only::IfThere]);
    let changes = prop_oneof![
        6 => (key(), value(), only(), any::<bool>(), lifetime()).prop_map(|(k, v, o, g, l)| C::Set(k, v, o, g, l)),
        2 => key().prop_map(C::GetDel),
        1 => pairs().prop_map(C::MSet),
        1 => pairs().prop_map(C::MSetNx),
        3 => (key(), value()).prop_map(|(k, v)| C::Append(k, v)),
        2 => (key(), 0..12_usize, value()).prop_map(|(k, o, v)| C::SetRange(k, o, v)),
        3 => (key(), select(vec![1, -1, 5, i64::MAX, i64::MIN])).prop_map(|(k, by)| C::IncrBy(k, by)),
        3 => keys().prop_map(C::Del),
        2 => (key(), key()).prop_map(|(a, b)| C::Rename(a, b)),
        1 => (key(), key()).prop_map(|(a, b)| C::RenameNx(a, b)),
        2 => (key(), key(), database(), any::<bool>()).prop_map(|(a, b, d, r)| C::Copy(a, b, d, r)),
        2 => (key(), database()).prop_map(|(k, d)| C::Move(k, d)),
        1 => Just(C::FlushDb),
        1 => Just(C::FlushAll),
        1 => (database(), database()).prop_map(|(a, b)| C::SwapDb(a, b)),
    ];
    let times = prop_oneof![
        (key(), prop::option::of(lifetime())).prop_map(|(k, l)| C::GetEx(k, l)),
        (key(), time(), select(vec!["", "NX", "XX", "GT", "LT"]))
            .prop_map(|(k, t, o)| C::PExpireAt(k, t, o)),
        key().prop_map(C::Persist),
        key().prop_map(C::PExpireTime),
    ];
    let looks = prop_oneof![
        key().prop_map(C::Get),
        keys().prop_map(C::MGet),
        (key(), -6..6_i64, -6..6_i64).prop_map(|(k, a, b)| C::GetRange(k, a, b)),
        key().prop_map(C::StrLen),
        keys().prop_map(C::Exists),
        Just(C::DbSize),
        Just(C::Keys),
    ];
    let connection = prop_oneof![
        2 => database().prop_map(C::Select),
        3 => Just(C::Multi),
        4 => Just(C::Exec),
        1 => Just(C::Discard),
        2 => keys().prop_map(C::Watch),
        1 => Just(C::Unwatch),
    ];
    prop_oneof![8 => changes, 3 => times, 4 => looks, 4 => connection]
}

/// What a key holds, and when it expires.
type Held = (Vec<u8>, Option<u64>);
type Database = BTreeMap<Vec<u8>, Held>;

/// A connection, as the model knows it.
#[derive(Clone, Debug, Default)]
struct Connection {
    database: usize,
    queued: Option<Vec<Command>>,
    /// Watched keys: database, key, and how often it had changed by then.
    watched: Vec<(usize, Key, u64)>,
}

/// The commands once more, in the plainest way there is.
#[derive(Debug)]
struct Model {
    databases: Vec<Database>,
    /// How often each key was changed.
    changes: BTreeMap<(usize, Vec<u8>), u64>,
    connections: [Connection; 2],
}

fn error(text: &str) -> Reply {
    Reply::Error(text.to_owned())
}

fn flag(is: bool) -> Reply {
    Reply::Integer(i64::from(is))
}

fn count(count: usize) -> Reply {
    Reply::Integer(count as i64)
}

fn shown(held: Option<&Held>) -> Reply {
    held.map_or(Reply::Nil, |(value, _)| Reply::Bulk(value.clone()))
}

/// An integer as Redis takes one: in the one form that it is written in.
fn number(bytes: &[u8]) -> Option<i64> {
    let number: i64 = str::from_utf8(bytes).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == bytes).then_some(number)
}

impl Model {
    fn new() -> Self {
        let databases = vec![Database::new(); DATABASES];
        Self { databases, changes: BTreeMap::new(), connections: Default::default() }
    }

    fn changed(&mut self, database: usize, key: &[u8]) {
        *self.changes.entry((database, key.to_vec())).or_default() += 1;
    }

    /// Stores a key or, if that is over already, removes it.
    fn store(&mut self, database: usize, key: &[u8], value: Vec<u8>, expires_ms: Option<u64>) {
        if expires_ms == Some(PAST_MS) {
            // As in Redis one that was not there was changed, too.
            if self.remove(database, key).is_none() {
                self.changed(database, key);
            }
            return;
        }
        self.changed(database, key);
        self.databases[database].insert(key.to_vec(), (value, expires_ms));
    }

    fn remove(&mut self, database: usize, key: &[u8]) -> Option<Held> {
        let held = self.databases[database].remove(key)?;
        self.changed(database, key);
        Some(held)
    }

    fn clear(&mut self, database: usize) {
        for key in self.databases[database].keys().cloned().collect::<Vec<_>>() {
            self.remove(database, &key);
        }
    }

    /// What a client gets for a command.
    fn run(&mut self, client: usize, command: &Command) -> Reply {
        let connection = &mut self.connections[client];
        match command {
            C::Exec => return self.exec(client),
            C::Discard => match connection.queued.take() {
                Some(_) => connection.watched.clear(),
                None => return error("ERR DISCARD without MULTI"),
            },
            C::Multi if connection.queued.is_some() => {
                return error("ERR MULTI calls can not be nested");
            }
            C::Watch(_) if connection.queued.is_some() => {
                return error("ERR WATCH inside MULTI is not allowed");
            }
            C::Multi => connection.queued = Some(Vec::new()),
            _ => {
                if let Some(queued) = &mut connection.queued {
                    queued.push(command.clone());
                    return Reply::queued();
                }
                return self.apply(client, command);
            }
        }
        Reply::ok()
    }

    fn exec(&mut self, client: usize) -> Reply {
        let connection = &mut self.connections[client];
        let Some(queued) = connection.queued.take() else { return error("ERR EXEC without MULTI") };
        let watched = std::mem::take(&mut connection.watched);
        let is_changed = |(database, key, before): (usize, Key, u64)| {
            let changes = self.changes.get(&(database, key.as_bytes().to_vec()));
            changes.copied().unwrap_or_default() != before
        };
        if watched.into_iter().any(is_changed) {
            return Reply::Nil;
        }
        Reply::Array(queued.iter().map(|command| self.apply(client, command)).collect())
    }

    fn apply(&mut self, client: usize, command: &Command) -> Reply {
        let database = self.connections[client].database;
        let held = |key: &Key| self.databases[database].get(key.as_bytes()).cloned();
        match command {
            C::Get(key) => shown(held(key).as_ref()),
            C::MGet(keys) => {
                Reply::Array(keys.iter().map(|key| shown(held(key).as_ref())).collect())
            }
            C::StrLen(key) => count(held(key).map_or(0, |(value, _)| value.len())),
            C::Exists(keys) => count(keys.iter().filter(|key| held(key).is_some()).count()),
            C::GetRange(key, from, to) => {
                let value = held(key).unwrap_or_default().0;
                let length = value.len() as i64;
                let place = |at: i64| if at < 0 { (length + at).max(0) } else { at };
                // Both before the begin, in the wrong order, are no range, whatever place they stand for.
                let is_range = !(*from < 0 && *to < 0 && from > to);
                let (from, to) = (place(*from), (place(*to) + 1).min(length));
                let is_range = is_range && from < to;
                let part = if is_range { &value[from as usize..to as usize] } else { &[] };
                Reply::Bulk(part.to_vec())
            }
            C::PExpireTime(key) => Reply::Integer(match held(key) {
                None => -2,
                Some((_, None)) => -1,
                Some((_, Some(time_ms))) => time_ms as i64,
            }),
            C::DbSize => count(self.databases[database].len()),
            C::Keys => {
                Reply::Array(self.databases[database].keys().cloned().map(Reply::Bulk).collect())
            }
            C::Select(other) => {
                self.connections[client].database = *other;
                Reply::ok()
            }
            C::Watch(keys) => {
                for key in keys {
                    let changes = self.changes.get(&(database, key.as_bytes().to_vec()));
                    let changes = changes.copied().unwrap_or_default();
                    self.connections[client].watched.push((database, *key, changes));
                }
                Reply::ok()
            }
            C::Unwatch => {
                self.connections[client].watched.clear();
                Reply::ok()
            }
            C::PExpireAt(..) | C::Persist(_) | C::GetEx(..) => self.set_time(database, command),
            C::FlushDb | C::FlushAll | C::SwapDb(..) => self.move_all(database, command),
            C::Rename(..) | C::RenameNx(..) | C::Copy(..) | C::Move(..) => {
                self.move_one(database, command)
            }
            _ => self.change(database, command),
        }
    }

    fn set_time(&mut self, database: usize, command: &Command) -> Reply {
        let (C::PExpireAt(key, ..) | C::Persist(key) | C::GetEx(key, _)) = command else {
            unreachable!()
        };
        let key = key.as_bytes();
        let Some((value, old_ms)) = self.databases[database].get(key).cloned() else {
            return if matches!(command, C::GetEx(..)) { Reply::Nil } else { flag(false) };
        };
        let reply = Reply::Bulk(value.clone());
        match command {
            C::PExpireAt(_, time_ms, only) => {
                // No time is later than any.
                let old = old_ms.unwrap_or(u64::MAX);
                let is_due = match *only {
                    "NX" => old_ms.is_none(),
                    "XX" => old_ms.is_some(),
                    "GT" => *time_ms > old,
                    "LT" => *time_ms < old,
                    _ => true,
                };
                if is_due {
                    self.store(database, key, value, Some(*time_ms));
                }
                flag(is_due)
            }
            C::Persist(_) => {
                if old_ms.is_some() {
                    self.store(database, key, value, None);
                }
                flag(old_ms.is_some())
            }
            C::GetEx(_, Some(Lifetime::Until(time_ms))) => {
                self.store(database, key, value, Some(*time_ms));
                reply
            }
            C::GetEx(_, Some(_)) if old_ms.is_some() => {
                self.store(database, key, value, None);
                reply
            }
            _ => reply,
        }
    }

    fn move_all(&mut self, database: usize, command: &Command) -> Reply {
        match command {
            C::FlushDb => self.clear(database),
            C::SwapDb(one, two) => {
                // What is there before or after has changed, in both.
                for (here, there) in [(*one, *two), (*two, *one)] {
                    let keys =
                        self.databases[one.to_owned()].keys().chain(self.databases[*two].keys());
                    for key in keys.cloned().collect::<std::collections::BTreeSet<_>>() {
                        if here != there {
                            self.changed(here, &key);
                        }
                    }
                }
                self.databases.swap(*one, *two);
            }
            _ => (0..DATABASES).for_each(|database| self.clear(database)),
        }
        Reply::ok()
    }

    fn move_one(&mut self, database: usize, command: &Command) -> Reply {
        let (from, to, target) = match command {
            C::Rename(from, to) | C::RenameNx(from, to) => {
                (from.as_bytes(), to.as_bytes(), database)
            }
            C::Copy(from, to, target, _) => (from.as_bytes(), to.as_bytes(), *target),
            C::Move(key, target) => (key.as_bytes(), key.as_bytes(), *target),
            _ => unreachable!(),
        };
        let is_same = from == to && database == target;
        if is_same && matches!(command, C::Copy(..) | C::Move(..)) {
            return error("ERR source and destination objects are the same");
        }
        let is_rename = matches!(command, C::Rename(..) | C::RenameNx(..));
        let Some((value, time_ms)) = self.databases[database].get(from).cloned() else {
            return if is_rename { error("ERR no such key") } else { flag(false) };
        };
        let may_replace = matches!(command, C::Rename(..) | C::Copy(_, _, _, true));
        if !may_replace && self.databases[target].contains_key(to) {
            return flag(false);
        }
        if !is_same {
            if !matches!(command, C::Copy(..)) {
                self.remove(database, from);
            }
            self.store(target, to, value, time_ms);
        }
        if matches!(command, C::Rename(..)) { Reply::ok() } else { flag(true) }
    }

    fn change(&mut self, database: usize, command: &Command) -> Reply {
        let held = |key: &Key| self.databases[database].get(key.as_bytes()).cloned();
        match command {
            C::Set(key, value, only, get, lifetime) => {
                let old = held(key);
                let is_done = match only {
                    Only::Always => true,
                    Only::IfNew => old.is_none(),
                    Only::IfThere => old.is_some(),
                };
                if is_done {
                    let time_ms = match lifetime {
                        Lifetime::Forever => None,
                        Lifetime::Kept => old.as_ref().and_then(|(_, time_ms)| *time_ms),
                        Lifetime::Until(time_ms) => Some(*time_ms),
                    };
                    self.store(database, key.as_bytes(), value.as_bytes().to_vec(), time_ms);
                }
                match (get, is_done) {
                    (true, _) => shown(old.as_ref()),
                    (false, true) => Reply::ok(),
                    (false, false) => Reply::Nil,
                }
            }
            C::GetDel(key) => shown(self.remove(database, key.as_bytes()).as_ref()),
            C::MSet(pairs) | C::MSetNx(pairs) => {
                let is_nx = matches!(command, C::MSetNx(_));
                if is_nx && pairs.iter().any(|(key, _)| held(key).is_some()) {
                    return flag(false);
                }
                for (key, value) in pairs {
                    self.store(database, key.as_bytes(), value.as_bytes().to_vec(), None);
                }
                if is_nx { flag(true) } else { Reply::ok() }
            }
            C::Append(key, value) => {
                let old = held(key);
                let is_changed = old.is_none() || !value.is_empty();
                let (mut bytes, time_ms) = old.unwrap_or_default();
                bytes.extend_from_slice(value.as_bytes());
                let length = bytes.len();
                if is_changed {
                    self.store(database, key.as_bytes(), bytes, time_ms);
                }
                count(length)
            }
            C::SetRange(key, offset, value) => {
                let old = held(key);
                let (mut bytes, time_ms) = old.unwrap_or_default();
                if !value.is_empty() {
                    bytes.resize(bytes.len().max(offset + value.len()), 0);
                    bytes[*offset..offset + value.len()].copy_from_slice(value.as_bytes());
                    self.store(database, key.as_bytes(), bytes.clone(), time_ms);
                }
                count(bytes.len())
            }
            C::IncrBy(key, by) => {
                let (bytes, time_ms) = held(key).unwrap_or((b"0".to_vec(), None));
                let Some(old) = number(&bytes) else {
                    return error("ERR value is not an integer or out of range");
                };
                let Some(new) = old.checked_add(*by) else {
                    return error("ERR increment or decrement would overflow");
                };
                self.store(database, key.as_bytes(), new.to_string().into_bytes(), time_ms);
                Reply::Integer(new)
            }
            C::Del(keys) => {
                let removed = |key: &&Key| self.remove(database, key.as_bytes()).is_some();
                count(keys.iter().filter(removed).count())
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn state(&self) -> State {
        let mut state = State::new();
        for (database, keys) in self.databases.iter().enumerate() {
            for (key, (value, time_ms)) in keys {
                state.put(database, key, value.clone(), *time_ms);
            }
        }
        state
    }
}

/// `KEYS` promises no order.
fn sorted(reply: Reply) -> Reply {
    match reply {
        Reply::Array(mut replies) if replies.iter().all(|one| matches!(one, Reply::Bulk(_))) => {
            replies.sort_by_key(|reply| reply.clone().into_bytes());
            Reply::Array(replies)
        }
        Reply::Array(replies) => Reply::Array(replies.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn config() -> ProptestConfig {
    // What fails is printed; a file of what once failed would be found by nobody.
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// Two clients, one after the other, on one server; what it holds at the end it holds after `kill -9` too.
#[test]
fn commands_answer_as_a_plain_map_would() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let last = RefCell::new(State::new());
    let steps = vec((0..2_usize, commands()), 1..60);
    let mut runner = proptest::test_runner::TestRunner::new(config());
    let result = runner.run(&steps, |steps| {
        let mut clients = [server.client(), server.client()];
        assert_eq!(clients[0].line("FLUSHALL"), Reply::ok());
        let mut model = Model::new();
        let is_known = |command: &C| !is_cluster() || !matches!(command, C::SwapDb(..));
        for (client, command) in steps.iter().filter(|(_, command)| is_known(command)) {
            let words = command.words();
            let words: Vec<_> = words.iter().map(String::as_bytes).collect();
            let expected = sorted(model.run(*client, command));
            let found = sorted(clients[*client].call(&words));
            prop_assert_eq!(found, expected, "client {}: {:?}", client, command);
        }
        let mut looker: Client = server.client();
        let found = dump(&mut looker);
        last.replace(found.clone());
        prop_assert_eq!(found, model.state());
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(dump(&mut server.restart(&file).client()), last.into_inner());
}

proptest! {
    #![proptest_config(config())]

    /// Requests in lines and arrays come out as they went in, wherever the bytes are cut.
    #[test]
    fn requests_are_read_whole_however_they_are_cut(
        requests in vec((any::<bool>(), vec(vec(any::<u8>(), 0..40), 1..6)), 1..6),
        cuts in vec(1..100_usize, 1..20),
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for (is_inline, words) in requests {
            match is_inline {
                true => {
                    // What stands first says what it is: an array, a comment, a line.
                    bytes.extend_from_slice(b"ECHO");
                    for word in &words {
                        bytes.push(b' ');
                        quote(word, &mut bytes);
                    }
                    bytes.extend_from_slice(b"\r\n");
                }
                false => {
                    let slices: Vec<_> = words.iter().map(Vec::as_slice).collect();
                    bytes.extend(request(&slices));
                }
            }
            let name = is_inline.then(|| b"ECHO".to_vec());
            expected.push(name.into_iter().chain(words).collect::<Vec<_>>());
        }
        let (mut reader, mut telnet) = (RequestReader::default(), Telnet::default());
        let (mut found, mut rest, mut cuts) = (Vec::new(), &bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (mut piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            rest = after;
            while !piece.is_empty() {
                reader.fill(&mut piece).unwrap();
                while let Some(request) = reader.next(&Limits::default(), &mut telnet).unwrap() {
                    found.push(request.words_from(0).map(<[u8]>::to_vec).collect::<Vec<_>>());
                }
            }
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(reader.pending_bytes(), 0);
    }
}
