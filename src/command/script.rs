//! Scripts: `EVAL` and its like run one as a transaction, `SCRIPT` keeps their texts.
//!
//! The transaction is on the keys that the request declares. Where a script touches another one that the transaction does not
//! reach, it begins again with all keys. What it did before an error of its own stays, as in Redis; but where it is ended, as
//! its time or its memory is used up or the server lacks what a command needs, nothing of it is left.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::data::is_flush_type;
use super::error::Code;
use super::spec::{
    Flag::{self, Readonly},
    Group, Spec,
};
use super::{
    Call, CommandError, CommandRef, ConnectionState, Detour, LongArguments, find, integer,
    may_touch_any, transaction,
};
use crate::config::EngineKind;
use crate::engine::{Admin, Key, Txn};
use crate::protocol::reply::{Protocol, Replies};
use crate::protocol::request::QueuedRequest;
use crate::script::{
    Calls, End, Input, NotLoaded, Script, ScriptError, Scripts, Sha, TakenSandbox,
};
use crate::server::{BurstStats, Called, Client, Control};
use crate::util::memory;

type Result<T = ()> = std::result::Result<T, CommandError>;

pub const EVAL: Spec =
    Spec::new(Group::Scripting, "2.6.0", "EVAL script numkeys [key [key ...]] [arg [arg ...]]")
        .summary("Runs a script in Lua, as one transaction.")
        .example("EVAL \"return redis.call('INCRBY', KEYS[1], ARGV[1])\" 1 visites 5")
        .notes(&[
            "KEYS and ARGV are tables of the keys and of the other arguments.",
            "A script that takes too much time or memory is ended, and nothing of it is left.",
        ]);

pub fn eval<T: Txn>(call: &mut Call<'_, T>) -> Result {
    evaluate(call, seen, false)
}

pub const EVALSHA: Spec =
    Spec::new(Group::Scripting, "2.6.0", "EVALSHA sha1 numkeys [key [key ...]] [arg [arg ...]]")
        .summary("Runs a script that EVAL or SCRIPT LOAD made known.")
        .example("EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0");

pub fn eval_sha<T: Txn>(call: &mut Call<'_, T>) -> Result {
    evaluate(call, known, false)
}

pub const EVAL_RO: Spec =
    Spec::new(Group::Scripting, "7.0.0", "EVAL_RO script numkeys [key [key ...]] [arg [arg ...]]")
        .flags(&[Readonly])
        .summary("Runs a script that may not write.")
        .example("EVAL_RO \"return redis.call('GET', KEYS[1])\" 1 ville");

pub fn eval_ro<T: Txn>(call: &mut Call<'_, T>) -> Result {
    evaluate(call, seen, true)
}

pub const EVALSHA_RO: Spec =
    Spec::new(Group::Scripting, "7.0.0", "EVALSHA_RO sha1 numkeys [key [key ...]] [arg [arg ...]]")
        .flags(&[Readonly])
        .summary("Runs a known script that may not write.")
        .example("EVALSHA_RO e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0");

pub fn eval_sha_ro<T: Txn>(call: &mut Call<'_, T>) -> Result {
    evaluate(call, known, true)
}

pub const SCRIPT: Spec = Spec::new(Group::Scripting, "2.6.0", "SCRIPT subcommand")
    .summary("Keeps scripts, or ends them.")
    .example("SCRIPT LOAD \"return 1\"");

pub const SCRIPT_LOAD: Spec = Spec::new(Group::Scripting, "2.6.0", "SCRIPT LOAD script")
    .summary("Keeps a script until SCRIPT FLUSH, and returns its SHA-1.");

pub fn load<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let script = Script::new(&call.request[2])?;
    if let Some(error) = sandbox(call.control, call.time())?.check(&script) {
        return Err(CommandError::err(error));
    }
    let script = call.control.scripts.add(script, true)?;
    call.replies.bulk(script.sha().to_string().as_bytes());
    Ok(())
}

pub const SCRIPT_EXISTS: Spec =
    Spec::new(Group::Scripting, "2.6.0", "SCRIPT EXISTS sha1 [sha1 ...]")
        .summary("Returns 1 for each known script, and 0 for others.");

pub fn exists<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.replies.array(call.request.len() - 2);
    for word in call.request.words_from(2) {
        let found = Sha::parse(word).and_then(|sha| call.control.scripts.find(sha));
        call.replies.integer(i64::from(found.is_some()));
    }
    Ok(())
}

pub const SCRIPT_FLUSH: Spec = Spec::new(Group::Scripting, "2.6.0", "SCRIPT FLUSH [ASYNC|SYNC]")
    .summary("Forgets all scripts.");

pub fn flush<T: Txn>(call: &mut Call<'_, T>) -> Result {
    if call.request.len() > 3 || !call.request.words_from(2).all(is_flush_type) {
        return Err(CommandError::err("SCRIPT FLUSH only support SYNC|ASYNC option"));
    }
    call.control.scripts.flush();
    call.replies.status("OK");
    Ok(())
}

