//! The shape of `src/`: which folder may use which, and how long files and functions may be.
//!
//! The sources are read as text: comments, strings and characters are blanked first, then the items under
//! `#[cfg(test)]`. What is left names the modules that a file uses by `crate::` paths, or by `super::` paths that reach
//! the root of the crate.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each folder, or file beside them, may use: what is nearer to the disk and farther from the user. Each row is
/// written after the rows of what it uses, so that there can be no circle; `lib` and `main` may use everything.
#[rustfmt::skip]
const MAY_USE: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("util", &["limits"]),
    ("text", &["util", "limits"]),
    ("value", &["util", "limits"]),
    ("journal", &["text", "value", "util", "limits"]),
    ("engine", &["journal", "text", "value", "util", "limits"]),
    ("etcd_flags", &["engine", "util"]),
    ("tools", &["etcd_flags", "engine", "journal", "text", "value", "util", "limits"]),
    ("config", &["etcd_flags", "tools", "journal", "text", "value", "util", "limits"]),
    ("protocol", &["engine", "journal", "text", "value", "util", "limits"]),
    ("script", &["protocol", "text", "util", "limits"]),
    ("server", &["script", "config", "engine", "journal", "text", "value", "util", "limits"]),
    ("command", &["config", "protocol", "script", "server", "engine", "journal", "text", "value", "util", "limits"]),
    ("net", &["command", "config", "protocol", "server", "engine", "journal", "text", "value", "util", "limits"]),
];

/// What points up today, by file and what it uses. Only to become shorter.
const POINTS_UP: &[(&str, &str)] = &[];

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 80;

/// Files that are longer today, and how long they may be. Only to become shorter.
const LONG_FILES: &[(&str, usize)] = &[];

/// Functions that are longer today, and how long they may be. Only to become shorter.
const LONG_FUNCTIONS: &[(&str, usize)] = &[];

/// The source with every comment, string and character literal blanked: as long as before, on the same lines.
fn blanked(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match &bytes[at..] {
            [b'/', b'/', ..] => at + bytes[at..].iter().take_while(|byte| **byte != b'\n').count(),
            [b'/', b'*', ..] => block_comment_end(bytes, at),
            [b'"', ..] => string_end(bytes, at),
            [b'r', b'"' | b'#', ..] if !follows_word(bytes, at) => raw_string_end(bytes, at),
            [b'b', b'r', b'"' | b'#', ..] if !follows_word(bytes, at) => {
                raw_string_end(bytes, at + 1)
            }
            [b'\'', ..] => character_end(source, at),
            _ => at,
        };
        for byte in &mut out[at..end] {
            *byte = if *byte == b'\n' { b'\n' } else { b' ' };
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).unwrap()
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    // The `b` of `br"..."` was looked at before.
    at > 0 && is_word(bytes[at - 1])
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// The end of `r"..."` or `r#"..."#`; of a raw name like `r#type` only the `r`.
fn raw_string_end(bytes: &[u8], start: usize) -> usize {
    let hashes = bytes[start + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = start + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return start;
    }
    let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let length = bytes[open + 1..].windows(close.len()).position(|window| window == close);
    open + 1 + length.unwrap() + close.len()
}

/// The end of a character literal; of a lifetime its start.
fn character_end(source: &str, start: usize) -> usize {
    let rest = &source[start + 1..];
    if rest.starts_with('\\') {
        // The escaped character may be a quote itself.
        return start + 3 + rest[2..].find('\'').unwrap() + 1;
    }
    let first = rest.chars().next().unwrap().len_utf8();
    if rest[first..].starts_with('\'') { start + 1 + first + 1 } else { start }
}

/// Blanks each item that follows `#[cfg(test)]`.
fn without_tests(blanked: &str) -> String {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let mut out = blanked.to_owned();
    while let Some(start) = out.find(ATTRIBUTE) {
        let after = start + ATTRIBUTE.len();
        let end = item_end(&out, after);
        let empty: String =
            out[start..end].chars().map(|char| if char == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &empty);
    }
    out
}

/// The end of the item that begins at `start`: after its `;`, or after the `}` that closes its first `{`.
fn item_end(blanked: &str, start: usize) -> usize {
    let (mut brackets, mut braces) = (0, 0);
    for (index, byte) in blanked.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets -= 1,
            b'{' => braces += 1,
            b'}' => braces -= 1,
            _ => {}
        }
        let is_end = byte == b';' && braces == 0 || byte == b'}' && braces <= 0;
        if is_end && brackets == 0 {
            return index + 1;
        }
    }
    blanked.len()
}

/// The parts of a module's path: of `src/net/mod.rs` one, of `src/net/listener.rs` two.
fn depth(file: &str) -> usize {
    let parts = file.trim_end_matches(".rs").split('/');
    parts.filter(|part| !matches!(*part, "mod" | "lib" | "main")).count()
}

