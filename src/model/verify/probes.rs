//! Probes: short greedy generations, and what must come of them.

use std::time::Duration;

use super::super::load::Started;
use super::super::spec::{Probe, VerifySpec};
use super::VerifyError;
use crate::engine::{EngineError, Event, Place, Request, Sampling, TokenId};

/// What a model continues when no probe is given.
const BUILT_IN: [&str; 2] = ["Hello, my name is", "Once upon a time"];
/// Tokens of each of them.
const BUILT_IN_TOKENS: u32 = 8;

/// The probes of a spec, or those that are built in.
pub(super) fn probes_of(verify: &VerifySpec) -> Vec<Probe> {
    if !verify.probes.is_empty() {
        return verify.probes.clone();
    }
    let built_in = |prompt: &&str| Probe {
        prompt: (*prompt).to_owned(),
        max_tokens: BUILT_IN_TOKENS,
        expect_contains: None,
        expect_tokens: None,
    };
    BUILT_IN.iter().map(built_in).collect()
}

/// Tokens that a sequence needs for the longest probe, at most: no tokenizer makes more tokens than bytes.
pub(super) fn longest_tokens(verify: &VerifySpec) -> usize {
    const SPECIAL_TOKENS: usize = 64;
    let longest = probes_of(verify).iter().map(|probe| probe.prompt.len() + probe.max_tokens as usize).max();
    longest.unwrap_or_default() + SPECIAL_TOKENS
}

/// Runs the probes on a loaded model, one after another, in the time of the spec.
///
/// # Errors
/// [`VerifyError::Probe`] for the first that failed; it names the probe, never its prompt.
pub(in crate::model) async fn in_process(model: &Started, verify: &VerifySpec) -> Result<(), VerifyError> {
    within(Duration::from_secs(verify.timeout_seconds.into()), model, verify).await
}

/// Runs the probes on a loaded model in at most `limit`.
pub(super) async fn within(limit: Duration, model: &Started, verify: &VerifySpec) -> Result<(), VerifyError> {
    tokio::time::timeout(limit, run(model, &probes_of(verify))).await.unwrap_or_else(|_elapsed| {
        Err(VerifyError::Probe(format!("the probes did not end within {} s", limit.as_secs_f32())))
    })
}

async fn run(model: &Started, probes: &[Probe]) -> Result<(), VerifyError> {
    let mut says_something = probes.is_empty();
    for (index, probe) in probes.iter().enumerate() {
        let fail = |message: String| VerifyError::Probe(format!("probe {index} failed: {message}"));
        let tokens = generate(model, probe).await.map_err(fail)?;
        check(model, probe, &tokens).map_err(fail)?;
        says_something |=
            !tokens.is_empty() || probe.expect_contains.is_some() || probe.expect_tokens.is_some();
    }
    if says_something {
        Ok(())
    } else {
        Err(VerifyError::Probe("the model ends every text at once, with no token before".to_owned()))
    }
}

/// The tokens of a probe's answer, without the one that ends it.
async fn generate(model: &Started, probe: &Probe) -> Result<Vec<TokenId>, String> {
    let prompt = model.tokenizer.encode(&probe.prompt, true).map_err(|error| error.to_string())?;
    if prompt.is_empty() {
        return Err("the tokenizer makes no tokens of its prompt".to_owned());
    }
    let request = Request {
        prompt,
        sampling: Sampling::greedy(),
        max_tokens: probe.max_tokens as usize,
        stop_tokens: model.end_tokens.clone(),
        logprobs: None,
        deadline: None,
    };
    let place = place(model).await?;
    let mut stream = model.engine.submit(place, request).map_err(|error| error.to_string())?;
    let mut tokens = Vec::new();
    loop {
        match stream.next().await.unwrap_or(Err(EngineError::Stopped)) {
            Ok(Event::Prefilled { .. }) => {}
            Ok(Event::Token { token, .. }) => tokens.push(token),
            Ok(Event::Finished(_)) => return Ok(tokens),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// A place in the engine. The probe before leaves its own a moment after its last event, so where there is but one it
/// may still be taken: the caller's time limit ends the wait.
async fn place(model: &Started) -> Result<Place, String> {
    const PAUSE: Duration = Duration::from_millis(1);
    loop {
        match model.engine.reserve() {
            Err(EngineError::Overloaded { .. }) => tokio::time::sleep(PAUSE).await,
            other => return other.map_err(|error| error.to_string()),
        }
    }
}

fn check(model: &Started, probe: &Probe, tokens: &[TokenId]) -> Result<(), String> {
    // Also without an expectation: the tokens have to be a text.
    let text = model.tokenizer.decode(tokens, true).map_err(|error| error.to_string())?;
    match (&probe.expect_contains, &probe.expect_tokens) {
        (Some(part), _) if !text.contains(part) => {
            Err(format!("the answer {text:?} does not contain {part:?}"))
        }
        (_, Some(expected)) if expected != tokens => {
            Err(format!("the answer has the tokens {tokens:?}, expected {expected:?}"))
        }
        _ => Ok(()),
    }
}
