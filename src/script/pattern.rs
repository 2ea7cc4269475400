//! Lua's patterns, by its manual (5.1, section 5.4.1), with a bound on the work: Lua's own matcher cannot be interrupted, and
//! a pattern of thirty characters can keep it busy for years.

/// Most captures of a pattern.
const CAPTURES_MAX: usize = 32;

/// How deep items that may give back what they took may follow each other.
const DEPTH_MAX: usize = 200;

/// How many steps one search may take: about a second of work.
const STEPS_MAX: u64 = 50_000_000;

/// The character that makes the next one special, or literal.
const ESCAPE: u8 = b'%';

/// Why a pattern does not match anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It ends behind a `%`.
    #[error("malformed pattern (ends with '%')")]
    EndsWithEscape,
    /// A set has no end.
    #[error("malformed pattern (missing ']')")]
    MissingBracket,
    /// `%f` without a set.
    #[error("missing '[' after '%f' in pattern")]
    MissingFrontierSet,
    /// `%b` without two characters.
    #[error("unbalanced pattern")]
    Unbalanced,
    /// `(` without `)`.
    #[error("unfinished capture")]
    UnfinishedCapture,
    /// `)` without `(`.
    #[error("invalid pattern capture")]
    InvalidCapture,
    /// `%1` before the first capture is over.
    #[error("invalid capture index")]
    CaptureIndex,
    /// More captures than there may be.
    #[error("too many captures")]
    TooManyCaptures,
    /// It takes too long.
    #[error("pattern too complex")]
    TooComplex,
}

/// What a capture stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// Bytes of the subject, from and to.
    Span(usize, usize),
    /// `()`: a place in the subject.
    Place(usize),
}

/// Where a pattern was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its first byte.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
    /// What was captured.
    pub captures: Vec<Capture>,
}

/// Finds a pattern in `subject`, beginning at `init` or later; a pattern that begins with `^` only there.
pub fn find(subject: &[u8], pattern: &[u8], init: usize) -> Result<Option<Found>, PatternError> {
    let (pattern, is_anchored) = match pattern {
        [b'^', rest @ ..] => (rest, true),
        _ => (pattern, false),
    };
    let mut matcher = Matcher { subject, pattern, captures: Vec::new(), steps: 0, depth: 0 };
    for start in init..=subject.len() {
        matcher.captures.clear();
        if let Some(end) = matcher.matches(start, 0)? {
            let captures = matcher.captures.iter().map(|capture| match *capture {
                Open::Done(start, length) => Ok(Capture::Span(start, start + length)),
                Open::Place(place) => Ok(Capture::Place(place)),
                Open::Begun(_) => Err(PatternError::UnfinishedCapture),
            });
            let captures = captures.collect::<Result<_, _>>()?;
            return Ok(Some(Found { start, end, captures }));
        }
        if is_anchored {
            break;
        }
    }
    Ok(None)
}

#[derive(Clone, Copy, Debug)]
enum Open {
    /// `(` was met.
    Begun(usize),
    /// Where it begins, and its length.
    Done(usize, usize),
    Place(usize),
}

struct Matcher<'p> {
    subject: &'p [u8],
    pattern: &'p [u8],
    captures: Vec<Open>,
    steps: u64,
    depth: usize,
}

type Matched = Result<Option<usize>, PatternError>;

