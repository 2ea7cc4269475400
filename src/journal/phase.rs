//! What the journal does with its file at the moment, and what may follow.
//!
//! A write of a batch and an fsync of batches written before may be under way at once (`--fsync everysec`), so the
//! phases between which they begin and end come in four kinds of [`Work`]. A fault, and a thread that needs the file to
//! itself, may come at any moment; the work under way then still ends.
//!
//! Each row is a phase, each column an [`Event`]; `-` is refused, and ends the process: it is a bug. `r` and `q` are
//! repairs, `max` the greater of them. A test reads this table and walks all of it.
//!
//! | phase                | BeginWrite        | EndWrite           | BeginSync         | EndSync             | Reserve               | Release    | Fail(q)               | Install            | Resume |
//! |----------------------|-------------------|--------------------|-------------------|---------------------|-----------------------|------------|-----------------------|--------------------|--------|
//! | Idle                 | Writing           | -                  | Syncing           | -                   | Replacing             | -          | Faulted(q, None)      | -                  | -      |
//! | Writing              | -                 | Idle               | WritingAndSyncing | -                   | Draining(Write)       | -          | Faulted(q, Write)     | -                  | -      |
//! | Syncing              | WritingAndSyncing | -                  | -                 | Idle                | Draining(Sync)        | -          | Faulted(q, Sync)      | -                  | -      |
//! | WritingAndSyncing    | -                 | Syncing            | -                 | Writing             | Draining(Both)        | -          | Faulted(q, Both)      | -                  | -      |
//! | Draining(Write)      | -                 | Replacing          | -                 | -                   | -                     | -          | Repairing(q, Write)   | -                  | -      |
//! | Draining(Sync)       | -                 | -                  | -                 | Replacing           | -                     | -          | Repairing(q, Sync)    | -                  | -      |
//! | Draining(Both)       | -                 | Draining(Sync)     | -                 | Draining(Write)     | -                     | -          | Repairing(q, Both)    | -                  | -      |
//! | Replacing            | Switching         | -                  | -                 | -                   | -                     | Idle       | Repairing(q, None)    | -                  | -      |
//! | Switching            | -                 | Replacing          | -                 | -                   | -                     | -          | Repairing(q, Write)   | -                  | -      |
//! | Faulted(r, None)     | -                 | -                  | -                 | -                   | Repairing(r, None)    | -          | Faulted(max, None)    | -                  | Idle   |
//! | Faulted(r, Write)    | -                 | Faulted(r, None)   | -                 | -                   | Repairing(r, Write)   | -          | Faulted(max, Write)   | -                  | -      |
//! | Faulted(r, Sync)     | -                 | -                  | -                 | Faulted(r, None)    | Repairing(r, Sync)    | -          | Faulted(max, Sync)    | -                  | -      |
//! | Faulted(r, Both)     | -                 | Faulted(r, Sync)   | -                 | Faulted(r, Write)   | Repairing(r, Both)    | -          | Faulted(max, Both)    | -                  | -      |
//! | Repairing(r, None)   | -                 | -                  | -                 | -                   | -                     | Faulted(r, None) | Repairing(max, None)  | Repairing(Rewrite, None) | - |
//! | Repairing(r, Write)  | -                 | Repairing(r, None) | -                 | -                   | -                     | -          | Repairing(max, Write) | -                  | -      |
//! | Repairing(r, Sync)   | -                 | -                  | -                 | Repairing(r, None)  | -                     | -          | Repairing(max, Sync)  | -                  | -      |
//! | Repairing(r, Both)   | -                 | Repairing(r, Sync) | -                 | Repairing(r, Write) | -                     | -          | Repairing(max, Both)  | -                  | -      |
//!
//! Whether records are taken is an [`Intake`]: closing can begin in every phase, and a fault does not end it.

/// What repairs the file after a failure, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    /// Cutting off what was written of a batch.
    CutBack,
    /// A complete new file: the content of this one is uncertain.
    Rewrite,
    /// The same, and the file now at the path, which another process put there or changed, is kept under another name.
    RewriteBeside,
}

/// What is under way on the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing.
    None,
    /// A leader writes a batch.
    Write,
    /// A thread fsyncs written batches.
    Sync,
    /// Both.
    Both,
}

/// What the journal does with its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is under way.
    Idle,
    /// A leader writes a batch.
    Writing,
    /// A thread fsyncs written batches.
    Syncing,
    /// Both.
    WritingAndSyncing,
    /// A thread waits to have the file to itself: this work still ends, no other begins.
    Draining(Work),
    /// A thread has the file to itself.
    Replacing,
    /// The same, and that thread leads the pending batch into the new file or the old.
    Switching,
    /// Writes are refused until the repair; this work began before the fault.
    Faulted(Repair, Work),
    /// The same, and a thread waits to have the file to itself, or has it once no work is under way.
    Repairing(Repair, Work),
}

