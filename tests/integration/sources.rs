//! The documented default: a model by URL on the hub, fetched in the background; the hub is a server of this test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use serde_json::json;

use crate::harness::{Gateway, prepared, settings, spawn};

/// Serves `owner/repo/resolve/…` from a tiny model; the first answers for the graph fail.
struct Hub {
    files: PathBuf,
    graph_requests: AtomicUsize,
    failures: usize,
}

async fn resolve(State(hub): State<Arc<Hub>>, request: Request) -> Response<Body> {
    let path = request.uri().path();
    let answer = |status: StatusCode| {
        Response::builder().status(status).header("x-repo-commit", "607a30d783dfa663caf39e06633721c8d4cfcd7e")
    };
    let Some(name) = path.rsplit('/').next().filter(|_| path.contains("/resolve/")) else {
        return answer(StatusCode::NOT_FOUND).body(Body::empty()).unwrap();
    };
    if name == "decoder_model_merged.onnx" && request.method() == "GET" {
        let earlier = hub.graph_requests.fetch_add(1, Ordering::SeqCst);
        if earlier < hub.failures {
            return answer(StatusCode::INTERNAL_SERVER_ERROR).body(Body::empty()).unwrap();
        }
    }
    match std::fs::read(hub.files.join(name)) {
        Ok(bytes) => answer(StatusCode::OK)
            .header("etag", format!("\"{:040x}\"", bytes.len()))
            .header("content-length", bytes.len())
            .body(if request.method() == "HEAD" { Body::empty() } else { bytes.into() })
            .unwrap(),
        Err(_) => {
            answer(StatusCode::NOT_FOUND).header("x-error-code", "EntryNotFound").body(Body::empty()).unwrap()
        }
    }
}

async fn hub(failures: usize) -> (Arc<Hub>, String) {
    let hub =
        Arc::new(Hub { files: prepared("tiny/gpt2-merged"), graph_requests: AtomicUsize::new(0), failures });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("--hf-endpoint=http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(resolve).with_state(Arc::clone(&hub));
    spawn(async move { axum::serve(listener, router).await });
    (hub, endpoint)
}

fn names_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        found.push(path.display().to_string());
        if path.is_dir() {
            found.extend(names_below(&path));
        }
    }
    found
}

#[tokio::test]
async fn the_default_model_is_fetched_from_the_hub_and_served() {
    let home = tempfile::tempdir().unwrap();
    let home_flag = format!("--hf-home={}", home.path().display());
    let (hub, endpoint) = hub(0).await;
    let gateway = Gateway::start(settings(&[&endpoint, &home_flag])).await;
    assert_eq!(gateway.get("/healthz").await.status().as_u16(), 200, "alive before the model is there");
    gateway.wait_ready().await;
    let local = Gateway::serving(&prepared("tiny/gpt2-merged").display().to_string(), &[]).await;
    assert_eq!(gateway.greedy("Hello", 20).await, local.greedy("Hello", 20).await);

    // A second gateway finds everything in the cache.
    let fetched = hub.graph_requests.load(Ordering::SeqCst);
    let second = Gateway::start(settings(&[&endpoint, &home_flag])).await;
    second.wait_ready().await;
    assert_eq!(hub.graph_requests.load(Ordering::SeqCst), fetched, "the graph was fetched again");
    let offline = Gateway::start(settings(&["--hf-endpoint=http://127.0.0.1:9", &home_flag])).await;
    offline.wait_ready().await;
}

#[tokio::test]
async fn a_failed_download_is_tried_again_and_leaves_nothing_half_written() {
    let home = tempfile::tempdir().unwrap();
    let home_flag = format!("--hf-home={}", home.path().display());
    let (hub, endpoint) = hub(1).await;
    let gateway = Gateway::start(settings(&[&endpoint, &home_flag])).await;
    let reason = gateway.wait_state("fetching").await;
    assert!(reason.contains("500") && reason.contains("tried again"), "{reason}");
    let published = names_below(home.path());
    assert!(!published.iter().any(|name| name.ends_with("decoder_model_merged.onnx")), "{published:?}");
    let (status, body) = gateway.infer(&json!({"text": "a"})).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (503, &json!("model_not_ready")));
    gateway.wait_ready().await;
    assert!(hub.graph_requests.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn a_model_that_the_hub_does_not_have_fails_for_good() {
    let home = tempfile::tempdir().unwrap();
    let home_flag = format!("--hf-home={}", home.path().display());
    let (_hub, endpoint) = hub(0).await;
    let path = "--default-model-path=hf://openai-community/gpt2/onnx/nothing.onnx";
    let gateway = Gateway::start(settings(&[&endpoint, &home_flag, path])).await;
    let reason = gateway.wait_state("failed").await;
    assert!(reason.contains("nothing.onnx"), "{reason}");
}
