//! Is a server under faults strictly serializable? Clients at work on few keys, the server killed and started
//! again, its disk refusing writes, its memory at its bound, its fsyncs slow; then [`history_check`] looks for
//! what is lost, torn, doubled or stale.
//!
//! A round is a few lives of a server on one file. In each life the clients work until the faults are over, or
//! until they have done as much as a history may hold. `COFFRE_HISTORY_SECONDS` asks for more rounds,
//! `COFFRE_SEED` for those of a run before.
//!
//! An error reply says what became of an operation: `-OOM` and `-EXECABORT` promise that nothing was done,
//! `-MISCONF` leaves it open. An `EXEC` with an error among its replies happens as a whole or not at all like any
//! other.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::harness::{Client, Reply, Server, folder, is_durable, on_request, request};
use crate::history_check::{
    ACCOUNTS, COUNTERS, Finals, Id, LEDGER, LISTS, Op, Outcome, PAIR, Prefix, REGISTERS, Step,
    Transfer, token, violations,
};
use crate::injected_faults::Traced;

/// Clients that do all kinds of operations.
const WORKERS: usize = 4;
/// Clients that rename a key each, and so count: the name ends in a number.
const MOVERS: usize = 3;
/// Clients that ask which keys there are.
const ASKERS: usize = 2;
/// The counters before those of the movers.
const PLAIN_COUNTERS: usize = COUNTERS - MOVERS;
/// Receipts of each worker.
const SLOTS: u32 = 4;
/// Operations of each client in one life: what a history may hold.
const OPERATIONS_MAX: usize = 20_000;

/// How long a write and an fsync take where the disk is slow.
const SLOW_DISK: Duration = Duration::from_millis(12);

/// What goes wrong in the lives of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing but `kill -9` at the end of each life.
    Kill,
    /// Again and again the data file may not grow.
    FileLimit,
    /// More is stored than `--maxmemory` allows.
    Memory,
    /// `write` and `fdatasync` take long.
    SlowDisk,
    /// What can happen to a cluster and to the coffres in front of it: see [`crate::etcd`].
    Cluster,
}

/// A server as it is, or under strace.
enum Life {
    Plain(Server),
    Traced(Traced),
}

impl Life {
    fn begin(fault: Fault, file: &Path, fsync: &str) -> Self {
        match fault {
            Fault::SlowDisk => {
                let delay = SLOW_DISK.as_micros();
                let inject = format!("write,fdatasync:delay_enter={delay}:when=1+");
                Self::Traced(Traced::start(file, &inject, &["--fsync", "always"]))
            }
            Fault::Memory => {
                Self::Plain(Server::with(file, &["--fsync", fsync, "--maxmemory", "16mb"]))
            }
            _ => Self::Plain(Server::with(file, &["--fsync", fsync])),
        }
    }

    fn server(&self) -> &Server {
        match self {
            Self::Plain(server) => server,
            Self::Traced(traced) => traced.server(),
        }
    }

    /// Kills the server, or returns it if its keys are nowhere else.
    fn end(self) -> Option<Server> {
        match self {
            Self::Plain(server) if !is_durable() => return Some(server),
            Self::Plain(server) => server.kill(),
            Self::Traced(traced) => traced.kill(),
        }
        None
    }
}

/// What all clients of a round share.
pub struct Round {
    origin: Instant,
    next: AtomicU32,
    /// The life ends: a connection that breaks is not made again.
    pub is_over: AtomicBool,
    /// The last name of each mover that an asker was shown without waiting for the disk.
    shown: [AtomicU64; MOVERS],
    /// The last name that each mover had a reply for.
    acknowledged: [AtomicU64; MOVERS],
    fault: Fault,
}

impl Round {
    pub fn new(fault: Fault) -> Self {
        Self {
            origin: Instant::now(),
            next: AtomicU32::new(1),
            is_over: AtomicBool::new(false),
            shown: Default::default(),
            acknowledged: Default::default(),
            fault,
        }
    }

    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Whether a name was shown that its mover has no reply for, though there was time to read one: if it is not on
    /// disk, a kill at this moment tells.
    fn is_ahead(&self) -> bool {
        let is_ahead = || {
            let mut pairs = self.shown.iter().zip(&self.acknowledged);
            pairs.any(|(shown, known)| {
                let known = known.load(Ordering::SeqCst);
                // Not those that no mover renames in this life.
                known > 0 && shown.load(Ordering::SeqCst) > known
            })
        };
        is_ahead() && {
            thread::sleep(SLOW_DISK / 10);
            is_ahead()
        }
    }

