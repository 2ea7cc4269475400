//! Requests to replies: finds a request's command in the one table, checks its arity, runs it.
//!
//! A command is declared in [`TABLE`] and nowhere else; help, `COMMAND` and the arity check read it
//! there. What a command error costs is one `-ERR` reply; the connection goes on.

mod client;
mod config;
mod data;
mod debug;
mod expiry;
pub mod glob;
mod help;
mod info;
mod keys;
mod lcs;
mod numbers;
mod persist;
mod server;
mod strings;
mod table;
mod transaction;

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::engine::local::{Session, WriteError};
use crate::journal::WriteRefused;
use crate::protocol::reply::{Lost, Protocol, Replies};
use crate::protocol::request::Request;
use crate::server::{BurstStats, Called, Client, Control, Event, MonitorQueue, Paused};
use crate::text;
use crate::util::memory;

pub use table::{Argument, Arity, Command, Flag, Group, TABLE};
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
    /// What `MULTI` and `WATCH` began.
    pub transaction: Transaction,
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
            transaction: Transaction::default(),
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

/// What a command works with.
pub struct Context<'a, 'e> {
    /// The client's view of the data.
    pub session: &'a mut Session<'e>,
    /// Where its reply goes.
    pub replies: &'a mut Replies,
    /// What was said before.
    pub connection: &'a mut ConnectionState,
    /// The client itself.
    pub client: &'a Arc<Client>,
    /// The server.
    pub control: &'a Control,
    /// What is counted.
    pub stats: &'a mut BurstStats,
}

impl Context<'_, '_> {
    /// Works with a database, which exists, from here on.
    fn select(&mut self, database: usize) {
        self.session.select(database);
        self.client.database.store(database, Ordering::Relaxed);
    }
}

