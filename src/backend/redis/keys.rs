//! [`Keys`], the names of keys and channels.

use std::fmt::Write;

use super::super::lock_backend::LockName;

/// The names of a domain. All keys of a guard contain the same hash tag, `{onelane:domain:guard}`, so that a cluster
/// keeps them in one place.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    domain: String,
}

impl Keys {
    pub(super) fn new(domain: &str) -> Self {
        Self { domain: quoted(domain) }
    }

    /// Returns the key of a lock, which is also the name of the channel of its releases.
    pub(super) fn lock(&self, name: &LockName) -> String {
        let tag = self.tag(name.guard());
        match name.key() {
            // After the hash tag, a key may contain anything.
            Some(key) => format!("{tag}:lock:{key}"),
            None => format!("{tag}:lock"),
        }
    }

    /// Returns the key of the last token that was reserved for a guard.
    pub(super) fn fence(&self, guard: &str) -> String {
        format!("{}:fence", self.tag(guard))
    }

    fn tag(&self, guard: &str) -> String {
        format!("{{onelane:{}:{}}}", self.domain, quoted(guard))
    }
}

/// Replaces the characters that separate the parts of a hash tag.
fn quoted(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '%' | ':' | '{' | '}' => {
                // Writing to a string does not fail.
                let _ = write!(quoted, "%{:02x}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_separators_do_not_collide() {
        let keys = Keys::new("a:b");
        assert_eq!(keys.lock(&LockName::new("report", None)), "{onelane:a%3ab:report}:lock");
        assert_eq!(keys.lock(&LockName::new("{x}%", Some("{k}:1"))), "{onelane:a%3ab:%7bx%7d%25}:lock:{k}:1");
        assert_ne!(keys.fence("b:c"), Keys::new("a:b:b").fence("c"));
        assert_ne!(keys.lock(&LockName::new("g", None)), keys.lock(&LockName::new("g", Some(""))));
    }
}
