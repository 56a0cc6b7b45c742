//! Objects to the plain values of a plan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::core::DynamicObject;

use crate::k8s::crd::{DEFAULT_MIN_READY_SECONDS, FrozenSpec, ReplicaBody, Slot};
use crate::k8s::objects::{ModelObject, Unreadable};
use crate::k8s::rollout::{ModelView, PodView, Refused, ReplicaView, Wanted};
use crate::model::revision_of;
use crate::model::spec::{IntOrPercent, ModelSpec, OnFailure};

/// What a spec that leaves it out means: as the schema's default.
const PROGRESS_DEADLINE: u32 = 600;

/// A replica with the object that it was read from.
#[derive(Debug, Clone)]
pub(super) struct Replica {
    pub(super) object: Arc<DynamicObject>,
    pub(super) view: ReplicaView,
}

/// By the UID of the model and the pod. One that cannot be understood is left out, and so is one that is going.
pub(super) fn replicas(
    objects: &BTreeMap<String, Arc<DynamicObject>>,
) -> BTreeMap<String, BTreeMap<String, Replica>> {
    let mut all: BTreeMap<String, BTreeMap<String, Replica>> = BTreeMap::new();
    for object in objects.values().filter(|object| object.metadata.deletion_timestamp.is_none()) {
        let spec = object.data.get("spec").cloned().unwrap_or_default();
        let Ok(body) = serde_json::from_value::<ReplicaBody>(spec) else {
            continue;
        };
        let status = object.data.get("status").and_then(|status| serde_json::from_value(status.clone()).ok());
        let of_model = all.entry(body.model_uid.clone()).or_default();
        let view = ReplicaView { status: status.unwrap_or_default(), body };
        of_model.insert(view.body.pod_name.clone(), Replica { object: Arc::clone(object), view });
    }
    all
}

/// A pod of the gateway; `None` when it has ended and does not come back.
pub(super) fn pod(pod: &Pod) -> Option<PodView> {
    let status = pod.status.clone().unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let ready =
        status.conditions.unwrap_or_default().into_iter().find(|condition| condition.type_ == "Ready");
    let ready = ready.filter(|condition| condition.status == "True");
    Some(PodView {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        ready: ready.is_some(),
        ready_since: ready.and_then(|condition| condition.last_transition_time).map(|time| time.0),
        terminating: pod.metadata.deletion_timestamp.is_some(),
    })
}

/// Every model by name; `None` for one whose status another version has written.
pub(super) fn models(
    objects: &BTreeMap<String, Arc<DynamicObject>>,
    leader: &str,
) -> BTreeMap<String, Option<ModelView>> {
    let all: Vec<ModelObject> = objects.values().map(|object| ModelObject::read(object)).collect();
    let refused = conflicts(&all);
    let view = |object: &ModelObject| {
        let wanted = match (&object.spec, refused.get(&object.name)) {
            (Err(Unreadable::Unknown(message)), _) => {
                Err(Refused { reason: "UnsupportedFeature", message: message.clone() })
            }
            (Err(Unreadable::Invalid(message) | Unreadable::Template(_, message)), _) => {
                Err(Refused { reason: "InvalidSpec", message: message.clone() })
            }
            (Ok(_), Some(message)) => Err(Refused { reason: "ServedNameConflict", message: message.clone() }),
            (Ok(spec), None) => Ok(wanted(spec, object.generation)),
        };
        Some(ModelView {
            name: object.name.clone(),
            uid: object.uid.clone(),
            generation: object.generation,
            retry: object.retry.clone(),
            leader: leader.to_owned(),
            wanted,
            status: object.status.clone()?,
        })
    };
    // One that is going has nothing to roll out any more.
    all.iter().filter(|object| !object.deleting).map(|object| (object.name.clone(), view(object))).collect()
}