/// Why a command was not run. The text is the reply.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No such command.
    #[error("ERR unknown command '{name}', with args beginning with: {arguments}")]
    Unknown {
        /// As sent, at most 128 bytes.
        name: String,
        /// The first arguments in single quotes, about 128 bytes.
        arguments: String,
    },
    /// No such subcommand.
    #[error("ERR unknown subcommand '{name}'. Try {command} HELP.")]
    UnknownSubcommand {
        /// As sent, at most 128 bytes.
        name: String,
        /// The command it is no part of.
        command: &'static str,
    },
    /// Too few or too many arguments.
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(String),
    /// An argument that means nothing here.
    #[error("ERR syntax error")]
    Syntax,
    /// The same, typed by a person who forgot the quotes.
    #[error("ERR syntax error, put the value in quotes: {0}")]
    Unquoted(String),
    /// No canonical decimal integer, or one beyond 64 bits.
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    /// A time that is not positive, or too far away.
    #[error("ERR invalid expire time in '{0}' command")]
    Expiry(&'static str),
    /// An option of `EXPIRE` that it has not.
    #[error("ERR Unsupported option {0}")]
    Unsupported(String),
    /// A database that there is not.
    #[error("ERR DB index is out of range")]
    Database,
    /// A negative offset.
    #[error("ERR offset is out of range")]
    Offset,
    /// `EXEC` after a request that could not be kept.
    #[error("EXECABORT Transaction discarded because of previous errors.")]
    Aborted,
    /// `EXEC` that could not be run.
    #[error("EXECABORT Transaction discarded because of: {0}")]
    AbortedBy(String),
    /// A client name with a blank or a line end in it.
    #[error("ERR {0} cannot contain spaces, newlines or special characters.")]
    Name(&'static str),
    /// `CLIENT SETINFO` of something else than the library's name and version.
    #[error("ERR Unrecognized option '{0}'")]
    Option(String),
    /// An argument whose value is none that it may have.
    #[error("ERR {0}")]
    Value(&'static str),
    /// `CONFIG SET` of what it cannot be set to.
    #[error("ERR CONFIG SET failed (possibly related to argument '{0}') - {1}")]
    Setting(&'static str, String),
    /// Something went wrong, for this reason.
    #[error("ERR {0}")]
    Failed(String),
    /// The same, with what it was.
    #[error("ERR {0} '{1}'")]
    NoSuch(&'static str, String),
    /// `HELP` on what is no command.
    #[error("ERR no command '{0}'; HELP lists them")]
    NoHelp(String),
    /// The client has yet to give the password.
    #[error("NOAUTH Authentication required.")]
    NoAuth,
    /// The same, of a client that wants to know who it speaks with.
    #[error(
        "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
         <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
         the same time"
    )]
    HelloNoAuth,
    /// `HELLO` with another version than 2 and 3.
    #[error("NOPROTO unsupported protocol version")]
    NoProtocol,
    /// A wrong password, or another user than `default`.
    #[error("WRONGPASS invalid username-password pair or user is disabled.")]
    WrongPassword,
    /// A password where none is asked for.
    #[error(
        "ERR AUTH <password> called without any password configured for the default user. \
         Are you sure your configuration is correct?"
    )]
    NoPassword,
    /// The journal takes no writes, or not this one.
    #[error("MISCONF Errors writing to the AOF file: {0}")]
    Refused(#[from] WriteRefused),
    /// What was asked for is under way.
    #[error("ERR {0} already in progress")]
    Busy(&'static str),
    /// A value beyond the limit.
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    TooLong,
    /// More memory is used than `--maxmemory` allows.
    #[error("OOM command not allowed when used memory > 'maxmemory'.")]
    MaxMemory,
    /// There is no memory for what it would add, or for its reply.
    #[error("OOM command not allowed: out of memory")]
    NoMemory,
    /// It would hold up others for too long.
    #[error(
        "ERR this would keep its keys locked for too long: name fewer keys, or do it in several steps"
    )]
    TooMuchWork,
    /// Its reply was given up.
    #[error("ERR {0}")]
    TooLarge(Lost),
    /// It is in `MONITOR`.
    #[error(
        "ERR Can't execute '{0}': only PING, QUIT, RESET and MONITOR are allowed while monitoring"
    )]
    Watching(String),
    /// `DEBUG` without `--enable-debug-command`.
    #[error(
        "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can \
         run it from a local connection, otherwise you need to set this option when you start the server."
    )]
    NoDebug,
    /// `SHUTDOWN` while the data file is in trouble.
    #[error("ERR Errors trying to SHUTDOWN. Check logs.")]
    Shutdown,
    /// See [`glob::TooLong`].
    #[error("ERR {0}")]
    Pattern(#[from] glob::TooLong),
}

impl From<WriteError> for CommandError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Refused(refused) => Self::Refused(refused),
            WriteError::TooLong => Self::TooLong,
            WriteError::Full => Self::MaxMemory,
            WriteError::NoMemory(_) => Self::NoMemory,
            WriteError::TooMuchWork => Self::TooMuchWork,
        }
    }
}

impl From<Lost> for CommandError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::NoMemory(_) => Self::NoMemory,
            Lost::TooLarge => Self::TooLarge(lost),
        }
    }
}

impl CommandError {
    /// Whether it says nothing of the command, but of what the server can do just now: in a transaction it undoes
    /// all of it.
    fn is_for_want(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::MaxMemory
                | Self::NoMemory
                | Self::TooMuchWork
                | Self::TooLarge(_)
        )
    }
}

/// The version of Redis whose commands these are: client libraries choose by it what they use.
const REDIS_VERSION: &str = "7.4.0";

/// Longest part of a request that an error echoes, in bytes (Redis's own bound).
const ECHO_BYTES_MAX: usize = 128;

/// A command, or subcommand, and its number.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// What the table says of it.
    pub command: &'static Command,
    /// Its place among all commands and subcommands.
    number: usize,
}

impl Found {
    /// As `reset`, or `slowlog|reset`: a subcommand may have the name of a command.
    fn name(self) -> &'static str {
        name(self.number)
    }
}

/// What became of a request.
#[derive(Clone, Copy)]
pub enum Outcome {
    /// It names no command.
    Unknown,
    /// It is kept for `EXEC`.
    Kept,
    /// Its command was not run.
    Rejected(Found),
    /// Its command was run.
    Ran {
        /// Which.
        found: Found,
        /// It was answered by an error.
        failed: bool,
    },
}

