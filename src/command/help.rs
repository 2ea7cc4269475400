//! What the commands say of themselves, for people (`HELP`) and for client programs (`COMMAND`).

use super::spec::{Arity, Group, Keys, Spec};
use super::usage::Argument;
use super::{
    Call, CommandError, CommandRef, ECHO_BYTES_MAX, commands, is, lookup, lookup_subcommand, lossy,
};
use crate::command::glob::Pattern;
use crate::engine::Txn;
use crate::protocol::reply::Replies;

type Result = std::result::Result<(), CommandError>;

/// An array of status lines: legible in telnet and in redis-cli alike.
pub fn lines(replies: &mut Replies, lines: &[String]) {
    replies.array(lines.len());
    lines.iter().for_each(|line| replies.status(line));
}

pub const HELP: Spec =
    Spec::new(Group::Connection, "0.1.0", "HELP [group|command-name [subcommand]]")
        .alias("?")
        .arity(Arity::Between(1, 3))
        .summary("Lists the commands, or those of a group, or explains one.")
        .example("HELP SET");

pub fn help<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let words: Vec<_> = call.request.words_from(1).take(2).collect();
    let text = match words[..] {
        [] => Some(overview()),
        [name] => lookup(name).map(explain).or_else(|| {
            let group = Group::ALL.iter().find(|group| is(at_removed(name), group.name()));
            group.map(|group| of_group(*group))
        }),
        [name, subcommand, ..] => {
            lookup(name).and_then(|command| lookup_subcommand(command, subcommand).map(explain))
        }
    };
    let text = text.ok_or_else(|| {
        let shown: Vec<_> = words.iter().map(|word| lossy(word, ECHO_BYTES_MAX)).collect();
        CommandError::err(format!("no command '{}'; HELP lists them", shown.join(" ")))
    })?;
    lines(call.replies, &text);
    Ok(())
}

/// redis-cli's `help @string` is meant for `HELP string`.
fn at_removed(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"@").unwrap_or(name)
}

fn of_group(group: Group) -> Vec<String> {
    let of_group = commands().filter(|command| command.spec.group == group);
    of_group.map(|command| format!("{:<12} {}", command.name, command.spec.summary)).collect()
}

fn overview() -> Vec<String> {
    let mut text = vec![format!("coffre {}: type a command and Enter", env!("CARGO_PKG_VERSION"))];
    for group in Group::ALL {
        let of_group = commands().filter(|command| command.spec.group == *group);
        let names: Vec<_> = of_group.map(|command| command.name).collect();
        text.push(format!("{:<12} {}", group.name(), names.join(" ")));
    }
    text.push("HELP command explains one, HELP string lists a group; QUIT leaves".to_owned());
    text
}

/// Explains a command or a subcommand.
fn explain(command: CommandRef) -> Vec<String> {
    let spec = command.spec;
    let mut text = vec![command.usage(), format!("  {}", spec.summary)];
    text.extend(spec.alias.map(|alias| format!("  Also: {alias}")));
    text.extend(spec.notes.iter().map(|note| format!("  {note}")));
    if spec.needs_file {
        text.push("  Not with --engine etcd://".to_owned());
    }
    for subcommand in command.subcommands() {
        text.push(format!("  {}: {}", subcommand.usage(), subcommand.spec.summary));
    }
    if !spec.example.is_empty() {
        text.push(format!("  Example: {}", spec.example));
    }
    text
}

const fn help_of(group: Group, usage: &'static str) -> Spec {
    Spec::new(group, "5.0.0", usage).summary("Lists the subcommands.")
}

pub const OBJECT_HELP: Spec = help_of(Group::Generic, "OBJECT HELP");
pub const MEMORY_HELP: Spec = help_of(Group::Server, "MEMORY HELP");
pub const SCRIPT_HELP: Spec = help_of(Group::Scripting, "SCRIPT HELP");
pub const CLIENT_HELP: Spec = help_of(Group::Connection, "CLIENT HELP");
pub const COMMAND_HELP: Spec = help_of(Group::Server, "COMMAND HELP");
pub const CONFIG_HELP: Spec = help_of(Group::Server, "CONFIG HELP");
pub const SLOWLOG_HELP: Spec = help_of(Group::Server, "SLOWLOG HELP");
pub const LATENCY_HELP: Spec = help_of(Group::Server, "LATENCY HELP");
pub const MODULE_HELP: Spec = help_of(Group::Server, "MODULE HELP");

