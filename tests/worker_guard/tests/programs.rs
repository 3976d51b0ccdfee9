//! Programs that call `worker_guard()`, or forget it.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::process::Command;

/// Workers begin before `main`.
const HAS_CONSTRUCTOR: bool = cfg!(feature = "constructor");

fn output(program: &str) -> String {
    let output = Command::new(program).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn worker_begins_where_main_calls_worker_guard() {
    assert_eq!(output(env!("CARGO_BIN_EXE_guarded")), "main\nOk(5)\n");
}

#[test]
fn late_call_of_worker_guard_is_an_error_that_says_so() {
    let printed = output(env!("CARGO_BIN_EXE_late"));
    if HAS_CONSTRUCTOR {
        assert_eq!(printed, "Ok(5)\n");
    } else {
        assert!(printed.contains("pool `sums`") && printed.contains("worker_guard() first in main"), "{printed}");
    }
}

#[test]
fn forgotten_worker_guard_is_an_error_of_the_builder() {
    let printed = output(env!("CARGO_BIN_EXE_unguarded"));
    if HAS_CONSTRUCTOR {
        assert_eq!(printed, "Ok(5)\n");
    } else {
        assert!(printed.contains("pool `sums`") && printed.contains("worker_guard() first in main"), "{printed}");
    }
}