/// What a request names, and why that cannot be run, if it cannot.
pub struct Asked {
    found: Option<Found>,
    error: Option<CommandError>,
}

impl Asked {
    /// The number of the command, if there is such a command.
    pub fn number(&self) -> Option<usize> {
        self.found.map(|found| found.number)
    }
}

/// What is run while clients are paused, whatever is paused: it may end the pause.
fn is_never_paused(found: Found) -> bool {
    matches!(found.name(), "auth" | "hello" | "reset" | "client|unpause" | "shutdown" | "quit")
}

/// The kind of pause that holds a command up, if any does: not what is refused anyway.
pub fn held_up_by(asked: &Asked, connection: &ConnectionState) -> Option<Paused> {
    let Asked { found: Some(found), error: None } = asked else { return None };
    let command = found.command;
    let transaction = &connection.transaction;
    match connection.authenticated && !is_never_paused(*found) {
        false => None,
        // It is only kept.
        true if transaction.is_open() && command.name != "EXEC" => None,
        true if transaction.writes() => Some(Paused::Writes),
        true if command.flags.contains(&Flag::Write) => Some(Paused::Writes),
        true => Some(Paused::All),
    }
}

/// Runs one request and writes its one reply.
pub fn run(asked: Asked, request: &Request<'_>, context: &mut Context<'_, '_>) -> Outcome {
    let start = context.replies.position();
    context.replies.speak(context.connection.protocol);
    let rejection = match asked.found {
        None => asked.error,
        Some(found) => asked.error.or_else(|| obstacle(found, context)),
    };
    let kept = match (asked.found, &rejection) {
        (Some(found), None) => transaction::keep(found, request, context),
        _ => Ok(false),
    };
    let (outcome, result) = match (asked.found, rejection) {
        (Some(found), None) if !matches!(kept, Ok(false)) => {
            let outcome = if kept.is_ok() { Outcome::Kept } else { Outcome::Rejected(found) };
            (outcome, kept.map(drop))
        }
        (Some(found), None) => {
            let result = execute(found, request, context);
            (Outcome::Ran { found, failed: result.is_err() }, result)
        }
        (found, rejection) => {
            let outcome = found.map_or(Outcome::Unknown, Outcome::Rejected);
            let error = rejection.map(|error| match found {
                Some(found) => transaction::rejected(found, error, context),
                None => error,
            });
            (outcome, error.map_or(Ok(()), Err))
        }
    };
    if matches!(outcome, Outcome::Unknown | Outcome::Rejected(_)) {
        context.connection.transaction.spoil();
    }
    if let Err(error) = result {
        context.replies.truncate(start);
        context.replies.error(&error.to_string());
    }
    if context.replies.recover(start).is_err() {
        // Not even for that: a reply too few, and all that follow would answer something else.
        context.connection.is_over = true;
    }
    outcome
}

/// Runs a command and writes its reply; an error is for the caller to write.
fn execute(
    found: Found,
    request: &Request<'_>,
    context: &mut Context<'_, '_>,
) -> Result<(), CommandError> {
    let start = context.replies.position();
    let result = (found.command.run)(context, request);
    context.replies.recover(start)?;
    result
}

/// What forbids a command just now.
fn obstacle(found: Found, context: &Context<'_, '_>) -> Option<CommandError> {
    let is = |flag| found.command.flags.contains(&flag);
    if !context.connection.authenticated && !is(Flag::NoAuth) {
        return Some(CommandError::NoAuth);
    }
    if is(Flag::Denyoom) && memory::is_full() {
        return Some(CommandError::MaxMemory);
    }
    let allowed = matches!(found.name(), "ping" | "quit" | "reset" | "monitor");
    (context.connection.monitor.is_some() && !allowed)
        .then(|| CommandError::Watching(found.name().to_owned()))
}

