//! All commands in one list, what follows from their specs, and how a name finds one.
//!
//! A command has a number, its place in the list; its subcommands follow it. The order is that of `COMMAND` and `HELP`
//! and means nothing else: a name finds its command through a hash table that is filled at start-up.

use std::ops::Range;
use std::sync::LazyLock;

use super::spec::{Arity, Flag, Flags, Keys, Spec};
use super::usage::{self, Argument};
use super::{
    Call, CommandError, Context, client, config, data, debug, expiry, help, info, is, keys, lcs,
    numbers, persist, script, server, strings, transaction,
};
use crate::engine::{Engine, Txn};
use crate::protocol::request::Request;
use crate::text;

/// Runs a command, whose arity was checked, in a transaction: writes one reply, or returns an error.
pub type Body<T> = fn(&mut Call<'_, T>) -> Result<(), CommandError>;

/// Runs a command that acts on what `MULTI` and `WATCH` began, and is in no transaction itself.
pub type Outside<E> = fn(&mut Context<'_, E>, &Request<'_>) -> Result<(), CommandError>;

/// A spec is followed by the command's body; before it stands, in brackets, what runs the command outside of a
/// transaction, unless `EXEC` runs it.
macro_rules! commands {
    ($($spec:path => $([$outside:path])? $($body:path)?,)*) => {
        static SPECS: &[Spec] = &[$($spec),*];

        /// The body of the command of a number.
        pub fn body_of<T: Txn>(number: usize) -> Body<T> {
            let bodies: &[Body<T>] = const { &[$(first!($($body,)? only_outside) as Body<T>),*] };
            bodies[number]
        }

        /// What runs the command of a number outside of a transaction, if it is one of those.
        pub fn outside_of<E: Engine>(number: usize) -> Option<Outside<E>> {
            let all: &[Option<Outside<E>>] =
                const { &[$(first!($(Some($outside as Outside<E>),)? None)),*] };
            all[number]
        }
    };
}

macro_rules! first {
    ($first:expr $(, $rest:expr)?) => {
        $first
    };
}

/// In the place of the body of a command that `EXEC` never runs.
fn only_outside<T: Txn>(_call: &mut Call<'_, T>) -> Result<(), CommandError> {
    Err(CommandError::NOT_IN_MULTI)
}

commands! {
    strings::GET => strings::get,
    strings::SET => strings::set,
    keys::DEL => keys::del,
    keys::EXISTS => keys::exists,
    strings::APPEND => strings::append,
    strings::SETRANGE => strings::set_range,
    strings::MGET => strings::mget,
    strings::MSET => strings::mset,
    strings::MSETNX => strings::mset_nx,
    numbers::INCR => numbers::incr,
    numbers::DECR => numbers::decr,
    numbers::INCRBY => numbers::incr_by,
    numbers::DECRBY => numbers::decr_by,
    numbers::INCRBYFLOAT => numbers::incr_by_float,
    numbers::INCREX => numbers::incr_ex,
    lcs::LCS => lcs::lcs,
    strings::MSETEX => strings::mset_ex,
    strings::SETNX => strings::set_nx,
    strings::SETEX => strings::set_ex,
    strings::PSETEX => strings::pset_ex,
    strings::GETSET => strings::get_set,
    strings::GETDEL => strings::get_del,
    strings::GETEX => strings::get_ex,
    strings::DELEX => strings::del_ex,
    strings::DELIFEQ => strings::del_if_eq,
    strings::STRLEN => strings::strlen,
    strings::GETRANGE => strings::get_range,
    strings::SUBSTR => strings::get_range,
    keys::UNLINK => keys::del,
    keys::TOUCH => keys::touch,
    keys::TYPE => keys::kind,
    expiry::EXPIRE => expiry::expire,
    expiry::PEXPIRE => expiry::pexpire,
    expiry::EXPIREAT => expiry::expire_at,
    expiry::PEXPIREAT => expiry::pexpire_at,
    expiry::TTL => expiry::ttl,
    expiry::PTTL => expiry::pttl,
    expiry::EXPIRETIME => expiry::expire_time,
    expiry::PEXPIRETIME => expiry::pexpire_time,
    expiry::PERSIST => expiry::persist,
    keys::RENAME => keys::rename,
    keys::RENAMENX => keys::rename_nx,
    keys::COPY => keys::copy,
    keys::RANDOMKEY => keys::random_key,
    keys::SCAN => keys::scan,
    keys::OBJECT => help::subcommands,
        keys::OBJECT_ENCODING => keys::object_encoding,
        keys::OBJECT_IDLETIME => keys::object_idle_time,
        keys::OBJECT_REFCOUNT => keys::object_refcount,
        keys::OBJECT_FREQ => keys::object_freq,
        help::OBJECT_HELP => help::subcommands,
    keys::MEMORY => help::subcommands,
        keys::MEMORY_USAGE => keys::memory_usage,
        help::MEMORY_HELP => help::subcommands,
    data::FLUSHDB => data::flush_db,
    transaction::MULTI => [transaction::multi],
    transaction::EXEC => [transaction::exec],
    transaction::DISCARD => [transaction::discard],
    transaction::WATCH => [transaction::watch],
    script::EVAL => script::eval,
    script::EVALSHA => script::eval_sha,
    script::EVAL_RO => script::eval_ro,
    script::EVALSHA_RO => script::eval_sha_ro,
    script::SCRIPT => help::subcommands,
        script::SCRIPT_LOAD => script::load,
        script::SCRIPT_EXISTS => script::exists,
        script::SCRIPT_FLUSH => script::flush,
        script::SCRIPT_KILL => script::kill,
        help::SCRIPT_HELP => help::subcommands,
    transaction::UNWATCH => [transaction::unwatch] transaction::unwatch_in_exec,
    keys::SELECT => keys::select,
    keys::SWAPDB => keys::swap_db,
    keys::MOVE => keys::move_key,
    data::TIME => data::time,
    data::PING => data::ping,
    data::ECHO => data::echo,
    keys::KEYS => keys::keys,
    data::DBSIZE => data::dbsize,
    data::FLUSHALL => data::flush_all,
    persist::BGREWRITEAOF => persist::bgrewriteaof,
    persist::BGSAVE => persist::bgsave,
    persist::SAVE => persist::save,
    persist::LASTSAVE => persist::lastsave,
    info::INFO => info::info,
    client::QUIT => client::quit,
    client::AUTH => client::auth,
    client::HELLO => client::hello,
    client::RESET => [client::reset],
    help::HELP => help::help,
    client::CLIENT => help::subcommands,
        client::CLIENT_ID => client::id,
        client::CLIENT_GETNAME => client::get_name,
        client::CLIENT_SETNAME => client::set_name,
        client::CLIENT_SETINFO => client::set_info,
        client::CLIENT_LIST => client::list,
        client::CLIENT_INFO => client::info,
        client::CLIENT_KILL => client::kill,
        client::CLIENT_NO_EVICT => client::no_evict,
        client::CLIENT_NO_TOUCH => client::no_touch,
        client::CLIENT_PAUSE => client::pause,
        client::CLIENT_REPLY => client::reply,
        client::CLIENT_UNPAUSE => client::unpause,
        help::CLIENT_HELP => help::subcommands,
    help::COMMAND => help::command,
        help::COMMAND_COUNT => help::command_count,
        help::COMMAND_DOCS => help::command_docs,
        help::COMMAND_INFO => help::command_info,
        help::COMMAND_GETKEYS => help::command_get_keys,
        help::COMMAND_LIST => help::command_list,
        help::COMMAND_HELP => help::subcommands,
    config::CONFIG => help::subcommands,
        config::CONFIG_GET => config::get,
        config::CONFIG_SET => config::set,
        config::CONFIG_RESETSTAT => config::reset_stat,
        config::CONFIG_REWRITE => config::rewrite,
        help::CONFIG_HELP => help::subcommands,
    server::SLOWLOG => help::subcommands,
        server::SLOWLOG_GET => server::slowlog_get,
        server::SLOWLOG_LEN => server::slowlog_len,
        server::SLOWLOG_RESET => server::slowlog_reset,
        help::SLOWLOG_HELP => help::subcommands,
    server::LATENCY => help::subcommands,
        server::LATENCY_LATEST => server::latency_events,
        server::LATENCY_HISTORY => server::latency_events,
        server::LATENCY_HISTOGRAM => server::latency_histogram,
        server::LATENCY_RESET => server::latency_reset,
        server::LATENCY_DOCTOR => server::latency_doctor,
        help::LATENCY_HELP => help::subcommands,
    server::MODULE => help::subcommands,
        server::MODULE_LIST => server::module_list,
        help::MODULE_HELP => help::subcommands,
    server::CLUSTER => server::cluster,
    server::MONITOR => server::monitor,
    server::SHUTDOWN => server::shutdown,
    debug::DEBUG => debug::debug,
}

/// A command, or subcommand: what it declares, and what follows from that.
#[derive(Debug)]
pub struct Command {
    /// In capitals; of a subcommand the second word.
    pub name: &'static str,
    /// What it declares.
    pub spec: &'static Spec,
    /// Its nature.
    pub flags: Flags,
    /// Words of a request.
    pub arity: Arity,
    /// Which of them are keys.
    pub keys: Keys,
    /// For help and hints; a command with subcommands has none.
    pub arguments: Vec<Argument>,
    /// Its place in the list.
    pub number: usize,
    /// The number of the command that it is a part of.
    container: Option<usize>,
    /// The numbers of its parts.
    subcommands: Range<usize>,
}

/// What a request names.
pub type CommandRef = &'static Command;

impl Command {
    fn new(spec: &'static Spec, number: usize, last_container: Option<usize>) -> Self {
        // A line that cannot be read fails a test.
        let usage = usage::parse(spec.usage).unwrap_or_default();
        let container = usage.subcommand.and(last_container);
        let words = 1 + usize::from(usage.subcommand.is_some());
        Self {
            name: usage.subcommand.unwrap_or(usage.name),
            spec,
            flags: spec.flags,
            arity: spec.arity.unwrap_or_else(|| Arity::of(words, &usage.arguments)),
            keys: Keys::of(words, &usage.arguments),
            arguments: usage.arguments,
            number,
            container,
            subcommands: number + 1..number + 1,
        }
    }

    /// The next command of the list is a part of this one.
    fn adopt(&mut self, subcommand: usize) {
        self.subcommands.end = subcommand + 1;
        self.arity = Arity::AtLeast(self.arity.least());
        self.arguments.clear();
    }

    /// Those whose name is the second word.
    pub fn subcommands(&self) -> &'static [Self] {
        TABLE.commands.get(self.subcommands.clone()).unwrap_or_default()
    }

    /// As `reset`, or `slowlog|reset`: a subcommand may have the name of a command.
    pub fn full_name(&self) -> &'static str {
        full_name(self.number)
    }

    /// Which words of a request are keys.
    pub fn key_places(&self, request: &Request<'_>) -> impl Iterator<Item = usize> + Clone + use<> {
        let Keys { first, last, step, counted } = self.keys;
        let end = match last {
            0 => 0,
            1.. => last as usize + 1,
            _ => (request.len() + 1).saturating_sub(last.unsigned_abs() as usize),
        };
        let most = match counted {
            true => {
                text::integer(&request[first - 1]).and_then(|count| usize::try_from(count).ok())
            }
            false => None,
        };
        (first..end).step_by(step.max(1)).take(most.unwrap_or(usize::MAX))
    }

    /// Redis's names of the kinds of commands it belongs to.
    pub fn categories(&self) -> impl Iterator<Item = &'static str> {
        let has = |flag| self.flags.contains(flag);
        let kinds = [
            (true, self.spec.group.category()),
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
        usage::shown(self.spec.usage)
    }

    fn is_named(&self, name: &[u8]) -> bool {
        is(name, self.name) || self.spec.alias.is_some_and(|alias| is(name, alias))
    }
}

