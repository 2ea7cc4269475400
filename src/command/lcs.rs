//! `LCS`: the longest common subsequence of two values.

use super::spec::{Flag::Readonly, Group, Spec};
use super::{Call, CommandError, integer, is};
use crate::engine::{Txn, TxnError};
use crate::limits::{LCS_CELLS_MAX, LCS_TABLE_CELLS_MAX, work};
use crate::protocol::reply::Replies;
use crate::util::memory;
use crate::value::Value;

type Result<T = ()> = std::result::Result<T, CommandError>;

/// A match: where it ends in each of the two values, and how long it is, in bytes.
struct Match {
    ends: [usize; 2],
    length: usize,
}

pub const LCS: Spec = Spec::new(
    Group::String,
    "7.0.0",
    "LCS key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]",
)
.flags(&[Readonly])
.summary("Returns the longest common subsequence of two values.")
.example("LCS ville autre")
.notes(&[
    "LEN            only its length",
    "IDX            where its parts stand in each value",
    "MINMATCHLEN    only parts so long",
    "WITHMATCHLEN   and how long each is",
]);

pub fn lcs<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let (mut only_length, mut places, mut with_lengths, mut shortest) = (false, false, false, 0);
    let mut words = call.request.words_from(3);
    while let Some(word) = words.next() {
        match word {
            _ if is(word, "LEN") => only_length = true,
            _ if is(word, "IDX") => places = true,
            _ if is(word, "WITHMATCHLEN") => with_lengths = true,
            _ if is(word, "MINMATCHLEN") && words.len() > 0 => {
                shortest = integer(words.next().unwrap_or_default())?.max(0) as usize;
            }
            _ => return Err(CommandError::SYNTAX),
        }
    }
    if only_length && places {
        let error = "If you want both the length and indexes, please just use IDX.";
        return Err(CommandError::err(error));
    }
    let (one, two) = (value(call, 1)?, value(call, 2)?);
    let (rows, cells) = cells(one.view().len(), two.view().len(), only_length)?;
    match call.detour.is_alone() {
        true => call.txn.release(),
        false => call.txn.charge(work::LCS_CELL.saturating_mul(cells))?,
    }
    let bytes = |value: &Value| value.view().copy(0..value.view().len()).map_err(TxnError::from);
    let (one, two) = (bytes(&one)?, bytes(&two)?);
    let lengths = Lengths::new(&one, &two, rows)?;
    let replies = &mut *call.replies;
    if only_length {
        replies.count(lengths.longest);
        return Ok(());
    }
    let matches = lengths.matches(&one, &two);
    if places {
        let matches: Vec<_> =
            matches.into_iter().filter(|found| found.length >= shortest).collect();
        replies.map(2);
        replies.bulk(b"matches");
        replies.array(matches.len());
        matches.iter().for_each(|found| show(replies, found, with_lengths));
        replies.bulk(b"len");
        replies.count(lengths.longest);
    } else {
        let part = |found: &Match| &one[found.ends[0] - found.length..found.ends[0]];
        let common: Vec<_> = matches.iter().rev().map(part).collect();
        replies.bulk(&common.concat());
    }
    Ok(())
}

/// The value of the key that word `n` names, shared.
fn value<T: Txn>(call: &mut Call<'_, T>, n: usize) -> Result<Value> {
    let (entry, _) = call.read(call.key(n))?;
    let value = entry.map(|entry| entry.value().share()).transpose();
    Ok(value.map_err(TxnError::from)?.unwrap_or_default())
}

fn show(replies: &mut Replies, found: &Match, with_length: bool) {
    replies.array(2 + usize::from(with_length));
    for end in found.ends {
        replies.array(2);
        replies.count(end - found.length);
        replies.count(end - 1);
    }
    if with_length {
        replies.count(found.length);
    }
}

