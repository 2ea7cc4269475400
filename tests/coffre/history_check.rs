//! Checks a history of operations for strict serializability, in time linear in its length.
//!
//! Every written value names the operation that wrote it, so the check never searches for an order:
//!
//! - a list grows by `APPEND` of one token per operation: its final value is the order of its writers;
//! - a counter grows by one per operation, and the reply of a writer is its place in the order;
//! - a register holds the number of the operation that set it: its order follows from operations that read and
//!   set it at one moment, and from time;
//! - the bank is a function of the ledger, a list of transfers: any prefix of it says what all accounts hold.
//!
//! Operations, versions and moments of time are nodes of a graph; an edge means "before". A cycle is a violation, as
//! in Elle (Kingsbury and Alvaro, VLDB 2020). The other violations are found directly: an acknowledged write that is
//! lost, a refused one that is there, half of one, one that is there twice.

use std::collections::{HashMap, HashSet};
use std::fmt;

/// The number of an operation; 0 is no operation.
pub type Id = u32;

pub const LISTS: usize = 3;
/// The list that records transfers.
pub const LEDGER: usize = 0;
pub const REGISTERS: usize = 2;
pub const COUNTERS: usize = 6;
/// Two counters that only ever grow together.
pub const PAIR: [usize; 2] = [0, 1];
pub const ACCOUNTS: usize = 4;

/// One step of an operation, with what its reply said. A writer writes its own number.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// `APPEND` of the operation's token; the reply is the new length in bytes.
    Append { list: usize, bytes: Option<u64> },
    /// What a list held.
    ReadList { list: usize, seen: Prefix },
    /// `SET` of a register to the operation's number.
    Set { register: usize },
    /// What a register held: the operation that set it.
    Read { register: usize, id: Id },
    /// One more on a counter; the reply is its new value.
    Count { counter: usize, value: Option<u64> },
    /// What a counter held.
    ReadCount { counter: usize, value: u64 },
    /// What the accounts held, and the last transfer of each receipt. The operation also reads the ledger.
    ReadBank { balances: [i64; ACCOUNTS], receipts: Vec<(u32, Id)> },
}

/// A transfer between accounts; its operation appends its token to the ledger.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer {
    pub from: usize,
    pub to: usize,
    pub amount: i64,
    /// The receipt that it writes.
    pub receipt: u32,
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Done,
    /// It was refused by an error that promises that nothing was done.
    NotDone,
    /// It may have happened, at any time after it began; or not.
    Unknown,
}

/// An operation: one command, or one `EXEC`.
#[derive(Clone)]
pub struct Op {
    pub id: Id,
    /// Nanoseconds since the history began.
    pub invoked: u64,
    pub completed: u64,
    pub outcome: Outcome,
    pub steps: Vec<Step>,
    pub transfer: Option<Transfer>,
    /// What the server said, for a report.
    pub said: String,
}

/// As a report shows it.
impl fmt::Debug for Op {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, invoked, completed, outcome, steps, transfer, said } = self;
        let (from, to) = (*invoked as f64 / 1e6, *completed as f64 / 1e6);
        write!(formatter, "[{id}, {from:.3} to {to:.3} ms, {outcome:?}: {steps:?}")?;
        if let Some(transfer) = transfer {
            write!(formatter, ", {transfer:?}")?;
        }
        if !said.is_empty() {
            write!(formatter, ", answered {said}")?;
        }
        formatter.write_str("]")
    }
}

/// The value of a list as a history keeps it: how many tokens, and a hash of its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prefix {
    pub tokens: usize,
    hash: u64,
}

impl Prefix {
    pub const EMPTY: Self = Self { tokens: 0, hash: 0xcbf2_9ce4_8422_2325 };

    /// Of a value that consists of tokens that each end in a comma.
    pub fn of(value: &[u8]) -> Self {
        value.iter().fold(Self::EMPTY, |prefix, byte| prefix.and(*byte))
    }

    fn and(self, byte: u8) -> Self {
        let hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        Self { tokens: self.tokens + usize::from(byte == b','), hash }
    }
}

