//! Flags, exit codes, one server per file, signals: what a person meets who starts and stops it.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{COFFRE, Client, Reply, Server, folder, run_to_end, wait_until};

#[test]
fn the_version_and_the_help_are_true() {
    let (code, _) = run_to_end(&[&"--version"]);
    assert_eq!(code, 0);
    let output = Command::new(COFFRE).arg("--version").output().unwrap();
    let expected = format!("coffre {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    let output = Command::new(COFFRE).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for part in
        ["--port", "--bind", "--file", "--fsync", "--maxclients", "COFFRE_PORT", "Examples:"]
    {
        assert!(help.contains(part), "{part}");
    }
    // The README has a row for each flag and its variable.
    let readme = include_str!("../../README.md");
    let words = help.split(|end: char| end.is_whitespace() || "[]<>`=,;:.)(".contains(end));
    let flags: BTreeSet<&str> = words.clone().filter(|word| word.starts_with("--")).collect();
    assert!(flags.len() > 15, "{flags:?}");
    for flag in flags.into_iter().filter(|flag| !matches!(*flag, "--" | "--help" | "--version")) {
        assert!(readme.contains(&format!("| `{flag} ")), "{flag}");
    }
    for variable in words.filter(|word| word.starts_with("COFFRE_")) {
        assert!(readme.contains(&format!("| `{variable}` |")), "{variable}");
    }
}

#[test]
fn a_start_on_a_missing_file_creates_it_and_says_so() {
    let (folder, file) = folder();
    let server = Server::start(&file);
    let log = server.expect_log("fsync always, 0 keys loaded");
    let path = file.canonicalize().unwrap();
    assert!(
        log.contains(&format!("{}: it did not exist and was created", path.display())),
        "{log}"
    );
    assert!(fs::read_to_string(&file).unwrap().starts_with("# coffre 2 id="));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn settings_may_come_from_the_environment() {
    let (_folder, file) = folder();
    let mut command = Command::new(COFFRE);
    command.env("COFFRE_PORT", "0").env("COFFRE_FILE", &file).env("COFFRE_FSYNC", "everysec");
    command.env("COFFRE_BIND", "127.0.0.1,127.0.0.2").env("COFFRE_MAXCLIENTS", "7");
    let server = Server::spawn(command);
    let mut client = server.client();
    for (name, value) in [
        ("appendfsync", "everysec"),
        ("maxclients", "7"),
        ("bind", "127.0.0.1 127.0.0.2"),
        ("port", &server.port.to_string()),
    ] {
        let expected = Reply::Array(vec![Reply::bulk(name), Reply::bulk(value)]);
        assert_eq!(client.line(&format!("CONFIG GET {name}")), expected);
    }
    let other = std::net::TcpStream::connect(("127.0.0.2", server.port));
    assert!(other.is_ok());
}

#[test]
fn an_ipv6_address_may_be_bound() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("SKIPPED: this machine has no IPv6");
        return;
    }
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--bind", "127.0.0.1", "--bind", "::1"]);
    assert!(std::net::TcpStream::connect(("::1", server.port)).is_ok());
    assert_eq!(Client::connect(server.port).line("PING"), Reply::Status("PONG".to_owned()));
}

#[test]
fn a_name_may_be_bound_and_is_every_address_it_has() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--bind", "localhost"]);
    assert_eq!(server.client().line("PING"), Reply::pong());
    let bound = Reply::Array(["bind", "localhost"].map(Reply::bulk).to_vec());
    assert_eq!(server.client().line("CONFIG GET bind"), bound);
    drop(server);
    // One that is no name is a usage error, one that does not resolve a bad address.
    let run = |name: &str| run_to_end(&[&"--port", &"0", &"--bind", &name, &"--file", &file]);
    assert_eq!(run("no name").0, 2);
    // Longer than a part of a name may be: nobody needs to ask a name server.
    let name = format!("{}.invalid", "x".repeat(64));
    let (code, said) = run(&name);
    assert_eq!(code, 1, "{said}");
    assert!(said.starts_with(&format!("coffre: {name}: ")), "{said}");
}

