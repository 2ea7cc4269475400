//! The list of clients, and what the server tells of itself.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::{
    Client, PATIENCE, Reply, Server, descriptors, folder, has_file, info, info_of, is_cluster,
    wait_until,
};

/// The lines of `CLIENT LIST`, each by the names of its fields.
fn list(client: &mut Client, command: &str) -> Vec<HashMap<String, String>> {
    let text = String::from_utf8(client.line(command).into_bytes()).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    let field = |field: &str| {
        let (name, value) = field.split_once('=').unwrap();
        (name.to_owned(), value.to_owned())
    };
    text.lines().map(|line| line.split(' ').map(field).collect()).collect()
}

#[test]
fn client_list_shows_who_is_connected_and_what_they_do() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let (mut first, mut second) = (server.client(), server.client());
    assert_eq!(first.line("CLIENT SETNAME premier"), Reply::ok());
    assert_eq!(second.line("CLIENT SETINFO LIB-NAME redis-py"), Reply::ok());
    assert_eq!(second.line("CLIENT SETINFO LIB-VER 8.1.0"), Reply::ok());
    assert_eq!(first.line("SET a 1"), Reply::ok());
    second.send(b"*2\r\n$3\r\nGET\r\n$5\r\nab");
    wait_until("half a request is there", || list(&mut first, "CLIENT LIST")[1]["qbuf"] == "19");
    let clients = list(&mut first, "CLIENT LIST");
    let address = |client: &Client| client.stream.local_addr().unwrap().to_string();
    let [one, two] = &clients[..] else { panic!("{clients:?}") };
    for (found, expected) in [
        (&one["id"], "1"),
        (&one["name"], "premier"),
        (&one["addr"], &address(&first)),
        (&one["laddr"], &format!("127.0.0.1:{}", server.port)),
        (&one["cmd"], "client|list"),
        (&one["flags"], "N"),
        (&one["user"], "default"),
        (&one["resp"], "2"),
        (&two["id"], "2"),
        (&two["addr"], &address(&second)),
        (&two["lib-name"], "redis-py"),
        (&two["lib-ver"], "8.1.0"),
        (&two["cmd"], "client|setinfo"),
        (&two["tot-cmds"], "2"),
    ] {
        assert_eq!(found, expected);
    }
    assert!(two["tot-net-in"].parse::<u64>().unwrap() > 60);
    assert!(two["age"].parse::<u64>().unwrap() < 20);
    // Those asked for, and no others.
    assert_eq!(list(&mut first, "CLIENT LIST ID 2 7").len(), 1);
    assert_eq!(list(&mut first, "CLIENT LIST TYPE normal").len(), 2);
    assert_eq!(list(&mut first, "CLIENT LIST TYPE pubsub").len(), 0);
    assert_eq!(list(&mut first, "CLIENT INFO")[0]["id"], "1");
    second.send(b"cde\r\n");
    assert_eq!(second.reply(), Reply::Nil);
    drop(second);
    wait_until("the second has left", || list(&mut first, "CLIENT LIST").len() == 1);
}

#[test]
fn client_errors_are_those_of_redis() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    for (line, error) in [
        ("CLIENT LIST TYPE king", "ERR Unknown client type 'king'"),
        ("CLIENT LIST ID x", "ERR Invalid client ID"),
        ("CLIENT LIST ALL", "ERR syntax error"),
        ("CLIENT KILL 1.2.3.4:5", "ERR No such client"),
        ("CLIENT KILL ID 0", "ERR client-id should be greater than 0"),
        ("CLIENT KILL USER moi", "ERR No such user 'moi'"),
        ("CLIENT KILL ID 1 SKIPME", "ERR syntax error"),
        ("CLIENT KILL SKIPME maybe", "ERR syntax error"),
        ("CLIENT REPLY maybe", "ERR syntax error"),
        ("CLIENT NO-EVICT maybe", "ERR syntax error"),
        ("CLIENT PAUSE x", "ERR timeout is not an integer or out of range"),
        ("CLIENT PAUSE -1", "ERR timeout is negative"),
        ("CLIENT PAUSE 1 READ", "ERR CLIENT PAUSE mode must be WRITE or ALL"),
        (
            "CLIENT SETNAME \"a b\"",
            "ERR Client names cannot contain spaces, newlines or special characters.",
        ),
        ("CLIENT FOO", "ERR unknown subcommand 'FOO'. Try CLIENT HELP."),
        ("SLOWLOG GET -2", "ERR count should be greater than or equal to -1"),
        (
            "DEBUG SLEEP 0",
            "ERR DEBUG command not allowed. If the enable-debug-command option is set to \
            \"local\", you can run it from a local connection, otherwise you need to set this option when \
            you start the server.",
        ),
    ] {
        assert_eq!(client.line(line).error(), error, "{line}");
    }
}