/// A token in a list.
pub fn token(id: Id) -> String {
    format!("{id},")
}

/// What a history must explain at its end: the lists' values, read by the operation that is its last.
pub type Finals = [Vec<u8>; LISTS];

/// The violations of a history, whose last operation read every list, register and counter; none if it is strictly
/// serializable.
pub fn violations(ops: &[Op], finals: &Finals) -> Vec<String> {
    let mut check = Check::new(ops, finals);
    check.lists();
    check.registers();
    check.counters();
    check.wholeness();
    check.bank();
    check.time();
    check.cycle();
    check.found
}

struct Check<'h> {
    ops: &'h [Op],
    by_id: HashMap<Id, usize>,
    /// The tokens of each list at the end.
    orders: [Vec<Id>; LISTS],
    prefixes: [Vec<Prefix>; LISTS],
    /// Operations of which an effect was seen.
    seen: HashSet<Id>,
    /// By node, those that come after it. The first nodes are the operations, by index.
    after: Vec<Vec<u32>>,
    found: Vec<String>,
}

impl<'h> Check<'h> {
    fn new(ops: &'h [Op], finals: &Finals) -> Self {
        let by_id = ops.iter().enumerate().map(|(index, op)| (op.id, index)).collect();
        let mut check = Self {
            ops,
            by_id,
            orders: Default::default(),
            prefixes: Default::default(),
            seen: HashSet::new(),
            after: vec![Vec::new(); ops.len()],
            found: Vec::new(),
        };
        for (list, value) in finals.iter().enumerate() {
            let text = String::from_utf8_lossy(value);
            let ids = text.split_terminator(',').map(|token| token.parse().unwrap_or(0));
            check.orders[list] = ids.collect();
            let mut prefix = Prefix::EMPTY;
            check.prefixes[list].push(prefix);
            for byte in value {
                prefix = prefix.and(*byte);
                if *byte == b',' {
                    check.prefixes[list].push(prefix);
                }
            }
        }
        check
    }

    fn report(&mut self, what: String) {
        const MOST: usize = 20;
        if self.found.len() < MOST {
            self.found.push(what);
        }
    }

    fn edge(&mut self, before: usize, after: usize) {
        // An operation may read what it writes itself.
        if before != after {
            self.after[before].push(after as u32);
        }
    }

    fn node(&mut self) -> usize {
        self.after.push(Vec::new());
        self.after.len() - 1
    }

    /// The operation that an effect names; a violation if there is none, or if it was refused.
    fn writer(&mut self, id: Id, place: &str) -> Option<usize> {
        let Some(index) = self.by_id.get(&id).copied() else {
            self.report(format!("torn: {place} holds {id}, which no operation wrote"));
            return None;
        };
        if self.ops[index].outcome == Outcome::NotDone {
            self.report(format!("refused, but there: {place} shows {:?}", self.ops[index]));
        }
        self.seen.insert(id);
        Some(index)
    }

    fn lists(&mut self) {
        for list in 0..LISTS {
            let (order, mut places) = (self.orders[list].clone(), HashMap::new());
            let (mut bytes, mut last) = (0, None);
            let mut nodes = Vec::new();
            for (place, id) in order.iter().enumerate() {
                if places.insert(*id, place).is_some() {
                    self.report(format!("doubled: {id} is twice in list {list}"));
                }
                let writer = self.writer(*id, &format!("list {list}"));
                nodes.push(writer);
                let Some(writer) = writer else { continue };
                if let Some(last) = last.replace(writer) {
                    self.edge(last, writer);
                }
                bytes += token(*id).len() as u64;
                let said = self.ops[writer].steps.iter().find_map(|step| match step {
                    Step::Append { list: of, bytes } if *of == list => Some(*bytes),
                    _ => None,
                });
                match said {
                    None => self.report(format!("torn: list {list} holds {id}, never appended")),
                    Some(Some(said)) if said != bytes => self.report(format!(
                        "lost or doubled: {:?} made list {list} {said} bytes long, but {bytes} end with it",
                        self.ops[writer]
                    )),
                    Some(_) => {}
                }
            }
            self.list_reads(list, &nodes);
        }
    }