/// What was meant to be a setting and is none would else be noticed when it is needed.
#[test]
fn variables_that_are_no_settings_are_warned_about() {
    let (_folder, file) = folder();
    let run = |variables: &[(&str, &str)]| {
        let mut command = Command::new(COFFRE);
        // A folder that is not there: it ends at once.
        let missing = file.join("missing");
        command.args(["--port", "0", "--file"]).arg(missing).env("RUST_LOG", "info");
        let output = command.envs(variables.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = run(&[("COFFRE_REQUIREPAS", "sesame"), ("COFFRE_MAXCLIENTS", "7")]);
    assert!(said.contains("WARN") && said.contains("is COFFRE_REQUIREPASS meant?"), "{said}");
    assert!(!said.contains("sesame") && !said.contains("MAXCLIENTS"), "{said}");
    let said = run(&[("RUST_LOG", "inof")]);
    assert!(
        said.contains("RUST_LOG: 'inof' is no level") && said.contains("is info meant?"),
        "{said}"
    );
}

#[test]
fn a_data_file_without_its_flag_is_answered_by_the_flag() {
    let (_folder, file) = folder();
    fs::write(&file, "SET a 1\n").unwrap();
    for arguments in [&[&file as &dyn AsRef<std::ffi::OsStr>][..], &[&"--port", &"0", &file]] {
        let (code, said) = run_to_end(arguments);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(&format!("coffre --file {}", file.display())), "{said}");
    }
    let (_, said) = run_to_end(&[&"chek"]);
    assert!(said.contains("'check'") && !said.contains("--file"), "{said}");
}

/// Errors are told in the words of the system, wherever they were found out.
#[test]
fn a_file_that_is_not_there_is_told_as_the_system_does() {
    let (folder, file) = folder();
    fs::write(&file, "SET a 1\n").unwrap();
    let missing = folder.path().join("missing");
    for tool in ["check", "seal", "compact"] {
        let (code, said) = run_to_end(&[&tool, &missing]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("missing: open: No such file or directory"), "{said}");
    }
    let (_, said) = run_to_end(&[&"compact", &file, &"--output", &file]);
    assert!(said.contains("donnees.txt: create: File exists"), "{said}");
    let log = Server::start(&file).expect_log("loaded");
    assert!(log.contains(", 1 key loaded in "), "{log}");
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [["--port", "lots"], ["--fsync", "often"], ["--nonsense", "1"]] {
        assert_eq!(run_to_end(&[&arguments[0], &arguments[1]]).0, 2);
    }
}

#[test]
fn a_port_in_use_exits_with_4_and_leaves_the_file_alone() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let (folder, file) = folder();
    let run = || run_to_end(&[&"--port", &port, &"--file", &file]);
    let (code, said) = run();
    assert_eq!(code, 4, "{said}");
    assert!(said.contains(&format!("127.0.0.1:{port}: Address already in use")), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no file is created");

    // Not even a torn tail is cut.
    let torn = b"# coffre 1 id=7f3a9c2e51d0\nSET a";
    fs::write(&file, torn).unwrap();
    assert_eq!(run().0, 4);
    assert_eq!(fs::read(&file).unwrap(), torn);
}

#[test]
fn an_address_given_twice_is_one() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--bind", "127.0.0.1", "--bind", "127.0.0.1"]);
    assert_eq!(server.client().line("PING"), Reply::Status("PONG".to_owned()));
}

