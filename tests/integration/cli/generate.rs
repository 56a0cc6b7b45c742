//! `inference-gateway generate`: the text of the API, alone on standard output, and how the command ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use super::{gateway, run, stderr};
use crate::harness::{Gateway, ids, prepared, tiny};

fn real() -> String {
    prepared("models/smollm2-135m-instruct-w8a8").display().to_string()
}

/// The command for a model, under the name that the harness gives to its own.
fn generate(model: &str, arguments: &[&str]) -> Command {
    let mut command = gateway();
    command
        .env("ORT_DYLIB_PATH", prepared("lib/libonnxruntime.so"))
        .env("INFERENCE_DEFAULT_MODEL_NAME", "tiny")
        .env("INFERENCE_DEFAULT_MODEL_PATH", model)
        .args(["generate", "--threads=2"])
        .args(arguments);
    command
}

/// What it prints when all goes well. Nothing else is said where nobody watches.
fn printed(command: &mut Command) -> String {
    let output = run(command);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    String::from_utf8(output.stdout).unwrap()
}

fn with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// Checks that a command is refused: with this code and words on standard error, and nothing on standard output.
fn refused(output: &Output, code: i32, words: &str) {
    let said = stderr(output);
    assert!(output.stdout.is_empty() && said.contains(words), "{words}: {said}");
    assert_eq!(output.status.code(), Some(code), "{said}");
}

#[tokio::test]
async fn the_text_is_that_of_the_native_api() {
    let gateway = Gateway::serving(&real(), &[]).await;
    let prompt = "The old lighthouse keeper";
    let flags = [prompt, "--seed=7", "--temperature=0.8", "--top-p=0.9", "--max-tokens=24"];
    let mut body = json!({
        "text": prompt, "seed": 7, "temperature": 0.8, "top_p": 0.9, "max_tokens": 24, "return_full_text": false,
    });
    let (_, answer) = gateway.infer(&body).await;
    let text = answer["generated_text"].as_str().unwrap();
    assert_eq!(printed(&mut generate(&real(), &flags)), text);

    // The whole answer, with everything that it may have.
    body["return_full_text"] = json!(true);
    body["return_token_ids"] = json!(true);
    body["logprobs"] = json!(2);
    let (_, mut answer) = gateway.infer(&body).await;
    let more = ["--json", "--return-token-ids", "--logprobs=2"];
    let line = printed(generate(&real(), &flags).args(more));
    let mut told: Value = serde_json::from_str(line.strip_suffix('\n').unwrap()).unwrap();
    assert_eq!(ids(&told["metadata"]["token_ids"]).len(), 24);
    for answer in [&mut answer, &mut told] {
        let metadata = answer["metadata"].as_object_mut().unwrap();
        assert!(metadata.remove("processing_time_ms").unwrap().as_f64().unwrap() > 0.0);
    }
    assert_eq!(told, answer);
}

#[tokio::test]
async fn a_chat_is_that_of_the_openai_api() {
    let gateway = Gateway::serving(&real(), &[]).await;
    let messages = json!([
        {"role": "system", "content": "Answer with one word."},
        {"role": "user", "content": "What is the capital of France?"},
    ]);
    let url = format!("http://{}/v1/chat/completions", gateway.api);
    let body = json!({"messages": messages, "model": "tiny", "temperature": 0, "max_tokens": 40});
    let answer = gateway.client.post(url).body(body.to_string()).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    let expected = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!expected.is_empty());
    let flags = ["--system=Answer with one word.", "What is the capital of France?", "--temperature=0"];
    let chat = printed(generate(&real(), &flags).arg("--max-tokens=40"));
    assert_eq!(chat, expected);
    let text = printed(generate(&real(), &flags[1..]).arg("--max-tokens=40"));
    assert_ne!(text, expected, "without a template it is another prompt");
}

#[test]
fn a_format_holds_and_may_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let schema = folder.path().join("schema.json");
    std::fs::write(
        &schema,
        r#"{"type": "object", "required": ["a"], "additionalProperties": false,
        "properties": {"a": {"enum": ["x", "y"]}}}"#,
    )
    .unwrap();
    let flags = ["Say: ", "--temperature=0", "--max-tokens=40"];
    let text = printed(generate(&tiny("llama"), &flags).arg("--json-schema").arg(&schema));
    assert!(["x", "y"].contains(&serde_json::from_str::<Value>(&text).unwrap()["a"].as_str().unwrap()));
    let text = printed(generate(&tiny("llama"), &flags).args(["--choice=red", "--choice=blue"]));
    assert!(["red", "blue"].contains(&text.as_str()), "{text}");
    let text = printed(generate(&tiny("llama"), &flags).arg("--regex=[ab]{3}"));
    assert!(text.len() == 3 && text.chars().all(|letter| "ab".contains(letter)), "{text}");
    let grammar = folder.path().join("grammar.lark");
    std::fs::write(&grammar, r#"start: "yes" | "no""#).unwrap();
    let text = printed(generate(&tiny("llama"), &flags).arg("--grammar").arg(&grammar));
    assert!(["yes", "no"].contains(&text.as_str()), "{text}");

    std::fs::write(&schema, "{").unwrap();
    refused(&run(generate("/nowhere", &flags).arg("--json-schema").arg(&schema)), 2, "is not JSON");
    refused(&run(generate("/nowhere", &flags).arg("--grammar=/nowhere/g")), 1, "/nowhere/g for --grammar");
    refused(&run(generate(&tiny("llama"), &flags).arg("--regex=(")), 2, "--regex: at 1(8): invalid regex");
}

