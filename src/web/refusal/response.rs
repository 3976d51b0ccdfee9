//! Writes a [`Refusal`] as a response of any framework.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::refusal::Refusal;

/// Enough for the crate's own problem details, so that writing them allocates once.
const PROBLEM_CAPACITY: usize = 384;

/// The members of a problem details object, in the order of RFC 9457, section 3.1.
#[derive(Serialize)]
struct ProblemDetails<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(flatten)]
    members: Option<&'a Map<String, Value>>,
}

impl Refusal {
    #[cfg(feature = "tower")]
    pub(in crate::web) fn into_http<B>(self, body_from: impl FnOnce(Bytes) -> B) -> http::Response<B> {
        let mut response = http::Response::builder().status(self.sent_status());
        let headers = response.headers_mut().expect("the status is checked when it is set");
        let body = self.write(|name, value| {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("names are checked when they are set");
            let value = http::HeaderValue::from_str(value).expect("values are checked when they are set");
            headers.append(name, value);
        });
        response.body(body_from(body)).expect("the status was checked above")
    }

    /// Returns the status code that is sent.
    pub(in crate::web) fn sent_status(&self) -> u16 {
        if self.grpc_type().is_some() { 200 } else { self.status }
    }

    /// Passes each header to `header`, and returns the body.
    pub(in crate::web) fn write(self, mut header: impl FnMut(&str, &str)) -> Bytes {
        let is_set = |name| self.headers().any(|(set, _)| set.eq_ignore_ascii_case(name));
        if let Some(after) = self.retry_after.filter(|_| !is_set("retry-after")) {
            header("retry-after", &after.as_secs().to_string());
        }
        if self.grpc_type().is_some() {
            self.write_grpc_status(header);
            return Bytes::new();
        }
        self.headers().for_each(|(name, value)| header(name, value));
        let body = self.extras.as_ref().and_then(|extras| extras.body.as_ref());
        if !is_set("content-type") {
            header("content-type", body.map_or("application/problem+json", |(content_type, _)| content_type));
        }
        body.map_or_else(|| self.problem_details(), |(_, body)| body.clone())
    }

    fn problem_details(&self) -> Bytes {
        let is_default = self.extras.is_none() && self.status == self.problem.status;
        let json = self.problem.json().filter(|_| is_default);
        json.map_or_else(|| self.serialized().into(), |json| Bytes::from_static(json.as_bytes()))
    }

    fn serialized(&self) -> Vec<u8> {
        let (uri, title, status, detail) = (self.type_uri(), self.title(), self.status, self.detail());
        let members = self.extras.as_ref().map(|extras| &extras.members);
        let mut json = Vec::with_capacity(PROBLEM_CAPACITY);
        serde_json::to_writer(&mut json, &ProblemDetails { r#type: &uri, title, status, detail, members })
            .expect("strings, a number and JSON values can be serialized");
        json
    }
}
