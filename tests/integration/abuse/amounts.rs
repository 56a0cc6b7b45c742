//! More than anybody needs: of text, of names.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::ROUTES;
use crate::cli::serve;
use crate::harness::{Gateway, client, tiny};

/// Far less than the engine's own deadline, and far more than a refusal takes on a busy machine.
const BOUNDED: Duration = Duration::from_mins(1);
/// Of all long prompts together.
const MOST_GROWTH_BYTES: u64 = 512 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_of_fifty_megabytes_is_refused_while_others_are_answered() {
    let flags = ["--max-body-bytes=60000000", "--max-batch-size=1", "--queue-limit=1"];
    let gateway = Gateway::serving(&tiny("llama"), &flags).await;
    let prompt = json!("a".repeat(50_000_000)).to_string();
    for route in &ROUTES {
        let huge = async {
            let asked = route.ask(&gateway, route.request(&prompt, &[]));
            tokio::time::timeout(BOUNDED, asked).await.expect("a refusal comes soon")
        };
        let others = async {
            // One of two places is taken by the huge request for as long as it is looked at.
            let request = json!({"text": "a", "max_tokens": 3, "ignore_eos": true});
            let mut answered = 0;
            for _ in 0..10 {
                assert_eq!(gateway.get("/healthz").await.status(), StatusCode::OK);
                let (status, answer) = gateway.infer(&request).await;
                assert_eq!((status, &answer["metadata"]["tokens_generated"]), (StatusCode::OK, &json!(3)));
                answered += 1;
            }
            answered
        };
        let ((status, answer), answered) = tokio::join!(huge, others);
        assert_eq!(answered, 10);
        let (_, message) = route.told(&answer);
        assert_eq!(status.as_u16(), route.refused[0], "{}: {answer}", route.path);
        assert!(message.contains("context of 256 tokens"), "{}: {message}", route.path);
        let code = answer["error"]["code"].as_str();
        assert!(code.is_none_or(|code| code == "context_length_exceeded"), "{}: {answer}", route.path);
        // The row was never taken, and nothing was fed.
        assert!(gateway.sample("inference_gateway_prompt_tokens_total{model=\"tiny\"}").await < 10_000.0);
    }
}

/// Each is as long as a prompt may be, and takes some 25 MiB while it is tokenised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_long_prompts_at_once_take_the_memory_of_some() {
    let served = serve(&tiny("llama"), &[]);
    let ask = async |text: String| {
        let request = json!({"text": text, "max_tokens": 1}).to_string();
        let url = format!("http://{}/api/v1/inference", served.api);
        client().post(url).body(request).send().await.unwrap().status()
    };
    let before = served.most_resident_bytes();
    let long = stream::iter(0..32).map(|number| ask(format!("{number} {}", "many words ".repeat(23_000))));
    let short = async {
        let asked = tokio::time::timeout(BOUNDED, ask("a".to_owned()));
        asked.await.expect("an answer comes soon, whoever waits")
    };
    let (long, short) = tokio::join!(long.buffer_unordered(32).collect::<Vec<_>>(), short);
    assert_eq!(short, StatusCode::OK);
    assert_eq!(long, [StatusCode::BAD_REQUEST; 32], "longer than the context");
    let grown = served.most_resident_bytes() - before;
    assert!(grown < MOST_GROWTH_BYTES, "{} MiB more", grown >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_names_paths_methods_and_agents_make_no_new_series() {
    let gateway = Gateway::tiny().await;
    let client = reqwest::Client::builder().pool_max_idle_per_host(8).build().unwrap();
    let series = async || {
        let text = gateway.get_ops("/metrics").await.text().await.unwrap();
        let name = |line: &str| line.rsplit_once(' ').unwrap().0.to_owned();
        text.lines().filter(|line| !line.starts_with('#')).map(name).collect::<Vec<String>>()
    };
    let ask = async |number: usize| {
        let body = json!({"text": "a", "model": format!("model-{number}")}).to_string();
        let native = client.post(format!("http://{}/api/v1/inference", gateway.api)).body(body);
        let native = native.header("user-agent", format!("agent-{number}"));
        let native = native.header("x-request-id", format!("id-{number}")).send().await.unwrap();
        let method = Method::from_bytes(format!("METHOD{number}").as_bytes()).unwrap();
        let url = format!("http://{}/v2/models/name-{number}/generate", gateway.api);
        let other = client.request(method, url).header("user-agent", format!("agent-{number}"));
        let other = other.send().await.unwrap();
        let path =
            client.get(format!("http://{}/path/{number}?q={number}", gateway.api)).send().await.unwrap();
        [native, other, path].map(|response| response.status().as_u16())
    };
    assert_eq!(ask(0).await, [404, 405, 404]);
    // Responses are counted when they have been sent.
    gateway.wait_sample("inference_gateway_http_requests_total{method=\"GET\",status=\"404\"}", 1.0).await;
    gateway.wait_sample("inference_gateway_http_requests_total{method=\"other\",status=\"405\"}", 1.0).await;
    let before = series().await;
    let mut answers = stream::iter(1..10_000).map(ask).buffer_unordered(8);
    while let Some(statuses) = answers.next().await {
        assert_eq!(statuses, [404, 405, 404]);
    }
    gateway
        .wait_sample("inference_gateway_http_requests_total{method=\"GET\",status=\"404\"}", 10_000.0)
        .await;
    assert_eq!(series().await, before);
    let readable: Value = gateway.readyz().await.1;
    assert_eq!(readable["models"].as_array().map(Vec::len), Some(1), "{readable}");
}
