//! The commands on connections: this one, and others.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::error::Code;
use super::spec::{
    Arity,
    Flag::{Admin, Fast, NoAuth, Secret},
    Group, Spec,
};
use super::{
    Call, CommandError, ConnectionState, Context, ECHO_BYTES_MAX, ReplyMode, Transaction,
    full_name, integer, is, lossy,
};
use crate::engine::{Engine, Txn};
use crate::protocol::REDIS_VERSION;
use crate::protocol::reply::{Protocol, Replies};
use crate::protocol::request::Request;
use crate::server::{Client, Event, Paused};
use crate::util::rate_limit::RateLimit;

type Result = std::result::Result<(), CommandError>;

pub const QUIT: Spec = Spec::new(Group::Connection, "1.0.0", "QUIT")
    .alias("EXIT")
    .flags(&[Fast, NoAuth])
    .arity(Arity::AtLeast(1))
    .summary("Closes the connection.")
    .example("QUIT");

pub fn quit<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.connection.is_over = true;
    call.replies.status("OK");
    Ok(())
}

pub const AUTH: Spec = Spec::new(Group::Connection, "1.0.0", "AUTH [username] password")
    .flags(&[Fast, NoAuth, Secret])
    .summary("Gives the password.")
    .example("AUTH sesame")
    .notes(&["The only user is default."]);

/// `AUTH password` or `AUTH default password`: there is one user.
pub fn auth<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let (user, guess) = match call.request.len() {
        2 => (None, &call.request[1]),
        3 => (Some(&call.request[1]), &call.request[2]),
        _ => return Err(CommandError::SYNTAX),
    };
    if user.is_none() && call.control.settings.password().is_none() {
        return Err(CommandError::err(
            "AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        ));
    }
    authenticate(call, user.unwrap_or(USER), guess)?;
    call.replies.status("OK");
    Ok(())
}

/// The only user.
const USER: &[u8] = b"default";

fn authenticate<T: Txn>(call: &mut Call<'_, T>, user: &[u8], guess: &[u8]) -> Result {
    let known = user == USER;
    match call.control.settings.password() {
        // As in Redis: any password will do where none is asked for.
        None if known => {}
        // Compared in any case: how long it takes says nothing of the name.
        Some(password) if password.is(guess) & known => call.connection.authenticated = true,
        _ => {
            static LOGGED: RateLimit = RateLimit::new(Duration::from_secs(60));
            call.control.statistics.happened(Event::WrongPassword);
            if LOGGED.allow() {
                log::warn!("client {} at {}: wrong password", call.client.id, call.client.peer);
            }
            return Err(CommandError::new(
                Code::WrongPass,
                "invalid username-password pair or user is disabled.",
            ));
        }
    }
    Ok(())
}

pub const HELLO: Spec = Spec::new(
    Group::Connection,
    "6.0.0",
    "HELLO [protover] [AUTH username password] [SETNAME clientname]",
)
.flags(&[Fast, NoAuth, Secret])
.summary("Tells who the server is, and chooses the form of replies.")
.example("HELLO 3")
.notes(&["Version 2 is what everybody speaks at first, 3 has maps and one null."]);

/// `HELLO [protover [AUTH username password] [SETNAME clientname]]`: what clients begin with.
pub fn hello<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let protocol = match call.request.words_from(1).next() {
        None => None,
        Some(word) => Some(match integer(word) {
            Ok(2) => Protocol::Resp2,
            Ok(3) => Protocol::Resp3,
            Ok(_) => {
                return Err(CommandError::new(Code::NoProto, "unsupported protocol version"));
            }
            Err(_) => {
                let error = "Protocol version is not an integer or out of range";
                return Err(CommandError::err(error));
            }
        }),
    };
    let (mut credentials, mut name) = (None, None);
    let mut words = call.request.words_from(2.min(call.request.len()));
    while let Some(option) = words.next() {
        match option {
            _ if is(option, "AUTH") && words.len() >= 2 => {
                credentials = words.next().zip(words.next());
            }
            _ if is(option, "SETNAME") && words.len() >= 1 => {
                name = Some(plain(words.next().unwrap_or_default(), "Client names")?);
            }
            _ => {
                let option = lossy(option, ECHO_BYTES_MAX);
                return Err(CommandError::err(format!("Syntax error in HELLO option '{option}'")));
            }
        }
    }
    if let Some((user, guess)) = credentials {
        authenticate(call, user, guess)?;
    }
    if !call.connection.authenticated {
        return Err(CommandError::new(
            Code::NoAuth,
            "HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
             <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
             the same time",
        ));
    }
    if let Some(name) = name {
        call.client.rename(|names| names.name = name);
    }
    if let Some(protocol) = protocol {
        speak(call.connection, call.replies, call.client, protocol);
    }
    let protocol = call.connection.protocol;
    let (id, replies) = (call.client.id as i64, &mut call.replies);
    replies.map(7);
    for (name, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        replies.bulk(name.as_bytes());
        replies.bulk(value.as_bytes());
    }
    for (name, value) in [("proto", protocol.number()), ("id", id)] {
        replies.bulk(name.as_bytes());
        replies.integer(value);
    }
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        replies.bulk(name.as_bytes());
        replies.bulk(value.as_bytes());
    }
    replies.bulk(b"modules");
    replies.array(0);
    Ok(())
}

