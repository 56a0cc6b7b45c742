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

use serde::Serialize;

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
    pub messages: &'a [serde_json::Value],
    /// Tools that the model may call; undefined when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<&'a [serde_json::Value]>,
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
    pub variables: &'a serde_json::Map<String, serde_json::Value>,
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
        self.0.render(conversation).map_err(TemplateError)
    }
}

#[cfg(test)]
mod tests;
