//! What a request of the native API wants continued: texts, or variables for a template of the model's settings.
//!
//! ```text
//! {"text": …}                                     the text, through the model's `promptTemplate` if it has one
//! {"template": NAME, "variables": {…}}            a prompt of a named template
//! {"template": NAME, "text": …, "variables": …}   the text is its variable `text`; a list of texts makes a prompt of each
//! ```

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::generate::{MOST_GENERATIONS, Prompt, PromptTemplate, Prompts, TEXT};
use crate::http::error::ApiError;
use crate::http::parameters::Texts;

/// The fields of a request that make its prompts.
pub(super) struct PromptFields {
    pub(super) text: Option<Texts>,
    pub(super) template: Option<String>,
    pub(super) variables: Option<Map<String, Value>>,
}

/// The prompts of a request, at least one.
pub(super) struct CheckedPrompts {
    /// Each with the text that was sent for it, empty where none was.
    pub(super) prompts: Vec<(Prompt, String)>,
    /// Whether the request has a list of texts.
    pub(super) is_list: bool,
    /// Whether a template makes them.
    pub(super) templated: bool,
    /// The field that is at fault where a prompt is.
    pub(super) field: &'static str,
}

impl PromptFields {
    /// Checks the fields against the templates of the model.
    pub(super) fn checked(self, templates: &Prompts) -> Result<CheckedPrompts, ApiError> {
        let Self { text, template, variables } = self;
        let is_list = matches!(text, Some(Texts::Many(_)));
        match template {
            None if variables.is_some() => {
                let message = "variables are for a template: name it in `template`";
                Err(ApiError::invalid_value("variables", message))
            }
            None => {
                let texts = checked_texts(text.ok_or_else(missing)?)?;
                let unnamed = templates.unnamed();
                let prompt = |text: String| match unnamed {
                    None => Prompt::Text(text),
                    Some(template) => filled(template, &text, Map::new()),
                };
                let prompts = texts.into_iter().map(|text| (prompt(text.clone()), text)).collect();
                Ok(CheckedPrompts { prompts, is_list, templated: unnamed.is_some(), field: TEXT })
            }
            Some(name) => {
                let template = templates.named(&name)?;
                let variables = variables.unwrap_or_default();
                let field = if text.is_some() { TEXT } else { "variables" };
                let prompts = named(template, &variables, text)?;
                Ok(CheckedPrompts { prompts, is_list, templated: true, field })
            }
        }
    }
}

/// The prompts of a named template: one, or one of each text.
fn named(
    template: &Arc<PromptTemplate>,
    variables: &Map<String, Value>,
    text: Option<Texts>,
) -> Result<Vec<(Prompt, String)>, ApiError> {
    template.check(variables)?;
    let Some(texts) = text else {
        return Ok(vec![(Prompt::Template(Arc::clone(template), variables.clone()), String::new())]);
    };
    if variables.contains_key(TEXT) {
        let message =
            "`text` is given twice: as a field, which is the variable `text`, and among the variables";
        return Err(ApiError::invalid_value("variables", message));
    }
    if !template.variables().any(|variable| variable == TEXT) {
        let message = format!("the template `{}` does not use `text`: leave it out", template.name());
        return Err(ApiError::invalid_value(TEXT, message));
    }
    let texts = checked_texts(texts)?;
    Ok(texts.into_iter().map(|text| (filled(template, &text, variables.clone()), text)).collect())
}

fn filled(template: &Arc<PromptTemplate>, text: &str, mut variables: Map<String, Value>) -> Prompt {
    variables.insert(TEXT.to_owned(), Value::from(text));
    Prompt::Template(Arc::clone(template), variables)
}

fn missing() -> ApiError {
    let message = "missing field `text`, or `template` with its `variables`";
    ApiError::new(axum::http::StatusCode::UNPROCESSABLE_ENTITY, "missing_field", message).at(TEXT)
}

fn checked_texts(text: Texts) -> Result<Vec<String>, ApiError> {
    let empty = |field: &str| ApiError::invalid_value(field, format!("{field} must not be empty"));
    match text {
        Texts::One(text) if text.is_empty() => Err(empty("text")),
        Texts::One(text) => Ok(vec![text]),
        Texts::Many(texts) if texts.is_empty() => Err(empty("text")),
        Texts::Many(texts) if texts.len() > MOST_GENERATIONS => Err(ApiError::invalid_value(
            "text",
            format!("text takes at most {MOST_GENERATIONS} texts, got {}", texts.len()),
        )),
        Texts::Many(texts) => match texts.iter().position(String::is_empty) {
            Some(index) => Err(empty(&format!("text[{index}]"))),
            None => Ok(texts),
        },
    }
}
