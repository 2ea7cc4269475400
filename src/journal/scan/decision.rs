//! The decision table for a file in which a batch is not as expected: is it damaged, or did a crash tear its end off?
//! `docs/format.md` has the same table in words, with the tests that hold each case.
//!
//! Invariant: exactly one row matches any findings.

/// What a scan found out about the first bad batch and about what follows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Findings {
    /// A durable mark covers the batch: it was on disk, and may have been acknowledged.
    pub is_durable: bool,
    /// Another header follows.
    pub has_second_header: bool,
    /// A batch that was there before follows. A crash never brings an earlier batch back.
    pub has_repetition: bool,
    /// From the batch on, all lines are well-formed, and the batch has a seal. A crash leaves holes and cuts, not
    /// other lines.
    pub is_edited: bool,
    /// The base has not ended before the batch. It was on disk whole before the file got its name, so a crash cannot
    /// have torn it.
    pub is_in_base: bool,
    /// The batch ends with the file, at the end of a line or within one, and has no seal.
    pub is_cut: bool,
}

/// What follows from the findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Damage of durable data.
    Acknowledged,
    /// Damage: another file was pasted.
    SecondHeader,
    /// Damage: a batch was pasted.
    Repeated,
    /// Damage: lines were edited.
    Changed,
    /// Damage: a part of a copy.
    CutInBase,
    /// Damage of the base.
    BrokenBase,
    /// The torn tail of a crash, which recovery cuts off.
    TornTail,
}

use Outcome::{Acknowledged, BrokenBase, Changed, CutInBase, Repeated, SecondHeader, TornTail};

const YES: Option<bool> = Some(true);
const NO: Option<bool> = Some(false);
/// Either.
const ANY: Option<bool> = None;

#[rustfmt::skip]
const TABLE: [([Option<bool>; 6], Outcome); 7] = [
    // durable  second header  repetition  edited  in base  cut
    ([YES,      ANY,           ANY,        ANY,    ANY,     ANY], Acknowledged),
    ([NO,       YES,           ANY,        ANY,    ANY,     ANY], SecondHeader),
    ([NO,       NO,            YES,        ANY,    ANY,     ANY], Repeated),
    ([NO,       NO,            NO,         YES,    ANY,     ANY], Changed),
    ([NO,       NO,            NO,         NO,     YES,     YES], CutInBase),
    ([NO,       NO,            NO,         NO,     YES,     NO],  BrokenBase),
    ([NO,       NO,            NO,         NO,     NO,      ANY], TornTail),
];

impl Findings {
    pub(super) fn outcome(self) -> Outcome {
        // Refusing is the safe answer; the test shows that the table always has another.
        self.matching().next().unwrap_or(Acknowledged)
    }

    fn matching(self) -> impl Iterator<Item = Outcome> {
        let Self { is_durable, has_second_header, has_repetition, is_edited, is_in_base, is_cut } =
            self;
        let found = [is_durable, has_second_header, has_repetition, is_edited, is_in_base, is_cut];
        let matches = move |row: &[Option<bool>; 6]| {
            row.iter().zip(found).all(|(wanted, found)| wanted.is_none_or(|wanted| wanted == found))
        };
        TABLE.into_iter().filter(move |(row, _)| matches(row)).map(|(_, outcome)| outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_row_matches_any_findings() {
        let mut used = Vec::new();
        for bits in 0..1 << 6 {
            let bit = |index: u8| bits >> index & 1 == 1;
            let findings = Findings {
                is_durable: bit(0),
                has_second_header: bit(1),
                has_repetition: bit(2),
                is_edited: bit(3),
                is_in_base: bit(4),
                is_cut: bit(5),
            };
            let outcomes: Vec<_> = findings.matching().collect();
            assert_eq!(outcomes.len(), 1, "{findings:?}: {outcomes:?}");
            assert_eq!(
                outcomes[0] == TornTail,
                bits & 0b1_1111 == 0,
                "{findings:?}: only what no finding speaks against may be cut off"
            );
            used.extend(outcomes);
        }
        assert!(TABLE.iter().all(|(_, outcome)| used.contains(outcome)));
    }
}
