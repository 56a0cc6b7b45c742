//! Every route is closed but for the probes, however its path is written.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{ALICE, Secret, get};

/// Probes, and what has a door of its own.
const OPEN: [&str; 7] =
    ["/healthz", "/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready", "/metrics"];
/// What no description of the API has: pages, wrong methods, and paths at which there is nothing.
const CLOSED: [(&str, &str); 9] = [
    ("GET", "/api/v1/inference"),
    ("HEAD", "/v1/models"),
    ("GET", "/v1"),
    ("GET", "/docs/page.js"),
    ("POST", "/v2/models/tiny/infer"),
    ("GET", "/"),
    ("GET", "/admin/models"),
    ("GET", "/nothing"),
    ("OPTIONS", "*"),
];
/// Ways to write a path that another reader may take for one that is open, or for one that exists.
const TRICKS: [&str; 22] = [
    "//v1/models",
    "/v1//models",
    "/v1/models/",
    "/v1/../v1/models",
    "/healthz/../v1/models",
    "/healthz/..;/v1/models",
    "/v1/models/%2e%2e/healthz",
    "/v1/%2e%2e/healthz",
    "/%2e/healthz",
    "/%68ealthz",
    "/healthz/",
    "//healthz",
    "/healthz%00",
    "/healthz;/v1/models",
    "/HEALTHZ",
    "/v1/models?/healthz",
    "/v1/models%3f/healthz",
    "/metrics/../v1/models",
    "/metrics/",
    "/livez/v1/models",
    "/readyz%2fv1/models",
    "/./v1/models",
];

/// The status of an answer to what is sent as it is, 0 where the connection is closed without one; and the whole answer.
async fn raw(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is reset has no more to say.
    drop(stream.read_to_end(&mut answer).await);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, answer)
}

fn request(method: &str, target: &str, headers: &str) -> String {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: gateway\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

fn alice_only() -> Secret {
    Secret::new(&format!("keys: [{{name: alice, key: {ALICE}, models: ['*']}}]"))
}

#[tokio::test]
async fn what_is_not_open_needs_a_key_also_where_there_is_nothing() {
    let secret = alice_only();
    let gateway = secret.gateway(&[]).await;
    gateway.wait_ready().await;
    let key = format!("Authorization: Bearer {ALICE}\r\n");
    let document: Value = get(&gateway, "/openapi.json", ALICE).await.json().await.unwrap();
    let mut closed = CLOSED.map(|(method, target)| (method.to_owned(), target.to_owned())).to_vec();
    let mut open = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            if item[method].get("security").is_some() {
                let path = path.replace("{id}", "tiny").replace("{name}", "tiny").replace("{version}", "1");
                closed.push((method.to_uppercase(), path));
            } else {
                open.insert(path.as_str());
            }
        }
    }
    assert_eq!(open, BTreeSet::from(OPEN), "described as open");
    assert!(closed.len() > 25, "{closed:?}");
    for (method, target) in &closed {
        assert_eq!(raw(gateway.api, &request(method, target, "")).await.0, 401, "{method} {target}");
        let (status, answer) = raw(gateway.api, &request(method, target, &key)).await;
        assert!(![0, 401, 500].contains(&status), "{method} {target}: {answer}");
    }
    for path in OPEN {
        assert_eq!(raw(gateway.api, &request("GET", path, "")).await.0, 200, "{path}");
    }
    for path in ["/healthz", "/livez", "/readyz", "/metrics"] {
        assert_eq!(raw(gateway.ops, &request("GET", path, "")).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn no_way_to_write_a_path_leads_past_the_door() {
    let secret = alice_only();
    let gateway = secret.gateway(&[]).await;
    gateway.wait_ready().await;
    let host = gateway.api;
    let absolute = ["/v1/models", "/healthz/../v1/models"].map(|path| format!("http://{host}{path}"));
    for target in TRICKS.into_iter().chain(absolute.iter().map(String::as_str)) {
        let (status, answer) = raw(host, &request("GET", target, "")).await;
        // 400 is the parser's, which has read no route at all.
        assert!([400, 401].contains(&status), "{target}: {answer}");
    }
    let odd_hosts =
        ["Host: healthz\r\n", "Host: gateway/healthz?\r\n", "Host: \r\n", "X-Original-URL: /healthz\r\n"];
    for headers in
        odd_hosts.into_iter().chain(["X-Forwarded-Uri: /healthz\r\n", "X-Rewrite-URL: /healthz\r\n"])
    {
        let text = format!("GET /v1/models HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        let (status, answer) = raw(host, &text).await;
        assert!([400, 401].contains(&status), "{headers}: {answer}");
    }
    let connect = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let (status, answer) = raw(host, &connect).await;
    assert!([400, 401].contains(&status), "{answer}");
}

#[tokio::test]
async fn a_refusal_has_the_body_of_its_dialect() {
    let secret = alice_only();
    let gateway = secret.gateway(&[]).await;
    gateway.wait_ready().await;
    let body = async |path: &str| gateway.get(path).await.json::<Value>().await.unwrap();
    let native = body("/api/v1/inference").await;
    assert_eq!(native["error"]["code"], "unauthenticated");
    let openai = body("/v1/models").await;
    let error = &openai["error"];
    assert_eq!((&error["type"], &error["code"]), (&"authentication_error".into(), &"invalid_api_key".into()));
    assert_eq!(native["error"]["message"], error["message"], "why is not told");
    let oip = body("/v2/models/tiny").await;
    assert_eq!(oip["error"], error["message"]);
    let tgi = body("/info").await;
    assert_eq!((&tgi["error"], &tgi["error_type"]), (&error["message"], &"unauthenticated".into()));
}

#[tokio::test]
async fn a_browser_asks_its_person_for_a_key_and_keeps_it_from_pages_of_others() {
    let secret = alice_only();
    let gateway = secret.gateway(&[]).await;
    gateway.wait_ready().await;
    let url = |path: &str| format!("http://{}{path}", gateway.api);
    let get = |path: &str| gateway.client.get(url(path)).header("accept", "text/html,*/*;q=0.8");
    let asked = get("/").send().await.unwrap();
    assert_eq!(asked.status(), 401);
    assert!(asked.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic "));
    for path in ["/", "/docs", "/docs/page.js", "/v1/models"] {
        let page = get(path).basic_auth("me", Some(ALICE)).header("sec-fetch-site", "none");
        assert_eq!(page.send().await.unwrap().status(), 200, "{path}");
        let wrong = get(path).basic_auth(ALICE, Some("me"));
        assert_eq!(wrong.send().await.unwrap().status(), 401, "{path}");
    }
    let generate = |site: &str| {
        let request = gateway.client.post(url("/api/v1/inference")).basic_auth("", Some(ALICE));
        request.header("sec-fetch-site", site).body(r#"{"text": "Once", "max_tokens": 1}"#)
    };
    assert_eq!(generate("same-origin").send().await.unwrap().status(), 200);
    assert_eq!(generate("cross-site").send().await.unwrap().status(), 401);
}
