//! The compiler's messages for functions that can't be handlers on a pool: they name the problem and the remedy.

use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;
use std::{env, fs};

/// Returns the compiler's message, or `None` if the program compiles.
fn compiler_message(library: &Path, function: &str, adapter: &str) -> Option<String> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("messages-{}-{number}", id()));
    fs::create_dir_all(&folder).expect("cargo has created the parent folder");
    let source = folder.join("handlers.rs");
    let program = format!(
        "#![allow(dead_code)]\n{function}\npub fn route() {{ let _ = onelane::web::{adapter}::blocking_handler(handler); }}\n"
    );
    fs::write(&source, program).expect("the folder exists");
    let output = Command::new(env::var("RUSTC").unwrap_or_else(|_| "rustc".into()))
        .args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "--color", "never"])
        .arg("--extern")
        .arg(format!("onelane={}", library.display()))
        .arg("-L")
        .arg(format!("dependency={}", deps().display()))
        .arg("-o")
        .arg(folder.join("libhandlers.rmeta"))
        .arg(&source)
        .output()
        .expect("a compiler exists where tests run");
    fs::remove_dir_all(&folder).expect("the folder was created above");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn deps() -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    test.parent().expect("a test lies in target/PROFILE/deps").to_owned()
}

/// Returns the library that this test was built with: the newest one with the features of every test build. Cargo
/// leaves older ones, and ones with fewer features, in the same folder.
fn library(adapter: &str) -> PathBuf {
    let entries = fs::read_dir(deps()).expect("the folder of this test exists");
    let mut libraries: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_library = path.file_name()?.to_str()?.starts_with("libonelane-") && path.extension()? == "rlib";
            let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?;
            is_library.then_some((modified, path))
        })
        .collect();
    libraries.sort();
    let good = "fn handler(name: String, _: u8) -> String { name }";
    let newest =
        libraries.into_iter().rev().map(|(_, path)| path).find(|path| compiler_message(path, good, adapter).is_none());
    newest.expect("a handler compiles with one of them")
}

fn assert_message(adapter: &str, function: &str, sentences: &[&str]) {
    let message = compiler_message(&library(adapter), function, adapter).expect("the function does not compile");
    for sentence in sentences {
        assert!(message.contains(sentence), "no {sentence:?} in the message for `{function}`:\n{message}");
    }
    // A long message is not read.
    assert!(message.lines().count() < 60, "the message for `{function}` is too long:\n{message}");
}

#[test]
fn argument_that_is_not_send_is_named() {
    let function = "fn handler(_: String, _: std::rc::Rc<u8>) -> String { String::new() }";
    for adapter in ["axum", "actix"] {
        assert_message(
            adapter,
            function,
            &[
                "error[E0277]: `Rc<u8>` can't be an argument of a handler that runs on a pool: it can't be sent to another \
                 thread",
                "this function has an argument that is not `Send`",
                "instead of an `Rc`, an `Arc`",
            ],
        );
    }
}

#[test]
fn value_that_is_not_a_function_is_rejected() {
    let constant = "#[allow(non_upper_case_globals)] const handler: u8 = 7;";
    for adapter in ["axum", "actix"] {
        assert_message(adapter, constant, &["error[E0277]: `u8` is not a function that can run on a pool"]);
    }
}

#[test]
fn result_that_cannot_leave_the_pool_is_named() {
    assert_message(
        "actix",
        "pub struct Report; fn handler() -> Report { Report }",
        &["error[E0277]: `Report` can't be returned by a handler that runs on a pool", "return it in `OnWorker(…)`"],
    );
    assert_message(
        "axum",
        "pub struct Report; fn handler() -> Report { Report }",
        &["error[E0277]: the trait bound `Report: ", "IntoResponse` is not satisfied"],
    );
}

#[test]
fn async_function_gets_the_hint_that_it_needs_no_pool() {
    let function = "async fn handler() -> &'static str { \"hello\" }";
    assert_message("actix", function, &["an `async fn` needs no pool: pass it to the route unchanged"]);
    assert_message("axum", function, &["`impl Future<Output = &'static str>: ", "IntoResponse` is not satisfied"]);
}
