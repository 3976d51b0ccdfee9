//! [`RequestKey`] and [`KeyKind`], whose lane a request passes.

/// Whose lane a request passes, as a keyed layer or middleware is told for each request.
///
/// An `Option` becomes one: `Some(key)` is the key, `None` a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestKey<K> {
    /// The lane of that key. Requests without a key of their own can share one: give them all the same.
    Key(K),
    /// None: the request is served at once, beside all others, as if the layer were not there. If its client leaves, its
    /// handler is dropped, as the framework does.
    LetThrough,
    /// None: the request is answered 400, `urn:onelane:key-missing`.
    Refuse,
}

/// What the keys of a keyed layer or middleware stand for, and so which status a refusal for one of them has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyKind {
    /// Clients: who asks for too much is answered 429.
    #[default]
    Client,
    /// Resources: who asks for one that is in use is answered 409.
    Resource,
}

impl<K> From<Option<K>> for RequestKey<K> {
    fn from(key: Option<K>) -> Self {
        key.map_or(Self::Refuse, Self::Key)
    }
}
