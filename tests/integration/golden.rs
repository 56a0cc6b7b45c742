//! The tokens of a real model, over HTTP, against references made by others.

use std::fs;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::adapters::reference;
use crate::harness::{Gateway, ids, prepared, project};

struct Case {
    prompt: String,
    prompt_tokens: Vec<u64>,
    tokens: Vec<u64>,
}

/// Made by Hugging Face transformers on the same weights; see `golden.json`.
fn cases() -> Vec<Case> {
    let text = fs::read_to_string(project().join("tests/fixtures/golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    cases
        .iter()
        .map(|case| Case {
            prompt: case["prompt"].as_str().unwrap().to_owned(),
            prompt_tokens: ids(&case["prompt_token_ids"]),
            tokens: ids(&case["token_ids"]),
        })
        .collect()
}

fn request(case: &Case) -> Value {
    json!({
        "text": case.prompt, "max_tokens": case.tokens.len(), "temperature": 0, "ignore_eos": true,
        "return_token_ids": true,
    })
}

async fn real(precision: &str, flags: &[&str]) -> Gateway {
    let model = prepared("models").join(format!("smollm2-135m-instruct-{precision}"));
    Gateway::serving(&model.display().to_string(), &[&["--spinning=true"], flags].concat()).await
}

#[tokio::test]
async fn the_exact_model_gives_the_golden_tokens_alone_and_in_company() {
    let gateway = real("fp32", &[]).await;
    let cases = cases();
    assert_eq!(cases.len(), 8);
    for case in &cases {
        let (_, body) = gateway.infer(&request(case)).await;
        assert_eq!(ids(&body["metadata"]["prompt_token_ids"]), case.prompt_tokens, "{}", case.prompt);
        assert_eq!(ids(&body["metadata"]["token_ids"]), case.tokens, "{}", case.prompt);
    }
    let together = join_all(cases.iter().map(|case| {
        let request = request(case);
        let gateway = &gateway;
        async move { gateway.infer(&request).await }
    }))
    .await;
    for (case, (_, body)) in cases.iter().zip(together) {
        assert_eq!(ids(&body["metadata"]["token_ids"]), case.tokens, "in company: {}", case.prompt);
    }
}

#[tokio::test]
async fn drafts_give_the_golden_tokens_too() {
    let gateway = real("fp32", &["--speculative-tokens=7"]).await;
    for case in &cases() {
        let (_, body) = gateway.infer(&request(case)).await;
        assert_eq!(ids(&body["metadata"]["token_ids"]), case.tokens, "{}", case.prompt);
    }
    // A prompt that holds its own continuation, and breaks off at its beginning, is drafted nearly whole.
    let case = &cases()[0];
    let (_, body) = gateway.infer(&request(case)).await;
    let text = body["generated_text"].as_str().unwrap();
    let copied = json!({
        "text": format!("{text}\n\n{text}\n\n{}", case.prompt), "max_tokens": 40, "temperature": 0, "ignore_eos": true,
        "return_token_ids": true,
    });
    let (_, drafted) = gateway.infer(&copied).await;
    let accepted = gateway.sample("inference_gateway_draft_accepted_tokens_total{model=\"tiny\"}").await;
    assert!(accepted >= 20.0, "{accepted} tokens were drafted rightly");
    let (_, plain) = real("fp32", &[]).await.infer(&copied).await;
    assert_eq!(drafted["metadata"]["token_ids"], plain["metadata"]["token_ids"]);
}

#[tokio::test]
async fn the_quantised_models_give_the_tokens_of_onnx_runtime_in_python() {
    let cases = cases();
    let prompts: Vec<Vec<u64>> = cases.iter().map(|case| case.prompt_tokens.clone()).collect();
    for precision in ["w8a8", "int8"] {
        let folder = prepared("models").join(format!("smollm2-135m-instruct-{precision}"));
        let expected = reference(&folder.display().to_string(), &prompts, 48);
        let gateway = real(precision, &[]).await;
        for (case, expected) in cases.iter().zip(&expected) {
            assert_eq!(&gateway.greedy(&case.prompt, 48).await, expected, "{precision}: {}", case.prompt);
        }
    }
}
