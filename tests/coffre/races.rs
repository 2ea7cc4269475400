//! What two threads can do to each other where the disk fails between them: each test holds one of them
//! at the place that matters.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coffre::engine::{Engine, Session};
use coffre::persistence::disk::{Disk, DiskFile, Status};
use coffre::persistence::{Fsync, Recovery};

use crate::harness::{state, wait_until};
use crate::simulated_disk::{Plan, SimulatedDisk};

/// A disk of which the next append to the data file waits at a gate, and then fails: no space.
#[derive(Clone, Debug)]
struct GatedDisk {
    disk: SimulatedDisk,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    shut: AtomicBool,
    reached: AtomicBool,
}

#[derive(Debug)]
struct GatedFile {
    file: Arc<dyn DiskFile>,
    gate: Option<Arc<Gate>>,
}

impl GatedDisk {
    fn gated(&self, file: Arc<dyn DiskFile>, path: &Path) -> Arc<dyn DiskFile> {
        let is_rewrite = path.extension().is_some_and(|extension| extension == "tmp");
        Arc::new(GatedFile { file, gate: (!is_rewrite).then(|| Arc::clone(&self.gate)) })
    }
}

impl Disk for GatedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.gated(self.disk.open(path)?, path))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.gated(self.disk.create(path)?, path))
    }
    fn look(&self, path: &Path) -> io::Result<Status> {
        self.disk.look(path)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(folder)
    }
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.disk.sync_folder(folder)
    }
}

impl DiskFile for GatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        if let Some(gate) = &self.gate
            && gate.shut.load(Ordering::SeqCst)
        {
            gate.reached.store(true, Ordering::SeqCst);
            wait_until("the gate opens", || !gate.shut.load(Ordering::SeqCst));
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.append(bytes)
    }
    fn renew(&self, range: Range<u64>) -> io::Result<()> {
        self.file.renew(range)
    }
    fn cut(&self, length: u64) -> io::Result<()> {
        self.file.cut(length)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
    fn status(&self) -> io::Result<Status> {
        self.file.status()
    }
    fn resemble(&self, other: &Status) -> io::Result<()> {
        self.file.resemble(other)
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }
}

fn start(disk: Arc<dyn Disk>) -> Engine {
    let recovery = Recovery::on(disk, "/donnees.txt".into()).unwrap();
    Engine::start(recovery, Fsync::Always).unwrap()
}

fn commit(session: &mut Session<'_>) {
    let mark = session.take_mark();
    session.commit(mark).unwrap();
}

/// A compaction that has copied a refused write must not take the file's place.
#[test]
fn a_compaction_gives_up_when_a_write_fails_while_it_waits_to_end() {
    let disk = GatedDisk { disk: SimulatedDisk::new(1), gate: Arc::default() };
    let engine = start(Arc::new(disk.clone()));
    let mut session = Session::new(&engine);
    session.set(b"k", b"abc").unwrap();
    commit(&mut session);

    disk.gate.shut.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut session = Session::new(&engine);
            session.del([&b"k"[..]].into_iter()).unwrap();
            let mark = session.take_mark();
            session.commit(mark).is_err()
        });
        wait_until("the write is under way", || disk.gate.reached.load(Ordering::SeqCst));
        let mut compaction = engine.compaction().unwrap();
        while compaction.step().unwrap() {}
        scope.spawn(|| {
            // The compaction waits for the writer by then, most likely.
            std::thread::sleep(Duration::from_millis(100));
            disk.gate.shut.store(false, Ordering::SeqCst);
        });
        assert!(compaction.finish().is_err());
        assert!(writer.join().unwrap(), "the write was refused");
    });
    engine.heal().unwrap();
    session.append(b"k", b"d").unwrap();
    commit(&mut session);
    let memory = state(&mut session);
    assert_eq!(memory[&b"k"[..]], b"abcd");
    engine.close().unwrap();
    drop(session);
    drop(engine);
    assert_eq!(state(&mut Session::new(&start(Arc::new(disk)))), memory);
}

