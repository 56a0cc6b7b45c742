//! Somebody between the programs and the apiserver: plain HTTP in front, the real one behind. It can be told, while it runs,
//! to answer badly, and it counts what it is asked.
//!
//! ```text
//! pods, controller ── HTTP ──▶ proxy ── TLS, their own token ──▶ kube-apiserver
//! ```
//!
//! Who stands behind it sees the programs as they are: the Authorization header is passed on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::access::Access;
use crate::proxied_watch::{Relay, relay};
use crate::spawn;

/// Time that a slow answer takes longer.
const SLOW: Duration = Duration::from_secs(3);
/// Longest request of a program, which the apiserver limits too.
const LONGEST_REQUEST: usize = 4 << 20;

/// What the proxy does with what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Passes everything on.
    Good,
    /// Every answer is 500, and open watches end.
    Fails,
    /// Every answer is 429 with `Retry-After: 1`, and open watches end.
    Refuses,
    /// Every answer comes three seconds later; open watches end.
    Slow,
    /// Half of each answer is missing, and of each line of a watch, which ends with it or after a second.
    CutsShort,
    /// Nothing is ever answered, not even later; open watches are silent.
    Silent,
    /// Each watch ends after a second, and open ones at once.
    EndsWatches,
    /// Each watch ends as soon as it has begun.
    EndsWatchesAtOnce,
    /// Watches have bookmarks only; what they would have told comes when the proxy is good again.
    HoldsEvents,
    /// Each event of a watch comes twice, and the one before it once more.
    RepeatsEvents,
    /// Watches begin at the first version that there ever was, which the apiserver has long forgotten; open ones end.
    Forgets,
}

impl Behaviour {
    /// Whether watches that are open when it begins end.
    pub(crate) fn ends_open_watches(self) -> bool {
        match self {
            Self::Good | Self::Silent | Self::HoldsEvents | Self::RepeatsEvents => false,
            Self::Fails
            | Self::Refuses
            | Self::Slow
            | Self::CutsShort
            | Self::EndsWatches
            | Self::EndsWatchesAtOnce
            | Self::Forgets => true,
        }
    }
}

/// A proxy that runs. Dropping it ends it.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    http: reqwest::Client,
    apiserver: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    /// By verb and resource.
    asked: Mutex<BTreeMap<String, usize>>,
}

