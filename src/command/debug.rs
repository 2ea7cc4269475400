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
use super::{Call, CommandError, ECHO_BYTES_MAX, help, is, lookup, lossy};
use crate::command::glob::Pattern;
use crate::engine::{Entry, Key, PanicAt, Txn};
use crate::protocol::reply::Protocol;
use crate::text;
use crate::util::memory::{self, NoMemory};

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
        "PROTOCOL type                         a reply of each type of the protocol",
        "ERROR text                            the text is answered as an error",
        "OBJECT key, DIGEST, DIGEST-VALUE key  what is in memory",
        "RELOAD, LOADAOF                       the data file is read, and must tell the same",
        "STRINGMATCH-LEN length pattern        the pattern is matched with so many letters",
        "JMAP, CHANGE-REPL-ID                  nothing",
        "HELP                                  this list",
        "Only with --enable-debug-command.",
    ]);

/// Runs a subcommand; most have no more to say than that they did.
pub fn debug<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let client = call.client;
    let local = client.stream.local_addr().ok().map(|local| local.ip());
    if !call.control.config.enable_debug_command.is_to(client.peer.ip(), local) {
        return Err(CommandError::err(
            "DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can \
                 run it from a local connection, otherwise you need to set this option when you start the server.",
        ));
    }
    match (&call.request[1], call.request.len()) {
        (word, 2) if is(word, "HELP") => {
            let notes = lookup(&call.request[0]).map_or(&[][..], |command| command.spec.notes);
            let text: Vec<_> = notes.iter().map(ToString::to_string).collect();
            help::lines(call.replies, &text);
            return Ok(());
        }
        (word, 3) if is(word, "SLEEP") => {
            let seconds = str::from_utf8(&call.request[2]).ok().and_then(|text| text.parse().ok());
            let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            thread::sleep(time.ok_or(CommandError::NOT_A_FLOAT)?);
        }
        (word, 2 | 3) if is(word, "PANIC") => match call.request.words_from(2).next() {
            Some(place) if is(place, "SHARD") => call.admin.panic_at(PanicAt::Keys),
            Some(place) if is(place, "JOURNAL") => call.admin.panic_at(PanicAt::Journal),
            Some(place) if !is(place, "CONNECTION") => return Err(CommandError::SYNTAX),
            _ => panic!("asked for by DEBUG PANIC"),
        },
        (word, 3) if is(word, "SET-ACTIVE-EXPIRE") => match &call.request[2] {
            b"0" => call.admin.set_active_expiry(false),
            b"1" => call.admin.set_active_expiry(true),
            _ => return Err(CommandError::SYNTAX),
        },
        (word, 3) if is(word, "PROTOCOL") => return protocol(call),
        (word, 3) if is(word, "ERROR") => {
            call.replies.error(&lossy(&call.request[2], ECHO_BYTES_MAX));
            return Ok(());
        }
        (word, 3) if is(word, "OBJECT") => return object(call),
        (word, _) if is(word, "RELOAD") || is(word, "LOADAOF") && call.request.len() == 2 => {
            call.admin.verify()?;
        }
        (word, 2) if is(word, "DIGEST") => {
            let digest = digest(call)?;
            call.replies.status(&digest);
            return Ok(());
        }
        (word, _) if is(word, "DIGEST-VALUE") => {
            call.replies.array(call.request.len() - 2);
            for key in call.request.words_from(2) {
                let digest = call.look(call.key_of(key))?.map_or(0, hash);
                call.replies.bulk(hexadecimal(digest).as_bytes());
            }
            return Ok(());
        }
        (word, 4) if is(word, "STRINGMATCH-LEN") => {
            const LENGTH_MAX: i64 = 1 << 24;
            let length =
                text::integer(&call.request[2]).filter(|length| (0..=LENGTH_MAX).contains(length));
            let subject = vec![b'a'; length.ok_or(CommandError::NOT_AN_INTEGER)? as usize];
            let matches = Pattern::new(&call.request[3])?.matches(&subject);
            call.replies.integer(i64::from(matches));
            return Ok(());
        }
        // What these do in Redis has no counterpart here that a client could see.
        (word, 2 | 3) if ["JMAP", "CHANGE-REPL-ID"].iter().any(|name| is(word, name)) => {}
        (word, _) => return Err(CommandError::unknown_subcommand(word, "DEBUG")),
    }
    call.replies.status("OK");
    Ok(())
}

