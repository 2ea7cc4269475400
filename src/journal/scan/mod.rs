//! Reads a data file and says what it is: a pure scan and a verdict. Nothing here writes.
//!
//! The scan reads batches from the first line on. At the first one that is not the expected good batch, it reads on to
//! the end of the file only to learn what follows: above all the highest durable mark that any seal claims. From that,
//! the [decision table](decision) tells damage from the torn tail of a crash.
//!
//! After the first bad batch, the durable mark of a seal counts even if the seal's own batch is bad too: a crash's tail
//! never claims a mark that high, and no client can write a line that begins with `#= `.

mod batch;
mod decision;
mod verdict;

pub(crate) use batch::{Batch, Batches, Beginning};
pub use verdict::{Cause, Foreign, Refusal, ScanError, Sealed, Tail, Verdict};

use std::cmp::Ordering;
use std::ops::Range;

use self::decision::{Findings, Outcome};
pub(super) use self::verdict::refuse;
use super::disk::{self, DiskFile};
use super::load::{Located, Source, for_each_record};

/// Reads the first `length` bytes of `file` and gives the verdict; calls `progress` with the offset that it has
/// reached.
pub fn scan(
    file: &dyn DiskFile,
    length: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Verdict, ScanError> {
    let mut batches = match Batches::begin(disk::read(file, 0..length))? {
        Beginning::Empty => return Ok(Verdict::Empty),
        Beginning::Handwritten => {
            let each = |found: Located<'_>| {
                progress(found.bytes.end);
                Ok(())
            };
            for_each_record(file, 0..length, Source::Handwritten, each)?;
            return Ok(Verdict::Handwritten);
        }
        Beginning::Sealed(batches) => batches,
    };
    let mut scan = Scan { good: Sealed::new(&batches.header, batches.offset()), fault: None };
    let verdict = loop {
        let Some(batch) = batches.read()? else {
            break scan.verdict(file, batches.next_line(), length);
        };
        progress(batch.end);
        if let Err(refusal) = scan.take(batch) {
            break Err(refusal);
        }
    };
    verdict.map_err(|error| match error {
        ScanError::Refused(refusal) => {
            ScanError::Refused(Refusal { good: Some(Box::new(scan.good)), ..refusal })
        }
        error => error,
    })
}

/// What was read so far.
struct Scan {
    good: Sealed,
    fault: Option<Fault>,
}

/// The first bad batch, and what the scan has learnt from it and from what follows it.
struct Fault {
    batch: Batch,
    /// The highest durable mark that a seal claims.
    claimed: u64,
    /// Number of the last good seal, before the fault or after it.
    last_number: u64,
    /// Number of lines that must be records.
    records: u64,
    /// Line and offset of the first header.
    second_header: Option<(u64, u64)>,
    /// Line, offset and number of the first batch that was there before.
    repeated: Option<(u64, u64, u64)>,
}

impl Scan {
    /// Adds the next batch to the good ones or to the fault. Refuses a batch that no crash leaves where the next good
    /// one is expected.
    fn take(&mut self, batch: Batch) -> Result<(), ScanError> {
        let Some(seal) = batch.seal else {
            self.take_bad(batch);
            return Ok(());
        };
        let (found, expected) = (seal.number, self.good.last + 1);
        let is_good = batch.good_seal().is_some();
        let (line, offset) = (batch.line, batch.offset);
        if self.fault.is_none() {
            let cause = match found.cmp(&expected) {
                Ordering::Equal if is_good => {
                    self.good.push(&seal, &batch);
                    return Ok(());
                }
                Ordering::Greater if is_good => Cause::Missing { found, expected },
                Ordering::Less => Cause::Repeated { found, expected },
                _ => {
                    self.take_bad(batch);
                    return Ok(());
                }
            };
            return Err(refuse(line, offset, cause));
        }
        let fault = self.take_bad(batch);
        if found < expected || is_good && found <= fault.last_number {
            fault.repeated = fault.repeated.or(Some((line, offset, found)));
        } else if is_good {
            fault.last_number = found;
        }
        Ok(())
    }

