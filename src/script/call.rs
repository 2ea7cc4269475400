//! `redis.call`: arguments of Lua to a request, and the reply to a value.

use std::sync::atomic::Ordering;

use mlua::{Lua, MultiValue, Value};

use super::number::general;
use super::replies;
use super::sandbox::{Calls, Input, Shared};
use crate::protocol::reply::{Protocol, Replies};
use crate::protocol::request::QueuedRequest;

/// An error that `redis.call` raises.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct CallError(String);

impl CallError {
    /// As scripts see it.
    pub fn table(&self, lua: &Lua) -> mlua::Result<Value> {
        let table = lua.create_table()?;
        table.raw_set("err", self.0.as_str())?;
        Ok(Value::Table(table))
    }

    /// It, if `error` is one.
    pub fn of(error: &mlua::Error) -> Option<&Self> {
        match error {
            mlua::Error::CallbackError { cause, .. } => Self::of(cause),
            mlua::Error::ExternalError(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

/// What `redis.call` does: asks `calls`, and makes a value of what it answers.
pub fn call(
    lua: &Lua,
    words: &MultiValue,
    input: &Input<'_>,
    shared: &Shared,
    calls: &mut dyn Calls,
    answers: &mut Replies,
) -> mlua::Result<Result<Value, CallError>> {
    let refuse = |text: &str| Ok(Err(CallError(text.to_owned())));
    if words.is_empty() {
        return refuse("ERR Please specify at least one argument for this redis lib call");
    }
    if shared.watch.check() {
        return refuse("ERR the script is to end");
    }
    let mut request = QueuedRequest::empty();
    for word in words {
        let pushed = match word {
            Value::String(text) => request.push_word(&text.as_bytes()),
            Value::Integer(number) => request.push_word(number.to_string().as_bytes()),
            Value::Number(number) => request.push_word(general(*number, 17).as_bytes()),
            _ => {
                return refuse("ERR Lua redis lib command arguments must be strings or integers");
            }
        };
        if pushed.is_err() || request.bytes() > input.request_bytes {
            return refuse("OOM command not allowed: out of memory");
        }
    }
    let protocol = match shared.is_resp3.load(Ordering::Relaxed) {
        true => Protocol::Resp3,
        false => Protocol::Resp2,
    };
    if let Err(end) = calls.call(&request, protocol, answers) {
        shared.watch.end(end);
        return refuse("ERR the script is to end");
    }
    let mut copy = Vec::new();
    let mut bytes = match answers.bytes() {
        Some(bytes) => bytes,
        None => {
            copy.try_reserve_exact(answers.len())
                .map_err(|_| mlua::Error::MemoryError("not enough memory".to_owned()))?;
            answers.write_to(&mut copy)?;
            &copy
        }
    };
    if let [b'-', error @ ..] = bytes {
        return refuse(String::from_utf8_lossy(error).trim_end());
    }
    Ok(Ok(replies::to_lua(lua, &mut bytes)?))
}
