//! Bytes to requests: finds the next complete request in what a client has sent so far.
//!
//! Each request is sniffed by its first byte: `*` begins a RESP array of bulk strings, anything else
//! an inline line (LF or CR LF), split by [`crate::text`]. An inline line that begins with `#` is a
//! comment. Where Redis resynchronises on malformed RESP, coffre refuses: a desync must not run
//! commands. Before a request telnet's own commands are understood ([`telnet`]), and in a line that was
//! typed backspace and delete erase what stands before them.
//!
//! Invariants: nothing is reserved from a length or a count that a client merely declares; no byte
//! of a partial request is looked at twice, but for the short header line of its last argument.

use std::io::{self, Read};
use std::ops::{Index, Range};

use rustix::io::Errno;

use crate::limits::{
    ARGUMENTS_MAX, BURST_BYTES_MAX, CLIENT_SPARE_BYTES_MAX, HEADER_BYTES_MAX, IDLE_BUFFER_BYTES,
    INLINE_BYTES_MAX, LARGE_REQUEST_BYTES, READ_BUFFER_BYTES, REQUEST_BYTES_MAX,
    SLACK_REQUEST_BYTES, UNAUTHENTICATED_ARGUMENTS_MAX, UNAUTHENTICATED_BYTES_MAX, VALUE_BYTES_MAX,
};
use crate::protocol::telnet::{self, Telnet};
use crate::text::{self, SplitError, Words};
use crate::util::buffer::Buffer;
use crate::util::memory::{self, NoMemory, Slack};

/// How large a request may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Words.
    pub arguments: usize,
    /// One argument of an array, in bytes.
    pub argument_bytes: usize,
    /// A line, in bytes.
    pub inline_bytes: usize,
    /// All of it, in bytes.
    pub request_bytes: usize,
    /// Its client has not given the password.
    pub is_unauthenticated: bool,
}

impl Limits {
    /// What the settings allow.
    pub const fn new(argument_bytes: usize, request_bytes: usize) -> Self {
        let inline_bytes = INLINE_BYTES_MAX;
        let arguments = ARGUMENTS_MAX;
        Self { arguments, argument_bytes, inline_bytes, request_bytes, is_unauthenticated: false }
    }

    /// What `AUTH` needs.
    pub const UNAUTHENTICATED: Self = Self {
        arguments: UNAUTHENTICATED_ARGUMENTS_MAX,
        argument_bytes: UNAUTHENTICATED_BYTES_MAX,
        inline_bytes: UNAUTHENTICATED_BYTES_MAX,
        request_bytes: 2 * UNAUTHENTICATED_ARGUMENTS_MAX * UNAUTHENTICATED_BYTES_MAX,
        is_unauthenticated: true,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(VALUE_BYTES_MAX, REQUEST_BYTES_MAX)
    }
}

/// One request: the command's name and its arguments, at least one word in all.
#[derive(Debug)]
pub struct Request<'a> {
    bytes: &'a [u8],
    spans: &'a [Range<usize>],
    /// Typed as a line, as by a person in telnet, rather than sent as a RESP array.
    pub inline: bool,
}

impl<'a> Request<'a> {
    /// Number of words, the command's name included.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// The same without its first words, of which it has more.
    pub fn without(&self, words: usize) -> Request<'a> {
        Request { spans: &self.spans[words..], ..*self }
    }

    /// The words from the `first` on.
    pub fn words_from(&self, first: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
        let bytes = self.bytes;
        self.spans[first..].iter().map(move |span| &bytes[span.clone()])
    }
}

/// A request that is kept for later.
#[derive(Debug)]
pub struct Kept {
    bytes: Buffer,
    spans: Buffer<Range<usize>>,
    inline: bool,
}

impl Kept {
    /// A copy of a request; an error if there is no memory for it.
    pub fn new(request: &Request<'_>) -> Result<Self, NoMemory> {
        let length = request.words_from(0).map(<[u8]>::len).sum();
        let mut bytes = Buffer::with_capacity(length)?;
        let mut spans = Buffer::with_capacity(request.len())?;
        for word in request.words_from(0) {
            let start = bytes.len();
            bytes.extend_from_slice(word)?;
            spans.push(start..bytes.len())?;
        }
        Ok(Self { bytes, spans, inline: request.inline })
    }

