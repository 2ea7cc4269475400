//! The commands on values: strings of bytes.

use super::expiry::{Expiry, Unit};
use super::spec::{
    Flag::{Denyoom, Fast, Readonly, Write},
    Group, Spec,
};
use super::{CommandError, Context, integer, is};
use crate::engine::local::entry::Entry;
use crate::engine::local::{Change, Compared, Expires, Session};
use crate::limits::{VALUE_BYTES_MAX, work};
use crate::protocol::reply::Replies;
use crate::protocol::request::Request;
use crate::text::quoted;
use crate::value::View;

type Result<T = ()> = std::result::Result<T, CommandError>;

/// A value, or none.
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

pub fn get(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let replies = &mut context.replies;
    context.session.entry(&request[1], |entry| show(replies, entry));
    Ok(())
}

/// When a `SET` takes place.
enum Condition<'r> {
    Always,
    /// `NX`
    New,
    /// `XX`
    Old,
    /// `IFEQ`
    Equal(&'r [u8], Option<Compared>),
    /// `IFNE`
    Different(&'r [u8], Option<Compared>),
}

impl Condition<'_> {
    /// Compares long values beforehand, with no shard locked.
    fn compare_ahead(&mut self, session: &mut Session<'_>, key: &[u8]) -> Result {
        if let Self::Equal(value, compared) | Self::Different(value, compared) = self {
            *compared = session.compare_ahead(key, value)?;
        }
        Ok(())
    }

    fn holds(&self, old: Option<&Entry>) -> bool {
        let equals = |value: &[u8], compared: &Option<Compared>| {
            old.map(Entry::value).is_some_and(|old| match compared {
                Some(compared) if compared.is_of(old) => compared.is_equal,
                _ => old.equals(value),
            })
        };
        match self {
            Self::Always => true,
            Self::New => old.is_none(),
            Self::Old => old.is_some(),
            Self::Equal(value, compared) => equals(value, compared),
            Self::Different(value, compared) => !equals(value, compared),
        }
    }
}

/// The options of `SET`.
struct Options<'r> {
    condition: Condition<'r>,
    expiry: Expiry,
    get: bool,
}

