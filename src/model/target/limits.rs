//! What a model may take: the document, and where it leaves something open the gateway's settings.

use std::time::Duration;

use super::{LONGEST_SECONDS, LiveLimits, Wrong};
use crate::model::LoadLimits;
use crate::model::spec::{Bytes, LimitsSpec, RuntimeSpec};

/// The logits of all drafted tokens are kept at once, a vocabulary each.
const MOST_DRAFTED_TOKENS: u8 = 64;

pub(super) fn load_limits(spec: &RuntimeSpec, defaults: &LoadLimits) -> Result<LoadLimits, Wrong> {
    let RuntimeSpec {
        context_length,
        max_batch_size,
        prefill_chunk_tokens,
        speculative_tokens,
        memory: _,
        cache_memory,
        prefix_memory,
        chat_template: _,
    } = spec;
    let mut limits = *defaults;
    if let Some(tokens) = context_length {
        limits.context_tokens = Some(at_least_one("spec.runtime.contextLength", *tokens)?);
    }
    if let Some(rows) = max_batch_size {
        limits.rows = at_least_one("spec.runtime.maxBatchSize", *rows)?;
    }
    if let Some(tokens) = prefill_chunk_tokens {
        limits.chunk_tokens = at_least_one("spec.runtime.prefillChunkTokens", *tokens)?;
    }
    if let Some(tokens) = speculative_tokens {
        if *tokens > MOST_DRAFTED_TOKENS {
            let message = format!("is {tokens}, at most {MOST_DRAFTED_TOKENS} are possible");
            return Err(("spec.runtime.speculativeTokens", message));
        }
        limits.draft_tokens = usize::from(*tokens);
    }
    if let Some(Bytes(bytes)) = cache_memory {
        limits.memory.cache_bytes = Some(*bytes);
    }
    if let Some(Bytes(bytes)) = prefix_memory {
        limits.memory.prefix_bytes = Some(*bytes);
    }
    Ok(limits)
}

pub(super) fn live_limits(
    spec: &LimitsSpec,
    defaults: &LiveLimits,
    rows: usize,
) -> Result<LiveLimits, Wrong> {
    let LimitsSpec {
        max_concurrent,
        max_queue,
        max_output_tokens,
        request_timeout_seconds,
        unload_after_idle_seconds,
    } = spec;
    let seconds = |field, seconds: &Option<u32>| {
        seconds.map(|seconds| match seconds {
            1..=LONGEST_SECONDS => Ok(Duration::from_secs(seconds.into())),
            _ => Err((field, format!("is {seconds}, from 1 to {LONGEST_SECONDS} are possible"))),
        })
    };
    let concurrent =
        max_concurrent.map(|rows| at_least_one("spec.limits.maxConcurrent", rows)).transpose()?;
    if let Some(concurrent) = concurrent.filter(|concurrent| *concurrent > rows) {
        return Err((
            "spec.limits.maxConcurrent",
            format!(
                "is {concurrent}, and there are {rows} rows: raise spec.runtime.maxBatchSize, or lower it"
            ),
        ));
    }
    Ok(LiveLimits {
        concurrent: concurrent.unwrap_or(rows),
        queue: max_queue.map_or(defaults.queue, |queue| queue as usize),
        output_tokens: max_output_tokens
            .map(|tokens| at_least_one("spec.limits.maxOutputTokens", tokens))
            .transpose()?
            .or(defaults.output_tokens),
        request_timeout: seconds("spec.limits.requestTimeoutSeconds", request_timeout_seconds)
            .transpose()?
            .unwrap_or(defaults.request_timeout),
        unload_after_idle: seconds("spec.limits.unloadAfterIdleSeconds", unload_after_idle_seconds)
            .transpose()?
            .or(defaults.unload_after_idle),
    })
}

fn at_least_one(field: &'static str, number: u32) -> Result<usize, Wrong> {
    if number == 0 { Err((field, "is 0, at least 1 is needed".to_owned())) } else { Ok(number as usize) }
}