    fn id(&self) -> Id {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// What a list of requests sent at once was answered.
struct Exchange {
    invoked: u64,
    completed: u64,
    /// `None` where the connection ended.
    replies: Option<Vec<Reply>>,
}

/// One client and what it did.
struct Actor<'r> {
    round: &'r Round,
    number: usize,
    address: SocketAddr,
    client: Option<Client>,
    /// The database that it selected.
    database: usize,
    random: fastrand::Rng,
    ops: Vec<Op>,
    /// The value of each register that it last saw.
    known: [Id; REGISTERS],
    /// Its last operation was refused.
    is_refused: bool,
}

impl<'r> Actor<'r> {
    fn new(round: &'r Round, number: usize, address: SocketAddr, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed ^ (number as u64) << 32);
        let client = Client::connect_at_last(address, || false);
        let known = [0; REGISTERS];
        Self {
            round,
            number,
            address,
            client,
            database: 0,
            random,
            ops: Vec::new(),
            known,
            is_refused: false,
        }
    }

    fn is_at_an_end(&self) -> bool {
        let survives = !is_durable() || self.round.fault == Fault::Cluster;
        let is_over = survives && self.round.is_over.load(Ordering::SeqCst);
        self.client.is_none() || self.ops.len() >= OPERATIONS_MAX || is_over
    }

    /// A connection in place of one that broke, with the same database; none at the end of the life.
    fn connect_again(&self) -> Option<Client> {
        use std::io::Write;
        let ends = || self.round.is_over.load(Ordering::SeqCst);
        let select = words_of(&["SELECT", &self.database.to_string()]);
        loop {
            let mut client = Client::connect_at_last(self.address, ends)?;
            if client.stream.write_all(&select).is_ok() && client.try_reply() == Some(Reply::ok()) {
                return Some(client);
            }
        }
    }

    /// Sends requests in one write and reads all replies. A connection that breaks is made again while the
    /// server lives.
    fn exchange(&mut self, requests: &[Vec<u8>]) -> Exchange {
        use std::io::Write;
        let invoked = self.round.now();
        let replies = self.client.as_mut().and_then(|client| {
            client.stream.write_all(&requests.concat()).ok()?;
            requests.iter().map(|_| client.try_reply()).collect()
        });
        let completed = self.round.now();
        if replies.is_none() {
            self.client = self.connect_again();
        }
        Exchange { invoked, completed, replies }
    }

    /// Works with another database from here on, on later connections, too.
    fn select(&mut self, database: usize) {
        self.database = database;
        self.exchange(&[words_of(&["SELECT", &database.to_string()])]);
    }

    /// Notes an operation. `writes` are its steps if nothing is known of it, `told` what they are where it was
    /// answered.
    fn note(
        &mut self,
        id: Id,
        exchange: &Exchange,
        outcome: Outcome,
        steps: Vec<Step>,
        transfer: Option<Transfer>,
    ) {
        let Exchange { invoked, completed, replies } = exchange;
        let said = match (&outcome, replies) {
            (Outcome::Done, _) => String::new(),
            (_, Some(replies)) => shortened(format!("{:?}", replies.last())),
            (_, None) => "the connection ended".to_owned(),
        };
        self.is_refused = outcome != Outcome::Done;
        let (invoked, completed) = (*invoked, *completed);
        self.ops.push(Op { id, invoked, completed, outcome, steps, transfer, said });
    }

    /// One command that writes: `steps` gives what it did from its reply, `None` if it did nothing.
    fn write(
        &mut self,
        id: Id,
        words: &[&str],
        unknown: Vec<Step>,
        steps: impl FnOnce(Reply) -> Option<Vec<Step>>,
    ) {
        let exchange = self.exchange(&[words_of(words)]);
        let reply = exchange.replies.as_ref().and_then(|replies| replies.first()).cloned();
        match (outcome(reply.as_ref()), reply) {
            (Outcome::Done, Some(reply)) => {
                if let Some(steps) = steps(reply) {
                    self.note(id, &exchange, Outcome::Done, steps, None);
                }
            }
            (outcome, _) => self.note(id, &exchange, outcome, unknown, None),
        }
    }