fn wanted(spec: &ModelSpec, generation: i64) -> Wanted {
    let rollout = &spec.rollout;
    let seconds = |given: Option<u32>, default: u32| Duration::from_secs(given.unwrap_or(default).into());
    Wanted {
        slot: Slot {
            revision: revision_of(spec),
            generation,
            digest: spec.source.digest.clone(),
            spec: FrozenSpec::of(spec),
        },
        max_unavailable: rollout.max_unavailable.unwrap_or(IntOrPercent::Int(1)),
        min_ready: seconds(rollout.min_ready_seconds, DEFAULT_MIN_READY_SECONDS),
        progress_deadline: seconds(rollout.progress_deadline_seconds, PROGRESS_DEADLINE),
        on_failure: rollout.on_failure.unwrap_or(OnFailure::Rollback),
        paused: spec.paused,
    }
}

/// Models that want a name of another one, with what to tell: who serves a name keeps it, then the older object has it.
fn conflicts(all: &[ModelObject]) -> BTreeMap<String, String> {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let mut by_age: Vec<&ModelObject> = all.iter().filter(|object| !object.deleting).collect();
    by_age.sort_by_key(|object| (object.created, object.name.clone()));
    for object in &by_age {
        let stable = object.status.as_ref().and_then(|status| status.stable.as_ref());
        if let Some(stable) = stable {
            let served = stable.spec.served_name.clone().unwrap_or_else(|| object.name.clone());
            owners.entry(served).or_insert_with(|| object.name.clone());
        }
    }
    let mut refused = BTreeMap::new();
    for object in by_age {
        let names = object.names();
        let taken = names.iter().find_map(|name| {
            owners.get(name).filter(|owner| **owner != object.name).map(|owner| (name, owner))
        });
        if let Some((name, owner)) = taken {
            let message =
                format!("`{name}` is the name of the Model {owner}: choose another servedName or alias");
            refused.insert(object.name.clone(), message);
        } else {
            owners.extend(names.into_iter().map(|name| (name, object.name.clone())));
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn objects(all: &[(&str, &str, &str, Option<&str>)]) -> BTreeMap<String, Arc<DynamicObject>> {
        let object = |(name, created, served, stable): &(&str, &str, &str, Option<&str>)| {
            let stable = stable.map(|served| json!({"revision": "0123456789", "generation": 1, "servedName": served, "source": {"path": "a"}}));
            let object = json!({
                "apiVersion": "inference-gateway.io/v1alpha1", "kind": "Model",
                "metadata": {"name": name, "uid": name, "generation": 1, "creationTimestamp": format!("2026-01-0{created}T00:00:00Z")},
                "spec": {"source": {"path": "a"}, "servedName": served}, "status": {"stable": stable},
            });
            ((*name).to_owned(), Arc::new(serde_json::from_value(object).unwrap()))
        };
        all.iter().map(object).collect()
    }

    fn refused(all: &[(&str, &str, &str, Option<&str>)]) -> Vec<String> {
        let seen = models(&objects(all), "leader");
        let refused = seen.into_iter().filter(|(_, model)| model.as_ref().unwrap().wanted.is_err());
        refused.map(|(name, _)| name).collect()
    }

    #[test]
    fn who_serves_a_name_keeps_it_and_then_the_older_has_it() {
        assert_eq!(refused(&[("a", "2", "chat", None), ("b", "1", "chat", None)]), ["a"]);
        assert_eq!(refused(&[("a", "2", "chat", Some("chat")), ("b", "1", "chat", None)]), ["b"]);
        // The older one wants the name of one that serves.
        assert_eq!(refused(&[("a", "1", "chat", Some("other")), ("b", "2", "chat", Some("chat"))]), ["a"]);
        assert!(refused(&[("a", "1", "one", None), ("b", "1", "two", None)]).is_empty());
        assert_eq!(
            refused(&[("a", "1", "chat", None), ("b", "1", "chat", None)]),
            ["b"],
            "then the name decides"
        );
    }
}