fn speak(
    connection: &mut ConnectionState,
    replies: &mut Replies,
    client: &Client,
    protocol: Protocol,
) {
    connection.protocol = protocol;
    replies.speak(protocol);
    client.protocol.store(protocol.number() as usize, Ordering::Relaxed);
}

pub const RESET: Spec = Spec::new(Group::Connection, "6.2.0", "RESET")
    .flags(&[Fast, NoAuth])
    .summary("Makes the connection as if it were new.")
    .example("RESET");

/// As if it had just connected, but for its number and its library's name.
pub fn reset<E: Engine>(context: &mut Context<'_, E>, _request: &Request<'_>) -> Result {
    let Context { connection, replies, client, control, .. } = context;
    if let Some(monitor) = connection.monitor.take() {
        control.monitors.remove(&monitor);
        client.is_monitor.store(false, Ordering::Relaxed);
    }
    **connection = ConnectionState::new(control.settings.password().is_none());
    *context.transaction = Transaction::default();
    speak(connection, replies, client, Protocol::Resp2);
    client.database.store(0, Ordering::Relaxed);
    client.rename(|names| names.name.clear());
    client.no_evict.store(false, Ordering::Relaxed);
    client.no_touch.store(false, Ordering::Relaxed);
    context.replies.status("RESET");
    Ok(())
}

pub const CLIENT: Spec = Spec::new(Group::Connection, "2.4.0", "CLIENT subcommand")
    .summary("Lists, names and ends connections.")
    .example("CLIENT LIST");

pub const CLIENT_ID: Spec = Spec::new(Group::Connection, "5.0.0", "CLIENT ID")
    .summary("Returns the number of this connection.");

pub fn id<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.replies.integer(call.client.id as i64);
    Ok(())
}

pub const CLIENT_GETNAME: Spec = Spec::new(Group::Connection, "2.6.9", "CLIENT GETNAME")
    .summary("Returns the name of this connection.");

pub fn get_name<T: Txn>(call: &mut Call<'_, T>) -> Result {
    match call.client.names().name.as_str() {
        "" => call.replies.nil(),
        name => call.replies.bulk(name.as_bytes()),
    }
    Ok(())
}

pub const CLIENT_SETNAME: Spec =
    Spec::new(Group::Connection, "2.6.9", "CLIENT SETNAME connection-name")
        .summary("Names this connection.");

pub fn set_name<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let name = plain(&call.request[2], "Client names")?;
    call.client.rename(|names| names.name = name);
    call.replies.status("OK");
    Ok(())
}

pub const CLIENT_SETINFO: Spec =
    Spec::new(Group::Connection, "7.2.0", "CLIENT SETINFO LIB-NAME libname|LIB-VER libver")
        .summary("Takes the client library's name and version.");

pub fn set_info<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let (index, attribute) = match &call.request[2] {
        word if is(word, "LIB-NAME") => (0, "lib-name"),
        word if is(word, "LIB-VER") => (1, "lib-ver"),
        word => {
            let option = lossy(word, ECHO_BYTES_MAX);
            return Err(CommandError::err(format!("Unrecognized option '{option}'")));
        }
    };
    let value = plain(&call.request[3], attribute)?;
    call.client.rename(|names| names.library[index] = value);
    call.replies.status("OK");
    Ok(())
}

