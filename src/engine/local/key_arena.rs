//! Copies of many keys in one buffer: no allocation for each.

use crate::util::memory::NoMemory;

/// Copies of keys, in order.
#[derive(Debug, Default)]
pub struct KeyArena {
    bytes: Vec<u8>,
    /// Where each key begins; it ends where the next does.
    starts: Vec<usize>,
}

impl KeyArena {
    /// Adds a key at the end; an error if there is no memory for it.
    pub fn push(&mut self, key: &[u8]) -> Result<(), NoMemory> {
        self.bytes.try_reserve(key.len())?;
        self.starts.try_reserve(1)?;
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(key);
        Ok(())
    }

    /// Length of all keys together, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Key number `index`, below [`len`](Self::len).
    fn get(&self, index: usize) -> &[u8] {
        let end = self.starts.get(index + 1).copied().unwrap_or(self.bytes.len());
        &self.bytes[self.starts[index]..end]
    }

    /// All keys, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.iter_from(0)
    }

    /// The keys from number `first` on.
    pub fn iter_from(&self, first: usize) -> impl Iterator<Item = &[u8]> {
        (first..self.len()).map(|index| self.get(index))
    }

    /// The last key.
    pub fn last(&self) -> Option<&[u8]> {
        self.starts.last().map(|start| &self.bytes[*start..])
    }

    /// Removes the last key.
    pub fn pop(&mut self) {
        if let Some(start) = self.starts.pop() {
            self.bytes.truncate(start);
        }
    }
}
