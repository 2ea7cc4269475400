//! The one table of commands.

use super::{
    CommandError, Context, client, config, data, debug, expiry, help, info, keys, lcs, numbers,
    persist, server, strings, transaction,
};
use crate::protocol::request::Request;
use crate::text;

/// Runs a command whose arity was checked: writes one reply, or returns an error and writes nothing.
type Run = fn(&mut Context<'_, '_>, &Request<'_>) -> Result<(), CommandError>;

/// How many words a request of a command has, the command's name (and subcommand's) included.
#[derive(Clone, Copy, Debug)]
pub enum Arity {
    /// Exactly so many.
    Exactly(usize),
    /// So many or more.
    AtLeast(usize),
    /// From the first to the second.
    Between(usize, usize),
}

impl Arity {
    /// Whether a request may have so many words.
    pub fn allows(self, words: usize) -> bool {
        match self {
            Self::Exactly(count) => words == count,
            Self::AtLeast(least) => words >= least,
            Self::Between(least, most) => (least..=most).contains(&words),
        }
    }

    /// As `COMMAND` tells it: negative where more are allowed.
    pub fn as_redis(self) -> i64 {
        match self {
            Self::Exactly(count) => count as i64,
            Self::AtLeast(least) | Self::Between(least, _) => -(least as i64),
        }
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
    /// On the server, not on data; `MONITOR` does not show it.
    Admin,
    /// Allowed before the password is given.
    NoAuth,
    /// Not to be kept for `EXEC`.
    NoMulti,
    /// Its first argument says how many of the words it names as keys are some.
    MovableKeys,
    /// Holds a password: neither `MONITOR` nor `SLOWLOG` shows it.
    Secret,
}

impl Flag {
    /// Redis's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Readonly => "readonly",
            Self::Denyoom => "denyoom",
            Self::Fast => "fast",
            Self::Admin => "admin",
            Self::NoAuth => "no_auth",
            Self::NoMulti => "no_multi",
            Self::MovableKeys => "movablekeys",
            Self::Secret => "skip_monitor",
        }
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
    /// The server as a whole.
    Server,
}

impl Group {
    /// All of them, in the order of `HELP`.
    pub const ALL: &[Self] =
        &[Self::String, Self::Generic, Self::Transactions, Self::Connection, Self::Server];

    /// Redis's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Generic => "generic",
            Self::Transactions => "transactions",
            Self::Connection => "connection",
            Self::Server => "server",
        }
    }
}

/// One argument, for help and hints.
#[derive(Clone, Copy, Debug)]
pub struct Argument {
    /// What stands there.
    pub name: &'static str,
    /// Redis's type of it: `key`, `string`, `integer`, `double`, `pattern`, `unix-time`; `pure-token` for a fixed
    /// word, `oneof` and `block` for one or all of its parts.
    pub kind: &'static str,
    /// The fixed word before it, or that it is.
    pub token: Option<&'static str>,
    /// It may be left out.
    pub optional: bool,
    /// It may be repeated.
    pub multiple: bool,
    /// What it consists of.
    pub parts: &'static [Argument],
}

impl Argument {
    const fn new(name: &'static str, kind: &'static str) -> Self {
        Self { name, kind, token: None, optional: false, multiple: false, parts: &[] }
    }

    /// A fixed word.
    const fn word(token: &'static str) -> Self {
        Self { token: Some(token), ..Self::new(token, "pure-token") }
    }

    const fn one_of(name: &'static str, parts: &'static [Argument]) -> Self {
        Self { parts, ..Self::new(name, "oneof") }
    }

    const fn block(name: &'static str, parts: &'static [Argument]) -> Self {
        Self { parts, ..Self::new(name, "block") }
    }

    const fn after(self, token: &'static str) -> Self {
        Self { token: Some(token), ..self }
    }

    const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    const fn multiple(self) -> Self {
        Self { multiple: true, ..self }
    }

    /// How it is typed, as redis-cli shows it.
    fn usage(&self) -> String {
        let parts = |between| {
            let parts: Vec<_> = self.parts.iter().map(Self::usage).collect();
            parts.join(between)
        };
        let shown = match self.kind {
            "pure-token" => String::new(),
            "oneof" => parts("|"),
            "block" => parts(" "),
            _ => self.name.to_owned(),
        };
        let shown = if self.multiple { format!("{shown} [{shown} ...]") } else { shown };
        let usage = match self.token {
            None => shown,
            Some(token) if shown.is_empty() => token.to_owned(),
            Some(token) => format!("{token} {shown}"),
        };
        if self.optional { format!("[{usage}]") } else { usage }
    }
}

const KEY: Argument = Argument::new("key", "key");
const VALUE: Argument = Argument::new("value", "string");
const INTEGER: &str = "integer";
const TIME: &str = "unix-time";
const PAIRS: Argument = Argument::block("data", &[KEY, VALUE]).multiple();
const EX: Argument = Argument::new("seconds", INTEGER).after("EX");
const PX: Argument = Argument::new("milliseconds", INTEGER).after("PX");
const EXAT: Argument = Argument::new("unix-time-seconds", TIME).after("EXAT");
const PXAT: Argument = Argument::new("unix-time-milliseconds", TIME).after("PXAT");
const EXPIRY_OR_KEEP: Argument =
    Argument::one_of("expiration", &[EX, PX, EXAT, PXAT, Argument::word("KEEPTTL")]).optional();
const EXPIRY_OR_PERSIST: Argument =
    Argument::one_of("expiration", &[EX, PX, EXAT, PXAT, Argument::word("PERSIST")]).optional();
const IF_EQ: Argument = Argument::new("ifeq-value", "string").after("IFEQ");
const IF_NE: Argument = Argument::new("ifne-value", "string").after("IFNE");
const NX: Argument = Argument::word("NX");
const XX: Argument = Argument::word("XX");
const EXPIRE_IF: Argument =
    Argument::one_of("condition", &[NX, XX, Argument::word("GT"), Argument::word("LT")]).optional();
const FLUSH_TYPE: Argument =
    Argument::one_of("flush-type", &[Argument::word("ASYNC"), Argument::word("SYNC")]).optional();
const ON_OFF: Argument =
    Argument::one_of("enabled", &[Argument::word("ON"), Argument::word("OFF")]);
const USERNAME: Argument = Argument::new("username", "string");
const PASSWORD: Argument = Argument::new("password", "string");
const MESSAGE: Argument = Argument::new("message", "string");
const NAME: Argument = Argument::new("command-name", "string");

/// A command: everything the rest of the program says of it comes from here.
#[derive(Debug)]
pub struct Command {
    /// In capitals.
    pub name: &'static str,
    /// Another name, for people.
    pub alias: Option<&'static str>,
    /// Words of a request.
    pub arity: Arity,
    /// Its nature.
    pub flags: &'static [Flag],
    /// First key, last key (negative: from the end) and step, as `COMMAND` tells them; zeros if
    /// there is none.
    pub keys: (i64, i64, i64),
    /// Its theme.
    pub group: Group,
    /// The version of Redis that had it first, or of coffre.
    pub since: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// For help and hints.
    pub arguments: &'static [Argument],
    /// A line to type, for help.
    pub example: &'static str,
    /// Further lines of help, one per option.
    pub notes: &'static [&'static str],
    /// Those whose name is the second word.
    pub subcommands: &'static [Command],
    /// What it does.
    pub run: Run,
}

