//! What the targets of `crate::fuzzing` see of the wire formats: bodies in, what would be generated or the answer out.

use axum::body::to_bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::stream;
use serde::Serialize;

use super::error::{ApiError, Dialect};
use super::request_id::{HEADER, RequestId};
use super::{native, oip, openai, sse, tgi};
use crate::generate::Input;
use crate::model::LoadedModel;

/// A body of a dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Native,
    Chat,
    Completions,
    OpenInference { is_stream: bool },
    Tgi,
}

/// A body that is refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    /// The answer's body.
    pub(crate) body: Vec<u8>,
    /// The field that is at fault, before the dialect says it in its words.
    pub(crate) field: Option<String>,
    pub(crate) message: String,
}

impl Route {
    /// What a body would have generated, as far as a handler parses and checks it.
    pub(crate) fn inputs(self, body: &[u8], model: &LoadedModel) -> Result<Vec<Input>, Refused> {
        let one = |input: Result<Input, ApiError>| input.map(|input| vec![input]);
        let (dialect, checked) = match self {
            Self::Native => (Dialect::Native, native::fuzzed(body, model)),
            Self::Chat => (Dialect::OpenAi, openai::fuzzed(true, body, model)),
            Self::Completions => (Dialect::OpenAi, openai::fuzzed(false, body, model)),
            Self::OpenInference { is_stream } => {
                let vocabulary_size = model.engine.geometry().vocabulary_size;
                (Dialect::OpenInference, one(oip::fuzzed(is_stream, body, vocabulary_size)))
            }
            Self::Tgi => (Dialect::Tgi, one(tgi::fuzzed(body))),
        };
        checked.map_err(|error| {
            let (field, message) = (error.field.clone(), error.message.clone());
            let response = error.respond_in(dialect, &RequestId::of(&HeaderMap::new()));
            Refused { status: response.status().as_u16(), body: content(response), field, message }
        })
    }
}

/// The body of a stream of these events, and whether its head is that of one. An event is JSON, or the word at the end of
/// OpenAI's streams.
pub(crate) fn events(events: &[Option<impl Serialize>]) -> Vec<u8> {
    let data = |event: &Option<_>| event.as_ref().map_or_else(|| "[DONE]".to_owned(), sse::data);
    let data: Vec<String> = events.iter().map(data).collect();
    // The writer keeps a clock, for comments when nothing comes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("the system has a clock");
    let _entered = runtime.enter();
    let response = sse::written(stream::iter(data));
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    runtime
        .block_on(async { to_bytes(response.into_body(), usize::MAX).await.expect("nothing cuts it") })
        .to_vec()
}

/// The id of a request that comes with this value of the header: as text, and as the header of the answer; `None` where no
/// header has such a value.
pub(crate) fn request_id(value: &[u8]) -> Option<(String, HeaderValue)> {
    let mut headers = HeaderMap::new();
    headers.insert(HEADER, HeaderValue::from_bytes(value).ok()?);
    let id = RequestId::of(&headers);
    Some((id.to_string(), id.header_value()))
}

/// Of a body that is there at once.
fn content(response: Response) -> Vec<u8> {
    let bytes = futures_util::FutureExt::now_or_never(to_bytes(response.into_body(), usize::MAX));
    bytes.expect("an error is whole").expect("nothing cuts it").to_vec()
}
