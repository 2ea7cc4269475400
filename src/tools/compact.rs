//! `coffre compact`: rewrites a data file with one record per key, sorted. The records are [`super`]'s to write,
//! and the file [`crate::journal`]'s to replace.

use std::io::Write;
use std::path::Path;

use super::{Input, Output, Progress, ToolError, write_store};
use crate::engine::local::Loading;
use crate::journal::{Context, Fsync, Recovery};
use crate::text::counted;

/// Compacts the file at `path`, or writes what that would give to `output`.
pub fn compact(
    path: &Path,
    output: Option<&Path>,
    report: &mut dyn Write,
) -> Result<(), ToolError> {
    let before = Input::open(path)?.length();
    let output = output.map(Output::create).transpose()?;
    let recovery = Recovery::begin(path)?;
    let mut loading = Loading::default();
    let mut progress = Progress::new("loading", before);
    recovery.load(|found| {
        progress.reach(found.bytes.end);
        loading.replay(found)
    })?;
    drop(progress);
    let store = loading.finish().at(path, "load")?.store;
    let keys = counted(store.keys() as u64, "key");
    let (shown, after) = match output {
        Some(output) => {
            let shown = output.path.clone();
            output.write(|draft| write_store(&store, draft))?;
            let after = std::fs::metadata(&shown).at(&shown, "open")?.len();
            (shown, after)
        }
        None => {
            let journal = recovery.finish(Fsync::Always)?;
            journal.rewrite(|draft| write_store(&store, draft)).at(path, "replace")?;
            (path.to_owned(), journal.bytes())
        }
    };
    writeln!(report, "{}: {keys}; {before} bytes became {after}", shown.display())?;
    Ok(())
}
