//! [`FlightKey`]: which requests are the same.

use super::FlightOptions;

/// What a request is known by. Requests with the same key share an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey(Box<[u8]>);

/// The head of a request, whichever framework's.
pub(crate) trait RequestHead {
    fn method(&self) -> &str;

    /// The host, if the client named one in the target.
    fn authority(&self) -> Option<&[u8]>;

    /// The scheme, the path and the query, as the client sent them and as the service sees them. Always as many.
    fn targets(&self) -> impl Iterator<Item = &[u8]>;

    fn header(&self, name: &str) -> impl Iterator<Item = &[u8]>;
}

/// A request with one of these is not about the whole answer, or about more than an answer.
const PARTICULAR: [&str; 7] =
    ["range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "upgrade"];

/// A request with one of these may be answered with what is for its sender only (RFC 9111, section 3.5, says so of the
/// first).
const PERSONAL: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];

impl FlightKey {
    /// The key of a request: its method, host, path, query, key headers, and what else it is known by.
    ///
    /// `None` if it is to be served alone.
    pub(crate) fn of(head: &impl RequestHead, extra: Option<&[u8]>, options: &FlightOptions) -> Option<Self> {
        let method = head.method();
        if !matches!(method, "GET" | "HEAD") || has_body(head) {
            return None;
        }
        let is_accounted_for =
            |name: &str| options.is_key_header(name) || options.is_ignored(name) || head.header(name).next().is_none();
        if !PARTICULAR.iter().chain(&PERSONAL).all(|name| is_accounted_for(name)) {
            return None;
        }
        let host = host(head)?;
        let mut key = Vec::with_capacity(128);
        part(&mut key, method.as_bytes());
        part(&mut key, host);
        for target in head.targets() {
            part(&mut key, target);
        }
        for name in &options.key_headers {
            let values: Vec<&[u8]> = head.header(name).collect();
            key.extend_from_slice(&(values.len() as u64).to_le_bytes());
            for value in values {
                part(&mut key, value);
            }
        }
        if let Some(extra) = extra {
            part(&mut key, extra);
        }
        Some(Self(key.into_boxed_slice()))
    }

    /// A number that differs from other keys' most of the time.
    pub(crate) fn fingerprint(&self) -> u64 {
        // FNV-1a, 64 bit.
        self.0.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
    }
}

fn has_body(head: &impl RequestHead) -> bool {
    head.header("transfer-encoding").next().is_some() || head.header("content-length").any(|length| length != b"0")
}

/// The host that was asked, or `None` if the request names two.
///
/// By the rules its target counts (RFC 9112, section 3.2.2), but a handler may look at the header: what it makes of one
/// would reach those who named the other.
fn host(head: &impl RequestHead) -> Option<&[u8]> {
    let mut hosts = head.header("host").chain(head.authority());
    let first = hosts.next().unwrap_or_default();
    hosts.all(|host| host == first).then_some(first)
}

/// With its length in front, so that no two lists of parts are the same bytes.
fn part(key: &mut Vec<u8>, bytes: &[u8]) {
    key.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    key.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request's head, as any framework may have it.
    struct Head {
        target: [&'static str; 3],
        headers: Vec<(&'static str, &'static str)>,
    }

    impl RequestHead for Head {
        fn method(&self) -> &str {
            "GET"
        }

        fn authority(&self) -> Option<&[u8]> {
            Some(self.target[0].as_bytes())
        }

        fn targets(&self) -> impl Iterator<Item = &[u8]> {
            self.target[1..].iter().map(|target| target.as_bytes())
        }

        fn header(&self, name: &str) -> impl Iterator<Item = &[u8]> {
            let values = self.headers.iter().filter(move |(header, _)| header.eq_ignore_ascii_case(name));
            values.map(|(_, value)| value.as_bytes())
        }
    }

    fn key(target: [&'static str; 3], headers: &[(&'static str, &'static str)], extra: Option<&str>) -> FlightKey {
        let options = FlightOptions::new().key_header("x-a").key_header("x-b");
        let head = Head { target, headers: headers.to_vec() };
        FlightKey::of(&head, extra.map(str::as_bytes), &options).expect("it may share")
    }

    #[test]
    fn no_two_lists_of_parts_are_the_same_key() {
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
            // A value that looks like another part with its length in front.
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
    fn same_request_is_the_same_key_whatever_else_it_carries() {
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
            let head = Head { target: ["a", "/", ""], headers: hosts };
            assert_eq!(FlightKey::of(&head, None, &FlightOptions::new()).is_some(), is_shared, "{:?}", head.headers);
        }
    }

    #[test]
    fn length_that_is_no_plain_zero_is_a_body() {
        for length in ["1", "00", "", "0, 0", "x"] {
            let head = Head { target: ["", "/", ""], headers: vec![("content-length", length)] };
            assert_eq!(FlightKey::of(&head, None, &FlightOptions::new()), None, "{length:?}");
        }
    }
}
