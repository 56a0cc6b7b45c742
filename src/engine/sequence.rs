//! One generation: its tokens, how far it is, and the stream it answers on.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::lookup::Lookup;
use super::mask::Mask;
use super::places::Place;
use super::prefix::Key;
use super::request::{EngineError, Event, Finish, Finished, Request, TokenId, TokenLogprobs};
use super::sampler::Sampler;

/// A request in the engine, waiting or running. Owned by the worker thread.
pub(super) struct Sequence {
    request: Request,
    sampler: Sampler,
    /// What rules out tokens, if anything does.
    mask: Option<Box<dyn Mask>>,
    /// Prompt tokens that are in the cache.
    prefilled: usize,
    /// Those of them that were copied.
    copied: usize,
    /// The kept blocks that the prompt begins with, by the last one.
    prefix: Option<Key>,
    /// The last picked token: the input of the next decode step.
    last: TokenId,
    generated: usize,
    /// How likely the stop token was, once one has ended the sequence.
    stop_logprobs: Option<Box<TokenLogprobs>>,
    /// The whole text, when tokens are drafted.
    lookup: Option<Lookup>,
    stream: mpsc::Sender<Result<Event, EngineError>>,
    /// The place in the engine; returned when the sequence is dropped, however it ends.
    place: Place,
    submitted: Instant,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
}

impl Sequence {
    pub(super) fn new(
        request: Request,
        stream: mpsc::Sender<Result<Event, EngineError>>,
        place: Place,
        drafts: bool,
    ) -> Self {
        let sampler = Sampler::new(&request.sampling, &request.prompt);
        let lookup = drafts.then(|| Lookup::new(&request.prompt));
        Self {
            request,
            sampler,
            mask: None,
            prefilled: 0,
            copied: 0,
            prefix: None,
            last: 0,
            generated: 0,
            stop_logprobs: None,
            lookup,
            stream,
            place,
            submitted: Instant::now(),
            admitted: None,
            first_token: None,
        }
    }

    pub(super) fn masked(mut self, mask: Option<Box<dyn Mask>>) -> Self {
        self.mask = mask;
        self
    }

    /// The lane in which it waits.
    pub(super) fn lane(&self) -> u64 {
        self.place.lane()
    }

    /// Whether nobody reads the stream any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.stream.is_closed()
    }

    /// Whether the deadline has passed at `now`.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.request.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Tokens whose cache this sequence may need.
    pub(super) fn reserved_tokens(&self) -> usize {
        self.request.reserved_tokens()
    }

    pub(super) fn prefix(&self) -> Option<Key> {
        self.prefix
    }

    pub(super) fn set_prefix(&mut self, prefix: Option<Key>) {
        self.prefix = prefix;
    }

    /// What picks the next token, and the tokens that it may be, if not all.
    pub(super) fn choice(&mut self) -> Result<(&mut Sampler, Option<&[u32]>), EngineError> {
        let allowed = self.mask.as_mut().map(|mask| mask.allowed()).transpose()?;
        Ok((&mut self.sampler, allowed))
    }

    pub(super) fn prompt(&self) -> &[TokenId] {
        &self.request.prompt
    }

    pub(super) fn prefilled(&self) -> usize {
        self.prefilled
    }

    pub(super) fn add_prefilled(&mut self, tokens: usize) {
        self.prefilled += tokens;
    }

    /// Takes over a beginning that was copied, not computed.
    pub(super) fn add_copied(&mut self, tokens: usize) {
        self.prefilled += tokens;
        self.copied += tokens;
    }

    /// Tokens in the cache of this sequence's row: the prompt, and every picked token but the last.
    pub(super) fn cached(&self) -> usize {
        self.prefilled + self.generated.saturating_sub(1)
    }

    /// The input of the next decode step, a slice of one token.
    pub(super) fn next_input(&self) -> &[TokenId] {
        std::slice::from_ref(&self.last)
    }

    /// Replaces `input` by the input of the next decode step and, behind it, at most `most` tokens that may follow it.
    ///
    /// There are never more than may still be generated, so all of them have room in the cache.
    pub(super) fn draft(&mut self, most: usize, input: &mut Vec<TokenId>) {
        input.clear();
        input.push(self.last);
        let left = self.request.max_tokens - self.generated;
        if let Some(lookup) = &mut self.lookup {
            lookup.draft(most.min(left - 1), input);
        }
    }

    /// Notes that of a draft of `drafted` tokens, `accepted` were right.
    pub(super) fn judge_draft(&mut self, drafted: usize, accepted: usize) {
        if let Some(lookup) = &mut self.lookup {
            lookup.judge(drafted, accepted);
        }
    }

    /// Notes that the wait is over, and returns how long it was.
    pub(super) fn mark_admitted(&mut self) -> Duration {
        let now = Instant::now();
        self.admitted = Some(now);
        now - self.submitted
    }

    /// From the row to the first picked token, once there is one.
    pub(super) fn prefill_duration(&self) -> Option<Duration> {
        Some(self.first_token? - self.admitted?)
    }

    /// Whether log-probabilities are asked for, and with how many alternatives.
    pub(super) fn logprobs(&self) -> Option<usize> {
        self.request.logprobs
    }

    /// Takes the picked token: emits it, or ends the sequence. Returns the reason when this was the end.
    pub(super) fn push(
        &mut self,
        token: TokenId,
        logprobs: Option<Box<TokenLogprobs>>,
    ) -> Result<Option<Finish>, EngineError> {
        if self.first_token.is_none() {
            let now = Instant::now();
            self.first_token = Some(now);
            let prefill = now - self.admitted.unwrap_or(now);
            self.emit(Ok(Event::Prefilled { cached_tokens: self.copied, queued: self.queued(), prefill }));
        }
        if self.request.stop_tokens.contains(&token) {
            self.stop_logprobs = logprobs;
            return Ok(Some(Finish::StopToken(token)));
        }
        self.last = token;
        self.generated += 1;
        if let Some(lookup) = &mut self.lookup {
            lookup.push(token);
        }
        self.emit(Ok(Event::Token { token, logprobs }));
        // After it was emitted: what may follow can wait, the token should not.
        let complete = self.mask.as_mut().map(|mask| mask.accept(token)).transpose()?;
        if complete == Some(true) {
            return Ok(Some(Finish::Complete));
        }
        Ok((self.generated == self.request.max_tokens).then_some(Finish::Length))
    }

    /// How long it waited for a row.
    fn queued(&self) -> Duration {
        self.admitted.map_or_else(|| self.submitted.elapsed(), |admitted| admitted - self.submitted)
    }

    /// Tells the end and consumes the sequence, which returns its place.
    pub(super) fn finish(mut self, reason: Finish) {
        let now = Instant::now();
        let admitted = self.admitted.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        let logprobs = self.stop_logprobs.take();
        self.emit(Ok(Event::Finished(Finished {
            reason,
            logprobs,
            queued: self.queued(),
            prefill: first_token - admitted,
            decode: now - first_token,
        })));
    }

    /// Tells a failure and consumes the sequence.
    pub(super) fn fail(self, error: EngineError) {
        self.emit(Err(error));
    }

    /// The channel has room for the beginning, every token and the end, so it is never full; a closed one is a cancelled request,
    /// which the next step sees.
    fn emit(&self, event: Result<Event, EngineError>) {
        drop(self.stream.try_send(event));
    }
}
