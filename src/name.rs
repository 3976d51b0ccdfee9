//! Names of guards and flights, which live as long as the process.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

/// A name behind a thin pointer.
pub(crate) type NameRef = &'static &'static str;

/// Returns the one copy of `name` in the process. The copy is never freed, so there are at most as many copies as
/// distinct names.
pub(crate) fn intern(name: Cow<'static, str>) -> NameRef {
    static NAMES: OnceLock<Mutex<HashMap<&'static str, NameRef>>> = OnceLock::new();
    let mut names = NAMES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(interned) = names.get(&*name) {
        return interned;
    }
    let name: &'static str = match name {
        Cow::Borrowed(name) => name,
        Cow::Owned(name) => name.leak(),
    };
    let interned: NameRef = Box::leak(Box::new(name));
    names.insert(name, interned);
    interned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_share_one_copy() {
        let first = intern(Cow::Owned("one of a kind".to_owned()));
        let second = intern(Cow::Borrowed("one of a kind"));
        assert_eq!(*first, "one of a kind");
        assert!(std::ptr::eq(first, second));
    }
}
