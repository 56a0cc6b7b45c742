//! Watches that do not do what they promise: they end at once, say nothing, repeat themselves, or begin too far in the past.

use std::time::Duration;

use kube::api::DeleteParams;

use crate::eventually;
use crate::fleet::spec;
use crate::plane::ControlPlane;
use crate::proxied::Proxied;
use crate::proxy::Behaviour;

/// Of a watch that ends early another one is begun, two pods and a controller have seven of them, and the lease and what is
/// written come to that.
const MOST_REQUESTS: usize = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_end_early_are_begun_again_without_haste() {
    let mut proxied = Proxied::start(ControlPlane::shared().await, "ends", 2).await;
    for behaviour in [Behaviour::EndsWatches, Behaviour::EndsWatchesAtOnce] {
        let asked = proxied.suffer(behaviour).await;
        assert!(asked.of("") <= MOST_REQUESTS, "{behaviour:?}: {asked:?}");
        // The rollout goes on meanwhile, by lists where no watch lets anything through.
        proxied.fleet.wait_rolled_out("chat").await;
        proxied.recover(&format!("{behaviour:?}")).await;
    }
    assert_eq!(proxied.traffic.stop().await.verdict(), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_hold_back_repeat_or_forget_lead_to_the_same_end() {
    let mut proxied = Proxied::start(ControlPlane::shared().await, "repeats", 2).await;
    let asked = proxied.suffer(Behaviour::HoldsEvents).await;
    assert!(asked.of("") <= MOST_REQUESTS, "{asked:?}");
    proxied.recover("only bookmarks").await;

    let asked = proxied.suffer(Behaviour::RepeatsEvents).await;
    assert!(asked.of("") <= MOST_REQUESTS, "{asked:?}");
    // However often it is told of the past, the rollout goes on meanwhile.
    proxied.fleet.wait_rolled_out("chat").await;
    proxied.recover("events that were repeated").await;

    // Every watch is answered with 410 by the real apiserver; what is deleted meanwhile is missed in a list.
    let other = proxied.fleet.models.clone();
    proxied.fleet.apply("other", &spec("llama")).await;
    proxied.fleet.wait_rolled_out("other").await;
    proxied.traffic.phase("Forgets");
    proxied.proxy.set(Behaviour::Forgets);
    other.delete("other", &DeleteParams::default()).await.unwrap();
    proxied.update().await;
    let asked = proxied.proxy.asked_within(Duration::from_secs(6)).await;
    println!("Forgets: {asked:?} in 6 s");
    assert!(asked.of("") <= MOST_REQUESTS, "{asked:?}");
    eventually("a list, which a version that is too old leads to", async || {
        let asked = proxied.proxy.asked_within(Duration::from_millis(500)).await;
        (asked.of("list models") > 0).then_some(())
    })
    .await;
    proxied.is_told("410").await;
    proxied.fleet.wait_rolled_out("chat").await;
    for pod in &proxied.fleet.pods {
        pod.wait_without("other").await;
    }
    proxied.recover("versions that were forgotten").await;
    assert_eq!(proxied.traffic.stop().await.verdict(), Ok(()));
}
