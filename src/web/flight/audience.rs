//! [`Audience`], the requests that may get a response.

use super::FlightOptions;

/// The head of a response of any framework.
pub(crate) trait ResponseHead {
    fn status(&self) -> u16;

    fn header(&self, name: &str) -> impl Iterator<Item = &[u8]>;

    /// Returns the size of the body in bytes, or `None` if it is not known, as for a stream.
    fn body_size(&self) -> Option<u64>;
}

/// The requests that may get a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// All requests with the same key. The body has `size` bytes.
    Everyone { size: u64 },
    /// Only the leader, the request that the response was made for. The key's next response will also be for one
    /// request only.
    LeaderOnly,
    /// Only the leader. The key's next response may be for everyone, because this response depends on the request's
    /// client or headers, not on the requested resource.
    LeaderOnlyThisTime,
}

/// Returns the requests that may get a response. `was_sent` returns `true` if the leader's request had a header of that
/// name.
///
/// This follows the rules of RFC 9111 for what a shared cache may store, as far as they determine which requests a
/// response is for. How long the response would stay fresh does not matter, because nothing is stored.
pub(crate) fn audience(head: &impl ResponseHead, options: &FlightOptions, was_sent: impl Fn(&str) -> bool) -> Audience {
    if !is_about_the_resource(head.status()) {
        return Audience::LeaderOnlyThisTime;
    }
    let size = head.body_size().filter(|size| head.status() != 206 && *size <= options.max_body);
    let Some(size) = size.filter(|_| !is_personal(head) && !has_trailers(head)) else { return Audience::LeaderOnly };
    let is_in_key = |name: &String| options.is_key_header(name) || options.is_ignored(name);
    let mut varies = items(head, "vary").filter(|name| !is_in_key(name)).peekable();
    if varies.peek().is_none() {
        Audience::Everyone { size }
    } else if varies.any(|name| was_sent(&name)) {
        // With `LeaderOnly`, one request with a rare header would keep all other requests from sharing.
        Audience::LeaderOnlyThisTime
    } else {
        Audience::LeaderOnly
    }
}

/// Returns `true` if the status depends on what was requested, not on the client or on how it asked.
///
/// Refusals such as 401, 403 and 429 are for one client (RFC 6585 forbids caches to store some of them), and 400 or 431
/// may be due to a header that other requests did not have.
fn is_about_the_resource(status: u16) -> bool {
    matches!(status, 200..400 | 404 | 405 | 410 | 500..=510 | 512..600)
}

fn is_personal(head: &impl ResponseHead) -> bool {
    let sets_cookie = head.header("set-cookie").next().is_some();
    sets_cookie
        || items(head, "cache-control").any(|directive| {
            let name = directive.split('=').next().unwrap_or_default().trim();
            name.eq_ignore_ascii_case("private") || name.eq_ignore_ascii_case("no-store")
        })
}

fn has_trailers(head: &impl ResponseHead) -> bool {
    head.header("trailer").next().is_some()
}

/// Returns the items of a list header. Bytes that are not UTF-8 become an item that matches nothing.
fn items(head: &impl ResponseHead, name: &str) -> impl Iterator<Item = String> {
    let values: Vec<String> = head.header(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect();
    values.into_iter().flat_map(|value| {
        value.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Head<'a> {
        status: u16,
        headers: &'a [(&'static str, &'static [u8])],
        size: Option<u64>,
    }

    impl ResponseHead for Head<'_> {
        fn status(&self) -> u16 {
            self.status
        }

        fn header(&self, name: &str) -> impl Iterator<Item = &[u8]> {
            self.headers.iter().filter(move |(header, _)| *header == name).map(|(_, value)| *value)
        }

        fn body_size(&self) -> Option<u64> {
            self.size
        }
    }

    fn shares(status: u16, headers: &[(&'static str, &'static [u8])], size: Option<u64>) -> bool {
        let options = FlightOptions::new().key_header("X-Key").max_body(10);
        matches!(audience(&Head { status, headers, size }, &options, |_| false), Audience::Everyone { .. })
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
            let head = Head { status, headers: &[], size: Some(1) };
            assert_eq!(audience(&head, &options, |_| false), Audience::LeaderOnlyThisTime, "{status}");
        }
    }

    #[test]
    fn response_that_varies_by_a_sent_header_does_not_affect_requests_without_it() {
        let head = Head { status: 200, headers: &[("vary", b"accept, origin")], size: Some(1) };
        let of = |sent: &str| audience(&head, &FlightOptions::new(), |name| name == sent);
        assert_eq!(of("origin"), Audience::LeaderOnlyThisTime);
        assert_eq!(of("x-other"), Audience::LeaderOnly);
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
