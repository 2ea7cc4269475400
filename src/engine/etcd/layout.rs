//! Where everything stands in etcd, and how a value is written.
//!
//! ```text
//! <prefix>layout                        the version of this layout, and the key of the hash
//! <prefix>k/<database>/<hash>/<key>     a value: `=` and its bytes, or `@`, when it expires, `=` and its bytes
//! <prefix>e/<database>/<hash>/<key>     of a key that expires: when it does
//! <prefix>d/<database>/<slot>           changed by each deletion of a key whose hash begins with `slot`
//! <prefix>c                             changed whenever all keys of a database are deleted
//! <prefix>t/<lease>/<slot>              a token: changed by each transaction of a slot of a coffre
//! <prefix>sweeper                       the lease of the coffre that deletes expired keys
//! ```
//!
//! The database has two hexadecimal digits, the hash 13, the slot of a deletion is the first 3 of them. A time is a decimal
//! number: milliseconds of Unix time. Keys and values are raw bytes.
//!
//! Keys stand in the order of their hashes, so that a cursor of `SCAN` is a hash and means the same to every coffre, and
//! as the hash can be computed a read of one key needs no other. The price: `KEYS` with a prefix looks at every key.
//! The times stand apart in the same order, so that listing keys need not read values to hide what has expired.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::engine::{Entry, Key};
use crate::util::memory::NoMemory;
use crate::value::View;

/// Bits of a hash that are used: a cursor stays an exact number in clients whose numbers are doubles.
pub const HASH_BITS: u32 = 52;

const SLOT_DIGITS: usize = 3;
const HASH_DIGITS: usize = HASH_BITS as usize / 4;
const VERSION: &str = "coffre 1 ";
const HASH_KEY_BYTES: usize = 16;

/// The parts of the keyspace that hold something for each database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Values.
    Values,
    /// When keys expire.
    Times,
    /// Deletions.
    Deletions,
}

/// Names from the first on and before the second.
pub type NameRange = (Vec<u8>, Vec<u8>);

/// The names in etcd of everything under one prefix.
#[derive(Clone, Debug)]
pub struct Layout {
    prefix: Vec<u8>,
    hash_key: [u8; HASH_KEY_BYTES],
}

/// What stands under a prefix is not what this coffre writes.
#[derive(Debug, thiserror::Error)]
#[error(
    "what stands in etcd under {prefix:?} has another layout, {found:?}: another version of coffre, or another program, wrote it"
)]
pub struct ForeignLayout {
    prefix: String,
    found: String,
}

impl Layout {
    /// The name of the key that tells the layout.
    pub fn description_name(prefix: &str) -> Vec<u8> {
        [prefix, "layout"].concat().into_bytes()
    }

    /// What that key holds for a new keyspace whose hash has a random key.
    pub fn new_description(random: [u64; 2]) -> Vec<u8> {
        let [high, low] = random;
        format!("{VERSION}{high:016x}{low:016x}").into_bytes()
    }

    /// The layout that `description` tells.
    pub fn of(prefix: &str, description: &[u8]) -> Result<Self, ForeignLayout> {
        let digits = str::from_utf8(description).ok().and_then(|text| text.strip_prefix(VERSION));
        let number = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok());
        match number {
            Some(number) => {
                Ok(Self { prefix: prefix.as_bytes().to_vec(), hash_key: number.to_be_bytes() })
            }
            None => Err(ForeignLayout {
                prefix: prefix.to_owned(),
                found: String::from_utf8_lossy(description).into_owned(),
            }),
        }
    }

    /// The hash by which a key is ordered.
    pub fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        hasher.write(key);
        hasher.finish() >> (u64::BITS - HASH_BITS)
    }

    fn start(&self, part: Part, database: usize) -> Vec<u8> {
        [&self.prefix, part.letter().as_bytes(), format!("{database:02x}/").as_bytes()].concat()
    }

    /// The name of a key in a part.
    pub fn name(&self, part: Part, key: Key<'_>) -> Vec<u8> {
        let hash = format!("{:0HASH_DIGITS$x}/", self.hash(key.bytes));
        let start = self.start(part, key.database);
        match part {
            Part::Deletions => [&start, &hash.as_bytes()[..SLOT_DIGITS]].concat(),
            Part::Values | Part::Times => [&start, hash.as_bytes(), key.bytes].concat(),
        }
    }

    /// What the deletion of a whole database changes.
    pub fn cleared_name(&self) -> Vec<u8> {
        [&self.prefix[..], b"c"].concat()
    }

    /// The lease of the coffre that deletes expired keys.
    pub fn sweeper_name(&self) -> Vec<u8> {
        [&self.prefix[..], b"sweeper"].concat()
    }

    /// The token of a slot of the coffre that has this lease.
    pub fn token_name(&self, lease: i64, slot: usize) -> Vec<u8> {
        [&self.prefix[..], format!("t/{lease:016x}/{slot:02x}").as_bytes()].concat()
    }

    /// Every name of a part of some databases that follow each other.
    pub fn range(&self, part: Part, databases: std::ops::Range<usize>) -> NameRange {
        (self.start(part, databases.start), after(self.start(part, databases.end - 1)))
    }

    /// Every name of a part.
    pub fn whole(&self, part: Part) -> NameRange {
        let start = [&self.prefix, part.letter().as_bytes()].concat();
        (start.clone(), after(start))
    }

    /// The names in a part of a database whose hash is not below `first`.
    pub fn range_from(&self, part: Part, database: usize, first: u64) -> NameRange {
        let (mut start, end) = self.range(part, database..database + 1);
        start.extend_from_slice(format!("{first:0HASH_DIGITS$x}/").as_bytes());
        (start, end)
    }

    /// The database, the hash and the key of a name in [`Part::Values`] or [`Part::Times`].
    pub fn parse<'n>(&self, name: &'n [u8]) -> Option<(usize, u64, &'n [u8])> {
        let rest = name.get(self.prefix.len() + "k/".len()..)?;
        let (database, rest) = number(rest, "00".len())?;
        let (hash, key) = number(rest, HASH_DIGITS)?;
        Some((database as usize, hash, key))
    }
}

