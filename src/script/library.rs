//! The functions of scripts that are written in Rust. None of them calls Lua.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mlua::{Lua, LuaString, MultiValue, Table, Value};

use super::cache::Sha;
use super::call::{CallError, call};
use super::number::{Random, general};
use super::pattern::{self, Capture};
use super::sandbox::{CHUNK, Shared, first_line};
use super::{bits, json};
use crate::limits::{SCRIPT_LOG_BYTES_MAX, SCRIPT_LOG_MS};
use crate::protocol::REDIS_VERSION;
use crate::util::rate_limit::RateLimit;
use crate::util::sync::lock;

/// What the prelude is given. `next` and `expand`, which functions in Lua call, return what went wrong first, or nothing;
/// the others raise it.
pub fn functions(lua: &Lua, shared: &Arc<Shared>) -> mlua::Result<Table> {
    let rust = lua.create_table()?;
    let own = || Arc::clone(shared);

    let here = own();
    let call = move |lua: &Lua, words: MultiValue| call(lua, &words, &here);
    rust.set("call", lua.create_function(call)?)?;
    let here = own();
    rust.set("is_over", lua.create_function(move |_, ()| Ok(here.watch.check()))?)?;
    let seen = |lua: &Lua, problem: Value| match &problem {
        Value::Error(error) => match CallError::of(error) {
            Some(error) => error.table(lua),
            None => Ok(Value::String(lua.create_string(first_line(error))?)),
        },
        _ => Ok(problem),
    };
    rust.set("seen", lua.create_function(seen)?)?;
    rust.set("line", lua.create_function(|lua, ()| Ok(line_of_script(lua)))?)?;
    rust.set("used_kib", lua.create_function(|lua, ()| Ok(lua.used_memory() as f64 / 1024.0))?)?;
    rust.set("version", REDIS_VERSION)?;
    let numbers = REDIS_VERSION.split('.').filter_map(|part| part.parse().ok());
    rust.set("version_number", numbers.fold(0, |sum, part: u32| sum << 8 | part))?;

    let here = own();
    rust.set("random", lua.create_function(move |_, ()| Ok(lock(&here.random).next()))?)?;
    let here = own();
    let seed = move |_: &Lua, seed: f64| {
        *lock(&here.random) = Random::new(seed as i64 as i32);
        Ok(())
    };
    rust.set("seed", lua.create_function(seed)?)?;
    let here = own();
    let setresp = move |_: &Lua, version: u8| {
        here.is_resp3.store(version == 3, Ordering::Relaxed);
        Ok(())
    };
    rust.set("setresp", lua.create_function(setresp)?)?;
    let sha1hex = |_: &Lua, text: LuaString| Ok(Sha::of(&text.as_bytes()).to_string());
    rust.set("sha1hex", lua.create_function(sha1hex)?)?;
    rust.set("log", lua.create_function(log)?)?;

    rust.set("find", lua.create_function(find)?)?;
    rust.set("match", lua.create_function(match_once)?)?;
    rust.set("next", lua.create_function(match_next)?)?;
    rust.set("expand", lua.create_function(expand)?)?;

    rust.set("null", Value::NULL)?;
    let most = shared.memory_bytes;
    let encode = move |lua: &Lua, values: MultiValue| {
        let value = values
            .front()
            .filter(|_| values.len() == 1)
            .ok_or_else(|| raised(lua, "bad argument #1 to 'encode' (expected 1 argument)"))?;
        let json = json::encode(value, most).map_err(|problem| raised(lua, &problem))?;
        lua.create_string(json)
    };
    rust.set("encode", lua.create_function(encode)?)?;
    let decode = |lua: &Lua, value: Value| {
        let text = string(lua, value, "decode", 1)?;
        json::decode(lua, &text.as_bytes()).map_err(|problem| raised(lua, &problem))
    };
    rust.set("decode", lua.create_function(decode)?)?;
    rust.set("bit", bit_operations(lua)?)?;
    Ok(rust)
}