#[test]
fn a_prompt_may_be_piped_in() {
    let flags = ["--temperature=0", "--max-tokens=8", "--json"];
    let whole = |output: Output| {
        assert!(output.status.success(), "{}", stderr(&output));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["generated_text"].as_str().unwrap().to_owned()
    };
    let given = whole(run(generate(&tiny("llama"), &flags).arg("two\nlines")));
    assert!(given.starts_with("two\nlines") && given.len() > "two\nlines".len(), "{given}");
    assert_eq!(whole(with_input(&mut generate(&tiny("llama"), &flags), b"two\nlines\n")), given);
    assert_eq!(whole(with_input(generate(&tiny("llama"), &flags).arg("-"), b"two\nlines\r\n")), given);
    let kept = whole(with_input(&mut generate(&tiny("llama"), &flags), b"two\nlines\n\n"));
    assert!(kept.starts_with("two\nlines\n"), "only one line break is taken off: {kept}");

    let refused_input =
        |input: &[u8], words: &str| refused(&with_input(&mut generate("/nowhere", &[]), input), 2, words);
    refused_input(b"", "the prompt must not be empty");
    refused_input(b"a\xff", "the prompt is not UTF-8: byte 1");
    let long = with_input(generate("/nowhere", &["--max-body-bytes=3"]).arg("-"), b"four");
    refused(&long, 2, "the prompt has more than 3 bytes");
}

/// The checks are those of the API, and come before a model is loaded: this one does not exist.
#[test]
fn what_is_not_acceptable_is_refused_by_its_flag() {
    let cases: [(&[&str], &str); 13] = [
        (&["--temperature=3"], "inference-gateway: --temperature must be from 0 to 2, got 3\n"),
        (&["--temperature=NaN"], "write a number, as 0.7"),
        (&["--top-k=-1"], "inference-gateway: --top-k: invalid value: integer `-1`, expected u32\n"),
        (&["--top-p", "-1"], "--top-p must be from 0 to 1, got -1"),
        (&["--max-tokens=0"], "--max-tokens must be at least 1"),
        (&["--max-tokens=1.5"], "--max-tokens: invalid type: floating point `1.5`, expected u64"),
        (&["--stop="], "--stop text 0 must have 1 to 1024 bytes"),
        (&["--logit-bias=5=1", "--logit-bias=5=2"], "--logit-bias has token id 5 twice"),
        (&["--logit-bias=five"], "write a token id and its bias, as 504=-100"),
        (&["--regex=a", "--choice=b"], "cannot be used with"),
        (&["--logprobs=1"], "--json"),
        (&["--chat", "--json", "--return-full-text"], "cannot be used with"),
        (&["--temprature=1"], "a similar argument exists: '--temperature'"),
    ];
    for (flags, words) in cases {
        refused(&run(generate("/nowhere", &["x"]).args(flags)), 2, words);
    }
    let outside = run(&mut generate(&tiny("llama"), &["x", "--stop-token-ids=99999"]));
    refused(&outside, 2, "--stop-token-ids: token id 99999 is outside the vocabulary of");
    let long = run(&mut generate(&tiny("llama"), &["x", "--max-tokens=100000"]));
    refused(&long, 2, "tokens to generate exceed the context of");
}

#[test]
fn a_model_that_does_not_load_is_another_failure() {
    refused(&run(&mut generate("/nowhere", &["x"])), 1, "the model tiny does not load: SourceNotFound");
    refused(&run(&mut generate(&tiny("gpt2"), &["x", "--model=other"])), 1, "there is no model other");
    let cluster = run(generate("/nowhere", &["x"]).env("INFERENCE_GATEWAY_NAME", "default"));
    refused(&cluster, 1, "unset INFERENCE_GATEWAY_NAME");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = generate(&tiny("llama"), &["x"]).stdin(Stdio::null()).stdout(full).output().unwrap();
    refused(&output, 1, "failed to write the text: No space left");
}

