//! What two threads can do to each other where the disk fails between them: each test holds one of them
//! at the place that matters.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coffre::engine::local::LocalEngine;
use coffre::engine::local::store::{Hashing, Store};
use coffre::engine::{Admin, Txn};
use coffre::journal::disk::Disk;
use coffre::journal::{Fsync, Recovery};
use coffre::util::clock::unix_time_ms;

use crate::gated_disk::{GatedDisk, Gates};
use crate::handle::{Access, Handle};
use crate::harness::{state, wait_until};
use crate::simulated_disk::{Plan, SimulatedDisk};

fn start(disk: Arc<dyn Disk>) -> LocalEngine {
    start_with(disk, Fsync::Always)
}

fn start_with(disk: Arc<dyn Disk>, fsync: Fsync) -> LocalEngine {
    let recovery = Recovery::on(disk, "/donnees.txt".into()).unwrap();
    // The same key is in the same shard in every run.
    LocalEngine::start_with(recovery, fsync, Store::new(Hashing::Repeatable(1))).unwrap()
}

const IO_ERROR: i32 = 5;
const NO_SPACE: i32 = 28;

/// A write and a sync of the same file are under way at once, and end in either order, well or not.
/// A file of which a sync failed must get no further byte, and nothing acknowledged is lost.
#[test]
fn a_failed_sync_is_not_forgotten_whatever_fails_before_or_after_it() {
    for fsync in [Fsync::Everysec, Fsync::No] {
        for write_ends_first in [true, false] {
            for (write_code, sync_code) in
                [(0, 0), (0, IO_ERROR), (NO_SPACE, 0), (NO_SPACE, IO_ERROR), (IO_ERROR, NO_SPACE)]
            {
                let case = (fsync, write_ends_first, write_code, sync_code);
                let disk = GatedDisk::new();
                write_while_syncing(&disk, fsync, write_ends_first, write_code, sync_code);
                assert!(!disk.disk.take_write_after_failed_sync(), "{case:?}");
            }
        }
    }
}

fn write_while_syncing(
    disk: &GatedDisk,
    fsync: Fsync,
    write_ends_first: bool,
    write_code: i32,
    sync_code: i32,
) {
    let engine = start_with(Arc::new(disk.clone()), fsync);
    let mut handle = Handle::new(&engine);
    handle.set(b"before", b"1").unwrap();
    handle.commit().unwrap();
    let Gates { append, sync } = &*disk.gates;
    append.shut();
    sync.shut();
    let is_written = std::thread::scope(|scope| {
        let syncer = scope.spawn(|| match fsync {
            Fsync::Everysec => engine.sync_second(),
            _ => drop(engine.save()),
        });
        sync.await_call();
        let writer = scope.spawn(|| {
            let mut handle = Handle::new(&engine);
            handle.set(b"during", b"1").unwrap();
            let mark = handle.take_commit_point();
            handle.commit_to(mark).is_ok()
        });
        append.await_call();
        let end_sync = || {
            sync.open(sync_code);
            syncer.join().unwrap();
        };
        let end_write = || {
            append.open(write_code);
            writer.join().unwrap()
        };
        match write_ends_first {
            true => {
                let is_written = end_write();
                end_sync();
                is_written
            }
            false => {
                end_sync();
                end_write()
            }
        }
    });
    // What was under way when the sync failed could not be held back.
    disk.disk.take_write_after_failed_sync();
    engine.repair().unwrap();
    handle.set(b"after", b"1").unwrap();
    handle.commit().unwrap();
    engine.save().unwrap();
    drop(handle);
    drop(engine);
    let found = state(&mut Handle::new(&start(Arc::new(disk.disk.power_cut()))));
    assert!(found.contains_key(&b"before"[..]) && found.contains_key(&b"after"[..]));
    assert!(found.contains_key(&b"during"[..]) || !is_written);
}

/// A compaction that has copied a refused write must not take the file's place.
#[test]
fn a_compaction_gives_up_when_a_write_fails_while_it_waits_to_end() {
    let disk = GatedDisk::new();
    let engine = start(Arc::new(disk.clone()));
    let mut handle = Handle::new(&engine);
    handle.set(b"k", b"abc").unwrap();
    handle.commit().unwrap();

    disk.gates.append.shut();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut handle = Handle::new(&engine);
            handle.del(&[&b"k"[..]]).unwrap();
            let mark = handle.take_commit_point();
            handle.commit_to(mark).is_err()
        });
        disk.gates.append.await_call();
        let mut compaction = engine.compaction().unwrap();
        while compaction.step().unwrap() {}
        scope.spawn(|| {
            // The compaction waits for the writer by then, most likely.
            std::thread::sleep(Duration::from_millis(100));
            disk.gates.append.open(NO_SPACE);
        });
        assert!(compaction.finish().is_err());
        assert!(writer.join().unwrap(), "the write was refused");
    });
    engine.repair().unwrap();
    handle.append(b"k", b"d").unwrap();
    handle.commit().unwrap();
    let memory = state(&mut handle);
    assert_eq!(memory[&b"k"[..]], b"abcd");
    engine.close().unwrap();
    drop(handle);
    drop(engine);
    assert_eq!(state(&mut Handle::new(&start(Arc::new(disk)))), memory);
}

