//! How the generations of a request begin: reserve → encode → compile the format → submit.

use std::sync::Arc;
use std::time::Instant;

use super::preparing::Preparing;
use super::prompt::{self, Encoded};
use super::times::Times;
use super::{
    Format, GenerateError, Generation, Generations, Input, MOST_GENERATIONS, MaxTokens, Prompt, Refused,
    format,
};
use crate::access::{Caller, TokenKind};
use crate::engine::{Lane, Place, Request, TokenId};
use crate::model::{LoadedModel, Pinned};
use crate::telemetry::{Asked, Inference};

/// Begins the generations of a request: of each input as many as it wants. All of them, or none. `caller` is whose they are:
/// they wait in the caller's lane, and their tokens are charged as they come.
///
/// # Errors
/// The queue is full, a prompt does not fit or cannot be tokenised, the engine is gone.
///
/// # Panics
/// Without an input: callers check outside input.
pub async fn start(caller: &Caller, model: Pinned, inputs: Vec<Input>) -> Result<Generations, Refused> {
    let accepted = Instant::now();
    let lane = lane_of(caller);
    check_numbers(&model, &inputs, lane)?;
    prompt::check_lengths(&model, &inputs)?;
    let inference = Arc::new(Inference::begin(asked(&model, &inputs), accepted));
    let preparing = Preparing {
        metrics: model.metrics.clone(),
        generations: inputs.iter().map(|input| input.choices).sum(),
        accepted,
        trace_id: inference.sampled_trace(),
    };
    let begun = begin(Arc::new(model), (caller, lane), &inputs, &inference, accepted).await;
    preparing.over();
    begun.inspect_err(|refused| inference.refused(refused.error.label()))
}

/// Where the requests of a caller wait, and how many places they may have.
pub fn lane_of(caller: &Caller) -> Lane {
    Lane { id: caller.lane(), most_percent: caller.share_percent() }
}

/// Reserve, encode, compile, submit.
async fn begin(
    model: Arc<Pinned>,
    (caller, lane): (&Caller, Lane),
    inputs: &[Input],
    inference: &Arc<Inference>,
    accepted: Instant,
) -> Result<Generations, Refused> {
    let wanted = inputs.iter().map(|input| input.choices).sum();
    let places: Vec<Place> = (0..wanted).map(|_| model.engine.reserve_in(lane)).collect::<Result<_, _>>()?;
    let prompts = inputs.iter().map(|input| input.prompt.clone()).collect();
    let prompts = prompt::encode(&model, prompts).await?;
    let requests: Vec<(Request, Option<Arc<str>>)> = inputs
        .iter()
        .zip(prompts)
        .map(|(input, Encoded { tokens, rendered })| {
            (engine_request(&model, input, tokens, accepted), rendered.map(Arc::from))
        })
        .collect();
    for (index, (request, _)) in requests.iter().enumerate() {
        model.engine.check(request).map_err(|error| Refused::at(index, error.into()))?;
    }
    let mut phase_end = Instant::now();
    inference.phase("tokenise", accepted, phase_end);
    let mut masks = format::masks(&model, inputs).await?.into_iter();
    if inputs.iter().any(|input| input.format.is_some()) {
        let begin = std::mem::replace(&mut phase_end, Instant::now());
        inference.phase("compile format", begin, phase_end);
    }
    let mut places = places.into_iter();
    let mut all = Vec::with_capacity(wanted);
    for (input, (request, rendered)) in inputs.iter().zip(requests) {
        // A prompt is computed once, however many continuations are wanted.
        caller.charge(TokenKind::Prompt, request.prompt.len());
        for (choice, place) in places.by_ref().take(input.choices).enumerate() {
            let mut request = request.clone();
            // The first choice is the answer that a request for one would get.
            request.sampling.seed = request.sampling.seed.wrapping_add(choice as u64);
            let mask = masks.next().flatten();
            let index = all.len();
            let times = Times::new(inference, (index, choice == 0), accepted, phase_end);
            let mut generation = Generation::begin((&model, caller), input, (place, request, mask), times)?;
            generation.rendered.clone_from(&rendered);
            all.push(generation);
        }
    }
    Ok(Generations::new(all))
}

/// What is asked of the model, as its trace tells it.
fn asked(model: &LoadedModel, inputs: &[Input]) -> Asked {
    let first = &inputs[0];
    let sampling = &first.sampling;
    // As it was written: the digits of 64 bits would be others.
    let written = |number: f32| number.to_string().parse().unwrap_or_default();
    Asked {
        is_chat: matches!(first.prompt, Prompt::Chat(_)),
        model: model.name.to_string(),
        revision: model.revision.clone(),
        choices: inputs.iter().map(|input| input.choices).sum(),
        max_tokens: match first.max_tokens {
            MaxTokens::Exactly(tokens) => Some(tokens),
            MaxTokens::UpTo(_) => None,
        },
        temperature: written(sampling.temperature),
        top_p: written(sampling.top_p),
        top_k: sampling.top_k,
        frequency_penalty: written(sampling.frequency_penalty),
        presence_penalty: written(sampling.presence_penalty),
        seed: sampling.seed,
        is_json: first.format.as_ref().is_some_and(Format::is_json),
    }
}

/// What can be told before anything is done.
fn check_numbers(model: &LoadedModel, inputs: &[Input], lane: Lane) -> Result<(), GenerateError> {
    assert!(
        inputs.iter().all(|input| input.choices > 0) && !inputs.is_empty(),
        "something is to be generated"
    );
    let allowed = model.live().output_tokens.unwrap_or(usize::MAX);
    for input in inputs {
        match input.max_tokens {
            MaxTokens::Exactly(asked) if asked > allowed => {
                return Err(GenerateError::TooManyTokens { asked, allowed });
            }
            MaxTokens::Exactly(_) | MaxTokens::UpTo(_) => {}
        }
    }
    let allowed = MOST_GENERATIONS.min(model.engine.places(lane));
    let asked = inputs.iter().fold(0, |sum: usize, input| sum.saturating_add(input.choices));
    // One always finds out by itself whether there is a place.
    if asked > allowed.max(1) { Err(GenerateError::TooManyGenerations { asked, allowed }) } else { Ok(()) }
}

fn engine_request(model: &LoadedModel, input: &Input, prompt: Vec<TokenId>, accepted: Instant) -> Request {
    let left = model.engine.longest_tokens().saturating_sub(prompt.len()).max(1);
    let most_tokens = model.live().output_tokens.unwrap_or(usize::MAX);
    let max_tokens = match input.max_tokens {
        MaxTokens::Exactly(tokens) => tokens,
        MaxTokens::UpTo(tokens) => tokens.min(left).min(most_tokens),
    };
    let end_tokens = if input.ignore_eos { &[][..] } else { &model.end_tokens };
    Request {
        prompt,
        sampling: input.sampling.clone(),
        max_tokens,
        deadline: input.timeout.map(|timeout| accepted + timeout),
        stop_tokens: [end_tokens, &input.stop_tokens].concat(),
        logprobs: input.logprobs,
    }
}
