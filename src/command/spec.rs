//! What a command declares beside its function, and what follows from its usage line.
//!
//! The usage line says the name, the arguments, how many words a request has and which of them are keys. A fact that
//! does not follow from it has a field of its own.

use super::usage::{Argument, Kind, widths};

/// How many words a request of a command has, the command's name (and subcommand's) included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly so many.
    Exactly(usize),
    /// So many or more.
    AtLeast(usize),
    /// From the first to the second.
    Between(usize, usize),
}

impl Arity {
    /// Of a command with a name of so many words and these arguments. A command with options counts its words itself:
    /// one too many is a syntax error then.
    pub fn of(name: usize, arguments: &[Argument]) -> Self {
        match widths(arguments) {
            (least, most) if least == most => Self::Exactly(name + least),
            (least, _) => Self::AtLeast(name + least),
        }
    }

    /// Whether a request may have so many words.
    pub fn allows(self, words: usize) -> bool {
        match self {
            Self::Exactly(count) => words == count,
            Self::AtLeast(least) => words >= least,
            Self::Between(least, most) => (least..=most).contains(&words),
        }
    }

    /// The fewest words that it allows.
    pub fn least(self) -> usize {
        let (Self::Exactly(least) | Self::AtLeast(least) | Self::Between(least, _)) = self;
        least
    }

    /// As `COMMAND` tells it: negative where more are allowed.
    pub fn as_redis(self) -> i64 {
        match self {
            Self::Exactly(count) => count as i64,
            _ => -(self.least() as i64),
        }
    }
}

/// Which words of a request are keys, as `COMMAND` tells it: zeros if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// The first.
    pub first: usize,
    /// The last; negative: from the end.
    pub last: i64,
    /// From one to the next.
    pub step: usize,
    /// The word before the first says how many there are.
    pub counted: bool,
}

impl Keys {
    /// Of a command with a name of so many words and these arguments: what stands before a key must not be optional.
    pub fn of(name: usize, arguments: &[Argument]) -> Self {
        let is_key = |argument: &Argument| argument.kind == Kind::Key;
        let starts = |argument: &Argument| {
            is_key(argument) || argument.parts.first().is_some_and(is_key) && argument.multiple
        };
        let Some(index) = arguments.iter().position(starts) else { return Self::default() };
        let first = name + widths(&arguments[..index]).0;
        let count = arguments[index..].iter().take_while(|argument| is_key(argument)).count();
        let (last, step) = match arguments[index].multiple {
            true => (-1, arguments[index].parts.len().max(1)),
            false => ((first + count - 1) as i64, 1),
        };
        let counted = index > 0 && arguments[index - 1].name == "numkeys";
        Self { first, last, step, counted }
    }

    /// Whether there are any.
    pub fn is_any(&self) -> bool {
        self.first > 0
    }
}

/// What kind of command it is, by Redis's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// May change keys.
    Write,
    /// Reads keys.
    Readonly,
    /// May make memory grow.
    Denyoom,
    /// Takes constant time.
    Fast,
    /// Allowed before the password is given.
    NoAuth,
    /// Holds a password: neither `MONITOR` nor `SLOWLOG` shows it.
    Secret,
    /// Not to be queued for `EXEC`.
    NoMulti,
    /// On the server, not on data; `MONITOR` does not show it.
    Admin,
}

impl Flag {
    const NAMED: [(Self, &str); 8] = [
        (Self::Write, "write"),
        (Self::Readonly, "readonly"),
        (Self::Denyoom, "denyoom"),
        (Self::Fast, "fast"),
        (Self::NoAuth, "no_auth"),
        (Self::Secret, "skip_monitor"),
        (Self::NoMulti, "no_multi"),
        (Self::Admin, "admin"),
    ];
}

/// A set of flags.
#[derive(Clone, Copy, Debug)]
pub struct Flags(u16);

impl Flags {
    /// Whether the flag is set.
    pub fn contains(self, flag: Flag) -> bool {
        self.0 & (1 << flag as u16) != 0
    }

    /// Redis's names of those that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> + Clone {
        Flag::NAMED.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }
}

/// The themes under which `HELP` lists commands; Redis's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Values.
    String,
    /// Keys whatever their value.
    Generic,
    /// Several commands at one moment.
    Transactions,
    /// This connection.
    Connection,
    /// Programs that clients send.
    Scripting,
    /// The server as a whole.
    Server,
}

impl Group {
    /// All of them, in the order of `HELP`.
    pub const ALL: &[Self] = &[
        Self::String,
        Self::Generic,
        Self::Transactions,
        Self::Scripting,
        Self::Connection,
        Self::Server,
    ];

