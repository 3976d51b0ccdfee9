//! [`RequestKey`] and [`KeyKind`]: the key of a request, and what keys stand for.

/// The key of a request. The function given to a keyed layer or middleware returns one for each request.
///
/// An `Option` converts into a `RequestKey`: `Some(key)` is the key, and `None` refuses the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestKey<K> {
    /// The request waits for a permit of this key. To make requests without a key share permits, give them all the same
    /// key.
    Key(K),
    /// The request needs no permit. It is served at once, concurrently with all other requests, as if the layer did not
    /// exist. If its client disconnects, the framework drops the handler, as without the layer.
    LetThrough,
    /// The request is refused with status 400 and type
    /// `https://docs.rs/onelane/latest/onelane/web/index.html#key-missing`.
    Refuse,
}

/// The meaning of the keys of a keyed layer or middleware. It determines the status of a refusal that concerns one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyKind {
    /// A key stands for a client. A client that asks for too much gets status 429.
    #[default]
    Client,
    /// A key stands for a resource. A request for a resource that is in use gets status 409.
    Resource,
}

impl<K> From<Option<K>> for RequestKey<K> {
    fn from(key: Option<K>) -> Self {
        key.map_or(Self::Refuse, Self::Key)
    }
}
