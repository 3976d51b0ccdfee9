//! [`contains_function`] and [`contains_static`], which find out whether an address is part of the executable file.

use std::fs;
use std::ops::Range;
use std::sync::LazyLock;

use super::system;

/// The addresses at which this process has mapped its executable file.
static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    // The executable is the file that contains this function. Its path may lead to another file by now.
    let own = (system::exit_now as fn(i32) -> ! as *const ()).addr();
    Image::of_file_at(own, &fs::read_to_string("/proc/self/maps").unwrap_or_default())
});

#[derive(Debug, Default)]
struct Image {
    code: Vec<Range<usize>>,
    data: Vec<Range<usize>>,
}

/// A line of `/proc/self/maps`.
struct Mapping<'a> {
    range: Range<usize>,
    is_code: bool,
    /// The device and the inode of the file. The inode is `0` for memory without a file.
    file: (&'a str, &'a str),
    has_name: bool,
}

impl Image {
    /// Reads the mappings of the file that is mapped at an address.
    fn of_file_at(address: usize, maps: &str) -> Self {
        let mappings: Vec<Mapping<'_>> = maps.lines().filter_map(Mapping::parse).collect();
        let Some(file) = mappings.iter().find(|mapping| mapping.range.contains(&address)).map(|mapping| mapping.file)
        else {
            return Self::default();
        };
        let mut image = Self::default();
        let mut end = None;
        for Mapping { range, is_code, file: mapped, has_name } in mappings {
            // Statics that begin as zeroes follow the file, in memory without a name.
            let is_part = mapped == file || (end == Some(range.start) && !has_name);
            end = is_part.then_some(range.end);
            if is_part {
                if is_code { &mut image.code } else { &mut image.data }.push(range);
            }
        }
        image
    }
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        let is_code = fields.next()?.contains('x');
        let (device, inode) = (fields.nth(1)?, fields.next()?);
        Some(Self { range, is_code, file: (device, inode), has_name: fields.next().is_some() })
    }
}

/// Returns `true` if the address is in the code of the executable file, which every process of this program has.
pub(super) fn contains_function(address: usize) -> bool {
    IMAGE.code.iter().any(|range| range.contains(&address))
}

/// Returns `true` if the address is in the data of the executable file, where its statics are.
pub(super) fn contains_static(address: usize) -> bool {
    IMAGE.data.iter().any(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU8;

    use super::*;

    /// Returns the addresses of a library's code.
    fn code_of(file: &str) -> Option<Range<usize>> {
        let maps = fs::read_to_string("/proc/self/maps").ok()?;
        let mut mappings = maps.lines().filter(|line| line.contains(file)).filter_map(Mapping::parse);
        mappings.find(|mapping| mapping.is_code).map(|mapping| mapping.range)
    }

    #[test]
    fn functions_of_the_program_differ_from_those_of_libraries() {
        assert!(contains_function((contains_function as fn(usize) -> bool as *const ()).addr()));
        let library = code_of("libc.so").expect("the tests are linked dynamically");
        assert!(!contains_function(library.start) && !contains_function(library.end - 1));
        assert!(!contains_function(0));
    }

    #[test]
    fn statics_of_the_program_differ_from_other_values() {
        static INITIALIZED: AtomicU8 = AtomicU8::new(1);
        static ZERO: AtomicU8 = AtomicU8::new(0);
        assert!(contains_static((&raw const INITIALIZED).addr()));
        assert!(contains_static((&raw const ZERO).addr()));
        let (boxed, local) = (Box::new(1_u8), 1_u8);
        assert!(!contains_static((&raw const *boxed).addr()));
        assert!(!contains_static((&raw const local).addr()));
    }
}
