//! What was measured, as tables on standard output, and as `performance.md` with plots.
//!
//! The prose is that of a template; what a run adds stands in it as `{{name}}`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::{Context, Result};
use crate::figures::{Metric, Row};
use crate::growth;
use crate::plot::{self, Plot};
use crate::workload::{Goal, REASONS};

const TEMPLATE: &str = include_str!("performance.md");

/// A table and its plot.
struct Section {
    /// As the template has it, and the plot's file.
    name: &'static str,
    title: &'static str,
    metrics: &'static [Metric],
    /// Which metrics are drawn, and how; nothing without any.
    drawn: &'static [Metric],
    axis: &'static str,
    mark: Option<f64>,
    is_logarithmic: bool,
}

const SECTIONS: &[Section] = {
    use Metric::*;
    const NOT_DRAWN: Section = Section {
        name: "",
        title: "",
        metrics: &[],
        drawn: &[],
        axis: "milliseconds; less is better",
        mark: None,
        is_logarithmic: false,
    };
    &[
        Section {
            name: "throughput",
            title: "Throughput",
            metrics: &[Throughput, OfFifty],
            drawn: &[Throughput],
            axis: "throughput over that of Redis; more is better",
            mark: Some(1.0),
            ..NOT_DRAWN
        },
        Section {
            name: "latency",
            title: "Latency",
            metrics: &[P50, P99, P999, WithOverWithout],
            drawn: &[P50, P99],
            is_logarithmic: true,
            ..NOT_DRAWN
        },
        Section { name: "cpu", title: "Server CPU", metrics: &[Cpu], ..NOT_DRAWN },
        Section {
            name: "memory",
            title: "Memory",
            metrics: &[Memory],
            drawn: &[Memory],
            axis: "resident bytes per key; less is better",
            mark: Some(60.0),
            ..NOT_DRAWN
        },
        Section {
            name: "keys",
            title: "KEYS prefix*",
            metrics: &[KeysTime],
            drawn: &[KeysTime],
            mark: Some(1.0),
            is_logarithmic: true,
            ..NOT_DRAWN
        },
        Section {
            name: "startup",
            title: "Start-up and disk",
            metrics: &[Startup, StartupMemory, Disk],
            ..NOT_DRAWN
        },
    ]
};

/// All tables.
pub fn tables(rows: &[Row], names: &[&str]) -> String {
    let table = |section: &Section| table(section, rows, names);
    let tables = SECTIONS.iter().filter_map(|section| Some((section.title, table(section)?)));
    tables.map(|(title, table)| format!("{title}\n\n{table}\n")).collect()
}

/// Writes `performance.md` and its plots; `noise` is a sentence.
pub fn write(
    folder: &Path,
    rows: &[Row],
    names: &[&str],
    versions: &[String],
    noise: &str,
) -> Result<()> {
    fs::create_dir_all(folder).context(folder.display().to_string())?;
    let mut text = TEMPLATE.to_owned();
    for section in SECTIONS {
        let mut part =
            table(section, rows, names).unwrap_or("Not measured in this run.\n".to_owned());
        if let Some(plot) = plot_of(section, rows, names) {
            let file = format!("performance-{}.svg", section.name);
            plot::draw(&folder.join(&file), &plot)?;
            part += &format!("\n![{}]({file})\n", plot.title);
        }
        text = fill(&text, section.name, &part);
    }
    let file = "performance-growth.svg";
    let growth = match growth::draw(&folder.join(file), rows, names)? {
        true => format!("![Growth with the number of clients]({file})"),
        false => "Not measured in this run.".to_owned(),
    };
    text = fill(&text, "growth", &growth);
    text = fill(&text, "behind", &behind(rows));
    text = fill(&text, "noise", noise);
    text = fill(&text, "machine", &machine()?);
    text = fill(&text, "versions", &versions.join(", "));
    text = fill(&text, "date", &today()?);
    text = fill(&text, "command", &command());
    let file = folder.join("performance.md");
    fs::write(&file, text).context(file.display().to_string())
}

fn fill(text: &str, name: &str, with: &str) -> String {
    text.replace(&format!("{{{{{name}}}}}"), with.trim_end())
}

/// One table, `None` if nothing of it was measured.
fn table(section: &Section, rows: &[Row], names: &[&str]) -> Option<String> {
    let mut lines = vec![vec!["workload".to_owned(), "measure".to_owned()]];
    lines[0].extend(names.iter().map(|name| (*name).to_owned()));
    lines[0].extend(["coffre/redis", "min..max", "goal", "met"].map(str::to_owned));
    for row in rows.iter().filter(|row| section.metrics.contains(&row.metric)) {
        let mut cells = vec![row.title(), row.metric.title().to_owned()];
        let shown = |value| row.metric.shown(value);
        cells.extend((0..names.len()).map(|index| row.median(index).map_or(String::new(), shown)));
        let [ratio, range] =
            row.ratio().map_or_else(Default::default, |[ratio, least, greatest]| {
                [shown_ratio(ratio), format!("{}..{}", shown_ratio(least), shown_ratio(greatest))]
            });
        let met = row.is_goal_met().map_or("", |met| if met { "yes" } else { "no" });
        let goal = row.goal().map_or(String::new(), |goal| shown_goal(goal, row.metric));
        cells.extend([ratio, range, goal, met.to_owned()]);
        lines.push(cells);
    }
    (lines.len() > 1).then(|| aligned(&lines))
}

