//! Reads the usage line of a command: its name and its arguments, as a person would write them down.
//!
//! Words in capitals are typed as they stand, others are placeholders. `[a]` may be left out, `a|b` is a choice,
//! `a [a ...]` is one or more, and `<a|b>` holds a choice together where brackets would make it optional. A fixed word
//! belongs to all that follows it in the same brackets: `[AUTH username password]`. The type of a placeholder follows
//! from its name; `name:type` says another. What clients call a choice or a group follows from what it begins with.
//!
//! The lines are part of the program: a test reads them all, so that a wrong one never reaches a user.

use std::iter::Peekable;
use std::vec::IntoIter;

/// What stands in the place of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Key,
    String,
    Integer,
    Double,
    Pattern,
    UnixTime,
    /// A fixed word.
    PureToken,
    /// One of its parts.
    OneOf,
    /// All of its parts.
    Block,
}

impl Kind {
    /// Redis's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Double => "double",
            Self::Pattern => "pattern",
            Self::UnixTime => "unix-time",
            Self::PureToken => "pure-token",
            Self::OneOf => "oneof",
            Self::Block => "block",
        }
    }

    /// The type of a placeholder, by its name.
    fn of(name: &str) -> Self {
        match name {
            "key" | "key1" | "key2" | "newkey" | "source" | "destination" => Self::Key,
            "pattern" => Self::Pattern,
            "float" => Self::Double,
            "unix-time-seconds" | "unix-time-milliseconds" => Self::UnixTime,
            "client-id" | "count" | "cursor" | "db" | "decrement" | "destination-db" | "end"
            | "increment" | "index" | "index1" | "index2" | "integer" | "milliseconds"
            | "min-match-len" | "numkeys" | "offset" | "protover" | "seconds" | "start"
            | "timeout" => Self::Integer,
            _ => Self::String,
        }
    }
}

/// One argument of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// What stands there, or what Redis calls a group.
    pub name: &'static str,
    pub kind: Kind,
    /// The fixed word before it, or that it is.
    pub token: Option<&'static str>,
    /// It may be left out.
    pub optional: bool,
    /// It may be repeated.
    pub multiple: bool,
    /// What it consists of.
    pub parts: Vec<Argument>,
}

impl Argument {
    fn new(name: &'static str, kind: Kind, parts: Vec<Self>) -> Self {
        Self { name, kind, token: None, optional: false, multiple: false, parts }
    }

    fn placeholder(word: &'static str) -> Self {
        match word.strip_suffix(":double") {
            Some(name) => Self::new(name, Kind::Double, Vec::new()),
            None => Self::new(word, Kind::of(word), Vec::new()),
        }
    }

    /// A group, under the name that Redis has for it.
    fn group(kind: Kind, parts: Vec<Self>) -> Result<Self, String> {
        let first = parts.first().map_or("", |part| part.token.unwrap_or(part.name));
        let name = match (first, parts.len()) {
            ("NX" | "IFEQ", _) => "condition",
            ("EX", _) => "expiration",
            ("ON", 2) => "enabled",
            ("ON", _) => "action",
            ("ASYNC", _) => "flush-type",
            ("BYFLOAT", _) => "increment",
            ("ID", _) => "new-format",
            ("LIB-NAME", _) => "attr",
            ("MODULE", _) => "filterby",
            ("NOSAVE", _) => "save-selector",
            ("TYPE" | "ip:port", _) => "filter",
            ("WRITE", _) => "mode",
            ("command-name", _) => "command",
            ("group", _) => "topic",
            ("key" | "parameter", _) => "data",
            _ => return Err(format!("a group that begins with {first} has no name")),
        };
        Ok(Self::new(name, kind, parts))
    }

    /// How many words it takes, at least and at most.
    pub fn width(&self) -> (usize, usize) {
        let token = usize::from(self.token.is_some());
        let parts = || self.parts.iter().map(Self::width);
        let (least, most) = match self.kind {
            Kind::PureToken => (0, 0),
            Kind::OneOf => (
                parts().map(|(least, _)| least).min().unwrap_or(0),
                parts().map(|(_, most)| most).max().unwrap_or(0),
            ),
            Kind::Block => widths(&self.parts),
            _ => (1, 1),
        };
        let least = if self.optional { 0 } else { token + least };
        (least, if self.multiple { usize::MAX } else { most.saturating_add(token) })
    }

