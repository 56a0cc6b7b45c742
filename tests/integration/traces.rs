//! Traces: what a collector gets of requests and of the work on models, and what happens when it is not there.

mod collector;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use self::collector::{Collector, attribute, children, hexadecimal, names};
use crate::harness::{Gateway, ModelsList, entry, prepared, spawn, tiny};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const SECRET: &str = "a very private prompt";
const ROUTE: &str = "POST /api/v1/inference";

fn sampled() -> String {
    format!("00-{TRACE}-{CALLER}-01")
}

async fn traced(collector: &Collector, more: &[&str]) -> Gateway {
    let endpoint = format!("--otel-exporter-otlp-endpoint={}", collector.address);
    Gateway::serving(&tiny("llama"), &[&[endpoint.as_str()], more].concat()).await
}

fn is_request(span: &Span) -> bool {
    span.kind == SpanKind::Server as i32
}

/// The part of a span's time in which none of `parts` was on.
fn hole(whole: &Span, parts: &[&Span]) -> f64 {
    let mut times: Vec<(u64, u64)> =
        parts.iter().map(|part| (part.start_time_unix_nano, part.end_time_unix_nano)).collect();
    times.sort_unstable();
    let (mut at, mut missing) = (whole.start_time_unix_nano, 0);
    for (begin, end) in times {
        missing += begin.saturating_sub(at);
        at = at.max(end);
    }
    missing += whole.end_time_unix_nano.saturating_sub(at);
    missing as f64 / (whole.end_time_unix_nano - whole.start_time_unix_nano) as f64
}

#[tokio::test]
async fn a_request_is_one_trace_without_holes_and_without_a_word_of_its_text() {
    for protocol in ["http/protobuf", "grpc"] {
        let collector = Collector::start().await;
        let flags = [
            format!("--otel-exporter-otlp-protocol={protocol}"),
            "--otel-exporter-otlp-headers=authorization=Bearer%20abc".to_owned(),
            "--otel-resource-attributes=deployment.environment.name=test".to_owned(),
            "--otel-service-name=mine".to_owned(),
        ];
        let gateway = traced(&collector, &flags.each_ref().map(String::as_str)).await;
        let request = json!({
            "text": SECRET, "max_tokens": 100, "ignore_eos": true, "temperature": 0.5, "seed": 7, "return_full_text": false,
        });
        let response =
            gateway.post(request.to_string()).header("traceparent", sampled()).send().await.unwrap();
        let answered = response.headers()["traceparent"].to_str().unwrap().to_owned();
        let request_id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let text = response.json::<serde_json::Value>().await.unwrap()["generated_text"].clone();

        let (server, spans) = collector.wait(is_request).await;
        assert_eq!(server.name, ROUTE, "{protocol}");
        assert_eq!(hexadecimal(&server.trace_id), TRACE);
        assert_eq!(hexadecimal(&server.parent_span_id), CALLER);
        assert_eq!(answered, format!("00-{TRACE}-{}-01", hexadecimal(&server.span_id)));
        assert_eq!(attribute(&server, "http.response.status_code"), "200");
        assert_eq!(attribute(&server, "inference_gateway.request_id"), request_id);

        let below = children(&spans, &server);
        assert_eq!(names(&below), ["receive", "respond", "text_completion tiny"]);
        let inference = below.iter().find(|span| span.name.starts_with("text_completion")).unwrap();
        for (name, value) in [
            ("gen_ai.operation.name", "text_completion"),
            ("gen_ai.request.model", "tiny"),
            ("gen_ai.request.max_tokens", "100"),
            ("gen_ai.request.temperature", "0.5"),
            ("gen_ai.request.seed", "7"),
            ("gen_ai.usage.input_tokens", "21"),
            ("gen_ai.usage.output_tokens", "100"),
            ("gen_ai.response.finish_reasons", "length"),
        ] {
            assert_eq!(attribute(inference, name), value, "{name}");
        }
        let phases = children(&spans, inference);
        assert_eq!(names(&phases), ["decode", "prefill", "queue", "tokenise"]);
        let parts: Vec<&Span> =
            phases.iter().chain(below.iter().filter(|span| span.name != inference.name)).copied().collect();
        let missing = hole(&server, &parts);
        assert!(missing < 0.05, "{protocol}: {missing} of the request is in no span");

        let told = format!("{spans:?}");
        assert!(!told.contains("private") && !told.contains(text.as_str().unwrap()), "text of the request");
        assert_eq!(collector.resource("service.name").as_deref(), Some("mine"));
        assert_eq!(collector.resource("deployment.environment.name").as_deref(), Some("test"));
        assert_eq!(collector.authorization().as_deref(), Some("Bearer abc"));
    }
}

