//! redis-rs, the client of Rust programs, in both protocols.

use redis::{Client, Commands, Connection, ErrorKind, ExistenceCheck, SetExpiry, SetOptions};

use crate::harness::{Server, folder};

fn connect(server: &Server, rest: &str) -> Connection {
    let url = format!("redis://127.0.0.1:{}{rest}", server.port);
    Client::open(url).unwrap().get_connection().unwrap()
}

fn use_it(client: &mut Connection) {
    let _: () = client.set("ville", "Orléans").unwrap();
    assert_eq!(client.get::<_, String>("ville").unwrap(), "Orléans");
    assert_eq!(client.get::<_, Option<String>>("none").unwrap(), None);
    let bytes: Vec<u8> = (0..=255).collect();
    let _: () = client.set(&bytes, &bytes).unwrap();
    assert_eq!(client.get::<_, Vec<u8>>(&bytes).unwrap(), bytes);

    let once = SetOptions::default()
        .conditional_set(ExistenceCheck::NX)
        .with_expiration(SetExpiry::EX(100));
    assert!(client.set_options::<_, _, bool>("lock", "me", once.clone()).unwrap());
    assert!(!client.set_options::<_, _, bool>("lock", "you", once).unwrap());
    assert!((99..=100).contains(&client.ttl::<_, i64>("lock").unwrap()));
    assert!(client.persist::<_, bool>("lock").unwrap());
    assert_eq!(client.ttl::<_, i64>("lock").unwrap(), -1);

    let _: () = client.mset(&[("a", 1), ("b", 2)]).unwrap();
    let values: Vec<Option<i64>> = client.mget(&["a", "none", "b"]).unwrap();
    assert_eq!(values, [Some(1), None, Some(2)]);
    assert_eq!(client.incr::<_, _, i64>("a", 41).unwrap(), 42);
    assert_eq!(client.incr::<_, _, f64>("f", 0.5).unwrap(), 0.5);
    assert_eq!(client.append::<_, _, usize>("s", "salut").unwrap(), 5);

    let mut pipe = redis::pipe();
    pipe.incr("a", 1).cmd("SET").arg("x").arg(1).ignore().incr("a", 1);
    assert_eq!(pipe.query::<(i64, i64)>(client).unwrap(), (43, 44));
    let mut transaction = redis::pipe();
    transaction.atomic().set("m", 1).ignore().incr("m", 1);
    assert_eq!(transaction.query::<(i64,)>(client).unwrap(), (2,));
    let (new,): (i64,) = redis::transaction(client, &["a"], |client, pipe| {
        let old: i64 = client.get("a")?;
        pipe.set("a", old + 1).ignore().get("a").query(client)
    })
    .unwrap();
    assert_eq!(new, 45);

    for number in 0..300 {
        let _: () = client.set(format!("scan:{number}"), number).unwrap();
    }
    let found = client.scan_match::<_, String>("scan:*").unwrap();
    assert_eq!(found.count(), 300);
    assert_eq!(client.del::<_, usize>(&["a", "b", "none"]).unwrap(), 2);
    let error = client.incr::<_, _, i64>("s", 1).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Server(_)), "{error:?}");
    assert!(error.to_string().contains("not an integer"), "{error}");
}

#[test]
fn redis_rs_works_in_both_protocols() {
    for rest in ["/", "/?protocol=resp3", "/3?protocol=resp3"] {
        let (_folder, file) = folder();
        let server = Server::with(&file, &["--fsync", "no"]);
        use_it(&mut connect(&server, rest));
        let elsewhere: usize = redis::cmd("DBSIZE").query(&mut connect(&server, "/5")).unwrap();
        assert_eq!(elsewhere, 0);
    }
}

#[test]
fn redis_rs_runs_scripts() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--fsync", "no"]);
    let add = redis::Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    for rest in ["/", "/?protocol=resp3"] {
        let mut client = connect(&server, rest);
        let _: () = redis::cmd("FLUSHALL").query(&mut client).unwrap();
        // Unknown at first: it is loaded, and called again.
        let _: () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut client).unwrap();
        let sum: i64 = add.key("n").arg(5).invoke(&mut client).unwrap();
        assert_eq!(sum, 5);
        let sum: i64 = add.key("n").arg(1).invoke(&mut client).unwrap();
        assert_eq!(sum, 6);
        let mut pipe = redis::pipe();
        let values: (i64, String) =
            pipe.atomic().invoke_script(add.key("n").arg(1)).get("n").query(&mut client).unwrap();
        assert_eq!(values, (7, "7".to_owned()));
    }
}

#[test]
fn redis_rs_gives_the_password() {
    let (_folder, file) = folder();
    let server = Server::with(&file, &["--requirepass", "sesame"]);
    for (protocol, is_new) in [("", true), ("?protocol=resp3", false)] {
        let url =
            |password: &str| format!("redis://:{password}@127.0.0.1:{}/1{protocol}", server.port);
        let mut client = Client::open(url("sesame")).unwrap().get_connection().unwrap();
        assert_eq!(client.set_nx::<_, _, bool>("a", 1).unwrap(), is_new);
        assert!(Client::open(url("wrong")).unwrap().get_connection().is_err());
    }
}