/// Text that keeps `CLIENT LIST` readable, and short enough that ten thousand clients may have it.
fn plain(word: &[u8], what: &'static str) -> std::result::Result<String, CommandError> {
    const NAME_BYTES_MAX: usize = 1024;
    match str::from_utf8(word) {
        Ok(text) if word.iter().all(u8::is_ascii_graphic) && word.len() <= NAME_BYTES_MAX => {
            Ok(text.to_owned())
        }
        _ => Err(CommandError::err(format!(
            "{what} cannot contain spaces, newlines or special characters."
        ))),
    }
}

pub const CLIENT_INFO: Spec = Spec::new(Group::Connection, "6.2.0", "CLIENT INFO")
    .summary("Returns this connection's line of CLIENT LIST.");

pub fn info<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let line = line(call.client);
    call.replies.verbatim(line.as_bytes());
    Ok(())
}

pub const CLIENT_LIST: Spec = Spec::new(
    Group::Connection,
    "2.4.0",
    "CLIENT LIST [TYPE client-type|ID client-id [client-id ...]]",
)
.flags(&[Admin])
.summary("Lists the connected clients.");

pub fn list<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let wanted = match call.request.len() {
        2 => Wanted::default(),
        4 if is(&call.request[2], "TYPE") => {
            Wanted { kind: Some(kind(&call.request[3])?), ..Wanted::default() }
        }
        4.. if is(&call.request[2], "ID") => {
            let id = |word: &[u8]| integer(word).ok().and_then(|id| u64::try_from(id).ok());
            let mut ids = Vec::new();
            ids.try_reserve_exact(call.request.len()).map_err(|_| CommandError::NO_MEMORY)?;
            for word in call.request.words_from(3) {
                ids.push(id(word).ok_or(CommandError::err("Invalid client ID"))?);
            }
            ids.sort_unstable();
            Wanted { ids: Some(ids), ..Wanted::default() }
        }
        _ => return Err(CommandError::SYNTAX),
    };
    let mut text = Vec::new();
    for client in call.control.clients.all().iter().filter(|client| wanted.is(client)) {
        let line = line(client);
        text.try_reserve(line.len()).map_err(|_| CommandError::NO_MEMORY)?;
        text.extend_from_slice(line.as_bytes());
    }
    call.replies.verbatim(&text);
    Ok(())
}

/// A client's line, in Redis's form and under Redis's names.
fn line(client: &Client) -> String {
    let load = |number: &std::sync::atomic::AtomicUsize| number.load(Ordering::Relaxed);
    let count = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
    let names = client.names();
    let mut flags = String::new();
    for (set, flag) in [(&client.is_monitor, 'O'), (&client.no_evict, 'e'), (&client.no_touch, 'T')]
    {
        flags.extend(set.load(Ordering::Relaxed).then_some(flag));
    }
    if flags.is_empty() {
        flags.push('N');
    }
    let (pending, buffers, queued) =
        (load(&client.pending_bytes), load(&client.buffer_bytes), load(&client.queued_bytes));
    let mut line = format!("id={} addr={}", client.id, client.peer);
    // A string takes everything.
    let _ = match client.local() {
        Ok(local) => write!(line, " laddr={local}"),
        Err(_) => write!(line, " laddr="),
    };
    let _ = writeln!(
        line,
        " fd={} name={} age={} idle={} flags={flags} db={} sub=0 psub=0 ssub=0 multi={} qbuf={pending} \
         qbuf-free={} argv-mem=0 multi-mem=0 rbs={} rbp={} obl=0 oll={} omem={queued} tot-mem={} \
         events=r cmd={} user=default redir=-1 resp={} lib-name={} lib-ver={} tot-net-in={} \
         tot-net-out={} tot-cmds={}",
        client.descriptor(),
        names.name,
        client.connected.elapsed().as_secs(),
        client.idle().as_secs(),
        load(&client.database),
        load(&client.kept) as i64 - 1,
        buffers.saturating_sub(pending),
        buffers,
        buffers,
        u8::from(queued > 0),
        buffers + queued + size_of::<Client>(),
        full_name(load(&client.last_command)),
        client.protocol.load(Ordering::Relaxed),
        names.library[0],
        names.library[1],
        count(&client.received),
        count(&client.sent),
        count(&client.commands),
    );
    line
}

