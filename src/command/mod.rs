//! Requests to replies: finds a request's command, checks its arity, runs it.
//!
//! A command is a function of a [`Call`]: it reads and changes keys through the transaction that the dispatcher began for
//! it, or `EXEC` for several. A command that touches keys may run more than once for one request: what it changes beside
//! keys and replies is the same after the second run. It is declared above its function, by a [`spec::Spec`], and `table`
//! lists them all; help, `COMMAND` and the arity check follow from its usage line. What a command error costs is one
//! `-ERR` reply; the connection goes on.

mod call;
mod client;
mod config;
mod data;
mod debug;
mod error;
mod expiry;
pub mod glob;
mod help;
mod info;
mod keys;
mod lcs;
mod numbers;
mod persist;
mod script;
mod server;
mod spec;
mod strings;
mod table;
mod together;
mod transaction;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Engine, Scope};
use crate::limits::KEYS_AT_ONCE;
use crate::protocol::reply::{Protocol, Replies};
use crate::protocol::request::Request;
use crate::server::{BurstStats, Called, Client, Control, MonitorQueue, Paused};
use crate::text;
use crate::util::buffer::Buffer;
use crate::util::memory::{self, NoMemory};
use call::{Call, Detour, LongArguments};
use spec::Flag;
use table::{body_of, lookup_subcommand, outside_of};

use error::Code;

pub use error::CommandError;
pub use spec::{Group, Keys};
pub use table::{Command, CommandRef, commands, full_name, lookup, names};
pub use together::{Together, run_together};
pub use transaction::Transaction;

/// What earlier commands of a connection set for the later ones.
#[derive(Debug)]
pub struct ConnectionState {
    /// The client gave the password, or needs none.
    pub authenticated: bool,
    /// `QUIT`, or the client killed itself: close once its replies are sent.
    pub is_over: bool,
    /// It is in `MONITOR`.
    pub monitor: Option<Arc<MonitorQueue>>,
    /// The form of its replies.
    pub protocol: Protocol,
    /// The database of its keys.
    database: usize,
    /// Reads count as accesses: it is not in `CLIENT NO-TOUCH`.
    tracks_access: bool,
    reply_mode: ReplyMode,
}

/// What `CLIENT REPLY` asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyMode {
    /// Replies to every command.
    On,
    /// No reply to so many commands, `CLIENT REPLY` included.
    Skip(u8),
    /// No replies.
    Off,
}

impl ConnectionState {
    /// The state of a new connection.
    pub fn new(authenticated: bool) -> Self {
        Self {
            authenticated,
            is_over: false,
            monitor: None,
            protocol: Protocol::default(),
            database: 0,
            tracks_access: true,
            reply_mode: ReplyMode::On,
        }
    }

    /// Whether replies are turned off.
    pub fn replies_are_off(&self) -> bool {
        self.reply_mode == ReplyMode::Off
    }

    /// Whether the command just run gets no reply; call it once for each command.
    pub fn suppresses_reply(&mut self) -> bool {
        let reply_mode = self.reply_mode;
        if let ReplyMode::Skip(count) = reply_mode {
            self.reply_mode = if count > 1 { ReplyMode::Skip(count - 1) } else { ReplyMode::On };
        }
        reply_mode != ReplyMode::On
    }
}

/// What the commands of a connection are run with.
pub struct Context<'a, E: Engine> {
    /// Keys and values.
    pub engine: &'a E,
    /// What the engine keeps for this connection.
    pub session: &'a mut E::Session,
    /// What `MULTI` and `WATCH` began.
    pub transaction: &'a mut Transaction<E>,
    /// Where replies go.
    pub replies: &'a mut Replies,
    /// What earlier commands set.
    pub connection: &'a mut ConnectionState,
    /// The client itself.
    pub client: &'a Arc<Client>,
    /// The server.
    pub control: &'a Control,
    /// What is counted.
    pub stats: &'a mut BurstStats,
}

/// Longest part of a request that an error echoes, in bytes (Redis's own bound).
const ECHO_BYTES_MAX: usize = 128;

