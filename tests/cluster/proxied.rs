//! A gateway that reaches the apiserver through a proxy, with clients that notice nothing whatever the proxy does.

use std::time::{Duration, Instant};

use crate::eventually;
use crate::fleet::{Fleet, spec};
use crate::plane::ControlPlane;
use crate::proxy::{Asked, Behaviour, Proxy};
use crate::traffic::Traffic;

/// Time that each fault lasts at least.
const FAULT: Duration = Duration::from_secs(5);
/// A fleet that catches up later than this after a fault does not keep its promise, on a machine that has nothing else to do.
const CATCHES_UP: Duration = Duration::from_mins(1);

/// Pods and a controller behind a proxy.
pub(crate) struct Proxied {
    pub(crate) fleet: Fleet,
    pub(crate) proxy: Proxy,
    pub(crate) traffic: Traffic,
    updates: usize,
}

impl Proxied {
    /// So many pods and a controller that serve `chat`, and its clients.
    pub(crate) async fn start(plane: &ControlPlane, name: &str, pods: usize) -> Self {
        let (fleet, proxy) = Self::behind(Fleet::prepare(plane, name).await, pods).await;
        Self::serve(fleet, proxy).await
    }

    /// Starts so many pods and a controller behind a proxy.
    pub(crate) async fn behind(mut fleet: Fleet, pods: usize) -> (Fleet, Proxy) {
        let proxy = Proxy::start(&fleet.namespace.access).await;
        fleet.namespace.access.through = Some(proxy.address);
        for _ in 0..pods {
            fleet.add_pod(&[]).await;
        }
        fleet.add_controller(&[]).await;
        (fleet, proxy)
    }

    /// Lets a fleet serve `chat`, and begins to ask for it.
    pub(crate) async fn serve(fleet: Fleet, proxy: Proxy) -> Self {
        fleet.all_ready().await;
        fleet.apply("chat", &spec("llama")).await;
        fleet.wait_rolled_out("chat").await;
        let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
        Self { fleet, proxy, traffic, updates: 0 }
    }

    /// Lets the proxy behave badly while the model is updated; what it is asked meanwhile.
    pub(crate) async fn suffer(&mut self, behaviour: Behaviour) -> Asked {
        self.traffic.phase(&format!("{behaviour:?}"));
        self.proxy.set(behaviour);
        self.update().await;
        let asked = self.proxy.asked_within(FAULT).await;
        println!("{behaviour:?}: {asked:?} in {FAULT:?}");
        asked
    }

    /// The other model.
    pub(crate) async fn update(&mut self) {
        self.updates += 1;
        let tiny = ["llama", "gpt2"][self.updates % 2];
        self.fleet.apply("chat", &spec(tiny)).await;
    }

    /// Lets the proxy be good again, and waits until the update has reached all and nothing is told to be wrong any more.
    pub(crate) async fn recover(&self, fault: &str) {
        self.proxy.set(Behaviour::Good);
        let began = Instant::now();
        self.fleet.wait_rolled_out("chat").await;
        let rolled_out = began.elapsed();
        for pod in &self.fleet.pods {
            eventually("a pod that finds nothing wrong", async || {
                let told = pod.readiness().await?;
                let well =
                    pod.metrics().await?.contains("inference_gateway_watch_healthy{resource=\"models\"} 1");
                (well && !told.contains("what is known stays in force")).then_some(())
            })
            .await;
        }
        println!(
            "after {fault}: rolled out after {:.1} s, all well after {:.1} s",
            rolled_out.as_secs_f64(),
            began.elapsed().as_secs_f64()
        );
        assert!(began.elapsed() < CATCHES_UP * 2, "{fault}: {:?}", began.elapsed());
    }

    /// Waits until every pod tells in `/readyz` and metrics that what it knows may be old, and is ready nevertheless.
    pub(crate) async fn is_told(&self, why: &str) {
        for pod in &self.fleet.pods {
            eventually(why, async || {
                let told = pod.readiness().await?;
                assert!(told.contains("\"ready\":true"), "{told}");
                let ill =
                    pod.metrics().await?.contains("inference_gateway_watch_healthy{resource=\"models\"} 0");
                (ill && told.contains("what is known stays in force") && told.contains(why)).then_some(())
            })
            .await;
        }
    }
}
