//! The data file taken away under a running server: nothing more is acknowledged until all of memory
//! is in a file of that name again, and what stands there meanwhile is kept.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Client, Reply, Server, State, dump, folder, wait_until};

/// A server with some keys.
fn with_keys(file: &Path) -> (Server, Client, State) {
    let server = Server::start(file);
    let mut client = server.client();
    for number in 0..50 {
        assert_eq!(client.line(&format!("SET key:{number} {number}")), Reply::ok());
    }
    let keys = dump(&mut client);
    (server, client, keys)
}

/// The next write notices, soon writes are taken again, and a `kill -9` loses nothing.
fn heals(server: Server, mut client: Client, mut keys: State, file: &Path, reason: &str) {
    let refused = client.line("SET noticed 1");
    assert_eq!(refused.error(), format!("MISCONF Errors writing to the AOF file: {reason}"));
    assert_eq!(client.line("GET noticed"), Reply::Nil);
    assert_eq!(dump(&mut client), keys, "reads go on");
    wait_until("writes are taken again", || client.line("SET after 1") == Reply::ok());
    let log = server.expect_log("well again");
    assert_eq!(log.matches("writes are refused until it is well again").count(), 1, "{log}");
    let Reply::Bulk(info) = client.line("INFO persistence") else { panic!() };
    let info = String::from_utf8(info).unwrap();
    assert!(info.contains("aof_last_write_status:ok\r\n"), "{info}");
    assert!(info.contains("coffre_times_healed:1\r\n"), "{info}");
    assert_eq!(client.line("APPEND after 2"), Reply::Integer(2));
    server.kill();
    keys.insert(b"after".to_vec(), b"12".to_vec());
    assert_eq!(dump(&mut Server::start(file).client()), keys);
}

/// The files beside the data file, but for it.
fn others(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap() != "donnees.txt").collect()
}

#[test]
fn a_data_file_that_was_removed_is_written_again() {
    let (folder, file) = folder();
    let (server, client, keys) = with_keys(&file);
    fs::remove_file(&file).unwrap();
    heals(server, client, keys, &file, "the data file was removed or renamed");
    assert_eq!(others(folder.path()), [] as [PathBuf; 0]);
}

#[test]
fn a_data_file_that_was_removed_while_nobody_writes_is_written_again_too() {
    let (_folder, file) = folder();
    let (server, _client, keys) = with_keys(&file);
    fs::remove_file(&file).unwrap();
    wait_until("it is there again", || file.exists());
    server.expect_log("well again");
    server.kill();
    assert_eq!(dump(&mut Server::start(&file).client()), keys);
}

#[test]
fn a_data_file_that_was_renamed_is_written_again_and_the_other_left_alone() {
    let (folder, file) = folder();
    let (server, client, keys) = with_keys(&file);
    let moved = folder.path().join("moved");
    fs::rename(&file, &moved).unwrap();
    heals(server, client, keys.clone(), &file, "the data file was removed or renamed");
    assert_eq!(others(folder.path()), std::slice::from_ref(&moved));
    let found = dump(&mut Server::start(&moved).client());
    // What was refused may have happened: an error says that the outcome is unknown.
    assert!(found.iter().filter(|(key, _)| *key != b"noticed").eq(keys.iter()));
}

#[test]
fn what_took_the_place_of_the_data_file_is_kept_aside() {
    let (folder, file) = folder();
    let (server, client, keys) = with_keys(&file);
    let other = folder.path().join("other");
    fs::write(&other, "SET precious 1\n").unwrap();
    fs::rename(&other, &file).unwrap();
    heals(server, client, keys, &file, "another file has taken the data file's name");
    let [aside] = &others(folder.path())[..] else { panic!() };
    assert!(aside.file_name().unwrap().to_str().unwrap().starts_with("donnees.txt.aside-"));
    assert_eq!(fs::read_to_string(aside).unwrap(), "SET precious 1\n");
}

#[test]
fn a_compaction_does_not_overwrite_what_took_the_place_of_the_data_file() {
    let (folder, file) = folder();
    let (server, mut client, keys) = with_keys(&file);
    let other = folder.path().join("other");
    fs::write(&other, "SET precious 1\n").unwrap();
    fs::rename(&other, &file).unwrap();
    assert!(matches!(client.line("BGREWRITEAOF"), Reply::Status(_)));
    wait_until("it is kept aside", || {
        others(folder.path())
            .iter()
            .any(|path| fs::read_to_string(path).is_ok_and(|text| text == "SET precious 1\n"))
    });
    wait_until("writes are taken again", || client.line("DEL nothing") == Reply::Integer(0));
    assert_eq!(dump(&mut client), keys);
    drop(server);
}

