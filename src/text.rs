//! The one grammar of lines: [`split`] reads a line into words, [`quote`] writes a word so that
//! `split` gives it back. Inline requests and the lines of `donnees.txt` both go through here.
//!
//! The rules are those of Redis's inline requests (`sdssplitargs`): words are separated by blanks;
//! `"..."` knows `\n \r \t \b \a \xHH` and `\` before any other byte; `'...'` knows only `\'`; a
//! closing quote ends its word. One difference: a NUL is an ordinary byte, where Redis stops reading.
//!
//! Invariant: for every list of words, `split` of their `quote`s joined by spaces is that list.

use std::ops::{Index, Range};

use crate::util::buffer::Buffer;
use crate::util::memory::NoMemory;

/// The decoded words of a line, in buffers that the next line reuses.
#[derive(Debug, Default)]
pub struct Words {
    bytes: Buffer,
    spans: Buffer<Range<usize>>,
}

impl Words {
    /// Number of words.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether the line was blank.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The words in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.spans.iter().map(|span| &self.bytes[span.clone()])
    }

    /// The decoded bytes of all words, and the range of each word in them.
    pub fn parts(&self) -> (&[u8], &[Range<usize>]) {
        (&self.bytes, &self.spans)
    }

    /// Removes the words, and frees the memory of an unusually long line.
    pub fn clear(&mut self, spare_bytes_max: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(spare_bytes_max);
        self.spans.clear();
        self.spans.shrink_to(spare_bytes_max / size_of::<Range<usize>>());
    }
}

impl Index<usize> for Words {
    type Output = [u8];

    fn index(&self, index: usize) -> &[u8] {
        &self.bytes[self.spans[index].clone()]
    }
}

/// Why a line was not split.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// A quote is not closed, or is closed before something other than a blank.
    #[error("unbalanced quotes")]
    Unbalanced,
    /// There is no memory for the words.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}

/// Splits `line`, which holds no line end, into `words`, which it clears first.
pub fn split(line: &[u8], words: &mut Words) -> Result<(), SplitError> {
    split_up_to(usize::MAX, line, words).map(drop)
}

/// Splits off at most `words_max` words, as [`split`]; returns whether these are all.
pub fn split_up_to(words_max: usize, line: &[u8], words: &mut Words) -> Result<bool, SplitError> {
    words.bytes.clear();
    words.spans.clear();
    let mut at = 0;
    loop {
        at += line[at..].iter().take_while(|byte| is_space(**byte)).count();
        if at == line.len() {
            return Ok(true);
        }
        if words.len() == words_max {
            return Ok(false);
        }
        let start = words.bytes.len();
        at = word(line, at, &mut words.bytes)?;
        words.spans.push(start..words.bytes.len())?;
    }
}

/// Whether a byte ends what stands in a word without quotes, by the byte: a search in a table takes half the instructions of
/// six comparisons.
const ENDS_PLAIN: [bool; 256] = {
    let mut ends = [false; 256];
    let all = *b" \n\r\t\"'";
    let mut index = 0;
    while index < all.len() {
        ends[all[index] as usize] = true;
        index += 1;
    }
    ends
};

/// Decodes the word that begins at `at` and returns where it ends. A quote may open inside a word; the word ends
/// where the quote closes.
fn word(line: &[u8], at: usize, out: &mut Buffer) -> Result<usize, SplitError> {
    let plain = line[at..].iter().position(|byte| ENDS_PLAIN[usize::from(*byte)]);
    let plain = plain.unwrap_or(line.len() - at);
    out.extend_from_slice(&line[at..at + plain])?;
    let at = at + plain;
    let at = match line.get(at) {
        Some(b'"') => double_quoted(line, at + 1, out)?,
        Some(b'\'') => single_quoted(line, at + 1, out)?,
        _ => return Ok(at),
    };
    match line.get(at) {
        Some(byte) if !is_space(*byte) => Err(SplitError::Unbalanced),
        _ => Ok(at),
    }
}