    /// One command that only reads: where it is refused it says nothing.
    fn read(&mut self, words: &[&str], steps: impl FnOnce(Reply) -> Vec<Step>) {
        let exchange = self.exchange(&[words_of(words)]);
        let reply = exchange.replies.as_ref().and_then(|replies| replies.first()).cloned();
        if let (Outcome::Done, Some(reply)) = (outcome(reply.as_ref()), reply) {
            let id = self.round.id();
            self.note(id, &exchange, Outcome::Done, steps(reply), None);
        }
    }

    /// Commands between `MULTI` and `EXEC`.
    fn exec(
        &mut self,
        id: Id,
        commands: &[Vec<u8>],
        transfer: Option<Transfer>,
        unknown: Vec<Step>,
        steps: impl FnOnce(Vec<Reply>) -> Vec<Step>,
    ) {
        let mut requests = vec![words_of(&["MULTI"])];
        requests.extend_from_slice(commands);
        requests.push(words_of(&["EXEC"]));
        let exchange = self.exchange(&requests);
        let reply = exchange.replies.as_ref().and_then(|replies| replies.last()).cloned();
        match (outcome(reply.as_ref()), reply) {
            (_, Some(Reply::Nil)) => self.note(id, &exchange, Outcome::NotDone, unknown, transfer),
            (Outcome::Done, Some(Reply::Array(replies))) => {
                assert_eq!(replies.len(), commands.len());
                let refused = replies.iter().any(|reply| matches!(reply, Reply::Error(_)));
                match refused {
                    true => self.note(id, &exchange, Outcome::Unknown, unknown, transfer),
                    false => {
                        let steps = steps(replies);
                        self.note(id, &exchange, Outcome::Done, steps, transfer);
                    }
                }
            }
            (outcome, _) => self.note(id, &exchange, outcome, unknown, transfer),
        }
    }

    /// One operation of any kind.
    fn work(&mut self) {
        let id = self.round.id();
        let list = self.random.usize(1..LISTS);
        let register = self.random.usize(..REGISTERS);
        let choice = match self.is_refused {
            // Writes may be taken again at any moment: a long transaction is most likely to meet it.
            true if self.random.u8(..10) > 0 => 60,
            _ => self.random.u8(..100),
        };
        match choice {
            0..6 => {
                let name = list_name(list);
                self.read(&["GET", &name], |reply| vec![list_read(list, &reply)]);
            }
            6..12 => {
                let name = register_name(register);
                let mut seen = 0;
                self.read(&["GET", &name], |reply| {
                    seen = id_of(&reply);
                    vec![Step::Read { register, id: seen }]
                });
                self.known[register] = seen;
            }
            12..16 => {
                let counter = self.random.usize(..PLAIN_COUNTERS);
                let read = |reply| vec![Step::ReadCount { counter, value: number(&reply) }];
                self.read(&["GET", &counter_name(counter)], read);
            }
            16..22 => {
                let words = [&list_name(list), &counter_name(PAIR[1]), &counter_name(PAIR[0])];
                self.read(&["MGET", words[0], words[1], words[2]], |reply| {
                    let replies = array(reply);
                    vec![
                        list_read(list, &replies[0]),
                        Step::ReadCount { counter: PAIR[1], value: number(&replies[1]) },
                        Step::ReadCount { counter: PAIR[0], value: number(&replies[2]) },
                    ]
                });
            }
            22..40 => self.set_register(id, register),
            40..52 => {
                let unknown = vec![Step::Append { list, bytes: None }];
                self.write(id, &["APPEND", &list_name(list), &token(id)], unknown, |reply| {
                    Some(vec![Step::Append { list, bytes: Some(integer(&reply)) }])
                });
            }
            52..60 => {
                let counter = PLAIN_COUNTERS - 1;
                let step = |value| Step::Count { counter, value };
                let told = |reply: Reply| Some(vec![step(Some(integer(&reply)))]);
                self.write(id, &["INCR", &counter_name(counter)], vec![step(None)], told);
            }
            60..74 => self.write_several(id),
            74..88 => self.transfer(id),
            88..94 => self.update(id, register),
            _ => drop(self.read_all()),
        }
    }

