//! A request, the bounds of one, and the errors of malformed ones. Parsing is left to [`super::reader`], and what the
//! words mean to the commands.

use std::ops::{Index, Range};

use crate::limits::{
    ARGUMENTS_MAX, INLINE_BYTES_MAX, REQUEST_BYTES_MAX, UNAUTHENTICATED_ARGUMENT_BYTES_MAX,
    UNAUTHENTICATED_ARGUMENTS_MAX, VALUE_BYTES_MAX,
};
use crate::util::buffer::Buffer;
use crate::util::memory::NoMemory;

/// How large a request may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Number of words.
    pub arguments: usize,
    /// One argument of an array, in bytes.
    pub argument_bytes: usize,
    /// A line, in bytes.
    pub inline_bytes: usize,
    /// All of it, in bytes.
    pub request_bytes: usize,
    /// The client has not given the password yet.
    pub is_unauthenticated: bool,
}

impl Limits {
    /// With the bounds of the settings.
    pub const fn new(argument_bytes: usize, request_bytes: usize) -> Self {
        Self {
            arguments: ARGUMENTS_MAX,
            argument_bytes,
            inline_bytes: INLINE_BYTES_MAX,
            request_bytes,
            is_unauthenticated: false,
        }
    }

    /// Enough for `AUTH`.
    pub const UNAUTHENTICATED: Self = Self {
        arguments: UNAUTHENTICATED_ARGUMENTS_MAX,
        argument_bytes: UNAUTHENTICATED_ARGUMENT_BYTES_MAX,
        inline_bytes: UNAUTHENTICATED_ARGUMENT_BYTES_MAX,
        request_bytes: 2 * UNAUTHENTICATED_ARGUMENTS_MAX * UNAUTHENTICATED_ARGUMENT_BYTES_MAX,
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
    pub(super) bytes: &'a [u8],
    pub(super) spans: &'a [Range<usize>],
    /// Whether it was sent as a line, as a person in telnet types it, and not as a RESP array.
    pub inline: bool,
}

impl<'a> Request<'a> {
    /// Number of words, the command's name included; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a request is never empty")]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// The same request without so many of its first words, which are not all.
    pub fn without(&self, words: usize) -> Request<'a> {
        Request { spans: &self.spans[words..], ..*self }
    }

    /// The words from the `first` on.
    pub fn words_from(&self, first: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
        let bytes = self.bytes;
        self.spans[first..].iter().map(move |span| &bytes[span.clone()])
    }
}

/// A copy of a request, between `MULTI` and `EXEC`.
#[derive(Debug)]
pub struct QueuedRequest {
    bytes: Buffer,
    spans: Buffer<Range<usize>>,
    inline: bool,
}

impl QueuedRequest {
    /// A copy of a request; an error if there is no memory for it.
    pub fn new(request: &Request<'_>) -> Result<Self, NoMemory> {
        let length = request.words_from(0).map(<[u8]>::len).sum();
        let bytes = Buffer::with_capacity(length)?;
        let spans = Buffer::with_capacity(request.len())?;
        let mut copy = Self { bytes, spans, inline: request.inline };
        request.words_from(0).try_for_each(|word| copy.push_word(word))?;
        Ok(copy)
    }

    /// Without words, which is no request yet.
    pub fn empty() -> Self {
        Self { bytes: Buffer::default(), spans: Buffer::default(), inline: false }
    }

    /// Removes all words, and the memory beyond `spare_bytes_max`.
    pub fn clear(&mut self, spare_bytes_max: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(spare_bytes_max);
        self.spans.clear();
        self.spans.shrink_to(spare_bytes_max / size_of::<Range<usize>>());
    }

    /// Adds a word.
    pub fn push_word(&mut self, word: &[u8]) -> Result<(), NoMemory> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(word)?;
        self.spans.push(start..self.bytes.len())
    }

    /// The request.
    pub fn request(&self) -> Request<'_> {
        Request { bytes: &self.bytes, spans: &self.spans, inline: self.inline }
    }

    /// The memory that it takes, in bytes.
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

/// Why a client's bytes are not a request. The connection answers with this text and closes, as it cannot tell where
/// the next request begins.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// `*count` is not a number, or beyond [`Limits::arguments`].
    #[error("invalid multibulk length")]
    MultibulkLength,
    /// `$length` is not a number, negative, or beyond [`Limits::argument_bytes`].
    #[error("invalid bulk length")]
    BulkLength,
    /// More arguments than an unauthenticated client may send.
    #[error("unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// A longer argument than an unauthenticated client may send.
    #[error("unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// A `*count` line without an end.
    #[error("too big mbulk count string")]
    MultibulkHeader,
    /// A `$length` line without an end.
    #[error("too big bulk count string")]
    BulkHeader,
    /// An argument that does not begin with `$`.
    #[error("expected '$', got '{}'", printable(*.0))]
    ExpectedBulk(u8),
    /// A bulk string that is longer than its length.
    #[error("expected CRLF after bulk")]
    ExpectedCrlf,
    /// More than [`Limits::request_bytes`] in one request.
    #[error("too big request")]
    RequestTooBig,
    /// More than [`Limits::inline_bytes`] without a line end.
    #[error("too big inline request")]
    InlineTooBig,
    /// Quotes in an inline line that do not close.
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The first bytes of a TLS handshake.
    #[error("TLS on a plain-text port")]
    Tls,
    /// The system or `--maxmemory` refuses memory for the rest of the request.
    #[error("out of memory")]
    NoMemory,
    /// An HTTP request, which a hostile web page may have made a browser send: it gets no answer.
    #[error("an HTTP request")]
    Http,
}

/// The byte itself if it is a printable character, so that an error stays one line.
fn printable(byte: u8) -> char {
    match byte {
        0x20..=0x7e => byte as char,
        _ => '?',
    }
}