fn shown_goal(goal: Goal, metric: Metric) -> String {
    match goal {
        Goal::RatioAtLeast(least) => format!("ratio ≥ {least}"),
        Goal::RatioAtMost(most) => format!("ratio ≤ {most}"),
        Goal::AtMost(most) => format!("{} ≤ {most}", metric.title()),
        Goal::AtLeast(least) => format!("{} ≥ {least}", metric.title()),
    }
}

fn shown_ratio(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.4}") } else { format!("{ratio:.2}") }
}

/// A table of Markdown whose columns stand below each other; the first line is the head.
fn aligned(lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for (number, cells) in lines.iter().enumerate() {
        for (cell, &width) in cells.iter().zip(&widths) {
            text += &format!("| {cell:width$} ");
        }
        text += "|\n";
        if number == 0 {
            text +=
                &widths.iter().map(|width| format!("|{:-<1$}", "", width + 2)).collect::<String>();
            text += "|\n";
        }
    }
    text
}

/// The plot of a section, `None` if nothing of it was measured. Throughputs, which differ by orders of
/// magnitude, are drawn as ratios to Redis.
fn plot_of(section: &Section, rows: &[Row], names: &[&str]) -> Option<Plot> {
    let label = |row: &Row| match section.drawn {
        [_] => row.title(),
        _ => format!("{}, {}", row.title(), row.metric.title()),
    };
    let value = |row: &Row, server: usize| match row.metric {
        Metric::Throughput => row.ratio_of(server).map(|[ratio, ..]| ratio),
        _ => row.median(server),
    };
    let values =
        |row: &Row| (0..names.len()).map(|server| value(row, server).unwrap_or(f64::NAN)).collect();
    let drawn = rows.iter().filter(|row| section.drawn.contains(&row.metric));
    let drawn = drawn.filter(|row| row.ratio().is_some());
    let rows: Vec<_> = drawn.map(|row| (label(row), values(row))).collect();
    (!rows.is_empty()).then(|| Plot {
        title: section.title.to_owned(),
        axis: section.axis.to_owned(),
        series: names.iter().map(|name| (*name).to_owned()).collect(),
        rows,
        mark: section.mark,
        is_logarithmic: section.is_logarithmic,
    })
}

/// Where Redis is ahead, or a goal is missed, and why: workload by workload.
fn behind(rows: &[Row]) -> String {
    let of_one = |rows: &[Row]| {
        let name = rows[0].workload.name;
        let told: Vec<_> = rows.iter().filter_map(shortfall).collect();
        let known = REASONS.iter().find(|(workload, _)| *workload == name);
        let why = known.map_or("not explained", |(_, reason)| reason);
        (!told.is_empty()).then(|| format!("- **{name}**: {}. Why: {why}.\n", told.join("; ")))
    };
    let by_workload = rows.chunk_by(|one, next| one.workload.name == next.workload.name);
    match by_workload.filter_map(of_one).collect::<String>() {
        none if none.is_empty() => "Nowhere in this run.".to_owned(),
        text => text,
    }
}

/// How far a row is behind Redis or its goal, if it is.
fn shortfall(row: &Row) -> Option<String> {
    let is_missed = row.is_goal_met() == Some(false);
    (row.is_redis_ahead() || is_missed).then(|| {
        let ratio = row
            .ratio()
            .map_or(String::new(), |[ratio, ..]| format!(" {} of Redis's", shown_ratio(ratio)));
        let goal = row.goal().filter(|_| is_missed);
        let goal =
            goal.map_or(String::new(), |it| format!(", missing {}", shown_goal(it, row.metric)));
        format!("{} {}{ratio}{goal}", row.operation, row.metric.title()).trim_start().to_owned()
    })
}

/// Processor, memory and kernel, as the system says; nothing that names the machine.
fn machine() -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).context(path);
    let (processor, memory) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?);
    let after = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
        line.map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let kilobytes = after(&memory, "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
    let kernel = read("/proc/version")?;
    let kernel = kernel.split_whitespace().nth(2).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    Ok(format!(
        "{} ({cores} cores), {:.0} GiB of memory, Linux {}",
        after(&processor, "model name"),
        kilobytes / f64::from(1 << 20),
        kernel.split('-').next().unwrap_or_default(),
    ))
}

fn today() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output().context("date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What repeats this run; folders stay out of it.
fn command() -> String {
    let mut text = "cargo bench --bench redis".to_owned();
    let mut arguments = std::env::args().skip(1).filter(|it| it != "--bench").peekable();
    if arguments.peek().is_some() {
        text += " --";
    }
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--out" => drop(arguments.next()),
            out if out.starts_with("--out=") => {}
            // Of a path its last part: where the commands are is this machine's business.
            other => match (other.split_once('='), other.rsplit_once('/')) {
                (Some((name, _)), Some((_, file))) => text += &format!(" {name}={file}"),
                _ => text += &format!(" {other}"),
            },
        }
    }
    text
}