/// Decodes up to the closing `"` and returns the position after it.
fn double_quoted(line: &[u8], mut at: usize, out: &mut Buffer) -> Result<usize, SplitError> {
    loop {
        let stop = memchr::memchr2(b'"', b'\\', &line[at..]).ok_or(SplitError::Unbalanced)?;
        out.extend_from_slice(&line[at..at + stop])?;
        at += stop + 1;
        if line[at - 1] == b'"' {
            return Ok(at);
        }
        let escape = *line.get(at).ok_or(SplitError::Unbalanced)?;
        at += 1;
        if escape == b'x'
            && let Some([high, low]) = line.get(at..at + 2)
            && let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low))
        {
            out.push(high << 4 | low)?;
            at += 2;
            continue;
        }
        out.push(match escape {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 0x08,
            b'a' => 0x07,
            other => other,
        })?;
    }
}

/// Decodes up to the closing `'` and returns the position after it.
fn single_quoted(line: &[u8], mut at: usize, out: &mut Buffer) -> Result<usize, SplitError> {
    loop {
        let stop = memchr::memchr2(b'\'', b'\\', &line[at..]).ok_or(SplitError::Unbalanced)?;
        out.extend_from_slice(&line[at..at + stop])?;
        at += stop;
        match (line[at], line.get(at + 1)) {
            (b'\'', _) => return Ok(at + 1),
            (_, Some(b'\'')) => {
                out.push(b'\'')?;
                at += 2;
            }
            _ => {
                out.push(b'\\')?;
                at += 1;
            }
        }
    }
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn hex_digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}

/// Appends `word` to `out` as a person would type it: bare where that is unambiguous, else in double quotes, with
/// readable UTF-8 as it is, and with escapes for [invisible](is_invisible) characters and bytes that are not UTF-8.
pub fn quote(word: &[u8], out: &mut Vec<u8>) {
    quote_to(word, |piece| out.extend_from_slice(piece));
}

/// How many bytes [`quote`] appends.
pub fn quoted_bytes(word: &[u8]) -> usize {
    let mut bytes = 0;
    quote_to(word, |piece| bytes += piece.len());
    bytes
}

/// What [`quote`] writes, as a string for messages.
pub fn quoted(word: &[u8]) -> String {
    let mut out = Vec::new();
    quote(word, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends what stands between the quotes of a word that needs them. Of parts of a word that are cut between
/// characters it is the same as of the whole.
pub fn quote_inside(word: &[u8], out: &mut Vec<u8>) {
    escape_word(word, &mut |piece| out.extend_from_slice(piece));
}

#[inline]
fn quote_to(word: &[u8], mut put: impl FnMut(&[u8])) {
    if is_bare(word) {
        return put(word);
    }
    put(b"\"");
    escape_word(word, &mut put);
    put(b"\"");
}

fn escape_word(word: &[u8], put: &mut impl FnMut(&[u8])) {
    escape(word, |character| matches!(character, '"' | '\\') || is_invisible(character), put);
}

/// Whether the last word of a line is an unquoted HTTP version, such as `HTTP/1.1`, in any letter case: such an inline
/// line begins an HTTP request.
pub fn ends_in_http_version(line: &[u8]) -> bool {
    let end = line.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
    let (before, word) = line[..end].split_at(end.saturating_sub("HTTP/1.1".len()));
    is_http_version(word) && before.last().is_none_or(|byte| is_space(*byte))
}

fn is_http_version(word: &[u8]) -> bool {
    let [name @ .., major, b'.', minor] = word else { return false };
    name.eq_ignore_ascii_case(b"HTTP/") && major.is_ascii_digit() && minor.is_ascii_digit()
}

/// Whether `word` needs no quotes. An HTTP version needs them, as a line that ended in it bare would be refused as an
/// HTTP request.
fn is_bare(word: &[u8]) -> bool {
    !word.is_empty() && has_bare_bytes_only(word) && !is_http_version(word)
}

/// Whether no byte of a word makes quotes necessary.
pub fn has_bare_bytes_only(word: &[u8]) -> bool {
    all_are(word, |byte| byte.is_ascii_graphic() & !matches!(byte, b'"' | b'\'' | b'\\'))
}

/// Whether all bytes are printable ASCII or tabs, as those of most lines are.
pub fn is_plain(line: &[u8]) -> bool {
    all_are(line, |byte| matches!(byte, b' '..=b'~' | b'\t'))
}

/// Whether `is_one` holds for all bytes: sixteen at a time without a branch for each, as every write checks its key and its
/// value, and every line that is loaded.
#[inline]
fn all_are(bytes: &[u8], is_one: impl Fn(u8) -> bool) -> bool {
    bytes.chunks(16).all(|chunk| chunk.iter().fold(true, |all, byte| all & is_one(*byte)))
}

/// `count` and the noun that it counts: "1 batch", "2 batches".
pub fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { plural_ending(noun) })
}