#[test]
fn client_kill_ends_those_it_names_and_no_others() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut clients: Vec<_> = (0..5).map(|_| server.client()).collect();
    // In this order: connections are numbered as they are accepted.
    clients.iter_mut().for_each(|client| assert_eq!(client.line("PING"), Reply::pong()));
    let mut admin = server.client();
    assert_eq!(admin.line("CLIENT KILL ID 2"), Reply::Integer(1));
    assert_eq!(clients[1].try_reply(), None);
    let address = clients[0].stream.local_addr().unwrap();
    assert_eq!(admin.line(&format!("CLIENT KILL {address}")), Reply::ok());
    assert_eq!(clients[0].try_reply(), None);
    assert_eq!(admin.line("CLIENT KILL TYPE replica"), Reply::Integer(0));
    assert_eq!(admin.line("CLIENT KILL MAXAGE 3600"), Reply::Integer(0));
    assert_eq!(clients[2].line("PING"), Reply::pong());
    // All but the one who asks; then that one, once it has its reply.
    assert_eq!(admin.line("CLIENT KILL TYPE normal"), Reply::Integer(3));
    clients[2..].iter_mut().for_each(|client| assert_eq!(client.try_reply(), None));
    admin.send(b"CLIENT KILL TYPE normal SKIPME no\r\nPING\r\n");
    assert_eq!(admin.read_to_end(), b":1\r\n");
}

#[test]
fn a_client_may_ask_for_no_replies() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    client.send(b"CLIENT REPLY SKIP\r\nSET a 1\r\nGET a\r\n");
    assert_eq!(client.reply(), Reply::bulk("1"));
    client.send(
        b"CLIENT REPLY OFF\r\nSET a 2\r\nFOO\r\nCLIENT REPLY SKIP\r\nGET a\r\nCLIENT REPLY ON\r\n",
    );
    assert_eq!(client.reply(), Reply::ok());
    assert_eq!(client.line("GET a"), Reply::bulk("2"));
    // What is not answered is written all the same.
    client.send(b"CLIENT REPLY OFF\r\nSET b 1\r\n");
    let mut other = server.client();
    wait_until("it is there", || other.line("GET b") == Reply::bulk("1"));
    assert_eq!(server.restart(&file).client().line("GET b"), Reply::bulk("1"));
}

#[test]
fn a_pause_holds_up_what_it_says_and_ends() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let (mut admin, mut client) = (server.client(), server.client());
    assert_eq!(admin.line("CLIENT PAUSE 600000 WRITE"), Reply::ok());
    // Reads go on; what came before the write is answered before it waits.
    client.send(b"GET a\r\nSET a 1\r\nGET a\r\n");
    assert_eq!(client.reply(), Reply::Nil);
    assert_eq!(admin.line("GET a"), Reply::Nil);
    assert_eq!(admin.line("CLIENT UNPAUSE"), Reply::ok());
    assert_eq!(client.reply(), Reply::ok());
    assert_eq!(client.reply(), Reply::bulk("1"));

    // A pause of everything ends by itself.
    let started = Instant::now();
    assert_eq!(admin.line("CLIENT PAUSE 300"), Reply::ok());
    assert_eq!(client.line("PING"), Reply::pong());
    assert!(started.elapsed() >= Duration::from_millis(300));

    // A client that leaves while it waits frees its place; what it sent before is run, as after a half-close.
    assert_eq!(admin.line("CLIENT PAUSE 600000 WRITE"), Reply::ok());
    let mut gone = server.client();
    gone.send(b"SET gone 1\r\n");
    wait_until("it waits", || list(&mut admin, "CLIENT LIST").last().unwrap()["cmd"] == "set");
    drop(gone);
    assert_eq!(admin.line("EXISTS gone"), Reply::Integer(0));
    assert_eq!(admin.line("CLIENT UNPAUSE"), Reply::ok());
    wait_until("its place is free", || list(&mut admin, "CLIENT LIST").len() == 2);
    assert_eq!(admin.line("EXISTS gone"), Reply::Integer(1));

    // A client that waits can be closed, and a stop does not wait for the end of a pause.
    assert_eq!(admin.line("CLIENT PAUSE 600000 WRITE"), Reply::ok());
    client.send(b"SET a 2\r\n");
    wait_until("it waits", || list(&mut admin, "CLIENT LIST")[1]["cmd"] == "set");
    assert_eq!(admin.line("CLIENT KILL ID 2"), Reply::Integer(1));
    assert_eq!(client.try_reply(), None);
    // What was received is answered, half-closed or not.
    let mut late = server.client();
    assert_eq!(late.line("PING"), Reply::pong());
    late.send(b"SET b 1\r\nPING\r\n");
    late.half_close();
    wait_until("it waits", || list(&mut admin, "CLIENT LIST").last().unwrap()["cmd"] == "set");
    // The thread looks once a second whether its client has gone.
    std::thread::sleep(Duration::from_millis(1200));
    assert!(server.terminate().0.success());
    assert!(late.read_to_end().starts_with(b"+OK\r\n+PONG\r\n"));
}

