//! Each kind of graph, against ONNX Runtime's own Python API on the same file.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::{Gateway, ids, prepared, python, tiny};

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
    for model in ["llama", "llama-all-logits", "gpt2", "gpt2-no-cache", "gpt2-merged"] {
        let expected = reference(&tiny(model), &prompts, 48);
        let gateway = Gateway::serving(&tiny(model), &["--prefill-chunk-tokens=7"]).await;
        for (prompt, expected) in PROMPTS.iter().zip(&expected) {
            assert_eq!(&gateway.greedy(prompt, 48).await, expected, "{model}: {prompt}");
        }
    }
}

#[tokio::test]
async fn graphs_of_one_model_agree_whatever_their_kind() {
    let mut answers = Vec::new();
    for model in ["gpt2", "gpt2-no-cache", "gpt2-merged"] {
        let gateway = Gateway::serving(&tiny(model), &[]).await;
        answers.push(gateway.greedy("The quick brown fox", 48).await);
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
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
    assert!(reason.contains("model.onnx is not a usable ONNX file"), "{reason}");
    let (status, body) = gateway.infer(&json!({"text": "a"})).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (503, &json!("model_not_ready")));
    assert_eq!(gateway.get("/healthz").await.status().as_u16(), 200);
}
