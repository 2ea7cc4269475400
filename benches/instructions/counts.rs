//! The table of counts: read, written, compared.

use std::fmt;
use std::path::Path;
use std::process::Command;

use crate::{FALL_MAX, GROWTH_MAX, Result};

/// The instructions of all cases, and under which conditions they were counted.
pub struct Counts {
    /// See [`conditions`].
    pub conditions: String,
    pub rows: Vec<Row>,
}

/// The instructions of one operation.
pub struct Row {
    pub name: String,
    pub instructions: u64,
}

impl Counts {
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&std::fs::read_to_string(path)?)
    }

    /// Reads what [`Display`](fmt::Display) writes.
    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let conditions = lines.next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default();
        let row = |line: &str| {
            let (name, count) = line.rsplit_once(' ').ok_or(format!("no count: {line}"))?;
            Ok(Row { name: name.trim_end().to_owned(), instructions: count.parse()? })
        };
        Ok(Self {
            conditions: conditions.to_owned(),
            rows: lines.map(row).collect::<Result<Vec<_>>>()?,
        })
    }

    fn of(&self, name: &str) -> Option<u64> {
        self.rows.iter().find(|row| row.name == name).map(|row| row.instructions)
    }

    /// These counts with the change since the old ones.
    pub fn beside(&self, old: &Self) -> String {
        let line = |row: &Row| match old.of(&row.name) {
            None => format!("{:<40} {:>8}  new\n", row.name, row.instructions),
            Some(before) => {
                let change = 100.0 * (row.instructions as f64 / before as f64 - 1.0);
                format!("{:<40} {:>8}  {change:+.1} %\n", row.name, row.instructions)
            }
        };
        self.rows.iter().map(line).collect()
    }

    /// What is wrong with the old counts if these are the true ones: a sentence for each row.
    pub fn complaints(&self, old: &Self) -> Vec<String> {
        let change = |row: &Row| match old.of(&row.name) {
            None => Some(format!("{}: is not in the table", row.name)),
            Some(before) => {
                let ratio = row.instructions as f64 / before as f64;
                let is_fine = (1.0 - FALL_MAX..=1.0 + GROWTH_MAX).contains(&ratio);
                (!is_fine).then(|| format!("{}: {before} became {}", row.name, row.instructions))
            }
        };
        let is_gone = |row: &&Row| self.of(&row.name).is_none();
        let gone = old.rows.iter().filter(is_gone);
        let gone = gone.map(|row| format!("{}: is no longer counted", row.name));
        self.rows.iter().filter_map(change).chain(gone).collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}", self.conditions)?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{:<40} {}", row.name, row.instructions))
    }
}

/// What the counts depend on beside the code: the compiler, the C library and valgrind. Valgrind shows a program one of a
/// few processors of its own, with AVX2 or without, whatever else the real one has.
pub fn conditions() -> Result<String> {
    let first_line = |program: &str| -> Result<String> {
        let output = Command::new(program).arg("--version").output()?.stdout;
        Ok(String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned())
    };
    let features = match std::fs::read_to_string("/proc/cpuinfo") {
        Ok(text) if text.contains(" avx2 ") => "avx2",
        _ => "no avx2",
    };
    let (rustc, libc) = (first_line("rustc")?, first_line("ldd")?);
    Ok(format!("{rustc}, {libc}, {}, {features}", first_line("valgrind")?))
}

/// That the comparison can fail: a bench has no unit tests, so this runs before each count.
pub fn assert_changes_are_found() {
    let counts = |count: u64| Counts {
        conditions: "c".to_owned(),
        rows: vec![Row { name: "SET of a key".to_owned(), instructions: count }],
    };
    let old = counts(1000);
    for fine in [950, 1000, 1020] {
        assert!(counts(fine).complaints(&old).is_empty());
    }
    for wrong in [949, 1021] {
        let complaint = format!("SET of a key: 1000 became {wrong}");
        assert_eq!(counts(wrong).complaints(&old), [complaint]);
    }
    let none = Counts { conditions: String::new(), rows: Vec::new() };
    assert_eq!(old.complaints(&none), ["SET of a key: is not in the table"]);
    assert_eq!(none.complaints(&old), ["SET of a key: is no longer counted"]);
    let parsed = Counts::parse(&old.to_string());
    assert!(parsed.is_ok_and(|parsed| parsed.of("SET of a key") == Some(1000)));
}