    fn list_reads(&mut self, list: usize, nodes: &[Option<usize>]) {
        for (reader, op) in self.ops.iter().enumerate() {
            for step in &op.steps {
                let Step::ReadList { list: of, seen } = step else { continue };
                if *of != list {
                    continue;
                }
                let Some(expected) = self.prefixes[list].get(seen.tokens) else {
                    let count = nodes.len();
                    self.report(format!(
                        "lost: list {list} has {count} tokens at the end, was shown with more: {op:?}"
                    ));
                    continue;
                };
                if expected != seen {
                    self.report(format!(
                        "lost: list {list} was shown otherwise than at the end: {op:?}"
                    ));
                }
                if let Some(Some(writer)) = seen.tokens.checked_sub(1).and_then(|at| nodes.get(at))
                {
                    self.edge(*writer, reader);
                }
                if let Some(Some(writer)) = nodes.get(seen.tokens) {
                    self.edge(reader, *writer);
                }
            }
        }
    }

    fn registers(&mut self) {
        for register in 0..REGISTERS {
            let sets = |op: &Op| op.steps.contains(&Step::Set { register });
            let (mut readers, mut successors) = (Vec::new(), HashMap::new());
            for (index, op) in self.ops.iter().enumerate() {
                for step in &op.steps {
                    let Step::Read { register: of, id } = step else { continue };
                    if *of == register {
                        readers.push((index, *id));
                        // What reads and sets at one moment comes next. Another one makes a cycle.
                        if sets(op) && op.outcome == Outcome::Done {
                            successors.entry(*id).or_insert_with(Vec::new).push(index);
                        }
                    }
                }
            }
            let mut writers: Vec<_> = (0..self.ops.len())
                .filter(|index| sets(&self.ops[*index]))
                .filter(|index| self.ops[*index].outcome == Outcome::Done)
                .collect();
            writers.sort_by_key(|index| self.ops[*index].invoked);
            // Node `later[n]` comes before all writers from the n-th on.
            let later: Vec<_> = writers.iter().map(|_| self.node()).collect();
            for (place, writer) in writers.iter().enumerate() {
                self.edge(later[place], *writer);
                if let Some(next) = later.get(place + 1) {
                    self.edge(later[place], *next);
                }
            }
            for (reader, id) in readers {
                let mut completed = Some(0);
                if id != 0 {
                    let Some(writer) = self.writer(id, &format!("register {register}")) else {
                        continue;
                    };
                    if !sets(&self.ops[writer]) {
                        self.report(format!("torn: register {register} holds {id}, never set"));
                    }
                    self.edge(writer, reader);
                    let op = &self.ops[writer];
                    completed = (op.outcome == Outcome::Done).then_some(op.completed);
                }
                for next in successors.get(&id).into_iter().flatten() {
                    self.edge(reader, *next);
                }
                // It read before whatever set the register after its writer was done.
                let Some(completed) = completed else { continue };
                let first = writers.partition_point(|index| self.ops[*index].invoked <= completed);
                match writers.get(first) {
                    // It may be that writer itself; then it is before those that follow.
                    Some(writer) if *writer == reader => {
                        if let Some(next) = later.get(first + 1) {
                            self.edge(reader, *next);
                        }
                    }
                    Some(_) if !writers[first..].contains(&reader) => {
                        self.edge(reader, later[first]);
                    }
                    _ => {}
                }
            }
        }
    }

