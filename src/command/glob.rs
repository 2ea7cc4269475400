//! Redis's key patterns: `*`, `?`, `[a-c]`, `[^x]`, `\x`; an unclosed `[` is legal.
//!
//! The stars of a pattern separate segments. The first is anchored at the start of the key and the last at its end. Those
//! between are found one after the other, each at its leftmost match, which leaves the most room for the next. A segment
//! of plain bytes is found by a linear substring search, a short one with classes by trying each position, a long one by
//! Shift-And, 64 positions at a time (Baeza-Yates and Gonnet, "A new approach to text searching", 1992).
//!
//! So a match takes at most key length times max(64, pattern length / 64) steps, a pattern takes at most 64 bytes of
//! memory for each of its bytes, and nothing recurses. Which keys to try is left to the engine.

use memchr::memmem;

use crate::limits::PATTERN_BYTES_MAX;

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern {
    /// Anchored at the start, and at the end too if `rest` is `None`.
    first: Vec<Class>,
    rest: Option<Rest>,
}

/// The segments after the first star.
#[derive(Debug)]
struct Rest {
    middle: Vec<Finder>,
    /// Anchored at the end.
    last: Vec<Class>,
}

/// The pattern is longer than [`PATTERN_BYTES_MAX`].
#[derive(Debug, thiserror::Error)]
#[error("pattern is longer than {PATTERN_BYTES_MAX} bytes")]
pub struct TooLong;

impl Pattern {
    /// Compiles a pattern.
    pub fn new(pattern: &[u8]) -> Result<Self, TooLong> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(TooLong);
        }
        let mut segments = vec![Vec::new()];
        let mut rest = pattern;
        while let [first, after @ ..] = rest {
            rest = after;
            let class = match (first, after) {
                (b'*', _) => {
                    segments.push(Vec::new());
                    continue;
                }
                (b'?', _) => Class::ANY,
                (b'[', _) => Class::parse(&mut rest),
                (b'\\', [escaped, after @ ..]) => {
                    rest = after;
                    Class::of(*escaped)
                }
                _ => Class::of(*first),
            };
            if let Some(segment) = segments.last_mut() {
                segment.push(class);
            }
        }
        let mut segments = segments.into_iter();
        let first = segments.next().unwrap_or_default();
        let rest = segments.next_back().map(|last| Rest {
            middle: segments.filter(|segment| !segment.is_empty()).map(Finder::new).collect(),
            last,
        });
        Ok(Self { first, rest })
    }

    /// Compiles a pattern in any letter case, for names in lower case.
    pub fn of_lower_case(pattern: &[u8]) -> Result<Self, TooLong> {
        // A client chooses the length: copy no more than can be compiled.
        let start = &pattern[..pattern.len().min(PATTERN_BYTES_MAX + 1)];
        Self::new(&start.to_ascii_lowercase())
    }

    /// The only key that matches, if there is only one.
    pub fn only(&self) -> Option<Vec<u8>> {
        let prefix = self.prefix();
        (self.rest.is_none() && prefix.len() == self.first.len()).then_some(prefix)
    }

    /// What every matching key begins with.
    pub fn prefix(&self) -> Vec<u8> {
        self.first.iter().map_while(Class::literal).collect()
    }

    /// Whether the whole of `key` matches.
    pub fn matches(&self, key: &[u8]) -> bool {
        let Some(Rest { middle, last }) = &self.rest else {
            return key.len() == self.first.len() && starts_with(key, &self.first);
        };
        if key.len() < self.first.len() + last.len() || !starts_with(key, &self.first) {
            return false;
        }
        let (mut key, end) =
            key[self.first.len()..].split_at(key.len() - self.first.len() - last.len());
        if !starts_with(end, last) {
            return false;
        }
        for finder in middle {
            let Some(after) = finder.find_end(key) else { return false };
            key = &key[after..];
        }
        true
    }
}

fn starts_with(key: &[u8], segment: &[Class]) -> bool {
    segment.iter().zip(key).all(|(class, byte)| class.contains(*byte))
}

/// A set of bytes, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Class([u64; 4]);

impl Class {
    const ANY: Self = Self([u64::MAX; 4]);

    fn of(byte: u8) -> Self {
        let mut class = Self::default();
        class.insert(byte);
        class
    }

    fn insert(&mut self, byte: u8) {
        self.0[byte as usize / 64] |= 1 << (byte % 64);
    }

    fn contains(&self, byte: u8) -> bool {
        self.0[byte as usize / 64] >> (byte % 64) & 1 == 1
    }

