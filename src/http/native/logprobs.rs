//! Log-probabilities as the native API tells them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::TokenId;
use crate::generate::{LikelyToken, PickedToken};

/// A generated token, and the most likely ones in its place.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NativeLogprobs)]
pub(super) struct LogprobsOfToken {
    #[serde(flatten)]
    token: TokenEntry,
    top_tokens: Vec<TokenEntry>,
}

/// A token and the natural logarithm of its probability, as the model sees it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NativeToken)]
struct TokenEntry {
    #[schema(value_type = u32)]
    id: TokenId,
    /// That of the token alone
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
