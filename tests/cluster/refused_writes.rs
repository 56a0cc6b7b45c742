//! Writes that are refused for as long as it takes somebody to give a right back: nothing is in a hurry, and everything goes on
//! from where it stood.

use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role};
use kube::api::{Api, ListParams, PostParams};

use crate::eventually;
use crate::fleet::Fleet;
use crate::plane::ControlPlane;
use crate::proxied::Proxied;

/// Time in which the requests are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// The status of two replicas: at once, and after pauses of 1, 2, 4 and 8 s.
const MOST_STATUS_WRITES: usize = 12;

/// Takes away every right on a resource from whoever has the role `name`; gives the rules as they were.
async fn take_right(fleet: &Fleet, name: &str, resource: &str) -> Vec<PolicyRule> {
    let all: Api<Role> = fleet.namespace.all();
    let mut role = all.get(name).await.unwrap();
    let before = role.rules.clone().unwrap();
    let is_other = |rule: &PolicyRule| !rule.resources.iter().flatten().any(|known| known == resource);
    let rules: Vec<PolicyRule> = before.iter().filter(|rule| is_other(rule)).cloned().collect();
    assert_ne!(rules.len(), before.len(), "{resource}");
    role.rules = Some(rules);
    all.replace(name, &PostParams::default(), &role).await.unwrap();
    before
}

async fn give_back(fleet: &Fleet, name: &str, rules: Vec<PolicyRule>) {
    let all: Api<Role> = fleet.namespace.all();
    let mut role = all.get(name).await.unwrap();
    role.rules = Some(rules);
    all.replace(name, &PostParams::default(), &role).await.unwrap();
}

async fn events(fleet: &Fleet) -> usize {
    let events: Api<Event> = fleet.namespace.all();
    events.list(&ListParams::default()).await.unwrap().items.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_waits_for_pods_that_may_not_tell_and_goes_on_without_events() {
    let mut proxied = Proxied::start(ControlPlane::shared().await, "refused", 2).await;

    proxied.traffic.phase("no status");
    let rules = take_right(&proxied.fleet, "gateway", "modelreplicas/status").await;
    // The apiserver learns of a role a moment after it has stored it.
    proxied.update().await;
    let refused = "inference_gateway_cluster_writes_total{outcome=\"refused\",resource=\"modelreplicas\"}";
    for pod in &proxied.fleet.pods {
        eventually("a refused write", async || pod.metrics().await?.contains(refused).then_some(())).await;
    }
    let asked = proxied.proxy.asked_within(WINDOW).await;
    println!("no status: {asked:?} in {WINDOW:?}");
    assert!(asked.of("patch modelreplicas/status") <= MOST_STATUS_WRITES, "{asked:?}");
    assert!(asked.of("update models") + asked.of("update modelreplicas") <= 4, "{asked:?}");
    let status = proxied.fleet.status("chat").await;
    assert_eq!(status["rollout"]["phase"], "Preparing", "it waits: {status}");
    give_back(&proxied.fleet, "gateway", rules).await;
    proxied.recover("a right to write the status").await;

    proxied.traffic.phase("no events");
    let rules = take_right(&proxied.fleet, "controller", "events").await;
    let controller = &proxied.fleet.controllers[0];
    let url = format!("http://{}/metrics", controller.ops);
    let refused = "inference_gateway_cluster_writes_total{outcome=\"refused\",resource=\"events\"}";
    // A rollout after the other, until one was planned when the apiserver had learnt of the role.
    eventually("a refused event", async || {
        proxied.update().await;
        proxied.fleet.wait_rolled_out("chat").await;
        let text = crate::traffic::http_client().get(&url).send().await.ok()?.text().await.ok()?;
        text.contains(refused).then_some(())
    })
    .await;
    proxied.update().await;
    let asked = proxied.proxy.asked_within(WINDOW).await;
    println!("no events: {asked:?} in {WINDOW:?}");
    assert!(asked.of("create events") + asked.of("patch events") <= 8, "one for each: {asked:?}");
    proxied.fleet.wait_rolled_out("chat").await;
    let before = events(&proxied.fleet).await;
    give_back(&proxied.fleet, "controller", rules).await;
    eventually("an event", async || {
        proxied.update().await;
        proxied.fleet.wait_rolled_out("chat").await;
        (events(&proxied.fleet).await > before).then_some(())
    })
    .await;
    proxied.recover("a right to write events").await;
    assert_eq!(proxied.traffic.stop().await.verdict(), Ok(()));
}
