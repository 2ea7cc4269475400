//! A disk whose fsync takes 1 ms more, for a server of any kind: a library that is loaded before the C library and whose
//! `fsync` and `fdatasync` sleep first. The compiler that builds the bench builds it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Error, Result};

/// The library. It calls the system, not the C library's function of the same name, which it hides.
const SOURCE: &str = r#"
use std::ffi::{c_int, c_long, c_uint};

unsafe extern "C" {
    fn usleep(microseconds: c_uint) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
}

fn slowly(number: c_long, file: c_int) -> c_int {
    unsafe {
        usleep(1000);
        syscall(number, file) as c_int
    }
}

#[unsafe(no_mangle)]
extern "C" fn fsync(file: c_int) -> c_int {
    slowly(FSYNC, file)
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: c_int) -> c_int {
    slowly(FDATASYNC, file)
}

#[cfg(target_arch = "x86_64")]
const FSYNC: c_long = 74;
#[cfg(target_arch = "x86_64")]
const FDATASYNC: c_long = 75;
#[cfg(target_arch = "aarch64")]
const FSYNC: c_long = 82;
#[cfg(target_arch = "aarch64")]
const FDATASYNC: c_long = 83;
"#;

/// Builds the library in a folder.
pub fn build(folder: &Path) -> Result<PathBuf> {
    let (source, library) = (folder.join("slow_fsync.rs"), folder.join("slow_fsync.so"));
    std::fs::write(&source, SOURCE).context("a temporary folder")?;
    let mut command = Command::new("rustc");
    command.args(["--edition", "2024", "--crate-type", "cdylib", "-C", "panic=abort", "-O", "-o"]);
    let output = command.arg(&library).arg(&source).output().context("rustc")?;
    match output.status.success() {
        true => Ok(library),
        false => Err(Error::Library(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}
