//! Coffres in front of an etcd cluster: three members on free ports, started here. They need `etcd`, so `.ci/run` runs them
//! with `--ignored`.

pub mod cluster;
mod suite;
