//! Coffres in front of an etcd cluster: three members, started here. They need `etcd`, so `.ci/run` runs them with
//! `--ignored`.

mod behaviour;
mod broken;
pub mod cluster;
mod faults;
mod net;
mod suite;
mod wrong_clock;
