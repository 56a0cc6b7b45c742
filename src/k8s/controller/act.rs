//! Carries a plan out: the model's status first, then the replicas, then what people read. Each write carries the version that
//! was planned from, and is made only while this process leads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::{DynamicObject, ObjectMeta};
use kube::runtime::events::{Event as Told, EventType, Recorder};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use super::view::Replica;
use crate::failpoint;
use crate::k8s::crd::{GATEWAY_LABEL, GROUP, MODEL_LABEL, ModelStatus, POD_LABEL, Phase, ReplicaBody, Slot};
use crate::k8s::lease::Leadership;
use crate::k8s::rollout::{Action, Event, ModelView, Plan, PodView};
use crate::metrics::{Metrics, WriteOutcome};

/// Longest time for one write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest value of a label.
const LONGEST_LABEL: usize = 63;

/// What writes.
pub(super) struct Actor {
    pub(super) models: Api<DynamicObject>,
    pub(super) replicas: Api<DynamicObject>,
    pub(super) recorder: Recorder,
    pub(super) leadership: Leadership,
    pub(super) metrics: Arc<Metrics>,
    pub(super) gateway: String,
    pub(super) written: Written,
}

/// What was written and has not come back through the watch yet: by kind and name, the version that it was made from and the
/// object, `None` when it was deleted.
#[derive(Default)]
pub(super) struct Written(Mutex<BTreeMap<(&'static str, String), Change>>);

#[derive(Clone)]
struct Change {
    before: Option<String>,
    after: Option<Arc<DynamicObject>>,
}

impl Written {
    /// What was heard of a kind, with what was written since over it.
    pub(super) fn over(
        &self,
        kind: &'static str,
        mut heard: BTreeMap<String, Arc<DynamicObject>>,
    ) -> BTreeMap<String, Arc<DynamicObject>> {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.retain(|(of, name), change| {
            if *of != kind {
                return true;
            }
            let still = heard.get(name).and_then(|object| object.resource_version()) == change.before;
            match &change.after {
                Some(object) if still => drop(heard.insert(name.clone(), Arc::clone(object))),
                None if still => drop(heard.remove(name)),
                _ => {}
            }
            still
        });
        heard
    }

    fn note(&self, kind: &'static str, name: &str, before: Option<String>, after: Option<DynamicObject>) {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.insert((kind, name.to_owned()), Change { before, after: after.map(Arc::new) });
    }
}

/// Why a write was not made.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("another controller leads")]
    NotLeading,
    #[error("the apiserver did not answer in time")]
    Timeout,
    #[error(transparent)]
    Api(#[from] kube::Error),
}

impl Actor {
    /// Does everything that a plan says, until something stands against it; whether nothing did.
    pub(super) async fn carry_out(
        &self,
        object: &DynamicObject,
        model: &ModelView,
        (replicas, pods): (&BTreeMap<String, Replica>, &[PodView]),
        plan: Plan,
    ) -> bool {
        let Plan { status, actions, events, again_after: _ } = plan;
        let phase = status.rollout.as_ref().map(|rollout| rollout.phase).unwrap_or_default();
        if status != model.status {
            let mut changed = object.clone();
            changed.data["status"] = json!(status);
            let parameters = PostParams::default();
            let write = self.models.replace_status(&model.name, &parameters, &changed);
            match self.write("models", write).await {
                Ok(written) => {
                    self.written.note("Model", &model.name, object.resource_version(), Some(written));
                }
                Err(error) => return Self::told(&model.name, &error),
            }
        }
        self.metrics.rollout_phase(&model.name, phase_label(phase));
        if is_superseded(&model.status, &status) {
            self.metrics.rollout_ended(&model.name, "superseded");
        }
        self.publish(object, &model.name, events).await;
        for action in actions {
            let pod = pods.iter().find(|pod| pod.name == action.pod());
            let outcome = match (action, pod) {
                (Action::Create(body), Some(pod)) => self.create(pod, body).await,
                (Action::Create(_), None) => Ok(()),
                (Action::Update(body), _) => self.update(replicas.get(&body.pod_name), &body).await,
                (Action::Delete(pod), _) => self.delete(replicas.get(&pod)).await,
            };
            if let Err(error) = outcome {
                return Self::told(&model.name, &error);
            }
        }
        true
    }

    /// Removes replicas whose model is gone, or is another one of the same name.
    pub(super) async fn forget_strangers(
        &self,
        models: &BTreeMap<String, Option<ModelView>>,
        replicas: &BTreeMap<String, BTreeMap<String, Replica>>,
    ) {
        let known = |uid: &str| models.values().flatten().any(|model| model.uid == uid);
        // A model whose status another version has written keeps what it has.
        let unreadable: Vec<&String> =
            models.iter().filter(|(_, model)| model.is_none()).map(|(name, _)| name).collect();
        for (uid, of_model) in replicas.iter().filter(|(uid, _)| !known(uid)) {
            for replica in of_model.values() {
                if unreadable.contains(&&replica.view.body.model_name) {
                    continue;
                }
                if let Err(error) = self.delete(Some(replica)).await {
                    Self::told(&replica.view.body.model_name, &error);
                }
            }
            tracing::info!(uid, "the model of these replicas is gone: removed");
        }
    }

    async fn create(&self, pod: &PodView, body: ReplicaBody) -> Result<(), WriteError> {
        let name = format!("{}.{}", pod.name, body.model_name);
        let labels =
            [(MODEL_LABEL, &body.model_name), (POD_LABEL, &pod.name), (GATEWAY_LABEL, &self.gateway)];
        let labels = labels.into_iter().filter(|(_, value)| value.len() <= LONGEST_LABEL);
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "ModelReplica",
            "metadata": {
                "name": name,
                "labels": labels.collect::<BTreeMap<_, _>>(),
                // It goes with its pod.
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}],
            },
            "spec": body,
        }))
        .map_err(kube::Error::SerdeError)?;
        let written =
            self.write("modelreplicas", self.replicas.create(&PostParams::default(), &object)).await?;
        self.written.note("ModelReplica", &name, None, Some(written));
        Ok(())
    }

    async fn update(&self, replica: Option<&Replica>, body: &ReplicaBody) -> Result<(), WriteError> {
        let Some(replica) = replica else {
            return Ok(());
        };
        let name = replica.object.name_any();
        let mut changed = DynamicObject::clone(&replica.object);
        changed.data["spec"] = json!(body);
        let parameters = PostParams::default();
        let write = self.replicas.replace(&name, &parameters, &changed);
        let written = self.write("modelreplicas", write).await?;
        self.written.note("ModelReplica", &name, replica.object.resource_version(), Some(written));
        Ok(())
    }

    async fn delete(&self, replica: Option<&Replica>) -> Result<(), WriteError> {
        let Some(replica) = replica else {
            return Ok(());
        };
        let ObjectMeta { uid, resource_version, .. } = replica.object.metadata.clone();
        let name = replica.object.name_any();
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteParams::default()
        };
        match self.write("modelreplicas", self.replicas.delete(&name, &parameters)).await {
            Ok(_) => {}
            Err(WriteError::Api(kube::Error::Api(answer))) if answer.code == 404 => {}
            Err(error) => return Err(error),
        }
        self.written.note("ModelReplica", &name, resource_version, None);
        Ok(())
    }

    /// One write, while this process leads.
    async fn write<T>(
        &self,
        resource: &'static str,
        write: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteError> {
        if !self.leadership.is_valid() {
            return Err(WriteError::NotLeading);
        }
        let outcome = match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(outcome) => outcome.map_err(WriteError::from),
            Err(_elapsed) => Err(WriteError::Timeout),
        };
        self.metrics.cluster_write(
            resource,
            match &outcome {
                Ok(_) => WriteOutcome::Written,
                Err(WriteError::Api(kube::Error::Api(answer))) if answer.code == 409 => {
                    WriteOutcome::Conflict
                }
                Err(WriteError::Api(kube::Error::Api(_))) => WriteOutcome::Refused,
                Err(_) => WriteOutcome::Failed,
            },
        );
        failpoint::at("after-write");
        outcome
    }

    /// Says why a plan stopped; it is made anew from what is heard next.
    fn told(model: &str, error: &WriteError) -> bool {
        match error {
            WriteError::Api(kube::Error::Api(answer)) if answer.code == 409 => {
                tracing::debug!(model, %error, "somebody else has written: planning anew");
            }
            error => tracing::warn!(model, %error, "a write was not made: planning anew"),
        }
        false
    }

    /// Events are for people: one that is lost changes nothing.
    async fn publish(&self, object: &DynamicObject, model: &str, events: Vec<Event>) {
        let reference = ObjectReference {
            api_version: Some(format!("{GROUP}/v1alpha1")),
            kind: Some("Model".to_owned()),
            name: Some(object.name_any()),
            namespace: object.namespace(),
            uid: object.meta().uid.clone(),
            resource_version: object.resource_version(),
            ..ObjectReference::default()
        };
        for Event { warning, reason, note } in events {
            if warning {
                tracing::warn!(model, reason, note, "rollout");
            } else {
                tracing::info!(model, reason, note, "rollout");
            }
            match reason {
                "RolloutComplete" => self.metrics.rollout_ended(model, "complete"),
                "PreflightFailed" | "SwapFailed" => self.metrics.rollout_ended(model, "failed"),
                _ => {}
            }
            let event = Told {
                type_: if warning { EventType::Warning } else { EventType::Normal },
                reason: reason.to_owned(),
                note: Some(note.chars().take(1024).collect()),
                action: "Rollout".to_owned(),
                secondary: None,
            };
            let published =
                tokio::time::timeout(WRITE_TIMEOUT, self.recorder.publish(&event, &reference)).await;
            let outcome = match &published {
                Ok(Ok(())) => WriteOutcome::Written,
                Ok(Err(kube::Error::Api(_))) => WriteOutcome::Refused,
                Ok(Err(_)) | Err(_) => WriteOutcome::Failed,
            };
            self.metrics.cluster_write("events", outcome);
            match published {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(model, reason, %error, "an event was lost"),
                Err(_elapsed) => tracing::warn!(model, reason, "an event was lost: no answer"),
            }
        }
    }
}

/// Whether what was rolled out is given up for something else, neither stable nor failed.
fn is_superseded(before: &ModelStatus, now: &ModelStatus) -> bool {
    before.target.as_ref().is_some_and(|Slot { revision, .. }| {
        let goes_on = now.target.as_ref().is_some_and(|target| target.revision == *revision);
        let failed = now.quarantined.iter().any(|failed| failed.revision == *revision);
        !goes_on && !failed && now.stable_revision() != Some(revision)
    })
}

fn phase_label(phase: Phase) -> &'static str {
    match phase {
        Phase::Idle => "Idle",
        Phase::Preparing => "Preparing",
        Phase::Canary => "Canary",
        Phase::Rolling => "Rolling",
        Phase::RollingBack => "RollingBack",
        Phase::Paused => "Paused",
        Phase::Failed => "Failed",
    }
}
