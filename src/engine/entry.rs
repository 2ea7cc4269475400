//! A key and its value: one allocation, owned through one pointer.
//!
//! Most values are set once and read often. Such a value stands right behind its key, so an entry of 16 bytes each
//! takes 40 and reading it touches memory once. What grows, and what is longer than [`VALUE_BLOCK_BYTES`], is a
//! [`Value`] of its own.
//!
//! ```text
//! inline     | key bytes: u32 | value bytes: u32            | key | value |
//! expiring   | key bytes: u32 | the same and EXPIRES | time | key | value |
//! grown      | key bytes: u32 | GROWN                | time | Value | key |
//! ```
//!
//! The time is when it expires, in milliseconds of Unix time; 0 is never. An entry never moves while it lives: its
//! address is its [identity](Entry::id).
//!
//! This module has `unsafe` in it because no safe type is a thin pointer to bytes of any number. The memory itself is a
//! `Box<[u64]>`'s, taken apart in `build` and put together again by `drop`; between them the two lengths in the first
//! word never change, and all else is computed from them.

#![allow(unsafe_code, reason = "see above; its tests run under Miri")]

use std::fmt;
use std::mem::size_of;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use crate::limits::VALUE_BLOCK_BYTES;
use crate::util::memory::NoMemory;
use crate::value::{Value, View};

/// A key, its value, and when they expire.
pub struct Entry(NonNull<u64>);

/// Tells an entry from all others that live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryId(usize);

/// In the place of an inline value's length.
const GROWN: u32 = u32::MAX;
/// Beside an inline value's length: there is a word for the time.
const EXPIRES: u32 = 1 << 31;
const HEADER_BYTES: usize = size_of::<u64>();
const TIME_BYTES: usize = size_of::<u64>();

// SAFETY: an entry owns all it points to, bytes and at most one `Value`, which may go to another thread.
unsafe impl Send for Entry {}
// SAFETY: what a shared entry lends is shared bytes and a shared `Value`.
unsafe impl Sync for Entry {}

impl Entry {
    /// A copy of `key` and `value`, and when they expire, in milliseconds of Unix time; an error if there is no memory
    /// for them. A long value is shared, not copied.
    pub fn new(key: &[u8], value: View<'_>, expires_ms: Option<u64>) -> Result<Self, NoMemory> {
        match value {
            View::Long(long) => Self::grown(key, Value::Long(Arc::clone(long)), expires_ms),
            View::Short(bytes) if bytes.len() > VALUE_BLOCK_BYTES => {
                Self::grown(key, Value::copy_of(bytes)?, expires_ms)
            }
            View::Short(bytes) => Self::inline(key, bytes, expires_ms),
        }
    }

    fn inline(key: &[u8], value: &[u8], expires_ms: Option<u64>) -> Result<Self, NoMemory> {
        let (flag, time_bytes) = match expires_ms {
            None => (0, 0),
            Some(_) => (EXPIRES, TIME_BYTES),
        };
        let shape = value.len() as u32 | flag;
        let mut entry = Self::build(key, shape, HEADER_BYTES + time_bytes, value.len())?;
        entry.set_expires_ms(expires_ms);
        // SAFETY: `build` made room for the value right behind the key, and nothing else refers to it yet.
        unsafe { ptr::copy_nonoverlapping(value.as_ptr(), entry.key_end(), value.len()) };
        Ok(entry)
    }

    /// A copy of `key`, a value that may change in place, and when they expire; an error if there is no memory for it.
    pub fn grown(key: &[u8], value: Value, expires_ms: Option<u64>) -> Result<Self, NoMemory> {
        let key_start = HEADER_BYTES + TIME_BYTES + size_of::<Value>();
        let mut entry = Self::build(key, GROWN, key_start, 0)?;
        // SAFETY: `build` left so much room behind the header, whose end is aligned for it. Nothing between here and
        // `build` can fail, so `drop` always finds a `Value`.
        unsafe { entry.value_pointer().write(value) };
        entry.set_expires_ms(expires_ms);
        Ok(entry)
    }

    /// A copy with another time at which it expires. A value that may change in place is shared.
    pub fn with_expiry(&self, expires_ms: Option<u64>) -> Result<Self, NoMemory> {
        match self.value() {
            View::Short(bytes) if self.is_grown() => {
                Self::grown(self.key(), Value::copy_of(bytes)?, expires_ms)
            }
            value => Self::new(self.key(), value, expires_ms),
        }
    }

    /// When it expires, in milliseconds of Unix time, if it does.
    pub fn expires_ms(&self) -> Option<u64> {
        if !self.has_time() {
            return None;
        }
        // SAFETY: it has a word for the time, its second, which `build` wrote as 0.
        Some(unsafe { self.0.add(1).read() }).filter(|time_ms| *time_ms > 0)
    }

