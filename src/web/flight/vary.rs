//! [`Variant`], the values of the request headers that a response varies by.

use std::sync::Arc;

/// The header fields of a message of any framework.
pub(crate) trait Fields {
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]>;
}

/// The values of the request headers that a response names in `Vary`. Clones share them.
///
/// A response without such a header is the same variant for all requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variant(Option<Arc<[VaryField]>>);

#[derive(Debug)]
struct VaryField {
    name: String,
    values: Vec<Box<[u8]>>,
}

impl Variant {
    /// Returns the variant of a response to `request` that varies by the headers with these names.
    pub(crate) fn new(names: Vec<String>, request: &impl Fields) -> Self {
        let values_of = |name: &str| request.values(name).map(Box::from).collect();
        let fields = names.into_iter().map(|name| VaryField { values: values_of(&name), name });
        let fields: Vec<_> = fields.collect();
        Self((!fields.is_empty()).then(|| fields.into()))
    }

    /// Returns `true` if the response also matches `request`, by RFC 9111, section 4.1: each header has the same values
    /// in both requests, or is absent from both.
    pub(crate) fn is_of(&self, request: &impl Fields) -> bool {
        let mut fields = self.0.iter().flat_map(|fields| fields.iter());
        fields.all(|field| request.values(&field.name).eq(field.values.iter().map(|value| &**value)))
    }
}