impl Matcher<'_> {
    /// Matches the pattern from `p` on with the subject from `s` on; returns the end.
    fn matches(&mut self, s: usize, p: usize) -> Matched {
        if self.depth == DEPTH_MAX {
            return Err(PatternError::TooComplex);
        }
        self.depth += 1;
        let matched = self.match_items(s, p);
        self.depth -= 1;
        matched
    }

    fn match_items(&mut self, mut s: usize, mut p: usize) -> Matched {
        loop {
            self.step()?;
            let Some(first) = self.pattern.get(p) else { return Ok(Some(s)) };
            let second = self.pattern.get(p + 1);
            match (first, second) {
                (b'(', Some(b')')) => return self.capture(Open::Place(s), s, p + 2),
                (b'(', _) => return self.capture(Open::Begun(s), s, p + 1),
                (b')', _) => return self.end_capture(s, p + 1),
                (b'$', None) => return Ok((s == self.subject.len()).then_some(s)),
                (&ESCAPE, Some(b'b')) => match self.balance(s, p + 2)? {
                    Some(end) => (s, p) = (end, p + 4),
                    None => return Ok(None),
                },
                (&ESCAPE, Some(b'f')) => {
                    let p_set = p + 2;
                    if self.pattern.get(p_set) != Some(&b'[') {
                        return Err(PatternError::MissingFrontierSet);
                    }
                    let end = self.item_end(p_set)?;
                    let before = if s == 0 { 0 } else { self.subject[s - 1] };
                    let here = self.subject.get(s).copied().unwrap_or(0);
                    if self.is_in_set(before, p_set, end) || !self.is_in_set(here, p_set, end) {
                        return Ok(None);
                    }
                    p = end;
                }
                (&ESCAPE, Some(digit)) if digit.is_ascii_digit() => {
                    match self.match_capture(s, *digit)? {
                        Some(end) => (s, p) = (end, p + 2),
                        None => return Ok(None),
                    }
                }
                _ => {
                    let end = self.item_end(p)?;
                    match self.pattern.get(end) {
                        Some(b'?') => {
                            if self.is_one(s, p, end)
                                && let Some(found) = self.matches(s + 1, end + 1)?
                            {
                                return Ok(Some(found));
                            }
                            p = end + 1;
                        }
                        Some(b'+') if !self.is_one(s, p, end) => return Ok(None),
                        Some(b'+') => return self.most(s + 1, p, end),
                        Some(b'*') => return self.most(s, p, end),
                        Some(b'-') => return self.least(s, p, end),
                        _ if !self.is_one(s, p, end) => return Ok(None),
                        _ => (s, p) = (s + 1, end),
                    }
                }
            }
        }
    }

    fn step(&mut self) -> Result<(), PatternError> {
        self.steps += 1;
        if self.steps > STEPS_MAX { Err(PatternError::TooComplex) } else { Ok(()) }
    }

    /// Where the single character at `p` ends: a character, a class, or a set.
    fn item_end(&self, p: usize) -> Result<usize, PatternError> {
        match self.pattern[p] {
            ESCAPE if p + 1 < self.pattern.len() => Ok(p + 2),
            ESCAPE => Err(PatternError::EndsWithEscape),
            b'[' => {
                let mut p = p + 1;
                if self.pattern.get(p) == Some(&b'^') {
                    p += 1;
                }
                // The first of a set may be its end.
                loop {
                    let Some(byte) = self.pattern.get(p) else {
                        return Err(PatternError::MissingBracket);
                    };
                    p += if *byte == ESCAPE { 2 } else { 1 };
                    if self.pattern.get(p) == Some(&b']') {
                        return Ok(p + 1);
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }

    /// Whether the byte at `s` matches the single character from `p` to `end`.
    fn is_one(&self, s: usize, p: usize, end: usize) -> bool {
        let Some(&byte) = self.subject.get(s) else { return false };
        match self.pattern[p] {
            b'.' => true,
            ESCAPE => is_in_class(byte, self.pattern[p + 1]),
            b'[' => self.is_in_set(byte, p, end),
            literal => literal == byte,
        }
    }

    /// Whether a byte is in the set from `[` at `p` to behind its `]` at `end`.
    fn is_in_set(&self, byte: u8, p: usize, end: usize) -> bool {
        let mut set = &self.pattern[p + 1..end - 1];
        let is_inverted = set.first() == Some(&b'^');
        if is_inverted {
            set = &set[1..];
        }
        while let [first, rest @ ..] = set {
            let (is_in, left) = match (*first, rest) {
                (ESCAPE, [class, left @ ..]) => (is_in_class(byte, *class), left),
                (low, [b'-', high, left @ ..]) => ((low..=*high).contains(&byte), left),
                (literal, left) => (literal == byte, left),
            };
            if is_in {
                return !is_inverted;
            }
            set = left;
        }
        is_inverted
    }

    /// As many as there are, and fewer until the rest matches.
    fn most(&mut self, s: usize, p: usize, end: usize) -> Matched {
        let mut count = 0;
        while self.is_one(s + count, p, end) {
            self.step()?;
            count += 1;
        }
        loop {
            if let Some(found) = self.matches(s + count, end + 1)? {
                return Ok(Some(found));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }

    /// As few as the rest allows.
    fn least(&mut self, mut s: usize, p: usize, end: usize) -> Matched {
        loop {
            if let Some(found) = self.matches(s, end + 1)? {
                return Ok(Some(found));
            }
            if !self.is_one(s, p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn capture(&mut self, open: Open, s: usize, p: usize) -> Matched {
        if self.captures.len() == CAPTURES_MAX {
            return Err(PatternError::TooManyCaptures);
        }
        let before = self.captures.len();
        self.captures.push(open);
        let found = self.matches(s, p)?;
        if found.is_none() {
            self.captures.truncate(before);
        }
        Ok(found)
    }

    fn end_capture(&mut self, s: usize, p: usize) -> Matched {
        let last = self.captures.iter().rposition(|open| matches!(open, Open::Begun(_)));
        let last = last.ok_or(PatternError::InvalidCapture)?;
        let Open::Begun(start) = self.captures[last] else { return Ok(None) };
        self.captures[last] = Open::Done(start, s - start);
        let found = self.matches(s, p)?;
        if found.is_none() {
            self.captures[last] = Open::Begun(start);
        }
        Ok(found)
    }

    /// `%b`: the end of what two characters enclose.
    fn balance(&mut self, s: usize, p: usize) -> Matched {
        let [open, close, ..] = self.pattern[p.min(self.pattern.len())..] else {
            return Err(PatternError::Unbalanced);
        };
        if self.subject.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut depth = 1;
        for (place, byte) in self.subject.iter().enumerate().skip(s + 1) {
            self.step()?;
            if *byte == close {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(place + 1));
                }
            } else if *byte == open {
                depth += 1;
            }
        }
        Ok(None)
    }

    /// `%1`: the end of what was captured before, once more.
    fn match_capture(&mut self, s: usize, digit: u8) -> Matched {
        let index = usize::from(digit).checked_sub(usize::from(b'1'));
        let Some(Open::Done(start, length)) = index.and_then(|index| self.captures.get(index))
        else {
            return Err(PatternError::CaptureIndex);
        };
        let captured = &self.subject[*start..start + length];
        let (matches, end) = (self.subject[s..].starts_with(captured), s + length);
        self.steps += captured.len() as u64;
        Ok(matches.then_some(end))
    }
}

/// Whether a byte is in a class: `%a` is letters, `%A` is everything else.
fn is_in_class(byte: u8, class: u8) -> bool {
    let is_in = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => byte.is_ascii_whitespace() || byte == 0x0b,
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    is_in != class.is_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(subject: &str, pattern: &str) -> Option<(usize, usize, Vec<String>)> {
        let found = find(subject.as_bytes(), pattern.as_bytes(), 0).unwrap()?;
        let captures = found.captures.iter().map(|capture| match capture {
            Capture::Span(start, end) => subject[*start..*end].to_owned(),
            Capture::Place(place) => format!("@{place}"),
        });
        Some((found.start, found.end, captures.collect()))
    }

    fn text(subject: &str, pattern: &str) -> Option<String> {
        found(subject, pattern).map(|(start, end, _)| subject[start..end].to_owned())
    }

    #[test]
    fn items_match_as_the_manual_says() {
        for (subject, pattern, matched) in [
            ("hello world", "o w", Some("o w")),
            ("hello", "l+", Some("ll")),
            ("hello", "l-", Some("")),
            ("hello", "^l", None),
            ("hello", "o$", Some("o")),
            ("a$b", "$b", Some("$b")),
            ("key:123", "%d+", Some("123")),
            ("key:123", "%D+", Some("key:")),
            ("x=[a]b", "[^%w]+", Some("=[")),
            ("a]b", "[]]", Some("]")),
            ("a-b", "[a%-]+", Some("a-")),
            ("f(a(b)c)d", "%b()", Some("(a(b)c)")),
            ("THE (quick) fox", "%f[%a]%a+%f[%A]", Some("THE")),
            ("abab", "(ab)%1", Some("abab")),
            ("", ".-", Some("")),
            ("aaa", "a?a?a?aaa", Some("aaa")),
            ("\0x", "%z", Some("\0")),
            ("a.b", "%.", Some(".")),
        ] {
            assert_eq!(text(subject, pattern).as_deref(), matched, "{subject:?} {pattern:?}");
        }
    }

    #[test]
    fn captures_are_what_brackets_enclose() {
        let captured = |subject, pattern| found(subject, pattern).unwrap().2;
        assert_eq!(captured("user:42:name", "^(%w+):(%d+)"), ["user", "42"]);
        assert_eq!(captured("ab", "(a(b))"), ["ab", "b"]);
        assert_eq!(captured("abc", "b()"), ["@2"]);
        assert_eq!(captured("aXb", "(%l)(%u)(%l)"), ["a", "X", "b"]);
    }

    #[test]
    fn malformed_patterns_are_errors() {
        let error = |pattern: &str| find(b"abc", pattern.as_bytes(), 0).unwrap_err();
        assert_eq!(error("%"), PatternError::EndsWithEscape);
        assert_eq!(error("[a"), PatternError::MissingBracket);
        assert_eq!(error("["), PatternError::MissingBracket);
        assert_eq!(error("[%"), PatternError::MissingBracket);
        assert_eq!(error("[^"), PatternError::MissingBracket);
        assert_eq!(error("%f"), PatternError::MissingFrontierSet);
        assert_eq!(error("%b"), PatternError::Unbalanced);
        assert_eq!(error("%bx"), PatternError::Unbalanced);
        assert_eq!(error("(a"), PatternError::UnfinishedCapture);
        assert_eq!(error("a)"), PatternError::InvalidCapture);
        assert_eq!(error("%1"), PatternError::CaptureIndex);
        assert_eq!(error("(%1)"), PatternError::CaptureIndex);
        assert_eq!(error("%0"), PatternError::CaptureIndex);
        assert_eq!(error(&"()".repeat(33)), PatternError::TooManyCaptures);
    }

    #[test]
    fn a_pattern_that_would_take_years_is_too_complex() {
        let pattern = "a?".repeat(40) + &"a".repeat(40);
        let subject = "a".repeat(39);
        let result = find(subject.as_bytes(), pattern.as_bytes(), 0);
        assert_eq!(result, Err(PatternError::TooComplex));
        let result = find(&[b'a'; 300], "a?".repeat(300).as_bytes(), 0);
        assert_eq!(result, Err(PatternError::TooComplex));
    }
}
