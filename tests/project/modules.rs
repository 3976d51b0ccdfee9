//! [`Modules`], which resolves the paths that files name to the folders of their targets.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::Source;
use crate::tokens::{Token, tokens_of};

type ModulePath = Vec<String>;

/// A file beneath one folder names an item beneath another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) from: ModulePath,
    pub(crate) to: ModulePath,
    /// The file that names the item, beneath `src`.
    pub(crate) file: String,
    pub(crate) line: usize,
}

/// A path in the code, or one branch of a `use` tree.
struct Named {
    /// The module that contains it.
    module: ModulePath,
    segments: Vec<String>,
    /// The name that a `use` declaration gives it.
    alias: Option<String>,
    line: usize,
}

/// The module tree of a crate, without files of unit tests.
pub(crate) struct Modules<'a> {
    sources: Vec<&'a Source>,
    /// The folder of each module.
    modules: BTreeMap<ModulePath, ModulePath>,
    /// The target of each name that a module imports or re-exports. Its children can name it as `super::name`.
    imports: BTreeMap<(ModulePath, String), ModulePath>,
}

impl<'a> Modules<'a> {
    pub(crate) fn new(sources: &'a [Source]) -> Self {
        let sources: Vec<_> = sources.iter().filter(|source| !source.is_test()).collect();
        let modules = sources.iter().map(|source| (module_of(&source.path), folder_of(&source.path))).collect();
        let mut this = Self { sources, modules, imports: BTreeMap::new() };
        for source in &this.sources {
            for named in paths_of(source) {
                let Some(alias) = named.alias.clone() else { continue };
                if let Some(target) = this.absolute(&named) {
                    this.imports.insert((named.module, alias), target);
                }
            }
        }
        this
    }

    /// Returns every mention of an item in another folder, each with the folders of its file and of the item.
    pub(crate) fn edges(&self) -> Vec<Edge> {
        let mut edges = Vec::new();
        for source in &self.sources {
            let from = folder_of(&source.path);
            for named in paths_of(source) {
                let Some(path) = self.absolute(&named) else { continue };
                let to = self.modules.get(&self.resolve(&path, 0)).cloned().unwrap_or_default();
                if to != from {
                    edges.push(Edge { from: from.clone(), to, file: source.path.clone(), line: named.line });
                }
            }
        }
        // A `use` tree names a folder once for each of its branches.
        edges.dedup();
        edges
    }

    /// Returns the path from the root of the crate, or `None` for a path into another crate.
    fn absolute(&self, named: &Named) -> Option<ModulePath> {
        let mut path = named.module.clone();
        let mut segments = named.segments.iter().peekable();
        match &***segments.peek()? {
            "crate" => {
                path.clear();
                segments.next();
            }
            "self" => drop(segments.next()),
            "super" => {
                while segments.next_if(|segment| *segment == "super").is_some() {
                    path.pop();
                }
            }
            first => {
                path.push(first.to_owned());
                if !self.modules.contains_key(&path) {
                    return None;
                }
                segments.next();
            }
        }
        path.extend(segments.cloned());
        Some(path)
    }

    /// Follows imports and returns the innermost module of the path.
    fn resolve(&self, path: &[String], hops: usize) -> ModulePath {
        let mut module = ModulePath::new();
        for (index, segment) in path.iter().enumerate() {
            let mut child = module.clone();
            child.push(segment.clone());
            if self.modules.contains_key(&child) {
                module = child;
                continue;
            }
            match self.imports.get(&(module.clone(), segment.clone())) {
                // The number of hops is limited, because a glob or a macro can hide the end of a chain of imports.
                Some(target) if hops < 8 => {
                    let rest = path[index + 1..].iter().cloned();
                    let target: ModulePath = target.iter().cloned().chain(rest).collect();
                    return self.resolve(&target, hops + 1);
                }
                _ => return module,
            }
        }
        module
    }
}

/// Returns the groups of sibling folders that name each other in a circle, with their parent and the edges between
/// them.
pub(crate) fn circles(edges: &[Edge]) -> Vec<(ModulePath, BTreeSet<String>, Vec<Edge>)> {
    let mut siblings: BTreeMap<ModulePath, Vec<(String, String, &Edge)>> = BTreeMap::new();
    for edge in edges {
        let common = edge.from.iter().zip(&edge.to).take_while(|(from, to)| from == to).count();
        if let (Some(from), Some(to)) = (edge.from.get(common), edge.to.get(common)) {
            siblings.entry(edge.from[..common].to_vec()).or_default().push((from.clone(), to.clone(), edge));
        }
    }
    let mut circles = Vec::new();
    for (parent, edges) in siblings {
        let reachable = |start: &str| {
            let mut reached = BTreeSet::new();
            let mut open = vec![start.to_owned()];
            while let Some(folder) = open.pop() {
                for (_, to, _) in edges.iter().filter(|(from, ..)| *from == folder) {
                    if reached.insert(to.clone()) {
                        open.push(to.clone());
                    }
                }
            }
            reached
        };
        let folders: BTreeSet<&String> = edges.iter().map(|(from, ..)| from).collect();
        let mut seen = BTreeSet::new();
        for folder in folders {
            let circle: BTreeSet<String> =
                reachable(folder).into_iter().filter(|other| reachable(other).contains(folder)).collect();
            if !circle.is_empty() && seen.insert(circle.clone()) {
                let within = edges.iter().filter(|(from, to, _)| circle.contains(from) && circle.contains(to));
                circles.push((parent.clone(), circle.clone(), within.map(|(.., edge)| (*edge).clone()).collect()));
            }
        }
    }
    circles
}

