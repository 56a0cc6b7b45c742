//! The messages of a chat: checked here, so that a template sees texts where it expects them.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::generate::Abilities;
use crate::http::error::ApiError;
use crate::http::openai::described;
use crate::http::openai::refusals::{Accepted, Unsupported, accept, refuse, refuse_others, unsupported};

/// A message of a chat; `null` means that a field is not there.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChatMessage)]
pub(super) struct Message {
    #[schema(schema_with = described::role)]
    role: String,
    /// A text, or parts of which each begins a line
    #[schema(value_type = Option<Content>)]
    content: Option<Content>,
    /// Given to the chat template
    name: Option<String>,
    #[schema(ignore)]
    refusal: Option<Unsupported>,
    /// Calls of tools that an answer had
    tool_calls: Option<Vec<Call>>,
    /// The id of the call that a message of the role `tool` answers
    tool_call_id: Option<String>,
    #[schema(ignore)]
    function_call: Option<Unsupported>,
    #[schema(ignore)]
    audio: Option<Unsupported>,
    #[schema(ignore)]
    annotations: Option<Unsupported>,
}

/// A text, or a list of parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a text or a list of parts")]
#[schema(as = ChatContent)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatContentPart)]
struct Part {
    #[schema(schema_with = described::text_part)]
    r#type: String,
    #[schema(required, value_type = String)]
    text: Option<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Map<String, Value>,
}

/// A call of a tool that an answer had.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChatMessageCall)]
struct Call {
    id: String,
    /// `function`
    r#type: Option<String>,
    #[schema(required, nullable = false)]
    function: Option<CalledFunction>,
    #[schema(ignore)]
    custom: Option<Unsupported>,
    /// Of a call that was streamed: nothing comes of it
    #[schema(schema_with = described::accepted)]
    index: Option<Accepted>,
}

/// The function that was called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChatMessageFunction)]
struct CalledFunction {
    name: String,
    arguments: String,
}

/// The messages as a template with these abilities takes them.
pub(super) fn checked_messages(
    messages: Vec<Message>,
    abilities: &Abilities,
) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid_value("messages", "messages must not be empty"));
    }
    let mut checking = Checking { abilities, called: HashMap::new() };
    messages.into_iter().enumerate().map(|(index, message)| checking.checked(index, message)).collect()
}

struct Checking<'a> {
    abilities: &'a Abilities,
    /// Ids of calls so far, and the names of their functions.
    called: HashMap<String, String>,
}