    /// All fixed words in it.
    pub fn tokens(&self) -> Vec<&'static str> {
        self.token.into_iter().chain(self.parts.iter().flat_map(Self::tokens)).collect()
    }
}

/// How many words a row of arguments takes, at least and at most.
pub fn widths(arguments: &[Argument]) -> (usize, usize) {
    arguments
        .iter()
        .map(Argument::width)
        .fold((0, 0), |(least, most), width| (least + width.0, most.saturating_add(width.1)))
}

/// What a usage line says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The command.
    pub name: &'static str,
    /// The second word, if it belongs to the name.
    pub subcommand: Option<&'static str>,
    pub arguments: Vec<Argument>,
}

/// Reads a usage line; an error says what is wrong with it.
pub fn parse(line: &'static str) -> Result<Usage, String> {
    let mut parser = Parser { words: words(line).into_iter().peekable() };
    let name = parser.words.next().unwrap_or_default();
    if !is_fixed(name) {
        return Err("a command's name is in capitals".to_owned());
    }
    let subcommand = parser.words.next_if(|word| is_fixed(word));
    let arguments = parser.choice()?;
    match parser.words.next() {
        None => Ok(Usage { name, subcommand, arguments }),
        Some(word) => Err(format!("{word} is in a wrong place")),
    }
}

/// The line without what is only there to be read by [`parse`].
pub fn shown(line: &str) -> String {
    line.replace(['<', '>'], "").replace(":double", "")
}

