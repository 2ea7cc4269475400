//! The tests of commands and connections, on coffres in front of a cluster.

use super::cluster::{Cluster, is_installed};
use crate::suite::{self, LeftOut};

/// The tests that are about what etcd has not, and what that is.
const LEFT_OUT: LeftOut = &[];

#[test]
#[ignore = "needs etcd"]
fn the_command_suite_passes() {
    if is_installed() {
        let cluster = Cluster::start();
        suite::run(&cluster.engine(), LEFT_OUT, &[]);
    }
}
