//! What a request wants continued, and its way to tokens.

use std::sync::Arc;

use super::{GenerateError, Refused, TokenSpan};
use crate::engine::TokenId;
use crate::model::LoadedModel;
use crate::text::chat::Messages;

/// What is to be continued.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// A text, tokenised with the special tokens that the model's tokenizer adds.
    Text(String),
    /// The last so many tokens of a text that is tokenised in the same way, or all of them if there are fewer.
    TextEnd(String, usize),
    /// Tokens, taken as they are.
    Tokens(Vec<TokenId>),
    /// Messages, for the model's chat template.
    Chat(Messages),
}

/// The tokens of each prompt. Off the async threads: a long prompt takes milliseconds to seconds.
pub(super) async fn encode(model: &LoadedModel, prompts: Vec<Prompt>) -> Result<Vec<Vec<TokenId>>, Refused> {
    let (tokenizer, chat) = (Arc::clone(&model.tokenizer), model.chat.clone());
    let tokens = move |prompt| match prompt {
        Prompt::Text(text) => Ok(tokenizer.encode(&text, true)?),
        Prompt::TextEnd(text, most_tokens) => {
            let mut tokens = tokenizer.encode(&text, true)?;
            Ok(tokens.split_off(tokens.len().saturating_sub(most_tokens)))
        }
        Prompt::Tokens(tokens) => Ok(tokens),
        Prompt::Chat(messages) => {
            let text = chat.clone()?.prompt(&messages)?;
            Ok(tokenizer.encode(&text, false)?)
        }
    };
    let encoded = move || {
        let all = prompts.into_iter().enumerate();
        all.map(|(index, prompt)| match tokens(prompt) {
            Ok(tokens) if tokens.is_empty() => Err(Refused::at(index, GenerateError::NoTokens)),
            Ok(tokens) => Ok(tokens),
            Err(error) => Err(Refused::at(index, error)),
        })
        .collect()
    };
    tokio::task::spawn_blocking(encoded).await.map_err(|_panicked| GenerateError::Interrupted)?
}

/// The tokens of a text as a prompt has them, each with its place in the text. Off the async threads.
///
/// # Errors
/// The text cannot be tokenised.
pub async fn tokenize(model: &LoadedModel, text: String) -> Result<Vec<TokenSpan>, GenerateError> {
    let tokenizer = Arc::clone(&model.tokenizer);
    let spans = tokio::task::spawn_blocking(move || tokenizer.spans(&text));
    Ok(spans.await.map_err(|_panicked| GenerateError::Interrupted)??)
}