fn bit_operations(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    for (name, operation) in bits::SINGLES {
        let one = move |_: &Lua, number: f64| Ok(bits::to_number(operation(bits::to_bits(number))));
        table.set(name, lua.create_function(one)?)?;
    }
    for (name, operation) in bits::FOLDS {
        let all = move |_: &Lua, numbers: mlua::Variadic<f64>| {
            let folded = numbers.iter().copied().map(bits::to_bits).reduce(operation);
            Ok(bits::to_number(folded.unwrap_or(0)))
        };
        table.set(name, lua.create_function(all)?)?;
    }
    for (name, operation) in bits::SHIFTS {
        let two = move |_: &Lua, (number, by): (f64, f64)| {
            Ok(bits::to_number(operation(bits::to_bits(number), bits::to_bits(by))))
        };
        table.set(name, lua.create_function(two)?)?;
    }
    let to_hex = |_: &Lua, (number, digits): (f64, Option<f64>)| {
        Ok(bits::to_hex(bits::to_bits(number), bits::to_bits(digits.unwrap_or(8.0)) as i32))
    };
    table.set("tohex", lua.create_function(to_hex)?)?;
    Ok(table)
}

/// The line of the script that is being run, nearest to where this is called from.
fn line_of_script(lua: &Lua) -> Option<usize> {
    const LEVELS: usize = 12;
    (1..LEVELS).find_map(|level| {
        let line = |debug: &mlua::debug::Debug<'_>| {
            let is_of_script = debug.source().short_src.as_deref() == Some(&CHUNK[1..]);
            debug.current_line().filter(|_| is_of_script)
        };
        lua.inspect_stack(level, line).flatten()
    })
}

fn log(_: &Lua, (level, text): (u8, LuaString)) -> mlua::Result<()> {
    static LIMIT: RateLimit = RateLimit::new(Duration::from_millis(SCRIPT_LOG_MS));
    if !LIMIT.allow() {
        return Ok(());
    }
    let text = text.as_bytes();
    let text = crate::text::quoted(&text[..text.len().min(SCRIPT_LOG_BYTES_MAX)]);
    let level = match level {
        0 => log::Level::Debug,
        1 | 2 => log::Level::Info,
        _ => log::Level::Warn,
    };
    log::log!(level, "a script says {text}");
    Ok(())
}

/// Where a search begins, of a place that counts from 1, or from the end if it is negative; beyond the end none does.
fn init(place: f64, length: usize) -> usize {
    let place = place as i64;
    match place {
        1.. => (place as usize - 1).min(length),
        0 => 0,
        _ => length.saturating_sub(place.unsigned_abs() as usize),
    }
}

/// Captures as values.
fn captured<'c>(
    lua: &'c Lua,
    subject: &'c [u8],
    captures: &'c [Capture],
) -> impl Iterator<Item = mlua::Result<Value>> + 'c {
    captures.iter().map(|capture| match *capture {
        Capture::Span(start, end) => Ok(Value::String(lua.create_string(&subject[start..end])?)),
        Capture::Place(place) => Ok(Value::Number(place as f64 + 1.0)),
    })
}

/// An error with the place in the script where it was raised.
fn raised(lua: &Lua, problem: &str) -> mlua::Error {
    mlua::Error::runtime(match line_of_script(lua) {
        Some(line) => format!("{}:{line}: {problem}", &CHUNK[1..]),
        None => problem.to_owned(),
    })
}

/// Argument `place` of a function as a string; a number is one, too.
fn string(lua: &Lua, value: Value, function: &str, place: usize) -> mlua::Result<LuaString> {
    match value {
        Value::String(text) => Ok(text),
        Value::Integer(number) => lua.create_string(number.to_string()),
        Value::Number(number) => lua.create_string(general(number, 14)),
        other => {
            let found = if other.is_nil() { "no value" } else { other.type_name() };
            let problem =
                format!("bad argument #{place} to '{function}' (string expected, got {found})");
            Err(raised(lua, &problem))
        }
    }
}

/// Where a search begins; at the beginning if that is left out.
fn from(value: &Value, length: usize) -> usize {
    match value {
        Value::Integer(place) => init(*place as f64, length),
        Value::Number(place) => init(*place, length),
        Value::String(digits) => {
            init(digits.to_string_lossy().trim().parse().unwrap_or(1.0), length)
        }
        _ => 0,
    }
}

