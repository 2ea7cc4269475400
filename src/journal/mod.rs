//! From records in memory to `donnees.txt` and back, through crashes and failing disks.
//!
//! [`Recovery`] opens a file: lock, scan, verdict, and only then action. It ends in a [`Journal`], which appends and
//! commits; a [`NewFile`] takes the place of the old one. The file's grammar is [`mod@format`]'s; nothing here knows
//! the store or a socket.

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
    Addition, CommitCallback, CommitPoint, Flush, Flushing, Fsync, Journal, SwitchError,
    TailReader, WriteRefused,
};
pub use new_file::NewFile;
pub use recovery::{Recovery, copy_lines, holder, lock_file, replace, resolve, resolve_missing};
