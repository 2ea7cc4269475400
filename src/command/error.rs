//! Why a command was not run: a code, and a text. Both together are the reply.
//!
//! Texts are Redis's own where Redis has one. One that several commands answer is declared here, the others stand where
//! they are answered.

use std::borrow::Cow;

use super::{ECHO_BYTES_MAX, glob, lossy};
use crate::engine::{EngineError, EngineErrorKind, TxnError, VerifyError};
use crate::journal::WriteRefused;
use crate::protocol::reply::Lost;
use crate::server::ERROR_CODES_MAX;

/// What an error reply begins with, by which client programs tell errors apart.
///
/// In the order of their names, so that `INFO errorstats` has them so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Busy,
    ClusterDown,
    Err,
    /// The same, where a bound of the server is the reason: of time under locks, or of the length of a reply.
    Bound,
    /// No error: the command is to be run again.
    Again,
    ExecAbort,
    Misconf,
    /// The same, where what was asked for may have been done, or may be later.
    Unknown,
    NoAuth,
    NoProto,
    NoScript,
    NotBusy,
    Oom,
    TryAgain,
    WrongPass,
}

const _: () = assert!(Code::ALL.len() <= ERROR_CODES_MAX);

impl Code {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 15] = [
        Self::Busy,
        Self::ClusterDown,
        Self::Err,
        Self::Bound,
        Self::Again,
        Self::ExecAbort,
        Self::Misconf,
        Self::Unknown,
        Self::NoAuth,
        Self::NoProto,
        Self::NoScript,
        Self::NotBusy,
        Self::Oom,
        Self::TryAgain,
        Self::WrongPass,
    ];

    /// The code that an error reply begins with; `ERR` for those that only scripts have.
    pub fn of(reply: &str) -> Self {
        let name = reply.split(' ').next().unwrap_or_default();
        Self::ALL.into_iter().find(|code| code.name() == name).unwrap_or(Self::Err)
    }

    /// What an error reply begins with.
    pub fn name(self) -> &'static str {
        match self {
            Self::Err | Self::Bound | Self::Again => "ERR",
            Self::Busy => "BUSY",
            Self::ClusterDown => "CLUSTERDOWN",
            Self::ExecAbort => "EXECABORT",
            Self::Misconf | Self::Unknown => "MISCONF",
            Self::NoAuth => "NOAUTH",
            Self::NoProto => "NOPROTO",
            Self::NoScript => "NOSCRIPT",
            Self::NotBusy => "NOTBUSY",
            Self::Oom => "OOM",
            Self::TryAgain => "TRYAGAIN",
            Self::WrongPass => "WRONGPASS",
        }
    }
}

/// Why a command was not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {text}", code.name())]
pub struct CommandError {
    code: Code,
    text: Cow<'static, str>,
}

impl CommandError {
    /// An argument that means nothing here.
    pub const SYNTAX: Self = Self::constant(Code::Err, "syntax error");
    /// No canonical decimal integer, or one beyond 64 bits.
    pub const NOT_AN_INTEGER: Self =
        Self::constant(Code::Err, "value is not an integer or out of range");
    /// No number, or one with another text than numbers have.
    pub const NOT_A_FLOAT: Self = Self::constant(Code::Err, "value is not a valid float");
    /// A number of a database that does not exist.
    pub const DATABASE: Self = Self::constant(Code::Err, "DB index is out of range");
    /// A value beyond the limit.
    pub const TOO_LONG: Self =
        Self::constant(Code::Err, "string exceeds maximum allowed size (proto-max-bulk-len)");
    /// The client has yet to give the password.
    pub const NO_AUTH: Self = Self::constant(Code::NoAuth, "Authentication required.");
    /// More memory is used than `--maxmemory` allows.
    pub const MAX_MEMORY: Self =
        Self::constant(Code::Oom, "command not allowed when used memory > 'maxmemory'.");
    /// There is no memory for what it would add, or for its reply.
    pub const NO_MEMORY: Self = Self::constant(Code::Oom, "command not allowed: out of memory");
    /// It would hold up others for too long.
    const TOO_MUCH_WORK: Self = Self::constant(
        Code::Bound,
        "this would keep its keys locked for too long: name fewer keys, or do it in several steps",
    );

    /// A command that `MULTI` does not take.
    pub const NOT_IN_MULTI: Self =
        Self::constant(Code::Err, "Command not allowed inside a transaction");
    /// The end of a command that leaves work to the dispatcher. No client ever sees it.
    pub const AGAIN: Self = Self::constant(Code::Again, "to be run again");

    /// An error with a constant text.
    const fn constant(code: Code, text: &'static str) -> Self {
        Self { code, text: Cow::Borrowed(text) }
    }

    /// An error with a code of its own.
    pub fn new(code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }

    /// An error with the code `ERR`.
    pub fn err(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Err, text)
    }

    /// Too few or too many arguments for the command of this name.
    pub fn arity(name: &str) -> Self {
        Self::err(format!("wrong number of arguments for '{name}' command"))
    }

    /// A time that is not positive, or too far away.
    pub fn expiry(name: &str) -> Self {
        Self::err(format!("invalid expire time in '{name}' command"))
    }

    /// A word that is no subcommand of `command`.
    pub fn unknown_subcommand(name: &[u8], command: &str) -> Self {
        let name = lossy(name, ECHO_BYTES_MAX);
        Self::err(format!("unknown subcommand '{name}'. Try {command} HELP."))
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whether the command left work to the dispatcher.
    pub fn is_again(&self) -> bool {
        self.code == Code::Again
    }

    /// Whether the reason is not the command but what the server lacks just now: such an error undoes a whole transaction.
    pub fn is_for_want(&self) -> bool {
        use Code::{Bound, Busy, ClusterDown, Misconf, Oom, TryAgain, Unknown};
        matches!(self.code, Busy | Misconf | Unknown | Oom | Bound | ClusterDown | TryAgain)
    }
}

impl From<WriteRefused> for CommandError {
    fn from(refused: WriteRefused) -> Self {
        Self::new(Code::Misconf, format!("Errors writing to the AOF file: {refused}"))
    }
}

impl From<TxnError> for CommandError {
    fn from(error: TxnError) -> Self {
        match error {
            TxnError::Refused(refused) => refused.into(),
            TxnError::NoMemory(_) => Self::NO_MEMORY,
            TxnError::TooMuchWork => Self::TOO_MUCH_WORK,
            TxnError::Failed(failed) => failed.into(),
        }
    }
}

impl From<EngineError> for CommandError {
    fn from(error: EngineError) -> Self {
        let code = match error.kind {
            EngineErrorKind::Unavailable => Code::ClusterDown,
            EngineErrorKind::Contended => Code::TryAgain,
            EngineErrorKind::Full => Code::Oom,
            EngineErrorKind::OutcomeUnknown => Code::Unknown,
            EngineErrorKind::TooLarge => Code::Err,
        };
        Self::new(code, error.reason.to_string())
    }
}

impl From<VerifyError> for CommandError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Refused(refused) => refused.into(),
            error @ VerifyError::Different(_) => Self::err(error.to_string()),
        }
    }
}

impl From<Lost> for CommandError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::NoMemory(_) => Self::NO_MEMORY,
            Lost::TooLarge => Self::new(Code::Bound, lost.to_string()),
        }
    }
}

impl From<glob::TooLong> for CommandError {
    fn from(error: glob::TooLong) -> Self {
        Self::err(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_by_their_names() {
        assert!(Code::ALL.is_sorted_by_key(|code| code.name()));
        assert!(Code::ALL.iter().enumerate().all(|(number, code)| *code as usize == number));
    }
}