/// `string.find`: the place, its end, and the captures.
fn find(
    lua: &Lua,
    (subject, pattern, start, is_plain): (Value, Value, Value, Value),
) -> mlua::Result<MultiValue> {
    let subject = string(lua, subject, "find", 1)?;
    let pattern = string(lua, pattern, "find", 2)?;
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    let from = from(&start, subject.len());
    let is_special = |byte: &u8| b"^$*+?.([%-".contains(byte);
    let is_plain = !matches!(is_plain, Value::Nil | Value::Boolean(false));
    let place = |place: usize| Ok(Value::Number(place as f64));
    if is_plain || !pattern.iter().any(is_special) {
        let found = memchr::memmem::find(&subject[from..], &pattern).map(|start| start + from);
        return match found {
            Some(start) => [place(start + 1), place(start + pattern.len())].into_iter().collect(),
            None => Ok(MultiValue::from_iter([Value::Nil])),
        };
    }
    let found = pattern::find(&subject, &pattern, from);
    match found.map_err(|error| raised(lua, &error.to_string()))? {
        None => Ok(MultiValue::from_iter([Value::Nil])),
        Some(found) => [place(found.start + 1), place(found.end)]
            .into_iter()
            .chain(captured(lua, &subject, &found.captures))
            .collect(),
    }
}

/// `string.match`: the captures, or all.
fn match_once(
    lua: &Lua,
    (subject, pattern, start): (Value, Value, Value),
) -> mlua::Result<MultiValue> {
    let subject = string(lua, subject, "match", 1)?;
    let pattern = string(lua, pattern, "match", 2)?;
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    let found = pattern::find(&subject, &pattern, from(&start, subject.len()));
    match found.map_err(|error| raised(lua, &error.to_string()))? {
        None => Ok(MultiValue::from_iter([Value::Nil])),
        Some(found) => {
            let whole = [Capture::Span(found.start, found.end)];
            let captures = if found.captures.is_empty() { &whole } else { &found.captures[..] };
            captured(lua, &subject, captures).collect()
        }
    }
}

/// The next match from a place on: where it begins and ends, and its captures.
fn match_next(
    lua: &Lua,
    (subject, pattern, from): (LuaString, LuaString, f64),
) -> mlua::Result<MultiValue> {
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    match pattern::find(&subject, &pattern, init(from, subject.len())) {
        Err(error) => {
            Ok(MultiValue::from_iter([Value::String(lua.create_string(error.to_string())?)]))
        }
        Ok(None) => Ok(MultiValue::from_iter([Value::Nil, Value::Nil])),
        Ok(Some(found)) => {
            let places = [
                Value::Nil,
                Value::Number(found.start as f64 + 1.0),
                Value::Number(found.end as f64),
            ];
            places.into_iter().map(Ok).chain(captured(lua, &subject, &found.captures)).collect()
        }
    }
}

/// The replacement of `string.gsub`: `%1` in a template is a capture, `%0` the whole match.
fn expand(
    lua: &Lua,
    (template, whole, captures): (LuaString, LuaString, mlua::Variadic<Value>),
) -> mlua::Result<(Option<&'static str>, Option<LuaString>)> {
    let template = template.as_bytes();
    let mut expanded = Vec::new();
    let mut rest = &template[..];
    while let Some(at) = memchr::memchr(b'%', rest) {
        expanded.extend_from_slice(&rest[..at]);
        let Some(next) = rest.get(at + 1) else {
            return Ok((Some("invalid use of '%' in replacement string"), None));
        };
        match (next, captures.len()) {
            (b'0', _) | (b'1', 0) => expanded.extend_from_slice(&whole.as_bytes()),
            (digit @ b'1'..=b'9', _) => match captures.get(usize::from(digit - b'1')) {
                Some(Value::String(text)) => expanded.extend_from_slice(&text.as_bytes()),
                Some(Value::Integer(place)) => {
                    expanded.extend_from_slice(place.to_string().as_bytes())
                }
                Some(Value::Number(place)) => {
                    expanded.extend_from_slice(general(*place, 14).as_bytes());
                }
                _ => return Ok((Some("invalid capture index"), None)),
            },
            (literal, _) => expanded.push(*literal),
        }
        rest = &rest[at + 2..];
    }
    expanded.extend_from_slice(rest);
    Ok((None, Some(lua.create_string(expanded)?)))
}
