//! Records on their way to the file, in pieces: many small ones share a piece, a large one is handed on from buffer to
//! buffer without being copied, and of a long value only a reference is held: its text is made when the records are
//! written, a chunk at a time, so that half a gigabyte takes no memory and no time under a lock.
//!
//! Invariant: the text is that of [`quote`] of the whole word, however the value is cut into blocks and chunks.

use std::ops::Range;
use std::sync::Arc;

use crate::limits::{
    CLIENT_SPARE_BYTES_MAX, LARGE_RECORD_BYTES, QUOTED_AT_ONCE, RECORD_CHUNK_BYTES,
    VALUE_BLOCK_BYTES,
};
use crate::text::{has_bare_bytes_only, quote, quote_inside};
use crate::util::memory::{self, NoMemory};
use crate::value::{Long, View};

/// Whole lines, in order.
#[derive(Debug, Default)]
pub struct Records {
    pieces: Vec<Piece>,
    /// Length of all pieces but the last, as [`Piece::len`] has it.
    before_last: usize,
}

#[derive(Debug)]
enum Piece {
    Text(Vec<u8>),
    /// A part of a value, to be written as one word.
    Word(Arc<Long>, Range<usize>),
}

impl Piece {
    /// Length in bytes; of a word with quotes and without escapes.
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Word(_, range) => range.len() + 2,
        }
    }

    fn is_small(&self) -> bool {
        matches!(self, Self::Text(text) if text.len() < LARGE_RECORD_BYTES)
    }
}

impl Records {
    /// Length in bytes, with the words of values as if none of their bytes needed an escape: how long the text is
    /// shows only when it is [written](Self::write_to).
    #[inline]
    pub fn len(&self) -> usize {
        self.before_last + self.pieces.last().map_or(0, Piece::len)
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands the text to `put`, in order, none of it empty. Of words it makes chunks of bounded length; an error if there
    /// is no memory for one.
    pub fn write_to<E: From<NoMemory>>(
        &self,
        mut put: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.pieces.iter().try_for_each(|piece| match piece {
            Piece::Text(text) if text.is_empty() => Ok(()),
            Piece::Text(text) => put(text),
            Piece::Word(value, range) => write_word(value, range.clone(), &mut put),
        })
    }

    /// Where the next line goes, if it is small.
    #[inline]
    pub fn tail(&mut self) -> &mut Vec<u8> {
        if self.pieces.last().is_some_and(|last| !last.is_small()) {
            self.push(Piece::Text(Vec::new()));
        }
        self.room()
    }

    /// Where more goes of what room was [reserved](Self::reserve) for.
    #[inline]
    pub fn room(&mut self) -> &mut Vec<u8> {
        if !matches!(self.pieces.last(), Some(Piece::Text(_))) {
            self.push(Piece::Text(Vec::new()));
        }
        let last = self.pieces.len() - 1;
        match &mut self.pieces[last] {
            Piece::Text(text) => text,
            Piece::Word(..) => unreachable!("a text was pushed behind it"),
        }
    }

    /// Adds the bytes of `range` of `value`, as one word. They are as they are now, whatever becomes of the key.
    pub fn push_value(&mut self, value: Arc<Long>, range: Range<usize>) {
        self.push(Piece::Word(value, range));
    }

    fn push(&mut self, piece: Piece) {
        self.before_last = self.len();
        self.pieces.push(piece);
    }

    /// Makes [room](Self::room) for `bytes` more. A large record gets a piece of its own.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), NoMemory> {
        if bytes < LARGE_RECORD_BYTES {
            return Ok(self.tail().try_reserve(bytes)?);
        }
        let piece = memory::copy(&[], bytes)?;
        match self.pieces.last_mut() {
            Some(Piece::Text(empty)) if empty.is_empty() => *empty = piece,
            _ => self.push(Piece::Text(piece)),
        }
        Ok(())
    }

