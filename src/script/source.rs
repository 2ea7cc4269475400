//! The text of a script, and what its first line says.

use super::cache::Sha;
use crate::limits::SCRIPT_BYTES_MAX;

/// The text of a script.
#[derive(Debug, PartialEq, Eq)]
pub struct Script {
    sha: Sha,
    text: Box<[u8]>,
    /// Where its first line ends if that says how it is to be run, else 0.
    body_start: usize,
    /// It may not write.
    is_readonly: bool,
}

/// Why a text is no script.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// It is too long.
    #[error("the script is longer than {SCRIPT_BYTES_MAX} bytes")]
    TooLong,
    /// Its first line begins with `#!` and has no end.
    #[error("Invalid script shebang")]
    Shebang,
    /// It is in another language.
    #[error("Unexpected engine in script shebang: {0}")]
    Engine(String),
    /// An option of the first line is unknown.
    #[error("Unknown lua shebang option: {0}")]
    ShebangOption(String),
    /// A flag of the first line is unknown.
    #[error("Unexpected flag in script shebang: {0}")]
    Flag(String),
}

impl Script {
    /// Reads the first line of a text, which may be `#!lua flags=no-writes`.
    pub fn new(text: &[u8]) -> Result<Self, ScriptError> {
        if text.len() > SCRIPT_BYTES_MAX {
            return Err(ScriptError::TooLong);
        }
        let sha = Sha::of(text);
        let mut script = Self { sha, text: text.into(), body_start: 0, is_readonly: false };
        if !text.starts_with(b"#!") {
            return Ok(script);
        }
        script.body_start = memchr::memchr(b'\n', text).ok_or(ScriptError::Shebang)?;
        let line = String::from_utf8_lossy(&text[2..script.body_start]).into_owned();
        let mut words = line.split_ascii_whitespace();
        let engine = words.next().unwrap_or_default();
        if engine != "lua" {
            return Err(ScriptError::Engine(format!("#!{engine}")));
        }
        for word in words {
            let flags = word.strip_prefix("flags=");
            let flags = flags.ok_or_else(|| ScriptError::ShebangOption(word.to_owned()))?;
            for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
                match flag {
                    "no-writes" => script.is_readonly = true,
                    "allow-oom" | "allow-stale" | "no-cluster" | "allow-cross-slot-keys" => {}
                    flag => return Err(ScriptError::Flag(flag.to_owned())),
                }
            }
        }
        Ok(script)
    }

    /// Its name.
    pub fn sha(&self) -> Sha {
        self.sha
    }

    /// All of it.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// What of it is Lua.
    pub fn body(&self) -> &[u8] {
        &self.text[self.body_start..]
    }

    /// Whether it says of itself that it does not write.
    pub fn is_readonly(&self) -> bool {
        self.is_readonly
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_may_say_how_a_script_is_run() {
        let script = Script::new(b"#!lua flags=no-writes,allow-oom\nreturn 1").unwrap();
        assert!(script.is_readonly());
        assert_eq!(script.body(), b"\nreturn 1", "its lines keep their numbers");
        let error = |text: &str| Script::new(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error("#!js\n"), "Unexpected engine in script shebang: #!js");
        assert_eq!(error("#!lua"), "Invalid script shebang");
        assert_eq!(error("#!lua x=1\n"), "Unknown lua shebang option: x=1");
        assert_eq!(error("#!lua flags=x\n"), "Unexpected flag in script shebang: x");
        assert_eq!(Script::new(&vec![b' '; SCRIPT_BYTES_MAX + 1]), Err(ScriptError::TooLong));
    }
}
