//! The files of the project.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

/// A Rust file.
#[derive(Debug)]
pub(crate) struct Source {
    /// The path beneath the folder that was read, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The lines without comments and blank lines, with their numbers.
    pub(crate) code: Vec<(usize, String)>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: code_of(text) }
    }

    /// The first folder of its path, or the file's name.
    pub(crate) fn folder(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    /// Returns `true` if the file holds only unit tests of the module next to it.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs")
    }

    pub(crate) fn lines_where<'a>(&'a self, finds: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = String> + 'a {
        let found = self.code.iter().filter(move |(_, line)| finds(line));
        found.map(|(number, line)| format!("src/{}:{number}: {}", self.path, line.trim()))
    }
}

/// Returns all Rust files beneath a folder of the project, in the order of their paths.
pub(crate) fn sources_of(folder: &str) -> Vec<Source> {
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let mut files = Vec::new();
    visit(&root, &mut files);
    files.sort();
    let sources = files.into_iter().map(|file| {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        Source::new(&path, &fs::read_to_string(&file).unwrap())
    });
    sources.collect()
}

fn code_of(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, without_comment(line).to_owned()));
    lines.filter(|(_, line)| !line.trim().is_empty()).collect()
}

fn without_comment(line: &str) -> &str {
    let starts = line.match_indices("//").map(|(start, _)| start);
    // After an odd number of quotes, the slashes are part of a string.
    let mut starts = starts.filter(|start| line[..*start].matches('"').count().is_multiple_of(2));
    &line[..starts.next().unwrap_or(line.len())]
}

#[test]
fn code_has_no_comments_and_no_blank_lines() {
    let source = Source::new("x.rs", "//! [`x`](crate::web)\n\nlet a = \"http://x\"; // unsafe\n");
    assert_eq!(source.code, [(3, "let a = \"http://x\"; ".to_owned())]);
}
