//! The arrows between the folders, and what stays out of `src`.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::fs;
use std::path::{Path, PathBuf};

/// The folders of the core and the edges, in the order of the flow.
const FOLDERS: [&str; 8] = ["web", "guard", "backend", "offload", "background", "serve", "watch", "semaphore"];
/// Those that stand on their own, except for the lane.
const CORE: [&str; 5] = ["guard", "offload", "background", "watch", "semaphore"];
/// Those that stand on the lane.
const ON_THE_SEMAPHORE: [&str; 2] = ["guard", "offload"];
/// The foreign crates that only an edge knows, with the start of the one path beneath `src` that may name each: a web
/// adapter, all of them, or the one file that serves by itself.
const FRAMEWORKS: [(&str, &str); 14] = [
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
    ("hyper", "background/probe_server.rs"),
    ("hyper_util", "background/probe_server.rs"),
];
const PRINTING: [&str; 5] = ["print!", "println!", "eprint!", "eprintln!", "dbg!"];
const MOST_LINES: usize = 300;

struct Source {
    /// Relative to `src`, with forward slashes.
    path: String,
    /// Its lines without comments and blank lines, with their numbers.
    code: Vec<(usize, String)>,
}

impl Source {
    fn folder(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    fn lines_where<'a>(&'a self, finds: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = String> + 'a {
        let found = self.code.iter().filter(move |(_, line)| finds(line));
        found.map(|(number, line)| format!("src/{}:{number}: {}", self.path, line.trim()))
    }
}

fn sources() -> Vec<Source> {
    fn visit(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    visit(&root, &mut files);
    files.sort();
    let sources = files.into_iter().map(|file| {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        Source { path, code: code_of(&fs::read_to_string(&file).unwrap()) }
    });
    sources.collect()
}

fn code_of(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, without_comment(line).to_owned()));
    lines.filter(|(_, line)| !line.trim().is_empty()).collect()
}

fn without_comment(line: &str) -> &str {
    let starts = line.match_indices("//").map(|(start, _)| start);
    // Behind an odd number of quotes it stands in a string.
    let mut starts = starts.filter(|start| line[..*start].matches('"').count().is_multiple_of(2));
    &line[..starts.next().unwrap_or(line.len())]
}

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

/// Whether a line starts a path with the crate of this name. `super::tower::…` is a module of the project.
fn names_crate(line: &str, name: &str) -> bool {
    words(line).any(|(before, word, after)| {
        let is_imported = before.trim_end().ends_with("use") && after.starts_with(';');
        let starts_a_path = after.starts_with("::") && !before.trim_start().ends_with("::");
        word == name && (is_imported || starts_a_path || before.ends_with("extern crate "))
    })
}

fn names_folder(line: &str, name: &str) -> bool {
    words(line).any(|(before, word, _)| word == name && before.ends_with("crate::"))
}

fn has_word(line: &str, name: &str) -> bool {
    words(line).any(|(_, word, _)| word == name)
}

fn assert_nothing(found: impl Iterator<Item = String>, rule: &str) {
    let found: Vec<String> = found.collect();
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn the_scan_sees_the_whole_tree() {
    let sources = sources();
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
}

#[test]
fn the_scan_tells_a_name_from_a_mention() {
    assert!(names_crate("use tower::Layer;", "tower"));
    assert!(names_crate("use {tower::Layer, http::Request};", "http"));
    assert!(names_crate("impl<S> tower::Layer<S> for X {}", "tower"));
    assert!(names_crate("pub use axum;", "axum"));
    assert!(!names_crate("use super::tower::GuardLayer;", "tower"));
    assert!(!names_crate("mod tower;", "tower"));
    assert!(!names_crate("#[cfg(feature = \"tower\")]", "tower"));
    assert!(!names_crate("use tower_layer::Layer;", "tower"));
    assert!(names_folder("use crate::web::status;", "web"));
    assert!(!names_folder("use crate::website;", "web"));
    assert!(has_word("let x = unsafe { *p };", "unsafe"));
    assert!(!has_word("#![deny(unsafe_code)]", "unsafe"));
    let code = code_of("//! [`x`](crate::web)\n\nlet a = \"http://x\"; // unsafe\n");
    assert_eq!(code, [(3, "let a = \"http://x\"; ".to_owned())]);
}

#[test]
fn each_folder_of_the_core_names_no_other_folder() {
    let sources = sources();
    for core in CORE {
        let may_name = |folder| folder == core || folder == "semaphore" && ON_THE_SEMAPHORE.contains(&core);
        for other in FOLDERS.into_iter().filter(|folder| !may_name(*folder)) {
            let folder = sources.iter().filter(|source| source.folder() == core);
            let found = folder.flat_map(|source| source.lines_where(|line| names_folder(line, other)));
            assert_nothing(found, "the core knows nothing of the folders around it");
        }
    }
}

#[test]
fn each_framework_is_named_in_its_place_alone() {
    let sources = sources();
    for (name, place) in FRAMEWORKS {
        let elsewhere = sources.iter().filter(|source| !source.path.starts_with(place));
        let found = elsewhere.flat_map(|source| source.lines_where(|line| names_crate(line, name)));
        assert_nothing(found, &format!("{name} is named in src/{place} alone"));
        assert!(sources.iter().any(|source| source.path.starts_with(place)), "src/{place} is there");
    }
}

#[test]
fn there_is_no_unsafe_code() {
    let sources = sources();
    let found = sources.iter().flat_map(|source| source.lines_where(|line| has_word(line, "unsafe")));
    assert_nothing(found, "no unsafe");
}

#[test]
fn nothing_prints() {
    let sources = sources();
    let prints = |line: &str| {
        PRINTING.iter().any(|name| line.match_indices(name).any(|(at, _)| !line[..at].ends_with(char::is_alphanumeric)))
    };
    let found = sources.iter().flat_map(|source| source.lines_where(prints));
    assert_nothing(found, "a library tells things through tracing");
}

#[test]
fn no_file_is_too_long_to_read_from_top_to_bottom() {
    // A file of tests is read test by test.
    let files = sources().into_iter().filter(|source| !source.path.ends_with("tests.rs"));
    let long = files.filter(|source| source.code.len() > MOST_LINES);
    let found = long.map(|source| format!("src/{}: {} lines of code", source.path, source.code.len()));
    assert_nothing(found, "a file has at most 300 lines of code");
}
