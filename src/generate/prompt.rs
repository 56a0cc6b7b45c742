//! What a request wants continued, and its way to tokens.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{GenerateError, Input, Refused, TokenSpan};
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

/// Bytes of a prompt that are always looked at.
const ALWAYS_BYTES: usize = 256 << 10;
/// Bytes of a prompt for each token of the context: a token has four, and the longest, of white space, hardly more than these.
const BYTES_PER_TOKEN: usize = 128;

/// Bytes of long prompts that are tokenised at once by the whole process, whose memory is one for all models: for each of them
/// tokenising may take a hundred. One that is longer than this is tokenised alone.
const AT_ONCE_BYTES: u32 = 1 << 20;
/// Bytes of prompts that wait for no long ones. Of these there are no more than places and connections.
const SHORT_BYTES: usize = 16 << 10;
static AT_ONCE: Semaphore = Semaphore::const_new(AT_ONCE_BYTES as usize);

/// Waits until prompts of so many bytes may be tokenised; they may while the answer is kept.
async fn turn(bytes: usize) -> Result<Option<SemaphorePermit<'static>>, GenerateError> {
    if bytes <= SHORT_BYTES {
        return Ok(None);
    }
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(AT_ONCE_BYTES);
    AT_ONCE.acquire_many(bytes).await.map(Some).map_err(|_closed| GenerateError::Interrupted)
}

/// Refuses a prompt that is out of all proportion to the context, before anything is done with it.
pub(super) fn check_lengths(model: &LoadedModel, inputs: &[Input]) -> Result<(), Refused> {
    let check = |(index, input): (usize, &Input)| {
        check_length(model, input.prompt.bytes()).map_err(|error| Refused::at(index, error))
    };
    inputs.iter().enumerate().try_for_each(check)
}

fn check_length(model: &LoadedModel, bytes: usize) -> Result<(), GenerateError> {
    let context_tokens = model.engine.geometry().context_tokens;
    let most_bytes = ALWAYS_BYTES.max(context_tokens.saturating_mul(BYTES_PER_TOKEN));
    if bytes > most_bytes {
        Err(GenerateError::PromptTooLong { bytes, most_bytes, context_tokens })
    } else {
        Ok(())
    }
}

impl Prompt {
    /// Of all texts that it has or is made of.
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) | Self::TextEnd(text, _) => text.len(),
            Self::Tokens(_) => 0,
            Self::Chat(Messages { messages, tools, variables, add_generation_prompt: _ }) => {
                let values = messages.iter().chain(tools.iter().flatten()).chain(variables.values());
                values.map(texts_bytes).sum()
            }
            Self::Template(_, variables) => variables.values().map(texts_bytes).sum(),
        }
    }
}

fn texts_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(texts_bytes).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + texts_bytes(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// A prompt as the model sees it.
pub(super) struct Encoded {
    pub(super) tokens: Vec<TokenId>,
    /// What a template has made.
    pub(super) rendered: Option<String>,
}

/// The tokens of each prompt. Off the async threads: a long prompt takes milliseconds to seconds.
pub(super) async fn encode(model: &LoadedModel, prompts: Vec<Prompt>) -> Result<Vec<Encoded>, Refused> {
    let turn = turn(prompts.iter().map(Prompt::bytes).sum()).await?;
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
        // Also where nobody waits for the tokens any more.
        let _until_done = turn;
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
/// The text cannot be tokenised, or is out of all proportion to the context.
pub async fn tokenize(model: &LoadedModel, text: String) -> Result<Vec<TokenSpan>, GenerateError> {
    check_length(model, text.len())?;
    let tokenizer = Arc::clone(&model.tokenizer);
    let turn = turn(text.len()).await?;
    let spans = tokio::task::spawn_blocking(move || {
        let _until_done = turn;
        tokenizer.spans(&text)
    });
    Ok(spans.await.map_err(|_panicked| GenerateError::Interrupted)??)
}
