//! [`FlightKey`], which is equal for requests that may share a response.

use super::{Fields, FlightOptions};

/// Identifies what a request asks for. Requests with the same key share a response.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey(Box<[u8]>);

/// The head of a request of any framework.
pub(crate) trait FlightHead {
    fn method(&self) -> &str;

    /// Returns the authority of the request target, if it has one.
    fn authority(&self) -> Option<&[u8]>;

    /// Returns the scheme, the path and the query, as the client sent them and as the service sees them. The number of
    /// items is the same for every request.
    fn targets(&self) -> impl Iterator<Item = &[u8]>;

    fn fields(&self) -> &impl Fields;
}

/// Headers of requests for a part of a response, for a comparison, or for an upgrade.
const PARTIAL: [&str; 7] =
    ["range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "upgrade"];

/// Headers of requests whose response may be for one user only. RFC 9111, section 3.5, states this for the first of
/// them.
const PERSONAL: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];

impl FlightKey {
    /// Returns the key of a request, or `None` if the request must be served alone.
    ///
    /// The key consists of the method, host, scheme, path, query and key headers, and of `extra`, the part that the
    /// user adds.
    pub(super) fn new(head: &impl FlightHead, extra: Option<&[u8]>, options: &FlightOptions) -> Option<Self> {
        let (method, fields) = (head.method(), head.fields());
        if !matches!(method, "GET" | "HEAD") || has_body(fields) {
            return None;
        }
        let is_accounted_for = |name: &str| {
            options.is_key_header(name) || options.is_ignored(name) || fields.values(name).next().is_none()
        };
        if !PARTIAL.iter().chain(&PERSONAL).all(|name| is_accounted_for(name)) {
            return None;
        }
        let host = host(head)?;
        let mut key = Vec::with_capacity(128);
        push_part(&mut key, method.as_bytes());
        push_part(&mut key, host);
        for target in head.targets() {
            push_part(&mut key, target);
        }
        for name in &options.key_headers {
            let values: Vec<&[u8]> = fields.values(name).collect();
            key.extend_from_slice(&(values.len() as u64).to_le_bytes());
            for value in values {
                push_part(&mut key, value);
            }
        }
        if let Some(extra) = extra {
            push_part(&mut key, extra);
        }
        Some(Self(key.into_boxed_slice()))
    }

    /// Returns a number that is different for most other keys.
    pub(crate) fn fingerprint(&self) -> u64 {
        // FNV-1a, 64 bit.
        self.0.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
    }
}

fn has_body(fields: &impl Fields) -> bool {
    fields.values("transfer-encoding").next().is_some() || fields.values("content-length").any(|length| length != b"0")
}

/// Returns the host of a request, or `None` if the request names two different hosts.
///
/// According to RFC 9112, section 3.2.2, the target has precedence, but a handler may read the header. Its response for
/// one host would then reach requests for the other.
fn host(head: &impl FlightHead) -> Option<&[u8]> {
    let mut hosts = head.fields().values("host").chain(head.authority());
    let first = hosts.next().unwrap_or_default();
    hosts.all(|host| host == first).then_some(first)
}

/// Appends a part with its length in front, so that different lists of parts never have the same bytes.
fn push_part(key: &mut Vec<u8>, bytes: &[u8]) {
    key.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    key.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of a request, as a framework may provide it.
    struct Head {
        target: [&'static str; 3],
        headers: List,
    }

    #[derive(Debug)]
    struct List(Vec<(&'static str, &'static str)>);

    impl Fields for List {
        fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
            let values = self.0.iter().filter(move |(header, _)| header.eq_ignore_ascii_case(name));
            values.map(|(_, value)| value.as_bytes())
        }
    }

    impl FlightHead for Head {
        fn method(&self) -> &str {
            "GET"
        }

        fn authority(&self) -> Option<&[u8]> {
            Some(self.target[0].as_bytes())
        }

        fn targets(&self) -> impl Iterator<Item = &[u8]> {
            self.target[1..].iter().map(|target| target.as_bytes())
        }

        fn fields(&self) -> &impl Fields {
            &self.headers
        }
    }

    fn key(target: [&'static str; 3], headers: &[(&'static str, &'static str)], extra: Option<&str>) -> FlightKey {
        let options = FlightOptions::new().key_header("x-a").key_header("x-b");
        let head = Head { target, headers: List(headers.to_vec()) };
        FlightKey::new(&head, extra.map(str::as_bytes), &options).expect("the request is shareable")
    }

    #[test]
    fn different_lists_of_parts_have_different_keys() {
        let target = ["host", "/", ""];
        let keys = [
            key(["ab", "c", ""], &[], None),
            key(["a", "bc", ""], &[], None),
            key(["a", "b", "c"], &[], None),
            key(["", "abc", ""], &[], None),
            key(target, &[], None),
            key(target, &[], Some("")),
            key(target, &[], Some("ab")),
            key(target, &[("x-a", "ab")], None),
            key(target, &[("x-b", "ab")], None),
            key(target, &[("x-a", "a"), ("x-a", "b")], None),
            key(target, &[("x-a", "a"), ("x-b", "b")], None),
            key(target, &[("x-a", "")], None),
            key(target, &[("x-a", ""), ("x-a", "")], None),
            key(target, &[("x-a", "ab")], Some("ab")),
            // A value that contains the encoding of another part.
            key(target, &[("x-a", "a\u{1}\0\0\0\0\0\0\0b")], None),
        ];
        for (i, one) in keys.iter().enumerate() {
            for (j, other) in keys.iter().enumerate() {
                assert_eq!(one == other, i == j, "{i} and {j}");
                assert_eq!(one.fingerprint() == other.fingerprint(), i == j, "{i} and {j}");
            }
        }
    }

    #[test]
    fn same_requests_have_the_same_key_whatever_their_other_headers() {
        let (target, headers) = (["host", "/", "q=1"], [("x-a", "1"), ("x-b", "2")]);
        let more = [("X-B", "2"), ("user-agent", "curl"), ("X-A", "1"), ("content-length", "0")];
        assert_eq!(key(target, &headers, None), key(target, &more, None));
    }

    #[test]
    fn request_that_names_two_hosts_is_served_alone() {
        for (hosts, is_shared) in [
            (vec![("host", "a")], true),
            (vec![("host", "a"), ("host", "a")], true),
            (vec![("host", "b")], false),
            (vec![("host", "a"), ("host", "b")], false),
        ] {
            let head = Head { target: ["a", "/", ""], headers: List(hosts) };
            assert_eq!(FlightKey::new(&head, None, &FlightOptions::new()).is_some(), is_shared, "{:?}", head.headers);
        }
    }

    #[test]
    fn content_length_other_than_a_plain_zero_is_a_body() {
        for length in ["1", "00", "", "0, 0", "x"] {
            let head = Head { target: ["", "/", ""], headers: List(vec![("content-length", length)]) };
            assert_eq!(FlightKey::new(&head, None, &FlightOptions::new()), None, "{length:?}");
        }
    }
}
