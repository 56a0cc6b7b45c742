//! Clients that go away from a real model free their places at once, wherever their request is. That rows are freed on
//! tiny models, and that requests nobody streams end with their connection, is in `streaming.rs`.

use serde_json::{Value, json};

use crate::company::Stream;
use crate::harness::{Gateway, PATIENCE, prepared};

const RUNNING: &str = "inference_gateway_requests_running{model=\"tiny\"}";
const WAITING: &str = "inference_gateway_requests_waiting{model=\"tiny\"}";
const RESERVED: &str = "inference_gateway_cache_reserved_tokens{model=\"tiny\"}";
const CANCELLED: &str = "inference_gateway_generations_total{finish_reason=\"cancelled\",model=\"tiny\"}";
const FIRST_TOKENS: &str = "inference_gateway_time_to_first_token_seconds_count{model=\"tiny\"}";
const STEPS: &str = "inference_gateway_step_duration_seconds_count{model=\"tiny\"}";

fn request(text: &str, max_tokens: usize) -> Value {
    json!({"text": text, "max_tokens": max_tokens, "stream": true, "ignore_eos": true})
}

#[tokio::test]
async fn clients_that_leave_the_rows_the_queue_or_a_long_prompt_free_their_places() {
    let model = prepared("models/smollm2-135m-instruct-int8").display().to_string();
    let flags = ["--max-batch-size=2", "--queue-limit=2", "--prefill-chunk-tokens=1"];
    let gateway = Gateway::serving(&model, &flags).await;
    gateway.wait_sample(RUNNING, 0.0).await;
    let (first_tokens, steps) = (gateway.sample(FIRST_TOKENS).await, gateway.sample(STEPS).await);

    let mut streaming = Stream::open(&gateway, &request("Once upon a time", 1000)).await;
    streaming.next().await.unwrap();
    // Fed token by token: minutes, of which nothing comes out.
    let prompt = Stream::open(&gateway, &request(&"a long prompt ".repeat(500), 1)).await;
    gateway.wait_sample(RUNNING, 2.0).await;
    let queued = Stream::open(&gateway, &request("I wait", 1)).await;
    gateway.wait_sample(WAITING, 1.0).await;

    drop(queued);
    gateway.wait_sample(CANCELLED, 1.0).await;
    gateway.wait_sample(WAITING, 0.0).await;
    drop(prompt);
    gateway.wait_sample(CANCELLED, 2.0).await;
    gateway.wait_sample(RUNNING, 1.0).await;
    // Whoever stays goes on.
    streaming.next().await.unwrap();
    drop(streaming);
    gateway.wait_sample(CANCELLED, 3.0).await;
    gateway.wait_sample(RUNNING, 0.0).await;
    gateway.wait_sample(RESERVED, 0.0).await;
    assert!(
        gateway.sample(FIRST_TOKENS).await <= first_tokens + 1.0,
        "only the one that streamed got a token: the others left before"
    );
    let ran = gateway.sample(STEPS).await - steps;
    assert!(ran < 1000.0, "{ran} steps were run for a prompt of 1500 tokens that nobody waited for");

    // All four places are free again.
    let opened = async {
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(Stream::open(&gateway, &request("Once upon a time", 3)).await);
        }
        for mut stream in streams {
            while stream.next().await.is_some() {}
        }
    };
    tokio::time::timeout(PATIENCE, opened).await.expect("four requests run");
}