#[tokio::test]
async fn each_generation_has_its_phases_and_a_format_one_more() {
    let collector = Collector::start().await;
    let gateway = traced(&collector, &[]).await;
    let request = json!({
        "text": ["one", "two"], "max_tokens": 8, "format": {"type": "choice", "choices": ["aaaa", "bbbb"]},
    });
    assert_eq!(gateway.infer(&request).await.0, 200);
    let (server, spans) = collector.wait(is_request).await;
    assert!(server.parent_span_id.is_empty(), "nobody called");
    let below = children(&spans, &server);
    let inference = below.iter().find(|span| span.name == "text_completion tiny").unwrap();
    assert_eq!(attribute(inference, "gen_ai.request.choice.count"), "2");
    assert_eq!(attribute(inference, "gen_ai.response.finish_reasons"), "eos,eos");
    let phases = children(&spans, inference);
    let expected = ["compile format", "decode", "decode", "prefill", "prefill", "queue", "queue", "tokenise"];
    assert_eq!(names(&phases), expected);
    let mut numbers: Vec<String> = phases
        .iter()
        .filter(|span| span.name == "decode")
        .map(|span| attribute(span, "inference_gateway.generation"))
        .collect();
    numbers.sort();
    assert_eq!(numbers, ["0", "1"]);
}

#[tokio::test]
async fn what_fails_says_so_in_its_spans() {
    let collector = Collector::start().await;
    let gateway = traced(&collector, &[]).await;
    let too_long = json!({"text": "a", "max_tokens": 100_000});
    assert_eq!(gateway.infer(&too_long).await.0, 400);
    let (refused, _) = collector.wait(|span| span.name == "text_completion tiny").await;
    assert_eq!(attribute(&refused, "error.type"), "context_length_exceeded");
    let (server, _) = collector.wait(is_request).await;
    assert_eq!(attribute(&server, "http.response.status_code"), "400");
    assert_eq!(attribute(&server, "error.type"), "", "the client's mistake is none of the server");
}

#[tokio::test]
async fn a_client_that_goes_away_is_seen_in_the_spans() {
    let collector = Collector::start().await;
    let endpoint = format!("--otel-exporter-otlp-endpoint={}", collector.address);
    // A model that is slow enough not to be done before.
    let model = prepared("models/smollm2-135m-instruct-int8").display().to_string();
    let gateway = Gateway::serving(&model, &[&endpoint]).await;
    let endless = json!({"text": "Once", "max_tokens": 1000, "ignore_eos": true, "stream": true});
    let mut response = gateway.post(endless.to_string()).send().await.unwrap();
    response.chunk().await.unwrap();
    drop(response);
    let (gone, spans) = collector.wait(|span| attribute(span, "http.response.status_code") == "499").await;
    assert_eq!(attribute(&gone, "error.type"), "client_gone");
    let inference = children(&spans, &gone).into_iter().find(|span| span.name.starts_with("text")).unwrap();
    assert_eq!(attribute(inference, "gen_ai.response.finish_reasons"), "cancelled");
}

#[tokio::test]
async fn bringing_a_model_into_service_is_one_trace() {
    let collector = Collector::start().await;
    let list = ModelsList::new(&entry("chat", &tiny("llama"), ""));
    let endpoint = format!("--otel-exporter-otlp-endpoint={}", collector.address);
    let gateway = list.gateway(&[endpoint.as_str(), "--otel-exporter-otlp-protocol=grpc"]).await;
    gateway.wait_ready().await;
    let (work, spans) = collector.wait(|span| span.name == "bring into service").await;
    assert_eq!(attribute(&work, "inference_gateway.model.name"), "chat");
    assert_eq!(names(&children(&spans, &work)), ["fetch", "load", "swap", "verify", "warm"]);

    list.write(&entry("chat", &tiny("gpt2"), "rollout: {watch: {windowSeconds: 0}}"));
    gateway.reload();
    let (drain, _) = collector.wait(|span| span.name == "drain").await;
    assert_eq!(attribute(&drain, "inference_gateway.model.name"), "chat");

    list.write(&entry("chat", "/nowhere/at-all", ""));
    gateway.reload();
    let (failed, spans) = collector
        .wait(|span| span.name == "bring into service" && span.status.as_ref().unwrap().code == 2)
        .await;
    assert_eq!(attribute(&failed, "error.type"), "SourceNotFound");
    assert_eq!(names(&children(&spans, &failed)), ["fetch"]);
}