/// `CLIENT HELP` and its like.
pub fn subcommands<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let Some(command) = lookup(&call.request[0]) else { return Ok(()) };
    let mut text = Vec::new();
    for subcommand in command.subcommands() {
        let usage = subcommand.usage();
        text.push(usage.split_once(' ').map_or("", |(_, usage)| usage).to_owned());
        text.push(format!("    {}", subcommand.spec.summary));
    }
    lines(call.replies, &text);
    Ok(())
}

pub const COMMAND: Spec = Spec::new(Group::Server, "2.8.13", "COMMAND [subcommand]")
    .summary("Describes the commands to client programs.")
    .example("COMMAND COUNT");

pub fn command<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.replies.array(commands().count());
    commands().for_each(|command| info(call.replies, command));
    Ok(())
}

pub const COMMAND_COUNT: Spec =
    Spec::new(Group::Server, "2.8.13", "COMMAND COUNT").summary("Returns the number of commands.");

pub fn command_count<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.replies.count(commands().count());
    Ok(())
}

pub const COMMAND_LIST: Spec = Spec::new(
    Group::Server,
    "7.0.0",
    "COMMAND LIST [FILTERBY <MODULE module-name|ACLCAT category|PATTERN pattern>]",
)
.summary("Returns the names of the commands and subcommands, or of those of a kind.");

pub fn command_list<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let with_own = |command: CommandRef| [command].into_iter().chain(command.subcommands());
    let mut found: Vec<CommandRef> = commands().flat_map(with_own).collect();
    match call.request.len() {
        2 => {}
        5 if is(&call.request[2], "FILTERBY") => match &call.request[3] {
            filter if is(filter, "MODULE") => found.clear(),
            filter if is(filter, "ACLCAT") => found.retain(|command| {
                command.categories().any(|category| is(&call.request[4], category))
            }),
            filter if is(filter, "PATTERN") => {
                let pattern = Pattern::of_lower_case(&call.request[4])?;
                found.retain(|command| pattern.matches(command.full_name().as_bytes()));
            }
            _ => return Err(CommandError::SYNTAX),
        },
        _ => return Err(CommandError::SYNTAX),
    }
    call.replies.array(found.len());
    found.iter().for_each(|command| call.replies.bulk(command.full_name().as_bytes()));
    Ok(())
}

pub const COMMAND_GETKEYS: Spec =
    Spec::new(Group::Server, "2.8.13", "COMMAND GETKEYS command [arg [arg ...]]")
        .summary("Returns the words of a command that are keys.");

pub fn command_get_keys<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let asked = call.request.without(2);
    let command = lookup(&asked[0]).ok_or(CommandError::err("Invalid command specified"))?;
    let subcommand = asked.words_from(1).next().and_then(|name| lookup_subcommand(command, name));
    let command = subcommand.unwrap_or(command);
    if !command.keys.is_any() {
        return Err(CommandError::err("The command has no key arguments"));
    }
    if !command.arity.allows(asked.len()) {
        return Err(CommandError::err("Invalid number of arguments specified for command"));
    }
    let places = || command.key_places(&asked).filter(|place| *place < asked.len());
    call.replies.array(places().count());
    places().for_each(|place| call.replies.bulk(&asked[place]));
    Ok(())
}

pub const COMMAND_INFO: Spec =
    Spec::new(Group::Server, "2.8.13", "COMMAND INFO [command-name [command-name ...]]")
        .summary("Returns arity, flags and key positions.");