#[test]
fn monitor_shows_every_command_but_secrets() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let (mut watcher, mut client) = (server.client(), server.client());
    assert_eq!(watcher.line("MONITOR"), Reply::ok());
    client.call(&[b"SET", b"a b", b"\x00\n"]);
    client.line("AUTH sesame");
    client.line("CONFIG GET port");
    client.line("FOO");
    let address = client.stream.local_addr().unwrap();
    let mut line = || match watcher.reply() {
        Reply::Status(line) => line.split_once(' ').unwrap().1.to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(line(), format!("[0 {address}] \"SET\" \"a b\" \"\\x00\\n\""));
    assert_eq!(line(), format!("[0 {address}] \"CONFIG\" \"GET\" \"port\""));
    let clients = list(&mut client, "CLIENT LIST");
    assert_eq!((&clients[0]["flags"][..], &clients[0]["cmd"][..]), ("O", "monitor"));
    assert!(watcher.line("GET a").error().contains("only PING, QUIT, RESET and MONITOR"));
    // The rest is sent before it closes.
    watcher.send(b"PING\r\nQUIT\r\n");
    let rest = String::from_utf8(watcher.read_to_end()).unwrap();
    assert!(rest.contains("\"QUIT\"\r\n") && rest.ends_with("+PONG\r\n+OK\r\n"), "{rest}");
    assert_eq!(client.line("PING"), Reply::pong());
}

#[test]
fn monitors_that_leave_leave_nothing_behind() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let files = descriptors(server.pid());
    for _ in 0..100 {
        assert_eq!(server.client().line("MONITOR"), Reply::ok());
    }
    wait_until("their connections are closed", || descriptors(server.pid()) <= files);
}

#[test]
fn a_monitor_that_does_not_read_is_closed_and_holds_nobody_up() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let mut deaf = server.client();
    assert_eq!(deaf.line("MONITOR"), Reply::ok());
    let mut client = server.client();
    let value = vec![b'x'; 10_000];
    wait_until("it is closed", || {
        assert_eq!(client.call(&[b"SET", b"a", &value]), Reply::ok());
        info_of(&mut client, "clients", "connected_clients") == "1"
    });
}

#[test]
fn slowlog_keeps_what_took_long() {
    let (_folder, file) = folder();
    let flags = ["--enable-debug-command", "local", "--slowlog-log-slower-than", "50000"];
    let server = Server::with(&file, &flags);
    let mut client = server.client();
    assert_eq!(client.line("CLIENT SETNAME moi"), Reply::ok());
    assert_eq!(client.line("SLOWLOG GET"), Reply::Array(Vec::new()));
    assert_eq!(client.line("DEBUG SLEEP 0.06"), Reply::ok());
    assert_eq!(client.line("SLOWLOG LEN"), Reply::Integer(1));
    let Reply::Array(entries) = client.line("SLOWLOG GET 5") else { panic!() };
    let [Reply::Array(entry)] = &entries[..] else { panic!("{entries:?}") };
    let [id, Reply::Integer(time_s), Reply::Integer(us), words, address, name] = &entry[..] else {
        panic!("{entry:?}")
    };
    assert_eq!(id, &Reply::Integer(0));
    assert!(*time_s > 1_700_000_000 && (60_000..10_000_000).contains(us), "{time_s} {us}");
    assert_eq!(words, &Reply::Array(["DEBUG", "SLEEP", "0.06"].map(Reply::bulk).to_vec()));
    assert_eq!(address, &Reply::bulk(&client.stream.local_addr().unwrap().to_string()));
    assert_eq!(name, &Reply::bulk("moi"));
    assert_eq!(client.line("SLOWLOG RESET"), Reply::ok());
    assert_eq!(client.line("SLOWLOG LEN"), Reply::Integer(0));
}

