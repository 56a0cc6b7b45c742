//! The thread that owns an engine: take work, plan, run the model, sample, emit.

use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use super::backend::{Backend, Batch, Input};
use super::request::{EngineError, Finish};
use super::sampler::{SampleError, Scratch};
use super::scheduler::{Scheduler, Vacated};
use super::sequence::Sequence;
use crate::metrics::ModelMetrics;

/// What handles send to the worker.
pub(super) enum Message {
    /// A sequence to run.
    Run(Box<Sequence>),
    /// Fail everything and end.
    Stop,
}

/// State of the engine thread.
pub(super) struct Worker {
    backend: Box<dyn Backend>,
    scheduler: Scheduler,
    scratch: Scratch,
    mailbox: Receiver<Message>,
    metrics: ModelMetrics,
}

/// Whether the loop goes on.
#[derive(PartialEq)]
enum Mail {
    Work,
    End,
}

impl Worker {
    pub(super) fn new(
        backend: Box<dyn Backend>,
        chunk_tokens: usize,
        mailbox: Receiver<Message>,
        metrics: ModelMetrics,
    ) -> Self {
        let geometry = backend.geometry();
        let chunk_tokens = if geometry.chunks { chunk_tokens } else { geometry.context_tokens };
        Self {
            scheduler: Scheduler::new(geometry.rows, chunk_tokens),
            scratch: Scratch::default(),
            backend,
            mailbox,
            metrics,
        }
    }

    /// Runs until the last handle is gone and all work is done, or until told to stop.
    pub(super) fn run(mut self) {
        while self.take_mail() == Mail::Work {
            self.drop_cancelled();
            let plan = self.scheduler.plan();
            let started = Instant::now();
            if let Some(chunk) = plan.chunk {
                self.prefill(chunk);
            }
            if plan.decode > 0 {
                self.decode(plan.decode);
            }
            self.metrics.step(plan.decode, started.elapsed());
            self.metrics.load(self.scheduler.running(), self.scheduler.waiting());
        }
        for sequence in self.scheduler.drain() {
            sequence.fail(EngineError::ShuttingDown);
        }
        self.metrics.load(0, 0);
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
                Ok(Message::Stop) => return Mail::End,
                // All handles are gone: finish what streams still wait for.
                Err(TryRecvError::Disconnected) if self.scheduler.is_empty() => return Mail::End,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Mail::Work,
            }
        }
    }

    /// Frees the rows and places of requests that nobody reads any more.
    fn drop_cancelled(&mut self) {
        self.scheduler.drop_cancelled_waiting();
        if self.scheduler.prefilling().is_some_and(|s| s.is_cancelled())
            && let Some((_dropped, vacated)) = self.scheduler.remove_prefilling()
        {
            self.close_hole(&vacated);
        }
        for row in (0..self.scheduler.decoding().len()).rev() {
            if self.scheduler.decoding()[row].is_cancelled() {
                let (_dropped, vacated) = self.scheduler.remove_decoding(row);
                self.close_hole(&vacated);
            }
        }
    }

    /// Feeds a piece of a prompt; when it is the last one, picks the first token.
    fn prefill(&mut self, chunk: std::ops::Range<usize>) {
        let row = self.scheduler.decoding().len();
        let Some(sequence) = self.scheduler.prefilling() else {
            return;
        };
        let last = chunk.end == sequence.prompt().len();
        let batch = Batch {
            first_row: row,
            inputs: &[Input { past: chunk.start, tokens: &sequence.prompt()[chunk.clone()] }],
            logits: last,
        };
        let picked = match self.backend.forward(&batch) {
            Ok(_logits) if !last => {
                sequence.add_prefilled(chunk.len());
                return;
            }
            Ok(logits) => {
                sequence.add_prefilled(chunk.len());
                pick(sequence, logits, &mut self.scratch)
            }
            Err(error) => Err(EngineError::Run(error.to_string())),
        };
        match picked {
            Ok(None) => self.scheduler.promote(),
            outcome => {
                if let Some((sequence, vacated)) = self.scheduler.remove_prefilling() {
                    settle(sequence, outcome);
                    self.close_hole(&vacated);
                }
            }
        }
    }

    /// Feeds one token to each of the first `rows` rows and picks the next of each.
    fn decode(&mut self, rows: usize) {
        let sequences = &mut self.scheduler.decoding()[..rows];
        let inputs: Vec<Input<'_>> = sequences
            .iter()
            .map(|sequence| Input { past: sequence.cached(), tokens: sequence.next_input() })
            .collect();
        let batch = Batch { first_row: 0, inputs: &inputs, logits: true };
        let mut outcomes: Vec<Result<Option<Finish>, EngineError>> = Vec::with_capacity(rows);
        match self.backend.forward(&batch) {
            Ok(logits) => {
                let width = logits.len() / rows;
                for (sequence, row) in sequences.iter_mut().zip(logits.chunks_exact_mut(width)) {
                    outcomes.push(pick(sequence, row, &mut self.scratch));
                }
            }
            Err(error) => outcomes.resize(rows, Err(EngineError::Run(error.to_string()))),
        }
        // From the last row to the first, so that closing a hole moves only rows that are settled.
        for (row, outcome) in outcomes.into_iter().enumerate().rev() {
            if !matches!(outcome, Ok(None)) {
                let (sequence, vacated) = self.scheduler.remove_decoding(row);
                settle(sequence, outcome);
                self.close_hole(&vacated);
            }
        }
    }

    fn close_hole(&mut self, vacated: &Vacated) {
        for step in &vacated.moves {
            self.backend.move_row(step.from, step.to, step.tokens);
        }
        self.backend.release_row(vacated.released);
    }
}

/// Samples the next token of a sequence from its logits row; `Some` when it ends with it.
fn pick(
    sequence: &mut Sequence,
    logits: &mut [f32],
    scratch: &mut Scratch,
) -> Result<Option<Finish>, EngineError> {
    let token = sequence
        .sampler()
        .sample(logits, scratch)
        .map_err(|error: SampleError| EngineError::Run(error.to_string()))?
        .token;
    sequence.sampler().accept(token);
    Ok(sequence.push(token))
}

/// Tells the owner of an ended sequence how it ended.
fn settle(sequence: Sequence, outcome: Result<Option<Finish>, EngineError>) {
    match outcome {
        Ok(Some(reason)) => sequence.finish(reason),
        Ok(None) => {}
        Err(error) => {
            tracing::error!(%error, "generation failed");
            sequence.fail(error);
        }
    }
}
