//! Prompt templates in `Model` objects: they reach every pod without a rollout, and one that does not compile reaches none.

use serde_json::{Value, json};

use crate::eventually;
use crate::fleet::{Fleet, condition, spec};
use crate::plane::ControlPlane;
use crate::traffic::http_client;

fn with_template(template: &str) -> Value {
    let mut spec = spec("llama");
    spec["promptTemplates"] = json!([{"name": "ask", "template": template}]);
    spec
}

/// The prompt that a pod makes of the text `why?`, which is told with the answer; the error, where there is one.
async fn prompt(api: std::net::SocketAddr) -> Result<String, Value> {
    let request = json!({
        "model": "chat", "template": "ask", "text": "why?", "max_tokens": 1, "temperature": 0, "ignore_eos": true,
        "return_full_text": true, "return_token_ids": true,
    });
    let url = format!("http://{api}/api/v1/inference");
    let response = http_client().post(url).body(request.to_string()).send().await.unwrap();
    let body: Value = response.json().await.unwrap();
    // The tiny models have a token a byte: the prompt is as long as it has tokens.
    match (body["generated_text"].as_str(), body["metadata"]["prompt_tokens"].as_u64()) {
        (Some(text), Some(length)) => Ok(text[..length as usize].to_owned()),
        _ => Err(body["error"]["message"].clone()),
    }
}

async fn wait_prompt(fleet: &Fleet, wanted: &str) {
    for pod in &fleet.pods {
        eventually(wanted, async || prompt(pod.api).await.ok().filter(|prompt| prompt == wanted)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_reaches_every_pod_without_a_rollout_and_a_broken_one_none() {
    let mut fleet = Fleet::start(ControlPlane::shared().await, "templates", 2).await;
    fleet.all_ready().await;
    fleet.apply("chat", &with_template("Q: {{ text }}")).await;
    let stable = fleet.wait_rolled_out("chat").await;
    wait_prompt(&fleet, "Q: why?").await;

    fleet.apply("chat", &with_template("Frage: {{ text }}")).await;
    wait_prompt(&fleet, "Frage: why?").await;
    assert_eq!(fleet.wait_rolled_out("chat").await, stable, "it is the same revision");

    fleet.apply("chat", &with_template("Frage:\n{{ text | shorten }}")).await;
    let refused = |status: &Value| condition(status, "Accepted") == "False InvalidSpec";
    let status = fleet.wait("chat", "a refusal", refused).await;
    assert!(status.to_string().contains("there is no filter `shorten` (in ask:2)"), "{status}");
    assert_eq!(condition(&status, "Available"), "True Serving");
    wait_prompt(&fleet, "Frage: why?").await;
    // A pod that begins now serves the model, and says that it has no templates.
    fleet.add_pod(&[]).await;
    fleet.all_ready().await;
    let told = prompt(fleet.pods[2].api).await.unwrap_err();
    assert_eq!(told, "there is no template `ask`; this model has none");

    fleet.apply("chat", &with_template("Q2: {{ text }}")).await;
    wait_prompt(&fleet, "Q2: why?").await;
    assert_eq!(fleet.wait_rolled_out("chat").await, stable);
}