/// A reply that shows keys of many shards has the mark of the latest. That must not hide that another
/// of them was refused meanwhile.
#[test]
fn keys_that_were_refused_while_they_were_listed_are_not_shown() {
    let disk = SimulatedDisk::new(1);
    let engine = start(Arc::new(disk.clone()));
    let key = |start: &str, number: i32| format!("{start}:{number}").into_bytes();
    let mut writer = Handle::new(&engine);
    for number in 0..2_000 {
        writer.set(&key("key", number), b"1").unwrap();
    }
    writer.commit().unwrap();
    let mut refused = Handle::new(&engine);
    for number in 0..2_000 {
        refused.set(&key("refused", number), b"1").unwrap();
    }
    let mark = refused.take_commit_point();
    let (mut listed, mut healed) = (0, false);
    let mut reader = Handle::new(&engine);
    reader
        .keys(b"", &mut |key| {
            listed += usize::from(key.starts_with(b"refused"));
            if std::mem::replace(&mut healed, true) {
                return;
            }
            let at = disk.calls() + 1;
            disk.set_plan(Plan { failing: Some((at, at + 1, 28)), ..Plan::default() });
            assert!(refused.commit_to(mark).is_err());
            disk.set_plan(Plan::default());
            engine.repair().unwrap();
            for number in 0..2_000 {
                writer.set(format!("key:{number}").as_bytes(), b"2").unwrap();
            }
            writer.commit().unwrap();
        })
        .unwrap();
    assert!(listed > 0, "the first shard held some");
    let mark = reader.take_commit_point();
    assert!(reader.commit_to(mark).is_err());
}

/// A search by prefix that did not see a key whose removal was refused is refused, though the key is back before
/// it looks at another shard.
#[test]
fn a_search_that_missed_a_key_that_is_back_is_refused() {
    let disk = SimulatedDisk::new(1);
    let engine = start(Arc::new(disk.clone()));
    let mut writer = Handle::new(&engine);
    let keys: Vec<_> = (0..2_000).map(|number| format!("key:{number}").into_bytes()).collect();
    for key in &keys {
        writer.set(key, b"1").unwrap();
    }
    writer.commit().unwrap();
    let mut remover = Handle::new(&engine);
    let (kept, removed) = keys.split_at(1_000);
    remover.del(&removed.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    let mark = remover.take_commit_point();
    let (mut listed, mut failed) = (0, false);
    let mut reader = Handle::new(&engine);
    reader
        .keys(b"key:", &mut |_| {
            listed += 1;
            if !std::mem::replace(&mut failed, true) {
                let at = disk.calls() + 1;
                disk.set_plan(Plan { failing: Some((at, at + 1, 28)), ..Plan::default() });
                assert!(remover.commit_to(mark).is_err());
                disk.set_plan(Plan::default());
                engine.repair().unwrap();
            }
        })
        .unwrap();
    assert!((kept.len()..keys.len()).contains(&listed), "{listed}");
    let mark = reader.take_commit_point();
    assert!(reader.commit_to(mark).is_err());
}

/// Whoever was slow through one failure, its healing and another failure is not taken for committed.
#[test]
fn a_write_that_was_refused_is_not_acknowledged_after_a_second_failure() {
    let disk = SimulatedDisk::new(1);
    let engine = start(Arc::new(disk.clone()));
    let fails = |handle: &mut Handle<'_>| {
        let at = disk.calls() + 1;
        disk.set_plan(Plan { failing: Some((at, at + 1, 28)), ..Plan::default() });
        let mark = handle.take_commit_point();
        assert!(handle.commit_to(mark).is_err());
        disk.set_plan(Plan::default());
    };
    let (mut quick, mut slow) = (Handle::new(&engine), Handle::new(&engine));
    slow.set(b"refused", b"1").unwrap();
    quick.set(b"x", b"1").unwrap();
    fails(&mut quick);
    engine.repair().unwrap();
    for _ in 0..5 {
        quick.set(b"x", b"2").unwrap();
        quick.commit().unwrap();
    }
    quick.set(b"x", b"3").unwrap();
    fails(&mut quick);
    let mark = slow.take_commit_point();
    assert!(slow.commit_to(mark).is_err());
    assert!(!state(&mut quick).contains_key(&b"refused"[..]));
}

