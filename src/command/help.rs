//! What the table says, for people (`HELP`) and for client programs (`COMMAND`).

use super::{
    Argument, Command, CommandError, Context, ECHO_BYTES_MAX, Group, TABLE, is, lookup, lossy,
};
use crate::command::glob::Pattern;
use crate::protocol::reply::Replies;
use crate::protocol::request::Request;

type Result = std::result::Result<(), CommandError>;

/// An array of status lines: legible in telnet and in redis-cli alike.
pub fn lines(replies: &mut Replies, lines: &[String]) {
    replies.array(lines.len());
    lines.iter().for_each(|line| replies.status(line));
}

/// `HELP [group | command [subcommand]]`
pub fn help(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let words: Vec<_> = request.words_from(1).take(2).collect();
    let text = match words[..] {
        [] => Some(overview()),
        [name] => lookup(name).map(|command| explain(command, None)).or_else(|| {
            let group = Group::ALL.iter().find(|group| is(at_removed(name), group.name()));
            group.map(|group| of_group(*group))
        }),
        [name, subcommand, ..] => lookup(name).and_then(|command| {
            let found = command.subcommands.iter().find(|known| is(subcommand, known.name));
            found.map(|found| explain(found, Some(command)))
        }),
    };
    let text = text.ok_or_else(|| {
        let shown: Vec<_> = words.iter().map(|word| lossy(word, ECHO_BYTES_MAX)).collect();
        CommandError::NoHelp(shown.join(" "))
    })?;
    lines(context.replies, &text);
    Ok(())
}

/// redis-cli's `help @string` is meant for `HELP string`.
fn at_removed(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"@").unwrap_or(name)
}

fn of_group(group: Group) -> Vec<String> {
    let commands = TABLE.iter().filter(|command| command.group == group);
    commands.map(|command| format!("{:<12} {}", command.name, command.summary)).collect()
}

fn overview() -> Vec<String> {
    let mut text = vec![format!("coffre {}: type a command and Enter", env!("CARGO_PKG_VERSION"))];
    for group in Group::ALL {
        let names: Vec<_> = TABLE
            .iter()
            .filter(|command| command.group == *group)
            .map(|command| command.name)
            .collect();
        text.push(format!("{:<12} {}", group.name(), names.join(" ")));
    }
    text.push("HELP command explains one, HELP string lists a group; QUIT leaves".to_owned());
    text
}

/// Explains a command, or a subcommand of `container`.
fn explain(command: &Command, container: Option<&Command>) -> Vec<String> {
    let before = container.map_or(String::new(), |container| format!("{} ", container.name));
    let mut text = vec![format!("{before}{}", command.usage()), format!("  {}", command.summary)];
    text.extend(command.alias.map(|alias| format!("  Also: {alias}")));
    text.extend(command.notes.iter().map(|note| format!("  {note}")));
    for subcommand in command.subcommands {
        text.push(format!("  {} {}: {}", command.name, subcommand.usage(), subcommand.summary));
    }
    if !command.example.is_empty() {
        text.push(format!("  Example: {}", command.example));
    }
    text
}

/// `CLIENT HELP` and its like.
pub fn subcommands(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let command = lookup(&request[0]);
    let mut text = Vec::new();
    for subcommand in command.map(|command| command.subcommands).unwrap_or_default() {
        text.push(subcommand.usage());
        text.push(format!("    {}", subcommand.summary));
    }
    lines(context.replies, &text);
    Ok(())
}

pub fn command(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.replies.array(TABLE.len());
    TABLE.iter().for_each(|command| info(context.replies, command, None));
    Ok(())
}

pub fn command_count(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.replies.count(TABLE.len());
    Ok(())
}

/// `COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]`
pub fn command_list(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let names = TABLE.iter().map(|command| (command, command.name.to_ascii_lowercase()));
    let mut found: Vec<_> = names.collect();
    match request.len() {
        2 => {}
        5 if is(&request[2], "FILTERBY") => match &request[3] {
            filter if is(filter, "MODULE") => found.clear(),
            filter if is(filter, "ACLCAT") => found.retain(|(command, _)| {
                command.categories().any(|category| is(&request[4], category))
            }),
            filter if is(filter, "PATTERN") => {
                let pattern = Pattern::of_lower_case(&request[4])?;
                found.retain(|(_, name)| pattern.matches(name.as_bytes()));
            }
            _ => return Err(CommandError::Syntax),
        },
        _ => return Err(CommandError::Syntax),
    }
    context.replies.array(found.len());
    found.iter().for_each(|(_, name)| context.replies.bulk(name.as_bytes()));
    Ok(())
}

