//! Who may use a gateway, as the cluster's own roles say it: users are known by their tokens, models are allowed by name.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject};
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use serde_json::{Value, json};

use crate::eventually;
use crate::folders::prepared;
use crate::namespace::{Namespace, named, rule};
use crate::node::{GatewayPod, LIVENESS_PATIENCE, Template};
use crate::plane::ControlPlane;
use crate::traffic::http_client;

/// Lets a service account do what a role of the whole cluster says. The name is the test's own.
async fn bind(namespace: &Namespace, account: &str, role: &str) -> String {
    let name = format!("{}-{account}", namespace.name);
    let subject = Subject {
        kind: "ServiceAccount".to_owned(),
        name: account.to_owned(),
        namespace: Some(namespace.name.clone()),
        ..Subject::default()
    };
    let role_ref = RoleRef {
        api_group: "rbac.authorization.k8s.io".to_owned(),
        kind: "ClusterRole".to_owned(),
        name: role.to_owned(),
    };
    let binding = ClusterRoleBinding { metadata: named(&name), role_ref, subjects: Some(vec![subject]) };
    let bindings: Api<ClusterRoleBinding> = Api::all(namespace.client.clone());
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    name
}

/// The right to let some models generate.
fn may_generate(models: &[&str]) -> PolicyRule {
    let names = models.iter().map(|model| (*model).to_owned()).collect();
    PolicyRule {
        resource_names: Some(names),
        ..rule("inference-gateway.io", &["models/generate"], &["create"])
    }
}

/// A token of a service account that may do what the rules say.
async fn token(namespace: &Namespace, account: &str, rules: Vec<PolicyRule>) -> String {
    namespace.service_account(account, rules).await;
    namespace.kubeconfig(account, None).await;
    std::fs::read_to_string(namespace.folder.join(format!("{account}.token"))).unwrap()
}

/// A gateway with the models `chat` and `code` that asks the cluster who comes.
async fn gateway(namespace: &Namespace) -> GatewayPod {
    let model = prepared("tiny").join("llama").display().to_string();
    let source = json!({"path": model.strip_prefix('/').unwrap(), "inPlace": true});
    let list = ["chat", "code"].map(|name| json!({"name": name, "spec": {"source": source}}));
    let file = namespace.folder.join("models.yaml");
    std::fs::write(&file, json!(list).to_string()).unwrap();
    let template = Template {
        gateway: "default".to_owned(),
        service_account: "gateway".to_owned(),
        arguments: vec![
            format!("--models-file={}", file.display()),
            "--auth-mode=kubernetes".to_owned(),
            "--metrics-auth=kubernetes".to_owned(),
        ],
        environment: Vec::new(),
        liveness_patience: LIVENESS_PATIENCE,
    };
    GatewayPod::start(namespace, "gateway-0", &template).await
}

async fn ask(pod: &GatewayPod, token: Option<&str>, model: &str) -> (u16, Value) {
    let url = format!("http://{}/api/v1/inference", pod.api);
    let mut request = http_client().post(url).json(&json!({"model": model, "text": "Once", "max_tokens": 2}));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn metrics(pod: &GatewayPod, token: Option<&str>) -> [u16; 2] {
    let mut statuses = [0; 2];
    for (status, address) in statuses.iter_mut().zip([pod.api, pod.ops]) {
        let mut request = http_client().get(format!("http://{address}/metrics"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        *status = request.send().await.unwrap().status().as_u16();
    }
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_roles_of_the_cluster_say_who_may_use_which_model() {
    let namespace = ControlPlane::shared().await.namespace("callers").await;
    namespace.service_account("gateway", Vec::new()).await;
    let delegation = bind(&namespace, "gateway", "system:auth-delegator").await;
    let one = token(&namespace, "one-model", vec![may_generate(&["chat"])]).await;
    let every = rule("inference-gateway.io", &["models/generate"], &["create"]);
    let all = token(&namespace, "all-models", vec![every]).await;
    let none =
        token(&namespace, "no-model", vec![rule("inference-gateway.io", &["models"], &["create"])]).await;
    let pod = gateway(&namespace).await;
    pod.wait_ready().await;

    // Roles reach the apiserver's own cache a moment after they were stored; a no is remembered for 30 s.
    eventually("the right to use a model", async || {
        (ask(&pod, Some(&one), "chat").await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(ask(&pod, None, "chat").await.0, 401);
    let broken = &one[..one.len() - 8];
    for wrong in ["a.b.c", broken] {
        let (status, body) = ask(&pod, Some(wrong), "chat").await;
        assert_eq!((status, &body["error"]["code"]), (401, &json!("unauthenticated")));
    }
    for model in ["code", "no-such-model"] {
        let (status, body) = ask(&pod, Some(&one), model).await;
        assert_eq!((status, &body["error"]["code"]), (403, &json!("model_forbidden")), "{body}");
    }
    assert_eq!(ask(&pod, Some(&all), "code").await.0, 200);
    assert_eq!(ask(&pod, Some(&all), "no-such-model").await.0, 404);
    // To write Models is not to use them.
    assert_eq!(ask(&pod, Some(&none), "chat").await.0, 403);

    let listed = async |token: &str| {
        let url = format!("http://{}/v1/models", pod.api);
        let body: Value =
            http_client().get(url).bearer_auth(token).send().await.unwrap().json().await.unwrap();
        body["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&one).await, ["chat"]);
    assert_eq!(listed(&all).await, ["chat", "code"]);
    assert_eq!(listed(&none).await, Vec::<Value>::new());

    // Metrics are another right, on either address.
    assert_eq!(metrics(&pod, None).await, [401, 401]);
    assert_eq!(metrics(&pod, Some(&all)).await, [403, 403]);
    let scraper = token(&namespace, "scraper", Vec::new()).await;
    let read = PolicyRule {
        non_resource_urls: Some(vec!["/metrics".to_owned()]),
        verbs: vec!["get".to_owned()],
        ..PolicyRule::default()
    };
    let metadata = ObjectMeta { name: Some(format!("{}-metrics", namespace.name)), ..ObjectMeta::default() };
    let role = ClusterRole { metadata, rules: Some(vec![read]), ..ClusterRole::default() };
    let roles: Api<ClusterRole> = Api::all(namespace.client.clone());
    let role = roles.create(&PostParams::default(), &role).await.unwrap().metadata.name.unwrap();
    bind(&namespace, "scraper", &role).await;
    eventually("the right to read metrics", async || {
        (metrics(&pod, Some(&scraper)).await == [200, 200]).then_some(())
    })
    .await;
    let text = http_client().get(format!("http://{}/metrics", pod.ops)).bearer_auth(&scraper).send();
    let text = text.await.unwrap().text().await.unwrap();
    let caller = format!("caller=\"system:serviceaccount:{}:one-model\"", namespace.name);
    assert!(text.contains(&caller), "users are told apart by their names");
    assert!(!text.contains(&one[..20]), "and not by their tokens");

    // A gateway that may not ask any more lets in whom it remembers, and nobody else.
    let bindings: Api<ClusterRoleBinding> = Api::all(namespace.client.clone());
    bindings.delete(&delegation, &DeleteParams::default()).await.unwrap();
    let mut made = 0;
    let (status, body) = eventually("a refusal", async || {
        // Each has a token that is not remembered.
        made += 1;
        let (status, body) = ask(&pod, Some(&format!("a.b.{made}")), "chat").await;
        (status != 401).then_some((status, body))
    })
    .await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("access_not_known")), "{body}");
    assert!(
        pod.readiness().await.unwrap().contains("\"ready\":true"),
        "the apiserver does not make it unready"
    );
}