impl Checking<'_> {
    fn checked(&mut self, index: usize, message: Message) -> Result<Value, ApiError> {
        let Message {
            role,
            content,
            name,
            refusal,
            tool_calls,
            tool_call_id,
            function_call,
            audio,
            annotations,
        } = message;
        let field = |name: &str| format!("messages[{index}].{name}");
        refuse([
            (&field("refusal"), refusal),
            (&field("function_call"), function_call),
            (&field("audio"), audio),
            (&field("annotations"), annotations),
        ])?;
        let role = match role.as_str() {
            // The dialect's newer word, which templates do not know.
            "developer" => "system",
            "system" | "user" | "assistant" | "tool" => &role,
            "function" => {
                let message = format!("messages[{index}]: messages of the role {role} are not supported");
                return Err(unsupported(&field("role"), message));
            }
            _ => {
                let message = format!("{} must be system, developer, user, assistant or tool", field("role"));
                return Err(ApiError::invalid_value(&field("role"), message));
            }
        };
        let only_of = |name: &str, role: &str| {
            let name = field(name);
            ApiError::invalid_value(&name, format!("{name} belongs to messages of the role {role}"))
        };
        let content_field = field("content");
        let mut checked = match (tool_calls.filter(|calls| !calls.is_empty()), tool_call_id) {
            (Some(calls), None) if role == "assistant" => {
                // Beside calls there may be nothing.
                let content =
                    content.map(|content| checked_content(&content_field, Some(content))).transpose()?;
                self.calling(&field("tool_calls"), &content.unwrap_or_default(), calls)?
            }
            (Some(_), _) => return Err(only_of("tool_calls", "assistant")),
            (None, Some(id)) if role == "tool" => {
                self.result(index, &id, &checked_content(&content_field, content)?)?
            }
            (None, Some(_)) => return Err(only_of("tool_call_id", "tool")),
            (None, None) if role == "tool" => {
                let field = field("tool_call_id");
                return Err(ApiError::invalid_value(
                    &field,
                    format!("{field} must name the call that this answers"),
                ));
            }
            (None, None) => json!({"role": role, "content": checked_content(&content_field, content)?}),
        };
        if let Some(name) = name {
            checked["name"] = Value::String(name);
        }
        Ok(checked)
    }

    /// An answer that had calls. A template that writes none gets them as the model wrote them: as JSON.
    fn calling(&mut self, field: &str, content: &str, calls: Vec<Call>) -> Result<Value, ApiError> {
        let (mut told, mut texts) = (Vec::with_capacity(calls.len()), Vec::new());
        if !content.is_empty() {
            texts.push(content.to_owned());
        }
        for (index, Call { id, r#type, function, custom, index: streamed }) in calls.into_iter().enumerate() {
            let field = format!("{field}[{index}]");
            refuse([(&format!("{field}.custom"), custom)])?;
            accept([streamed]);
            if r#type.is_some_and(|kind| kind != "function") {
                let field = format!("{field}.type");
                return Err(unsupported(
                    &field,
                    format!("{field}: only calls of the type function are supported"),
                ));
            }
            let missing =
                || ApiError::invalid_value(&format!("{field}.function"), format!("{field} has no function"));
            let CalledFunction { name, arguments } = function.ok_or_else(missing)?;
            let parsed: Value = serde_json::from_str(&arguments).map_err(|error| {
                let field = format!("{field}.function.arguments");
                ApiError::invalid_value(&field, format!("{field} must be a text that is JSON: {error}"))
            })?;
            texts.push(format!(r#"{{"name": {}, "arguments": {arguments}}}"#, Value::from(name.as_str())));
            told.push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": parsed}}));
            self.called.insert(id, name);
        }
        Ok(if self.abilities.writes {
            json!({"role": "assistant", "content": content, "tool_calls": told})
        } else {
            json!({"role": "assistant", "content": texts.join("\n")})
        })
    }

    /// What came of a call.
    fn result(&self, index: usize, id: &str, content: &str) -> Result<Value, ApiError> {
        if !self.abilities.results {
            let message =
                format!("messages[{index}]: the chat template of this model leaves out messages of tools");
            return Err(unsupported(&format!("messages[{index}].role"), message));
        }
        let Some(name) = self.called.get(id) else {
            let field = format!("messages[{index}].tool_call_id");
            return Err(ApiError::invalid_value(
                &field,
                format!("{field} {id:?} is the id of no call before it"),
            ));
        };
        Ok(json!({"role": "tool", "tool_call_id": id, "name": name, "content": content}))
    }
}

/// One text; the parts of several each begin a line.
fn checked_content(field: &str, content: Option<Content>) -> Result<String, ApiError> {
    let parts = match content {
        None => return Err(ApiError::invalid_value(field, format!("{field} must be a text"))),
        Some(Content::Text(text)) => return Ok(text),
        Some(Content::Parts(parts)) => parts,
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (index, Part { r#type, text, others }) in parts.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        match (r#type.as_str(), text) {
            ("text", Some(text)) => {
                refuse_others(&field, &others)?;
                texts.push(text);
            }
            ("text", None) => {
                return Err(ApiError::invalid_value(&field, format!("{field} has no text")));
            }
            (other, _) => {
                let message = format!("{field}: parts of the type {other:?} are not supported, only text");
                return Err(unsupported(&format!("{field}.type"), message));
            }
        }
    }
    Ok(texts.join("\n"))
}
