//! The commands on values: strings of bytes.

use super::expiry::{Expiry, Unit};
use super::spec::{
    Flag::{Denyoom, Fast, Readonly, Write},
    Group, Spec,
};
use super::{Call, CommandError, integer, is};
use crate::engine::{Entry, Key, Txn};
use crate::limits::{VALUE_BYTES_MAX, work};
use crate::protocol::reply::Replies;
use crate::protocol::request::Request;
use crate::text::quoted;
use crate::value::View;

type Result<T = ()> = std::result::Result<T, CommandError>;

/// Writes a value, or that there is none.
fn show(replies: &mut Replies, entry: Option<&Entry>) {
    match entry {
        Some(entry) => replies.value(entry.value()),
        None => replies.nil(),
    }
}

pub const GET: Spec = Spec::new(Group::String, "1.0.0", "GET key")
    .flags(&[Readonly, Fast])
    .summary("Returns the value of a key.")
    .example("GET ville");

pub fn get<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let (entry, replies) = call.read(call.key(1))?;
    show(replies, entry);
    Ok(())
}

/// The condition of a `SET`. A value to compare with is given by the number of its word.
#[derive(Clone, Copy)]
enum Condition {
    Always,
    /// `NX`
    New,
    /// `XX`
    Old,
    /// `IFEQ`
    Equal(usize),
    /// `IFNE`
    Different(usize),
}

impl Condition {
    fn holds<T: Txn>(self, call: &mut Call<'_, T>, key: Key<'_>) -> Result<bool> {
        match self {
            Self::Always => Ok(true),
            Self::New => Ok(!call.has(key)?),
            Self::Old => call.has(key),
            Self::Equal(n) => call.equals(key, n),
            Self::Different(n) => Ok(!call.equals(key, n)?),
        }
    }
}

/// The options of `SET`.
struct Options {
    condition: Condition,
    expiry: Expiry,
    get: bool,
}

impl Options {
    /// Parses the options from word `first` on, for the command `name`.
    fn parse(request: &Request<'_>, first: usize, now_ms: u64, name: &'static str) -> Result<Self> {
        let mut condition = None;
        let (mut expiry, mut get) = (None, false);
        let mut words = request.words_from(first);
        while let Some(word) = words.next() {
            let with_value = words.len() > 0;
            let next = request.len() - words.len();
            match word {
                _ if is(word, "NX") && condition.is_none() => condition = Some(Condition::New),
                _ if is(word, "XX") && condition.is_none() => condition = Some(Condition::Old),
                _ if is(word, "IFEQ") && condition.is_none() && with_value => {
                    condition = words.next().map(|_| Condition::Equal(next));
                }
                _ if is(word, "IFNE") && condition.is_none() && with_value => {
                    condition = words.next().map(|_| Condition::Different(next));
                }
                // The same option may be given twice, as in Redis.
                _ if is(word, "NX") && matches!(condition, Some(Condition::New)) => {}
                _ if is(word, "XX") && matches!(condition, Some(Condition::Old)) => {}
                _ if is(word, "GET") => get = true,
                _ if is(word, "KEEPTTL") && expiry.is_none_or(|(unit, _)| unit == Unit::Keep) => {
                    expiry = Some((Unit::Keep, &b""[..]));
                }
                _ => match Unit::parse(word) {
                    Some(unit) if with_value && expiry.is_none_or(|(old, _)| old == unit) => {
                        expiry = Some((unit, words.next().unwrap_or_default()));
                    }
                    _ => return Err(CommandError::SYNTAX),
                },
            }
        }
        let expiry = match expiry {
            None => Expiry::Never,
            Some((unit, word)) => unit.expiry(word, now_ms, name)?,
        };
        Ok(Self { condition: condition.unwrap_or(Condition::Always), expiry, get })
    }
}

