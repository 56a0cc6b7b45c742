//! Pods that come and go while a rollout goes on: an autoscaler, a node that is lost, and a model that is deleted while nobody
//! leads.

use kube::api::DeleteParams;

use crate::eventually;
use crate::fleet::{Fleet, condition, spec};
use crate::plane::ControlPlane;
use crate::program::Program;

/// One pod, ten, and one again, all in one rollout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_ends_whatever_an_autoscaler_does_meanwhile() {
    let mut fleet = Fleet::start(ControlPlane::shared().await, "autoscaler", 1).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    let old = fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    traffic.phase("up");
    fleet.apply("chat", &spec("gpt2")).await;
    fleet.wait("chat", "begun", |status| status["rollout"]["phase"] != "Idle").await;
    for _ in 0..9 {
        fleet.add_pod(&[]).await;
    }
    // Some serve the one, some the other.
    fleet
        .wait("chat", "under way", |status| {
            status["replicas"] == 10 && status["updatedReplicas"].as_u64().is_some_and(|updated| updated >= 2)
        })
        .await;
    traffic.phase("down");
    while fleet.pods.len() > 1 {
        assert!(fleet.pods.remove(0).delete().await.success());
    }
    let new = fleet.wait_rolled_out("chat").await;
    assert_ne!(new, old);
    let serving = eventually("one replica", async || {
        let serving = fleet.serving().await;
        (serving.len() == 1).then_some(serving)
    })
    .await;
    assert!(serving.values().all(|(_, serves)| *serves == new), "{serving:?}");
    traffic.phase("after");
    traffic.wait_answers(10).await;
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}

/// Its node is gone: nobody writes of the pod any more but that it is not ready, until somebody removes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_waits_for_a_pod_that_is_lost_and_goes_on_without_it() {
    let mut fleet = Fleet::start(ControlPlane::shared().await, "lost", 3).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    let old = fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    traffic.wait_answers(10).await;
    // Requests that it had are lost with it: nobody asks while it goes.
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
    fleet.pods[2].container(Program::freeze);
    fleet.pods[2].wait_unready().await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    traffic.phase("lost");
    fleet.apply("chat", &spec("gpt2")).await;
    let waiting = fleet
        .wait("chat", "prepared by those that are there", |status| {
            status["rollout"]["progress"].as_str().is_some_and(|told| told.contains("2 prepared"))
        })
        .await;
    assert_eq!(waiting["stable"]["revision"], old.as_str());
    traffic.wait_answers(20).await;
    let serving = fleet.serving().await;
    assert!(
        serving.values().all(|(assigned, _)| *assigned == old),
        "one is out of service, and no more may be: {serving:?}"
    );
    let lost = fleet.pods.pop().unwrap();
    let gone = DeleteParams::default().grace_period(0);
    fleet.namespace.all::<k8s_openapi::api::core::v1::Pod>().delete(&lost.name, &gone).await.unwrap();
    drop(lost);
    fleet.add_pod(&[]).await;
    let new = fleet.wait_rolled_out("chat").await;
    assert_ne!(new, old);
    traffic.wait_answers(10).await;
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}

/// The controller decides when a model ends: while it is away the pods go on, and it catches up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_deleted_while_nobody_leads_goes_on_until_somebody_does() {
    let mut fleet = Fleet::start(ControlPlane::shared().await, "orphan", 2).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama"]).await;
    fleet.controllers[0].program.terminate();
    eventually("its end", async || fleet.controllers[0].program.exit_status()).await;
    fleet.models.delete("chat", &DeleteParams::default()).await.unwrap();
    traffic.phase("deleted");
    // A container that starts meanwhile serves it too: its replica is still there.
    fleet.pods[0].container(Program::terminate);
    fleet.pods[0].wait_unready().await;
    fleet.pods[0].wait_ready().await;
    traffic.wait_answers(20).await;
    assert_eq!(traffic.stop().await.verdict(), Ok(()));

    fleet.add_controller(&[]).await;
    for pod in &fleet.pods {
        pod.wait_without("chat").await;
    }
    eventually("no replicas", async || fleet.serving().await.is_empty().then_some(())).await;
    fleet.apply("chat", &spec("gpt2")).await;
    fleet.wait("chat", "made anew", |status| condition(status, "Ready") == "True RolledOut").await;
}