/// What became of a request.
#[derive(Clone, Copy)]
pub enum Outcome {
    /// It names no command.
    Unknown,
    /// It is kept for `EXEC`.
    Kept,
    /// Its command was not run.
    Rejected(CommandRef, Code),
    /// Its command was run.
    Ran {
        /// Which.
        command: CommandRef,
        /// It was answered by an error.
        failed: Option<Code>,
    },
}

/// What a request names, and why that cannot be run, if it cannot.
pub struct Resolved {
    command: Option<CommandRef>,
    error: Option<CommandError>,
}

impl Resolved {
    /// The number of the command, if there is such a command.
    pub fn number(&self) -> Option<usize> {
        self.command.map(|command| command.number)
    }
}

/// Whether a command runs while clients are paused, whatever is paused: it may end the pause.
fn is_never_paused(command: CommandRef) -> bool {
    let name = command.full_name();
    matches!(name, "auth" | "hello" | "reset" | "client|unpause" | "shutdown" | "quit")
}

/// The kind of pause that holds a command up, if any does; a command that is refused anyway does not wait.
pub fn held_up_by<E: Engine>(
    resolved: &Resolved,
    connection: &ConnectionState,
    transaction: &Transaction<E>,
) -> Option<Paused> {
    let Resolved { command: Some(command), error: None } = resolved else { return None };
    match connection.authenticated && !is_never_paused(command) {
        false => None,
        // It is only queued.
        true if transaction.is_open() && command.name != "EXEC" => None,
        true if transaction.writes() => Some(Paused::Writes),
        true if may_write(command) => Some(Paused::Writes),
        true => Some(Paused::All),
    }
}

/// Runs one request and writes its one reply.
pub fn run<E: Engine>(
    resolved: Resolved,
    request: &Request<'_>,
    context: &mut Context<'_, E>,
) -> Outcome {
    let start = context.replies.position();
    context.replies.speak(context.connection.protocol);
    let rejection = match resolved.command {
        None => resolved.error,
        Some(command) => resolved.error.or_else(|| obstacle(command, context)),
    };
    let kept = match (resolved.command, &rejection) {
        (Some(command), None) => transaction::keep(command, request, context),
        _ => Ok(false),
    };
    let (outcome, result) = match (resolved.command, rejection) {
        (Some(command), None) if !matches!(kept, Ok(false)) => {
            let outcome = match &kept {
                Ok(_) => Outcome::Kept,
                Err(error) => Outcome::Rejected(command, error.code()),
            };
            (outcome, kept.map(drop))
        }
        (Some(command), None) => {
            let result = execute(command, request, context);
            let failed = result.as_ref().err().map(CommandError::code);
            (Outcome::Ran { command, failed }, result)
        }
        (command, rejection) => {
            let error = rejection.map(|error| match command {
                Some(command) => transaction::rejected(command, error, context),
                None => error,
            });
            let code = error.as_ref().map_or(Code::Err, CommandError::code);
            let rejected = |command| Outcome::Rejected(command, code);
            (command.map_or(Outcome::Unknown, rejected), error.map_or(Ok(()), Err))
        }
    };
    if matches!(outcome, Outcome::Unknown | Outcome::Rejected(..)) {
        context.transaction.spoil();
    }
    if let Err(error) = result {
        context.replies.truncate(start);
        context.replies.error(&error.to_string());
    }
    if context.replies.recover(start).is_err() {
        // There is no memory even for the error. With a reply missing, all that follow would answer the wrong requests.
        context.connection.is_over = true;
    }
    outcome
}

/// Runs a command and writes its reply; an error is for the caller to write.
fn execute<E: Engine>(
    command: CommandRef,
    request: &Request<'_>,
    context: &mut Context<'_, E>,
) -> Result<(), CommandError> {
    let start = context.replies.position();
    let result = match outside_of::<E>(command.number) {
        Some(run) => run(context, request),
        None => run_alone(command, request, context),
    };
    context.replies.recover(start)?;
    result
}

