//! The definitions of the objects as `inference-gateway crd` prints them: generated from the types, then made into what a
//! cluster wants.

use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::rules::{MODEL_RULES, REPLICA_RULES, Rule};
use super::{Model, ModelReplica};

/// Both definitions, as JSON values in the order in which they are applied.
///
/// # Panics
/// The rules name a field that the types do not have: a fault of this program, which a test finds.
pub fn documents() -> [Value; 2] {
    let model = serde_json::to_value(Model::crd()).expect("a definition has string keys only");
    let replica = serde_json::to_value(ModelReplica::crd()).expect("a definition has string keys only");
    // What kstatus and `helm --wait` would take for done before the controller has seen the object.
    let unseen = Some(json!({"observedGeneration": -1}));
    [finished(model, MODEL_RULES, unseen), finished(replica, REPLICA_RULES, None)]
}

fn finished(mut document: Value, rules: &[Rule], default_status: Option<Value>) -> Value {
    let schema = document
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
        .expect("a generated definition has a schema");
    tidy(schema);
    for rule in rules {
        rule.apply(schema);
    }
    if let Some(status) = default_status {
        schema["properties"]["status"]["default"] = status;
    }
    document.sort_all_objects();
    document
}

/// Removes what a structural schema may not have, and `nullable`: the cluster stores an explicit null instead of the default,
/// and the object could not be read any more.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("nullable");
            if fields.get("additionalProperties") == Some(&Value::Bool(false)) {
                fields.remove("additionalProperties");
            }
            if fields.get("default") == Some(&Value::Null) {
                fields.remove("default");
            }
            if let Some(Value::String(format)) = fields.get_mut("format")
                && format.starts_with("uint")
            {
                // The cluster knows signed numbers only; `minimum` says the rest.
                "int64".clone_into(format);
            }
            one_line(fields);
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Descriptions are shown by `kubectl explain`, which breaks lines by itself.
fn one_line(fields: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = fields.get_mut("description") {
        *text = text.split('\n').map(str::trim).collect::<Vec<_>>().join(" ").replace('`', "");
    }
}
