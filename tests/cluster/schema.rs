//! The cluster refuses the objects that the gateway would refuse, and accepts the others: one schema, whoever reads it.

use std::time::Duration;

use inference_gateway::model::{Defaults, HugePages, LiveLimits, LoadLimits, MemoryLimits, parse_documents};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use crate::fleet::{install, objects};
use crate::plane::ControlPlane;

fn defaults() -> Defaults {
    Defaults {
        load: LoadLimits {
            context_tokens: None,
            rows: 4_000_000_000,
            huge_pages: HugePages::Never,
            chunk_tokens: 64,
            queue: 10,
            draft_tokens: 0,
            memory: MemoryLimits::default(),
        },
        live: LiveLimits {
            concurrent: 4,
            queue: 10,
            output_tokens: None,
            request_timeout: Duration::from_mins(1),
            unload_after_idle: None,
        },
        endpoints_delay: Duration::from_secs(5),
        model_root: "/models".into(),
    }
}

/// Whether the gateway takes a spec.
fn gateway_says(spec: &Value) -> Result<(), String> {
    let list = json!([{"name": "chat", "spec": spec}]);
    let parsed = parse_documents(list.to_string().as_bytes(), &defaults());
    parsed.map(drop).map_err(|error| error.to_string())
}

/// Whether the cluster takes it.
async fn cluster_says(models: &Api<DynamicObject>, spec: &Value) -> Result<(), String> {
    let object = json!({
        "apiVersion": "inference-gateway.io/v1alpha1", "kind": "Model", "metadata": {"name": "chat"}, "spec": spec,
    });
    let strictly = PatchParams::apply("tests").force().dry_run().validation_strict();
    let outcome = models.patch("chat", &strictly, &Patch::Apply(&object)).await;
    outcome.map(drop).map_err(|error| error.to_string())
}

