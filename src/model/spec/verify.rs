//! How a model is tried before it serves.

use serde::{Deserialize, Serialize};

/// How a model is tried before it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VerifySpec {
    /// Where it is tried.
    pub isolation: Isolation,
    /// Seconds that trying may take.
    pub timeout_seconds: u32,
    /// Texts that it has to continue.
    pub probes: Vec<Probe>,
}

impl Default for VerifySpec {
    fn default() -> Self {
        Self { isolation: Isolation::Subprocess, timeout_seconds: 120, probes: Vec::new() }
    }
}

/// Where a model is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Isolation {
    /// In a process of its own.
    Subprocess,
    /// In the serving process.
    InProcess,
}

/// A text that a model has to continue, greedily.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// The text.
    pub prompt: String,
    /// Tokens to generate.
    #[serde(default = "sixteen")]
    pub max_tokens: u32,
    /// What the text has to contain.
    #[serde(default)]
    pub expect_contains: Option<String>,
    /// What the first tokens have to be.
    #[serde(default)]
    pub expect_tokens: Option<Vec<u32>>,
}

fn sixteen() -> u32 {
    16
}
