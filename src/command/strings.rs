//! The commands on values: strings of bytes.

use super::expiry::{Expiry, Unit};
use super::{CommandError, Context, integer, is};
use crate::engine::{Change, Session};
use crate::entry::Entry;
use crate::limits::VALUE_BYTES_MAX;
use crate::reply::Replies;
use crate::request::Request;
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
    Equal(&'r [u8]),
    /// `IFNE`
    Different(&'r [u8]),
}

impl Condition<'_> {
    fn holds(&self, old: Option<&Entry>) -> bool {
        let equals = |value: &[u8]| old.is_some_and(|old| is_equal(old.value(), value));
        match self {
            Self::Always => true,
            Self::New => old.is_none(),
            Self::Old => old.is_some(),
            Self::Equal(value) => equals(value),
            Self::Different(value) => !equals(value),
        }
    }
}

/// Whether a value has these bytes.
fn is_equal(value: View<'_>, bytes: &[u8]) -> bool {
    value.len() == bytes.len() && value.all().flatten().eq(bytes)
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
                    condition = words.next().map(Condition::Equal);
                }
                _ if is(word, "IFNE") && condition.is_none() && with_value => {
                    condition = words.next().map(Condition::Different);
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
                    _ => return Err(CommandError::Syntax),
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

pub fn set(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    if request.len() == 3 {
        context.session.set(&request[1], &request[2])?;
        context.replies.status("OK");
        return Ok(());
    }
    let now_ms = context.session.now_ms();
    let options =
        Options::parse(request, 3, now_ms, "set").map_err(|error| unquoted(request, error))?;
    let replies = &mut context.replies;
    let mut decide = |old: Option<&Entry>| {
        if options.get {
            show(replies, old);
        }
        options.condition.holds(old)
    };
    let (key, value) = (&request[1], &request[2]);
    let was_set = match options.expiry {
        Expiry::Keep => context.session.update(key, |old| {
            Ok::<_, CommandError>(match decide(old) {
                true => (Change::Set(value.to_vec(), old.and_then(Entry::expires_ms)), true),
                false => (Change::Keep, false),
            })
        }),
        expiry => context.session.set_if(key, value, expiry.time_ms(), |old| Ok(decide(old))),
    }?;
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
    let is_syntax = matches!(error, CommandError::Syntax);
    if !is_syntax || !request.inline || is_option || length > VALUE_BYTES_MAX {
        return error;
    }
    let value = request.words_from(2).collect::<Vec<_>>().join(&b' ');
    CommandError::Unquoted(format!("SET {} {}", quoted(&request[1]), quoted(&value)))
}

pub fn set_nx(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let is_new = |old: Option<&Entry>| Ok::<_, CommandError>(old.is_none());
    let was_set = context.session.set_if(&request[1], &request[2], None, is_new)?;
    context.replies.integer(i64::from(was_set));
    Ok(())
}

/// `SETEX key seconds value`
pub fn set_ex(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    set_until(context, request, Unit::Ex, "setex")
}

/// `PSETEX key milliseconds value`
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
    context.session.set_if(&request[1], &request[3], expiry.time_ms(), always)?;
    context.replies.status("OK");
    Ok(())
}

pub fn get_set(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let replies = &mut context.replies;
    context.session.set_if(&request[1], &request[2], None, |old| {
        show(replies, old);
        Ok::<_, CommandError>(true)
    })?;
    Ok(())
}

pub fn get_del(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let replies = &mut context.replies;
    context.session.update(&request[1], |old| {
        show(replies, old);
        Ok::<_, CommandError>((Change::Remove, ()))
    })
}

