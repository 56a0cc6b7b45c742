//! A chat → the prompt that the model was trained to answer: its template, with its own special tokens.

use serde_json::{Map, Value};

use super::template::{Conversation, Template, TemplateError};
use super::tools::Abilities;

/// Variables of a template that a request gives by fields of their own, or that are the model's.
pub const OWN_VARIABLES: [&str; 5] = ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token"];

/// The chat template of one model. Immutable and shared by all its requests.
#[derive(Debug)]
pub struct Chat {
    template: Template,
    bos_token: Option<String>,
    eos_token: Option<String>,
    abilities: Abilities,
}

/// What is to be answered.
#[derive(Debug, Clone)]
pub struct Messages {
    /// Objects with `role`, `content` and whatever else the template understands.
    pub messages: Vec<Value>,
    /// Tools that may be called, as the template is told of them; `None` where there are none.
    pub tools: Option<Vec<Value>>,
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
    /// With the tokens that begin and end a text, where the model has such. Blocking, for milliseconds: the template is
    /// asked what it does with tools.
    pub fn new(template: Template, bos_token: Option<String>, eos_token: Option<String>) -> Self {
        let mut chat = Self { template, bos_token, eos_token, abilities: Abilities::default() };
        chat.abilities = Abilities::of(&chat);
        chat
    }

    /// What the template does with tools.
    pub fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// Renders the prompt. It has its special tokens already: tokenise it without adding any. Blocking, for
    /// milliseconds: call it off the async threads.
    ///
    /// # Errors
    /// The template refuses the messages, fails, does not end, or makes too much.
    pub fn prompt(&self, chat: &Messages) -> Result<String, TemplateError> {
        let Messages { messages, tools, variables, add_generation_prompt } = chat;
        self.template.render(&Conversation {
            messages,
            tools: tools.as_deref(),
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
        let chat = Chat::new(Template::compile(source).unwrap(), Some("<s>".to_owned()), None);
        let mut messages = Messages {
            messages: vec![json!({"role": "user", "content": "Hi"})],
            tools: None,
            variables: Map::new(),
            add_generation_prompt: true,
        };
        assert_eq!(chat.prompt(&messages).unwrap(), "<s>HiFalseA");
        messages.variables.insert("thinking".to_owned(), json!(true));
        messages.add_generation_prompt = false;
        assert_eq!(chat.prompt(&messages).unwrap(), "<s>HiFalseT");
    }
}
