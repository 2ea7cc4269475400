//! Figures: what is measured, in which unit, and what becomes of repeated measurements.
//!
//! A ratio is taken repetition by repetition, between two servers that ran one after the other, so that
//! slow noise cancels out; what is shown is the median of these ratios, with the least and the greatest.

use crate::workload::{Goal, Load, Workload};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Operations per second.
    Throughput,
    /// Median latency in milliseconds.
    P50,
    /// 99th percentile of latency in milliseconds.
    P99,
    /// 99.9th percentile of latency in milliseconds.
    P999,
    /// Processor time of the server, user and system, in microseconds per operation.
    Cpu,
    /// Resident bytes per key.
    Memory,
    /// Seconds from the start of the process to the first answer.
    Startup,
    /// The most memory that was resident during the start, beyond what is resident after it, in MiB.
    StartupMemory,
    /// Bytes on disk per key.
    Disk,
    /// Time of one `KEYS` in milliseconds.
    KeysTime,
    /// A figure under a condition over the same without it.
    WithOverWithout,
    /// A throughput over the server's own with 50 clients.
    OfFifty,
}

impl Metric {
    /// With its unit, as a column says it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Throughput => "operations/s",
            Self::P50 => "p50 ms",
            Self::P99 => "p99 ms",
            Self::P999 => "p99.9 ms",
            Self::Cpu => "server CPU µs/operation",
            Self::Memory => "resident bytes/key",
            Self::Startup => "start-up s",
            Self::StartupMemory => "extra MiB at start-up",
            Self::Disk => "disk bytes/key",
            Self::KeysTime => "time ms",
            Self::WithOverWithout => "with/without",
            Self::OfFifty => "of its own with 50 clients",
        }
    }

    /// A value as tables show it.
    pub fn shown(self, value: f64) -> String {
        match self {
            Self::Throughput => thousands(value),
            Self::P50 | Self::P99 | Self::P999 | Self::KeysTime => format!("{value:.3}"),
            Self::Cpu | Self::Startup | Self::WithOverWithout | Self::OfFifty => {
                format!("{value:.2}")
            }
            Self::Memory | Self::StartupMemory | Self::Disk => format!("{value:.1}"),
        }
    }

    /// Whether a value is worse than another.
    pub fn is_worse(self, value: f64, other: f64) -> bool {
        match self {
            Self::Throughput | Self::OfFifty => value < other,
            _ => value > other,
        }
    }
}

/// One measurement on one server.
pub struct Figure {
    /// What the clients do, if the workload's name does not say it.
    pub operation: &'static str,
    /// What was measured.
    pub metric: Metric,
    /// In the unit of the metric.
    pub value: f64,
}

/// A measurement on all servers.
pub struct Row {
    /// Where it comes from.
    pub workload: &'static Workload,
    /// As in [`Figure`].
    pub operation: &'static str,
    /// As in [`Figure`].
    pub metric: Metric,
    /// By server, then by repetition; coffre first, then Redis. Empty where a server does not take part.
    pub values: Vec<Vec<f64>>,
}

impl Row {
    /// A row for such figures, still without any.
    pub fn new(workload: &'static Workload, figure: &Figure, servers: usize) -> Self {
        let &Figure { operation, metric, .. } = figure;
        Self { workload, operation, metric, values: vec![Vec::new(); servers] }
    }

    /// Whether a figure of the same workload belongs here.
    pub fn is_of(&self, figure: &Figure) -> bool {
        (self.operation, self.metric) == (figure.operation, figure.metric)
    }

    /// Under which conditions, and what is done.
    pub fn title(&self) -> String {
        match self.operation {
            "" => self.workload.name.to_owned(),
            operation => format!("{}: {operation}", self.workload.name),
        }
    }

    /// What a server achieves.
    pub fn median(&self, server: usize) -> Option<f64> {
        median(&self.values[server])
    }

    /// coffre's figure over Redis's: median, least, greatest.
    pub fn ratio(&self) -> Option<[f64; 3]> {
        self.ratio_of(0)
    }

    /// The same of any server.
    pub fn ratio_of(&self, server: usize) -> Option<[f64; 3]> {
        let pairs = self.values[server].iter().zip(&self.values[1]);
        // Nothing over nothing is no ratio.
        let ratios: Vec<_> =
            pairs.map(|(own, redis)| own / redis).filter(|ratio| ratio.is_finite()).collect();
        let least = ratios.iter().copied().reduce(f64::min)?;
        let greatest = ratios.iter().copied().reduce(f64::max)?;
        Some([median(&ratios)?, least, greatest])
    }

    /// The goal, if there is one.
    pub fn goal(&self) -> Option<Goal> {
        let mut goals = self.workload.goals.iter();
        let own = |(operation, metric, _): &&(&str, Metric, Goal)| {
            (*operation, *metric) == (self.operation, self.metric)
        };
        goals.find(own).map(|(_, _, goal)| *goal)
    }

    /// Whether the goal is met, if there is one.
    pub fn is_goal_met(&self) -> Option<bool> {
        Some(match self.goal()? {
            Goal::RatioAtLeast(least) => self.ratio()?[0] >= least,
            Goal::RatioAtMost(most) => self.ratio()?[0] <= most,
            Goal::AtMost(most) => self.median(0)? <= most,
            Goal::AtLeast(least) => self.median(0)? >= least,
        })
    }

    /// Whether Redis does better.
    pub fn is_redis_ahead(&self) -> bool {
        self.ratio().is_some_and(|[ratio, ..]| self.metric.is_worse(ratio, 1.0))
    }
}

/// The middle one, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        even if even % 2 == 0 => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        _ => Some(sorted[middle]),
    }
}

/// A whole number with a comma after each three digits.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The rows that follow from others: throughputs with many clients over those with 50.
pub fn of_fifty(rows: &[Row]) -> Vec<Row> {
    let clients = |row: &Row| match row.workload.load {
        Load::Standard { clients, pipeline: 1, .. } if row.metric == Metric::Throughput => clients,
        _ => 0,
    };
    let many = rows.iter().filter(|row| clients(row) > 100);
    let follows = many.filter_map(|row| {
        let is_like = |other: &&Row| {
            (other.workload.fsync, other.operation) == (row.workload.fsync, row.operation)
        };
        let fifty = rows.iter().filter(|other| clients(other) == 50).find(is_like)?;
        let over = |(many, fifty): (&Vec<f64>, &Vec<f64>)| {
            many.iter().zip(fifty).map(|(many, fifty)| many / fifty).collect()
        };
        let values = row.values.iter().zip(&fifty.values).map(over).collect();
        Some(Row { metric: Metric::OfFifty, values, ..*row })
    });
    follows.collect()
}
