//! What one command works with: its transaction, its request, and the work that it leaves to the dispatcher.
//!
//! A command runs with its keys locked. Two kinds of work would take too long there, in proportion to a long argument:
//! arguments become values before the transaction begins ([`LongArguments`]), and what needs a stored long value too is
//! a [`Detour`]: the command ends with [`CommandError::AGAIN`], the dispatcher does the work with nothing locked, and the
//! command runs again and finds the result, if the stored value is still the same.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{CommandError, CommandRef, ConnectionState};
use crate::command::spec::Flag;
use crate::engine::{Admin, Entry, Key, Txn, TxnError};
use crate::limits::{VALUE_BLOCK_BYTES, work};
use crate::protocol::reply::Replies;
use crate::protocol::request::Request;
use crate::server::{BurstStats, Client, Control};
use crate::util::memory;
use crate::value::{Long, Value, View};

type Result<T = ()> = std::result::Result<T, CommandError>;

/// What a command works with.
pub struct Call<'c, T> {
    /// Its transaction.
    pub txn: &'c mut T,
    /// Its request.
    pub request: &'c Request<'c>,
    /// The keys that it names, of a command that names several and is alone in its transaction.
    pub keys: &'c [&'c [u8]],
    /// Where its reply goes.
    pub replies: &'c mut Replies,
    /// What earlier commands of the connection set.
    pub connection: &'c mut ConnectionState,
    /// The client itself.
    pub client: &'c Arc<Client>,
    /// The server.
    pub control: &'c Control,
    /// What is counted.
    pub stats: &'c mut BurstStats,
    /// The engine beside its transactions.
    pub admin: &'c dyn Admin,
    /// The long words, as values.
    pub long: &'c LongArguments,
    /// Work that is not to be done with keys locked.
    pub detour: &'c mut Detour,
}

