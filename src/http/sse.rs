//! A generation as server-sent events. The client's disconnect drops the stream, which cancels the generation.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use crate::generate::{Delta, GenerateError, Generation};

/// A comment is sent when nothing else was for so long, so that a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

enum Step {
    Prefix(String),
    Running,
}

/// Answers with one event for the prefix, if any, and one for each piece of the generation; `render` gives their data, JSON on
/// one line.
pub(super) fn respond<F>(generation: Generation, prefix: String, render: F) -> Response
where
    F: Fn(&mut Generation, Result<Delta, GenerateError>) -> String + Send + 'static,
{
    let first = if prefix.is_empty() { Step::Running } else { Step::Prefix(prefix) };
    let events = stream::unfold((generation, first, render), |(mut generation, step, render)| async move {
        let delta = match step {
            Step::Prefix(text) => Ok(Delta::Text(text)),
            Step::Running => generation.next().await?,
        };
        let event = Event::default().data(render(&mut generation, delta));
        Some((Ok::<_, Infallible>(event), (generation, Step::Running, render)))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // Proxies that buffer would turn the stream into one late piece.
    response.headers_mut().insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    response
}
