//! How a model is checked before it serves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most probes of a model.
const MOST_PROBES: usize = 8;
/// Longest prompt of a probe, in bytes.
const LONGEST_PROMPT_BYTES: usize = 4096;
/// Most tokens of a probe.
const MOST_TOKENS: u32 = 256;
/// Longest time for a check, in seconds.
const LONGEST_SECONDS: u32 = 3600;

/// How a model is checked before it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VerifySpec {
    /// Where the model is tried.
    pub isolation: Isolation,
    /// Time for loading and all probes, in seconds, in 1..=3600.
    pub timeout_seconds: u32,
    /// What the model must answer, at most 8; none: two short texts that are built in, without an expectation.
    pub probes: Vec<Probe>,
}

/// Where a model is tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Isolation {
    /// In a process of its own: if it crashes, hangs or takes all memory, what serves is not touched.
    #[default]
    Subprocess,
    /// In the serving process, where there is no memory for a second one.
    InProcess,
}

/// A prompt, continued greedily, and what must come of it; at most one expectation. Without one: finite numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// The prompt, 1..=4096 bytes, taken as it is: no chat template is applied.
    pub prompt: String,
    /// Tokens to generate, in 1..=256.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: u32,
    /// The text must contain this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_contains: Option<String>,
    /// The tokens must be these, without the one that ends the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_tokens: Option<Vec<u32>>,
}

/// Why a [`VerifySpec`] is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVerify {
    /// The time is out of range.
    #[error("verify.timeoutSeconds is {0}: give 1 to {LONGEST_SECONDS}")]
    Timeout(u32),
    /// Too many probes.
    #[error("verify.probes holds {0} probes: give at most {MOST_PROBES}")]
    Probes(usize),
    /// The prompt is empty or too long.
    #[error("the prompt of verify.probes[{index}] has {bytes} bytes: give 1 to {LONGEST_PROMPT_BYTES}")]
    Prompt {
        /// Which probe, from 0.
        index: usize,
        /// Its length.
        bytes: usize,
    },
    /// The number of tokens is out of range.
    #[error("verify.probes[{index}].maxTokens is {tokens}: give 1 to {MOST_TOKENS}")]
    Tokens {
        /// Which probe, from 0.
        index: usize,
        /// What was given.
        tokens: u32,
    },
    /// Two expectations contradict each other or say the same.
    #[error("verify.probes[{0}] has both expectContains and expectTokens: give one")]
    Expectations(usize),
    /// An expectation that cannot come true, or is always true.
    #[error("the expectation of verify.probes[{0}] is empty, or longer than maxTokens")]
    Expectation(usize),
}

impl Default for VerifySpec {
    fn default() -> Self {
        Self { isolation: Isolation::default(), timeout_seconds: 120, probes: Vec::new() }
    }
}

impl VerifySpec {
    /// Checks the ranges of every value.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn validate(&self) -> Result<(), InvalidVerify> {
        let Self { isolation: _, timeout_seconds, probes } = self;
        if !(1..=LONGEST_SECONDS).contains(timeout_seconds) {
            return Err(InvalidVerify::Timeout(*timeout_seconds));
        }
        if probes.len() > MOST_PROBES {
            return Err(InvalidVerify::Probes(probes.len()));
        }
        probes.iter().enumerate().try_for_each(|(index, probe)| probe.validate(index))
    }
}

impl Probe {
    fn validate(&self, index: usize) -> Result<(), InvalidVerify> {
        let Self { prompt, max_tokens, expect_contains, expect_tokens } = self;
        if !(1..=LONGEST_PROMPT_BYTES).contains(&prompt.len()) {
            return Err(InvalidVerify::Prompt { index, bytes: prompt.len() });
        }
        if !(1..=MOST_TOKENS).contains(max_tokens) {
            return Err(InvalidVerify::Tokens { index, tokens: *max_tokens });
        }
        match (expect_contains, expect_tokens) {
            (Some(_), Some(_)) => Err(InvalidVerify::Expectations(index)),
            (Some(text), None) if text.is_empty() => Err(InvalidVerify::Expectation(index)),
            (None, Some(tokens)) if tokens.is_empty() || tokens.len() > *max_tokens as usize => {
                Err(InvalidVerify::Expectation(index))
            }
            _ => Ok(()),
        }
    }
}

fn default_max_tokens() -> u32 {
    16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<VerifySpec, String> {
        let spec: VerifySpec = serde_json::from_str(text).map_err(|error| error.to_string())?;
        spec.validate().map_err(|error| error.to_string())?;
        Ok(spec)
    }

    #[test]
    fn nothing_given_is_a_child_with_two_minutes_and_no_probes() {
        let spec = parse("{}").unwrap();
        assert_eq!(
            (spec.isolation, spec.timeout_seconds, spec.probes.len()),
            (Isolation::Subprocess, 120, 0)
        );
        let spec = parse(r#"{"isolation": "InProcess", "probes": [{"prompt": "a"}]}"#).unwrap();
        assert_eq!((spec.isolation, spec.probes[0].max_tokens), (Isolation::InProcess, 16));
    }

    #[test]
    fn what_is_out_of_range_or_unknown_is_refused_by_name() {
        for (text, names) in [
            (r#"{"timeoutSeconds": 0}"#, "timeoutSeconds"),
            (r#"{"timeoutSeconds": 3601}"#, "timeoutSeconds"),
            (r#"{"timeout": 3}"#, "timeout"),
            (r#"{"probes": [{"prompt": ""}]}"#, "probes[0]"),
            (r#"{"probes": [{"prompt": "a", "maxTokens": 257}]}"#, "maxTokens"),
            (r#"{"probes": [{"prompt": "a", "expectContains": ""}]}"#, "expectation"),
            (r#"{"probes": [{"prompt": "a", "maxTokens": 1, "expectTokens": [1, 2]}]}"#, "expectation"),
            (r#"{"probes": [{"prompt": "a", "expectContains": "b", "expectTokens": [1]}]}"#, "give one"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(names), "{text}: {message}");
        }
        let many = format!(r#"{{"probes": [{}]}}"#, [r#"{"prompt": "a"}"#; 9].join(","));
        assert!(parse(&many).unwrap_err().contains("at most 8"));
    }
}
