//! What the compiler says of functions that can't be handlers on a pool: it names what is wrong, and what to do.

use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;
use std::{env, fs};

/// Why it does not compile, in the compiler's words. `None` if it does.
fn verdict(library: &Path, function: &str, adapter: &str) -> Option<String> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("messages-{}-{number}", id()));
    fs::create_dir_all(&folder).expect("cargo has made the folder around it");
    let source = folder.join("handlers.rs");
    let program = format!(
        "#![allow(dead_code)]\n{function}\npub fn route() {{ let _ = onelane::web::{adapter}::blocking_handler(handler); }}\n"
    );
    fs::write(&source, program).expect("the folder is there");
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
        .expect("there is a compiler where there are tests");
    fs::remove_dir_all(&folder).expect("it was made above");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn deps() -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    test.parent().expect("a test lies in target/PROFILE/deps").to_owned()
}

/// The library that this test was built with: the newest one that can do what every build for tests can. Cargo leaves older
/// ones and ones with fewer features beside it.
fn library(adapter: &str) -> PathBuf {
    let entries = fs::read_dir(deps()).expect("the folder of this test is there");
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
    let newest = libraries.into_iter().rev().map(|(_, path)| path).find(|path| verdict(path, good, adapter).is_none());
    newest.expect("one of them has a handler that compiles")
}

fn assert_says(adapter: &str, function: &str, sentences: &[&str]) {
    let said = verdict(&library(adapter), function, adapter).expect("it does not compile");
    for sentence in sentences {
        assert!(said.contains(sentence), "no {sentence:?} in what it says of `{function}`:\n{said}");
    }
    // A long message is not read.
    assert!(said.lines().count() < 60, "it says too much of `{function}`:\n{said}");
}

#[test]
fn argument_that_is_not_send_is_named() {
    let function = "fn handler(_: String, _: std::rc::Rc<u8>) -> String { String::new() }";
    for adapter in ["axum", "actix"] {
        assert_says(
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
fn what_is_no_function_is_told_so() {
    let constant = "#[allow(non_upper_case_globals)] const handler: u8 = 7;";
    for adapter in ["axum", "actix"] {
        assert_says(adapter, constant, &["error[E0277]: `u8` is no function that can run on a pool"]);
    }
}

#[test]
fn result_that_cannot_leave_the_pool_is_named() {
    assert_says(
        "actix",
        "pub struct Report; fn handler() -> Report { Report }",
        &["error[E0277]: `Report` can't be returned by a handler that runs on a pool", "return it in `OnWorker(…)`"],
    );
    assert_says(
        "axum",
        "pub struct Report; fn handler() -> Report { Report }",
        &["error[E0277]: the trait bound `Report: ", "IntoResponse` is not satisfied"],
    );
}

#[test]
fn async_function_is_told_that_it_needs_no_pool() {
    let function = "async fn handler() -> &'static str { \"hello\" }";
    assert_says("actix", function, &["an `async fn` needs no pool: give it to the route as it is"]);
    assert_says("axum", function, &["`impl Future<Output = &'static str>: ", "IntoResponse` is not satisfied"]);
}
