//! Templates of well-known models against what `transformers` makes of them (tests/fixtures/chat), byte for byte.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::*;

/// 23 November 2024, 04:05:06: what `scripts/chat_fixtures.py` takes for the present.
const NOW: i64 = 1_732_334_706;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    messages: Vec<Value>,
    tools: Option<String>,
    add_generation_prompt: Option<bool>,
    #[serde(default)]
    variables: Map<String, Value>,
}

#[derive(Deserialize)]
struct About {
    bos_token: Option<String>,
    eos_token: Option<String>,
}

#[derive(Deserialize, PartialEq, Debug)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Outcome {
    /// What the model is given.
    Prompt(String),
    /// The words of the template.
    Refused(String),
    /// Python's words: ours are others.
    Failed(String),
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn outcome(template: &Template, about: &About, case: &Case, tools: &BTreeMap<String, Vec<Value>>) -> Outcome {
    let rendered = template.render(&Conversation {
        messages: &case.messages,
        tools: case.tools.as_ref().map(|name| tools[name].as_slice()),
        bos_token: about.bos_token.as_deref(),
        eos_token: about.eos_token.as_deref(),
        add_generation_prompt: case.add_generation_prompt.unwrap_or(true),
        variables: &case.variables,
    });
    match rendered {
        Ok(prompt) => Outcome::Prompt(prompt),
        Err(TemplateError(ProgramError::Refused(words))) => Outcome::Refused(words),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// Compares every template of a folder; how many, and how many comparisons.
fn compare(folder: &Path) -> (usize, usize) {
    let fixtures = project("tests/fixtures/chat");
    let cases: Vec<Case> = read(&fixtures.join("cases.json"));
    let tools: BTreeMap<String, Vec<Value>> = read(&fixtures.join("tools.json"));
    let all: BTreeMap<String, About> = read(&folder.join("templates.json"));
    let (mut compared, mut differ) = (0, String::new());
    for (name, about) in &all {
        let source = fs::read_to_string(folder.join(format!("templates/{name}.jinja"))).unwrap();
        let template = Template::compile_at(&source, NOW).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut expected: BTreeMap<String, Outcome> = read(&folder.join(format!("expected/{name}.json")));
        for case in &cases {
            compared += 1;
            let wanted =
                expected.remove(&case.name).unwrap_or_else(|| panic!("{name}: no case {}", case.name));
            let found = outcome(&template, about, case, &tools);
            let same =
                found == wanted || matches!((&found, &wanted), (Outcome::Failed(_), Outcome::Failed(_)));
            if !same {
                let (wanted, found) = (format!("{wanted:?}"), format!("{found:?}"));
                let alike = wanted.chars().zip(found.chars()).take_while(|(one, other)| one == other).count();
                let part =
                    |text: &str| text.chars().skip(alike.saturating_sub(60)).take(160).collect::<String>();
                write!(
                    differ,
                    "\n{name}, {}\n  wanted {}\n  found  {}",
                    case.name,
                    part(&wanted),
                    part(&found)
                )
                .unwrap();
            }
        }
        assert!(expected.is_empty(), "{name}: run `make chat-fixtures`");
    }
    assert!(differ.is_empty(), "{differ}");
    (all.len(), compared)
}

#[test]
fn well_known_templates_make_the_prompts_that_transformers_makes() {
    let (templates, compared) = compare(&project("tests/fixtures/chat"));
    assert!(templates >= 27 && compared >= 540, "{templates} templates, {compared} comparisons");
}

/// What `scripts/chat_fixtures.py` gives to the templates of language.json.
fn language_case() -> Case {
    let messages = [("system", "Be <brief>."), ("user", " Hi ")];
    Case {
        name: String::new(),
        messages: messages.map(|(role, content)| json!({"role": role, "content": content})).into(),
        tools: None,
        add_generation_prompt: None,
        variables: Map::new(),
    }
}

#[test]
fn the_language_is_that_of_transformers() {
    let about = About { bos_token: Some("<s>".to_owned()), eos_token: Some("</s>".to_owned()) };
    let expected: serde_json::Map<String, Value> =
        read(&project("tests/fixtures/chat/expected-language.json"));
    let (case, mut differ) = (language_case(), String::new());
    for (source, wanted) in &expected {
        let wanted: Outcome = serde_json::from_value(wanted.clone()).unwrap();
        let found = match Template::compile_at(source, NOW) {
            Ok(template) => outcome(&template, &about, &case, &BTreeMap::new()),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        if found != wanted && !matches!((&found, &wanted), (Outcome::Failed(_), Outcome::Failed(_))) {
            write!(differ, "\n{source}\n  wanted {wanted:?}\n  found  {found:?}").unwrap();
        }
    }
    assert!(differ.is_empty(), "{differ}");
    assert!(expected.len() > 300, "{} templates", expected.len());
}

/// `make chat-fixtures` writes these and runs this.
#[test]
#[ignore = "templates whose licences do not let them be kept here"]
fn more_templates_make_the_prompts_that_transformers_makes() {
    compare(&project("target/chat-fixtures"));
}