    /// `SET` alone, with `GET`, or with `IFEQ`.
    fn set_register(&mut self, id: Id, register: usize) {
        let (name, value) = (register_name(register), id.to_string());
        let set = Step::Set { register };
        let unknown = vec![set.clone()];
        match self.random.u8(..3) {
            0 => self.write(id, &["SET", &name, &value], unknown, |_| Some(vec![set])),
            1 => self.write(id, &["SET", &name, &value, "GET"], unknown, |reply| {
                Some(vec![Step::Read { register, id: id_of(&reply) }, set])
            }),
            _ => {
                let old = self.known[register];
                let words = ["SET", &name, &value, "IFEQ", &old.to_string()];
                self.write(id, &words, unknown, |reply| {
                    // Nil: it has another value.
                    (reply != Reply::Nil).then(|| vec![Step::Read { register, id: old }, set])
                });
            }
        }
        self.known[register] = id;
    }

    /// An `EXEC` on keys of all kinds.
    fn write_several(&mut self, id: Id) {
        let register = self.random.usize(..REGISTERS);
        let mut commands = vec![
            words_of(&["INCR", &counter_name(PAIR[0])]),
            words_of(&["APPEND", &list_name(1), &token(id)]),
            words_of(&["SET", &register_name(register), &id.to_string()]),
        ];
        // What takes a while, so that memory ends, or the disk is well again, between two of them.
        let is_long = self.is_refused || self.random.u8(..4) == 0;
        commands.extend(is_long.then(|| words_of(&["LCS", "text:0", "text:1", "LEN"])));
        commands.push(words_of(&["APPEND", &list_name(2), &token(id)]));
        commands.push(words_of(&["INCR", &counter_name(PAIR[1])]));
        let steps = |bytes: [Option<u64>; 2], counts: [Option<u64>; 2]| {
            vec![
                Step::Count { counter: PAIR[0], value: counts[0] },
                Step::Append { list: 1, bytes: bytes[0] },
                Step::Set { register },
                Step::Append { list: 2, bytes: bytes[1] },
                Step::Count { counter: PAIR[1], value: counts[1] },
            ]
        };
        self.exec(id, &commands, None, steps([None; 2], [None; 2]), |replies| {
            let told = |index: usize| Some(integer(&replies[index]));
            let last = replies.len() - 1;
            steps([told(1), told(last - 1)], [told(0), told(last)])
        });
    }

    /// Moves an amount, writes a receipt, and notes both in the ledger.
    fn transfer(&mut self, id: Id) {
        let (from, to) = (self.random.usize(..ACCOUNTS), self.random.usize(..ACCOUNTS));
        let amount = self.random.i64(1..10);
        let receipt = self.number as u32 * SLOTS + self.random.u32(..SLOTS);
        let transfer = Transfer { from, to, amount, receipt };
        // Where memory is scarce a receipt is what may not fit.
        let padding = if self.round.fault == Fault::Memory { 20_000 } else { 10 };
        let text = format!("{id},{}", "r".repeat(padding));
        let amount = amount.to_string();
        let commands = [
            words_of(&["DECRBY", &account_name(from), &amount]),
            words_of(&["SET", &receipt_name(receipt), &text]),
            words_of(&["INCRBY", &account_name(to), &amount]),
            words_of(&["APPEND", &list_name(LEDGER), &token(id)]),
        ];
        let step = |bytes| vec![Step::Append { list: LEDGER, bytes }];
        self.exec(id, &commands, Some(transfer), step(None), |replies| {
            step(Some(integer(&replies[3])))
        });
    }

    /// Reads a register and sets it, if nobody else has, and appends.
    fn update(&mut self, id: Id, register: usize) {
        let name = register_name(register);
        let exchange = self.exchange(&[words_of(&["WATCH", &name]), words_of(&["GET", &name])]);
        let Some(replies) = &exchange.replies else { return };
        if outcome(replies.get(1)) != Outcome::Done || replies[0] != Reply::ok() {
            return;
        }
        let seen = id_of(&replies[1]);
        let read = Step::Read { register, id: seen };
        let read_id = self.round.id();
        self.note(read_id, &exchange, Outcome::Done, vec![read.clone()], None);
        let commands = [
            words_of(&["SET", &name, &id.to_string()]),
            words_of(&["APPEND", &list_name(1), &token(id)]),
        ];
        let set = Step::Set { register };
        let unknown = vec![set.clone(), Step::Append { list: 1, bytes: None }];
        self.exec(id, &commands, None, unknown, |replies| {
            vec![read, set, Step::Append { list: 1, bytes: Some(integer(&replies[1])) }]
        });
        self.known[register] = id;
    }

