//! Around every request: its id, its trace, its span, one log line when its answer is complete, its metrics.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tracing::{Instrument, Span};

use super::error::Dialect;
use super::request_id::{HEADER, RequestId};
use super::{Api, leaving, panics};
use crate::telemetry::{Answered, RequestTrace, Told, Traces};

/// The header that says in which trace a request is, and of the answer: which span of it this was.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Middleware of the API listener.
pub(super) async fn observe(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let path = printable(request.uri().path());
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let off = Traces::default();
    let traces = if is_probe(&path) { &off } else { &api.traces };
    let traceparent = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
    let trace = RequestTrace::begin(traces, traceparent);
    let span = tracing::info_span!(
        "request",
        request_id = %id,
        trace_id = trace.trace_id(),
        caller = tracing::field::Empty
    );
    request.extensions_mut().insert(id.clone());
    let followed = Followed { request_id: id.to_string(), trace: trace.clone(), route };
    let observed = Observed::begin(api, request.method(), path, span.clone(), Some(followed));

    let mut response = trace.scope(next.run(request)).instrument(span).await;
    response.headers_mut().insert(HEADER, id.header_value());
    if let Ok(place) = HeaderValue::from_str(&trace.header()) {
        response.headers_mut().insert(TRACEPARENT, place);
    }
    observed.until_sent(response)
}

/// Middleware of routes that are asked many times a second, beside a model that has the processor: all that has to be around
/// them, in one layer. They have no trace, and what they write into the log has their id only where the log tells everything.
pub(super) async fn observe_scrape(
    State(api): State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = RequestId::of(request.headers());
    let path = printable(request.uri().path());
    let span = tracing::debug_span!("request", request_id = %id);
    request.extensions_mut().insert(id.clone());
    let observed = Observed::begin(Arc::clone(&api), request.method(), path, span.clone(), None);

    let version = request.version();
    let answer = panics::answered(Dialect::Native, &id, next.run(request));
    let mut response = answer.instrument(span).await;
    leaving::mark(&mut response, version, *api.phase.borrow());
    response.headers_mut().insert(HEADER, id.header_value());
    observed.until_sent(response)
}

/// The path is a route of ours or nothing that is worth a line of its own; a query may hold anything.
fn printable(path: &str) -> String {
    path.chars().filter(|character| !character.is_control()).take(128).collect()
}

/// Probes come every few seconds and would bury everything else.
fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/livez" | "/readyz" | "/health" | "/v2/health/live" | "/v2/health/ready")
}

/// Label values are the methods of HTTP and no others.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// Logs, counts and ends the trace when it is dropped: at the end of the answer, or when the client goes away before it.
struct Observed {
    api: Arc<Api>,
    method: &'static str,
    path: String,
    status: StatusCode,
    started: Instant,
    complete: bool,
    span: Span,
    /// Not of scrapes.
    followed: Option<Followed>,
}

/// What a request has that is followed through the gateway.
struct Followed {
    request_id: String,
    trace: RequestTrace,
    route: Option<String>,
}

impl Observed {
    fn begin(api: Arc<Api>, method: &Method, path: String, span: Span, followed: Option<Followed>) -> Self {
        let method = method_label(method);
        span.in_scope(|| tracing::debug!(method, path, "request"));
        let (status, started) = (StatusCode::INTERNAL_SERVER_ERROR, Instant::now());
        Self { api, method, path, status, started, complete: false, span, followed }
    }

    /// Goes on until the answer is sent, or is not taken.
    fn until_sent(mut self, response: Response) -> Response {
        self.status = response.status();
        // Nobody polls a body that is not sent.
        self.complete = self.method == "HEAD" || response.body().is_end_stream();
        response.map(|body| Body::new(ObservedBody { body, observed: self }))
    }

    /// The one line that a request has, with what it got and where its time went.
    fn log(&self, followed: &Followed, status: u16, duration: Duration) {
        let Self { method, path, complete, .. } = self;
        let Followed { request_id: _, trace, route } = followed;
        let (path, route, duration_ms) = (path.as_str(), route.as_deref(), milliseconds(duration));
        let Told { model, prompt_tokens, output_tokens, finish_reason, queue, prefill, decode, .. } =
            trace.told();
        tracing::info!(
            method,
            path,
            route,
            status,
            duration_ms,
            model,
            prompt_tokens,
            output_tokens,
            finish_reason,
            queue_ms = queue.map(milliseconds),
            prefill_ms = prefill.map(milliseconds),
            decode_ms = decode.map(milliseconds),
            "{}",
            if *complete { "response" } else { "response not taken: the client went away" }
        );
    }

    fn log_routine(&self, status: u16, duration: Duration) {
        let Self { method, path, .. } = self;
        tracing::debug!(method, path, status, duration_ms = milliseconds(duration), "response");
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let Self { api, method, path, followed, .. } = &*self;
        // The code that others use for a client that closed its connection before an answer.
        let status = if self.complete { self.status.as_u16() } else { 499 };
        let sampled = followed.as_ref().and_then(|followed| followed.trace.sampled_trace());
        api.metrics.http_request(method, status, duration, sampled);
        if let Some(Followed { request_id, trace, route }) = followed {
            trace.end(&Answered { method, route: route.as_deref(), path, status, request_id });
        }
        let _entered = self.span.enter();
        match followed {
            Some(followed) if !is_probe(path) => self.log(followed, status, duration),
            Some(_) | None => self.log_routine(status, duration),
        }
    }
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The answer's body, which knows whether it was read to its end.
struct ObservedBody {
    body: Body,
    observed: Observed,
}

impl HttpBody for ObservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        // Whoever makes the rest of a stream works for this request.
        let span = self.observed.span.clone();
        let frame = span.in_scope(|| Pin::new(&mut self.body).poll_frame(context));
        if matches!(frame, Poll::Ready(None))
            || (matches!(frame, Poll::Ready(Some(Ok(_)))) && self.body.is_end_stream())
        {
            self.observed.complete = true;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