    /// Adds a batch to the fault, which may begin with it.
    fn take_bad(&mut self, batch: Batch) -> &mut Fault {
        let Batch { records, second_header, claimed, .. } = batch;
        let fault = self.fault.get_or_insert(Fault {
            batch,
            claimed: 0,
            last_number: self.good.last,
            records: 0,
            second_header: None,
            repeated: None,
        });
        fault.records += records;
        fault.claimed = fault.claimed.max(claimed);
        fault.second_header = fault.second_header.or(second_header);
        fault
    }

    /// The verdict at the end of the file; `next_line` is the number that a further line would have.
    fn verdict(
        &self,
        file: &dyn DiskFile,
        next_line: u64,
        length: u64,
    ) -> Result<Verdict, ScanError> {
        let number = self.good.last + 1;
        match &self.fault {
            Some(fault) => fault.verdict(&self.good, file, length),
            None if self.good.is_in_base() => {
                Err(refuse(next_line, self.good.end, Cause::CutInBase { number }))
            }
            None => Ok(Verdict::Intact(self.good.clone())),
        }
    }
}

impl Fault {
    /// The verdict on a file whose good batches, followed by this fault, are `good`.
    fn verdict(
        &self,
        good: &Sealed,
        file: &dyn DiskFile,
        length: u64,
    ) -> Result<Verdict, ScanError> {
        let batch = &self.batch;
        let number = good.last + 1;
        let durable = good.durable.max(self.claimed);
        let malformed = first_malformed(file, batch.offset..batch.body_end)?;
        let (line, offset) = match &malformed {
            Some(refusal) => (refusal.line + batch.line - 1, refusal.offset),
            None => (batch.line, batch.offset),
        };
        let mismatch = batch.mismatch(number);
        let is_edited = malformed.is_none()
            && mismatch.is_some()
            && first_malformed(file, batch.end..length)?.is_none();
        // A cut may go through a line: then that line alone is malformed.
        let is_cut = batch.seal.is_none()
            && (malformed.is_none() || line == batch.last_line && !batch.terminated);
        let detail = malformed.map(|refusal| refusal.cause.to_string()).or(mismatch);
        let detail = detail.unwrap_or_else(|| format!("batch {number} has no seal"));
        let findings = Findings {
            is_durable: number <= durable,
            has_second_header: self.second_header.is_some(),
            has_repetition: self.repeated.is_some(),
            is_edited,
            is_in_base: good.is_in_base(),
            is_cut,
        };
        let (cause, (line, offset)) = match findings.outcome() {
            Outcome::TornTail => {
                let bytes = length - good.end;
                let tail = Tail { line: batch.line, bytes, records: self.records, cause: detail };
                return Ok(Verdict::Torn(good.clone(), tail));
            }
            Outcome::Acknowledged => {
                (Cause::Acknowledged { number, durable, detail }, (line, offset))
            }
            Outcome::SecondHeader => {
                (Cause::SecondHeader, self.second_header.unwrap_or((line, offset)))
            }
            Outcome::Repeated => {
                let (line, offset, found) = self.repeated.unwrap_or((line, offset, number));
                (Cause::Repeated { found, expected: number }, (line, offset))
            }
            Outcome::Changed => (Cause::Changed(detail), (line, offset)),
            Outcome::CutInBase => (Cause::CutInBase { number }, (line, offset)),
            Outcome::BrokenBase => (Cause::BrokenBase { number, detail }, (line, offset)),
        };
        Err(refuse(line, offset, cause))
    }
}

/// The first line in `range` that is no record, comment or blank line; its line number counts from there.
fn first_malformed(file: &dyn DiskFile, range: Range<u64>) -> Result<Option<Refusal>, ScanError> {
    match for_each_record(file, range, Source::Sealed, |_| Ok(())) {
        Ok(_) => Ok(None),
        Err(ScanError::Refused(refusal)) => Ok(Some(refusal)),
        Err(error) => Err(error),
    }
}
