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
mod told;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;

use self::desired::Memory;
use self::told::Ledger;
use super::crd::{GROUP, Model, ModelReplica, ReplicaBody, ReplicaStatus};
use super::objects::ModelObject;
use super::watch::{Known, Trouble, Watch};
use crate::failpoint;
use crate::metrics::{Metrics, WriteOutcome};
use crate::model::{Defaults, Desired, FleetHandle, Registry};

/// How often the registry is looked at for something to tell, and clocks are looked at.
const TICK: Duration = Duration::from_millis(250);
/// A process that has heard nothing from the cluster for so long begins with what it knew last.
const BOOT_PATIENCE: Duration = Duration::from_secs(3);
/// Longest time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Changes that come together are taken in together.
const SETTLE: Duration = Duration::from_millis(50);
/// How often time alone may change what is to be served.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// An apiserver that does not say whether it knows a kind is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Names of the kinds in metrics and logs.
const MODELS: &str = "models";
const REPLICAS: &str = "modelreplicas";
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

/// What stands in the way of each watch.
#[derive(Default)]
struct Troubles(Mutex<BTreeMap<&'static str, Trouble>>);

impl Troubles {
    /// Takes in what stands in the way of one watch, and gives what to tell of all.
    fn set(&self, resource: &'static str, trouble: Option<Trouble>) -> Option<String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble {
            Some(trouble) => drop(all.insert(resource, trouble)),
            None => drop(all.remove(resource)),
        }
        let all: Vec<&str> = all.values().map(|trouble| trouble.message.as_str()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// What stands in the way of one watch.
    fn of(&self, resource: &str) -> Option<Trouble> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(resource).cloned()
    }
}

/// What was read of the cluster last; `None` before the first whole list.
#[derive(Default)]
struct Read {
    models: Option<Vec<ModelObject>>,
    /// What the models were read from, in the same order.
    objects: Vec<Arc<DynamicObject>>,
    replicas: Option<BTreeMap<String, Replica>>,
}

impl Read {
    /// Reads the models that have changed.
    fn models(&mut self, known: Option<&BTreeMap<String, Arc<DynamicObject>>>) {
        let before =
            std::mem::take(&mut self.objects).into_iter().zip(self.models.take().unwrap_or_default());
        let mut before: BTreeMap<String, _> = before.map(|read| (read.1.name.clone(), read)).collect();
        self.objects = known.into_iter().flatten().map(|(_, object)| Arc::clone(object)).collect();
        self.models = known.map(|all| {
            let read = |(name, object): (&String, &Arc<DynamicObject>)| match before.remove(name) {
                Some((same, model)) if Arc::ptr_eq(&same, object) => model,
                _ => ModelObject::read(object),
            };
            all.iter().map(read).collect()
        });
    }
}

/// How the write of a status has ended.
struct Written {
    uid: String,
    status: ReplicaStatus,
    outcome: Result<(), String>,
}

impl Agent {
    /// Follows the cluster for as long as the process serves.
    pub async fn run(self) -> std::convert::Infallible {
        let (models, models_known) = watch::channel(None);
        let (replicas, replicas_known) = watch::channel(None);
        let troubles = Troubles::default();
        let (registry, troubles_of) = (&self.registry, &troubles);
        let trouble = |resource: &'static str| {
            move |trouble| registry.set_unknown_because(troubles_of.set(resource, trouble))
        };
        let fields = [format!("spec.gatewayRef.name={}", self.gateway), format!("spec.podName={}", self.pod)];
        let [of_gateway, of_pod] = fields;
        let watch_models = self.watch::<Model>(MODELS, of_gateway);
        let watch_replicas = self.watch::<ModelReplica>(REPLICAS, of_pod);
        tokio::select! {
            never = watch_models.follow(models, trouble(MODELS)) => never,
            never = watch_replicas.follow(replicas, trouble(REPLICAS)) => never,
            never = self.follow(models_known, replicas_known, &troubles) => never,
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
        troubles: &Troubles,
    ) -> std::convert::Infallible {
        let started = Instant::now();
        let mut memory = Memory::read(&self.state_file);
        let (mut ledger, mut writes) = (Ledger::default(), FuturesUnordered::new());
        let (mut read, mut learnt_at) = (Read::default(), None::<Instant>);
        let (mut synced, mut asked_at) = (false, None::<Instant>);
        let mut ticks = tokio::time::interval(TICK);
        loop {
            let mut changed = false;
            tokio::select! {
                // The senders live as long as the watches.
                _ = models.changed() => changed = true,
                _ = replicas.changed() => changed = true,
                _ = ticks.tick() => {}
                Some(write) = writes.next(), if !writes.is_empty() => {
                    let Written { uid, status, outcome } = write;
                    ledger.end(&uid, status, outcome);
                }
            }
            if changed {
                tokio::time::sleep(SETTLE).await;
            }
            // Before what is known: a kind is told to be there again after its objects.
            let trouble = troubles.of(MODELS);
            let is_missing = trouble.as_ref().is_some_and(|trouble| trouble.kind_is_missing);
            changed |=
                models.has_changed().is_ok_and(|new| new) || replicas.has_changed().is_ok_and(|new| new);
            if changed {
                read.models(models.borrow_and_update().as_ref());
                read.replicas = replicas.borrow_and_update().as_ref().map(read_replicas);
            }
            let (Some(models), Some(replicas)) = (&read.models, &read.replicas) else {
                if memory.hear_of_the_kind(is_missing, &[]) {
                    memory.write(&self.state_file);
                }
                if !synced && started.elapsed() >= BOOT_PATIENCE && !memory.is_empty() {
                    synced = true;
                    tracing::warn!("the cluster does not answer: beginning with what was known last");
                    self.desired.send_replace(Some(memory.desired(&self.defaults)));
                }
                continue;
            };
            if changed || learnt_at.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) {
                learnt_at = Some(Instant::now());
                let news = memory.learn(models, replicas, (&self.defaults, Instant::now()));
                if trouble.is_some() {
                    memory.excuse_what_is_unknown();
                }
                let mut differs = memory.hear_of_the_kind(is_missing, models) || news.changed;
                if memory.awaits_an_end(Instant::now()) && asked_at.is_none_or(|at| at.elapsed() >= ASK_AGAIN)
                {
                    asked_at = Some(Instant::now());
                    differs |= self.ask_about_the_kind(&mut memory).await;
                }
                if !synced || differs {
                    synced = true;
                    memory.write(&self.state_file);
                    self.desired.send_replace(Some(memory.desired(&self.defaults)));
                }
                for model in news.retries {
                    if let Ok(model) = model.parse() {
                        self.fleet.retry(model).await;
                    }
                }
            }
            writes.extend(self.writes(replicas, &memory, &mut ledger));
        }
    }

    /// Lets models end whose objects are gone, if the cluster still knows their kind; whether anything has changed.
    async fn ask_about_the_kind(&self, memory: &mut Memory) -> bool {
        let kind = ApiResource::erase::<Model>(&());
        let all: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &kind);
        let fields = format!("spec.gatewayRef.name={}", self.gateway);
        let asked = ListParams::default().fields(&fields).limit(1);
        match tokio::time::timeout(REQUEST_TIMEOUT, all.list(&asked)).await {
            Ok(Ok(_)) => {
                memory.end_what_is_gone();
                true
            }
            Ok(Err(kube::Error::Api(answer))) if answer.code == 404 => memory.hear_of_the_kind(true, &[]),
            // It is not known, so everything goes on; the watch tells why.
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Writes the status of every replica that is not as it was told last: what is to be waited for.
    fn writes(
        &self,
        replicas: &BTreeMap<String, Replica>,
        memory: &Memory,
        ledger: &mut Ledger,
    ) -> Vec<impl Future<Output = Written> + use<'_>> {
        ledger.keep(|uid| replicas.values().any(|replica| replica.uid == uid));
        let snapshots = self.registry.snapshots();
        let due = replicas.values().filter_map(|replica| {
            let snapshot = snapshots.iter().find(|snapshot| snapshot.key.as_str() == replica.body.model_name);
            let (model, now) = (&replica.body.model_name, Instant::now());
            let problem = memory.problem(model, now);
            let min_ready_seconds = memory.min_ready_seconds(model);
            let circumstances = report::Circumstances { problem: problem.as_deref(), min_ready_seconds, now };
            let status = report::status(&replica.body, snapshot, circumstances);
            let begins = ledger.begin(&replica.uid, &status, &replica.status);
            let (object, uid) = (replica.object.clone(), replica.uid.clone());
            begins.then_some(async move {
                let outcome = self.write(&object, &status).await;
                Written { uid, status, outcome }
            })
        });
        due.collect()
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
        let outcome = match tokio::time::timeout(REQUEST_TIMEOUT, write).await {
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
