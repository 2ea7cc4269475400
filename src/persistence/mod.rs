//! From records in memory to `donnees.txt` and back, through crashes.
//!
//! [`Recovery`] opens a file: lock, scan, verdict, and only then action. What it ends in is a
//! [`Journal`], which appends and commits. The file's grammar is [`mod@format`]'s; nothing here knows the
//! store or a socket.

pub mod format;
mod journal;
mod lines;
mod load;
mod recovery;
pub mod scan;

pub use format::Record;
pub use journal::{Fsync, Journal, Mark, WriteRefused};
pub use recovery::{Error, Recovery};
