//! Revisions that do not fit beside each other: a pod makes room only while others serve, and is out of service meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::json;

use crate::fleet::{Fleet, condition, source_of, spec};
use crate::folders::prepared;
use crate::node_status::is_ready;
use crate::plane::ControlPlane;
use crate::{eventually, spawn};

/// How many pods were seen out of service at once.
struct Outages {
    most: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Outages {
    fn watch(fleet: &Fleet) -> Self {
        let (most, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (noted, stopped, pods) = (Arc::clone(&most), Arc::clone(&stop), fleet.namespace.all::<Pod>());
        let task = spawn(async move {
            while !stopped.load(Ordering::Acquire) {
                let all = pods.list(&ListParams::default()).await.unwrap();
                noted.fetch_max(all.items.iter().filter(|pod| !is_ready(pod)).count(), Ordering::AcqRel);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { most, stop, task }
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Release);
        self.task.await.unwrap();
        self.most.load(Ordering::Acquire)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_unload_first_leave_their_endpoints_one_after_the_other() {
    let mut fleet = Fleet::prepare(ControlPlane::shared().await, "room").await;
    for _ in 0..3 {
        fleet.add_pod(&[("INFERENCE_ENDPOINTS_DELAY", "1s")]).await;
    }
    fleet.add_controller(&[]).await;
    fleet.all_ready().await;
    let unloading = |tiny| {
        let mut spec = spec(tiny);
        spec["rollout"]["swapPolicy"] = json!("UnloadBeforeLoad");
        spec
    };
    fleet.apply("chat", &unloading("llama")).await;
    fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    traffic.phase("update");
    let outages = Outages::watch(&fleet);
    fleet.apply("chat", &unloading("gpt2")).await;
    let why = eventually("a pod that says why it is not ready", async || {
        for pod in &fleet.pods {
            let told = pod.readiness().await?;
            if told.contains("\"ready\":false") && told.contains("makes room") {
                return Some(told);
            }
        }
        None
    })
    .await;
    assert!(why.contains("other pods serve the model"), "{why}");
    fleet.wait_rolled_out("chat").await;
    fleet.all_ready().await;
    assert_eq!(outages.stop().await, 1, "one at a time, and each of them");
    let replicas = fleet.replicas.list(&ListParams::default()).await.unwrap();
    assert!(replicas.items.iter().all(|replica| replica.data["spec"]["mayUnload"] == true));
    traffic.phase("updated");
    traffic.wait_answers(20).await;
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}

/// Nobody else would answer: requests wait in the pod instead of being turned away before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_alone_keeps_its_endpoints_and_lets_requests_wait() {
    let fleet = Fleet::start(ControlPlane::shared().await, "alone", 1).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    traffic.phase("update");
    let outages = Outages::watch(&fleet);
    let mut unloading = spec("gpt2");
    unloading["rollout"]["swapPolicy"] = json!("UnloadBeforeLoad");
    fleet.apply("chat", &unloading).await;
    fleet.wait_rolled_out("chat").await;
    assert_eq!(outages.stop().await, 0);
    traffic.wait_answers(20).await;
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}

/// A model of which two do not fit, in pods of limited memory, without a word about it in its spec.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_beside_what_serves_takes_its_place_where_others_serve() {
    let mut fleet = Fleet::prepare(ControlPlane::shared().await, "tight").await;
    for _ in 0..2 {
        let tight = [("INFERENCE_MEMORY_LIMIT", "580Mi"), ("INFERENCE_ENDPOINTS_DELAY", "1s")];
        fleet.add_pod(&tight).await;
    }
    fleet.add_controller(&[]).await;
    fleet.all_ready().await;
    let mut large = spec("llama");
    large["source"] = source_of(&prepared("models/smollm2-135m-instruct-w8a8"));
    large["runtime"] =
        json!({"contextLength": 128, "maxBatchSize": 1, "prefixMemory": "0", "memory": "300Mi"});
    fleet.apply("chat", &large).await;
    let first = fleet.wait_rolled_out("chat").await;
    let outages = Outages::watch(&fleet);
    large["runtime"]["contextLength"] = json!(96);
    fleet.apply("chat", &large).await;
    let second = fleet.wait_rolled_out("chat").await;
    assert_ne!(first, second);
    assert_eq!(outages.stop().await, 1, "it made room");

    // Alone, nothing makes room: the update is told to have too little memory, and what serves goes on.
    fleet.pods.pop().unwrap().delete().await;
    large["runtime"]["contextLength"] = json!(64);
    large["rollout"]["progressDeadlineSeconds"] = json!(5);
    fleet.apply("chat", &large).await;
    let failed = fleet.wait("chat", "given up", |status| condition(status, "Stalled") != "-").await;
    assert_eq!(condition(&failed, "Stalled"), "True ProgressDeadlineExceeded", "{failed}");
    let message = failed["lastFailure"]["message"].as_str().unwrap();
    assert!(message.contains("InsufficientMemory"), "{failed}");
    assert_eq!(failed["stable"]["revision"], second.as_str());
    assert_eq!(condition(&failed, "Available"), "True Serving");
}