/// What stands first after the root of the crate in each path of the file: modules, or items of `lib.rs`.
fn used(file: &str, source: &str) -> BTreeSet<String> {
    let text = without_tests(&blanked(source));
    let tokens = tokens(&text);
    let mut found = BTreeSet::new();
    for (index, token) in tokens.iter().enumerate() {
        if index > 0 && tokens[index - 1] == "::" {
            continue;
        }
        let supers = tokens[index..].chunks(2).take_while(|pair| *pair == ["super", "::"]).count();
        let after = match *token {
            "crate" if tokens.get(index + 1) == Some(&"::") => index + 2,
            // `use crate as other` would hide all that follows.
            "crate" if tokens.get(index + 1) == Some(&"as") => {
                found.insert("crate as".to_owned());
                continue;
            }
            "super" if supers >= depth(file) => index + 2 * depth(file),
            _ => continue,
        };
        found.extend(first_names(&tokens[after..]));
    }
    found
}

/// The first names of a path, of which there are several in `{a, b::{c, d}}`.
fn first_names(tokens: &[&str]) -> Vec<String> {
    if tokens.first() != Some(&"{") {
        return tokens.iter().take(1).map(|token| (*token).to_owned()).collect();
    }
    let (mut depth, mut names) = (0, Vec::new());
    for (index, token) in tokens.iter().enumerate() {
        match *token {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ if depth == 1 && matches!(tokens[index - 1], "{" | ",") => {
                names.push((*token).to_owned());
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Words, `::`, and single other characters.
fn tokens(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = match bytes[at] {
            byte if is_word(byte) => bytes[at..].iter().take_while(|byte| is_word(**byte)).count(),
            b':' if bytes.get(at + 1) == Some(&b':') => 2,
            byte if byte.is_ascii() => 1,
            _ => text[at..].chars().next().unwrap().len_utf8(),
        };
        if !bytes[at].is_ascii_whitespace() {
            tokens.push(&text[at..at + length]);
        }
        at += length;
    }
    tokens
}

/// The folder of a file below `src/`, or its own name.
fn home(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// What the file uses that its place does not allow.
fn points_up(file: &str, source: &str) -> Vec<String> {
    let home = home(file);
    if matches!(home, "lib" | "main") {
        return Vec::new();
    }
    let row = MAY_USE.iter().find(|(folder, _)| *folder == home);
    let allowed = row.map_or(&[][..], |(_, allowed)| *allowed);
    let is_wrong = |name: &String| name != home && !allowed.contains(&name.as_str());
    used(file, source).into_iter().filter(is_wrong).collect()
}

/// Name and length of each function that has a body.
fn functions(source: &str) -> Vec<(String, usize)> {
    let text = blanked(source);
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(offset) = text[from..].find("fn ") {
        let start = from + offset;
        from = start + 3;
        if follows_word(text.as_bytes(), start) {
            continue;
        }
        let name: String = text[from..]
            .trim_start()
            .chars()
            .take_while(|char| char.is_alphanumeric() || *char == '_')
            .collect();
        let item = &text[start..item_end(&text, start)];
        if !name.is_empty() && item.ends_with('}') {
            found.push((name, item.lines().count()));
        }
    }
    found
}

/// All sources, by their path below `src/`.
fn sources() -> BTreeMap<String, String> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, files),
                false => files.push(path),
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    let name = |file: &Path| file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    files.iter().map(|file| (name(file), fs::read_to_string(file).unwrap())).collect()
}

/// What is longer than allowed, and which exceptions are not needed any more.
fn too_long(found: &[(String, usize)], max: usize, exceptions: &[(&str, usize)]) -> Vec<String> {
    let allowed = |name: &str| exceptions.iter().find(|(other, _)| *other == name);
    let long = found.iter().filter(|(_, lines)| *lines > max);
    let grown =
        long.clone().filter(|(name, lines)| allowed(name).is_none_or(|(_, most)| lines > most));
    let grown = grown.map(|(name, lines)| format!("{name} has {lines} lines"));
    let needed: BTreeSet<&str> = long.map(|(name, _)| name.as_str()).collect();
    let stale = exceptions.iter().filter(|(name, _)| !needed.contains(name));
    grown.chain(stale.map(|(name, _)| format!("{name} needs no exception"))).collect()
}

#[test]
fn no_folder_uses_one_that_is_nearer_to_the_user() {
    let mut wrong = Vec::new();
    let mut needed = BTreeSet::new();
    for (file, source) in sources() {
        for name in points_up(&file, &source) {
            match POINTS_UP.iter().find(|exception| **exception == (file.as_str(), name.as_str())) {
                Some(exception) => drop(needed.insert(exception)),
                None => wrong.push(format!("src/{file} uses {name}")),
            }
        }
    }
    let stale = POINTS_UP.iter().filter(|exception| !needed.contains(exception));
    wrong.extend(stale.map(|(file, name)| format!("{file} uses {name}: needs no exception")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_of_folders_has_a_row_for_each_and_no_circle() {
    let sources = sources();
    let found: BTreeSet<&str> = sources.keys().map(|file| home(file)).collect();
    let mut known = BTreeSet::from(["lib", "main"]);
    for (folder, allowed) in MAY_USE {
        for name in *allowed {
            assert!(known.contains(name), "{folder} may use {name}, which has no row above it");
        }
        assert!(known.insert(folder), "{folder} twice");
    }
    assert_eq!(found, known);
}

#[test]
fn no_file_is_too_long() {
    let files: Vec<_> =
        sources().into_iter().map(|(file, source)| (file, source.lines().count())).collect();
    let wrong = too_long(&files, FILE_LINES_MAX, LONG_FILES);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_function_is_too_long() {
    let of_file = |(file, source): (String, String)| {
        let functions = functions(&source).into_iter();
        functions.map(move |(name, lines)| (format!("{file}: {name}"), lines)).collect::<Vec<_>>()
    };
    let all: Vec<_> = sources().into_iter().flat_map(of_file).collect();
    assert!(all.len() > 500, "{} functions", all.len());
    let wrong = too_long(&all, FUNCTION_LINES_MAX, LONG_FUNCTIONS);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_its_job_first() {
    for (file, source) in sources() {
        assert!(source.starts_with("//! "), "src/{file} does not begin with //!");
    }
}

/// The rules themselves, on small sources.
mod rules {
    use super::*;

    #[test]
    fn an_arrow_up_is_reported_however_it_is_written() {
        for source in [
            "use crate::net;",
            "use crate::net::listener::listen;",
            "pub use crate::{journal, net::{self, metrics}};",
            "use crate::{\n    net,\n};",
            "fn f() { crate::net::serve(); }",
            "fn f(a: &crate::net::A) {}",
            "use super::super::net::A;",
            "use super::super::{net, journal};",
            "// no\nuse crate :: net :: A;",
            "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\nuse crate::net;",
            "#[cfg(test)]\nuse crate::util;\nuse crate::net;",
            "const A: char = '\"'; use crate::net; const B: char = '\"';",
            "const A: &str = \"\\\"\"; use crate::net;",
            "fn f<'a>(a: &'a u8) { crate::net::g(a) }",
        ] {
            assert_eq!(points_up("engine/local.rs", source), ["net"], "{source}");
        }
        assert_eq!(points_up("journal/lines.rs", "use crate::engine::local::Engine;"), ["engine"]);
        assert_eq!(points_up("util/sync.rs", "use crate::text::quote;"), ["text"]);
        assert_eq!(points_up("limits.rs", "use super::util::A;"), ["util"]);
        assert_eq!(points_up("tools/check.rs", "crate::start()"), ["start"], "an item of lib.rs");
        assert_eq!(points_up("engine/mod.rs", "use crate as all;"), ["crate as"]);
        assert_eq!(points_up("new/mod.rs", "use crate::limits::A;"), ["limits"], "it has no row");
    }

    #[test]
    fn what_points_down_or_is_a_test_or_no_code_is_not_reported() {
        for source in [
            "use crate::journal::Error;\nuse crate::engine::local::Engine;",
            "use crate::{journal::{net, command}, util};",
            "use super::entry::Entry;",
            "use super::net::A;",
            "use other::crate_net::net;",
            "pub(crate) fn net() {}",
            "//! [`crate::net`]\n// crate::net\n/* /* */ crate::net */\nfn f() {}",
            "const A: &str = \"crate::net\";",
            "const A: &[u8] = br#\"\" crate::net \"#;",
            "#[cfg(test)]\nmod tests {\n    use crate::net;\n    fn f() { let a = '}'; }\n}",
            "#[cfg(test)]\nuse crate::net;\nfn f() {}",
            "#[cfg(test)]\npub fn f(a: [u8; 3]) {\n    crate::net::g()\n}",
        ] {
            assert_eq!(points_up("engine/local/store.rs", source), [""; 0], "{source}");
        }
    }

    #[test]
    fn functions_are_counted_from_their_name_to_their_end() {
        let source = "trait A {\n    fn none(&self);\n    fn one(&self, a: [u8; 2]) {}\n}\n\
                      type B = fn (u8) -> u8;\n\
                      // fn comment() {}\n\
                      pub const fn four<T>(a: T)\nwhere\n    T: Copy,\n{ }\n\
                      fn outer() {\n    fn inner() {\n    }\n    let a = \"}\";\n    let b = '{';\n}\n";
        let found = [("one", 1), ("four", 4), ("outer", 6), ("inner", 2)];
        assert_eq!(functions(source), found.map(|(name, lines)| (name.to_owned(), lines)));
    }

    #[test]
    fn an_exception_may_only_shrink_and_goes_when_it_is_not_needed() {
        let found = |lines| vec![("a".to_owned(), lines), ("b".to_owned(), 3)];
        assert_eq!(too_long(&found(12), 10, &[]), ["a has 12 lines"]);
        assert_eq!(too_long(&found(12), 10, &[("a", 12)]), [""; 0]);
        assert_eq!(too_long(&found(11), 10, &[("a", 12)]), [""; 0]);
        assert_eq!(too_long(&found(13), 10, &[("a", 12)]), ["a has 13 lines"]);
        assert_eq!(too_long(&found(10), 10, &[("a", 12)]), ["a needs no exception"]);
        assert_eq!(too_long(&found(10), 10, &[("gone", 12)]), ["gone needs no exception"]);
    }
}
