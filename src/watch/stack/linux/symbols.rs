//! The translation of addresses to the frames of a [`Stack`].

use std::ffi::c_void;
use std::path::Path;

use crate::watch::stack::frames::{Frame, Stack, is_of_dependency};

/// Names the functions at these addresses, including functions that were inlined.
///
/// The first address is that of the interrupted instruction. All others are return addresses. `resolve` looks up the
/// instruction before an address, which is the call. The first address is therefore moved by one.
///
/// Returns `None` if the thread is in `block_in_place`, because the thread has handed its worker over.
pub(super) fn stack(addresses: &[usize]) -> Option<Stack> {
    let mut frames = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let address = if index == 0 { address.saturating_add(1) } else { *address };
        let before = frames.len();
        backtrace::resolve(address as *mut c_void, |symbol| frames.push(frame(symbol)));
        if frames.len() == before {
            frames.push(Frame { function: None, file: None, line: None });
        }
    }
    (!Stack::is_of_no_worker(&frames)).then(|| Stack::trimmed(frames))
}

fn frame(symbol: &backtrace::Symbol) -> Frame {
    let file = symbol.filename();
    // The alternate form leaves out the hash.
    let name = symbol.name().map(|name| format!("{name:#}"));
    Frame {
        function: name.map(|name| with_path(name, file.and_then(module_of))),
        file: file.map(Into::into),
        line: symbol.lineno(),
    }
}

/// Adds the path of the module to a name without a path. With `debug = "line-tables-only"`, inlined functions and the
/// functions that contain them have such names.
fn with_path(name: String, module: Option<String>) -> String {
    let is_bare = !name.starts_with('<') && !name.split('<').next().unwrap_or_default().contains("::");
    match module {
        Some(module) if is_bare => format!("{module}::{name}"),
        _ => name,
    }
}

/// Returns the path of the module in a file of a dependency or of the standard library.
fn module_of(file: &Path) -> Option<String> {
    let (folders, file) =
        file.to_str().filter(|_| is_of_dependency(file))?.strip_suffix(".rs")?.rsplit_once("/src/")?;
    let (_, package) = folders.rsplit_once('/')?;
    let version =
        package.match_indices('-').find(|(at, _)| package[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    let package = version.map_or(package, |(at, _)| &package[..at]);
    let module = file.trim_end_matches("/mod").replace('/', "::");
    Some(format!("{}::{module}", package.replace('-', "_")).trim_end_matches("::lib").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_without_a_path_gets_the_path_of_its_file() {
        let named = |name: &str, file: &str| with_path(name.to_owned(), module_of(Path::new(file)));
        let registry = "/home/me/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f";
        let mutex = "/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/sys/sync/mutex/futex.rs";
        assert_eq!(named("lock_contended", mutex), "std::sys::sync::mutex::futex::lock_contended");
        assert_eq!(named("std::sync::f", mutex), "std::sync::f");
        assert_eq!(named("<a::B as c::D>::f", mutex), "<a::B as c::D>::f");
        let core = format!("{registry}/tokio-1.52.3/src/runtime/task/core.rs");
        assert_eq!(named("poll<app::Future>", &core), "tokio::runtime::task::core::poll<app::Future>");
        assert_eq!(named("f", &format!("{registry}/base64ct-1.8.0-rc.1/src/lib.rs")), "base64ct::f");
        assert_eq!(named("f", &format!("{registry}/futures-executor-0.3.31/src/a/mod.rs")), "futures_executor::a::f");
        assert_eq!(named("{closure#0}", "/home/me/app/src/main.rs"), "{closure#0}");
    }
}
