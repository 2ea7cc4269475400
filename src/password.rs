//! The password that `AUTH` asks for: never shown, and compared in constant time.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use subtle::ConstantTimeEq;

use crate::limits::PASSWORD_BYTES_MAX;

/// A password; an empty one asks for none.
#[derive(Clone)]
pub struct Password {
    padded: [u8; PASSWORD_BYTES_MAX],
    length: u64,
}

/// A password that is too long to be compared.
#[derive(Debug, thiserror::Error)]
#[error("a password has at most {PASSWORD_BYTES_MAX} bytes")]
pub struct TooLong;

impl Password {
    /// The password of these bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, TooLong> {
        if bytes.len() > PASSWORD_BYTES_MAX {
            return Err(TooLong);
        }
        Ok(Self { padded: pad(bytes), length: bytes.len() as u64 })
    }

    /// The first line of a file.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(path)?;
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line {
            [] => Err(io::Error::new(io::ErrorKind::InvalidData, "its first line is empty")),
            _ => Self::new(line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }

    /// Whether it asks for none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether `guess` is the password. How long that takes says nothing of it but that it has at most
    /// [`PASSWORD_BYTES_MAX`] bytes.
    pub fn is(&self, guess: &[u8]) -> bool {
        let same_bytes = self.padded.ct_eq(&pad(guess));
        let same_length = self.length.ct_eq(&(guess.len() as u64));
        (same_bytes & same_length).into()
    }
}

fn pad(bytes: &[u8]) -> [u8; PASSWORD_BYTES_MAX] {
    let mut padded = [0; PASSWORD_BYTES_MAX];
    let length = bytes.len().min(PASSWORD_BYTES_MAX);
    padded[..length].copy_from_slice(&bytes[..length]);
    padded
}

impl FromStr for Password {
    type Err = TooLong;

    fn from_str(text: &str) -> Result<Self, TooLong> {
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
        assert!(password.is(b"sesame") && !password.is_empty());
        let long = [b's'; PASSWORD_BYTES_MAX + 1];
        for guess in [&b""[..], b"sesam", b"sesame\0", b"sesamE", b"Sesame", b" sesame", &long] {
            assert!(!password.is(guess));
        }
        let longest = Password::new(&long[1..]).unwrap();
        assert!(longest.is(&long[1..]) && !longest.is(&long));
        assert!(Password::new(&long).is_err());
        assert_eq!(format!("{password:?}"), "(redacted)");
    }
}
