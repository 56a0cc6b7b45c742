//! The flags of `generate`: those of the native API under their own names, with dashes, and a few of the terminal's.
//!
//! Nothing is checked here but what a flag is made of (a number, a truth value, a file); values go into a body of the
//! native API as they are, and its checks judge them.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use serde::{Serialize, Serializer};
use serde_json::{Number, Value, json};

use super::Refusal;
use crate::http::{LocalError, LocalPrompt};

const HEADING: &str = "Generation";
/// What a file or standard input is called on a command line.
const STDIN: &str = "-";

/// Fields that are numbers.
const NUMBERS: [(&str, &str); 10] = [
    (
        "max_tokens",
        "Tokens to generate at most. Default: 50, with --chat as many as the context has room for",
    ),
    ("temperature", "0 to 2; 0 always takes the most likely token. Default: 1"),
    ("top_p", "0 to 1: keep the most likely tokens that together are this likely. Default: 1"),
    ("top_k", "Keep the so many most likely tokens; 0 keeps all. Default: 0"),
    ("min_p", "0 to 1: keep tokens at least this likely relative to the most likely one. Default: 0"),
    ("repetition_penalty", "0.01 to 100; of tokens in prompt and output. Default: 1"),
    ("presence_penalty", "-2 to 2; of tokens in the output, once for each. Default: 0"),
    ("frequency_penalty", "-2 to 2; of tokens in the output, as often as they came. Default: 0"),
    ("seed", "The same seed, prompt and model give the same text. Default: a random one"),
    ("logprobs", "With --json: log-probabilities of the tokens, with 0 to 20 alternatives"),
];
/// Fields that are truth values.
const SWITCHES: [(&str, &str); 4] = [
    ("ignore_eos", "Go on after the end-of-text token"),
    ("return_full_text", "Begin with the prompt. Default: true with --json and without a format, else false"),
    ("return_token_ids", "With --json: add the ids of all tokens"),
    ("skip_special_tokens", "Leave special tokens out of the text. Default: true"),
];
/// Fields that say what the text has to look like: flag, value, help. At most one is given.
const FORMATS: [(&str, &str, &str); 5] = [
    ("json_schema", "FILE", "The text is JSON of this schema"),
    ("json_object", "", "The text is a JSON object"),
    ("regex", "PATTERN", "The text matches all of this regular expression"),
    ("choice", "TEXT", "The text is one of these (give the flag for each)"),
    ("grammar", "FILE", "The text is of this grammar, in Lark's notation"),
];

