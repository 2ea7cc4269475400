//! The commands on when keys expire.

use super::spec::{
    Flag::{Fast, Readonly, Write},
    Group, Spec,
};
use super::{Call, CommandError, ECHO_BYTES_MAX, integer, is, lossy};
use crate::engine::{Entry, Key, Txn};

type Result<T = ()> = std::result::Result<T, CommandError>;

/// When something is to expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It is not.
    Never,
    /// When it did.
    Keep,
    /// At a time, in milliseconds of Unix time; 0 is long past.
    At(u64),
}

impl Expiry {
    /// When a key expires that is set.
    pub fn of<T: Txn>(self, call: &mut Call<'_, T>, key: Key<'_>) -> Result<Option<u64>> {
        match self {
            Self::Keep => call.expires_ms(key),
            other => Ok(other.time_ms()),
        }
    }

    /// The time in milliseconds of Unix time, if the key is to expire.
    pub fn time_ms(self) -> Option<u64> {
        match self {
            Self::At(time_ms) => Some(time_ms),
            Self::Never | Self::Keep => None,
        }
    }
}

/// The unit of a time in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds from now.
    Ex,
    /// Milliseconds from now.
    Px,
    /// Seconds of Unix time.
    ExAt,
    /// Milliseconds of Unix time.
    PxAt,
    /// Not at all: `KEEPTTL`.
    Keep,
}

impl Unit {
    /// As an option of `SET`, `GETEX` and their like.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let known =
            [("EX", Self::Ex), ("PX", Self::Px), ("EXAT", Self::ExAt), ("PXAT", Self::PxAt)];
        known.into_iter().find(|(name, _)| is(word, name)).map(|(_, unit)| unit)
    }

    /// The time that `word` tells, which must be positive, for the command `name`.
    pub fn expiry(self, word: &[u8], now_ms: u64, name: &'static str) -> Result<Expiry> {
        if self == Self::Keep {
            return Ok(Expiry::Keep);
        }
        let time = integer(word)?;
        let time_ms = self.unix_ms(time, now_ms).filter(|_| time > 0);
        time_ms
            .map(|time_ms| Expiry::At(time_ms.max(0) as u64))
            .ok_or_else(|| CommandError::expiry(name))
    }

    /// `time` in milliseconds of Unix time, if that is a number of 64 bits.
    fn unix_ms(self, time: i64, now_ms: u64) -> Option<i64> {
        let now_ms = i64::try_from(now_ms).ok()?;
        match self {
            Self::Ex => time.checked_mul(1000)?.checked_add(now_ms),
            Self::Px => time.checked_add(now_ms),
            Self::ExAt => time.checked_mul(1000),
            Self::PxAt | Self::Keep => Some(time),
        }
    }
}

pub const EXPIRE: Spec = Spec::new(Group::Generic, "1.0.0", "EXPIRE key seconds [NX|XX|GT|LT]")
    .flags(&[Write, Fast])
    .summary("Lets a key expire in so many seconds; 1 if it does.")
    .example("EXPIRE session 60")
    .notes(&[
        "NX, XX  only if it does not expire yet, or does",
        "GT, LT  only if that is later, or sooner",
    ]);

pub fn expire<T: Txn>(call: &mut Call<'_, T>) -> Result {
    expire_in(call, Unit::Ex, "expire")
}

pub const PEXPIRE: Spec =
    Spec::new(Group::Generic, "2.6.0", "PEXPIRE key milliseconds [NX|XX|GT|LT]")
        .flags(&[Write, Fast])
        .summary("Lets a key expire in so many milliseconds; 1 if it does.")
        .example("PEXPIRE session 1500");

pub fn pexpire<T: Txn>(call: &mut Call<'_, T>) -> Result {
    expire_in(call, Unit::Px, "pexpire")
}

pub const EXPIREAT: Spec =
    Spec::new(Group::Generic, "1.2.0", "EXPIREAT key unix-time-seconds [NX|XX|GT|LT]")
        .flags(&[Write, Fast])
        .summary("Lets a key expire at a Unix time in seconds; 1 if it does.")
        .example("EXPIREAT session 2000000000");

pub fn expire_at<T: Txn>(call: &mut Call<'_, T>) -> Result {
    expire_in(call, Unit::ExAt, "expireat")
}

pub const PEXPIREAT: Spec =
    Spec::new(Group::Generic, "2.6.0", "PEXPIREAT key unix-time-milliseconds [NX|XX|GT|LT]")
        .flags(&[Write, Fast])
        .summary("Lets a key expire at a Unix time in milliseconds; 1 if it does.")
        .example("PEXPIREAT session 2000000000000");

pub fn pexpire_at<T: Txn>(call: &mut Call<'_, T>) -> Result {
    expire_in(call, Unit::PxAt, "pexpireat")
}

/// `NX`, `XX`, `GT` and `LT`.
#[derive(Default)]
struct Conditions {
    new: bool,
    old: bool,
    later: bool,
    sooner: bool,
}

