//! Which answers are for everyone who asked the same.

use super::FlightOptions;

/// The head of an answer, whichever framework's.
pub(crate) trait AnswerHead {
    fn status(&self) -> u16;

    fn header(&self, name: &str) -> impl Iterator<Item = &[u8]>;
}

/// Whether an answer may go to other requests with the same key. `size` is its body's, if that is known; a stream's is
/// not.
///
/// It follows what RFC 9111 lets a shared cache store, as far as that is about *whom* an answer is for. How long it would
/// stay fresh does not matter: nothing is stored.
pub(crate) fn is_shareable(head: &impl AnswerHead, size: Option<u64>, options: &FlightOptions) -> bool {
    let is_whole = head.status() >= 200 && head.status() != 206;
    let is_small = size.is_some_and(|size| size <= options.max_body);
    is_whole && is_small && !is_personal(head) && !has_trailers(head) && varies_by_key(head, options)
}

fn is_personal(head: &impl AnswerHead) -> bool {
    let sets_cookie = head.header("set-cookie").next().is_some();
    sets_cookie
        || items(head, "cache-control").any(|directive| {
            let name = directive.split('=').next().unwrap_or_default().trim();
            name.eq_ignore_ascii_case("private") || name.eq_ignore_ascii_case("no-store")
        })
}

fn has_trailers(head: &impl AnswerHead) -> bool {
    head.header("trailer").next().is_some()
}

fn varies_by_key(head: &impl AnswerHead, options: &FlightOptions) -> bool {
    items(head, "vary").all(|name| options.is_key_header(&name) || options.is_ignored(&name))
}

/// The items of a header that is a list. What is no text is an item nobody knows.
fn items(head: &impl AnswerHead, name: &str) -> impl Iterator<Item = String> {
    let values: Vec<String> = head.header(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect();
    values.into_iter().flat_map(|value| {
        value.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect::<Vec<_>>()
    })
}
