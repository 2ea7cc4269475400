//! The buffer for memory whose size a client chooses.
//!
//! Invariant: no method takes memory without a `Result`. Where the system refuses memory the caller hears of it, answers
//! `-OOM`, and the process goes on. So there is no `Clone`, no `From`, and no infallible growth.
//!
//! What the program itself chooses the size of is small and stands in an ordinary `Vec` or `String`: where that fails
//! the process ends, and the journal replays.

use std::io::{self, Write};
use std::ops::{Deref, DerefMut};

use super::memory::NoMemory;

/// A vector that grows only by methods that can fail. A new one takes no memory.
#[derive(Debug, PartialEq, Eq)]
pub struct Buffer<T = u8>(Vec<T>);

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Buffer<T> {
    /// An empty buffer with room for `capacity` items, and no more.
    pub fn with_capacity(capacity: usize) -> Result<Self, NoMemory> {
        let mut buffer = Self::default();
        buffer.reserve_exact(capacity)?;
        Ok(buffer)
    }

    /// How many items fit without growing.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Makes room for `more` items, and for some beyond: the cost of many small growths stays linear.
    pub fn reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        Ok(self.0.try_reserve(more)?)
    }

    /// Makes room for `more` items, and for none beyond.
    pub fn reserve_exact(&mut self, more: usize) -> Result<(), NoMemory> {
        Ok(self.0.try_reserve_exact(more)?)
    }

    /// Adds an item.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), NoMemory> {
        if self.0.len() == self.0.capacity() {
            self.reserve(1)?;
        }
        self.0.push(item);
        Ok(())
    }

    /// Removes the last item, if there is one.
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    /// Removes the last item, if there is one and `is_wanted` says so.
    pub fn pop_if(&mut self, is_wanted: impl FnOnce(&mut T) -> bool) -> Option<T> {
        self.0.pop_if(is_wanted)
    }

    /// Removes all items after the first `length`.
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }

    /// Removes all items, and keeps the room.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Gives back the room beyond `capacity` items.
    pub fn shrink_to(&mut self, capacity: usize) {
        self.0.shrink_to(capacity);
    }
}

impl<T: Ord> Buffer<T> {
    /// Sorts the items, and keeps each once.
    pub fn sort_and_dedup(&mut self) {
        self.0.sort_unstable();
        self.0.dedup();
    }
}

impl<T: Copy> Buffer<T> {
    /// A copy of `items`, with room for no more.
    pub fn copy_of(items: &[T]) -> Result<Self, NoMemory> {
        let mut buffer = Self::with_capacity(items.len())?;
        buffer.0.extend_from_slice(items);
        Ok(buffer)
    }

    /// Adds `items`.
    #[inline]
    pub fn extend_from_slice(&mut self, items: &[T]) -> Result<(), NoMemory> {
        if self.0.capacity() - self.0.len() < items.len() {
            self.reserve(items.len())?;
        }
        self.0.extend_from_slice(items);
        Ok(())
    }

    /// Cuts the buffer to `length` items, or fills it with `item` up to there.
    pub fn resize(&mut self, length: usize, item: T) -> Result<(), NoMemory> {
        self.reserve(length.saturating_sub(self.0.len()))?;
        self.0.resize(length, item);
        Ok(())
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for Buffer<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOO_MUCH: usize = isize::MAX as usize;

    #[test]
    fn a_refused_growth_changes_nothing() {
        let mut buffer = Buffer::copy_of(b"abc").unwrap();
        assert_eq!(buffer.reserve(TOO_MUCH), Err(NoMemory));
        assert_eq!(buffer.reserve_exact(TOO_MUCH), Err(NoMemory));
        assert_eq!(buffer.resize(TOO_MUCH, 0), Err(NoMemory));
        assert_eq!(Buffer::<u64>::with_capacity(TOO_MUCH), Err(NoMemory));
        assert_eq!((&buffer[..], buffer.capacity()), (&b"abc"[..], 3));
    }

    #[test]
    fn a_buffer_grows_as_a_vector_does() {
        let mut buffer = Buffer::default();
        for number in 0..1000_u32 {
            buffer.push(number).unwrap();
        }
        buffer.extend_from_slice(&[7; 500]).unwrap();
        buffer.resize(2000, 9).unwrap();
        assert!(buffer[..1000].iter().copied().eq(0..1000));
        assert!(buffer[1000..1500].iter().all(|number| *number == 7));
        assert!(buffer[1500..].iter().all(|number| *number == 9));
        assert_eq!(buffer.pop(), Some(9));
        assert_eq!(buffer.pop_if(|number| *number == 7), None);
        buffer.truncate(3);
        buffer.shrink_to(3);
        assert_eq!((&buffer[..], buffer.capacity()), (&[0, 1, 2][..], 3));
        buffer.clear();
        buffer.shrink_to(0);
        assert_eq!(buffer.capacity(), 0);
    }
}