    /// The request.
    pub fn request(&self) -> Request<'_> {
        Request { bytes: &self.bytes, spans: &self.spans, inline: self.inline }
    }

    /// How much memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.len() + self.spans.len() * size_of::<Range<usize>>()
    }
}

impl Index<usize> for Request<'_> {
    type Output = [u8];

    fn index(&self, index: usize) -> &[u8] {
        &self.bytes[self.spans[index].clone()]
    }
}

/// Why a client's bytes are no request. The connection answers with this text and closes: what
/// follows can no longer be told apart from data.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// `*count` is no number, or is beyond [`Limits::arguments`].
    #[error("invalid multibulk length")]
    MultibulkLength,
    /// `$length` is no number, negative, or beyond [`Limits::argument_bytes`].
    #[error("invalid bulk length")]
    BulkLength,
    /// More arguments than `AUTH` needs.
    #[error("unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// A longer argument than `AUTH` needs.
    #[error("unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// `*` and a count that goes on and on.
    #[error("too big mbulk count string")]
    MultibulkHeader,
    /// `$` and a length that goes on and on.
    #[error("too big bulk count string")]
    BulkHeader,
    /// An argument that does not begin with `$`.
    #[error("expected '$', got '{}'", printable(*.0))]
    ExpectedBulk(u8),
    /// A bulk string longer than it said.
    #[error("expected CRLF after bulk")]
    ExpectedCrlf,
    /// More than [`Limits::request_bytes`] in one request.
    #[error("too big request")]
    RequestTooBig,
    /// More than [`Limits::inline_bytes`] without a line end.
    #[error("too big inline request")]
    InlineTooBig,
    /// Quotes of an inline line do not close.
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The first bytes of a TLS handshake.
    #[error("TLS on a plain-text port")]
    Tls,
    /// There is no memory for the rest of it, or it may not have any.
    #[error("out of memory")]
    NoMemory,
    /// A browser or a proxy, perhaps made to speak to us by a hostile page: nothing is answered.
    #[error("an HTTP request")]
    Http,
}

/// The byte itself where it is one printable character, so that an error stays one line.
fn printable(byte: u8) -> char {
    match byte {
        0x20..=0x7e => byte as char,
        _ => '?',
    }
}

/// What [`RequestReader::advance`] found.
enum Found {
    Nothing,
    Inline,
    Array,
}

/// A connection's read buffer, and how far the request at its front has been read.
#[derive(Debug, Default)]
pub struct RequestReader {
    /// Received bytes are `buffer[start..end]`.
    buffer: Buffer,
    start: usize,
    end: usize,
    /// Bytes of the request at `start` already read; all of it once it was handed out.
    cursor: usize,
    /// The request at `start` was handed out and is released by the next call.
    handed_out: bool,
    /// Arguments announced by the array at `start`; 0 while none is under way.
    announced: usize,
    /// Its arguments read so far, relative to `start`.
    arguments: Buffer<Range<usize>>,
    /// Bytes from `start` to the end of the argument under way, as far as known.
    wanted: usize,
    /// How much the last read brought.
    last_read: usize,
    /// What the buffer takes beyond the bound of memory.
    slack: Slack,
    /// The words of the inline request at `start`.
    words: Words,
}

impl RequestReader {
    /// Reads once from `source` into the buffer; `Ok(0)` is the end of the stream.
    ///
    /// Call it when [`next`](Self::next) gave `None`. The buffer doubles only when it is full of
    /// received bytes, so it never holds more than twice what was received and [`READ_BUFFER_BYTES`]; and
    /// it is given back when nothing is under way and the last read did not need it. An error of kind
    /// `OutOfMemory` says that the request under way may not grow.
    pub fn fill(&mut self, mut source: impl Read) -> io::Result<usize> {
        self.release();
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == 0 && self.last_read < self.buffer.len() / 4 {
            self.shrink_to(READ_BUFFER_BYTES);
        }
        if self.end == self.buffer.len() {
            // The last argument, once its length is known, tells where the request ends.
            let is_last = self.arguments.len() + 1 == self.announced;
            let most = match is_last && self.wanted > self.end {
                true => self.wanted.max(BURST_BYTES_MAX),
                false => usize::MAX,
            };
            let least = if self.buffer.is_empty() { IDLE_BUFFER_BYTES } else { READ_BUFFER_BYTES };
            self.grow((2 * self.end).max(least).min(most))?;
        }
        self.last_read = source.read(&mut self.buffer[self.end..])?;
        self.end += self.last_read;
        if self.end == self.buffer.len() && self.end < BURST_BYTES_MAX {
            // There may be more to read: if there is no memory for it, that is soon enough to say.
            let _ = self.grow((2 * self.end).max(READ_BUFFER_BYTES));
        }
        Ok(self.last_read)
    }