#[tokio::test]
async fn the_caller_or_the_sampler_decides_what_is_kept() {
    let collector = Collector::start().await;
    let gateway = traced(&collector, &[]).await;
    let ask = async |traceparent: String| {
        let body = json!({"text": "a", "max_tokens": 1}).to_string();
        let response = gateway.post(body).header("traceparent", traceparent).send().await.unwrap();
        response.headers()["traceparent"].to_str().unwrap().to_owned()
    };
    let unwanted = ask(sampled().replace("-01", "-00")).await;
    assert!(unwanted.starts_with(&format!("00-{TRACE}-")) && unwanted.ends_with("-00"), "{unwanted}");
    let garbage = ask("00-xyz".to_owned()).await;
    assert!(
        garbage.ends_with("-01") && !garbage.contains(TRACE),
        "a new trace, as without a header: {garbage}"
    );
    let (server, spans) = collector.wait(is_request).await;
    assert_eq!(hexadecimal(&server.trace_id), garbage[3..35]);
    assert!(spans.iter().all(|span| hexadecimal(&span.trace_id) != TRACE));

    let off = Collector::start().await;
    let gateway = traced(&off, &["--otel-traces-sampler=always_off"]).await;
    let response = gateway.post(r#"{"text": "a"}"#).header("traceparent", sampled()).send().await.unwrap();
    assert!(response.headers()["traceparent"].to_str().unwrap().ends_with("-00"));
    gateway.stop();
    gateway.ended().await.unwrap();
    assert!(off.spans().is_empty());
}

#[tokio::test]
async fn without_a_collector_a_request_has_its_place_in_the_callers_trace_all_the_same() {
    let gateway = Gateway::tiny().await;
    let response = gateway.post(r#"{"text": "a"}"#).header("traceparent", sampled()).send().await.unwrap();
    let answered = response.headers()["traceparent"].to_str().unwrap().to_owned();
    assert!(answered.starts_with(&format!("00-{TRACE}-")) && !answered.contains(CALLER), "{answered}");
    assert!(!gateway.get_ops("/metrics").await.text().await.unwrap().contains("trace_spans"));
}

#[tokio::test]
async fn the_last_spans_arrive_before_the_process_ends() {
    let collector = Collector::start().await;
    let gateway = traced(&collector, &[]).await;
    for _ in 0..20 {
        assert_eq!(gateway.infer(&json!({"text": "a", "max_tokens": 1})).await.0, 200);
    }
    gateway.stop();
    gateway.ended().await.unwrap();
    assert_eq!(collector.spans().iter().filter(|span| is_request(span)).count(), 20);
}

#[tokio::test]
async fn a_collector_is_trusted_by_the_authority_that_is_named_and_by_no_other() {
    for protocol in ["http/protobuf", "grpc"] {
        let (collector, authority) = Collector::start_encrypted().await;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), authority).unwrap();
        let protocol = format!("--otel-exporter-otlp-protocol={protocol}");
        let certificate = format!("--otel-exporter-otlp-certificate={}", file.path().display());
        let stranger = traced(&collector, &[&protocol, "--otel-exporter-otlp-timeout=300"]).await;
        // What the model took.
        stranger.wait_sample("inference_gateway_trace_spans_total{outcome=\"failed\"}", 6.0).await;
        assert!(collector.spans().is_empty());
        traced(&collector, &[&protocol, &certificate]).await;
        collector.wait(|span| span.name == "bring into service").await;
    }
}

#[tokio::test]
async fn a_collector_that_is_away_costs_no_request() {
    for protocol in ["http/protobuf", "grpc"] {
        let protocol = format!("--otel-exporter-otlp-protocol={protocol}");
        let flags = [
            "--otel-exporter-otlp-endpoint=http://127.0.0.1:1",
            &protocol,
            "--otel-exporter-otlp-timeout=100",
        ];
        let gateway = Gateway::serving(&tiny("llama"), &flags).await;
        assert_eq!(gateway.infer(&json!({"text": "a", "max_tokens": 1})).await.0, 200);
        let failed = "inference_gateway_trace_spans_total{outcome=\"failed\"}";
        // Six of the model, eight of the request, in one batch or two.
        gateway.wait_sample(failed, 14.0).await;
        gateway.stop();
        gateway.ended().await.unwrap();
    }
}

/// It takes what is sent, and says nothing for ever.
#[tokio::test]
async fn what_a_stuck_collector_does_not_take_is_dropped_and_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("--otel-exporter-otlp-endpoint=http://{}", listener.local_addr().unwrap());
    spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut some = vec![0; 1024];
            drop(connection.read(&mut some).await);
            held.push(connection);
        }
    });
    let gateway = Gateway::serving(&tiny("llama"), &[&endpoint, "--otel-exporter-otlp-timeout=600000"]).await;
    // Each is 64 generations of three phases.
    let many = json!({"text": vec!["a"; 64], "max_tokens": 1});
    let dropped = "inference_gateway_trace_spans_total{outcome=\"dropped\"}";
    let mut asked = 0;
    while gateway.sample(dropped).await == 0.0 {
        assert_eq!(gateway.infer(&many).await.0, 200);
        asked += 1;
        assert!(asked < 100, "the queue has a bound");
    }
    assert!(asked > 10, "there is room for what a collector takes its time for");
    gateway.stop();
    gateway.ended().await.unwrap();
}
