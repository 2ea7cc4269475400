//! Requests to replies: finds a request's command in the one table, checks its arity, runs it.
//!
//! A command is declared in [`TABLE`] and nowhere else; help, `COMMAND` and the arity check read it
//! there. What a command error costs is one `-ERR` reply; the connection goes on.

mod client;
mod config;
mod data;
mod help;
mod info;
mod persist;
mod table;

use crate::config::Config;
use crate::engine::{Session, WriteError};
use crate::glob;
use crate::persistence::WriteRefused;
use crate::reply::Replies;
use crate::request::Request;
use crate::text;

pub use table::{Argument, Arity, Command, Flag, Group, TABLE};

/// What the server knows of a connection's client, for the commands that ask.
#[derive(Debug)]
pub struct Client {
    /// Its number: 1 for the first client of this run.
    pub id: u64,
    /// What `CLIENT SETNAME` gave it.
    pub name: Vec<u8>,
    /// It said `QUIT`: close once its replies are sent.
    pub quit: bool,
}

/// What a command works with.
pub struct Context<'a, 'e> {
    /// The client's view of the data.
    pub session: &'a mut Session<'e>,
    /// Where its reply goes.
    pub replies: &'a mut Replies,
    /// The client itself.
    pub client: &'a mut Client,
    /// The running configuration.
    pub config: &'a Config,
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
    /// A negative offset.
    #[error("ERR offset is out of range")]
    Offset,
    /// A client name with a blank or a line end in it.
    #[error("ERR {0} cannot contain spaces, newlines or special characters.")]
    Name(&'static str),
    /// `CLIENT SETINFO` of something else than the library's name and version.
    #[error("ERR Unrecognized option '{0}'")]
    Option(String),
    /// `HELP` on what is no command.
    #[error("ERR no command '{0}'; HELP lists them")]
    NoHelp(String),
    /// The journal takes no writes, or not this one.
    #[error("MISCONF Errors writing to the AOF file: {0}")]
    Refused(#[from] WriteRefused),
    /// What was asked for is under way.
    #[error("ERR {0} already in progress")]
    Busy(&'static str),
    /// A value beyond the limit.
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    TooLong,
    /// There is no memory for what it would add, or for its reply.
    #[error("OOM command not allowed: out of memory")]
    NoMemory,
    /// See [`glob::TooLong`].
    #[error("ERR {0}")]
    Pattern(#[from] glob::TooLong),
}

impl From<WriteError> for CommandError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Refused(refused) => Self::Refused(refused),
            WriteError::TooLong => Self::TooLong,
            WriteError::NoMemory(_) => Self::NoMemory,
        }
    }
}

/// Longest part of a request that an error echoes, in bytes (Redis's own bound).
const ECHO_BYTES_MAX: usize = 128;

/// Runs one request and writes its one reply.
pub fn run(request: &Request<'_>, context: &mut Context<'_, '_>) {
    let start = context.replies.position();
    let result = find(request).and_then(|command| (command.run)(context, request));
    let lost = context.replies.recover(start);
    if let Err(error) = if lost { Err(CommandError::NoMemory) } else { result } {
        context.replies.truncate(start);
        context.replies.error(&error.to_string());
    }
}

/// The command, or subcommand, that a request names, if it has the right number of arguments.
fn find(request: &Request<'_>) -> Result<&'static Command, CommandError> {
    let Some(command) = lookup(&request[0]) else { return Err(unknown(request)) };
    let subcommand = match command.subcommands {
        [_, ..] if request.len() > 1 => Some(find_subcommand(command, &request[1])?),
        _ => None,
    };
    let found = subcommand.unwrap_or(command);
    if found.arity.allows(request.len()) {
        return Ok(found);
    }
    let mut name = command.name.to_ascii_lowercase();
    if let Some(subcommand) = subcommand {
        name.push('|');
        name.push_str(&subcommand.name.to_ascii_lowercase());
    }
    Err(CommandError::Arity(name))
}

fn find_subcommand(
    command: &'static Command,
    name: &[u8],
) -> Result<&'static Command, CommandError> {
    let is = |known: &&Command| name.eq_ignore_ascii_case(known.name.as_bytes());
    command.subcommands.iter().find(is).ok_or_else(|| CommandError::UnknownSubcommand {
        name: lossy(name, ECHO_BYTES_MAX),
        command: command.name,
    })
}

/// Finds a command by its name or alias, in any letter case.
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    TABLE.iter().find(|command| {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        is(command.name) || command.alias.is_some_and(is)
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
