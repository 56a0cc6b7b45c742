//! Two models in one process share the compute threads a step each, however unlike their steps are.

use std::time::Instant;

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{Gateway, ModelsList, PATIENCE, entry, prepared, tiny};

/// Steps of the slow model that are looked at.
const SLOW_STEPS: u64 = 60;

/// Keeps all rows of a model busy for ever.
async fn load(gateway: &Gateway, model: &str) {
    let client = async || {
        let body = json!({"model": model, "text": "Once upon a time", "max_tokens": 200, "temperature": 0, "ignore_eos": true});
        loop {
            let (status, answer) = gateway.infer(&body).await;
            assert_eq!(status, 200, "{answer}");
        }
    };
    // More than rows, so that a next one waits whenever a row gets free.
    join_all((0..12).map(|_| client())).await;
}

/// Steps that a model has run.
async fn steps(gateway: &Gateway, model: &str) -> u64 {
    gateway.sample(&format!("inference_gateway_step_duration_seconds_count{{model=\"{model}\"}}")).await
        as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quick_model_and_a_slow_one_take_turns() {
    let int8 = prepared("models/smollm2-135m-instruct-int8").display().to_string();
    let list = [("quick", tiny("llama")), ("slow", int8)].map(|(name, model)| {
        entry(name, &model, "runtime: {maxBatchSize: 4, cacheMemory: 256Mi, prefixMemory: 0}")
    });
    let list = ModelsList::new(&list.concat());
    let gateway = list.gateway(&["--prefill-chunk-tokens=16"]).await;
    gateway.wait_ready().await;
    let counts = async || [steps(&gateway, "quick").await, steps(&gateway, "slow").await];
    let watch = async {
        let began = Instant::now();
        let until = async |slow_steps: u64| {
            loop {
                let [quick, slow] = counts().await;
                if slow >= slow_steps {
                    return [quick, slow];
                }
                assert!(began.elapsed() < PATIENCE, "the slow model does not get on: {quick} {slow}");
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        // Both are busy from here on.
        let busy = counts().await[1] + 5;
        let before = until(busy).await;
        let after = until(before[1] + SLOW_STEPS).await;
        [after[0] - before[0], after[1] - before[1]]
    };
    let [quick_steps, slow_steps] = tokio::select! {
        steps = watch => steps,
        () = load(&gateway, "quick") => panic!("the load ended"),
        () = load(&gateway, "slow") => panic!("the load ended"),
    };
    // Unfair would be tens of quick steps for each slow one, or none.
    assert!(
        quick_steps * 2 >= slow_steps && quick_steps <= slow_steps * 2,
        "{quick_steps} quick steps beside {slow_steps} slow ones"
    );
}
