//! [`Stack`], the frames of a blocked thread.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The stack of a thread, from the innermost function outwards. The frames of the runtime are left out.
///
/// The `Display` text has one line for each frame: `function (file:line)`.
#[derive(Clone, Debug)]
pub struct Stack(Arc<[Frame]>);

/// A function on a [`Stack`].
#[derive(Clone, Debug)]
pub struct Frame {
    pub(super) function: Option<String>,
    pub(super) file: Option<PathBuf>,
    pub(super) line: Option<u32>,
}

impl Stack {
    #[cfg(any(test, all(feature = "backtrace", target_os = "linux")))]
    pub(super) fn new(frames: Vec<Frame>) -> Self {
        Self(frames.into())
    }

    /// Returns the frames, from the innermost function outwards.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.0
    }

    /// Returns the innermost frame that belongs neither to the system nor to the standard library: the place to mend.
    #[must_use]
    pub fn culprit(&self) -> Option<&Frame> {
        self.0.iter().find(|frame| frame.is_code_of_a_crate())
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

    fn is_code_of_a_crate(&self) -> bool {
        const OTHERS: [&str; 3] = ["std::", "core::", "alloc::"];
        let is_of_std = |name: &str| OTHERS.iter().any(|path| name.trim_start_matches('<').starts_with(path));
        self.function().is_some_and(|name| name.contains("::") && !is_of_std(name))
    }
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
