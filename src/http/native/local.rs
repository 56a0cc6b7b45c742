//! Requests of this process to itself, for `inference-gateway generate`: a body as it would come over HTTP, the same
//! checks, the same flow, the same answer, without a listener.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::{Answer, DEFAULT_MAX_TOKENS, NativeRequest, parse};
use crate::access::Caller;
use crate::generate::{self, Delta, Generations, MaxTokens, Messages, Prompt, Prompts};
use crate::http::error::ApiError;
use crate::http::parameters::Texts;
use crate::http::{json, sse};
use crate::model::Pinned;

/// Stands for a vocabulary while there is none: all that token ids can be.
const ANY_VOCABULARY: usize = 1 << 32;

/// How the text of a request reaches the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalPrompt {
    /// As it is.
    Text,
    /// As what a user says, by the model's chat template. It may answer until its context is full.
    Chat {
        /// What is said to the model before.
        system: Option<String>,
    },
}

/// A request whose values have been checked as far as that goes without a model.
#[derive(Debug)]
pub struct LocalRequest {
    body: String,
    prompt: LocalPrompt,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LocalError {
    /// The field of the native API that is at fault, if one is.
    pub field: Option<String>,
    /// For a person.
    pub message: String,
    /// Whether another request would be answered.
    pub is_the_requests_fault: bool,
}

/// A generation that runs. Dropping it ends it.
pub struct LocalAnswer {
    answer: Answer,
    generations: Generations,
    finish_reason: Option<&'static str>,
    /// Whether the prompt has been given, where it was asked for.
    begun: bool,
}

/// What there is to tell of a generation that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that were generated.
    pub tokens: usize,
    /// Why it ended, in the word of the native API.
    pub finish_reason: &'static str,
    /// Time to the first token.
    pub first_token: Duration,
    /// Time from the first token to the last.
    pub decode: Duration,
    /// What gives the same text again.
    pub seed: u64,
}

impl LocalRequest {
    /// Checks a body of the native API with one text.
    ///
    /// # Errors
    /// A field is unknown or has a value that is not acceptable.
    pub fn checked(body: String, prompt: LocalPrompt) -> Result<Self, LocalError> {
        let mut request: NativeRequest = json::parse(body.as_bytes())?;
        if request.template.take().is_some() {
            // Templates are the model's own, and so they are known with it: a text stands for what one makes.
            request.variables = None;
            request.text.get_or_insert_with(|| Texts::One("made by a template".to_owned()));
        }
        parse(request, (ANY_VOCABULARY, &Prompts::default()), Instant::now())?;
        Ok(Self { body, prompt })
    }

    /// Begins the generation.
    ///
    /// # Errors
    /// A value does not fit the model, or the model cannot answer.
    pub async fn start(&self, model: Pinned) -> Result<LocalAnswer, LocalError> {
        let started = Instant::now();
        let request: NativeRequest = json::parse(self.body.as_bytes())?;
        // A chat has the chat template, and no other beside it.
        let prompts = match &self.prompt {
            LocalPrompt::Text => model.prompts(),
            LocalPrompt::Chat { .. } => Arc::default(),
        };
        let about = (model.engine.geometry().vocabulary_size, &*prompts);
        let (mut inputs, answer) = parse(request, about, started)?;
        let timeout = model.live().request_timeout;
        for input in &mut inputs {
            input.timeout = Some(timeout);
            if let LocalPrompt::Chat { system } = &self.prompt
                && let Prompt::Text(text) = &input.prompt
            {
                input.prompt = Prompt::Chat(messages(system.as_deref(), text));
                if input.max_tokens == MaxTokens::UpTo(DEFAULT_MAX_TOKENS) {
                    input.max_tokens = MaxTokens::UpTo(usize::MAX);
                }
            }
        }
        let generations = generate::start(&Caller::anybody(), model, inputs)
            .await
            .map_err(|refused| answer.refused(refused))?;
        Ok(LocalAnswer { answer, generations, finish_reason: None, begun: false })
    }
}

fn messages(system: Option<&str>, text: &str) -> Messages {
    let system = system.map(|content| json!({"role": "system", "content": content}));
    let user = json!({"role": "user", "content": text});
    Messages {
        messages: system.into_iter().chain([user]).collect::<Vec<Value>>(),
        tools: None,
        variables: Map::new(),
        add_generation_prompt: true,
    }
}

impl LocalAnswer {
    /// The next piece of the text, the prompt first where it was asked for; `None` after the end.
    ///
    /// # Errors
    /// The generation failed; nothing comes after that.
    pub async fn next(&mut self) -> Option<Result<String, LocalError>> {
        if !std::mem::replace(&mut self.begun, true) {
            let prefix = Answer::prefix(&self.answer.texts[0], &self.generations.all()[0]);
            if !prefix.is_empty() {
                return Some(Ok(prefix.to_owned()));
            }
        }
        let (_, delta) = self.generations.next().await?;
        match delta {
            Ok(Delta::Text(text)) => Some(Ok(text)),
            Ok(Delta::End(reason)) => {
                self.finish_reason = Some(reason.label());
                None
            }
            Err(error) => Some(Err(ApiError::from(error).into())),
        }
    }

    /// Waits for the end, and gives the answer that the native API gives, as JSON on one line.
    ///
    /// # Errors
    /// The generation failed.
    pub async fn whole(&mut self) -> Result<String, LocalError> {
        let whole = self.answer.results(&mut self.generations).await?.remove(0);
        self.finish_reason = Some(whole.metadata.finish_reason);
        Ok(sse::data(&whole))
    }

    /// What there is to tell; `None` before the end.
    pub fn summary(&self) -> Option<Summary> {
        let finish_reason = self.finish_reason?;
        let generation = &self.generations.all()[0];
        Some(Summary {
            prompt_tokens: generation.prompt_tokens().len(),
            tokens: generation.token_ids().len(),
            finish_reason,
            first_token: generation.first_token_after().unwrap_or_default(),
            decode: generation.decode_time(),
            seed: self.answer.texts[0].seed,
        })
    }
}

impl From<ApiError> for LocalError {
    fn from(error: ApiError) -> Self {
        let is_the_requests_fault = error.status.is_client_error();
        Self { field: error.field, message: error.message, is_the_requests_fault }
    }
}
