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

use super::Api;
use super::request_id::{HEADER, RequestId};
use crate::telemetry::{Answered, RequestTrace, Told, Traces};

/// The header that says in which trace a request is, and of the answer: which span of it this was.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Middleware of the API listener.
pub(super) async fn observe(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let method = method_label(request.method());
    // The path is a route of ours or nothing that is worth a line of its own; a query may hold anything.
    let path: String = request.uri().path().chars().filter(|c| !c.is_control()).take(128).collect();
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let off = Traces::default();
    let traces = if is_routine(&path) { &off } else { &api.traces };
    let traceparent = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
    let trace = RequestTrace::begin(traces, traceparent);
    let span = tracing::info_span!(
        "request",
        request_id = %id,
        trace_id = trace.trace_id(),
        caller = tracing::field::Empty
    );
    request.extensions_mut().insert(id.clone());
    let mut observed = Observed {
        api,
        request_id: id.to_string(),
        trace: trace.clone(),
        method,
        path,
        route,
        status: StatusCode::INTERNAL_SERVER_ERROR,
        started: Instant::now(),
        complete: false,
        span: span.clone(),
    };
    span.in_scope(|| tracing::debug!(method, path = observed.path, "request"));

    let mut response = trace.scope(next.run(request)).instrument(span).await;
    response.headers_mut().insert(HEADER, id.header_value());
    if let Ok(place) = HeaderValue::from_str(&trace.header()) {
        response.headers_mut().insert(TRACEPARENT, place);
    }
    observed.status = response.status();
    // Nobody polls a body that is not sent.
    observed.complete = method == "HEAD" || response.body().is_end_stream();
    response.map(|body| Body::new(ObservedBody { body, observed }))
}

/// Probes and scrapes come every few seconds and would bury everything else.
fn is_routine(path: &str) -> bool {
    matches!(
        path,
        "/healthz" | "/livez" | "/readyz" | "/metrics" | "/health" | "/v2/health/live" | "/v2/health/ready"
    )
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
    request_id: String,
    trace: RequestTrace,
    method: &'static str,
    path: String,
    route: Option<String>,
    status: StatusCode,
    started: Instant,
    complete: bool,
    span: Span,
}

impl Drop for Observed {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        // The code that others use for a client that closed its connection before an answer.
        let status = if self.complete { self.status.as_u16() } else { 499 };
        self.api.metrics.http_request(self.method, status, duration, self.trace.sampled_trace());
        self.trace.end(&Answered {
            method: self.method,
            route: self.route.as_deref(),
            path: &self.path,
            status,
            request_id: &self.request_id,
        });
        let _entered = self.span.enter();
        self.log(status, duration);
    }
}

impl Observed {
    /// The one line that a request has, with what it got and where its time went.
    fn log(&self, status: u16, duration: Duration) {
        let Self { method, path, route, complete, .. } = self;
        let (path, route, duration_ms) = (path.as_str(), route.as_deref(), milliseconds(duration));
        if is_routine(path) {
            tracing::debug!(method, path, status, duration_ms, "response");
            return;
        }
        let Told { model, prompt_tokens, output_tokens, finish_reason, queue, prefill, decode, .. } =
            self.trace.told();
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
