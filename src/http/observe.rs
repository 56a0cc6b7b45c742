//! Around every request: its id, its span, one log line when it comes and one when its answer is complete, its metrics.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tracing::{Instrument, Span};

use super::request_id::{HEADER, RequestId};
use crate::metrics::Metrics;

/// Middleware of the API listener.
pub(super) async fn observe(
    State(metrics): State<Arc<Metrics>>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = RequestId::of(request.headers());
    let method = method_label(request.method());
    let span = tracing::info_span!("request", request_id = %id);
    // The path is a route of ours or nothing that is worth a line of its own; a query may hold anything.
    let path: String = request.uri().path().chars().filter(|c| !c.is_control()).take(128).collect();
    request.extensions_mut().insert(id.clone());
    let mut observed = Observed {
        metrics,
        method,
        path,
        status: StatusCode::INTERNAL_SERVER_ERROR,
        started: Instant::now(),
        complete: false,
        span: span.clone(),
    };
    if !is_routine(&observed.path) {
        span.in_scope(|| tracing::info!(method, path = observed.path, "request"));
    }

    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(HEADER, id.header_value());
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

/// Logs and counts when it is dropped: at the end of the answer, or when the client goes away before it.
struct Observed {
    metrics: Arc<Metrics>,
    method: &'static str,
    path: String,
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
        self.metrics.http_request(self.method, status, duration);
        let duration_ms = duration.as_secs_f64() * 1e3;
        let _entered = self.span.enter();
        let (method, path) = (self.method, self.path.as_str());
        if is_routine(path) {
            tracing::debug!(method, path, status, duration_ms, "response");
        } else if self.complete {
            tracing::info!(method, path, status, duration_ms, "response");
        } else {
            tracing::info!(method, path, status, duration_ms, "response not taken: the client went away");
        }
    }
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
        let frame = Pin::new(&mut self.body).poll_frame(context);
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
