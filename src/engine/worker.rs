//! The thread that owns an engine: take work, plan, run the model, sample, emit.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use super::backend::{Backend, Batch, Feeding, Input, Wanted};
use super::prefix::PrefixStore;
use super::pulse::Pulse;
use super::request::{EngineError, Finish, TokenId};
use super::sampler::{Logprobs, SampleError, Scratch};
use super::scheduler::{Bounds, Scheduler, Vacated};
use super::sequence::Sequence;
use super::{EngineLimits, Shared};
use crate::failpoint;
use crate::metrics::ModelMetrics;

/// Chunks of a prompt that one run takes while no stream waits for its next token: with 64 tokens each, 256 take about two
/// thirds of the time of four runs, and longer runs are no faster.
const CHUNKS_ALONE: usize = 4;

/// What handles send to the worker.
pub(super) enum Message {
    /// A sequence to run.
    Run(Box<Sequence>),
    /// Run so many sequences at once.
    Rows(usize),
    /// Fail everything with this and end.
    Stop(EngineError),
}

/// State of the engine thread.
pub(super) struct Worker {
    backend: Box<dyn Backend>,
    scheduler: Scheduler,
    prefixes: PrefixStore,
    chunk_tokens: usize,
    /// Whether rows that are free give their memory back: not where there is memory for all rows at their longest.
    gives_back: bool,
    /// Tokens that are drafted at most for a sequence that decodes alone.
    draft_tokens: usize,
    /// What the only row is fed when tokens are drafted.
    fed: Vec<TokenId>,
    scratch: Scratch,
    mailbox: Receiver<Message>,
    pulse: Arc<Pulse>,
    shared: Shared,
}

/// Whether the loop goes on.
enum Mail {
    Work,
    End(EngineError),
}

impl Worker {
    pub(super) fn new(
        backend: Box<dyn Backend>,
        limits: EngineLimits,
        mailbox: Receiver<Message>,
        pulse: Arc<Pulse>,
        shared: Shared,
    ) -> Self {
        let geometry = backend.geometry();
        let chunk_tokens =
            if geometry.feeding == Feeding::Whole { geometry.context_tokens } else { limits.chunk_tokens };
        let prefix_bytes = if geometry.keeps_prefixes { limits.prefix_bytes } else { 0 };
        let bounds = Bounds {
            rows: geometry.rows,
            cache_tokens: limits.cache_tokens,
            chunk_tokens,
            chunks_alone: if geometry.feeding == Feeding::LongChunks { CHUNKS_ALONE } else { 1 },
        };
        shared.metrics.capacity(geometry.rows, limits.cache_tokens);
        Self {
            scheduler: Scheduler::new(bounds),
            prefixes: PrefixStore::new(chunk_tokens, prefix_bytes),
            chunk_tokens,
            gives_back: limits.cache_tokens < geometry.rows * geometry.context_tokens,
            draft_tokens: if geometry.verifies_drafts { limits.draft_tokens } else { 0 },
            fed: Vec::new(),
            scratch: Scratch::default(),
            backend,
            mailbox,
            pulse,
            shared,
        }
    }

    /// Runs until the last handle is gone and all work is done, or until told to stop.
    pub(super) fn run(mut self) {
        let turns = Arc::clone(&self.shared.turns);
        let mut asked = None;
        let error = loop {
            if let Mail::End(error) = self.take_mail() {
                break error;
            }
            self.drop_unwanted();
            self.admit();
            let plan = self.scheduler.plan();
            let chunk = plan.chunk.unwrap_or_default();
            let alone = plan.decode == 1 && chunk.is_empty();
            let turn = asked.take().unwrap_or_else(|| turns.ask());
            turn.wait();
            let started = Instant::now();
            self.pulse.begin(plan.decode, chunk.len());
            failpoint::at("in-engine-step");
            if !chunk.is_empty() {
                self.prefill(chunk);
            }
            // In company, tokens of others fill a run. Whoever waits now cannot be given a row before this one is done.
            if alone && self.draft_tokens > 0 {
                self.decode_draft();
            } else if plan.decode > 0 {
                self.decode(plan.decode);
            }
            self.pulse.end();
            asked = (!self.scheduler.is_empty()).then(|| turns.ask());
            drop(turn);
            self.metrics().step(plan.decode, started.elapsed());
            self.tell_load();
        };
        drop(asked);
        for sequence in self.scheduler.drain() {
            sequence.fail(error.clone());
        }
        self.fail_late(&error);
        self.tell_load();
    }

    /// Fails what was submitted while the engine ended.
    fn fail_late(&self, error: &EngineError) {
        for message in self.mailbox.try_iter() {
            if let Message::Run(sequence) = message {
                sequence.fail(error.clone());
            }
        }
    }

