//! From records in memory to `donnees.txt` and back, through crashes and failing disks.
//!
//! [`Recovery`] opens a file: lock, scan, verdict, and only then action. What it ends in is a
//! [`Journal`], which appends and commits; a [`Draft`] is a new file that takes the place of the old
//! one. The file's grammar is [`mod@format`]'s; nothing here knows the store or a socket.

pub mod disk;
mod error;
pub mod format;
mod group_commit;
pub mod lines;
pub mod load;
#[cfg(test)]
mod memory_disk;
mod new_file;
pub mod pace;
pub mod records;
mod recovery;
pub mod scan;
pub mod snapshot;

pub use error::{Context, Error};
pub use format::Record;
pub use group_commit::{
    Addition, Flush, Flushing, Fsync, Journal, Mark, SwitchError, Tee, Waiter, WriteRefused,
};
pub use new_file::Draft;
pub use recovery::{Recovery, copy_lines, holder, lock_file, replace, resolve, resolve_missing};
