//! Replies to bytes: RESP2, as every Redis client reads it and a person in netcat can, or RESP3 after `HELLO 3`. Where
//! the two have a form in common, that is used.
//!
//! The replies of a burst are gathered here and sent together, once the journal has committed what they show. A long
//! value is not copied: its blocks are sent from where they are kept, whatever becomes of the key meanwhile.
//!
//! No reply takes more memory than [`REPLY_COPIED_BYTES_MAX`] and [`REPLY_SHARED_BYTES_MAX`], or ends the process:
//! beyond that, and where there is no memory for it, it is *lost*, and [`Replies::recover`] tells the caller that began
//! it.

use std::collections::HashSet;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use crate::limits::{
    LARGE_REPLY_BYTES, REPLY_COPIED_BYTES_MAX, REPLY_SHARED_BYTES_MAX, VALUE_BLOCK_BYTES,
};
use crate::util::buffer::Buffer;
use crate::util::memory::{self, NoMemory};
use crate::value::{Long, View};

/// The forms of replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What every connection begins with.
    #[default]
    Resp2,
    /// With maps, sets, verbatim text and one null.
    Resp3,
}

impl Protocol {
    /// Its number, as `HELLO` has it.
    pub fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// Replies not sent yet.
#[derive(Debug, Default)]
pub struct Replies {
    bytes: Buffer,
    /// The form of the next reply.
    protocol: Protocol,
    /// Parts of long values that stand between the bytes, in order.
    shared: Buffer<Shared>,
    /// How long that is, in bytes.
    shared_bytes: usize,
    /// The shared values, each once, by their addresses, which are theirs as long as `shared` refers to them.
    values: HashSet<usize>,
    /// How long those are, in bytes.
    value_bytes: usize,
    /// A reply was given up.
    lost: Option<Lost>,
}

/// Why a reply was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// There is no memory for it.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// It is beyond its bound.
    #[error(
        "the reply would be too large: ask for less at once, with SCAN, GETRANGE or fewer keys"
    )]
    TooLarge,
}

/// Bytes of a long value.
#[derive(Clone, Debug)]
struct Shared {
    /// How many of `bytes` stand before it.
    at: usize,
    value: Arc<Long>,
    range: Range<usize>,
}

impl Replies {
    /// Where the next reply will begin.
    pub fn position(&self) -> usize {
        self.bytes.len()
    }

    /// Their length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.shared_bytes
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How much memory they may take without growing, in bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Removes all replies, and releases the memory of unusually long ones.
    pub fn clear(&mut self, spare_bytes_max: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(spare_bytes_max);
        self.shared = Buffer::default();
        self.shared_bytes = 0;
        self.values = HashSet::new();
        self.value_bytes = 0;
    }

    /// Whether they share a long value.
    pub fn shares(&self) -> bool {
        !self.shared.is_empty()
    }

    /// Removes the replies from `position` on.
    pub fn truncate(&mut self, position: usize) {
        self.bytes.truncate(position);
        let before = self.shared.len();
        while let Some(shared) = self.shared.pop_if(|shared| shared.at >= position) {
            self.shared_bytes -= shared.range.len();
        }
        if self.shared.len() < before {
            self.values.clear();
            self.value_bytes = 0;
            for shared in self.shared.iter() {
                if self.values.insert(Arc::as_ptr(&shared.value).addr()) {
                    self.value_bytes += shared.value.length();
                }
            }
        }
    }

    /// If a reply was given up: removes those from `position` on, and returns why.
    pub fn recover(&mut self, position: usize) -> Result<(), Lost> {
        match self.lost.take() {
            None => Ok(()),
            Some(lost) => {
                self.truncate(position);
                Err(lost)
            }
        }
    }

    /// Whether a reply was given up: what is added to it is dropped.
    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// All of them, if they share no long value.
    pub fn bytes(&self) -> Option<&[u8]> {
        (!self.shares()).then_some(&self.bytes)
    }

    /// Sends them all.
    pub fn write_to(&self, mut stream: impl Write) -> io::Result<()> {
        let mut sent = 0;
        for shared in self.shared.iter() {
            stream.write_all(&self.bytes[sent..shared.at])?;
            let mut pieces = View::Long(&shared.value).pieces(shared.range.clone());
            pieces.try_for_each(|piece| stream.write_all(piece))?;
            sent = shared.at;
        }
        stream.write_all(&self.bytes[sent..])
    }

    /// `+text`: a status. `text` is one line.
    pub fn status(&mut self, text: &str) {
        self.line(b'+', text);
    }

    /// `-text`: an error, beginning with its code. Line ends inside become spaces: an error echoes
    /// what clients sent, and must not forge a second reply.
    pub fn error(&mut self, text: &str) {
        self.line(b'-', text);
    }

    fn line(&mut self, kind: u8, text: &str) {
        self.push(&[kind]);
        let start = self.bytes.len();
        self.push(text.as_bytes());
        if self.is_lost() {
            return;
        }
        let line_ends = |byte: &&mut u8| matches!(**byte, b'\r' | b'\n');
        self.bytes[start..].iter_mut().filter(line_ends).for_each(|byte| *byte = b' ');
        self.push(b"\r\n");
    }