    /// Takes what has arrived; waits only when there is nothing to do.
    fn take_mail(&mut self) -> Mail {
        loop {
            let message = if self.scheduler.is_empty() {
                self.mailbox.recv().map_err(|_closed| TryRecvError::Disconnected)
            } else {
                self.mailbox.try_recv()
            };
            match message {
                Ok(Message::Run(sequence)) => self.scheduler.push(*sequence),
                Ok(Message::Rows(rows)) => self.scheduler.set_rows(rows),
                Ok(Message::Stop(error)) => return Mail::End(error),
                // All handles are gone: finish what streams still wait for.
                Err(TryRecvError::Disconnected) if self.scheduler.is_empty() => {
                    return Mail::End(EngineError::Stopped);
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Mail::Work,
            }
        }
    }

    /// Frees the rows and places of requests that nobody reads any more or whose deadline has passed.
    fn drop_unwanted(&mut self) {
        let now = Instant::now();
        let unwanted = |sequence: &Sequence| sequence.is_cancelled() || sequence.is_late(now);
        // Of a cancelled request nobody hears the error.
        for sequence in self.scheduler.remove_waiting(unwanted) {
            sequence.fail(EngineError::DeadlineExceeded);
        }
        if self.scheduler.prefilling().is_some_and(|sequence| unwanted(sequence))
            && let Some((sequence, vacated)) = self.scheduler.remove_prefilling()
        {
            sequence.fail(EngineError::DeadlineExceeded);
            self.close_hole(&vacated);
        }
        for row in (0..self.scheduler.decoding().len()).rev() {
            if unwanted(&self.scheduler.decoding()[row]) {
                let (sequence, vacated) = self.scheduler.remove_decoding(row);
                sequence.fail(EngineError::DeadlineExceeded);
                self.close_hole(&vacated);
            }
        }
    }

    /// Gives a row to the next sequence and copies the longest known beginning of its prompt into it.
    fn admit(&mut self) {
        let row = self.scheduler.decoding().len();
        let Some(sequence) = self.scheduler.admit() else {
            return;
        };
        self.shared.metrics.admitted(sequence.mark_admitted());
        if !self.prefixes.is_enabled() {
            return;
        }
        for key in self.prefixes.find(sequence.prompt()) {
            let start = sequence.prefilled();
            self.backend.write_cache(row, start..start + self.chunk_tokens, self.prefixes.cache(key));
            sequence.add_copied(self.chunk_tokens);
            sequence.set_prefix(Some(key));
        }
        self.shared.metrics.prefix(sequence.prompt().len(), sequence.prefilled());
    }

    /// Feeds a piece of a prompt; when it is the last one, picks the first token.
    fn prefill(&mut self, chunk: Range<usize>) {
        let row = self.scheduler.decoding().len();
        let Some(sequence) = self.scheduler.prefilling() else {
            return;
        };
        let last = chunk.end == sequence.prompt().len();
        let batch = Batch {
            first_row: row,
            inputs: &[Input { past: chunk.start, tokens: &sequence.prompt()[chunk.clone()] }],
            wanted: if last { Wanted::Last } else { Wanted::Nothing },
        };
        let picked = match self.backend.forward(&batch) {
            Ok(logits) => {
                sequence.add_prefilled(chunk.len());
                if last { pick(sequence, logits, &mut self.scratch) } else { Ok(None) }
            }
            Err(error) => Err(EngineError::Run(error.to_string())),
        };
        if picked.is_ok() {
            for start in chunk.clone().step_by(self.chunk_tokens) {
                self.keep_prefix(row, start..chunk.end.min(start + self.chunk_tokens));
            }
        }
        match picked {
            Ok(None) if !last => {}
            Ok(None) => {
                self.tell_first_token();
                self.scheduler.promote();
            }
            outcome => {
                self.tell_first_token();
                if let Some((sequence, vacated)) = self.scheduler.remove_prefilling() {
                    settle(sequence, outcome, &self.shared.metrics);
                    self.close_hole(&vacated);
                }
            }
        }
    }

    /// Keeps the cache of a chunk that was just computed, if it is a whole one.
    fn keep_prefix(&mut self, row: usize, chunk: Range<usize>) {
        let Some(sequence) = self.scheduler.prefilling().filter(|_| chunk.len() == self.chunk_tokens) else {
            return;
        };
        // Behind a block that could not be kept nothing can be found.
        if chunk.start > 0 && sequence.prefix().is_none() {
            return;
        }
        let tokens = &sequence.prompt()[chunk.clone()];
        let backend = &self.backend;
        let kept =
            self.prefixes.keep(sequence.prefix(), tokens, |cache| backend.read_cache(row, chunk, cache));
        sequence.set_prefix(kept);
    }

    /// Feeds one token to each of the first `rows` rows and picks the next of each.
    fn decode(&mut self, rows: usize) {
        let sequences = &mut self.scheduler.decoding()[..rows];
        let inputs: Vec<Input<'_>> = sequences
            .iter()
            .map(|sequence| Input { past: sequence.cached(), tokens: sequence.next_input() })
            .collect();
        let batch = Batch { first_row: 0, inputs: &inputs, wanted: Wanted::Last };
        let mut outcomes: Vec<Result<Option<Finish>, EngineError>> = Vec::with_capacity(rows);
        match self.backend.forward(&batch) {
            Ok(logits) => {
                let width = logits.len() / rows;
                for (sequence, row) in sequences.iter_mut().zip(logits.chunks_exact(width)) {
                    outcomes.push(pick(sequence, row, &mut self.scratch));
                }
            }
            Err(error) => outcomes.resize(rows, Err(EngineError::Run(error.to_string()))),
        }
        // From the last row to the first, so that closing a hole moves only rows that are settled.
        for (row, outcome) in outcomes.into_iter().enumerate().rev() {
            if !matches!(outcome, Ok(None)) {
                let (sequence, vacated) = self.scheduler.remove_decoding(row);
                settle(sequence, outcome, &self.shared.metrics);
                self.close_hole(&vacated);
            }
        }
    }

    /// Feeds the only row its next token and what is drafted behind it, and picks tokens while they are those drafted.
    ///
    /// Each token is picked from the logits of its own position, as without a draft. What the cache holds of rejected
    /// tokens lies beyond [`Sequence::cached`] and is overwritten by the next run.
    fn decode_draft(&mut self) {
        let sequence = &mut self.scheduler.decoding()[0];
        sequence.draft(self.draft_tokens, &mut self.fed);
        let draft = &self.fed[1..];
        if draft.is_empty() {
            return self.decode(1);
        }
        let batch = Batch {
            first_row: 0,
            inputs: &[Input { past: sequence.cached(), tokens: &self.fed }],
            wanted: Wanted::All,
        };
        let mut accepted = 0;
        let outcome = match self.backend.forward(&batch) {
            Ok(logits) => loop {
                let width = logits.len() / self.fed.len();
                let outcome = pick(sequence, &logits[accepted * width..][..width], &mut self.scratch);
                let as_drafted = draft.get(accepted) == sequence.next_input().first();
                if !matches!(outcome, Ok(None)) || !as_drafted {
                    break outcome;
                }
                accepted += 1;
            },
            Err(error) => Err(EngineError::Run(error.to_string())),
        };
        sequence.judge_draft(draft.len(), accepted);
        self.shared.metrics.draft(draft.len(), accepted);
        if !matches!(outcome, Ok(None)) {
            let (sequence, vacated) = self.scheduler.remove_decoding(0);
            settle(sequence, outcome, &self.shared.metrics);
            self.close_hole(&vacated);
        }
    }

    fn close_hole(&mut self, vacated: &Vacated) {
        for step in &vacated.moves {
            self.backend.move_row(step.from, step.to, step.tokens);
        }
        self.backend.release_row(vacated.released, self.gives_back);
    }

    fn tell_first_token(&mut self) {
        if let Some(duration) = self.scheduler.prefilling().and_then(|sequence| sequence.prefill_duration()) {
            self.metrics().prefilled(duration);
        }
    }

    fn tell_load(&self) {
        let (running, waiting) = (self.scheduler.running(), self.scheduler.waiting());
        self.metrics().load(running, waiting, self.scheduler.reserved_tokens());
        self.metrics().prefix_bytes(self.prefixes.used_bytes());
    }

    fn metrics(&self) -> &ModelMetrics {
        &self.shared.metrics
    }
}

/// Samples the next token of a sequence from its logits row; `Some` when it ends with it.
fn pick(
    sequence: &mut Sequence,
    logits: &[f32],
    scratch: &mut Scratch,
) -> Result<Option<Finish>, EngineError> {
    let (sampler, allowed) = sequence.choice()?;
    let picked = match allowed {
        None => sampler.sample(logits, scratch),
        Some(allowed) => sampler.sample_allowed(logits, allowed, scratch),
    };
    let picked = picked.map_err(|error| match error {
        SampleError::NotFinite => EngineError::NotFinite,
        SampleError::NothingAllowed => EngineError::Run(error.to_string()),
    })?;
    sampler.accept(picked.token);
    let logprobs = sequence.logprobs().map(|top| Box::new(Logprobs::new(logits).of_pick(picked.token, top)));
    sequence.push(picked.token, logprobs)
}

/// Tells the owner of an ended sequence how it ended.
fn settle(sequence: Sequence, outcome: Result<Option<Finish>, EngineError>, metrics: &ModelMetrics) {
    match outcome {
        Ok(Some(reason)) => sequence.finish(reason),
        Ok(None) => {}
        Err(error @ EngineError::Mask(_)) => sequence.fail(error),
        Err(error) => {
            metrics.engine_failed(if matches!(error, EngineError::NotFinite) { "not_finite" } else { "run" });
            sequence.fail(error);
        }
    }
}