impl<'c, T: Txn> Call<'c, T> {
    /// Word `n` as a key of the connection's database.
    pub fn key(&self, n: usize) -> Key<'c> {
        self.key_of(&self.request[n])
    }

    /// A word as a key of the connection's database.
    pub fn key_of<'k>(&self, bytes: &'k [u8]) -> Key<'k> {
        Key { database: self.connection.database, bytes }
    }

    /// Word `n` as a value to set.
    pub fn value(&self, n: usize) -> Result<View<'c>> {
        let word = &self.request[n];
        self.check_length(word.len())?;
        match word.len() > VALUE_BLOCK_BYTES {
            true => self.long.get(n),
            false => Ok(View::Short(word)),
        }
    }

    /// The entry of a key that is asked for: the access is counted, unless the client is in `CLIENT NO-TOUCH`, and so is
    /// the hit or miss. Lends the replies, too, so that the entry can be shown.
    pub fn read(&mut self, key: Key<'_>) -> Result<(Option<&Entry>, &mut Replies)> {
        let entry = match self.connection.tracks_access {
            true => self.txn.get(key)?,
            false => self.txn.peek(key)?,
        };
        Ok((self.stats.lookup(entry), self.replies))
    }

    /// The entry of a key that is looked at: the hit or miss is counted, but no access.
    pub fn look(&mut self, key: Key<'_>) -> Result<Option<&Entry>> {
        Ok(self.stats.lookup(self.txn.peek(key)?))
    }

    /// Whether a key exists; neither access nor hit are counted.
    pub fn has(&mut self, key: Key<'_>) -> Result<bool> {
        Ok(self.txn.peek(key)?.is_some())
    }

    /// When a key expires, if it does; not counted either.
    pub fn expires_ms(&mut self, key: Key<'_>) -> Result<Option<u64>> {
        Ok(self.txn.peek(key)?.and_then(Entry::expires_ms))
    }

    /// An error while writes are refused: a command that may write asks before it decides, and is refused in any case.
    pub fn check_writes(&self) -> Result {
        Ok(self.admin.check_writes()?)
    }

    /// An error if a value of so many bytes is too long.
    pub fn check_length(&self, bytes: usize) -> Result {
        match bytes > self.control.config.max_value {
            true => Err(CommandError::TOO_LONG),
            false => Ok(()),
        }
    }

    /// Works with a database, which exists, from here on.
    pub fn select(&mut self, database: usize) {
        self.connection.database = database;
        self.client.database.store(database, Ordering::Relaxed);
    }

    /// Whether a key has the value that word `n` is.
    pub fn equals(&mut self, key: Key<'_>, n: usize) -> Result<bool> {
        let word = &self.request[n];
        let is_long = word.len() > VALUE_BLOCK_BYTES;
        let stored = match self.txn.peek(key)?.map(Entry::value) {
            None => return Ok(false),
            Some(View::Long(long)) if is_long && long.length() == word.len() => Arc::clone(long),
            Some(value) => return Ok(value.equals(word)),
        };
        if let Some(is_equal) = self.detour.compared(&stored) {
            return Ok(is_equal);
        }
        if self.detour.may_leave() {
            return Err(self.detour.leave(Work::Compare { stored, argument: n }));
        }
        self.txn.charge(work::FOUR_BYTES * word.len() as u64 / 4)?;
        Ok(View::Long(&stored).equals(word))
    }

    /// Writes word `n` at the offset that `offset` gives for the old length of a value; returns the new length.
    pub fn splice(
        &mut self,
        key: Key<'_>,
        n: usize,
        offset: impl FnOnce(usize) -> usize,
    ) -> Result<usize> {
        let word = &self.request[n];
        self.check_writes()?;
        let old_length = self.txn.peek(key)?.map(|old| old.value().len());
        let offset = offset(old_length.unwrap_or(0));
        let end = offset.saturating_add(word.len());
        self.check_length(end)?;
        match old_length {
            Some(length) if word.is_empty() => return Ok(length),
            _ if word.len() <= VALUE_BLOCK_BYTES => {
                return Ok(self.txn.splice(key, offset, word)?);
            }
            _ => {}
        }
        let old = self.txn.peek(key)?.map(|old| old.value().share()).transpose();
        let old = old.map_err(TxnError::from)?;
        let spliced = match self.detour.spliced(old.as_ref()) {
            Some(spliced) => spliced,
            None => {
                let splice = Splice { old, argument: n, offset };
                if self.detour.may_leave() {
                    return Err(self.detour.leave(Work::Splice(splice)));
                }
                self.txn.charge(work::FOUR_BYTES * word.len() as u64 / 4)?;
                splice.carry_out(self.request)?
            }
        };
        self.txn.put_part(key, &spliced, offset..end)?;
        Ok(spliced.view().len())
    }
}

/// The words of a request that are too long to be copied with keys locked, as values.
#[derive(Debug, Default)]
pub struct LongArguments {
    /// By the places of the words, in order.
    values: Vec<(usize, Value)>,
    /// Why one of them, and those after it, could not be made.
    refused: Option<CommandError>,
}

impl LongArguments {
    /// The long words of a command that sets keys to them. A refusal is reported where the command uses the value: errors
    /// of the request come first.
    pub fn of(command: CommandRef, request: &Request<'_>) -> Self {
        let mut long = Self::default();
        let sets_values = |flag| command.flags.contains(flag);
        let is_long = |word: &[u8]| word.len() > VALUE_BLOCK_BYTES;
        if sets_values(Flag::Denyoom)
            && sets_values(Flag::Write)
            && request.words_from(1).any(is_long)
            && !matches!(command.name, "APPEND" | "SETRANGE")
        {
            long.refused = long.fill(command, request).err();
        }
        long
    }

    fn fill(&mut self, command: CommandRef, request: &Request<'_>) -> Result {
        let mut keys = command.key_places(request).peekable();
        for (n, word) in request.words_from(0).enumerate() {
            if keys.next_if_eq(&n).is_some() || word.len() <= VALUE_BLOCK_BYTES {
                continue;
            }
            // Held until the value is allocated, and counted by itself.
            let _claim = memory::claim(word.len()).ok_or(CommandError::MAX_MEMORY)?;
            let value = Value::copy_of(word).map_err(TxnError::from)?;
            self.values.try_reserve(1).map_err(|_| CommandError::NO_MEMORY)?;
            self.values.push((n, value));
        }
        Ok(())
    }

