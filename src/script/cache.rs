//! The texts of scripts by their SHA-1, and the sandboxes that run them, for all connections.

use std::collections::HashMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};

use super::sandbox::Sandbox;
use super::source::Script;
use super::watch::Watch;
use crate::limits::{
    SANDBOXES_MAX, SANDBOXES_SPARE_MAX, SCRIPT_OLD_MS, SCRIPTS_BYTES_MAX, SCRIPTS_MAX,
    SCRIPTS_SEEN_MAX,
};
use crate::util::sync::{lock, wait_timeout};

/// The SHA-1 of a script's text: its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sha([u8; 20]);

impl Sha {
    /// Of a text.
    pub fn of(text: &[u8]) -> Self {
        Self(Sha1::digest(text).into())
    }

    /// As a client writes it: 40 hexadecimal digits.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (pairs, []) = word.as_chunks::<2>() else { return None };
        let mut bytes = [0; 20];
        if pairs.len() != bytes.len() {
            return None;
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = (digit(*high)? << 4 | digit(*low)?) as u8;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Sha {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Why a script is not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many scripts are loaded, or too long ones: SCRIPT FLUSH forgets them")]
pub struct NotLoaded;

/// See the module.
#[derive(Debug, Default)]
pub struct Scripts {
    texts: Mutex<Texts>,
    sandboxes: Mutex<Sandboxes>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Texts {
    by_sha: HashMap<Sha, Known>,
    /// How long they are, in bytes.
    bytes: usize,
    /// How many of them were only seen by `EVAL`.
    seen: usize,
    /// Goes up with each use.
    clock: u64,
}

#[derive(Debug)]
struct Known {
    script: Arc<Script>,
    /// `SCRIPT LOAD` asked for it: it is kept until `SCRIPT FLUSH`.
    is_loaded: bool,
    used: u64,
}

#[derive(Debug, Default)]
struct Sandboxes {
    spare: Vec<Sandbox>,
    /// Those in use and those that are spare.
    count: usize,
    watches: Vec<Weak<Watch>>,
}

impl Scripts {
    /// The script of a name, if it is known.
    pub fn find(&self, sha: Sha) -> Option<Arc<Script>> {
        let mut texts = lock(&self.texts);
        texts.clock += 1;
        let clock = texts.clock;
        let known = texts.by_sha.get_mut(&sha)?;
        known.used = clock;
        Some(Arc::clone(&known.script))
    }

    /// Keeps a script; `is_loaded` says for good. One that was only seen may be forgotten for another.
    pub fn add(&self, script: Script, is_loaded: bool) -> Result<Arc<Script>, NotLoaded> {
        let (sha, script) = (script.sha(), Arc::new(script));
        let mut texts = lock(&self.texts);
        texts.clock += 1;
        let used = texts.clock;
        if let Some(known) = texts.by_sha.get_mut(&sha) {
            known.used = used;
            let is_new = is_loaded && !known.is_loaded;
            known.is_loaded |= is_loaded;
            let script = Arc::clone(&known.script);
            texts.seen -= usize::from(is_new);
            return Ok(script);
        }
        let bytes = script.text().len();
        while texts.bytes + bytes > SCRIPTS_BYTES_MAX
            || texts.by_sha.len() >= SCRIPTS_MAX
            || !is_loaded && texts.seen >= SCRIPTS_SEEN_MAX
        {
            if !texts.forget_one() {
                return if is_loaded { Err(NotLoaded) } else { Ok(script) };
            }
        }
        texts.bytes += bytes;
        texts.seen += usize::from(!is_loaded);
        texts.by_sha.insert(sha, Known { script: Arc::clone(&script), is_loaded, used });
        Ok(script)
    }

    /// Forgets all.
    pub fn flush(&self) {
        // What is forgotten is freed with nothing locked.
        let _texts = std::mem::take(&mut *lock(&self.texts));
        let _spare = lock(&self.sandboxes).take_spare();
    }

    /// How many are known, and how long they are in bytes.
    pub fn totals(&self) -> (usize, usize) {
        let texts = lock(&self.texts);
        (texts.by_sha.len(), texts.bytes)
    }

    /// Asks every script to end that runs for a while already; says whether there was one.
    pub fn kill(&self) -> bool {
        let watches: Vec<_> =
            lock(&self.sandboxes).watches.iter().filter_map(Weak::upgrade).collect();
        let old = Duration::from_millis(SCRIPT_OLD_MS);
        // All of them: no early end.
        watches.iter().filter(|watch| watch.end_older_than(old)).count() > 0
    }

    /// A sandbox that is free, or a new one; none if there are as many as there may be until `deadline`.
    pub fn take(
        &self,
        memory_bytes: usize,
        deadline: Instant,
    ) -> Option<mlua::Result<TakenSandbox<'_>>> {
        let taken = |sandbox| TakenSandbox { scripts: self, sandbox: Some(sandbox) };
        let mut sandboxes = lock(&self.sandboxes);
        loop {
            if let Some(sandbox) = sandboxes.spare.pop() {
                return Some(Ok(taken(sandbox)));
            }
            if sandboxes.count < SANDBOXES_MAX {
                sandboxes.count += 1;
                drop(sandboxes);
                let made = Sandbox::new(memory_bytes);
                let mut sandboxes = lock(&self.sandboxes);
                match &made {
                    Ok(sandbox) => {
                        sandboxes.watches.retain(|watch| watch.strong_count() > 0);
                        sandboxes.watches.push(Arc::downgrade(sandbox.watch()));
                    }
                    Err(_) => sandboxes.count -= 1,
                }
                return Some(made.map(taken));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            sandboxes = wait_timeout(&self.returned, sandboxes, left);
        }
    }
}

/// A sandbox in use, until it is dropped.
#[derive(Debug)]
pub struct TakenSandbox<'s> {
    scripts: &'s Scripts,
    sandbox: Option<Sandbox>,
}

impl Deref for TakenSandbox<'_> {
    type Target = Sandbox;

    fn deref(&self) -> &Sandbox {
        let Some(sandbox) = &self.sandbox else { unreachable!("it is given back at the end") };
        sandbox
    }
}

impl DerefMut for TakenSandbox<'_> {
    fn deref_mut(&mut self) -> &mut Sandbox {
        let Some(sandbox) = &mut self.sandbox else { unreachable!("it is given back at the end") };
        sandbox
    }
}

impl Drop for TakenSandbox<'_> {
    /// It is kept if the last script left nothing in it, and few are spare.
    fn drop(&mut self) {
        let is_sound = !thread::panicking();
        let sandbox = self.sandbox.take().filter(|_| is_sound);
        let sandbox = sandbox.and_then(|mut sandbox| sandbox.tidy().then_some(sandbox));
        let mut sandboxes = lock(&self.scripts.sandboxes);
        let mut left = None;
        match sandbox {
            Some(sandbox) if sandboxes.spare.len() < SANDBOXES_SPARE_MAX => {
                sandboxes.spare.push(sandbox);
            }
            other => {
                sandboxes.count -= 1;
                left = other;
            }
        }
        drop(sandboxes);
        drop(left);
        self.scripts.returned.notify_one();
    }
}

