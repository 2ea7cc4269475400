//! Writes a key and its value to a new file in pieces, each an ordinary record.
//!
//! A long value is written as a `SET` and some `SETRANGE`s, so that every line replays inline and no piece takes much
//! memory or time. A piece of nothing but NULs is left out if a later piece implies it: 512 MiB that one `SETRANGE`
//! padded would else take 2 GiB of `\x00`. Copying pieces from the store is left to the caller.

use std::ops::Range;

use super::format::{write_expiry, write_set, write_set_range};
use crate::limits::SNAPSHOT_VALUE_BYTES_MAX;

/// The piece that begins at `offset` of a value of `length` bytes under `key`. Each record repeats the key, so only the
/// last piece may be shorter than the key.
pub fn piece(key: &[u8], offset: usize, length: usize) -> Range<usize> {
    offset..length.min(offset + SNAPSHOT_VALUE_BYTES_MAX.max(key.len()))
}

/// Appends the records of a piece to `out` and returns their number. `last` says that the value ends with this piece,
/// and when it expires.
///
/// The expiry of a value in several pieces follows the last piece. If the first had it, a replay after that time would
/// drop the key, and the second piece would create another.
pub fn write_piece(
    key: &[u8],
    offset: usize,
    piece: &[u8],
    last: Option<Option<u64>>,
    out: &mut Vec<u8>,
) -> u64 {
    let is_padding = offset > 0 && piece.iter().all(|byte| *byte == 0);
    match (offset, is_padding, last) {
        (0, _, Some(expires_ms)) => {
            write_set(key, piece, expires_ms, out);
            return 1;
        }
        (0, ..) if piece.iter().any(|byte| *byte != 0) => write_set(key, piece, None, out),
        (0, ..) => write_set(key, b"", None, out),
        (_, true, None) => return 0,
        // The last byte alone restores the length.
        (_, true, Some(_)) => write_set_range(key, offset + piece.len() - 1, b"\0", out),
        (_, false, _) => write_set_range(key, offset, piece, out),
    }
    match last.flatten() {
        None => 1,
        expires_ms => {
            write_expiry(key, expires_ms, out);
            2
        }
    }
}