    /// Forgets everything from `length` on, which was the [length](Self::len) once.
    pub fn truncate(&mut self, length: usize) {
        while let Some(last) = self.pieces.last_mut() {
            match last {
                Piece::Text(text) if self.before_last <= length => {
                    return text.truncate(length - self.before_last);
                }
                Piece::Word(..) if self.before_last + last.len() <= length => return,
                _ => {}
            }
            self.pieces.pop();
            self.before_last -= self.pieces.last().map_or(0, Piece::len);
        }
    }

    /// Forgets everything, and the memory of what was unusually long.
    pub fn clear(&mut self) {
        self.pieces.truncate(1);
        self.before_last = 0;
        match self.pieces.first_mut() {
            Some(Piece::Text(first)) => {
                first.clear();
                if first.capacity() > CLIENT_SPARE_BYTES_MAX {
                    first.shrink_to(CLIENT_SPARE_BYTES_MAX);
                }
            }
            _ => self.pieces.clear(),
        }
    }

    /// Takes the lines of `other`: small pieces are copied, large ones change hands. An error if there is no memory
    /// for the copies; nothing has changed then. What is left in `other` is for its owner to clear.
    pub fn take(&mut self, other: &mut Self) -> Result<(), NoMemory> {
        // Most transactions are one small record, and there is room for it.
        if let [Piece::Text(one)] = other.pieces.as_slice()
            && one.len() < LARGE_RECORD_BYTES
        {
            let tail = self.tail();
            if tail.capacity() - tail.len() < one.len() {
                tail.try_reserve(one.len())?;
            }
            tail.extend_from_slice(one);
            return Ok(());
        }
        let copied: usize =
            other.pieces.iter().filter(|piece| piece.is_small()).map(Piece::len).sum();
        self.pieces.try_reserve(2 * other.pieces.len() + 1)?;
        self.tail().try_reserve(copied)?;
        for piece in &mut other.pieces {
            match piece {
                Piece::Text(text) if text.len() < LARGE_RECORD_BYTES => {
                    self.tail().extend_from_slice(text);
                }
                Piece::Text(text) => self.push(Piece::Text(std::mem::take(text))),
                Piece::Word(value, range) => self.push_value(Arc::clone(value), range.clone()),
            }
        }
        Ok(())
    }

    /// The buffer of the first piece, emptied, to be used again; the others are freed.
    pub fn into_spare(self) -> Vec<u8> {
        match self.pieces.into_iter().next() {
            Some(Piece::Text(mut spare)) => {
                spare.clear();
                spare
            }
            _ => Vec::new(),
        }
    }

    /// No lines yet, and a buffer for them.
    pub fn with_spare(spare: Vec<u8>) -> Self {
        Self { pieces: vec![Piece::Text(spare)], before_last: 0 }
    }
}

/// Hands the bytes of `range` of `value` to `put`, as one word, in chunks of bounded length.
fn write_word<E: From<NoMemory>>(
    value: &Arc<Long>,
    range: Range<usize>,
    put: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let is_short = range.len() <= VALUE_BLOCK_BYTES;
    let blocks = || View::Long(value).pieces(range.clone());
    // An escape takes four bytes, and three may have been begun before.
    let longest = |bytes: usize| 4 * (bytes + 4);
    let mut chunk = memory::copy(&[], longest(range.len().min(QUOTED_AT_ONCE)))?;
    if is_short {
        chunk.try_reserve(longest(range.len())).map_err(NoMemory::from)?;
        let mut word = memory::copy(&[], range.len())?;
        blocks().for_each(|block| word.extend_from_slice(block));
        quote(&word, &mut chunk);
        return put(&chunk);
    }
    // What else makes quotes necessary is short.
    let is_bare = blocks().all(has_bare_bytes_only);
    // The beginning of a character that the next piece ends.
    let mut begun = Vec::new();
    if !is_bare {
        chunk.push(b'"');
    }
    for piece in blocks().flat_map(|block| block.chunks(QUOTED_AT_ONCE)) {
        chunk.try_reserve(longest(piece.len())).map_err(NoMemory::from)?;
        if is_bare {
            chunk.extend_from_slice(piece);
        } else {
            begun.try_reserve(piece.len()).map_err(NoMemory::from)?;
            begun.extend_from_slice(piece);
            let whole = begun.len() - begun_bytes(&begun);
            quote_inside(&begun[..whole], &mut chunk);
            begun.drain(..whole);
        }
        if chunk.len() >= RECORD_CHUNK_BYTES {
            put(&chunk)?;
            chunk.clear();
        }
    }
    chunk.try_reserve(longest(begun.len())).map_err(NoMemory::from)?;
    if !is_bare {
        quote_inside(&begun, &mut chunk);
        chunk.push(b'"');
    }
    if chunk.is_empty() { Ok(()) } else { put(&chunk) }
}

