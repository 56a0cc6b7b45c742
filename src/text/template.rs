//! Messages → prompt, by the chat template (Jinja) that came with the model.
//!
//! A template is a program of a stranger. It is run with fuel, which pays for every instruction and every byte it makes,
//! on a stack of its own that the fuel cannot overflow; it reads no file and no clock but the day's. What Hugging Face's
//! `transformers` gives to templates is here too: lenient undefined values, `raise_exception`, `strftime_now`, methods of
//! Python's strings, JSON as Python writes it, and `{% generation %}`, which marks a part and changes nothing.
//!
//! From: `apply_chat_template` of `transformers`.

mod clock;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde::Serialize;

/// Longest template of a model's own files, in bytes; those in use have up to 30 thousand.
pub const MOST_BYTES: usize = 1 << 20;
/// Longest template that settings may give, in bytes.
pub const MOST_OVERRIDE_BYTES: usize = 16 << 10;

/// Instructions of one rendering, or 64 bytes each: a conversation of a thousand messages takes a quarter.
const FUEL: u64 = 200_000;
/// Longest prompt, in bytes: far more than any context.
const MOST_OUTPUT_BYTES: usize = 16 << 20;
/// Macros that call each other.
const DEEPEST_CALL: usize = 50;
/// What the fuel can nest (a list in a list in a list…) is freed level by level: this holds it.
pub(crate) const STACK_BYTES: usize = 128 << 20;
const NAME: &str = "chat_template";

/// A compiled chat template. Immutable and shared by all requests of its model.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
}

/// What a template is given, under the names that templates use.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Conversation<'a> {
    /// Objects with `role`, `content` and whatever else the template understands.
    pub messages: &'a [serde_json::Value],
    /// Tools that the model may call; undefined when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<&'a [serde_json::Value]>,
    /// The token that begins a text; undefined when the model has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<&'a str>,
    /// The token that ends a text; undefined when the model has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token: Option<&'a str>,
    /// Whether the beginning of an answer follows.
    pub add_generation_prompt: bool,
    /// More variables, under other names than the ones above.
    #[serde(flatten)]
    pub variables: &'a serde_json::Map<String, serde_json::Value>,
}

/// Why a template is none, or did not render.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The source is too long.
    #[error("the chat template has {bytes} bytes, at most {limit} are taken")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The source is no template.
    #[error("the chat template does not compile: {0}")]
    Syntax(String),
    /// The template refused the conversation itself (`raise_exception`), with its words.
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    /// The template loops, or makes too much of what it is given.
    #[error("the chat template does not come to an end: it was stopped after {FUEL} steps")]
    Endless,
    /// The prompt is too long.
    #[error("the chat template makes a prompt of {0} bytes, at most {MOST_OUTPUT_BYTES} are taken")]
    TooLong(usize),
    /// The template does something that cannot be done.
    #[error("the chat template failed: {0}")]
    Failed(String),
}

/// What `raise_exception` raised; told from other failures by its type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl Template {
    /// Compiles a template of a model's files.
    ///
    /// # Errors
    /// [`TemplateError::TooLarge`] and [`TemplateError::Syntax`].
    pub fn compile(source: &str) -> Result<Self, TemplateError> {
        Self::compile_within(source, MOST_BYTES)
    }

    /// Compiles a template that settings give in place of the model's own.
    ///
    /// # Errors
    /// [`TemplateError::TooLarge`] and [`TemplateError::Syntax`].
    pub fn compile_override(source: &str) -> Result<Self, TemplateError> {
        Self::compile_within(source, MOST_OVERRIDE_BYTES)
    }

    fn compile_within(source: &str, limit: usize) -> Result<Self, TemplateError> {
        if source.len() > limit {
            return Err(TemplateError::TooLarge { bytes: source.len(), limit });
        }
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| TemplateError::Syntax(error.to_string()))?;
        let mut environment = Environment::new();
        environment.set_syntax(syntax);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_name| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_recursion_limit(DEEPEST_CALL);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: &str| clock::now(format));
        environment.add_filter("tojson", tojson);
        let source = without_generation_marks(source).into_owned();
        on_own_stack(move || environment.add_template_owned(NAME, source).map(|()| environment))?
            .map(|environment| Self { environment })
            .map_err(|error| TemplateError::Syntax(error.to_string()))
    }

    /// Renders the prompt of a conversation. Blocking, for milliseconds: call it off the async threads.
    ///
    /// # Errors
    /// The template refuses the conversation, fails, does not end, or makes too much.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, TemplateError> {
        let context = Value::from(minijinja::value::Serde(*conversation));
        // An error may hold values of the template: it does not leave the stack that can free them.
        let prompt = on_own_stack(|| {
            let template = self.environment.get_template(NAME).map_err(|error| failure(&error))?;
            template.render(context).map_err(|error| failure(&error))
        })??;
        if prompt.len() > MOST_OUTPUT_BYTES {
            return Err(TemplateError::TooLong(prompt.len()));
        }
        Ok(prompt)
    }
}

/// Runs foreign logic where deep nesting has room, and a panic is an error.
fn on_own_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, TemplateError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("template".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || catch_unwind(AssertUnwindSafe(work)))
            .map_err(|error| TemplateError::Failed(error.to_string()))?;
        let panicked = || TemplateError::Failed("it made the interpreter panic".to_owned());
        thread.join().map_err(|_panic| panicked())?.map_err(|_panic| panicked())
    })
}

/// The words of the template itself, if it raised them; else the interpreter's.
fn failure(error: &minijinja::Error) -> TemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::Endless;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return TemplateError::Refused(message.clone());
        }
        cause = inner.source();
    }
    TemplateError::Failed(error.to_string())
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    let error = minijinja::Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Raised(message)))
}

/// JSON as Python's `json.dumps` writes it: nothing is escaped for HTML.
#[expect(clippy::needless_pass_by_value, reason = "the form of a filter")]
fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, minijinja::Error> {
    let given: Option<Value> = options.get("indent")?;
    // `transformers` takes these too; the defaults are what templates ask for.
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _ignored: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let none = std::iter::empty::<(String, Value)>().collect();
    let escaped = minijinja::filters::tojson(value, indent.or(given), none)?;
    Ok(Value::from(without_html_escapes(escaped.as_str().unwrap_or_default())))
}

/// Turns `\u003c`, `\u003e`, `\u0026` and `\u0027` of a JSON text back into characters.
fn without_html_escapes(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let plain = [("\\u003c", '<'), ("\\u003e", '>'), ("\\u0026", '&'), ("\\u0027", '\'')];
        if let Some((escape, char)) = plain.iter().find(|(escape, _)| rest.starts_with(escape)) {
            text.push(*char);
            rest = &rest[escape.len()..];
        } else {
            // The escaped character goes with its backslash: it may be one itself.
            let escape: String = rest.chars().take(2).collect();
            text.push_str(&escape);
            rest = &rest[escape.len()..];
        }
    }
    text + rest
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, which mark what a model said for training.
fn without_generation_marks(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((begin, end)) =
        rest.find("{%").and_then(|begin| rest[begin..].find("%}").map(|length| (begin, begin + length)))
    {
        let (before, tag) = (&rest[..begin + 2], &rest[begin + 2..end]);
        text.push_str(before);
        match tag.trim_matches(|char: char| matches!(char, '-' | '+') || char.is_whitespace()) {
            "generation" => text.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => text.push_str(&tag.replace("endgeneration", "endif")),
            _ => text.push_str(tag),
        }
        rest = &rest[end..];
    }
    text.push_str(rest);
    Cow::Owned(text)
}

#[cfg(test)]
mod tests;
