//! What happens to the control plane while models are rolled out: controllers that die or stall, an apiserver that is away,
//! rights that are taken, objects that are deleted. Pods serve throughout, and everything ends where it should.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::access::client;
use crate::eventually;
use crate::fleet::{Fleet, condition, objects, spec};
use crate::namespace::named;
use crate::plane::ControlPlane;
use crate::program::Program;

/// The controller dies after each of its first writes of an update, one after the other, and a new one goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_dies_between_any_two_writes_is_followed_by_one_that_goes_on() {
    let mut fleet = Fleet::prepare(ControlPlane::shared().await, "dying").await;
    for _ in 0..3 {
        fleet.add_pod(&[]).await;
    }
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    // Each life ends after its second write.
    fleet.add_controller(&[("FAILPOINTS", "after-write=1*off->return(abort)")]).await;
    let mut lives = 1;
    let mut traffic = None;
    for (update, tiny) in ["llama", "gpt2", "llama"].into_iter().enumerate() {
        fleet.apply("chat", &spec(tiny)).await;
        let began = Instant::now();
        loop {
            let status = fleet.status("chat").await;
            let generation = fleet.models.get("chat").await.unwrap().metadata.generation;
            let done = condition(&status, "Ready") == "True RolledOut"
                && status["observedGeneration"].as_i64() == generation;
            if done {
                break;
            }
            assert!(began.elapsed() < crate::PATIENCE * 2, "update {update}: {status}");
            if fleet.controllers[0].program.exit_status().is_some() {
                lives += 1;
                fleet.controllers[0].program.restart();
                release_dead_leader(&fleet).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if traffic.is_none() {
            traffic = Some(fleet.traffic("chat", &["llama", "gpt2"]).await);
        }
    }
    println!("{lives} lives of the controller for three rollouts");
    assert!(lives > 10, "it died {lives} times only");
    assert_eq!(traffic.unwrap().stop().await.verdict(), Ok(()));
}

/// A new process would wait for the lease of the dead one to run out; that it does is the matter of another test.
async fn release_dead_leader(fleet: &Fleet) {
    let leases: Api<Lease> = fleet.namespace.all();
    let free = json!({"spec": {"holderIdentity": ""}});
    leases
        .patch("inference-gateway-controller", &PatchParams::default(), &Patch::Merge(&free))
        .await
        .unwrap();
}

/// A leader stalls for longer than its lease lasts; another one takes over, and the first does no harm when it wakes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_controllers_one_leads_also_when_the_other_wakes_from_a_stall() {
    let mut fleet = Fleet::start(ControlPlane::shared().await, "stall", 2).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    fleet.wait_rolled_out("chat").await;
    fleet.add_controller(&[]).await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    traffic.phase("stall");
    fleet.apply("chat", &spec("gpt2")).await;
    fleet.wait("chat", "begun", |status| status["rollout"]["phase"] != "Idle").await;
    fleet.controllers[0].program.freeze();
    let stalled = Instant::now();
    let leader = "inference_gateway_controller_leader";
    eventually("another leader", async || (fleet.metric(1, leader).await > 0.0).then_some(())).await;
    println!("another one leads after {:.1} s", stalled.elapsed().as_secs_f64());
    fleet.wait_rolled_out("chat").await;
    fleet.apply("chat", &spec("llama")).await;
    fleet.wait("chat", "begun", |status| status["rollout"]["phase"] != "Idle").await;
    // A minute in all, as on a node that stalls.
    tokio::time::sleep(Duration::from_mins(1).saturating_sub(stalled.elapsed())).await;
    fleet.controllers[0].program.thaw();
    let leaders = async || fleet.metric(0, leader).await + fleet.metric(1, leader).await;
    eventually("one leader", async || ((leaders().await - 1.0).abs() < f64::EPSILON).then_some(())).await;
    let stable = fleet.wait_rolled_out("chat").await;
    let serving = fleet.serving().await;
    assert!(serving.values().all(|(_, serves)| *serves == stable), "{serving:?}");
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_ends_in_order_is_followed_at_once() {
    let mut fleet = Fleet::start(ControlPlane::shared().await, "order", 1).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    fleet.wait_rolled_out("chat").await;
    fleet.controllers[0].program.terminate();
    let ended = Instant::now();
    let status = eventually("its end", async || fleet.controllers[0].program.exit_status()).await;
    assert!(status.success(), "{status}");
    fleet.add_controller(&[]).await;
    fleet.apply("chat", &spec("gpt2")).await;
    fleet.wait_rolled_out("chat").await;
    println!("the next one had rolled out after {:.1} s", ended.elapsed().as_secs_f64());
    assert!(ended.elapsed() < Duration::from_mins(1));
}

/// Seconds without an apiserver; `CLUSTER_OUTAGE_SECONDS` for another number.
fn outage() -> Duration {
    Duration::from_secs(std::env::var("CLUSTER_OUTAGE_SECONDS").map_or(20, |text| text.parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apiserver_that_is_away_in_the_middle_of_a_rollout_delays_it_and_no_more() {
    let mut plane = ControlPlane::start("away").await;
    let fleet = Fleet::start(&plane, "away", 3).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    traffic.phase("away");
    fleet.apply("chat", &spec("gpt2")).await;
    fleet.wait("chat", "begun", |status| status["rollout"]["phase"] != "Idle").await;
    plane.stop_apiserver();
    tokio::time::sleep(outage()).await;
    plane.start_apiserver().await;
    let back = Instant::now();
    fleet.wait_rolled_out("chat").await;
    println!("rolled out {:.1} s after the apiserver was back", back.elapsed().as_secs_f64());
    assert_eq!(traffic.stop().await.verdict(), Ok(()));

    // A container that starts without the cluster begins with what it knew last.
    plane.stop_apiserver();
    fleet.pods[0].container(Program::kill);
    let url = format!("http://{}", fleet.pods[0].api);
    let http = crate::traffic::http_client();
    let state = eventually("a pod without a cluster", async || {
        let state = http.get(format!("{url}/readyz")).send().await.ok()?;
        if state.status() == 503 {
            let request =
                http.post(format!("{url}/api/v1/inference")).body(r#"{"text": "a"}"#).send().await.ok()?;
            assert!(
                request.status() == 503 || request.status() == 200,
                "not known is not unknown: {request:?}"
            );
        }
        state.status().is_success().then_some(state)
    })
    .await;
    let told = state.text().await.unwrap();
    assert!(told.contains("\"chat\"") && told.contains("failed to watch"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_taken_and_given_back_cost_no_request() {
    let fleet = Fleet::start(ControlPlane::shared().await, "rights-lost", 2).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    let bindings: Api<RoleBinding> = fleet.namespace.all();
    let binding = bindings.get("gateway").await.unwrap();
    bindings.delete("gateway", &DeleteParams::default()).await.unwrap();
    traffic.phase("without rights");
    fleet.apply("chat", &spec("gpt2")).await;
    // A watch that is open stays so; its next beginning is refused.
    let pod = &fleet.pods[0];
    eventually("a watch that is told to be ill", async || {
        let ill = "inference_gateway_watch_healthy{resource=\"models\"} 0";
        pod.metrics().await?.contains(ill).then_some(())
    })
    .await;
    let told = pod.readiness().await.unwrap();
    assert!(told.contains("\"ready\":true"), "{told}");
    assert!(told.contains("what is known stays in force") && told.contains("forbidden"), "{told}");
    traffic.wait_answers(20).await;
    let again = RoleBinding { metadata: named("gateway"), ..binding };
    bindings.create(&PostParams::default(), &again).await.unwrap();
    fleet.wait_rolled_out("chat").await;
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_are_deleted_by_hand_come_back_and_a_deleted_model_ends() {
    let fleet = Fleet::start(ControlPlane::shared().await, "deleted", 2).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    let stable = fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    let replica = format!("{}.chat", fleet.pods[0].name);
    let before = fleet.replicas.get(&replica).await.unwrap().metadata.uid;
    fleet.replicas.delete(&replica, &DeleteParams::default()).await.unwrap();
    eventually("another replica", async || {
        let now = fleet.replicas.get_opt(&replica).await.unwrap()?;
        (now.metadata.uid != before && now.data["status"]["servingRevision"] == stable.as_str()).then_some(())
    })
    .await;
    // Deleted, and at once another one of the same name.
    fleet.models.delete("chat", &DeleteParams::default()).await.unwrap();
    fleet.apply("chat", &spec("gpt2")).await;
    let other = fleet.wait_rolled_out("chat").await;
    assert_ne!(other, stable);
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
    let told = async |sample: &str| fleet.metric(0, &format!("inference_gateway_{sample}")).await > 0.0;
    let at_rest = "rollout_phase{model=\"chat\",phase=\"Idle\"}";
    assert!(told(at_rest).await && !told("rollout_phase{model=\"chat\",phase=\"Rolling\"}").await);
    assert!(told("rollouts_total{model=\"chat\",outcome=\"complete\"}").await);

    fleet.models.delete("chat", &DeleteParams::default()).await.unwrap();
    fleet.pods[0].wait_without("chat").await;
    eventually("no replicas", async || fleet.serving().await.is_empty().then_some(())).await;
    eventually("no rollout", async || (!told(at_rest).await).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_writes_the_status_of_its_own_replicas_and_nothing_else() {
    let fleet = Fleet::start(ControlPlane::shared().await, "own", 2).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    fleet.wait_rolled_out("chat").await;
    let first = client(&fleet.namespace.folder.join("gateway-0.kubeconfig")).await;
    let as_first = crate::namespace::Namespace { client: first, ..fleet.namespace.clone() };
    let (replicas, models) = (objects(&as_first, "ModelReplica"), objects(&as_first, "Model"));
    let status = Patch::Merge(json!({"status": {"message": "hello"}}));
    let ours = PatchParams::default();
    replicas.patch_status("gateway-0.chat", &ours, &status).await.unwrap();
    let other = replicas.patch_status("gateway-1.chat", &ours, &status).await.unwrap_err();
    assert!(other.to_string().contains("its own replicas only"), "{other}");
    let spec_of = Patch::Merge(json!({"spec": {"revision": "0123456789", "epoch": 99}}));
    for refused in [
        replicas.patch("gateway-0.chat", &ours, &spec_of).await.unwrap_err(),
        models.patch_status("chat", &ours, &status).await.unwrap_err(),
    ] {
        assert!(refused.to_string().contains("forbidden"), "{refused}");
    }
    // A token that belongs to no pod.
    let nobody = client(&fleet.namespace.kubeconfig("gateway", None).await).await;
    let as_nobody = crate::namespace::Namespace { client: nobody, ..fleet.namespace.clone() };
    let refused =
        objects(&as_nobody, "ModelReplica").patch_status("gateway-0.chat", &ours, &status).await.unwrap_err();
    assert!(refused.to_string().contains("its own replicas only"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_models_with_one_name_the_one_that_serves_keeps_it_until_it_goes() {
    let fleet = Fleet::start(ControlPlane::shared().await, "names", 1).await;
    fleet.all_ready().await;
    let mut first = spec("llama");
    first["servedName"] = json!("chat");
    fleet.apply("b-first", &first).await;
    fleet.wait_rolled_out("b-first").await;
    let traffic = fleet.traffic("chat", &["llama"]).await;
    let mut second = spec("gpt2");
    second["servedName"] = json!("chat");
    fleet.apply("a-second", &second).await;
    let refused =
        fleet.wait("a-second", "refused", |status| condition(status, "Accepted").starts_with("False")).await;
    assert_eq!(condition(&refused, "Accepted"), "False ServedNameConflict");
    assert!(refused["conditions"][0]["message"].as_str().unwrap().contains("b-first"), "{refused}");
    traffic.wait_answers(20).await;
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
    fleet.models.delete("b-first", &DeleteParams::default()).await.unwrap();
    fleet.wait("a-second", "active", |status| condition(status, "Ready") == "True RolledOut").await;
}

/// Pods come and go in the middle of a rollout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_takes_pods_along_that_come_and_forgets_those_that_go() {
    let mut fleet = Fleet::start(ControlPlane::shared().await, "scale", 3).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    let old = fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    traffic.phase("scale");
    fleet.apply("chat", &spec("gpt2")).await;
    fleet.wait("chat", "begun", |status| status["rollout"]["phase"] != "Idle").await;
    let leaving = fleet.pods.remove(0);
    fleet.add_pod(&[]).await;
    fleet.add_pod(&[]).await;
    assert!(leaving.delete().await.success());
    let new = fleet.wait_rolled_out("chat").await;
    assert_ne!(new, old);
    let serving = fleet.serving().await;
    assert!(serving.len() == 4 && serving.values().all(|(_, serves)| *serves == new), "{serving:?}");
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}

/// A field that this version does not know, let through by another version's schema.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_another_version_hides_no_other_and_leaves_what_it_serves() {
    let plane = ControlPlane::start("versions").await;
    let mut fleet = Fleet::prepare(&plane, "versions").await;
    plane
        .change_model_schema(|schema| {
            let spec_schema = schema.properties.as_mut().unwrap().get_mut("spec").unwrap();
            spec_schema.x_kubernetes_preserve_unknown_fields = Some(true);
        })
        .await;
    let mut strange = spec("llama");
    strange["torrent"] = json!("x");
    // The apiserver takes a moment to serve the new schema.
    eventually("the looser schema", async || {
        let object = fleet.try_apply("probe", &strange).await.ok()?;
        object.data["spec"]["torrent"].is_string().then_some(())
    })
    .await;
    fleet.models.delete("probe", &DeleteParams::default()).await.unwrap();
    fleet.add_pod(&[]).await;
    fleet.add_controller(&[]).await;
    fleet.all_ready().await;
    for name in ["chat", "other"] {
        fleet.apply(name, &spec("llama")).await;
        fleet.wait(name, "ready", |status| condition(status, "Ready") == "True RolledOut").await;
    }
    fleet.apply("chat", &strange).await;
    let refused =
        fleet.wait("chat", "refused", |status| condition(status, "Accepted").starts_with("False")).await;
    assert_eq!(condition(&refused, "Accepted"), "False UnsupportedFeature");
    assert!(refused["conditions"][0]["message"].as_str().unwrap().contains("torrent"), "{refused}");
    assert_eq!(condition(&refused, "Available"), "True Serving");
    // The other one moves on as if nothing were.
    fleet.apply("other", &spec("gpt2")).await;
    fleet.wait("other", "updated", |status| condition(status, "Ready") == "True RolledOut").await;
    let traffic = fleet.traffic("chat", &["llama"]).await;
    traffic.wait_answers(10).await;
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
    fleet.apply("chat", &spec("gpt2")).await;
    fleet.wait("chat", "understood again", |status| condition(status, "Accepted") == "True Accepted").await;
}
