//! Where the time of a model's generations goes, with exemplars.

use super::exemplars::Traced;
use super::family::Family;
use super::{Declare, FIRST_TOKEN_SECONDS, REQUEST_SECONDS, TOKEN_SECONDS};

/// The families.
pub(super) struct LatencyFamilies {
    generation_duration: Family<Traced>,
    time_to_first_token: Family<Traced>,
    time_per_output_token: Family<Traced>,
    queue_duration: Family<Traced>,
    prefill_duration: Family<Traced>,
    decode_duration: Family<Traced>,
}

/// Those of one model.
#[derive(Clone)]
pub(super) struct Latencies {
    pub(super) generation_duration: Traced,
    pub(super) time_to_first_token: Traced,
    pub(super) time_per_output_token: Traced,
    pub(super) queue_duration: Traced,
    pub(super) prefill_duration: Traced,
    pub(super) decode_duration: Traced,
}

impl LatencyFamilies {
    pub(super) fn new(on: &Declare) -> Self {
        Self {
            generation_duration: on.traced_by_model(
                "generation_duration_seconds",
                "Time from an accepted generation to its end, the wait in the queue included.",
                REQUEST_SECONDS,
            ),
            time_to_first_token: on.traced_by_model(
                "time_to_first_token_seconds",
                "Time from an accepted generation to its first token, the wait in the queue included.",
                FIRST_TOKEN_SECONDS,
            ),
            time_per_output_token: on.traced_by_model(
                "time_per_output_token_seconds",
                "Mean time of each output token after the first, one observation a generation.",
                TOKEN_SECONDS,
            ),
            queue_duration: on.traced_by_model(
                "queue_duration_seconds",
                "Time that generations waited for a row.",
                FIRST_TOKEN_SECONDS,
            ),
            prefill_duration: on.traced_by_model(
                "prefill_duration_seconds",
                "Time from the row to the first token.",
                FIRST_TOKEN_SECONDS,
            ),
            decode_duration: on.traced_by_model(
                "decode_duration_seconds",
                "Time from the first token of a generation to its last one, if there is more than one.",
                REQUEST_SECONDS,
            ),
        }
    }

    pub(super) fn of(&self, model: &str) -> Latencies {
        let Self {
            generation_duration,
            time_to_first_token,
            time_per_output_token,
            queue_duration,
            prefill_duration,
            decode_duration,
        } = self;
        let label = &[model];
        Latencies {
            generation_duration: generation_duration.with_label_values(label),
            time_to_first_token: time_to_first_token.with_label_values(label),
            time_per_output_token: time_per_output_token.with_label_values(label),
            queue_duration: queue_duration.with_label_values(label),
            prefill_duration: prefill_duration.with_label_values(label),
            decode_duration: decode_duration.with_label_values(label),
        }
    }
}
