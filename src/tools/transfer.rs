//! `coffre export` and `coffre import`: a whole keyspace from an etcd cluster to a data file, and back.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::{Output, Progress, ToolError, write_entry};
use crate::engine::etcd::EtcdEngine;
use crate::engine::local::Loading;
use crate::engine::{Admin, Entry};
use crate::etcd_flags::{EtcdFlags, Members};
use crate::journal::{Context, Recovery};
use crate::limits::DATABASES_MAX;
use crate::text::counted;

fn open(members: &Members, flags: &EtcdFlags) -> Result<EtcdEngine, ToolError> {
    Ok(EtcdEngine::open(flags.options(members, DATABASES_MAX)?)?)
}

/// Writes every key of a keyspace to `output`, sorted and sealed.
pub fn export(
    members: &Members,
    flags: &EtcdFlags,
    output: &Path,
    report: &mut dyn Write,
) -> Result<(), ToolError> {
    let engine = open(members, flags)?;
    let output = Output::create(output)?;
    let mut databases: Vec<Vec<Entry>> = (0..DATABASES_MAX).map(|_| Vec::new()).collect();
    let mut progress = Progress::new("reading", engine.committed_keys() as u64);
    let mut count = 0;
    let revision = engine.export(&mut |database, entry| {
        databases[database].push(entry);
        count += 1;
        progress.reach(count);
    })?;
    drop(progress);
    let shown = output.path.display().to_string();
    output.write(|draft| {
        let mut lines = Vec::new();
        for (database, entries) in databases.iter_mut().enumerate() {
            draft.select(database);
            entries.sort_unstable_by(|one, other| one.key().cmp(other.key()));
            entries.iter().try_for_each(|entry| write_entry(entry, &mut lines, draft))?;
        }
        Ok(())
    })?;
    writeln!(
        report,
        "{shown}: {}, as they were at revision {revision} of {}",
        counted(count, "key"),
        engine.name()
    )?;
    Ok(())
}

/// Sets every key of a data file in a keyspace, which must have none unless `merge` is asked for.
pub fn import(
    path: &Path,
    members: &Members,
    flags: &EtcdFlags,
    merge: bool,
    report: &mut dyn Write,
) -> Result<(), ToolError> {
    let recovery = Recovery::look_at(path)?;
    let mut loading = Loading::default();
    let mut progress = Progress::new("loading", recovery.bytes());
    recovery.load(|found| {
        progress.reach(found.bytes.end);
        loading.replay(found)
    })?;
    drop(progress);
    let store = loading.finish().at(path, "load")?.store;
    let engine = Arc::new(open(members, flags)?);
    let there = engine.committed_keys() as u64;
    if there > 0 && !merge {
        return Err(ToolError::NotEmpty { place: engine.name(), keys: there });
    }
    engine.start_threads()?;
    let total = store.keys() as u64;
    let mut progress = Progress::new("writing", total);
    let mut count = 0;
    let shards: Vec<_> = store.each().collect();
    let result = (0..store.databases()).try_for_each(|database| {
        let entries: Vec<_> = shards.iter().flat_map(|shard| shard.entries(database)).collect();
        engine.import(database, &entries, &mut |done| {
            count += done as u64;
            progress.reach(count);
        })
    });
    drop(progress);
    EtcdEngine::close(&engine);
    result.map_err(|error| ToolError::Stopped { count, total, error })?;
    writeln!(report, "{}: {} of {}", engine.name(), counted(count, "key"), path.display())?;
    Ok(())
}