/// A reply that shows keys of many shards has the mark of the latest. That must not hide that another
/// of them was refused meanwhile.
#[test]
fn keys_that_were_refused_while_they_were_listed_are_not_shown() {
    let disk = SimulatedDisk::new(1);
    let engine = start(Arc::new(disk.clone()));
    let key = |start: &str, number: i32| format!("{start}:{number}").into_bytes();
    let mut writer = Session::new(&engine);
    for number in 0..2_000 {
        writer.set(&key("key", number), b"1").unwrap();
    }
    commit(&mut writer);
    let mut refused = Session::new(&engine);
    for number in 0..2_000 {
        refused.set(&key("refused", number), b"1").unwrap();
    }
    let mark = refused.take_mark();
    let (mut listed, mut healed) = (0, false);
    let mut reader = Session::new(&engine);
    reader
        .keys(b"", |key| {
            listed += usize::from(key.starts_with(b"refused"));
            if std::mem::replace(&mut healed, true) {
                return;
            }
            let at = disk.calls() + 1;
            disk.set_plan(Plan { failing: Some((at, at + 1, 28)), ..Plan::default() });
            assert!(refused.commit(mark).is_err());
            disk.set_plan(Plan::default());
            engine.heal().unwrap();
            for number in 0..2_000 {
                writer.set(format!("key:{number}").as_bytes(), b"2").unwrap();
            }
            commit(&mut writer);
        })
        .unwrap();
    assert!(listed > 0, "the first shard held some");
    let mark = reader.take_mark();
    assert!(reader.commit(mark).is_err());
}

/// A search by prefix that did not see a key whose removal was refused is refused, though the key is back before
/// it looks at another shard.
#[test]
fn a_search_that_missed_a_key_that_is_back_is_refused() {
    let disk = SimulatedDisk::new(1);
    let engine = start(Arc::new(disk.clone()));
    let mut writer = Session::new(&engine);
    let keys: Vec<_> = (0..2_000).map(|number| format!("key:{number}").into_bytes()).collect();
    for key in &keys {
        writer.set(key, b"1").unwrap();
    }
    commit(&mut writer);
    let mut remover = Session::new(&engine);
    let (kept, removed) = keys.split_at(1_000);
    remover.del(removed.iter().map(Vec::as_slice)).unwrap();
    let mark = remover.take_mark();
    let (mut listed, mut failed) = (0, false);
    let mut reader = Session::new(&engine);
    reader
        .keys(b"key:", |_| {
            listed += 1;
            if !std::mem::replace(&mut failed, true) {
                let at = disk.calls() + 1;
                disk.set_plan(Plan { failing: Some((at, at + 1, 28)), ..Plan::default() });
                assert!(remover.commit(mark).is_err());
                disk.set_plan(Plan::default());
                engine.heal().unwrap();
            }
        })
        .unwrap();
    assert!((kept.len()..keys.len()).contains(&listed), "{listed}");
    let mark = reader.take_mark();
    assert!(reader.commit(mark).is_err());
}

/// Whoever was slow through one failure, its healing and another failure is not taken for committed.
#[test]
fn a_write_that_was_refused_is_not_acknowledged_after_a_second_failure() {
    let disk = SimulatedDisk::new(1);
    let engine = start(Arc::new(disk.clone()));
    let fails = |session: &mut Session<'_>| {
        let at = disk.calls() + 1;
        disk.set_plan(Plan { failing: Some((at, at + 1, 28)), ..Plan::default() });
        let mark = session.take_mark();
        assert!(session.commit(mark).is_err());
        disk.set_plan(Plan::default());
    };
    let (mut quick, mut slow) = (Session::new(&engine), Session::new(&engine));
    slow.set(b"refused", b"1").unwrap();
    quick.set(b"x", b"1").unwrap();
    fails(&mut quick);
    engine.heal().unwrap();
    for _ in 0..5 {
        quick.set(b"x", b"2").unwrap();
        commit(&mut quick);
    }
    quick.set(b"x", b"3").unwrap();
    fails(&mut quick);
    let mark = slow.take_mark();
    assert!(slow.commit(mark).is_err());
    assert!(!state(&mut quick).contains_key(&b"refused"[..]));
}
