//! What a user sees of a cluster: two coffres that are one, no majority, a full database, users, TLS, moving in and out.

use std::process::Command;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, MEMBERS, is_installed};
use crate::harness::{
    COFFRE, Client, Reply, Server, dump, folder, info_of, run_to_end, wait_until,
};

fn coffre(cluster: &Cluster, flags: &[&str]) -> Server {
    let mut command = Command::new(COFFRE);
    command.args(["--port", "0", "--engine", &cluster.engine()]).args(flags);
    Server::spawn(command)
}

fn error(reply: &Reply) -> &str {
    match reply {
        Reply::Error(text) => text,
        other => panic!("no error: {other:?}"),
    }
}

#[test]
#[ignore = "needs etcd"]
fn two_coffres_are_one() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let servers = [coffre(&cluster, &[]), coffre(&cluster, &[])];
    let [mut one, mut two] = servers.each_ref().map(Server::client);
    for number in 0..20 {
        assert_eq!(one.line("INCR n"), Reply::Integer(2 * number + 1));
        assert_eq!(two.line("INCR n"), Reply::Integer(2 * number + 2));
    }
    // A watched key that the other changes, and one that comes and goes there.
    one.line("SET k 1");
    for (watched, lines) in [("k", &["APPEND k 2"][..]), ("none", &["SET none 1", "DEL none"])] {
        assert_eq!(one.line(&format!("WATCH {watched}")), Reply::ok());
        lines.iter().for_each(|line| drop(two.line(line)));
        one.line("MULTI");
        one.line("SET lost 1");
        assert_eq!(one.line("EXEC"), Reply::Nil, "{watched}");
    }
    assert_eq!(two.line("EXISTS lost"), Reply::Integer(0));
    // A page of SCAN from each in turn.
    for number in 0..250 {
        two.line(&format!("SET key:{number} v"));
    }
    let (mut cursor, mut seen, mut turn) = ("0".to_owned(), Vec::new(), 0);
    loop {
        let client = if turn % 2 == 0 { &mut one } else { &mut two };
        let Reply::Array(page) = client.line(&format!("SCAN {cursor} MATCH key:* COUNT 20")) else {
            panic!()
        };
        let [next, Reply::Array(keys)] = &page[..] else { panic!("{page:?}") };
        seen.extend(keys.iter().map(|key| String::from_utf8(key.clone().into_bytes()).unwrap()));
        cursor = String::from_utf8(next.clone().into_bytes()).unwrap();
        turn += 1;
        if cursor == "0" {
            break;
        }
    }
    assert!(turn > 5, "{turn} pages");
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 250);
    // What expires is gone for both at once, and is deleted in the end.
    one.line("FLUSHALL");
    one.line("SET gone 1 PX 20");
    wait_until("it has expired", || two.line("GET gone") == Reply::Nil);
    wait_until("it is deleted", || one.line("DBSIZE") == Reply::Integer(0));
}

#[test]
#[ignore = "needs etcd"]
fn without_a_majority_commands_are_refused_until_there_is_one() {
    if !is_installed() {
        return;
    }
    let mut cluster = Cluster::start();
    let server = coffre(&cluster, &["--etcd-timeout", "1", "--metrics-port", "0"]);
    let metrics = server.expect_log("metrics by HTTP on");
    let metrics =
        metrics.lines().find_map(|line| line.split("metrics by HTTP on 127.0.0.1:").nth(1));
    let metrics: u16 = metrics.unwrap().trim().parse().unwrap();
    let health = || {
        let mut client = Client::connect(metrics);
        client.send(b"GET /health HTTP/1.0\r\n\r\n");
        String::from_utf8(client.read_to_end()).unwrap()
    };
    let mut client = server.client();
    assert_eq!(client.line("SET a 1"), Reply::ok());
    assert!(health().starts_with("HTTP/1.1 200 "));
    // One that is down is not noticed; without the leader commands wait for an election, which may take more than a second.
    let leader = cluster.leader().unwrap();
    let others = [(leader + 1) % MEMBERS, (leader + 2) % MEMBERS];
    cluster.kill(others[0]);
    for _ in 0..20 {
        assert!(matches!(client.line("INCR a"), Reply::Integer(_)));
    }
    cluster.kill(others[1]);
    let started = Instant::now();
    assert!(error(&client.line("GET a")).starts_with("CLUSTERDOWN "));
    // Whether this one was done is not known, or it is known that it was not.
    let write = client.line("SET a x");
    assert!(["CLUSTERDOWN ", "MISCONF "].iter().any(|code| error(&write).starts_with(code)));
    assert!(error(&client.line("SET a y")).starts_with("CLUSTERDOWN "));
    let burst = "GET a\r\nINCR b\r\nSET a z\r\n";
    client.send(burst.as_bytes());
    (0..3).for_each(|_| assert!(error(&client.reply()).starts_with("CLUSTERDOWN ")));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(client.line("PING"), Reply::Status("PONG".to_owned()));
    wait_until("it says that it is not well", || health().starts_with("HTTP/1.1 503 "));
    let leader = info_of(&mut client, "cluster_engine", "members_answering");
    assert_eq!(leader, "1");
    cluster.start_member(others[1]);
    wait_until("it takes writes again", || client.line("SET a 5") == Reply::ok());
    assert_eq!(client.line("INCR a"), Reply::Integer(6));
    wait_until("it says that it is well", || health().starts_with("HTTP/1.1 200 "));
}