pub const SET: Spec = Spec::new(
    Group::String,
    "1.0.0",
    "SET key value [NX|XX|IFEQ ifeq-value|IFNE ifne-value] [GET] [EX seconds|PX milliseconds|EXAT \
     unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]",
)
.flags(&[Write, Denyoom])
.summary("Sets a key to a value, whatever it held before.")
.example("SET ville \"Saint-Denis la Plaine\"")
.notes(&[
    "Quotes keep blanks together; \\n, \\\" and \\xHH are escapes inside them.",
    "NX, XX        only if the key is new, or is not",
    "IFEQ, IFNE    only if it has that value, or has not",
    "GET           returns the old value",
    "EX, PX        it expires in so many seconds, milliseconds",
    "EXAT, PXAT    it expires at a Unix time in seconds, milliseconds",
    "KEEPTTL       it expires when it did",
]);

pub fn set<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let (request, key) = (call.request, call.key(1));
    if request.len() == 3 {
        call.check_writes()?;
        call.txn.put(key, call.value(2)?, None)?;
        call.replies.status("OK");
        return Ok(());
    }
    let options = Options::parse(request, 3, call.txn.now_ms(), "set")
        .map_err(|error| unquoted(request, error))?;
    call.check_writes()?;
    let value = call.value(2)?;
    if options.get {
        show(call.replies, call.txn.peek(key)?);
    }
    let is_set = options.condition.holds(call, key)?;
    if is_set {
        let expires_ms = options.expiry.of(call, key)?;
        call.txn.put(key, value, expires_ms)?;
    }
    match (options.get, is_set) {
        (true, _) => {}
        (false, true) => call.replies.status("OK"),
        (false, false) => call.replies.nil(),
    }
    Ok(())
}

/// The words that `SET` takes after the value: in a line with one of these no quotes are missing.
const SET_OPTIONS: &[&str] =
    &["NX", "XX", "GET", "EX", "PX", "EXAT", "PXAT", "KEEPTTL", "IFEQ", "IFNE"];

/// The error for `SET nom Jean Dupont`, typed without quotes: it shows the line with them.
fn unquoted(request: &Request<'_>, error: CommandError) -> CommandError {
    const VALUE_BYTES_MAX: usize = 128;
    let length: usize = request.words_from(2).map(|word| word.len() + 1).sum();
    let is_option = SET_OPTIONS.iter().any(|known| is(&request[3], known));
    let is_syntax = error == CommandError::SYNTAX;
    if !is_syntax || !request.inline || is_option || length > VALUE_BYTES_MAX {
        return error;
    }
    let value = request.words_from(2).collect::<Vec<_>>().join(&b' ');
    let (key, value) = (quoted(&request[1]), quoted(&value));
    CommandError::err(format!("syntax error, put the value in quotes: SET {key} {value}"))
}

pub const SETNX: Spec = Spec::new(Group::String, "1.0.0", "SETNX key value")
    .flags(&[Write, Denyoom, Fast])
    .summary("Sets a key to a value if it does not exist.")
    .example("SETNX ville Nantes");

pub fn set_nx<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let key = call.key(1);
    call.check_writes()?;
    let value = call.value(2)?;
    let is_new = !call.has(key)?;
    if is_new {
        call.txn.put(key, value, None)?;
    }
    call.replies.integer(i64::from(is_new));
    Ok(())
}

pub const SETEX: Spec = Spec::new(Group::String, "2.0.0", "SETEX key seconds value")
    .flags(&[Write, Denyoom])
    .summary("Sets a key to a value that expires in seconds.")
    .example("SETEX session 60 abc");

pub fn set_ex<T: Txn>(call: &mut Call<'_, T>) -> Result {
    set_until(call, Unit::Ex, "setex")
}

pub const PSETEX: Spec = Spec::new(Group::String, "2.6.0", "PSETEX key milliseconds value")
    .flags(&[Write, Denyoom])
    .summary("Sets a key to a value that expires in milliseconds.")
    .example("PSETEX session 1500 abc");

