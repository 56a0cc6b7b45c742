//! A chat → the prompt that the model was trained to answer: its template, with its own special tokens.

use serde_json::{Map, Value};

use super::template::{Conversation, Template, TemplateError};

/// Variables of a template that a request gives by fields of their own, or that are the model's.
pub const OWN_VARIABLES: [&str; 5] = ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token"];

/// The chat template of one model. Immutable and shared by all its requests.
#[derive(Debug)]
pub struct Chat {
    /// The template.
    pub template: Template,
    /// The token that begins a text, if the model has one.
    pub bos_token: Option<String>,
    /// The token that ends a text, if the model has one.
    pub eos_token: Option<String>,
}

/// What is to be answered.
#[derive(Debug, Clone)]
pub struct Messages {
    /// Objects with `role`, `content` and whatever else the template understands.
    pub messages: Vec<Value>,
    /// More variables for the template, none of [`OWN_VARIABLES`].
    pub variables: Map<String, Value>,
    /// Whether the prompt ends with the beginning of an answer.
    pub add_generation_prompt: bool,
}

/// Why a model takes no chats.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoChat {
    /// Its files have no template.
    #[error("its files have no chat template")]
    Missing,
    /// The template is none.
    #[error(transparent)]
    Broken(#[from] TemplateError),
}

impl Chat {
    /// Renders the prompt. It has its special tokens already: tokenise it without adding any. Blocking, for
    /// milliseconds: call it off the async threads.
    ///
    /// # Errors
    /// The template refuses the messages, fails, does not end, or makes too much.
    pub fn prompt(&self, chat: &Messages) -> Result<String, TemplateError> {
        let Messages { messages, variables, add_generation_prompt } = chat;
        self.template.render(&Conversation {
            messages,
            tools: None,
            bos_token: self.bos_token.as_deref(),
            eos_token: self.eos_token.as_deref(),
            add_generation_prompt: *add_generation_prompt,
            variables,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_sees_messages_special_tokens_and_the_variables_of_the_request() {
        let source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token is defined }}{% if thinking %}T{% endif %}\
            {% if add_generation_prompt %}A{% endif %}";
        let chat = Chat {
            template: Template::compile(source).unwrap(),
            bos_token: Some("<s>".to_owned()),
            eos_token: None,
        };
        let mut messages = Messages {
            messages: vec![json!({"role": "user", "content": "Hi"})],
            variables: Map::new(),
            add_generation_prompt: true,
        };
        assert_eq!(chat.prompt(&messages).unwrap(), "<s>HiFalseA");
        messages.variables.insert("thinking".to_owned(), json!(true));
        messages.add_generation_prompt = false;
        assert_eq!(chat.prompt(&messages).unwrap(), "<s>HiFalseT");
    }
}
