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
    for model in ["llama", "llama-all-logits", "gpt2", "gpt2-merged"] {
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
