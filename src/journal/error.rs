//! The errors of opening and rewriting a data file, with what to do next. What is wrong inside a file is
//! [`super::scan`]'s to say.

use std::io;
use std::path::{Path, PathBuf};

use super::format::RecordError;
use super::load::Source;
use super::scan::{Cause, Foreign, Refusal, ScanError};

/// Why a data file cannot be opened or rewritten. The file is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What failed.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A folder, a pipe or a device.
    #[error("{}: it is {kind}, the data file must be a regular file", path.display())]
    NotAFile {
        /// The path given.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Another process holds the lock on the file.
    #[error("{}: {holder} holds it, and one file has one server", path.display())]
    Held {
        /// The data file.
        path: PathBuf,
        /// That process, as far as the system tells.
        holder: String,
    },
    /// The file is missing, but an unfinished rewrite of it exists.
    #[error(
        "{}: it does not exist, but {} does: restore the data file, or remove the other to begin anew",
        path.display(), leftover.display()
    )]
    LeftoverOnly {
        /// The data file.
        path: PathBuf,
        /// The unfinished rewrite.
        leftover: PathBuf,
    },
    /// The file is damaged, or is not a data file.
    #[error("{}: {refusal}. Nothing was changed. {next}", path.display())]
    Refused {
        /// The data file.
        path: PathBuf,
        /// Where and why it is refused.
        refusal: Box<Refusal>,
        /// What to do.
        next: String,
    },
}

impl Error {
    /// The program's exit code for a data file that cannot be used: 3 if it was refused, 1 if the system refuses.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::LeftoverOnly { .. } => 3,
            _ => 1,
        }
    }

    /// The error of a scan or a pass over the file at `path`.
    pub fn of_scan(path: &Path, source: Source, error: ScanError) -> Self {
        let refusal = match error {
            ScanError::Io(source) => {
                return Self::Io { path: path.to_owned(), action: "read", source };
            }
            ScanError::Refused(refusal) => refusal,
        };
        let next = next_step(path, &refusal.cause, source);
        Self::Refused { path: path.to_owned(), refusal: Box::new(refusal), next }
    }
}

/// What a person can do about a file that was refused.
fn next_step(path: &Path, cause: &Cause, source: Source) -> String {
    let shown = path.display();
    match (cause, source) {
        (Cause::Newer(_), _) => "Or start on another file with --file.".to_owned(),
        (Cause::Record(RecordError::CarriageReturn), _) => {
            format!("`tr -d '\\r' < {shown} > NEW` writes it with the line ends it must have.")
        }
        (Cause::Foreign(Foreign::ByteOrderMark), _) => {
            format!("`sed '1s/^\\xef\\xbb\\xbf//' {shown} > NEW` writes it without the mark.")
        }
        (Cause::Foreign(Foreign::Utf16), _) => {
            format!("`iconv -f UTF-16 -t UTF-8 {shown} > NEW` writes it as it must be.")
        }
        (Cause::Foreign(Foreign::Aof), _) => format!(
            "Start on another file with --file, and send it this one: `redis-cli -p PORT --pipe < \
             {shown}`."
        ),
        (Cause::Foreign(Foreign::Manifest), _) => {
            "Start on another file with --file, and send it each part, in order: `redis-cli -p PORT \
             --pipe < PART`."
                .to_owned()
        }
        (Cause::Foreign(Foreign::Rdb), _) => {
            "Let a redis-server with `--aof-use-rdb-preamble no` load it, and tell it `CONFIG SET \
             appendonly yes`: that writes appendonlydir/NAME.base.aof. Start on another file with \
             --file, and send it that one: `redis-cli -p PORT --pipe < NAME.base.aof`."
                .to_owned()
        }
        (Cause::Databases { database, .. }, _) => {
            format!("Start with --databases {} or more.", database + 1)
        }
        (Cause::Record(_), Source::Handwritten) => {
            "Correct the line, or start on another file with --file.".to_owned()
        }
        (Cause::CutInBase { .. }, _) => format!(
            "If it is a copy, copy it again, or restore a backup; or keep what can be proved with \
             `coffre repair {shown} --output NEW`; or accept the lines as they are, if you edited \
             them, with `coffre seal {shown}`."
        ),
        (Cause::Header(_), _) => format!(
            "Restore a backup; or read the lines with `less {shown}` and accept them as they are \
             with `coffre seal {shown}`."
        ),
        _ => format!(
            "Restore a backup; or keep what can be proved with `coffre repair {shown} --output \
             NEW`; or accept the lines as they are, if you edited them, with `coffre seal {shown}`."
        ),
    }
}

/// Adds to an I/O error where it happened.
pub trait Context<T> {
    /// Adds the file or folder at `path` and the action that failed.
    fn at(self, path: &Path, action: &'static str) -> Result<T, Error>;
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, path: &Path, action: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Io { path: path.to_owned(), action, source })
    }
}