    fn get(&self, n: usize) -> Result<View<'_>> {
        match self.values.binary_search_by_key(&n, |(place, _)| *place) {
            Ok(index) => Ok(self.values[index].1.view()),
            Err(_) => Err(self.refused.clone().unwrap_or(CommandError::NO_MEMORY)),
        }
    }
}

/// How often work is done with nothing locked, to find that the stored value is another one meanwhile.
const TRIES: usize = 8;

/// Work between two runs of a transaction, and its result.
#[derive(Debug, Default)]
pub struct Detour {
    /// The command shares its transaction with others, whose keys stay locked.
    is_shared: bool,
    /// The command touches keys that it does not name.
    wants_all: bool,
    /// How often it was done.
    tries: usize,
    /// What is to be done.
    work: Option<Work>,
    done: Option<Done>,
}

/// What a command asks the dispatcher to do.
#[derive(Debug)]
enum Work {
    /// To compare a long value with an argument that is as long.
    Compare { stored: Arc<Long>, argument: usize },
    /// To write a long argument into a value.
    Splice(Splice),
}

#[derive(Debug)]
struct Splice {
    old: Option<Value>,
    argument: usize,
    offset: usize,
}

impl Splice {
    fn carry_out(&self, request: &Request<'_>) -> Result<Value> {
        let word = &request[self.argument];
        let _claim = memory::claim(word.len()).ok_or(CommandError::MAX_MEMORY)?;
        let old = self.old.as_ref().map_or(View::Short(b""), Value::view);
        let mut new = old.share().map_err(TxnError::from)?;
        new.reserve(self.offset, word.len()).map_err(TxnError::from)?;
        new.write(self.offset, word);
        Ok(new)
    }
}

/// What was done, and with which stored value.
#[derive(Debug)]
enum Done {
    Compared { stored: Arc<Long>, is_equal: bool },
    Spliced { old: Option<Value>, new: Value },
}

impl Detour {
    /// Of a command in `EXEC`: all of its work is done with the keys locked.
    pub fn shared() -> Self {
        Self { is_shared: true, ..Self::default() }
    }

    /// Whether no other command has part in the transaction.
    pub fn is_alone(&self) -> bool {
        !self.is_shared
    }

    /// Lets the command run again with all keys.
    pub fn want_all(&mut self) {
        self.wants_all = true;
    }

    /// Whether it is to be run with all keys.
    pub fn wants_all(&self) -> bool {
        self.wants_all
    }

    /// Does what the command asked for, with nothing locked.
    pub fn carry_out(&mut self, request: &Request<'_>) -> Result {
        self.tries += 1;
        self.done = match self.work.take() {
            None => None,
            Some(Work::Compare { stored, argument }) => {
                let is_equal = View::Long(&stored).equals(&request[argument]);
                Some(Done::Compared { stored, is_equal })
            }
            Some(Work::Splice(splice)) => {
                let new = splice.carry_out(request)?;
                Some(Done::Spliced { old: splice.old, new })
            }
        };
        Ok(())
    }

    /// Whether work may be left to the dispatcher.
    fn may_leave(&self) -> bool {
        !self.is_shared && self.tries < TRIES
    }

    /// Leaves `work` to the dispatcher, and returns the error that the command ends with.
    fn leave(&mut self, work: Work) -> CommandError {
        self.work = Some(work);
        CommandError::AGAIN
    }

    fn compared(&self, value: &Arc<Long>) -> Option<bool> {
        match &self.done {
            // As long as it is held here nothing else has its address.
            Some(Done::Compared { stored, is_equal }) if Arc::ptr_eq(stored, value) => {
                Some(*is_equal)
            }
            _ => None,
        }
    }

