//! Records on their way to the file, in pieces: many small ones share a piece, and a large one is handed on from
//! buffer to buffer without being copied.

use crate::limits::{CLIENT_SPARE_BYTES_MAX, LARGE_RECORD_BYTES};
use crate::util::memory::{self, NoMemory};

/// Whole lines, in order.
#[derive(Debug, Default)]
pub struct Records {
    pieces: Vec<Vec<u8>>,
    /// Length of all pieces but the last, in bytes.
    before_last: usize,
}

impl Records {
    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.before_last + self.pieces.last().map_or(0, Vec::len)
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(Vec::as_slice)
    }

    /// Where the next line goes, if it is small.
    #[inline]
    pub fn tail(&mut self) -> &mut Vec<u8> {
        if self.pieces.last().is_some_and(|last| last.len() >= LARGE_RECORD_BYTES) {
            self.push(Vec::new());
        }
        self.room()
    }

    /// Where more goes of what room was [reserved](Self::reserve) for.
    #[inline]
    pub fn room(&mut self) -> &mut Vec<u8> {
        if self.pieces.is_empty() {
            self.push(Vec::new());
        }
        let last = self.pieces.len() - 1;
        &mut self.pieces[last]
    }

    fn push(&mut self, piece: Vec<u8>) {
        self.before_last = self.len();
        self.pieces.push(piece);
    }

    /// Makes [room](Self::room) for `bytes` more. A large record gets a piece of its own.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), NoMemory> {
        if bytes < LARGE_RECORD_BYTES {
            return memory::try_to(|| self.tail().try_reserve(bytes));
        }
        let piece = memory::copy(&[], bytes)?;
        match self.pieces.last_mut().filter(|last| last.is_empty()) {
            Some(empty) => *empty = piece,
            None => self.push(piece),
        }
        Ok(())
    }

    /// Forgets everything from `length` on, which is at most [`len`](Self::len).
    pub fn truncate(&mut self, length: usize) {
        while self.before_last > length {
            self.pieces.pop();
            self.before_last -= self.pieces.last().map_or(0, Vec::len);
        }
        let before_last = self.before_last;
        if let Some(last) = self.pieces.last_mut() {
            last.truncate(length - before_last);
        }
    }

    /// Forgets everything, and the memory of what was unusually long.
    pub fn clear(&mut self) {
        if self.pieces.len() > 1 {
            self.pieces.truncate(1);
            self.before_last = 0;
        }
        if let Some(first) = self.pieces.first_mut() {
            first.clear();
            if first.capacity() > CLIENT_SPARE_BYTES_MAX {
                first.shrink_to(CLIENT_SPARE_BYTES_MAX);
            }
        }
    }

    /// Takes the lines of `other`: small pieces are copied, large ones change hands. An error if there is no memory
    /// for the copies; nothing has changed then. What is left in `other` is for its owner to clear.
    pub fn take(&mut self, other: &mut Self) -> Result<(), NoMemory> {
        // Most transactions are one small record, and there is room for it.
        if let [one] = other.pieces.as_slice()
            && one.len() < LARGE_RECORD_BYTES
        {
            let tail = self.tail();
            if tail.capacity() - tail.len() < one.len() {
                memory::try_to(|| tail.try_reserve(one.len()))?;
            }
            tail.extend_from_slice(one);
            return Ok(());
        }
        let small = |piece: &Vec<u8>| piece.len() < LARGE_RECORD_BYTES;
        let copied: usize = other.pieces.iter().filter(|piece| small(piece)).map(Vec::len).sum();
        memory::try_to(|| self.pieces.try_reserve(2 * other.pieces.len() + 1))?;
        memory::try_to(|| self.tail().try_reserve(copied))?;
        for piece in &mut other.pieces {
            match small(piece) {
                true => self.tail().extend_from_slice(piece),
                false => self.push(std::mem::take(piece)),
            }
        }
        Ok(())
    }

    /// The buffer of the first piece, emptied, to be used again; the others are freed.
    pub fn into_spare(self) -> Vec<u8> {
        let mut spare = self.pieces.into_iter().next().unwrap_or_default();
        spare.clear();
        spare
    }

    /// No lines yet, and a buffer for them.
    pub fn with_spare(spare: Vec<u8>) -> Self {
        Self { pieces: vec![spare], before_last: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(records: &Records) -> Vec<u8> {
        records.pieces().collect::<Vec<_>>().concat()
    }

    /// Small and large records written, moved and cut off, beside a plain vector.
    #[test]
    fn records_are_a_vector_in_pieces() {
        const LENGTHS: [usize; 4] = [1, 30, LARGE_RECORD_BYTES - 1, LARGE_RECORD_BYTES + 5];
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut records, mut model) = (Records::default(), Vec::new());
            for _ in 0..20 {
                let record = vec![random.u8(..); LENGTHS[random.usize(..4)]];
                match random.u8(..4) {
                    0 => {
                        let length = random.usize(..=model.len());
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
                    _ => {
                        records.reserve(record.len()).unwrap();
                        records.tail().extend_from_slice(&record);
                        model.extend_from_slice(&record);
                    }
                }
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
        let address = first.pieces[1].as_ptr();
        let mut second = Records::default();
        second.tail().extend_from_slice(b"SET b 1\n");
        second.take(&mut first).unwrap();
        assert!(second.pieces().any(|piece| piece.as_ptr() == address));
    }
}