/// How many rows of the table are kept, and how many cells it has in all, for values of so many bytes: for the length
/// alone two rows do.
fn cells(one: usize, two: usize, only_length: bool) -> Result<(usize, u64)> {
    const ERROR: &str = "Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len";
    let (height, width) = (one + 1, two + 1);
    let rows = if only_length { height.min(2) } else { height };
    let kept = rows.checked_mul(width).filter(|kept| *kept <= LCS_TABLE_CELLS_MAX);
    let cells = (height as u64).checked_mul(width as u64).filter(|cells| *cells <= LCS_CELLS_MAX);
    match (kept, cells) {
        (Some(_), Some(cells)) => Ok((rows, cells)),
        _ => Err(CommandError::err(ERROR)),
    }
}

/// The length of the longest common subsequence for each pair of beginnings of the two values.
struct Lengths {
    /// The last rows, in turns.
    table: Vec<u32>,
    rows: usize,
    width: usize,
    /// The table of two values.
    longest: usize,
}

impl Lengths {
    /// The last `rows` rows of the table.
    fn new(one: &[u8], two: &[u8], rows: usize) -> Result<Self> {
        let width = two.len() + 1;
        let count = rows * width;
        if !memory::has_room(count * size_of::<u32>()) {
            return Err(CommandError::NO_MEMORY);
        }
        let mut table = Vec::new();
        table.try_reserve_exact(count).map_err(|_| CommandError::NO_MEMORY)?;
        table.resize(count, 0);
        let mut lengths = Self { table, rows, width, longest: 0 };
        for (i, a) in one.iter().enumerate() {
            let (above, here) = (i % rows * width, (i + 1) % rows * width);
            for (j, b) in two.iter().enumerate() {
                lengths.table[here + j + 1] = match a == b {
                    true => lengths.table[above + j] + 1,
                    false => lengths.table[above + j + 1].max(lengths.table[here + j]),
                };
            }
        }
        lengths.longest = lengths.at(one.len(), two.len());
        Ok(lengths)
    }

    /// Of the first `i` bytes of one and the first `j` of the other, whose row is kept.
    fn at(&self, i: usize, j: usize) -> usize {
        self.table[i % self.rows * self.width + j] as usize
    }

    /// The matches of one longest common subsequence, the last first: the one that Redis finds.
    fn matches(&self, one: &[u8], two: &[u8]) -> Vec<Match> {
        let (mut i, mut j) = (one.len(), two.len());
        let mut matches: Vec<Match> = Vec::new();
        while i > 0 && j > 0 {
            if one[i - 1] != two[j - 1] {
                if self.at(i - 1, j) > self.at(i, j - 1) {
                    i -= 1
                } else {
                    j -= 1
                }
                continue;
            }
            match matches.last_mut() {
                Some(last)
                    if last.ends[0] - last.length == i && last.ends[1] - last.length == j =>
                {
                    last.length += 1;
                }
                _ => matches.push(Match { ends: [i, j], length: 1 }),
            }
            (i, j) = (i - 1, j - 1);
        }
        matches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_rows_do_for_the_length() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut value =
                || -> Vec<u8> { (0..random.usize(..12)).map(|_| random.u8(b'a'..b'd')).collect() };
            let (one, two) = (value(), value());
            let whole = Lengths::new(&one, &two, one.len() + 1).unwrap();
            let short = Lengths::new(&one, &two, 2.min(one.len() + 1)).unwrap();
            assert_eq!(whole.longest, short.longest, "seed {seed}");
            let matched: usize = whole.matches(&one, &two).iter().map(|found| found.length).sum();
            assert_eq!(whole.longest, matched, "seed {seed}");
        }
    }

    #[test]
    fn the_table_and_the_work_are_bounded() {
        assert_eq!(cells(4_000, 4_000, false).unwrap().0, 4_001);
        assert!(cells(5_000, 5_000, false).is_err());
        assert_eq!(cells(30_000, 30_000, true).unwrap().0, 2);
        assert!(cells(40_000, 40_000, true).is_err());
        assert!(cells(usize::MAX / 4, usize::MAX / 4, true).is_err());
    }
}
