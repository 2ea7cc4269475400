//! The commands on values that are numbers.

use std::str::FromStr;

use bigdecimal::num_bigint::BigInt;
use bigdecimal::{BigDecimal, RoundingMode, Zero};

use super::expiry::{Expiry, Unit};
use super::spec::{
    Flag::{Denyoom, Fast, Write},
    Group, Spec,
};
use super::{Call, CommandError, integer, is};
use crate::engine::{Entry, Txn};
use crate::protocol::reply::Replies;
use crate::protocol::request::Request;
use crate::value::View;

type Result<T = ()> = std::result::Result<T, CommandError>;

pub const INCR: Spec = Spec::new(Group::String, "1.0.0", "INCR key")
    .flags(&[Write, Denyoom, Fast])
    .summary("Adds 1 to a number and returns it.")
    .example("INCR visites");

pub fn incr<T: Txn>(call: &mut Call<'_, T>) -> Result {
    add(call, 1)
}

pub const DECR: Spec = Spec::new(Group::String, "1.0.0", "DECR key")
    .flags(&[Write, Denyoom, Fast])
    .summary("Takes 1 from a number and returns it.")
    .example("DECR stock");

pub fn decr<T: Txn>(call: &mut Call<'_, T>) -> Result {
    add(call, -1)
}

pub const INCRBY: Spec = Spec::new(Group::String, "1.0.0", "INCRBY key increment")
    .flags(&[Write, Denyoom, Fast])
    .summary("Adds to a number and returns it.")
    .example("INCRBY visites 10");

pub fn incr_by<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let more = integer(&call.request[2])?;
    add(call, more)
}

pub const DECRBY: Spec = Spec::new(Group::String, "1.0.0", "DECRBY key decrement")
    .flags(&[Write, Denyoom, Fast])
    .summary("Takes from a number and returns it.")
    .example("DECRBY stock 10");

pub fn decr_by<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let less = integer(&call.request[2])?.checked_neg();
    add(call, less.ok_or(CommandError::err("decrement would overflow"))?)
}

/// Adds to the number that a value is, or to 0 where the key is missing; when the key expires stays.
fn add<T: Txn>(call: &mut Call<'_, T>, more: i64) -> Result {
    call.check_writes()?;
    let old = call.txn.peek(call.key(1))?;
    let expires_ms = old.and_then(Entry::expires_ms);
    let sum = i64::of(old)?.checked_add(more);
    let sum = sum.ok_or(CommandError::err("increment or decrement would overflow"))?;
    put(call, &sum.to_string(), expires_ms)?;
    call.replies.integer(sum);
    Ok(())
}

/// Sets the first key to a number.
fn put<T: Txn>(call: &mut Call<'_, T>, number: &str, expires_ms: Option<u64>) -> Result {
    call.check_length(number.len())?;
    Ok(call.txn.put(call.key(1), View::Short(number.as_bytes()), expires_ms)?)
}

pub const INCRBYFLOAT: Spec = Spec::new(Group::String, "2.6.0", "INCRBYFLOAT key increment:double")
    .flags(&[Write, Denyoom, Fast])
    .summary("Adds to a number, which may have decimals, and returns it.")
    .example("INCRBYFLOAT solde 0.1")
    .notes(&["It adds as one does on paper; 17 decimals are kept."]);

pub fn incr_by_float<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.check_writes()?;
    let old = call.txn.peek(call.key(1))?;
    let expires_ms = old.and_then(Entry::expires_ms);
    let (before, more) = both(BigDecimal::of(old), BigDecimal::parse(&call.request[2]))?;
    let sum = before.plus(&more);
    let sum = sum.ok_or(CommandError::err("increment would produce NaN or Infinity"))?.text();
    put(call, &sum, expires_ms)?;
    call.replies.bulk(sum.as_bytes());
    Ok(())
}

/// Parses two numbers. A word that is no number is reported before one that is infinite.
fn both<N>(one: Result<N>, two: Result<N>) -> Result<(N, N)> {
    let is_none = |number: &Result<N>| number.as_ref().err() == Some(&CommandError::NOT_A_FLOAT);
    match is_none(&two) && !is_none(&one) {
        true => two.and_then(|two| Ok((one?, two))),
        false => Ok((one?, two?)),
    }
}

/// A number as a value of a key.
trait Number: Clone + Ord {
    /// Parses a word.
    fn parse(word: &[u8]) -> Result<Self>;
    /// 0: the value of a key that is missing.
    fn zero() -> Self;
    /// The sum, if there is one.
    fn plus(&self, more: &Self) -> Option<Self>;
    /// The difference.
    fn minus(&self, less: &Self) -> Self;
    /// The greatest number, or the least if `self` is negative.
    fn utmost(&self) -> Self;
    /// The text that is stored.
    fn text(&self) -> String;
    /// Writes it as a reply.
    fn show(&self, replies: &mut Replies);

    fn of(entry: Option<&Entry>) -> Result<Self> {
        match entry.map(Entry::value) {
            None => Ok(Self::zero()),
            Some(View::Short(bytes)) => Self::parse(bytes),
            Some(View::Long(_)) => Self::parse(b""),
        }
    }
}