#[test]
fn a_model_of_a_list_is_taken_by_its_name() {
    let (llama, gpt2) = (tiny("llama"), tiny("gpt2"));
    let entries = [("one", &llama, "[first]"), ("two", &gpt2, "[]")].map(|(name, path, aliases)| {
        let path = path.strip_prefix('/').unwrap();
        format!("- {{name: {name}, spec: {{source: {{path: {path}, inPlace: true}}, aliases: {aliases}}}}}\n")
    });
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("models.yaml");
    std::fs::write(&list, entries.concat()).unwrap();
    let ask = |model: &[&str]| {
        let mut command = generate("/nowhere", &["x", "--json", "--max-tokens=4", "--model-root=/"]);
        let cache = folder.path().join("cache");
        run(command.arg("--models-file").arg(&list).arg("--cache-dir").arg(cache).args(model))
    };
    refused(&ask(&[]), 1, "say which model with --model: the list has one, two");
    refused(&ask(&["--model=three"]), 1, "there is no model three: the list has one, two");
    let output = ask(&["--model=first"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["metadata"]["model"], "one");
    std::fs::write(&list, "- {name: one}").unwrap();
    refused(&ask(&[]), 1, "the list of models");
}

#[test]
fn numbers_are_told_beside_the_text() {
    let flags = ["x", "--temperature=0", "--max-tokens=5", "--ignore-eos", "--seed=3"];
    let plain = printed(&mut generate(&tiny("llama"), &flags));
    let output = run(generate(&tiny("llama"), &flags).arg("--stats"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), plain);
    let told = stderr(&output);
    assert!(told.starts_with("5 tokens (length) after ") && told.ends_with("; seed 3\n"), "{told}");
}

/// A long text, of which some has been printed.
fn begun() -> Child {
    let flags = ["Numbers:", "--ignore-eos", "--max-tokens=4000"];
    let mut command = generate(&real(), &flags);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).unwrap();
    child
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_signal_ends_it_with_its_code_and_without_a_word() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let child = begun();
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), stderr(&output)), (Some(code), String::new()));
    }
}

#[test]
fn a_signal_ends_it_while_the_model_is_loaded_too() {
    let mut command = generate(&tiny("llama"), &["x", "--log-filter=info", "--log-format=json"]);
    let mut child = command
        .env("FAILPOINTS", "before-load=return(hang)")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let loading = lines.map(|line| line.unwrap()).find(|line| line.contains("\"fetch\""));
    assert!(loading.is_some(), "the files are there, and the load begins");
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(130), 0));
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let mut child = begun();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

/// What the API takes, the command line takes.
#[test]
fn a_template_of_the_settings_makes_the_prompt() {
    let templates = r#"[{"name": "ask", "template": "{{ who }} asks: {{ text | default('what?') }}"}]"#;
    let command = |arguments: &[&str]| {
        let mut command = generate(&tiny("llama"), arguments);
        command.args(["--temperature=0", "--max-tokens=6", "--ignore-eos"]);
        command.env("INFERENCE_DEFAULT_PROMPT_TEMPLATES", templates);
        command
    };
    let variables = r#"{"who": "Ann"}"#;
    for (prompt, given) in [("Ann asks: why?", Some("why?")), ("Ann asks: what?", None)] {
        let flags: Vec<&str> =
            given.into_iter().chain(["--template=ask", "--variables", variables]).collect();
        assert_eq!(printed(&mut command(&flags)), printed(&mut command(&[prompt])));
    }
    refused(&run(&mut command(&["--template=nothing"])), 2, "--template");
    refused(&run(&mut command(&["--template=ask", "--variables=[]"])), 2, "--variables");
    refused(&run(&mut command(&["x", "--variables", variables])), 2, "--template");
}

#[tokio::test]
async fn every_field_of_the_native_api_has_a_flag() {
    let (_, body) = Gateway::tiny().await.infer(&json!({"no such field": 1})).await;
    let message = body["error"]["message"].as_str().unwrap();
    let fields: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
    assert!(fields.contains(&"temperature") && fields.len() > 20, "{message}");
    let help = printed(&mut generate("/nowhere", &["--help"]));
    let others = ["text", "stream", "format"];
    for field in fields.into_iter().filter(|field| !others.contains(field)) {
        let flag = format!("--{}", field.replace('_', "-"));
        let is_there = help.split_whitespace().any(|word| word.trim_end_matches("[=<BOOL>]") == flag);
        assert!(is_there, "{flag} is missing in\n{help}");
    }
}

#[test]
fn flags_that_are_no_settings_are_none_in_a_settings_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.yaml");
    std::fs::write(&file, "temperature: 0.5\n").unwrap();
    let with_file = |path: &Path| run(generate("/nowhere", &["x", "--config-file"]).arg(path));
    refused(&with_file(&file), 1, "there is no setting `temperature`");
}
