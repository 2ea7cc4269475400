//! The commands on connections: this one, and others.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{
    CommandError, ConnectionState, Context, ECHO_BYTES_MAX, REDIS_VERSION, ReplyMode, integer, is,
    lossy, name,
};
use crate::protocol::reply::Protocol;
use crate::protocol::request::Request;
use crate::server::{Client, Event, Paused};
use crate::util::memory;
use crate::util::rate_limit::RateLimit;

type Result = std::result::Result<(), CommandError>;

pub fn quit(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.connection.is_over = true;
    context.replies.status("OK");
    Ok(())
}

/// `AUTH password` or `AUTH default password`: there is one user.
pub fn auth(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let (user, guess) = match request.len() {
        2 => (None, &request[1]),
        3 => (Some(&request[1]), &request[2]),
        _ => return Err(CommandError::Syntax),
    };
    if user.is_none() && context.control.config.password().is_none() {
        return Err(CommandError::NoPassword);
    }
    authenticate(context, user.unwrap_or(USER), guess)?;
    context.replies.status("OK");
    Ok(())
}

/// The only user.
const USER: &[u8] = b"default";

fn authenticate(context: &mut Context<'_, '_>, user: &[u8], guess: &[u8]) -> Result {
    let known = user == USER;
    match context.control.config.password() {
        // As in Redis: any password will do where none is asked for.
        None if known => {}
        // Compared in any case: how long it takes says nothing of the name.
        Some(password) if password.is(guess) & known => context.connection.authenticated = true,
        _ => {
            static LOGGED: RateLimit = RateLimit::new(Duration::from_secs(60));
            context.control.statistics.happened(Event::WrongPassword);
            if LOGGED.allow() {
                log::warn!(
                    "client {} at {}: wrong password",
                    context.client.id,
                    context.client.peer
                );
            }
            return Err(CommandError::WrongPassword);
        }
    }
    Ok(())
}

/// `HELLO [protover [AUTH username password] [SETNAME clientname]]`: what clients begin with.
pub fn hello(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let protocol = match request.words_from(1).next() {
        None => None,
        Some(word) => Some(match integer(word) {
            Ok(2) => Protocol::Resp2,
            Ok(3) => Protocol::Resp3,
            Ok(_) => return Err(CommandError::NoProtocol),
            Err(_) => {
                let error = "Protocol version is not an integer or out of range";
                return Err(CommandError::Value(error));
            }
        }),
    };
    let (mut credentials, mut name) = (None, None);
    let mut words = request.words_from(2.min(request.len()));
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
                return Err(CommandError::NoSuch("Syntax error in HELLO option", option));
            }
        }
    }
    if let Some((user, guess)) = credentials {
        authenticate(context, user, guess)?;
    }
    if !context.connection.authenticated {
        return Err(CommandError::HelloNoAuth);
    }
    if let Some(name) = name {
        context.client.rename(|names| names.name = name);
    }
    if let Some(protocol) = protocol {
        speak(context, protocol);
    }
    let protocol = context.connection.protocol;
    let (id, replies) = (context.client.id as i64, &mut context.replies);
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

fn speak(context: &mut Context<'_, '_>, protocol: Protocol) {
    context.connection.protocol = protocol;
    context.replies.speak(protocol);
    context.client.protocol.store(protocol.number() as usize, Ordering::Relaxed);
}

/// As if it had just connected, but for its number and its library's name.
pub fn reset(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let Context { client, control, .. } = *context;
    if let Some(monitor) = context.connection.monitor.take() {
        control.monitors.remove(&monitor);
        client.is_monitor.store(false, Ordering::Relaxed);
    }
    *context.connection = ConnectionState::new(control.config.password().is_none());
    speak(context, Protocol::Resp2);
    context.select(0);
    client.rename(|names| names.name.clear());
    client.no_evict.store(false, Ordering::Relaxed);
    client.no_touch.store(false, Ordering::Relaxed);
    context.session.set_unnoticed(false);
    context.replies.status("RESET");
    Ok(())
}

pub fn id(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.replies.integer(context.client.id as i64);
    Ok(())
}

pub fn get_name(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    match context.client.names().name.as_str() {
        "" => context.replies.nil(),
        name => context.replies.bulk(name.as_bytes()),
    }
    Ok(())
}

pub fn set_name(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let name = plain(&request[2], "Client names")?;
    context.client.rename(|names| names.name = name);
    context.replies.status("OK");
    Ok(())
}

pub fn set_info(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let (index, attribute) = match &request[2] {
        word if is(word, "LIB-NAME") => (0, "lib-name"),
        word if is(word, "LIB-VER") => (1, "lib-ver"),
        word => return Err(CommandError::Option(lossy(word, ECHO_BYTES_MAX))),
    };
    let value = plain(&request[3], attribute)?;
    context.client.rename(|names| names.library[index] = value);
    context.replies.status("OK");
    Ok(())
}

/// Text that keeps `CLIENT LIST` readable, and short enough that ten thousand clients may have it.
fn plain(word: &[u8], what: &'static str) -> std::result::Result<String, CommandError> {
    const NAME_BYTES_MAX: usize = 1024;
    match str::from_utf8(word) {
        Ok(text) if word.iter().all(u8::is_ascii_graphic) && word.len() <= NAME_BYTES_MAX => {
            Ok(text.to_owned())
        }
        _ => Err(CommandError::Name(what)),
    }
}

