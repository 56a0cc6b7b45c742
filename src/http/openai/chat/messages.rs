//! The messages of a chat: checked here, so that a template sees texts where it expects them.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::error::ApiError;
use crate::http::openai::refusals::{Unsupported, refuse, unsupported};

/// A message as it comes; `null` means that a field is not there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    role: String,
    content: Option<Content>,
    name: Option<String>,
    refusal: Option<Unsupported>,
    tool_calls: Option<Unsupported>,
    tool_call_id: Option<Unsupported>,
    function_call: Option<Unsupported>,
    audio: Option<Unsupported>,
    annotations: Option<Unsupported>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a text or a list of parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

/// The messages as a template takes them.
pub(super) fn checked_messages(messages: Vec<Message>) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid_value("messages", "messages must not be empty"));
    }
    messages.into_iter().enumerate().map(|(index, message)| checked(index, message)).collect()
}

fn checked(index: usize, message: Message) -> Result<Value, ApiError> {
    let Message { role, content, name, refusal, tool_calls, tool_call_id, function_call, audio, annotations } =
        message;
    let field = |name: &str| format!("messages[{index}].{name}");
    refuse([
        (&field("refusal"), refusal),
        (&field("tool_calls"), tool_calls),
        (&field("tool_call_id"), tool_call_id),
        (&field("function_call"), function_call),
        (&field("audio"), audio),
        (&field("annotations"), annotations),
    ])?;
    let role = match role.as_str() {
        // The dialect's newer word, which templates do not know.
        "developer" => "system",
        "system" | "user" | "assistant" => &role,
        "tool" | "function" => {
            let message = format!("messages[{index}]: messages of the role {role} are not supported");
            return Err(unsupported(&field("role"), message));
        }
        _ => {
            let message = format!("{} must be system, developer, user or assistant", field("role"));
            return Err(ApiError::invalid_value(&field("role"), message));
        }
    };
    let content = checked_content(&field("content"), content)?;
    let mut checked = json!({"role": role, "content": content});
    if let Some(name) = name {
        checked["name"] = Value::String(name);
    }
    Ok(checked)
}

/// One text; the parts of several each begin a line.
fn checked_content(field: &str, content: Option<Content>) -> Result<String, ApiError> {
    let parts = match content {
        None => return Err(ApiError::invalid_value(field, format!("{field} must be a text"))),
        Some(Content::Text(text)) => return Ok(text),
        Some(Content::Parts(parts)) => parts,
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (index, Part { r#type, text }) in parts.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        match (r#type.as_str(), text) {
            ("text", Some(text)) => texts.push(text),
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