/// Which clients are meant.
#[derive(Debug, Default)]
struct Wanted {
    /// Sorted.
    ids: Option<Vec<u64>>,
    kind: Option<Kind>,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    /// At least so old.
    age: Option<Duration>,
    but: Option<u64>,
}

/// Kinds of clients, of which this server has but the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Other,
}

fn kind(word: &[u8]) -> std::result::Result<Kind, CommandError> {
    let others = ["master", "replica", "slave", "pubsub"];
    match word {
        _ if is(word, "normal") => Ok(Kind::Normal),
        _ if others.iter().any(|other| is(word, other)) => Ok(Kind::Other),
        _ => {
            let kind = lossy(word, ECHO_BYTES_MAX);
            Err(CommandError::err(format!("Unknown client type '{kind}'")))
        }
    }
}

impl Wanted {
    fn is(&self, client: &Client) -> bool {
        !client.is_killed()
            && self.ids.as_ref().is_none_or(|ids| ids.binary_search(&client.id).is_ok())
            && self.kind.is_none_or(|kind| kind == Kind::Normal)
            && self.peer.is_none_or(|peer| peer == client.peer)
            && self.local.is_none_or(|local| client.local().is_ok_and(|own| own == local))
            && self.age.is_none_or(|age| client.connected.elapsed() >= age)
            && self.but.is_none_or(|but| but != client.id)
    }
}

/// An address as `CLIENT LIST` shows it; one that is none names no client.
fn address(word: &[u8]) -> SocketAddr {
    let parsed = str::from_utf8(word).ok().and_then(|text| text.parse().ok());
    parsed.unwrap_or(SocketAddr::from(([0; 4], 0)))
}

pub const CLIENT_KILL: Spec = Spec::new(
    Group::Connection,
    "2.4.0",
    "CLIENT KILL ip:port|<ID client-id|TYPE client-type|USER username|ADDR ip:port|LADDR \
     ip:port|SKIPME yes/no|MAXAGE seconds> [<ID client-id|TYPE client-type|USER username|ADDR \
     ip:port|LADDR ip:port|SKIPME yes/no|MAXAGE seconds> ...]",
)
.flags(&[Admin])
.summary("Ends connections and counts them.");

pub fn kill<T: Txn>(call: &mut Call<'_, T>) -> Result {
    if call.request.len() == 3 {
        let wanted = Wanted { peer: Some(address(&call.request[2])), ..Wanted::default() };
        return match end(call, &wanted) {
            0 => Err(CommandError::err("No such client")),
            _ => {
                call.replies.status("OK");
                Ok(())
            }
        };
    }
    let mut wanted = Wanted { but: Some(call.client.id), ..Wanted::default() };
    if call.request.len() % 2 == 1 {
        return Err(CommandError::SYNTAX);
    }
    for index in (2..call.request.len()).step_by(2) {
        let (filter, value) = (&call.request[index], &call.request[index + 1]);
        match filter {
            _ if is(filter, "ID") => {
                let id = at_least_one(value, "client-id should be greater than 0")?;
                wanted.ids = Some(vec![id]);
            }
            _ if is(filter, "TYPE") => wanted.kind = Some(kind(value)?),
            _ if is(filter, "ADDR") => wanted.peer = Some(address(value)),
            _ if is(filter, "LADDR") => wanted.local = Some(address(value)),
            _ if is(filter, "USER") && value == b"default" => {}
            _ if is(filter, "USER") => {
                let user = lossy(value, ECHO_BYTES_MAX);
                return Err(CommandError::err(format!("No such user '{user}'")));
            }
            _ if is(filter, "MAXAGE") => {
                let age = at_least_one(value, "maxage is not an integer or out of range")?;
                wanted.age = Some(Duration::from_secs(age));
            }
            _ if is(filter, "SKIPME") && is(value, "yes") => wanted.but = Some(call.client.id),
            _ if is(filter, "SKIPME") && is(value, "no") => wanted.but = None,
            _ => return Err(CommandError::SYNTAX),
        }
    }
    let count = end(call, &wanted);
    call.replies.count(count);
    Ok(())
}

