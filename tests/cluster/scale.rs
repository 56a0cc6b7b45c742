//! A hundred models in fifty pods: how long it takes until all serve, and how many requests that costs the apiserver. The pods
//! are simulated: each hears of its replicas as an agent does, and does at once what it is told.
//!
//! Run by hand: `cargo test --features failpoints --test cluster scale -- --ignored --nocapture`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::watcher::{Config, Event, watcher};
use serde_json::{Value, json};

use crate::access::client;
use crate::fleet::{Fleet, condition, objects, spec};
use crate::namespace::Namespace;
use crate::plane::ControlPlane;
use crate::spawn;

/// How large a test is to be.
pub(crate) fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// A pod without a container, ready from the start.
async fn pod(namespace: &Namespace, name: &str) -> Pod {
    let object = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"inference-gateway.io/gateway": "default"}},
        "spec": {"nodeName": "this-machine", "serviceAccountName": "gateway", "containers": [{"name": "gateway", "image": "none"}]},
    }))
    .unwrap();
    let made: Pod = namespace.create_object(&object).await;
    let ready = json!({"status": {"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let pods: Api<Pod> = namespace.all();
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&ready)).await.unwrap();
    made
}

/// Hears of its replicas and does what they say.
async fn agent(replicas: Api<DynamicObject>, name: String) {
    let config = Config::default().fields(&format!("spec.podName={name}")).timeout(60);
    let mut events = Box::pin(watcher(replicas.clone(), config));
    while let Some(event) = events.next().await {
        let Ok(Event::Apply(object) | Event::InitApply(object)) = event else { continue };
        let (spec, told) = (&object.data["spec"], &object.data["status"]);
        if told["observedEpoch"] == spec["epoch"] {
            continue;
        }
        let prepared: Vec<&Value> = [&spec["prefetchRevision"], &spec["revision"]]
            .into_iter()
            .filter(|one| one.is_string())
            .collect();
        let mut status =
            json!({"observedEpoch": spec["epoch"], "phase": "Ready", "preparedRevisions": prepared});
        if spec["revision"].is_string() {
            status["servingRevision"] = spec["revision"].clone();
            status["watchedSeconds"] = json!(0);
        }
        let patch = json!({"apiVersion": "inference-gateway.io/v1alpha1", "kind": "ModelReplica", "metadata": {"name": object.name_any()}, "status": status});
        let ours = PatchParams::apply("agent").force();
        replicas.patch_status(&object.name_any(), &ours, &Patch::Apply(&patch)).await.unwrap();
    }
}

/// Requests to the apiserver by verb and resource, of this project's kinds.
async fn requests(plane: &ControlPlane) -> BTreeMap<String, f64> {
    let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
    let text = plane.admin().await.request_text(request).await.unwrap();
    let mut all = BTreeMap::new();
    for line in text
        .lines()
        .filter(|line| line.starts_with("apiserver_request_total{") && line.contains("inference-gateway.io"))
    {
        let label = |name: &str| {
            line.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        *all.entry(format!("{} {} {}", label("verb"), label("resource"), label("subresource")))
            .or_default() += value;
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; run by hand"]
async fn a_hundred_models_in_fifty_pods_come_to_rest() {
    let (models, pods) = (number("SCALE_MODELS", 100), number("SCALE_PODS", 50));
    let plane = ControlPlane::start("scale").await;
    let mut fleet = Fleet::prepare(&plane, "scale").await;
    for index in 0..pods {
        let name = format!("pod-{index}");
        let object = pod(&fleet.namespace, &name).await;
        let kubeconfig = fleet.namespace.kubeconfig("gateway", Some(&object)).await;
        let own = Namespace { client: client(&kubeconfig).await, ..fleet.namespace.clone() };
        drop(spawn(agent(objects(&own, "ModelReplica"), name)));
    }
    fleet.add_controller(&[("RUST_LOG", "warn")]).await;
    let mut wanted = spec("llama");
    wanted["rollout"] = json!({"minReadySeconds": 0, "maxUnavailable": "20%"});
    for (update, path) in ["first", "second"].into_iter().enumerate() {
        let before = requests(&plane).await;
        let began = Instant::now();
        wanted["source"] = json!({"path": path});
        for index in 0..models {
            let object = json!({"apiVersion": "inference-gateway.io/v1alpha1", "kind": "Model",
                                "metadata": {"name": format!("model-{index}")}, "spec": wanted});
            let ours = PatchParams::apply("tests").force();
            fleet.models.patch(&format!("model-{index}"), &ours, &Patch::Apply(&object)).await.unwrap();
        }
        loop {
            let all = fleet.models.list(&kube::api::ListParams::default()).await.unwrap();
            let done = all.items.iter().filter(|model| {
                let status = &model.data["status"];
                condition(status, "Ready") == "True RolledOut"
                    && status["observedGeneration"].as_i64() == model.metadata.generation
            });
            let done = done.count();
            if done == models {
                break;
            }
            assert!(began.elapsed() < Duration::from_mins(15), "{done} of {models} models serve");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        println!(
            "update {update}: {models} models in {pods} pods after {:.1} s",
            began.elapsed().as_secs_f64()
        );
        for (kind, count) in requests(&plane).await {
            let made = count - before.get(&kind).copied().unwrap_or_default();
            if made > 0.0 {
                println!("  {made:>8} {kind} ({:.2} a replica)", made / (models * pods) as f64);
            }
        }
    }
    let quiet = requests(&plane).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let later = requests(&plane).await;
    let writes = |all: &BTreeMap<String, f64>| {
        all.iter()
            .filter(|(kind, _)| !kind.starts_with("WATCH") && !kind.starts_with("LIST"))
            .map(|(_, count)| count)
            .sum::<f64>()
    };
    println!("in 30 s at rest: {} writes", writes(&later) - writes(&quiet));
    assert!(writes(&later) - writes(&quiet) < 1.0, "a cluster at rest is not written to");
}
