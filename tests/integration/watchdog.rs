//! A step that takes too long is told and seen: in the log, by `/readyz`, and at last by `/livez`.
//!
//! The step is an honest one: a long prompt in one chunk, on one thread.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::cli::{Served, serve};
use crate::harness::{PATIENCE, client, prepared};

/// Many times an ordinary step. One core that feeds the longest prompt within twice this time would be a wonder.
const STEP_TIMEOUT: &str = "--step-timeout=400ms";
/// Tokens of the first prompt that is tried, and of the longest.
const PROMPT_TOKENS: [usize; 4] = [500, 1000, 2000, 4000];

/// What the log says.
const TOLD: &str = "an engine step takes too long: the model is not ready";

/// What the probes say about a step that takes long.
#[derive(Debug, Default)]
struct Seen {
    not_ready: Option<Value>,
    /// Whether the process was alive when the model was not ready any more.
    alive_when_not_ready: bool,
    not_alive: Option<String>,
}

async fn get(served: &Served, path: &str) -> (StatusCode, String) {
    let response = client().get(format!("http://{}{path}", served.api)).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

/// Asks for a text with a prompt of `tokens` tokens and probes until it is answered.
async fn probe_during_prompt(served: &Served, tokens: usize) -> Seen {
    let request = json!({"text": " a".repeat(tokens), "max_tokens": 1});
    let url = format!("http://{}/api/v1/inference", served.api);
    let answer = client().post(url).body(request.to_string()).send();
    let mut seen = Seen::default();
    let probes = async {
        loop {
            // In this order: a step that is too old for the second was too old for the first.
            let (live, reason) = get(served, "/livez").await;
            let (ready, body) = get(served, "/readyz").await;
            if ready == StatusCode::SERVICE_UNAVAILABLE {
                seen.alive_when_not_ready |= live == StatusCode::OK;
                seen.not_ready = Some(serde_json::from_str(&body).unwrap());
            }
            if live == StatusCode::SERVICE_UNAVAILABLE {
                seen.not_alive = Some(reason);
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        answer = answer => {
            // A model that is not ready keeps what it has begun.
            let body: Value = answer.unwrap().json().await.unwrap();
            assert_eq!(body["metadata"]["prompt_tokens"], tokens, "{body}");
        }
        () = probes => {}
    }
    seen
}

#[tokio::test]
async fn a_step_that_takes_too_long_is_logged_and_fails_readiness_before_liveness() {
    let model = prepared("models/smollm2-135m-instruct-fp32").display().to_string();
    let served = serve(&model, &[STEP_TIMEOUT, "--prefill-chunk-tokens=8192", "--prefix-memory=0"]);
    let mut long_tokens = 0;
    let mut seen = Seen::default();
    for tokens in PROMPT_TOKENS {
        long_tokens = tokens;
        seen = probe_during_prompt(&served, tokens).await;
        if seen.not_alive.is_some() && seen.alive_when_not_ready {
            break;
        }
    }
    let reason = seen.not_alive.expect("a step of seconds fails liveness");
    assert!(reason.starts_with("the engine of tiny has been in one step for "), "{reason}");
    assert!(seen.alive_when_not_ready, "liveness failed as soon as readiness");
    let body = seen.not_ready.expect("what fails liveness fails readiness");
    let model = &body["models"][0];
    assert_eq!(
        (&body["ready"], &model["ready"], &model["state"]),
        (&json!(false), &json!(false), &json!("ready"))
    );
    let reason = model["reason"].as_str().unwrap();
    assert!(reason.starts_with("its engine has been in one step for "), "{reason}");

    // The step has ended, so both are well again; a busy machine may make another step long, but not all.
    let well = async {
        while get(&served, "/readyz").await.0 != StatusCode::OK
            || get(&served, "/livez").await.0 != StatusCode::OK
        {}
    };
    tokio::time::timeout(PATIENCE, well).await.expect("a step that has ended is forgotten");
    served.signal("TERM");
    let (code, lines) = served.end();
    assert_eq!(code, Some(0));
    let told: Vec<&Value> = lines.iter().filter(|line| line["message"] == TOLD).collect();
    assert!(
        told.iter().any(|line| {
            line["level"] == "ERROR"
                && line["model"] == "tiny"
                && line["rows"] == 0
                && line["chunk_tokens"] == long_tokens
                && line["age_ms"].as_u64().unwrap() > 400
        }),
        "{told:?}"
    );
}