    fn counters(&mut self) {
        for counter in 0..COUNTERS {
            let (mut versions, mut unknown) = (HashMap::new(), 0);
            let (mut readers, mut last) = (Vec::new(), 0);
            for (index, op) in self.ops.iter().enumerate() {
                for step in &op.steps {
                    match *step {
                        Step::Count { counter: of, value } if of == counter => match value {
                            Some(value) if op.outcome == Outcome::Done => {
                                if let Some(other) = versions.insert(value, index) {
                                    let other = self.ops[other].clone();
                                    self.report(format!(
                                        "doubled: both made counter {counter} {value}: {other:?}, {op:?}"
                                    ));
                                }
                            }
                            _ if op.outcome != Outcome::NotDone => unknown += 1,
                            _ => {}
                        },
                        Step::ReadCount { counter: of, value } if of == counter => {
                            readers.push((index, value));
                            // The last operation reads every counter.
                            last = value;
                        }
                        _ => {}
                    }
                }
            }
            let highest = versions.keys().copied().max().unwrap_or(0);
            if highest > last {
                let op = self.ops[versions[&highest]].clone();
                self.report(format!("lost: counter {counter} is {last} at the end: {op:?}"));
            }
            let gaps = (1..=last).filter(|version| !versions.contains_key(version)).count();
            if gaps > unknown {
                self.report(format!(
                    "doubled: counter {counter} is {last}, {gaps} more than was counted, {unknown} are unknown"
                ));
            }
            let nodes: Vec<_> = (1..=last)
                .map(|version| match versions.get(&version) {
                    Some(index) => *index,
                    None => self.node(),
                })
                .collect();
            for pair in nodes.windows(2) {
                self.edge(pair[0], pair[1]);
            }
            for (reader, value) in readers {
                if value > last {
                    let op = self.ops[reader].clone();
                    self.report(format!(
                        "lost: counter {counter} is {last} at the end, was shown: {op:?}"
                    ));
                    continue;
                }
                if let Some(before) = (value as usize).checked_sub(1) {
                    self.edge(nodes[before], reader);
                }
                if let Some(next) = nodes.get(value as usize) {
                    self.edge(reader, *next);
                }
            }
        }
        for op in self.ops {
            let value = |counter: usize| {
                op.steps.iter().find_map(|step| match step {
                    Step::ReadCount { counter: of, value } if *of == counter => Some(*value),
                    _ => None,
                })
            };
            if let (Some(one), Some(two)) = (value(PAIR[0]), value(PAIR[1]))
                && one != two
            {
                self.report(format!("torn: the counters of a pair are {one} and {two}: {op:?}"));
                return;
            }
        }
    }

    /// An operation has all its effects or none; all if it was acknowledged.
    fn wholeness(&mut self) {
        let present: Vec<HashSet<Id>> =
            self.orders.iter().map(|order| order.iter().copied().collect()).collect();
        for op in self.ops {
            let appends = op.steps.iter().filter_map(|step| match step {
                Step::Append { list, .. } => Some(*list),
                _ => None,
            });
            let (there, missing): (Vec<_>, Vec<_>) =
                appends.partition(|list| present[*list].contains(&op.id));
            if op.outcome == Outcome::Done && !missing.is_empty() {
                self.report(format!("lost: not in lists {missing:?}: {op:?}"));
            } else if self.seen.contains(&op.id) && !missing.is_empty() {
                self.report(format!("torn: in lists {there:?}, not in {missing:?}: {op:?}"));
            }
        }
    }

    /// Accounts and receipts are what the ledger makes of them.
    fn bank(&mut self) {
        let order = self.orders[LEDGER].clone();
        let mut balances = vec![[0; ACCOUNTS]];
        let mut receipts: HashMap<u32, Vec<(usize, Id)>> = HashMap::new();
        for (place, id) in order.iter().enumerate() {
            let mut next = balances[place];
            let transfer = self.by_id.get(id).and_then(|index| self.ops[*index].transfer);
            if let Some(transfer) = transfer {
                next[transfer.from] -= transfer.amount;
                next[transfer.to] += transfer.amount;
                receipts.entry(transfer.receipt).or_default().push((place, *id));
            }
            balances.push(next);
        }
        for op in self.ops {
            let read = op.steps.iter().find_map(|step| match step {
                Step::ReadBank { balances, receipts } => Some((balances, receipts)),
                _ => None,
            });
            let ledger = op.steps.iter().find_map(|step| match step {
                Step::ReadList { list: LEDGER, seen } => Some(seen.tokens),
                _ => None,
            });
            let (Some((shown, shown_receipts)), Some(tokens)) = (read, ledger) else { continue };
            let Some(expected) = balances.get(tokens) else { continue };
            if shown != expected {
                self.report(format!(
                    "torn: after {tokens} transfers the accounts are {shown:?}, not {expected:?}; their sum is {}",
                    shown.iter().sum::<i64>()
                ));
                return;
            }
            for (receipt, id) in shown_receipts {
                let written = receipts.get(receipt).map(Vec::as_slice).unwrap_or_default();
                let before = written.partition_point(|(place, _)| *place < tokens);
                let expected = before.checked_sub(1).map_or(0, |at| written[at].1);
                if *id != expected {
                    self.report(format!(
                        "torn: after {tokens} transfers receipt {receipt} is of {id}, not of {expected}"
                    ));
                    return;
                }
            }
        }
    }

