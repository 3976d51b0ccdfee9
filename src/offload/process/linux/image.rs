//! [`contains`], which finds out if a function is part of the executable file.

use std::fs;
use std::ops::Range;
use std::sync::LazyLock;

use super::system;

/// Where this process has mapped the code of its executable file.
static CODE: LazyLock<Vec<Range<usize>>> = LazyLock::new(|| {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mappings: Vec<Mapping<'_>> = maps.lines().filter_map(Mapping::parse).collect();
    // The file is the one that contains this function. Its path may be that of a file that was deleted or replaced.
    let own = (system::exit_now as fn(i32) -> ! as *const ()).addr();
    let file = mappings.iter().find(|mapping| mapping.range.contains(&own)).map(|mapping| mapping.file);
    mappings.iter().filter(|mapping| Some(mapping.file) == file).map(|mapping| mapping.range.clone()).collect()
});

/// A line of `/proc/self/maps`.
struct Mapping<'a> {
    range: Range<usize>,
    /// The device and the inode.
    file: (&'a str, &'a str),
}

impl<'a> Mapping<'a> {
    /// Returns the mapping if it is executable.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        let is_executable = fields.next()?.contains('x');
        let (device, inode) = (fields.nth(1)?, fields.next()?);
        is_executable.then_some(Self { range, file: (device, inode) })
    }
}

/// Returns `true` if the address is code of the executable file, which every process of this program has.
pub(super) fn contains(address: usize) -> bool {
    CODE.iter().any(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the code of a library.
    fn code_of(file: &str) -> Option<Range<usize>> {
        let maps = fs::read_to_string("/proc/self/maps").ok()?;
        maps.lines().filter(|line| line.contains(file)).find_map(Mapping::parse).map(|mapping| mapping.range)
    }

    #[test]
    fn functions_of_the_program_differ_from_those_of_libraries() {
        assert!(contains((contains as fn(usize) -> bool as *const ()).addr()));
        let library = code_of("libc.so").expect("the tests are linked dynamically");
        assert!(!contains(library.start) && !contains(library.end - 1));
        assert!(!contains(0));
    }
}