impl Part {
    fn letter(self) -> &'static str {
        match self {
            Self::Values => "k/",
            Self::Times => "e/",
            Self::Deletions => "d/",
        }
    }
}

/// The hexadecimal number in the first `digits` of `name`, and what follows it and a slash.
fn number(name: &[u8], digits: usize) -> Option<(u64, &[u8])> {
    let (digits, rest) = name.split_at_checked(digits)?;
    let number = u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    Some((number, rest.strip_prefix(b"/")?))
}

/// The first name behind all that begin with `start`, which ends in a slash.
fn after(mut start: Vec<u8>) -> Vec<u8> {
    if let Some(last) = start.last_mut() {
        *last += 1;
    }
    start
}

/// What etcd holds of an entry.
pub fn encode(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + entry.value().len());
    if let Some(time_ms) = entry.expires_ms() {
        bytes.extend_from_slice(format!("@{time_ms}").as_bytes());
    }
    bytes.push(b'=');
    entry.value().all().for_each(|piece| bytes.extend_from_slice(piece));
    bytes
}

/// The entry of `key` that etcd holds as `bytes`; none if no coffre wrote it.
pub fn decode(key: &[u8], bytes: &[u8]) -> Result<Option<Entry>, NoMemory> {
    let Some(split) = memchr::memchr(b'=', bytes) else { return Ok(None) };
    let expires_ms = match bytes[..split].split_first() {
        None => None,
        Some((b'@', digits)) => match decode_time(digits) {
            Some(time_ms) => Some(time_ms),
            None => return Ok(None),
        },
        Some(_) => return Ok(None),
    };
    Entry::new(key, View::Short(&bytes[split + 1..]), expires_ms).map(Some)
}

/// What etcd holds of a time.
pub fn encode_time(time_ms: u64) -> Vec<u8> {
    time_ms.to_string().into_bytes()
}

/// The time that etcd holds as `bytes`.
pub fn decode_time(bytes: &[u8]) -> Option<u64> {
    str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"a/\x00\xff";

    fn layout() -> Layout {
        Layout::of("/coffre/", &Layout::new_description([1, 2])).unwrap()
    }

    #[test]
    fn a_name_tells_its_hash_and_its_key() {
        let layout = layout();
        let key = Key { database: 255, bytes: KEY };
        let hash = layout.hash(KEY);
        for part in [Part::Values, Part::Times] {
            let name = layout.name(part, key);
            assert_eq!(layout.parse(&name), Some((255, hash, KEY)));
            let (start, end) = layout.range(part, 255..256);
            assert!(start < name && name < end);
            assert!(layout.range_from(part, 255, hash).0 <= name);
            assert!(layout.range_from(part, 255, hash + 1).0 > name);
            let (first, other_end) = layout.range(part, 0..255);
            assert!(other_end <= start);
            let (whole, whole_end) = layout.whole(part);
            assert!(whole <= first && end <= whole_end);
        }
        let (start, end) = layout.range(Part::Deletions, 255..256);
        let name = layout.name(Part::Deletions, key);
        assert!(start < name && name < end);
        assert_eq!(layout.parse(b"/coffre/k/00/zz"), None);
    }

    #[test]
    fn the_description_tells_the_key_of_the_hash() {
        // Coffres of other versions find the same keys.
        assert_eq!(layout().hash(b"a"), HASH_OF_A);
        let other = Layout::of("/coffre/", &Layout::new_description([1, 3])).unwrap();
        assert_ne!(other.hash(b"a"), HASH_OF_A);
        for foreign in ["", "coffre 2 00", "coffre 1 ", "hello"] {
            assert!(Layout::of("/coffre/", foreign.as_bytes()).is_err(), "{foreign}");
        }
    }

    const HASH_OF_A: u64 = 3_190_960_799_542_304;

    #[test]
    fn a_value_is_read_as_it_was_written() {
        for (value, expires_ms) in [(&b""[..], None), (b"=@\x00\xff", None), (b"v=", Some(7))] {
            let entry = Entry::new(KEY, View::Short(value), expires_ms).unwrap();
            let read = decode(KEY, &encode(&entry)).unwrap().unwrap();
            assert_eq!((read.key(), read.value().to_vec()), (KEY, value.to_vec()));
            assert_eq!(read.expires_ms(), expires_ms);
        }
        for foreign in [&b""[..], b"value", b"@12", b"@x=", b"value=1"] {
            assert!(decode(KEY, foreign).unwrap().is_none());
        }
        assert_eq!(decode_time(&encode_time(u64::MAX)), Some(u64::MAX));
    }
}
