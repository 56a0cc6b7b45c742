//! How clients that keep their connections are sent elsewhere before the process ends.
//!
//! A connection that is closed while nothing is under way on it may be closed just when the next request is being sent, and
//! that request is lost. So from the moment the process is told to end, each answer says that it is the last of its
//! connection: the client makes its next one to somebody else, and those that are closed later have long been idle.

use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Version};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::watch;

use crate::shutdown::Phase;

/// Marks answers as the last of their connections once the process is ending.
pub(super) async fn last_answers(
    State(phase): State<watch::Receiver<Phase>>,
    request: Request,
    next: Next,
) -> Response {
    let version = request.version();
    let mut response = next.run(request).await;
    mark(&mut response, version, *phase.borrow());
    response
}

/// Marks an answer to a request of this version if it is to be the last one.
pub(super) fn mark(response: &mut Response, version: Version, phase: Phase) {
    // HTTP/2 knows no such header: its connections end with a GOAWAY, which loses nothing.
    if version <= Version::HTTP_11 && phase > Phase::Serving {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}