/// `GETEX key [EX seconds | PX milliseconds | EXAT time | PXAT time | PERSIST]`
pub fn get_ex(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let (mut time, mut persist) = (None::<(Unit, &[u8])>, false);
    let mut words = request.words_from(2);
    while let Some(word) = words.next() {
        match Unit::parse(word) {
            // Again is as good as once.
            Some(unit) if !persist && time.is_none_or(|(old, _)| old == unit) => {
                time = Some((unit, words.next().ok_or(CommandError::Syntax)?));
            }
            None if is(word, "PERSIST") && time.is_none() => persist = true,
            _ => return Err(CommandError::Syntax),
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

/// `DELEX key [IFEQ value | IFNE value]`
pub fn del_ex(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let condition = match request.len() {
        2 => Condition::Always,
        4 if is(&request[2], "IFEQ") => Condition::Equal(&request[3]),
        4 if is(&request[2], "IFNE") => Condition::Different(&request[3]),
        4 => return Err(CommandError::Value("Invalid condition. Use IFEQ or IFNE")),
        _ => return Err(CommandError::Arity("delex".to_owned())),
    };
    delete_if(context, &request[1], &condition)
}

/// `DELIFEQ key value`
pub fn del_if_eq(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    delete_if(context, &request[1], &Condition::Equal(&request[2]))
}

fn delete_if(context: &mut Context<'_, '_>, key: &[u8], condition: &Condition<'_>) -> Result {
    let was_there = context.session.update(key, |old| {
        Ok::<_, CommandError>(match old.is_some() && condition.holds(old) {
            true => (Change::Remove, true),
            false => (Change::Keep, false),
        })
    })?;
    context.replies.integer(i64::from(was_there));
    Ok(())
}

pub fn mget(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let Context { session, replies, .. } = context;
    session.look_at(request.words_from(1), |session| {
        replies.array(request.len() - 1);
        for key in request.words_from(1) {
            session.entry(key, |entry| show(replies, entry));
        }
    });
    Ok(())
}

/// Sets the keys in words `first`, `first + 2` and so on to what follows each, at one moment.
fn set_pairs(session: &mut Session<'_>, request: &Request<'_>, first: usize) -> Result {
    for index in (first..request.len()).step_by(2) {
        session.set(&request[index], &request[index + 1])?;
    }
    Ok(())
}

pub fn mset(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    pairs(request, "mset")?;
    let keys = request.words_from(1).step_by(2);
    context.session.atomically(keys, |session| set_pairs(session, request, 1))?;
    context.replies.status("OK");
    Ok(())
}

pub fn mset_nx(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    pairs(request, "msetnx")?;
    let keys = || request.words_from(1).step_by(2);
    let was_set = context.session.atomically(keys(), |session| {
        let is_new = keys().all(|key| session.entry(key, |entry| entry.is_none()));
        if is_new {
            set_pairs(session, request, 1)?;
        }
        Ok::<_, CommandError>(is_new)
    })?;
    context.replies.integer(i64::from(was_set));
    Ok(())
}

/// `MSETEX count key value [key value ...] [NX | XX] [EX seconds | PX milliseconds | EXAT time | PXAT time | KEEPTTL]`
pub fn mset_ex(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let count = integer(&request[1]).ok().and_then(|count| usize::try_from(count).ok());
    let count = count.filter(|count| *count > 0);
    let count = count.ok_or(CommandError::Value("invalid numkeys value"))?;
    let end = count.saturating_mul(2).saturating_add(2);
    if end > request.len() {
        return Err(CommandError::Value("wrong number of key-value pairs"));
    }
    let options = Options::parse(request, end, context.session.now_ms(), "msetex")?;
    if options.get {
        return Err(CommandError::Syntax);
    }
    let is_met = |exists: bool| match options.condition {
        Condition::New => Ok(!exists),
        Condition::Old => Ok(exists),
        Condition::Always => Ok(true),
        Condition::Equal(_) | Condition::Different(_) => Err(CommandError::Syntax),
    };
    is_met(true)?;
    let keys = || request.words_from(2).step_by(2).take(count);
    let was_set = context.session.atomically(keys(), |session| {
        for key in keys() {
            if !is_met(session.entry(key, |entry| entry.is_some()))? {
                return Ok(false);
            }
        }
        for index in (2..end).step_by(2) {
            let (key, value) = (&request[index], &request[index + 1]);
            let expires_ms = match options.expiry {
                Expiry::Keep => session.entry(key, |old| old.and_then(Entry::expires_ms)),
                expiry => expiry.time_ms(),
            };
            session.set_if(key, value, expires_ms, |_| Ok::<_, CommandError>(true))?;
        }
        Ok::<_, CommandError>(true)
    })?;
    context.replies.integer(i64::from(was_set));
    Ok(())
}

fn pairs(request: &Request<'_>, name: &'static str) -> Result {
    match request.len() % 2 {
        1 => Ok(()),
        _ => Err(CommandError::Arity(name.to_owned())),
    }
}

pub fn append(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let length = context.session.append(&request[1], &request[2])?;
    context.replies.count(length);
    Ok(())
}

pub fn strlen(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let length = context.session.get(&request[1], |value| value.map_or(0, View::len));
    context.replies.count(length);
    Ok(())
}

/// `GETRANGE key start end`: both inclusive, negative ones from the end.
pub fn get_range(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let (start, end) = (integer(&request[2])?, integer(&request[3])?);
    let copy = context.session.get(&request[1], |value| {
        let value = value.unwrap_or(View::Short(b""));
        let length = value.len() as i64;
        let from_start = |index: i64| if index < 0 { (length + index).max(0) } else { index };
        let is_backwards = start < 0 && end < 0 && start > end;
        let (start, end) = (from_start(start), from_start(end).min(length - 1));
        if is_backwards || start > end {
            return Ok(Vec::new());
        }
        value.copy(start as usize..end as usize + 1)
    });
    context.replies.bulk(&copy.map_err(|_| CommandError::NoMemory)?);
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
