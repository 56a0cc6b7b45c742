//! What the types alone do not say to a cluster: bounds, patterns, rules across fields, and defaults.
//!
//! The same documents are refused by [`crate::model::Target`]: a test holds both side by side. Every list and text is bounded,
//! because the cluster refuses a rule whose cost it cannot bound.

use serde_json::{Value, json};

/// An addition to the schema of one field.
pub(super) struct Rule {
    /// Names of fields from the root, separated by `.`; `[]` are the items of a list.
    path: &'static str,
    what: What,
}

enum What {
    /// Adds the keys of a JSON object to the schema.
    Schema(&'static str),
    /// Adds a rule in CEL, with what is told when it does not hold.
    Cel(&'static str, &'static str),
}

const fn schema(path: &'static str, json: &'static str) -> Rule {
    Rule { path, what: What::Schema(json) }
}

const fn cel(path: &'static str, rule: &'static str, message: &'static str) -> Rule {
    Rule { path, what: What::Cel(rule, message) }
}

const REVISION: &str = r#"{"pattern": "^[0-9a-f]{10}$", "maxLength": 10}"#;
const SERVED_NAME: &str =
    r#"{"minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9]([A-Za-z0-9._:/-]*[A-Za-z0-9])?$"}"#;
const SHA256: &str = r#"{"maxLength": 71, "pattern": "^sha256:[0-9a-f]{64}$"}"#;
const PATH: &str = r#"{"minLength": 1, "maxLength": 1024}"#;
const URL: &str = r#"{"maxLength": 2048, "pattern": "^https?://[^@/?#\\s]+([/?][^\\s#]*)?$"}"#;
const REPOSITORY: &str = r#"{"minLength": 1, "maxLength": 193, "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$"}"#;
const BELOW: &str = r#"{"minLength": 1, "maxLength": 512, "pattern": "^[^\\\\?#:*\"<>|\\x00-\\x1f]+$"}"#;
const OCI: &str = r#"{"maxLength": 512, "pattern": "^[A-Za-z0-9.:\\[\\]-]+(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$"}"#;
const ONE_SOURCE: (&str, &str) = (
    "[has(self.path), has(self.url), has(self.hf), has(self.oci)].filter(given, given).size() == 1",
    "give exactly one of path, url, hf and oci",
);
const IN_PLACE: (&str, &str) =
    ("!has(self.inPlace) || !self.inPlace || has(self.path)", "inPlace is for path sources only");
const RELATIVE: (&str, &str) = (
    "self.split('/').all(part, part != '' && part != '.' && part != '..')",
    "a relative path without empty, '.' and '..' segments",
);
const TEMPLATE: &str = r#"{"maxLength": 16384}"#;
const PROMPT_TEMPLATE: &str = r#"{"minLength": 1, "maxLength": 16384}"#;
const FROM_ONE: &str = r#"{"minimum": 1, "maximum": 4294967295}"#;
const DAY: &str = r#"{"minimum": 1, "maximum": 86400}"#;
const UP_TO_A_DAY: &str = r#"{"minimum": 0, "maximum": 86400}"#;

/// Of a `Model`.
pub(super) const MODEL_RULES: &[Rule] = &[
    cel("", "size(self.metadata.name) <= 63", "the name has at most 63 characters"),
    schema("spec.gatewayRef", r#"{"default": {"name": "default"}}"#),
    schema(
        "spec.gatewayRef.name",
        r#"{"minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"}"#,
    ),
    cel("spec.gatewayRef", "self == oldSelf", "the gateway of a model cannot change: make another Model"),
    schema("spec.servedName", SERVED_NAME),
    schema("spec.aliases", r#"{"maxItems": 8, "x-kubernetes-list-type": "set"}"#),
    schema("spec.aliases[]", SERVED_NAME),
    cel(
        "spec",
        "!has(self.aliases) || !has(self.servedName) || !self.aliases.exists(alias, alias == self.servedName)",
        "an alias is the served name itself",
    ),
    cel(
        "",
        "!has(self.spec.aliases) || has(self.spec.servedName) || !self.spec.aliases.exists(alias, alias == self.metadata.name)",
        "an alias is the served name itself",
    ),
    schema("spec.source.path", PATH),
    cel("spec.source.path", RELATIVE.0, RELATIVE.1),
    schema("spec.source.url", URL),
    schema("spec.source.hf.repo", REPOSITORY),
    schema("spec.source.hf.revision", BELOW),
    cel("spec.source.hf.revision", RELATIVE.0, RELATIVE.1),
    schema("spec.source.hf.subfolder", BELOW),
    cel("spec.source.hf.subfolder", RELATIVE.0, RELATIVE.1),
    schema("spec.source.oci", OCI),
    schema("spec.source.digest", SHA256),
    cel("spec.source", ONE_SOURCE.0, ONE_SOURCE.1),
    cel("spec.source", IN_PLACE.0, IN_PLACE.1),
    cel(
        "spec.source",
        "!has(self.url) || has(self.digest)",
        "digest is required with url: inference-gateway pack FOLDER prints it",
    ),
    schema("spec.tokenizer.path", PATH),
    cel("spec.tokenizer.path", RELATIVE.0, RELATIVE.1),
    schema("spec.tokenizer.url", URL),
    schema("spec.tokenizer.hf.repo", REPOSITORY),
    schema("spec.tokenizer.hf.revision", BELOW),
    cel("spec.tokenizer.hf.revision", RELATIVE.0, RELATIVE.1),
    schema("spec.tokenizer.hf.subfolder", BELOW),
    cel("spec.tokenizer.hf.subfolder", RELATIVE.0, RELATIVE.1),
    schema("spec.tokenizer.oci", OCI),
    cel("spec.tokenizer", ONE_SOURCE.0, ONE_SOURCE.1),
    cel(
        "spec.tokenizer",
        "!has(self.digest) && (!has(self.inPlace) || !self.inPlace)",
        "digest and inPlace are for the source of the model only",
    ),
    schema("spec.tokenizer.digest", SHA256),
    schema("spec.runtime.contextLength", FROM_ONE),
    schema("spec.runtime.maxBatchSize", FROM_ONE),
    schema("spec.runtime.prefillChunkTokens", FROM_ONE),
    schema("spec.runtime.speculativeTokens", r#"{"minimum": 0, "maximum": 64}"#),
    schema("spec.runtime.chatTemplate", TEMPLATE),
    schema("spec.promptTemplate", PROMPT_TEMPLATE),
    schema(
        "spec.promptTemplates",
        r#"{"maxItems": 16, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}"#,
    ),
    schema(
        "spec.promptTemplates[].name",
        r#"{"minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"}"#,
    ),
    schema("spec.promptTemplates[].template", PROMPT_TEMPLATE),
    schema("spec.limits.maxConcurrent", FROM_ONE),
    schema("spec.limits.maxQueue", r#"{"minimum": 0, "maximum": 4294967295}"#),
    schema("spec.limits.maxOutputTokens", FROM_ONE),
    schema("spec.limits.requestTimeoutSeconds", DAY),
    schema("spec.limits.unloadAfterIdleSeconds", DAY),
    cel(
        "spec",
        "!has(self.limits) || !has(self.limits.maxConcurrent) || !has(self.runtime) || !has(self.runtime.maxBatchSize) || \
         self.limits.maxConcurrent <= self.runtime.maxBatchSize",
        "limits.maxConcurrent is at most runtime.maxBatchSize",
    ),
    schema("spec.verify.timeoutSeconds", r#"{"minimum": 1, "maximum": 3600}"#),
    schema("spec.verify.probes", r#"{"maxItems": 8}"#),
    schema("spec.verify.probes[].prompt", r#"{"minLength": 1, "maxLength": 4096}"#),
    schema("spec.verify.probes[].maxTokens", r#"{"minimum": 1, "maximum": 256}"#),
    schema("spec.verify.probes[].expectContains", r#"{"minLength": 1, "maxLength": 4096}"#),
    schema("spec.verify.probes[].expectTokens", r#"{"minItems": 1, "maxItems": 256}"#),
    schema("spec.verify.probes[].expectTokens[]", r#"{"minimum": 0, "maximum": 4294967295}"#),
    cel(
        "spec.verify.probes[]",
        "!has(self.expectContains) || !has(self.expectTokens)",
        "give one of expectContains and expectTokens",
    ),
    cel(
        "spec.verify.probes[]",
        "!has(self.expectTokens) || self.expectTokens.size() <= self.maxTokens",
        "expectTokens has more tokens than maxTokens",
    ),
    schema("spec.rollout", r#"{"default": {}}"#),
    schema("spec.rollout.drainSeconds", UP_TO_A_DAY),
    schema("spec.rollout.maxUnavailable", r#"{"default": 1}"#),
    schema("spec.rollout.minReadySeconds", r#"{"minimum": 0, "maximum": 86400, "default": 10}"#),
    schema("spec.rollout.progressDeadlineSeconds", r#"{"minimum": 1, "maximum": 86400, "default": 600}"#),
    schema("spec.rollout.onFailure", r#"{"default": "Rollback"}"#),
    schema("spec.rollout.watch.windowSeconds", UP_TO_A_DAY),
    schema("spec.rollout.watch.minimumRequests", FROM_ONE),
    schema("spec.rollout.watch.maxErrorPercent", r#"{"minimum": 0, "maximum": 100}"#),
    schema("spec.rollout.watch.maxFirstTokenMilliseconds", r#"{"minimum": 0, "maximum": 4294967295}"#),
    schema("spec.rollout.watch.maxTokenMilliseconds", r#"{"minimum": 0, "maximum": 4294967295}"#),
    schema("spec.rollout.watch.maxStepSeconds", FROM_ONE),
    schema(
        "status.conditions",
        r#"{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}"#,
    ),
    schema("status.lastFailure.message", r#"{"maxLength": 1024}"#),
];

/// Of a `ModelReplica`.
pub(super) const REPLICA_RULES: &[Rule] = &[
    schema("spec.podName", r#"{"minLength": 1, "maxLength": 253}"#),
    schema("spec.modelName", r#"{"minLength": 1, "maxLength": 63}"#),
    schema("spec.modelUID", r#"{"minLength": 1, "maxLength": 64}"#),
    schema("spec.prefetchRevision", REVISION),
    schema("spec.revision", REVISION),
    schema("spec.retry", r#"{"maxLength": 1024}"#),
    cel("spec", "self.podName == oldSelf.podName", "podName cannot change"),
    cel("spec", "self.modelName == oldSelf.modelName", "modelName cannot change"),
    cel("spec", "self.modelUID == oldSelf.modelUID", "modelUID cannot change"),
    cel("spec", "self == oldSelf || self.epoch > oldSelf.epoch", "epoch grows with every change"),
    schema("status.message", r#"{"maxLength": 1024}"#),
    schema("status.preparedRevisions", r#"{"maxItems": 64}"#),
];

impl Rule {
    /// Adds itself to the schema of an object.
    pub(super) fn apply(&self, root: &mut Value) {
        let mut schema = root;
        for name in self.path.split('.').filter(|name| !name.is_empty()) {
            let (name, items) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
            schema = &mut schema["properties"][name];
            if items {
                schema = &mut schema["items"];
            }
            assert!(schema.is_object(), "there is no field {}", self.path);
        }
        match self.what {
            What::Schema(text) => {
                let Ok(Value::Object(keys)) = serde_json::from_str(text) else {
                    unreachable!("{text} is an object")
                };
                schema.as_object_mut().expect("checked above").extend(keys);
            }
            What::Cel(rule, message) => {
                let rules = &mut schema["x-kubernetes-validations"];
                if rules.is_null() {
                    *rules = json!([]);
                }
                let rule = json!({"rule": rule, "message": message});
                rules.as_array_mut().expect("a list of rules").push(rule);
            }
        }
    }
}
