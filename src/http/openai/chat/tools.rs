//! `tools` and `tool_choice`: what they ask of the template, of the format and of the reader of the answer.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::generate::{Abilities, CallFormat, CallSyntax, Format, Function};
use crate::http::error::ApiError;
use crate::http::openai::described;
use crate::http::openai::refusals::{Unsupported, refuse, refuse_others, unsupported};

/// Tools of a request.
const MOST_TOOLS: usize = 128;
/// Length of a name.
const LONGEST_NAME: usize = 64;
/// Calls of an answer.
const MOST_CALLS: usize = 128;

/// A function that the model may call.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChatTool)]
pub(super) struct Tool {
    #[schema(schema_with = described::function)]
    r#type: String,
    #[schema(required, nullable = false)]
    function: Option<ToolFunction>,
    #[schema(ignore)]
    custom: Option<Unsupported>,
}

/// A function: its name, what it is for, and its arguments.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChatToolFunction)]
struct ToolFunction {
    #[schema(min_length = 1, max_length = 64, pattern = "^[a-zA-Z0-9_-]+$")]
    name: String,
    description: Option<String>,
    /// A JSON schema of an object; without one there are no arguments
    #[schema(value_type = Option<Object>)]
    parameters: Option<Value>,
    /// Only where `tool_choice` forces a call, which is always strict
    strict: Option<bool>,
}

/// Whether there are calls: `none`, `auto`, `required`, or a function by its name.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatToolChoice)]
#[serde(untagged, expecting = "none, auto, required, or a function by its name")]
pub(super) enum ToolChoice {
    Word(String),
    Named(NamedTool),
}

/// A function that is to be called.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatNamedTool)]
pub(super) struct NamedTool {
    #[schema(schema_with = described::function)]
    r#type: String,
    #[schema(required, nullable = false)]
    function: Option<FunctionName>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Map<String, Value>,
}

/// The name of one of the tools.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChatFunctionName)]
struct FunctionName {
    name: String,
}

/// What comes of the tools of a request.
#[derive(Debug, Default)]
pub(super) struct CheckedTools {
    /// What the template is told.
    pub(super) declared: Option<Vec<Value>>,
    /// What the answer is held to, where a call is forced.
    pub(super) format: Option<Format>,
    /// The first tool that the format lets be called.
    pub(super) first: usize,
    /// How its calls are found.
    pub(super) reading: Option<Reading>,
}

/// How the calls of an answer are found.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) syntax: CallSyntax,
    pub(super) names: Vec<String>,
    pub(super) most_calls: usize,
}

/// Who decides whether there are calls.
enum Choice {
    Nobody,
    Model,
    /// There is at least one, of any function.
    Any,
    /// There is one, of this function.
    Only(usize),
}

/// Checks them against what the model's template can do.
pub(super) fn checked_tools(
    tools: Option<Vec<Tool>>,
    choice: Option<ToolChoice>,
    parallel: Option<bool>,
    abilities: &Abilities,
) -> Result<CheckedTools, ApiError> {
    let Some(tools) = tools else {
        return match (choice, parallel) {
            (None, None) => Ok(CheckedTools::default()),
            (Some(_), _) => Err(only_with_tools("tool_choice")),
            (None, Some(_)) => Err(only_with_tools("parallel_tool_calls")),
        };
    };
    let (declared, functions, is_strict) = checked_functions(tools)?;
    let choice = checked_choice(choice, &functions)?;
    let several = parallel.unwrap_or(true);
    let names: Vec<String> = functions.iter().map(|function| function.name.clone()).collect();
    let most_calls = if several { MOST_CALLS } else { 1 };
    let declared = abilities.declares.then_some(declared);
    let reading = |syntax| Reading { syntax, names, most_calls };
    let known = declared.as_ref().and(abilities.calls.clone());
    let (callable, several) = match choice {
        Choice::Nobody => return Ok(CheckedTools::default()),
        Choice::Model => {
            if let Some(index) = is_strict.iter().position(|strict| *strict) {
                let field = format!("tools[{index}].function.strict");
                let message = format!("{field} is supported only where tool_choice forces a call");
                return Err(unsupported(&field, message));
            }
            let reading = Some(reading(known.ok_or_else(cannot_choose)?));
            return Ok(CheckedTools { declared, format: None, first: 0, reading });
        }
        Choice::Any => (0..functions.len(), several),
        Choice::Only(index) => (index..index + 1, false),
    };
    let syntax = known.unwrap_or_else(CallSyntax::plain);
    let first = callable.start;
    let format = CallFormat { syntax: syntax.clone(), functions: functions[callable].to_vec(), several };
    let format = Some(Format::Calls(format));
    Ok(CheckedTools { declared, format, first, reading: Some(reading(syntax)) })
}