/// Returns the folder of a file: `guard/keyed/gate.rs` and `guard/keyed/mod.rs` are in `[guard, keyed]`.
fn folder_of(path: &str) -> ModulePath {
    let mut segments: ModulePath = path.split('/').map(str::to_owned).collect();
    segments.pop();
    segments
}

/// Returns the module of a file: `[guard, keyed, gate]` for `guard/keyed/gate.rs`.
fn module_of(path: &str) -> ModulePath {
    let mut module = folder_of(path);
    let file = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    if !matches!(file, "mod" | "lib") {
        module.push(file.to_owned());
    }
    module
}

fn paths_of(source: &Source) -> Vec<Named> {
    let tokens = tokens_of(&source.text);
    let word = |at: usize| tokens.get(at).map_or("", |token: &Token| &*token.text);
    let mut module = module_of(&source.path);
    let mut paths = Vec::new();
    // The depth of braces outside each inline module.
    let (mut depth, mut inline) = (0, Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let before = at.checked_sub(1).map_or("", word);
        match word(at) {
            "mod" if word(at + 2) == "{" => {
                module.push(word(at + 1).to_owned());
                inline.push(depth);
                depth += 1;
                at += 3;
            }
            "{" => {
                depth += 1;
                at += 1;
            }
            "}" => {
                depth -= 1;
                if inline.last() == Some(&depth) {
                    inline.pop();
                    module.pop();
                }
                at += 1;
            }
            "use" => {
                let start = if word(at + 1) == "::" { at + 2 } else { at + 1 };
                at = tree(&tokens, start, &[], &module, true, &mut paths);
            }
            "crate" | "self" | "super" if word(at + 1) == "::" && before != "::" => {
                at = tree(&tokens, at, &[], &module, false, &mut paths);
            }
            _ => at += 1,
        }
    }
    paths
}

/// Parses a path, or a `use` tree with all its branches. Returns the index of the token after it.
fn tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &[String],
    module: &[String],
    is_use: bool,
    paths: &mut Vec<Named>,
) -> usize {
    let word = |at: usize| tokens.get(at).map_or("", |token: &Token| &*token.text);
    let mut segments = prefix.to_vec();
    loop {
        if word(at) == "{" {
            at += 1;
            while !matches!(word(at), "}" | "") {
                at = tree(tokens, at, &segments, module, is_use, paths);
                at += usize::from(word(at) == ",");
            }
            return at + 1;
        }
        // In a branch, `self` is the prefix itself.
        if segments.is_empty() || word(at) != "self" {
            segments.push(word(at).to_owned());
        }
        let is_path = word(at + 1) == "::" && !matches!(word(at + 2), "<" | "");
        if !is_path || !is_use && word(at + 2) == "{" {
            break;
        }
        at += 2;
    }
    let line = tokens.get(at).map_or(0, |token| token.line);
    at += 1;
    let mut alias = segments.last().cloned().filter(|_| is_use);
    if is_use && word(at) == "as" {
        alias = Some(word(at + 1).to_owned());
        at += 2;
    }
    paths.push(Named { module: module.to_vec(), segments, alias, line });
    at
}

mod tests {
    use super::*;

    fn edges_of(sources: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = sources.iter().map(|(path, text)| Source::new(path, text)).collect();
        let edges = Modules::new(&sources).edges();
        edges.into_iter().map(|edge| format!("{}:{} {}", edge.file, edge.line, edge.to.join("::"))).collect()
    }

    #[test]
    fn every_way_to_name_another_folder_is_an_edge() {
        let others = [("lib.rs", "pub use b::B;"), ("b/mod.rs", "pub(crate) mod c;"), ("b/c.rs", "")];
        let named = [
            ("use crate::b::B;", "b"),
            ("use crate::{x::Y, b::{self, c::C}};", "b"),
            ("use super::b;", "b"),
            ("use crate::B;", "b"),
            ("use crate::B as Other;", "b"),
            ("fn f() -> crate::b::c::C<u8> {}", "b"),
            ("mod inner { use super::super::b::B; }", "b"),
            ("use std::b::B; use ::b::B; // crate::b", ""),
            ("let x = \"crate::b\"; use other::crate_::b;", ""),
        ];
        for (text, expected) in named {
            let sources: Vec<_> = others.into_iter().chain([("a/mod.rs", text)]).collect();
            let found: Vec<_> = edges_of(&sources).into_iter().filter(|edge| edge.starts_with("a/")).collect();
            let names_b = found.iter().any(|edge| edge.ends_with(" b"));
            assert_eq!(names_b, expected == "b", "{text}: {found:?}");
        }
    }

    #[test]
    fn siblings_that_name_each_other_are_a_circle_at_every_depth() {
        let circles_of = |sources: &[(&str, &str)]| {
            let sources: Vec<_> = sources.iter().map(|(path, text)| Source::new(path, text)).collect();
            let found = circles(&Modules::new(&sources).edges());
            found.into_iter().map(|(parent, folders, _)| (parent.join("::"), folders)).collect::<Vec<_>>()
        };
        let three = |last: &'static str| {
            [
                ("x/mod.rs", "mod a; mod b; mod c; use c::C;"),
                ("x/a/mod.rs", "use super::b;"),
                ("x/b/mod.rs", "mod deep;"),
                ("x/b/deep.rs", "use crate::x::C;"),
                ("x/c/mod.rs", last),
            ]
        };
        assert_eq!(circles_of(&three("use super::X; use std::a;")), []);
        let all = ["a", "b", "c"].map(str::to_owned).into();
        assert_eq!(circles_of(&three("fn f(_: &super::a::A) {}")), [("x".to_owned(), all)]);
        let top = [("a/mod.rs", "use crate::b;"), ("b/mod.rs", "use crate::a;")];
        assert_eq!(circles_of(&top), [(String::new(), ["a", "b"].map(str::to_owned).into())]);
    }
}
