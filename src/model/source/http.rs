//! One HTTP request, safely: redirects that are followed by us, a token that goes to one origin only, time limits,
//! and an error that says what to do.
//!
//! ```text
//! download.rs, hub.rs ─▶ Http::get (follows redirects) ─▶ Http::send (one hop) ─▶ reqwest
//! ```
//!
//! Every remote source goes through here, so [`Http::send`] asks the guard before each request, and the client resolves
//! names through it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Client, Method, Response, StatusCode, redirect};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::FetchSettings;
use super::error::FetchError;
use super::guard::Refusal;
use crate::model::spec::without_query;

/// Browsers allow 20; no hub or object store needs more than three.
pub(super) const MAXIMUM_REDIRECTS: usize = 10;

/// A server cannot send us away for longer than this.
const MAXIMUM_RETRY_AFTER: Duration = Duration::from_hours(1);

/// What has to arrive within one stall timeout: 1 byte now and then is a stall too, and the slowest useful line
/// (a few kilobytes a second) is far above it.
const MINIMUM_BYTES_PER_WINDOW: u64 = 1024;

/// The client of all remote sources. Cheap to clone.
#[derive(Clone)]
pub(super) struct Http {
    settings: Arc<FetchSettings>,
    /// Set up on first use: a process that serves from a path needs no root certificates.
    client: Arc<OnceCell<Client>>,
}

impl Http {
    pub(super) fn new(settings: Arc<FetchSettings>) -> Self {
        Self { settings, client: Arc::default() }
    }

    /// A GET that follows redirects. Any status but a redirect is handed back.
    pub(super) async fn get(&self, url: &Url, headers: &HeaderMap) -> Result<Response, FetchError> {
        self.follow(Method::GET, url, headers).await
    }

    /// A HEAD that follows redirects. Any status but a redirect is handed back.
    pub(super) async fn head(&self, url: &Url) -> Result<Response, FetchError> {
        self.follow(Method::HEAD, url, &HeaderMap::new()).await
    }

    async fn follow(&self, method: Method, url: &Url, headers: &HeaderMap) -> Result<Response, FetchError> {
        let (mut url, mut headers) = (url.clone(), headers.clone());
        for _ in 0..=MAXIMUM_REDIRECTS {
            let response = self.send(method.clone(), &url, &headers).await?;
            match redirect_target(&response)? {
                Some(target) => {
                    if target.origin() != url.origin() {
                        headers.remove(AUTHORIZATION);
                    }
                    url = target;
                }
                None => return Ok(response),
            }
        }
        Err(FetchError::Redirect { url: without_query(&url), reason: "it redirects more than 10 times" })
    }

