//! Artifacts of a registry.

use serde_json::json;

use super::registry::{Registry, sha256};
use super::server::{Page, Server};
use super::{FetchError, Guard, GuardRules, Place, bytes, read};

/// A model in the registry under the tag `v1`: its manifest's digest.
fn push(registry: &Registry, graph: &[u8]) -> String {
    let layers = [registry.layer("model.onnx", graph), registry.layer("tokenizer.json", b"{}")];
    registry.tag("v1", &json!({"schemaVersion": 2, "layers": layers}))
}

#[tokio::test]
async fn an_artifact_is_fetched_by_tag_by_digest_and_through_an_index_of_one() {
    let (registry, graph) = (Registry::start().await, bytes(9000, 1));
    let digest = push(&registry, &graph);
    let index = json!({"schemaVersion": 2, "manifests": [{"digest": digest, "size": 1}]});
    registry.tag("index", &index);
    let place = Place::without_hub();
    for reference in [":v1".to_owned(), format!("@{digest}"), ":index".to_owned(), format!(":old@{digest}")] {
        let source = format!("oci://{}/a/b{reference}", registry.host);
        assert_eq!(read(&place.graph(&source).await.unwrap()), graph, "{reference}");
        assert_eq!(read(&place.tokenizer(&source).await.unwrap()), b"{}", "{reference}");
    }
    let blobs = registry.seen().iter().filter(|seen| seen.path.contains("/blobs/")).count();
    assert_eq!(blobs, 2, "each file is fetched once, whatever names it");
}

#[tokio::test]
async fn a_blob_is_resumed_by_its_hash_alone() {
    let (registry, graph) = (Registry::start().await, bytes(100_000, 1));
    push(&registry, &graph);
    registry.cut_next_blob(40_000);
    let (place, source) = (Place::without_hub(), format!("oci://{}/a/b:v1", registry.host));
    let error = place.graph(&source).await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
    assert_eq!(read(&place.graph(&source).await.unwrap()), graph);
    let ranges: Vec<String> = registry.seen().into_iter().filter_map(|seen| seen.range).collect();
    assert_eq!(ranges, ["bytes=40000-"]);
}

