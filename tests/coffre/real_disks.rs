//! Real file systems that fill up and lose power, as [`faults`](crate::injected_faults) recipes 2 and 6 make
//! them. They need root, loop devices and mkfs.ext4; where those are missing they say `SKIPPED` and why.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{COFFRE, Client, Reply, Server, dump, on_request, run_to_end, wait_until};

/// A file system mounted in a folder of its own; it is gone when dropped.
struct Mount {
    folder: tempfile::TempDir,
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

impl Mount {
    fn path(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    fn file(&self) -> PathBuf {
        self.path().join("donnees.txt")
    }

    fn new() -> Self {
        let mount = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(mount.path()).unwrap();
        mount
    }

    /// A file system in memory of so many KiB, if this machine lets us.
    fn memory(size_kib: u32) -> Option<Self> {
        let mount = Self::new();
        let options = format!("size={size_kib}k");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(mount.path());
        succeeds(&mut command).then_some(mount)
    }

    /// An ext4 in a file, if this machine lets us.
    fn ext4(size_mib: u32) -> Option<Self> {
        let mount = Self::new();
        let image = mount.folder.path().join("image");
        fs::File::create(&image).unwrap().set_len(u64::from(size_mib) << 20).unwrap();
        let made = succeeds(Command::new("mkfs.ext4").arg("-q").arg(&image));
        (made && mount.attach()).then_some(mount)
    }

    fn attach(&self) -> bool {
        let image = self.folder.path().join("image");
        succeeds(Command::new("mount").args(["-o", "loop"]).arg(image).arg(self.path()))
    }

    fn detach(&self) -> bool {
        succeeds(Command::new("umount").arg(self.path()))
    }

    /// The file system stops at once, without writing its journal: EXT4_IOC_SHUTDOWN, NOLOGFLUSH.
    fn cut_power(&self) -> bool {
        let script = "import fcntl, os, struct, sys\n\
                      folder = os.open(sys.argv[1], os.O_RDONLY)\n\
                      fcntl.ioctl(folder, 0x8004587d, struct.pack('I', 2))";
        succeeds(Command::new("python3").args(["-c", script]).arg(self.path()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.detach() {
            succeeds(Command::new("umount").arg("-l").arg(self.path()));
        }
    }
}

/// Appends numbered tokens to a key of its own until the connection ends; returns how many were
/// acknowledged.
fn append(mut client: Client, key: &str) -> u64 {
    let mut count = 0;
    loop {
        client.send(format!("APPEND {key} {count},\r\n").as_bytes());
        match client.try_reply() {
            Some(Reply::Integer(_)) => count += 1,
            _ => return count,
        }
    }
}

/// Whether every thread of a process is stopped.
fn has_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    })
}

fn numbers(count: u64) -> String {
    (0..count).map(|number| format!("{number},")).collect()
}

/// 10 power cuts, or `COFFRE_REAL_POWER_CUTS`, each under load and in the middle of compactions.
#[test]
#[ignore = "needs root and loop devices"]
fn a_real_power_cut_takes_nothing_acknowledged() {
    const WRITERS: usize = 8;
    let Some(mount) = Mount::ext4(96) else {
        println!("SKIPPED: no root, no loop device or no mkfs.ext4: no power was cut");
        return;
    };
    let file = mount.file();
    let mut lost = 0;
    for cycle in 0..on_request("COFFRE_REAL_POWER_CUTS", 10) {
        let server = Server::start(&file);
        assert_eq!(server.client().line("FLUSHALL"), Reply::ok());
        let clients: Vec<_> = (0..WRITERS).map(|_| server.client()).collect();
        let acknowledged: Vec<u64> = std::thread::scope(|scope| {
            let append =
                |(number, client)| scope.spawn(move || append(client, &format!("log:{number}")));
            let writers: Vec<_> = clients.into_iter().enumerate().map(append).collect();
            for _ in 0..4 + cycle % 5 {
                server.signal("USR1");
                std::thread::sleep(Duration::from_millis(40));
            }
            // With the power the processor goes too. Were the server still running, an fsync under way
            // could return well from a file system that is shut down (one in twenty does on Linux 6.18,
            // for any program), and be taken for durable.
            server.signal("STOP");
            wait_until("all of it has stopped", || has_stopped(server.pid()));
            assert!(mount.cut_power(), "the ioctl is refused");
            server.kill();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        assert!(mount.detach() && mount.attach(), "mounted again");
        let server = Server::start(&file);
        let found = dump(&mut server.client());
        for (number, count) in acknowledged.iter().enumerate() {
            let log = found.get(format!("log:{number}").as_bytes()).cloned().unwrap_or_default();
            let log = String::from_utf8(log).unwrap();
            let exact = log == numbers(*count) || log == numbers(count + 1);
            assert!(exact, "cycle {cycle}: acknowledged {count}, found {log}");
        }
        lost += u64::from(server.log().contains("were moved to"));
        assert!(server.terminate().0.success());
        assert!(acknowledged.iter().sum::<u64>() > 0);
    }
    println!("{lost} of the cuts tore an end off");
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_refuses_writes_and_takes_them_again_once_there_is_room() {
    let Some(mount) = Mount::memory(300) else {
        println!("SKIPPED: no root, or no tmpfs: no disk was filled");
        return;
    };
    let file = mount.file();
    for fsync in ["always", "everysec"] {
        let filler = mount.path().join("filler");
        fs::write(&filler, vec![0; 64 << 10]).unwrap();
        let server = Server::with(&file, &["--fsync", fsync]);
        let mut client = server.client();
        assert_eq!(client.line("FLUSHALL"), Reply::ok());
        let mut acknowledged = 0;
        let refused = loop {
            let key = format!("key:{acknowledged}");
            match client.call(&[b"SET", key.as_bytes(), &[b'v'; 500]]) {
                Reply::Error(error) => break error,
                _ => acknowledged += 1,
            }
        };
        let expected =
            "MISCONF Errors writing to the AOF file: No space left on device (os error 28)";
        assert_eq!(refused, expected);
        for _ in 0..20 {
            let refused = client.call(&[b"SET", b"more", &[b'v'; 5000]]);
            assert_eq!(refused.error(), expected);
            assert_eq!(dump(&mut client).len(), acknowledged, "reads go on");
            let (code, said) = run_to_end(&[&"check", &file]);
            assert_eq!(code, 0, "the file is whole at any moment: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
        fs::remove_file(&filler).unwrap();
        wait_until("there is room", || {
            client.call(&[b"SET", b"more", &[b'v'; 5000]]) == Reply::ok()
        });
        server.kill();
        assert_eq!(dump(&mut Server::start(&file).client()).len(), acknowledged + 1);
        fs::remove_file(&file).unwrap();
    }
}

/// The file's own name is a mount: it cannot be renamed over.
#[test]
#[ignore = "needs root"]
fn a_file_that_cannot_be_renamed_is_not_compacted_and_goes_on() {
    let Some(mount) = Mount::memory(1000) else {
        println!("SKIPPED: no root, or no tmpfs: nothing was mounted");
        return;
    };
    let file = mount.file();
    fs::write(&file, "SET a 1\n").unwrap();
    assert!(Server::start(&file).terminate().0.success());
    let bind = |file: &Path| succeeds(Command::new("mount").arg("--bind").arg(file).arg(file));
    assert!(bind(&file));
    let server = Server::start(&file);
    let mut client = server.client();
    assert!(matches!(client.line("BGREWRITEAOF"), Reply::Status(_)));
    server.expect_log("not compacted: Device or resource busy");
    assert_eq!(client.line("SET a 2"), Reply::ok());
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 1, "nothing is left behind");
    // A second server is refused by that name too.
    let (code, said) = run_to_end(&[&"--port", &"0", &"--file", &file]);
    assert!(code == 1 && said.contains(COFFRE.rsplit('/').next().unwrap()), "{said}");
    server.kill();
    assert!(succeeds(Command::new("umount").arg(&file)));
    assert_eq!(Server::start(&file).client().line("GET a"), Reply::bulk("2"));
}