    /// One request, no redirect followed. The token goes along only if `url` is on the hub's own origin.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, FetchError> {
        self.settings
            .guard
            .check(url)
            .map_err(|refusal| FetchError::HostNotAllowed { url: without_query(url), refusal })?;
        let client = self.client.get_or_try_init(|| async { build_client(&self.settings) }).await?;
        let mut request = client
            .request(method, url.clone())
            .headers(headers.clone())
            // A compressed body has no usable length and no ranges.
            .header(ACCEPT_ENCODING, "identity");
        if let Some(token) = self.settings.hub_token.as_ref().filter(|_| self.is_hub(url)) {
            request = request.header(AUTHORIZATION, token.header());
        }
        let window = self.settings.connect_timeout + self.settings.stall_timeout;
        let response = match timeout(window, request.send()).await {
            Ok(response) => response.map_err(|error| connection_failed(url, 0, error))?,
            Err(_) => {
                return Err(FetchError::Stalled { url: without_query(url), window, minimum_bytes: 1 });
            }
        };
        let encoding = response.headers().get(CONTENT_ENCODING);
        if response.status().is_success() && encoding.is_some_and(|encoding| encoding != "identity") {
            let reason = "the server sends a compressed body that was not asked for";
            return Err(FetchError::Response { url: without_query(url), reason });
        }
        Ok(response)
    }

    /// Turns a status that is not a success into an error that says what to do.
    pub(super) fn check_status(&self, response: Response) -> Result<Response, FetchError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let hub = self.is_hub(response.url());
        let gated = error_code(&response) == Some("GatedRepo");
        let hint = match (status, hub, self.settings.hub_token.is_some()) {
            (StatusCode::UNAUTHORIZED, true, false) => {
                "; no such repository, or it is private: check the name, or set HF_TOKEN"
            }
            (StatusCode::UNAUTHORIZED, true, true) => {
                "; check that HF_TOKEN is valid and may read this repository"
            }
            (StatusCode::FORBIDDEN, true, false) => "; set HF_TOKEN to a token that may read this repository",
            (StatusCode::FORBIDDEN, true, true) if gated => {
                "; accept the terms on the model's page with the account of HF_TOKEN"
            }
            (StatusCode::FORBIDDEN, true, true) => "; HF_TOKEN may not read this repository",
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, false, _) => {
                "; a url source cannot log in: use an address that needs no credentials, or a signed one"
            }
            (StatusCode::NOT_FOUND, true, _) => "; check repository, revision and path",
            (StatusCode::NOT_FOUND | StatusCode::GONE, false, _) => "; check the address",
            _ => "",
        };
        let retry_after = retry_after(response.headers());
        Err(FetchError::Status { url: without_query(response.url()), status, hint, retry_after })
    }

    /// A reader of the body of `response` that gives up on a server that stalls.
    pub(super) fn body(&self, response: Response) -> Body {
        let window = self.settings.stall_timeout;
        let deadline = Instant::now() + window;
        Body { response, window, deadline, window_bytes: 0, received_bytes: 0 }
    }

    /// A small file, as bytes.
    pub(super) async fn document(
        &self,
        url: &Url,
        headers: &HeaderMap,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, FetchError> {
        let response = self.check_status(self.get(url, headers).await?)?;
        self.read(response, limit_bytes).await
    }

    /// The whole body of an answer that must be small.
    pub(super) async fn read(&self, response: Response, limit_bytes: u64) -> Result<Vec<u8>, FetchError> {
        let url = without_query(response.url());
        let (mut body, mut bytes) = (self.body(response), Vec::new());
        while let Some(chunk) = body.next().await? {
            if body.received_bytes > limit_bytes {
                return Err(FetchError::TooLarge { url, limit_bytes });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Whether the settings name a host for plain http.
    pub(super) fn may_be_plain(&self, host: &str) -> bool {
        self.settings.guard.may_be_plain(host)
    }

    /// Largest file that is accepted, in bytes.
    pub(super) fn maximum_file_bytes(&self) -> u64 {
        self.settings.maximum_file_bytes
    }

    fn is_hub(&self, url: &Url) -> bool {
        url.origin() == self.settings.hub_endpoint.as_url().origin()
    }
}

/// The body of one response.
pub(super) struct Body {
    response: Response,
    window: Duration,
    deadline: Instant,
    window_bytes: u64,
    /// Bytes handed out so far.
    pub(super) received_bytes: u64,
}

impl Body {
    /// The next piece, `None` at the end. Safe to drop at any moment.
    pub(super) async fn next(&mut self) -> Result<Option<tokio_util::bytes::Bytes>, FetchError> {
        loop {
            match timeout_at(self.deadline, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    self.received_bytes += chunk.len() as u64;
                    self.window_bytes += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => {
                    return Err(connection_failed(self.response.url(), self.received_bytes, error));
                }
                Err(_) if self.window_bytes >= MINIMUM_BYTES_PER_WINDOW => {
                    self.deadline = Instant::now() + self.window;
                    self.window_bytes = 0;
                }
                Err(_) => {
                    let url = without_query(self.response.url());
                    let (window, minimum_bytes) = (self.window, MINIMUM_BYTES_PER_WINDOW);
                    return Err(FetchError::Stalled { url, window, minimum_bytes });
                }
            }
        }
    }
}

fn build_client(settings: &FetchSettings) -> Result<Client, FetchError> {
    // The `rustls-no-provider` build of reqwest takes the process's provider; `main` installs the same one, and the
    // second to come is refused, which is what both want.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::builder()
        .connect_timeout(settings.connect_timeout)
        .redirect(redirect::Policy::none())
        .referer(false)
        .dns_resolver(Arc::new(settings.guard.clone()))
        .tls_certs_merge(settings.ca_bundle.certificates())
        .user_agent(concat!("inference-gateway/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(FetchError::Client)
}

/// Where a redirect leads; `None` if the response is not one.
///
/// # Errors
/// As [`follow_location`].
pub(super) fn redirect_target(response: &Response) -> Result<Option<Url>, FetchError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    follow_location(response.url(), location).map(Some)
}

/// The address that a redirect at `from` leads to.
///
/// # Errors
/// When it leads nowhere, out of http(s), from https to http, or carries user information.
pub(super) fn follow_location(from: &Url, location: Option<&str>) -> Result<Url, FetchError> {
    let refuse = |reason| Err(FetchError::Redirect { url: without_query(from), reason });
    let Some(target) = location.and_then(|location| from.join(location).ok()) else {
        return refuse("it redirects without a valid location");
    };
    match (from.scheme(), target.scheme()) {
        ("http", "http" | "https") | ("https", "https") => {}
        ("https", "http") => return refuse("it redirects from https to http"),
        _ => return refuse("it redirects to something that is neither http nor https"),
    }
    if !target.username().is_empty() || target.password().is_some() {
        return refuse("it redirects to an address with a user name or password");
    }
    Ok(target)
}

/// The hub's own word for what is wrong.
pub(super) fn error_code(response: &Response) -> Option<&str> {
    response.headers().get("x-error-code")?.to_str().ok()
}

/// An error of the client, without the address that reqwest adds: its query may be a signature.
fn connection_failed(url: &Url, received_bytes: u64, error: reqwest::Error) -> FetchError {
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        if let Some(refusal) = inner.downcast_ref::<Refusal>() {
            return FetchError::HostNotAllowed { url: without_query(url), refusal: refusal.clone() };
        }
        cause = inner.source();
    }
    FetchError::Connection { url: without_query(url), received_bytes, source: error.without_url() }
}

/// `Retry-After` in either of its forms: seconds, or a date; a date that has passed asks for nothing.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_no_number) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok()?,
    };
    Some(asked.min(MAXIMUM_RETRY_AFTER))
}

/// The token of the hub. Prints as `HubToken(…)`, never as itself.
#[derive(Clone)]
pub struct HubToken(HeaderValue);

impl HubToken {
    /// Takes the token as a setting or a mounted file holds it; white space around it is dropped.
    ///
    /// # Errors
    /// When it is empty or contains what no HTTP header can carry.
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        let token = text.trim();
        if token.is_empty() {
            return Err(FetchError::Token);
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| FetchError::Token)?;
        header.set_sensitive(true);
        Ok(Self(header))
    }

    fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl std::fmt::Debug for HubToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("HubToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_that_a_server_asks_for_is_read_in_both_forms() {
        let asked = |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]));
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("999999"), Some(MAXIMUM_RETRY_AFTER));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_mins(2));
        assert!(asked(&soon).is_some_and(|wait| (100..=120).contains(&wait.as_secs())));
        for text in ["Wed, 21 Oct 2015 07:28:00 GMT", "soon", "-1", ""] {
            assert_eq!(asked(text), None, "{text}");
        }
    }
}
