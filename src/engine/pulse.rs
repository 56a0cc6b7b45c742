//! The heartbeat of an engine: what its thread is doing, and since when. Written by the worker, read by the watchdog.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Shared by the worker and the handles of one engine.
#[derive(Debug)]
pub(super) struct Pulse {
    born: Instant,
    /// Milliseconds from `born` to the start of the running step, plus one; 0 between steps.
    step_began: AtomicU64,
    /// Rows that decode in the running step, and tokens of its chunk in the upper half.
    plan: AtomicU64,
}

/// A step that is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningStep {
    /// For how long.
    pub age: Duration,
    /// Rows that decode in it.
    pub rows: u32,
    /// Prompt tokens that are fed in it.
    pub chunk_tokens: u32,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { born: Instant::now(), step_began: AtomicU64::new(0), plan: AtomicU64::new(0) }
    }

    pub(super) fn begin(&self, rows: usize, chunk_tokens: usize) {
        self.plan.store(rows as u64 | (chunk_tokens as u64) << 32, Ordering::Relaxed);
        self.step_began.store(self.born.elapsed().as_millis() as u64 + 1, Ordering::Release);
    }

    pub(super) fn end(&self) {
        self.step_began.store(0, Ordering::Release);
    }

    /// The step that is running now.
    pub(super) fn running(&self) -> Option<RunningStep> {
        let began = self.step_began.load(Ordering::Acquire).checked_sub(1)?;
        let plan = self.plan.load(Ordering::Relaxed);
        Some(RunningStep {
            age: self.born.elapsed().saturating_sub(Duration::from_millis(began)),
            rows: plan as u32,
            chunk_tokens: (plan >> 32) as u32,
        })
    }
}