#[test]
fn addresses_that_overlap_exit_with_4_and_leave_no_file() {
    let (folder, file) = folder();
    let binds = [&"--bind", &"127.0.0.1", &"--bind", &"0.0.0.0"];
    let (code, said) =
        run_to_end(&[&"--port", &"0", &"--file", &file, binds[0], binds[1], binds[2], binds[3]]);
    assert_eq!(code, 4, "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_address_that_is_not_ours_exits_with_1() {
    let (_folder, file) = folder();
    let (code, said) = run_to_end(&[&"--port", &"0", &"--bind", &"192.0.2.1", &"--file", &file]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("192.0.2.1:0: Cannot assign requested address"), "{said}");
}

#[test]
fn what_is_no_usable_file_exits_with_1_naming_path_and_reason() {
    let (folder, _) = folder();
    let path = |name: &str| folder.path().join(name);
    symlink(path("nowhere"), path("dangling")).unwrap();
    assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    let cases = [
        (folder.path().to_owned(), "it is a folder, the data file must be a regular file"),
        (path("pipe"), "it is a named pipe"),
        (path("socket"), "it is a socket"),
        ("/dev/full".into(), "it is a device"),
        (path("dangling"), "a symbolic link to nothing"),
        (path("new.txt/"), "it is a folder"),
        (path("missing/donnees.txt"), "open its folder: No such file or directory"),
        // A folder that nobody may write to, root neither.
        ("/proc/donnees.txt".into(), "create: "),
    ];
    for (file, reason) in cases {
        let (code, said) = run_to_end(&[&"--port", &"0", &"--file", &file]);
        assert_eq!(code, 1, "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(&file.display().to_string()) && said.contains(reason), "{said}");
    }
}

#[test]
fn a_file_without_permission_exits_with_1() {
    let (_folder, file) = folder();
    fs::write(&file, "SET a 1\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&file).is_ok() {
        println!("SKIPPED: root may open any file");
        return;
    }
    let (code, said) = run_to_end(&[&"--port", &"0", &"--file", &file]);
    assert_eq!(code, 1);
    assert!(said.contains("open: Permission denied"), "{said}");
}

#[test]
fn a_leftover_without_its_file_is_refused_and_beside_it_removed() {
    let (folder, file) = folder();
    let leftover = folder.path().join("donnees.txt.tmp");
    fs::write(&leftover, "# coffre 1 id=7f3a9c2e51d0\n").unwrap();
    let (code, said) = run_to_end(&[&"--port", &"0", &"--file", &file]);
    assert_eq!(code, 3);
    assert!(said.contains("donnees.txt.tmp does: restore the data file"), "{said}");
    assert!(!file.exists());

    fs::write(&file, "SET a 1\n").unwrap();
    let server = Server::start(&file);
    assert_eq!(server.client().line("GET a"), Reply::bulk("1"));
    assert!(!leftover.exists());
    drop(server);

    // A creation that a crash interrupted leaves a second name; a file somebody uses is left alone.
    let (created, other) = (folder.path().join("donnees.txt.new-0123456789ab"), leftover);
    fs::hard_link(&file, &created).unwrap();
    let holder = Server::start(&other);
    let server = Server::start(&file);
    assert_eq!(server.client().line("GET a"), Reply::bulk("1"));
    assert_eq!(holder.client().line("SET b 1"), Reply::ok());
    assert!(!created.exists() && other.exists());
}

#[test]
fn a_second_server_on_the_file_exits_and_says_who_holds_it() {
    let (folder, file) = folder();
    let server = Server::start(&file);
    let (link, hard) = (folder.path().join("link"), folder.path().join("hard"));
    symlink(&file, &link).unwrap();
    fs::hard_link(&file, &hard).unwrap();
    for path in [&file, &link, &hard] {
        let (code, said) = run_to_end(&[&"--port", &"0", &"--file", path]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("process {} (coffre) holds it", server.pid())), "{said}");
    }
    assert_eq!(server.client().line("SET a 1"), Reply::ok());
    server.kill();
    assert_eq!(Server::start(&file).client().line("GET a"), Reply::bulk("1"));
}

#[test]
fn a_symbolic_link_to_the_file_stays_a_link() {
    let (folder, file) = folder();
    fs::write(&file, "SET a 1\n").unwrap();
    let link = folder.path().join("link");
    symlink(&file, &link).unwrap();
    assert_eq!(Server::start(&link).client().line("SET b 2"), Reply::ok());
    assert!(link.is_symlink());
    assert!(fs::read_to_string(&file).unwrap().contains("SET b 2\n"));
}

#[test]
fn sigterm_and_sigint_answer_what_was_received_and_exit_with_0() {
    for signal in ["TERM", "INT"] {
        let (_folder, file) = folder();
        // Without deadlines of clients a stop that waited for one would never end.
        let flags = ["--fsync", "no", "--request-timeout", "0", "--write-timeout", "0"];
        let mut server = Server::with(&file, &flags);
        // A connection that the server has not accepted yet is reset: each is known to it first.
        let known = || {
            let mut client = server.client();
            assert_eq!(client.line("PING"), Reply::Status("PONG".to_owned()));
            client
        };
        let mut idle: Vec<_> = (0..50).map(|_| known()).collect();
        let mut half = known();
        half.send(b"SET half 1");
        let mut busy = known();
        busy.send(&b"SET a 1\r\n".repeat(1000));
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        assert!(server.log().contains("stopped; every acknowledged write is on disk"));
        let farewell = b"-ERR server is shutting down\r\n";
        let replies = busy.read_to_end();
        assert!(replies.starts_with(&b"+OK\r\n".repeat(1000)) && replies.ends_with(farewell));
        idle.iter_mut().for_each(|client| assert_eq!(client.read_to_end(), farewell));
        assert_eq!(half.read_to_end(), farewell);
        // The mark covers the last write, whatever the fsync mode.
        let text = fs::read_to_string(&file).unwrap();
        let seals: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with("#= "))
            .map(|line| line.split(' ').collect())
            .collect();
        let [.., records, last] = &seals[..] else { panic!("{text}") };
        assert_eq!((last[2], last[4]), ("0", records[1]), "{text}");
        let server = Server::start(&file);
        assert_eq!(server.client().line("EXISTS a half"), Reply::Integer(1));
    }
}