/// Runs a command in a transaction of its own: again after each detour.
fn run_alone<E: Engine>(
    command: CommandRef,
    request: &Request<'_>,
    context: &mut Context<'_, E>,
) -> Result<(), CommandError> {
    let Context { engine, session, replies, connection, client, control, stats, .. } = context;
    let before = Before::of(replies, connection, stats);
    let long = LongArguments::of(command, request);
    let mut detour = Detour::default();
    let mut keys = Buffer::default();
    let scope = scope(command, request, &mut keys).map_err(|NoMemory| CommandError::NO_MEMORY)?;
    let keys = if let Scope::Many(keys) = scope { keys } else { &[] };
    let mut runs = 0;
    loop {
        let scope = if detour.wants_all() { Scope::All } else { scope };
        let result = engine.run(session, scope, |txn| {
            if runs > 0 {
                before.restore(replies, connection, stats);
            }
            runs += 1;
            let mut call = Call {
                txn,
                request,
                keys,
                replies,
                connection,
                client,
                control,
                stats,
                admin: *engine,
                long: &long,
                detour: &mut detour,
            };
            body_of(command.number)(&mut call)
        });
        match result {
            Err(error) if error.is_again() => detour.carry_out(request)?,
            result => return result,
        }
    }
}

/// The state before a transaction, for when it is run again.
struct Before {
    /// Where its replies begin.
    position: usize,
    database: usize,
    protocol: Protocol,
    tracks_access: bool,
    /// Hits and misses.
    lookups: (u64, u64),
}

impl Before {
    fn of(replies: &Replies, connection: &ConnectionState, stats: &BurstStats) -> Self {
        let ConnectionState { database, protocol, tracks_access, .. } = *connection;
        let (position, lookups) = (replies.position(), (stats.hits, stats.misses));
        Self { position, database, protocol, tracks_access, lookups }
    }

    fn restore(
        &self,
        replies: &mut Replies,
        connection: &mut ConnectionState,
        stats: &mut BurstStats,
    ) {
        // Whether a reply of the run before was lost says nothing of this run.
        let _ = replies.recover(self.position);
        replies.truncate(self.position);
        replies.speak(self.protocol);
        connection.database = self.database;
        connection.protocol = self.protocol;
        connection.tracks_access = self.tracks_access;
        (stats.hits, stats.misses) = self.lookups;
    }
}

/// The keys that a command touches which has a transaction of its own; `keys` is where several are listed.
// As `RequestReader::next`.
#[inline(always)]
fn scope<'k>(
    command: CommandRef,
    request: &Request<'k>,
    keys: &'k mut Buffer<&'k [u8]>,
) -> Result<Scope<'k>, NoMemory> {
    let word = |place| request.words_from(place).next().unwrap_or_default();
    let mut places = command.key_places(request);
    let Some(first) = places.next() else {
        return Ok(match command.name {
            "FLUSHALL" | "FLUSHDB" | "SWAPDB" => Scope::All,
            // One that touches keys all the same begins anew.
            _ if command.spec.group == Group::Scripting => Scope::Many(&[]),
            _ => Scope::Each,
        });
    };
    let count = 1 + places.clone().count();
    match command.name {
        _ if count == 1 => return Ok(Scope::One(word(first))),
        // A million keys at one moment would hold up every other client.
        "EXISTS" if count > KEYS_AT_ONCE => return Ok(Scope::Each),
        "TOUCH" => return Ok(Scope::Each),
        _ => {}
    }
    keys.reserve_exact(count)?;
    command.key_places(request).try_for_each(|place| keys.push(word(place)))?;
    if matches!(command.name, "DEL" | "UNLINK") {
        keys.sort_and_dedup();
    }
    Ok(Scope::Many(keys))
}

/// Whether a command may change keys: by itself, or by what a script calls.
fn may_write(command: CommandRef) -> bool {
    command.flags.contains(Flag::Write) || command.spec.group == Group::Scripting
}