    /// The client is idle: gives back what memory it can.
    pub fn rest(&mut self) {
        self.release();
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.shrink_to(IDLE_BUFFER_BYTES);
            self.arguments = Buffer::default();
            self.words = Words::default();
        }
    }

    /// Bytes received of a request that is not complete.
    pub fn pending_bytes(&self) -> usize {
        match self.handed_out {
            true => self.end - self.start - self.cursor,
            false => self.end - self.start,
        }
    }

    /// Memory it holds, in bytes.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity() + self.arguments.capacity() * size_of::<Range<usize>>()
    }

    /// An empty buffer of at most `length`.
    fn shrink_to(&mut self, length: usize) {
        let mut smaller = Buffer::default();
        if self.buffer.len() > length && smaller.resize(length, 0).is_ok() {
            self.buffer = smaller;
            self.slack.release();
        }
    }

    fn grow(&mut self, length: usize) -> io::Result<()> {
        let more = length - self.buffer.len();
        let claim = memory::claim(more);
        let may = length <= LARGE_REQUEST_BYTES
            || claim.is_some()
            || length <= SLACK_REQUEST_BYTES && self.slack.take(more);
        if !may {
            return Err(Errno::NOMEM.into());
        }
        self.buffer.reserve_exact(more)?;
        Ok(self.buffer.resize(length, 0)?)
    }

    /// The next complete request, `None` if more bytes are needed first. What `telnet` says before it is to be
    /// answered before it.
    pub fn next(
        &mut self,
        limits: &Limits,
        telnet: &mut Telnet,
    ) -> Result<Option<Request<'_>>, ProtocolError> {
        self.release();
        let request = match self.advance(limits, telnet)? {
            Found::Nothing => return Ok(None),
            Found::Inline => {
                let (bytes, spans) = self.words.parts();
                Request { bytes, spans, inline: true }
            }
            Found::Array => Request {
                bytes: &self.buffer[self.start..self.end],
                spans: &self.arguments,
                inline: false,
            },
        };
        self.handed_out = true;
        Ok(Some(request))
    }

    fn release(&mut self) {
        if self.handed_out {
            self.handed_out = false;
            self.skip();
        }
    }

    /// Drops what was read of the request at `start`: the next one begins at the cursor.
    fn skip(&mut self) {
        self.start += self.cursor;
        self.cursor = 0;
        self.announced = 0;
        self.wanted = 0;
        self.arguments.clear();
        self.arguments.shrink_to(CLIENT_SPARE_BYTES_MAX / size_of::<Range<usize>>());
        self.words.clear(CLIENT_SPARE_BYTES_MAX);
    }

    fn advance(&mut self, limits: &Limits, telnet: &mut Telnet) -> Result<Found, ProtocolError> {
        loop {
            if self.announced > 0 {
                return self.array(limits);
            }
            match self.buffer[self.start..self.end] {
                [] => return Ok(Found::Nothing),
                [0x16, ..] => return Err(ProtocolError::Tls),
                [telnet::IAC, ..] if self.cursor == 0 => {
                    match telnet.command(&self.buffer[self.start..self.end]) {
                        Some(0) => self.cursor = 1,
                        Some(length) => self.start += length,
                        None => return Ok(Found::Nothing),
                    }
                }
                [b'*', ..] => {
                    let header = self.header();
                    let header = header.map_err(|fault| match fault {
                        HeaderFault::Endless => ProtocolError::MultibulkHeader,
                        HeaderFault::Malformed => ProtocolError::MultibulkLength,
                    })?;
                    let Some((count, after)) = header else { return Ok(Found::Nothing) };
                    self.cursor = after;
                    match usize::try_from(count) {
                        Ok(0) | Err(_) => self.skip(),
                        Ok(count) if count <= limits.arguments => self.announced = count,
                        Ok(_) if limits.is_unauthenticated => {
                            return Err(ProtocolError::UnauthenticatedMultibulkLength);
                        }
                        Ok(_) => return Err(ProtocolError::MultibulkLength),
                    }
                }
                _ => match self.inline(limits)? {
                    // A blank line or a comment: on to the next.
                    Some(()) if self.words.is_empty() => self.skip(),
                    Some(()) => return Ok(Found::Inline),
                    None => return Ok(Found::Nothing),
                },
            }
        }
    }

    /// Reads the line at `start` into `words`, which stay empty for a comment; `None` if its end has
    /// not arrived.
    fn inline(&mut self, limits: &Limits) -> Result<Option<()>, ProtocolError> {
        let received = &mut self.buffer[self.start..self.end];
        let Some(ahead) = memchr::memchr(b'\n', &received[self.cursor..]) else {
            self.cursor = received.len();
            let whole = received.strip_suffix(b"\r").unwrap_or(received);
            return match whole.len() > limits.inline_bytes {
                true => Err(ProtocolError::InlineTooBig),
                false => Ok(None),
            };
        };
        let mut length = self.cursor + ahead;
        self.cursor = length + 1;
        length -= usize::from(received[..length].ends_with(b"\r"));
        if length > limits.inline_bytes {
            return Err(ProtocolError::InlineTooBig);
        }
        let length = telnet::erase(&mut received[..length]);
        let line = &received[..length];
        if line.starts_with(b"#") {
            return Ok(Some(()));
        }
        if text::ends_in_http_version(line) {
            return Err(ProtocolError::Http);
        }
        text::split(line, &mut self.words).map_err(|error| match error {
            SplitError::Unbalanced => ProtocolError::UnbalancedQuotes,
            SplitError::NoMemory(_) => ProtocolError::NoMemory,
        })?;
        match is_http_header(&self.words) {
            true => Err(ProtocolError::Http),
            false => Ok(Some(())),
        }
    }

    /// Reads on in the array at `start`.
    fn array(&mut self, limits: &Limits) -> Result<Found, ProtocolError> {
        while self.arguments.len() < self.announced {
            let received = &self.buffer[self.start..self.end];
            match received.get(self.cursor) {
                None => return Ok(Found::Nothing),
                Some(b'$') => {}
                Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
            }
            let header = self.header().map_err(|fault| match fault {
                HeaderFault::Endless => ProtocolError::BulkHeader,
                HeaderFault::Malformed => ProtocolError::BulkLength,
            })?;
            let Some((length, begin)) = header else { return Ok(Found::Nothing) };
            let length = usize::try_from(length).map_err(|_| ProtocolError::BulkLength)?;
            if length > limits.argument_bytes {
                return Err(match limits.is_unauthenticated {
                    true => ProtocolError::UnauthenticatedBulkLength,
                    false => ProtocolError::BulkLength,
                });
            }
            let end = begin + length;
            if end > limits.request_bytes {
                return Err(ProtocolError::RequestTooBig);
            }
            self.wanted = end + 2;
            match received.get(end..end.saturating_add(2).min(received.len())) {
                Some(b"\r\n") => {}
                None | Some(b"" | b"\r") => return Ok(Found::Nothing),
                Some(_) => return Err(ProtocolError::ExpectedCrlf),
            }
            self.arguments.push(begin..end).map_err(|_| ProtocolError::NoMemory)?;
            self.cursor = end + 2;
        }
        Ok(Found::Array)
    }

    /// Reads the number of the header line at the cursor, and where the line ends, relative to
    /// `start`; `None` if that has not arrived.
    fn header(&self) -> Result<Option<(i64, usize)>, HeaderFault> {
        let line = &self.buffer[self.start + self.cursor..self.end];
        let head = &line[1..line.len().min(HEADER_BYTES_MAX)];
        let Some(stop) = memchr::memchr2(b'\r', b'\n', head) else {
            return match line.len() >= HEADER_BYTES_MAX {
                true => Err(HeaderFault::Endless),
                false => Ok(None),
            };
        };
        match (head[stop], line.get(stop + 2)) {
            (b'\r', Some(b'\n')) => {}
            (b'\r', None) => return Ok(None),
            _ => return Err(HeaderFault::Malformed),
        }
        let number = text::integer(&head[..stop]).ok_or(HeaderFault::Malformed)?;
        Ok(Some((number, self.cursor + stop + 3)))
    }
}