    /// Everything at one moment; returns the lists.
    fn read_all(&mut self) -> Option<Finals> {
        let receipts: Vec<u32> = (0..WORKERS as u32 * SLOTS).collect();
        let mut names: Vec<String> = (0..LISTS).map(list_name).collect();
        names.extend((0..REGISTERS).map(register_name));
        names.extend((0..PLAIN_COUNTERS).map(counter_name));
        names.extend((0..ACCOUNTS).map(account_name));
        let mut commands: Vec<_> = names.iter().map(|name| words_of(&["GET", name])).collect();
        let receipt = |number: &u32| words_of(&["GETRANGE", &receipt_name(*number), "0", "15"]);
        commands.extend(receipts.iter().map(receipt));
        let id = self.round.id();
        let mut finals = None;
        self.exec(id, &commands, None, Vec::new(), |replies| {
            let mut replies = replies.into_iter();
            let mut next = || replies.next().unwrap();
            let mut steps = Vec::new();
            finals = Some(std::array::from_fn(|list| {
                let reply = next();
                steps.push(list_read(list, &reply));
                bytes(&reply)
            }));
            for register in 0..REGISTERS {
                steps.push(Step::Read { register, id: id_of(&next()) });
            }
            for counter in 0..PLAIN_COUNTERS {
                steps.push(Step::ReadCount { counter, value: number(&next()) });
            }
            let balances = std::array::from_fn(|_| signed(&next()));
            let receipts = receipts.iter().map(|receipt| (*receipt, id_of(&next()))).collect();
            steps.push(Step::ReadBank { balances, receipts });
            steps
        });
        finals
    }

    /// The number in a mover's name, of a key that a listing shows.
    fn shown(&mut self, words: &[&str]) -> Option<Vec<(usize, u64)>> {
        let exchange = self.exchange(&[words_of(words)]);
        let reply = exchange.replies.as_ref()?.first().cloned();
        let keys = match (outcome(reply.as_ref()), reply?) {
            (Outcome::Done, Reply::Array(keys)) => keys,
            (Outcome::Done, Reply::Nil) => Vec::new(),
            (Outcome::Done, key) => vec![key],
            _ => return None,
        };
        let numbers: Vec<_> = keys.iter().filter_map(|key| mover(&bytes(key))).collect();
        // A listing is not of one moment: each key it shows was there at some moment.
        for (counter, value) in &numbers {
            if Duration::from_nanos(exchange.completed - exchange.invoked) < SLOW_DISK / 4 {
                self.round.shown[*counter - PLAIN_COUNTERS].fetch_max(*value, Ordering::SeqCst);
            }
            let id = self.round.id();
            let (counter, value) = (*counter, *value);
            let step = Step::ReadCount { counter, value };
            self.note(id, &exchange, Outcome::Done, vec![step], None);
        }
        Some(numbers)
    }

