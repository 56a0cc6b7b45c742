//! What the objects tell: the status of a `Model`, written by the controller, and of a `ModelReplica`, written by its pod.
//!
//! Read leniently: a status of another version must not hide an object. Nothing in here changes unless something happened,
//! so that writing it wakes nobody for nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::spec::{RuntimeSpec, SourceSpec, VerifySpec};

/// What the controller knows of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelStatus {
    /// The generation that this status is about; -1 before the controller has seen the object.
    pub observed_generation: i64,
    /// The revision that has proved itself: what new pods serve, and what is gone back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable: Option<Slot>,
    /// The revision that is being rolled out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Slot>,
    /// Where the rollout is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// Revisions that have failed and are not tried again until the spec changes or a retry is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<Quarantined>,
    /// Gateway pods that are to serve the model.
    pub replicas: u32,
    /// Of them, those that serve the wanted revision.
    pub updated_replicas: u32,
    /// Of them, those that serve any revision.
    pub ready_replicas: u32,
    /// Of them, those that have failed.
    pub failed_replicas: u32,
    /// The last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failed>,
    /// The state in the terms of `kubectl wait`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl ModelStatus {
    /// The revision that has proved itself.
    pub fn stable_revision(&self) -> Option<&str> {
        self.stable.as_ref().map(|stable| stable.revision.as_str())
    }
}

/// A revision, frozen: going back works after the spec was overwritten.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    /// Hash of the frozen spec as given.
    pub revision: String,
    /// The generation of the `Model` that it was taken from.
    pub generation: i64,
    /// Of the manifest of its files, as the first pod has found it; the others have to find the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The part of the spec that makes the revision.
    #[serde(flatten)]
    pub spec: FrozenSpec,
}

/// The part of a spec that makes a revision, and how it is tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrozenSpec {
    /// `model` of requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_name: Option<String>,
    /// Where its files come from.
    pub source: SourceSpec,
    /// Where its tokenizer comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<SourceSpec>,
    /// How it is loaded.
    #[serde(default)]
    pub runtime: RuntimeSpec,
    /// How it is tried.
    #[serde(default)]
    pub verify: VerifySpec,
}

/// Where a rollout is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// What is being done.
    pub phase: Phase,
    /// When the rollout of this target began, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it last came forward, RFC 3339, by the clock of the controller that leads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_progress_at: Option<String>,
    /// The controller that leads it. Another one has another clock, and gives it the whole time anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub led_by: Option<String>,
    /// How far it was then.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// For a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What a rollout does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Nothing moves.
    #[default]
    Idle,
    /// Every pod brings the target here and tries it.
    Preparing,
    /// One pod serves the target and is watched.
    Canary,
    /// The others follow.
    Rolling,
    /// All go back.
    RollingBack,
    /// Nothing moves until somebody says so.
    Paused,
    /// The target has failed, and everything is where it was.
    Failed,
}

/// A revision that is not tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quarantined {
    /// The revision.
    pub revision: String,
    /// Why, in one word.
    pub reason: String,
    /// How far it had come.
    pub stage: Stage,
    /// The generation of the `Model` at which it failed.
    pub generation: i64,
    /// The value of the retry annotation at which it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
}

/// How far a revision had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Stage {
    /// Nothing that serves was touched.
    Preparing,
    /// Some pods were to serve it.
    Rolling,
    /// It did not come forward for too long.
    Deadline,
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// Of which revision.
    pub revision: String,
    /// In which pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// Why, in one word.
    pub reason: String,
    /// Why, for a person.
    pub message: String,
    /// When the controller saw it, RFC 3339.
    pub time: String,
}

/// One aspect of the state, in the form of `metav1.Condition`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds.
    pub status: Truth,
    /// The generation that this is about.
    #[serde(default)]
    pub observed_generation: i64,
    /// When `status` changed last, RFC 3339.
    pub last_transition_time: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, for a person.
    pub message: String,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Truth {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody knows.
    Unknown,
}

/// What a pod tells of one model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaStatus {
    /// The assignment that this status is about.
    pub observed_epoch: i64,
    /// The revision that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving_revision: Option<String>,
    /// Since when, RFC 3339, by the pod's clock: for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving_since: Option<String>,
    /// The `minReadySeconds` for which it has answered since, once these are over. The pod measures them itself: nobody
    /// compares clocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watched_seconds: Option<u32>,
    /// Revisions that are here and have been tried.
    pub prepared_revisions: Vec<String>,
    /// Of the manifest of the last of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepared_digest: Option<String>,
    /// What the pod does.
    pub phase: ReplicaPhase,
    /// The revision that `phase`, `reason` and `message` are about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase_revision: Option<String>,
    /// Why it failed or waits, in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, for a person, at most 1024 characters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What a pod does with a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReplicaPhase {
    /// Nothing yet.
    #[default]
    Pending,
    /// Brings files here.
    Downloading,
    /// Tries a revision where it can do no harm.
    Verifying,
    /// Has what it was told to bring here, and serves nothing.
    Prepared,
    /// Brings a revision into memory.
    Loading,
    /// Runs its first generations.
    Warming,
    /// Serves what it was told to.
    Ready,
    /// Ends what it serves.
    Draining,
    /// Could not do what it was told to; what it served before goes on.
    Failed,
}
