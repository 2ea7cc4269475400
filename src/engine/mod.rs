//! The keys and values behind a seam: so far one engine, [`local`], in memory and one file.

pub mod local;