/// What changes the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A leader takes a batch.
    BeginWrite,
    /// It is written, or failed.
    EndWrite,
    /// A thread begins an fsync of written batches.
    BeginSync,
    /// It ended, or failed.
    EndSync,
    /// A thread wants the file to itself.
    Reserve,
    /// It does not need it any more.
    Release,
    /// The file needs a repair.
    Fail(Repair),
    /// A file written by the repair has taken the path; it is not durable there yet.
    Install,
    /// The file is repaired.
    Resume,
}

impl Work {
    fn without(self, ended: Self) -> Option<Self> {
        match (self, ended) {
            (Self::Both, Self::Write) => Some(Self::Sync),
            (Self::Both, Self::Sync) => Some(Self::Write),
            (work, ended) if work == ended => Some(Self::None),
            _ => None,
        }
    }

    fn with(self, begun: Self) -> Option<Self> {
        match (self, begun) {
            (Self::None, begun) => Some(begun),
            (Self::Write, Self::Sync) | (Self::Sync, Self::Write) => Some(Self::Both),
            _ => None,
        }
    }
}

impl Phase {
    /// The phase that follows `event`; `None` if it must not happen now.
    pub fn after(self, event: Event) -> Option<Self> {
        match event {
            Event::BeginWrite if self == Self::Replacing => Some(Self::Switching),
            Event::BeginWrite => self.begin(Work::Write),
            Event::BeginSync => self.begin(Work::Sync),
            Event::EndWrite if self == Self::Switching => Some(Self::Replacing),
            Event::EndWrite => self.end(Work::Write),
            Event::EndSync => self.end(Work::Sync),
            Event::Reserve => match self {
                Self::Faulted(repair, work) => Some(Self::Repairing(repair, work)),
                _ if self.is_reserved() => None,
                _ => Some(Self::reserved(self.work())),
            },
            Event::Release => match self {
                Self::Replacing => Some(Self::Idle),
                Self::Repairing(repair, Work::None) => Some(Self::Faulted(repair, Work::None)),
                _ => None,
            },
            Event::Fail(repair) => {
                let repair = self.fault().map_or(repair, |earlier| earlier.max(repair));
                Some(match self.is_reserved() {
                    true => Self::Repairing(repair, self.work()),
                    false => Self::Faulted(repair, self.work()),
                })
            }
            Event::Install => match self {
                Self::Repairing(_, Work::None) => {
                    Some(Self::Repairing(Repair::Rewrite, Work::None))
                }
                _ => None,
            },
            Event::Resume => match self {
                Self::Faulted(_, Work::None) => Some(Self::Idle),
                _ => None,
            },
        }
    }

    fn begin(self, work: Work) -> Option<Self> {
        let may_begin = !self.is_reserved() && self.fault().is_none();
        may_begin.then_some(())?;
        Some(Self::open(self.work().with(work)?))
    }

    fn end(self, work: Work) -> Option<Self> {
        let left = self.work().without(work)?;
        match self {
            Self::Switching => None,
            Self::Faulted(repair, _) => Some(Self::Faulted(repair, left)),
            Self::Repairing(repair, _) => Some(Self::Repairing(repair, left)),
            Self::Draining(_) => Some(Self::reserved(left)),
            _ => Some(Self::open(left)),
        }
    }

    /// The phase in which writes are taken and `work` is under way.
    fn open(work: Work) -> Self {
        match work {
            Work::None => Self::Idle,
            Work::Write => Self::Writing,
            Work::Sync => Self::Syncing,
            Work::Both => Self::WritingAndSyncing,
        }
    }

    /// The same where a thread wants the file to itself.
    fn reserved(work: Work) -> Self {
        if work == Work::None { Self::Replacing } else { Self::Draining(work) }
    }

    fn work(self) -> Work {
        match self {
            Self::Idle | Self::Replacing => Work::None,
            Self::Writing | Self::Switching => Work::Write,
            Self::Syncing => Work::Sync,
            Self::WritingAndSyncing => Work::Both,
            Self::Draining(work) | Self::Faulted(_, work) | Self::Repairing(_, work) => work,
        }
    }

    /// Whether a batch is being written.
    pub fn is_writing(self) -> bool {
        matches!(self.work(), Work::Write | Work::Both)
    }

