//! Keys in one buffer: to copy many of them takes no allocation for each.

use crate::util::buffer::Buffer;
use crate::util::memory::NoMemory;

/// Copies of keys, in order.
#[derive(Debug, Default)]
pub struct KeyList {
    bytes: Buffer,
    /// Where each begins; it ends where the next does.
    starts: Buffer<usize>,
}

impl KeyList {
    /// Adds a key at the end; an error if there is no memory for it.
    pub fn push(&mut self, key: &[u8]) -> Result<(), NoMemory> {
        // The key first: without its start it is not in the list.
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key)?;
        let added = self.starts.push(start);
        if added.is_err() {
            self.bytes.truncate(start);
        }
        added
    }

    /// Makes room for so many keys of so many bytes in all, and no more.
    pub fn reserve(&mut self, keys: usize, bytes: usize) -> Result<(), NoMemory> {
        self.bytes.reserve_exact(bytes)?;
        self.starts.reserve_exact(keys)
    }

    /// How long all of them are, in bytes.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// How much memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.capacity() + self.starts.capacity() * size_of::<usize>()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Number `index`, below [`len`](Self::len).
    pub fn get(&self, index: usize) -> &[u8] {
        let end = self.starts.get(index + 1).copied().unwrap_or(self.bytes.len());
        &self.bytes[self.starts[index]..end]
    }

    /// All of them, from number `first` on.
    pub fn iter_from(&self, first: usize) -> impl Iterator<Item = &[u8]> {
        (first..self.len()).map(|index| self.get(index))
    }

    /// The last.
    pub fn last(&self) -> Option<&[u8]> {
        self.starts.last().map(|start| &self.bytes[*start..])
    }

    /// Takes the last off.
    pub fn pop(&mut self) {
        if let Some(start) = self.starts.pop() {
            self.bytes.truncate(start);
        }
    }

    /// Forgets them all; their memory is for those to come.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    /// Of a sorted list: the number of the first that is not less than `key`.
    pub fn position(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle) < key {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }
}
