//! Generations as server-sent events. The client's disconnect drops the stream, which cancels all of them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use serde::Serialize;

use crate::generate::{Delta, GenerateError, Generations};

/// A comment is sent when nothing else was for so long, so that a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What there is to tell.
pub(super) enum Moment {
    /// The generations have begun.
    Begin,
    /// A piece of the generation with this number.
    Piece(usize, Delta),
    /// A failure ended all of them; nothing comes after it.
    Failed(GenerateError),
    /// All of them have ended well; nothing comes after it.
    End,
}

enum Stage {
    Beginning,
    Running,
    Over,
}

/// Answers with the events that `render` makes of each moment, none or several: their data, each on one line.
pub(super) fn respond<F>(generations: Generations, render: F) -> Response
where
    F: FnMut(&mut Generations, Moment) -> Vec<String> + Send + 'static,
{
    let state = (generations, render, Stage::Beginning, VecDeque::new());
    let events = stream::unfold(state, |(mut generations, mut render, mut stage, mut ready)| async move {
        loop {
            if let Some(data) = ready.pop_front() {
                return Some((data, (generations, render, stage, ready)));
            }
            let (moment, next) = match stage {
                Stage::Beginning => (Moment::Begin, Stage::Running),
                Stage::Running => match generations.next().await {
                    Some((index, Ok(delta))) => (Moment::Piece(index, delta), Stage::Running),
                    Some((_, Err(error))) => (Moment::Failed(error), Stage::Over),
                    None => (Moment::End, Stage::Over),
                },
                Stage::Over => return None,
            };
            ready.extend(render(&mut generations, moment));
            stage = next;
        }
    });
    written(events)
}

/// An event for each text, which is its data.
pub(super) fn written(data: impl Stream<Item = String> + Send + 'static) -> Response {
    let events = data.map(|data| Ok::<_, Infallible>(Event::default().data::<String>(data)));
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // Proxies that buffer would turn the stream into one late piece.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The data of an event: JSON on one line. Not by way of a JSON value, which would write numbers of 32 bits with the digits of 64.
pub(super) fn data(event: &impl Serialize) -> String {
    serde_json::to_string(event).expect("an event has string keys only")
}
