//! A wall clock that is an hour fast, for one program: a library that is loaded before the C library and whose
//! `clock_gettime` says so. The compiler that builds the tests builds it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The library. It calls the system, not the C library's function of the same name, which it hides.
const SOURCE: &str = r#"
use std::ffi::{c_int, c_long};

#[repr(C)]
struct Time {
    seconds: i64,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

const WALL_CLOCK: c_int = 0;

#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: c_int, time: *mut Time) -> c_int {
    let result = unsafe { syscall(CLOCK_GETTIME, clock, time) } as c_int;
    if result == 0 && clock == WALL_CLOCK {
        unsafe { (*time).seconds += 3600 };
    }
    result
}

#[cfg(target_arch = "x86_64")]
const CLOCK_GETTIME: c_long = 228;
#[cfg(target_arch = "aarch64")]
const CLOCK_GETTIME: c_long = 113;
"#;

/// Builds the library in a folder.
pub fn build(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("wrong_clock.rs"), folder.join("wrong_clock.so"));
    std::fs::write(&source, SOURCE).unwrap();
    let mut command = Command::new("rustc");
    command.args(["--edition", "2024", "--crate-type", "cdylib", "-C", "panic=abort", "-O", "-o"]);
    let output = command.arg(&library).arg(&source).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}