#[test]
#[ignore = "needs etcd"]
fn a_full_database_refuses_writes_and_is_read() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::with(&["--quota-backend-bytes", "8388608"]);
    let server = coffre(&cluster, &[]);
    let mut client = server.client();
    assert_eq!(client.line("SET a 1"), Reply::ok());
    let value = vec![b'v'; 500_000];
    let mut refused = None;
    for number in 0..100 {
        match client.call(&[b"SET", format!("big:{number}").as_bytes(), &value]) {
            Reply::Error(text) => refused = refused.or(Some(text)),
            reply => assert_eq!(reply, Reply::ok()),
        }
    }
    assert!(
        refused.as_ref().is_some_and(|text| text.starts_with("OOM etcd is full")),
        "{refused:?}"
    );
    assert_eq!(client.line("GET a"), Reply::Bulk(b"1".to_vec()));
    wait_until("INFO tells", || info_of(&mut client, "cluster_engine", "alarms") != "0");
    // More than etcd takes at once is an error of its own.
    let huge = vec![b'v'; 2_000_000];
    let reply = client.call(&[b"SET", b"huge", &huge]);
    assert!(
        error(&reply).contains("too large") || error(&reply).contains("etcd is full"),
        "{reply:?}"
    );
}

#[test]
#[ignore = "needs etcd"]
fn a_keyspace_moves_out_and_in() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let server = coffre(&cluster, &[]);
    let mut client = server.client();
    for number in 0..300 {
        client.line(&format!("SET key:{number} value:{number}"));
    }
    client.call(&[b"SET", b"\x00\xff=@", &vec![b'\r'; 300_000]]);
    client.line("SET later 1 PXAT 33177117420123");
    client.line("SELECT 3");
    client.line("SET other 3");
    let before = dump(&mut client);
    let (folder, file) = folder();
    let engine = cluster.engine();
    let (code, said) = run_to_end(&[&"export", &engine, &file]);
    assert_eq!(code, 0, "{said}");
    // It is an ordinary data file, sealed, and nothing is written over.
    let (code, said) = run_to_end(&[&"check", &file]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = run_to_end(&[&"export", &engine, &file]);
    assert!(code == 1 && said.contains("File exists"), "{said}");
    let local = Server::start(&file);
    assert!(dump(&mut local.client()) == before);
    local.kill();
    // Into another keyspace of the cluster, but not on top of one.
    let into = |flags: &[&str]| {
        let (file, engine) = (file.to_str().unwrap(), engine.as_str());
        let words = [&["import", file, engine, "--etcd-prefix", "/second/"], flags].concat();
        let words: Vec<&dyn AsRef<std::ffi::OsStr>> = words.iter().map(|word| word as _).collect();
        run_to_end(&words)
    };
    let (code, said) = into(&[]);
    assert_eq!(code, 0, "{said}");
    let second = coffre(&cluster, &["--etcd-prefix", "/second/"]);
    assert!(dump(&mut second.client()) == before);
    let (code, said) = into(&[]);
    assert!(
        code == 1 && said.contains("there are 303 keys already") && said.contains("--merge"),
        "{said}"
    );
    second.client().line("SET key:1 changed");
    second.client().line("SET new 1");
    assert_eq!(into(&["--merge"]).0, 0);
    assert_eq!(second.client().line("GET key:1"), Reply::Bulk(b"value:1".to_vec()));
    assert_eq!(second.client().line("GET new"), Reply::Bulk(b"1".to_vec()));
    drop(folder);
}

#[test]
#[ignore = "needs etcd"]
fn a_user_with_a_password_is_let_in() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    for words in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "coffre:ouvre"],
        &["role", "add", "coffre"],
        &["role", "grant-permission", "coffre", "--prefix=true", "readwrite", "/coffre/"],
        &["user", "grant-role", "coffre", "coffre"],
        &["auth", "enable"],
    ] {
        cluster.control(0, words).unwrap();
    }
    let (folder, _) = folder();
    let password = folder.path().join("password");
    let start = |password_text: &str| {
        std::fs::write(&password, password_text).unwrap();
        let mut command = Command::new(COFFRE);
        command.args(["--port", "0", "--engine", &cluster.engine(), "--etcd-user", "coffre"]);
        command.arg("--etcd-password-file").arg(&password);
        Server::try_spawn(command)
    };
    let said = start("wrong\n").err().expect("it is not let in");
    assert!(said.contains("authentication failed"), "{said}");
    let server = start("ouvre\n").unwrap_or_else(|said| panic!("{said}"));
    assert_eq!(server.client().line("INCR a"), Reply::Integer(1));
}

#[test]
#[ignore = "needs etcd"]
fn members_are_spoken_to_by_tls() {
    if !is_installed() {
        return;
    }
    let (folder, _) = folder();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=etcd"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder.path())
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        println!("SKIPPED: this machine has no openssl to make a certificate with");
        return;
    }
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let cluster = Cluster::with_tls(&cert, &key);
    let server = coffre(&cluster, &["--etcd-ca", &cert, "--etcd-cert", &cert, "--etcd-key", &key]);
    assert_eq!(server.client().line("INCR a"), Reply::Integer(1));
    // A stranger's certificate is not shown to.
    let mut command = Command::new(COFFRE);
    command.args(["--port", "0", "--engine", &cluster.engine(), "--etcd-timeout", "1"]);
    let said = Server::try_spawn(command).err().expect("it speaks no http");
    assert!(said.contains("etcd"), "{said}");
}
