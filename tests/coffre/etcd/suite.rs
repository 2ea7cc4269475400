//! The tests of commands and connections, on coffres in front of a cluster.

use std::path::Path;
use std::process::Command;

use super::cluster::{Cluster, is_installed};
use crate::harness::ENGINE;
use crate::suite::{self, LeftOut};

/// The tests that are about what etcd has not, and what that is.
const LEFT_OUT: LeftOut = &[
    (
        "clients::monitors_that_leave_leave_nothing_behind",
        "it counts descriptors, and connections to etcd come and go",
    ),
    ("expiry::a_value_that_changes_after_its_time_is_another", "it writes the data file"),
    ("expiry::many_that_expire_at_once_go_bit_by_bit", "it sets 100,000 keys in four seconds"),
    ("expiry::removals_are_counted_and_written_down", "it reads the data file"),
    ("expiry::the_mean_time_to_live_is_that_of_the_keys_that_expire", "it needs SWAPDB"),
    ("expiry::what_has_expired_is_never_seen", "it reads the data file"),
    (
        "histories::a_history_at_the_bound_of_memory_is_strictly_serializable",
        "the bound of memory is none of etcd's: `faults` has histories of clusters",
    ),
    (
        "histories::a_history_on_a_disk_that_refuses_is_strictly_serializable",
        "it lets the data file not grow: `faults` has histories of clusters",
    ),
    (
        "protocol::a_del_of_ten_thousand_keys_is_one_request",
        "its keys are more than etcd takes in a transaction",
    ),
    (
        "protocol::what_a_burst_keeps_for_taking_writes_back_is_bounded",
        "its values are longer than etcd takes",
    ),
    ("server_commands::debug_is_what_tests_need", "it needs SWAPDB"),
    ("server_commands::a_reload_notices_a_file_that_tells_something_else", "it changes the file"),
    ("server_commands::idle_times_are_those_of_the_key", "it needs OBJECT IDLETIME"),
    (
        "stopping::a_thousand_waiting_clients_do_not_delay_the_end",
        "its value is longer than etcd takes, and it needs BGREWRITEAOF",
    ),
    (
        "stopping::shutdown_is_refused_while_nothing_can_be_saved_unless_it_is_meant",
        "it removes the data file",
    ),
    (
        "transactions::a_transaction_writes_no_more_than_it_has_time_for",
        "its values are longer than etcd takes",
    ),
    (
        "transactions::many_keys_at_once_are_all_changed_or_none",
        "its keys are more than etcd takes in a transaction",
    ),
    ("transactions::what_acts_on_more_than_keys_is_done_once", "it needs BGREWRITEAOF"),
    (
        "transactions::what_expires_or_comes_is_a_change_to_who_watches",
        "it sets more keys at once than etcd takes, and needs SWAPDB",
    ),
];

#[test]
#[ignore = "needs etcd"]
fn the_command_suite_passes() {
    if is_installed() {
        let cluster = Cluster::start();
        suite::run(&cluster.engine(), LEFT_OUT, &[]);
    }
}

/// Random sequences of commands, beside redis-server.
#[test]
#[ignore = "needs etcd and redis-server"]
fn replies_are_those_of_redis() {
    if is_installed() {
        let cluster = Cluster::start();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "differential::replies_are_those_of_redis"]);
        command.env(ENGINE, cluster.engine()).env("COFFRE_SEQUENCES", "400");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("test result: ok. 1 passed"));
    }
}

/// The same that they do with a data file, and the same that passes.
#[test]
#[ignore = "needs etcd, Python and Node.js with their registries, and a release build"]
fn the_clients_people_use_see_no_difference() {
    if is_installed() {
        // redis-py's MSET of 500 keys is more than etcd takes at once, unless it is told to.
        let cluster = Cluster::with(&["--max-txn-ops", "2048"]);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new("python3");
        command.arg(root.join("tests/clients/run")).arg("--check");
        let output = command.env("COFFRE_ENGINE", cluster.engine()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "a client does not work on a cluster");
        assert!(said.matches("checks passed").count() >= 10, "{said}");
    }
}