/// Whether a command may touch keys that its request does not name.
fn may_touch_any(command: CommandRef) -> bool {
    match command.spec.group {
        Group::Connection => false,
        Group::Scripting => true,
        _ => !command.keys.is_any() && command.name != "TIME",
    }
}

/// What forbids a command just now.
fn obstacle<E: Engine>(command: CommandRef, context: &Context<'_, E>) -> Option<CommandError> {
    let is = |flag| command.flags.contains(flag);
    if !context.connection.authenticated && !is(Flag::NoAuth) {
        return Some(CommandError::NO_AUTH);
    }
    if is(Flag::Denyoom) && memory::is_full() {
        return Some(CommandError::MAX_MEMORY);
    }
    if !E::KEEPS_FILE && command.spec.needs_file {
        let name = command.full_name();
        return Some(CommandError::err(format!(
            "'{name}' needs a data file, and this server keeps its keys in etcd"
        )));
    }
    context.connection.monitor.as_ref()?;
    let name = command.full_name();
    let is_allowed = matches!(name, "ping" | "quit" | "reset" | "monitor");
    (!is_allowed).then(|| {
        CommandError::err(format!(
            "Can't execute '{name}': only PING, QUIT, RESET and MONITOR are allowed while monitoring"
        ))
    })
}

/// Reports what became of a request to the counters, the slow log and the monitors.
pub fn record(
    outcome: &Outcome,
    request: &Request<'_>,
    took: Duration,
    client: &Client,
    control: &Control,
    stats: &mut BurstStats,
) {
    let (command, called, error) = match outcome {
        Outcome::Unknown => return control.statistics.refused(Code::Err as usize),
        Outcome::Kept => return,
        Outcome::Rejected(command, code) => (command, Called::rejected(), Some(*code)),
        Outcome::Ran { command, failed } => {
            (command, Called::once(took, failed.is_some()), *failed)
        }
    };
    if let Some(code) = error {
        control.statistics.refused(code as usize);
    }
    control.statistics.count(client.id, stats, command.number, called);
    if matches!(outcome, Outcome::Rejected(..)) {
        return;
    }
    let is = |flag| command.flags.contains(flag);
    if control.slowlog.is_slow(took) && !is(Flag::Secret) {
        control.slowlog.add(client, request.words_from(0), took);
    }
    if control.monitors.is_any() && !is(Flag::Secret) && !is(Flag::Admin) {
        control.monitors.show(client, request.words_from(0));
    }
}

/// The command, or subcommand, that a request names, and whether it has the right number of arguments.
// As `RequestReader::next`.
#[inline(always)]
pub fn find(request: &Request<'_>) -> Resolved {
    let Some(mut command) = lookup(&request[0]) else {
        return Resolved { command: None, error: Some(unknown(request)) };
    };
    let mut error = None;
    if request.len() > 1 && !command.subcommands().is_empty() {
        match lookup_subcommand(command, &request[1]) {
            Some(subcommand) => command = subcommand,
            None => error = Some(CommandError::unknown_subcommand(&request[1], command.name)),
        }
    }
    if error.is_none() && !command.arity.allows(request.len()) {
        error = Some(CommandError::arity(command.full_name()));
    }
    Resolved { command: Some(command), error }
}

fn unknown(request: &Request<'_>) -> CommandError {
    let mut arguments = String::new();
    for word in request.words_from(1) {
        if arguments.len() >= ECHO_BYTES_MAX {
            break;
        }
        let room = ECHO_BYTES_MAX - arguments.len();
        arguments.push_str(&format!("'{}' ", lossy(word, room)));
    }
    let name = lossy(&request[0], ECHO_BYTES_MAX);
    CommandError::err(format!("unknown command '{name}', with args beginning with: {arguments}"))
}

fn lossy(bytes: &[u8], most: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(most)]).into_owned()
}

fn integer(word: &[u8]) -> Result<i64, CommandError> {
    text::integer(word).ok_or(CommandError::NOT_AN_INTEGER)
}

/// Whether a word is this one, in any letter case.
fn is(word: &[u8], known: &str) -> bool {
    word.eq_ignore_ascii_case(known.as_bytes())
}
