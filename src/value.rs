//! The value of a key: a short one in one piece, a long one in blocks that readers and writers share.
//!
//! A reader of a long value takes a reference and releases the shard's lock at once: a reply of half a gigabyte copies
//! nothing, however slowly the client reads it. A write copies the list of blocks and the blocks that it changes, and
//! only while a reader holds them. All padding shares one block of NULs: half a gigabyte of it takes no more memory
//! than the list of its blocks.
//!
//! Invariant: each block but the last is [`VALUE_BLOCK_BYTES`] long. Between [`Value::reserve`] and [`Value::write`], or
//! [`Value::give_back`], reserved blocks may follow the last. Keys, expiry and undo are left to the engine.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use crate::limits::VALUE_BLOCK_BYTES;
use crate::util::memory::{self, NoMemory};

/// A block of a long value, shared by its readers.
pub type Block = Arc<Vec<u8>>;

/// The bytes of a value.
#[derive(Clone, Debug)]
pub enum Value {
    /// At most [`VALUE_BLOCK_BYTES`].
    Short(Vec<u8>),
    /// More, or what once was more. Readers share it: a write to a shared one makes a copy, so two references to the
    /// same one have the same bytes.
    Long(Arc<Long>),
}

/// The bytes of a long value.
#[derive(Clone, Debug)]
pub struct Long {
    blocks: Vec<Block>,
    length: usize,
}

/// The block that padding consists of.
static NULS: LazyLock<Block> = LazyLock::new(|| Arc::new(vec![0; VALUE_BLOCK_BYTES]));

impl Default for Value {
    fn default() -> Self {
        Self::Short(Vec::new())
    }
}

impl Value {
    /// A copy of `bytes`; an error if there is no memory for it.
    pub fn copy_of(bytes: &[u8]) -> Result<Self, NoMemory> {
        let mut value = Self::default();
        value.reserve(0, bytes.len())?;
        value.write(0, bytes);
        Ok(value)
    }

    /// A view to read it.
    pub fn view(&self) -> View<'_> {
        match self {
            Self::Short(bytes) => View::Short(bytes),
            Self::Long(long) => View::Long(long),
        }
    }

    /// About how much memory it holds on the heap, in bytes.
    pub fn capacity(&self) -> usize {
        match self {
            Self::Short(bytes) => bytes.capacity(),
            Self::Long(long) => long.length,
        }
    }

    /// Makes room, so that a [`write`](Self::write) of so many bytes at `offset` cannot fail. After an error, the value
    /// holds the same bytes and no more memory.
    pub fn reserve(&mut self, offset: usize, bytes: usize) -> Result<(), NoMemory> {
        let end = offset + bytes;
        match self {
            Self::Short(short) if end <= VALUE_BLOCK_BYTES => {
                let more = end.saturating_sub(short.len());
                memory::try_to(|| match short.is_empty() {
                    // Most values never grow: reserve no more than is needed.
                    true => short.try_reserve_exact(more),
                    false => short.try_reserve(more),
                })
            }
            Self::Short(short) => {
                let mut long = Long { blocks: Vec::new(), length: 0 };
                long.reserve(0, short.len())?;
                long.write(0, short);
                long.reserve(offset, bytes)?;
                *self = Self::Long(Arc::new(long));
                Ok(())
            }
            Self::Long(long) => {
                let long = Arc::make_mut(long);
                let reserved = long.reserve(offset, bytes);
                if reserved.is_err() {
                    long.give_back();
                }
                reserved
            }
        }
    }

    /// Frees the room that [`reserve`](Self::reserve) made, if no write follows.
    pub fn give_back(&mut self) {
        if let Self::Long(long) = self {
            Arc::make_mut(long).give_back();
        }
    }

    /// Writes `bytes` at `offset`, after padding with NULs up to there; does nothing if there are no bytes.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        match self {
            _ if bytes.is_empty() => {}
            Self::Short(short) => put(short, offset, bytes),
            Self::Long(long) => Arc::make_mut(long).write(offset, bytes),
        }
    }

    /// Cuts it to `length`, if it is longer.
    pub fn truncate(&mut self, length: usize) {
        match self {
            Self::Short(bytes) => bytes.truncate(length),
            Self::Long(long) if length < long.length => {
                let long = Arc::make_mut(long);
                long.blocks.truncate(length.div_ceil(VALUE_BLOCK_BYTES));
                if let Some(last) = long.blocks.last_mut() {
                    Arc::make_mut(last)
                        .truncate(length - (length - 1) / VALUE_BLOCK_BYTES * VALUE_BLOCK_BYTES);
                }
                long.length = length;
            }
            Self::Long(_) => {}
        }
    }
}

