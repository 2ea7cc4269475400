//! The grammar of `donnees.txt`: header, [records](Record), seals. `docs/format.md` is its specification; a test here
//! checks that page's worked example byte for byte.
//!
//! Everything here is pure: it turns bytes into values and back. Reading a file is left to [`super::lines`],
//! judging one to [`super::scan`].

mod record;

pub use record::{
    Record, RecordError, SELECT_BYTES_MAX, selected, set_bytes, time_s, write_del, write_expiry,
    write_flush, write_select, write_set, write_set_end, write_set_range, write_set_range_end,
    write_set_range_start, write_set_start, write_swap, write_time,
};

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::text::integer;

/// How every header begins.
pub const HEADER_START: &str = "# coffre ";
/// How every seal begins.
pub const SEAL_START: &str = "#= ";
/// The format this program writes. The file begins with a base, see [`Seal::ends_base`].
pub const VERSION: u32 = 2;
/// The oldest format it reads. The file has no base.
pub const OLDEST_VERSION: u32 = 1;
/// Longest seal, in bytes: three numbers of 20 digits, a checksum, blanks.
pub const SEAL_BYTES_MAX: usize = 80;

const ID_DIGITS: usize = 12;

/// A file's identity: 48 random bits, as lower-case hexadecimal digits. Each checksum covers it, so that a batch of
/// another file is not valid here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId([u8; ID_DIGITS]);

impl FileId {
    /// A new id. The random keys of the standard library's hasher are the source.
    pub fn random() -> Self {
        let number = RandomState::new().build_hasher().finish();
        let mut digits = [0; ID_DIGITS];
        for (index, digit) in digits.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(number >> (4 * index)) as usize & 15];
        }
        Self(digits)
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Parses the digits.
    pub fn parse(digits: &[u8]) -> Option<Self> {
        let digits: [u8; ID_DIGITS] = digits.try_into().ok()?;
        digits.iter().all(is_lower_hex).then_some(Self(digits))
    }
}

fn is_lower_hex(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The first line of a file: format version and file id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format, from [`OLDEST_VERSION`] to [`VERSION`].
    pub version: u32,
    /// The file's id.
    pub id: FileId,
}

impl Header {
    /// The header of a new file.
    pub fn new(id: FileId) -> Self {
        Self { version: VERSION, id }
    }

    /// Parses a header line without its line end.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let rest = line.strip_prefix(HEADER_START.as_bytes())?;
        (OLDEST_VERSION..=VERSION).find_map(|version| {
            let digits = rest.strip_prefix(version.to_string().as_bytes())?;
            let id = FileId::parse(digits.strip_prefix(b" id=")?)?;
            Some(Self { version, id })
        })
    }

    /// Whether the file begins with a base.
    pub fn has_base(&self) -> bool {
        self.version > OLDEST_VERSION
    }

    /// Whether `line` differs from a header by one or two bytes before the id: a damaged header, not a comment.
    pub fn is_almost(line: &[u8]) -> bool {
        (OLDEST_VERSION..=VERSION).any(|version| {
            let model = Self { version, id: FileId([b'0'; ID_DIGITS]) }.to_string();
            let start = &model.as_bytes()[..model.len() - ID_DIGITS - 1];
            let differ = line.iter().zip(start).filter(|(byte, model)| byte != model).count();
            line.len() + 1 == model.len() && differ <= 2
        })
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER_START}{} id={}", self.version, self.id.as_str())
    }
}

/// The line that closes a batch and proves that it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The batch's sequence number: 1 for a file's first batch, and one more for each that follows.
    pub number: u64,
    /// How many records the batch holds.
    pub records: u64,
    /// See [`Checksum`].
    pub checksum: u32,
    /// The durable mark: the number of the highest batch known to be fsynced when this seal was written. The seal
    /// that ends the base names its own batch, as the file gets its name only after the base was fsynced.
    pub durable: u64,
}

impl Seal {
    /// Parses a seal line without its line end. A seal has one form only: no sign, no leading zeros, one space
    /// between fields.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.strip_prefix(SEAL_START.as_bytes())?.split(|byte| *byte == b' ');
        let number = |field: &[u8]| u64::try_from(integer(field)?).ok();
        let seal = Self {
            number: number(fields.next()?)?,
            records: number(fields.next()?)?,
            checksum: match fields.next()? {
                digits if digits.len() == 8 && digits.iter().all(is_lower_hex) => {
                    u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?
                }
                _ => return None,
            },
            durable: number(fields.next()?)?,
        };
        fields.next().is_none().then_some(seal)
    }

    /// Whether the durable mark may be true: a seal cannot know that its own batch is durable, except the one that
    /// ends the base. `in_base` says that the base has not ended before this seal.
    pub fn has_valid_mark(&self, in_base: bool) -> bool {
        self.durable < self.number || in_base && self.ends_base()
    }

    /// Whether this seal ends the base: it covers its own batch.
    pub fn ends_base(&self) -> bool {
        self.durable == self.number
    }

    /// The seal of a batch whose lines are in `body`.
    pub fn close(number: u64, records: u64, durable: u64, body: Checksum) -> Self {
        let mut seal = Self { number, records, checksum: 0, durable };
        seal.checksum = body.finish(&seal);
        seal
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, records, checksum, durable } = self;
        writeln!(f, "{SEAL_START}{number} {records} {checksum:08x} {durable}")
    }
}

