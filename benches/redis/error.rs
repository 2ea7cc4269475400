//! What can go wrong, with the server's name in it.

use std::io;

/// Every error ends the run with exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that is needed.
    #[error("{program} cannot be run: `apt-get install {package}` (Debian, Ubuntu)")]
    Missing { program: &'static str, package: &'static str },
    /// A file, a folder, a process.
    #[error("{what}: {source}")]
    System { what: String, source: io::Error },
    /// A server that does not start, dies, refuses, or answers what it should not.
    #[error("{name}: {said}")]
    Server { name: String, said: String },
    /// The name given with `--only`.
    #[error("no workload has {0:?} in its name")]
    NoWorkload(String),
    /// A histogram that overflows, a plot that cannot be drawn.
    #[error("{0}")]
    Library(String),
}

/// What everything here returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was tried when the system refuses.
pub trait Context<T> {
    /// Wraps the error with what was tried.
    fn context(self, what: impl Into<String>) -> Result<T>;

    /// Wraps the error of a conversation with the server `name`.
    fn of_server(self, name: &str) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::System { what: what.into(), source })
    }

    fn of_server(self, name: &str) -> Result<T> {
        self.map_err(|error| Error::Server { name: name.to_owned(), said: error.to_string() })
    }
}