pub const SCRIPT_KILL: Spec = Spec::new(Group::Scripting, "2.6.0", "SCRIPT KILL")
    .summary("Ends scripts that have run for a tenth of a second; nothing of them is left.");

pub fn kill<T: Txn>(call: &mut Call<'_, T>) -> Result {
    if !call.control.scripts.kill() {
        return Err(CommandError::new(Code::NotBusy, "No scripts in execution right now."));
    }
    call.replies.status("OK");
    Ok(())
}

/// The script that is the first argument, known from now on.
fn seen<T: Txn>(call: &Call<'_, T>) -> Result<Arc<Script>> {
    let text = &call.request[1];
    let scripts: &Scripts = &call.control.scripts;
    match scripts.find(Sha::of(text)) {
        Some(script) => Ok(script),
        None => Ok(scripts.add(Script::new(text)?, false)?),
    }
}

/// The script whose SHA-1 is the first argument.
fn known<T: Txn>(call: &Call<'_, T>) -> Result<Arc<Script>> {
    let found = Sha::parse(&call.request[1]).and_then(|sha| call.control.scripts.find(sha));
    found.ok_or(CommandError::new(Code::NoScript, "No matching script. Please use EVAL."))
}

fn sandbox(control: &Control, time: Duration) -> Result<TakenSandbox<'_>> {
    let memory_bytes = control.config.script_memory;
    match control.scripts.take(memory_bytes, Instant::now() + time) {
        Some(Ok(sandbox)) => Ok(sandbox),
        Some(Err(_)) => Err(CommandError::NO_MEMORY),
        None => Err(CommandError::new(Code::Busy, "too many scripts are running")),
    }
}

impl<T> Call<'_, T> {
    /// How long a script may take.
    fn time(&self) -> Duration {
        Duration::from_secs(u64::from(self.control.config.script_timeout))
    }
}

/// Where the keys begin, and after them the arguments.
const FIRST: usize = 3;

/// How many words are keys.
fn key_count<T: Txn>(call: &Call<'_, T>) -> Result<usize> {
    let most = (call.request.len() - FIRST) as i64;
    match integer(&call.request[FIRST - 1])? {
        ..0 => Err(CommandError::err("Number of keys can't be negative")),
        count if count > most => {
            Err(CommandError::err("Number of keys can't be greater than number of args"))
        }
        count => Ok(count as usize),
    }
}

/// Runs the script that `find` finds, which is looked for once the number of keys is known to be right.
fn evaluate<T: Txn>(
    call: &mut Call<'_, T>,
    find: fn(&Call<'_, T>) -> Result<Arc<Script>>,
    is_readonly: bool,
) -> Result {
    let count = key_count(call)?;
    let script = find(call)?;
    run(call, &script, count, is_readonly || script.is_readonly())
}

/// Runs a script with the keys, of which there are `count`, and arguments of the request.
fn run<T: Txn>(call: &mut Call<'_, T>, script: &Script, count: usize, is_readonly: bool) -> Result {
    let words = call.request.words_from(FIRST);
    let (keys, arguments): (Vec<_>, Vec<_>) =
        (words.clone().take(count).collect(), words.skip(count).collect());
    let input = Input { keys: &keys, arguments: &arguments, time: call.time() };
    let mut sandbox = sandbox(call.control, input.time)?;
    let before = (call.connection.database, call.connection.protocol);
    let mut runner = Runner {
        txn: &mut *call.txn,
        connection: &mut *call.connection,
        client: call.client,
        control: call.control,
        stats: &mut *call.stats,
        admin: call.admin,
        is_readonly,
        is_full: memory::is_full(),
        ran: Vec::new(),
        ended: None,
    };
    let outcome = sandbox.run(script, &input, &mut runner, call.replies);
    if !runner.ended.as_ref().is_some_and(CommandError::is_again) {
        runner.count();
    }
    let ended = runner.ended;
    (call.connection.database, call.connection.protocol) = before;
    call.client.database.store(before.0, Ordering::Relaxed);
    if ended.as_ref().is_some_and(CommandError::is_again) {
        call.detour.want_all();
    }
    match outcome {
        Ok(None) => Ok(()),
        // Its changes stay, so for the transaction it is no error.
        Ok(Some(text)) => {
            call.control.statistics.refused(Code::of(&text) as usize);
            call.replies.error(&text);
            Ok(())
        }
        Err(End::Time) => Err(CommandError::new(
            Code::Bound,
            "the script ran for longer than --script-timeout allows: it was ended, and nothing of it is left",
        )),
        Err(End::Killed) => {
            Err(CommandError::new(Code::Bound, "Script killed by user with SCRIPT KILL..."))
        }
        Err(End::Memory) => Err(CommandError::new(
            Code::Oom,
            "the script wanted more memory than --script-memory allows: it was ended, and nothing of it is left",
        )),
        Err(End::Refused) => Err(ended.unwrap_or(CommandError::NO_MEMORY)),
    }
}

/// Runs the commands that a script calls.
struct Runner<'r, T> {
    txn: &'r mut T,
    connection: &'r mut ConnectionState,
    client: &'r Arc<Client>,
    control: &'r Control,
    stats: &'r mut BurstStats,
    admin: &'r dyn Admin,
    /// Commands that write are refused.
    is_readonly: bool,
    /// Memory was at its bound when the script began.
    is_full: bool,
    /// What was run, by the numbers of the commands.
    ran: Vec<(usize, Called)>,
    /// Why the script is to end.
    ended: Option<CommandError>,
}

