//! Replies to bytes: RESP2, as every Redis client reads it and a person in netcat can.
//!
//! The replies of a burst gather here and leave in one write, once the journal has committed what
//! they show.

/// Replies not sent yet.
#[derive(Debug, Default)]
pub struct Replies {
    bytes: Vec<u8>,
}

impl Replies {
    /// The encoded replies.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Their length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets the replies, and the memory of an unusually long one.
    pub fn clear(&mut self, spare_bytes_max: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(spare_bytes_max);
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
        self.bytes.push(kind);
        let one_line = |byte: u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte };
        self.bytes.extend(text.bytes().map(one_line));
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// `:number`.
    pub fn integer(&mut self, number: i64) {
        self.header(b':', number);
    }

    /// `:count`, for a count of things in memory.
    pub fn count(&mut self, count: usize) {
        self.header(b':', count as i64);
    }

    /// `$length` and the bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len() as i64);
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// `$-1`: no such value.
    pub fn nil(&mut self) {
        self.bytes.extend_from_slice(b"$-1\r\n");
    }

    /// `*length`; that many replies follow.
    pub fn array(&mut self, length: usize) {
        self.header(b'*', length as i64);
    }

    /// Copies already encoded replies from `other`.
    pub fn copy(&mut self, other: &[u8]) {
        self.bytes.extend_from_slice(other);
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
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&digits[at..]);
        self.bytes.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(replies.as_bytes(), expected);
    }
}
