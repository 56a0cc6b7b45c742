//! Processes that die at once, all or one, soon after an update: a node that loses its power is no fault of what it serves, and a
//! revision that kills its pod is.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::eventually;
use crate::fleet::{Fleet, condition, spec};
use crate::node::GatewayPod;
use crate::plane::ControlPlane;
use crate::program::Program;
use crate::rollouts::went_back;

/// A spec whose pods are watched for longer than any of these tests takes.
fn watched(tiny: &str, min_ready_seconds: u64) -> Value {
    let mut spec = spec(tiny);
    spec["rollout"]["minReadySeconds"] = json!(min_ready_seconds);
    spec["rollout"]["watch"] = json!({"windowSeconds": 600});
    spec
}

impl Fleet {
    /// The state of a replica.
    async fn replica(&self, pod: &GatewayPod) -> Value {
        self.replicas.get(&format!("{}.chat", pod.name)).await.unwrap().data["status"].clone()
    }

    /// Kills what runs in these pods at the same moment, and waits until each process that follows serves the revision.
    async fn cut_power(&self, pods: &[usize], revision: &str) {
        let mut before = Vec::new();
        for pod in pods {
            before.push(self.replica(&self.pods[*pod]).await["servingSince"].clone());
        }
        // Times are told in whole seconds: another process shall have another one.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        for pod in pods {
            self.pods[*pod].container(Program::kill);
        }
        for (pod, before) in pods.iter().zip(before) {
            let pod = &self.pods[*pod];
            eventually(&format!("{revision} in {}, started anew", pod.name), async || {
                let status = self.replica(pod).await;
                let again = status["servingSince"] != before && status["servingRevision"] == revision;
                again.then_some(())
            })
            .await;
            pod.wait_ready().await;
        }
    }
}

/// Twice in a row, the second time before anything has proved itself again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_loses_its_power_after_an_update_comes_back_to_the_update() {
    let fleet = Fleet::start(ControlPlane::shared().await, "power", 3).await;
    fleet.all_ready().await;
    fleet.apply("chat", &watched("llama", 1)).await;
    let first = fleet.wait_rolled_out("chat").await;
    fleet.apply("chat", &watched("gpt2", 1)).await;
    let stable = fleet.wait_rolled_out("chat").await;
    assert_ne!(first, stable);
    for _cut in 0..2 {
        fleet.cut_power(&[0, 1, 2], &stable).await;
        let traffic = fleet.traffic("chat", &["gpt2"]).await;
        let status = fleet
            .wait("chat", "whole again", |status| {
                condition(status, "Ready") == "True RolledOut" && status["updatedReplicas"] == 3
            })
            .await;
        println!("{}", fleet.table().await);
        assert_eq!(
            (&status["rollout"]["phase"], &status["failedReplicas"]),
            (&json!("Idle"), &json!(0)),
            "{status}"
        );
        assert_eq!(status["stable"]["revision"], stable.as_str(), "{status}");
        let serving = fleet.serving().await;
        let all = serving.values().all(|one| *one == (stable.clone(), stable.clone()));
        assert!(serving.len() == 3 && all, "{serving:?}");
        traffic.wait_answers(20).await;
        let tally = traffic.stop().await;
        assert_eq!(tally.verdict(), Ok(()));
    }
    for (tiny, revision) in [("llama", &first), ("gpt2", &stable)] {
        fleet.apply("chat", &watched(tiny, 1)).await;
        assert_eq!(fleet.wait_rolled_out("chat").await, *revision, "updates go on");
    }
}

