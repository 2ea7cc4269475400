//! A key's value: short ones in one piece, long ones in blocks that readers and writers share.
//!
//! A reader of a long value takes a reference to it and releases the lock at once: a reply of half a gigabyte
//! copies nothing, however slowly its client reads. A change copies the list of blocks and the blocks it touches,
//! and only where a reader still holds them. Padding is one block of NULs, shared by all: half a gigabyte of it
//! takes no more than the list of its blocks.
//!
//! Invariant: each block but the last is [`VALUE_BLOCK_BYTES`] long. (Between [`Value::reserve`] and
//! [`Value::write`], or [`Value::give_back`], others may follow the last.)

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use crate::limits::VALUE_BLOCK_BYTES;
use crate::util::memory::{self, NoMemory};

/// Bytes that several may read at once.
pub type Block = Arc<Vec<u8>>;

/// The bytes of a value.
#[derive(Clone, Debug)]
pub enum Value {
    /// At most [`VALUE_BLOCK_BYTES`].
    Short(Vec<u8>),
    /// More, or what once was more. Shared with those that read it; two references to the same one have the same
    /// bytes, as a change of a shared one makes another.
    Long(Arc<Long>),
}

/// The bytes of a long value.
#[derive(Clone, Debug)]
pub struct Long {
    blocks: Vec<Block>,
    length: usize,
}

/// What padding consists of.
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

    /// To read it.
    pub fn view(&self) -> View<'_> {
        match self {
            Self::Short(bytes) => View::Short(bytes),
            Self::Long(long) => View::Long(long),
        }
    }

    /// About how much memory it holds beside itself, in bytes.
    pub fn capacity(&self) -> usize {
        match self {
            Self::Short(bytes) => bytes.capacity(),
            Self::Long(long) => long.length,
        }
    }

    /// Makes room, so that a [`write`](Self::write) of so many bytes at `offset` takes no memory that may
    /// not be there. After an error the value holds what it held, and no more memory.
    pub fn reserve(&mut self, offset: usize, bytes: usize) -> Result<(), NoMemory> {
        let end = offset + bytes;
        match self {
            Self::Short(short) if end <= VALUE_BLOCK_BYTES => {
                let more = end.saturating_sub(short.len());
                memory::try_to(|| match short.is_empty() {
                    // Most values never grow.
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

    /// The write that room was made for does not come.
    pub fn give_back(&mut self) {
        if let Self::Long(long) = self {
            Arc::make_mut(long).give_back();
        }
    }

    /// Puts `bytes` at `offset`, growing the value by NULs as needed; nothing changes if they are none.
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

/// The bytes of a value, to be read.
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

    /// Whether it has no bytes.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`, which is within the value, in pieces.
    pub fn pieces(self, range: Range<usize>) -> impl Iterator<Item = &'a [u8]> {
        let first = range.start / VALUE_BLOCK_BYTES;
        let blocks: Blocks<'_> = match self {
            Self::Short(bytes) => Blocks::One(std::iter::once(bytes)),
            Self::Long(long) => {
                let end = range.end.div_ceil(VALUE_BLOCK_BYTES).max(first);
                Blocks::Many(long.blocks.get(first..end).unwrap_or_default().iter())
            }
        };
        let first = if matches!(self, Self::Long(_)) { first } else { 0 };
        blocks.enumerate().filter_map(move |(index, block)| {
            let start = (first + index) * VALUE_BLOCK_BYTES;
            let from = range.start.max(start);
            let to = range.end.min(start + block.len());
            (from < to).then(|| &block[from - start..to - start])
        })
    }

    /// The same, but for padding, which nobody wrote.
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

    /// A value with the same bytes: a short one is copied, a long one shared; an error if there is no memory for it.
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

    /// A copy of all of it, for tests and tools.
    pub fn to_vec(self) -> Vec<u8> {
        self.all().collect::<Vec<_>>().concat()
    }
}

enum Blocks<'a> {
    One(std::iter::Once<&'a [u8]>),
    Many(std::slice::Iter<'a, Block>),
}

impl<'a> Iterator for Blocks<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            Self::One(short) => short.next(),
            Self::Many(blocks) => blocks.next().map(|block| block.as_slice()),
        }
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
        // What lies between the old end and the offset is written too, as NULs.
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
                // All of it lies before the offset.
                false => Arc::make_mut(block).resize(VALUE_BLOCK_BYTES, 0),
            }
        }
        self.length = self.length.max(end);
    }
}

