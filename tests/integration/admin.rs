//! The admin listener, and the list of models: what is applied, what is refused, what changes live.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Gateway, ModelsList, PATIENCE, entry, tiny};

async fn get(gateway: &Gateway, path: &str) -> (StatusCode, String) {
    let response = gateway.client.get(format!("http://{}{path}", gateway.admin)).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

async fn post(gateway: &Gateway, path: &str) -> (StatusCode, Value) {
    let response = gateway.client.post(format!("http://{}{path}", gateway.admin)).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

async fn view(gateway: &Gateway) -> Value {
    serde_json::from_str(&get(gateway, "/admin/models").await.1).unwrap()
}

async fn wait(gateway: &Gateway, holds: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let view = view(gateway).await;
        if holds(&view) {
            return view;
        }
        assert!(began.elapsed() < PATIENCE, "{view}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn ask(gateway: &Gateway, model: Option<&str>) -> (u16, Value) {
    let mut request = json!({"text": "abc", "max_tokens": 2});
    if let Some(model) = model {
        request["model"] = json!(model);
    }
    let (status, body) = gateway.infer(&request).await;
    (status.as_u16(), body)
}

#[tokio::test]
async fn the_state_of_a_model_is_told_as_page_and_as_json() {
    let list = ModelsList::new(&entry("chat", &tiny("llama"), "aliases: [gpt-4]"));
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    let model = &view(&gateway).await["models"][0];
    assert_eq!((&model["state"], &model["names"]), (&json!("ready"), &json!(["chat", "gpt-4"])));
    assert_eq!(model["serving"]["revision"], model["revision"]);
    let (rows, limit) = (&model["serving"]["rows"], &model["serving"]["queue_limit"]);
    assert_eq!((rows, limit), (&json!(16), &json!(256)));
    assert_eq!((&model["serving"]["running"], &model["serving"]["waiting"]), (&json!(0), &json!(0)));
    let (status, page) = get(&gateway, "/").await;
    assert!(status == 200 && page.contains("gpt-4") && page.contains("ready"), "{page}");
    assert!(page.contains("<td>0 of 16<td>0 of 256<td>") && !page.contains("failures"), "{page}");
    let (status, text) = get(&gateway, "/nothing").await;
    assert!(status == 404 && text.contains("/admin/models"), "{text}");
    let (status, body) = post(&gateway, "/admin/models").await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (405, &json!("method_not_allowed")));
}

#[tokio::test]
async fn orders_are_followed_and_senseless_ones_refused() {
    let list = ModelsList::new(&entry("org/chat", &tiny("llama"), ""));
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    assert_eq!(post(&gateway, "/admin/models/org%2Fchat/reload").await.0, 202);
    gateway
        .wait_sample("inference_gateway_model_swaps_total{model=\"org/chat\",reason=\"reload\"}", 1.0)
        .await;
    assert_eq!(ask(&gateway, None).await.0, 200);
    let (status, body) = post(&gateway, "/admin/models/org%2Fchat/retry").await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (409, &json!("not_failed")));
    let (status, body) = post(&gateway, "/admin/models/other/reload").await;
    assert!(status == 404 && body.to_string().contains("there are: org/chat"), "{body}");
    assert_eq!(post(&gateway, "/admin/reload").await.0, 202);
    let single = Gateway::tiny().await;
    assert_eq!(post(&single, "/admin/reload").await.0, 409);
}

#[tokio::test]
async fn a_revision_that_failed_is_tried_again_when_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(tiny("gpt2")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let graph = folder.path().join("model.onnx");
    let good = std::fs::read(&graph).unwrap();
    std::fs::write(&graph, b"<html>").unwrap();
    let list = ModelsList::new(&entry("chat", &folder.path().display().to_string(), ""));
    let gateway = list.gateway(&[]).await;
    let failed = wait(&gateway, |view| view["models"][0]["state"] == "failed").await;
    assert_eq!(failed["models"][0]["last_failure"]["reason"], "InvalidOnnx");
    std::fs::write(&graph, good).unwrap();
    assert_eq!(post(&gateway, "/admin/models/chat/retry").await.0, 202);
    let mended = wait(&gateway, |view| view["models"][0]["state"] == "ready").await;
    assert_eq!(ask(&gateway, Some("chat")).await.0, 200);
    let model = &mended["models"][0];
    assert_eq!(
        (&model["last_failure"], &model["recent_failures"][0]["reason"]),
        (&Value::Null, &json!("InvalidOnnx"))
    );
    let (_, page) = get(&gateway, "/").await;
    assert!(page.contains("<h2>Recent failures</h2>") && page.contains("<td>InvalidOnnx<td>"), "{page}");
}

#[tokio::test]
async fn other_sites_cannot_make_a_browser_give_orders() {
    let gateway = Gateway::tiny().await;
    let url = format!("http://{}/admin/models/tiny/reload", gateway.admin);
    for (header, value) in
        [("origin", "https://evil.example"), ("host", "evil.example:3002"), ("origin", "null")]
    {
        let response = gateway.client.post(&url).header(header, value).send().await.unwrap();
        assert_eq!(response.status(), 403, "{header}: {value}");
    }
    let own = format!("http://{}", gateway.admin);
    assert_eq!(gateway.client.post(&url).header("origin", own).send().await.unwrap().status(), 202);
}

/// Row 34 of what must be survived.
#[tokio::test]
async fn a_list_that_does_not_hold_changes_nothing_and_is_seen() {
    let good = entry("chat", &tiny("llama"), "");
    let list = ModelsList::new(&good);
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    let twice = format!("{good}{good}");
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n";
    for (bad, told) in [
        ("- {name: chat", "line"),
        ("- {name: chat, spec: {source: {path: a}, replicas: 3}}", "unknown field `replicas`"),
        (twice.as_str(), "another model of this list"),
        (bomb, "does not hold"),
        ("", "is empty"),
    ] {
        list.write(bad);
        gateway.reload();
        let view = wait(&gateway, |view| {
            view["models_file"]["error"].as_str().is_some_and(|error| error.contains(told))
        })
        .await;
        assert_eq!(view["models"][0]["state"], "ready", "{bad}");
        assert_eq!(gateway.sample("inference_gateway_config_reload_success").await as u64, 0);
        assert_eq!(ask(&gateway, None).await.0, 200);
    }
    std::fs::remove_file(list.path()).unwrap();
    gateway.reload();
    wait(&gateway, |view| {
        view["models_file"]["error"].as_str().is_some_and(|error| error.contains("failed to read"))
    })
    .await;
    assert_eq!(ask(&gateway, None).await.0, 200, "a file that is gone is no empty list");
    list.write(&good);
    gateway.wait_sample("inference_gateway_config_reload_success", 1.0).await;
}

#[tokio::test]
async fn models_come_and_go_and_limits_change_without_a_load() {
    let (first, second) = (entry("a", &tiny("llama"), ""), entry("b", &tiny("gpt2"), ""));
    let list = ModelsList::new(&first);
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    list.write(&format!("{first}{second}"));
    gateway.reload();
    wait(&gateway, |view| {
        assert_eq!(view["models"][0]["state"], "ready", "another model disturbs nobody");
        view["models"][1]["state"] == "ready"
    })
    .await;
    assert_eq!((ask(&gateway, Some("a")).await.0, ask(&gateway, Some("b")).await.0), (200, 200));
    let (status, body) = ask(&gateway, None).await;
    assert!(status == 422 && body.to_string().contains("a, b"), "{body}");
    let (status, body) = ask(&gateway, Some("c")).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("model_not_found")));

    list.write(&entry("b", &tiny("gpt2"), "limits: {maxOutputTokens: 1}"));
    gateway.reload();
    wait(&gateway, |view| view["models"].as_array().unwrap().len() == 1).await;
    assert_eq!(ask(&gateway, Some("a")).await.0, 404);
    let began = Instant::now();
    while ask(&gateway, Some("b")).await.0 != 422 {
        assert!(began.elapsed() < PATIENCE, "the limit is not in force");
    }
    let loads = "inference_gateway_model_load_duration_seconds_count{model=\"b\",phase=\"load\"}";
    assert_eq!(gateway.sample(loads).await as u64, 1, "limits need no load");
    list.write("[]");
    gateway.reload();
    wait(&gateway, |view| view["models"] == json!([])).await;
    assert_eq!(ask(&gateway, None).await.0, 404);
}

