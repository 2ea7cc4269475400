//! `DEBUG`: what tests need, those of Redis for strings, keys and expiry among them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::thread;
use std::time::Duration;

use super::keys::encoding;
use super::spec::{
    Arity,
    Flag::{Admin, NoMulti},
    Group, Spec,
};
use super::{CommandError, Context, help, is, lookup};
use crate::command::glob::Pattern;
use crate::config::{Debug, is_of_this_machine};
use crate::engine::local::entry::Entry;
use crate::engine::local::key_arena::KeyList;
use crate::engine::local::{Session, VerifyError};
use crate::protocol::request::Request;
use crate::text;

type Result<T = ()> = std::result::Result<T, CommandError>;

pub const DEBUG: Spec = Spec::new(Group::Server, "1.0.0", "DEBUG subcommand")
    .flags(&[NoMulti, Admin])
    .arity(Arity::AtLeast(2))
    .summary("Makes the server sleep or fail, for tests.")
    .example("DEBUG SLEEP 0.1")
    .notes(&[
        "SLEEP seconds                         this connection sleeps",
        "PANIC [CONNECTION | SHARD | JOURNAL]  it panics, with that locked",
        "SET-ACTIVE-EXPIRE 0 | 1               what has expired stays in memory, or goes",
        "OBJECT key, DIGEST, DIGEST-VALUE key  what is in memory",
        "RELOAD, LOADAOF                       the data file is read, and must tell the same",
        "STRINGMATCH-LEN length pattern        the pattern is matched with so many letters",
        "JMAP, CHANGE-REPL-ID                  nothing",
        "HELP                                  this list",
        "Only with --enable-debug-command.",
    ]);

/// Runs a subcommand; most have no more to say than that they did.
pub fn debug(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let client = context.client;
    let local = client.stream.local_addr().ok().map(|local| local.ip());
    match context.control.config.enable_debug_command {
        Debug::Yes => {}
        Debug::Local if is_of_this_machine(client.peer.ip(), local) => {}
        _ => {
            return Err(CommandError::err(
                "DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can \
                 run it from a local connection, otherwise you need to set this option when you start the server.",
            ));
        }
    }
    match (&request[1], request.len()) {
        (word, 2) if is(word, "HELP") => {
            let notes = lookup(&request[0]).map_or(&[][..], |command| command.spec.notes);
            let text: Vec<_> = notes.iter().map(ToString::to_string).collect();
            help::lines(context.replies, &text);
            return Ok(());
        }
        (word, 3) if is(word, "SLEEP") => {
            let seconds = str::from_utf8(&request[2]).ok().and_then(|text| text.parse().ok());
            let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            thread::sleep(time.ok_or(CommandError::NOT_A_FLOAT)?);
        }
        (word, 2 | 3) if is(word, "PANIC") => {
            let engine = context.session.engine();
            match request.words_from(2).next() {
                Some(place) if is(place, "SHARD") => engine.panic_in_shard(),
                Some(place) if is(place, "JOURNAL") => engine.panic_in_journal(),
                Some(place) if !is(place, "CONNECTION") => return Err(CommandError::SYNTAX),
                _ => panic!("asked for by DEBUG PANIC"),
            }
        }
        (word, 3) if is(word, "SET-ACTIVE-EXPIRE") => match &request[2] {
            b"0" => context.session.engine().set_active_expiry(false),
            b"1" => context.session.engine().set_active_expiry(true),
            _ => return Err(CommandError::SYNTAX),
        },
        (word, 3) if is(word, "OBJECT") => return object(context, &request[2]),
        (word, _) if is(word, "RELOAD") || is(word, "LOADAOF") && request.len() == 2 => {
            context.session.engine().verify()?;
        }
        (word, 2) if is(word, "DIGEST") => {
            let digest = digest(context.session)?;
            context.replies.status(&digest);
            return Ok(());
        }
        (word, _) if is(word, "DIGEST-VALUE") => {
            context.replies.array(request.len() - 2);
            for key in request.words_from(2) {
                let digest = context.session.look(key, |entry| entry.map_or(0, hash));
                context.replies.bulk(hexadecimal(digest).as_bytes());
            }
            return Ok(());
        }
        (word, 4) if is(word, "STRINGMATCH-LEN") => {
            const LENGTH_MAX: i64 = 1 << 24;
            let length =
                text::integer(&request[2]).filter(|length| (0..=LENGTH_MAX).contains(length));
            let subject = vec![b'a'; length.ok_or(CommandError::NOT_AN_INTEGER)? as usize];
            let matches = Pattern::new(&request[3])?.matches(&subject);
            context.replies.integer(i64::from(matches));
            return Ok(());
        }
        // What these do in Redis has no counterpart here, and nobody could tell.
        (word, 2 | 3) if ["JMAP", "CHANGE-REPL-ID"].iter().any(|name| is(word, name)) => {}
        (word, _) => return Err(CommandError::unknown_subcommand(word, "DEBUG")),
    }
    context.replies.status("OK");
    Ok(())
}

fn object(context: &mut Context<'_, '_>, key: &[u8]) -> Result {
    let idle_s = context.session.idle_s(key);
    let shown = context.session.look(key, |entry| {
        entry.map(|entry| {
            let (encoding, bytes) = (encoding(entry), entry.value().len());
            format!(
                "Value at:0x0 refcount:1 encoding:{encoding} serializedlength:{bytes} lru:0 \
                 lru_seconds_idle:{}",
                idle_s.unwrap_or(0)
            )
        })
    });
    context.replies.status(&shown.ok_or(CommandError::err("no such key"))?);
    Ok(())
}

/// A number that says what all keys are: the same for the same keys, in any order.
fn digest(session: &mut Session<'_>) -> Result<String> {
    let mut sum = 0_u64;
    for database in 0..session.engine().databases() {
        let mut of_database = 0_u64;
        session.within(database, |session| {
            let (mut keys, mut listed) = (KeyList::default(), Ok(()));
            session.keys(b"", |key| {
                if listed.is_ok() {
                    listed = keys.push(key);
                }
            })?;
            listed.map_err(|_| CommandError::NO_MEMORY)?;
            for key in keys.iter_from(0) {
                let hash = session.look(key, |entry| entry.map_or(0, hash));
                of_database = of_database.wrapping_add(hash);
            }
            Ok::<_, CommandError>(())
        })?;
        sum = sum.wrapping_add(of_database.wrapping_mul(2 * database as u64 + 1));
    }
    Ok(hexadecimal(sum))
}

fn hash(entry: &Entry) -> u64 {
    let mut hasher = DefaultHasher::new();
    (entry.key(), entry.value().len(), entry.expires_ms()).hash(&mut hasher);
    entry.value().all().for_each(|piece| hasher.write(piece));
    hasher.finish()
}

/// As long as Redis's digests are.
fn hexadecimal(number: u64) -> String {
    format!("{number:040x}")
}

impl From<VerifyError> for CommandError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Refused(refused) => refused.into(),
            error => Self::err(error.to_string()),
        }
    }
}
