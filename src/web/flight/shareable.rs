//! Which answers are for everyone who asked the same.

use super::FlightOptions;

/// The head of an answer, whichever framework's.
pub(crate) trait AnswerHead {
    fn status(&self) -> u16;

    fn header(&self, name: &str) -> impl Iterator<Item = &[u8]>;
}

/// Who may have an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// All requests with the same key.
    Everyone,
    /// The request that it was made for. It will be so the next time.
    One,
    /// The request that it was made for. The next one may be for everyone: it is about that request, not about what it
    /// asked for.
    OneThisTime,
}

/// Who may have an answer whose body has that `size`; a stream's is not known. `was_sent` tells whether the request that it
/// was made for had a header.
///
/// It follows what RFC 9111 lets a shared cache store, as far as that is about *whom* an answer is for. How long it would
/// stay fresh does not matter: nothing is stored.
pub(crate) fn audience(
    head: &impl AnswerHead,
    size: Option<u64>,
    options: &FlightOptions,
    was_sent: impl Fn(&str) -> bool,
) -> Audience {
    if !is_about_the_resource(head.status()) {
        return Audience::OneThisTime;
    }
    let is_whole = head.status() != 206 && size.is_some_and(|size| size <= options.max_body);
    if !is_whole || is_personal(head) || has_trailers(head) {
        return Audience::One;
    }
    let is_in_key = |name: &String| options.is_key_header(name) || options.is_ignored(name);
    let mut varies = items(head, "vary").filter(|name| !is_in_key(name)).peekable();
    if varies.peek().is_none() {
        Audience::Everyone
    } else if varies.any(|name| was_sent(&name)) {
        // Otherwise one request with a rare header would keep all others from sharing.
        Audience::OneThisTime
    } else {
        Audience::One
    }
}

/// Not about who asked, or how: refusals such as 401, 403 and 429 are one client's (RFC 6585 forbids caches to store some
/// of them), and 400 or 431 may come of a header that others did not send.
fn is_about_the_resource(status: u16) -> bool {
    matches!(status, 200..400 | 404 | 405 | 410 | 500..=510 | 512..600)
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

/// The items of a header that is a list. What is no text is an item nobody knows.
fn items(head: &impl AnswerHead, name: &str) -> impl Iterator<Item = String> {
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
    }

    impl AnswerHead for Head<'_> {
        fn status(&self) -> u16 {
            self.status
        }

        fn header(&self, name: &str) -> impl Iterator<Item = &[u8]> {
            self.headers.iter().filter(move |(header, _)| *header == name).map(|(_, value)| *value)
        }
    }

    fn shares(status: u16, headers: &[(&'static str, &'static [u8])], size: Option<u64>) -> bool {
        let options = FlightOptions::new().key_header("X-Key").max_body(10);
        audience(&Head { status, headers }, size, &options, |_| false) == Audience::Everyone
    }

    #[test]
    fn body_is_shared_up_to_the_limit_and_only_if_its_size_is_known() {
        assert!(shares(200, &[], Some(0)) && shares(200, &[], Some(10)));
        assert!(!shares(200, &[], Some(11)) && !shares(200, &[], Some(u64::MAX)) && !shares(200, &[], None));
    }

    /// No service answers with 1xx, but `101` is what an upgrade comes to.
    #[test]
    fn status_decides_whether_an_answer_is_whole() {
        let shared = [200, 201, 204, 301, 304, 404, 410, 500, 503];
        assert!(shared.into_iter().all(|status| shares(status, &[], Some(1))));
        assert!([100, 101, 103, 206].into_iter().all(|status| !shares(status, &[], Some(1))));
    }

    #[test]
    fn refusal_of_one_client_is_for_that_one_and_says_nothing_of_the_next() {
        let options = FlightOptions::new();
        for status in [101, 400, 401, 403, 407, 408, 421, 425, 429, 431, 511] {
            let head = Head { status, headers: &[] };
            assert_eq!(audience(&head, Some(1), &options, |_| false), Audience::OneThisTime, "{status}");
        }
    }

    #[test]
    fn answer_that_varies_by_what_was_sent_says_nothing_of_requests_without_it() {
        let head = Head { status: 200, headers: &[("vary", b"accept, origin")] };
        let of = |sent: &str| audience(&head, Some(1), &FlightOptions::new(), |name| name == sent);
        assert_eq!(of("origin"), Audience::OneThisTime);
        assert_eq!(of("x-other"), Audience::One);
    }

    #[test]
    fn list_is_understood_however_it_is_written() {
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