#[tokio::test]
async fn a_token_stays_with_the_registry() {
    let (registry, elsewhere, graph) = (Registry::start().await, Server::start().await, bytes(9000, 1));
    push(&registry, &graph);
    for body in [graph.as_slice(), b"{}"] {
        elsewhere.put(&format!("/v2/a/b/blobs/{}", sha256(body)), Page::file(body, "v"));
    }
    registry.redirect_blobs(&elsewhere.address);
    let source = format!("oci://{}/a/b:v1", registry.host);
    assert_eq!(read(&Place::without_hub().graph(&source).await.unwrap()), graph);
    assert_eq!(elsewhere.seen().len(), 2);
    assert!(elsewhere.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
    assert!(registry.seen().iter().any(|seen| seen.authorized));
}

/// Row 18: the registry, the realm that it names, and where it redirects to are all guarded.
#[tokio::test]
async fn a_registry_in_our_own_network_and_a_realm_there_are_not_reached() {
    let registry = Registry::start().await;
    push(&registry, b"x");
    let mut place = Place::without_hub();
    place.settings.guard = Guard::default();
    let source = format!("oci://{}/a/b:v1", registry.host);
    let error = place.graph(&source).await.unwrap_err();
    assert_eq!(error.reason().label(), "HostNotAllowed", "{error}");
    assert!(registry.seen().is_empty(), "a connection was made");
    // The registry is trusted, the realm on the same machine by another name is not.
    let realm = Server::start().await;
    let inner = realm.address.replace("127.0.0.1", "localhost");
    let front = Server::start().await;
    let challenge = format!(r#"Bearer realm="{inner}/token""#);
    front.put(
        "/v2/a/b/manifests/v1",
        Page { status: 401, headers: vec![("WWW-Authenticate", challenge)], body: Vec::new() },
    );
    place.settings.guard = Guard::new(GuardRules {
        trusted_hosts: std::iter::once("127.0.0.1".to_owned()).collect(),
        ..GuardRules::default()
    });
    let source = format!("oci://{}/a/b:v1", front.address.trim_start_matches("http://"));
    let error = place.graph(&source).await.unwrap_err();
    assert_eq!(error.reason().label(), "HostNotAllowed", "{error}");
    assert!(realm.seen().is_empty(), "a connection was made");
}

#[tokio::test]
async fn bytes_that_are_not_those_of_the_digest_are_refused() {
    let (registry, graph) = (Registry::start().await, bytes(9000, 1));
    let digest = push(&registry, &graph);
    let place = Place::without_hub();
    registry.put(&format!("/v2/a/b/blobs/{}", sha256(&graph)), "application/octet-stream", &bytes(9000, 2));
    let error = place.graph(&format!("oci://{}/a/b:v1", registry.host)).await.unwrap_err();
    assert!(matches!(error, FetchError::Digest { .. }) && error.is_permanent(), "{error:?}");
    registry.put(&format!("/v2/a/b/manifests/{digest}"), "application/json", b"{\"layers\": []}");
    let error = place.graph(&format!("oci://{}/a/b@{digest}", registry.host)).await.unwrap_err();
    assert!(matches!(error, FetchError::Digest { .. }), "{error:?}");
    assert!(
        !place.final_files().iter().any(|name| name.ends_with("model.onnx")),
        "{:?}",
        place.final_files()
    );
}

/// Row 7.
#[tokio::test]
async fn packed_layers_and_layers_without_a_plain_name_are_refused() {
    let registry = Registry::start().await;
    let (place, source) = (Place::without_hub(), format!("oci://{}/a/b:v1", registry.host));
    let plain = registry.layer("model.onnx", b"x");
    let changed = |pointer: &str, value: serde_json::Value| {
        let mut layer = plain.clone();
        *layer.pointer_mut(pointer).unwrap() = value;
        layer
    };
    let mut unpacked = plain.clone();
    unpacked["annotations"]["io.deis.oras.content.unpack"] = json!("true");
    let mut unnamed = plain.clone();
    unnamed["annotations"] = json!({});
    let title = "/annotations/org.opencontainers.image.title";
    for layer in [
        changed("/mediaType", json!("application/vnd.oci.image.layer.v1.tar+gzip")),
        changed("/mediaType", json!("application/vnd.oci.image.layer.v1.tar")),
        changed("/mediaType", json!("application/zip")),
        changed(title, json!("model.tar.gz")),
        changed(title, json!("../evil.onnx")),
        changed(title, json!("/etc/passwd")),
        changed(title, json!("a/b.onnx")),
        changed(title, json!(".hidden")),
        changed(title, json!("x".repeat(4096))),
        changed("/digest", json!("md5:00")),
        changed("/digest", json!("sha256:../../x")),
        unpacked,
        unnamed,
    ] {
        registry.tag("v1", &json!({"layers": [layer]}));
        let error = place.graph(&source).await.unwrap_err();
        assert_eq!((error.reason().label(), error.is_permanent()), ("ArchiveUnsafe", true), "{error}");
    }
    registry.tag("v1", &json!({"layers": [plain, plain]}));
    assert_eq!(place.graph(&source).await.unwrap_err().reason().label(), "ArchiveUnsafe");
    let many = json!({"digest": sha256(b"x"), "size": 1});
    registry.tag("v1", &json!({"manifests": [many, many]}));
    let error = place.graph(&source).await.unwrap_err();
    assert!(error.to_string().contains("index of 2"), "{error}");
    assert_eq!(place.all_files(), Vec::<String>::new());
    let missing = place.graph(&format!("oci://{}/a/b:none", registry.host)).await.unwrap_err();
    assert_eq!((missing.reason().label(), missing.is_permanent()), ("SourceNotFound", true), "{missing}");
}

#[tokio::test]
async fn our_own_manifest_in_an_artifact_says_which_layers_are_the_model() {
    let registry = Registry::start().await;
    let (place, source) = (Place::without_hub(), format!("oci://{}/a/b:v1", registry.host));
    let layers = [registry.layer("model.onnx", b"graph"), registry.layer("NOTICE", b"x")];
    let digits = |body: &[u8]| sha256(body).trim_start_matches("sha256:").to_owned();
    let list = json!([{"name": "model.onnx", "size": 5, "sha256": digits(b"graph")}]).to_string();
    let mut all = layers.to_vec();
    all.push(registry.layer("manifest.json", list.as_bytes()));
    registry.tag("v1", &json!({"layers": all}));
    let graph = place.graph(&source).await.unwrap();
    assert_eq!(read(&graph.with_file_name("manifest.json")), list.as_bytes());
    assert!(!graph.with_file_name("NOTICE").exists());
    let other = json!([{"name": "model.onnx", "size": 5, "sha256": digits(b"other")}]).to_string();
    all[2] = registry.layer("manifest.json", other.as_bytes());
    registry.tag("v1", &json!({"layers": all}));
    let error = place.graph(&source).await.unwrap_err();
    assert!(error.to_string().contains("which no layer is"), "{error}");
}
