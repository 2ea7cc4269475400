//! A state of Lua in which scripts run one after the other, none of which finds what another one left.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlua::chunk::ChunkMode;
use mlua::debug::HookTriggers;
use mlua::state::{GcIncParams, GcMode};
use mlua::{Function, Lua, LuaOptions, MultiValue, StdLib, Table, Value, VmState};

use super::cache::Sha;
use super::call::call;
use super::library::functions;
use super::number::Random;
use super::replies;
use super::source::Script;
use super::watch::Watch;
use crate::limits::{
    SANDBOX_COMPILED_MAX, SANDBOX_SPARE_BYTES_MAX, SCRIPT_BYTES_MAX, SCRIPT_INSTRUCTIONS,
};
use crate::protocol::reply::{Protocol, Replies};
use crate::protocol::request::QueuedRequest;
use crate::util::sync::lock;

/// What a script is called in its errors, by Lua and by Redis.
pub const CHUNK: &str = "@user_script";

/// Why a script was ended: all that it changed is to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its time was up.
    Time = 1,
    /// `SCRIPT KILL`.
    Killed,
    /// It called what ends its transaction.
    Refused,
    /// It wanted more memory than it may have.
    Memory,
}

impl End {
    pub(super) const ALL: [Self; 4] = [Self::Time, Self::Killed, Self::Refused, Self::Memory];
}

/// What `redis.call` does.
pub trait Calls {
    /// Runs a command and writes its reply, which may be an error. `Err` if the script is to end.
    fn call(
        &mut self,
        request: &QueuedRequest,
        protocol: Protocol,
        replies: &mut Replies,
    ) -> Result<(), End>;
}

/// What a script is run with.
#[derive(Debug)]
pub struct Input<'i> {
    /// `KEYS`.
    pub keys: &'i [&'i [u8]],
    /// `ARGV`.
    pub arguments: &'i [&'i [u8]],
    /// After so long it is ended.
    pub time: Duration,
    /// Longest request that it may make, in bytes.
    pub request_bytes: usize,
}

/// What functions of a sandbox share.
#[derive(Debug)]
pub struct Shared {
    /// Whether the script is to end.
    pub watch: Arc<Watch>,
    /// What `redis.setresp` chose: RESP3.
    pub is_resp3: AtomicBool,
    /// What `math.random` takes its numbers from.
    pub random: Mutex<Random>,
    /// How much memory a script may take.
    pub memory_bytes: usize,
}