pub fn pset_ex<T: Txn>(call: &mut Call<'_, T>) -> Result {
    set_until(call, Unit::Px, "psetex")
}

fn set_until<T: Txn>(call: &mut Call<'_, T>, unit: Unit, name: &'static str) -> Result {
    let expiry = unit.expiry(&call.request[2], call.txn.now_ms(), name)?;
    call.check_writes()?;
    call.txn.put(call.key(1), call.value(3)?, expiry.time_ms())?;
    call.replies.status("OK");
    Ok(())
}

pub const GETSET: Spec = Spec::new(Group::String, "1.0.0", "GETSET key value")
    .flags(&[Write, Denyoom, Fast])
    .summary("Sets a key to a value and returns the old one.")
    .example("GETSET ville Nantes");

pub fn get_set<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.check_writes()?;
    let value = call.value(2)?;
    show(call.replies, call.txn.peek(call.key(1))?);
    Ok(call.txn.put(call.key(1), value, None)?)
}

pub const GETDEL: Spec = Spec::new(Group::String, "6.2.0", "GETDEL key")
    .flags(&[Write, Fast])
    .summary("Returns the value of a key, and removes it.")
    .example("GETDEL message");

pub fn get_del<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.check_writes()?;
    show(call.replies, call.txn.peek(call.key(1))?);
    call.txn.delete(call.key(1))?;
    Ok(())
}

pub const GETEX: Spec = Spec::new(
    Group::String,
    "6.2.0",
    "GETEX key [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT \
     unix-time-milliseconds|PERSIST]",
)
.flags(&[Write, Fast])
.summary("Returns the value of a key, and changes when it expires.")
.example("GETEX session EX 60");

pub fn get_ex<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let (mut time, mut persist) = (None::<(Unit, &[u8])>, false);
    let mut words = call.request.words_from(2);
    while let Some(word) = words.next() {
        match Unit::parse(word) {
            // The same unit may be given again: the last time counts, as in Redis.
            Some(unit) if !persist && time.is_none_or(|(old, _)| old == unit) => {
                time = Some((unit, words.next().ok_or(CommandError::SYNTAX)?));
            }
            None if is(word, "PERSIST") && time.is_none() => persist = true,
            _ => return Err(CommandError::SYNTAX),
        }
    }
    let expiry = match time {
        None if !persist => return get(call),
        None => Ok(Expiry::Never),
        Some((unit, word)) => unit.expiry(word, call.txn.now_ms(), "getex"),
    };
    call.check_writes()?;
    let old = call.txn.peek(call.key(1))?;
    let old_ms = old.and_then(Entry::expires_ms);
    // Where the key is missing the time is not checked.
    let expires_ms = if old.is_some() { expiry?.time_ms() } else { None };
    show(call.replies, old);
    if old_ms != expires_ms {
        call.txn.expire(call.key(1), expires_ms)?;
    }
    Ok(())
}

pub const DELEX: Spec =
    Spec::new(Group::String, "8.4.0", "DELEX key [IFEQ ifeq-value|IFNE ifne-value]")
        .flags(&[Write, Fast])
        .summary("Removes a key if it has, or has not, a value.")
        .example("DELEX verrou IFEQ jeton");

pub fn del_ex<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let request = call.request;
    let condition = match request.len() {
        2 => Condition::Always,
        4 if is(&request[2], "IFEQ") => Condition::Equal(3),
        4 if is(&request[2], "IFNE") => Condition::Different(3),
        4 => return Err(CommandError::err("Invalid condition. Use IFEQ or IFNE")),
        _ => return Err(CommandError::arity("delex")),
    };
    delete_if(call, condition)
}

pub const DELIFEQ: Spec = Spec::new(Group::String, "9.0.0", "DELIFEQ key value")
    .flags(&[Write, Fast])
    .summary("Removes a key if it has a value; as in Valkey.")
    .example("DELIFEQ verrou jeton");

pub fn del_if_eq<T: Txn>(call: &mut Call<'_, T>) -> Result {
    delete_if(call, Condition::Equal(2))
}

