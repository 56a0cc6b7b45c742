//! A time limit for the body of a request: who sends it byte by byte is told so, and gives its place back.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// The body did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body did not arrive within {}", humantime::format_duration(*.0))]
pub(super) struct BodyTooSlow(Duration);

/// Middleware: bodies that do not arrive whole within the time end with [`BodyTooSlow`].
pub(super) async fn bound(State(timeout): State<Duration>, request: Request, next: Next) -> Response {
    let timed = |body: Body| {
        if body.is_end_stream() {
            return body;
        }
        Body::new(Timed { body, timeout, end: Box::pin(sleep(timeout)) })
    };
    next.run(request.map(timed)).await
}

struct Timed {
    body: Body,
    timeout: Duration,
    end: Pin<Box<Sleep>>,
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        // First what is there: a handler that was slow to look is not the client's fault.
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_pending() && self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new(BodyTooSlow(self.timeout)))));
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
