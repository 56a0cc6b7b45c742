//! What a request wants continued, and its way to tokens.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{GenerateError, Refused, TokenSpan};
use crate::engine::TokenId;
use crate::model::LoadedModel;
use crate::text::chat::Messages;
use crate::text::prompts::PromptTemplate;

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
    /// Variables, for a template of the model's settings; the prompt is tokenised as a text.
    Template(Arc<PromptTemplate>, Map<String, Value>),
}

/// A prompt as the model sees it.
pub(super) struct Encoded {
    pub(super) tokens: Vec<TokenId>,
    /// What a template has made.
    pub(super) rendered: Option<String>,
}

/// The tokens of each prompt. Off the async threads: a long prompt takes milliseconds to seconds.
pub(super) async fn encode(model: &LoadedModel, prompts: Vec<Prompt>) -> Result<Vec<Encoded>, Refused> {
    let (tokenizer, chat) = (Arc::clone(&model.tokenizer), model.chat.clone());
    let encode = move |prompt| match prompt {
        Prompt::Text(text) => Ok(Encoded { tokens: tokenizer.encode(&text, true)?, rendered: None }),
        Prompt::TextEnd(text, most_tokens) => {
            let mut tokens = tokenizer.encode(&text, true)?;
            let tokens = tokens.split_off(tokens.len().saturating_sub(most_tokens));
            Ok(Encoded { tokens, rendered: None })
        }
        Prompt::Tokens(tokens) => Ok(Encoded { tokens, rendered: None }),
        Prompt::Chat(messages) => {
            let text = chat.clone()?.prompt(&messages)?;
            Ok(Encoded { tokens: tokenizer.encode(&text, false)?, rendered: None })
        }
        Prompt::Template(template, variables) => {
            let text = template.render(&variables)?;
            Ok(Encoded { tokens: tokenizer.encode(&text, true)?, rendered: Some(text) })
        }
    };
    let encoded = move || {
        let all = prompts.into_iter().enumerate();
        all.map(|(index, prompt)| match encode(prompt) {
            Ok(prompt) if prompt.tokens.is_empty() => Err(Refused::at(index, GenerateError::NoTokens)),
            Ok(prompt) => Ok(prompt),
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
