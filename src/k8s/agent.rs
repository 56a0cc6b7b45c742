//! The agent in a gateway's pod: hears what the cluster wants of this pod, and tells what the pod does.
//!
//! ```text
//! Models of this gateway ─┐                                   ┌─▶ models to serve ─▶ fleet
//! ModelReplicas of this pod ─▶ desired.rs (with what is known) ┤
//!                                                              └─▶ state folder, for a start without the cluster
//! registry ─▶ report.rs ─▶ status of this pod's ModelReplicas
//! ```
//!
//! Nothing that serves depends on the cluster: what is known stays in force while it is away, and a process that starts
//! without it begins with what it knew last.

mod desired;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;

use self::desired::Memory;
use super::crd::{GROUP, Model, ModelReplica, ReplicaBody, ReplicaStatus};
use super::objects::ModelObject;
use super::watch::{Known, Watch};
use crate::failpoint;
use crate::metrics::{Metrics, WriteOutcome};
use crate::model::{Defaults, Desired, FleetHandle, Registry};

/// How often the registry is looked at for something to tell, and clocks are looked at.
const TICK: Duration = Duration::from_millis(250);
/// A process that has heard nothing from the cluster for so long begins with what it knew last.
const BOOT_PATIENCE: Duration = Duration::from_secs(3);
/// Longest time for one write of a status.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a write that failed; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The apiserver's operators see one write a replica and half minute from a cluster that refuses them all.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Who the status says has written it.
const FIELD_MANAGER: &str = "inference-gateway-agent";

/// The agent and what it works with.
pub struct Agent {
    /// The cluster.
    pub client: Client,
    /// Where this pod and its objects live.
    pub namespace: String,
    /// The gateway that this pod belongs to.
    pub gateway: String,
    /// This pod.
    pub pod: String,
    /// What models may leave open.
    pub defaults: Defaults,
    /// What the pod serves.
    pub registry: Arc<Registry>,
    /// To ask for another try.
    pub fleet: FleetHandle,
    /// What the pod is to serve.
    pub desired: watch::Sender<Option<Desired>>,
    /// Where watches and writes are counted.
    pub metrics: Arc<Metrics>,
    /// Where is kept what was known last.
    pub state_file: PathBuf,
}

/// What was told of a replica.
#[derive(Default)]
struct Told {
    status: Option<(ReplicaStatus, Instant)>,
    /// When a write that failed is tried again, and the pause after that.
    again: Option<(Instant, Duration)>,
}

impl Told {
    /// Whether `now` is to be written, where `there` was read.
    fn differs(&self, now: &ReplicaStatus, there: &ReplicaStatus) -> bool {
        match &self.status {
            None => now != there,
            Some((told, _)) if told != now => true,
            // What was just written is on its way back to us; what is still not there later was changed by somebody.
            Some((_, at)) => now != there && at.elapsed() >= LONGEST_PAUSE,
        }
    }
}

impl Agent {
    /// Follows the cluster for as long as the process serves.
    pub async fn run(self) -> std::convert::Infallible {
        let (models, models_known) = watch::channel(None);
        let (replicas, replicas_known) = watch::channel(None);
        let trouble = |trouble: Option<String>| self.registry.set_unknown_because(trouble);
        let watch_models = self.watch::<Model>("models", format!("spec.gatewayRef.name={}", self.gateway));
        let watch_replicas =
            self.watch::<ModelReplica>("modelreplicas", format!("spec.podName={}", self.pod));
        tokio::select! {
            never = watch_models.follow(models, trouble) => never,
            never = watch_replicas.follow(replicas, trouble) => never,
            never = self.follow(models_known, replicas_known) => never,
        }
    }

    fn watch<K: kube::Resource<DynamicType = ()>>(
        &self,
        resource: &'static str,
        fields: String,
    ) -> Watch<DynamicObject> {
        let kind = ApiResource::erase::<K>(&());
        Watch {
            api: Api::namespaced_with(self.client.clone(), &self.namespace, &kind),
            fields,
            labels: String::new(),
            resource,
            metrics: Arc::clone(&self.metrics),
        }
    }

