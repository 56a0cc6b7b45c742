//! Variables → prompt, by templates that the settings of a model give: applications send data, and not prompts.
//!
//! ```text
//! promptTemplate    one without a name: every text that comes alone is its variable `text`
//! promptTemplates   named ones: a request names one and gives its variables
//! ```
//!
//! Compiled when the settings are read, so one that is none never meets a request. Strict: a variable that is not given is an
//! error, and so is one that the template does not read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::template::{MOST_OVERRIDE_BYTES, Program, ProgramError, Strictness};

/// Named templates of a model.
pub const MOST_TEMPLATES: usize = 16;
/// Longest name of one, in bytes.
pub const LONGEST_NAME_BYTES: usize = 64;
/// The variable that holds the text of a request.
pub const TEXT: &str = "text";
/// What the template without a name is called in errors.
const UNNAMED: &str = "promptTemplate";

/// The prompt templates of a model. Two are equal when they were made of the same sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompts {
    unnamed: Option<Arc<PromptTemplate>>,
    named: BTreeMap<String, Arc<PromptTemplate>>,
}

/// A compiled template for prompts. Immutable and shared by all requests.
#[derive(Debug)]
pub struct PromptTemplate {
    name: String,
    source: String,
    program: Program,
    variables: BTreeSet<String>,
}

/// Why templates are none: which, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidPrompts {
    /// Whether it is the template without a name.
    pub unnamed: bool,
    /// What is wrong, with the name of the template.
    pub message: String,
}

/// Why a prompt could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// No template has this name.
    #[error("there is no template `{name}`; this model has {there}")]
    Unknown {
        /// As asked for.
        name: String,
        /// All names.
        there: String,
    },
    /// A variable would have no effect.
    #[error("the template `{template}` does not use `{variable}`; it takes {taken}")]
    Unused {
        /// The template.
        template: String,
        /// As given.
        variable: String,
        /// All variables.
        taken: String,
    },
    /// A variable is used that was not given.
    #[error("the template `{template}` needs what is not given: {what}")]
    Missing {
        /// The template.
        template: String,
        /// The expression, with its line.
        what: String,
    },
    /// The template refused the variables itself, with its words.
    #[error("the template `{template}` refuses the variables: {message}")]
    Refused {
        /// The template.
        template: String,
        /// Its words.
        message: String,
    },
    /// The template failed, did not end, or made too much.
    #[error("the template `{template}` {error}")]
    Failed {
        /// The template.
        template: String,
        /// Why.
        error: ProgramError,
    },
    /// The template made nothing.
    #[error("the template `{template}` makes an empty prompt of these variables")]
    Empty {
        /// The template.
        template: String,
    },
}

impl Prompts {
    /// Compiles the template without a name, and the named ones as pairs of name and source.
    ///
    /// # Errors
    /// The first that is none, or whose name is.
    pub fn compile<'a>(
        unnamed: Option<&str>,
        named: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, InvalidPrompts> {
        let mut prompts = Self::default();
        if let Some(source) = unnamed {
            let wrong = |message| InvalidPrompts { unnamed: true, message };
            prompts.unnamed = Some(Arc::new(PromptTemplate::for_text(source).map_err(wrong)?));
        }
        let wrong = |message| InvalidPrompts { unnamed: false, message };
        for (name, source) in named {
            check_name(name).map_err(wrong)?;
            if source.is_empty() {
                return Err(wrong(format!("`{name}` is empty")));
            }
            let template = PromptTemplate::compile(name, source);
            let template = template.map_err(|error| wrong(format!("`{name}` {error}")))?;
            if prompts.named.insert(name.to_owned(), Arc::new(template)).is_some() {
                return Err(wrong(format!("`{name}` is there twice")));
            }
            if prompts.named.len() > MOST_TEMPLATES {
                return Err(wrong(format!("at most {MOST_TEMPLATES} templates are possible")));
            }
        }
        Ok(prompts)
    }

