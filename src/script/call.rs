//! `redis.call`: arguments of Lua to a request, and the reply to a value.

use mlua::{Lua, MultiValue, Value};
use scoped_tls_hkt::scoped_thread_local;

use super::number::general;
use super::replies;
use super::sandbox::{Calls, Shared};
use crate::limits::SCRIPT_SMALL_BYTES;
use crate::protocol::reply::Replies;
use crate::protocol::request::QueuedRequest;
use crate::util::sync::lock;

scoped_thread_local! {
    /// What the script calls that this thread runs.
    pub static mut CALLS: for<'c> &'c mut (dyn Calls + 'c)
}

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

/// What one call after the other uses, so that it need not be made each time.
#[derive(Debug)]
pub struct Buffers {
    request: QueuedRequest,
    answers: Replies,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { request: QueuedRequest::empty(), answers: Replies::default() }
    }
}

/// What `redis.call` does: asks those who are lent to this thread, and makes a value of what they answer.
pub fn call(lua: &Lua, words: &MultiValue, shared: &Shared) -> mlua::Result<Value> {
    // It is bounded where it may be long. Most answers are short, and made at half the cost.
    lua.set_memory_limit(0)?;
    let mut buffers = lock(&shared.buffers);
    let Buffers { request, answers } = &mut *buffers;
    let answer = ask(words, shared, request, answers);
    request.clear(SCRIPT_SMALL_BYTES);
    let is_long = answers.len() > SCRIPT_SMALL_BYTES;
    if is_long {
        shared.bound_memory(lua)?;
    }
    let value = answer.map_err(mlua::Error::external).and_then(|()| value_of(lua, answers));
    answers.clear(SCRIPT_SMALL_BYTES);
    if !is_long {
        shared.bound_memory(lua)?;
    }
    value
}

/// Runs a request, whose reply is added to `answers`.
fn ask(
    words: &MultiValue,
    shared: &Shared,
    request: &mut QueuedRequest,
    answers: &mut Replies,
) -> Result<(), CallError> {
    let refuse = |text: &str| Err(CallError(text.to_owned()));
    if words.is_empty() {
        return refuse("ERR Please specify at least one argument for this redis lib call");
    }
    if shared.watch.check() || !CALLS.is_set() {
        return refuse("ERR the script is to end");
    }
    for word in words {
        let pushed = match word {
            Value::String(text) => request.push_word(&text.as_bytes()),
            Value::Integer(number) => request.push_word(number.to_string().as_bytes()),
            Value::Number(number) => request.push_word(general(*number, 17).as_bytes()),
            _ => {
                return refuse("ERR Lua redis lib command arguments must be strings or integers");
            }
        };
        if pushed.is_err() || request.bytes() > shared.memory_bytes {
            return refuse("OOM command not allowed: out of memory");
        }
    }
    let done = CALLS.with(|calls| calls.call(request, shared.protocol(), answers));
    if let Err(end) = done {
        shared.watch.end(end);
        return refuse("ERR the script is to end");
    }
    match answers.bytes() {
        Some([b'-', error @ ..]) => refuse(String::from_utf8_lossy(error).trim_end()),
        _ => Ok(()),
    }
}

fn value_of(lua: &Lua, answers: &Replies) -> mlua::Result<Value> {
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
    replies::to_lua(lua, &mut bytes)
}
