//! [`Audience`], the requests that may get a response.

use super::{Fields, FlightOptions};
use crate::web::refusal::is_header_name;

/// The head of a response of any framework.
pub(crate) trait ResponseHead {
    fn status(&self) -> u16;

    fn fields(&self) -> &impl Fields;

    /// Returns the size of the body in bytes, or `None` if it is not known, as for a stream.
    fn body_size(&self) -> Option<u64>;
}

/// The requests that may get a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// All requests with the same key and the same values of the headers `vary`. The body has `size` bytes.
    Everyone { size: u64, vary: Vec<String> },
    /// Only the leader, the request that the response was made for. The key's next response will also be for one
    /// request only.
    LeaderOnly,
    /// Only the leader. The key's next response may be for everyone, because this response depends on the request's
    /// client or headers, not on the requested resource.
    LeaderOnlyThisTime,
}

/// Returns the requests that may get a response.
///
/// This follows the rules of RFC 9111 for what a shared cache may store, as far as they determine which requests a
/// response is for. How long the response would stay fresh does not matter, because nothing is stored.
pub(crate) fn audience(head: &impl ResponseHead, options: &FlightOptions) -> Audience {
    if !is_about_the_resource(head.status()) {
        return Audience::LeaderOnlyThisTime;
    }
    let size = head.body_size().filter(|size| head.status() != 206 && *size <= options.max_body);
    let fields = head.fields();
    let Some(size) = size.filter(|_| !is_personal(fields) && !has_trailers(fields)) else {
        return Audience::LeaderOnly;
    };
    let is_in_key = |name: &String| options.is_key_header(name) || options.is_ignored(name);
    let vary: Vec<String> = items(fields, "vary").filter(|name| !is_in_key(name)).collect();
    // An asterisk means that the response varies by more than headers. A name that is not a valid header name cannot be
    // compared.
    if vary.iter().any(|name| name == "*" || !is_header_name(name)) {
        return Audience::LeaderOnly;
    }
    Audience::Everyone { size, vary }
}

/// Returns `true` if the status depends on what was requested, not on the client or on how it asked.
///
/// Refusals such as 401, 403 and 429 are for one client (RFC 6585 forbids caches to store some of them), and 400 or 431
/// may be due to a header that other requests did not have.
fn is_about_the_resource(status: u16) -> bool {
    matches!(status, 200..400 | 404 | 405 | 410 | 500..=510 | 512..600)
}

fn is_personal(fields: &impl Fields) -> bool {
    let sets_cookie = fields.values("set-cookie").next().is_some();
    sets_cookie
        || items(fields, "cache-control").any(|directive| {
            let name = directive.split('=').next().unwrap_or_default().trim();
            name.eq_ignore_ascii_case("private") || name.eq_ignore_ascii_case("no-store")
        })
}

fn has_trailers(fields: &impl Fields) -> bool {
    fields.values("trailer").next().is_some()
}