impl Number for i64 {
    fn parse(word: &[u8]) -> Result<Self> {
        integer(word)
    }

    fn zero() -> Self {
        0
    }

    fn plus(&self, more: &Self) -> Option<Self> {
        self.checked_add(*more)
    }

    fn minus(&self, less: &Self) -> Self {
        self.saturating_sub(*less)
    }

    fn utmost(&self) -> Self {
        if *self < 0 { Self::MIN } else { Self::MAX }
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn show(&self, replies: &mut Replies) {
        replies.integer(*self);
    }
}

/// Exact where Redis's binary numbers are not: 0.1 and 0.2 are 0.3 in both, but here also however often they are
/// added. Of a sum 17 decimals are kept, as there.
impl Number for BigDecimal {
    /// As C's `strtold` reads it, but for hexadecimal digits, and only where Redis's numbers have room.
    fn parse(word: &[u8]) -> Result<Self> {
        const TEXT_BYTES_MAX: usize = 255;
        const ERROR: CommandError = CommandError::NOT_A_FLOAT;
        let text = str::from_utf8(word).ok().filter(|text| text.len() <= TEXT_BYTES_MAX);
        let text = text.ok_or(ERROR)?;
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        if ["inf", "infinity"].iter().any(|name| unsigned.eq_ignore_ascii_case(name)) {
            return Err(CommandError::err("increment would produce NaN or Infinity"));
        }
        let (digits, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, i32::from_str(exponent).map_err(|_| ERROR)?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all = format!("{whole}{fraction}");
        if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ERROR);
        }
        let number = BigInt::from_str(&all).map_err(|_| ERROR)?;
        let scale = fraction.len() as i64 - i64::from(exponent);
        let is_tiny = scale - all.len() as i64 > EXPONENT_MAX && !number.is_zero();
        let magnitude = BigDecimal::new(number, scale);
        if is_tiny || !is_bounded(&magnitude) {
            return Err(ERROR);
        }
        Ok(if text.starts_with('-') { -magnitude } else { magnitude })
    }

    fn zero() -> Self {
        Zero::zero()
    }

    fn plus(&self, more: &Self) -> Option<Self> {
        let sum = (self + more).with_scale_round(DECIMALS, RoundingMode::HalfEven).normalized();
        Some(sum).filter(is_bounded)
    }

    fn minus(&self, less: &Self) -> Self {
        (self - less).normalized()
    }

    fn utmost(&self) -> Self {
        let most = BigDecimal::new(1.into(), -EXPONENT_MAX);
        if *self < <Self as Zero>::zero() { -most } else { most }
    }

    fn text(&self) -> String {
        self.to_plain_string()
    }

    fn show(&self, replies: &mut Replies) {
        replies.double(&self.to_plain_string());
    }
}

/// Redis's largest number has so many digits.
const EXPONENT_MAX: i64 = 4932;
/// How many decimals a sum has at most.
const DECIMALS: i64 = 17;

fn is_bounded(number: &BigDecimal) -> bool {
    number.is_zero() || number.digits() as i64 - number.fractional_digit_count() <= EXPONENT_MAX
}

/// The options of `INCREX`.
#[derive(Default)]
struct Options<'r> {
    more: Option<(&'r [u8], bool)>,
    lowest: Option<&'r [u8]>,
    highest: Option<&'r [u8]>,
    saturate: bool,
    expiry: Option<(Unit, &'r [u8])>,
    persist: bool,
    only_if_never: bool,
}

impl<'r> Options<'r> {
    fn parse(request: &'r Request<'_>) -> Result<Self> {
        let mut options = Self::default();
        let mut words = request.words_from(2);
        while let Some(word) = words.next() {
            let Options { more, lowest, highest, expiry, persist, .. } = &options;
            let has_expiry = expiry.is_some() || *persist;
            let mut value = || words.next().ok_or(CommandError::SYNTAX);
            match word {
                _ if is(word, "BYINT") && more.is_none() => options.more = Some((value()?, false)),
                _ if is(word, "BYFLOAT") && more.is_none() => options.more = Some((value()?, true)),
                _ if is(word, "LBOUND") && lowest.is_none() => options.lowest = Some(value()?),
                _ if is(word, "UBOUND") && highest.is_none() => options.highest = Some(value()?),
                _ if is(word, "SATURATE") => options.saturate = true,
                _ if is(word, "ENX") => options.only_if_never = true,
                _ if is(word, "PERSIST") && !has_expiry => options.persist = true,
                _ => match Unit::parse(word).filter(|_| !has_expiry) {
                    Some(unit) => options.expiry = Some((unit, value()?)),
                    None => return Err(CommandError::SYNTAX),
                },
            }
        }
        match options.only_if_never && options.expiry.is_none() {
            true if options.persist => Err(CommandError::SYNTAX),
            true => Err(CommandError::err("ENX flag requires an expiration")),
            false => Ok(options),
        }
    }
}

pub const INCREX: Spec = Spec::new(
    Group::String,
    "8.8.0",
    "INCREX key [BYFLOAT float|BYINT integer] [LBOUND lowerbound] [UBOUND upperbound] [SATURATE] \
     [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|PERSIST] \
     [ENX]",
)
.flags(&[Write, Denyoom, Fast])
.summary("Adds to a number within bounds, and returns it and what was added.")
.example("INCREX requetes:jean UBOUND 100 EX 60 ENX")
.notes(&[
    "BYINT, BYFLOAT    how much is added, else 1",
    "LBOUND, UBOUND    a sum beyond them changes nothing: 0 was added",
    "SATURATE          it becomes the bound instead",
    "EX, PX, EXAT, PXAT, PERSIST    when it expires from now on, else as before",
    "ENX               that only if it does not expire yet",
]);

/// `INCREX key [BYINT n | BYFLOAT n] [LBOUND n] [UBOUND n] [SATURATE] [EX s | PX ms | EXAT t | PXAT t | PERSIST] [ENX]`:
/// the new number, and what was added.
pub fn incr_ex<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let options = Options::parse(call.request)?;
    match options.more {
        Some((_, true)) => add_within::<BigDecimal, T>(call, &options),
        _ => add_within::<i64, T>(call, &options),
    }
}