fn words(line: &'static str) -> Vec<&'static str> {
    let mut words = Vec::new();
    for mut rest in line.split(' ').filter(|word| !word.is_empty()) {
        while let Some(at) = rest.find(['[', ']', '<', '>', '|']) {
            words.extend([&rest[..at], &rest[at..=at]].iter().filter(|word| !word.is_empty()));
            rest = &rest[at + 1..];
        }
        words.extend(Some(rest).filter(|word| !word.is_empty()));
    }
    words
}

fn is_fixed(word: &str) -> bool {
    word.bytes().any(|byte| byte.is_ascii_uppercase())
        && !word.bytes().any(|byte| byte.is_ascii_lowercase())
}

struct Parser {
    words: Peekable<IntoIter<&'static str>>,
}

impl Parser {
    /// `a b`, or `a|b c|...` as one argument.
    fn choice(&mut self) -> Result<Vec<Argument>, String> {
        let first = self.row()?;
        if self.words.peek() != Some(&"|") {
            return Ok(first);
        }
        let mut parts = vec![one(first)?];
        while self.words.next_if_eq(&"|").is_some() {
            parts.push(one(self.row()?)?);
        }
        Ok(vec![Argument::group(Kind::OneOf, parts)?])
    }

    /// Arguments one after the other, up to what ends them.
    fn row(&mut self) -> Result<Vec<Argument>, String> {
        let token = self.words.next_if(|word| is_fixed(word));
        let mut row = Vec::new();
        while let Some(word) = self.words.next_if(|word| !["|", "]", ">", "..."].contains(word)) {
            match word {
                "[" => self.brackets(&mut row)?,
                "<" => {
                    row.push(one(self.choice()?)?);
                    self.expect(">")?;
                }
                _ if is_fixed(word) => return Err(format!("{word} needs brackets around it")),
                _ => row.push(Argument::placeholder(word)),
            }
        }
        let Some(token) = token else { return Ok(row) };
        let argument = match row.len() {
            0 => Argument::new(token, Kind::PureToken, row),
            1 => one(row)?,
            _ => Argument::new(token, Kind::Block, row),
        };
        Ok(vec![Argument { token: Some(token), ..argument }])
    }

    /// What may be left out, or be repeated: then it has just been read, and stands at the end of the row.
    fn brackets(&mut self, row: &mut Vec<Argument>) -> Result<(), String> {
        let inside = self.choice()?;
        if self.words.next_if_eq(&"...").is_none() {
            row.push(Argument { optional: true, ..one(inside)? });
        } else {
            if !row.ends_with(&inside) {
                return Err("what is repeated does not stand before".to_owned());
            }
            let repeated = one(row.split_off(row.len() - inside.len()))?;
            row.push(Argument { multiple: true, ..repeated });
        }
        self.expect("]")
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        self.words.next_if_eq(&word).map(drop).ok_or_else(|| format!("{word} is missing"))
    }
}

/// A row as one argument.
fn one(mut row: Vec<Argument>) -> Result<Argument, String> {
    match row.len() {
        0 => Err("something is empty".to_owned()),
        1 => Ok(row.remove(0)),
        _ => Argument::group(Kind::Block, row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An argument in one line, with everything that is known of it.
    fn told(argument: &Argument) -> String {
        let Argument { name, kind, token, optional, multiple, parts } = argument;
        let parts: Vec<_> = parts.iter().map(told).collect();
        format!(
            "{}{name}:{}{}{}{}",
            token.map_or(String::new(), |token| format!("{token} ")),
            kind.name(),
            if *optional { "?" } else { "" },
            if *multiple { "+" } else { "" },
            if parts.is_empty() { String::new() } else { format!("({})", parts.join(", ")) }
        )
    }

    fn arguments(line: &'static str) -> Vec<String> {
        parse(line).unwrap().arguments.iter().map(told).collect()
    }

    #[test]
    fn a_line_says_names_types_and_what_may_be_left_out() {
        assert_eq!(arguments("TIME"), [""; 0]);
        assert_eq!(
            arguments("GETRANGE key start end"),
            ["key:key", "start:integer", "end:integer"]
        );
        assert_eq!(arguments("INCRBYFLOAT key n:double"), ["key:key", "n:double"]);
        assert_eq!(arguments("CLIENT KILL ip:port"), ["ip:port:string"]);
        assert_eq!(arguments("LCS [LEN]"), ["LEN LEN:pure-token?"]);
        assert_eq!(arguments("SCAN [COUNT count]"), ["COUNT count:integer?"]);
    }

    #[test]
    fn what_is_repeated_is_one_argument() {
        assert_eq!(arguments("DEL key [key ...]"), ["key:key+"]);
        assert_eq!(arguments("INFO [section [section ...]]"), ["section:string?+"]);
        let pairs = "data:block+(key:key, value:string)";
        assert_eq!(arguments("MSET key value [key value ...]"), [pairs]);
        assert_eq!(arguments("X [ID client-id [client-id ...]]"), ["ID client-id:integer?+"]);
    }

    #[test]
    fn choices_and_groups_have_the_names_that_clients_know() {
        assert_eq!(
            arguments("SET [NX|IFEQ ifeq-value] [EX seconds|KEEPTTL]"),
            [
                "condition:oneof?(NX NX:pure-token, IFEQ ifeq-value:string)",
                "expiration:oneof?(EX seconds:integer, KEEPTTL KEEPTTL:pure-token)"
            ]
        );
        assert_eq!(
            arguments("HELLO [AUTH username password]"),
            ["AUTH AUTH:block?(username:string, password:string)"]
        );
        assert_eq!(
            arguments("COMMAND LIST [FILTERBY <MODULE name|PATTERN pattern>]"),
            ["FILTERBY filterby:oneof?(MODULE name:string, PATTERN pattern:pattern)"]
        );
        assert_eq!(
            arguments(
                "CLIENT KILL ip:port|<ID client-id|USER name> [<ID client-id|USER name> ...]"
            ),
            [
                "filter:oneof(ip:port:string, new-format:oneof+(ID client-id:integer, USER name:string))"
            ]
        );
    }

    #[test]
    fn the_second_word_in_capitals_belongs_to_the_name() {
        let usage = parse("CLIENT NO-EVICT ON|OFF").unwrap();
        assert_eq!((usage.name, usage.subcommand), ("CLIENT", Some("NO-EVICT")));
        assert_eq!(parse("FLUSHALL [ASYNC|SYNC]").unwrap().subcommand, None);
    }

    #[test]
    fn widths_are_counted() {
        let width = |line| widths(&parse(line).unwrap().arguments);
        assert_eq!(width("TIME"), (0, 0));
        assert_eq!(width("SET key value [NX|IFEQ ifeq-value] [GET]"), (2, 5));
        assert_eq!(width("DEL key [key ...]"), (1, usize::MAX));
        assert_eq!(width("CLIENT SETINFO LIB-NAME libname|LIB-VER libver"), (2, 2));
        assert_eq!(width("HELLO [AUTH username password]"), (0, 3));
    }

    #[test]
    fn a_wrong_line_is_refused() {
        for line in [
            "",
            "get key",
            "GET [key",
            "GET key]",
            "GET []",
            "GET key|",
            "GET <a|b",
            "SET key EX seconds",
            "DEL key [value ...]",
            "DEL [key ...]",
            "X [unheard of]",
            "GET key ...",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