fn at_least_one(word: &[u8], error: &'static str) -> std::result::Result<u64, CommandError> {
    let number = integer(word).ok().and_then(|number| u64::try_from(number).ok());
    number.filter(|number| *number > 0).ok_or(CommandError::err(error))
}

/// Ends the clients that are meant, this one once it has its reply, and counts them.
fn end<T: Txn>(call: &mut Call<'_, T>, wanted: &Wanted) -> usize {
    let mut count = 0;
    for client in call.control.clients.all().iter().filter(|client| wanted.is(client)) {
        match client.id == call.client.id {
            true => call.connection.is_over = true,
            false => client.kill(),
        }
        count += 1;
    }
    // A client that was ended must not wait for the end of a pause.
    call.control.pause.wake();
    count
}

pub const CLIENT_NO_EVICT: Spec = Spec::new(Group::Connection, "7.0.0", "CLIENT NO-EVICT ON|OFF")
    .flags(&[Admin])
    .summary("Does nothing: no client is ended to make room.");

pub fn no_evict<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.client.no_evict.store(on_or_off(&call.request[2])?, Ordering::Relaxed);
    call.replies.status("OK");
    Ok(())
}

pub const CLIENT_NO_TOUCH: Spec = Spec::new(Group::Connection, "7.2.0", "CLIENT NO-TOUCH ON|OFF")
    .summary("Does nothing: no key is old because nobody reads it.");

pub fn no_touch<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let is_on = on_or_off(&call.request[2])?;
    call.client.no_touch.store(is_on, Ordering::Relaxed);
    call.connection.tracks_access = !is_on;
    call.replies.status("OK");
    Ok(())
}

fn on_or_off(word: &[u8]) -> std::result::Result<bool, CommandError> {
    match word {
        _ if is(word, "ON") => Ok(true),
        _ if is(word, "OFF") => Ok(false),
        _ => Err(CommandError::SYNTAX),
    }
}

pub const CLIENT_REPLY: Spec = Spec::new(Group::Connection, "3.2.0", "CLIENT REPLY ON|OFF|SKIP")
    .summary("Turns this connection's replies on or off, or skips the next.");

pub fn reply<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let reply_mode = &mut call.connection.reply_mode;
    *reply_mode = match &call.request[2] {
        word if is(word, "ON") => ReplyMode::On,
        word if is(word, "OFF") => ReplyMode::Off,
        // This command and the next.
        word if is(word, "SKIP") && *reply_mode != ReplyMode::Off => ReplyMode::Skip(2),
        word if is(word, "SKIP") => ReplyMode::Off,
        _ => return Err(CommandError::SYNTAX),
    };
    call.replies.status("OK");
    Ok(())
}

pub const CLIENT_PAUSE: Spec =
    Spec::new(Group::Connection, "3.0.0", "CLIENT PAUSE timeout [WRITE|ALL]")
        .flags(&[Admin])
        .summary("Holds up the commands of all clients for a time in milliseconds.");

pub fn pause<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let what = match call.request.len() {
        3 => Paused::All,
        4 if is(&call.request[3], "ALL") => Paused::All,
        4 if is(&call.request[3], "WRITE") => Paused::Writes,
        _ => return Err(CommandError::err("CLIENT PAUSE mode must be WRITE or ALL")),
    };
    let time = integer(&call.request[2]);
    let time = time.map_err(|_| CommandError::err("timeout is not an integer or out of range"))?;
    let time = u64::try_from(time).map_err(|_| CommandError::err("timeout is negative"))?;
    call.control.pause.begin(Duration::from_millis(time), what);
    call.replies.status("OK");
    Ok(())
}

pub const CLIENT_UNPAUSE: Spec = Spec::new(Group::Connection, "6.2.0", "CLIENT UNPAUSE")
    .flags(&[Admin])
    .summary("Ends a pause.");

pub fn unpause<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.control.pause.end();
    call.replies.status("OK");
    Ok(())
}
