//! Each kind of graph, against ONNX Runtime's own Python API on the same file.

use std::io::Write;
use std::process::Stdio;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Gateway, ids, prepared, python, tiny};

/// A model of each kind of graph, with what it can do and what it lacks.
const MODELS: [&str; 7] =
    ["llama", "llama-all-logits", "llama-plain", "gpt2", "gpt2-unpositioned", "gpt2-no-cache", "gpt2-merged"];

pub(crate) const PROMPTS: [&str; 3] = ["Hello", "The quick brown fox", "abc"];

/// Greedy continuations by the Python reference.
pub(crate) fn reference(folder: &str, prompts: &[Vec<u64>], max_tokens: usize) -> Vec<Vec<u64>> {
    let answer = ask_reference(folder, prompts, &json!({"max_tokens": max_tokens}));
    answer["token_ids"].as_array().unwrap().iter().map(ids).collect()
}

/// Greedy continuations by the Python reference, and for each token the five highest log-probabilities of its place.
pub(crate) fn reference_with_logprobs(
    folder: &str,
    prompts: &[Vec<u64>],
    max_tokens: usize,
) -> Vec<(Vec<u64>, Vec<Vec<f64>>)> {
    let answer = ask_reference(folder, prompts, &json!({"max_tokens": max_tokens, "top_logprobs": 5}));
    let tokens = answer["token_ids"].as_array().unwrap().iter().map(ids);
    tokens.zip(serde_json::from_value::<Vec<_>>(answer["top_logprobs"].clone()).unwrap()).collect()
}

fn ask_reference(folder: &str, prompts: &[Vec<u64>], options: &Value) -> Value {
    let requests: Vec<Value> = prompts
        .iter()
        .map(|ids| {
            let mut request = options.clone();
            request["prompt_token_ids"] = json!(ids);
            request
        })
        .collect();
    let mut child = python("tests/fixtures/greedy_reference.py")
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = json!({"prompts": requests}).to_string();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the reference failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn every_kind_of_graph_gives_the_tokens_of_the_reference() {
    let prompts: Vec<Vec<u64>> = PROMPTS.iter().map(|text| text.bytes().map(u64::from).collect()).collect();
    for model in MODELS {
        let expected = reference(&tiny(model), &prompts, 48);
        let gateway = Gateway::serving(&tiny(model), &["--prefill-chunk-tokens=7"]).await;
        for (prompt, expected) in PROMPTS.iter().zip(&expected) {
            assert_eq!(&gateway.greedy(prompt, 48).await, expected, "{model}: {prompt}");
        }
    }
}

/// Prompts of 1 to 100 bytes and the lengths of their outputs, 1 to 100 tokens: always the same.
fn ragged_requests() -> Vec<(String, usize)> {
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    (0..16)
        .map(|_| {
            let length = 1 + random(100);
            let prompt = (0..length).map(|_| char::from(b' ' + random(95) as u8)).collect();
            (prompt, 1 + random(100) as usize)
        })
        .collect()
}

#[tokio::test]
async fn ragged_rows_that_come_and_go_get_the_tokens_of_the_reference() {
    let requests = ragged_requests();
    let prompts: Vec<Vec<u64>> =
        requests.iter().map(|(prompt, _)| prompt.bytes().map(u64::from).collect()).collect();
    for model in MODELS {
        let expected = reference(&tiny(model), &prompts, 100);
        let gateway =
            Gateway::serving(&tiny(model), &["--max-batch-size=5", "--prefill-chunk-tokens=16"]).await;
        let gateway = &gateway;
        // Seven clients, each with its next request when the last one is answered; two wait for a row at first.
        let clients = (0..7).map(|client| {
            let (requests, expected) = (&requests, &expected);
            async move {
                for number in (client..requests.len()).step_by(7) {
                    let (prompt, tokens) = &requests[number];
                    let found = gateway.greedy(prompt, *tokens).await;
                    assert_eq!(found, expected[number][..*tokens], "{model}: request {number}");
                }
            }
        });
        join_all(clients).await;
        let rows = gateway.sample("inference_gateway_step_rows_sum{model=\"tiny\"}").await;
        let steps = gateway.sample("inference_gateway_step_rows_count{model=\"tiny\"}").await;
        // How many rows a step has hangs on how soon clients come again; that some had company does not.
        assert!(rows > steps, "{model}: rows did not run together: {rows} rows in {steps} steps");
    }
}

#[tokio::test]
async fn graphs_of_one_model_agree_whatever_their_kind() {
    let families: [&[&str]; 2] = [
        &["gpt2", "gpt2-unpositioned", "gpt2-no-cache", "gpt2-merged"],
        &["llama", "llama-all-logits", "llama-plain"],
    ];
    for family in families {
        let mut answers = Vec::new();
        for model in family {
            let gateway = Gateway::serving(&tiny(model), &[]).await;
            answers.push(gateway.greedy("The quick brown fox", 48).await);
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{family:?}: {answers:?}");
    }
}

#[tokio::test]
async fn a_graph_without_a_cache_for_senselessly_long_texts_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "model.onnx"] {
        std::fs::copy(prepared("tiny/gpt2-no-cache").join(file), folder.path().join(file)).unwrap();
    }
    let config = std::fs::read(prepared("tiny/gpt2-no-cache/config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["n_positions"] = json!(10_000_000);
    config["n_ctx"] = json!(10_000_000);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let path = format!("--default-model-path={}", folder.path().display());
    let gateway = Gateway::start(crate::harness::settings(&[&path])).await;
    let reason = gateway.wait_state("failed").await;
    for part in [
        "no cache",
        "10000000 tokens",
        "INFERENCE_CONTEXT_LENGTH to at most",
        "export the model with a cache",
    ] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    // With what the message advises it is served.
    let served = Gateway::serving(&folder.path().display().to_string(), &["--context-length=256"]).await;
    assert_eq!(served.greedy("abc", 5).await.len(), 5);
}

#[tokio::test]
async fn the_length_of_chunks_does_not_change_the_tokens() {
    let prompt = "a prompt of some length, so that it is fed in several pieces";
    let mut answers = Vec::new();
    for chunk in ["1", "7", "32", "64"] {
        let flag = format!("--prefill-chunk-tokens={chunk}");
        let gateway = Gateway::serving(&tiny("llama"), &[&flag]).await;
        answers.push(gateway.greedy(prompt, 48).await);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test]
async fn a_model_that_cannot_be_served_says_why_and_the_process_stays() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "config.json"] {
        std::fs::copy(prepared("tiny/llama").join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("model.onnx"), b"<html>not found</html>").unwrap();
    let path = format!("--default-model-path={}", folder.path().display());
    let gateway = Gateway::start(crate::harness::settings(&[&path])).await;
    let reason = gateway.wait_state("failed").await;
    assert!(reason.contains("model.onnx cannot be loaded: it is an HTML page"), "{reason}");
    let (status, body) = gateway.infer(&json!({"text": "a"})).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (503, &json!("model_not_ready")));
    assert_eq!(gateway.get("/healthz").await.status().as_u16(), 200);
}