    /// Renames its key, several times in one write.
    fn rename(&mut self, counter: usize, current: &mut Option<u64>) {
        let Some(start) = *current else {
            let pattern = format!("mover:{counter}:*");
            if let Some(numbers) = self.shown(&["KEYS", &pattern]) {
                *current = numbers.first().map(|(_, number)| *number);
                let acknowledged = &self.round.acknowledged[counter - PLAIN_COUNTERS];
                acknowledged.store(current.unwrap_or(0), Ordering::SeqCst);
                if numbers.is_empty() {
                    // The first of its names, which is no version yet.
                    let value =
                        "v".repeat(if self.round.fault == Fault::SlowDisk { 50_000 } else { 1 });
                    self.exchange(&[words_of(&["SET", &mover_name(counter, 0), &value])]);
                }
            }
            return;
        };
        // As many as the server reads at once; large ones take long enough for a kill between them.
        let most = if self.round.fault == Fault::SlowDisk { 10 } else { 230 };
        let end = start + self.random.u64(1..most);
        let rename = |number| {
            words_of(&["RENAME", &mover_name(counter, number), &mover_name(counter, number + 1)])
        };
        let exchange = self.exchange(&(start..end).map(rename).collect::<Vec<_>>());
        for (at, number) in (start..end).enumerate() {
            let reply = exchange.replies.as_ref().map(|replies| &replies[at]);
            // After one that failed the next ones find no key: they are not done.
            let missing = Reply::Error("ERR no such key".to_owned());
            if reply == Some(&missing) && current.is_none() {
                continue;
            }
            let outcome = outcome(reply);
            *current = (outcome == Outcome::Done).then_some(number + 1);
            if let Some(number) = current {
                let acknowledged = &self.round.acknowledged[counter - PLAIN_COUNTERS];
                acknowledged.store(*number, Ordering::SeqCst);
            }
            let value = (outcome == Outcome::Done).then_some(number + 1);
            let id = self.round.id();
            self.note(id, &exchange, outcome, vec![Step::Count { counter, value }], None);
            if current.is_none() && exchange.replies.is_none() {
                // One of them was the last; which one, nobody knows.
                continue;
            }
        }
    }
}

/// What a reply says of the operation.
fn outcome(reply: Option<&Reply>) -> Outcome {
    match reply {
        None => Outcome::Unknown,
        Some(Reply::Error(error)) if error.starts_with("MISCONF ") => Outcome::Unknown,
        Some(Reply::Error(error)) if error.starts_with("OOM ") => Outcome::NotDone,
        Some(Reply::Error(error)) if error.starts_with("EXECABORT ") => Outcome::NotDone,
        Some(Reply::Error(error)) if error.starts_with("CLUSTERDOWN ") => Outcome::NotDone,
        Some(Reply::Error(error)) if error.starts_with("TRYAGAIN ") => Outcome::NotDone,
        Some(Reply::Error(error)) => panic!("an error that nothing here explains: {error}"),
        Some(_) => Outcome::Done,
    }
}

/// Both ends of a long text.
fn shortened(text: String) -> String {
    const END: usize = 120;
    match text.len() {
        0..=250 => text,
        length => format!("{} ... {}", &text[..END], &text[length - END..]),
    }
}

fn words_of(words: &[&str]) -> Vec<u8> {
    request(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
}

fn list_name(list: usize) -> String {
    format!("list:{list}")
}

fn register_name(register: usize) -> String {
    format!("register:{register}")
}

fn counter_name(counter: usize) -> String {
    format!("counter:{counter}")
}

fn account_name(account: usize) -> String {
    format!("account:{account}")
}

fn receipt_name(receipt: u32) -> String {
    format!("receipt:{receipt}")
}

fn mover_name(counter: usize, number: u64) -> String {
    format!("mover:{counter}:{number}")
}

fn mover(key: &[u8]) -> Option<(usize, u64)> {
    let (counter, number) = str::from_utf8(key).ok()?.strip_prefix("mover:")?.split_once(':')?;
    Some((counter.parse().ok()?, number.parse().ok()?))
}

fn array(reply: Reply) -> Vec<Reply> {
    match reply {
        Reply::Array(replies) => replies,
        other => panic!("no array: {other:?}"),
    }
}

/// A value, empty where there is none.
fn bytes(reply: &Reply) -> Vec<u8> {
    match reply {
        Reply::Nil => Vec::new(),
        other => other.clone().into_bytes(),
    }
}

/// The number with which a value begins, 0 where there is none.
fn signed(reply: &Reply) -> i64 {
    let bytes = bytes(reply);
    let text = str::from_utf8(&bytes).unwrap().split(',').next().unwrap();
    if text.is_empty() { 0 } else { text.parse().unwrap() }
}

fn number(reply: &Reply) -> u64 {
    signed(reply).try_into().unwrap()
}

fn id_of(reply: &Reply) -> Id {
    signed(reply).try_into().unwrap()
}

fn integer(reply: &Reply) -> u64 {
    match reply {
        Reply::Integer(number) => (*number).try_into().unwrap(),
        other => panic!("no integer: {other:?}"),
    }
}

fn list_read(list: usize, reply: &Reply) -> Step {
    Step::ReadList { list, seen: Prefix::of(&bytes(reply)) }
}

/// Lets the data file not grow, again and again, each time from another byte on.
fn limit_the_file(server: &Server, file: &Path, random: &mut fastrand::Rng) {
    let pid = Pid::from_raw(server.pid() as i32);
    let set = |current| prlimit(pid, Resource::Fsize, Rlimit { current, maximum: None }).unwrap();
    for _ in 0..6 {
        pause(random.u64(5..30));
        let length = std::fs::metadata(file).unwrap().len();
        set(Some(length + random.u64(..5_000)));
        pause(random.u64(10..120));
        set(None);
        // It is well again within a tenth of a second, most likely.
        pause(random.u64(90..130));
    }
}

/// Fills memory up to its bound, and gives some of it back, again and again.
fn fill_memory(server: &Server, random: &mut fastrand::Rng) {
    let mut client = server.client();
    let mut count = 0;
    for _ in 0..400 {
        let set = format!("SET filler:{count} {}", "f".repeat(random.usize(1_000..60_000)));
        match client.line(&set) {
            Reply::Error(_) => {
                for _ in 0..random.usize(1..8) {
                    client.line(&format!("DEL filler:{}", random.usize(..count.max(1))));
                }
            }
            _ => count += 1,
        }
    }
}

fn pause(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}

/// Clients of the servers at these addresses, each on a thread that returns what it did.
pub fn start<'s>(
    scope: &'s thread::Scope<'s, '_>,
    round: &'s Round,
    addresses: &'s [SocketAddr],
    seed: u64,
    is_movers: bool,
) -> Vec<thread::ScopedJoinHandle<'s, Vec<Op>>> {
    let actor =
        |number: usize| Actor::new(round, number, addresses[number % addresses.len()], seed);
    let mut threads = Vec::new();
    let (workers, movers, askers) =
        if is_movers { (0, 1, 3 * ASKERS) } else { (WORKERS, MOVERS, ASKERS) };
    for number in 0..workers {
        let mut actor = actor(number);
        threads.push(scope.spawn(move || {
            while !actor.is_at_an_end() {
                actor.work();
            }
            actor.ops
        }));
    }
    for number in 0..movers {
        let mut actor = actor(WORKERS + number);
        threads.push(scope.spawn(move || {
            let (counter, mut current) = (PLAIN_COUNTERS + number, None);
            actor.select(1);
            while !actor.is_at_an_end() {
                actor.rename(counter, &mut current);
                if actor.is_refused || is_movers {
                    // Time for the askers to be in the middle of a search when it goes on.
                    thread::sleep(Duration::from_micros(actor.random.u64(500..3_000)));
                }
            }
            actor.ops
        }));
    }
    for number in 0..askers {
        let mut actor = actor(WORKERS + MOVERS + number);
        threads.push(scope.spawn(move || {
            actor.select(1);
            while !actor.is_at_an_end() {
                match actor.random.u8(..10) {
                    0 => actor.shown(&["KEYS", "*"]),
                    _ => actor.shown(&["RANDOMKEY"]),
                };
            }
            actor.ops
        }));
    }
    threads
}

