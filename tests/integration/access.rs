//! Who is let in: keys from a file, which routes they open, what they may use, and how they are replaced.

mod limits;
mod routes;

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Instant;

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Gateway, ModelsList, PATIENCE, entry, settings, tiny};

/// Keys of the tests; the file holds one of them as its digest.
const ALICE: &str = "alice-0123456789abcdef";
const BOB: &str = "bob-0123456789abcdef00";
/// `printf %s bob-0123456789abcdef00 | sha256sum`
const BOB_SHA256: &str = "38597c0dcfa506917ab0a1e72855c9902fc305afcdc285d3a375fa7b24e847c5";

/// A mounted Secret with the file of keys: what is in it changes by a link to another folder.
struct Secret {
    folder: tempfile::TempDir,
    version: std::cell::Cell<u32>,
}

impl Secret {
    fn new(content: &str) -> Self {
        let secret = Self { folder: tempfile::tempdir().unwrap(), version: std::cell::Cell::new(0) };
        secret.write(content);
        symlink("..data/keys.yaml", secret.path()).unwrap();
        secret
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("keys.yaml")
    }

    fn write(&self, content: &str) {
        let version = self.version.get() + 1;
        self.version.set(version);
        let at = |name: &str| self.folder.path().join(name);
        std::fs::create_dir(at(&format!("..{version}"))).unwrap();
        std::fs::write(at(&format!("..{version}")).join("keys.yaml"), content).unwrap();
        symlink(format!("..{version}"), at("..next")).unwrap();
        std::fs::rename(at("..next"), at("..data")).unwrap();
    }

    fn flags(&self) -> [String; 2] {
        ["--auth-mode=apiKeys".to_owned(), format!("--auth-keys-file={}", self.path().display())]
    }

    /// A gateway with these keys, a tiny model, and more flags; not waited for.
    async fn gateway(&self, flags: &[&str]) -> Gateway {
        let [mode, file] = self.flags();
        let model = format!("--default-model-path={}", tiny("llama"));
        let mut all = vec![mode.as_str(), &file, &model];
        all.extend(flags);
        Gateway::start(settings(&all)).await
    }
}

async fn get(gateway: &Gateway, path: &str, key: &str) -> Response {
    let url = format!("http://{}{path}", gateway.api);
    gateway.client.get(url).bearer_auth(key).send().await.unwrap()
}