/// The process begins without the apiserver, and its notes end before the fleet had found the revision good: it cannot know better.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_has_given_up_what_the_fleet_has_found_good_comes_back_to_it() {
    let mut plane = ControlPlane::start("given-up").await;
    let fleet = Fleet::start(&plane, "given-up", 1).await;
    fleet.all_ready().await;
    fleet.apply("chat", &watched("llama", 5)).await;
    let first = fleet.wait_rolled_out("chat").await;
    fleet.apply("chat", &watched("gpt2", 5)).await;
    let notes = fleet.namespace.folder.join("gateway-0/state/_cluster.json");
    let early = eventually("the new revision in service, not found good yet", async || {
        let (_, serves) = fleet.serving().await.remove("gateway-0")?;
        let notes = std::fs::read(&notes).unwrap();
        let status = fleet.status("chat").await;
        (serves != first && status["stable"]["revision"] == first.as_str()).then_some(notes)
    })
    .await;
    let stable = fleet.wait_rolled_out("chat").await;
    assert_ne!(first, stable);

    let pod = &fleet.pods[0];
    plane.stop_apiserver();
    pod.container(|program| {
        program.freeze();
        std::fs::write(&notes, &early).unwrap();
        program.kill();
    });
    let serves = async |revision: &str| {
        let told = pod.readiness().await?;
        told.contains(&format!("\"serving\":\"{revision}\"")).then_some(told)
    };
    eventually("the revision before, and why", async || {
        serves(&first).await.filter(|told| told.contains("LoadCrashed"))
    })
    .await;
    plane.start_apiserver().await;
    eventually("the revision that the fleet has found good", async || serves(&stable).await).await;
    assert_eq!(fleet.wait_rolled_out("chat").await, stable);
    assert_eq!(fleet.status("chat").await["rollout"]["phase"], "Idle");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_kills_its_pod_while_it_is_rolled_out_is_taken_back_everywhere() {
    let fleet = Fleet::start(ControlPlane::shared().await, "kills", 3).await;
    fleet.all_ready().await;
    fleet.apply("chat", &watched("llama", 1)).await;
    let stable = fleet.wait_rolled_out("chat").await;
    fleet.apply("chat", &watched("gpt2", 60)).await;
    let canary = eventually("a canary", async || {
        let serving = fleet.serving().await;
        let new = |pod: &&GatewayPod| serving.get(&pod.name).is_some_and(|(_, serves)| *serves != stable);
        fleet.pods.iter().find(new)
    })
    .await;
    canary.container(Program::kill);
    went_back(&fleet, &stable, "LoadCrashed").await;
    let failed = fleet.status("chat").await;
    assert_eq!(failed["lastFailure"]["replica"], canary.name.as_str(), "{failed}");
}

/// After the fleet has found it good, one death is no proof and three are: the pod does without it until somebody asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_kills_its_pod_again_and_again_is_given_up_there() {
    let fleet = Fleet::start(ControlPlane::shared().await, "again", 2).await;
    fleet.all_ready().await;
    fleet.apply("chat", &watched("llama", 1)).await;
    let first = fleet.wait_rolled_out("chat").await;
    fleet.apply("chat", &watched("gpt2", 1)).await;
    let stable = fleet.wait_rolled_out("chat").await;
    for _death in 1..=2 {
        fleet.cut_power(&[0], &stable).await;
    }
    fleet.cut_power(&[0], &first).await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    let status = fleet.replica(&fleet.pods[0]).await;
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("LoadCrashed")), "{status}");
    assert!(status["message"].as_str().unwrap().contains("3 times"), "{status}");
    assert_eq!(fleet.serving().await["gateway-1"], (stable.clone(), stable.clone()));
    fleet.wait("chat", "told", |status| status["rollout"]["phase"] == "RollingBack").await;
    println!("{}", fleet.table().await);

    let retry = json!({"metadata": {"annotations": {"inference-gateway.io/retry": "please"}}});
    fleet.models.patch("chat", &PatchParams::default(), &Patch::Merge(&retry)).await.unwrap();
    let again = async || fleet.serving().await.values().all(|(_, serves)| *serves == stable).then_some(());
    eventually("the stable revision in all pods", again).await;
    assert_eq!(fleet.wait_rolled_out("chat").await, stable);
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}
