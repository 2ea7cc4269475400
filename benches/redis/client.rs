//! One blocking connection: requests out, replies in or skipped. It knows the grammar of RESP, not what a
//! command means. An error reply is an error that names the server.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::error::{Context, Error, Result};

/// No server is silent for longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection to a server.
pub struct Client {
    /// The server's.
    name: String,
    writer: TcpStream,
    reader: BufReader<TcpStream>,
    /// The request that is sent, kept for its memory.
    request: Vec<u8>,
    /// The first line of a reply, likewise.
    line: Vec<u8>,
}

impl Client {
    /// Connects to the server `name`.
    pub fn connect(name: &str, port: u16) -> Result<Self> {
        let connect = || {
            let writer = TcpStream::connect(("127.0.0.1", port))?;
            writer.set_nodelay(true)?;
            writer.set_read_timeout(Some(PATIENCE))?;
            writer.set_write_timeout(Some(PATIENCE))?;
            let reader = BufReader::with_capacity(64 << 10, writer.try_clone()?);
            Ok((writer, reader))
        };
        let (writer, reader) = connect().of_server(name)?;
        Ok(Self { name: name.to_owned(), writer, reader, request: Vec::new(), line: Vec::new() })
    }

    /// Sends a request and returns its reply, which is one line or one bulk string.
    pub fn call(&mut self, words: &[&str]) -> Result<String> {
        self.send(words)?;
        let mut reply = Vec::new();
        self.receive(Some(&mut reply))?;
        Ok(String::from_utf8_lossy(&reply).into_owned())
    }

    /// Sends a request and skips its reply; returns how many elements that has, 1 if it is no array.
    pub fn skip(&mut self, words: &[&str]) -> Result<usize> {
        self.send(words)?;
        self.receive(None)
    }

    /// Sends requests, and reads as many times `+OK`.
    pub fn send_all(&mut self, requests: &[u8], count: usize) -> Result<()> {
        self.writer.write_all(requests).of_server(&self.name)?;
        for _ in 0..count {
            self.receive(None)?;
        }
        Ok(())
    }

    /// Sends a request; its reply is still to be received.
    pub fn send(&mut self, words: &[&str]) -> Result<()> {
        self.request.clear();
        append_request(&mut self.request, words);
        self.writer.write_all(&self.request).of_server(&self.name)
    }

    /// Reads one reply; its text goes to `text`. Returns how many elements it has.
    pub fn receive(&mut self, text: Option<&mut Vec<u8>>) -> Result<usize> {
        self.line.clear();
        self.reader.read_until(b'\n', &mut self.line).of_server(&self.name)?;
        let (kind, line) = match self.line.trim_ascii_end().split_first() {
            Some((kind, line)) => (*kind, line),
            None => return Err(self.error("it closed the connection")),
        };
        let length = || std::str::from_utf8(line).ok()?.parse::<i64>().ok();
        match (kind, length()) {
            (b'+' | b':', _) => {
                let _ = text.map(|text| text.extend_from_slice(line));
                Ok(1)
            }
            (b'$', Some(length)) => self.bulk(length, text).of_server(&self.name).map(|()| 1),
            (b'*', Some(count)) => {
                for _ in 0..count {
                    self.receive(None)?;
                }
                Ok(usize::try_from(count).unwrap_or(0))
            }
            _ => Err(self.error(&String::from_utf8_lossy(line))),
        }
    }

    /// The connection itself: to wait for it, or to send from elsewhere.
    pub fn stream(&self) -> Result<TcpStream> {
        self.writer.try_clone().of_server(&self.name)
    }

    fn error(&self, said: &str) -> Error {
        Error::Server { name: self.name.clone(), said: said.to_owned() }
    }

    /// The bytes of a bulk string, and its line end; a negative length is that of nil.
    fn bulk(&mut self, length: i64, text: Option<&mut Vec<u8>>) -> io::Result<()> {
        let Ok(mut left) = usize::try_from(length) else { return Ok(()) };
        match text {
            Some(text) => {
                text.resize(left, 0);
                self.reader.read_exact(text)?;
                left = 2;
            }
            None => left += 2,
        }
        while left > 0 {
            let there = self.reader.fill_buf()?.len().min(left);
            if there == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.reader.consume(there);
            left -= there;
        }
        Ok(())
    }
}

/// Appends a request as an array of bulk strings.
pub fn append_request(bytes: &mut Vec<u8>, words: &[&str]) {
    bytes.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}
