//! Programs that must not compile, each with the error that its author sees, and their counterparts that compile.
//!
//! After a change of an error, `TRYBUILD=overwrite cargo test -p onelane-ui-tests` writes the new `.stderr` files.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::process::Command;

/// The errors are those of this compiler. Other versions word them differently, so they check nothing.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn misuse_does_not_compile() {
    let rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("--version").output();
    if String::from_utf8(rustc.unwrap().stdout).unwrap().starts_with(COMPILER) {
        let cases = trybuild::TestCases::new();
        cases.compile_fail("fail/*.rs");
        cases.pass("pass/*.rs");
    }
}