impl Conditions {
    fn parse<'w>(words: impl Iterator<Item = &'w [u8]>) -> Result<Self> {
        let mut all = Self::default();
        for word in words {
            match word {
                _ if is(word, "NX") => all.new = true,
                _ if is(word, "XX") => all.old = true,
                _ if is(word, "GT") => all.later = true,
                _ if is(word, "LT") => all.sooner = true,
                _ => {
                    let option = lossy(word, ECHO_BYTES_MAX);
                    return Err(CommandError::err(format!("Unsupported option {option}")));
                }
            }
        }
        if all.new && (all.old || all.later || all.sooner) {
            let error = "NX and XX, GT or LT options at the same time are not compatible";
            return Err(CommandError::err(error));
        }
        match all.later && all.sooner {
            true => {
                let error = "GT and LT options at the same time are not compatible";
                Err(CommandError::err(error))
            }
            false => Ok(all),
        }
    }

    /// Whether the options let a time change to another; no time counts as later than any.
    fn hold(&self, old_ms: Option<u64>, new_ms: i64) -> bool {
        let old = old_ms.map(|old_ms| i64::try_from(old_ms).unwrap_or(i64::MAX));
        !(self.new && old.is_some()
            || self.old && old.is_none()
            || self.later && old.is_none_or(|old| new_ms <= old)
            || self.sooner && old.is_some_and(|old| new_ms >= old))
    }
}

fn expire_in<T: Txn>(call: &mut Call<'_, T>, unit: Unit, name: &'static str) -> Result {
    let conditions = Conditions::parse(call.request.words_from(3))?;
    let time = integer(&call.request[2])?;
    let time_ms = unit.unix_ms(time, call.txn.now_ms());
    let time_ms = time_ms.ok_or_else(|| CommandError::expiry(name))?;
    call.check_writes()?;
    let old = call.txn.peek(call.key(1))?;
    let is_changed = old.is_some_and(|old| conditions.hold(old.expires_ms(), time_ms));
    if is_changed {
        call.txn.expire(call.key(1), Some(time_ms.max(0) as u64))?;
    }
    call.replies.integer(i64::from(is_changed));
    Ok(())
}

pub const PERSIST: Spec = Spec::new(Group::Generic, "2.2.0", "PERSIST key")
    .flags(&[Write, Fast])
    .summary("Lets a key not expire; 1 if it did.")
    .example("PERSIST session");

pub fn persist<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.check_writes()?;
    let is_changed = call.expires_ms(call.key(1))?.is_some();
    if is_changed {
        call.txn.expire(call.key(1), None)?;
    }
    call.replies.integer(i64::from(is_changed));
    Ok(())
}

pub const TTL: Spec = Spec::new(Group::Generic, "1.0.0", "TTL key")
    .flags(&[Readonly, Fast])
    .summary("Returns in how many seconds a key expires: -1 is never, -2 no such key.")
    .example("TTL session");

pub fn ttl<T: Txn>(call: &mut Call<'_, T>) -> Result {
    time(call, |time_ms, now_ms| rounded_s(time_ms.saturating_sub(now_ms)))
}

pub const PTTL: Spec = Spec::new(Group::Generic, "2.6.0", "PTTL key")
    .flags(&[Readonly, Fast])
    .summary("The same in milliseconds.")
    .example("PTTL session");

pub fn pttl<T: Txn>(call: &mut Call<'_, T>) -> Result {
    time(call, |time_ms, now_ms| time_ms.saturating_sub(now_ms))
}

pub const EXPIRETIME: Spec = Spec::new(Group::Generic, "7.0.0", "EXPIRETIME key")
    .flags(&[Readonly, Fast])
    .summary("Returns when a key expires, as Unix time in seconds.")
    .example("EXPIRETIME session");

pub fn expire_time<T: Txn>(call: &mut Call<'_, T>) -> Result {
    time(call, |time_ms, _| rounded_s(time_ms))
}

pub const PEXPIRETIME: Spec = Spec::new(Group::Generic, "7.0.0", "PEXPIRETIME key")
    .flags(&[Readonly, Fast])
    .summary("The same in milliseconds.")
    .example("PEXPIRETIME session");

pub fn pexpire_time<T: Txn>(call: &mut Call<'_, T>) -> Result {
    time(call, |time_ms, _| time_ms)
}

fn rounded_s(time_ms: u64) -> u64 {
    time_ms.saturating_add(500) / 1000
}

/// Shows when a key expires: -1 is never, -2 says that there is no such key.
fn time<T: Txn>(call: &mut Call<'_, T>, show: impl FnOnce(u64, u64) -> u64) -> Result {
    let now_ms = call.txn.now_ms();
    let shown = match call.look(call.key(1))?.map(Entry::expires_ms) {
        None => -2,
        Some(None) => -1,
        Some(Some(time_ms)) => i64::try_from(show(time_ms, now_ms)).unwrap_or(i64::MAX),
    };
    call.replies.integer(shown);
    Ok(())
}
