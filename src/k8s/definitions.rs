//! Whether the cluster's definitions of our objects know every field that this program writes and reads.
//!
//! Helm does not upgrade definitions, and a cluster drops without a word what its definition does not know: a new program on old
//! definitions loses fields. What the cluster knows stands in the document that it publishes of its API, which everybody may
//! read; a definition that knows more than this program is none of our business.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource};
use serde_json::Value;

use super::crd::{self, GROUP};
use crate::metrics::Metrics;

/// Pause after a look: definitions change when somebody upgrades.
const LOOK_AGAIN: Duration = Duration::from_mins(10);
/// Pause after a look that came to nothing.
const RETRY: Duration = Duration::from_secs(15);
/// Longest time for a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Fields that are named to people; one is enough to know what to do.
const MOST_NAMED: usize = 5;

/// What looks, and where it tells.
pub(super) struct Definitions {
    pub(super) client: Client,
    pub(super) metrics: Arc<Metrics>,
    pub(super) recorder: Recorder,
    /// The object that events are about: one of ours, in our namespace.
    pub(super) leases: Api<Lease>,
    pub(super) lease: String,
}

impl Definitions {
    /// Looks at the start and now and then, and tells what is missing each time that this changes.
    pub(super) async fn follow(self) -> std::convert::Infallible {
        let mut told = Vec::new();
        loop {
            let published = tokio::time::timeout(REQUEST_TIMEOUT, self.published()).await;
            let Ok(Ok(published)) = published else {
                // What stands in the way is told by the watches.
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let mut all = Vec::new();
            for (resource, kind, missing) in missing(&published) {
                self.metrics.definition_outdated(resource, !missing.is_empty());
                if !missing.is_empty() {
                    all.push(note(kind, &missing));
                }
            }
            if all != told {
                for note in &all {
                    tracing::warn!(note, "the cluster has an older definition");
                    self.publish(note).await;
                }
                told = all;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The document of our group.
    async fn published(&self) -> Result<Value, kube::Error> {
        let request = http::Request::get(format!("/openapi/v3/apis/{GROUP}/v1alpha1")).body(Vec::new());
        self.client.request(request.map_err(kube::Error::HttpError)?).await
    }

    /// Events are for people: one that is lost changes nothing.
    async fn publish(&self, note: &str) {
        let event = Event {
            type_: EventType::Warning,
            reason: "DefinitionOutdated".to_owned(),
            note: Some(note.to_owned()),
            action: "Compare".to_owned(),
            secondary: None,
        };
        let publish = async {
            let lease = self.leases.get(&self.lease).await?;
            self.recorder.publish(&event, &lease.object_ref(&())).await
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, publish).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an event was lost"),
            Err(_elapsed) => tracing::debug!("an event was lost: no answer"),
        }
    }
}

fn note(kind: &str, missing: &[String]) -> String {
    let named = missing.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = missing.len().saturating_sub(MOST_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "{kind} does not know {named}{more}: apply the definitions that come with this version; until then these fields are lost"
    )
}

/// By resource and kind, the fields that the published document does not know.
fn missing(published: &Value) -> Vec<(&'static str, &'static str, Vec<String>)> {
    let kinds = [("models", "Model"), ("modelreplicas", "ModelReplica")];
    let ours = crd::documents();
    let compare = |((resource, kind), ours): ((&'static str, &'static str), &Value)| {
        let theirs = published["components"]["schemas"].as_object()?.iter().find(|(_, schema)| {
            let is = |one: &Value| one["group"] == GROUP && one["kind"] == kind;
            schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|all| all.iter().any(is))
        });
        let ours = &ours["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut missing = Vec::new();
        for part in ["spec", "status"] {
            lacking(&ours["properties"][part], &theirs?.1["properties"][part], part, &mut missing);
        }
        Some((resource, kind, missing))
    };
    kinds.into_iter().zip(&ours).filter_map(compare).collect()
}

/// Adds the paths of fields below `ours` that `theirs` does not know.
fn lacking(ours: &Value, theirs: &Value, path: &str, missing: &mut Vec<String>) {
    if theirs["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    for (name, field) in ours["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match theirs["properties"].get(name) {
            Some(known) => lacking(field, known, &path, missing),
            None => missing.push(path),
        }
    }
    if ours["items"].is_object() {
        lacking(&ours["items"], &theirs["items"], &format!("{path}[]"), missing);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As a cluster publishes our definitions.
    fn published() -> Value {
        let [model, replica] = crd::documents().map(|document| {
            let mut schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
            let kind = &document["spec"]["names"]["kind"];
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": GROUP, "kind": kind, "version": "v1alpha1"}]);
            schema
        });
        json!({"components": {"schemas": {"a": replica, "b": model, "c": {"type": "object"}}}})
    }

    #[test]
    fn what_an_older_definition_does_not_know_is_named() {
        let same = published();
        assert_eq!(missing(&same), [("models", "Model", vec![]), ("modelreplicas", "ModelReplica", vec![])]);
        let mut older = same.clone();
        let spec = &mut older["components"]["schemas"]["b"]["properties"]["spec"]["properties"];
        spec["rollout"]["properties"].as_object_mut().unwrap().remove("watch");
        let probe = &mut spec["verify"]["properties"]["probes"]["items"]["properties"];
        probe.as_object_mut().unwrap().remove("prompt");
        older["components"]["schemas"]["a"]["properties"].as_object_mut().unwrap().remove("status");
        let found = missing(&older);
        assert_eq!(found[0].2, ["spec.rollout.watch", "spec.verify.probes[].prompt"]);
        assert!(found[1].2.contains(&"status.phase".to_owned()), "{found:?}");
        assert!(note("Model", &found[0].2).contains("Model does not know spec.rollout.watch, spec.verify"));
    }

    #[test]
    fn a_newer_or_open_definition_is_no_news() {
        let mut newer = published();
        let spec = &mut newer["components"]["schemas"]["b"]["properties"]["spec"];
        spec["properties"]["torrent"] = json!({"type": "string"});
        let mut open = published();
        open["components"]["schemas"]["b"]["properties"]["spec"] =
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        for document in [newer, open] {
            assert!(missing(&document).iter().all(|(_, _, missing)| missing.is_empty()));
        }
        assert!(missing(&json!({})).is_empty(), "nothing is known of a definition that is not there");
    }
}