#[test]
fn a_link_that_took_the_place_of_the_data_file_is_kept_aside() {
    let (folder, file) = folder();
    let (server, client, keys) = with_keys(&file);
    let inner = folder.path().join("moved");
    fs::rename(&file, &inner).unwrap();
    std::os::unix::fs::symlink(&inner, &file).unwrap();
    heals(server, client, keys, &file, "another file has taken the data file's name");
    assert!(others(folder.path()).iter().any(|path| path.is_symlink()));
}

#[test]
fn a_stop_or_a_save_with_the_file_gone_writes_all_of_it_again() {
    for stop in [true, false] {
        let (_folder, file) = folder();
        let (server, mut client, keys) = with_keys(&file);
        // Nothing is left to write or to mark.
        wait_until("it is at rest", || {
            let text = fs::read_to_string(&file).unwrap();
            text.lines().last().unwrap().starts_with("#= 52 0 ")
        });
        fs::remove_file(&file).unwrap();
        if stop {
            let (status, log) = server.terminate();
            assert_eq!(status.code(), Some(0), "{log}");
        } else {
            assert!(client.line("SAVE").error().starts_with("MISCONF "));
            wait_until("it is there again", || client.line("SAVE") == Reply::ok());
            server.kill();
        }
        assert_eq!(dump(&mut Server::start(&file).client()), keys);
    }
}

#[test]
fn a_stop_right_after_the_file_is_gone_loses_nothing() {
    let (_folder, file) = folder();
    let (server, mut client, keys) = with_keys(&file);
    fs::remove_file(&file).unwrap();
    assert!(client.line("SET noticed 1").error().starts_with("MISCONF "));
    let (status, log) = server.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(dump(&mut Server::start(&file).client()), keys);
}

#[test]
fn a_data_file_that_was_cut_or_added_to_is_written_again() {
    for change in ["cut", "emptied", "added", "overwritten"] {
        let (folder, file) = folder();
        let (server, client, keys) = with_keys(&file);
        let length = fs::metadata(&file).unwrap().len();
        let opened = fs::OpenOptions::new().append(true).open(&file).unwrap();
        match change {
            "cut" => opened.set_len(length - 3).unwrap(),
            "emptied" => opened.set_len(0).unwrap(),
            "added" => std::io::Write::write_all(&mut &opened, b"SET mine 1\n").unwrap(),
            _ => fs::write(&file, "SET mine 1\n").unwrap(),
        }
        let reason = "somebody else changed the data file's length";
        heals(server, client, keys, &file, reason);
        assert_eq!(others(folder.path()).len(), 1, "{change}: it is kept aside");
    }
}

#[test]
fn a_file_that_another_server_holds_is_not_overwritten() {
    let (folder, file) = folder();
    let (server, mut client, keys) = with_keys(&file);
    let other = folder.path().join("other");
    let holder = Server::start(&other);
    fs::rename(&other, &file).unwrap();
    assert!(client.line("SET noticed 1").error().starts_with("MISCONF "));
    let expected = format!("process {} (coffre) holds the file that has taken", holder.pid());
    server.expect_log(&expected);
    assert!(client.line("SET noticed 1").error().starts_with("MISCONF "));
    assert_eq!(dump(&mut client), keys);
    // Once it is gone the name is free.
    holder.kill();
    wait_until("writes are taken again", || client.line("SET after 1") == Reply::ok());
}

#[test]
fn with_its_folder_gone_writes_are_refused_and_it_can_be_stopped() {
    let (folder, file) = folder();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let file = inner.join(file.file_name().unwrap());
    let (server, mut client, keys) = with_keys(&file);
    let away = folder.path().join("away");
    fs::rename(&inner, &away).unwrap();
    for _ in 0..3 {
        let refused = client.line("SET noticed 1");
        assert!(refused.error().contains("the data file was removed or renamed"), "{refused:?}");
        std::thread::sleep(std::time::Duration::from_millis(150));
    }
    assert_eq!(dump(&mut client), keys);
    // Back again, it is found.
    fs::rename(&away, &inner).unwrap();
    wait_until("writes are taken again", || client.line("SET after 1") == Reply::ok());
    fs::rename(&inner, &away).unwrap();
    assert!(client.line("SET noticed 1").error().starts_with("MISCONF "));
    let (status, log) = server.terminate();
    assert_eq!(status.code(), Some(5), "{log}");
}