    /// Whether it has expired at `now_ms`.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms().is_some_and(|time_ms| time_ms <= now_ms)
    }

    /// Whether its value may change in place.
    pub fn is_grown(&self) -> bool {
        self.lengths()[1] == GROWN
    }

    /// Whether there is a word for the time when it expires.
    fn has_time(&self) -> bool {
        self.lengths()[1] & EXPIRES != 0
    }

    /// Changes when it expires; `false` if there is no word for that, and another entry is needed.
    pub fn set_expires_ms(&mut self, expires_ms: Option<u64>) -> bool {
        let has_time = self.has_time();
        if has_time {
            // SAFETY: as in `expires_ms`, and the entry is borrowed exclusively.
            unsafe { self.0.add(1).write(expires_ms.unwrap_or(0)) };
        }
        has_time || expires_ms.is_none()
    }

    /// An entry with `key` written `key_start` bytes from its beginning, and room for `more` bytes behind it.
    fn build(key: &[u8], shape: u32, key_start: usize, more: usize) -> Result<Self, NoMemory> {
        let key_bytes = u32::try_from(key.len()).map_err(|_| NoMemory)?;
        let count = words(key_start + key.len() + more);
        let mut memory: Vec<u64> = Vec::new();
        memory.try_reserve_exact(count)?;
        memory.resize(count, 0);
        let start = NonNull::from(Box::leak(memory.into_boxed_slice())).cast::<u64>();
        // SAFETY: `start` points to `count` words of ours, of which the first takes both lengths, and the key
        // fits behind `key_start` by the way `count` was computed.
        unsafe {
            start.cast::<[u32; 2]>().write([key_bytes, shape]);
            let key_place = start.cast::<u8>().add(key_start);
            ptr::copy_nonoverlapping(key.as_ptr(), key_place.as_ptr(), key.len());
        }
        Ok(Self(start))
    }

    /// How many bytes the key has, and the inline value with [`EXPIRES`], or [`GROWN`].
    fn lengths(&self) -> [u32; 2] {
        // SAFETY: the first word was written so by `build`; `u32`s are no more aligned than it is.
        unsafe { self.0.cast::<[u32; 2]>().read() }
    }

    fn key_start(&self) -> usize {
        match self.lengths() {
            [_, GROWN] => HEADER_BYTES + TIME_BYTES + size_of::<Value>(),
            [_, shape] if shape & EXPIRES != 0 => HEADER_BYTES + TIME_BYTES,
            _ => HEADER_BYTES,
        }
    }

    fn key_end(&self) -> *mut u8 {
        // SAFETY: `build` made the entry at least so long.
        unsafe { self.0.cast::<u8>().add(self.key_start() + self.key_bytes()) }.as_ptr()
    }

    fn key_bytes(&self) -> usize {
        self.lengths()[0] as usize
    }

    /// Where the value of a grown entry stands.
    fn value_pointer(&self) -> *mut Value {
        // SAFETY: a grown entry is longer than that.
        unsafe { self.0.cast::<u8>().add(HEADER_BYTES + TIME_BYTES) }.cast::<Value>().as_ptr()
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        // SAFETY: the key's bytes were written by `build` and never change; they live as long as the entry.
        unsafe {
            let start = self.0.cast::<u8>().add(self.key_start());
            slice::from_raw_parts(start.as_ptr(), self.key_bytes())
        }
    }

    /// The value.
    pub fn value(&self) -> View<'_> {
        match self.lengths() {
            // SAFETY: `grown` wrote a value there; it is lent no longer than the entry is.
            [_, GROWN] => unsafe { &*self.value_pointer() }.view(),
            // SAFETY: `inline` wrote so many bytes behind the key; they never change.
            [_, shape] => {
                let bytes = (shape & !EXPIRES) as usize;
                View::Short(unsafe { slice::from_raw_parts(self.key_end(), bytes) })
            }
        }
    }

    /// The value, if it may change in place.
    pub fn value_mut(&mut self) -> Option<&mut Value> {
        match self.lengths() {
            // SAFETY: `grown` wrote a value there, and the entry is borrowed exclusively.
            [_, GROWN] => Some(unsafe { &mut *self.value_pointer() }),
            _ => None,
        }
    }

    /// Tells it from all others that live.
    pub fn id(&self) -> EntryId {
        EntryId(self.0.addr().get())
    }

    /// How long its memory is, in words.
    fn words(&self) -> usize {
        let value = match self.lengths() {
            [_, GROWN] => 0,
            [_, shape] => (shape & !EXPIRES) as usize,
        };
        words(self.key_start() + self.key_bytes() + value)
    }

    /// About how much memory it holds, in bytes.
    pub fn capacity(&self) -> usize {
        let inline = self.words() * size_of::<u64>();
        match self.lengths() {
            // SAFETY: as in `value`.
            [_, GROWN] => inline + unsafe { &*self.value_pointer() }.capacity(),
            _ => inline,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let words = ptr::slice_from_raw_parts_mut(self.0.as_ptr(), self.words());
        if let Some(value) = self.value_mut() {
            // SAFETY: it was written by `grown`, and nothing refers to it any more.
            unsafe { ptr::drop_in_place(value) };
        }
        // SAFETY: these are the words that `build` took from a box, as many.
        drop(unsafe { Box::from_raw(words) });
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?}", self.key().escape_ascii(), self.value())
    }
}

