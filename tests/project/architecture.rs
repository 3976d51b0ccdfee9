//! The allowed dependencies between folders, and what must not occur in `src` and `tests`.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::modules::{Edge, Modules, circles};
use crate::sources::{Source, sources_of};

/// The folders of `src`, in the order in which a request meets them, each with the folders that it may name.
const MAY_NAME: [(&str, &[&str]); 9] = [
    ("web", &["guard", "backend", "offload", "background", "watch"]),
    ("guard", &["semaphore", "backend"]),
    ("backend", &[]),
    ("offload", &["semaphore"]),
    ("background", &["backend", "guard", "watch"]),
    ("watch", &[]),
    ("semaphore", &[]),
    ("sync", &[]),
    ("docs", &[]),
];
/// The crates that only an edge of the project names, each with the start of the only path beneath `src` that may name
/// it: a web adapter, all of them, a store, or the one file that serves HTTP itself.
const FRAMEWORKS: [(&str, &str); 20] = [
    ("axum", "web/axum/"),
    ("axum_core", "web/axum/"),
    ("actix_http", "web/actix/"),
    ("actix_rt", "web/actix/"),
    ("actix_service", "web/actix/"),
    ("actix_web", "web/actix/"),
    ("tower", "web/tower/"),
    ("tower_http", "web/tower/"),
    ("tower_layer", "web/tower/"),
    ("tower_service", "web/tower/"),
    ("http", "web/"),
    ("http_body", "web/"),
    ("redis", "backend/redis/"),
    ("tokio_postgres", "backend/postgres/"),
    ("hyper", "background/probe_server.rs"),
    ("hyper_util", "background/probe_server.rs"),
    ("nix", "backend/"),
    ("postcard", "offload/process/"),
    ("landlock", "offload/process/linux/"),
    ("seccompiler", "offload/process/linux/"),
];
/// The only files with unsafe code.
const UNSAFE: [&str; 5] = [
    "offload/process/function.rs",
    "offload/process/linux/boot.rs",
    "offload/process/linux/system.rs",
    "watch/stack/linux/signal.rs",
    "watch/stack/linux/unwinder.rs",
];
const PRINTING: [&str; 5] = ["print!", "println!", "eprint!", "eprintln!", "dbg!"];
const MAX_LINES_OF_CODE: usize = 300;
const MAX_LINES_OF_TESTS: usize = 800;

/// The folder that every file may name.
const GROUND_FLOOR: &str = "sync";

fn words(line: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + line[rest..].find(is_part)?;
        let end = line[start..].find(|c| !is_part(c)).map_or(line.len(), |length| start + length);
        rest = end;
        Some((&line[..start], &line[start..end], &line[end..]))
    })
}

/// Returns `true` if a path in the line starts with the crate `name`. `super::tower::…` names a module of the project.
fn names_crate(line: &str, name: &str) -> bool {
    words(line).any(|(before, word, after)| {
        let is_imported = before.trim_end().ends_with("use") && after.starts_with(';');
        let starts_a_path = after.starts_with("::") && !before.trim_start().ends_with("::");
        word == name && (is_imported || starts_a_path || before.ends_with("extern crate "))
    })
}

fn has_word(line: &str, name: &str) -> bool {
    words(line).any(|(_, word, _)| word == name)
}

