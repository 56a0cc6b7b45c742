//! Several requests at once get what each would get alone.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Gateway, tiny};

const PROMPTS: [&str; 6] = [
    "Hello",
    "The quick brown fox",
    "abc",
    "a longer prompt that takes several chunks to feed to the model, one after the other",
    "x",
    "12345",
];

fn requests() -> Vec<Value> {
    (0..24)
        .map(|number| {
            json!({
                "text": PROMPTS[number % PROMPTS.len()], "max_tokens": 5 + number * 3, "seed": number,
                "temperature": if number % 2 == 0 { 0.0 } else { 0.9 }, "top_p": 0.95, "repetition_penalty": 1.1,
                "ignore_eos": true, "return_token_ids": true,
            })
        })
        .collect()
}

#[tokio::test]
async fn the_same_seed_gives_the_same_text_alone_or_in_company() {
    for model in ["llama", "llama-all-logits", "llama-plain", "gpt2", "gpt2-merged"] {
        let gateway =
            Gateway::serving(&tiny(model), &["--max-batch-size=5", "--prefill-chunk-tokens=16"]).await;
        let requests = requests();
        let mut alone = Vec::new();
        for request in &requests {
            alone.push(gateway.infer(request).await.1);
        }
        let together = join_all(requests.iter().map(|request| gateway.infer(request))).await;
        for ((alone, (_, together)), request) in alone.iter().zip(&together).zip(&requests) {
            assert_eq!(
                alone["metadata"]["token_ids"], together["metadata"]["token_ids"],
                "{model}: {request}"
            );
            assert_eq!(alone["generated_text"], together["generated_text"], "{model}: {request}");
        }
        let rows = gateway.sample("inference_gateway_step_rows_sum{model=\"tiny\"}").await;
        let steps = gateway.sample("inference_gateway_step_rows_count{model=\"tiny\"}").await;
        assert!(rows > 1.2 * steps, "{model}: rows did not run together: {rows} rows in {steps} steps");
    }
}

#[tokio::test]
async fn drafts_do_not_change_the_tokens_alone_or_in_company() {
    for model in ["llama", "llama-all-logits", "gpt2"] {
        let flags = ["--max-batch-size=5", "--prefill-chunk-tokens=16"];
        let plain = Gateway::serving(&tiny(model), &flags).await;
        let drafting =
            Gateway::serving(&tiny(model), &[&flags[..], &["--speculative-tokens=7"]].concat()).await;
        let mut requests = requests();
        let round = "a text that goes round, ".repeat(4);
        requests.extend((0..4).map(|seed| {
            json!({
                "text": round, "max_tokens": 100, "seed": seed, "temperature": 0.1 * f64::from(seed),
                "ignore_eos": true, "return_token_ids": true,
            })
        }));
        let mut expected = Vec::new();
        for request in &requests {
            expected.push(plain.infer(request).await.1["metadata"]["token_ids"].clone());
            assert_eq!(
                drafting.infer(request).await.1["metadata"]["token_ids"],
                *expected.last().unwrap(),
                "{model}: {request}"
            );
        }
        let together = join_all(requests.iter().map(|request| drafting.infer(request))).await;
        for ((expected, (_, together)), request) in expected.iter().zip(&together).zip(&requests) {
            assert_eq!(together["metadata"]["token_ids"], *expected, "{model}, in company: {request}");
        }
        let accepted = drafting.sample("inference_gateway_draft_accepted_tokens_total{model=\"tiny\"}").await;
        let proposed = drafting.sample("inference_gateway_draft_proposed_tokens_total{model=\"tiny\"}").await;
        let verifies = model != "gpt2";
        assert_eq!(proposed > 0.0, verifies, "{model}: {proposed} tokens were drafted");
        assert!(accepted <= proposed, "{model}: {accepted} of {proposed}");
        assert!(!verifies || accepted > 50.0, "{model}: {accepted} tokens were drafted rightly");
    }
}

#[tokio::test]
async fn kept_beginnings_do_not_change_the_tokens() {
    let beginning =
        "All of these prompts begin with the same words, which are long enough for a few whole chunks";
    let prompts: Vec<String> = ["", " and end here", ", but not all of them", " and end"]
        .iter()
        .map(|end| format!("{beginning}{end}"))
        .collect();
    let with = Gateway::serving(&tiny("llama"), &["--prefill-chunk-tokens=16"]).await;
    let without = Gateway::serving(&tiny("llama"), &["--prefill-chunk-tokens=16", "--prefix-memory=0"]).await;
    for prompt in prompts.iter().chain(&prompts) {
        assert_eq!(with.greedy(prompt, 40).await, without.greedy(prompt, 40).await, "{prompt}");
    }
    let hits = "inference_gateway_prefix_hit_tokens_total{model=\"tiny\"}";
    assert!(with.sample(hits).await >= 7.0 * 80.0, "the beginning was computed again");
    assert_eq!(without.sample(hits).await.to_bits(), 0.0_f64.to_bits());
}

#[tokio::test]
async fn a_request_larger_than_the_cache_memory_is_refused_with_its_reason() {
    // 2 layers, 2 heads of 16 numbers, keys and values: the tiny model's cache is smaller than a page a token.
    let gateway = Gateway::serving(&tiny("llama"), &["--cache-memory=20Ki", "--prefix-memory=0"]).await;
    let (status, body) = gateway.infer(&json!({"text": "a", "max_tokens": 250})).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (400, &json!("cache_memory_exceeded")), "{body}");
    let requests =
        (0..6).map(|_| json!({"text": "abc", "max_tokens": 15, "ignore_eos": true})).collect::<Vec<_>>();
    for (status, body) in join_all(requests.iter().map(|request| gateway.infer(request))).await {
        assert_eq!((status.as_u16(), &body["metadata"]["tokens_generated"]), (200, &json!(15)));
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_fails_as_such() {
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--request-timeout=30ms"]).await;
    let (status, body) = gateway.infer(&json!({"text": "abc", "max_tokens": 250, "ignore_eos": true})).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (503, &json!("deadline_exceeded")), "{body}");
    gateway.wait_sample("inference_gateway_requests_running{model=\"tiny\"}", 0.0).await;
}