/// CRC-32C over the file's id, the batch's raw bytes and its seal's three numbers as `number records durable`: a
/// change of any of them is noticed.
#[derive(Clone, Copy, Debug)]
pub struct Checksum(u32);

impl Checksum {
    /// Begins the checksum of a batch of the file `id`.
    pub fn new(id: FileId) -> Self {
        Self(crc32c::crc32c(&id.0))
    }

    /// Adds raw bytes of the batch.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, bytes);
    }

    /// The checksum that the batch's seal must carry.
    pub fn finish(self, seal: &Seal) -> u32 {
        let fields = format!("{} {} {}", seal.number, seal.records, seal.durable);
        crc32c::crc32c_append(self.0, fields.as_bytes())
    }
}

/// Whether `line` belongs to the file's structure rather than to its contents: a seal or a header, damaged or not.
/// Whatever copies lines to another file leaves these out.
pub fn is_structure(line: &[u8]) -> bool {
    let begins = |start: &str| line.starts_with(start.as_bytes());
    begins(SEAL_START) || begins(HEADER_START) || Header::is_almost(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_of_the_specification_is_exact() {
        let page = include_str!("../../../docs/format.md");
        let example = page.split("```coffre\n").nth(1).and_then(|rest| rest.split("```").next());
        let header = Header::parse(b"# coffre 2 id=7f3a9c2e51d0").unwrap();

        let mut first = Vec::new();
        write_set(b"ville", "Orléans".as_bytes(), None, &mut first);
        write_set("île".as_bytes(), b"Saint-Denis la Plaine", None, &mut first);
        write_time(1_795_561_276, &mut first);
        let mut second = Vec::new();
        write_set_range(b"ville", 8, b", Loiret", &mut second);
        assert_eq!(write_del([&b"brouillon"[..], b"a b\n\xff"].into_iter(), &mut second), 1);

        let mut file = header.to_string().into_bytes();
        for (number, body, records, durable) in
            [(1, &first, 2, 1), (2, &second, 2, 1), (3, &vec![], 0, 2)]
        {
            let mut checksum = Checksum::new(header.id);
            checksum.update(body);
            file.extend_from_slice(body);
            file.extend_from_slice(
                Seal::close(number, records, durable, checksum).to_string().as_bytes(),
            );
        }
        assert_eq!(String::from_utf8(file).unwrap(), example.unwrap());
    }

    #[test]
    fn a_seal_has_one_form() {
        let seal = Seal { number: 41, records: 2, checksum: 0x0f3a_12bc, durable: 40 };
        assert_eq!(seal.to_string(), "#= 41 2 0f3a12bc 40\n");
        assert_eq!(Seal::parse(b"#= 41 2 0f3a12bc 40"), Some(seal));
        for line in [
            "#= 41 2 0f3a12bc",
            "#= 41 2 0f3a12bc 40 ",
            "#= 41 2 0f3a12bc 40\r",
            "#= 41 2  0f3a12bc 40",
            "#= 041 2 0f3a12bc 40",
            "#= +41 2 0f3a12bc 40",
            "#= -41 2 0f3a12bc 40",
            "#= 41 2 0F3A12BC 40",
            "#= 41 2 f3a12bc 40",
            "#=41 2 0f3a12bc 40",
            "#= 99999999999999999999 2 0f3a12bc 40",
        ] {
            assert_eq!(Seal::parse(line.as_bytes()), None, "{line}");
        }
        let longest = Seal {
            number: i64::MAX as u64,
            records: i64::MAX as u64,
            checksum: 0,
            durable: i64::MAX as u64,
        };
        assert!(longest.to_string().len() <= SEAL_BYTES_MAX);
    }

    #[test]
    fn a_misspelt_header_is_no_comment() {
        assert!(Header::is_almost(b"# coffse 1 id=7f3a9c2e51d0"));
        assert!(Header::is_almost(b"# coffsf 2 id=7f3a9c2e51d0"));
        assert!(!Header::is_almost(b"# my notes on this server."));
        assert!(!Header::is_almost(b"# coffre"));
    }

    #[test]
    fn every_field_of_a_seal_is_summed() {
        let id = FileId::random();
        let body = Checksum::new(id);
        let seal = Seal::close(7, 3, 6, body);
        for other in
            [Seal { number: 8, ..seal }, Seal { records: 4, ..seal }, Seal { durable: 5, ..seal }]
        {
            assert_ne!(body.finish(&other), seal.checksum);
        }
        assert_ne!(Checksum::new(FileId(*b"000000000000")).finish(&seal), seal.checksum);
    }
}
