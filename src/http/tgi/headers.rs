//! What answers tell of themselves in headers: how long they took, and of how much.

use std::time::Instant;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::generate::Generation;

/// What computes here.
const COMPUTE_TYPE: HeaderValue = HeaderValue::from_static("cpu");

/// Those that are known before anything is generated; `characters` are those of the prompt.
pub(super) fn of_stream(characters: usize) -> HeaderMap {
    HeaderMap::from_iter([
        (HeaderName::from_static("x-compute-type"), COMPUTE_TYPE),
        (HeaderName::from_static("x-compute-characters"), HeaderValue::from(characters)),
    ])
}

/// Those of a generation that has ended: times in milliseconds, but `x-compute-time`, which is in seconds.
pub(super) fn of_whole(generation: &Generation, started: Instant, characters: usize) -> HeaderMap {
    let total = started.elapsed();
    let validation = generation.submitted() - started;
    let queue = generation.queued();
    let inference = total.saturating_sub(validation + queue);
    let tokens = generation.picked_tokens();
    let per_token = inference.as_millis() / tokens.max(1) as u128;
    let seconds = HeaderValue::from_str(&total.as_secs_f64().to_string());
    let mut headers = of_stream(characters);
    headers.insert("x-compute-time", seconds.expect("a number is plain"));
    for (name, milliseconds) in [
        ("x-total-time", total.as_millis()),
        ("x-validation-time", validation.as_millis()),
        ("x-queue-time", queue.as_millis()),
        ("x-inference-time", inference.as_millis()),
        ("x-time-per-token", per_token),
    ] {
        headers.insert(name, HeaderValue::from(milliseconds as u64));
    }
    headers.insert("x-prompt-tokens", HeaderValue::from(generation.prompt_tokens().len()));
    headers.insert("x-generated-tokens", HeaderValue::from(tokens));
    headers
}