    /// Redis's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Generic => "generic",
            Self::Transactions => "transactions",
            Self::Connection => "connection",
            Self::Scripting => "scripting",
            Self::Server => "server",
        }
    }

    /// Redis's name for it where it is a category of commands.
    pub fn category(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Generic => "keyspace",
            Self::Transactions => "transaction",
            Self::Connection => "connection",
            Self::Scripting => "scripting",
            Self::Server => "admin",
        }
    }
}

/// What a command says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// How it is typed, as [`super::usage`] reads it.
    pub usage: &'static str,
    /// Another name, for people.
    pub alias: Option<&'static str>,
    /// Its nature.
    pub flags: Flags,
    /// Its theme.
    pub group: Group,
    /// The version of Redis that had it first, or of coffre.
    pub since: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// A line to type, for help.
    pub example: &'static str,
    /// Further lines of help, one per option.
    pub notes: &'static [&'static str],
    /// Where it is not what follows from the usage line: a command that takes more words than it shows, or that refuses
    /// one too many as Redis does.
    pub arity: Option<Arity>,
    /// It acts on the data file, or on what only an engine that has one knows.
    pub needs_file: bool,
}

impl Spec {
    pub const fn new(group: Group, since: &'static str, usage: &'static str) -> Self {
        Self {
            usage,
            alias: None,
            flags: Flags(0),
            group,
            since,
            summary: "",
            example: "",
            notes: &[],
            arity: None,
            needs_file: false,
        }
    }

    pub const fn flags(mut self, flags: &[Flag]) -> Self {
        let mut rest = flags;
        while let [flag, others @ ..] = rest {
            self.flags.0 |= 1 << *flag as u16;
            rest = others;
        }
        self
    }

    pub const fn summary(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    pub const fn example(self, example: &'static str) -> Self {
        Self { example, ..self }
    }

    pub const fn notes(self, notes: &'static [&'static str]) -> Self {
        Self { notes, ..self }
    }

    pub const fn alias(self, alias: &'static str) -> Self {
        Self { alias: Some(alias), ..self }
    }

    pub const fn needs_file(self) -> Self {
        Self { needs_file: true, ..self }
    }

    pub const fn arity(self, arity: Arity) -> Self {
        Self { arity: Some(arity), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::usage::parse;

    fn keys(name: usize, line: &'static str) -> (usize, i64, usize, bool) {
        let keys = Keys::of(name, &parse(line).unwrap().arguments);
        (keys.first, keys.last, keys.step, keys.counted)
    }

    #[test]
    fn keys_follow_from_the_usage_line() {
        assert_eq!(keys(1, "TIME"), (0, 0, 0, false));
        assert_eq!(keys(1, "SET key value [NX|XX]"), (1, 1, 1, false));
        assert_eq!(keys(1, "RENAME key newkey"), (1, 2, 1, false));
        assert_eq!(keys(1, "DEL key [key ...]"), (1, -1, 1, false));
        assert_eq!(keys(1, "MSET key value [key value ...]"), (1, -1, 2, false));
        assert_eq!(keys(1, "MSETEX numkeys key value [key value ...] [NX|XX]"), (2, -1, 2, true));
        assert_eq!(keys(2, "OBJECT ENCODING key"), (2, 2, 1, false));
        assert_eq!(keys(2, "CONFIG SET parameter value [parameter value ...]"), (0, 0, 0, false));
    }

    #[test]
    fn arity_follows_from_the_usage_line() {
        let arity = |name, line| Arity::of(name, &parse(line).unwrap().arguments);
        assert_eq!(arity(1, "GET key"), Arity::Exactly(2));
        assert_eq!(arity(1, "DEL key [key ...]"), Arity::AtLeast(2));
        assert_eq!(arity(1, "PING [message]"), Arity::AtLeast(1));
        assert_eq!(arity(2, "CLIENT REPLY ON|OFF|SKIP"), Arity::Exactly(3));
    }

    #[test]
    fn flags_are_a_set() {
        let flags = Spec::new(Group::String, "1.0.0", "X").flags(&[Flag::Fast, Flag::Write]).flags;
        assert!(flags.contains(Flag::Write) && flags.contains(Flag::Fast));
        assert!(!flags.contains(Flag::Readonly));
        assert_eq!(flags.names().collect::<Vec<_>>(), ["write", "fast"]);
        for (index, (flag, _)) in Flag::NAMED.iter().enumerate() {
            assert_eq!(*flag as usize, index);
        }
    }
}