impl Proxy {
    /// Stands before the apiserver that `access` leads to.
    pub(crate) async fn start(access: &Access) -> Self {
        // Another test of this process may have installed it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let authority = reqwest::Certificate::from_pem(access.authority.as_bytes()).unwrap();
        let http = reqwest::Client::builder()
            .tls_certs_only([authority])
            .http1_only()
            .no_proxy()
            .retry(reqwest::retry::never())
            .build()
            .unwrap();
        let (behaviour, _) = watch::channel(Behaviour::Good);
        let shared = Arc::new(Shared { http, apiserver: access.server, behaviour, asked: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(pass_on).with_state(Arc::clone(&shared));
        let server = spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, server }
    }

    /// From now on it behaves so.
    pub(crate) fn set(&self, behaviour: Behaviour) {
        self.shared.behaviour.send_replace(behaviour);
    }

    /// What it was asked until now, by verb and resource: `watch models`.
    pub(crate) fn asked(&self) -> BTreeMap<String, usize> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// What it is asked from now on for so long.
    pub(crate) async fn asked_within(&self, time: Duration) -> Asked {
        let before = self.asked();
        // A measurement takes its time.
        tokio::time::sleep(time).await;
        let news = self.asked().into_iter().map(|(what, count)| {
            let known = before.get(&what).copied().unwrap_or_default();
            (what, count - known)
        });
        Asked(news.filter(|(_, count)| *count > 0).collect())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Requests by verb and resource.
#[derive(Debug)]
pub(crate) struct Asked(BTreeMap<String, usize>);

impl Asked {
    /// All requests of which the verb and the resource begin so.
    pub(crate) fn of(&self, what: &str) -> usize {
        self.0.iter().filter(|(known, _)| known.starts_with(what)).map(|(_, count)| count).sum()
    }
}

/// Verb and resource of a request, as the apiserver's rights name them.
fn kind_of(method: &Method, uri: &Uri) -> String {
    let segments: Vec<&str> = uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
    let after_namespace = segments.iter().position(|segment| *segment == "namespaces").map_or(0, |at| at + 2);
    let of_namespace = segments.get(after_namespace..).unwrap_or_default();
    let watches = uri.query().is_some_and(|query| query.contains("watch=true"));
    let verb = match (method.as_str(), of_namespace.len()) {
        ("GET", _) if watches => "watch",
        ("GET", 1) => "list",
        ("GET", _) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", _) => "delete",
        (other, _) => other,
    };
    let resource = of_namespace.first().copied().unwrap_or_default();
    let part = of_namespace.get(2).map_or_else(String::new, |part| format!("/{part}"));
    format!("{verb} {resource}{part}")
}

async fn pass_on(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let kind = kind_of(request.method(), request.uri());
    *shared.asked.lock().unwrap().entry(kind.clone()).or_default() += 1;
    let behaviour = *shared.behaviour.borrow();
    match behaviour {
        Behaviour::Fails => {
            return (StatusCode::INTERNAL_SERVER_ERROR, "something is broken\n").into_response();
        }
        Behaviour::Refuses => {
            return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")], "later\n").into_response();
        }
        Behaviour::Silent => std::future::pending().await,
        Behaviour::Slow => tokio::time::sleep(SLOW).await,
        _ => {}
    }
    let watches = kind.starts_with("watch ");
    let answer = match shared.forward(request, watches && behaviour == Behaviour::Forgets).await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, format!("{error:?}")).into_response(),
    };
    let mut response = Response::builder().status(answer.response.status());
    for (name, value) in answer.response.headers() {
        let of_the_connection: [HeaderName; 3] =
            [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION];
        if !of_the_connection.contains(name) {
            response = response.header(name, value);
        }
    }
    let is_fine = answer.response.status().is_success();
    let body = if watches && is_fine {
        let (sender, lines) = mpsc::channel(16);
        drop(spawn(relay(answer, shared.behaviour.subscribe(), sender)));
        Body::from_stream(stream::unfold(
            lines,
            |mut lines| async move { Some((lines.recv().await?, lines)) },
        ))
    } else {
        match answer.response.bytes().await {
            Ok(bytes) if behaviour == Behaviour::CutsShort => Body::from(bytes.slice(..bytes.len() / 2)),
            Ok(bytes) => Body::from(bytes),
            Err(error) => return (StatusCode::BAD_GATEWAY, format!("{error:?}")).into_response(),
        }
    };
    response.body(body).unwrap()
}

impl Shared {
    /// Asks the apiserver.
    async fn forward(&self, request: Request, forgets: bool) -> reqwest::Result<Relay> {
        let (head, body) = request.into_parts();
        let mut path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        let version = version_of(&path).map(str::to_owned).unwrap_or_default();
        if forgets {
            path = path.replace(&format!("resourceVersion={version}"), "resourceVersion=1");
        }
        let url = format!("https://{}{path}", self.apiserver);
        let mut headers = head.headers;
        headers.remove(header::HOST);
        headers.remove(header::CONTENT_LENGTH);
        let body = to_bytes(body, LONGEST_REQUEST).await.unwrap_or_default();
        let response = self.http.request(head.method, url).headers(headers).body(body).send().await?;
        Ok(Relay { response, version })
    }
}

/// The version at which a watch is asked to begin.
fn version_of(path: &str) -> Option<&str> {
    let (_, after) = path.split_once("resourceVersion=")?;
    after.split('&').next()
}

#[test]
fn requests_are_counted_as_rights_name_them() {
    let kind = |method: Method, path: &str| kind_of(&method, &path.parse().unwrap());
    let models = "/apis/inference-gateway.io/v1alpha1/namespaces/x/models";
    assert_eq!(kind(Method::GET, &format!("{models}?limit=500")), "list models");
    assert_eq!(kind(Method::GET, &format!("{models}?watch=true&resourceVersion=3")), "watch models");
    assert_eq!(kind(Method::PUT, &format!("{models}/chat/status?")), "update models/status");
    assert_eq!(kind(Method::GET, "/api/v1/namespaces/x/pods/a"), "get pods");
    assert_eq!(version_of("/x?watch=true&resourceVersion=31&b=1"), Some("31"));
}