/// The bytes of a value, for reading.
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    /// At most [`VALUE_BLOCK_BYTES`].
    Short(&'a [u8]),
    /// In blocks.
    Long(&'a Arc<Long>),
}

impl<'a> View<'a> {
    /// Its length in bytes.
    pub fn len(self) -> usize {
        match self {
            Self::Short(bytes) => bytes.len(),
            Self::Long(long) => long.length,
        }
    }

    /// The bytes of `range`, which is within the value, in pieces.
    pub fn pieces(self, range: Range<usize>) -> impl Iterator<Item = &'a [u8]> {
        let (short, blocks, first) = match self {
            Self::Short(bytes) => (Some(bytes), &[][..], 0),
            Self::Long(long) => {
                let first = range.start / VALUE_BLOCK_BYTES;
                let end = range.end.div_ceil(VALUE_BLOCK_BYTES).max(first);
                (None, long.blocks.get(first..end).unwrap_or_default(), first)
            }
        };
        let blocks = short.into_iter().chain(blocks.iter().map(|block| block.as_slice()));
        blocks.enumerate().filter_map(move |(index, block)| {
            let start = (first + index) * VALUE_BLOCK_BYTES;
            let from = range.start.max(start);
            let to = range.end.min(start + block.len());
            (from < to).then(|| &block[from - start..to - start])
        })
    }

    /// The same without padding.
    pub fn written(self, range: Range<usize>) -> impl Iterator<Item = &'a [u8]> {
        self.pieces(range).filter(|piece| !std::ptr::eq(piece.as_ptr(), NULS.as_ptr()))
    }

    /// All of it, in pieces.
    pub fn all(self) -> impl Iterator<Item = &'a [u8]> {
        self.pieces(0..self.len())
    }

    /// A copy of `range`, which is within the value; an error if there is no memory for it.
    pub fn copy(self, range: Range<usize>) -> Result<Vec<u8>, NoMemory> {
        let mut bytes = memory::copy(&[], range.len())?;
        self.pieces(range).for_each(|piece| bytes.extend_from_slice(piece));
        Ok(bytes)
    }

    /// A value with the same bytes: copies a short one, shares a long one; an error if there is no memory for it.
    pub fn share(self) -> Result<Value, NoMemory> {
        match self {
            Self::Short(bytes) => Value::copy_of(bytes),
            Self::Long(long) => Ok(Value::Long(Arc::clone(long))),
        }
    }

    /// Whether it has these bytes.
    pub fn equals(self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        self.len() == bytes.len()
            && self.all().all(|piece| {
                let (first, after) = rest.split_at(piece.len());
                rest = after;
                first == piece
            })
    }

    /// A copy of all of it, for tests.
    pub fn to_vec(self) -> Vec<u8> {
        self.all().collect::<Vec<_>>().concat()
    }
}