/// All commands, but not the subcommands, in the order of the list.
pub fn commands() -> impl Iterator<Item = CommandRef> + Clone {
    TABLE.commands.iter().filter(|command| command.container.is_none())
}

/// The names of all commands and subcommands, as `config|get`, by their numbers.
pub fn names() -> &'static [String] {
    &TABLE.full_names
}

/// The name of the command of a number, as `CLIENT LIST` shows it: any other number is none yet.
pub fn full_name(number: usize) -> &'static str {
    TABLE.full_names.get(number).map_or("NULL", String::as_str)
}

/// Finds a command by its name or alias, in any letter case.
pub fn lookup(name: &[u8]) -> Option<CommandRef> {
    TABLE.find(None, name)
}

/// Finds a subcommand by its name, in any letter case.
pub fn lookup_subcommand(command: CommandRef, name: &[u8]) -> Option<CommandRef> {
    TABLE.find(Some(command.number), name)
}

static TABLE: LazyLock<Table> = LazyLock::new(|| Table::new(SPECS));

struct Table {
    commands: Vec<Command>,
    /// By number, as `config|get`.
    full_names: Vec<String>,
    /// A hash table with linear probing: numbers, plus one; 0 is an empty slot.
    slots: [u16; SLOTS],
}

/// A power of two, and so many that most names are found at once.
const SLOTS: usize = 1 << 10;
const _: () = assert!(SPECS.len() < SLOTS / 4);

