//! `LCS`: the longest common subsequence of two values.

use super::{CommandError, Context, integer, is};
use crate::entry::Entry;
use crate::limits::VALUE_BYTES_MAX;
use crate::memory;
use crate::reply::Replies;
use crate::request::Request;

type Result<T = ()> = std::result::Result<T, CommandError>;

/// What is alike in both values: where it ends in each, and how long it is, in bytes.
struct Match {
    ends: [usize; 2],
    length: usize,
}

/// `LCS key1 key2 [LEN] [IDX] [MINMATCHLEN length] [WITHMATCHLEN]`
pub fn lcs(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let (mut only_length, mut places, mut with_lengths, mut shortest) = (false, false, false, 0);
    let mut words = request.words_from(3);
    while let Some(word) = words.next() {
        match word {
            _ if is(word, "LEN") => only_length = true,
            _ if is(word, "IDX") => places = true,
            _ if is(word, "WITHMATCHLEN") => with_lengths = true,
            _ if is(word, "MINMATCHLEN") && words.len() > 0 => {
                shortest = integer(words.next().unwrap_or_default())?.max(0) as usize;
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    if only_length && places {
        let error = "If you want both the length and indexes, please just use IDX.";
        return Err(CommandError::Value(error));
    }
    let [one, two] = [&request[1], &request[2]];
    let copies = context.session.look_at([one, two].into_iter(), |session| {
        [one, two].map(|key| {
            session.entry(key, |entry| match entry.map(Entry::value) {
                Some(value) => value.copy(0..value.len()),
                None => Ok(Vec::new()),
            })
        })
    });
    let [one, two] = copies;
    let (one, two) =
        (one.map_err(|_| CommandError::NoMemory)?, two.map_err(|_| CommandError::NoMemory)?);
    let lengths = Lengths::new(&one, &two)?;
    let replies = &mut context.replies;
    if only_length {
        replies.count(lengths.at(one.len(), two.len()));
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
        replies.count(lengths.at(one.len(), two.len()));
    } else {
        let part = |found: &Match| &one[found.ends[0] - found.length..found.ends[0]];
        let common: Vec<_> = matches.iter().rev().map(part).collect();
        replies.bulk(&common.concat());
    }
    Ok(())
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

/// How long the longest common subsequence of each two beginnings is.
struct Lengths {
    table: Vec<u32>,
    width: usize,
}

impl Lengths {
    fn new(one: &[u8], two: &[u8]) -> Result<Self> {
        const ERROR: &str =
            "Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len";
        let width = two.len() + 1;
        let count = (one.len() + 1).checked_mul(width);
        let fits = |count: &usize| *count <= VALUE_BYTES_MAX / size_of::<u32>();
        let count = count.filter(fits).ok_or(CommandError::Value(ERROR))?;
        if !memory::has_room(count * size_of::<u32>()) {
            return Err(CommandError::NoMemory);
        }
        let mut table = Vec::new();
        memory::try_to(|| table.try_reserve_exact(count)).map_err(|_| CommandError::NoMemory)?;
        table.resize(count, 0);
        let mut lengths = Self { table, width };
        for (i, a) in one.iter().enumerate() {
            for (j, b) in two.iter().enumerate() {
                let length = match a == b {
                    true => lengths.table[i * width + j] + 1,
                    false => {
                        lengths.table[i * width + j + 1].max(lengths.table[(i + 1) * width + j])
                    }
                };
                lengths.table[(i + 1) * width + j + 1] = length;
            }
        }
        Ok(lengths)
    }

    /// Of the first `i` bytes of one and the first `j` of the other.
    fn at(&self, i: usize, j: usize) -> usize {
        self.table[i * self.width + j] as usize
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