    /// What was done before something began is before it.
    fn time(&mut self) {
        let mut moments = Vec::new();
        for (index, op) in self.ops.iter().enumerate() {
            if op.outcome != Outcome::NotDone {
                moments.push((op.invoked, true, index));
            }
            if op.outcome == Outcome::Done {
                moments.push((op.completed, false, index));
            }
        }
        // What ends at the moment at which something begins is not known to be before it.
        moments.sort_by_key(|(time, is_begin, _)| (*time, !is_begin));
        let mut last = None;
        for (_, is_begin, index) in moments {
            if is_begin {
                if let Some(last) = last {
                    self.edge(last, index);
                }
                continue;
            }
            let end = self.node();
            self.edge(index, end);
            if let Some(last) = last.replace(end) {
                self.edge(last, end);
            }
        }
    }

    /// Removes what has nothing before it until nothing is left, or only cycles and what follows them.
    fn cycle(&mut self) {
        let mut before = vec![0_usize; self.after.len()];
        for next in self.after.iter().flatten() {
            before[*next as usize] += 1;
        }
        let mut free: Vec<_> = (0..before.len()).filter(|node| before[*node] == 0).collect();
        let mut left = before.len();
        while let Some(node) = free.pop() {
            left -= 1;
            for next in &self.after[node] {
                before[*next as usize] -= 1;
                if before[*next as usize] == 0 {
                    free.push(*next as usize);
                }
            }
        }
        if left == 0 {
            return;
        }
        let in_cycle = |node: usize| before[node] > 0;
        let cycle = self.shortest_cycle(&in_cycle);
        let shown: Vec<_> = cycle
            .iter()
            .filter(|node| **node < self.ops.len())
            .map(|node| format!("  {:?}", self.ops[*node]))
            .collect();
        self.report(format!("stale or torn: each is before the next:\n{}", shown.join("\n")));
    }

    /// A short one: breadth first from some of the nodes that are in one.
    fn shortest_cycle(&self, in_cycle: &dyn Fn(usize) -> bool) -> Vec<usize> {
        const STARTS: usize = 50;
        let mut shortest: Option<Vec<usize>> = None;
        let starts = (0..self.ops.len()).filter(|node| in_cycle(*node));
        for start in starts.take(STARTS) {
            let mut from = HashMap::from([(start, start)]);
            let mut queue = std::collections::VecDeque::from([start]);
            'search: while let Some(node) = queue.pop_front() {
                for next in self.after[node].iter().map(|next| *next as usize) {
                    if next == start {
                        let mut cycle = vec![node];
                        let mut at = node;
                        while at != start {
                            at = from[&at];
                            cycle.push(at);
                        }
                        cycle.reverse();
                        if shortest.as_ref().is_none_or(|known| cycle.len() < known.len()) {
                            shortest = Some(cycle);
                        }
                        break 'search;
                    }
                    if in_cycle(next) && !from.contains_key(&next) {
                        from.insert(next, node);
                        queue.push_back(next);
                    }
                }
            }
        }
        shortest.unwrap_or_default()
    }
}

/// The check itself: each fault in a history that is otherwise sound is found, and the sound one passes.
mod tests {
    use super::*;

    fn op(id: Id, time: (u64, u64), steps: Vec<Step>) -> Op {
        let (invoked, completed) = time;
        let outcome = Outcome::Done;
        Op { id, invoked, completed, outcome, steps, transfer: None, said: String::new() }
    }

