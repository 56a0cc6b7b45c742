//! Log-probabilities, which completions and chats tell in different shapes.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::generate::{LikelyToken, PickedToken};
use crate::http::parameters::schemas;
use crate::http::tokens::LEAST;

fn finite(logprob: f32) -> f32 {
    logprob.max(LEAST)
}

/// Natural logarithms of the probabilities of tokens, as the model sees them; each list has an entry for each token.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    /// Also the picked token, if it is none of the most likely ones. Of tokens with the same text (parts of characters) the
    /// most likely one.
    #[schema(value_type = Vec<std::collections::BTreeMap<String, f32>>)]
    top_logprobs: Vec<Map<String, Value>>,
    /// Where the token begins, in characters, as far as the texts of single tokens tell.
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Those of some tokens, the first of which begins at `offset`; moves it behind the last.
    pub(super) fn new(picked: Vec<PickedToken>, offset: &mut usize) -> Self {
        let mut logprobs = Self {
            tokens: Vec::with_capacity(picked.len()),
            token_logprobs: Vec::with_capacity(picked.len()),
            top_logprobs: Vec::with_capacity(picked.len()),
            text_offset: Vec::with_capacity(picked.len()),
        };
        for PickedToken { token, top } in picked {
            logprobs.text_offset.push(*offset);
            *offset += token.text.chars().count();
            logprobs.token_logprobs.push(finite(token.logprob));
            let mut alternatives = Map::new();
            for LikelyToken { id: _, text, logprob } in top.into_iter().chain([token.clone()]) {
                alternatives.entry(text).or_insert_with(|| number(logprob));
            }
            logprobs.top_logprobs.push(alternatives);
            logprobs.tokens.push(token.text);
        }
        logprobs
    }
}

/// With the digits of 32 bits.
fn number(logprob: f32) -> Value {
    let digits = finite(logprob).to_string();
    digits.parse().map_or(Value::Null, Value::Number)
}

/// Those of the tokens of a choice.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatLogprobs {
    content: Vec<TokenLogprobs>,
    #[schema(schema_with = schemas::nothing)]
    refusal: (),
}

/// A generated token, and the most likely ones in its place.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatTokenLogprobs)]
struct TokenLogprobs {
    #[serde(flatten)]
    token: TokenLogprob,
    top_logprobs: Vec<TokenLogprob>,
}

/// A token and the natural logarithm of its probability, as the model sees it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatTokenLogprob)]
struct TokenLogprob {
    token: String,
    logprob: f32,
    /// Those of the text; `null` where the token is a part of a character
    #[schema(required, value_type = Option<Vec<u16>>)]
    bytes: Option<Vec<u8>>,
}

impl ChatLogprobs {
    pub(super) fn new(picked: Vec<PickedToken>) -> Self {
        let content = picked.into_iter().map(|PickedToken { token, top }| TokenLogprobs {
            token: token.into(),
            top_logprobs: top.into_iter().map(TokenLogprob::from).collect(),
        });
        Self { content: content.collect(), refusal: () }
    }
}

impl From<LikelyToken> for TokenLogprob {
    fn from(token: LikelyToken) -> Self {
        let LikelyToken { id: _, text, logprob } = token;
        let bytes = (!text.contains(char::REPLACEMENT_CHARACTER)).then(|| text.clone().into_bytes());
        Self { token: text, logprob: finite(logprob), bytes }
    }
}