/// A range of numbered things: "line 3", "lines 3 to 5".
pub fn numbered(first: u64, last: u64, noun: &str) -> String {
    match first == last {
        true => format!("{noun} {first}"),
        false => format!("{noun}{} {first} to {last}", plural_ending(noun)),
    }
}

fn plural_ending(noun: &str) -> &'static str {
    if noun.ends_with("ch") { "es" } else { "s" }
}

/// Whether a character is invisible in displayed text, or changes how the text around it is displayed. Escaping these
/// keeps clients from disguising a line of the file and from controlling a terminal.
///
/// They are the control characters (C0, DEL and C1), the line and paragraph separators, the anchors of interlinear
/// annotations, and Unicode 16's Default_Ignorable_Code_Point: soft hyphens, joiners, direction marks and overrides,
/// fillers, variation selectors, tags.
pub fn is_invisible(character: char) -> bool {
    match character as u32 {
        code @ 0..0xad => matches!(code, 0x00..=0x1f | 0x7f..=0x9f),
        code => matches!(
            code,
            0xad | 0x34f
                | 0x61c
                | 0x115f..=0x1160
                | 0x17b4..=0x17b5
                | 0x180b..=0x180f
                | 0x200b..=0x200f
                | 0x2028..=0x202e
                | 0x2060..=0x206f
                | 0x3164
                | 0xfe00..=0xfe0f
                | 0xfeff
                | 0xffa0
                | 0xfff0..=0xfffb
                | 0x1bca0..=0x1bca3
                | 0x1d173..=0x1d17a
                | 0xe0000..=0xe0fff
        ),
    }
}

/// `bytes` of a file as a message shows them: [invisible](is_invisible) characters and bytes that are not UTF-8 as
/// escapes, all else as it is.
pub fn visible(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    escape(bytes, is_invisible, &mut |piece| out.extend_from_slice(piece));
    String::from_utf8_lossy(&out).into_owned()
}

/// Passes `bytes` to `put` in pieces, with escapes for the characters that `needs_escape` names and for bytes that are
/// not UTF-8.
fn escape(bytes: &[u8], needs_escape: impl Fn(char) -> bool, put: &mut impl FnMut(&[u8])) {
    for chunk in bytes.utf8_chunks() {
        let text = chunk.valid();
        let mut plain_from = 0;
        for (at, character) in text.char_indices().filter(|(_, character)| needs_escape(*character))
        {
            put(&text.as_bytes()[plain_from..at]);
            plain_from = at + character.len_utf8();
            match character {
                '"' => put(b"\\\""),
                '\\' => put(b"\\\\"),
                '\n' => put(b"\\n"),
                '\r' => put(b"\\r"),
                '\t' => put(b"\\t"),
                _ => escape_bytes(&text.as_bytes()[at..plain_from], put),
            }
        }
        put(&text.as_bytes()[plain_from..]);
        escape_bytes(chunk.invalid(), put);
    }
}

fn escape_bytes(bytes: &[u8], put: &mut impl FnMut(&[u8])) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        put(&[b'\\', b'x', DIGITS[(byte >> 4) as usize], DIGITS[(byte & 15) as usize]]);
    }
}

