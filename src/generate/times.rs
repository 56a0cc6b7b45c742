//! When things happened to a generation: for its metrics, its trace, and the judgement of its model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::metrics::{GenerationEnd, ModelMetrics};
use crate::telemetry::{Generated, Inference};

/// The times of one generation.
pub(super) struct Times {
    inference: Arc<Inference>,
    /// Its number among those of the request.
    index: usize,
    /// Whether its prompt is counted for this one, and not for another choice.
    counts_prompt: bool,
    accepted: Instant,
    /// When it was handed to the engine.
    submitted: Instant,
    queue_and_prefill: Option<(Duration, Duration)>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    /// From the first token to the last, as the engine measures it: whoever reads slowly sees them later.
    decode: Option<Duration>,
    ended: bool,
}

impl Times {
    /// Of the generation with this number; `counts_prompt` for one of those that share a prompt.
    pub(super) fn new(
        inference: &Arc<Inference>,
        (index, counts_prompt): (usize, bool),
        accepted: Instant,
        submitted: Instant,
    ) -> Self {
        Self {
            inference: Arc::clone(inference),
            index,
            counts_prompt,
            accepted,
            submitted,
            queue_and_prefill: None,
            first_token: None,
            last_token: None,
            decode: None,
            ended: false,
        }
    }

    /// The trace of its request, if it is kept.
    pub(super) fn sampled_trace(&self) -> Option<u128> {
        self.inference.sampled_trace()
    }

    pub(super) fn since_accepted(&self) -> Duration {
        self.accepted.elapsed()
    }

    /// When it was handed to the engine.
    pub(super) fn submitted(&self) -> Instant {
        self.submitted
    }

    /// How long it waited for a row; nothing before its first token.
    pub(super) fn queued(&self) -> Duration {
        self.queue_and_prefill.map(|(queued, _)| queued).unwrap_or_default()
    }

    /// From its first token to the last one so far, as its reader sees them.
    pub(super) fn decode(&self) -> Duration {
        self.first_token.zip(self.last_token).map(|(first, last)| last - first).unwrap_or_default()
    }

    /// How long its first token took, once there is one.
    pub(super) fn first_token_after(&self) -> Option<Duration> {
        Some(self.first_token? - self.accepted)
    }

    /// The engine tells how long it waited and computed its prompt.
    pub(super) fn prefilled(&mut self, queued: Duration, prefill: Duration, metrics: &ModelMetrics) {
        self.queue_and_prefill = Some((queued, prefill));
        metrics.engine_phases(queued, prefill, self.sampled_trace());
    }

    /// A token came.
    pub(super) fn token(&mut self, metrics: &ModelMetrics) {
        let now = Instant::now();
        if self.first_token.is_none() {
            self.first_token = Some(now);
            metrics.first_token(now - self.accepted, self.sampled_trace());
        }
        self.last_token = Some(now);
    }

    /// The engine tells how long it decoded.
    pub(super) fn finished(&mut self, decode: Duration) {
        self.decode = Some(decode);
    }

    /// It has ended: tells its trace, and how long it decoded as its reader saw it. `None` the second time.
    pub(super) fn end(
        &mut self,
        end: GenerationEnd,
        (prompt_tokens, cached_tokens): (usize, usize),
        output_tokens: usize,
    ) -> Option<Duration> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        let of_engine = self.queue_and_prefill.zip(self.decode);
        let ended = of_engine.map(|((queue, prefill), decode)| self.submitted + queue + prefill + decode);
        let counted = |tokens: usize| if self.counts_prompt { tokens } else { 0 };
        self.inference.generated(Generated {
            index: self.index,
            prompt_tokens: counted(prompt_tokens),
            cached_tokens: counted(cached_tokens),
            output_tokens,
            finish_reason: end.label(),
            failed: matches!(end, GenerationEnd::Error | GenerationEnd::Cancelled),
            submitted: self.submitted,
            queue_and_prefill: self.queue_and_prefill,
            ended: ended.unwrap_or_else(Instant::now),
        });
        Some(self.decode())
    }
}
