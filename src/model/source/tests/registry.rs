//! A registry for artifacts, which asks for a token as public ones do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::StreamExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::model::hexadecimal::hexadecimal;

/// What requests must carry.
const TOKEN: &str = "Bearer of-the-test";

pub(in crate::model) struct Registry {
    /// `127.0.0.1:port`.
    pub(in crate::model) host: String,
    state: Arc<Content>,
    _task: tokio::task::JoinSet<()>,
}

#[derive(Default)]
struct Content {
    host: Mutex<String>,
    /// Path → media type and bytes.
    pages: Mutex<HashMap<String, (String, Vec<u8>)>>,
    /// Where blobs are redirected to.
    elsewhere: Mutex<Option<String>>,
    /// The next blob ends after so many bytes.
    cut: Mutex<Option<usize>>,
    seen: Mutex<Vec<Seen>>,
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub(in crate::model) struct Seen {
    pub(in crate::model) path: String,
    pub(in crate::model) range: Option<String>,
    pub(in crate::model) authorized: bool,
}

pub(in crate::model) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hexadecimal(&Sha256::digest(bytes)))
}

impl Registry {
    pub(in crate::model) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Content::default());
        state.host.lock().unwrap().clone_from(&host);
        let router = Router::new().fallback(answer).with_state(Arc::clone(&state));
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { host, state, _task: task }
    }

    /// Stores a blob and describes it as a layer of this name.
    pub(in crate::model) fn layer(&self, title: &str, body: &[u8]) -> Value {
        let digest = sha256(body);
        self.put(&format!("/v2/a/b/blobs/{digest}"), "application/octet-stream", body);
        json!({
            "mediaType": "application/octet-stream", "digest": digest, "size": body.len(),
            "annotations": {"org.opencontainers.image.title": title},
        })
    }

    /// Stores a manifest or index under a tag and its digest, which is returned.
    pub(in crate::model) fn tag(&self, tag: &str, document: &Value) -> String {
        let bytes = document.to_string().into_bytes();
        let digest = sha256(&bytes);
        for reference in [tag, &digest] {
            let kind = "application/vnd.oci.image.manifest.v1+json";
            self.put(&format!("/v2/a/b/manifests/{reference}"), kind, &bytes);
        }
        digest
    }

    pub(in crate::model) fn put(&self, path: &str, kind: &str, body: &[u8]) {
        self.state.pages.lock().unwrap().insert(path.to_owned(), (kind.to_owned(), body.to_vec()));
    }

    /// Blobs are elsewhere from now on.
    pub(in crate::model) fn redirect_blobs(&self, to: &str) {
        *self.state.elsewhere.lock().unwrap() = Some(to.to_owned());
    }

    pub(in crate::model) fn cut_next_blob(&self, after: usize) {
        *self.state.cut.lock().unwrap() = Some(after);
    }

    pub(in crate::model) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }
}

async fn answer(State(content): State<Arc<Content>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let header = |name: &str| Some(request.headers().get(name)?.to_str().unwrap().to_owned());
    let (range, authorized) = (header("range"), header("authorization").as_deref() == Some(TOKEN));
    content.seen.lock().unwrap().push(Seen { path: path.clone(), range: range.clone(), authorized });
    let host = content.host.lock().unwrap().clone();
    if path == "/token" {
        let asked = request.uri().query().unwrap_or_default().to_owned();
        assert!(asked.contains("service=registry") && asked.contains("scope=repository"), "{asked}");
        let token = TOKEN.trim_start_matches("Bearer ");
        return Response::new(Body::from(json!({"token": token}).to_string()));
    }
    let built = Response::builder();
    if !authorized {
        let challenge =
            format!(r#"Bearer realm="http://{host}/token",service="registry",scope="repository:a/b:pull""#);
        return built.status(401).header("www-authenticate", challenge).body(Body::empty()).unwrap();
    }
    let elsewhere = content.elsewhere.lock().unwrap().clone();
    if let Some(to) = elsewhere.filter(|_| path.contains("/blobs/")) {
        return built.status(307).header("location", format!("{to}{path}")).body(Body::empty()).unwrap();
    }
    let Some((kind, body)) = content.pages.lock().unwrap().get(&path).cloned() else {
        return built.status(404).body(Body::empty()).unwrap();
    };
    let first =
        range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let total = body.len();
    let built = match first {
        Some(first) => {
            built.status(206).header("content-range", format!("bytes {first}-{}/{total}", total - 1))
        }
        None => built,
    };
    let rest = body[first.unwrap_or(0)..].to_vec();
    let built = built.header("content-type", kind).header("content-length", rest.len());
    let cut = content.cut.lock().unwrap().take_if(|_| path.contains("/blobs/"));
    let body = match cut {
        Some(after) => {
            let begin = futures_util::stream::iter([Ok(rest[..after].to_vec())]);
            // An error right behind the bytes would take them along.
            let end = futures_util::stream::once(async {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                Err(std::io::Error::other("cut"))
            });
            Body::from_stream(begin.chain(end))
        }
        None => Body::from(rest),
    };
    built.body(body).unwrap()
}