/// How many words so many bytes take.
fn words(bytes: usize) -> usize {
    bytes.div_ceil(size_of::<u64>())
}

const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<Value>();
};
const _: () = assert!(align_of::<Value>() <= align_of::<u64>());
const _: () = assert!(size_of::<Option<Entry>>() == size_of::<usize>());
const _: () = assert!(VALUE_BLOCK_BYTES < EXPIRES as usize - 1);

#[cfg(test)]
mod tests {
    use super::*;

    fn inline(key: &[u8], value: &[u8], expires_ms: Option<u64>) -> Entry {
        Entry::new(key, View::Short(value), expires_ms).unwrap()
    }

    #[test]
    fn an_entry_is_its_key_and_its_value() {
        let lengths = [0, 1, 7, 8, 9, 16, 255, 4096];
        for key_bytes in lengths {
            for value_bytes in lengths {
                let (key, value) = (vec![b'k'; key_bytes], vec![b'v'; value_bytes]);
                let mut inline = inline(&key, &value, None);
                assert_eq!(inline.key(), key);
                assert_eq!(inline.value().to_vec(), value);
                assert!(inline.value_mut().is_none());
                let grown = Entry::grown(&key, Value::copy_of(&value).unwrap(), None).unwrap();
                assert_eq!((grown.key(), grown.value().to_vec()), (&key[..], value));
                assert_ne!(grown.id(), inline.id());
            }
        }
    }

    #[test]
    fn a_grown_value_changes_in_place() {
        let mut entry = Entry::grown(b"key", Value::copy_of(b"value").unwrap(), None).unwrap();
        let id = entry.id();
        let value = entry.value_mut().unwrap();
        value.reserve(5, 1000).unwrap();
        value.write(5, &[b'!'; 1000]);
        assert_eq!((entry.id(), entry.value().len(), entry.key()), (id, 1005, &b"key"[..]));
        assert!(entry.capacity() > 1005);
        // To another thread and back.
        let entry = std::thread::spawn(move || entry).join().unwrap();
        assert!(entry.value().to_vec().starts_with(b"value!!"));
    }

    #[test]
    fn a_long_value_stands_elsewhere_and_is_shared() {
        let long = vec![b'v'; VALUE_BLOCK_BYTES + 1];
        let mut entry = inline(b"key", &long, None);
        assert!(entry.value_mut().is_some());
        assert!(entry.value().to_vec() == long);
        let other = Entry::new(b"other", entry.value(), Some(1)).unwrap();
        let (View::Long(one), View::Long(two)) = (entry.value(), other.value()) else { panic!() };
        assert!(Arc::ptr_eq(one, two));
    }

    #[test]
    fn sixteen_bytes_each_take_forty() {
        assert_eq!(inline(&[b'k'; 16], &[b'v'; 16], None).capacity(), 40);
        assert_eq!(inline(&[b'k'; 16], &[b'v'; 16], Some(1)).capacity(), 48);
    }

    #[test]
    fn the_time_changes_where_there_is_a_word_for_it() {
        let never = inline(b"key", b"value", None);
        let soon = inline(b"key", b"value", Some(7));
        let grown = Entry::grown(b"key", Value::copy_of(b"value").unwrap(), None).unwrap();
        for (mut entry, time, has_time) in
            [(never, None, false), (soon, Some(7), true), (grown, None, true)]
        {
            assert_eq!(entry.expires_ms(), time);
            let copy = entry.with_expiry(Some(9)).unwrap();
            assert_eq!((copy.expires_ms(), copy.is_grown()), (Some(9), entry.is_grown()));
            assert_eq!(entry.set_expires_ms(Some(u64::MAX)), has_time);
            assert_eq!(entry.expires_ms(), has_time.then_some(u64::MAX));
            assert!(entry.set_expires_ms(None));
            assert_eq!(entry.expires_ms(), None);
            assert_eq!((entry.key(), entry.value().to_vec()), (&b"key"[..], b"value".to_vec()));
        }
        let entry = inline(b"", b"", Some(7));
        assert!(entry.is_expired(7) && !entry.is_expired(6));
    }
}