    /// Whether anything is under way.
    pub fn is_working(self) -> bool {
        self.work() != Work::None
    }

    /// Whether a thread has the file to itself, or waits for that.
    pub fn is_reserved(self) -> bool {
        use Phase::{Draining, Repairing, Replacing, Switching};
        matches!(self, Draining(_) | Replacing | Switching | Repairing(..))
    }

    /// Whether a leader may take a batch.
    pub fn may_write(self) -> bool {
        matches!(self, Self::Idle | Self::Syncing)
    }

    /// Whether an fsync in the background may begin, if there is no fault.
    pub fn may_sync(self) -> bool {
        !matches!(self.work(), Work::Sync | Work::Both) && !self.is_reserved()
    }

    /// The repair that the file needs.
    pub fn fault(self) -> Option<Repair> {
        match self {
            Self::Faulted(repair, _) | Self::Repairing(repair, _) => Some(repair),
            _ => None,
        }
    }
}

/// Whether records are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// They are, unless there is a fault.
    Open,
    /// No more: what is pending is written and made durable.
    Closing,
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPAIRS: [Repair; 3] = [Repair::CutBack, Repair::Rewrite, Repair::RewriteBeside];
    const WORKS: [Work; 4] = [Work::None, Work::Write, Work::Sync, Work::Both];

    /// The rows of the table in this module's documentation, without its two head lines, split into cells.
    fn rows() -> Vec<Vec<&'static str>> {
        let lines = include_str!("phase.rs").lines();
        let lines = lines.filter_map(|line| line.strip_prefix("//! | "));
        lines.map(|line| line.trim_end_matches(" |").split('|').map(str::trim).collect()).collect()
    }

    fn all_phases() -> Vec<Phase> {
        use Phase::*;
        let mut phases = vec![Idle, Writing, Syncing, WritingAndSyncing, Replacing, Switching];
        phases.extend([Work::Write, Work::Sync, Work::Both].map(Draining));
        for repair in REPAIRS {
            phases.extend(WORKS.map(|work| Faulted(repair, work)));
            phases.extend(WORKS.map(|work| Repairing(repair, work)));
        }
        phases
    }

    fn events(q: Repair) -> [Event; 9] {
        use Event::*;
        [BeginWrite, EndWrite, BeginSync, EndSync, Reserve, Release, Fail(q), Install, Resume]
    }

    #[test]
    fn the_table_of_the_documentation_is_what_happens() {
        let rows = rows();
        let head: Vec<_> = rows[0][1..].to_vec();
        let phases = all_phases();
        let mut walked = 0;
        for (r, q) in REPAIRS.into_iter().flat_map(|r| REPAIRS.map(|q| (r, q))) {
            let events = events(q);
            let letters = [("r", r), ("q", q), ("max", r.max(q))];
            let named = |cell: &str| {
                letters.iter().fold(cell.to_owned(), |cell, (letter, repair)| {
                    let cell = cell.replace(&format!("({letter},"), &format!("({repair:?},"));
                    cell.replace(&format!("({letter})"), &format!("({repair:?})"))
                })
            };
            let names: Vec<_> = events.iter().map(|event| format!("{event:?}")).collect();
            assert_eq!(names, head.iter().map(|cell| named(cell)).collect::<Vec<_>>());
            for row in &rows[1..] {
                let name = named(row[0]);
                let phase = phases.iter().find(|phase| format!("{phase:?}") == name);
                let phase = phase.unwrap_or_else(|| panic!("no phase {name}"));
                for (event, cell) in events.iter().zip(&row[1..]) {
                    let after =
                        phase.after(*event).map_or("-".to_owned(), |next| format!("{next:?}"));
                    assert_eq!(after, named(cell), "{phase:?} {event:?}");
                    walked += 1;
                }
            }
        }
        assert_eq!(walked, REPAIRS.len() * REPAIRS.len() * 17 * 9);
    }

    #[test]
    fn every_phase_has_a_row_and_is_reached() {
        let mut reached = vec![Phase::Idle];
        let mut at = 0;
        while let Some(phase) = reached.get(at).copied() {
            at += 1;
            for event in REPAIRS.into_iter().flat_map(events) {
                reached.extend(phase.after(event).filter(|next| !reached.contains(next)));
            }
        }
        let all = all_phases();
        assert_eq!(reached.len(), all.len());
        assert!(all.iter().all(|phase| reached.contains(phase)));
        // 9 phases without a repair; the rows of the others stand for each repair.
        assert_eq!(rows().len() - 1, 9 + (all.len() - 9) / REPAIRS.len());
    }
}