/// One life of a server: clients at work, and what goes wrong meanwhile. The server is killed, unless that would be the
/// end of its keys.
fn live(round: &Round, file: &Path, seed: u64) -> (Vec<Op>, Option<Server>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let fsync = ["always", "everysec", "no"][random.usize(..3)];
    let life = Life::begin(round.fault, file, fsync);
    round.is_over.store(false, Ordering::SeqCst);
    for number in round.shown.iter().chain(&round.acknowledged) {
        number.store(0, Ordering::SeqCst);
    }
    let port = life.server().port;
    let addresses = [SocketAddr::from(([127, 0, 0, 1], port))];
    let mut client = Client::connect(port);
    for (name, text) in [("text:0", "abcde"), ("text:1", "badec")] {
        client.call(&[b"SET", name.as_bytes(), text.repeat(100).as_bytes()]);
    }
    thread::scope(|scope| {
        // What others write can hide for how long a name was shown too early: some lives are the movers' alone.
        let is_movers = round.fault == Fault::SlowDisk && random.u8(..4) > 0;
        let threads = start(scope, round, &addresses, seed, is_movers);
        let server = life.server();
        match round.fault {
            Fault::SlowDisk if is_movers => {
                pause(random.u64(20..100));
                let deadline = Instant::now() + Duration::from_secs(1);
                while !round.is_ahead() && Instant::now() < deadline {
                    thread::yield_now();
                }
            }
            Fault::Kill => pause(random.u64(50..300)),
            Fault::SlowDisk => pause(random.u64(200..500)),
            Fault::FileLimit => limit_the_file(server, file, &mut random),
            Fault::Memory => fill_memory(server, &mut random),
            Fault::Cluster => unreachable!("the cluster's own test sees to it"),
        }
        if random.bool() && round.fault != Fault::SlowDisk {
            server.client().line("BGREWRITEAOF");
        }
        round.is_over.store(true, Ordering::SeqCst);
        let survivor = life.end();
        let ops = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (ops, survivor)
    })
}

