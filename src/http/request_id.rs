//! The id of a request: taken from the client when it is plain, made otherwise; echoed, logged, and in every error.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries it, in and out.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over: a UUID has 36 characters, trace headers up to 128.
pub(super) const LONGEST: usize = 128;

/// 1 to 128 letters, digits and `. _ - : / + =`: nothing that could forge a header or a log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestId(String);

impl RequestId {
    /// The client's id, or a new one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        headers.get(HEADER).and_then(Self::accept).unwrap_or_else(Self::random)
    }

    fn accept(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/+=".contains(&byte);
        let acceptable = (1..=LONGEST).contains(&text.len()) && text.bytes().all(plain);
        acceptable.then(|| Self(text.to_owned()))
    }

    fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// For the answer.
    pub(super) fn header_value(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("only plain characters are accepted")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &[u8]) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(value).unwrap());
        RequestId::of(&headers)
    }

    #[test]
    fn a_plain_id_is_kept() {
        assert_eq!(of(b"0af7651916cd43dd-8448:eb2").to_string(), "0af7651916cd43dd-8448:eb2");
    }

    #[test]
    fn an_id_that_could_harm_a_log_is_replaced() {
        for bad in [&b"a b"[..], b"\x1b[31m".trim_ascii_start(), b"x\"y", "ä".as_bytes(), &[b'a'; 129], b""]
        {
            if let Ok(value) = HeaderValue::from_bytes(bad) {
                let mut headers = HeaderMap::new();
                headers.insert(HEADER, value);
                let id = RequestId::of(&headers).to_string();
                assert_ne!(id.as_bytes(), bad);
                assert_eq!(id.len(), 32);
            }
        }
    }
}