fn delete_if<T: Txn>(call: &mut Call<'_, T>, condition: Condition) -> Result {
    let key = call.key(1);
    call.check_writes()?;
    let is_deleted = condition.holds(call, key)? && call.txn.delete(key)?;
    call.replies.integer(i64::from(is_deleted));
    Ok(())
}

pub const MGET: Spec = Spec::new(Group::String, "1.0.0", "MGET key [key ...]")
    .flags(&[Readonly, Fast])
    .summary("Returns the values of keys, read at one moment.")
    .example("MGET ville fleuve");

pub fn mget<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.replies.array(call.request.len() - 1);
    for key in call.request.words_from(1) {
        let (entry, replies) = call.read(call.key_of(key))?;
        show(replies, entry);
        let is_lost = replies.is_lost();
        call.txn.charge(work::KEY)?;
        if is_lost {
            break;
        }
    }
    Ok(())
}

/// The pairs of a key and its value, `count` of them, that begin at word `first`.
#[derive(Clone, Copy)]
struct Pairs {
    first: usize,
    count: usize,
}

impl Pairs {
    /// All pairs that follow the command's name.
    fn all(request: &Request<'_>, name: &'static str) -> Result<Self> {
        match request.len() % 2 {
            1 => Ok(Self { first: 1, count: request.len() / 2 }),
            _ => Err(CommandError::arity(name)),
        }
    }

    /// The numbers of the words that are keys.
    fn places(self) -> impl Iterator<Item = usize> {
        (0..self.count).map(move |index| self.first + 2 * index)
    }

    /// Whether each key exists, or none does. Asking counts as an access.
    fn all_exist<T: Txn>(self, call: &mut Call<'_, T>, wanted: bool) -> Result<bool> {
        for place in self.places() {
            let (entry, _) = call.read(call.key(place))?;
            if entry.is_some() != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sets all pairs.
    fn set<T: Txn>(self, call: &mut Call<'_, T>, expiry: Expiry) -> Result {
        for place in self.places() {
            let expires_ms = expiry.of(call, call.key(place))?;
            call.txn.put(call.key(place), call.value(place + 1)?, expires_ms)?;
        }
        Ok(())
    }
}

pub const MSET: Spec = Spec::new(Group::String, "1.0.1", "MSET key value [key value ...]")
    .flags(&[Write, Denyoom])
    .summary("Sets keys to values, all at one moment.")
    .example("MSET ville Nantes fleuve Loire");

pub fn mset<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let pairs = Pairs::all(call.request, "mset")?;
    call.check_writes()?;
    pairs.set(call, Expiry::Never)?;
    call.replies.status("OK");
    Ok(())
}

pub const MSETNX: Spec = Spec::new(Group::String, "1.0.1", "MSETNX key value [key value ...]")
    .flags(&[Write, Denyoom])
    .summary("Sets keys to values if none of them exists.")
    .example("MSETNX ville Nantes fleuve Loire");

pub fn mset_nx<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let pairs = Pairs::all(call.request, "msetnx")?;
    call.check_writes()?;
    let is_set = pairs.all_exist(call, false)?;
    if is_set {
        pairs.set(call, Expiry::Never)?;
    }
    call.replies.integer(i64::from(is_set));
    Ok(())
}

pub const MSETEX: Spec = Spec::new(
    Group::String,
    "8.4.0",
    "MSETEX numkeys key value [key value ...] [NX|XX] [EX seconds|PX milliseconds|EXAT \
     unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]",
)
.flags(&[Write, Denyoom])
.summary("Sets so many keys to values at one moment, and when they expire.")
.example("MSETEX 2 ville Nantes fleuve Loire EX 60")
.notes(&["NX, XX    only if none of the keys exists, or all do"]);