/// What is asked for.
pub(super) struct Given {
    fields: Vec<(&'static str, Field)>,
    format: Option<Format>,
}

/// What is asked for, and how it is told.
pub(in crate::cli) struct Request {
    given: Given,
    /// `None`: it comes from standard input.
    pub(super) prompt: Option<String>,
    /// Whether that was said.
    pub(super) reads_stdin: bool,
    pub(super) kind: LocalPrompt,
    pub(super) model: Option<String>,
    pub(super) json: bool,
    stats: Option<bool>,
}

/// A field as it goes into the body.
enum Field {
    Value(Value),
    /// An object whose keys may come twice, which is for its checks to find.
    Pairs(Vec<(String, Number)>),
}

enum Format {
    JsonSchema(PathBuf),
    JsonObject,
    Regex(String),
    Choice(Vec<String>),
    Grammar(PathBuf),
}

/// `field` as a flag.
fn flag(field: &str) -> String {
    field.replace('_', "-")
}

fn option(field: &'static str, value_name: &'static str, help: &'static str) -> Arg {
    Arg::new(field).long(flag(field)).value_name(value_name).help(help).help_heading(HEADING)
}

/// `--flag` means true, `--flag=false` its contrary.
fn switch(field: &'static str, help: &'static str) -> Arg {
    option(field, "BOOL", help)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(value_parser!(bool))
}

pub(in crate::cli) fn arguments(command: Command) -> Command {
    let settings = command
        .about("Generate one text with a model, and print it as it comes")
        .long_about(None)
        // One request says little of itself; who wants to read more sets the filter.
        .mut_arg("log_filter", |filter| filter.default_value("warn"))
        .mut_args(|argument| argument.help_heading("Settings"));
    let own = own(settings);
    let numbers = NUMBERS
        .map(|(field, help)| option(field, "NUMBER", help).value_parser(number).allow_negative_numbers(true));
    let switches = SWITCHES.map(|(field, help)| switch(field, help));
    let formats = FORMATS.map(|(field, value, help)| match (field, value) {
        ("choice", _) => option(field, value, help).action(ArgAction::Append),
        (_, "") => {
            Arg::new(field).long(flag(field)).action(ArgAction::SetTrue).help(help).help_heading(HEADING)
        }
        (_, "FILE") => option(field, value, help).value_parser(value_parser!(PathBuf)),
        _ => option(field, value, help),
    });
    own.args(numbers)
        .args(switches)
        .args(lists())
        .args(formats)
        .args(templates())
        .group(ArgGroup::new("format").args(FORMATS.map(|(field, ..)| field)))
        .mut_arg("logprobs", |argument| argument.requires("json"))
        .mut_arg("return_token_ids", |argument| argument.requires("json"))
        .mut_arg("return_full_text", |argument| argument.conflicts_with_all(["chat", "system"]))
}

/// What is not of the API.
fn own(command: Command) -> Command {
    command
        .arg(
            Arg::new("prompt")
                .value_name("PROMPT")
                .help("The text to continue; `-` or none: standard input, without its last line break"),
        )
        .arg(
            option("chat", "", "The prompt is what a user says: put it into the model's chat template")
                .action(ArgAction::SetTrue),
        )
        .arg(option("system", "TEXT", "What is said to the model before the user speaks; implies --chat"))
        .arg(option("model", "NAME", "Which one, of a list of models (INFERENCE_MODELS_FILE)"))
        .arg(
            option("json", "", "Print the answer of the native API, when it is complete")
                .action(ArgAction::SetTrue),
        )
        .arg(switch(
            "stats",
            "Tell at the end how many tokens there were, how fast, and the seed. Default: on a terminal",
        ))
}

fn lists() -> [Arg; 3] {
    let list = |field, value, help| option(field, value, help).action(ArgAction::Append);
    [
        list("stop", "TEXT", "The text ends before this one (up to 16 of them)"),
        list("stop_token_ids", "ID", "The text ends before this token (up to 64 of them)")
            .value_parser(number),
        list("logit_bias", "ID=BIAS", "-100 to 100, added to the logit of this token (up to 1024 of them)")
            .value_parser(bias),
    ]
}

fn templates() -> [Arg; 2] {
    let option = |field, value, help| option(field, value, help).conflicts_with_all(["chat", "system"]);
    [
        option(
            "template",
            "NAME",
            "The prompt is made by this template of the model; PROMPT is its variable `text`",
        ),
        option("variables", "JSON", "An object: the other variables of the template")
            .requires("template")
            .value_parser(json_object),
    ]
}

fn json_object(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if value.is_object() { Ok(value) } else { Err("write an object, as {\"name\": \"value\"}".to_owned()) }
}

/// A number as JSON has it: one that it has not would become `null`, which means the default.
fn number(text: &str) -> Result<Number, String> {
    let whole = text.parse::<u64>().map(Number::from).or_else(|_| text.parse::<i64>().map(Number::from));
    let fraction = || text.parse::<f64>().ok().and_then(Number::from_f64);
    whole.ok().or_else(fraction).ok_or_else(|| "write a number, as 0.7".to_owned())
}

fn bias(text: &str) -> Result<(String, Number), String> {
    let (id, bias) = text.split_once('=').ok_or("write a token id and its bias, as 504=-100")?;
    Ok((id.to_owned(), number(bias)?))
}

impl Request {
    pub(in crate::cli) fn from_matches(matches: &ArgMatches) -> Self {
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let (prompt, system) = (text("prompt"), text("system"));
        let kind = if matches.get_flag("chat") || system.is_some() {
            LocalPrompt::Chat { system }
        } else {
            LocalPrompt::Text
        };
        Self {
            given: Given { fields: fields(matches), format: format(matches) },
            reads_stdin: prompt.as_deref() == Some(STDIN),
            prompt: prompt.filter(|prompt| prompt != STDIN),
            kind,
            model: text("model"),
            json: matches.get_flag("json"),
            stats: matches.get_one("stats").copied(),
        }
    }

    /// The body of the native API.
    ///
    /// # Errors
    /// A file that goes into it cannot be read, or is refused.
    pub(super) fn body(&self, text: Option<&str>) -> anyhow::Result<String> {
        let format = self.given.format.as_ref().map(Format::as_json).transpose()?;
        let format = format.map(|format| ("format", Field::Value(format)));
        // Only what a program reads begins with the prompt unless that is asked for.
        let is_bare = !self.json || self.kind != LocalPrompt::Text;
        let is_said = self.given.fields.iter().any(|(name, _)| *name == "return_full_text");
        let bare = (is_bare && !is_said).then_some(("return_full_text", Field::Value(false.into())));
        let text = text.map(|text| ("text", Field::Value(text.into())));
        let own = [text, bare, format];
        let own = own.iter().flatten().map(|(name, field)| (name, field));
        let all: Vec<_> = own.chain(self.given.fields.iter().map(|(name, field)| (name, field))).collect();
        serde_json::to_string(&Body(all)).context("failed to write the request")
    }

