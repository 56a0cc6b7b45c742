//! The door of the API: one layer around every route but `/metrics`, which lets in who belongs and says whose a request is.
//!
//! The router has matched the request before the layer sees it, so what decides is the route that will answer, never a path
//! read a second time. Routes that are open stand in one list; everything else is closed, also what is not there.

mod held;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use tracing::Span;

use super::Api;
use super::error::{ApiError, Dialect};
use super::request_id::RequestId;
use crate::access::{Action, Denied, Entered};

/// Routes that need no credential: probes, and `/metrics`, which has a door of its own where it is to have one.
const OPEN: [&str; 7] =
    ["/healthz", "/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready", "/metrics"];
/// A header that carries a key, beside `Authorization`.
pub(super) const KEY_HEADER: &str = "x-api-key";
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"inference-gateway\"");
/// A browser that is to show a page asks its person for a name, which may be any, and a password, which is the key.
const CHALLENGE_TO_BROWSERS: HeaderValue =
    HeaderValue::from_static("Basic realm=\"inference-gateway\", charset=\"UTF-8\"");
/// In which relation to the page that sends a request browsers see its address.
const FETCH_SITE: &str = "sec-fetch-site";

/// Whether a route needs no credential.
pub(super) fn is_open(route: &str) -> bool {
    OPEN.contains(&route)
}

/// Middleware of the API listener.
pub(super) async fn enter(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    if route.is_some_and(|route| is_open(route.as_str())) {
        return next.run(request).await;
    }
    match api.access.enter(credential(request.headers()).as_deref()).await {
        Ok(Entered { caller, permit }) => {
            if let Some(name) = caller.name() {
                Span::current().record("caller", name);
            }
            request.extensions_mut().insert(caller);
            held::hold(next.run(request).await, permit)
        }
        Err(denied) => {
            let id = request.extensions().get::<RequestId>().cloned();
            let id = id.unwrap_or_else(|| RequestId::of(request.headers()));
            let mut response = refuse(denied, Dialect::of_path(request.uri().path()), &id);
            if response.status() == StatusCode::UNAUTHORIZED && shows_pages(request.headers()) {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, CHALLENGE_TO_BROWSERS);
            }
            response
        }
    }
}

/// The door of `/metrics`, on every listener.
///
/// # Errors
/// Whoever asks may not read them.
pub(super) async fn enter_metrics(api: &Api, headers: &HeaderMap) -> Result<(), Denied> {
    match &api.scrapers {
        None => Ok(()),
        Some(reviewer) => reviewer.must(credential(headers).as_deref(), &Action::Metrics).await,
    }
}

/// The one credential of a request; none where there are several that differ, or one that cannot be read.
fn credential(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let authorized = headers.get_all(header::AUTHORIZATION).iter().map(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        let token = token.trim_matches(' ');
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Some(Cow::Borrowed(token)),
            // What a browser remembers it also sends for pages of others.
            "basic" if is_of_our_page(headers) => password(token).map(Cow::Owned),
            _ => None,
        }
    });
    let keys = headers.get_all(KEY_HEADER).iter().map(|value| value.to_str().ok().map(Cow::Borrowed));
    let mut all = authorized.chain(keys);
    let first = all.next()??;
    let is_one = all.all(|other| other.as_ref() == Some(&first));
    (is_one && !first.is_empty()).then_some(first)
}

/// The password of `Basic` credentials; the name before it may be any.
///
/// From: RFC 7617
fn password(token: &str) -> Option<String> {
    let pair = String::from_utf8(BASE64.decode(token).ok()?).ok()?;
    pair.split_once(':').map(|(_name, password)| password.to_owned())
}

/// Whether no page of another site made a browser send this. Others than browsers do not say.
fn is_of_our_page(headers: &HeaderMap) -> bool {
    headers.get(FETCH_SITE).is_none_or(|site| site == "same-origin" || site == "none")
}

/// Whether it is a browser that wants a page, and not a program or a script of a page.
fn shows_pages(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.starts_with("text/html"))
}

pub(super) fn refuse(denied: Denied, dialect: Dialect, id: &RequestId) -> Response {
    let mut response = ApiError::from(denied).respond_in(dialect, id);
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, CHALLENGE);
    }
    response
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        let message = denied.to_string();
        match denied {
            Denied::Unauthenticated => Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", message),
            Denied::Model { .. } => Self::new(StatusCode::FORBIDDEN, "model_forbidden", message).at("model"),
            Denied::Forbidden => Self::new(StatusCode::FORBIDDEN, "forbidden", message),
            Denied::Requests { retry_after } | Denied::Tokens { retry_after } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "quota_exceeded", message)
                    .retry_after(whole_seconds(retry_after))
            }
            Denied::Concurrent { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "quota_exceeded", message).retry_after(1)
            }
            Denied::NotKnown | Denied::Unavailable => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "access_not_known", message).retry_after(5)
            }
        }
    }
}

/// Rounded up: who comes back then is let in.
fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    #[test]
    fn a_request_has_one_credential_or_none() {
        type Header = (&'static str, &'static [u8]);
        let cases: &[(&[Header], Option<&str>)] = &[
            (&[], None),
            (&[("authorization", b"Bearer abc")], Some("abc")),
            (&[("authorization", b"bEARER  abc ")], Some("abc")),
            (&[("x-api-key", b"abc")], Some("abc")),
            (&[("authorization", b"Bearer abc"), ("x-api-key", b"abc")], Some("abc")),
            (&[("authorization", b"Bearer abc"), ("x-api-key", b"abd")], None),
            (&[("authorization", b"Bearer abc"), ("authorization", b"Bearer abd")], None),
            (&[("authorization", b"Basic abc"), ("x-api-key", b"abc")], None),
            // `me:abc`, `:a:c` and `abc` alone.
            (&[("authorization", b"Basic bWU6YWJj")], Some("abc")),
            (&[("authorization", b"basic OmE6Yw==")], Some("a:c")),
            (&[("authorization", b"Basic YWJj")], None),
            (&[("authorization", b"Basic bWU6YWJj"), ("sec-fetch-site", b"same-origin")], Some("abc")),
            (&[("authorization", b"Basic bWU6YWJj"), ("sec-fetch-site", b"none")], Some("abc")),
            (&[("authorization", b"Basic bWU6YWJj"), ("sec-fetch-site", b"same-site")], None),
            (&[("authorization", b"Basic bWU6YWJj"), ("sec-fetch-site", b"cross-site")], None),
            (&[("authorization", b"Bearer abc"), ("sec-fetch-site", b"cross-site")], Some("abc")),
            (&[("authorization", b"Bearer")], None),
            (&[("authorization", b"Bearer ")], None),
            (&[("authorization", b"abc")], None),
            (&[("authorization", b"Bearer a\xe4c")], None),
            (&[("x-api-key", b"")], None),
        ];
        for (headers, expected) in cases {
            let mut map = HeaderMap::new();
            for (name, value) in *headers {
                map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
            }
            assert_eq!(credential(&map).as_deref(), *expected, "{headers:?}");
        }
    }

    #[test]
    fn who_waits_as_long_as_told_is_let_in() {
        let told = |millis| whole_seconds(Duration::from_millis(millis));
        assert_eq!((told(0), told(1), told(1000), told(1001)), (1, 1, 1, 2));
    }
}