pub fn mset_ex<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let request = call.request;
    let count = integer(&request[1]).ok().and_then(|count| usize::try_from(count).ok());
    let count = count.filter(|count| *count > 0);
    let count = count.ok_or(CommandError::err("invalid numkeys value"))?;
    let end = count.saturating_mul(2).saturating_add(2);
    if end > request.len() {
        return Err(CommandError::err("wrong number of key-value pairs"));
    }
    let options = Options::parse(request, end, call.txn.now_ms(), "msetex")?;
    let wanted = match options.condition {
        _ if options.get => return Err(CommandError::SYNTAX),
        Condition::New => Some(false),
        Condition::Old => Some(true),
        Condition::Always => None,
        Condition::Equal(_) | Condition::Different(_) => return Err(CommandError::SYNTAX),
    };
    let pairs = Pairs { first: 2, count };
    call.check_writes()?;
    let is_set = match wanted {
        Some(wanted) => pairs.all_exist(call, wanted)?,
        None => true,
    };
    if is_set {
        pairs.set(call, options.expiry)?;
    }
    call.replies.integer(i64::from(is_set));
    Ok(())
}

pub const APPEND: Spec = Spec::new(Group::String, "2.0.0", "APPEND key value")
    .flags(&[Write, Denyoom, Fast])
    .summary("Adds to the end of a value, or sets it, and returns its length in bytes.")
    .example("APPEND ville \" sur Loire\"");

pub fn append<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let key = call.key(1);
    let length = call.splice(key, 2, |old_length| old_length)?;
    call.replies.count(length);
    Ok(())
}

pub const STRLEN: Spec = Spec::new(Group::String, "2.2.0", "STRLEN key")
    .flags(&[Readonly, Fast])
    .summary("Returns the length of a value in bytes.")
    .example("STRLEN ville");

pub fn strlen<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let (entry, replies) = call.read(call.key(1))?;
    replies.count(entry.map_or(0, |entry| entry.value().len()));
    Ok(())
}

pub const GETRANGE: Spec = Spec::new(Group::String, "2.4.0", "GETRANGE key start end")
    .flags(&[Readonly])
    .summary("Returns part of a value, both ends included; negative ones count from its end.")
    .example("GETRANGE ville 0 -1");

pub const SUBSTR: Spec = Spec::new(Group::String, "1.0.0", "SUBSTR key start end")
    .flags(&[Readonly])
    .summary("The same, by its old name.")
    .example("SUBSTR ville 0 -1");

/// `GETRANGE key start end`: both ends are inclusive, and negative ones count from the end.
pub fn get_range<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let (start, end) = (integer(&call.request[2])?, integer(&call.request[3])?);
    let (entry, replies) = call.read(call.key(1))?;
    let value = entry.map_or(View::Short(b""), Entry::value);
    let length = value.len() as i64;
    let from_start = |index: i64| if index < 0 { (length + index).max(0) } else { index };
    let is_backwards = start < 0 && end < 0 && start > end;
    let (start, end) = (from_start(start), from_start(end).min(length - 1));
    let is_empty = is_backwards || start > end;
    let range = if is_empty { 0..0 } else { start as usize..end as usize + 1 };
    replies.part_of(value, range);
    Ok(())
}

pub const SETRANGE: Spec = Spec::new(Group::String, "2.2.0", "SETRANGE key offset value")
    .flags(&[Write, Denyoom])
    .summary("Overwrites a value from an offset on and returns its length in bytes.")
    .example("SETRANGE ville 0 O")
    .notes(&["A value that is too short grows by NUL bytes."]);

pub fn set_range<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let (request, key) = (call.request, call.key(1));
    let offset = integer(&request[2])?;
    let offset =
        usize::try_from(offset).map_err(|_| CommandError::err("offset is out of range"))?;
    if request[3].is_empty() {
        return strlen(call);
    }
    if offset > VALUE_BYTES_MAX {
        return Err(CommandError::TOO_LONG);
    }
    let length = call.splice(key, 3, |_| offset)?;
    call.replies.count(length);
    Ok(())
}
