//! Log-probabilities as the native API tells them.

use serde::Serialize;

use crate::engine::TokenId;
use crate::generate::{LikelyToken, PickedToken};

/// `{"id", "text", "logprob", "top_tokens": [{"id", "text", "logprob"}]}`
#[derive(Debug, Serialize)]
pub(super) struct LogprobsOfToken {
    #[serde(flatten)]
    token: TokenEntry,
    top_tokens: Vec<TokenEntry>,
}

#[derive(Debug, Serialize)]
struct TokenEntry {
    id: TokenId,
    text: String,
    logprob: f32,
}

impl From<PickedToken> for LogprobsOfToken {
    fn from(picked: PickedToken) -> Self {
        let PickedToken { token, top } = picked;
        Self { token: token.into(), top_tokens: top.into_iter().map(TokenEntry::from).collect() }
    }
}

impl From<LikelyToken> for TokenEntry {
    fn from(token: LikelyToken) -> Self {
        let LikelyToken { id, text, logprob } = token;
        Self { id, text, logprob }
    }
}