    /// The new value, if it was made of `value`.
    fn spliced(&mut self, value: Option<&Value>) -> Option<Value> {
        match self.done.take() {
            Some(Done::Spliced { old, new }) if is_same(old.as_ref(), value) => Some(new),
            _ => None,
        }
    }
}

/// Whether two values, or none, are known to be the same without comparing long ones.
fn is_same(one: Option<&Value>, two: Option<&Value>) -> bool {
    match (one.map(Value::view), two.map(Value::view)) {
        (None, None) => true,
        (Some(View::Short(one)), Some(View::Short(two))) => one == two,
        (Some(View::Long(one)), Some(View::Long(two))) => Arc::ptr_eq(one, two),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;
    use crate::protocol::reader::RequestReader;
    use crate::protocol::request::Limits;
    use crate::protocol::telnet::Telnet;

    const LONG: usize = VALUE_BLOCK_BYTES + 1;

    /// Does `work` with the request in a line.
    fn with_request<T>(line: &str, work: impl FnOnce(CommandRef, &Request<'_>) -> T) -> T {
        let (mut reader, line) = (RequestReader::default(), format!("{line}\r\n"));
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            reader.fill(&mut rest).unwrap();
        }
        let request = reader.next(&Limits::default(), &mut Telnet::default());
        let request = request.unwrap().unwrap();
        work(lookup(&request[0]).unwrap(), &request)
    }

    #[test]
    fn long_values_are_made_before_the_transaction_and_keys_are_not() {
        let long = "v".repeat(LONG);
        let line = format!("MSET {long} short key {long} {long} {long}");
        with_request(&line, |command, request| {
            let values = LongArguments::of(command, request);
            let made: Vec<_> = values.values.iter().map(|(place, _)| *place).collect();
            assert_eq!(made, [4, 6]);
            assert!(matches!(values.get(4), Ok(View::Long(value)) if value.length() == LONG));
        });
        for line in [format!("APPEND key {long}"), format!("GET {long}"), "SET a b".to_owned()] {
            with_request(&line, |command, request| {
                assert!(LongArguments::of(command, request).values.is_empty());
            });
        }
    }

    #[test]
    fn the_result_of_a_detour_is_used_for_the_same_stored_value_only() {
        let text = "v".repeat(LONG);
        let value = || Value::copy_of(text.as_bytes()).unwrap();
        let (Value::Long(one), Value::Long(other)) = (value(), value()) else { panic!() };
        with_request(&format!("DELIFEQ key {text}"), |_, request| {
            let mut detour = Detour::default();
            let work = Work::Compare { stored: Arc::clone(&one), argument: 2 };
            assert!(detour.leave(work).is_again());
            detour.carry_out(request).unwrap();
            assert_eq!(detour.compared(&one), Some(true));
            assert_eq!(detour.compared(&other), None);
        });
    }

    #[test]
    fn a_long_argument_is_written_into_a_copy() {
        let text = "v".repeat(LONG);
        with_request(&format!("APPEND key {text}"), |_, request| {
            for stored in [None, Some("abc")] {
                let value = |text: &str| Value::copy_of(text.as_bytes()).unwrap();
                let splice = || {
                    let (mut detour, old) = (Detour::default(), stored.map(value));
                    let offset = old.as_ref().map_or(0, |old| old.view().len());
                    let _ = detour.leave(Work::Splice(Splice { old, argument: 2, offset }));
                    detour.carry_out(request).unwrap();
                    detour
                };
                let new = splice().spliced(stored.map(value).as_ref()).unwrap();
                assert!(new.view().to_vec() == [stored.unwrap_or(""), &text].concat().as_bytes());
                assert!(splice().spliced(Some(&value("abd"))).is_none());
            }
        });
    }

    #[test]
    fn work_is_done_with_the_keys_locked_after_some_tries_and_in_exec() {
        assert!(!Detour::shared().may_leave());
        let mut detour = Detour::default();
        with_request("PING", |_, request| {
            for _ in 0..TRIES {
                assert!(detour.may_leave());
                detour.carry_out(request).unwrap();
            }
        });
        assert!(!detour.may_leave());
    }
}