/// No name is longer: what a client sends may be, and is not hashed.
const NAME_BYTES_MAX: usize = 16;

impl Table {
    fn new(specs: &'static [Spec]) -> Self {
        let mut table = Self { commands: Vec::new(), full_names: Vec::new(), slots: [0; SLOTS] };
        let mut container = None;
        for (number, spec) in specs.iter().enumerate() {
            let command = Command::new(spec, number, container);
            match command.container {
                None => container = Some(number),
                Some(container) => table.commands[container].adopt(number),
            }
            let prefix = command.container.map_or("", |container| table.commands[container].name);
            let separator = if prefix.is_empty() { "" } else { "|" };
            let full_name = format!("{prefix}{separator}{}", command.name);
            table.full_names.push(full_name.to_ascii_lowercase());
            for name in [command.name].into_iter().chain(spec.alias) {
                let mut slot = slot(command.container, name.as_bytes());
                while table.slots[slot] != 0 {
                    slot = (slot + 1) % SLOTS;
                }
                table.slots[slot] = number as u16 + 1;
            }
            table.commands.push(command);
        }
        table
    }

    fn find(&'static self, container: Option<usize>, name: &[u8]) -> Option<CommandRef> {
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        let mut slot = slot(container, name);
        loop {
            let number = usize::from(self.slots[slot]).checked_sub(1)?;
            let command = &self.commands[number];
            if command.container == container && command.is_named(name) {
                return Some(command);
            }
            slot = (slot + 1) % SLOTS;
        }
    }
}