impl<'r> Options<'r> {
    /// Those that begin with word `first`, for the command `name`.
    fn parse(
        request: &'r Request<'_>,
        first: usize,
        now_ms: u64,
        name: &'static str,
    ) -> Result<Self> {
        let mut condition = None;
        let (mut expiry, mut get) = (None, false);
        let mut words = request.words_from(first);
        while let Some(word) = words.next() {
            let with_value = words.len() > 0;
            match word {
                _ if is(word, "NX") && condition.is_none() => condition = Some(Condition::New),
                _ if is(word, "XX") && condition.is_none() => condition = Some(Condition::Old),
                _ if is(word, "IFEQ") && condition.is_none() && with_value => {
                    condition = words.next().map(|value| Condition::Equal(value, None));
                }
                _ if is(word, "IFNE") && condition.is_none() && with_value => {
                    condition = words.next().map(|value| Condition::Different(value, None));
                }
                // Again is as good as once.
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

pub fn set(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    if request.len() == 3 {
        context.session.set(&request[1], &request[2])?;
        context.replies.status("OK");
        return Ok(());
    }
    let now_ms = context.session.now_ms();
    let mut options =
        Options::parse(request, 3, now_ms, "set").map_err(|error| unquoted(request, error))?;
    let (key, value) = (&request[1], &request[2]);
    options.condition.compare_ahead(context.session, key)?;
    let replies = &mut context.replies;
    let decide = |old: Option<&Entry>| {
        if options.get {
            show(replies, old);
        }
        Ok::<_, CommandError>(options.condition.holds(old))
    };
    let was_set = context.session.set_if(key, value, options.expiry.expires(), decide)?;
    match (options.get, was_set) {
        (true, _) => {}
        (false, true) => context.replies.status("OK"),
        (false, false) => context.replies.nil(),
    }
    Ok(())
}

/// What SET takes after the value: whoever types one of these did not forget quotes.
const SET_OPTIONS: &[&str] =
    &["NX", "XX", "GET", "EX", "PX", "EXAT", "PXAT", "KEEPTTL", "IFEQ", "IFNE"];

/// What a person meant who typed `SET nom Jean Dupont`.
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

pub fn set_nx(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let is_new = |old: Option<&Entry>| Ok::<_, CommandError>(old.is_none());
    let was_set = context.session.set_if(&request[1], &request[2], Expires::At(None), is_new)?;
    context.replies.integer(i64::from(was_set));
    Ok(())
}

pub const SETEX: Spec = Spec::new(Group::String, "2.0.0", "SETEX key seconds value")
    .flags(&[Write, Denyoom])
    .summary("Sets a key to a value that expires in seconds.")
    .example("SETEX session 60 abc");

pub fn set_ex(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    set_until(context, request, Unit::Ex, "setex")
}

pub const PSETEX: Spec = Spec::new(Group::String, "2.6.0", "PSETEX key milliseconds value")
    .flags(&[Write, Denyoom])
    .summary("Sets a key to a value that expires in milliseconds.")
    .example("PSETEX session 1500 abc");

pub fn pset_ex(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    set_until(context, request, Unit::Px, "psetex")
}

fn set_until(
    context: &mut Context<'_, '_>,
    request: &Request<'_>,
    unit: Unit,
    name: &'static str,
) -> Result {
    let expiry = unit.expiry(&request[2], context.session.now_ms(), name)?;
    let always = |_: Option<&Entry>| Ok::<_, CommandError>(true);
    context.session.set_if(&request[1], &request[3], expiry.expires(), always)?;
    context.replies.status("OK");
    Ok(())
}

pub const GETSET: Spec = Spec::new(Group::String, "1.0.0", "GETSET key value")
    .flags(&[Write, Denyoom, Fast])
    .summary("Sets a key to a value and returns the old one.")
    .example("GETSET ville Nantes");

pub fn get_set(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let replies = &mut context.replies;
    context.session.set_if(&request[1], &request[2], Expires::At(None), |old| {
        show(replies, old);
        Ok::<_, CommandError>(true)
    })?;
    Ok(())
}

pub const GETDEL: Spec = Spec::new(Group::String, "6.2.0", "GETDEL key")
    .flags(&[Write, Fast])
    .summary("Returns the value of a key, and removes it.")
    .example("GETDEL message");

pub fn get_del(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let replies = &mut context.replies;
    context.session.update(&request[1], |old| {
        show(replies, old);
        Ok::<_, CommandError>((Change::Remove, ()))
    })
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

pub fn get_ex(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let (mut time, mut persist) = (None::<(Unit, &[u8])>, false);
    let mut words = request.words_from(2);
    while let Some(word) = words.next() {
        match Unit::parse(word) {
            // Again is as good as once.
            Some(unit) if !persist && time.is_none_or(|(old, _)| old == unit) => {
                time = Some((unit, words.next().ok_or(CommandError::SYNTAX)?));
            }
            None if is(word, "PERSIST") && time.is_none() => persist = true,
            _ => return Err(CommandError::SYNTAX),
        }
    }
    let expiry = match time {
        None if !persist => return get(context, request),
        None => Ok(Expiry::Never),
        Some((unit, word)) => unit.expiry(word, context.session.now_ms(), "getex"),
    };
    let replies = &mut context.replies;
    context.session.update(&request[1], |old| {
        // A time for a key that there is not may be any.
        let expiry = if old.is_some() { expiry? } else { Expiry::Never };
        show(replies, old);
        let is_same = old.and_then(Entry::expires_ms) == expiry.time_ms();
        let change = if is_same { Change::Keep } else { Change::Expire(expiry.time_ms()) };
        Ok::<_, CommandError>((change, ()))
    })
}

pub const DELEX: Spec =
    Spec::new(Group::String, "8.4.0", "DELEX key [IFEQ ifeq-value|IFNE ifne-value]")
        .flags(&[Write, Fast])
        .summary("Removes a key if it has, or has not, a value.")
        .example("DELEX verrou IFEQ jeton");

pub fn del_ex(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let condition = match request.len() {
        2 => Condition::Always,
        4 if is(&request[2], "IFEQ") => Condition::Equal(&request[3], None),
        4 if is(&request[2], "IFNE") => Condition::Different(&request[3], None),
        4 => return Err(CommandError::err("Invalid condition. Use IFEQ or IFNE")),
        _ => return Err(CommandError::arity("delex")),
    };
    delete_if(context, &request[1], condition)
}

pub const DELIFEQ: Spec = Spec::new(Group::String, "9.0.0", "DELIFEQ key value")
    .flags(&[Write, Fast])
    .summary("Removes a key if it has a value; as in Valkey.")
    .example("DELIFEQ verrou jeton");

pub fn del_if_eq(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    delete_if(context, &request[1], Condition::Equal(&request[2], None))
}

fn delete_if(context: &mut Context<'_, '_>, key: &[u8], mut condition: Condition<'_>) -> Result {
    condition.compare_ahead(context.session, key)?;
    let was_there = context.session.update(key, |old| {
        Ok::<_, CommandError>(match old.is_some() && condition.holds(old) {
            true => (Change::Remove, true),
            false => (Change::Keep, false),
        })
    })?;
    context.replies.integer(i64::from(was_there));
    Ok(())
}

pub const MGET: Spec = Spec::new(Group::String, "1.0.0", "MGET key [key ...]")
    .flags(&[Readonly, Fast])
    .summary("Returns the values of keys, read at one moment.")
    .example("MGET ville fleuve");

pub fn mget(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let Context { session, replies, .. } = context;
    session.look_at(request.words_from(1), |session| {
        replies.array(request.len() - 1);
        for key in request.words_from(1) {
            session.entry(key, |entry| show(replies, entry));
            session.spend(work::KEY);
            session.check_work()?;
            if replies.is_lost() {
                break;
            }
        }
        Ok(())
    })
}

/// The keys in words `first`, `first + 2` and so on, `count` of them, and what follows each.
fn keys_and_values<'r>(
    request: &'r Request<'_>,
    first: usize,
    count: usize,
) -> impl ExactSizeIterator<Item = (&'r [u8], &'r [u8])> + Clone {
    (0..count).map(move |index| (&request[first + 2 * index], &request[first + 2 * index + 1]))
}

pub const MSET: Spec = Spec::new(Group::String, "1.0.1", "MSET key value [key value ...]")
    .flags(&[Write, Denyoom])
    .summary("Sets keys to values, all at one moment.")
    .example("MSET ville Nantes fleuve Loire");

pub fn mset(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let count = pairs(request, "mset")?;
    let pairs = keys_and_values(request, 1, count);
    context.session.set_all(pairs, None, |_| Ok::<_, CommandError>(true))?;
    context.replies.status("OK");
    Ok(())
}

pub const MSETNX: Spec = Spec::new(Group::String, "1.0.1", "MSETNX key value [key value ...]")
    .flags(&[Write, Denyoom])
    .summary("Sets keys to values if none of them exists.")
    .example("MSETNX ville Nantes fleuve Loire");

pub fn mset_nx(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let count = pairs(request, "msetnx")?;
    let mut keys = request.words_from(1).step_by(2);
    let are_new = |session: &mut Session<'_>| {
        Ok::<_, CommandError>(keys.all(|key| session.entry(key, |entry| entry.is_none())))
    };
    let was_set = context.session.set_all(keys_and_values(request, 1, count), None, are_new)?;
    context.replies.integer(i64::from(was_set));
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

pub fn mset_ex(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let count = integer(&request[1]).ok().and_then(|count| usize::try_from(count).ok());
    let count = count.filter(|count| *count > 0);
    let count = count.ok_or(CommandError::err("invalid numkeys value"))?;
    let end = count.saturating_mul(2).saturating_add(2);
    if end > request.len() {
        return Err(CommandError::err("wrong number of key-value pairs"));
    }
    let options = Options::parse(request, end, context.session.now_ms(), "msetex")?;
    if options.get {
        return Err(CommandError::SYNTAX);
    }
    let is_met = |exists: bool| match options.condition {
        Condition::New => Ok(!exists),
        Condition::Old => Ok(exists),
        Condition::Always => Ok(true),
        Condition::Equal(..) | Condition::Different(..) => Err(CommandError::SYNTAX),
    };
    is_met(true)?;
    let pairs = keys_and_values(request, 2, count);
    let are_met = |session: &mut Session<'_>| {
        for (key, _) in keys_and_values(request, 2, count) {
            if !is_met(session.entry(key, |entry| entry.is_some()))? {
                return Ok(false);
            }
        }
        Ok::<_, CommandError>(true)
    };
    let was_set = match options.expiry {
        Expiry::Keep => {
            let keys = pairs.clone().map(|(key, _)| key);
            context.session.atomically(keys, |session| {
                if !are_met(session)? {
                    return Ok(false);
                }
                for (key, value) in pairs {
                    let always = |_: Option<&Entry>| Ok::<_, CommandError>(true);
                    session.set_if(key, value, Expires::AsBefore, always)?;
                    session.check_work()?;
                }
                Ok::<_, CommandError>(true)
            })?
        }
        expiry => context.session.set_all(pairs, expiry.time_ms(), are_met)?,
    };
    context.replies.integer(i64::from(was_set));
    Ok(())
}

/// The number of pairs that follow the command's name.
fn pairs(request: &Request<'_>, name: &'static str) -> Result<usize> {
    match request.len() % 2 {
        1 => Ok(request.len() / 2),
        _ => Err(CommandError::arity(name)),
    }
}

pub const APPEND: Spec = Spec::new(Group::String, "2.0.0", "APPEND key value")
    .flags(&[Write, Denyoom, Fast])
    .summary("Adds to the end of a value, or sets it, and returns its length in bytes.")
    .example("APPEND ville \" sur Loire\"");

pub fn append(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let length = context.session.append(&request[1], &request[2])?;
    context.replies.count(length);
    Ok(())
}

pub const STRLEN: Spec = Spec::new(Group::String, "2.2.0", "STRLEN key")
    .flags(&[Readonly, Fast])
    .summary("Returns the length of a value in bytes.")
    .example("STRLEN ville");

pub fn strlen(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let length = context.session.get(&request[1], |value| value.map_or(0, View::len));
    context.replies.count(length);
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

/// `GETRANGE key start end`: both inclusive, negative ones from the end.
pub fn get_range(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let (start, end) = (integer(&request[2])?, integer(&request[3])?);
    let replies = &mut context.replies;
    context.session.get(&request[1], |value| {
        let value = value.unwrap_or(View::Short(b""));
        let length = value.len() as i64;
        let from_start = |index: i64| if index < 0 { (length + index).max(0) } else { index };
        let is_backwards = start < 0 && end < 0 && start > end;
        let (start, end) = (from_start(start), from_start(end).min(length - 1));
        let is_empty = is_backwards || start > end;
        let range = if is_empty { 0..0 } else { start as usize..end as usize + 1 };
        replies.part_of(value, range);
    });
    Ok(())
}

pub const SETRANGE: Spec = Spec::new(Group::String, "2.2.0", "SETRANGE key offset value")
    .flags(&[Write, Denyoom])
    .summary("Overwrites a value from an offset on and returns its length in bytes.")
    .example("SETRANGE ville 0 O")
    .notes(&["A value that is too short grows by NUL bytes."]);

pub fn set_range(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let offset = integer(&request[2])?;
    let offset =
        usize::try_from(offset).map_err(|_| CommandError::err("offset is out of range"))?;
    if offset > VALUE_BYTES_MAX && !request[3].is_empty() {
        return Err(CommandError::TOO_LONG);
    }
    let length = context.session.set_range(&request[1], offset, &request[3])?;
    context.replies.count(length);
    Ok(())
}