/// `{source: {path: a}}` with more fields.
fn with(more: &Value) -> Value {
    let mut spec = json!({"source": {"path": "a"}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

/// Prompt templates that hold and that do not.
fn prompt_templates() -> Vec<Value> {
    let prompts = |named: Value| json!({"promptTemplates": named});
    let many: Vec<Value> =
        (0..17).map(|number| json!({"name": number.to_string(), "template": "x"})).collect();
    let long = "x".repeat(20_000);
    vec![
        with(
            &json!({"promptTemplate": "Q: {{ text }}", "promptTemplates": [{"name": "A.b-c_9", "template": "{{ a }}"}]}),
        ),
        with(&json!({"promptTemplate": ""})),
        with(&json!({"promptTemplate": format!("{{{{ text }}}}{long}")})),
        with(&prompts(json!([{"name": "a b", "template": "x"}]))),
        with(&prompts(json!([{"name": "", "template": "x"}]))),
        with(&prompts(json!([{"name": "x".repeat(65), "template": "x"}]))),
        with(&prompts(json!([{"name": "a", "template": ""}]))),
        with(&prompts(json!([{"name": "a", "template": long}]))),
        with(&prompts(json!([{"name": "a"}]))),
        with(&prompts(json!([{"name": "a", "template": "x", "role": "user"}]))),
        with(&prompts(json!([{"name": "a", "template": "x"}, {"name": "a", "template": "y"}]))),
        with(&prompts(json!(many[..16]))),
        with(&prompts(json!(many))),
    ]
}

#[tokio::test]
async fn cluster_and_gateway_refuse_the_same_objects() {
    let plane = ControlPlane::shared().await;
    install(plane).await;
    let namespace = plane.namespace("schema").await;
    let models = objects(&namespace, "Model");
    let digest = format!("sha256:{}", "a".repeat(64));
    let sources = |source: Value| json!({"source": source});
    let long = "x".repeat(20_000);
    let specs = [
        sources(json!({"path": "a"})),
        sources(json!({"path": "a/b.onnx", "inPlace": true})),
        sources(json!({"path": "a", "digest": digest})),
        sources(json!({"url": "https://example.com/m/manifest.json", "digest": digest})),
        sources(json!({"hf": {"repo": "owner/name", "revision": "refs/pr/1", "subfolder": "onnx"}})),
        sources(json!({"oci": format!("registry.example.com:5000/a/b:tag@{digest}")})),
        sources(json!({})),
        sources(json!({"path": "a", "url": "https://example.com/m", "digest": digest})),
        sources(json!({"path": ""})),
        sources(json!({"path": "/a"})),
        sources(json!({"path": "a/../b"})),
        sources(json!({"path": "./a"})),
        sources(json!({"path": "a//b"})),
        sources(json!({"path": {"a": 1}})),
        sources(json!({"url": "https://example.com/m"})),
        sources(json!({"url": "ftp://example.com/m", "digest": digest})),
        sources(json!({"url": "https://user:secret@example.com/m", "digest": digest})),
        sources(json!({"hf": {"repo": "a/b/c"}})),
        sources(json!({"hf": {"repo": "a/b", "revision": "x/../y"}})),
        sources(json!({"hf": {"repo": "-a/b"}})),
        sources(json!({"hf": {}})),
        sources(json!({"oci": "registry.example.com"})),
        sources(json!({"oci": "registry.example.com/A"})),
        sources(json!({"path": "a", "digest": "sha256:12"})),
        sources(json!({"hf": {"repo": "a/b"}, "inPlace": true})),
        sources(json!({"path": "a", "torrent": "x"})),
        json!({}),
        with(&json!({"tokenizer": {"hf": {"repo": "a/b"}}})),
        with(&json!({"tokenizer": {"hf": {"repo": "a/b"}, "digest": digest}})),
        with(&json!({"tokenizer": {"path": "a", "inPlace": true}})),
        with(&json!({"tokenizer": {}})),
        with(&json!({"servedName": "a:b/c-1", "aliases": ["x", "y"]})),
        with(&json!({"servedName": ""})),
        with(&json!({"servedName": "-a"})),
        with(&json!({"servedName": "x".repeat(129)})),
        with(&json!({"servedName": "x", "aliases": ["x"]})),
        with(&json!({"aliases": ["chat"]})),
        with(&json!({"aliases": ["x", "x"]})),
        with(&json!({"aliases": ["1", "2", "3", "4", "5", "6", "7", "8", "9"]})),
        with(
            &json!({"runtime": {"contextLength": 2048, "maxBatchSize": 8, "memory": "900Mi", "cacheMemory": 1024, "prefixMemory": "0"}}),
        ),
        with(&json!({"runtime": {"contextLength": 0}})),
        with(&json!({"runtime": {"contextLength": 4_294_967_296_u64}})),
        with(&json!({"runtime": {"maxBatchSize": -1}})),
        with(&json!({"runtime": {"memory": "1.5Gi"}})),
        with(&json!({"runtime": {"memory": -1}})),
        with(&json!({"runtime": {"speculativeTokens": 65}})),
        with(&json!({"runtime": {"chatTemplate": long}})),
        with(&json!({"runtime": {"threads": 2}})),
        with(
            &json!({"limits": {"maxConcurrent": 3, "maxQueue": 0, "maxOutputTokens": 1, "requestTimeoutSeconds": 86400}}),
        ),
        with(&json!({"limits": {"maxConcurrent": 5}, "runtime": {"maxBatchSize": 4}})),
        with(&json!({"limits": {"maxOutputTokens": 0}})),
        with(&json!({"limits": {"requestTimeoutSeconds": 86401}})),
        with(&json!({"limits": {"unloadAfterIdleSeconds": 0}})),
        with(
            &json!({"verify": {"probes": [{"prompt": "a", "expectContains": "b"}, {"prompt": "a", "expectTokens": [1, 2]}]}}),
        ),
        with(&json!({"verify": {"isolation": "Elsewhere"}})),
        with(&json!({"verify": {"timeoutSeconds": 0}})),
        with(&json!({"verify": {"probes": [{"prompt": ""}]}})),
        with(&json!({"verify": {"probes": [{"prompt": "a", "maxTokens": 257}]}})),
        with(&json!({"verify": {"probes": [{"prompt": "a", "expectContains": ""}]}})),
        with(&json!({"verify": {"probes": [{"prompt": "a", "expectTokens": []}]}})),
        with(&json!({"verify": {"probes": [{"prompt": "a", "expectTokens": [1], "expectContains": "b"}]}})),
        with(&json!({"verify": {"probes": [{"prompt": "a", "maxTokens": 1, "expectTokens": [1, 2]}]}})),
        with(&json!({"verify": {"probes": vec![json!({"prompt": "a"}); 9]}})),
        with(
            &json!({"rollout": {"drainSeconds": 0, "swapPolicy": "UnloadBeforeLoad", "afterDrain": "Wait", "watch": {"windowSeconds": 0}}}),
        ),
        with(&json!({"rollout": {"drainSeconds": 86401}})),
        with(&json!({"rollout": {"swapPolicy": "Maybe"}})),
        with(&json!({"rollout": {"watch": {"maxErrorPercent": 101}}})),
        with(&json!({"rollout": {"watch": {"maxStepSeconds": 0}}})),
        with(&json!({"rollout": {"watch": {"minimumRequests": 0}}})),
    ];
    let (mut taken, mut refused, mut differ) = (0, 0, Vec::new());
    for spec in specs.iter().chain(&prompt_templates()) {
        let (cluster, gateway) = (cluster_says(&models, spec).await, gateway_says(spec));
        match (&cluster, &gateway) {
            (Ok(()), Ok(())) => taken += 1,
            (Err(_), Err(_)) => refused += 1,
            _ => differ.push(format!("{spec}\n  cluster {cluster:?}\n  gateway {gateway:?}")),
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(taken >= 10 && refused >= 40, "{taken} taken, {refused} refused");
}