/// A write that waits for a lock while its key expires finds it gone, as others did meanwhile.
#[test]
fn a_key_that_was_seen_expired_is_not_alive_again() {
    let engine = start(Arc::new(SimulatedDisk::new(1)));
    let mut handle = Handle::new(&engine);
    let expires_ms = unix_time_ms() + 2_000;
    handle.set_until(b"k", b"1", Some(expires_ms)).unwrap();
    let mut seen = Handle::new(&engine);
    let is_locked = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            wait_until("it is locked", || is_locked.load(Ordering::SeqCst));
            Handle::new(&engine).expire(b"k", None).unwrap()
        });
        let locked = seen.on(b"k", |txn, key| {
            assert!(txn.now_ms() < expires_ms);
            is_locked.store(true, Ordering::SeqCst);
            wait_until("it expires", || unix_time_ms() > expires_ms);
            assert!(txn.get(key)?.is_some(), "the time stands still while the locks are held");
            Ok(())
        });
        locked.unwrap();
        assert!(seen.get(b"k").is_none());
        assert!(!writer.join().unwrap());
    });
}

/// What a refused write would have made garbage is none, and a refused flush keeps no file.
#[test]
fn a_refused_write_leaves_no_trace_in_the_counts() {
    let disk = SimulatedDisk::new(1);
    let engine = start(Arc::new(disk.clone()));
    let mut handle = Handle::new(&engine);
    let value = vec![b'v'; 4 << 20];
    handle.set(b"a", &value).unwrap();
    handle.set(b"b", b"1").unwrap();
    handle.commit().unwrap();
    engine.free_all_undo();
    let before = engine.status().garbage_bytes;
    let refused = |handle: &mut Handle<'_>| {
        let at = disk.calls() + 1;
        disk.set_plan(Plan { failing: Some((at, at + 1, NO_SPACE)), ..Plan::default() });
        let mark = handle.take_commit_point();
        assert!(handle.commit_to(mark).is_err());
        disk.set_plan(Plan::default());
        engine.repair().unwrap();
        engine.free_all_undo();
    };
    handle.del(&[&b"a"[..], b"b"]).unwrap();
    refused(&mut handle);
    handle.swap(0, 1).unwrap();
    refused(&mut handle);
    handle.flush(true).unwrap();
    refused(&mut handle);
    assert_eq!(engine.status().garbage_bytes, before);
    // Enough garbage for a compaction, which would keep the file for a flush.
    for _ in 0..12 {
        handle.set(b"a", &value).unwrap();
        handle.commit().unwrap();
    }
    engine.free_all_undo();
    engine.tend_compaction(Duration::ZERO);
    let files = disk.files();
    assert!(engine.status().file_bytes < 20 << 20, "it was compacted");
    assert_eq!(files.len(), 1, "{files:?}");
}

/// What a flush removed is kept where there is room for it, and given up where there is none.
#[test]
fn a_flush_is_kept_as_long_as_the_disk_has_room() {
    for (room, kept) in [(u64::MAX, 1), (1 << 20, 0)] {
        let disk = SimulatedDisk::new(1);
        let engine = start(Arc::new(disk.clone()));
        let mut handle = Handle::new(&engine);
        handle.set(b"before", b"1").unwrap();
        handle.flush(true).unwrap();
        handle.commit().unwrap();
        disk.set_room(room);
        let value = vec![b'v'; 4 << 20];
        for _ in 0..12 {
            handle.set(b"a", &value).unwrap();
            handle.commit().unwrap();
        }
        engine.free_all_undo();
        engine.tend_compaction(Duration::ZERO);
        assert!(engine.status().file_bytes < 20 << 20, "it was compacted");
        let is_kept = |path: &PathBuf| path.to_string_lossy().contains(".flushed-");
        assert_eq!(disk.files().iter().filter(|path| is_kept(path)).count(), kept, "room {room}");
    }
}

/// A client that waited for the lock while another touched the key finds it idle for no time, not for a century.
#[test]
fn a_key_that_was_touched_meanwhile_is_not_idle() {
    let engine = start(Arc::new(SimulatedDisk::new(1)));
    let mut handle = Handle::new(&engine);
    handle.set(b"k", b"1").unwrap();
    let is_locked = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            wait_until("it is locked", || is_locked.load(Ordering::SeqCst));
            Handle::new(&engine).on(b"k", |txn, key| txn.idle_s(key)).unwrap()
        });
        let touched = handle.on(b"k", |txn, key| {
            is_locked.store(true, Ordering::SeqCst);
            // The asker waits for the lock by then, most likely; and the next second has begun.
            std::thread::sleep(Duration::from_millis(1_200));
            engine.tick();
            assert!(txn.get(key)?.is_some());
            Ok(())
        });
        touched.unwrap();
        assert_eq!(asker.join().unwrap(), Some(0));
    });
}