/// See the module.
pub struct Sandbox {
    lua: Lua,
    run: Function,
    compiled: HashMap<Sha, Function>,
    shared: Arc<Shared>,
    /// The last script left nothing behind.
    is_clean: bool,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sandbox").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// A new one, whose scripts may take so much memory.
    pub fn new(memory_bytes: usize) -> mlua::Result<Self> {
        let libraries = StdLib::STRING | StdLib::TABLE | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::default())?;
        let shared = Arc::new(Shared {
            watch: Arc::new(Watch::new()),
            is_resp3: AtomicBool::new(false),
            random: Mutex::new(Random::new(0)),
            memory_bytes,
        });
        let watch = Arc::clone(&shared.watch);
        let triggers = HookTriggers::new().every_nth_instruction(SCRIPT_INSTRUCTIONS);
        lua.set_global_hook(triggers, move |_, _| match watch.check() {
            true => Err(mlua::Error::runtime("the script is to end")),
            false => Ok(VmState::Continue),
        })?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name("=coffre");
        let run = prelude.call(functions(&lua, &shared)?)?;
        // Lua 5.1 does not collect garbage where memory is refused: so it begins to in good time.
        lua.gc_set_mode(GcMode::Incremental(
            GcIncParams::default().pause(110).step_multiplier(400),
        ));
        lua.set_memory_limit(lua.used_memory() + memory_bytes)?;
        Ok(Self { lua, run, compiled: HashMap::new(), shared, is_clean: true })
    }

    /// Whether its script is to end.
    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.shared.watch
    }

    /// Makes it ready for another script; `false` if it is not worth it.
    pub(super) fn tidy(&mut self) -> bool {
        if self.compiled.len() > SANDBOX_COMPILED_MAX {
            self.compiled.clear();
        }
        if self.is_clean && self.lua.used_memory() > SANDBOX_SPARE_BYTES_MAX {
            let is_collected = self.lua.gc_collect().and_then(|()| self.lua.gc_collect()).is_ok();
            return is_collected && self.lua.used_memory() <= SANDBOX_SPARE_BYTES_MAX;
        }
        self.is_clean
    }

    /// Runs a script and writes a reply: what it returned, or its error. `Err` if it was ended.
    pub fn run(
        &mut self,
        script: &Script,
        input: &Input<'_>,
        calls: &mut dyn Calls,
        replies: &mut Replies,
    ) -> Result<Option<String>, End> {
        let watch = Arc::clone(&self.shared.watch);
        watch.start(input.time);
        self.shared.is_resp3.store(false, Ordering::Relaxed);
        *lock(&self.shared.random) = Random::new(RandomState::new().hash_one(0) as i32);
        let outcome = self.run_watched(script, input, calls, replies);
        watch.stop();
        match (watch.reason(), outcome) {
            (Some(end), _) => Err(end),
            (None, Ok(failed)) => Ok(failed),
            (None, Err(mlua::Error::MemoryError(_))) => Err(End::Memory),
            (None, Err(error)) => failed(&format!("ERR {}", first_line(&error)), None, script),
        }
    }

    fn run_watched(
        &mut self,
        script: &Script,
        input: &Input<'_>,
        calls: &mut dyn Calls,
        replies: &mut Replies,
    ) -> mlua::Result<Option<String>> {
        self.is_clean = false;
        let function = match self.function(script) {
            Ok(function) => function,
            Err(error @ mlua::Error::SyntaxError { .. }) => {
                self.is_clean = true;
                return Ok(Some(format!("ERR {}", compile_error(&error))));
            }
            Err(error) => return Err(error),
        };
        let strings = |words: &[&[u8]]| {
            self.lua.create_sequence_from(
                words
                    .iter()
                    .map(|word| self.lua.create_string(word))
                    .collect::<mlua::Result<Vec<_>>>()?,
            )
        };
        let (keys, arguments) = (strings(input.keys)?, strings(input.arguments)?);
        let shared = Arc::clone(&self.shared);
        let mut answers = Replies::default();
        let caller = RefCell::new((calls, &mut answers));
        let call = |lua: &Lua, words: &MultiValue| {
            let (calls, answers) = &mut *caller.borrow_mut();
            let answer = call(lua, words, input, &shared, *calls, answers);
            answers.clear(SCRIPT_BYTES_MAX);
            answer
        };
        let (is_ok, value, is_clean): (bool, Value, bool) = self.lua.scope(|scope| {
            let plain = scope.create_function(|lua: &Lua, words: MultiValue| {
                call(lua, &words)?.map_err(mlua::Error::external)
            })?;
            let protected = scope.create_function(|lua: &Lua, words: MultiValue| {
                match call(lua, &words)? {
                    Ok(value) => Ok(value),
                    // What ends a script is not kept from it.
                    Err(error) if shared.watch.is_over() => Err(mlua::Error::external(error)),
                    Err(error) => error.table(lua),
                }
            })?;
            self.run.call((function, plain, protected, keys, arguments))
        })?;
        self.is_clean = is_clean;
        if is_ok {
            let protocol = match self.shared.is_resp3.load(Ordering::Relaxed) {
                true => Protocol::Resp3,
                false => Protocol::Resp2,
            };
            replies::from_lua(&value, replies, protocol, &self.shared.watch);
            return Ok(None);
        }
        let (text, place) = match &value {
            Value::Table(error) => described(error),
            // The want of memory, of which Lua tells no handler.
            Value::String(text) => (format!("ERR {}", text.to_string_lossy()), None),
            _ => ("ERR unknown error".to_owned(), None),
        };
        // Lua 5.1 has no other sign of it.
        if text.ends_with("not enough memory") {
            self.shared.watch.end(End::Memory);
        }
        Ok(failed(&text, place, script).unwrap_or_default())
    }

    /// Why a text cannot be run, if it cannot.
    pub fn check(&mut self, script: &Script) -> Option<String> {
        self.function(script).err().map(|error| compile_error(&error))
    }

    fn function(&mut self, script: &Script) -> mlua::Result<Function> {
        if let Some(function) = self.compiled.get(&script.sha()) {
            return Ok(function.clone());
        }
        let chunk = self.lua.load(script.body());
        let function = chunk.set_name(CHUNK).set_mode(ChunkMode::Text).into_function()?;
        self.compiled.insert(script.sha(), function.clone());
        Ok(function)
    }
}

/// What an error of a script says, and where it was raised, as `user_script:1`.
fn described(error: &Table) -> (String, Option<String>) {
    let field = |name: &str| match error.raw_get::<Value>(name) {
        Ok(Value::String(text)) => Some(text.to_string_lossy()),
        Ok(Value::Integer(number)) => Some(number.to_string()),
        Ok(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let place = field("source").zip(field("line")).map(|(source, line)| format!("{source}:{line}"));
    (field("err").unwrap_or_else(|| "ERR unknown error".to_owned()), place)
}

/// The error that a client is answered.
fn failed(text: &str, place: Option<String>, script: &Script) -> Result<Option<String>, End> {
    Ok(Some(match place {
        Some(place) => format!("{text} script: {}, on {place}.", script.sha()),
        None => text.to_owned(),
    }))
}

fn compile_error(error: &mlua::Error) -> String {
    let text = match error {
        mlua::Error::SyntaxError { message, .. } => message.clone(),
        error => error.to_string(),
    };
    let line = text.lines().next().unwrap_or_default();
    format!("Error compiling script (new function): {line}")
}

/// What an error says, without the trace behind it.
pub fn first_line(error: &mlua::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
