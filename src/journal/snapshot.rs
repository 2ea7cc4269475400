//! How a key and its value are written to a new file: in pieces, each an ordinary record.
//!
//! A value that is long is a `SET` and some `SETRANGE`s: so every line replays inline, and no piece
//! takes much memory or time. Pieces of nothing but NUL are left out where a later one implies them:
//! 512 MiB that one `SETRANGE` padded would else be 2 GiB of `\x00`.

use std::ops::Range;

use super::format::{write_expiry, write_set, write_set_range};
use crate::limits::SNAPSHOT_VALUE_BYTES_MAX;

/// The piece of a value of `length` bytes under `key` that begins at `offset`. Each repeats the key, so
/// none but the last is shorter than that.
pub fn piece(key: &[u8], offset: usize, length: usize) -> Range<usize> {
    offset..length.min(offset + SNAPSHOT_VALUE_BYTES_MAX.max(key.len()))
}

/// Appends the records of a piece to `out` and returns how many they are. `last` says that the value ends
/// with it, and when that expires.
///
/// A value in several pieces expires only after the last: replayed after its time the first would not be there,
/// and the second make another.
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
        // The last byte alone gives the length.
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