    /// The bytes of the set.
    fn bytes(&self) -> impl Iterator<Item = u8> {
        (0_u8..4).zip(self.0).flat_map(|(index, mut word)| {
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros() as u8;
                word &= word.checked_sub(1)?;
                Some(64 * index + bit)
            })
        })
    }

    /// The only byte of the set, if it has one.
    fn literal(&self) -> Option<u8> {
        let mut bytes = self.bytes();
        let first = bytes.next();
        if bytes.next().is_some() { None } else { first }
    }

    /// Parses what follows a `[`, through its `]`, as Redis does: `]` closes even as the first byte, `z-a` is `a-z`, the
    /// end of a range may be `]`, and the end of the pattern closes too.
    fn parse(rest: &mut &[u8]) -> Self {
        let mut class = Self::default();
        let negated = rest.first() == Some(&b'^');
        if negated {
            *rest = &rest[1..];
        }
        loop {
            *rest = match *rest {
                [] => break,
                [b'\\', escaped, after @ ..] => {
                    class.insert(*escaped);
                    after
                }
                [b']', after @ ..] => {
                    *rest = after;
                    break;
                }
                [from, b'-', to, after @ ..] => {
                    (*from.min(to)..=*from.max(to)).for_each(|byte| class.insert(byte));
                    after
                }
                [byte, after @ ..] => {
                    class.insert(*byte);
                    after
                }
            };
        }
        if negated {
            class.0.iter_mut().for_each(|word| *word = !*word);
        }
        class
    }
}

/// Finds one segment anywhere in a key.
#[derive(Debug)]
enum Finder {
    Literal(Box<memmem::Finder<'static>>),
    Short(Vec<Class>),
    Long(ShiftAnd),
}

impl Finder {
    fn new(segment: Vec<Class>) -> Self {
        let literal: Option<Vec<u8>> = segment.iter().map(Class::literal).collect();
        match literal {
            Some(bytes) => Self::Literal(Box::new(memmem::Finder::new(&bytes).into_owned())),
            None if segment.len() <= 64 => Self::Short(segment),
            None => Self::Long(ShiftAnd::new(&segment)),
        }
    }

    /// Where the leftmost match in `key` ends.
    fn find_end(&self, key: &[u8]) -> Option<usize> {
        match self {
            Self::Literal(finder) => finder.find(key).map(|start| start + finder.needle().len()),
            Self::Short(segment) => {
                let start = key.windows(segment.len()).position(|part| starts_with(part, segment));
                start.map(|start| start + segment.len())
            }
            Self::Long(search) => search.find_end(key),
        }
    }
}

/// A search whose state tells, for each prefix of the segment, whether it ends at the current byte.
#[derive(Debug)]
struct ShiftAnd {
    length: usize,
    words: usize,
    /// For each byte, `words` words: bit `i` tells whether the class at position `i` of the segment contains the byte.
    masks: Vec<u64>,
}

impl ShiftAnd {
    fn new(segment: &[Class]) -> Self {
        let words = segment.len().div_ceil(64);
        let mut any = vec![0; words];
        let (any_class, classes): (Vec<_>, Vec<_>) =
            segment.iter().enumerate().partition(|(_, class)| **class == Class::ANY);
        for (index, _) in any_class {
            any[index / 64] |= 1 << (index % 64);
        }
        let mut masks = any.repeat(256);
        for (index, class) in classes {
            for byte in class.bytes() {
                masks[byte as usize * words + index / 64] |= 1 << (index % 64);
            }
        }
        Self { length: segment.len(), words, masks }
    }

