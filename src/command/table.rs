//! The one table of commands.

use super::{CommandError, Context, client, config, data, help, info, persist, server};
use crate::request::Request;

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
    /// This connection.
    Connection,
    /// The server as a whole.
    Server,
}

impl Group {
    /// All of them, in the order of `HELP`.
    pub const ALL: &[Self] = &[Self::String, Self::Generic, Self::Connection, Self::Server];

    /// Redis's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Generic => "generic",
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
    /// Redis's type of it: `key`, `string`, `integer`, `pattern`; `pure-token` for a fixed word,
    /// which is then the name in capitals.
    pub kind: &'static str,
    /// It may be left out.
    pub optional: bool,
    /// It may be repeated.
    pub multiple: bool,
    /// What may stand there, if it is a choice of fixed words.
    pub one_of: &'static [&'static str],
}

impl Argument {
    const fn new(name: &'static str, kind: &'static str) -> Self {
        Self { name, kind, optional: false, multiple: false, one_of: &[] }
    }

    const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    const fn multiple(self) -> Self {
        Self { multiple: true, ..self }
    }
}

const KEY: Argument = Argument::new("key", "key");
const VALUE: Argument = Argument::new("value", "string");
const MESSAGE: Argument = Argument::new("message", "string");
const NAME: Argument = Argument::new("command-name", "string");

/// A command: everything the rest of the program says of it comes from here.
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
            let mut shown = match argument.one_of {
                [] => argument.name.to_owned(),
                words => words.join("|"),
            };
            if argument.multiple {
                shown = format!("{shown} [{shown} ...]");
            }
            if argument.optional {
                shown = format!("[{shown}]");
            }
            usage.push(' ');
            usage.push_str(&shown);
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
        run: data::get,
        ..PLAIN
    },
    Command {
        name: "SET",
        arity: Arity::AtLeast(3),
        flags: &[Flag::Write, Flag::Denyoom],
        keys: (1, 1, 1),
        group: Group::String,
        summary: "Sets a key to a value, whatever it held before.",
        arguments: &[KEY, VALUE],
        example: "SET ville \"Saint-Denis la Plaine\"",
        notes: &["Quotes keep blanks together; \\n, \\\" and \\xHH are escapes inside them."],
        run: data::set,
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
        run: data::del,
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
        run: data::exists,
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
        run: data::append,
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
        run: data::set_range,
        ..PLAIN
    },
    Command {
        name: "PING",
        arity: Arity::Between(1, 2),
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
        run: data::keys,
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
        summary: "Removes every key.",
        arguments: &[Argument {
            one_of: &["ASYNC", "SYNC"],
            ..Argument::new("flush-type", "oneof").optional()
        }],
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
        arguments: &[Argument {
            one_of: &["SCHEDULE"],
            ..Argument::new("schedule", "pure-token").optional()
        }],
        example: "BGSAVE",
        run: persist::bgsave,
        ..PLAIN
    },
    Command {
        name: "SAVE",
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
        arguments: &[
            Argument::new("username", "string").optional(),
            Argument::new("password", "string"),
        ],
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
            Argument::new("AUTH username password", "string").optional(),
            Argument::new("SETNAME clientname", "string").optional(),
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
        arity: Arity::Between(1, 2),
        group: Group::Connection,
        since: "0.1.0",
        summary: "Lists the commands, or explains one.",
        arguments: &[NAME.optional()],
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
        name: "MONITOR",
        flags: &[Flag::Admin],
        summary: "Shows every command that the server runs, until QUIT.",
        example: "MONITOR",
        run: server::monitor,
        ..PLAIN
    },
    Command {
        name: "SHUTDOWN",
        arity: Arity::AtLeast(1),
        flags: &[Flag::Admin],
        summary: "Stops the server, with everything on disk.",
        arguments: &[Argument {
            one_of: &["NOSAVE", "SAVE"],
            ..Argument::new("save-selector", "oneof").optional()
        }],
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
        flags: &[Flag::Admin],
        summary: "Makes the server sleep or fail, for tests.",
        arguments: &[Argument::new("subcommand", "string")],
        example: "DEBUG SLEEP 0.1",
        notes: &[
            "SLEEP seconds                         this connection sleeps",
            "PANIC [CONNECTION | SHARD | JOURNAL]  it panics, with that locked",
            "Only with --enable-debug-command.",
        ],
        run: server::debug,
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
            Argument { one_of: &["LIB-NAME", "LIB-VER"], ..Argument::new("attribute", "oneof") },
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
        arguments: &[Argument::new("TYPE type | ID id ...", "string").optional()],
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
        arguments: &[Argument::new("address | filter value ...", "string")],
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
        arguments: &[Argument { one_of: &["ON", "OFF"], ..Argument::new("enabled", "oneof") }],
        run: client::no_evict,
        ..PLAIN
    },
    Command {
        name: "NO-TOUCH",
        arity: Arity::Exactly(3),
        group: Group::Connection,
        since: "7.2.0",
        summary: "Does nothing: no key is old because nobody reads it.",
        arguments: &[Argument { one_of: &["ON", "OFF"], ..Argument::new("enabled", "oneof") }],
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
            Argument { one_of: &["WRITE", "ALL"], ..Argument::new("mode", "oneof").optional() },
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
        arguments: &[Argument {
            one_of: &["ON", "OFF", "SKIP"],
            ..Argument::new("action", "oneof")
        }],
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
        name: "LIST",
        arity: Arity::Exactly(2),
        since: "7.0.0",
        summary: "Returns the names of the commands.",
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
            let required = command.arguments.iter().filter(|argument| !argument.optional).count();
            assert!(
                command
                    .arity
                    .allows(1 + required.max(usize::from(!command.subcommands.is_empty()))),
                "{}",
                command.name
            );
        }
    }

    #[test]
    fn usage_is_what_one_types() {
        let usage = |name: &[u8]| super::super::lookup(name).map(Command::usage);
        assert_eq!(usage(b"set").as_deref(), Some("SET key value"));
        assert_eq!(usage(b"Del").as_deref(), Some("DEL key [key ...]"));
        assert_eq!(usage(b"flushall").as_deref(), Some("FLUSHALL [ASYNC|SYNC]"));
        assert_eq!(usage(b"?").as_deref(), Some("HELP [command-name]"));
        assert_eq!(usage(b"config").as_deref(), Some("CONFIG subcommand"));
        assert_eq!(usage(b"nope"), None);
    }
}
