//! The controller: hears of models, replicas and pods, asks [`rollout::plan`] what comes next for each model, and does it,
//! only while it holds the lease.
//!
//! ```text
//! Model, ModelReplica, Pod ─▶ view.rs ─▶ rollout::plan ─▶ act.rs: status of the Model, then ModelReplicas, then events
//! ```
//!
//! Everything that it knows is in the objects: a new leader goes on where the old one stopped, between any two writes.

mod act;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client};
use tokio::sync::watch;

use self::act::Actor;
use super::clock::SteadyClock;
use super::crd::{GATEWAY_LABEL, Model, ModelReplica};
use super::definitions::Definitions;
use super::lease::{Candidate, Leadership};
use super::rollout;
use super::watch::{Known, Trouble, Watch};
use crate::metrics::Metrics;

/// Changes that come together are planned together.
const SETTLE: Duration = Duration::from_millis(50);
/// Plans that are carried out at once.
const PLANS_AT_ONCE: usize = 8;
/// Everything is looked at anew after this, whatever was heard.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// Pause after a round in which something was not written; doubles up to [`LONGEST_PAUSE`]. What is heard meanwhile ends it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A write that is refused for ever is tried twice a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Name in events and in the ownership of fields.
const NAME: &str = "inference-gateway-controller";

/// The controller and what it works with.
pub struct Controller {
    /// The cluster.
    pub client: Client,
    /// Where the objects live.
    pub namespace: String,
    /// The gateway whose models it moves.
    pub gateway: String,
    /// Who this process is, different for each.
    pub identity: String,
    /// The lease, made by whoever installs the controller.
    pub lease: String,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// What probes ask.
    pub health: ControllerHealth,
}

/// What probes ask of a controller.
#[derive(Clone, Default)]
pub struct ControllerHealth {
    leadership: Leadership,
    synced: Arc<std::sync::atomic::AtomicBool>,
}

impl ControllerHealth {
    /// Whether the process is stuck: it believes that it leads and has not renewed for far too long.
    pub fn is_stuck(&self) -> bool {
        self.leadership.is_stuck()
    }

    /// Whether it has heard of everything that it looks after, leader or not.
    pub fn is_ready(&self) -> bool {
        self.synced.load(std::sync::atomic::Ordering::Acquire)
    }
}

/// Everything that was heard.
struct Heard {
    models: watch::Receiver<Known<DynamicObject>>,
    replicas: watch::Receiver<Known<DynamicObject>>,
    pods: watch::Receiver<Known<Pod>>,
}

impl Controller {
    /// Works until `stop`, then lets the lease go.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (models, models_heard) = watch::channel(None);
        let (replicas, replicas_heard) = watch::channel(None);
        let (pods, pods_heard) = watch::channel(None);
        let (leading, leading_heard) = watch::channel(false);
        let heard = Heard { models: models_heard, replicas: replicas_heard, pods: pods_heard };
        let candidate = Candidate {
            api: Api::<Lease>::namespaced(self.client.clone(), &self.namespace),
            name: self.lease.clone(),
            identity: self.identity.clone(),
            leadership: self.health.leadership.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let (stopping, mut stopped) = watch::channel(false);
        let campaign = candidate.run(leading, async move {
            // An error means that everything is over anyway.
            drop(stopped.wait_for(|stopped| *stopped).await);
        });
        let definitions = Definitions {
            client: self.client.clone(),
            metrics: Arc::clone(&self.metrics),
            recorder: self.recorder(),
            leases: Api::namespaced(self.client.clone(), &self.namespace),
            lease: self.lease.clone(),
        };
        let quiet = |_trouble: Option<Trouble>| {};
        let fields = format!("spec.gatewayRef.name={}", self.gateway);
        let work = async {
            tokio::select! {
                never = self.watch(self.objects::<Model>(), "models", &fields, "").follow(models, quiet) => match never {},
                never = self.watch(self.objects::<ModelReplica>(), "modelreplicas", "", &self.labels()).follow(replicas, quiet) => match never {},
                never = self.watch(Api::<Pod>::namespaced(self.client.clone(), &self.namespace), "pods", "", &self.labels()).follow(pods, quiet) => match never {},
                never = self.lead(heard, leading_heard) => match never {},
                never = definitions.follow() => match never {},
                () = stop => {}
            }
        };
        let work = async {
            work.await;
            stopping.send_replace(true);
        };
        tokio::join!(campaign, work);
    }

