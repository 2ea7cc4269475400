//! Replies as values of Lua, and values of Lua as replies, by Redis's rules.

use mlua::{Lua, Table, Value};

use super::watch::Watch;
use crate::protocol::reply::{Protocol, Replies};

/// How deep tables may be within each other that a script returns (Redis stops at its Lua stack).
const DEPTH_MAX: usize = 100;

/// Reads one encoded reply from the front of `bytes`.
pub fn to_lua(lua: &Lua, bytes: &mut &[u8]) -> mlua::Result<Value> {
    let broken = || mlua::Error::runtime("a reply is malformed");
    let (&kind, rest) = bytes.split_first().ok_or_else(broken)?;
    let end = memchr::memchr(b'\n', rest).ok_or_else(broken)?;
    let line = rest[..end].strip_suffix(b"\r").ok_or_else(broken)?;
    *bytes = &rest[end + 1..];
    let text = || str::from_utf8(line).ok();
    let number = || text().and_then(|text| text.parse::<i64>().ok()).ok_or_else(broken);
    Ok(match kind {
        b'+' => table_of(lua, "ok", line)?,
        b'-' => table_of(lua, "err", line)?,
        b':' => Value::Number(number()? as f64),
        b'$' | b'=' => {
            let Ok(length) = usize::try_from(number()?) else { return Ok(Value::Boolean(false)) };
            let (value, rest) = bytes.split_at_checked(length).ok_or_else(broken)?;
            *bytes = rest.strip_prefix(b"\r\n").ok_or_else(broken)?;
            match kind {
                b'$' => Value::String(lua.create_string(value)?),
                _ => {
                    let (format, text) = value.split_at_checked(4).ok_or_else(broken)?;
                    let verbatim = lua.create_table()?;
                    verbatim.raw_set("format", lua.create_string(&format[..3])?)?;
                    verbatim.raw_set("string", lua.create_string(text)?)?;
                    wrapped(lua, "verbatim_string", Value::Table(verbatim))?
                }
            }
        }
        b'*' | b'>' => {
            let Ok(length) = usize::try_from(number()?) else { return Ok(Value::Boolean(false)) };
            let array = lua.create_table()?;
            for place in 1..=length {
                array.raw_set(place, to_lua(lua, bytes)?)?;
            }
            Value::Table(array)
        }
        b'%' => {
            let map = lua.create_table()?;
            for _ in 0..number()? {
                let key = to_lua(lua, bytes)?;
                map.raw_set(key, to_lua(lua, bytes)?)?;
            }
            wrapped(lua, "map", Value::Table(map))?
        }
        b'~' => {
            let set = lua.create_table()?;
            for _ in 0..number()? {
                set.raw_set(to_lua(lua, bytes)?, true)?;
            }
            wrapped(lua, "set", Value::Table(set))?
        }
        b'_' => Value::Nil,
        b'#' => Value::Boolean(line == b"t"),
        b',' => {
            let double = text().and_then(|text| text.parse::<f64>().ok()).ok_or_else(broken)?;
            wrapped(lua, "double", Value::Number(double))?
        }
        b'(' => table_of(lua, "big_number", line)?,
        _ => return Err(broken()),
    })
}

fn table_of(lua: &Lua, field: &str, text: &[u8]) -> mlua::Result<Value> {
    wrapped(lua, field, Value::String(lua.create_string(text)?))
}

fn wrapped(lua: &Lua, field: &str, value: Value) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(field, value)?;
    Ok(Value::Table(table))
}

/// Writes what a script returned; `false` if its time was up meanwhile.
pub fn from_lua(value: &Value, replies: &mut Replies, protocol: Protocol, watch: &Watch) -> bool {
    Writer { replies, protocol, watch }.write(value, 0).is_some()
}

struct Writer<'w> {
    replies: &'w mut Replies,
    /// What the script spoke in the end: whether truth and falsehood are more than 1 and nothing.
    protocol: Protocol,
    watch: &'w Watch,
}

impl Writer<'_> {
    /// `None` once the time is up.
    fn write(&mut self, value: &Value, depth: usize) -> Option<()> {
        match value {
            Value::String(text) => self.replies.bulk(&text.as_bytes()),
            Value::Integer(number) => self.replies.integer(*number),
            Value::Number(number) => self.replies.integer(*number as i64),
            Value::Boolean(truth) if self.protocol == Protocol::Resp3 => {
                self.replies.boolean(*truth);
            }
            Value::Boolean(true) => self.replies.integer(1),
            Value::Table(_) if depth == DEPTH_MAX => {
                self.replies.error("ERR reached lua stack limit");
            }
            Value::Table(table) => return self.table(table, depth),
            _ => self.replies.nil(),
        }
        Some(())
    }

    fn table(&mut self, table: &Table, depth: usize) -> Option<()> {
        let field = |name: &str| table.raw_get::<Value>(name).unwrap_or(Value::Nil);
        if let Value::String(text) = field("err") {
            self.replies.error(&text.to_string_lossy());
            return Some(());
        }
        if let Value::String(text) = field("ok") {
            self.replies.status(&text.to_string_lossy());
            return Some(());
        }
        match field("double") {
            Value::Number(number) => {
                self.replies.double(&super::number::general(number, 17));
                return Some(());
            }
            Value::Integer(number) => {
                self.replies.double(&number.to_string());
                return Some(());
            }
            _ => {}
        }
        if let Value::String(digits) = field("big_number") {
            self.replies.big_number(&digits.to_string_lossy());
            return Some(());
        }
        if let Value::Table(verbatim) = field("verbatim_string")
            && let Ok(text) = verbatim.raw_get::<mlua::LuaString>("string")
        {
            self.replies.verbatim(&text.as_bytes());
            return Some(());
        }
        if let Value::Table(map) = field("map") {
            let pairs: Vec<_> = map.pairs::<Value, Value>().filter_map(Result::ok).collect();
            self.replies.map(pairs.len());
            for (key, value) in &pairs {
                self.write(key, depth + 1)?;
                self.write(value, depth + 1)?;
            }
            return Some(());
        }
        if let Value::Table(set) = field("set") {
            let members: Vec<_> = set.pairs::<Value, Value>().filter_map(Result::ok).collect();
            self.replies.set(members.len());
            return members.iter().try_for_each(|(member, _)| self.write(member, depth + 1));
        }
        let start = self.replies.position();
        let mut length = 0;
        loop {
            match table.raw_get::<Value>(length + 1) {
                Err(_) | Ok(Value::Nil) => break,
                Ok(value) => self.write(&value, depth + 1)?,
            }
            length += 1;
            if self.replies.is_lost() {
                return Some(());
            }
            if self.watch.check() {
                return None;
            }
        }
        self.replies.array_from(start, length);
        Some(())
    }
}
