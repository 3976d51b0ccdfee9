//! [`RouteLabels`], the labels of routes: a method and a pattern, such as `GET /users/{id}`.
//!
//! Labels are never freed, so no client may create a label. Only the methods of HTTP and the patterns of the app become
//! labels.

use std::collections::HashMap;

use crate::debug::impl_debug;
use crate::watch::Label;

/// The methods that HTTP defines. The last entry stands for all other methods, because a client may send any text.
const METHODS: [&str; 10] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "OTHER"];

/// The greatest number of remembered keys, and the length of the longest one. In actix-web the keys are paths, so these
/// limits bound the memory that clients can occupy.
const MAX_KEYS: usize = 1_024;
const MAX_KEY: usize = 256;

/// Remembers labels. A request whose label is remembered allocates nothing.
#[derive(Default)]
pub(super) struct RouteLabels(HashMap<Box<str>, [Option<Label>; METHODS.len()]>);

impl RouteLabels {
    /// Returns the label of a request. Requests with the same `key` have the same route. `pattern` is called if the
    /// label is not remembered, and returns the pattern of the route. Without a pattern, the label is `unmatched`.
    pub(super) fn find(&mut self, method: &str, key: &str, pattern: impl FnOnce() -> Option<String>) -> Label {
        let method = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1);
        if let Some(label) = self.0.get(key).and_then(|labels| labels[method]) {
            return label;
        }
        let label =
            pattern().map_or(Label::from("unmatched"), |pattern| format!("{} {pattern}", METHODS[method]).into());
        if key.len() <= MAX_KEY {
            if self.0.len() >= MAX_KEYS {
                self.0.clear();
            }
            self.0.entry(key.into()).or_default()[method] = Some(label);
        }
        label
    }
}

impl_debug!(RouteLabels |this| { remembered: this.0.len(), .. });
