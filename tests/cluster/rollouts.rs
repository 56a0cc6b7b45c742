//! Models that change under load, in three pods: good ones reach all, bad ones leave everything as it was, and nobody who
//! asks notices either.

use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use crate::fleet::{Fleet, condition, spec};
use crate::plane::ControlPlane;

/// Every condition of a status, in the order of the table in the documents.
fn conditions(status: &Value) -> Vec<String> {
    ["Accepted", "Available", "Progressing", "Ready", "Degraded", "Stalled"]
        .map(|type_| format!("{type_}={}", condition(status, type_)))
        .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_reaches_one_pod_after_the_other_and_nobody_notices() {
    let fleet = Fleet::start(ControlPlane::shared().await, "update", 3).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    let first = fleet.wait_rolled_out("chat").await;
    println!("served\n{}", fleet.table().await);
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    traffic.wait_answers(20).await;

    traffic.phase("update");
    fleet.apply("chat", &spec("gpt2")).await;
    for phase in ["Preparing", "Canary", "Rolling"] {
        let phases = ["Preparing", "Canary", "Rolling", "Idle"];
        let reached = |status: &Value| {
            let now = phases.iter().position(|known| status["rollout"]["phase"] == *known);
            now >= phases.iter().position(|known| *known == phase)
        };
        fleet.wait("chat", phase, reached).await;
        println!("{phase}\n{}", fleet.table().await);
    }
    let second = fleet.wait_rolled_out("chat").await;
    println!("updated\n{}", fleet.table().await);
    assert_ne!(first, second);
    let serving = fleet.serving().await;
    assert!(
        serving.len() == 3 && serving.values().all(|one| *one == (second.clone(), second.clone())),
        "{serving:?}"
    );
    traffic.phase("updated");
    traffic.wait_answers(20).await;
    let tally = traffic.stop().await;
    assert_eq!(tally.verdict(), Ok(()));
    let updated = &tally.phases["updated"].by_revision;
    assert!(updated.keys().all(|(_, revision)| *revision == second), "{updated:?}");
    let events: Api<Event> = fleet.namespace.all();
    let told = events.list(&ListParams::default()).await.unwrap();
    let told: Vec<&str> = told.items.iter().filter_map(|event| event.reason.as_deref()).collect();
    for reason in ["RolloutStarted", "ReplicaSwapped", "RolloutComplete"] {
        assert!(told.contains(&reason), "no event {reason} in {told:?}");
    }
    let status = fleet.status("chat").await;
    assert_eq!(
        conditions(&status),
        [
            "Accepted=True Accepted",
            "Available=True Serving",
            "Progressing=False RolloutComplete",
            "Ready=True RolledOut",
            "Degraded=False AsExpected",
            "Stalled=-"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_while_it_is_prepared_is_told_and_touches_nothing() {
    let mut fleet = Fleet::prepare(ControlPlane::shared().await, "preflight").await;
    for _ in 0..3 {
        fleet.add_pod(&[("FAILPOINTS", "in-verify-child=return(abort)")]).await;
    }
    fleet.add_controller(&[]).await;
    fleet.all_ready().await;
    let mut good = spec("llama");
    // Tried where the fault is not.
    good["verify"] = json!({"isolation": "InProcess"});
    fleet.apply("chat", &good).await;
    let stable = fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama"]).await;

    let mut wrong_digest = spec("gpt2");
    wrong_digest["source"]["digest"] = json!(format!("sha256:{}", "0".repeat(64)));
    for (update, reason) in [(wrong_digest, "DigestMismatch"), (spec("gpt2"), "VerifyCrashed")] {
        traffic.phase(reason);
        fleet.apply("chat", &update).await;
        let failed = fleet.wait("chat", reason, |status| condition(status, "Stalled") != "-").await;
        assert_eq!(
            conditions(&failed),
            [
                "Accepted=True Accepted",
                "Available=True Serving",
                "Progressing=False RolloutFailed",
                "Ready=False PreflightFailed",
                "Degraded=False AsExpected",
                "Stalled=True PreflightFailed"
            ],
            "{failed}"
        );
        assert_eq!(failed["lastFailure"]["reason"], reason, "{failed}");
        assert_eq!(failed["stable"]["revision"], stable.as_str());
        println!("{reason}\n{}", fleet.table().await);
        traffic.wait_answers(20).await;
    }
    let serving = fleet.serving().await;
    assert!(serving.values().all(|one| *one == (stable.clone(), stable.clone())), "{serving:?}");
    fleet.apply("chat", &good).await;
    fleet.wait_rolled_out("chat").await;
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}

/// The canary serves; the second pod cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_fails_in_the_second_pod_leaves_all() {
    let mut fleet = Fleet::prepare(ControlPlane::shared().await, "second").await;
    fleet.add_pod(&[]).await;
    fleet.pods[0].wait_ready().await;
    // Each is the canary of nothing: it has been ready for less long.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    for _ in 0..2 {
        fleet.add_pod(&[("FAILPOINTS", "in-warm-up=1*off->return(fail)")]).await;
    }
    fleet.add_controller(&[]).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    let stable = fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    traffic.phase("update");
    fleet.apply("chat", &spec("gpt2")).await;
    went_back(&fleet, &stable, "ProbeFailed").await;
    traffic.wait_answers(20).await;
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}

/// It loads everywhere and does worse than it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_does_badly_in_the_canary_goes_back_by_itself() {
    let fleet = Fleet::start(ControlPlane::shared().await, "soak", 3).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    let stable = fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    traffic.phase("update");
    let mut slow = spec("gpt2");
    slow["rollout"]["minReadySeconds"] = json!(30);
    // Nothing is as quick as that.
    slow["rollout"]["watch"] =
        json!({"windowSeconds": 60, "minimumRequests": 3, "maxFirstTokenMilliseconds": 0});
    fleet.apply("chat", &slow).await;
    went_back(&fleet, &stable, "SoakErrors").await;
    traffic.wait_answers(20).await;
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}

pub(crate) async fn went_back(fleet: &Fleet, stable: &str, reason: &str) {
    let failed = fleet.wait("chat", "back", |status| condition(status, "Stalled") != "-").await;
    println!("{reason}\n{}", fleet.table().await);
    assert_eq!(
        conditions(&failed),
        [
            "Accepted=True Accepted",
            "Available=True Serving",
            "Progressing=False RolloutFailed",
            "Ready=False RolledBack",
            "Degraded=True RolledBack",
            "Stalled=True RolloutFailed"
        ],
        "{failed}"
    );
    assert_eq!(failed["lastFailure"]["reason"], reason, "{failed}");
    let serving = fleet.serving().await;
    assert!(serving.values().all(|(assigned, serves)| assigned == stable && serves == stable), "{serving:?}");
}