    /// `:number`.
    pub fn integer(&mut self, number: i64) {
        self.header(b':', number);
    }

    /// `:count`.
    pub fn count(&mut self, count: usize) {
        self.header(b':', count as i64);
    }

    /// `$length` and the bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len() as i64);
        self.push(bytes);
        self.push(b"\r\n");
    }

    /// `,number`, or its digits as [`bulk`](Self::bulk).
    pub fn double(&mut self, number: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(number.as_bytes()),
            Protocol::Resp3 => {
                self.push(b",");
                self.push(number.as_bytes());
                self.push(b"\r\n");
            }
        }
    }

    /// `(digits`, or the digits as [`bulk`](Self::bulk). They are one line.
    pub fn big_number(&mut self, digits: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(digits.as_bytes()),
            Protocol::Resp3 => self.line(b'(', digits),
        }
    }

    /// `#t` or `#f`, or `:1` or `:0`.
    pub fn boolean(&mut self, is_true: bool) {
        match (self.protocol, is_true) {
            (Protocol::Resp2, _) => self.integer(i64::from(is_true)),
            (Protocol::Resp3, true) => self.push(b"#t\r\n"),
            (Protocol::Resp3, false) => self.push(b"#f\r\n"),
        }
    }

    /// A value as [`bulk`](Self::bulk); a long one is shared, not copied.
    pub fn value(&mut self, value: View<'_>) {
        self.part_of(value, 0..value.len());
    }

    /// The bytes of `range` of a value, which is within it, as [`value`](Self::value).
    pub fn part_of(&mut self, value: View<'_>, range: Range<usize>) {
        self.header(b'$', range.len() as i64);
        match value {
            View::Long(long) if range.len() > VALUE_BLOCK_BYTES => {
                self.share(Shared { at: self.bytes.len(), value: Arc::clone(long), range });
            }
            _ => value.pieces(range).for_each(|piece| self.push(piece)),
        }
        self.push(b"\r\n");
    }

    /// Sets the form of the replies from here on.
    pub fn speak(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// `$-1`, or `_`: no such value.
    pub fn nil(&mut self) {
        match self.protocol {
            Protocol::Resp2 => self.push(b"$-1\r\n"),
            Protocol::Resp3 => self.push(b"_\r\n"),
        }
    }

    /// `*-1`, or `_`: no list of replies.
    pub fn null_array(&mut self) {
        match self.protocol {
            Protocol::Resp2 => self.push(b"*-1\r\n"),
            Protocol::Resp3 => self.nil(),
        }
    }

    /// `%pairs`, or an array of twice as many: that many names follow, each with its value.
    pub fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => self.array(2 * pairs),
            Protocol::Resp3 => self.header(b'%', pairs as i64),
        }
    }

    /// `~length`, or an array: that many replies follow, in no order.
    pub fn set(&mut self, length: usize) {
        match self.protocol {
            Protocol::Resp2 => self.array(length),
            Protocol::Resp3 => self.header(b'~', length as i64),
        }
    }

    /// `=length` and `txt:` before the text, or a bulk: text for people.
    pub fn verbatim(&mut self, text: &[u8]) {
        const FORMAT: &[u8] = b"txt:";
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => {
                self.header(b'=', (FORMAT.len() + text.len()) as i64);
                self.push(FORMAT);
                self.push(text);
                self.push(b"\r\n");
            }
        }
    }

    /// `*length`; that many replies follow.
    pub fn array(&mut self, length: usize) {
        self.header(b'*', length as i64);
    }

    /// Puts the header of an array before the replies from `position` on, which are its `length` members and share
    /// nothing: for an array whose length is known only at its end.
    pub fn array_from(&mut self, position: usize, length: usize) {
        let end = self.bytes.len();
        self.array(length);
        if !self.is_lost() {
            let header = self.bytes.len() - end;
            self.bytes[position..].rotate_right(header);
        }
    }

    /// Moves the replies from `middle` on before those from `position` on, which share nothing.
    pub fn move_before(&mut self, position: usize, middle: usize) {
        if !self.is_lost() {
            self.bytes[position..].rotate_left(middle - position);
        }
    }

    /// Copies already encoded bytes, which are no part of a reply's protocol or a whole number of replies.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.push(bytes);
    }

    /// Copies the replies of a `range` of positions in `other`.
    pub fn copy(&mut self, other: &Self, range: Range<usize>) {
        let offset = self.bytes.len();
        self.push(&other.bytes[range.clone()]);
        // What is shared stands inside its reply, never at its ends.
        for shared in other.shared.iter().filter(|shared| range.contains(&shared.at)) {
            self.share(Shared { at: shared.at - range.start + offset, ..shared.clone() });
        }
    }

    fn share(&mut self, shared: Shared) {
        let address = Arc::as_ptr(&shared.value).addr();
        let is_new = !self.values.contains(&address);
        let more = if is_new { shared.value.length() } else { 0 };
        if !self.values.is_empty() && self.value_bytes + more > REPLY_SHARED_BYTES_MAX {
            self.lost.get_or_insert(Lost::TooLarge);
        }
        if self.is_lost() {
            return;
        }
        let bytes = shared.range.len();
        if self.values.try_reserve(1).is_err() || self.shared.push(shared).is_err() {
            self.lost = Some(NoMemory.into());
            return;
        }
        self.values.insert(address);
        self.value_bytes += more;
        self.shared_bytes += bytes;
    }

    fn header(&mut self, kind: u8, number: i64) {
        // The longest i64 has 20 characters.
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            at -= 1;
            digits[at] = b'-';
        }
        self.push(&[kind]);
        self.push(&digits[at..]);
        self.push(b"\r\n");
    }

    /// Every byte of a reply passes here.
    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        let has_room = self.bytes.capacity() - self.bytes.len() >= bytes.len();
        if self.is_lost() || !has_room && !self.grow(bytes.len()) {
            return;
        }
        if let Err(refused) = self.bytes.extend_from_slice(bytes) {
            self.lost = Some(refused.into());
        }
    }

    /// Makes room for `more` bytes; `false` if they are lost.
    #[cold]
    fn grow(&mut self, more: usize) -> bool {
        self.lost = self.make_room(more).err();
        !self.is_lost()
    }

    fn make_room(&mut self, more: usize) -> Result<(), Lost> {
        let length = self.bytes.len() + more;
        if length > REPLY_COPIED_BYTES_MAX {
            return Err(Lost::TooLarge);
        }
        if length > LARGE_REPLY_BYTES && !memory::has_room(self.bytes.len().max(more)) {
            return Err(Lost::NoMemory(NoMemory));
        }
        // Twice as long each time, but not beyond the bound.
        let wanted = length.max((2 * self.bytes.len()).min(REPLY_COPIED_BYTES_MAX));
        Ok(self.bytes.reserve_exact(wanted - self.bytes.len())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::VALUE_BLOCK_BYTES;
    use crate::value::Value;

    fn sent(replies: &Replies) -> Vec<u8> {
        let mut bytes = Vec::new();
        replies.write_to(&mut bytes).unwrap();
        assert_eq!(bytes.len(), replies.len());
        bytes
    }

    #[test]
    fn replies_are_resp2() {
        let mut replies = Replies::default();
        replies.status("OK");
        replies.error("ERR a\r\n+OK\nb");
        replies.integer(i64::MIN);
        replies.count(0);
        replies.bulk(b"a\r\n\0");
        replies.nil();
        replies.array(1234);
        let expected = b"+OK\r\n-ERR a  +OK b\r\n:-9223372036854775808\r\n:0\r\n$4\r\na\r\n\0\r\n$-1\r\n*1234\r\n";
        assert_eq!(sent(&replies), expected);
    }

    #[test]
    fn resp3_has_forms_of_its_own() {
        let mut replies = Replies::default();
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            replies.speak(protocol);
            replies.nil();
            replies.map(2);
            replies.set(3);
            replies.verbatim(b"text");
        }
        let expected = b"$-1\r\n*4\r\n*3\r\n$4\r\ntext\r\n_\r\n%2\r\n~3\r\n=8\r\ntxt:text\r\n";
        assert_eq!(sent(&replies), expected);
    }

    #[test]
    fn an_array_may_be_counted_after_its_members() {
        let mut replies = Replies::default();
        replies.status("OK");
        let start = replies.position();
        (0..12).for_each(|number| replies.integer(number % 10));
        replies.array_from(start, 12);
        let members: String = (0..12).map(|number| format!(":{}\r\n", number % 10)).collect();
        assert_eq!(sent(&replies), format!("+OK\r\n*12\r\n{members}").as_bytes());
    }

    /// Ranges of replies with long values between short ones: copied, and cut off.
    #[test]
    fn long_values_are_shared_not_copied() {
        let long = vec![b'v'; 3 * VALUE_BLOCK_BYTES + 1];
        let value = Value::copy_of(&long).unwrap();
        let (mut replies, mut expected, mut positions) = (Replies::default(), Vec::new(), vec![0]);
        for _ in 0..3 {
            replies.value(value.view());
            expected.push([format!("${}\r\n", long.len()).as_bytes(), &long, b"\r\n"].concat());
            positions.push(replies.position());
            replies.status("OK");
            expected.push(b"+OK\r\n".to_vec());
            positions.push(replies.position());
        }
        assert_eq!(sent(&replies), expected.concat());
        assert!(replies.capacity() < 1024);
        for from in 0..positions.len() {
            for to in from..positions.len() {
                let mut part = Replies::default();
                part.error("first");
                part.copy(&replies, positions[from]..positions[to]);
                assert!(sent(&part) == [b"-first\r\n", &expected[from..to].concat()[..]].concat());
            }
            let mut cut = Replies::default();
            cut.copy(&replies, 0..replies.position());
            cut.truncate(positions[from]);
            assert!(sent(&cut) == expected[..from].concat());
        }
    }
}
