//! What a key may use in a minute and at once, and that nobody takes everything.

use std::time::Instant;

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{ALICE, BOB, Secret, generate, get, short};
use crate::harness::PATIENCE;

#[tokio::test]
async fn requests_of_a_minute_are_used_up_by_one_key_for_itself() {
    let secret = Secret::new(&format!(
        "keys:\n- {{name: alice, key: {ALICE}, models: ['*'], requestsPerMinute: 3}}\n- {{name: bob, key: {BOB}, models: ['*']}}\n"
    ));
    let gateway = secret.gateway(&[]).await;
    gateway.wait_ready().await;
    for _ in 0..3 {
        assert_eq!(get(&gateway, "/v1/models", ALICE).await.status(), 200);
    }
    let refused = get(&gateway, "/v1/models", ALICE).await;
    assert_eq!(refused.status(), 429);
    let seconds: u32 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=20).contains(&seconds), "{seconds}: one comes back in 20 s");
    let body: Value = refused.json().await.unwrap();
    assert_eq!(
        (&body["error"]["type"], &body["error"]["code"]),
        (&json!("rate_limit_error"), &json!("rate_limit_exceeded"))
    );
    let (status, body) = generate(&gateway, ALICE, short()).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("quota_exceeded")));
    assert_eq!(get(&gateway, "/v1/models", BOB).await.status(), 200);
    let refusals = "inference_gateway_caller_refusals_total{caller=\"alice\",reason=\"requests\"}";
    gateway.wait_sample(refusals, 2.0).await;
}

#[tokio::test]
async fn tokens_of_prompt_and_output_are_charged_and_a_debt_is_waited_off() {
    let secret =
        Secret::new(&format!("keys: [{{name: alice, key: {ALICE}, models: ['*'], tokensPerMinute: 6}}]"));
    let gateway = secret.gateway(&[]).await;
    gateway.wait_ready().await;
    let request = json!({"text": "Once upon a time", "max_tokens": 20, "ignore_eos": true});
    let (status, body) = generate(&gateway, ALICE, request.clone()).await;
    assert_eq!(status, 200, "what is left may be overdrawn: {body}");
    let (prompt, made) = (
        body["metadata"]["prompt_tokens"].as_f64().unwrap(),
        body["metadata"]["tokens_generated"].as_f64().unwrap(),
    );
    let used = async |kind| {
        gateway
            .sample(&format!("inference_gateway_caller_tokens_total{{caller=\"alice\",kind=\"{kind}\"}}"))
            .await
    };
    assert_eq!((used("prompt").await, used("generated").await), (prompt, made));
    let response = gateway.post(request.to_string()).bearer_auth(ALICE).send().await.unwrap();
    assert_eq!(response.status(), 429);
    let seconds: f64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    // 6 a minute: 10 seconds for each token of the debt, and for the one that is to be there.
    let debt = prompt + made - 6.0;
    assert!(seconds > debt * 10.0 - 20.0 && seconds <= (debt + 1.0) * 10.0 + 1.0, "{seconds} for {debt}");
    // What costs no tokens goes on.
    assert_eq!(get(&gateway, "/v1/models", ALICE).await.status(), 200);
}

#[tokio::test]
async fn a_request_counts_as_running_from_its_head_to_the_end_of_its_answer() {
    let secret =
        Secret::new(&format!("keys: [{{name: alice, key: {ALICE}, models: ['*'], concurrentRequests: 1}}]"));
    let gateway = secret.gateway(&[]).await;
    gateway.wait_ready().await;
    let status = async || get(&gateway, "/v1/models", ALICE).await.status().as_u16();
    let until = async |wanted: u16| {
        let began = Instant::now();
        while status().await != wanted {
            assert!(began.elapsed() < PATIENCE, "the status never was {wanted}");
        }
    };
    let body = json!({"text": "Once", "max_tokens": 2, "stream": true}).to_string();
    let (half, rest) = body.split_at(10);
    let mut running = TcpStream::connect(gateway.api).await.unwrap();
    let head = format!(
        "POST /api/v1/inference HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {ALICE}\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{half}",
        body.len()
    );
    running.write_all(head.as_bytes()).await.unwrap();
    until(429).await;
    let refused: Value = get(&gateway, "/v1/models", ALICE).await.json().await.unwrap();
    let message = "1 requests of this key are running, which is all that it may have at once";
    assert_eq!(refused["error"]["message"], message);
    running.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    running.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    until(200).await;
    // One whose client goes away is over too.
    let mut leaving = TcpStream::connect(gateway.api).await.unwrap();
    leaving.write_all(head.as_bytes()).await.unwrap();
    until(429).await;
    drop(leaving);
    until(200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_cannot_fill_the_queue_and_another_does_not_wait_behind_all_of_it() {
    let secret = Secret::new(&format!(
        "keys:\n- {{name: alice, key: {ALICE}, models: ['*']}}\n- {{name: bob, key: {BOB}, models: ['*']}}\n"
    ));
    // Sixteen places, of which one key may have eight.
    let gateway = secret.gateway(&["--max-batch-size=1", "--queue-limit=15"]).await;
    gateway.wait_ready().await;
    let long = json!({"text": "Once", "max_tokens": 200, "ignore_eos": true});
    let ask = async |key: &'static str| {
        let (status, body) = generate(&gateway, key, long.clone()).await;
        (status, Instant::now(), body)
    };
    let alice = join_all((0..12).map(|_| ask(ALICE)));
    let bob = async {
        gateway.wait_sample("inference_gateway_requests_waiting{model=\"tiny\"}", 7.0).await;
        ask(BOB).await
    };
    let (alice, (status, bob_ended, body)) = tokio::join!(alice, bob);
    assert_eq!(status, 200, "{body}");
    let (answered, refused): (Vec<_>, Vec<_>) = alice.into_iter().partition(|(status, ..)| *status == 200);
    assert_eq!(answered.len(), 8);
    for (status, _, body) in refused {
        assert_eq!((status, &body["error"]["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("overloaded")));
    }
    let later = answered.iter().filter(|(_, ended, _)| *ended > bob_ended).count();
    assert!(later >= 4, "the other key had its turn behind {} of eight", 8 - later);
}
