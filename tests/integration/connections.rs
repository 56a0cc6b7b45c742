//! What a client may take of the gateway by its connections alone: heads, bodies, time, memory, and connections themselves.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Gateway, PATIENCE, tiny};

/// How a connection of HTTP/2 begins.
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const OPEN: &str = "inference_gateway_active_connections";

async fn gateway(flags: &[&str]) -> Gateway {
    Gateway::serving(&tiny("llama"), flags).await
}

/// What comes back for what is sent, until the connection is closed.
async fn answer(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has seen enough may have closed it.
    drop(stream.write_all(request).await);
    rest(&mut stream).await
}

/// What comes until the connection is closed, by whichever side.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // A reset ends it as well.
    drop(closed.expect("the gateway closes the connection"));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn post(body: &str, length: usize) -> String {
    format!(
        "POST /api/v1/inference HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn a_head_that_is_too_large_or_has_too_many_headers_is_refused() {
    let gateway = gateway(&["--max-header-bytes=16384"]).await;
    let with = |headers: &str| {
        format!("GET /healthz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n{headers}\r\n")
    };
    let many = |count: usize| "x-header: 1\r\n".repeat(count);
    let long = |bytes: usize| format!("x-api-key: {}\r\n", "k".repeat(bytes));
    for (headers, status) in [
        (many(90), "200"),
        (many(101), "431"),
        (long(8000), "200"),
        (long(20_000), "431"),
        (long(1 << 20), "431"),
    ] {
        let told = answer(gateway.api, with(&headers).as_bytes()).await;
        let first = told.lines().next().unwrap_or_default();
        // A client that still sends may find its connection reset before it reads why.
        let is_reset = headers.len() > 1 << 19 && first.is_empty();
        assert!(first.contains(status) || is_reset, "{} bytes: {told}", headers.len());
    }
    assert_eq!(gateway.get("/healthz").await.status(), 200);
}

#[tokio::test]
async fn json_that_is_nested_too_deep_is_refused() {
    let gateway = gateway(&[]).await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        for body in [
            format!("{{\"text\":{deep}}}"),
            format!("{{\"text\":\"a\",\"format\":{{\"json_schema\":{deep}}}}}"),
            deep,
        ] {
            let response = gateway.post(body).send().await.unwrap();
            let status = response.status().as_u16();
            let told: Value = response.json().await.unwrap();
            assert!([400, 422].contains(&status), "{status}: {told}");
        }
    }
    let schema = json!({"text": "a", "max_tokens": 2, "logit_bias": {"1": 1}});
    assert_eq!(gateway.infer(&schema).await.0, 200, "what is flat goes on");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up_and_its_client_told() {
    let gateway = gateway(&["--body-timeout=300ms"]).await;
    let body = json!({"text": "Once", "max_tokens": 2}).to_string();
    let whole = answer(gateway.api, post(&body, body.len()).as_bytes()).await;
    assert!(whole.starts_with("HTTP/1.1 200"), "{whole}");
    let mut stream = TcpStream::connect(gateway.api).await.unwrap();
    stream.write_all(post("{\"text\":", 1000).as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let drip = async {
        // A byte now and then does not make it last.
        while writer.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut told = Vec::new();
    tokio::select! {
        read = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut told)) => drop(read.expect("it is given up")),
        () = drip => {}
    }
    let told = String::from_utf8_lossy(&told);
    assert!(told.starts_with("HTTP/1.1 408"), "{told}");
    assert!(
        told.contains("body_too_slow") && told.contains("the body did not arrive within 300ms"),
        "{told}"
    );
}

#[tokio::test]
async fn a_connection_without_a_whole_head_is_closed() {
    let gateway = gateway(&["--idle-timeout=300ms"]).await;
    for begun in ["", "G", "GET /healthz HTTP/1.1\r\nHost: gat", "PRI * HTTP/2.0\r\n\r", PREFACE] {
        let told = answer(gateway.api, begun.as_bytes()).await;
        // The server's own settings of HTTP/2 are no answer.
        assert!(!told.contains("HTTP/1.1 2"), "{begun:?}: {told}");
    }
    // Also one that has been used before.
    let mut stream = TcpStream::connect(gateway.api).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n").await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200"));
    gateway.wait_sample(OPEN, 0.0).await;
}

/// Answers are made one by one, and none while the one before cannot be sent: memory is bounded by one answer and what the
/// system buffers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_gets_no_more_made_and_is_ended() {
    const REQUESTS: usize = 5000;
    const MOST_MADE: f64 = 500.0;
    let gateway = gateway(&["--write-timeout=1s"]).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(gateway.api).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: gateway\r\n\r\n".repeat(REQUESTS);
    let asked = async {
        drop(stream.write_all(&request).await);
        std::future::pending::<()>().await;
    };
    let ended = async {
        gateway.wait_sample(OPEN, 1.0).await;
        let began = Instant::now();
        while gateway.sample(OPEN).await > 0.0 {
            assert!(began.elapsed() < PATIENCE, "the connection was never ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = asked => {}
        () = ended => {}
    }
    let made = gateway.sample("inference_gateway_http_requests_total{method=\"GET\",status=\"200\"}").await;
    assert!(made > 0.0 && made < MOST_MADE, "{made} answers were made for somebody who does not read");
    assert_eq!(gateway.infer(&json!({"text": "Once", "max_tokens": 2})).await.0, 200, "others are answered");
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_the_others_go_on() {
    let gateway = gateway(&["--max-connections=2"]).await;
    let mut held = Vec::new();
    for open in [1.0, 2.0] {
        held.push(TcpStream::connect(gateway.api).await.unwrap());
        gateway.wait_sample(OPEN, open).await;
    }
    assert_eq!(answer(gateway.api, b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n").await, "");
    gateway.wait_sample("inference_gateway_refused_connections_total", 1.0).await;
    assert_eq!(gateway.get_ops("/healthz").await.status(), 200, "probes have an address of their own");
    let mut one = held.pop().unwrap();
    one.write_all(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(rest(&mut one).await.starts_with("HTTP/1.1 200"));
    gateway.wait_sample(OPEN, 1.0).await;
    assert_eq!(gateway.get("/healthz").await.status(), 200);
}

#[tokio::test]
async fn http_2_is_spoken_without_tls_by_those_who_know() {
    let gateway = gateway(&[]).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("http://{}/api/v1/inference", gateway.api);
    let body = json!({"text": "Once", "max_tokens": 2}).to_string();
    let response = client.post(url).body(body).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, reqwest::Version::HTTP_2));
}
