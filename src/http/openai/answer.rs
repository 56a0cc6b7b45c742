//! Generations as an answer: one body, or a stream of chunks that ends with `[DONE]`.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::options::Stream;
use super::{Names, errors};
use crate::generate::{Delta, EndReason, Generation, Generations, PickedToken};
use crate::http::error::ApiError;
use crate::http::request_id::RequestId;
use crate::http::sse::{self, Moment};

/// What tells a chat from a completion in an answer.
pub(super) trait Shape: Send + 'static {
    /// How ids begin.
    const ID: &'static str;
    /// What a whole answer is called.
    const WHOLE: &'static str;
    /// What a chunk is called.
    const CHUNK: &'static str;
    /// What the schemas of both are called.
    const NAMES: [&'static str; 2];
    /// A choice of a whole answer.
    type Whole: Serialize + ToSchema;
    /// A choice of a chunk.
    type Chunk: Serialize + ToSchema;

    /// A choice that has ended.
    fn whole(&mut self, generations: &mut Generations, choice: Choice, text: String) -> Self::Whole;

    /// What comes before anything is generated, each in a chunk of its own.
    fn begin(&mut self, generations: &mut Generations) -> Vec<Self::Chunk>;

    /// What comes of a piece of a text, or of its end, each in a chunk of its own.
    fn piece(&mut self, choice: Choice, text: Option<String>) -> Vec<Self::Chunk>;
}

/// What every shape tells of a choice.
pub(super) struct Choice {
    pub(super) index: usize,
    /// The log-probabilities since the last time, if they are wanted.
    pub(super) picked: Vec<PickedToken>,
    /// Why it has ended, once it has.
    pub(super) finish_reason: Option<&'static str>,
}

/// The fields around the choices.
#[derive(Debug, Clone)]
struct Envelope {
    id: String,
    created: u64,
    model: String,
    system_fingerprint: String,
}

/// An answer or a chunk.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Enveloped<'a, C> {
    /// With the request's `x-request-id` in it
    id: &'a str,
    object: &'static str,
    /// Seconds since 1970
    created: u64,
    /// The name of the model that answered
    model: &'a str,
    /// The revision of the model that answered, as the header `x-model-revision` tells it
    system_fingerprint: &'a str,
    choices: Vec<C>,
    /// In a stream only with `stream_options.include_usage`: `null` until the last chunk, which has it and no choices
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<UsageField>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum UsageField {
    /// `null`: the last chunk tells it.
    Later,
    Now(Usage),
}

/// What was read and written.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiUsage)]
pub(super) struct Usage {
    /// A prompt counts once, however many choices it has
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokensDetails,
}

/// Of the prompts' tokens.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiPromptTokensDetails)]
struct PromptTokensDetails {
    /// Those whose cache was kept from an earlier request
    cached_tokens: usize,
}

/// An answer in the making.
pub(super) struct Answer<S> {
    envelope: Envelope,
    shape: S,
    names: Names,
}

impl<S: Shape> Answer<S> {
    pub(super) fn new(shape: S, names: Names, request_id: &RequestId, generations: &Generations) -> Self {
        let model = generations.model();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let envelope = Envelope {
            id: format!("{}-{request_id}", S::ID),
            created: now.as_secs(),
            model: model.name.to_string(),
            system_fingerprint: format!("fp_{}", model.revision),
        };
        Self { envelope, shape, names }
    }

    /// Waits for the end of all choices.
    pub(super) async fn whole(mut self, mut generations: Generations) -> Result<Response, ApiError> {
        let ended = generations.whole().await.map_err(|error| self.names.named(error.into()))?;
        let mut choices = Vec::with_capacity(ended.len());
        for (index, one) in ended.into_iter().enumerate() {
            let choice = choice(generations.get_mut(index), index, Some(one.reason));
            choices.push(self.shape.whole(&mut generations, choice, one.text));
        }
        let usage = Some(UsageField::Now(usage(&generations, self.names.choices)));
        Ok(Json(self.envelope.around(S::WHOLE, choices, usage)).into_response())
    }

    /// Tells each piece as it comes.
    pub(super) fn stream(self, generations: Generations, stream: Stream, request_id: RequestId) -> Response {
        let Self { envelope, mut shape, names } = self;
        let chunk = move |envelope: &Envelope, choice| {
            sse::data(&envelope.around(
                S::CHUNK,
                vec![choice],
                stream.include_usage.then_some(UsageField::Later),
            ))
        };
        sse::respond(generations, move |generations, moment| match moment {
            Moment::Begin => {
                shape.begin(generations).into_iter().map(|choice| chunk(&envelope, choice)).collect()
            }
            Moment::Piece(index, delta) => {
                let (text, reason) = match delta {
                    Delta::Text(text) => (Some(text), None),
                    Delta::End(reason) => (None, Some(reason)),
                };
                let choice = choice(generations.get_mut(index), index, reason);
                shape.piece(choice, text).into_iter().map(|choice| chunk(&envelope, choice)).collect()
            }
            Moment::Failed(error) => {
                let error = names.named(ApiError::from(error));
                tracing::debug!(%request_id, code = error.code, "a stream ends with an error");
                vec![sse::data(&errors::body(&error).1)]
            }
            Moment::End => {
                let usage = stream.include_usage.then(|| {
                    let usage = Some(UsageField::Now(usage(generations, names.choices)));
                    sse::data(&envelope.around::<S::Chunk>(S::CHUNK, Vec::new(), usage))
                });
                usage.into_iter().chain(["[DONE]".to_owned()]).collect()
            }
        })
    }
}

fn choice(generation: &mut Generation, index: usize, reason: Option<EndReason>) -> Choice {
    let finish_reason = reason.map(|reason| match reason {
        EndReason::EndOfText | EndReason::Stop => "stop",
        EndReason::Length => "length",
    });
    Choice { index, picked: generation.take_logprobs(), finish_reason }
}

/// A prompt counts once, whatever is wanted of it; so do its tokens that were cached for the first choice.
fn usage(generations: &Generations, choices: usize) -> Usage {
    let all = generations.all();
    let prompt_tokens = all.iter().step_by(choices).map(|one| one.prompt_tokens().len()).sum();
    let completion_tokens = all.iter().map(|one| one.token_ids().len()).sum();
    Usage {
        prompt_tokens,
        completion_tokens,
        total_tokens: prompt_tokens + completion_tokens,
        prompt_tokens_details: PromptTokensDetails {
            cached_tokens: all.iter().step_by(choices).map(Generation::cached_tokens).sum(),
        },
    }
}

impl Envelope {
    fn around<C>(
        &self,
        object: &'static str,
        choices: Vec<C>,
        usage: Option<UsageField>,
    ) -> Enveloped<'_, C> {
        let Self { id, created, model, system_fingerprint } = self;
        Enveloped { id, object, created: *created, model, system_fingerprint, choices, usage }
    }
}