/// A type of reply, in RESP2 and in RESP3; empty where there is none. All are Redis's own.
type Example = (&'static str, &'static str, &'static str);

const EXAMPLES: [Example; 13] = {
    const STRING: &str = "$11\r\nHello World\r\n";
    const ARRAY: &str = "*3\r\n:0\r\n:1\r\n:2\r\n";
    [
        ("string", STRING, STRING),
        ("integer", ":12345\r\n", ":12345\r\n"),
        ("double", "$5\r\n3.141\r\n", ",3.141\r\n"),
        (
            "bignum",
            "$37\r\n1234567999999999999999999999999999999\r\n",
            "(1234567999999999999999999999999999999\r\n",
        ),
        ("null", "$-1\r\n", "_\r\n"),
        ("array", ARRAY, ARRAY),
        ("set", ARRAY, "~3\r\n:0\r\n:1\r\n:2\r\n"),
        (
            "map",
            "*6\r\n:0\r\n:0\r\n:1\r\n:1\r\n:2\r\n:0\r\n",
            "%3\r\n:0\r\n#f\r\n:1\r\n#t\r\n:2\r\n#f\r\n",
        ),
        (
            "attrib",
            "$39\r\nSome real reply following the attribute\r\n",
            "|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n\
             $39\r\nSome real reply following the attribute\r\n",
        ),
        (
            "push",
            "",
            ">2\r\n$16\r\nserver-cpu-usage\r\n:42\r\n$40\r\nSome real reply following the push reply\r\n",
        ),
        (
            "verbatim",
            "$25\r\nThis is a verbatim\nstring\r\n",
            "=29\r\ntxt:This is a verbatim\nstring\r\n",
        ),
        ("true", ":1\r\n", "#t\r\n"),
        ("false", ":0\r\n", "#f\r\n"),
    ]
};

/// A reply of the type asked for.
fn protocol<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let Some((_, two, three)) = EXAMPLES.iter().find(|(name, ..)| is(&call.request[2], name))
    else {
        let names = EXAMPLES.map(|(name, ..)| name).join("|");
        return Err(CommandError::err(format!(
            "Wrong protocol type name. Please use one of the following: {names}"
        )));
    };
    let reply = if call.connection.protocol == Protocol::Resp3 { three } else { two };
    if reply.is_empty() {
        return Err(CommandError::err("RESP2 is not supported by this command"));
    }
    call.replies.raw(reply.as_bytes());
    Ok(())
}

fn object<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let key = call.key(2);
    let idle_s = call.txn.idle_s(key)?.unwrap_or(0);
    let shown = call.look(key)?.map(|entry| {
        let (encoding, bytes) = (encoding(entry), entry.value().len());
        format!(
            "Value at:0x0 refcount:1 encoding:{encoding} serializedlength:{bytes} lru:0 \
             lru_seconds_idle:{idle_s}"
        )
    });
    call.replies.status(&shown.ok_or(CommandError::err("no such key"))?);
    Ok(())
}

/// A number that says what all keys are: the same for the same keys, in any order.
fn digest<T: Txn>(call: &mut Call<'_, T>) -> Result<String> {
    let mut sum = 0_u64;
    for database in 0..call.admin.databases() {
        let (mut keys, mut listed) = (Vec::<Vec<u8>>::new(), Ok(()));
        call.txn.keys(database, b"", &mut |key| {
            if listed.is_ok() {
                let room = keys.try_reserve(1).map_err(NoMemory::from);
                let copy = room.and_then(|()| memory::copy(key, key.len()));
                listed = copy.map(|copy| keys.push(copy));
            }
        })?;
        listed.map_err(|_| CommandError::NO_MEMORY)?;
        let mut of_database = 0_u64;
        for key in keys {
            let hash = call.look(Key { database, bytes: &key })?.map_or(0, hash);
            of_database = of_database.wrapping_add(hash);
        }
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
