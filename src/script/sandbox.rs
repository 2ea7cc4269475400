//! A state of Lua in which scripts run one after the other, none of which finds what another one left.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlua::chunk::ChunkMode;
use mlua::debug::HookTriggers;
use mlua::state::{GcIncParams, GcMode};
use mlua::{Function, Lua, LuaOptions, StdLib, Table, Value, VmState};

use super::cache::Sha;
use super::call::{Buffers, CALLS};
use super::library::functions;
use super::number::Random;
use super::replies;
use super::source::Script;
use super::watch::Watch;
use crate::limits::{
    SANDBOX_COMPILED_MAX, SANDBOX_SPARE_BYTES_MAX, SCRIPT_INSTRUCTIONS, SCRIPT_SMALL_BYTES,
};
use crate::protocol::reply::{Protocol, Replies};
use crate::protocol::request::QueuedRequest;
use crate::util::memory;
use crate::util::random::random;
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
    /// How much Lua may have while the script runs, in bytes.
    limit_bytes: AtomicUsize,
    /// What calls use.
    pub buffers: Mutex<Buffers>,
    /// Whether garbage is collected as soon as there is some.
    collects_early: AtomicBool,
}

impl Shared {
    /// What the script speaks.
    pub fn protocol(&self) -> Protocol {
        match self.is_resp3.load(Ordering::Relaxed) {
            true => Protocol::Resp3,
            false => Protocol::Resp2,
        }
    }

    /// Lets Lua take no more than so much beyond what it has when its script begins. Without a bound every function of
    /// Lua's interface is called at half the cost, but the process ends where the system refuses memory: that is for what
    /// is small.
    pub fn bound_memory(&self, lua: &Lua) -> mlua::Result<()> {
        lua.set_memory_limit(self.limit_bytes.load(Ordering::Relaxed)).map(drop)
    }

    /// From here on: Lua 5.1 does not collect garbage where memory is refused, so a script that takes much of it would be
    /// ended for what it does not use any more.
    fn collect_early(&self, lua: &Lua) -> mlua::Result<()> {
        if self.collects_early.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let parameters = GcIncParams::default().pause(110).step_multiplier(400);
        lua.gc_set_mode(GcMode::Incremental(parameters));
        lua.gc_collect()
    }
}

/// Lets garbage wait until it is about as much as a sandbox may keep: each collection looks at all that a sandbox has from
/// the beginning, which is more than most scripts leave.
fn collect_late(lua: &Lua) {
    lua.gc_set_mode(GcMode::Incremental(GcIncParams::default().pause(1000)));
}

/// See the module.
pub struct Sandbox {
    lua: Lua,
    run: Function,
    compiled: HashMap<Sha, Function>,
    shared: Arc<Shared>,
    /// The last script was not broken off in the middle.
    is_sound: bool,
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
            limit_bytes: AtomicUsize::new(0),
            buffers: Mutex::default(),
            collects_early: AtomicBool::new(false),
        });
        let hooked = Arc::clone(&shared);
        let triggers = HookTriggers::new().every_nth_instruction(SCRIPT_INSTRUCTIONS);
        lua.set_global_hook(triggers, move |lua, _| {
            if hooked.watch.check() {
                return Err(mlua::Error::runtime("the script is to end"));
            }
            if lua.used_memory() > SANDBOX_SPARE_BYTES_MAX {
                hooked.collect_early(lua)?;
            }
            Ok(VmState::Continue)
        })?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name("=coffre");
        let run = prelude.call(functions(&lua, &shared)?)?;
        collect_late(&lua);
        Ok(Self { lua, run, compiled: HashMap::new(), shared, is_sound: true })
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
        let is_early = self.shared.collects_early.swap(false, Ordering::Relaxed);
        if self.is_sound && (is_early || self.lua.used_memory() > SANDBOX_SPARE_BYTES_MAX) {
            collect_late(&self.lua);
            let is_collected = self.lua.gc_collect().and_then(|()| self.lua.gc_collect()).is_ok();
            return is_collected && self.lua.used_memory() <= SANDBOX_SPARE_BYTES_MAX;
        }
        self.is_sound
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
        *lock(&self.shared.random) = Random::new(random() as i32);
        let outcome = self.run_watched(script, input, calls, replies);
        let outcome = self.lua.set_memory_limit(0).and(outcome);
        watch.stop();
        match (watch.reason(), outcome) {
            (Some(end), _) => Err(end),
            (None, Ok(failed)) => Ok(failed),
            (None, Err(mlua::Error::MemoryError(_))) => Err(End::Memory),
            (None, Err(error)) => Ok(Some(format!("ERR {}", first_line(&error)))),
        }
    }

    fn run_watched(
        &mut self,
        script: &Script,
        input: &Input<'_>,
        calls: &mut dyn Calls,
        replies: &mut Replies,
    ) -> mlua::Result<Option<String>> {
        self.is_sound = false;
        self.open_memory()?;
        let words = input.keys.iter().chain(input.arguments);
        if words.map(|word| word.len()).sum::<usize>() > SCRIPT_SMALL_BYTES {
            self.shared.bound_memory(&self.lua)?;
        }
        let function = match self.function(script) {
            Ok(function) => function,
            Err(error @ mlua::Error::SyntaxError { .. }) => {
                self.is_sound = true;
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
        self.shared.bound_memory(&self.lua)?;
        let outcome =
            CALLS.set(calls, || self.run.call::<(bool, Value)>((function, keys, arguments)));
        self.lua.set_memory_limit(0)?;
        let (is_ok, value) = outcome?;
        self.is_sound = true;
        if is_ok {
            replies::from_lua(&value, replies, self.shared.protocol(), &self.shared.watch);
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
        Ok(Some(match place {
            Some(place) => format!("{text} script: {}, on {place}.", script.sha()),
            None => text,
        }))
    }

    /// Finds out how much memory there is for a script. Lua's allocator ends the process where the system refuses it: it
    /// must not come to that.
    fn open_memory(&self) -> mlua::Result<()> {
        let bytes = memory::obtainable(self.shared.memory_bytes);
        let limit_bytes = self.lua.used_memory() + bytes;
        self.shared.limit_bytes.store(limit_bytes, Ordering::Relaxed);
        match bytes {
            0 => Err(mlua::Error::MemoryError("not enough memory".to_owned())),
            _ => Ok(()),
        }
    }

    /// Why a text cannot be run, if it cannot.
    pub fn check(&mut self, script: &Script) -> Option<String> {
        let checked = self.open_memory().and_then(|()| self.function(script));
        let unbound = self.lua.set_memory_limit(0);
        checked.and(unbound).err().map(|error| compile_error(&error))
    }

    fn function(&mut self, script: &Script) -> mlua::Result<Function> {
        if let Some(function) = self.compiled.get(&script.sha()) {
            return Ok(function.clone());
        }
        if script.text().len() > SCRIPT_SMALL_BYTES {
            self.shared.bound_memory(&self.lua)?;
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
    match error {
        mlua::Error::CallbackError { cause, .. } => first_line(cause),
        mlua::Error::RuntimeError(text) => text.lines().next().unwrap_or_default().to_owned(),
        error => error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}