    async fn follow(
        &self,
        mut models: watch::Receiver<Known<DynamicObject>>,
        mut replicas: watch::Receiver<Known<DynamicObject>>,
    ) -> std::convert::Infallible {
        let started = Instant::now();
        let mut memory = Memory::read(&self.state_file);
        let mut told: BTreeMap<String, Told> = BTreeMap::new();
        let mut synced = false;
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                // The senders live as long as the watches.
                _ = models.changed() => {}
                _ = replicas.changed() => {}
                _ = ticks.tick() => {}
            }
            let known = (models.borrow_and_update().clone(), replicas.borrow_and_update().clone());
            let (Some(models), Some(replicas)) = known else {
                if !synced && started.elapsed() >= BOOT_PATIENCE && !memory.is_empty() {
                    synced = true;
                    tracing::warn!("the cluster does not answer: beginning with what was known last");
                    self.desired.send_replace(Some(memory.desired(&self.defaults)));
                }
                continue;
            };
            let models = models.values().map(|object| ModelObject::read(object)).collect::<Vec<_>>();
            let replicas = read_replicas(&replicas);
            let news = memory.learn(&models, &replicas, (&self.defaults, Instant::now()));
            if !synced || news.changed {
                synced = true;
                memory.write(&self.state_file);
                self.desired.send_replace(Some(memory.desired(&self.defaults)));
            }
            for model in news.retries {
                if let Ok(model) = model.parse() {
                    self.fleet.retry(model).await;
                }
            }
            self.tell(&replicas, &memory, &mut told).await;
        }
    }

    /// Writes the status of every replica that is not as it was told last.
    async fn tell(
        &self,
        replicas: &BTreeMap<String, Replica>,
        memory: &Memory,
        told: &mut BTreeMap<String, Told>,
    ) {
        told.retain(|uid, _| replicas.values().any(|replica| replica.uid == *uid));
        let snapshots = self.registry.snapshots();
        for replica in replicas.values() {
            let snapshot = snapshots.iter().find(|snapshot| snapshot.key.as_str() == replica.body.model_name);
            let (model, now) = (&replica.body.model_name, Instant::now());
            let problem = memory.problem(model, now);
            let min_ready_seconds = memory.min_ready_seconds(model);
            let circumstances = report::Circumstances { problem: problem.as_deref(), min_ready_seconds, now };
            let status = report::status(&replica.body, snapshot, circumstances);
            let told = told.entry(replica.uid.clone()).or_default();
            let waits = told.again.is_some_and(|(at, _)| at > Instant::now());
            if waits || !told.differs(&status, &replica.status) {
                continue;
            }
            match self.write(&replica.object, &status).await {
                Ok(()) => *told = Told { status: Some((status, Instant::now())), again: None },
                Err(error) => {
                    let pause = told.again.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
                    if pause == FIRST_PAUSE || pause == LONGEST_PAUSE {
                        tracing::warn!(replica = replica.object, %error, "failed to write the status; it is tried again");
                    }
                    told.again = Some((Instant::now() + pause, pause));
                }
            }
        }
    }

    async fn write(&self, replica: &str, status: &ReplicaStatus) -> Result<(), String> {
        failpoint::at("on-status-write");
        let api: Api<DynamicObject> = Api::namespaced_with(
            self.client.clone(),
            &self.namespace,
            &ApiResource::erase::<ModelReplica>(&()),
        );
        let patch = json!({
            "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "ModelReplica",
            "metadata": {"name": replica}, "status": status,
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&patch);
        let write = api.patch_status(replica, &parameters, &patch);
        let outcome = match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(_written)) => Ok(()),
            // It was deleted a moment ago: there is nothing left to tell.
            Ok(Err(kube::Error::Api(answer))) if answer.code == 404 => Ok(()),
            Ok(Err(kube::Error::Api(answer))) => Err((WriteOutcome::Refused, answer.to_string())),
            Ok(Err(error)) => Err((WriteOutcome::Failed, error.to_string())),
            Err(_elapsed) => Err((WriteOutcome::Failed, "the apiserver did not answer in time".to_owned())),
        };
        self.metrics.cluster_write(
            "modelreplicas",
            outcome.as_ref().map_or_else(|(outcome, _)| *outcome, |()| WriteOutcome::Written),
        );
        outcome.map_err(|(_, message)| message)
    }
}

/// A `ModelReplica` of this pod as it was read.
#[derive(Debug, Clone)]
struct Replica {
    object: String,
    uid: String,
    body: ReplicaBody,
    status: ReplicaStatus,
}

/// By model. An object that cannot be understood is left out: another version has made it.
fn read_replicas(objects: &BTreeMap<String, Arc<DynamicObject>>) -> BTreeMap<String, Replica> {
    let read = |object: &Arc<DynamicObject>| {
        let body: ReplicaBody = serde_json::from_value(object.data.get("spec")?.clone()).ok()?;
        let status = object.data.get("status").and_then(|status| serde_json::from_value(status.clone()).ok());
        let (object, uid) = (object.name_any(), object.uid()?);
        let replica = Replica { object, uid, status: status.unwrap_or_default(), body };
        Some((replica.body.model_name.clone(), replica))
    };
    objects.values().filter(|object| object.metadata.deletion_timestamp.is_none()).filter_map(read).collect()
}