    /// Whether a template may make the prompt of nothing but variables.
    pub(super) fn has_template(&self) -> bool {
        self.given.fields.iter().any(|(name, _)| *name == "template")
    }

    pub(super) fn has_stats(&self) -> bool {
        self.stats.unwrap_or_else(|| std::io::IsTerminal::is_terminal(&std::io::stderr()))
    }

    /// An error of the native API in the words of the command line: flags in place of fields.
    pub(super) fn told(&self, error: &LocalError) -> String {
        let LocalError { field, message, is_the_requests_fault: _ } = error;
        // Where it stands in the body is of no use to who wrote flags.
        let message = message.split_once(" at line 1 column ").map_or(message.as_str(), |(text, _)| text);
        let Some(field) = field else { return message.to_owned() };
        let name = match (field.as_str(), &self.given.format) {
            // Those that name the prompt or the model themselves.
            ("text" | "model", _) if message.starts_with("the ") => return message.to_owned(),
            ("text", _) => "the prompt".to_owned(),
            (field, Some(format)) if field.starts_with("format") => format!("--{}", format.flag()),
            (field, _) => format!("--{}", flag(field)),
        };
        match message.strip_prefix(field.as_str()) {
            Some(rest) => format!("{name}{rest}"),
            None => format!("{name}: {message}"),
        }
    }
}

/// The fields that are given.
fn fields(matches: &ArgMatches) -> Vec<(&'static str, Field)> {
    let numbers = NUMBERS.iter().map(|(name, _)| (*name, matches.get_one::<Number>(name).map(|n| json!(n))));
    let switches = SWITCHES.iter().map(|(name, _)| (*name, matches.get_one::<bool>(name).map(|b| json!(b))));
    let stop = matches.get_many::<String>("stop").map(|all| all.cloned().collect());
    let ids = matches.get_many::<Number>("stop_token_ids");
    let ids = ids.map(|all| all.map(|id| json!(id)).collect::<Value>());
    let template = matches.get_one::<String>("template").map(|name| json!(name));
    let variables = matches.get_one::<Value>("variables").cloned();
    let bias = matches.get_many::<(String, Number)>("logit_bias").map(|all| all.cloned().collect());
    numbers
        .chain(switches)
        .chain([("stop", stop), ("stop_token_ids", ids), ("template", template), ("variables", variables)])
        .filter_map(|(name, value)| Some((name, Field::Value(value?))))
        .chain(bias.map(|pairs| ("logit_bias", Field::Pairs(pairs))))
        .collect()
}

fn format(matches: &ArgMatches) -> Option<Format> {
    let file = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    let choices = || matches.get_many::<String>("choice").map(|all| all.cloned().collect());
    let object = || matches.get_flag("json_object").then_some(Format::JsonObject);
    file("json_schema")
        .map(Format::JsonSchema)
        .or_else(object)
        .or_else(|| matches.get_one::<String>("regex").cloned().map(Format::Regex))
        .or_else(|| choices().map(Format::Choice))
        .or_else(|| file("grammar").map(Format::Grammar))
}

impl Format {
    fn flag(&self) -> String {
        flag(match self {
            Self::JsonSchema(_) => "json_schema",
            Self::JsonObject => "json_object",
            Self::Regex(_) => "regex",
            Self::Choice(_) => "choice",
            Self::Grammar(_) => "grammar",
        })
    }

    /// The field `format`.
    fn as_json(&self) -> anyhow::Result<Value> {
        let read = |file: &PathBuf| {
            let text = std::fs::read_to_string(file);
            text.with_context(|| format!("failed to read {} for --{}", file.display(), self.flag()))
        };
        Ok(match self {
            Self::JsonSchema(file) => {
                let schema: Value = serde_json::from_str(&read(file)?).map_err(|error| {
                    Refusal(format!("--json-schema: {} is not JSON: {error}", file.display()))
                })?;
                json!({"type": "json_schema", "schema": schema})
            }
            Self::JsonObject => json!({"type": "json_object"}),
            Self::Regex(pattern) => json!({"type": "regex", "pattern": pattern}),
            Self::Choice(choices) => json!({"type": "choice", "choices": choices}),
            Self::Grammar(file) => json!({"type": "grammar", "lark": read(file)?}),
        })
    }
}

struct Body<'a>(Vec<(&'a &'static str, &'a Field)>);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::Pairs(pairs) => serializer.collect_map(pairs.iter().map(|(key, value)| (key, value))),
        }
    }
}
