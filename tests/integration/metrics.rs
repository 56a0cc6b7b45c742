//! What is measured, and that real parsers read it.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Gateway, project, python, settings};

#[tokio::test]
async fn requests_tokens_and_times_are_counted() {
    let gateway = Gateway::tiny().await;
    for _ in 0..3 {
        gateway.infer(&json!({"text": "Hello", "max_tokens": 10, "ignore_eos": true})).await;
    }
    gateway.infer(&json!({"text": ""})).await;
    gateway.get("/nowhere").await;
    let expected = [
        ("inference_gateway_http_requests_total{method=\"POST\",status=\"200\"}", 3.0),
        ("inference_gateway_http_requests_total{method=\"POST\",status=\"422\"}", 1.0),
        ("inference_gateway_http_requests_total{method=\"GET\",status=\"404\"}", 1.0),
        ("inference_gateway_http_request_duration_seconds_count", 5.0),
        ("inference_gateway_inference_duration_seconds_count", 3.0),
        ("inference_gateway_prompt_tokens_total{model=\"tiny\"}", 15.0),
        ("inference_gateway_generated_tokens_total{model=\"tiny\"}", 30.0),
        ("inference_gateway_generations_total{finish_reason=\"length\",model=\"tiny\"}", 3.0),
        ("inference_gateway_time_to_first_token_seconds_count{model=\"tiny\"}", 3.0),
        ("inference_gateway_time_per_output_token_seconds_count{model=\"tiny\"}", 3.0),
        ("inference_gateway_draft_proposed_tokens_total{model=\"tiny\"}", 0.0),
        ("inference_gateway_draft_accepted_tokens_total{model=\"tiny\"}", 0.0),
        ("inference_gateway_model_ready{model=\"tiny\"}", 1.0),
        ("inference_gateway_ready", 1.0),
        ("inference_gateway_queue_limit{model=\"tiny\"}", 256.0),
        ("inference_gateway_cache_usage_ratio{model=\"tiny\"}", 0.0),
        (concat!("inference_gateway_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
        ("inference_gateway_model_load_duration_seconds_count{model=\"tiny\",phase=\"fetch\"}", 1.0),
        ("inference_gateway_model_load_duration_seconds_count{model=\"tiny\",phase=\"load\"}", 1.0),
        ("inference_gateway_model_load_duration_seconds_count{model=\"tiny\",phase=\"warm\"}", 1.0),
    ];
    for (sample, value) in expected {
        gateway.wait_sample(sample, value).await;
    }
}

#[tokio::test]
async fn a_model_that_does_not_come_is_not_ready() {
    let missing = "--default-model-path=/nowhere/at-all";
    let gateway = Gateway::start(settings(&[missing, "--memory-limit=2Gi"])).await;
    gateway.wait_state("fetching").await;
    let text = gateway.get_ops("/metrics").await.text().await.unwrap();
    for line in [
        "inference_gateway_ready 0",
        "inference_gateway_model_ready{model=\"tiny\"} 0",
        "inference_gateway_memory_limit_bytes 2147483648",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} not in {text}");
    }
    for prefix in [
        "inference_gateway_model_failures_total{model=\"tiny\",reason=\"SourceNotFound\"} ",
        "process_start_time_seconds ",
        "process_resident_memory_bytes ",
        "process_cpu_seconds_total ",
    ] {
        assert!(text.lines().any(|one| one.starts_with(prefix)), "{prefix} not in {text}");
    }
}

#[tokio::test]
async fn open_connections_are_counted_and_forgotten() {
    let gateway = Gateway::tiny().await;
    gateway.wait_sample("inference_gateway_active_connections", 0.0).await;
    let connections = [(); 3].map(|()| std::net::TcpStream::connect(gateway.api).unwrap());
    gateway.wait_sample("inference_gateway_active_connections", 3.0).await;
    drop(connections);
    gateway.wait_sample("inference_gateway_active_connections", 0.0).await;
}

#[tokio::test]
async fn what_clients_send_makes_no_new_series() {
    let gateway = Gateway::tiny().await;
    let series = async || gateway.get_ops("/metrics").await.text().await.unwrap().lines().count();
    let ask = async |number: usize| {
        gateway.infer(&json!({"text": "a", "model": format!("model-{number}")})).await;
        gateway.get(&format!("/path/{number}")).await;
        let method = reqwest::Method::from_bytes(format!("METHOD{number}").as_bytes()).unwrap();
        gateway.client.request(method, format!("http://{}/healthz", gateway.api)).send().await.unwrap();
    };
    ask(0).await;
    gateway.wait_sample("inference_gateway_http_requests_total{method=\"other\",status=\"405\"}", 1.0).await;
    let before = series().await;
    for number in 1..20 {
        ask(number).await;
    }
    gateway.wait_sample("inference_gateway_http_requests_total{method=\"other\",status=\"405\"}", 20.0).await;
    assert_eq!(series().await, before);
}

#[tokio::test]
async fn the_format_follows_the_accept_header_and_real_parsers_read_both() {
    let gateway = Gateway::tiny().await;
    gateway.infer(&json!({"text": "Hello", "max_tokens": 3})).await;
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    for (accept, content_type, parser) in [
        (None, "application/openmetrics-text", "openmetrics"),
        (Some(prometheus), "application/openmetrics-text", "openmetrics"),
        (Some("text/plain"), "text/plain", "text"),
    ] {
        let mut request = gateway.client.get(format!("http://{}/metrics", gateway.api));
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        let response = request.send().await.unwrap();
        let found = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(found.starts_with(content_type), "{accept:?} got {found}");
        let families = parse(parser, &response.text().await.unwrap());
        for family in ["inference_gateway_http_requests", "inference_gateway_time_to_first_token_seconds"] {
            assert!(families.lines().any(|line| line == family), "{family} not in {families}");
        }
    }
}

/// Family names as the Python client library parses them.
fn parse(parser: &str, text: &str) -> String {
    assert!(project().join("tests/fixtures/parse_metrics.py").exists());
    let mut command: Command = python("tests/fixtures/parse_metrics.py");
    let mut child = command.arg(parser).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the {parser} parser refused:\n{text}");
    String::from_utf8(output.stdout).unwrap()
}
