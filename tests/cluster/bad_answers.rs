//! An apiserver that answers badly or not at all while a model is updated: pods serve on and say what is wrong, nobody asks too
//! often, and all catch up when it answers again.

use std::time::Instant;

use crate::plane::ControlPlane;
use crate::proxied::Proxied;
use crate::proxy::Behaviour;

/// Requests that two pods and a controller may make in the time of a fault: for each of seven watches an attempt when it breaks
/// and one after each pause, which doubles; the lease every two seconds; and what they try to write.
const MOST_REQUESTS: usize = 90;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apiserver_that_fails_refuses_or_is_cut_short_is_told_of_and_asked_seldom() {
    let mut proxied = Proxied::start(ControlPlane::shared().await, "fails", 2).await;
    for (behaviour, why) in [
        (Behaviour::Fails, "failed to watch"),
        (Behaviour::Refuses, "429"),
        (Behaviour::CutsShort, "failed to watch"),
    ] {
        let asked = proxied.suffer(behaviour).await;
        assert!(asked.of("") <= MOST_REQUESTS, "{behaviour:?}: {asked:?}");
        proxied.is_told(why).await;
        proxied.recover(&format!("{behaviour:?}")).await;
    }
    assert_eq!(proxied.traffic.stop().await.verdict(), Ok(()));
}

/// Two fleets at once: what they do most is wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apiserver_that_answers_slowly_or_never_delays_a_rollout_and_no_more() {
    let slow = async {
        let mut proxied = Proxied::start(ControlPlane::shared().await, "slow", 1).await;
        let asked = proxied.suffer(Behaviour::Slow).await;
        assert!(asked.of("") <= MOST_REQUESTS, "{asked:?}");
        // It is slow, not away: the rollout comes to its end.
        let began = Instant::now();
        proxied.fleet.wait_rolled_out("chat").await;
        println!("Slow: rolled out after {:.1} s more", began.elapsed().as_secs_f64());
        proxied.recover("Slow").await;
        assert_eq!(proxied.traffic.stop().await.verdict(), Ok(()));
    };
    let silent = async {
        let mut proxied = Proxied::start(ControlPlane::shared().await, "silent", 2).await;
        let asked = proxied.suffer(Behaviour::Silent).await;
        assert!(asked.of("") <= MOST_REQUESTS, "{asked:?}");
        proxied.recover("Silent").await;
        assert_eq!(proxied.traffic.stop().await.verdict(), Ok(()));
    };
    tokio::join!(slow, silent);
}
