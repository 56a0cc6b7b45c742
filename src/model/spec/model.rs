//! A model as people describe it: the same schema in the models file, in a ConfigMap and in a `Model` object.
//!
//! The types here are the document; [`crate::model::Target`] is what remains of one that holds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::portion::IntOrPercent;
use super::quantity::Bytes;
use super::verify::VerifySpec;

/// An entry of the models file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelDocument {
    /// Name of the model, as a `Model` object's metadata would give it.
    pub name: String,
    /// What it is.
    pub spec: ModelSpec,
}

/// What to serve, from where, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelSpec {
    /// Which gateway serves it. For `Model` objects only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_ref: Option<GatewayRef>,
    /// `model` of requests. Default: the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_name: Option<String>,
    /// Other names that requests may use, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Where its files come from.
    pub source: SourceSpec,
    /// Where its tokenizer comes from, when that is not among its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<SourceSpec>,
    /// How it is loaded. A change here, in `source`, `tokenizer` or `servedName` is a new revision.
    #[serde(default, skip_serializing_if = "is_default")]
    pub runtime: RuntimeSpec,
    /// Makes the prompt of every text that comes without the name of a template, which is its variable `text`; at most
    /// 16 KiB. Changes apply while it serves, here and in `promptTemplates`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_template: Option<String>,
    /// Templates that requests name, with variables that requests give; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompt_templates: Vec<NamedTemplate>,
    /// What it may take. Changes apply while it serves.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: LimitsSpec,
    /// How it is tried before it serves.
    #[serde(default, skip_serializing_if = "is_default")]
    pub verify: VerifySpec,
    /// How it takes the place of what serves.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rollout: RolloutSpec,
    /// What serves goes on, and nothing is begun.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paused: bool,
}

/// A prompt template that requests name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedTemplate {
    /// What requests call it: at most 64 letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The template, in Jinja, at most 16 KiB. Every variable that it uses has to be given.
    pub template: String,
}

/// A gateway by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayRef {
    /// Name of the gateway.
    pub name: String,
}

/// Where files come from: exactly one of `path`, `url`, `hf` and `oci`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SourceSpec {
    /// A file or folder below the model root (`INFERENCE_MODEL_ROOT`), relative, without `..`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// An http or https address of a manifest (`…/manifest.json`) or of a graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A repository of the Hugging Face hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hf: Option<HubSpec>,
    /// An OCI artifact: `registry/repository@sha256:…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci: Option<String>,
    /// `sha256:` and 64 digits: the digest of the manifest. Required with `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Whether the files are used where they lie: for mounts that nobody writes to. Else they are copied to the store.
    #[serde(skip_serializing_if = "is_default")]
    pub in_place: bool,
}

/// A repository of the Hugging Face hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HubSpec {
    /// `owner/repository`.
    pub repo: String,
    /// Branch, tag or commit; default `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Folder in the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subfolder: Option<String>,
}

/// How a model is loaded; what is left out is taken from the gateway's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RuntimeSpec {
    /// Tokens that a sequence may have, at most the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    /// Sequences that there is address space for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<u32>,
    /// Tokens of a prompt that are fed in one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill_chunk_tokens: Option<u32>,
    /// Tokens that are drafted at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculative_tokens: Option<u8>,
    /// Memory that loading it takes. Default: what the trial run took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Memory for the caches of running sequences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_memory: Option<Bytes>,
    /// Memory for kept beginnings of prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_memory: Option<Bytes>,
    /// The chat template, in place of the model's own, at most 16 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
}

/// What a model may take; what is left out is taken from the gateway's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsSpec {
    /// Sequences generated at once, at most `runtime.maxBatchSize`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    /// Requests that may wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queue: Option<u32>,
    /// Tokens that a request may ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// Seconds after which a request fails if it has not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout_seconds: Option<u32>,
    /// Seconds without a request after which the model gives its memory back until the next one. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unload_after_idle_seconds: Option<u32>,
}

/// How a revision takes the place of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RolloutSpec {
    /// Whether the new one is loaded beside the old one.
    pub swap_policy: SwapPolicy,
    /// Seconds that requests of the old revision have to end.
    pub drain_seconds: u32,
    /// What happens to those that have not.
    pub after_drain: AfterDrain,
    /// When the old revision is put back.
    #[serde(skip_serializing_if = "is_default")]
    pub watch: WatchSpec,
    /// Replicas out of service at once. For `Model` objects only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrPercent>,
    /// Seconds that each batch of replicas is watched. For `Model` objects only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ready_seconds: Option<u32>,
    /// Seconds without progress after which a rollout has failed. For `Model` objects only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_deadline_seconds: Option<u32>,
    /// What a failed rollout does. For `Model` objects only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self {
            swap_policy: SwapPolicy::Auto,
            drain_seconds: 60,
            after_drain: AfterDrain::End,
            watch: WatchSpec::default(),
            max_unavailable: None,
            min_ready_seconds: None,
            progress_deadline_seconds: None,
            on_failure: None,
        }
    }
}

/// Whether the new revision is loaded beside the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SwapPolicy {
    /// Beside it where memory allows; else in its place, where the controller sees that other pods serve meanwhile; else not at
    /// all.
    Auto,
    /// Beside it.
    LoadBeforeUnload,
    /// In its place: requests wait meanwhile.
    UnloadBeforeLoad,
}

/// What happens to requests of a replaced revision whose time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AfterDrain {
    /// They end with an error that says so.
    End,
    /// They are waited for, and so is the next swap.
    Wait,
}

/// What a failed rollout does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// All replicas go back.
    Rollback,
    /// Nothing moves any more.
    Pause,
}

/// When the revision before is put back after a swap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WatchSpec {
    /// Seconds that a new revision is watched and the old one is kept, where memory allows; 0 does not watch.
    pub window_seconds: u32,
    /// Generations that have to have ended before shares are judged.
    pub minimum_requests: u32,
    /// Percent of generations that may fail.
    pub max_error_percent: u32,
    /// Milliseconds that a first token may take on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_first_token_milliseconds: Option<u32>,
    /// Milliseconds that an output token may take on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_token_milliseconds: Option<u32>,
    /// Seconds that one step of the engine may take.
    pub max_step_seconds: u32,
}

impl Default for WatchSpec {
    fn default() -> Self {
        Self {
            window_seconds: 60,
            minimum_requests: 10,
            max_error_percent: 10,
            max_first_token_milliseconds: None,
            max_token_milliseconds: None,
            max_step_seconds: 15,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