impl<T: Txn> Runner<'_, T> {
    fn end(&mut self, error: CommandError) -> std::result::Result<(), End> {
        self.ended.get_or_insert(error);
        Err(End::Refused)
    }

    /// Adds what was run to the statistics.
    fn count(&mut self) {
        for (command, called) in self.ran.drain(..) {
            self.control.statistics.count(self.client.id, self.stats, command, called);
        }
    }

    /// The command, if a script may call it.
    fn command(&self, kept: &QueuedRequest) -> Result<CommandRef> {
        let resolved = find(&kept.request());
        let error = resolved.error.is_some();
        let Some(command) = resolved.command else {
            return Err(CommandError::err("Unknown Redis command called from script"));
        };
        if error {
            let text = "Wrong number of args calling Redis command from script";
            return Err(CommandError::err(text));
        }
        if !is_allowed(command) {
            return Err(CommandError::err("This Redis command is not allowed from script"));
        }
        if self.is_readonly && command.flags.contains(Flag::Write) {
            let text = "Write commands are not allowed from read-only scripts.";
            return Err(CommandError::err(text));
        }
        if command.spec.needs_file && matches!(self.control.config.engine, EngineKind::Etcd(_)) {
            let name = command.full_name();
            return Err(CommandError::err(format!("'{name}' needs a data file")));
        }
        Ok(command)
    }

    /// Whether the transaction reaches all that a command touches.
    fn reaches(&self, command: CommandRef, kept: &QueuedRequest) -> bool {
        let (request, database) = (kept.request(), self.connection.database);
        let word = |place| request.words_from(place).next().unwrap_or_default();
        let mut keys =
            command.key_places(&request).map(|place| Key { database, bytes: word(place) });
        match may_touch_any(command) {
            true => self.txn.reaches(None),
            false => keys.all(|key| self.txn.reaches(Some(key))),
        }
    }
}

impl<T: Txn> Calls for Runner<'_, T> {
    fn call(
        &mut self,
        kept: &QueuedRequest,
        protocol: Protocol,
        replies: &mut Replies,
    ) -> std::result::Result<(), End> {
        let command = match self.command(kept) {
            Ok(command) => command,
            Err(error) => {
                replies.error(&error.to_string());
                return Ok(());
            }
        };
        if self.is_full && command.flags.contains(Flag::Denyoom) {
            return self.end(CommandError::MAX_MEMORY);
        }
        if !self.reaches(command, kept) {
            return self.end(CommandError::AGAIN);
        }
        self.connection.protocol = protocol;
        let (request, started) = (kept.request(), Instant::now());
        let long = LongArguments::of(command, &request);
        let call = Call {
            txn: &mut *self.txn,
            request: &request,
            keys: &[],
            replies,
            connection: &mut *self.connection,
            client: self.client,
            control: self.control,
            stats: &mut *self.stats,
            admin: self.admin,
            long: &long,
            detour: &mut Detour::shared(),
        };
        let failed = match transaction::run(command, call) {
            Ok(failed) => failed,
            Err(error) => return self.end(error),
        };
        self.ran.push((command.number, Called::once(started.elapsed(), failed.is_some())));
        const RAN_MAX: usize = 1000;
        if self.ran.len() > RAN_MAX {
            self.count();
        }
        Ok(())
    }
}

/// Whether a script may call a command: it acts on keys, or only answers.
fn is_allowed(command: CommandRef) -> bool {
    let is_of_connection = command.spec.group == Group::Connection
        && !matches!(command.name, "PING" | "ECHO" | "SELECT");
    let is_of_server = command.flags.contains(Flag::Admin) || command.flags.contains(Flag::NoMulti);
    let is_of_file = command.spec.needs_file && command.spec.group == Group::Server;
    let is_setting = command.spec.group == Group::Server
        && ["config", "latency", "module", "slowlog"]
            .iter()
            .any(|of_server| command.full_name().starts_with(of_server));
    let is_outside = matches!(command.spec.group, Group::Transactions | Group::Scripting);
    !(is_setting || is_of_connection || is_of_server || is_of_file || is_outside)
}

impl From<ScriptError> for CommandError {
    fn from(error: ScriptError) -> Self {
        Self::err(error.to_string())
    }
}

impl From<NotLoaded> for CommandError {
    fn from(error: NotLoaded) -> Self {
        Self::new(Code::Oom, error.to_string())
    }
}