/// Some lives of a server on one file, and what a last one finds.
fn round(fault: Fault, lives: usize, seed: u64) -> Vec<String> {
    let (_folder, file) = folder();
    let round = Round::new(fault);
    let lives = if is_durable() { lives } else { 1 };
    let (mut ops, mut survivor) = (Vec::new(), None);
    for number in 0..lives {
        let life = live(&round, &file, seed + number as u64);
        ops.extend(life.0);
        survivor = life.1;
    }
    let server = survivor.unwrap_or_else(|| Server::start(&file));
    let address = SocketAddr::from(([127, 0, 0, 1], server.port));
    judge(&round, ops, address, seed, lives)
}

/// What the clients saw that cannot be, given what the server at `address` has in the end.
pub fn judge(
    round: &Round,
    mut ops: Vec<Op>,
    address: SocketAddr,
    seed: u64,
    lives: usize,
) -> Vec<String> {
    let fault = round.fault;
    let mut last = Actor::new(round, WORKERS + MOVERS + ASKERS, address, seed);
    let finals = last.read_all().expect("the last reads");
    last.select(1);
    let numbers = last.shown(&["KEYS", "mover:*"]).expect("the movers");
    // One operation: nothing else happens meanwhile.
    let others = last.ops.split_off(1);
    let mut end = last.ops.pop().unwrap();
    for counter in PLAIN_COUNTERS..COUNTERS {
        let shown: Vec<_> = numbers.iter().filter(|(of, _)| *of == counter).collect();
        assert!(shown.len() <= 1, "doubled: {shown:?}");
        let value = shown.first().map_or(0, |(_, value)| *value);
        end.steps.push(Step::ReadCount { counter, value });
    }
    drop(others);
    ops.push(end);
    let count = |outcome: Outcome| ops.iter().filter(|op| op.outcome == outcome).count();
    println!(
        "{fault:?}, COFFRE_SEED={seed}: {} done, {} unknown, {} refused",
        count(Outcome::Done),
        count(Outcome::Unknown),
        count(Outcome::NotDone)
    );
    assert!(count(Outcome::Done) > 10 * lives, "too little was done to tell anything");
    violations(&ops, &finals)
}

/// Rounds with one fault after the other, for as long as was asked for; each at least once.
fn rounds(faults: &[Fault], lives: usize) {
    let seed = on_request("COFFRE_SEED", fastrand::u64(..1 << 32));
    let seconds = on_request("COFFRE_HISTORY_SECONDS", 0);
    let (started, mut number) = (Instant::now(), 0);
    let mut found = Vec::new();
    while number < faults.len() || started.elapsed() < Duration::from_secs(seconds) {
        let fault = faults[number % faults.len()];
        let seed = seed + 1000 * (number / faults.len()) as u64;
        let violations = round(fault, lives, seed);
        if !violations.is_empty() {
            found.push(format!("{fault:?}, COFFRE_SEED={seed}:\n{}", violations.join("\n")));
        }
        number += 1;
    }
    println!("{number} rounds in {:?}", started.elapsed());
    assert!(found.is_empty(), "{} of {number} rounds:\n{}", found.len(), found.join("\n\n"));
}

#[test]
fn a_history_through_kill_9_is_strictly_serializable() {
    rounds(&[Fault::Kill], 3);
}

/// Each `EXEC` is done whole or not at all, whenever the disk refuses and whenever it is well again.
#[test]
fn a_history_on_a_disk_that_refuses_is_strictly_serializable() {
    rounds(&[Fault::FileLimit], 2);
}

/// Each `EXEC` is done whole or not at all where memory ends.
#[test]
fn a_history_at_the_bound_of_memory_is_strictly_serializable() {
    rounds(&[Fault::Memory], 3);
}

/// Nothing is shown that a kill can take away.
#[test]
#[ignore = "needs strace"]
fn a_history_on_a_slow_disk_is_strictly_serializable() {
    rounds(&[Fault::SlowDisk], 30);
}
