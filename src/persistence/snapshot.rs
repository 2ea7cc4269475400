//! How a key and its value are written to a new file: in pieces, each an ordinary record.
//!
//! A value that is long is a `SET` and some `SETRANGE`s: so every line replays inline, and no piece
//! takes much memory or time. Pieces of nothing but NUL are left out where a later one implies them:
//! 512 MiB that one `SETRANGE` padded would else be 2 GiB of `\x00`.

use std::ops::Range;

use super::format::{write_set, write_set_range};
use crate::limits::SNAPSHOT_VALUE_BYTES_MAX;

/// The piece of a value of `length` bytes under `key` that begins at `offset`. Each repeats the key, so
/// none but the last is shorter than that.
pub fn piece(key: &[u8], offset: usize, length: usize) -> Range<usize> {
    offset..length.min(offset + SNAPSHOT_VALUE_BYTES_MAX.max(key.len()))
}

/// Appends the record of a piece to `out` and returns how many records that is. `last` says that the
/// value ends with it.
pub fn write_piece(key: &[u8], offset: usize, piece: &[u8], last: bool, out: &mut Vec<u8>) -> u64 {
    let is_padding = offset > 0 && piece.iter().all(|byte| *byte == 0);
    match (offset, is_padding, last) {
        (0, ..) if last || piece.iter().any(|byte| *byte != 0) => write_set(key, piece, out),
        (0, ..) => write_set(key, b"", out),
        (_, true, false) => return 0,
        // The last byte alone gives the length.
        (_, true, true) => write_set_range(key, offset + piece.len() - 1, b"\0", out),
        (_, false, _) => write_set_range(key, offset, piece, out),
    }
    1
}
