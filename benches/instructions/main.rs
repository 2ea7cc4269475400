//! Instructions per operation, counted by callgrind: a ratchet that the noise of a machine does not move.
//!
//! `cargo bench --bench instructions` counts and shows each row beside that of `counts.txt`; `-- --update` writes that file,
//! and `-- --check` fails where a row grew by more than [`GROWTH_MAX`], so that a change that costs more says so in the same
//! commit, or fell by more than [`FALL_MAX`], so that what was won is not lost again unseen. Counts of another compiler or
//! processor mean nothing: then the check is skipped, and says so. Needs valgrind.
//!
//! A case is run with some operations and with twice as many; the difference is what the operations took, without the
//! beginning and the end. Requests go to a server over a socket, many in one write: then its threads never wait.

mod cases;
mod counts;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use cases::{CASES, Case};
use counts::{Counts, Row};

/// How much a row may grow without a change of the table.
const GROWTH_MAX: f64 = 0.02;
/// How much a row may fall without a change of the table.
const FALL_MAX: f64 = 0.05;
/// How often each count is taken; the median counts.
const REPETITIONS: usize = 3;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [] => show(),
        ["--update"] => update(),
        ["--check"] => check(),
        ["--case", name, count] => cases::run_here(name, count),
        _ => Err("usage: cargo bench --bench instructions [-- --update | --check]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn table() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/counts.txt")
}

fn show() -> Result<()> {
    let (old, new) = (Counts::read(&table())?, count()?);
    print!("{}", new.beside(&old));
    Ok(())
}

fn update() -> Result<()> {
    let new = count()?;
    std::fs::write(table(), new.to_string())?;
    print!("{new}");
    Ok(())
}

fn check() -> Result<()> {
    let old = Counts::read(&table())?;
    let conditions = counts::conditions()?;
    if old.conditions != conditions {
        println!("SKIPPED: the counts are of {}, and this is {conditions}", old.conditions);
        return Ok(());
    }
    let new = count()?;
    print!("{}", new.beside(&old));
    match new.complaints(&old).as_slice() {
        [] => Ok(()),
        complaints => Err(format!(
            "counts.txt is no longer true (+{} %, -{} %):\n{}\n\
             if that is as it should be: cargo bench --bench instructions -- --update",
            100.0 * GROWTH_MAX,
            100.0 * FALL_MAX,
            complaints.join("\n")
        )
        .into()),
    }
}

/// Counts all cases.
fn count() -> Result<Counts> {
    counts::assert_changes_are_found();
    let row = |case: &Case| {
        let mut counts =
            (0..REPETITIONS).map(|_| per_operation(case)).collect::<Result<Vec<_>>>()?;
        counts.sort_by(f64::total_cmp);
        Ok(Row { name: case.name.to_owned(), instructions: counts[REPETITIONS / 2].round() as u64 })
    };
    let rows = CASES.iter().map(row).collect::<Result<Vec<_>>>()?;
    Ok(Counts { conditions: counts::conditions()?, rows })
}

fn per_operation(case: &Case) -> Result<f64> {
    let (few, many) = (case.operations, 2 * case.operations);
    let difference = case.instructions(many)?.saturating_sub(case.instructions(few)?);
    Ok(difference as f64 / case.operations as f64)
}

/// A command under callgrind, which tells its count at the end, on standard error.
fn counted(program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The count in what callgrind says.
fn collected(report: &[u8]) -> Result<u64> {
    let text = String::from_utf8_lossy(report);
    let count = text.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = count.ok_or_else(|| format!("callgrind counted nothing:\n{text}"))?;
    Ok(count.trim().parse()?)
}