fn only_with_tools(field: &str) -> ApiError {
    ApiError::invalid_value(field, format!("{field} is allowed only with tools"))
}

fn cannot_choose() -> ApiError {
    let message = "the chat template of this model knows no tools, or calls that are no JSON, so the model cannot choose to \
        call one: force a call with tool_choice (`required`, or a function by its name)";
    unsupported("tools", message)
}

/// As the template takes them, as formats take them, and which of them are strict.
type Functions = (Vec<Value>, Vec<Function>, Vec<bool>);

fn checked_functions(tools: Vec<Tool>) -> Result<Functions, ApiError> {
    if tools.is_empty() || tools.len() > MOST_TOOLS {
        let message = format!("tools takes 1 to {MOST_TOOLS} tools, got {}", tools.len());
        return Err(ApiError::invalid_value("tools", message));
    }
    let mut names = HashSet::new();
    let (mut declared, mut functions, mut is_strict) = (Vec::new(), Vec::new(), Vec::new());
    for (index, Tool { r#type, function, custom }) in tools.into_iter().enumerate() {
        let field = |name: &str| format!("tools[{index}].{name}");
        refuse([(&field("custom"), custom)])?;
        if r#type != "function" {
            let message =
                format!("{}: tools of the type {type:?} are not supported, only function", field("type"));
            return Err(unsupported(&field("type"), message));
        }
        let function = function.ok_or_else(|| missing(&field("function")))?;
        let ToolFunction { name, description, parameters, strict } = function;
        check_name(&field("function.name"), &name)?;
        if !names.insert(name.clone()) {
            let field = field("function.name");
            return Err(ApiError::invalid_value(&field, format!("{field}: there are two functions {name}")));
        }
        let mut told = json!({"name": name});
        if let Some(description) = description {
            told["description"] = Value::String(description);
        }
        if let Some(parameters) = &parameters {
            told["parameters"] = parameters.clone();
        }
        declared.push(json!({"type": "function", "function": told}));
        let parameters = checked_parameters(&field("function.parameters"), parameters)?;
        functions.push(Function { name, parameters });
        is_strict.push(strict.unwrap_or(false));
    }
    Ok((declared, functions, is_strict))
}

fn missing(field: &str) -> ApiError {
    ApiError::invalid_value(field, format!("{field} is missing"))
}

fn check_name(field: &str, name: &str) -> Result<(), ApiError> {
    let is_word = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '-';
    if (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(is_word) {
        return Ok(());
    }
    let message = format!(
        "{field} must have 1 to {LONGEST_NAME} letters, digits, underscores and dashes, got {name:?}"
    );
    Err(ApiError::invalid_value(field, message))
}

/// A function without parameters takes none.
fn checked_parameters(field: &str, parameters: Option<Value>) -> Result<Value, ApiError> {
    let none = || json!({"type": "object", "properties": {}, "additionalProperties": false});
    let mut parameters = parameters.unwrap_or_else(none);
    let Some(schema) = parameters.as_object_mut() else {
        return Err(ApiError::invalid_value(field, format!("{field} must be a JSON schema: an object")));
    };
    if schema.is_empty() {
        return Ok(none());
    }
    match schema.get("type") {
        // Arguments are always an object, so a schema need not say it.
        None => drop(schema.insert("type".to_owned(), json!("object"))),
        Some(kind) if kind == "object" => {}
        Some(kind) => {
            let message = format!("{field}.type must be \"object\", got {kind}");
            return Err(ApiError::invalid_value(&format!("{field}.type"), message));
        }
    }
    Ok(parameters)
}

fn checked_choice(choice: Option<ToolChoice>, functions: &[Function]) -> Result<Choice, ApiError> {
    let NamedTool { r#type, function, others } = match choice {
        None => return Ok(Choice::Model),
        Some(ToolChoice::Named(named)) => named,
        Some(ToolChoice::Word(word)) => {
            return match word.as_str() {
                "none" => Ok(Choice::Nobody),
                "auto" => Ok(Choice::Model),
                "required" => Ok(Choice::Any),
                _ => Err(ApiError::invalid_value(
                    "tool_choice",
                    format!(
                        "tool_choice must be none, auto, required, or a function by its name, got {word:?}"
                    ),
                )),
            };
        }
    };
    if r#type != "function" {
        let message = format!("tool_choice.type {type:?} is not supported, only function");
        return Err(unsupported("tool_choice.type", message));
    }
    refuse_others("tool_choice", &others)?;
    let FunctionName { name } = function.ok_or_else(|| missing("tool_choice.function"))?;
    let index = functions.iter().position(|function| function.name == name);
    index.map(Choice::Only).ok_or_else(|| {
        let message = format!("tool_choice.function.name {name:?} is none of the tools");
        ApiError::invalid_value("tool_choice.function.name", message)
    })
}