impl Command {
    /// Which words of a request are keys.
    pub fn key_places(&self, request: &Request<'_>) -> impl Iterator<Item = usize> + use<> {
        let (first, last, step) = self.keys;
        let last = if last < 0 { request.len() as i64 + last } else { last };
        let last = if first == 0 { -1 } else { last };
        let most = match self.flags.contains(&Flag::MovableKeys) {
            true => text::integer(&request[1]).and_then(|count| usize::try_from(count).ok()),
            false => None,
        };
        let places = (first as usize..(last + 1).max(0) as usize).step_by(step.max(1) as usize);
        places.take(most.unwrap_or(usize::MAX))
    }

    /// Redis's names of the kinds of commands it belongs to.
    pub fn categories(&self) -> impl Iterator<Item = &'static str> {
        let has = |flag| self.flags.contains(&flag);
        let group = match self.group {
            Group::String => "string",
            Group::Generic => "keyspace",
            Group::Transactions => "transaction",
            Group::Connection => "connection",
            Group::Server => "admin",
        };
        let kinds = [
            (true, group),
            (has(Flag::Write), "write"),
            (has(Flag::Readonly), "read"),
            (has(Flag::Fast), "fast"),
            (!has(Flag::Fast), "slow"),
            (has(Flag::Admin), "dangerous"),
        ];
        kinds.into_iter().filter_map(|(is_one, name)| is_one.then_some(name))
    }

    /// How it is typed, as `DEL key [key ...]`.
    pub fn usage(&self) -> String {
        let mut usage = self.name.to_owned();
        if !self.subcommands.is_empty() {
            usage.push_str(match self.arity {
                Arity::AtLeast(1) => " [subcommand]",
                _ => " subcommand",
            });
        }
        for argument in self.arguments {
            usage.push(' ');
            usage.push_str(&argument.usage());
        }
        usage
    }
}

/// What most commands have.
const PLAIN: Command = Command {
    name: "",
    alias: None,
    arity: Arity::Exactly(1),
    flags: &[],
    keys: (0, 0, 0),
    group: Group::Server,
    since: "1.0.0",
    summary: "",
    arguments: &[],
    example: "",
    notes: &[],
    subcommands: &[],
    run: data::ping,
};

