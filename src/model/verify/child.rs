//! The process that tries a model: binds itself, checks, loads, runs the probes, answers in one line.

use std::io::Read;
use std::time::Instant;

use super::super::Reason;
use super::super::budget::{HugePages, MemoryLimits};
use super::super::load::{self, LoadLimits, LoadRequest, Started};
use super::super::reason::chain;
use super::probes::{longest_tokens, probes_of, within};
use super::{ChildAnswer, ChildInput, VerifyError, VerifyReport, VerifyRequest, check_files};
use crate::engine::ort::library::Search;
use crate::engine::ort::{Runtime, RuntimeOptions};
use crate::failpoint;
use crate::memory::{self, ProcessBounds};
use crate::metrics::Metrics;

/// Longest input; prompts and template make up a hundred thousand bytes.
const MOST_INPUT_BYTES: u64 = 4 << 20;
/// Stacks of threads count as memory that may be written, and hardly any of it ever is: 128 MiB for the chat template,
/// 8 MiB for each thread.
const STACK_BYTES: u64 = 256 << 20;

/// Does what `input` asks for and returns the line to print. Never fails: a failure is an answer.
pub async fn run_child(input: impl Read) -> String {
    let answer = match attempt(input).await {
        Ok(report) => ChildAnswer::Verified(report),
        Err(error) => ChildAnswer::Failed { reason: error.reason(), message: chain(&error) },
    };
    // A report is numbers and texts, which JSON can hold.
    serde_json::to_string(&answer).unwrap_or_default()
}

async fn attempt(input: impl Read) -> Result<VerifyReport, VerifyError> {
    let began = Instant::now();
    let broken = |source| VerifyError::Process { attempt: "understand what is asked of", source };
    let mut text = String::new();
    input.take(MOST_INPUT_BYTES).read_to_string(&mut text).map_err(broken)?;
    let input: ChildInput = serde_json::from_str(&text).map_err(|error| broken(error.into()))?;
    let ChildInput { request, memory_bytes, timeout, library, threads, parent } = input;
    let bounds = ProcessBounds {
        memory_bytes: memory_bytes.saturating_add(STACK_BYTES),
        cpu_seconds: (timeout.as_secs() + 1).saturating_mul(threads as u64 + 1),
        parent,
    };
    memory::bind_process(&bounds)
        .map_err(|source| VerifyError::Process { attempt: "set the limits of", source })?;
    failpoint::at("in-verify-child");

    let files = check_files(&request)?;
    if files.memory_estimate_bytes > memory_bytes {
        let needed_bytes = files.memory_estimate_bytes;
        return Err(VerifyError::Memory { needed_bytes, available_bytes: memory_bytes });
    }
    let search = Search { explicit: Some(library), ..Search::default() };
    let runtime = Runtime::start(&search, &RuntimeOptions { threads, spinning: false })
        .map_err(load::LoadError::from)?;
    let started = Instant::now();
    let model = load_small(&runtime, &request, files.context_tokens)?;
    let load = started.elapsed();
    check_end_tokens(&model)?;
    let started = Instant::now();
    // Earlier than the parent loses its patience: probes without an end are another fault than a load without one.
    let left = timeout.mul_f64(0.9).saturating_sub(began.elapsed());
    within(left, &model, &request.verify).await?;
    let geometry = model.engine.geometry();
    Ok(VerifyReport {
        peak_bytes: memory::peak_bytes().unwrap_or_default(),
        load,
        probe: started.elapsed(),
        probes: probes_of(&request.verify).len(),
        vocabulary_size: geometry.vocabulary_size,
        tokenizer_size: model.tokenizer.vocabulary_size(),
        context_tokens: files.context_tokens,
        cache_bytes_per_token: geometry.cache_bytes_per_token,
        in_place: geometry.keeps_prefixes,
        end_tokens: model.end_tokens.clone(),
        has_template: files.template.is_some(),
    })
}

/// Loads the model as it will be served, but with caches for the probes alone.
fn load_small(
    runtime: &Runtime,
    request: &VerifyRequest,
    context_tokens: usize,
) -> Result<Started, VerifyError> {
    let VerifyRequest { name, graph, tokenizer, limits, chat_template, verify } = request.clone();
    let limits = LoadLimits {
        context_tokens: Some(context_tokens.min(longest_tokens(&verify))),
        rows: 1,
        huge_pages: HugePages::Never,
        memory: MemoryLimits { process_bytes: None, cache_bytes: None, prefix_bytes: Some(0) },
        ..limits
    };
    let load_request =
        LoadRequest { model: name, graph, tokenizer, chat_template, limits, promised_bytes: 0 };
    Ok(load::start(runtime, load::open(runtime, load_request)?, &Metrics::new())?)
}

/// A text can end only with a token that the model can pick.
fn check_end_tokens(model: &Started) -> Result<(), VerifyError> {
    let width = model.engine.geometry().vocabulary_size;
    match model.end_tokens.iter().find(|token| **token as usize >= width) {
        Some(token) => Err(VerifyError::TokenizerMismatch(format!(
            "token {token}, which ends a text, is beyond the graph's logits, which are {width} wide"
        ))),
        None => Ok(()),
    }
}

impl ChildAnswer {
    /// What the parent makes of it.
    pub(super) fn into_result(self) -> Result<VerifyReport, VerifyError> {
        match self {
            Self::Verified(report) => Ok(report),
            Self::Failed { reason: Reason::ProbeFailed, message } => Err(VerifyError::Probe(message)),
            Self::Failed { reason, message } => Err(VerifyError::Found { reason, message }),
        }
    }
}