pub fn command_info<T: Txn>(call: &mut Call<'_, T>) -> Result {
    if call.request.len() == 2 {
        return command(call);
    }
    call.replies.array(call.request.len() - 2);
    for name in call.request.words_from(2) {
        match lookup(name) {
            Some(command) => info(call.replies, command),
            None => call.replies.nil(),
        }
    }
    Ok(())
}

/// One entry of `COMMAND`: name, arity, flags, key positions, and four lists, of which those of categories and of keys are
/// empty. The tips name what not every engine can do.
fn info(replies: &mut Replies, command: CommandRef) {
    let Keys { first, last, step, counted } = command.keys;
    let movable = counted.then_some("movablekeys");
    let flags = || command.flags.names().chain(movable);
    replies.array(10);
    replies.bulk(command.full_name().as_bytes());
    replies.integer(command.arity.as_redis());
    replies.set(flags().count());
    flags().for_each(|flag| replies.status(flag));
    [first as i64, last, step as i64].into_iter().for_each(|number| replies.integer(number));
    replies.set(0);
    let tip = command.spec.needs_file.then_some("needs_data_file");
    replies.set(tip.iter().count());
    tip.iter().for_each(|tip| replies.bulk(tip.as_bytes()));
    replies.set(0);
    replies.array(command.subcommands().len());
    command.subcommands().iter().for_each(|subcommand| info(replies, subcommand));
}

pub const COMMAND_DOCS: Spec =
    Spec::new(Group::Server, "7.0.0", "COMMAND DOCS [command-name [command-name ...]]")
        .summary("Returns what HELP says, for programs.");

pub fn command_docs<T: Txn>(call: &mut Call<'_, T>) -> Result {
    // Each at most once, however often it is named: the reply stays as long as the list of commands.
    let named = |command: &CommandRef| {
        let mut names = call.request.words_from(2);
        call.request.len() == 2
            || names.any(|name| lookup(name).is_some_and(|found| found.number == command.number))
    };
    let asked: Vec<_> = commands().filter(named).collect();
    call.replies.map(asked.len());
    asked.into_iter().for_each(|command| docs(call.replies, command));
    Ok(())
}

/// A name and its documentation, as redis-cli reads them for its hints and `help`.
fn docs(replies: &mut Replies, command: CommandRef) {
    let (spec, arguments, subcommands) = (command.spec, &command.arguments, command.subcommands());
    replies.bulk(command.full_name().as_bytes());
    replies.map(3 + usize::from(!arguments.is_empty()) + usize::from(!subcommands.is_empty()));
    for (field, value) in
        [("summary", spec.summary), ("since", spec.since), ("group", spec.group.name())]
    {
        replies.bulk(field.as_bytes());
        replies.bulk(value.as_bytes());
    }
    if !arguments.is_empty() {
        replies.bulk(b"arguments");
        replies.array(arguments.len());
        arguments.iter().for_each(|argument| argument_docs(replies, argument));
    }
    if !subcommands.is_empty() {
        replies.bulk(b"subcommands");
        replies.map(subcommands.len());
        subcommands.iter().for_each(|subcommand| docs(replies, subcommand));
    }
}

fn argument_docs(replies: &mut Replies, argument: &Argument) {
    let flags: Vec<_> = [(argument.optional, "optional"), (argument.multiple, "multiple")]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
    let parts = [argument.token.is_some(), !flags.is_empty(), !argument.parts.is_empty()];
    replies.map(2 + parts.into_iter().filter(|is_there| *is_there).count());
    let name = argument.name.to_ascii_lowercase();
    let fields =
        [("name", Some(&*name)), ("type", Some(argument.kind.name())), ("token", argument.token)];
    for (field, value) in fields {
        if let Some(value) = value {
            replies.bulk(field.as_bytes());
            replies.bulk(value.as_bytes());
        }
    }
    if !flags.is_empty() {
        replies.bulk(b"flags");
        replies.set(flags.len());
        flags.iter().for_each(|flag| replies.status(flag));
    }
    if !argument.parts.is_empty() {
        replies.bulk(b"arguments");
        replies.array(argument.parts.len());
        argument.parts.iter().for_each(|part| argument_docs(replies, part));
    }
}