/// Every command, the most used first: that is the order of the search.
pub static TABLE: &[Command] = &[
    Command {
        name: "GET",
        arity: Arity::Exactly(2),
        flags: &[Flag::Readonly, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        summary: "Returns the value of a key.",
        arguments: &[KEY],
        example: "GET ville",
        run: strings::get,
        ..PLAIN
    },
    Command {
        name: "SET",
        arity: Arity::AtLeast(3),
        flags: &[Flag::Write, Flag::Denyoom],
        keys: (1, 1, 1),
        group: Group::String,
        summary: "Sets a key to a value, whatever it held before.",
        arguments: &[
            KEY,
            VALUE,
            Argument::one_of("condition", &[NX, XX, IF_EQ, IF_NE]).optional(),
            Argument::word("GET").optional(),
            EXPIRY_OR_KEEP,
        ],
        example: "SET ville \"Saint-Denis la Plaine\"",
        notes: &[
            "Quotes keep blanks together; \\n, \\\" and \\xHH are escapes inside them.",
            "NX, XX        only if the key is new, or is not",
            "IFEQ, IFNE    only if it has that value, or has not",
            "GET           returns the old value",
            "EX, PX        it expires in so many seconds, milliseconds",
            "EXAT, PXAT    it expires at a Unix time in seconds, milliseconds",
            "KEEPTTL       it expires when it did",
        ],
        run: strings::set,
        ..PLAIN
    },
    Command {
        name: "DEL",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Write],
        keys: (1, -1, 1),
        group: Group::Generic,
        summary: "Removes keys and tells how many there were.",
        arguments: &[KEY.multiple()],
        example: "DEL brouillon ancien",
        run: keys::del,
        ..PLAIN
    },
    Command {
        name: "EXISTS",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Readonly, Flag::Fast],
        keys: (1, -1, 1),
        group: Group::Generic,
        summary: "Counts how many of the keys exist; a key named twice counts twice.",
        arguments: &[KEY.multiple()],
        example: "EXISTS ville",
        run: keys::exists,
        ..PLAIN
    },
    Command {
        name: "APPEND",
        arity: Arity::Exactly(3),
        flags: &[Flag::Write, Flag::Denyoom, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        since: "2.0.0",
        summary: "Adds to the end of a value, or sets it, and returns its length in bytes.",
        arguments: &[KEY, VALUE],
        example: "APPEND ville \" sur Loire\"",
        run: strings::append,
        ..PLAIN
    },
    Command {
        name: "SETRANGE",
        arity: Arity::Exactly(4),
        flags: &[Flag::Write, Flag::Denyoom],
        keys: (1, 1, 1),
        group: Group::String,
        since: "2.2.0",
        summary: "Overwrites a value from an offset on and returns its length in bytes.",
        arguments: &[KEY, Argument::new("offset", "integer"), VALUE],
        example: "SETRANGE ville 0 O",
        notes: &["A value that is too short grows by NUL bytes."],
        run: strings::set_range,
        ..PLAIN
    },
    Command {
        name: "MGET",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Readonly, Flag::Fast],
        keys: (1, -1, 1),
        group: Group::String,
        summary: "Returns the values of keys, read at one moment.",
        arguments: &[KEY.multiple()],
        example: "MGET ville fleuve",
        run: strings::mget,
        ..PLAIN
    },
    Command {
        name: "MSET",
        arity: Arity::AtLeast(3),
        flags: &[Flag::Write, Flag::Denyoom],
        keys: (1, -1, 2),
        group: Group::String,
        since: "1.0.1",
        summary: "Sets keys to values, all at one moment.",
        arguments: &[PAIRS],
        example: "MSET ville Nantes fleuve Loire",
        run: strings::mset,
        ..PLAIN
    },
    Command {
        name: "MSETNX",
        arity: Arity::AtLeast(3),
        flags: &[Flag::Write, Flag::Denyoom],
        keys: (1, -1, 2),
        group: Group::String,
        since: "1.0.1",
        summary: "Sets keys to values if none of them exists.",
        arguments: &[PAIRS],
        example: "MSETNX ville Nantes fleuve Loire",
        run: strings::mset_nx,
        ..PLAIN
    },
    Command {
        name: "INCR",
        arity: Arity::Exactly(2),
        flags: &[Flag::Write, Flag::Denyoom, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        summary: "Adds 1 to a number and returns it.",
        arguments: &[KEY],
        example: "INCR visites",
        run: numbers::incr,
        ..PLAIN
    },
    Command {
        name: "DECR",
        arity: Arity::Exactly(2),
        flags: &[Flag::Write, Flag::Denyoom, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        summary: "Takes 1 from a number and returns it.",
        arguments: &[KEY],
        example: "DECR stock",
        run: numbers::decr,
        ..PLAIN
    },
    Command {
        name: "INCRBY",
        arity: Arity::Exactly(3),
        flags: &[Flag::Write, Flag::Denyoom, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        summary: "Adds to a number and returns it.",
        arguments: &[KEY, Argument::new("increment", "integer")],
        example: "INCRBY visites 10",
        run: numbers::incr_by,
        ..PLAIN
    },
    Command {
        name: "DECRBY",
        arity: Arity::Exactly(3),
        flags: &[Flag::Write, Flag::Denyoom, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        summary: "Takes from a number and returns it.",
        arguments: &[KEY, Argument::new("decrement", "integer")],
        example: "DECRBY stock 10",
        run: numbers::decr_by,
        ..PLAIN
    },
    Command {
        name: "INCRBYFLOAT",
        arity: Arity::Exactly(3),
        flags: &[Flag::Write, Flag::Denyoom, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        since: "2.6.0",
        summary: "Adds to a number, which may have decimals, and returns it.",
        arguments: &[KEY, Argument::new("increment", "double")],
        example: "INCRBYFLOAT solde 0.1",
        notes: &["It adds as one does on paper; 17 decimals are kept."],
        run: numbers::incr_by_float,
        ..PLAIN
    },
    Command {
        name: "INCREX",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Write, Flag::Denyoom, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        since: "8.8.0",
        summary: "Adds to a number within bounds, and returns it and what was added.",
        arguments: &[
            KEY,
            Argument::one_of(
                "increment",
                &[
                    Argument::new("float", "double").after("BYFLOAT"),
                    Argument::new("integer", INTEGER).after("BYINT"),
                ],
            )
            .optional(),
            Argument::new("lowerbound", "string").after("LBOUND").optional(),
            Argument::new("upperbound", "string").after("UBOUND").optional(),
            Argument::word("SATURATE").optional(),
            EXPIRY_OR_PERSIST,
            Argument::word("ENX").optional(),
        ],
        example: "INCREX requetes:jean UBOUND 100 EX 60 ENX",
        notes: &[
            "BYINT, BYFLOAT    how much is added, else 1",
            "LBOUND, UBOUND    a sum beyond them changes nothing: 0 was added",
            "SATURATE          it becomes the bound instead",
            "EX, PX, EXAT, PXAT, PERSIST    when it expires from now on, else as before",
            "ENX               that only if it does not expire yet",
        ],
        run: numbers::incr_ex,
        ..PLAIN
    },
    Command {
        name: "LCS",
        arity: Arity::AtLeast(3),
        flags: &[Flag::Readonly],
        keys: (1, 2, 1),
        group: Group::String,
        since: "7.0.0",
        summary: "Returns the longest common subsequence of two values.",
        arguments: &[
            Argument::new("key1", "key"),
            Argument::new("key2", "key"),
            Argument::word("LEN").optional(),
            Argument::word("IDX").optional(),
            Argument::new("min-match-len", INTEGER).after("MINMATCHLEN").optional(),
            Argument::word("WITHMATCHLEN").optional(),
        ],
        example: "LCS ville autre",
        notes: &[
            "LEN            only its length",
            "IDX            where its parts stand in each value",
            "MINMATCHLEN    only parts so long",
            "WITHMATCHLEN   and how long each is",
        ],
        run: lcs::lcs,
        ..PLAIN
    },
    Command {
        name: "MSETEX",
        arity: Arity::AtLeast(4),
        flags: &[Flag::Write, Flag::Denyoom, Flag::MovableKeys],
        keys: (2, -1, 2),
        group: Group::String,
        since: "8.4.0",
        summary: "Sets so many keys to values at one moment, and when they expire.",
        arguments: &[
            Argument::new("numkeys", INTEGER),
            PAIRS,
            Argument::one_of("condition", &[NX, XX]).optional(),
            EXPIRY_OR_KEEP,
        ],
        example: "MSETEX 2 ville Nantes fleuve Loire EX 60",
        notes: &["NX, XX    only if none of the keys exists, or all do"],
        run: strings::mset_ex,
        ..PLAIN
    },
    Command {
        name: "SETNX",
        arity: Arity::Exactly(3),
        flags: &[Flag::Write, Flag::Denyoom, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        summary: "Sets a key to a value if it does not exist.",
        arguments: &[KEY, VALUE],
        example: "SETNX ville Nantes",
        run: strings::set_nx,
        ..PLAIN
    },
    Command {
        name: "SETEX",
        arity: Arity::Exactly(4),
        flags: &[Flag::Write, Flag::Denyoom],
        keys: (1, 1, 1),
        group: Group::String,
        since: "2.0.0",
        summary: "Sets a key to a value that expires in seconds.",
        arguments: &[KEY, Argument::new("seconds", "integer"), VALUE],
        example: "SETEX session 60 abc",
        run: strings::set_ex,
        ..PLAIN
    },
    Command {
        name: "PSETEX",
        arity: Arity::Exactly(4),
        flags: &[Flag::Write, Flag::Denyoom],
        keys: (1, 1, 1),
        group: Group::String,
        since: "2.6.0",
        summary: "Sets a key to a value that expires in milliseconds.",
        arguments: &[KEY, Argument::new("milliseconds", "integer"), VALUE],
        example: "PSETEX session 1500 abc",
        run: strings::pset_ex,
        ..PLAIN
    },
    Command {
        name: "GETSET",
        arity: Arity::Exactly(3),
        flags: &[Flag::Write, Flag::Denyoom, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        summary: "Sets a key to a value and returns the old one.",
        arguments: &[KEY, VALUE],
        example: "GETSET ville Nantes",
        run: strings::get_set,
        ..PLAIN
    },
    Command {
        name: "GETDEL",
        arity: Arity::Exactly(2),
        flags: &[Flag::Write, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        since: "6.2.0",
        summary: "Returns the value of a key, and removes it.",
        arguments: &[KEY],
        example: "GETDEL message",
        run: strings::get_del,
        ..PLAIN
    },
    Command {
        name: "GETEX",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Write, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        since: "6.2.0",
        summary: "Returns the value of a key, and changes when it expires.",
        arguments: &[KEY, EXPIRY_OR_PERSIST],
        example: "GETEX session EX 60",
        run: strings::get_ex,
        ..PLAIN
    },
    Command {
        name: "DELEX",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Write, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        since: "8.4.0",
        summary: "Removes a key if it has, or has not, a value.",
        arguments: &[KEY, Argument::one_of("condition", &[IF_EQ, IF_NE]).optional()],
        example: "DELEX verrou IFEQ jeton",
        run: strings::del_ex,
        ..PLAIN
    },
    Command {
        name: "DELIFEQ",
        arity: Arity::Exactly(3),
        flags: &[Flag::Write, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        since: "9.0.0",
        summary: "Removes a key if it has a value; as in Valkey.",
        arguments: &[KEY, VALUE],
        example: "DELIFEQ verrou jeton",
        run: strings::del_if_eq,
        ..PLAIN
    },
    Command {
        name: "STRLEN",
        arity: Arity::Exactly(2),
        flags: &[Flag::Readonly, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::String,
        since: "2.2.0",
        summary: "Returns the length of a value in bytes.",
        arguments: &[KEY],
        example: "STRLEN ville",
        run: strings::strlen,
        ..PLAIN
    },
    Command {
        name: "GETRANGE",
        arity: Arity::Exactly(4),
        flags: &[Flag::Readonly],
        keys: (1, 1, 1),
        group: Group::String,
        since: "2.4.0",
        summary: "Returns part of a value, both ends included; negative ones count from its end.",
        arguments: &[KEY, Argument::new("start", "integer"), Argument::new("end", "integer")],
        example: "GETRANGE ville 0 -1",
        run: strings::get_range,
        ..PLAIN
    },
    Command {
        name: "SUBSTR",
        arity: Arity::Exactly(4),
        flags: &[Flag::Readonly],
        keys: (1, 1, 1),
        group: Group::String,
        summary: "The same, by its old name.",
        arguments: &[KEY, Argument::new("start", "integer"), Argument::new("end", "integer")],
        example: "SUBSTR ville 0 -1",
        run: strings::get_range,
        ..PLAIN
    },
    Command {
        name: "UNLINK",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Write, Flag::Fast],
        keys: (1, -1, 1),
        group: Group::Generic,
        since: "4.0.0",
        summary: "Does what DEL does.",
        arguments: &[KEY.multiple()],
        example: "UNLINK brouillon",
        run: keys::del,
        ..PLAIN
    },
    Command {
        name: "TOUCH",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Readonly, Flag::Fast],
        keys: (1, -1, 1),
        group: Group::Generic,
        since: "3.2.1",
        summary: "Counts how many of the keys exist.",
        arguments: &[KEY.multiple()],
        example: "TOUCH ville",
        run: keys::touch,
        ..PLAIN
    },
    Command {
        name: "TYPE",
        arity: Arity::Exactly(2),
        flags: &[Flag::Readonly, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::Generic,
        summary: "Returns string, or none if there is no such key.",
        arguments: &[KEY],
        example: "TYPE ville",
        run: keys::kind,
        ..PLAIN
    },
    Command {
        name: "EXPIRE",
        arity: Arity::AtLeast(3),
        flags: &[Flag::Write, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::Generic,
        summary: "Lets a key expire in so many seconds; 1 if it does.",
        arguments: &[KEY, Argument::new("seconds", "integer"), EXPIRE_IF],
        example: "EXPIRE session 60",
        notes: &[
            "NX, XX  only if it does not expire yet, or does",
            "GT, LT  only if that is later, or sooner",
        ],
        run: expiry::expire,
        ..PLAIN
    },
    Command {
        name: "PEXPIRE",
        arity: Arity::AtLeast(3),
        flags: &[Flag::Write, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::Generic,
        since: "2.6.0",
        summary: "Lets a key expire in so many milliseconds; 1 if it does.",
        arguments: &[KEY, Argument::new("milliseconds", "integer"), EXPIRE_IF],
        example: "PEXPIRE session 1500",
        run: expiry::pexpire,
        ..PLAIN
    },
    Command {
        name: "EXPIREAT",
        arity: Arity::AtLeast(3),
        flags: &[Flag::Write, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::Generic,
        since: "1.2.0",
        summary: "Lets a key expire at a Unix time in seconds; 1 if it does.",
        arguments: &[KEY, Argument::new("unix-time-seconds", TIME), EXPIRE_IF],
        example: "EXPIREAT session 2000000000",
        run: expiry::expire_at,
        ..PLAIN
    },
    Command {
        name: "PEXPIREAT",
        arity: Arity::AtLeast(3),
        flags: &[Flag::Write, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::Generic,
        since: "2.6.0",
        summary: "Lets a key expire at a Unix time in milliseconds; 1 if it does.",
        arguments: &[KEY, Argument::new("unix-time-milliseconds", TIME), EXPIRE_IF],
        example: "PEXPIREAT session 2000000000000",
        run: expiry::pexpire_at,
        ..PLAIN
    },
    Command {
        name: "TTL",
        arity: Arity::Exactly(2),
        flags: &[Flag::Readonly, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::Generic,
        summary: "Returns in how many seconds a key expires: -1 is never, -2 no such key.",
        arguments: &[KEY],
        example: "TTL session",
        run: expiry::ttl,
        ..PLAIN
    },
    Command {
        name: "PTTL",
        arity: Arity::Exactly(2),
        flags: &[Flag::Readonly, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::Generic,
        since: "2.6.0",
        summary: "The same in milliseconds.",
        arguments: &[KEY],
        example: "PTTL session",
        run: expiry::pttl,
        ..PLAIN
    },
    Command {
        name: "EXPIRETIME",
        arity: Arity::Exactly(2),
        flags: &[Flag::Readonly, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::Generic,
        since: "7.0.0",
        summary: "Returns when a key expires, as Unix time in seconds.",
        arguments: &[KEY],
        example: "EXPIRETIME session",
        run: expiry::expire_time,
        ..PLAIN
    },
    Command {
        name: "PEXPIRETIME",
        arity: Arity::Exactly(2),
        flags: &[Flag::Readonly, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::Generic,
        since: "7.0.0",
        summary: "The same in milliseconds.",
        arguments: &[KEY],
        example: "PEXPIRETIME session",
        run: expiry::pexpire_time,
        ..PLAIN
    },
    Command {
        name: "PERSIST",
        arity: Arity::Exactly(2),
        flags: &[Flag::Write, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::Generic,
        since: "2.2.0",
        summary: "Lets a key not expire; 1 if it did.",
        arguments: &[KEY],
        example: "PERSIST session",
        run: expiry::persist,
        ..PLAIN
    },
    Command {
        name: "RENAME",
        arity: Arity::Exactly(3),
        flags: &[Flag::Write],
        keys: (1, 2, 1),
        group: Group::Generic,
        summary: "Gives a key another name.",
        arguments: &[KEY, Argument::new("newkey", "key")],
        example: "RENAME brouillon ville",
        run: keys::rename,
        ..PLAIN
    },
    Command {
        name: "RENAMENX",
        arity: Arity::Exactly(3),
        flags: &[Flag::Write, Flag::Fast],
        keys: (1, 2, 1),
        group: Group::Generic,
        summary: "The same if there is no key of that name.",
        arguments: &[KEY, Argument::new("newkey", "key")],
        example: "RENAMENX brouillon ville",
        run: keys::rename_nx,
        ..PLAIN
    },
    Command {
        name: "COPY",
        arity: Arity::AtLeast(3),
        flags: &[Flag::Write, Flag::Denyoom],
        keys: (1, 2, 1),
        group: Group::Generic,
        since: "6.2.0",
        summary: "Copies a key.",
        arguments: &[
            Argument::new("source", "key"),
            Argument::new("destination", "key"),
            Argument::new("destination-db", INTEGER).after("DB").optional(),
            Argument::word("REPLACE").optional(),
        ],
        example: "COPY ville ancienne REPLACE",
        run: keys::copy,
        ..PLAIN
    },
    Command {
        name: "RANDOMKEY",
        flags: &[Flag::Readonly],
        group: Group::Generic,
        summary: "Returns any key.",
        example: "RANDOMKEY",
        run: keys::random_key,
        ..PLAIN
    },
    Command {
        name: "SCAN",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Readonly],
        group: Group::Generic,
        since: "2.8.0",
        summary: "Lists keys in steps: the cursor begins as 0, and ends as 0.",
        arguments: &[
            Argument::new("cursor", "integer"),
            Argument::new("pattern", "pattern").after("MATCH").optional(),
            Argument::new("count", INTEGER).after("COUNT").optional(),
            Argument::new("type", "string").after("TYPE").optional(),
        ],
        example: "SCAN 0 MATCH vil* COUNT 100",
        run: keys::scan,
        ..PLAIN
    },
    Command {
        name: "OBJECT",
        arity: Arity::AtLeast(2),
        group: Group::Generic,
        since: "2.2.3",
        summary: "Tells how a value is kept.",
        example: "OBJECT ENCODING ville",
        subcommands: OBJECT,
        run: help::subcommands,
        ..PLAIN
    },
    Command {
        name: "MEMORY",
        arity: Arity::AtLeast(2),
        since: "4.0.0",
        summary: "Tells what a key takes.",
        example: "MEMORY USAGE ville",
        subcommands: MEMORY,
        run: help::subcommands,
        ..PLAIN
    },
    Command {
        name: "FLUSHDB",
        arity: Arity::AtLeast(1),
        flags: &[Flag::Write],
        summary: "Removes every key of the database.",
        arguments: &[FLUSH_TYPE],
        example: "FLUSHDB",
        run: data::flush_db,
        ..PLAIN
    },
    Command {
        name: "MULTI",
        arity: Arity::Exactly(1),
        flags: &[Flag::Fast],
        group: Group::Transactions,
        since: "1.2.0",
        summary: "Begins a transaction: what follows is kept until EXEC.",
        arguments: &[],
        example: "MULTI",
        run: transaction::multi,
        ..PLAIN
    },
    Command {
        name: "EXEC",
        arity: Arity::Exactly(1),
        flags: &[],
        group: Group::Transactions,
        since: "1.2.0",
        summary: "Runs what was kept, all at one moment.",
        arguments: &[],
        example: "EXEC",
        run: transaction::exec,
        ..PLAIN
    },
    Command {
        name: "DISCARD",
        arity: Arity::Exactly(1),
        flags: &[Flag::Fast],
        group: Group::Transactions,
        since: "2.0.0",
        summary: "Forgets what was kept.",
        arguments: &[],
        example: "DISCARD",
        run: transaction::discard,
        ..PLAIN
    },
    Command {
        name: "WATCH",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Fast],
        keys: (1, -1, 1),
        group: Group::Transactions,
        since: "2.2.0",
        summary: "Lets EXEC do nothing if somebody changes one of the keys.",
        arguments: &[KEY.multiple()],
        example: "WATCH ville",
        run: transaction::watch,
        ..PLAIN
    },
    Command {
        name: "UNWATCH",
        arity: Arity::Exactly(1),
        flags: &[Flag::Fast],
        group: Group::Transactions,
        since: "2.2.0",
        summary: "Forgets what is watched.",
        arguments: &[],
        example: "UNWATCH",
        run: transaction::unwatch,
        ..PLAIN
    },
    Command {
        name: "SELECT",
        arity: Arity::Exactly(2),
        flags: &[Flag::Fast],
        group: Group::Connection,
        summary: "Chooses the database for what follows; at first it is 0.",
        arguments: &[Argument::new("index", "integer")],
        example: "SELECT 1",
        notes: &["A key belongs to a database: each client can keep its own pairs apart."],
        run: keys::select,
        ..PLAIN
    },
    Command {
        name: "SWAPDB",
        arity: Arity::Exactly(3),
        flags: &[Flag::Write, Flag::Fast],
        since: "4.0.0",
        summary: "Gives each of two databases the keys of the other.",
        arguments: &[Argument::new("index1", INTEGER), Argument::new("index2", INTEGER)],
        example: "SWAPDB 0 1",
        run: keys::swap_db,
        ..PLAIN
    },
    Command {
        name: "MOVE",
        arity: Arity::Exactly(3),
        flags: &[Flag::Write, Flag::Fast],
        keys: (1, 1, 1),
        group: Group::Generic,
        summary: "Moves a key to another database, unless it has such a key.",
        arguments: &[KEY, Argument::new("db", INTEGER)],
        example: "MOVE brouillon 1",
        run: keys::move_key,
        ..PLAIN
    },
    Command {
        name: "TIME",
        flags: &[Flag::Fast],
        since: "2.6.0",
        summary: "Returns the Unix time in seconds, and microseconds.",
        example: "TIME",
        run: data::time,
        ..PLAIN
    },
    Command {
        name: "PING",
        arity: Arity::AtLeast(1),
        flags: &[Flag::Fast],
        group: Group::Connection,
        summary: "Returns PONG, or the message.",
        arguments: &[MESSAGE.optional()],
        example: "PING",
        run: data::ping,
        ..PLAIN
    },
    Command {
        name: "ECHO",
        arity: Arity::Exactly(2),
        flags: &[Flag::Fast],
        group: Group::Connection,
        summary: "Returns the message.",
        arguments: &[MESSAGE],
        example: "ECHO bonjour",
        run: data::echo,
        ..PLAIN
    },
    Command {
        name: "KEYS",
        arity: Arity::Exactly(2),
        flags: &[Flag::Readonly],
        group: Group::Generic,
        summary: "Lists the keys that match a pattern.",
        arguments: &[Argument::new("pattern", "pattern")],
        example: "KEYS vil*",
        notes: &[
            "*      any bytes",
            "?      one byte",
            "[a-c]  one of these",
            "[^x]   one that is not",
            "\\x     x itself",
        ],
        run: keys::keys,
        ..PLAIN
    },
    Command {
        name: "DBSIZE",
        flags: &[Flag::Readonly, Flag::Fast],
        summary: "Returns the number of keys.",
        example: "DBSIZE",
        run: data::dbsize,
        ..PLAIN
    },
    Command {
        name: "FLUSHALL",
        arity: Arity::AtLeast(1),
        flags: &[Flag::Write],
        summary: "Removes every key of every database.",
        arguments: &[FLUSH_TYPE],
        example: "FLUSHALL",
        notes: &["ASYNC and SYNC do the same: no other client waits while memory is freed."],
        run: data::flush_all,
        ..PLAIN
    },
    Command {
        name: "BGREWRITEAOF",
        summary: "Compacts the data file, while clients go on.",
        example: "BGREWRITEAOF",
        run: persist::bgrewriteaof,
        ..PLAIN
    },
    Command {
        name: "BGSAVE",
        arity: Arity::AtLeast(1),
        summary: "The same: there is one file.",
        arguments: &[Argument::word("SCHEDULE").optional()],
        example: "BGSAVE",
        run: persist::bgsave,
        ..PLAIN
    },
    Command {
        name: "SAVE",
        flags: &[Flag::NoMulti],
        summary: "Waits until everything is on disk, whatever --fsync says.",
        example: "SAVE",
        run: persist::save,
        ..PLAIN
    },
    Command {
        name: "LASTSAVE",
        flags: &[Flag::Fast],
        summary: "Returns when the last SAVE or compaction ended, as Unix time in seconds.",
        example: "LASTSAVE",
        run: persist::lastsave,
        ..PLAIN
    },
    Command {
        name: "INFO",
        arity: Arity::AtLeast(1),
        summary: "Tells how the server is.",
        arguments: &[Argument::new("section", "string").optional().multiple()],
        example: "INFO persistence",
        run: info::info,
        ..PLAIN
    },
    Command {
        name: "QUIT",
        alias: Some("EXIT"),
        arity: Arity::AtLeast(1),
        flags: &[Flag::Fast, Flag::NoAuth],
        group: Group::Connection,
        summary: "Closes the connection.",
        example: "QUIT",
        run: client::quit,
        ..PLAIN
    },
    Command {
        name: "AUTH",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Fast, Flag::NoAuth, Flag::Secret],
        group: Group::Connection,
        summary: "Gives the password.",
        arguments: &[USERNAME.optional(), PASSWORD],
        example: "AUTH sesame",
        notes: &["The only user is default."],
        run: client::auth,
        ..PLAIN
    },
    Command {
        name: "HELLO",
        arity: Arity::AtLeast(1),
        flags: &[Flag::Fast, Flag::NoAuth, Flag::Secret],
        group: Group::Connection,
        since: "6.0.0",
        summary: "Tells who the server is, and chooses the form of replies.",
        arguments: &[
            Argument::new("protover", "integer").optional(),
            Argument::block("auth", &[USERNAME, PASSWORD]).after("AUTH").optional(),
            Argument::new("clientname", "string").after("SETNAME").optional(),
        ],
        example: "HELLO 3",
        notes: &["Version 2 is what everybody speaks at first, 3 has maps and one null."],
        run: client::hello,
        ..PLAIN
    },
    Command {
        name: "RESET",
        flags: &[Flag::Fast, Flag::NoAuth],
        group: Group::Connection,
        since: "6.2.0",
        summary: "Makes the connection as if it were new.",
        example: "RESET",
        run: client::reset,
        ..PLAIN
    },
    Command {
        name: "HELP",
        alias: Some("?"),
        arity: Arity::Between(1, 3),
        group: Group::Connection,
        since: "0.1.0",
        summary: "Lists the commands, or those of a group, or explains one.",
        arguments: &[Argument::one_of(
            "topic",
            &[
                Argument::new("group", "string"),
                Argument::block(
                    "command",
                    &[NAME, Argument::new("subcommand", "string").optional()],
                ),
            ],
        )
        .optional()],
        example: "HELP SET",
        run: help::help,
        ..PLAIN
    },
    Command {
        name: "CLIENT",
        arity: Arity::AtLeast(2),
        group: Group::Connection,
        since: "2.4.0",
        summary: "Lists, names and ends connections.",
        example: "CLIENT LIST",
        subcommands: CLIENT,
        run: help::subcommands,
        ..PLAIN
    },
    Command {
        name: "COMMAND",
        arity: Arity::AtLeast(1),
        since: "2.8.13",
        summary: "Describes the commands to client programs.",
        example: "COMMAND COUNT",
        subcommands: COMMAND,
        run: help::command,
        ..PLAIN
    },
    Command {
        name: "CONFIG",
        arity: Arity::AtLeast(2),
        since: "2.0.0",
        summary: "Tells the running configuration.",
        example: "CONFIG GET *",
        subcommands: CONFIG,
        run: help::subcommands,
        ..PLAIN
    },
    Command {
        name: "SLOWLOG",
        arity: Arity::AtLeast(2),
        since: "2.2.12",
        summary: "Lists the commands that took long.",
        example: "SLOWLOG GET 10",
        subcommands: SLOWLOG,
        run: help::subcommands,
        ..PLAIN
    },
    Command {
        name: "LATENCY",
        arity: Arity::AtLeast(2),
        since: "2.8.13",
        summary: "Is there for programs that ask: no latency events are sampled.",
        example: "LATENCY LATEST",
        subcommands: LATENCY,
        run: help::subcommands,
        ..PLAIN
    },
    Command {
        name: "MODULE",
        arity: Arity::AtLeast(2),
        since: "4.0.0",
        summary: "Is there for programs that ask: there are no modules.",
        example: "MODULE LIST",
        subcommands: MODULE,
        run: help::subcommands,
        ..PLAIN
    },
    Command {
        name: "CLUSTER",
        arity: Arity::AtLeast(2),
        since: "3.0.0",
        summary: "Is refused: there is no cluster.",
        arguments: &[Argument::new("subcommand", "string")],
        example: "CLUSTER INFO",
        run: server::cluster,
        ..PLAIN
    },
    Command {
        name: "MONITOR",
        flags: &[Flag::NoMulti, Flag::Admin],
        summary: "Shows every command that the server runs, until QUIT.",
        example: "MONITOR",
        run: server::monitor,
        ..PLAIN
    },
    Command {
        name: "SHUTDOWN",
        arity: Arity::AtLeast(1),
        flags: &[Flag::NoMulti, Flag::Admin],
        summary: "Stops the server, with everything on disk.",
        arguments: &[Argument::one_of(
            "save-selector",
            &[Argument::word("NOSAVE"), Argument::word("SAVE")],
        )
        .optional()],
        example: "SHUTDOWN",
        notes: &[
            "While the data file is in trouble it is refused, unless NOSAVE or FORCE is said.",
            "NOSAVE does not try to write a new file then. NOW changes nothing.",
        ],
        run: server::shutdown,
        ..PLAIN
    },
    Command {
        name: "DEBUG",
        arity: Arity::AtLeast(2),
        flags: &[Flag::NoMulti, Flag::Admin],
        summary: "Makes the server sleep or fail, for tests.",
        arguments: &[Argument::new("subcommand", "string")],
        example: "DEBUG SLEEP 0.1",
        notes: &[
            "SLEEP seconds                         this connection sleeps",
            "PANIC [CONNECTION | SHARD | JOURNAL]  it panics, with that locked",
            "SET-ACTIVE-EXPIRE 0 | 1               what has expired stays in memory, or goes",
            "OBJECT key, DIGEST, DIGEST-VALUE key  what is in memory",
            "RELOAD, LOADAOF                       the data file is read, and must tell the same",
            "STRINGMATCH-LEN length pattern        the pattern is matched with so many letters",
            "JMAP, CHANGE-REPL-ID                  nothing",
            "HELP                                  this list",
            "Only with --enable-debug-command.",
        ],
        run: debug::debug,
        ..PLAIN
    },
];

const SUBCOMMAND_HELP: Command = Command {
    name: "HELP",
    arity: Arity::Exactly(2),
    since: "5.0.0",
    summary: "Lists the subcommands.",
    run: help::subcommands,
    ..PLAIN
};

const OBJECT: &[Command] = &[
    Command {
        name: "ENCODING",
        arity: Arity::Exactly(3),
        flags: &[Flag::Readonly],
        keys: (2, 2, 1),
        group: Group::Generic,
        since: "2.2.3",
        summary: "Returns int, embstr or raw.",
        arguments: &[KEY],
        run: keys::object_encoding,
        ..PLAIN
    },
    Command {
        name: "IDLETIME",
        arity: Arity::Exactly(3),
        flags: &[Flag::Readonly],
        keys: (2, 2, 1),
        group: Group::Generic,
        since: "2.2.3",
        summary: "Returns for how many seconds nobody has asked for a key.",
        arguments: &[KEY],
        run: keys::object_idle_time,
        ..PLAIN
    },
    Command {
        name: "REFCOUNT",
        arity: Arity::Exactly(3),
        flags: &[Flag::Readonly],
        keys: (2, 2, 1),
        group: Group::Generic,
        since: "2.2.3",
        summary: "Returns 1.",
        arguments: &[KEY],
        run: keys::object_refcount,
        ..PLAIN
    },
    Command {
        name: "FREQ",
        arity: Arity::Exactly(3),
        flags: &[Flag::Readonly],
        keys: (2, 2, 1),
        group: Group::Generic,
        since: "4.0.0",
        summary: "Returns an error: nothing is counted.",
        arguments: &[KEY],
        run: keys::object_freq,
        ..PLAIN
    },
    Command { group: Group::Generic, ..SUBCOMMAND_HELP },
];

const MEMORY: &[Command] = &[
    Command {
        name: "USAGE",
        arity: Arity::AtLeast(3),
        flags: &[Flag::Readonly],
        keys: (2, 2, 1),
        since: "4.0.0",
        summary: "Returns how much memory a key and its value take, in bytes.",
        arguments: &[KEY, Argument::new("count", INTEGER).after("SAMPLES").optional()],
        run: keys::memory_usage,
        ..PLAIN
    },
    SUBCOMMAND_HELP,
];

const CLIENT: &[Command] = &[
    Command {
        name: "ID",
        arity: Arity::Exactly(2),
        group: Group::Connection,
        since: "5.0.0",
        summary: "Returns the number of this connection.",
        run: client::id,
        ..PLAIN
    },
    Command {
        name: "GETNAME",
        arity: Arity::Exactly(2),
        group: Group::Connection,
        since: "2.6.9",
        summary: "Returns the name of this connection.",
        run: client::get_name,
        ..PLAIN
    },
    Command {
        name: "SETNAME",
        arity: Arity::Exactly(3),
        group: Group::Connection,
        since: "2.6.9",
        summary: "Names this connection.",
        arguments: &[Argument::new("connection-name", "string")],
        run: client::set_name,
        ..PLAIN
    },
    Command {
        name: "SETINFO",
        arity: Arity::Exactly(4),
        group: Group::Connection,
        since: "7.2.0",
        summary: "Takes the client library's name and version.",
        arguments: &[
            Argument::one_of(
                "attribute",
                &[
                    Argument::new("libname", "string").after("LIB-NAME"),
                    Argument::new("libver", "string").after("LIB-VER"),
                ],
            ),
            VALUE,
        ],
        run: client::set_info,
        ..PLAIN
    },
    Command {
        name: "LIST",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Admin],
        group: Group::Connection,
        since: "2.4.0",
        summary: "Lists the connected clients.",
        arguments: &[Argument::one_of(
            "filter",
            &[
                Argument::new("client-type", "string").after("TYPE"),
                Argument::new("client-id", INTEGER).multiple().after("ID"),
            ],
        )
        .optional()],
        run: client::list,
        ..PLAIN
    },
    Command {
        name: "INFO",
        arity: Arity::Exactly(2),
        group: Group::Connection,
        since: "6.2.0",
        summary: "Returns this connection's line of CLIENT LIST.",
        run: client::info,
        ..PLAIN
    },
    Command {
        name: "KILL",
        arity: Arity::AtLeast(3),
        flags: &[Flag::Admin],
        group: Group::Connection,
        since: "2.4.0",
        summary: "Ends connections and counts them.",
        arguments: &[Argument::one_of(
            "filter",
            &[
                Argument::new("ip:port", "string"),
                Argument::one_of(
                    "new-format",
                    &[
                        Argument::new("client-id", INTEGER).after("ID"),
                        Argument::new("client-type", "string").after("TYPE"),
                        USERNAME.after("USER"),
                        Argument::new("ip:port", "string").after("ADDR"),
                        Argument::new("ip:port", "string").after("LADDR"),
                        Argument::new("yes/no", "string").after("SKIPME"),
                        Argument::new("seconds", INTEGER).after("MAXAGE"),
                    ],
                )
                .multiple(),
            ],
        )],
        run: client::kill,
        ..PLAIN
    },
    Command {
        name: "NO-EVICT",
        arity: Arity::Exactly(3),
        flags: &[Flag::Admin],
        group: Group::Connection,
        since: "7.0.0",
        summary: "Does nothing: no client is ended to make room.",
        arguments: &[ON_OFF],
        run: client::no_evict,
        ..PLAIN
    },
    Command {
        name: "NO-TOUCH",
        arity: Arity::Exactly(3),
        group: Group::Connection,
        since: "7.2.0",
        summary: "Does nothing: no key is old because nobody reads it.",
        arguments: &[ON_OFF],
        run: client::no_touch,
        ..PLAIN
    },
    Command {
        name: "PAUSE",
        arity: Arity::AtLeast(3),
        flags: &[Flag::Admin],
        group: Group::Connection,
        since: "3.0.0",
        summary: "Holds up the commands of all clients for a time in milliseconds.",
        arguments: &[
            Argument::new("timeout", "integer"),
            Argument::one_of("mode", &[Argument::word("WRITE"), Argument::word("ALL")]).optional(),
        ],
        run: client::pause,
        ..PLAIN
    },
    Command {
        name: "REPLY",
        arity: Arity::Exactly(3),
        group: Group::Connection,
        since: "3.2.0",
        summary: "Turns this connection's replies on or off, or skips the next.",
        arguments: &[Argument::one_of(
            "action",
            &[Argument::word("ON"), Argument::word("OFF"), Argument::word("SKIP")],
        )],
        run: client::reply,
        ..PLAIN
    },
    Command {
        name: "UNPAUSE",
        arity: Arity::Exactly(2),
        flags: &[Flag::Admin],
        group: Group::Connection,
        since: "6.2.0",
        summary: "Ends a pause.",
        run: client::unpause,
        ..PLAIN
    },
    Command { group: Group::Connection, ..SUBCOMMAND_HELP },
];

const COMMAND: &[Command] = &[
    Command {
        name: "COUNT",
        arity: Arity::Exactly(2),
        since: "2.8.13",
        summary: "Returns the number of commands.",
        run: help::command_count,
        ..PLAIN
    },
    Command {
        name: "DOCS",
        arity: Arity::AtLeast(2),
        since: "7.0.0",
        summary: "Returns what HELP says, for programs.",
        arguments: &[NAME.optional().multiple()],
        run: help::command_docs,
        ..PLAIN
    },
    Command {
        name: "INFO",
        arity: Arity::AtLeast(2),
        since: "2.8.13",
        summary: "Returns arity, flags and key positions.",
        arguments: &[NAME.optional().multiple()],
        run: help::command_info,
        ..PLAIN
    },
    Command {
        name: "GETKEYS",
        arity: Arity::AtLeast(3),
        since: "2.8.13",
        summary: "Returns the words of a command that are keys.",
        arguments: &[
            Argument::new("command", "string"),
            Argument::new("arg", "string").optional().multiple(),
        ],
        run: help::command_get_keys,
        ..PLAIN
    },
    Command {
        name: "LIST",
        arity: Arity::AtLeast(2),
        since: "7.0.0",
        summary: "Returns the names of the commands, or of those of a kind.",
        arguments: &[Argument::one_of(
            "filterby",
            &[
                Argument::new("module-name", "string").after("MODULE"),
                Argument::new("category", "string").after("ACLCAT"),
                Argument::new("pattern", "pattern").after("PATTERN"),
            ],
        )
        .after("FILTERBY")
        .optional()],
        run: help::command_list,
        ..PLAIN
    },
    SUBCOMMAND_HELP,
];

const CONFIG: &[Command] = &[
    Command {
        name: "GET",
        arity: Arity::AtLeast(3),
        since: "2.0.0",
        summary: "Returns the parameters that match the patterns.",
        arguments: &[Argument::new("parameter", "pattern").multiple()],
        run: config::get,
        ..PLAIN
    },
    Command {
        name: "SET",
        arity: Arity::AtLeast(4),
        flags: &[Flag::Admin],
        since: "2.0.0",
        summary: "Changes parameters until the server stops, all or none.",
        arguments: &[Argument::block(
            "data",
            &[Argument::new("parameter", "string"), Argument::new("value", "string")],
        )
        .multiple()],
        run: config::set,
        ..PLAIN
    },
    Command {
        name: "RESETSTAT",
        arity: Arity::Exactly(2),
        flags: &[Flag::Admin],
        since: "2.0.0",
        summary: "Begins to count anew what INFO tells of.",
        run: config::reset_stat,
        ..PLAIN
    },
    Command {
        name: "REWRITE",
        arity: Arity::Exactly(2),
        flags: &[Flag::Admin],
        since: "2.8.0",
        summary: "Is refused: settings are flags, there is no file of them.",
        run: config::rewrite,
        ..PLAIN
    },
    SUBCOMMAND_HELP,
];

const SLOWLOG: &[Command] = &[
    Command {
        name: "GET",
        arity: Arity::Between(2, 3),
        flags: &[Flag::Admin],
        since: "2.2.12",
        summary: "Returns the newest entries, 10 if it is not said how many.",
        arguments: &[Argument::new("count", "integer").optional()],
        run: server::slowlog_get,
        ..PLAIN
    },
    Command {
        name: "LEN",
        arity: Arity::Exactly(2),
        flags: &[Flag::Admin],
        since: "2.2.12",
        summary: "Returns the number of entries.",
        run: server::slowlog_len,
        ..PLAIN
    },
    Command {
        name: "RESET",
        arity: Arity::Exactly(2),
        flags: &[Flag::Admin],
        since: "2.2.12",
        summary: "Forgets all entries.",
        run: server::slowlog_reset,
        ..PLAIN
    },
    SUBCOMMAND_HELP,
];

const LATENCY: &[Command] = &[
    Command {
        name: "LATEST",
        arity: Arity::Exactly(2),
        flags: &[Flag::Admin],
        since: "2.8.13",
        summary: "Returns the latest event of each kind: none.",
        run: server::latency_events,
        ..PLAIN
    },
    Command {
        name: "HISTORY",
        arity: Arity::Exactly(3),
        flags: &[Flag::Admin],
        since: "2.8.13",
        summary: "Returns the events of a kind: none.",
        arguments: &[Argument::new("event", "string")],
        run: server::latency_events,
        ..PLAIN
    },
    Command {
        name: "HISTOGRAM",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Admin],
        since: "7.0.0",
        summary: "Returns how long each command took: none is kept.",
        arguments: &[Argument::new("command", "string").optional().multiple()],
        run: server::latency_histogram,
        ..PLAIN
    },
    Command {
        name: "RESET",
        arity: Arity::AtLeast(2),
        flags: &[Flag::Admin],
        since: "2.8.13",
        summary: "Forgets events, and tells of how many kinds.",
        arguments: &[Argument::new("event", "string").optional().multiple()],
        run: server::latency_reset,
        ..PLAIN
    },
    Command {
        name: "DOCTOR",
        arity: Arity::Exactly(2),
        flags: &[Flag::Admin],
        since: "2.8.13",
        summary: "Tells where to look instead.",
        run: server::latency_doctor,
        ..PLAIN
    },
    SUBCOMMAND_HELP,
];

const MODULE: &[Command] = &[
    Command {
        name: "LIST",
        arity: Arity::Exactly(2),
        flags: &[Flag::Admin],
        since: "4.0.0",
        summary: "Returns the modules: none.",
        run: server::module_list,
        ..PLAIN
    },
    SUBCOMMAND_HELP,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let all = || TABLE.iter().chain(TABLE.iter().flat_map(|command| command.subcommands));
        for command in all() {
            assert_eq!(command.name, command.name.to_ascii_uppercase());
            assert!(command.summary.ends_with('.'), "{}", command.name);
        }
        for command in TABLE {
            assert!(!command.example.is_empty(), "{}", command.name);
            let twins = TABLE.iter().filter(|other| other.name == command.name);
            assert_eq!(twins.count(), 1, "{}", command.name);
            let required: usize = command.arguments.iter().map(Argument::words).sum();
            assert!(
                command
                    .arity
                    .allows(1 + required.max(usize::from(!command.subcommands.is_empty()))),
                "{}",
                command.name
            );
        }
    }

    impl Argument {
        /// How many words it takes at least.
        fn words(&self) -> usize {
            let parts = self.parts.iter().map(Self::words);
            let word = usize::from(self.token.is_some() && self.kind != "pure-token");
            match self.kind {
                _ if self.optional => 0,
                "oneof" => word + parts.min().unwrap_or(0),
                "block" => word + parts.sum::<usize>(),
                _ => word + 1,
            }
        }
    }

    #[test]
    fn usage_is_what_one_types() {
        const SET_USAGE: &str = "SET key value [NX|XX|IFEQ ifeq-value|IFNE ifne-value] [GET] [EX seconds|PX \
             milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]";
        let usage = |name: &[u8]| super::super::lookup(name).map(Command::usage);
        assert_eq!(usage(b"set").as_deref(), Some(SET_USAGE));
        assert_eq!(usage(b"mset").as_deref(), Some("MSET key value [key value ...]"));
        assert_eq!(usage(b"Del").as_deref(), Some("DEL key [key ...]"));
        assert_eq!(usage(b"flushall").as_deref(), Some("FLUSHALL [ASYNC|SYNC]"));
        assert_eq!(usage(b"?").as_deref(), Some("HELP [group|command-name [subcommand]]"));
        assert_eq!(usage(b"config").as_deref(), Some("CONFIG subcommand"));
        assert_eq!(usage(b"nope"), None);
    }
}
