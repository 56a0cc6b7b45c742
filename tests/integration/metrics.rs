//! What is measured, and that real parsers read it.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Gateway, project, python, settings, tiny};

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

/// A client that does many things, and then looks whether each was counted once.
#[tokio::test]
async fn counts_are_what_a_client_did() {
    let gateway = Gateway::tiny().await;
    // The model was tried before it served: that is in the counts of the engine, and not in those of requests.
    let of_engine = ["queue_duration_seconds_count", "prefill_duration_seconds_count"];
    let of_engine = of_engine.map(|family| format!("inference_gateway_{family}{{model=\"tiny\"}}"));
    let mut tried = Vec::new();
    for sample in &of_engine {
        tried.push(gateway.sample(sample).await);
    }
    let completion = json!({
        "model": "tiny", "prompt": "Hello", "max_tokens": 3, "n": 2, "ignore_eos": true, "temperature": 1,
    });
    for _ in 0..3 {
        gateway.infer(&json!({"text": "Hello", "max_tokens": 10, "ignore_eos": true})).await;
    }
    gateway.infer(&json!({"text": ["Hello", "Hello"], "max_tokens": 4, "ignore_eos": true})).await;
    let stream = json!({"text": "Hello", "max_tokens": 6, "ignore_eos": true, "stream": true});
    gateway.post(stream.to_string()).send().await.unwrap().text().await.unwrap();
    let url = format!("http://{}/v1/completions", gateway.api);
    let answer = gateway.client.post(url).body(completion.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap();
    // One token, so there is nothing between two.
    gateway.infer(&json!({"text": "Hello", "max_tokens": 1, "ignore_eos": true})).await;
    gateway.infer(&json!({"text": "Hello", "max_tokens": 100_000})).await;
    gateway.infer(&json!({"text": "Hello", "temperature": 9})).await;
    gateway.infer(&json!({"text": "Hello", "model": "other"})).await;
    gateway.get("/v1/models").await;

    let (generations, tokens) = (9.0, 30.0 + 8.0 + 6.0 + 6.0 + 1.0);
    for (sample, value) in [
        ("http_requests_total{method=\"POST\",status=\"200\"}", 7.0),
        ("http_requests_total{method=\"POST\",status=\"400\"}", 1.0),
        ("http_requests_total{method=\"POST\",status=\"422\"}", 1.0),
        ("http_requests_total{method=\"POST\",status=\"404\"}", 1.0),
        ("http_requests_total{method=\"GET\",status=\"200\"}", 1.0),
        ("http_request_duration_seconds_count", 11.0),
        ("generations_total{finish_reason=\"length\",model=\"tiny\"}", generations),
        ("inference_duration_seconds_count", generations),
        ("generation_duration_seconds_count{model=\"tiny\"}", generations),
        ("time_to_first_token_seconds_count{model=\"tiny\"}", generations),
        ("time_per_output_token_seconds_count{model=\"tiny\"}", generations - 1.0),
        ("decode_duration_seconds_count{model=\"tiny\"}", generations - 1.0),
        ("prompt_tokens_total{model=\"tiny\"}", 5.0 * generations),
        ("generation_prompt_tokens_sum{model=\"tiny\"}", 5.0 * generations),
        ("generation_prompt_tokens_bucket{model=\"tiny\",le=\"4.0\"}", 0.0),
        ("generation_prompt_tokens_bucket{model=\"tiny\",le=\"16.0\"}", generations),
        ("generated_tokens_total{model=\"tiny\"}", tokens),
        ("generation_output_tokens_sum{model=\"tiny\"}", tokens),
        ("generation_output_tokens_count{model=\"tiny\"}", generations),
        ("requests_running{model=\"tiny\"}", 0.0),
        ("requests_waiting{model=\"tiny\"}", 0.0),
    ] {
        gateway.wait_sample(&format!("inference_gateway_{sample}"), value).await;
    }
    for (sample, tried) in of_engine.iter().zip(tried) {
        gateway.wait_sample(sample, tried + generations).await;
    }
}

#[tokio::test]
async fn latencies_name_the_last_sampled_request_to_those_who_ask_for_it() {
    let gateway = Gateway::tiny().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    for flags in ["00", "01"] {
        let body = json!({"text": "Hello", "max_tokens": 3, "ignore_eos": true}).to_string();
        // Another trace, which nobody keeps, comes first.
        let trace = if flags == "01" { trace } else { "11111111111111111111111111111111" };
        let traceparent = format!("00-{trace}-00f067aa0ba902b7-{flags}");
        gateway.post(body).header("traceparent", traceparent).send().await.unwrap().text().await.unwrap();
    }
    gateway.wait_sample("inference_gateway_http_request_duration_seconds_count", 2.0).await;
    let ask = async |accept: &str| {
        let request = gateway.client.get(format!("http://{}/metrics", gateway.ops));
        request.header("accept", accept).send().await.unwrap().text().await.unwrap()
    };
    let found = parse("openmetrics", &ask("application/openmetrics-text").await);
    let exemplars: Vec<(&str, &str)> = found.lines().filter_map(|line| line.split_once(' ')).collect();
    for family in [
        "http_request_duration_seconds",
        "inference_duration_seconds",
        "generation_duration_seconds",
        "time_to_first_token_seconds",
        "time_per_output_token_seconds",
        "queue_duration_seconds",
        "prefill_duration_seconds",
        "decode_duration_seconds",
    ] {
        let name = format!("inference_gateway_{family}_bucket");
        assert!(exemplars.contains(&(name.as_str(), trace)), "{family} in {found}");
    }
    assert!(exemplars.iter().all(|(_, id)| *id == trace), "what nobody keeps is no example: {found}");
    for accept in ["*/*", "text/plain"] {
        assert!(!ask(accept).await.contains(trace), "{accept}");
    }
}

#[tokio::test]
async fn endpoint_pickers_find_their_families_where_that_is_set() {
    let gateway = Gateway::serving(&tiny("llama"), &["--picker-metrics=true"]).await;
    gateway.infer(&json!({"text": "Hello", "max_tokens": 3})).await;
    // A row is free a moment after its answer.
    for gauge in ["vllm:num_requests_running", "vllm:kv_cache_usage_perc"] {
        gateway.wait_sample(gauge, 0.0).await;
    }
    let text = gateway.get("/metrics").await.text().await.unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("vllm:")).collect();
    assert_eq!(
        lines[..3],
        ["vllm:num_requests_waiting 0", "vllm:num_requests_running 0", "vllm:kv_cache_usage_perc 0"]
    );
    let info = lines[3].strip_prefix("vllm:cache_config_info{block_size=\"64\",num_gpu_blocks=\"").unwrap();
    let blocks: usize = info.split('"').next().unwrap().parse().unwrap();
    let tokens = gateway.sample("inference_gateway_cache_capacity_tokens{model=\"tiny\"}").await;
    assert_eq!((lines.len(), blocks), (4, tokens as usize / 64));
    let families = parse("openmetrics", &text);
    assert!(families.lines().any(|line| line == "vllm:cache_config_info"), "{families}");
    let off = Gateway::tiny().await;
    assert!(!off.get("/metrics").await.text().await.unwrap().contains("vllm:"));
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
