//! Messages → prompt, by the chat template (Jinja) that came with the model, or that its settings give.
//!
//! A template is a program of a stranger: `template/program.rs` runs it within bounds. What Hugging Face's `transformers`
//! gives to templates is here too: lenient undefined values, `raise_exception`, `strftime_now`, methods of Python's strings,
//! JSON as Python writes it, and `{% generation %}`, which marks a part and changes nothing.
//!
//! From: `apply_chat_template` of `transformers`.

mod clock;
mod program;
mod python;

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

pub use self::program::{MOST_OVERRIDE_BYTES, ProgramError};
pub(super) use self::program::{Program, Strictness};

/// Longest template of a model's own files, in bytes; those in use have up to 30 thousand.
pub const MOST_BYTES: usize = 1 << 20;
const NAME: &str = "chat_template";

/// A compiled chat template. Immutable and shared by all requests of its model.
#[derive(Debug)]
pub struct Template(Program);

/// What a template is given, under the names that templates use.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Conversation<'a> {
    /// Objects with `role`, `content` and whatever else the template understands.
    pub messages: &'a [Value],
    /// Tools that the model may call; `none` when there are none.
    pub tools: Option<&'a [Value]>,
    /// The token that begins a text; undefined when the model has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<&'a str>,
    /// The token that ends a text; undefined when the model has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token: Option<&'a str>,
    /// Whether the beginning of an answer follows.
    pub add_generation_prompt: bool,
    /// More variables, under other names than the ones above.
    #[serde(flatten)]
    pub variables: &'a serde_json::Map<String, Value>,
}

/// What a template sees: also documents, which are `none` unless the variables have them.
#[derive(Serialize)]
struct Context<'a> {
    documents: Option<()>,
    #[serde(flatten)]
    conversation: Conversation<'a>,
}

/// Fields under which a model's reasoning comes, the one that templates read first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Messages without the fields that are `null`, which templates take for values, and with the reasoning under both names that
/// templates know.
fn as_transformers_gives_them(messages: &[Value]) -> Cow<'_, [Value]> {
    let is_plain = |message: &Value| {
        message.as_object().is_none_or(|fields| {
            fields.iter().all(|(name, value)| !value.is_null() && !REASONING.contains(&name.as_str()))
        })
    };
    if messages.iter().all(is_plain) {
        return Cow::Borrowed(messages);
    }
    let mut messages = messages.to_vec();
    for fields in messages.iter_mut().filter_map(Value::as_object_mut) {
        fields.retain(|_, value| !value.is_null());
        if let Some(reasoning) = REASONING.iter().find_map(|name| fields.get(*name)).cloned() {
            fields.entry("thinking").or_insert_with(|| reasoning.clone());
            fields.insert(REASONING[0].to_owned(), reasoning);
        }
    }
    Cow::Owned(messages)
}

/// Why a chat template is none, or did not render.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the chat template {0}")]
pub struct TemplateError(pub ProgramError);

impl Template {
    /// Compiles a template of a model's files.
    ///
    /// # Errors
    /// [`ProgramError::TooLarge`] and [`ProgramError::Syntax`].
    pub fn compile(source: &str) -> Result<Self, TemplateError> {
        Self::compile_within(source, MOST_BYTES)
    }

    /// Compiles a template that settings give in place of the model's own.
    ///
    /// # Errors
    /// [`ProgramError::TooLarge`] and [`ProgramError::Syntax`].
    pub fn compile_override(source: &str) -> Result<Self, TemplateError> {
        Self::compile_within(source, MOST_OVERRIDE_BYTES)
    }

    fn compile_within(source: &str, limit: usize) -> Result<Self, TemplateError> {
        Program::compile(NAME, source, limit, Strictness::Lenient).map(Self).map_err(TemplateError)
    }

    /// Renders the prompt of a conversation. Blocking, for milliseconds: call it off the async threads.
    ///
    /// # Errors
    /// The template refuses the conversation, fails, does not end, or makes too much.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, TemplateError> {
        let Conversation { messages, tools, bos_token, eos_token, add_generation_prompt, variables } =
            *conversation;
        let messages = as_transformers_gives_them(messages);
        let conversation = Conversation {
            messages: &messages,
            tools,
            bos_token,
            eos_token,
            add_generation_prompt,
            variables,
        };
        self.0.render(&Context { conversation, documents: None }).map_err(TemplateError)
    }

    /// The same, where the time stands still.
    #[cfg(test)]
    fn compile_at(source: &str, seconds: i64) -> Result<Self, TemplateError> {
        let how = (Strictness::Lenient, clock::Clock::Still(seconds));
        Program::compile_with(NAME, source, MOST_BYTES, how).map(Self).map_err(TemplateError)
    }
}

#[cfg(test)]
mod comparison;
#[cfg(test)]
mod tests;