    fn append(list: usize, bytes: u64) -> Step {
        Step::Append { list, bytes: Some(bytes) }
    }

    fn read(list: usize, value: &str) -> Step {
        Step::ReadList { list, seen: Prefix::of(value.as_bytes()) }
    }

    fn count(counter: usize, value: u64) -> Step {
        Step::Count { counter, value: Some(value) }
    }

    fn counters(values: [u64; COUNTERS]) -> Vec<Step> {
        let step = |(counter, value)| Step::ReadCount { counter, value };
        values.into_iter().enumerate().map(step).collect()
    }

    /// Two clients that append, count, set and transfer, and the last operation.
    fn sound() -> (Vec<Op>, Finals) {
        let mut transfer =
            op(4, (60, 70), vec![append(LEDGER, 2), append(1, 6), count(0, 1), count(1, 1)]);
        transfer.transfer = Some(Transfer { from: 0, to: 1, amount: 5, receipt: 7 });
        let mut last = vec![
            read(LEDGER, "4,"),
            read(1, "1,2,4,"),
            read(2, ""),
            Step::Read { register: 0, id: 6 },
            Step::Read { register: 1, id: 0 },
            Step::ReadBank { balances: [-5, 5, 0, 0], receipts: vec![(7, 4), (8, 0)] },
        ];
        last.extend(counters([1, 1, 2, 0, 0, 0]));
        let ops = vec![
            op(1, (10, 20), vec![append(1, 2)]),
            op(2, (15, 30), vec![append(1, 4)]),
            op(3, (40, 50), vec![read(1, "1,2,")]),
            transfer,
            op(5, (80, 90), vec![Step::Read { register: 0, id: 0 }, Step::Set { register: 0 }]),
            op(6, (100, 110), vec![Step::Set { register: 0 }]),
            op(7, (120, 130), vec![Step::Read { register: 0, id: 6 }]),
            op(8, (140, 150), vec![count(2, 1)]),
            op(9, (140, 150), vec![count(2, 2)]),
            op(10, (160, 170), vec![Step::ReadCount { counter: 2, value: 2 }]),
            op(11, (1000, 1010), last),
        ];
        (ops, [b"4,".to_vec(), b"1,2,4,".to_vec(), Vec::new()])
    }

    /// What is found once `change` has been done to a sound history.
    fn found(change: impl FnOnce(&mut Vec<Op>, &mut Finals)) -> String {
        let (mut ops, mut finals) = sound();
        change(&mut ops, &mut finals);
        violations(&ops, &finals).join("\n")
    }

    #[test]
    fn a_sound_history_passes() {
        assert_eq!(found(|_, _| {}), "");
        // What is unknown may be there whole, late too, or not at all.
        let unknown = |ops: &mut Vec<Op>, _: &mut Finals| ops[3].outcome = Outcome::Unknown;
        assert_eq!(found(unknown), "");
        let absent = |ops: &mut Vec<Op>, _: &mut Finals| {
            let steps = vec![append(2, 2), Step::Count { counter: 2, value: None }];
            ops.insert(0, Op { outcome: Outcome::Unknown, ..op(20, (1, 2), steps) });
        };
        assert_eq!(found(absent), "");
    }

    #[test]
    fn what_is_lost_is_found() {
        let shorter = |ops: &mut Vec<Op>, finals: &mut Finals| {
            finals[1] = b"1,4,".to_vec();
            ops[10].steps[1] = read(1, "1,4,");
        };
        assert!(found(shorter).contains("lost: "));
        let counter = |ops: &mut Vec<Op>, _: &mut Finals| {
            let last = ops[10].steps.len() - 4;
            ops[10].steps[last] = Step::ReadCount { counter: 2, value: 1 };
        };
        assert!(found(counter).contains("lost: counter 2"));
        let register = |ops: &mut Vec<Op>, _: &mut Finals| {
            ops[10].steps[3] = Step::Read { register: 0, id: 5 };
        };
        assert!(found(register).contains("stale"));
    }