    fn recorder(&self) -> Recorder {
        let reporter = Reporter { controller: NAME.to_owned(), instance: Some(self.identity.clone()) };
        Recorder::new(self.client.clone(), reporter)
    }

    fn labels(&self) -> String {
        format!("{GATEWAY_LABEL}={}", self.gateway)
    }

    fn objects<K: kube::Resource<DynamicType = ()>>(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &ApiResource::erase::<K>(&()))
    }

    fn watch<K>(&self, api: Api<K>, resource: &'static str, fields: &str, labels: &str) -> Watch<K> {
        let (fields, labels) = (fields.to_owned(), labels.to_owned());
        Watch { api, fields, labels, resource, metrics: Arc::clone(&self.metrics) }
    }

    /// Plans and acts for as long as the process works.
    async fn lead(&self, mut heard: Heard, mut leading: watch::Receiver<bool>) -> std::convert::Infallible {
        let actor = Actor {
            models: self.objects::<Model>(),
            replicas: self.objects::<ModelReplica>(),
            recorder: self.recorder(),
            leadership: self.health.leadership.clone(),
            metrics: Arc::clone(&self.metrics),
            gateway: self.gateway.clone(),
            written: act::Written::default(),
        };
        let clock = SteadyClock::start();
        let (mut again, mut failures) = (LOOK_AGAIN, 0);
        loop {
            tokio::select! {
                // The senders live as long as the watches.
                _ = heard.models.changed() => {}
                _ = heard.replicas.changed() => {}
                _ = heard.pods.changed() => {}
                _ = leading.changed() => {}
                () = tokio::time::sleep(again) => {}
            }
            tokio::time::sleep(SETTLE).await;
            again = self
                .round(&mut heard, &actor, (&clock, &mut failures))
                .await
                .unwrap_or(LOOK_AGAIN)
                .min(LOOK_AGAIN);
        }
    }

    /// Plans for every model and carries the plans out; when to look again. `failures` counts the rounds in a row in which
    /// something was not written.
    async fn round(
        &self,
        heard: &mut Heard,
        actor: &Actor,
        (clock, failures): (&SteadyClock, &mut u32),
    ) -> Option<Duration> {
        let models = heard.models.borrow_and_update().clone()?;
        let replicas = heard.replicas.borrow_and_update().clone()?;
        let pods = heard.pods.borrow_and_update().clone()?;
        self.health.synced.store(true, std::sync::atomic::Ordering::Release);
        if !self.health.leadership.is_valid() {
            self.metrics.keep_rollouts_of([]);
            return None;
        }
        let models = actor.written.over("Model", models);
        let replicas = actor.written.over("ModelReplica", replicas);
        let pods: Vec<_> = pods.values().filter_map(|pod| view::pod(pod)).collect();
        let seen = view::models(&models, &self.identity);
        self.metrics.keep_rollouts_of(seen.keys().map(String::as_str));
        let replicas = view::replicas(&replicas);
        actor.forget_strangers(&seen, &replicas).await;
        let none = BTreeMap::new();
        let plans = seen.iter().filter_map(|(name, model)| {
            // What another version has written is left alone.
            let model = model.as_ref()?;
            let own = replicas.get(&model.uid).unwrap_or(&none);
            let views: Vec<_> = own.values().map(|replica| replica.view.clone()).collect();
            let plan = rollout::plan(model, &views, &pods, clock.now());
            Some((name, model, own, plan))
        });
        let plans: Vec<_> = plans.collect();
        let pause = (FIRST_PAUSE * 2u32.saturating_pow((*failures).min(10))).min(LONGEST_PAUSE);
        let outcomes: Vec<(bool, Option<Duration>)> = futures_util::stream::iter(plans)
            .map(|(name, model, own, plan)| {
                let (object, pods) = (models.get(name), &pods);
                async move {
                    let again = plan.again_after;
                    match object {
                        Some(object) if actor.carry_out(object, model, (own, pods), plan).await => {
                            (true, again)
                        }
                        // Something was not written: the news of what stood against it may be here already.
                        _ => (false, Some(pause)),
                    }
                }
            })
            .buffer_unordered(PLANS_AT_ONCE)
            .collect()
            .await;
        *failures = if outcomes.iter().all(|(done, _)| *done) { 0 } else { *failures + 1 };
        outcomes.into_iter().filter_map(|(_, again)| again).min()
    }
}