    fn find_end(&self, key: &[u8]) -> Option<usize> {
        if key.len() < self.length {
            return None;
        }
        let mut state = vec![0_u64; self.words];
        let last_bit = (self.length - 1) % 64;
        for (index, byte) in key.iter().enumerate() {
            let mask = &self.masks[*byte as usize * self.words..][..self.words];
            // A match may begin at every byte.
            let mut carry = 1;
            let mut last = 0;
            for (word, mask) in state.iter_mut().zip(mask) {
                let shifted = *word << 1 | carry;
                carry = *word >> 63;
                *word = shifted & mask;
                last = *word;
            }
            if last >> last_bit & 1 == 1 {
                return Some(index + 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &[u8], key: &[u8]) -> bool {
        Pattern::new(pattern).unwrap().matches(key)
    }

    #[test]
    fn patterns_match_as_in_redis() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("", &[""], &["a"]),
            ("*", &["", "abc"], &[]),
            ("a", &["a"], &["", "aa", "b"]),
            ("h?llo", &["hello", "h*llo"], &["hllo", "heello"]),
            ("h*llo", &["hllo", "heeeello"], &["hll", "hello!"]),
            ("h[ae]llo", &["hello", "hallo"], &["hillo"]),
            ("h[^e]llo", &["hallo"], &["hello"]),
            ("h[a-b]llo", &["hallo", "hbllo"], &["hcllo"]),
            ("[c-a]", &["b"], &["d"]),
            ("\\*\\?\\[\\\\", &["*?[\\"], &["xxxx"]),
            ("a\\", &["a\\"], &["a"]),
            ("[a\\]b]", &["]", "a"], &["\\"]),
            ("[]", &[], &["", "a", "]"]),
            ("[^]", &["a"], &[""]),
            ("[", &[], &["", "["]),
            ("[^", &["a"], &[""]),
            ("[abc", &["a", "c"], &["d", "[abc"]),
            ("[a-", &["a", "-"], &["b"]),
            ("[a-]", &["]", "^", "a"], &["-"]),
            ("*[a-c]x*", &["bx", "..cx.."], &["xa", "dx"]),
            ("a*b*c", &["abc", "a-b-b-c"], &["acb", "ab"]),
            ("*ab*ab*", &["abab", "xabyabz"], &["ab", "aab"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("**a**", &["a", "bab"], &["b"]),
            ("*?", &["a", "ab"], &[""]),
            ("*?b?*", &["abc", "abbb"], &["bc", "ab"]),
        ];
        for (pattern, yes, no) in cases {
            for key in *yes {
                assert!(
                    matches(pattern.as_bytes(), key.as_bytes()),
                    "{pattern} should match {key}"
                );
            }
            for key in *no {
                assert!(
                    !matches(pattern.as_bytes(), key.as_bytes()),
                    "{pattern} should not match {key}"
                );
            }
        }
    }

    /// The simplest correct matcher. It takes exponential time.
    fn reference(pattern: &[Option<Class>], key: &[u8]) -> bool {
        match (pattern, key) {
            ([], _) => key.is_empty(),
            ([None, rest @ ..], _) => {
                (0..=key.len()).any(|skipped| reference(rest, &key[skipped..]))
            }
            ([Some(class), rest @ ..], [byte, key @ ..]) => {
                class.contains(*byte) && reference(rest, key)
            }
            ([Some(_), ..], []) => false,
        }
    }

    #[test]
    fn patterns_match_as_the_reference_says() {
        for seed in 0..20_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut text = Vec::new();
            let mut tokens = Vec::new();
            for _ in 0..random.usize(0..9) {
                let (token, class): (&[u8], _) = match random.u8(..6) {
                    0 | 1 => (b"*", None),
                    2 => (b"?", Some(Class::ANY)),
                    3 => (b"[ab]", Some(Class::parse(&mut &b"ab]"[..]))),
                    4 => (b"a", Some(Class::of(b'a'))),
                    _ => (b"b", Some(Class::of(b'b'))),
                };
                text.extend_from_slice(token);
                tokens.push(class);
            }
            let key: Vec<u8> = (0..random.usize(0..12)).map(|_| random.u8(b'a'..=b'c')).collect();
            assert_eq!(matches(&text, &key), reference(&tokens, &key), "seed {seed}");
        }
    }

    #[test]
    fn segments_longer_than_a_word_are_found() {
        for length in [63, 64, 65, 128, 200] {
            let pattern = [b"*[ab]".as_slice(), &vec![b'x'; length], b"*"].concat();
            let key = [b"xxxxbb".as_slice(), &vec![b'x'; length], b"yy"].concat();
            assert!(matches(&pattern, &key), "{length}");
            assert!(!matches(&pattern, &key[..5 + length]), "{length}");
        }
    }

    #[test]
    fn hostile_patterns_are_refused_or_answered() {
        let key = vec![b'a'; 40_000];
        let stars = [b"a*".repeat(50), b"b".to_vec()].concat();
        assert!(!matches(&stars, &key));
        assert!(!matches(&[b"*[".to_vec(), vec![b'z'; 40_000], b"]".to_vec()].concat(), &key));
        assert!(!matches(&b"*?".repeat(30_000)[..], &key[..20_000]));
        let class = [b"*a?".to_vec(), vec![b'a'; 20_000], b"b*".to_vec()].concat();
        assert!(!matches(&class, &key));
        assert!(Pattern::new(&vec![b'a'; PATTERN_BYTES_MAX + 1]).is_err());
    }
}