impl Long {
    /// Its length in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    fn give_back(&mut self) {
        self.blocks.truncate(self.length.div_ceil(VALUE_BLOCK_BYTES));
    }

    fn reserve(&mut self, offset: usize, bytes: usize) -> Result<(), NoMemory> {
        let end = offset + bytes;
        // The write pads from the old end to the offset with NULs.
        let first = offset.min(self.length) / VALUE_BLOCK_BYTES;
        let count = end.div_ceil(VALUE_BLOCK_BYTES);
        let more = count.saturating_sub(self.blocks.len());
        memory::try_to(|| self.blocks.try_reserve(more))?;
        for index in first..count {
            let start = index * VALUE_BLOCK_BYTES;
            let room = (end - start).min(VALUE_BLOCK_BYTES);
            let is_padding = offset >= start + VALUE_BLOCK_BYTES;
            match self.blocks.get_mut(index) {
                None if is_padding => self.blocks.push(Arc::clone(&NULS)),
                None => self.blocks.push(Arc::new(memory::copy(&[], room)?)),
                Some(block) => match Arc::get_mut(block) {
                    Some(own) => grow(own, room)?,
                    None => *block = Arc::new(memory::copy(block, room)?),
                },
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        let first = offset.min(self.length) / VALUE_BLOCK_BYTES;
        for index in first..end.div_ceil(VALUE_BLOCK_BYTES) {
            let start = index * VALUE_BLOCK_BYTES;
            if self.blocks.len() == index {
                self.blocks.push(Block::default());
            }
            let block = &mut self.blocks[index];
            let from = offset.max(start);
            let to = end.min(start + VALUE_BLOCK_BYTES);
            match from < to {
                true => put(Arc::make_mut(block), from - start, &bytes[from - offset..to - offset]),
                false if Arc::ptr_eq(block, &NULS) => {}
                // The whole block lies before the offset.
                false => Arc::make_mut(block).resize(VALUE_BLOCK_BYTES, 0),
            }
        }
        self.length = self.length.max(end);
    }
}

/// Makes room for `room` bytes in a block: doubles it, up to the length of a block.
fn grow(block: &mut Vec<u8>, room: usize) -> Result<(), NoMemory> {
    if room <= block.capacity() {
        return Ok(());
    }
    let wanted = room.max((2 * block.capacity()).min(VALUE_BLOCK_BYTES));
    memory::try_to(|| block.try_reserve_exact(wanted - block.len()))
}

/// Writes `bytes` at `offset` of `old`, after padding with NULs up to there.
fn put(old: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if offset == old.len() {
        old.extend_from_slice(bytes);
        return;
    }
    let end = offset + bytes.len();
    if old.len() < end {
        old.resize(end, 0);
    }
    old[offset..end].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = VALUE_BLOCK_BYTES;

    /// Random changes, beside a plain vector; readers keep what they saw.
    #[test]
    fn a_value_is_a_vector_that_can_be_shared() {
        let lengths = [0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK - 5];
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut model = vec![b'a'; lengths[random.usize(..lengths.len())]];
            let mut value = Value::copy_of(&model).unwrap();
            let mut readers: Vec<(Value, Vec<u8>)> = Vec::new();
            for step in 0..12 {
                match random.u8(..4) {
                    0 => readers.push((value.clone(), model.clone())),
                    1 => {
                        let length = random.usize(..=model.len());
                        value.truncate(length);
                        model.truncate(length);
                    }
                    _ => {
                        let offset = match random.bool() {
                            true => model.len(),
                            false => random.usize(..=model.len() + BLOCK),
                        };
                        let bytes = vec![step; lengths[random.usize(..lengths.len())]];
                        value.reserve(offset, bytes.len()).unwrap();
                        assert!(
                            value.view().all().flatten().eq(&model),
                            "seed {seed}: room is no change"
                        );
                        if random.u8(..4) == 0 {
                            value.give_back();
                            continue;
                        }
                        value.write(offset, &bytes);
                        if !bytes.is_empty() {
                            model.resize(model.len().max(offset + bytes.len()), 0);
                            model[offset..offset + bytes.len()].copy_from_slice(&bytes);
                        }
                    }
                }
                assert_eq!(value.view().len(), model.len(), "seed {seed}");
                assert!(value.view().to_vec() == model, "seed {seed}");
                let (from, to) = (random.usize(..=model.len()), random.usize(..=model.len()));
                let range = from.min(to)..from.max(to);
                assert!(value.view().copy(range.clone()).unwrap() == model[range], "seed {seed}");
            }
            assert!(
                readers.iter().all(|(value, seen)| value.view().to_vec() == *seen),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn a_change_copies_only_the_blocks_it_touches() {
        let mut value = Value::copy_of(&vec![b'a'; 4 * BLOCK]).unwrap();
        let seen = value.clone();
        value.reserve(2 * BLOCK + 5, 3).unwrap();
        value.write(2 * BLOCK + 5, b"xyz");
        let (Value::Long(old), Value::Long(new)) = (&seen, &value) else { panic!() };
        let shared = |index: usize| Arc::ptr_eq(&old.blocks[index], &new.blocks[index]);
        assert_eq!([0, 1, 2, 3].map(shared), [true, true, false, true]);
    }

    #[test]
    fn padding_takes_no_memory() {
        let mut value = Value::copy_of(b"a").unwrap();
        value.reserve(1000 * BLOCK, 1).unwrap();
        value.write(1000 * BLOCK, b"z");
        let Value::Long(long) = &value else { panic!() };
        let shared = long.blocks.iter().filter(|block| Arc::ptr_eq(block, &NULS)).count();
        assert_eq!((shared, value.view().len()), (999, 1000 * BLOCK + 1));
        // And is as good as any other.
        value.reserve(500 * BLOCK, 3).unwrap();
        value.write(500 * BLOCK, b"xyz");
        assert_eq!(value.view().copy(500 * BLOCK - 1..500 * BLOCK + 4).unwrap(), b"\0xyz\0");
        assert!(NULS.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn most_values_are_no_larger_than_a_vector() {
        assert_eq!(size_of::<Value>(), size_of::<Vec<u8>>());
    }
}