#[test]
fn info_has_what_clients_and_dashboards_read() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let mut client = server.client();
    assert_eq!(client.line("SET a 1"), Reply::ok());
    client.line("GET a");
    client.line("GET b");
    client.line("SET a");
    let all = String::from_utf8(client.line("INFO").into_bytes()).unwrap();
    for part in all.split("\r\n") {
        assert!(part.is_empty() || part.starts_with("# ") || part.contains(':'), "{part}");
    }
    let sections: Vec<_> = all.split("\r\n").filter_map(|line| line.strip_prefix("# ")).collect();
    let mut expected = vec![
        "Server",
        "Clients",
        "Memory",
        "Persistence",
        "Stats",
        "Replication",
        "CPU",
        "Modules",
        "Errorstats",
        "Cluster",
        "Keyspace",
    ];
    if is_cluster() {
        expected.insert(10, "Cluster_engine");
    }
    assert_eq!(sections, expected);
    for (name, value) in [
        ("redis_mode", "standalone"),
        ("server_name", "coffre"),
        ("tcp_port", &server.port.to_string()),
        ("process_id", &server.pid().to_string()),
        ("config_file", ""),
        ("connected_clients", "1"),
        ("maxclients", "10000"),
        ("blocked_clients", "0"),
        ("maxmemory", "0"),
        ("maxmemory_policy", "noeviction"),
        ("loading", "0"),
        ("aof_enabled", "1"),
        ("aof_last_write_status", "ok"),
        ("total_connections_received", "1"),
        ("expired_keys", "0"),
        ("role", "master"),
        ("connected_slaves", "0"),
        ("cluster_enabled", "0"),
        ("db0", "keys=1,expires=0,avg_ttl=0"),
    ] {
        assert_eq!(info(&mut client, name), value, "{name}");
    }
    assert_eq!(info(&mut client, "run_id").len(), 40);
    for (name, least) in [
        ("total_commands_processed", 20),
        ("keyspace_hits", 1),
        ("keyspace_misses", 1),
        ("total_error_replies", 1),
        ("used_memory", 100_000),
        ("used_memory_rss", 1_000_000),
        ("used_memory_peak", 100_000),
        ("total_net_input_bytes", 200),
        ("total_net_output_bytes", 2000),
        ("coffre_threads", 5),
    ] {
        let value: u64 = info(&mut client, name).parse().unwrap();
        assert!(value >= least, "{name}: {value}");
    }
    // Sections by name, several at once, none that is unknown.
    assert_eq!(client.line("INFO nothing"), Reply::bulk(""));
    let two = String::from_utf8(client.line("INFO cluster REPLICATION").into_bytes()).unwrap();
    assert!(two.starts_with("# Replication\r\nrole:master\r\n") && two.contains("# Cluster"));
    let stats = String::from_utf8(client.line("INFO commandstats").into_bytes()).unwrap();
    assert!(stats.contains("cmdstat_get:calls=2,usec="), "{stats}");
    assert!(
        stats.contains("cmdstat_set:calls=1,") && stats.contains("rejected_calls=1"),
        "{stats}"
    );
    let everything = String::from_utf8(client.line("INFO everything").into_bytes()).unwrap();
    assert!(everything.contains("# Commandstats") && everything.contains("# Keyspace"));
    wait_until("the rate is seen", || {
        (0..50).for_each(|_| drop(client.line("PING")));
        info(&mut client, "instantaneous_ops_per_sec").parse::<u64>().unwrap() > 0
    });
}

