//! Objects as they are read: one that cannot be understood says why, and hides no other.

use kube::core::DynamicObject;
use kube::{Resource, ResourceExt};
use serde_json::Value;

use super::crd::{FrozenSpec, ModelStatus, RETRY_ANNOTATION};
use crate::model::spec::ModelSpec;
use crate::model::template_fault;

/// A `Model` as it was read.
#[derive(Debug, Clone)]
pub(super) struct ModelObject {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) generation: i64,
    /// Seconds since 1970.
    pub(super) created: i64,
    pub(super) deleting: bool,
    /// Value of the annotation that asks for another try.
    pub(super) retry: Option<String>,
    pub(super) spec: Result<ModelSpec, Unreadable>,
    /// `None` when it cannot be understood: another version wrote it.
    pub(super) status: Option<ModelStatus>,
}

/// Why a spec cannot be understood.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Unreadable {
    /// It has a field, or a value, that this version does not know.
    Unknown(String),
    /// It is not what the schema says.
    Invalid(String),
    /// A template of it is none, which no schema can tell. The spec is here without its prompt templates: a pod that begins and
    /// knows no earlier spec serves what has proved itself with that.
    Template(Box<ModelSpec>, String),
}

impl ModelObject {
    pub(super) fn read(object: &DynamicObject) -> Self {
        let meta = object.meta();
        Self {
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second()),
            deleting: meta.deletion_timestamp.is_some(),
            retry: object.annotations().get(RETRY_ANNOTATION).cloned(),
            spec: read_spec(object.data.get("spec").unwrap_or(&Value::Null)),
            status: match object.data.get("status") {
                None => Some(unseen()),
                Some(status) => serde_json::from_value(status.clone()).ok(),
            },
        }
    }

    /// Other names under which it wants to be asked for, and first its own.
    pub(super) fn names(&self) -> Vec<String> {
        let Ok(spec) = &self.spec else {
            return Vec::new();
        };
        let first = spec.served_name.clone().unwrap_or_else(|| self.name.clone());
        std::iter::once(first).chain(spec.aliases.iter().cloned()).collect()
    }
}

fn unseen() -> ModelStatus {
    ModelStatus { observed_generation: -1, ..ModelStatus::default() }
}

fn read_spec(value: &Value) -> Result<ModelSpec, Unreadable> {
    let spec: ModelSpec = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        let told = if path == "." { message.clone() } else { format!("spec.{path}: {message}") };
        if message.starts_with("unknown field") || message.starts_with("unknown variant") {
            Unreadable::Unknown(told)
        } else {
            Unreadable::Invalid(told)
        }
    })?;
    match template_fault(&spec) {
        None => Ok(spec),
        Some(fault) => {
            let rest = ModelSpec { prompt_template: None, prompt_templates: Vec::new(), ..spec };
            Err(Unreadable::Template(Box::new(rest), fault))
        }
    }
}

impl FrozenSpec {
    /// The part of a spec that makes a revision.
    pub(super) fn of(spec: &ModelSpec) -> Self {
        let ModelSpec {
            gateway_ref: _,
            served_name,
            aliases: _,
            source,
            tokenizer,
            runtime,
            prompt_template: _,
            prompt_templates: _,
            limits: _,
            verify,
            rollout: _,
            paused: _,
        } = spec;
        Self {
            served_name: served_name.clone(),
            source: source.clone(),
            tokenizer: tokenizer.clone(),
            runtime: runtime.clone(),
            verify: verify.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(spec: &Value, status: &Value) -> ModelObject {
        let object = json!({
            "apiVersion": "inference-gateway.io/v1alpha1", "kind": "Model",
            "metadata": {"name": "chat", "uid": "u", "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec, "status": status,
        });
        ModelObject::read(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn what_another_version_has_written_is_told_apart_from_what_is_wrong() {
        let unknown = object(&json!({"source": {"path": "a", "torrent": "x"}}), &json!({}));
        let Err(Unreadable::Unknown(told)) = unknown.spec else { panic!("{:?}", unknown.spec) };
        assert!(told.contains("spec.source") && told.contains("torrent"), "{told}");
        let invalid = object(&json!({"source": {"path": 7}}), &json!({}));
        let Err(Unreadable::Invalid(told)) = invalid.spec else { panic!("{:?}", invalid.spec) };
        assert!(told.contains("spec.source.path"), "{told}");
    }

    #[test]
    fn a_template_that_is_none_is_told_with_its_line_and_the_rest_is_kept() {
        let broken = json!([{"name": "a", "template": "{{ a }}"}, {"name": "b", "template": "x\n{{ b"}]);
        let object = object(
            &json!({"source": {"path": "a"}, "limits": {"maxQueue": 7}, "promptTemplates": broken}),
            &json!({}),
        );
        let Err(Unreadable::Template(rest, told)) = object.spec else { panic!("{:?}", object.spec) };
        assert!(
            told.contains("spec.promptTemplates: `b` does not compile") && told.contains("(in b:2)"),
            "{told}"
        );
        assert_eq!((rest.limits.max_queue, rest.prompt_templates.len()), (Some(7), 0));
    }

    #[test]
    fn a_status_of_another_version_does_not_hide_the_object() {
        let fine =
            object(&json!({"source": {"path": "a"}}), &json!({"observedGeneration": 2, "newField": 1}));
        assert_eq!(fine.status.unwrap().observed_generation, 2);
        let strange = object(&json!({"source": {"path": "a"}}), &json!({"rollout": {"phase": "Dreaming"}}));
        assert!(strange.status.is_none() && strange.spec.is_ok());
    }
}
