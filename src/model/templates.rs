//! The templates that settings give a model: compiled when the settings are read, so that one that is none is refused there.

use std::sync::Arc;

use super::spec::{ModelSpec, NamedTemplate};
use crate::text::prompts::{InvalidPrompts, Prompts};
use crate::text::template::Template;

/// What settings give.
#[derive(Debug, Clone, Copy)]
pub struct TemplateSources<'a> {
    /// In place of the model's own chat template.
    pub chat: Option<&'a str>,
    /// For texts that come without the name of a template.
    pub prompt: Option<&'a str>,
    /// For requests that name them.
    pub prompts: &'a [NamedTemplate],
}

/// Templates that compile.
#[derive(Debug, Clone, Default)]
pub struct Templates {
    /// In place of the model's own chat template: a part of the revision.
    pub chat: Option<String>,
    /// For prompts: these change while a model serves.
    pub prompts: Arc<Prompts>,
}

/// Which of the sources does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateField {
    /// The chat template.
    Chat,
    /// The template without a name.
    Prompt,
    /// One of the named templates.
    Prompts,
}

/// A template that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidTemplate {
    /// Where it was given.
    pub field: TemplateField,
    /// What is wrong, with the line and the name of the template.
    pub message: String,
}

impl Templates {
    /// Compiles all of them.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn compile(sources: TemplateSources<'_>) -> Result<Self, InvalidTemplate> {
        let TemplateSources { chat, prompt, prompts } = sources;
        if let Some(source) = chat {
            Template::compile_override(source).map_err(|error| InvalidTemplate {
                field: TemplateField::Chat,
                message: error.to_string(),
            })?;
        }
        let named = prompts.iter().map(|one| (one.name.as_str(), one.template.as_str()));
        let prompts = Prompts::compile(prompt, named).map_err(|InvalidPrompts { unnamed, message }| {
            InvalidTemplate {
                field: if unnamed { TemplateField::Prompt } else { TemplateField::Prompts },
                message,
            }
        })?;
        Ok(Self { chat: chat.map(str::to_owned), prompts: Arc::new(prompts) })
    }

    /// Compiles those of a document.
    ///
    /// # Errors
    /// The field of the first that does not hold, and why.
    pub(super) fn of(spec: &ModelSpec) -> Result<Self, (&'static str, String)> {
        let sources = TemplateSources {
            chat: spec.runtime.chat_template.as_deref(),
            prompt: spec.prompt_template.as_deref(),
            prompts: &spec.prompt_templates,
        };
        Self::compile(sources).map_err(|InvalidTemplate { field, message }| match field {
            TemplateField::Chat => ("spec.runtime.chatTemplate", message),
            TemplateField::Prompt => ("spec.promptTemplate", message),
            TemplateField::Prompts => ("spec.promptTemplates", message),
        })
    }
}

/// Why the templates of a spec do not hold, if they do not: what no schema of a cluster can see.
pub fn template_fault(spec: &ModelSpec) -> Option<String> {
    Templates::of(spec).err().map(|(field, message)| format!("{field}: {message}"))
}
