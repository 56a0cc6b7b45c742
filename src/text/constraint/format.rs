//! What a request may ask an output to look like.

use llguidance::JsonCompileOptions;
use llguidance::api::TopLevelGrammar;
use serde_json::Value;

use super::schema;
use crate::text::tools::{CallFormat, CallSyntax};

/// Length of a schema, or of all choices together.
const MOST_BYTES: usize = 128 << 10;
/// Length of a grammar. The time that its patterns and the chains of its rules take grows with their square.
const MOST_GRAMMAR_BYTES: usize = 16 << 10;
/// Length of a pattern, alone or in a schema.
pub(super) const MOST_PATTERN_BYTES: usize = 4 << 10;
/// Choices of a request.
const MOST_CHOICES: usize = 4096;

/// White space that may stand between the tokens of JSON: a space, or a new line and its indentation. Without a bound a small
/// model may never stop writing spaces.
const WHITE_SPACE: &str = r"[ ]{1,2}|\n([ ]{0,24}|\t{0,8})";

/// What an output has to look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// JSON that holds to this schema; properties come in the schema's order.
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// A text that matches this regular expression from its beginning to its end, in the syntax of the crate `regex`,
    /// without look-around and word borders.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of this grammar, in Lark's notation as `llguidance` reads it.
    Lark(String),
    /// Calls of tools and nothing else.
    Calls(CallFormat),
}

/// Why a format is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FormatError {
    /// The part of the format that is at fault: `schema`, `pattern`, `choices`, `lark`, `tools`; `type` where it is the kind itself.
    pub part: &'static str,
    /// Which of the functions is at fault, counted from 0, where one is.
    pub function: Option<usize>,
    /// What is wrong, and where.
    pub message: String,
}

impl Format {
    /// The part that says how the output has to look.
    pub fn part(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "schema",
            Self::JsonObject => "type",
            Self::Regex(_) => "pattern",
            Self::Choice(_) => "choices",
            Self::Lark(_) => "lark",
            Self::Calls(_) => "tools",
        }
    }

    /// Whether what holds to it is JSON.
    pub fn is_json(&self) -> bool {
        match self {
            Self::JsonSchema(_) | Self::JsonObject => true,
            Self::Regex(_) | Self::Choice(_) | Self::Lark(_) | Self::Calls(_) => false,
        }
    }

    /// An error of this format.
    pub(super) fn error(&self, message: impl Into<String>) -> FormatError {
        FormatError { part: self.part(), function: None, message: message.into() }
    }

    /// Refuses what costs little to refuse.
    pub(super) fn check(&self) -> Result<(), FormatError> {
        let (bytes, most) = match self {
            Self::JsonSchema(schema) => (schema.to_string().len(), MOST_BYTES),
            Self::JsonObject => (0, MOST_BYTES),
            Self::Regex(pattern) => (pattern.len(), MOST_PATTERN_BYTES),
            Self::Lark(grammar) => (grammar.len(), MOST_GRAMMAR_BYTES),
            Self::Choice(choices) => (choices.iter().map(String::len).sum(), MOST_BYTES),
            Self::Calls(calls) => (calls.schema().to_string().len(), MOST_BYTES),
        };
        let part = self.part();
        if bytes > most {
            return Err(self.error(format!("{part} has {bytes} bytes, at most {most} are taken")));
        }
        match self {
            Self::JsonSchema(schema) => schema::check(schema).map_err(|message| self.error(message)),
            Self::Calls(calls) => calls.functions.iter().enumerate().try_for_each(|(index, function)| {
                let at_fault = |message| FormatError { function: Some(index), ..self.error(message) };
                schema::check(&function.parameters).map_err(at_fault)
            }),
            Self::Choice(choices) if choices.is_empty() || choices.len() > MOST_CHOICES => {
                Err(self.error(format!("{part} takes 1 to {MOST_CHOICES} texts, got {}", choices.len())))
            }
            Self::Choice(choices) => match choices.iter().position(String::is_empty) {
                Some(index) => Err(self.error(format!("choice {index} is empty"))),
                None => Ok(()),
            },
            Self::Regex(text) | Self::Lark(text) if text.is_empty() => {
                Err(self.error(format!("{part} must not be empty")))
            }
            Self::JsonObject | Self::Regex(_) | Self::Lark(_) => Ok(()),
        }
    }

    /// `special` tells the special token that a text begins with, if it begins with one.
    pub(super) fn grammar(&self, special: impl Fn(&str) -> Option<(u32, usize)>) -> TopLevelGrammar {
        match self {
            Self::JsonSchema(schema) => json_grammar(schema.clone()),
            Self::JsonObject => json_grammar(serde_json::json!({"type": "object"})),
            Self::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            Self::Choice(choices) => {
                let literals: Vec<String> = choices.iter().map(|choice| literal(choice)).collect();
                TopLevelGrammar::from_lark(format!("start: {}", literals.join(" | ")))
            }
            Self::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
            Self::Calls(calls) => TopLevelGrammar::from_lark(calls_grammar(calls, special)),
        }
    }
}

fn json_grammar(schema: Value) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(with_options(schema))
}

fn with_options(mut schema: Value) -> Value {
    if schema == Value::Bool(true) {
        schema = serde_json::json!({});
    }
    if schema.is_object() {
        // Replaces options of this name in the schema: they are ours to choose.
        let options = JsonCompileOptions {
            whitespace_pattern: Some(WHITE_SPACE.to_owned()),
            ..JsonCompileOptions::default()
        };
        options.apply_to(&mut schema);
    }
    schema
}

fn calls_grammar(calls: &CallFormat, special: impl Fn(&str) -> Option<(u32, usize)>) -> String {
    let CallSyntax { begin, between, end, .. } = &calls.syntax;
    let mark = |text: &str| mark(text, &special);
    let more = match between {
        Some(between) if calls.several => format!("({} call)*", mark(between)),
        _ => String::new(),
    };
    let start = format!("start: {} call {more} {}", mark(begin), mark(end));
    format!("{start}\ncall: %json {}", with_options(calls.schema()))
}

/// A text in Lark, in which special tokens are no text.
fn mark(text: &str, special: impl Fn(&str) -> Option<(u32, usize)>) -> String {
    let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
    let finish = |plain: &mut String, parts: &mut Vec<String>| {
        if !plain.is_empty() {
            parts.push(literal(&std::mem::take(plain)));
        }
    };
    while let Some(next) = rest.chars().next() {
        if let Some((token, length)) = special(rest) {
            finish(&mut plain, &mut parts);
            parts.push(format!("<[{token}]>"));
            rest = &rest[length..];
        } else {
            plain.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    finish(&mut plain, &mut parts);
    parts.join(" ")
}

/// A text as a literal of Lark, which is a JSON string without a line break.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// The library's own words, without what it adds for its developers.
pub(super) fn told(message: &str) -> String {
    if message.starts_with("panic") {
        tracing::error!(message, "a format made its library panic");
        return "it cannot be understood".to_owned();
    }
    let end =
        ["\n<state>", "\n<non-verbose/>", "\n<backtrace>"].iter().filter_map(|mark| message.find(mark)).min();
    message[..end.unwrap_or(message.len())].trim_end().to_owned()
}
