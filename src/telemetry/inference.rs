//! What a model does for a request: one span for all of it, and one for each phase of each generation.
//!
//! The attributes are those of OpenTelemetry's conventions for generative AI, less whatever holds text of the request.
//!
//! From: OpenTelemetry semantic conventions 1.37, "Generative AI spans" (status: development).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::{Array, KeyValue, StringValue, Value};

use super::{RequestTrace, TraceContext};

/// What we are, as the conventions ask: the name of who provides the model.
const PROVIDER: &str = "inference_gateway";

/// What was asked of a model.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Whether it is a chat; otherwise a text to continue.
    pub is_chat: bool,
    /// The name that the model's answers carry.
    pub model: String,
    /// Its revision.
    pub revision: String,
    /// Texts that are wanted.
    pub choices: usize,
    /// Tokens of each at most, where the request says so.
    pub max_tokens: Option<usize>,
    /// How tokens are picked.
    pub temperature: f64,
    /// See there.
    pub top_p: f64,
    /// See there; 0 is none.
    pub top_k: u32,
    /// See there.
    pub frequency_penalty: f64,
    /// See there.
    pub presence_penalty: f64,
    /// The seed of the first text.
    pub seed: u64,
    /// Whether the output has to be JSON.
    pub is_json: bool,
}

/// A generation that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Generated {
    /// Its number among those of the request.
    pub index: usize,
    /// Tokens of its prompt; 0 where they were counted for another choice.
    pub prompt_tokens: usize,
    /// Those of them that were not computed.
    pub cached_tokens: usize,
    /// Tokens that it has.
    pub output_tokens: usize,
    /// How it ended.
    pub finish_reason: &'static str,
    /// Whether that was a failure.
    pub failed: bool,
    /// When it was handed to the engine.
    pub submitted: Instant,
    /// How long it waited there for a row and computed its prompt, once it has a token.
    pub queue_and_prefill: Option<(Duration, Duration)>,
    /// When it ended.
    pub ended: Instant,
}

/// The work of a model for a request; recorded when it is dropped.
pub struct Inference {
    request: RequestTrace,
    place: TraceContext,
    accepted: Instant,
    asked: Asked,
    results: Mutex<Results>,
}

#[derive(Default)]
struct Results {
    prompt_tokens: usize,
    cached_tokens: usize,
    output_tokens: usize,
    finish_reasons: Vec<&'static str>,
    first_token: Option<Duration>,
    ended: Option<Instant>,
    error: Option<&'static str>,
}

impl Inference {
    /// Work for the current request that was accepted at `accepted`.
    pub fn begin(asked: Asked, accepted: Instant) -> Self {
        let request = RequestTrace::current();
        let mut told = request.locked();
        told.model = Some(asked.model.clone());
        told.accepted = Some(accepted);
        drop(told);
        let place = request.place().child();
        Self { request, place, accepted, asked, results: Mutex::default() }
    }

    /// The trace's id, if it is kept, for exemplars.
    pub fn sampled_trace(&self) -> Option<u128> {
        self.request.sampled_trace()
    }

    /// A phase that is over. The next one begins where it ends, so that nothing is left out in between.
    pub fn phase(&self, name: &'static str, begin: Instant, end: Instant) {
        self.request.record(self.place.child(), self.place, (name.into(), begin, end), (Vec::new(), None));
    }

    /// It was refused, or failed before anything was generated.
    pub fn refused(&self, why: &'static str) {
        let mut results = self.results();
        results.error = Some(why);
        results.ended = Some(Instant::now());
        drop(results);
        self.request.locked().ended = Some(Instant::now());
    }

