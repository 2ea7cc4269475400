//! Requests to replies: finds a request's command, checks its arity, runs it.
//!
//! A command is declared above its function, by a [`spec::Spec`], and `table` lists them all; help, `COMMAND` and the
//! arity check follow from its usage line. What a command error costs is one `-ERR` reply; the connection goes on.

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
mod spec;
mod strings;
mod table;
mod transaction;
mod usage;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::engine::local::{Session, WriteError};
use crate::journal::WriteRefused;
use crate::protocol::reply::{Lost, Protocol, Replies};
use crate::protocol::request::Request;
use crate::server::{Called, Client, Control, Done, Event, Feed, Paused};
use crate::text;
use crate::util::memory;
use spec::Flag;
use table::lookup_subcommand;

pub use spec::Keys;
pub use table::{Command, CommandRef, commands, full_name, lookup, names};
pub use transaction::Transaction;

/// What was said on a connection that changes what comes.
#[derive(Debug)]
pub struct Conversation {
    /// It gave the password, or none is asked for.
    pub authenticated: bool,
    /// It said `QUIT`, or ended itself: close once its replies are sent.
    pub is_over: bool,
    /// It watches every command.
    pub feed: Option<Arc<Feed>>,
    /// The form of its replies.
    pub protocol: Protocol,
    /// What `MULTI` and `WATCH` began.
    pub transaction: Transaction,
    silence: Silence,
}

/// What `CLIENT REPLY` asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// Replies to everything.
    None,
    /// No reply to so many commands, that one included.
    Next(u8),
    /// No reply to anything.
    All,
}

impl Conversation {
    /// One that has just begun.
    pub fn new(authenticated: bool) -> Self {
        Self {
            authenticated,
            is_over: false,
            feed: None,
            protocol: Protocol::default(),
            transaction: Transaction::default(),
            silence: Silence::None,
        }
    }

    /// Whether it asked for no replies at all.
    pub fn is_mute(&self) -> bool {
        self.silence == Silence::All
    }

    /// Whether the command just run gets no reply; ask once for each.
    pub fn is_silent(&mut self) -> bool {
        let silence = self.silence;
        if let Silence::Next(count) = silence {
            self.silence = if count > 1 { Silence::Next(count - 1) } else { Silence::None };
        }
        silence != Silence::None
    }
}

/// What a command works with.
pub struct Context<'a, 'e> {
    /// The client's view of the data.
    pub session: &'a mut Session<'e>,
    /// Where its reply goes.
    pub replies: &'a mut Replies,
    /// What was said before.
    pub conversation: &'a mut Conversation,
    /// The client itself.
    pub client: &'a Arc<Client>,
    /// The server.
    pub control: &'a Control,
    /// What is counted.
    pub done: &'a mut Done,
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
    /// It watches every command.
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
            WriteError::Full if !memory::is_low() => Self::MaxMemory,
            WriteError::Full | WriteError::NoMemory(_) => Self::NoMemory,
            WriteError::TooMuchWork => Self::TooMuchWork,
        }
    }
}

impl From<Lost> for CommandError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::NoMemory => Self::NoMemory,
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

