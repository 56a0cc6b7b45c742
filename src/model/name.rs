//! The name under which a model is served.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// 1 to 128 letters, digits, `.`, `_`, `-`, `:` and `/`, beginning and ending with a letter or digit.
///
/// Chosen by the operator; it stands in answers, metric labels and logs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName(String);

/// A text that is no model name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a model name has 1 to 128 letters, digits and `. _ - : /`, and begins and ends with a letter or digit; got {0:?}"
)]
pub struct InvalidModelName(String);

impl ModelName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ModelName {
    type Error = InvalidModelName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> Self {
        name.0
    }
}

impl FromStr for ModelName {
    type Err = InvalidModelName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/".contains(&byte);
        let bytes = text.as_bytes();
        let ends = bytes.first().is_some_and(plain) && bytes.last().is_some_and(plain);
        if ends && bytes.len() <= 128 && bytes.iter().copied().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidModelName(text.chars().take(128).collect()))
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["gpt2", "HuggingFaceTB/SmolLM2-135M", "a", "llama3.2:1b", "x_y"] {
            assert_eq!(good.parse::<ModelName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "a b", "ä", "a\n", "../x", &"x".repeat(129)] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad:?}");
        }
    }
}