    #[test]
    fn what_is_torn_is_found() {
        let half = |ops: &mut Vec<Op>, finals: &mut Finals| {
            ops[3].outcome = Outcome::Unknown;
            finals[LEDGER].clear();
            ops[10].steps[0] = read(LEDGER, "");
            ops[10].steps[5] = Step::ReadBank { balances: [0; 4], receipts: vec![] };
        };
        assert!(found(half).contains("torn: in lists [1], not in [0]"));
        let pair = |ops: &mut Vec<Op>, _: &mut Finals| {
            ops[3].outcome = Outcome::Unknown;
            let last = ops[10].steps.len() - 5;
            ops[10].steps[last] = Step::ReadCount { counter: 1, value: 0 };
        };
        assert!(found(pair).contains("torn: the counters of a pair are 1 and 0"));
        let bank = |ops: &mut Vec<Op>, _: &mut Finals| {
            let balances = [-5, 0, 0, 0];
            ops[10].steps[5] = Step::ReadBank { balances, receipts: vec![] };
        };
        assert!(found(bank).contains("their sum is -5"));
        let receipt = |ops: &mut Vec<Op>, _: &mut Finals| {
            let balances = [-5, 5, 0, 0];
            ops[10].steps[5] = Step::ReadBank { balances, receipts: vec![(7, 0)] };
        };
        assert!(found(receipt).contains("receipt 7"));
        let early = |ops: &mut Vec<Op>, _: &mut Finals| {
            // It sees one of two appends of the same operation.
            ops.push(op(12, (60, 70), vec![read(LEDGER, "4,"), read(1, "1,2,")]));
            let last = ops.remove(10);
            ops.push(last);
        };
        assert!(found(early).contains("stale or torn"));
    }

    #[test]
    fn what_is_doubled_is_found() {
        let token = |ops: &mut Vec<Op>, finals: &mut Finals| {
            finals[1] = b"1,2,1,4,".to_vec();
            ops[10].steps[1] = read(1, "1,2,1,4,");
        };
        assert!(found(token).contains("doubled: 1 is twice in list 1"));
        let replies = |ops: &mut Vec<Op>, _: &mut Finals| ops[8].steps = vec![count(2, 1)];
        assert!(found(replies).contains("doubled: both made counter 2 1"));
        let gap = |ops: &mut Vec<Op>, _: &mut Finals| drop(ops.remove(7));
        assert!(found(gap).contains("doubled: counter 2 is 2, 1 more than was counted"));
    }

    #[test]
    fn what_is_stale_is_found() {
        let list = |ops: &mut Vec<Op>, _: &mut Finals| ops[2].steps = vec![read(1, "1,")];
        assert!(found(list).contains("stale"));
        let counter = |ops: &mut Vec<Op>, _: &mut Finals| {
            ops[9].steps = vec![Step::ReadCount { counter: 2, value: 1 }];
        };
        assert!(found(counter).contains("stale"));
        for id in [0, 5] {
            let register = |ops: &mut Vec<Op>, _: &mut Finals| {
                ops[6].steps = vec![Step::Read { register: 0, id }];
            };
            assert!(found(register).contains("stale"));
        }
        // A reader that takes its time may see the old value.
        let slow = |ops: &mut Vec<Op>, _: &mut Finals| {
            ops[6] = op(7, (95, 130), vec![Step::Read { register: 0, id: 5 }]);
        };
        assert_eq!(found(slow), "");
    }

    #[test]
    fn what_was_refused_is_found_where_it_is_there() {
        let list = |ops: &mut Vec<Op>, _: &mut Finals| ops[1].outcome = Outcome::NotDone;
        assert!(found(list).contains("refused, but there"));
        let register = |ops: &mut Vec<Op>, _: &mut Finals| ops[5].outcome = Outcome::NotDone;
        assert!(found(register).contains("refused, but there"));
    }

    #[test]
    fn an_update_that_is_lost_between_two_is_found() {
        let update = |ops: &mut Vec<Op>, _: &mut Finals| {
            let steps = vec![Step::Read { register: 0, id: 0 }, Step::Set { register: 0 }];
            ops.insert(4, op(12, (75, 95), steps));
        };
        assert!(found(update).contains("stale or torn"));
    }
}