/// Tells those who want to know what became of a request: the counters, the slow log, who watches.
pub fn record(
    outcome: &Outcome,
    request: &Request<'_>,
    took: Duration,
    client: &Client,
    control: &Control,
    stats: &mut BurstStats,
) {
    let (found, called) = match outcome {
        Outcome::Unknown => return control.statistics.happened(Event::UnknownCommand),
        Outcome::Kept => return,
        Outcome::Rejected(found) => (found, Called::rejected()),
        Outcome::Ran { found, failed } => (found, Called::once(took, *failed)),
    };
    control.statistics.count(client.id, stats, found.number, called);
    if matches!(outcome, Outcome::Rejected(_)) {
        return;
    }
    let is = |flag| found.command.flags.contains(&flag);
    if control.slowlog.is_slow(took) && !is(Flag::Secret) {
        control.slowlog.add(client, request.words_from(0), took);
    }
    if control.monitors.is_any() && !is(Flag::Secret) && !is(Flag::Admin) {
        control.monitors.show(client, request.words_from(0));
    }
}

/// The command, or subcommand, that a request names, and whether it has the right number of arguments.
pub fn find(request: &Request<'_>) -> Asked {
    let Some((index, command)) = lookup_numbered(&request[0]) else {
        return Asked { found: None, error: Some(unknown(request)) };
    };
    let number = NUMBERS.first[index];
    let found = match command.subcommands {
        [_, ..] if request.len() > 1 => match find_subcommand(command, &request[1]) {
            Ok((place, subcommand)) => Found { command: subcommand, number: number + 1 + place },
            Err(error) => {
                return Asked { found: Some(Found { command, number }), error: Some(error) };
            }
        },
        _ => Found { command, number },
    };
    let allowed = found.command.arity.allows(request.len());
    let error = (!allowed).then(|| CommandError::Arity(name(found.number).to_owned()));
    Asked { found: Some(found), error }
}

fn find_subcommand(
    command: &'static Command,
    name: &[u8],
) -> Result<(usize, &'static Command), CommandError> {
    let found = command.subcommands.iter().enumerate().find(|(_, known)| is(name, known.name));
    found.ok_or_else(|| CommandError::UnknownSubcommand {
        name: lossy(name, ECHO_BYTES_MAX),
        command: command.name,
    })
}

/// All commands and subcommands have numbers: a command's subcommands follow it.
static NUMBERS: LazyLock<Numbers> = LazyLock::new(|| {
    let mut numbers = Numbers { first: Vec::new(), names: Vec::new() };
    for command in TABLE {
        let name = command.name.to_ascii_lowercase();
        numbers.first.push(numbers.names.len());
        let subcommand = |sub: &Command| format!("{name}|{}", sub.name.to_ascii_lowercase());
        let subcommands: Vec<_> = command.subcommands.iter().map(subcommand).collect();
        numbers.names.push(name);
        numbers.names.extend(subcommands);
    }
    numbers
});

struct Numbers {
    /// By the place of a command in the table, its number.
    first: Vec<usize>,
    /// By number, the name, as `config|get`.
    names: Vec<String>,
}

/// The names of all commands and subcommands, as `config|get`, by their numbers.
pub fn names() -> &'static [String] {
    &NUMBERS.names
}

fn name(number: usize) -> &'static str {
    NUMBERS.names.get(number).map_or("NULL", String::as_str)
}

/// Finds a command by its name or alias, in any letter case.
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    lookup_numbered(name).map(|(_, command)| command)
}

fn lookup_numbered(name: &[u8]) -> Option<(usize, &'static Command)> {
    TABLE.iter().enumerate().find(|(_, command)| {
        is(name, command.name) || command.alias.is_some_and(|alias| is(name, alias))
    })
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
    CommandError::Unknown { name: lossy(&request[0], ECHO_BYTES_MAX), arguments }
}

fn lossy(bytes: &[u8], most: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(most)]).into_owned()
}

fn integer(word: &[u8]) -> Result<i64, CommandError> {
    text::integer(word).ok_or(CommandError::NotAnInteger)
}

/// Whether a word is this one, in any letter case.
fn is(word: &[u8], known: &str) -> bool {
    word.eq_ignore_ascii_case(known.as_bytes())
}
