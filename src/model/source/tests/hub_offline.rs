//! The hub's cache without the hub.

use super::server::{Page, Server};
use super::{Place, bytes, read};

const COMMIT: &str = "607a30d783dfa663caf39e06633721c8d4cfcd7e";

/// A cache as the Python library leaves it.
fn cached_by_python(place: &Place, path: &str, body: &[u8]) {
    let repository = place.settings.hub_cache.join("models--o--r");
    let snapshot = repository.join("snapshots").join(COMMIT);
    for folder in [repository.join("blobs"), repository.join("refs"), snapshot.clone()] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(repository.join("blobs/b10b"), body).unwrap();
    std::fs::write(repository.join("refs/main"), COMMIT).unwrap();
    std::os::unix::fs::symlink("../../blobs/b10b", snapshot.join(path)).unwrap();
}

#[tokio::test]
async fn what_python_cached_is_served_without_a_hub() {
    let place = Place::without_hub();
    cached_by_python(&place, "model.onnx", b"graph");
    for source in ["hf://o/r", &format!("hf://o/r@{COMMIT}/model.onnx")] {
        assert_eq!(read(&place.graph(source).await.unwrap()), b"graph");
    }
}

#[tokio::test]
async fn a_hub_in_trouble_is_a_hub_that_cannot_be_reached() {
    let hub = Server::start().await;
    for file in ["genai_config.json", "model.onnx"] {
        hub.put(&format!("/o/r/resolve/main/{file}"), Page { status: 503, ..Page::default() });
    }
    let place = Place::new(&hub.address);
    cached_by_python(&place, "model.onnx", b"graph");
    assert_eq!(read(&place.graph("hf://o/r").await.unwrap()), b"graph");
    assert_eq!(hub.seen().len(), 1, "one question is enough to know");
}

#[tokio::test]
async fn what_we_fetched_is_served_after_the_hub_has_gone() {
    let (hub, store) = (Server::start().await, Server::start().await);
    let body = bytes(50_000, 2);
    hub.put_large(COMMIT, "onnx/model.onnx", &body, &store);
    hub.put_small(COMMIT, "tokenizer.json", b"{}");
    let place = Place::new(&hub.address);
    place.graph("hf://o/r").await.unwrap();
    place.tokenizer("hf://o/r/onnx/model.onnx").await.unwrap();
    drop((hub, store));
    assert_eq!(read(&place.graph("hf://o/r").await.unwrap()), body);
    assert_eq!(read(&place.tokenizer("hf://o/r/onnx/model.onnx").await.unwrap()), b"{}");
}

#[tokio::test]
async fn nothing_cached_and_no_hub_is_an_error_that_passes() {
    let error = Place::without_hub().graph("hf://o/r").await.unwrap_err();
    assert!(!error.is_permanent());
    assert_eq!(error.reason().label(), "SourceUnreachable");
    assert!(std::error::Error::source(&error).is_some(), "{error:?}");
}

#[tokio::test]
async fn a_refusal_of_the_hub_is_not_hidden_by_its_cache() {
    let hub = Server::start().await;
    hub.put("/o/r/resolve/main/model.onnx", Page { status: 403, ..Page::default() });
    let place = Place::new(&hub.address);
    cached_by_python(&place, "model.onnx", b"graph");
    assert!(place.graph("hf://o/r").await.unwrap_err().is_permanent());
}

#[tokio::test]
async fn a_hub_that_fails_midway_does_not_leave_weights_out() {
    let (hub, store) = (Server::start().await, Server::start().await);
    hub.put_large(COMMIT, "model.onnx", &bytes(5000, 1), &store);
    // The commit is pinned by then, so the weights are asked for at the commit.
    let weights = format!("/o/r/resolve/{COMMIT}/model.onnx_data");
    hub.put(&weights, Page { status: 500, ..Page::default() });
    let place = Place::new(&hub.address);
    assert!(!place.graph("hf://o/r").await.unwrap_err().is_permanent());
    assert_eq!(place.final_files(), Vec::<String>::new());
}

#[tokio::test]
async fn a_blob_that_was_cut_by_hand_is_fetched_again() {
    let (hub, store) = (Server::start().await, Server::start().await);
    let body = bytes(50_000, 2);
    hub.put_large(COMMIT, "model.onnx", &body, &store);
    let place = Place::new(&hub.address);
    let graph = place.graph("hf://o/r").await.unwrap();
    let blob = std::fs::canonicalize(&graph).unwrap();
    std::fs::write(&blob, &body[..10]).unwrap();
    std::fs::remove_file(&graph).unwrap();
    assert_eq!(read(&place.graph("hf://o/r").await.unwrap()), body);
}