impl Texts {
    /// Forgets the script that was only seen and not used for the longest time; `false` if there is none.
    fn forget_one(&mut self) -> bool {
        let seen = self.by_sha.iter().filter(|(_, known)| !known.is_loaded);
        let Some(sha) = seen.min_by_key(|(_, known)| known.used).map(|(sha, _)| *sha) else {
            return false;
        };
        if let Some(known) = self.by_sha.remove(&sha) {
            self.bytes -= known.script.text().len();
            self.seen -= 1;
        }
        true
    }
}

impl Sandboxes {
    fn take_spare(&mut self) -> Vec<Sandbox> {
        self.count -= self.spare.len();
        std::mem::take(&mut self.spare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Script {
        Script::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_name_is_forty_digits() {
        let sha = Sha::of(b"return 1");
        assert_eq!(sha.to_string(), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
        assert_eq!(Sha::parse(sha.to_string().to_uppercase().as_bytes()), Some(sha));
        for word in [
            "",
            "e0",
            "e0e1f9fabfc9d4800c877a703b823ac0578ff8d",
            "x0e1f9fabfc9d4800c877a703b823ac0578ff8db",
        ] {
            assert_eq!(Sha::parse(word.as_bytes()), None);
        }
    }

    #[test]
    fn what_was_only_seen_makes_room() {
        let scripts = Scripts::default();
        let loaded = scripts.add(script("return 'loaded'"), true).unwrap().sha();
        let first = scripts.add(script("return 0"), false).unwrap().sha();
        let used = scripts.add(script("return 1"), false).unwrap().sha();
        for number in 2..SCRIPTS_SEEN_MAX + 1 {
            scripts.find(used);
            scripts.add(script(&format!("return {number}")), false).unwrap();
        }
        assert!(scripts.find(first).is_none(), "it was not used for the longest time");
        assert!(scripts.find(used).is_some() && scripts.find(loaded).is_some());
        // Seen before, and now loaded.
        scripts.add(script("return 1"), true).unwrap();
        assert_eq!(scripts.totals().0, SCRIPTS_SEEN_MAX + 1);
        scripts.flush();
        assert!(scripts.find(used).is_none() && scripts.totals() == (0, 0));
    }

    #[test]
    fn what_is_loaded_is_bounded() {
        let scripts = Scripts::default();
        for number in 0..SCRIPTS_MAX {
            scripts.add(script(&format!("return {number}")), true).unwrap();
        }
        assert_eq!(scripts.add(script("return 'more'"), true), Err(NotLoaded));
        assert!(scripts.add(script("return 'more'"), false).is_ok(), "it is run all the same");
    }
}