/// What became of a request.
#[derive(Clone, Copy)]
pub enum Outcome {
    /// It names no command.
    Unknown,
    /// It is kept for `EXEC`.
    Kept,
    /// Its command was not run.
    Rejected(CommandRef),
    /// Its command was run.
    Ran {
        /// Which.
        command: CommandRef,
        /// It was answered by an error.
        failed: bool,
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

/// What is run while clients are paused, whatever is paused: it may end the pause.
fn is_never_paused(command: CommandRef) -> bool {
    let name = command.full_name();
    matches!(name, "auth" | "hello" | "reset" | "client|unpause" | "shutdown" | "quit")
}

/// The kind of pause that holds a command up, if any does: not what is refused anyway.
pub fn held_up_by(resolved: &Resolved, conversation: &Conversation) -> Option<Paused> {
    let Resolved { command: Some(command), error: None } = resolved else { return None };
    let transaction = &conversation.transaction;
    match conversation.authenticated && !is_never_paused(command) {
        false => None,
        // It is only queued.
        true if transaction.is_open() && command.name != "EXEC" => None,
        true if transaction.writes() => Some(Paused::Writes),
        true if command.flags.contains(Flag::Write) => Some(Paused::Writes),
        true => Some(Paused::All),
    }
}

/// Runs one request and writes its one reply.
pub fn run(resolved: Resolved, request: &Request<'_>, context: &mut Context<'_, '_>) -> Outcome {
    let start = context.replies.position();
    context.replies.speak(context.conversation.protocol);
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
            let outcome = if kept.is_ok() { Outcome::Kept } else { Outcome::Rejected(command) };
            (outcome, kept.map(drop))
        }
        (Some(command), None) => {
            let result = execute(command, request, context);
            (Outcome::Ran { command, failed: result.is_err() }, result)
        }
        (command, rejection) => {
            let outcome = command.map_or(Outcome::Unknown, Outcome::Rejected);
            let error = rejection.map(|error| match command {
                Some(command) => transaction::rejected(command, error, context),
                None => error,
            });
            (outcome, error.map_or(Ok(()), Err))
        }
    };
    if matches!(outcome, Outcome::Unknown | Outcome::Rejected(_)) {
        context.conversation.transaction.spoil();
    }
    if let Err(error) = result {
        context.replies.truncate(start);
        context.replies.error(&error.to_string());
    }
    if context.replies.recover(start).is_err() {
        // Not even for that: a reply too few, and all that follow would answer something else.
        context.conversation.is_over = true;
    }
    outcome
}

/// Runs a command and writes its reply; an error is for the caller to write.
fn execute(
    command: CommandRef,
    request: &Request<'_>,
    context: &mut Context<'_, '_>,
) -> Result<(), CommandError> {
    let start = context.replies.position();
    let result = command.run(context, request);
    context.replies.recover(start)?;
    result
}

/// What forbids a command just now.
fn obstacle(command: CommandRef, context: &Context<'_, '_>) -> Option<CommandError> {
    let is = |flag| command.flags.contains(flag);
    if !context.conversation.authenticated && !is(Flag::NoAuth) {
        return Some(CommandError::NoAuth);
    }
    if is(Flag::Denyoom) && memory::is_full() {
        return Some(CommandError::MaxMemory);
    }
    if is(Flag::Denyoom) && memory::is_low() {
        return Some(CommandError::NoMemory);
    }
    context.conversation.feed.as_ref()?;
    let name = command.full_name();
    let is_allowed = matches!(name, "ping" | "quit" | "reset" | "monitor");
    (!is_allowed).then(|| CommandError::Watching(name.to_owned()))
}

/// Tells those who want to know what became of a request: the counters, the slow log, who watches.
pub fn record(
    outcome: &Outcome,
    request: &Request<'_>,
    took: Duration,
    client: &Client,
    control: &Control,
    done: &mut Done,
) {
    let (command, called) = match outcome {
        Outcome::Unknown => return control.statistics.happened(Event::UnknownCommand),
        Outcome::Kept => return,
        Outcome::Rejected(command) => (command, Called::not()),
        Outcome::Ran { command, failed } => (command, Called::once(took, *failed)),
    };
    control.statistics.count(client.id, done, command.number, called);
    if matches!(outcome, Outcome::Rejected(_)) {
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
pub fn find(request: &Request<'_>) -> Resolved {
    let Some(mut command) = lookup(&request[0]) else {
        return Resolved { command: None, error: Some(unknown(request)) };
    };
    let mut error = None;
    if request.len() > 1 && !command.subcommands().is_empty() {
        match lookup_subcommand(command, &request[1]) {
            Some(subcommand) => command = subcommand,
            None => {
                let name = lossy(&request[1], ECHO_BYTES_MAX);
                error = Some(CommandError::UnknownSubcommand { name, command: command.name });
            }
        }
    }
    if error.is_none() && !command.arity.allows(request.len()) {
        error = Some(CommandError::Arity(command.full_name().to_owned()));
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