enum HeaderFault {
    Endless,
    Malformed,
}

/// Whether a line belongs to an HTTP request though its end does not tell: a method that is no command, or the
/// header that a cross-protocol attack cannot avoid. `GET /` alone is a read of the key `/`.
fn is_http_header(words: &Words) -> bool {
    const HOST: &[u8] = b"Host:";
    let Some(first) = words.iter().next() else { return false };
    let is_host = first.get(..HOST.len()).is_some_and(|start| start.eq_ignore_ascii_case(HOST));
    is_host || first.eq_ignore_ascii_case(b"POST")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(reader: &mut RequestReader) -> Result<Option<Request<'_>>, ProtocolError> {
        reader.next(&Limits::default(), &mut Telnet::default())
    }

    /// Everything a stream of bytes holds: its requests, then how it ends.
    fn read_all(chunks: &[&[u8]]) -> (Vec<Vec<Vec<u8>>>, Result<usize, ProtocolError>) {
        let mut reader = RequestReader::default();
        let mut requests = Vec::new();
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                reader.fill(&mut rest).unwrap();
                loop {
                    match next(&mut reader) {
                        Ok(Some(request)) => {
                            requests.push(request.words_from(0).map(<[u8]>::to_vec).collect());
                        }
                        Ok(None) => break,
                        Err(error) => return (requests, Err(error)),
                    }
                }
            }
        }
        reader.release();
        (requests, Ok(reader.end - reader.start))
    }

    fn error_of(bytes: &[u8]) -> ProtocolError {
        read_all(&[bytes]).1.unwrap_err()
    }

    #[test]
    fn a_stream_reads_the_same_however_it_is_cut() {
        let stream = b"PING\r\n\r\n# note \"\n*0\r\n*-10\r\n  SET a \"x y\\x00\\n\"\n*2\r\n$3\r\nGET\r\n\
            $4\r\n\r\n\r\n\r\n*1\r\n$0\r\n\r\nGET /\r\nPI\0NG\n*2\r\n$4\r\nECHO\r\n$1\r\n*\r\nDEL a";
        let whole = read_all(&[stream]);
        let names: Vec<_> = whole.0.iter().map(|request| request[0].as_slice()).collect();
        assert_eq!(names, [&b"PING"[..], b"SET", b"GET", b"", b"GET", b"PI\0NG", b"ECHO"]);
        assert_eq!(whole.0[1], [&b"SET"[..], b"a", b"x y\0\n"]);
        assert_eq!(whole.0[2], [&b"GET"[..], b"\r\n\r\n"]);
        assert_eq!(whole.1, Ok(5), "half a request stays pending");
        for cut in 0..=stream.len() {
            assert_eq!(read_all(&[&stream[..cut], &stream[cut..]]), whole, "cut at {cut}");
        }
        let bytes: Vec<_> = stream.chunks(1).collect();
        assert_eq!(read_all(&bytes), whole);
    }

    #[test]
    fn malformed_requests_are_refused_by_name() {
        use ProtocolError::*;
        let cases: &[(&[u8], ProtocolError)] = &[
            (b"*3000000000\r\n", MultibulkLength),
            (b"*2147483647\r\n", MultibulkLength),
            (b"*1048577\r\n", MultibulkLength),
            (b"*-9223372036854775809\r\n", MultibulkLength),
            (b"*1234567890123456789012\r\n", MultibulkLength),
            (b"*01\r\n", MultibulkLength),
            (b"*+1\r\n", MultibulkLength),
            (b"* 1\r\n", MultibulkLength),
            (b"*1abc\r\n", MultibulkLength),
            (b"*-0\r\n", MultibulkLength),
            (b"*\r\n", MultibulkLength),
            (b"*1\rX", MultibulkLength),
            (b"*1\n", MultibulkLength),
            (b"*11111111111111111111111111111111", MultibulkHeader),
            (b"*1\r\n$-1\r\n", BulkLength),
            (b"*1\r\n$blabla\r\n", BulkLength),
            (b"*1\r\n$536870913\r\n", BulkLength),
            (b"*1\r\n$9223372036854775807\r\n", BulkLength),
            (b"*1\r\n$18446744073709551615\r\n", BulkLength),
            (b"*1\r\n$4294967296\r\nXX", ProtocolError::BulkLength),
            (b"*1\r\n$0:\r\n", BulkLength),
            (b"*1\r\n$4\nPING\n", BulkLength),
            (b"*1\r\n$11111111111111111111111111111111", BulkHeader),
            (b"*1\r\nfoo\r\n", ExpectedBulk(b'f')),
            (b"*1\r\n:1\r\n", ExpectedBulk(b':')),
            (b"*1\r\n*1\r\n", ExpectedBulk(b'*')),
            (b"*1\r\n$4\r\nPINGXXPING\r\n", ExpectedCrlf),
            (b"*1\r\n$4\r\nPING\rX", ExpectedCrlf),
            (b"SET a \"b\r\n", UnbalancedQuotes),
            (b"SET a \"b\"c\r\n", UnbalancedQuotes),
            (b"\x16\x03\x01\x02\x00", Tls),
            (b"POST / HTTP/1.1\r\n", Http),
            (b"GET / HTTP/1.1\r\n", Http),
            (b"Host: a\r\n", Http),
            (b"hOST:a\r\n", Http),
            (b"post /\r\n", Http),
            (b"FLUSHALL / HTTP/1.1\r\n", Http),
            (b"SET /x HTTP/1.1\r\n", Http),
            (b"PROPFIND / HTTP/1.1\r\n", Http),
            (b"GET / http/1.1\r\n", Http),
            (b"GET / hTtP/0.9 \t\n", Http),
            (b"PRI * HTTP/2.0\r\n", Http),
            (b"GET /a'b\" HTTP/1.1\r\n", Http),
            (b"HTTP/1.1\r\n", Http),
        ];
        for (bytes, expected) in cases {
            assert_eq!(error_of(bytes), *expected, "{}", bytes.escape_ascii());
        }
        assert_eq!(ExpectedBulk(b'\r').to_string(), "expected '$', got '?'");
    }

    #[test]
    fn what_only_looks_like_http_is_a_request() {
        let array = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$8\r\nHTTP/1.1\r\n";
        let lines = [
            &b"SET a \"HTTP/1.1\"\n"[..],
            b"SET a 'x HTTP/1.1'\n",
            b"SET a HTTP/1.x\n",
            b"SET a HTTP/1.11\n",
            b"SET a xHTTP/1.1\n",
            b"SET a HTTP/1.1 EX 10\n",
            b"GET /\n",
            array,
        ];
        for bytes in lines {
            let (requests, end) = read_all(&[bytes]);
            assert_eq!((requests.len(), end), (1, Ok(0)), "{}", bytes.escape_ascii());
        }
        assert_eq!(read_all(&[b"# GET / HTTP/1.1\n"]), (vec![], Ok(0)));
    }

    #[test]
    fn an_inline_line_may_be_one_mebibyte_long() {
        let mut line = vec![b'A'; INLINE_BYTES_MAX];
        line.extend_from_slice(b"\r\n");
        assert_eq!(read_all(&[&line]).0[0][0].len(), INLINE_BYTES_MAX);
        line.insert(0, b'A');
        assert_eq!(error_of(&line), ProtocolError::InlineTooBig);
        assert_eq!(error_of(&line[..INLINE_BYTES_MAX + 1]), ProtocolError::InlineTooBig);
    }

    #[test]
    fn nothing_is_reserved_from_a_declared_length() {
        for declared in [&b"*1048576\r\n"[..], b"*2\r\n$3\r\nGET\r\n$536870912\r\nA"] {
            let mut reader = RequestReader::default();
            let mut rest = declared;
            reader.fill(&mut rest).unwrap();
            assert!(next(&mut reader).unwrap().is_none());
            assert_eq!(reader.buffer.capacity(), IDLE_BUFFER_BYTES);
            assert!(reader.arguments.capacity() < 16);
        }
    }

    #[test]
    fn the_buffer_follows_what_arrives_and_is_given_back() {
        let value = vec![b'v'; 3 << 20];
        let mut request =
            format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${}\r\n", value.len()).into_bytes();
        request.extend_from_slice(&value);
        request.extend_from_slice(b"\r\n");
        let mut reader = RequestReader::default();
        let mut rest = &request[..];
        while next(&mut reader).unwrap().is_none() {
            let received = reader.end + reader.fill(&mut rest).unwrap();
            assert!(reader.buffer.capacity() <= 2 * received.max(READ_BUFFER_BYTES));
        }
        assert_eq!(reader.buffer.capacity(), request.len());
        for _ in 0..2 {
            assert_eq!(reader.fill(&b"PING\r\n"[..]).unwrap(), 6);
            assert!(next(&mut reader).unwrap().is_some());
        }
        assert_eq!(reader.buffer.capacity(), READ_BUFFER_BYTES);
        assert_eq!(reader.fill(&b"PIN"[..]).unwrap(), 3);
        reader.rest();
        assert_eq!(reader.buffer.capacity(), READ_BUFFER_BYTES, "half a request is kept");
        assert_eq!(reader.fill(&b"G\r\n"[..]).unwrap(), 3);
        assert!(next(&mut reader).unwrap().is_some());
        reader.rest();
        assert_eq!(reader.buffer.capacity(), IDLE_BUFFER_BYTES);
        assert!(next(&mut reader).unwrap().is_none());
    }

    #[test]
    fn little_is_read_before_the_password() {
        let error = |bytes: &[u8]| {
            let mut reader = RequestReader::default();
            let mut rest = bytes;
            loop {
                reader.fill(&mut rest).unwrap();
                if let Err(error) = reader.next(&Limits::UNAUTHENTICATED, &mut Telnet::default()) {
                    return error;
                }
            }
        };
        assert_eq!(error(b"*11\r\n"), ProtocolError::UnauthenticatedMultibulkLength);
        assert_eq!(error(b"*2\r\n$16385\r\n"), ProtocolError::UnauthenticatedBulkLength);
        assert_eq!(error(&[b'A'; 16_385]), ProtocolError::InlineTooBig);
    }

    #[test]
    fn telnet_s_commands_are_no_requests() {
        // Ctrl-C between two lines and an option it asks for; then IAC as an ordinary byte.
        let stream = b"PING\r\n\xff\xf4\xff\xfd\x06\xff\xfb\x1fPONF\x08G\r\n\xffx\r\n";
        let whole = read_all(&[stream]);
        assert_eq!(whole.0, [[b"PING".to_vec()], [b"PONG".to_vec()], [b"\xffx".to_vec()]]);
        for cut in 0..=stream.len() {
            assert_eq!(read_all(&[&stream[..cut], &stream[cut..]]), whole, "cut at {cut}");
        }
        let mut reader = RequestReader::default();
        reader.fill(&stream[6..]).unwrap();
        let mut telnet = Telnet::default();
        assert!(reader.next(&Limits::default(), &mut telnet).unwrap().is_some());
        assert_eq!(telnet.take_answers().unwrap(), b"\xff\xfb\x06\xff\xfe\x1f");
        assert_eq!(telnet.take_answers(), None);
    }

    #[test]
    fn a_full_buffer_may_end_anywhere_in_the_last_header() {
        for full in [BURST_BYTES_MAX, 2 * BURST_BYTES_MAX] {
            for key_bytes in full - 50..full {
                let mut request = format!("*3\r\n$3\r\nSET\r\n${key_bytes}\r\n").into_bytes();
                request.resize(request.len() + key_bytes, b'k');
                request.extend_from_slice(b"\r\n$5\r\nvalue\r\n");
                let (mut reader, mut rest) = (RequestReader::default(), &request[..]);
                while next(&mut reader).unwrap().is_none() {
                    assert!(reader.fill(&mut rest).unwrap() > 0, "a key of {key_bytes} bytes");
                }
            }
        }
    }

    #[test]
    fn many_small_arguments_are_read_in_few_reads() {
        let mut request = b"*100001\r\n$6\r\nEXISTS\r\n".to_vec();
        (0..100_000).for_each(|_| request.extend_from_slice(b"$3\r\nkey\r\n"));
        let (mut reader, mut rest, mut reads) = (RequestReader::default(), &request[..], 0);
        while next(&mut reader).unwrap().is_none() {
            reader.fill(&mut rest).unwrap();
            reads += 1;
        }
        assert!(reads < 20, "{reads} reads");
        assert!(reader.buffer.capacity() <= 2 * request.len());
    }
}