    /// The template that every text goes through that comes without the name of one.
    pub fn unnamed(&self) -> Option<&Arc<PromptTemplate>> {
        self.unnamed.as_ref()
    }

    /// The template of a name.
    ///
    /// # Errors
    /// [`PromptError::Unknown`], with the names that there are.
    pub fn named(&self, name: &str) -> Result<&Arc<PromptTemplate>, PromptError> {
        self.named.get(name).ok_or_else(|| PromptError::Unknown {
            // What a client sends is not repeated at any length.
            name: name.chars().take(LONGEST_NAME_BYTES).collect(),
            there: listed(self.names(), "none"),
        })
    }

    /// The names of the named templates, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }
}

impl PromptTemplate {
    fn compile(name: &str, source: &str) -> Result<Self, ProgramError> {
        let program = Program::compile(name, source, MOST_OVERRIDE_BYTES, Strictness::Strict)?;
        let variables = program.variables();
        Ok(Self { name: name.to_owned(), source: source.to_owned(), program, variables })
    }

    /// The template for texts that come alone: they are all that it has.
    fn for_text(source: &str) -> Result<Self, String> {
        let template = Self::compile(UNNAMED, source).map_err(|error| error.to_string())?;
        if !template.variables.contains(TEXT) {
            return Err(format!(
                "does not use the variable `{TEXT}`, so every request would get the same prompt"
            ));
        }
        match template.variables.iter().find(|variable| *variable != TEXT) {
            None => Ok(template),
            Some(other) => Err(format!(
                "uses the variable `{other}`, and requests that name no template give `{TEXT}` alone: make it one of the \
                 named templates"
            )),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The variables that it reads, sorted.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(String::as_str)
    }

    /// Whether all variables that are given have a meaning.
    ///
    /// # Errors
    /// [`PromptError::Unused`], with those that the template takes.
    pub fn check(&self, variables: &Map<String, Value>) -> Result<(), PromptError> {
        match variables.keys().find(|variable| !self.variables.contains(*variable)) {
            None => Ok(()),
            Some(variable) => Err(PromptError::Unused {
                template: self.name.clone(),
                variable: variable.chars().take(LONGEST_NAME_BYTES).collect(),
                taken: listed(self.variables(), "none"),
            }),
        }
    }

    /// Renders the prompt. Blocking, for milliseconds: call it off the async threads.
    ///
    /// # Errors
    /// A variable is missing; the template refuses, fails, does not end, or makes nothing or too much.
    pub fn render(&self, variables: &Map<String, Value>) -> Result<String, PromptError> {
        let template = self.name.clone();
        match self.program.render(variables) {
            Ok(prompt) if prompt.is_empty() => Err(PromptError::Empty { template }),
            Ok(prompt) => Ok(prompt),
            Err(ProgramError::Undefined(what)) => Err(PromptError::Missing { template, what }),
            Err(ProgramError::Refused(message)) => Err(PromptError::Refused { template, message }),
            Err(error) => Err(PromptError::Failed { template, error }),
        }
    }
}

impl PartialEq for PromptTemplate {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.source) == (&other.name, &other.source)
    }
}

impl Eq for PromptTemplate {}

/// Letters, digits, and between them `.`, `_` and `-`.
fn check_name(name: &str) -> Result<(), String> {
    let inner = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-');
    let outer = |char: Option<char>| char.is_some_and(|char| char.is_ascii_alphanumeric());
    let is_name = name.chars().all(inner) && outer(name.chars().next()) && outer(name.chars().next_back());
    if is_name && name.len() <= LONGEST_NAME_BYTES {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no name of a template: it has 1 to {LONGEST_NAME_BYTES} letters, digits, `.`, `_` and `-`, and begins and \
         ends with a letter or digit"
    ))
}

fn listed<'a>(names: impl Iterator<Item = &'a str>, none: &str) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { none.to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests;