pub fn info(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let line = line(context.client);
    context.replies.verbatim(line.as_bytes());
    Ok(())
}

pub fn list(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let wanted = match request.len() {
        2 => Wanted::default(),
        4 if is(&request[2], "TYPE") => {
            Wanted { kind: Some(kind(&request[3])?), ..Wanted::default() }
        }
        4.. if is(&request[2], "ID") => {
            let id = |word: &[u8]| integer(word).ok().and_then(|id| u64::try_from(id).ok());
            let mut ids = Vec::new();
            let room = memory::try_to(|| ids.try_reserve_exact(request.len()));
            room.map_err(|_| CommandError::NoMemory)?;
            for word in request.words_from(3) {
                ids.push(id(word).ok_or(CommandError::Value("Invalid client ID"))?);
            }
            ids.sort_unstable();
            Wanted { ids: Some(ids), ..Wanted::default() }
        }
        _ => return Err(CommandError::Syntax),
    };
    let mut text = Vec::new();
    for client in context.control.clients.all().iter().filter(|client| wanted.is(client)) {
        let line = line(client);
        memory::try_to(|| text.try_reserve(line.len())).map_err(|_| CommandError::NoMemory)?;
        text.extend_from_slice(line.as_bytes());
    }
    context.replies.verbatim(&text);
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
        name(load(&client.last_command)),
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
        _ => Err(CommandError::NoSuch("Unknown client type", lossy(word, ECHO_BYTES_MAX))),
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

pub fn kill(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    if request.len() == 3 {
        let wanted = Wanted { peer: Some(address(&request[2])), ..Wanted::default() };
        return match end(context, &wanted) {
            0 => Err(CommandError::Value("No such client")),
            _ => {
                context.replies.status("OK");
                Ok(())
            }
        };
    }
    let mut wanted = Wanted { but: Some(context.client.id), ..Wanted::default() };
    if request.len() % 2 == 1 {
        return Err(CommandError::Syntax);
    }
    for index in (2..request.len()).step_by(2) {
        let (filter, value) = (&request[index], &request[index + 1]);
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
                return Err(CommandError::NoSuch("No such user", lossy(value, ECHO_BYTES_MAX)));
            }
            _ if is(filter, "MAXAGE") => {
                let age = at_least_one(value, "maxage is not an integer or out of range")?;
                wanted.age = Some(Duration::from_secs(age));
            }
            _ if is(filter, "SKIPME") && is(value, "yes") => wanted.but = Some(context.client.id),
            _ if is(filter, "SKIPME") && is(value, "no") => wanted.but = None,
            _ => return Err(CommandError::Syntax),
        }
    }
    let count = end(context, &wanted);
    context.replies.count(count);
    Ok(())
}

fn at_least_one(word: &[u8], error: &'static str) -> std::result::Result<u64, CommandError> {
    let number = integer(word).ok().and_then(|number| u64::try_from(number).ok());
    number.filter(|number| *number > 0).ok_or(CommandError::Value(error))
}

/// Ends the clients that are meant, this one once it has its reply, and counts them.
fn end(context: &mut Context<'_, '_>, wanted: &Wanted) -> usize {
    let mut count = 0;
    for client in context.control.clients.all().iter().filter(|client| wanted.is(client)) {
        match client.id == context.client.id {
            true => context.connection.is_over = true,
            false => client.kill(),
        }
        count += 1;
    }
    // Who waits for a pause to end waits no longer.
    context.control.pause.wake();
    count
}

pub fn no_evict(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    context.client.no_evict.store(on_or_off(&request[2])?, Ordering::Relaxed);
    context.replies.status("OK");
    Ok(())
}

pub fn no_touch(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let is_on = on_or_off(&request[2])?;
    context.client.no_touch.store(is_on, Ordering::Relaxed);
    context.session.set_unnoticed(is_on);
    context.replies.status("OK");
    Ok(())
}

fn on_or_off(word: &[u8]) -> std::result::Result<bool, CommandError> {
    match word {
        _ if is(word, "ON") => Ok(true),
        _ if is(word, "OFF") => Ok(false),
        _ => Err(CommandError::Syntax),
    }
}

pub fn reply(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let reply_mode = &mut context.connection.reply_mode;
    *reply_mode = match &request[2] {
        word if is(word, "ON") => ReplyMode::On,
        word if is(word, "OFF") => ReplyMode::Off,
        // This command and the next.
        word if is(word, "SKIP") && *reply_mode != ReplyMode::Off => ReplyMode::Skip(2),
        word if is(word, "SKIP") => ReplyMode::Off,
        _ => return Err(CommandError::Syntax),
    };
    context.replies.status("OK");
    Ok(())
}

pub fn pause(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let what = match request.len() {
        3 => Paused::All,
        4 if is(&request[3], "ALL") => Paused::All,
        4 if is(&request[3], "WRITE") => Paused::Writes,
        _ => return Err(CommandError::Value("CLIENT PAUSE mode must be WRITE or ALL")),
    };
    let time = integer(&request[2]);
    let time =
        time.map_err(|_| CommandError::Value("timeout is not an integer or out of range"))?;
    let time = u64::try_from(time).map_err(|_| CommandError::Value("timeout is negative"))?;
    context.control.pause.begin(Duration::from_millis(time), what);
    context.replies.status("OK");
    Ok(())
}

pub fn unpause(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.control.pause.end();
    context.replies.status("OK");
    Ok(())
}
