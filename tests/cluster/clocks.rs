//! Clocks that are wrong by hours, and clocks that somebody sets: one controller leads, and rollouts take their usual course.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::fleet::{Fleet, condition, spec};
use crate::plane::ControlPlane;
use crate::traffic::http_client;
use crate::{eventually, spawn};

const LEADER: &str = "inference_gateway_controller_leader 1";

/// Looks at all controllers again and again.
struct Watch {
    most: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Watch {
    fn start(fleet: &Fleet) -> Self {
        let addresses: Vec<SocketAddr> = fleet.controllers.iter().map(|controller| controller.ops).collect();
        let (most, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (noted, stopped) = (Arc::clone(&most), Arc::clone(&stop));
        let task = spawn(async move {
            let http = http_client();
            while !stopped.load(Ordering::Acquire) {
                let mut leaders = 0;
                for address in &addresses {
                    leaders += usize::from(leads(&http, *address).await);
                }
                noted.fetch_max(leaders, Ordering::AcqRel);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Self { most, stop, task }
    }

    /// The most leaders that were seen at once.
    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Release);
        self.task.await.unwrap();
        self.most.load(Ordering::Acquire)
    }
}

/// One that has ended leads nobody.
async fn leads(http: &reqwest::Client, controller: SocketAddr) -> bool {
    let Ok(answer) = http.get(format!("http://{controller}/metrics")).send().await else { return false };
    answer.text().await.is_ok_and(|text| text.lines().any(|line| line == LEADER))
}

/// The leader's clock is two hours ahead of the other's, then its machine dies in the middle of a rollout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_differ_by_hours_neither_make_two_leaders_nor_end_a_rollout() {
    let mut fleet = Fleet::prepare(ControlPlane::shared().await, "clocks").await;
    for _ in 0..3 {
        fleet.add_pod(&[]).await;
    }
    fleet.add_controller(&[("FAILPOINTS", "time-of-day=return(3600)")]).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    let first = fleet.wait_rolled_out("chat").await;
    fleet.add_controller(&[("FAILPOINTS", "time-of-day=return(-3600)")]).await;
    let watch = Watch::start(&fleet);
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    traffic.phase("clocks");
    fleet.apply("chat", &spec("gpt2")).await;
    fleet.wait("chat", "begun", |status| status["rollout"]["phase"] == "Canary").await;
    let http = http_client();
    assert!(!leads(&http, fleet.controllers[1].ops).await, "its lease is not over because a clock says so");

    // No end in order, which would let the lease go.
    fleet.controllers[0].program.kill();
    let killed = Instant::now();
    eventually("the other leader", async || leads(&http, fleet.controllers[1].ops).await.then_some(())).await;
    let waited = killed.elapsed();
    println!("led by the other one {:.1} s after the first had died", waited.as_secs_f64());
    // The lease lasts for 15 s, and was renewed 3 s before at most.
    assert!(waited > Duration::from_secs(10), "it was taken before it was over: {waited:?}");
    let second = fleet.wait_rolled_out("chat").await;
    assert_ne!(first, second);
    let status = fleet.status("chat").await;
    assert_eq!(condition(&status, "Degraded"), "False AsExpected", "{status}");
    assert_eq!(watch.stop().await, 1);
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}

/// Somebody sets the leader's clock while it rolls out: back, then far ahead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_under_the_leader_changes_nothing() {
    let mut fleet = Fleet::prepare(ControlPlane::shared().await, "set-clock").await;
    fleet.add_pod(&[]).await;
    let jumps = "time-of-day=2*return(0)->2*return(-7200)->return(7200)";
    fleet.add_controller(&[("FAILPOINTS", jumps)]).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    let first = fleet.wait_rolled_out("chat").await;
    fleet.add_controller(&[]).await;
    let watch = Watch::start(&fleet);
    let mut slow = spec("gpt2");
    // Longer than the jumps take, shorter than they are.
    slow["rollout"]["minReadySeconds"] = serde_json::json!(6);
    slow["rollout"]["progressDeadlineSeconds"] = serde_json::json!(60);
    fleet.apply("chat", &slow).await;
    let second = fleet.wait_rolled_out("chat").await;
    assert_ne!(first, second);
    let leader = leads(&http_client(), fleet.controllers[0].ops).await;
    assert!(leader, "it goes on to lead");
    assert_eq!(watch.stop().await, 1);
}