/// Returns the items of a list header. Bytes that are not UTF-8 become an item that matches nothing.
fn items(fields: &impl Fields, name: &str) -> impl Iterator<Item = String> {
    let values: Vec<String> = fields.values(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect();
    values.into_iter().flat_map(|value| {
        value.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::flight::vary::Variant;

    struct Head<'a> {
        status: u16,
        headers: List<'a>,
        size: Option<u64>,
    }

    struct List<'a>(&'a [(&'static str, &'static [u8])]);

    impl Fields for List<'_> {
        fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
            self.0.iter().filter(move |(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
        }
    }

    impl ResponseHead for Head<'_> {
        fn status(&self) -> u16 {
            self.status
        }

        fn fields(&self) -> &impl Fields {
            &self.headers
        }

        fn body_size(&self) -> Option<u64> {
            self.size
        }
    }

    fn shares(status: u16, headers: &[(&'static str, &'static [u8])], size: Option<u64>) -> bool {
        let options = FlightOptions::new().key_header("X-Key").max_body(10);
        let head = Head { status, headers: List(headers), size };
        matches!(audience(&head, &options), Audience::Everyone { vary, .. } if vary.is_empty())
    }

    #[test]
    fn body_is_shared_up_to_the_limit_and_only_if_its_size_is_known() {
        assert!(shares(200, &[], Some(0)) && shares(200, &[], Some(10)));
        assert!(!shares(200, &[], Some(11)) && !shares(200, &[], Some(u64::MAX)) && !shares(200, &[], None));
    }

    /// Services don't respond with 1xx, but an upgrade responds with `101`.
    #[test]
    fn status_decides_whether_a_response_is_whole() {
        let shared = [200, 201, 204, 301, 304, 404, 410, 500, 503];
        assert!(shared.into_iter().all(|status| shares(status, &[], Some(1))));
        assert!([100, 101, 103, 206].into_iter().all(|status| !shares(status, &[], Some(1))));
    }

    #[test]
    fn refusal_is_for_one_client_and_does_not_affect_the_next_request() {
        let options = FlightOptions::new();
        for status in [101, 400, 401, 403, 407, 408, 421, 425, 429, 431, 511] {
            let head = Head { status, headers: List(&[]), size: Some(1) };
            assert_eq!(audience(&head, &options), Audience::LeaderOnlyThisTime, "{status}");
        }
    }

    #[test]
    fn response_varies_by_the_headers_that_are_neither_in_the_key_nor_ignored() {
        let options = FlightOptions::new().key_header("x-key").ignore_header("x-ignored");
        let of = |vary: &'static str| {
            let headers = [("vary", vary.as_bytes())];
            audience(&Head { status: 200, headers: List(&headers), size: Some(1) }, &options)
        };
        let by = |names: &[&str]| Audience::Everyone { size: 1, vary: names.iter().map(|&name| name.into()).collect() };
        assert_eq!(of("accept, X-Key,Origin"), by(&["accept", "Origin"]));
        assert_eq!(of("X-Ignored, x-key"), by(&[]));
        for vary in ["*", "accept, *", "no name", "accept, \u{e9}", "x-key *"] {
            assert_eq!(of(vary), Audience::LeaderOnly, "{vary}");
        }
    }

    /// RFC 9111, section 4.1.
    #[test]
    fn variant_is_that_of_requests_with_the_same_values_of_each_header() {
        let sent: [(&str, &[u8]); 3] = [("accept", b"a"), ("accept", b"b"), ("x-other", b"1")];
        let variant = Variant::new(vec!["Accept".into(), "origin".into()], &List(&sent));
        let is_of = |headers: &[(&'static str, &'static [u8])]| variant.is_of(&List(headers));
        assert!(is_of(&sent) && is_of(&[("Accept", b"a"), ("x-other", b"2"), ("accept", b"b")]));
        for other in [
            &[("accept", &b"b"[..]), ("accept", b"a")][..],
            &[("accept", b"a")],
            &[("accept", b"a, b")],
            &[("accept", b"a"), ("accept", b"b"), ("accept", b"b")],
            &[("accept", b"a"), ("accept", b"b"), ("origin", b"")],
            &[],
        ] {
            assert!(!is_of(other), "{other:?}");
        }
        assert!(Variant::default().is_of(&List(&sent)));
    }

    #[test]
    fn list_headers_are_parsed_in_every_notation() {
        let private: [&[u8]; 7] = [
            b"private",
            b",private",
            b"\tPRIVATE ,",
            b"a=1,,private",
            b"private=\"x\"",
            b"private = x",
            b"a, no-store=1",
        ];
        for value in private {
            assert!(!shares(200, &[("cache-control", value)], Some(1)), "{}", value.escape_ascii());
        }
        for value in [&b""[..], b" , ", b"privately", b"not-private", b"x=private", b"no-storey"] {
            assert!(shares(200, &[("cache-control", value)], Some(1)), "{}", value.escape_ascii());
        }
        for value in [&b"x-key"[..], b"X-KEY, x-key", b"", b","] {
            assert!(shares(200, &[("vary", value)], Some(1)), "{}", value.escape_ascii());
        }
        for value in [&b"x-keys"[..], b"*", b"x-key *", b"x-key,\xff", b"\xe9"] {
            assert!(!shares(200, &[("vary", value)], Some(1)), "{}", value.escape_ascii());
        }
    }
}