#[test]
fn writers_at_work_when_it_stops_lose_nothing_acknowledged() {
    for round in 0..10 {
        let (_folder, file) = folder();
        let mut server = Server::with(&file, &["--fsync", ["always", "everysec", "no"][round % 3]]);
        let clients: Vec<_> = (0..6).map(|_| server.client()).collect();
        let at_work = AtomicUsize::new(0);
        let acknowledged: Vec<usize> = std::thread::scope(|scope| {
            let writers: Vec<_> = clients
                .into_iter()
                .enumerate()
                .map(|(number, mut client)| {
                    let at_work = &at_work;
                    scope.spawn(move || {
                        let mut count = 0;
                        loop {
                            use std::io::Write;
                            let line = format!("APPEND log{number} x\r\n");
                            if client.stream.write_all(line.as_bytes()).is_err() {
                                return count;
                            }
                            match client.try_reply() {
                                Some(Reply::Integer(length)) => {
                                    at_work.fetch_add(usize::from(count == 0), Ordering::Relaxed);
                                    count = length as usize;
                                }
                                _ => return count,
                            }
                        }
                    })
                })
                .collect();
            wait_until("each has written", || at_work.load(Ordering::Relaxed) == 6);
            std::thread::sleep(Duration::from_millis(30));
            server.signal("TERM");
            assert_eq!(server.wait().code(), Some(0), "{}", server.log());
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let server = Server::start(&file);
        let log = server.expect_log("keys loaded");
        assert!(!log.contains("moved to"), "{log}");
        let mut client = server.client();
        for (number, count) in acknowledged.into_iter().enumerate() {
            assert!(count > 0);
            let reply = client.line(&format!("APPEND log{number} \"\""));
            let Reply::Integer(found) = reply else { panic!("{reply:?}") };
            assert!(found as usize == count || found as usize == count + 1);
        }
    }
}

#[test]
fn a_client_that_does_not_read_cannot_hold_up_the_end() {
    let (_folder, file) = folder();
    let mut server = Server::with(&file, &["--write-timeout", "0"]);
    server.client().call(&[b"SET", b"big", &vec![b'v'; 16 << 20]]);
    let mut deaf: Vec<_> = (0..10).map(|_| server.client()).collect();
    deaf.iter_mut().for_each(|client| client.send(&b"GET big\r\n".repeat(4)));
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn a_second_signal_ends_at_once() {
    let (_folder, file) = folder();
    let mut server = Server::start(&file);
    server.client().call(&[b"SET", b"big", &vec![b'v'; 16 << 20]]);
    let mut deaf = server.client();
    assert_eq!(deaf.line("PING"), Reply::Status("PONG".to_owned()));
    deaf.send(&b"GET big\r\n".repeat(4));
    // Two kinds: the system may make one of two signals of a kind.
    server.signal("INT");
    server.signal("TERM");
    // Two that are pending together have no order: either may be the second.
    let code = server.wait().code();
    assert!(code == Some(128 + 15) || code == Some(128 + 2), "{code:?}");
}

#[test]
fn a_closed_terminal_or_a_closed_pipe_stops_nothing() {
    let (_folder, file) = folder();
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" --port 0 --file \"$1\" 2>&-", COFFRE]).arg(&file);
    let server = Server::spawn(command);
    server.signal("HUP");
    assert_eq!(server.client().line("SET a 1"), Reply::ok());
}

/// As `copytruncate` of logrotate does it; SIGHUP is not needed, and does no harm.
#[test]
fn a_log_that_is_truncated_goes_on_at_its_new_end() {
    let (folder, file) = folder();
    let log = folder.path().join("log");
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" --port 0 --file \"$1\" 2>> \"$2\"", COFFRE]);
    command.arg(&file).arg(&log);
    let server = Server::spawn(command);
    let read = || fs::read_to_string(&log).unwrap();
    crate::harness::wait_until("it logs", || read().contains("listens on"));
    fs::write(&log, "").unwrap();
    server.signal("HUP");
    assert_eq!(server.client().line("CONFIG SET timeout 7"), Reply::ok());
    crate::harness::wait_until("it logs again", || read().contains("changes timeout"));
    assert!(read().starts_with('['), "{:?}", read());
}

#[test]
fn a_restart_binds_the_same_port_at_once() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let port = server.port.to_string();
    let mut client = server.client();
    assert_eq!(client.line("PING"), Reply::Status("PONG".to_owned()));
    // The server closes first: its port is left in TIME_WAIT.
    let (status, _) = server.terminate();
    assert!(status.success());
    drop(client);
    let mut command = Command::new(COFFRE);
    command.args(["--port", &port, "--file"]).arg(&file);
    assert_eq!(Server::spawn(command).port.to_string(), port);
}

#[test]
fn the_sample_of_the_repository_loads() {
    let sample = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("donnees.txt");
    let bytes = fs::read(&sample).unwrap();
    let (_folder, file) = folder();
    // A copy: a server may be running on the original.
    fs::write(&file, &bytes).unwrap();
    let server = Server::start(&file);
    let mut client = server.client();
    assert_eq!(client.line("GET ville"), Reply::bulk("Orléans"));
    assert_eq!(fs::read(&file).unwrap(), bytes, "loading a clean file changes nothing");
}