/// How many bytes at the end of `bytes` are the beginning of a character of UTF-8, unless other bytes follow.
fn begun_bytes(bytes: &[u8]) -> usize {
    let lead = bytes.iter().rev().zip(1..=3).find(|(byte, _)| **byte >= 0xc0);
    lead.filter(|(byte, count)| byte.leading_ones() > *count).map_or(0, |(_, count)| count as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::format::{
        write_set, write_set_end, write_set_range, write_set_range_end, write_set_range_start,
        write_set_start,
    };
    use crate::value::Value;

    fn bytes(records: &Records) -> Vec<u8> {
        let mut bytes = Vec::new();
        let written = records.write_to(|piece| {
            assert!(!piece.is_empty());
            bytes.extend_from_slice(piece);
            Ok::<_, NoMemory>(())
        });
        written.unwrap();
        bytes
    }

    fn long(bytes: &[u8]) -> Arc<Long> {
        // More than a short value holds makes it long, and so it stays.
        let mut value = Value::copy_of(&vec![0; VALUE_BLOCK_BYTES + 1]).unwrap();
        value.truncate(0);
        value.reserve(0, bytes.len()).unwrap();
        value.write(0, bytes);
        let Value::Long(long) = value else { panic!("a short value") };
        long
    }

    /// Small and large records written, moved and cut off, beside a plain vector.
    #[test]
    fn records_are_a_vector_in_pieces() {
        const LENGTHS: [usize; 4] = [1, 30, LARGE_RECORD_BYTES - 1, LARGE_RECORD_BYTES + 5];
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut records, mut model) = (Records::default(), Vec::new());
            // The lengths at which nothing cuts a word.
            let mut places = vec![0];
            for _ in 0..20 {
                places.retain(|place| *place <= model.len());
                let record = vec![random.u8(..); LENGTHS[random.usize(..4)]];
                match random.u8(..5) {
                    0 => {
                        let length = places[random.usize(..places.len())];
                        records.truncate(length);
                        model.truncate(length);
                    }
                    1 => {
                        let mut other = Records::default();
                        other.reserve(record.len()).unwrap();
                        other.tail().extend_from_slice(&record);
                        other.tail().extend_from_slice(b"more\n");
                        records.take(&mut other).unwrap();
                        model.extend_from_slice(&record);
                        model.extend_from_slice(b"more\n");
                    }
                    2 => {
                        // It is quoted, and has nothing to escape: its length is known.
                        let record = vec![b' '; record.len()];
                        records.push_value(long(&record), 0..record.len());
                        model.extend_from_slice(&[b"\"", record.as_slice(), b"\""].concat());
                    }
                    _ => {
                        records.reserve(record.len()).unwrap();
                        records.tail().extend_from_slice(&record);
                        model.extend_from_slice(&record);
                    }
                }
                places.push(model.len());
                assert_eq!(records.len(), model.len(), "seed {seed}");
                assert!(bytes(&records) == model, "seed {seed}");
            }
        }
    }

    #[test]
    fn a_large_record_is_not_copied() {
        let mut first = Records::default();
        first.tail().extend_from_slice(b"SET a 1\n");
        first.reserve(LARGE_RECORD_BYTES).unwrap();
        first.tail().resize(LARGE_RECORD_BYTES, b'x');
        let Piece::Text(text) = &first.pieces[1] else { panic!("a word") };
        let address = text.as_ptr();
        let mut second = Records::default();
        second.tail().extend_from_slice(b"SET b 1\n");
        second.take(&mut first).unwrap();
        let is_it = |piece: &Piece| matches!(piece, Piece::Text(text) if text.as_ptr() == address);
        assert!(second.pieces.iter().any(is_it));
    }

    /// Characters, halves of them and other bytes on the boundaries of blocks, of chunks and of the range.
    #[test]
    fn a_value_is_written_as_if_it_were_quoted_whole() {
        const BLOCK: usize = VALUE_BLOCK_BYTES;
        let parts: [&[u8]; 16] = [
            b"",
            b"x",
            b" ",
            b"\"",
            b"\\",
            b"\n",
            b"\0",
            b"\xff",
            b"\xc3",
            b"\xe2\x80",
            b"\xf0\x9f\x98",
            b"\xa9\xa9\xa9\xa9",
            "é".as_bytes(),
            "\u{202e}".as_bytes(),
            "😀".as_bytes(),
            b"HTTP/1.1",
        ];
        let fillings: [&[u8]; 4] = [b"a", "日".as_bytes(), b"\0", b"a b"];
        for (number, part) in parts.iter().enumerate() {
            for filling in fillings {
                let mut bytes: Vec<u8> = filling.iter().copied().cycle().take(5 * BLOCK).collect();
                for block in 1..5 {
                    // Each boundary cuts it at another place.
                    let start = block * BLOCK - (block - 1).min(part.len());
                    bytes[start..start + part.len()].copy_from_slice(part);
                }
                let value = long(&bytes);
                let lengths = [0, 8, BLOCK, BLOCK + 1, 2 * BLOCK + 3];
                for (start, length) in [0, 1, BLOCK - 3, BLOCK - 1, BLOCK]
                    .into_iter()
                    .flat_map(|start| lengths.map(move |length| (start, length)))
                {
                    let range = start..start + length;
                    let mut expected = Vec::new();
                    write_set(b"k", &bytes[range.clone()], Some(7), &mut expected);
                    write_set_range(b"k", 5, &bytes[range.clone()], &mut expected);
                    let mut records = Records::default();
                    write_set_start(b"k", records.tail());
                    records.push_value(Arc::clone(&value), range.clone());
                    write_set_end(Some(7), records.tail());
                    write_set_range_start(b"k", 5, records.tail());
                    records.push_value(Arc::clone(&value), range);
                    write_set_range_end(records.tail());
                    assert!(bytes_of_moved(records) == expected, "{number}: {start}, {length}");
                }
            }
        }
    }

    fn bytes_of_moved(mut records: Records) -> Vec<u8> {
        let mut moved = Records::default();
        moved.take(&mut records).unwrap();
        bytes(&moved)
    }

    #[test]
    fn a_long_value_takes_chunks_and_no_copy() {
        let mut value = Value::copy_of(b"a").unwrap();
        let length = 300 * VALUE_BLOCK_BYTES;
        value.reserve(length, 1).unwrap();
        value.write(length, b"z");
        let Value::Long(value) = value else { panic!("a short value") };
        let mut records = Records::default();
        records.push_value(Arc::clone(&value), 0..length + 1);
        records.tail().push(b'\n');
        assert_eq!(records.len(), 2 + length + 1 + 1);
        let (mut total, mut longest) = (0, 0);
        let written = records.write_to(|chunk| {
            (total, longest) = (total + chunk.len(), longest.max(chunk.len()));
            Ok::<_, NoMemory>(())
        });
        written.unwrap();
        assert_eq!(total, 2 + 4 * (length - 1) + 2 + 1);
        assert!(longest <= 2 * RECORD_CHUNK_BYTES, "{longest}");
        drop(records);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
