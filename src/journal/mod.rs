//! From records in memory to `donnees.txt` and back, through crashes and failing disks.
//!
//! [`Recovery`] opens a file: lock, scan, verdict, and only then action. It ends in a [`Journal`], which appends and
//! commits; a [`NewFile`] takes the place of the old one. The file's grammar is [`mod@format`]'s; nothing here knows
//! the store or a socket.
//!
//! The journal is one struct in several files: `group_commit` writes batches, `phase` says what may follow what, `fault`
//! refuses writes after a failure, `watch` checks that the file is where it was, `replace` changes it as a whole, and
//! `flushed` keeps what a flush removed. `model` tries its threads in every order that fits in the time.

mod batch;
mod breakage;
pub mod disk;
mod error;
mod fault;
mod flushed;
pub mod format;
mod gather;
mod group_commit;
#[cfg(test)]
#[cfg(not(feature = "model"))]
mod group_commit_tests;
pub(crate) mod lines;
pub mod load;
#[cfg(test)]
#[cfg_attr(feature = "model", expect(dead_code, reason = "the model needs part of it"))]
mod memory_disk;
#[cfg(test)]
#[cfg(feature = "model")]
mod model;
mod new_file;
pub(crate) mod pace;
mod phase;
pub(crate) mod records;
mod recovery;
mod replace;
pub mod scan;
pub(crate) mod snapshot;
mod watch;

pub use batch::{Addition, Flush};
pub use error::{Context, Error};
pub use fault::WriteRefused;
pub use format::Record;
pub use group_commit::{CommitCallback, CommitPoint, Fsync, Journal};
pub use new_file::NewFile;
pub use recovery::{
    Recovery, begin_new, copy_lines, holder, lock_file, numbered_names, replace, resolve,
    resolve_missing,
};
pub use replace::{Flushing, SwitchError, TailReader};
