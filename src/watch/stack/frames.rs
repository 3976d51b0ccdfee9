//! [`Stack`], the frames of a blocked thread.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The greatest number of frames that a stack keeps, from the innermost one outwards.
const MAX_FRAMES: usize = 64;

/// The stack of a thread, from the innermost function outwards.
///
/// The stack ends where the runtime polls the task. The frames outside of that poll are left out, and so are functions
/// that only call another function, such as those of closures and boxes in the standard library.
///
/// The `Display` text has one line for each frame: `function (file:line)`.
#[derive(Clone, Debug)]
pub struct Stack(Arc<[Frame]>);

/// A function on a [`Stack`].
///
/// The name requires the symbols of the program, which `strip = true` removes. The file and the line require debug
/// information: `debug = "limited"` in the profile suffices. With `debug = "line-tables-only"`, the names of some
/// functions of the program have no path.
#[derive(Clone, Debug)]
pub struct Frame {
    pub(super) function: Option<String>,
    pub(super) file: Option<PathBuf>,
    pub(super) line: Option<u32>,
}

/// The functions that poll tasks, and the first functions of a thread. A stack ends before such a function.
const RUNTIME: [&str; 6] = [
    "tokio::runtime::",
    "tokio::task::local::",
    "onelane::watch::future::",
    "onelane::watch::never_blocks::",
    "std::sys::backtrace::__rust_begin_short_backtrace",
    "std::rt::lang_start",
];
/// The functions that hand the worker of the thread to another thread.
const HAND_OVER: [&str; 2] = ["tokio::task::blocking::block_in_place", "tokio::runtime::scheduler::block_in_place::"];
/// The functions that only call another function.
const CALLS: [&str; 9] = [
    "core::ops::function::",
    "core::panic::unwind_safe::",
    "core::pin::Pin",
    "core::future::",
    "alloc::boxed::Box",
    "std::panic",
    "std::thread::local::LocalKey",
    "__rust_try",
    "tokio::loom::",
];
/// The crates whose functions are never the culprit.
const NEVER_CULPRIT: [&str; 5] = ["std::", "core::", "alloc::", "tokio::", "onelane::"];
/// Parts of the paths of files that belong to the standard library.
const STANDARD_LIBRARY: [&str; 3] = ["/rustc/", "/rust/deps/", "/rustlib/src/rust/library/"];
/// Parts of the paths of files that belong to other packages.
const PACKAGES: [&str; 2] = ["/registry/src/", "/git/checkouts/"];

impl Stack {
    /// Creates a stack from all frames of a thread, and leaves out frames that do not help to find the culprit.
    #[cfg_attr(
        not(all(feature = "backtrace", target_os = "linux")),
        allow(dead_code, reason = "nothing captures frames")
    )]
    pub(super) fn trimmed(frames: Vec<Frame>) -> Self {
        // The innermost frames may belong to the runtime, for example when the task spawns another task.
        let culprit = frames.iter().position(Frame::is_code_of_a_crate).unwrap_or(0);
        let end = frames[culprit..].iter().position(|frame| frame.starts_with(&RUNTIME)).map(|end| culprit + end);
        let end = end.filter(|end| *end > 0).unwrap_or(frames.len());
        let kept = frames.into_iter().take(end).filter(|frame| !frame.starts_with(&CALLS));
        Self(kept.take(MAX_FRAMES).collect())
    }

    /// Returns `true` if the thread with these frames is no worker: it has handed its worker to another thread, in
    /// `block_in_place`, or is an idle thread for blocking tasks.
    #[cfg_attr(
        not(all(feature = "backtrace", target_os = "linux")),
        allow(dead_code, reason = "nothing captures frames")
    )]
    pub(super) fn is_of_no_worker(frames: &[Frame]) -> bool {
        let has = |paths: &[&str]| frames.iter().any(|frame| frame.starts_with(paths));
        has(&HAND_OVER) || has(&["tokio::runtime::blocking::pool::"]) && !has(&["tokio::runtime::scheduler::"])
    }

    /// Returns the frames, from the innermost function outwards.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.0
    }

    /// Returns the frame to fix: the innermost frame of the program's own packages. If the files are unknown, or if no
    /// frame belongs to the program, returns the innermost frame outside of the system, the standard library, tokio and
    /// this crate.
    ///
    /// A file belongs to a dependency if the file is in Cargo's registry or among Cargo's checkouts.
    #[must_use]
    pub fn culprit(&self) -> Option<&Frame> {
        let mut of_crates = self.0.iter().filter(|frame| frame.is_code_of_a_crate());
        self.0.iter().find(|frame| frame.is_code_of_the_program()).or_else(|| of_crates.next())
    }
}

impl Frame {
    /// Returns the name of the function, with its path. Returns `None` if the program has no symbol for it.
    #[must_use]
    pub fn function(&self) -> Option<&str> {
        self.function.as_deref()
    }

    /// Returns the source file. Returns `None` without debug information.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Returns the line in the source file, from 1. Returns `None` without debug information.
    #[must_use]
    pub fn line(&self) -> Option<u32> {
        self.line
    }