/// Makes room for a block of `room` bytes: twice what it was, but no more than a block has.
fn grow(block: &mut Vec<u8>, room: usize) -> Result<(), NoMemory> {
    if room <= block.capacity() {
        return Ok(());
    }
    let wanted = room.max((2 * block.capacity()).min(VALUE_BLOCK_BYTES));
    memory::try_to(|| block.try_reserve_exact(wanted - block.len()))
}

/// Puts `bytes` at `offset` of `old`, which grows by NULs as needed.
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
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;

    const BLOCK: usize = VALUE_BLOCK_BYTES;

    #[derive(Clone, Debug)]
    enum Step {
        /// A reader keeps the value as it is.
        Keep,
        Truncate(Index),
        /// So many bytes at the end, or somewhere up to a block behind it; or room for them that is given back.
        Write {
            offset: Option<Index>,
            bytes: usize,
            is_given_back: bool,
        },
    }

    fn lengths() -> impl Strategy<Value = usize> {
        select(vec![0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK - 5])
    }

    fn steps() -> impl Strategy<Value = Step> {
        let write = (any::<Option<Index>>(), lengths(), prop::bool::weighted(0.25));
        prop_oneof![
            1 => Just(Step::Keep),
            1 => any::<Index>().prop_map(Step::Truncate),
            2 => write.prop_map(|(offset, bytes, is_given_back)| {
                Step::Write { offset, bytes, is_given_back }
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Changes beside a plain vector; readers keep what they saw.
        #[test]
        fn a_value_is_a_vector_that_can_be_shared(
            start in lengths(),
            steps in vec((steps(), any::<Index>(), any::<Index>()), 1..12),
        ) {
            let mut model = vec![b'a'; start];
            let mut value = Value::copy_of(&model).unwrap();
            let mut readers: Vec<(Value, Vec<u8>)> = Vec::new();
            for (number, (step, from, to)) in steps.into_iter().enumerate() {
                match step {
                    Step::Keep => readers.push((value.clone(), model.clone())),
                    Step::Truncate(length) => {
                        let length = length.index(model.len() + 1);
                        value.truncate(length);
                        model.truncate(length);
                    }
                    Step::Write { offset, bytes, is_given_back } => {
                        let anywhere = |offset: Index| offset.index(model.len() + BLOCK + 1);
                        let offset = offset.map_or(model.len(), anywhere);
                        let bytes = vec![number as u8; bytes];
                        value.reserve(offset, bytes.len()).unwrap();
                        prop_assert!(value.view().all().flatten().eq(&model), "room is no change");
                        if is_given_back {
                            value.give_back();
                        } else {
                            value.write(offset, &bytes);
                            if !bytes.is_empty() {
                                model.resize(model.len().max(offset + bytes.len()), 0);
                                model[offset..offset + bytes.len()].copy_from_slice(&bytes);
                            }
                        }
                    }
                }
                prop_assert_eq!(value.view().len(), model.len());
                prop_assert!(value.view().to_vec() == model);
                prop_assert!(value.view().equals(&model));
                let (from, to) = (from.index(model.len() + 1), to.index(model.len() + 1));
                let range = from.min(to)..from.max(to);
                prop_assert!(value.view().copy(range.clone()).unwrap() == model[range]);
            }
            prop_assert!(readers.iter().all(|(value, seen)| value.view().to_vec() == *seen));
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