fn assert_nothing(found: impl Iterator<Item = String>, rule: &str) {
    let found: Vec<String> = found.collect();
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// Describes an edge that `MAY_NAME` does not allow.
///
/// A file next to `lib.rs` names no folder but the ground floor: two folders could otherwise reach each other through
/// it.
fn violation(edge: &Edge) -> Option<String> {
    let to = edge.to.first()?;
    let from = edge.from.first().map_or("", String::as_str);
    let may_name: &[&str] = MAY_NAME.iter().find(|(folder, _)| *folder == from).map_or(&[], |(_, may_name)| may_name);
    let is_allowed = from == to || may_name.contains(&to.as_str()) || edge.file == "lib.rs" || to == GROUND_FLOOR;
    (!is_allowed).then(|| format!("src/{}:{}: {}", edge.file, edge.line, edge.to.join("::")))
}

fn violations(sources: &[Source]) -> Vec<String> {
    Modules::new(sources).edges().iter().filter_map(violation).collect()
}

fn has_path_attribute(source: &Source) -> bool {
    source.code.iter().any(|(_, line)| {
        let line: String = line.split_whitespace().collect();
        line.starts_with("#[path=") || line.starts_with("#[cfg_attr(") && line.contains(",path=")
    })
}

#[test]
fn scan_sees_the_whole_tree() {
    let sources = sources_of("src");
    let guard = sources.iter().filter(|source| source.folder() == "guard").count();
    let background = sources.iter().filter(|source| source.folder() == "background").count();
    let lines: usize = sources.iter().map(|source| source.code.len()).sum();
    assert!(
        sources.len() >= 20 && guard >= 15 && background >= 15 && lines > 1_000,
        "{} files, {guard}, {background}, {lines}",
        sources.len()
    );
    assert!(sources.iter().any(|source| source.path == "semaphore/mod.rs"));
    assert!(sources.iter().any(|source| source.path == "lib.rs"));
    assert!(sources_of("tests").iter().any(|source| source.path == "project/architecture.rs"));

    let edges = Modules::new(&sources).edges();
    let has_edge = |from: &str, to: &str| edges.iter().any(|edge| edge.from[..] == [from] && edge.to[..] == [to]);
    assert!(edges.len() > 100 && has_edge("guard", "semaphore"), "{} edges", edges.len());
}

#[test]
fn scan_distinguishes_a_name_from_a_mention() {
    assert!(names_crate("use tower::Layer;", "tower"));
    assert!(names_crate("use {tower::Layer, http::Request};", "http"));
    assert!(names_crate("impl<S> tower::Layer<S> for X {}", "tower"));
    assert!(names_crate("pub use axum;", "axum"));
    assert!(!names_crate("use super::tower::GuardLayer;", "tower"));
    assert!(!names_crate("mod tower;", "tower"));
    assert!(!names_crate("#[cfg(feature = \"tower\")]", "tower"));
    assert!(!names_crate("use tower_layer::Layer;", "tower"));
    assert!(has_word("let x = unsafe { *p };", "unsafe"));
    assert!(!has_word("#![deny(unsafe_code)]", "unsafe"));
    let has_path = |text| has_path_attribute(&Source::new("x.rs", text));
    assert!(has_path("#[path = \"y.rs\"]\nmod y;") && has_path("#[cfg_attr(loom, path = \"y.rs\")]\nmod y;"));
    assert!(!has_path("let path = \"#[path = 1]\"; // #[path = \"y.rs\"]"));
}

#[test]
fn dependency_rules_reject_what_is_not_in_the_table() {
    let reached = |path: &str, text: &str| {
        let folders = MAY_NAME.map(|(folder, _)| Source::new(&format!("{folder}/mod.rs"), ""));
        let sources: Vec<_> = folders.into_iter().chain([Source::new(path, text)]).collect();
        violations(&sources).len()
    };
    assert_eq!(reached("guard/x.rs", "use crate::semaphore::A;"), 0);
    assert_eq!(reached("guard/x.rs", "use crate::offload::A;"), 1);
    assert_eq!(reached("guard/x.rs", "use crate::offloading::A; // crate::offload::A"), 0);
    assert_eq!(reached("semaphore/x.rs", "use super::super::guard::A;"), 1);
    assert_eq!(reached("web/x.rs", "use crate::guard::A;"), 0);
    assert_eq!(reached("web/x/y.rs", "use crate::{guard::A, semaphore::B};"), 1);
    assert_eq!(reached("panic.rs", "use crate::guard::A;"), 1);
    assert_eq!(reached("panic.rs", "fn f(_: super::background::A) {}"), 1);
    assert_eq!(reached("lib.rs", "pub use guard::A;"), 0);
}

#[test]
fn every_folder_has_a_row_in_the_table_of_dependencies() {
    let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../src")).unwrap();
    let folders = folders.map(|entry| entry.unwrap()).filter(|entry| entry.path().is_dir());
    let folders: BTreeSet<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert_eq!(folders, MAY_NAME.map(|(folder, _)| folder.to_owned()).into());
}

#[test]
fn folders_name_only_the_folders_that_the_table_allows() {
    assert_nothing(violations(&sources_of("src")).into_iter(), "no folder names another that is not in its row");
}

#[test]
fn sibling_folders_do_not_name_each_other_in_a_circle() {
    let sources = sources_of("src");
    let found = circles(&Modules::new(&sources).edges()).into_iter().map(|(parent, folders, edges)| {
        let folders: Vec<_> = folders.into_iter().collect();
        let edges = edges.iter().map(|edge| format!("  src/{}:{}: {}", edge.file, edge.line, edge.to.join("::")));
        format!("src/{}: {}\n{}", parent.join("/"), folders.join(", "), edges.collect::<Vec<_>>().join("\n"))
    });
    assert_nothing(found, "the dependencies between sibling folders have no circle");
}

#[test]
fn each_framework_is_named_only_in_its_place() {
    let sources = sources_of("src");
    for (name, place) in FRAMEWORKS {
        let elsewhere = sources.iter().filter(|source| !source.path.starts_with(place));
        let found = elsewhere.flat_map(|source| source.lines_where(|line| names_crate(line, name)));
        assert_nothing(found, &format!("{name} is named only in src/{place}"));
        assert!(sources.iter().any(|source| source.path.starts_with(place)), "src/{place} exists");
    }
}

#[test]
fn unsafe_code_stands_only_in_leaf_files() {
    let sources = sources_of("src");
    let is_safe = |source: &&Source| !UNSAFE.contains(&source.path.as_str());
    let found = sources.iter().filter(is_safe);
    let found = found.flat_map(|source| source.lines_where(|line| has_word(line, "unsafe")));
    assert_nothing(found, "no unsafe code elsewhere");
    for path in UNSAFE {
        assert!(sources.iter().any(|source| source.path == path), "src/{path} exists");
    }
}

#[test]
fn nothing_prints() {
    let sources = sources_of("src");
    let prints = |line: &str| {
        PRINTING.iter().any(|name| line.match_indices(name).any(|(at, _)| !line[..at].ends_with(char::is_alphanumeric)))
    };
    let found = sources.iter().flat_map(|source| source.lines_where(prints));
    assert_nothing(found, "a library reports through tracing");
}

#[test]
fn no_module_is_declared_with_a_path_attribute() {
    let files =
        ["src", "tests"].into_iter().flat_map(|root| sources_of(root).into_iter().map(move |file| (root, file)));
    let found = files.filter(|(_, source)| has_path_attribute(source));
    let found = found.map(|(root, source)| format!("{root}/{}", source.path));
    assert_nothing(found, "the path of a module is that of its file");
}

#[test]
fn no_file_is_too_long_to_read_from_top_to_bottom() {
    // Unit tests are read one by one, as are the tests in `tests`.
    let files = sources_of("src").into_iter().filter(|source| !source.is_test());
    let long = files.filter(|source| source.code.len() > MAX_LINES_OF_CODE);
    let found = long.map(|source| format!("src/{}: {} lines of code", source.path, source.code.len()));
    assert_nothing(found, &format!("a file in src has at most {MAX_LINES_OF_CODE} lines of code"));

    let long = sources_of("tests").into_iter().map(|source| (source.text.lines().count(), source.path));
    let long = long.filter(|(lines, _)| *lines > MAX_LINES_OF_TESTS);
    let found = long.map(|(lines, path)| format!("tests/{path}: {lines} lines"));
    assert_nothing(found, &format!("a file in tests has at most {MAX_LINES_OF_TESTS} lines"));
}