fn add_within<N: Number, T: Txn>(call: &mut Call<'_, T>, options: &Options<'_>) -> Result {
    let more = N::parse(options.more.map_or(b"1", |(word, _)| word))?;
    let bound = |word: Option<&[u8]>| word.map(N::parse).transpose();
    let (lowest, highest) = (bound(options.lowest)?, bound(options.highest)?);
    if let (Some(lowest), Some(highest)) = (&lowest, &highest)
        && lowest > highest
    {
        return Err(CommandError::err("LBOUND can't be greater than UBOUND"));
    }
    let now_ms = call.txn.now_ms();
    let expiry = options.expiry.map(|(unit, word)| unit.expiry(word, now_ms, "increx"));
    let expiry = match expiry.transpose()? {
        Some(expiry) => expiry,
        None if options.persist => Expiry::Never,
        None => Expiry::Keep,
    };
    call.check_writes()?;
    let old = call.txn.peek(call.key(1))?;
    let (before, old_ms) = (N::of(old)?, old.and_then(Entry::expires_ms));
    let sum = before.plus(&more);
    let fits = |sum: &N| {
        lowest.as_ref().is_none_or(|lowest| sum >= lowest)
            && highest.as_ref().is_none_or(|highest| sum <= highest)
    };
    let new = match sum {
        Some(sum) if fits(&sum) => Some(sum),
        _ if !options.saturate => None,
        sum => {
            let mut sum = sum.unwrap_or_else(|| more.utmost());
            sum = lowest.map_or(sum.clone(), |lowest| sum.max(lowest));
            Some(highest.map_or(sum.clone(), |highest| sum.min(highest)))
        }
    };
    let expires_ms = match expiry {
        Expiry::Keep => old_ms,
        _ if options.only_if_never && old_ms.is_some() => old_ms,
        expiry => expiry.time_ms(),
    };
    let (new, added) = match new {
        Some(new) => {
            put(call, &new.text(), expires_ms)?;
            let added = new.minus(&before);
            (new, added)
        }
        None => (before, N::zero()),
    };
    call.replies.array(2);
    new.show(call.replies);
    added.show(call.replies);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_as_redis_reads_them() {
        let cases = [
            ("1", "1"),
            ("+.5", "0.5"),
            ("5.", "5"),
            ("-0", "0"),
            ("1e3", "1000"),
            ("3.0e3", "3000"),
            ("1E-2", "0.01"),
            ("0.1000", "0.1"),
            ("00012.50", "12.5"),
        ];
        for (word, text) in cases {
            let sum = BigDecimal::parse(word.as_bytes()).unwrap().plus(&Number::zero()).unwrap();
            assert_eq!(sum.text(), text, "{word}");
        }
        let huge = "1".repeat(256);
        for word in
            ["", " 1", "1 ", "1x", ".", "-", "e5", "1e", "nan", "0x10", "1e4933", "1e-4999", &huge]
        {
            assert!(BigDecimal::parse(word.as_bytes()).is_err(), "{word}");
        }
    }

    #[test]
    fn sums_are_exact_and_have_seventeen_decimals() {
        let number = |word: &str| BigDecimal::parse(word.as_bytes()).unwrap();
        let sum = |one, two| number(one).plus(&number(two)).unwrap().text();
        assert_eq!(sum("0.1", "0.2"), "0.3");
        assert_eq!(sum("1e20", "1.5"), "100000000000000000001.5");
        assert_eq!(sum("1", "1e-17"), "1.00000000000000001");
        assert_eq!(sum("1", "1e-18"), "1");
        assert_eq!(sum("-0.5", "0.5"), "0");
        let mut total = number("0");
        for _ in 0..1000 {
            total = total.plus(&number("0.1")).unwrap();
        }
        assert_eq!(total.text(), "100");
    }
}
