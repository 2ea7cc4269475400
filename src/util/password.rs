//! The password that `AUTH` asks for: never shown, and compared in constant time.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use subtle::ConstantTimeEq;

use crate::limits::PASSWORD_BYTES_MAX;

/// A password: 1 to [`PASSWORD_BYTES_MAX`] bytes.
#[derive(Clone)]
pub struct Password {
    padded: [u8; PASSWORD_BYTES_MAX],
    length: u64,
}

/// Why some bytes are no password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Nothing: a mistake, such as a variable that was never filled in, must not open the server to every client.
    #[error(
        "an empty password protects nothing; to ask for none, leave out --requirepass and COFFRE_REQUIREPASS"
    )]
    Empty,
    /// More than is compared.
    #[error("a password has at most {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
}

impl Password {
    /// The password of these bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, Unusable> {
        match bytes.len() {
            0 => Err(Unusable::Empty),
            1..=PASSWORD_BYTES_MAX => Ok(Self { padded: pad(bytes), length: bytes.len() as u64 }),
            _ => Err(Unusable::TooLong),
        }
    }

    /// The first line of a file.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(path)?;
        match first_line(&bytes) {
            [] => Err(io::Error::new(io::ErrorKind::InvalidData, "its first line is empty")),
            line => {
                Self::new(line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Whether `guess` is the password. The time that takes depends on neither of them.
    pub fn is(&self, guess: &[u8]) -> bool {
        let same_bytes = self.padded.ct_eq(&pad(guess));
        let same_length = self.length.ct_eq(&(guess.len() as u64));
        (same_bytes & same_length).into()
    }
}

/// The first line of a text, without its end.
pub fn first_line(text: &[u8]) -> &[u8] {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn pad(bytes: &[u8]) -> [u8; PASSWORD_BYTES_MAX] {
    let mut padded = [0; PASSWORD_BYTES_MAX];
    let length = bytes.len().min(PASSWORD_BYTES_MAX);
    padded[..length].copy_from_slice(&bytes[..length]);
    padded
}

impl FromStr for Password {
    type Err = Unusable;

    fn from_str(text: &str) -> Result<Self, Unusable> {
        Self::new(text.as_bytes())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_is_the_password() {
        let password: Password = "sesame".parse().unwrap();
        assert!(password.is(b"sesame"));
        let long = [b's'; PASSWORD_BYTES_MAX + 1];
        for guess in [&b""[..], b"sesam", b"sesame\0", b"sesamE", b"Sesame", b" sesame", &long] {
            assert!(!password.is(guess));
        }
        let longest = Password::new(&long[1..]).unwrap();
        assert!(longest.is(&long[1..]) && !longest.is(&long));
        assert_eq!(Password::new(&long).unwrap_err(), Unusable::TooLong);
        assert_eq!(Password::new(b"").unwrap_err(), Unusable::Empty);
        assert_eq!(format!("{password:?}"), "(redacted)");
    }
}
