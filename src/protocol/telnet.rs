//! What telnet sends besides lines: its own commands (RFC 854), and the keys that erase.
//!
//! On Ctrl-C, telnet sends IAC IP and IAC DO TIMING-MARK, and discards all output until the timing mark is answered
//! (RFC 860). All other options are declined, as the server is not a terminal. Sending the answers is left to the
//! connection.

/// "Interpret as command": the first byte of each telnet command. UTF-8 text never holds it.
pub const IAC: u8 = 255;

const SE: u8 = 240;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
const TIMING_MARK: u8 = 6;

/// Most answers that wait to be sent, in bytes. Further commands get no answer.
const ANSWERS_BYTES_MAX: usize = 1024;

/// Longest subnegotiation, in bytes.
const SUBNEGOTIATION_BYTES_MAX: usize = 256;

/// The answers that wait to be sent.
#[derive(Debug, Default)]
pub struct Telnet {
    answers: Vec<u8>,
}

impl Telnet {
    /// Handles the command at the start of `bytes`, which begin with [`IAC`]. Returns its length in bytes, 0 if it is not
    /// a command, `None` if more bytes are needed.
    pub fn command(&mut self, bytes: &[u8]) -> Option<usize> {
        match (*bytes.get(1)?, bytes.get(2)) {
            (SB, _) => subnegotiation(bytes),
            (WILL..=DONT, None) => None,
            (DO, Some(&TIMING_MARK)) => self.answer(WILL, TIMING_MARK),
            (DO, Some(option)) => self.answer(WONT, *option),
            (WILL, Some(option)) => self.answer(DONT, *option),
            (WONT | DONT, Some(_)) => Some(3),
            (SE.., _) => Some(2),
            _ => Some(0),
        }
    }

    fn answer(&mut self, command: u8, option: u8) -> Option<usize> {
        if self.answers.len() < ANSWERS_BYTES_MAX {
            self.answers.extend_from_slice(&[IAC, command, option]);
        }
        Some(3)
    }

    /// The answers since this was last called.
    pub fn take_answers(&mut self) -> Option<Vec<u8>> {
        match self.answers.is_empty() {
            true => None,
            false => Some(std::mem::take(&mut self.answers)),
        }
    }
}

/// The length of a subnegotiation, from IAC SB to IAC SE, as [`Telnet::command`] returns it.
fn subnegotiation(bytes: &[u8]) -> Option<usize> {
    let bytes = &bytes[..bytes.len().min(SUBNEGOTIATION_BYTES_MAX)];
    match bytes.windows(2).position(|pair| pair == [IAC, SE]) {
        Some(end) => Some(end + 2),
        None if bytes.len() == SUBNEGOTIATION_BYTES_MAX => Some(0),
        None => None,
    }
}

/// Applies backspace and delete to a typed line: each removes itself and the UTF-8 character before it. Returns the
/// length that is left.
pub fn erase(line: &mut [u8]) -> usize {
    const BACKSPACE: u8 = 0x08;
    const DELETE: u8 = 0x7f;
    let Some(first) = memchr::memchr2(BACKSPACE, DELETE, line) else { return line.len() };
    let mut length = first;
    for at in first..line.len() {
        match line[at] {
            BACKSPACE | DELETE => {
                while length > 0 {
                    length -= 1;
                    // Continuation bytes of UTF-8 belong to the byte before them.
                    if line[length] & 0xc0 != 0x80 {
                        break;
                    }
                }
            }
            byte => {
                line[length] = byte;
                length += 1;
            }
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_text() {
        let cases: &[(&[u8], Option<usize>)] = &[
            (b"\xff", None),
            (b"\xff\xf4", Some(2)),
            (b"\xff\xf2PING", Some(2)),
            (b"\xff\xfd", None),
            (b"\xff\xfd\x06", Some(3)),
            (b"\xff\xfe\x01", Some(3)),
            (b"\xff\xff", Some(2)),
            (b"\xff\xfa\x1f\x00\x50\xff", None),
            (b"\xff\xfa\x1f\x00\x50\xff\xf0PING", Some(7)),
            (b"\xffPING", Some(0)),
            (b"\xff\r\n", Some(0)),
        ];
        for (bytes, length) in cases {
            assert_eq!(Telnet::default().command(bytes), *length, "{}", bytes.escape_ascii());
        }
        let endless = [&[IAC, SB][..], &[b'x'; SUBNEGOTIATION_BYTES_MAX]].concat();
        assert_eq!(Telnet::default().command(&endless), Some(0));
    }

    #[test]
    fn answers_are_bounded() {
        let mut telnet = Telnet::default();
        (0..10_000).for_each(|_| assert_eq!(telnet.command(b"\xff\xfd\x06"), Some(3)));
        assert!(telnet.take_answers().unwrap().len() < ANSWERS_BYTES_MAX + 3);
    }

    #[test]
    fn backspace_and_delete_erase_a_character() {
        for (typed, meant) in [
            ("PINF\x08G", "PING"),
            ("SET a h\u{e9}\x7f\x7fx", "SET a x"),
            ("\x08\x08GET a", "GET a"),
            ("abc\x7f\x7f\x7f\x7f", ""),
            ("plain", "plain"),
        ] {
            let mut line = typed.as_bytes().to_vec();
            let length = erase(&mut line);
            assert_eq!(str::from_utf8(&line[..length]), Ok(meant));
        }
    }
}