#[tokio::test]
async fn a_model_that_nobody_uses_sleeps_until_a_request_comes() {
    let list = ModelsList::new(&entry("chat", &tiny("llama"), "limits: {unloadAfterIdleSeconds: 1}"));
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    let asleep = wait(&gateway, |view| view["models"][0]["state"] == "unloaded").await;
    assert_eq!(asleep["models"][0]["serving"], Value::Null);
    assert_eq!(gateway.readyz().await.0, 200, "a model that sleeps can answer");
    assert_eq!(ask(&gateway, None).await.0, 200);
    let demand = "inference_gateway_model_swaps_total{model=\"chat\",reason=\"demand\"}";
    assert_eq!(gateway.sample(demand).await as u64, 1);
}

#[tokio::test]
async fn without_a_list_that_holds_the_gateway_is_not_ready_and_says_why() {
    let list = ModelsList::new("- {");
    let gateway = list.gateway(&[]).await;
    wait(&gateway, |view| view["models_file"]["error"].is_string()).await;
    let (status, body) = gateway.readyz().await;
    assert!(status == 503 && body["reason"].as_str().unwrap().contains("which models"), "{body}");
    list.write("[]");
    gateway.reload();
    gateway.wait_ready().await;
}

#[tokio::test]
async fn the_api_address_has_no_admin_pages() {
    let gateway = Gateway::tiny().await;
    for (method, path) in [("GET", "/admin/models"), ("POST", "/admin/reload"), ("PUT", "/admin/log")] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let url = |address| format!("http://{address}{path}");
        let there = gateway.client.request(method.clone(), url(gateway.admin)).send().await.unwrap();
        assert_ne!(there.status(), 404, "{path}");
        for address in [gateway.api, gateway.ops] {
            let answer = gateway.client.request(method.clone(), url(address)).send().await.unwrap();
            assert_eq!(answer.status(), 404, "{path}");
        }
    }
}
