//! How a model writes a call of a tool, found out from its chat template.

use serde_json::{Map, Value, json};

use crate::text::chat::{Chat, Messages};
use crate::text::tokenizer::Tokenizer;

/// Words that no template has.
const FUNCTION: [&str; 2] = ["probe_of_calls", "second_probe_of_calls"];
const ARGUMENT: &str = "probe_argument";
const VALUE: &str = "probe_value";
const CONTENT: &str = "probe of contents";

/// Longest mark around calls, in bytes; those in use have up to 40.
const LONGEST_MARK_BYTES: usize = 256;

/// What a chat template does with tools.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Abilities {
    /// Whether the prompt tells which tools there are.
    pub declares: bool,
    /// Whether the prompt has the calls of earlier answers.
    pub writes: bool,
    /// How calls are written, if the template says so in a way that is understood here.
    pub calls: Option<CallSyntax>,
    /// Whether the prompt has the messages of tools.
    pub results: bool,
}

/// How calls are written: `begin {"name": …, "arguments": …} between {…} end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSyntax {
    /// What stands before the first call; empty if nothing does.
    pub begin: String,
    /// What stands between two calls; `None` where a message has one at most.
    pub between: Option<String>,
    /// What stands after the last call; empty if nothing does.
    pub end: String,
    /// The key of the function's name.
    pub name: String,
    /// The key of its arguments.
    pub arguments: String,
}

impl CallSyntax {
    /// One call as plain JSON, for models whose template knows none.
    pub fn plain() -> Self {
        Self {
            begin: String::new(),
            between: None,
            end: String::new(),
            name: "name".to_owned(),
            arguments: "arguments".to_owned(),
        }
    }

    /// Whether special tokens are among its marks.
    pub fn has_special(&self, tokenizer: &Tokenizer) -> bool {
        let marks = [Some(&self.begin), self.between.as_ref(), Some(&self.end)];
        let special = |text: &String| {
            text.char_indices().any(|(at, _)| tokenizer.special_at_start(&text[at..]).is_some())
        };
        marks.into_iter().flatten().any(special)
    }
}

impl Abilities {
    /// Asks a template, by some renderings. What it refuses it does not know.
    pub fn of(chat: &Chat) -> Self {
        let user = json!({"role": "user", "content": "probe"});
        let render = |messages: Vec<Value>, tools: Option<Vec<Value>>, add_generation_prompt: bool| {
            chat.prompt(&Messages { messages, tools, variables: Map::new(), add_generation_prompt }).ok()
        };
        let declared = render(vec![user.clone()], Some(vec![tool(FUNCTION[0])]), true);
        let tools = || Some(FUNCTION.map(tool).to_vec());
        let calls_among = |count: usize, tools| {
            let assistant = json!({"role": "assistant", "content": "", "tool_calls": called(count)});
            render(vec![user.clone(), assistant], tools, false)
        };
        let calls = |count| calls_among(count, tools());
        let syntax = || {
            let answered = json!({"role": "assistant", "content": CONTENT});
            let answered = render(vec![user.clone(), answered], tools(), false)?;
            let prompt = render(vec![user.clone()], tools(), true)?;
            // What an answer begins and ends with, whatever it is.
            let (head, turn_end) = answered.strip_prefix(&prompt)?.split_once(CONTENT)?;
            let around = [&prompt, head, turn_end];
            let one = written(&calls(1)?, around)?;
            let two = calls(2).and_then(|two| written(&two, around));
            CallSyntax::between_words(&one, two.as_deref())
        };
        let result = || {
            let assistant = json!({"role": "assistant", "content": "", "tool_calls": called(1)});
            let result =
                json!({"role": "tool", "tool_call_id": "probe0000", "name": FUNCTION[0], "content": CONTENT});
            render(vec![user.clone(), assistant, result], tools(), true)
        };
        Self {
            declares: declared.is_some_and(|prompt| prompt.contains(FUNCTION[0])),
            writes: calls_among(1, None).is_some_and(|prompt| prompt.contains(FUNCTION[0])),
            calls: syntax(),
            results: result().is_some_and(|prompt| prompt.contains(CONTENT)),
        }
    }
}

fn tool(name: &str) -> Value {
    let parameters =
        json!({"type": "object", "properties": {ARGUMENT: {"type": "string", "description": "a probe"}}});
    json!({"type": "function", "function": {"name": name, "description": "a probe", "parameters": parameters}})
}

fn called(count: usize) -> Vec<Value> {
    let names = FUNCTION.iter().take(count).enumerate();
    let call = |(index, name): (usize, &&str)| {
        // Nine characters and no more, as one family of templates insists.
        json!({"id": format!("probe000{index}"), "type": "function",
            "function": {"name": name, "arguments": {ARGUMENT: VALUE}}})
    };
    names.map(call).collect()
}

/// What the model itself would have written: a conversation without its prompt and without what every turn has.
fn written(conversation: &str, [prompt, head, turn_end]: [&str; 3]) -> Option<String> {
    let text = conversation.strip_prefix(prompt)?;
    let text = text.strip_prefix(head).unwrap_or(text);
    Some(text.strip_suffix(turn_end).unwrap_or(text).to_owned())
}

