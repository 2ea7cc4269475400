//! Reads lines of any length in bounded memory: a line may be gigabytes long, or binary data.
//!
//! What the lines mean is left to [`super::scan`].

use std::io::{self, BufRead, BufReader, Read};

use super::format::SEAL_BYTES_MAX;

/// How much one read asks for, in bytes.
pub const READ_BYTES: usize = 256 << 10;

/// The lines of a file. Only the first and the last bytes of a line are kept.
pub struct Lines<R> {
    reader: BufReader<R>,
    /// Number of the last line read, from 1.
    pub number: u64,
    /// Where the next line begins.
    pub offset: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
}

/// One line of [`Lines`].
pub struct Line<'a> {
    /// From 1.
    pub number: u64,
    /// Where it begins.
    pub offset: u64,
    /// In bytes, with its line end.
    pub length: u64,
    /// Whether it has a line end.
    pub terminated: bool,
    /// Whether it holds nothing but blanks.
    pub blank: bool,
    /// Whether `head` is all of it.
    pub whole: bool,
    /// Its first bytes.
    pub head: &'a [u8],
    /// Its last bytes, if it is not whole.
    tail: &'a [u8],
}

impl Line<'_> {
    /// `head` without the line end.
    pub fn text(&self) -> &[u8] {
        self.head.strip_suffix(b"\n").unwrap_or(self.head)
    }

    /// Its last bytes without the LF: enough for a seal.
    pub fn ending(&self) -> &[u8] {
        let end = if self.whole { self.head } else { self.tail };
        end.strip_suffix(b"\n").unwrap_or(end)
    }

    /// Whether it must be a record: neither blank nor a comment.
    pub fn is_record(&self) -> bool {
        !self.blank && !self.head.starts_with(b"#")
    }
}

impl<R: Read> Lines<R> {
    /// Longer than any seal or header.
    const HEAD_BYTES: usize = 2 * SEAL_BYTES_MAX;

    /// The lines of `source`.
    pub fn new(source: R) -> Self {
        let reader = BufReader::with_capacity(READ_BYTES, source);
        Self { reader, number: 0, offset: 0, head: Vec::new(), tail: Vec::new() }
    }

    /// Reads the next line. Passes a line that is not [`whole`](Line::whole) to `long`, piece by piece.
    pub fn next(&mut self, mut long: impl FnMut(&[u8])) -> io::Result<Option<Line<'_>>> {
        self.head.clear();
        self.tail.clear();
        let (mut length, mut whole, mut terminated, mut blank) = (0, true, false, true);
        while !terminated {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            let end = memchr::memchr(b'\n', buffer);
            terminated = end.is_some();
            let piece = &buffer[..end.map_or(buffer.len(), |end| end + 1)];
            blank = blank && piece.iter().all(u8::is_ascii_whitespace);
            if whole && self.head.len() + piece.len() > Self::HEAD_BYTES {
                whole = false;
                long(&self.head);
            }
            if !whole {
                long(piece);
                self.tail.extend_from_slice(&piece[piece.len().saturating_sub(Self::HEAD_BYTES)..]);
                self.tail.drain(..self.tail.len().saturating_sub(Self::HEAD_BYTES));
            }
            let room = Self::HEAD_BYTES - self.head.len();
            self.head.extend_from_slice(&piece[..piece.len().min(room)]);
            let consumed = piece.len();
            length += consumed as u64;
            self.reader.consume(consumed);
        }
        if length == 0 {
            return Ok(None);
        }
        self.number += 1;
        let (number, offset, head, tail) = (self.number, self.offset, &self.head, &self.tail);
        self.offset += length;
        Ok(Some(Line { number, offset, length, terminated, blank, whole, head, tail }))
    }
}
