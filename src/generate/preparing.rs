//! Clients that leave while their prompts are still being encoded: nothing has begun yet that would count its own end.

use std::time::{Duration, Instant};

use crate::metrics::{EndedGeneration, GenerationEnd, ModelMetrics};

/// Generations that are about to begin. Counts them as cancelled if it is dropped before [`Self::over`].
pub(super) struct Preparing {
    pub(super) metrics: ModelMetrics,
    pub(super) generations: usize,
    pub(super) accepted: Instant,
    /// The trace of their request, if that is sampled.
    pub(super) trace_id: Option<u128>,
}

impl Preparing {
    /// They have begun, or were refused.
    pub(super) fn over(mut self) {
        self.generations = 0;
    }
}

impl Drop for Preparing {
    fn drop(&mut self) {
        for _ in 0..self.generations {
            self.metrics.generation(EndedGeneration {
                end: GenerationEnd::Cancelled,
                tokens: 0,
                total: self.accepted.elapsed(),
                decode: Duration::ZERO,
                trace_id: self.trace_id,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn who_leaves_before_anything_has_begun_is_counted_and_nobody_else() {
        let metrics = Metrics::new();
        let cancelled = || -> f64 {
            let sample = "inference_gateway_generations_total{finish_reason=\"cancelled\",model=\"a\"}";
            metrics.sample(sample).unwrap_or_default()
        };
        let preparing = || Preparing {
            metrics: metrics.model("a"),
            generations: 3,
            accepted: Instant::now(),
            trace_id: None,
        };
        preparing().over();
        assert!(cancelled().abs() < f64::EPSILON);
        drop(preparing());
        assert!((cancelled() - 3.0).abs() < f64::EPSILON);
    }
}
