//! The end of the process: nothing in flight is lost, and nothing lasts for ever.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::harness::{Gateway, PATIENCE, settings, spawn, tiny};
use crate::streaming::events;

fn long(stream: bool) -> String {
    json!({"text": "abc", "max_tokens": 150, "stream": stream, "ignore_eos": true}).to_string()
}

#[tokio::test]
async fn requests_in_flight_finish_and_readiness_falls_at_once() {
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &[]).await;
    let answers: Vec<_> = [true, false, true]
        .into_iter()
        .map(|stream| {
            let sent = gateway.post(long(stream)).send();
            spawn(async move {
                let response = sent.await.unwrap();
                assert_eq!(response.status().as_u16(), 200);
                response.text().await.unwrap()
            })
        })
        .collect();
    gateway.wait_sample("inference_gateway_requests_running{model=\"tiny\"}", 3.0).await;
    gateway.stop();
    assert_eq!(gateway.wait_not_ready().await["reason"], "shutting down");
    for answer in answers {
        let text = answer.await.unwrap();
        assert!(text.contains("\"tokens_generated\":150"), "{text}");
    }
    gateway.ended().await.unwrap();
}

#[tokio::test]
async fn new_requests_are_accepted_during_the_delay() {
    let gateway = Gateway::serving(&tiny("llama"), &["--shutdown-delay=1h"]).await;
    gateway.stop();
    gateway.wait_not_ready().await;
    let (status, _) = gateway.infer(&json!({"text": "abc", "max_tokens": 3})).await;
    assert_eq!(status.as_u16(), 200);
    gateway.stop();
    gateway.ended().await.unwrap();
}

#[tokio::test]
async fn during_the_delay_each_answer_is_the_last_of_its_connection() {
    let gateway = Gateway::serving(&tiny("llama"), &["--shutdown-delay=1h"]).await;
    for path in ["/healthz", "/nowhere"] {
        assert!(!gateway.get(path).await.headers().contains_key("connection"), "{path} before the end");
    }
    gateway.stop();
    gateway.wait_not_ready().await;
    for path in ["/healthz", "/nowhere"] {
        assert_eq!(gateway.get(path).await.headers()["connection"], "close", "{path}");
    }
    for stream in [true, false] {
        let answer = gateway.post(long(stream)).send().await.unwrap();
        assert_eq!(answer.headers()["connection"], "close", "streamed {stream}");
        assert!(answer.text().await.unwrap().contains("\"tokens_generated\":150"));
    }
    gateway.wait_sample("inference_gateway_active_connections", 0.0).await;
    gateway.stop();
    gateway.ended().await.unwrap();
}

#[tokio::test]
async fn after_the_deadline_streams_end_with_an_error_not_with_a_cut() {
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--drain-timeout=1ms"]).await;
    let stream = gateway.post(long(true)).send().await.unwrap();
    let whole = gateway.post(long(false)).send();
    let whole = spawn(async move { whole.await.unwrap() });
    gateway.wait_sample("inference_gateway_requests_running{model=\"tiny\"}", 2.0).await;
    gateway.stop();
    let events = events(stream).await;
    let last = events.last().unwrap();
    assert_eq!(last["error"]["code"], "shutting_down", "{last}");
    assert!(last["error"]["request_id"].as_str().is_some(), "{last}");
    let answer = whole.await.unwrap();
    assert_eq!(answer.status().as_u16(), 503);
    assert_eq!(answer.json::<Value>().await.unwrap()["error"]["code"], "shutting_down");
    gateway.ended().await.unwrap();
}

#[tokio::test]
async fn idle_and_half_sent_connections_do_not_hold_the_end_up() {
    use std::io::Write;
    let gateway = Gateway::tiny().await;
    let idle = std::net::TcpStream::connect(gateway.api).unwrap();
    let mut half_sent = std::net::TcpStream::connect(gateway.api).unwrap();
    half_sent.write_all(b"POST /api/v1/inference HTTP/1.1\r\nHost: x\r\nContent-Le").unwrap();
    gateway.wait_sample("inference_gateway_active_connections", 2.0).await;
    gateway.stop();
    gateway.stop();
    tokio::time::timeout(Duration::from_secs(20), gateway.ended()).await.unwrap().unwrap();
    drop((idle, half_sent));
}

#[tokio::test]
async fn a_slow_reader_still_gets_everything() {
    let gateway = Gateway::tiny().await;
    let request = json!({"text": "abc", "max_tokens": 200, "stream": true, "ignore_eos": true});
    let response = gateway.post(request.to_string()).send().await.unwrap();
    gateway.stop();
    let mut body = response.bytes_stream();
    let mut text = String::new();
    while let Some(piece) = body.next().await {
        text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
        tokio::task::yield_now().await;
    }
    assert!(text.contains("\"tokens_generated\":200"), "{text}");
    gateway.ended().await.unwrap();
}

#[tokio::test]
async fn asked_again_to_stop_streams_end_with_an_error_not_with_a_cut() {
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--drain-timeout=1h"]).await;
    let stream = gateway.post(long(true)).send().await.unwrap();
    gateway.wait_sample("inference_gateway_requests_running{model=\"tiny\"}", 1.0).await;
    gateway.stop();
    gateway.wait_not_ready().await;
    gateway.stop();
    let events = events(stream).await;
    assert_eq!(events.last().unwrap()["error"]["code"], "shutting_down", "{events:?}");
    gateway.ended().await.unwrap();
}

#[tokio::test]
async fn a_model_that_is_being_fetched_does_not_hold_the_end_up() {
    // Takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let path = format!("--default-model-path=http://{}/model.onnx", silent.local_addr().unwrap());
    let cache = tempfile::tempdir().unwrap();
    let cache = format!("--cache-dir={}", cache.path().display());
    let flags =
        [path.as_str(), &cache, "--allowed-private-networks=127.0.0.0/8", "--insecure-hosts=127.0.0.1"];
    let gateway = Gateway::start(settings(&flags)).await;
    let asked = tokio::time::timeout(PATIENCE, silent.accept()).await;
    let connection = asked.expect("the model is fetched").unwrap();
    assert_eq!(gateway.wait_not_ready().await["models"][0]["state"], "fetching");
    gateway.stop();
    gateway.ended().await.unwrap();
    drop(connection);
}