impl CallSyntax {
    /// From the texts of a message with one call, and of one with two.
    fn between_words(one: &str, two: Option<&str>) -> Option<Self> {
        let (start, object, end) = object_with(one, FUNCTION[0])?;
        let object = object.as_object()?;
        let key =
            |wanted: &Value| object.iter().find(|(_, value)| *value == wanted).map(|(key, _)| key.clone());
        let syntax = Self {
            begin: one[..start].to_owned(),
            end: one[end..].to_owned(),
            between: two.and_then(|two| between(two, &one[..start])),
            name: key(&Value::from(FUNCTION[0]))?,
            arguments: key(&json!({ARGUMENT: VALUE}))?,
        };
        let marks = [&syntax.begin, &syntax.end, syntax.between.as_ref().unwrap_or(&syntax.end)];
        let told = marks.iter().all(|mark| mark.len() <= LONGEST_MARK_BYTES && !mark.contains(['{', '}']));
        told.then_some(syntax)
    }
}

fn between(two: &str, begin: &str) -> Option<String> {
    let (start, _, end) = object_with(two, FUNCTION[0])?;
    let (next, _, _) = object_with(&two[end..], FUNCTION[1])?;
    (two[..start] == *begin).then(|| two[end..end + next].to_owned())
}

/// The JSON object that has this name as a value: where it begins, what it is, where it ends.
fn object_with(text: &str, name: &str) -> Option<(usize, Value, usize)> {
    let at = text.find(name)?;
    let start = text[..at].rfind('{')?;
    let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
    let object = values.next()?.ok()?;
    Some((start, object, start + values.byte_offset()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::template::Template;

    fn abilities(source: &str) -> Abilities {
        let template = Template::compile(source).unwrap();
        Chat::new(template, None, Some("</s>".to_owned())).abilities().clone()
    }

    const DECLARED: &str = "{% if tools %}{{ tools | tojson }}{% endif %}";

    #[test]
    fn a_template_that_marks_each_call() {
        let source = DECLARED.to_owned()
            + "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\
               {% for c in m.tool_calls or [] %}{{ '\n' if m.content or not loop.first }}<tool_call>\n{\"name\": \"{{ c.function.name }}\", \
               \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}\
               {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
        let found = abilities(&source);
        let syntax = CallSyntax {
            begin: "<tool_call>\n".to_owned(),
            between: Some("\n</tool_call>\n<tool_call>\n".to_owned()),
            end: "\n</tool_call>".to_owned(),
            ..CallSyntax::plain()
        };
        assert_eq!(found, Abilities { declares: true, writes: true, calls: Some(syntax), results: true });
    }

    #[test]
    fn a_template_that_lists_calls() {
        let source = DECLARED.to_owned()
            + "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]\
               {% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}{\"name\": \"{{ c.function.name }}\", \"arguments\": \
               {{ c.function.arguments | tojson }}, \"id\": \"{{ c.id }}\"}{{ ', ' if not loop.last }}{% endfor %}]{{ eos_token }}\
               {% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";
        let syntax = CallSyntax {
            begin: "[TOOL_CALLS] [".to_owned(),
            between: Some(", ".to_owned()),
            end: "]".to_owned(),
            ..CallSyntax::plain()
        };
        assert_eq!(
            abilities(&source),
            Abilities { declares: true, writes: true, calls: Some(syntax), results: false }
        );
    }

    #[test]
    fn a_template_that_takes_one_bare_call_with_keys_of_its_own() {
        let source = DECLARED.to_owned()
            + "{% for m in messages %}<{{ m.role }}>{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}\
               {{ raise_exception('one call only') }}{% endif %}{% set f = m.tool_calls[0].function %}\
               {\"name\": \"{{ f.name }}\", \"parameters\": {{ f.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}<eot>\
               {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        let syntax = CallSyntax { arguments: "parameters".to_owned(), ..CallSyntax::plain() };
        assert_eq!(
            abilities(&source),
            Abilities { declares: true, writes: true, calls: Some(syntax), results: true }
        );
    }

    #[test]
    fn a_template_without_tools() {
        let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
            {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
        assert_eq!(abilities(source), Abilities { results: true, ..Abilities::default() });
        let two_roles = "{% for m in messages %}{% if m.role == 'user' %}U{{ m.content }}{% elif m.role == 'assistant' %}\
            A{{ m.content }}{% endif %}{% endfor %}";
        assert_eq!(abilities(two_roles), Abilities::default());
    }

    #[test]
    fn what_every_answer_begins_with_is_no_part_of_a_call() {
        let source = DECLARED.to_owned()
            + "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}\
               {% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}{% endfor %}<eot>{% endfor %}\
               {% if add_generation_prompt %}<assistant>{% endif %}";
        let calls = abilities(&source).calls.unwrap();
        assert_eq!(
            (calls.begin.as_str(), calls.between.as_deref(), calls.end.as_str()),
            ("<call>", Some("<call>"), "")
        );
    }

    #[test]
    fn calls_that_are_no_json_are_not_understood() {
        let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}<function={{ c.function.name }}>\
            {% for k, v in c.function.arguments | items %}<parameter={{ k }}>{{ v }}</parameter>{% endfor %}</function>{% endfor %}\
            {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(abilities(source), Abilities { writes: true, results: true, ..Abilities::default() });
    }
}