/// `COMMAND GETKEYS command [argument ...]`
pub fn command_get_keys(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let asked = request.without(2);
    let command = lookup(&asked[0]).ok_or(CommandError::Value("Invalid command specified"))?;
    let named = |sub: &&Command| asked.len() > 1 && is(&asked[1], sub.name);
    let command = command.subcommands.iter().find(named).unwrap_or(command);
    if command.keys.0 == 0 {
        return Err(CommandError::Value("The command has no key arguments"));
    }
    if !command.arity.allows(asked.len()) {
        return Err(CommandError::Value("Invalid number of arguments specified for command"));
    }
    let places = || command.key_places(&asked).filter(|place| *place < asked.len());
    context.replies.array(places().count());
    places().for_each(|place| context.replies.bulk(&asked[place]));
    Ok(())
}

pub fn command_info(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    if request.len() == 2 {
        return command(context, request);
    }
    context.replies.array(request.len() - 2);
    for name in request.words_from(2) {
        match lookup(name) {
            Some(command) => info(context.replies, command, None),
            None => context.replies.nil(),
        }
    }
    Ok(())
}

/// One entry of `COMMAND`: name, arity, flags, key positions, and four lists that are empty but for
/// the subcommands.
fn info(replies: &mut Replies, command: &Command, container: Option<&str>) {
    let name = command.name.to_ascii_lowercase();
    let name = container.map_or(name.clone(), |container| format!("{container}|{name}"));
    replies.array(10);
    replies.bulk(name.as_bytes());
    replies.integer(command.arity.as_redis());
    replies.set(command.flags.len());
    command.flags.iter().for_each(|flag| replies.status(flag.name()));
    let (first, last, step) = command.keys;
    [first, last, step].into_iter().for_each(|number| replies.integer(number));
    (0..3).for_each(|_| replies.set(0));
    replies.array(command.subcommands.len());
    command.subcommands.iter().for_each(|subcommand| info(replies, subcommand, Some(&name)));
}

pub fn command_docs(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    // Each at most once, however often it is named: the reply stays as long as the table.
    let named = |command: &&Command| {
        request.len() == 2
            || request
                .words_from(2)
                .any(|name| lookup(name).is_some_and(|found| std::ptr::eq(found, *command)))
    };
    let asked: Vec<_> = TABLE.iter().filter(named).collect();
    context.replies.map(asked.len());
    asked.into_iter().for_each(|command| docs(context.replies, command, None));
    Ok(())
}

/// A name and its documentation, as redis-cli reads them for its hints and `help`.
fn docs(replies: &mut Replies, command: &Command, container: Option<&str>) {
    let name = command.name.to_ascii_lowercase();
    let name = container.map_or(name.clone(), |container| format!("{container}|{name}"));
    replies.bulk(name.as_bytes());
    let parts = 3
        + usize::from(!command.arguments.is_empty())
        + usize::from(!command.subcommands.is_empty());
    replies.map(parts);
    for (field, value) in
        [("summary", command.summary), ("since", command.since), ("group", command.group.name())]
    {
        replies.bulk(field.as_bytes());
        replies.bulk(value.as_bytes());
    }
    if !command.arguments.is_empty() {
        replies.bulk(b"arguments");
        replies.array(command.arguments.len());
        command.arguments.iter().for_each(|argument| argument_docs(replies, argument));
    }
    if !command.subcommands.is_empty() {
        replies.bulk(b"subcommands");
        replies.map(command.subcommands.len());
        command.subcommands.iter().for_each(|subcommand| docs(replies, subcommand, Some(&name)));
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
    let fields = [("name", Some(&*name)), ("type", Some(argument.kind)), ("token", argument.token)];
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