    /// A generation has ended: its phases, and its part in the whole.
    pub fn generated(&self, generated: Generated) {
        let Generated {
            index,
            prompt_tokens,
            cached_tokens,
            output_tokens,
            finish_reason,
            failed,
            submitted,
            queue_and_prefill,
            ended,
        } = generated;
        let error = failed.then_some(finish_reason);
        let mut first_token = None;
        let (decode, ended) = if let Some((queue, prefill)) = queue_and_prefill {
            let (admitted, picked) = (submitted + queue, submitted + queue + prefill);
            let ended = ended.max(picked);
            self.engine_phase("queue", index, (submitted, admitted), None);
            self.engine_phase("prefill", index, (admitted, picked), None);
            self.engine_phase("decode", index, (picked, ended), error);
            first_token = Some(picked);
            (Some(ended - picked), ended)
        } else {
            // It never got a token, so it is not known whether it got a row.
            self.engine_phase("queue", index, (submitted, ended), error);
            (None, ended)
        };
        let mut results = self.results();
        results.prompt_tokens += prompt_tokens;
        results.cached_tokens += cached_tokens;
        results.output_tokens += output_tokens;
        results.finish_reasons.push(finish_reason);
        results.ended = results.ended.max(Some(ended));
        results.error = results.error.or(error);
        let waited = first_token.map(|first_token| first_token - self.accepted);
        results.first_token = [results.first_token, waited].into_iter().flatten().min();
        drop(results);
        let mut told = self.request.locked();
        *told.prompt_tokens.get_or_insert_default() += prompt_tokens;
        *told.output_tokens.get_or_insert_default() += output_tokens;
        told.finish_reason = Some(finish_reason);
        told.queue = told.queue.max(queue_and_prefill.map(|(queue, _)| queue));
        told.prefill = told.prefill.max(queue_and_prefill.map(|(_, prefill)| prefill));
        told.decode = told.decode.max(decode);
        told.ended = told.ended.max(Some(ended));
    }

    fn engine_phase(
        &self,
        name: &'static str,
        index: usize,
        (begin, end): (Instant, Instant),
        error: Option<&'static str>,
    ) {
        if self.place.sampled {
            let number = KeyValue::new("inference_gateway.generation", index as i64);
            let what = (vec![number], error);
            self.request.record(self.place.child(), self.place, (name.into(), begin, end), what);
        }
    }

    fn results(&self) -> MutexGuard<'_, Results> {
        // Plain values are whole whatever happened to another holder.
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, results: &Results) -> Vec<KeyValue> {
        let Asked {
            is_chat: _,
            model,
            revision,
            choices,
            max_tokens,
            temperature,
            top_p,
            top_k,
            frequency_penalty,
            presence_penalty,
            seed,
            is_json,
        } = &self.asked;
        let reasons: Vec<StringValue> =
            results.finish_reasons.iter().map(|reason| (*reason).into()).collect();
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", self.operation()),
            KeyValue::new("gen_ai.provider.name", PROVIDER),
            KeyValue::new("gen_ai.request.model", model.clone()),
            KeyValue::new("gen_ai.response.model", model.clone()),
            KeyValue::new("gen_ai.output.type", if *is_json { "json" } else { "text" }),
            KeyValue::new("gen_ai.request.temperature", *temperature),
            KeyValue::new("gen_ai.request.top_p", *top_p),
            KeyValue::new("gen_ai.request.frequency_penalty", *frequency_penalty),
            KeyValue::new("gen_ai.request.presence_penalty", *presence_penalty),
            KeyValue::new("gen_ai.request.seed", *seed as i64),
            KeyValue::new("gen_ai.usage.input_tokens", results.prompt_tokens as i64),
            KeyValue::new("gen_ai.usage.output_tokens", results.output_tokens as i64),
            KeyValue::new("gen_ai.usage.cache_read.input_tokens", results.cached_tokens as i64),
            KeyValue::new("gen_ai.response.finish_reasons", Value::Array(Array::String(reasons))),
            KeyValue::new("inference_gateway.model.revision", revision.clone()),
        ];
        if *choices > 1 {
            attributes.push(KeyValue::new("gen_ai.request.choice.count", *choices as i64));
        }
        if *top_k > 0 {
            attributes.push(KeyValue::new("gen_ai.request.top_k", i64::from(*top_k)));
        }
        attributes.extend(max_tokens.map(|most| KeyValue::new("gen_ai.request.max_tokens", most as i64)));
        attributes.extend(
            results
                .first_token
                .map(|first| KeyValue::new("gen_ai.response.time_to_first_chunk", first.as_secs_f64())),
        );
        attributes
    }

    fn operation(&self) -> &'static str {
        if self.asked.is_chat { "chat" } else { "text_completion" }
    }
}

impl Drop for Inference {
    fn drop(&mut self) {
        if self.place.sampled {
            let results = self.results();
            let name = format!("{} {}", self.operation(), self.asked.model);
            let end = results.ended.unwrap_or_else(Instant::now);
            let what = (self.attributes(&results), results.error);
            self.request.record(self.place, self.request.place(), (name.into(), self.accepted, end), what);
        }
    }
}