/// Whether `byte` may stand in a data file unescaped: all but the ASCII control characters, of which a tab is allowed.
/// Callers check apart that the bytes are UTF-8.
pub fn is_text_byte(byte: u8) -> bool {
    !matches!(byte, 0x00..=0x08 | 0x0a..=0x1f | 0x7f)
}

/// Parses a decimal integer in its one canonical form, as Redis does: no sign but a leading `-`, no
/// leading zeros, no blanks.
pub fn integer(digits: &[u8]) -> Option<i64> {
    let (unsigned, is_negative) = match digits {
        [b'-', rest @ ..] => (rest, true),
        _ => (digits, false),
    };
    match unsigned {
        [b'0'] => return (!is_negative).then_some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    // Downwards: the negative numbers reach further by one.
    let add = |number: i64, byte: &u8| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_sub(i64::from(byte - b'0')),
        _ => None,
    };
    let negative = unsigned.iter().try_fold(0, add)?;
    if is_negative { Some(negative) } else { negative.checked_neg() }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, SplitError> {
        let mut words = Words::default();
        split(line, &mut words)?;
        Ok(words.iter().map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn splits_as_redis_does() {
        let cases: &[(&[u8], &[&[u8]])] = &[
            (b"", &[]),
            (b" \t\x0b\x0c ", &[]),
            (b"  PING\t ", &[b"PING"]),
            (b"SET a \"x y\\x00\\n\"", &[b"SET", b"a", b"x y\0\n"]),
            (b"a\"b c\"", &[b"ab c"]),
            (b"\"\\r\\t\\b\\a\\\\\\\"\\q\"", &[b"\r\t\x08\x07\\\"q"]),
            (b"\"\\x4\" \"\\xzz\"", &[b"x4", b"xzz"]),
            (b"'it\\'s \\n' ''", &[b"it's \\n", b""]),
            (b"a\\nb \\", &[b"a\\nb", b"\\"]),
            (b"PI\0NG", &[b"PI\0NG"]),
            (b"a\x0bb", &[b"a\x0bb"]),
        ];
        for (line, expected) in cases {
            assert_eq!(words(line).unwrap(), *expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn unbalanced_quotes_are_refused() {
        for line in [&b"\"b"[..], b"\"b\"c", b"'b", b"'b'c", b"\"\\", b"'\\'", b"a\"b\"\"c\""] {
            assert_eq!(words(line), Err(SplitError::Unbalanced), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn quotes_as_a_person_would_type() {
        let cases: &[(&[u8], &str)] = &[
            (b"brouillon", "brouillon"),
            (b"#1:a=b", "#1:a=b"),
            (b"", "\"\""),
            ("Orléans".as_bytes(), "\"Orléans\""),
            (b"Saint-Denis la Plaine", "\"Saint-Denis la Plaine\""),
            (b"it's", "\"it's\""),
            (b"http/1.1", "\"http/1.1\""),
            (b"HTTP/2", "HTTP/2"),
            (b"xHTTP/1.1", "xHTTP/1.1"),
            (b"a\"b\\c\n\r\t\0", "\"a\\\"b\\\\c\\n\\r\\t\\x00\""),
            (b"\xff\xfe\xc3", "\"\\xff\\xfe\\xc3\""),
            ("\u{85}é\u{7f}".as_bytes(), "\"\\xc2\\x85é\\x7f\""),
            (
                "\u{202e}é\u{200b}\u{feff}".as_bytes(),
                "\"\\xe2\\x80\\xaeé\\xe2\\x80\\x8b\\xef\\xbb\\xbf\"",
            ),
            (
                "\u{e0041}\u{a0}日本\u{fffd}".as_bytes(),
                "\"\\xf3\\xa0\\x81\\x81\u{a0}日本\u{fffd}\"",
            ),
        ];
        for (word, expected) in cases {
            assert_eq!(quoted(word), *expected);
        }
    }

    /// Bytes, of which those with a meaning come often.
    fn any_word() -> impl Strategy<Value = Vec<u8>> {
        let interesting = b"\"'\\x0a \n\r\t\0\xc2\x85\xc3\xa9#\xff\xe2\x80\xae\xad".to_vec();
        let byte = prop_oneof![any::<u8>(), select(interesting)];
        prop_oneof![200 => vec(byte, 0..12), 1 => Just(b"HTTP/1.1".to_vec())]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 8 * ProptestConfig::default().cases,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn split_is_the_inverse_of_quote(list in vec(any_word(), 1..5)) {
            let mut line = Vec::new();
            for word in &list {
                let start = line.len();
                quote(word, &mut line);
                prop_assert_eq!(line.len() - start, quoted_bytes(word));
                line.push(b' ');
            }
            prop_assert_eq!(words(&line).unwrap(), list);
            prop_assert!(!ends_in_http_version(&line));
            prop_assert!(line.iter().all(|byte| is_text_byte(*byte)));
            prop_assert!(str::from_utf8(&line).is_ok());
        }

        /// A line that is split is a list of words, and quoting those gives a line of the same words.
        #[test]
        fn any_line_that_is_split_is_quoted_to_the_same_words(line in vec(any_word(), 0..4)) {
            let line = line.concat();
            if let Ok(list) = words(&line) {
                let quoted: Vec<String> = list.iter().map(|word| quoted(word)).collect();
                prop_assert_eq!(words(quoted.join(" ").as_bytes()).unwrap(), list);
            }
        }
    }

    #[test]
    fn every_character_is_written_so_that_it_is_seen_and_read_back() {
        let invisible = "\u{80}\u{9b}\u{9f}\u{ad}\u{34f}\u{61c}\u{115f}\u{180e}\u{200b}\u{200f}\u{2028}\u{202e}\
            \u{2060}\u{2066}\u{206f}\u{3164}\u{fe0f}\u{feff}\u{fff9}\u{fffb}\u{e0000}\u{e007f}\u{e01ef}";
        let visible_ones = "é\u{a0}\u{ac}\u{ae}\u{2027}\u{202f}日\u{fffd}😀";
        assert!(invisible.chars().all(is_invisible));
        assert!(!visible_ones.contains(is_invisible));
        for character in '\0'..=char::MAX {
            let word = format!("a {character}b");
            let (mut line, mut words) = (Vec::new(), Words::default());
            quote(word.as_bytes(), &mut line);
            assert_eq!(line.len(), quoted_bytes(word.as_bytes()), "{character:?}");
            let line = str::from_utf8(&line).unwrap();
            assert!(!line.contains(is_invisible), "{character:?}");
            split(line.as_bytes(), &mut words).unwrap();
            assert_eq!((words.len(), &words[0]), (1, word.as_bytes()), "{character:?}");
            // Raw too, as files have it that were written before, or by hand.
            let raw = word.replace(['"', '\\'], "");
            split(format!("\"{raw}\"").as_bytes(), &mut words).unwrap();
            assert_eq!((words.len(), &words[0]), (1, raw.as_bytes()), "{character:?}");
        }
        assert_eq!(
            visible("a\"\\\u{9b}2J\n\u{202e}é".as_bytes()),
            "a\"\\\\xc2\\x9b2J\\n\\xe2\\x80\\xaeé"
        );
        assert_eq!(visible(b"\xff\x1b["), "\\xff\\x1b[");
    }

    #[test]
    fn one_thing_is_no_plural() {
        let counts = [counted(0, "key"), counted(1, "batch"), counted(2, "batch")];
        assert_eq!(counts, ["0 keys", "1 batch", "2 batches"]);
        assert_eq!(numbered(3, 3, "line"), "line 3");
        assert_eq!(numbered(3, 5, "batch"), "batches 3 to 5");
    }

    #[test]
    fn integers_have_one_form() {
        assert_eq!(integer(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(integer(b"0"), Some(0));
        for digits in [&b""[..], b"-", b"-0", b"012", b"+5", b" 1", b"1 ", b"9223372036854775808"] {
            assert_eq!(integer(digits), None);
        }
    }
}