async fn generate(gateway: &Gateway, key: &str, request: Value) -> (StatusCode, Value) {
    let response = gateway.post(request.to_string()).bearer_auth(key).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

fn short() -> Value {
    json!({"text": "Once", "max_tokens": 2})
}

/// Waits for a key to be let in, or not any more.
async fn wait_status(gateway: &Gateway, key: &str, wanted: u16) {
    let began = Instant::now();
    while get(gateway, "/v1/models", key).await.status() != wanted {
        assert!(began.elapsed() < PATIENCE, "the key never got {wanted}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_key_lets_in_whole_and_in_its_own_case() {
    let secret = Secret::new(&format!(
        "keys:\n- {{name: alice, key: {ALICE}, models: ['*']}}\n- {{name: bob, sha256: {BOB_SHA256}, models: ['*']}}\n"
    ));
    let gateway = secret.gateway(&[]).await;
    gateway.wait_ready().await;
    for key in [ALICE, BOB] {
        let (status, body) = generate(&gateway, key, short()).await;
        assert_eq!(status, 200, "{body}");
    }
    let by_header = gateway.post(short().to_string()).header("x-api-key", ALICE).send().await.unwrap();
    assert_eq!(by_header.status(), 200);
    let upper = ALICE.to_uppercase();
    for wrong in ["", &ALICE[..ALICE.len() - 1], &upper, &format!("{ALICE}x"), BOB_SHA256] {
        let response = get(&gateway, "/v1/models", wrong).await;
        assert_eq!(response.status(), 401, "{wrong}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"inference-gateway\"");
    }
    gateway.wait_sample("inference_gateway_caller_requests_total{caller=\"bob\"}", 1.0).await;
    // An empty one is none.
    gateway
        .wait_sample("inference_gateway_unauthenticated_requests_total{reason=\"bad_credential\"}", 4.0)
        .await;
    let metrics = gateway.get_ops("/metrics").await.text().await.unwrap();
    assert!(!metrics.contains(ALICE) && !metrics.contains(BOB_SHA256));
}

#[tokio::test]
async fn a_key_may_use_its_models_and_hears_of_no_others() {
    let yaml = entry("chat", &tiny("llama"), "aliases: [small]") + &entry("code", &tiny("gpt2"), "");
    let list = ModelsList::new(&yaml);
    let secret = Secret::new(&format!(
        "keys:\n- {{name: alice, key: {ALICE}, models: ['*']}}\n- {{name: bob, key: {BOB}, models: [small, gone]}}\n"
    ));
    let [mode, file] = secret.flags();
    let gateway = list.gateway(&[&mode, &file]).await;
    gateway.wait_ready().await;
    let with = |model: &str| json!({"model": model, "text": "Once", "max_tokens": 2});
    let listed = async |key| {
        let body: Value = get(&gateway, "/v1/models", key).await.json().await.unwrap();
        let ids =
            body["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(listed(ALICE).await, ["chat", "code", "small"]);
    assert_eq!(listed(BOB).await, ["small"]);

    assert_eq!(generate(&gateway, BOB, with("small")).await.0, 200);
    // The only one that the key may use needs no name.
    assert_eq!(generate(&gateway, BOB, short()).await.0, 200);
    // One that is there and one that is not are told alike.
    for model in ["code", "chat", "no-such-model"] {
        let (status, body) = generate(&gateway, BOB, with(model)).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::FORBIDDEN, &json!("model_forbidden")));
        assert_eq!(body["error"]["field"], "model");
        assert_eq!(get(&gateway, &format!("/v1/models/{model}"), BOB).await.status(), 403);
    }
    let (status, body) = generate(&gateway, BOB, with("gone")).await;
    assert_eq!(
        (status, &body["error"]["message"]),
        (StatusCode::NOT_FOUND, &json!("there is no model `gone`; `small` is served"))
    );
    let (status, body) = generate(&gateway, ALICE, with("gone")).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("model_not_found")));
    let chat = json!({"model": "code", "prompt": "x"});
    let url = format!("http://{}/v1/completions", gateway.api);
    let refused = gateway.client.post(url).bearer_auth(BOB).body(chat.to_string()).send().await.unwrap();
    let (status, body) = (refused.status(), refused.json::<Value>().await.unwrap());
    assert_eq!((status, &body["error"]["type"]), (StatusCode::FORBIDDEN, &json!("permission_error")));
    for path in ["/v2/models/code", "/v2/models/code/ready", "/v2/models/no-such-model"] {
        assert_eq!(get(&gateway, path, BOB).await.status(), 403, "{path}");
    }
    assert_eq!(get(&gateway, "/v2/models/small/ready", BOB).await.status(), 200);
    let gone: Value = get(&gateway, "/v2/models/gone", BOB).await.json().await.unwrap();
    assert_eq!(gone["error"], "there is no model `gone`; `small` is served");
    let post = async |path: &str, key: &str, body: Value| {
        let url = format!("http://{}{path}", gateway.api);
        gateway.client.post(url).bearer_auth(key).body(body.to_string()).send().await.unwrap().status()
    };
    assert_eq!(post("/v2/models/code/generate", BOB, json!({"text_input": "x"})).await, 403);
    assert_eq!(post("/v2/models/small/generate", BOB, json!({"text_input": "x"})).await, 200);
    // The only one that the key may use, where no field names one.
    let tgi = json!({"inputs": "x", "parameters": {"max_new_tokens": 1}});
    assert_eq!(post("/generate", BOB, tgi.clone()).await, 200);
    assert_eq!(post("/generate", ALICE, tgi).await, 422);
    assert_eq!(post("/tokenize", BOB, json!({"inputs": "x"})).await, 200);
    gateway
        .wait_sample("inference_gateway_caller_refusals_total{caller=\"bob\",reason=\"model\"}", 11.0)
        .await;
}

#[tokio::test]
async fn keys_are_replaced_while_the_gateway_runs_and_a_broken_file_changes_nothing() {
    let with = |key: &str| format!("keys: [{{name: alice, key: [{key}], models: ['*']}}]");
    let secret = Secret::new(&with(ALICE));
    let gateway = secret.gateway(&[]).await;
    gateway.wait_ready().await;
    wait_status(&gateway, ALICE, 200).await;
    // Both hold while clients change over.
    secret.write(&with(&format!("{ALICE}, {BOB}")));
    wait_status(&gateway, BOB, 200).await;
    assert_eq!(get(&gateway, "/v1/models", ALICE).await.status(), 200);
    secret.write(&with(BOB));
    wait_status(&gateway, ALICE, 401).await;

    let success = "inference_gateway_file_reload_success{file=\"keys\"}";
    for broken in ["", "keys: [{name: alice, key: short}]"] {
        secret.write(broken);
        gateway.wait_sample(success, 0.0).await;
        assert_eq!(get(&gateway, "/v1/models", BOB).await.status(), 200, "the last good keys hold");
        secret.write(&with(BOB));
        gateway.wait_sample(success, 1.0).await;
    }
    // On purpose, and said so.
    secret.write("keys: []");
    wait_status(&gateway, BOB, 401).await;
    assert_eq!(gateway.readyz().await.0, 200);
}

#[tokio::test]
async fn without_a_file_that_holds_nobody_is_let_in_until_there_is_one() {
    let secret = Secret::new("keys: [{name: alice, key: short, models: ['*']}]");
    let gateway = secret.gateway(&[]).await;
    let body = gateway.wait_not_ready().await;
    let reason = body["reason"].as_str().unwrap();
    assert!(
        reason.contains("nobody can be let in: the file of keys does not hold: keys[0].key is not"),
        "{reason}"
    );
    for key in [ALICE, "short"] {
        let response = get(&gateway, "/v1/models", key).await;
        assert_eq!(
            (response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()),
            (503, "5")
        );
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["message"], "it is not known yet who may use this gateway");
    }
    secret.write(&format!("keys: [{{name: alice, key: {ALICE}, models: ['*']}}]"));
    gateway.wait_ready().await;
    assert_eq!(get(&gateway, "/v1/models", ALICE).await.status(), 200);
}