    /// Returns `true` if the path of the function begins with one of these paths. The path of a method begins with its
    /// type, or with its trait if the type is a type parameter.
    pub(super) fn starts_with(&self, paths: &[&str]) -> bool {
        let name = self.function().unwrap_or_default().trim_start_matches(['<', '&']);
        let of_any_type = name.split_once(" as ").filter(|(of, _)| !of.contains("::"));
        let name = of_any_type.map_or(name, |(_, path)| path);
        paths.iter().any(|path| name.starts_with(path))
    }

    /// Returns `true` if the function is written in Rust. The file decides, too, because not every name has a path.
    pub(super) fn is_rust(&self) -> bool {
        let is_rust_file = self.file().is_some_and(|file| file.extension().is_some_and(|extension| extension == "rs"));
        is_rust_file || self.function().is_some_and(|name| name.contains("::"))
    }

    pub(super) fn is_code_of_the_program(&self) -> bool {
        self.is_code_of_a_crate() && self.file().is_some_and(|file| !is_of_dependency(file))
    }

    /// Returns `true` unless the function belongs to the system, the standard library, tokio or this crate.
    fn is_code_of_a_crate(&self) -> bool {
        let is_of_std = self.file().is_some_and(|file| contains_any(file, &STANDARD_LIBRARY));
        self.is_rust() && !is_of_std && !self.starts_with(&NEVER_CULPRIT)
    }
}

/// Returns `true` if the file belongs to the standard library or to a dependency.
pub(super) fn is_of_dependency(file: &Path) -> bool {
    contains_any(file, &STANDARD_LIBRARY) || contains_any(file, &PACKAGES)
}

fn contains_any(file: &Path, parts: &[&str]) -> bool {
    parts.iter().any(|part| file.to_string_lossy().contains(part))
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.function().unwrap_or("<unknown>"))?;
        let Some(file) = self.file() else { return Ok(()) };
        match self.line {
            Some(line) => write!(f, " ({}:{line})", file.display()),
            None => write!(f, " ({})", file.display()),
        }
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, frame) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{frame}")?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

    use super::*;

    const REGISTRY: &str = "/home/me/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f";

    fn frame(name: &str, file: Option<&str>) -> Frame {
        Frame { function: Some(name.to_owned()), file: file.map(Into::into), line: file.map(|_| 7) }
    }

    fn names(stack: &Stack) -> Vec<&str> {
        stack.frames().iter().map(|frame| frame.function().unwrap()).collect()
    }

    fn culprit(stack: &Stack) -> &str {
        stack.culprit().unwrap().function().unwrap()
    }

    #[test]
    fn stack_ends_where_the_runtime_polls_the_task() {
        let stack = Stack::trimmed(
            [
                "syscall",
                "tokio::runtime::scheduler::inject::push",
                "tokio::task::spawn::spawn",
                "app::report::{{closure}}",
                "<core::pin::Pin<P> as core::future::future::Future>::poll",
                "<F as core::future::future::Future>::poll",
                "framework::handler::call",
                "<tokio::runtime::blocking::task::BlockingTask<T> as core::future::future::Future>::poll",
                "start_thread",
            ]
            .map(|name| frame(name, None))
            .into(),
        );
        let kept = ["syscall", "tokio::runtime::scheduler::inject::push", "tokio::task::spawn::spawn"];
        assert_eq!(names(&stack), [&kept[..], &["app::report::{{closure}}", "framework::handler::call"]].concat());
        assert_eq!(culprit(&stack), "app::report::{{closure}}");
    }

    #[test]
    fn stack_of_the_runtime_alone_is_kept() {
        let stack = Stack::trimmed(vec![frame("tokio::runtime::task::new_task", None), frame("start_thread", None)]);
        assert_eq!(names(&stack), ["tokio::runtime::task::new_task", "start_thread"]);
        assert!(stack.culprit().is_none());
    }

    #[test]
    fn culprit_is_code_of_the_program_rather_than_of_a_dependency() {
        let of_dependency = format!("{REGISTRY}/ureq-3.0.1/src/run.rs");
        let frames = |own: Option<&str>| {
            let std = frame("with<F>", Some("/rustc/abc/library/std/src/thread/local.rs"));
            vec![frame("recv", None), std, frame("ureq::run::run", Some(&of_dependency)), frame("report", own)]
        };
        assert_eq!(culprit(&Stack::trimmed(frames(Some("/app/src/main.rs")))), "report");
        assert_eq!(culprit(&Stack::trimmed(frames(None))), "ureq::run::run");
    }

    #[test]
    fn text_of_a_stack_has_one_line_for_each_frame() {
        let mut unknown = frame("", None);
        unknown.function = None;
        let stack = Stack::trimmed(vec![unknown, frame("app::report", Some("/app/src/main.rs"))]);
        assert_eq!(stack.to_string(), "<unknown>\napp::report (/app/src/main.rs:7)");
    }

    #[test]
    fn only_the_innermost_frames_are_kept() {
        let stack = Stack::trimmed((0..100).map(|number| frame(&format!("app::f{number}"), None)).collect());
        assert_eq!((stack.frames().len(), culprit(&stack)), (MAX_FRAMES, "app::f0"));
    }
}