#[test]
fn config_get_is_true_to_the_flags() {
    let (_folder, file) = folder();
    let flags = [
        "--maxmemory",
        "100mb",
        "--max-value",
        "1mb",
        "--max-request",
        "2mb",
        "--timeout",
        "300",
        "--tcp-keepalive",
        "60",
        "--requirepass",
        "sesame",
        "--protected-mode",
        "no",
        "--slowlog-log-slower-than",
        "-1",
    ];
    let server = Server::with(&file, &flags);
    let mut client = server.client();
    assert_eq!(client.line("AUTH sesame"), Reply::ok());
    for (name, value) in [
        ("maxmemory", "104857600"),
        ("proto-max-bulk-len", "1048576"),
        ("client-query-buffer-limit", "2097152"),
        ("timeout", "300"),
        ("tcp-keepalive", "60"),
        ("protected-mode", "no"),
        ("slowlog-log-slower-than", "-1"),
        ("slowlog-max-len", "128"),
    ] {
        let expected = Reply::Array(vec![Reply::bulk(name), Reply::bulk(value)]);
        assert_eq!(client.line(&format!("CONFIG GET {name}")), expected);
    }
    assert_eq!(client.line("CONFIG GET requirepass"), Reply::Array(Vec::new()));
}

/// What the metrics port answers to a request.
fn http(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    // Who is closed in the middle of a request may be reset.
    let _ = stream.read_to_string(&mut reply);
    reply
}

#[test]
fn metrics_and_health_are_served_by_http() {
    let (folder, file) = folder();
    let server = Server::with(&file, &["--metrics-port", "0"]);
    let mut client = server.client();
    assert_eq!(client.line("SET a 1"), Reply::ok());
    let log = server.expect_log("metrics by HTTP on ");
    let port = log.split("metrics by HTTP on 127.0.0.1:").nth(1).unwrap();
    let port: u16 = port.split_whitespace().next().unwrap().parse().unwrap();
    let reply = http(port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    let mut declared = "";
    for line in body.lines() {
        // Each value follows its own HELP and TYPE, and is a number.
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            declared = rest.split(' ').next().unwrap();
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(name.split('{').next(), Some(declared));
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(body.contains("\ncoffre_connected_clients 1\n"));
    // A cluster's keys are counted every few seconds.
    let metrics = || http(port, "GET /metrics HTTP/1.0\r\n\r\n");
    wait_until("the key is counted", || metrics().contains("\ncoffre_keys 1\n"));
    assert!(body.contains("coffre_commands_total{command=\"set\"} 1\n"), "{body}");
    let health = || http(port, "GET /health HTTP/1.0\r\n\r\n");
    assert!(health().ends_with("\r\n\r\nok\n"));
    assert!(http(port, "HEAD /health HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
    assert!(http(port, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(http(port, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert_eq!(http(port, &"x".repeat(20_000)), "");
    // Those who say nothing are closed, and the next is answered.
    let silent: Vec<_> =
        (0..20).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    assert!(health().starts_with("HTTP/1.1 200 "));
    drop(silent);
    if has_file() {
        // Without its folder it cannot be well.
        std::fs::remove_dir_all(folder.path()).unwrap();
        wait_until("it is not well", || health().starts_with("HTTP/1.1 503 Service Unavailable"));
    }
}

#[test]
fn reset_ends_watching_and_the_connection_goes_on() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    let (mut watcher, mut other) = (server.client(), server.client());
    for bursts in [
        &["MONITOR\r\n", "RESET\r\n"][..],
        &["MONITOR\r\nRESET\r\n"],
        &["MONITOR\r\nMONITOR\r\n", "RESET\r\n"],
    ] {
        for burst in bursts {
            watcher.send(burst.as_bytes());
            for line in burst.split_terminator("\r\n") {
                let status = if line == "RESET" { "RESET" } else { "OK" };
                assert_eq!(watcher.reply(), Reply::Status(status.to_owned()), "{bursts:?}");
            }
        }
        assert_eq!(other.line("SET a 1"), Reply::ok());
        assert_eq!(watcher.line("GET a"), Reply::bulk("1"), "no line of a monitor");
    }
    // And from one to the next at once.
    assert_eq!(watcher.line("MONITOR"), Reply::ok());
    watcher.send(b"RESET\r\nMONITOR\r\n");
    assert_eq!(watcher.reply(), Reply::Status("RESET".to_owned()));
    assert_eq!(watcher.reply(), Reply::ok());
    other.line("SET b 1");
    assert!(watcher.reply().error_or_status().ends_with("\"SET\" \"b\" \"1\""));
}
