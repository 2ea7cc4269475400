//! The one reader of replies, RESP2 and RESP3, and the writer of requests.

use std::io::{self, BufRead, Read};

/// One reply, as its type byte says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    /// Of RESP2 `$-1` or `*-1`, of RESP3 `_`.
    Nil,
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Set(Vec<Reply>),
    /// As its digits are written.
    Double(String),
    Boolean(bool),
    BigNumber(String),
    /// With the three letters of its kind.
    Verbatim(String, Vec<u8>),
    Push(Vec<Reply>),
}

impl Reply {
    pub fn ok() -> Self {
        Self::Status("OK".to_owned())
    }

    pub fn pong() -> Self {
        Self::Status("PONG".to_owned())
    }

    pub fn queued() -> Self {
        Self::Status("QUEUED".to_owned())
    }

    pub fn bulk(text: &str) -> Self {
        Self::Bulk(text.as_bytes().to_vec())
    }

    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Bulk(bytes) => bytes,
            other => panic!("no bulk: {other:?}"),
        }
    }

    pub fn error_or_status(&self) -> &str {
        match self {
            Self::Error(text) | Self::Status(text) => text,
            other => panic!("no line: {other:?}"),
        }
    }

    pub fn error(&self) -> &str {
        match self {
            Self::Error(text) => text,
            other => panic!("no error: {other:?}"),
        }
    }
}

/// Reads one reply from `source`, and adds its bytes to `raw`. An error of kind `UnexpectedEof` where the source
/// ends, of kind `InvalidData` where the bytes are no reply.
pub fn read_reply(source: &mut impl BufRead, raw: &mut Vec<u8>) -> io::Result<Reply> {
    let start = raw.len();
    source.read_until(b'\n', raw)?;
    let whole = raw[start..].to_vec();
    if !whole.ends_with(b"\n") {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let wrong = || {
        let told = format!("no reply: {}", whole[..whole.len().min(80)].escape_ascii());
        io::Error::new(io::ErrorKind::InvalidData, told)
    };
    let (kind, line) = whole.split_first().ok_or_else(wrong)?;
    let line = line.strip_suffix(b"\r\n").ok_or_else(wrong)?;
    let text = String::from_utf8_lossy(line).into_owned();
    let number = text.parse::<i64>();
    let count = || number.clone().ok().and_then(|count| u64::try_from(count).ok());
    Ok(match kind {
        b'+' => Reply::Status(text),
        b'-' => Reply::Error(text),
        b':' => Reply::Integer(number.map_err(|_| wrong())?),
        b',' => Reply::Double(text),
        b'(' => Reply::BigNumber(text),
        b'#' if matches!(line, b"t" | b"f") => Reply::Boolean(line == b"t"),
        b'_' if line.is_empty() => Reply::Nil,
        b'$' | b'*' if line == b"-1" => Reply::Nil,
        b'$' => Reply::Bulk(read_bytes(source, raw, count().ok_or_else(wrong)?)?),
        b'=' => {
            let bytes = read_bytes(source, raw, count().ok_or_else(wrong)?)?;
            match bytes.split_at_checked(4) {
                Some((&[a, b, c, b':'], rest)) => {
                    Reply::Verbatim([a, b, c].map(char::from).iter().collect(), rest.to_vec())
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        b'*' | b'~' | b'>' | b'%' => {
            let count = count().ok_or_else(wrong)?;
            let mut each = |_: u64| read_reply(source, raw);
            match kind {
                b'*' => Reply::Array((0..count).map(each).collect::<Result<_, _>>()?),
                b'~' => Reply::Set((0..count).map(each).collect::<Result<_, _>>()?),
                b'>' => Reply::Push((0..count).map(each).collect::<Result<_, _>>()?),
                _ => {
                    let pair = |number| Ok((each(number)?, each(number)?));
                    Reply::Map((0..count).map(pair).collect::<io::Result<_>>()?)
                }
            }
        }
        _ => return Err(wrong()),
    })
}

/// So many bytes, and CR LF after them.
fn read_bytes(source: &mut impl BufRead, raw: &mut Vec<u8>, count: u64) -> io::Result<Vec<u8>> {
    let start = raw.len();
    let whole = source.take(count + 2).read_to_end(raw)? as u64;
    match raw[start..].strip_suffix(b"\r\n") {
        Some(bytes) if whole == count + 2 => Ok(bytes.to_vec()),
        None if whole == count + 2 => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A request as an array of bulk strings.
pub fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

#[test]
fn every_type_is_read_and_nothing_else() {
    let bytes = b"*11\r\n+OK\r\n-ERR no\r\n:-5\r\n$2\r\n\r\n\r\n$-1\r\n*-1\r\n_\r\n#t\r\n,1.5\r\n\
                  =7\r\ntxt:abc\r\n%1\r\n~1\r\n(12\r\n>0\r\n+next\r\n";
    let (mut rest, mut raw) = (&bytes[..], Vec::new());
    let expected = vec![
        Reply::ok(),
        Reply::Error("ERR no".to_owned()),
        Reply::Integer(-5),
        Reply::bulk("\r\n"),
        Reply::Nil,
        Reply::Nil,
        Reply::Nil,
        Reply::Boolean(true),
        Reply::Double("1.5".to_owned()),
        Reply::Verbatim("txt".to_owned(), b"abc".to_vec()),
        Reply::Map(vec![(
            Reply::Set(vec![Reply::BigNumber("12".to_owned())]),
            Reply::Push(Vec::new()),
        )]),
    ];
    assert_eq!(read_reply(&mut rest, &mut raw).unwrap(), Reply::Array(expected));
    assert_eq!((rest, raw.len()), (&b"+next\r\n"[..], bytes.len() - 7));
    for length in 0..bytes.len() - 7 {
        let error = read_reply(&mut &bytes[..length], &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}");
    }
    for wrong in
        [&b"+OK\n"[..], b":x\r\n", b"$-2\r\n", b"$1\r\nab\r\n", b"#x\r\n", b"PONG\r\n", b"\r\n"]
    {
        let error = read_reply(&mut &wrong[..], &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{}", wrong.escape_ascii());
    }
}
