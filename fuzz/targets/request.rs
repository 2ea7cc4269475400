//! Bytes of a client: the requests in them are the same however the bytes are cut, each is the same again when it is
//! sent as an array, and the reader takes memory only for what it received.
//!
//! The first byte chooses the pieces and the limits, the rest is what the client sends.

#![no_main]

use coffre::limits::{CLIENT_SPARE_BYTES_MAX, READ_BUFFER_BYTES};
use coffre::protocol::reader::RequestReader;
use coffre::protocol::request::{Limits, ProtocolError};
use coffre::protocol::telnet::Telnet;
use libfuzzer_sys::fuzz_target;

/// What a connection made of the bytes.
#[derive(Debug, PartialEq)]
struct Heard {
    requests: Vec<Vec<Vec<u8>>>,
    error: Option<ProtocolError>,
    answers: Vec<u8>,
}

fn hear(bytes: &[u8], piece_bytes: usize, limits: &Limits) -> Heard {
    let (mut reader, mut telnet) = (RequestReader::default(), Telnet::default());
    let mut heard = Heard { requests: Vec::new(), error: None, answers: Vec::new() };
    let mut received = 0;
    'pieces: for mut piece in bytes.chunks(piece_bytes) {
        while !piece.is_empty() {
            received += reader.fill(&mut piece).unwrap();
            // A range of 16 bytes for each argument, which takes 6 bytes at least; vectors double.
            let most = 2 * received + READ_BUFFER_BYTES + 6 * received + CLIENT_SPARE_BYTES_MAX;
            assert!(reader.capacity() <= most, "{} bytes for {received}", reader.capacity());
            loop {
                match reader.next(limits, &mut telnet) {
                    Ok(Some(request)) => {
                        heard.requests.push(request.words_from(0).map(<[u8]>::to_vec).collect());
                    }
                    Ok(None) => break,
                    Err(error) => {
                        heard.error = Some(error);
                        break 'pieces;
                    }
                }
            }
        }
    }
    heard.answers = telnet.take_answers().unwrap_or_default();
    heard
}

fuzz_target!(|data: &[u8]| {
    let [choice, bytes @ ..] = data else { return };
    let limits = match choice % 3 {
        0 => Limits::default(),
        1 => Limits::UNAUTHENTICATED,
        _ => Limits { arguments: 8, inline_bytes: 100, ..Limits::new(40, 200) },
    };
    let heard = hear(bytes, bytes.len().max(1), &limits);
    let cut = hear(bytes, 1 + usize::from(choice / 3), &limits);
    assert_eq!(heard, cut);
    for words in &heard.requests {
        assert!(!words.is_empty());
        let mut array = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            array.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            array.extend_from_slice(word);
            array.extend_from_slice(b"\r\n");
        }
        let again = hear(&array, 7, &Limits::default());
        assert_eq!((&again.requests[..], &again.error), (&[words.clone()][..], &None));
    }
});
