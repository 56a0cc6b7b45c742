//! `/healthz`, `/livez` and `/readyz` on both listeners.

use serde_json::json;

use crate::harness::{Gateway, settings, tiny};

#[tokio::test]
async fn a_served_model_is_ready_on_both_listeners() {
    let gateway = Gateway::tiny().await;
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(gateway.get(path).await.status().as_u16(), 200, "{path} of the API");
        assert_eq!(gateway.get_ops(path).await.status().as_u16(), 200, "{path} of ops");
    }
    let (_, body) = gateway.readyz().await;
    assert_eq!(body["ready"], true);
    assert_eq!(body["models"][0]["name"], "tiny");
    assert_eq!(body["models"][0]["state"], "ready");
    assert_eq!(gateway.get_ops("/api/v1/inference").await.status().as_u16(), 404, "ops serves no API");
}

#[tokio::test]
async fn a_missing_model_fails_readiness_with_its_reason_and_nothing_else() {
    let gateway = Gateway::start(settings(&["--default-model-path=/nowhere/model"])).await;
    // A volume may be mounted late, so the path is looked at again.
    let reason = gateway.wait_state("fetching").await;
    assert!(reason.contains("/nowhere/model") && reason.contains("tried again"), "{reason}");
    assert_eq!(gateway.get("/healthz").await.status().as_u16(), 200);
    assert_eq!(gateway.get("/livez").await.status().as_u16(), 200);
    let (status, body) = gateway.infer(&json!({"text": "a"})).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (503, &json!("model_not_ready")));
}

#[tokio::test]
async fn metrics_can_be_kept_off_the_api() {
    let gateway = Gateway::serving(&tiny("llama"), &["--metrics-on-api=false"]).await;
    assert_eq!(gateway.get("/metrics").await.status().as_u16(), 404);
    assert_eq!(gateway.get_ops("/metrics").await.status().as_u16(), 200);
}