/// Where the search for a name begins, the same in any letter case: its length and three of its bytes tell the names
/// apart well enough.
fn slot(container: Option<usize>, name: &[u8]) -> usize {
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let [first, middle, last] = match name {
        [] => [0; 3],
        [first, .., last] => [*first, name[name.len() / 2], *last],
        [only] => [*only; 3],
    };
    let container = container.map_or(0, |number| number as u64 + 1);
    let bytes = u32::from_be_bytes([name.len() as u8, first | 0x20, middle | 0x20, last | 0x20]);
    let hash = (container << 32 | u64::from(bytes)).wrapping_mul(SPREAD);
    (hash >> (u64::BITS - SLOTS.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::spec::Group;

    #[test]
    fn every_spec_is_whole() {
        let mut container = "";
        for spec in SPECS {
            let usage = usage::parse(spec.usage).unwrap_or_else(|error| {
                panic!("{}: {error}", spec.usage);
            });
            match usage.subcommand {
                None => {
                    container = usage.name;
                    assert!(!spec.example.is_empty(), "{}", spec.usage);
                }
                Some(_) => assert_eq!(usage.name, container, "{}", spec.usage),
            }
            assert!(spec.summary.ends_with('.'), "{}", spec.usage);
            let names = [usage.name].into_iter().chain(usage.subcommand).chain(spec.alias);
            for name in names {
                assert!(name.len() <= NAME_BYTES_MAX, "{name}");
            }
        }
    }

    #[test]
    fn every_name_finds_its_command_in_any_letter_case() {
        for command in &TABLE.commands {
            for name in [command.name].into_iter().chain(command.spec.alias) {
                for name in [name.to_owned(), name.to_lowercase()] {
                    let found = TABLE.find(command.container, name.as_bytes());
                    assert!(found.is_some_and(|found| found.number == command.number), "{name}");
                }
            }
        }
        let find = |name: &[u8]| lookup(name).map(|command| command.name);
        assert_eq!(find(b"gEt"), Some("GET"));
        assert_eq!(find(b"?"), Some("HELP"));
        // Not a question mark in another case, though it is looked for in the same slot.
        assert_eq!(find(b"\x1f"), None);
        for name in [&b""[..], b"GE", b"GETS", b"ENCODING", &[b'a'; 1 << 16]] {
            assert_eq!(find(name), None);
        }
        let config = lookup(b"config").unwrap();
        let get = lookup_subcommand(config, b"get").unwrap();
        assert_eq!(
            (get.full_name(), get.usage()),
            ("config|get", "CONFIG GET parameter [parameter ...]".to_owned())
        );
        assert!(lookup_subcommand(config, b"encoding").is_none());
        assert_eq!(config.subcommands().len(), 5);
    }

    #[test]
    fn a_search_looks_at_few_slots() {
        for command in &TABLE.commands {
            let start = slot(command.container, command.name.as_bytes());
            let number = command.number as u16 + 1;
            let at = TABLE.slots.iter().cycle().skip(start).position(|found| *found == number);
            assert!(at.is_some_and(|steps| steps < 4), "{}", command.full_name());
        }
    }

    #[test]
    fn usage_is_what_one_types() {
        const SET_USAGE: &str = "SET key value [NX|XX|IFEQ ifeq-value|IFNE ifne-value] [GET] [EX seconds|PX \
             milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]";
        let usage = |name: &[u8]| lookup(name).map(Command::usage);
        assert_eq!(usage(b"set").as_deref(), Some(SET_USAGE));
        assert_eq!(usage(b"mset").as_deref(), Some("MSET key value [key value ...]"));
        assert_eq!(usage(b"Del").as_deref(), Some("DEL key [key ...]"));
        assert_eq!(usage(b"flushall").as_deref(), Some("FLUSHALL [ASYNC|SYNC]"));
        assert_eq!(usage(b"incrbyfloat").as_deref(), Some("INCRBYFLOAT key increment"));
        assert_eq!(usage(b"?").as_deref(), Some("HELP [group|command-name [subcommand]]"));
        assert_eq!(usage(b"config").as_deref(), Some("CONFIG subcommand"));
        assert_eq!(usage(b"nope"), None);
    }

    /// The rows of the README's table of commands.
    fn readme_rows() -> String {
        let row = |group: &Group| {
            let of_group = commands().filter(|command| command.spec.group == *group);
            let shown: Vec<_> = of_group.map(readme_entry).collect();
            format!("| {} | {} |\n", group.name(), shown.join(" "))
        };
        Group::ALL.iter().map(row).collect()
    }

    /// A command with its fixed words, or its subcommands.
    fn readme_entry(command: CommandRef) -> String {
        let mut names = vec![command.name];
        let subcommands = command.subcommands().iter().map(|subcommand| subcommand.name);
        names.extend(subcommands.filter(|name| *name != "HELP"));
        let tokens: Vec<_> = command.arguments.iter().flat_map(Argument::tokens).collect();
        let mut shown = format!("`{}`", names.join(" "));
        if let Some(alias) = command.spec.alias {
            shown += &format!(" (or `{alias}`)");
        }
        if !tokens.is_empty() {
            shown += &format!(" (`{}`)", tokens.join(" "));
        }
        shown
    }

    #[test]
    fn the_readme_lists_the_commands() {
        let rows = readme_rows();
        let readme = include_str!("../../README.md");
        assert!(readme.contains(&rows), "the table of commands in README.md must be:\n{rows}");
    }
}
