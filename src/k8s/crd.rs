//! The two kinds of objects: `Model`, which people write, and `ModelReplica`, one for each pod and model.
//!
//! The spec of a `Model` is the schema of the models file; what a schema cannot say by itself (one of several fields, ranges,
//! defaults of the cluster) is in `crd/rules.rs`.

mod document;
mod rules;
mod status;

pub use document::documents;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use status::{
    Condition, Failed, FrozenSpec, ModelStatus, Phase, Quarantined, ReplicaPhase, ReplicaStatus,
    RolloutStatus, Slot, Stage, Truth,
};

use crate::model::spec::ModelSpec;

/// Group of both kinds.
pub const GROUP: &str = "inference-gateway.io";
/// Any new value of this annotation of a `Model` lets a revision be tried again that has failed.
pub const RETRY_ANNOTATION: &str = "inference-gateway.io/retry";
/// Label of a `ModelReplica`: the model's name.
pub const MODEL_LABEL: &str = "inference-gateway.io/model";
/// Label of a `ModelReplica`: the pod's name.
pub const POD_LABEL: &str = "inference-gateway.io/pod";
/// Label of gateway pods, and of their replicas: the gateway's name.
pub const GATEWAY_LABEL: &str = "inference-gateway.io/gateway";
/// `minReadySeconds` of a `Model` that does not say it; the schema says the same.
pub const DEFAULT_MIN_READY_SECONDS: u32 = 10;
/// The gateway of a `Model` that names none.
pub const DEFAULT_GATEWAY: &str = "default";

/// A model to serve: what it is, where it comes from, and how it is rolled out.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "inference-gateway.io",
    version = "v1alpha1",
    kind = "Model",
    plural = "models",
    singular = "model",
    shortname = "igm",
    category = "inference-gateway",
    category = "all",
    namespaced,
    status = "ModelStatus",
    derive = "PartialEq",
    selectable = ".spec.gatewayRef.name",
    doc = "A model to serve: what it is, where it comes from, and how it is rolled out.",
    printcolumn = r#"{"name": "Serving", "type": "string", "jsonPath": ".status.stable.revision", "description": "The revision that has proved itself"}"#,
    printcolumn = r#"{"name": "Target", "type": "string", "jsonPath": ".status.target.revision", "description": "The revision that is being rolled out"}"#,
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.rollout.phase"}"#,
    printcolumn = r#"{"name": "Updated", "type": "integer", "jsonPath": ".status.updatedReplicas"}"#,
    printcolumn = r#"{"name": "Replicas", "type": "integer", "jsonPath": ".status.replicas"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "priority": 1, "jsonPath": ".status.conditions[?(@.type==\"Ready\")].message"}"#
)]
#[serde(transparent)]
pub struct ModelBody(pub ModelSpec);

/// What one pod is to do with one model; written by the controller only.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "inference-gateway.io",
    version = "v1alpha1",
    kind = "ModelReplica",
    plural = "modelreplicas",
    singular = "modelreplica",
    shortname = "igmr",
    category = "inference-gateway",
    namespaced,
    status = "ReplicaStatus",
    derive = "PartialEq",
    selectable = ".spec.podName",
    selectable = ".spec.modelName",
    doc = "One model in one gateway pod: the spec says what the pod is to do, the status what it does. Made by the controller.",
    printcolumn = r#"{"name": "Model", "type": "string", "jsonPath": ".spec.modelName"}"#,
    printcolumn = r#"{"name": "Pod", "type": "string", "jsonPath": ".spec.podName"}"#,
    printcolumn = r#"{"name": "Assigned", "type": "string", "jsonPath": ".spec.revision"}"#,
    printcolumn = r#"{"name": "Serving", "type": "string", "jsonPath": ".status.servingRevision"}"#,
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.phase"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaBody {
    /// The pod.
    pub pod_name: String,
    /// The model.
    pub model_name: String,
    /// Of the `Model` object: one that is deleted and made anew is another model.
    #[serde(rename = "modelUID")]
    pub model_uid: String,
    /// The revision to bring here and to try, without serving it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefetch_revision: Option<String>,
    /// The revision to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Grows with every change.
    pub epoch: i64,
    /// Value of the model's retry annotation; a new one lets a revision be tried again that has failed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// Whether the pod may be out of service while it swaps, where memory leaves no other way: other pods serve meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_unload: bool,
}
