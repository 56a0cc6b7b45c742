//! A look at a JSON schema before it is compiled: names what is not supported, and where it stands.

use serde_json::Value;

use super::format::MOST_PATTERN_BYTES;

/// Keywords of JSON Schema that no grammar is made of. To leave one out silently would let through what it forbids.
const UNSUPPORTED: [&str; 18] = [
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "contentEncoding",
    "contentMediaType",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
];

const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// Keywords whose value is a schema, a list of schemas or either.
const SCHEMAS: [&str; 7] =
    ["additionalItems", "additionalProperties", "allOf", "anyOf", "items", "oneOf", "prefixItems"];
/// Keywords whose value is an object of schemas.
const NAMED_SCHEMAS: [&str; 4] = ["$defs", "definitions", "patternProperties", "properties"];

/// Names the first keyword that is not supported, with its place as a JSON pointer.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    match schema {
        Value::Object(_) | Value::Bool(true) => walk(schema, "#"),
        Value::Bool(false) => Err("no JSON holds to the schema `false`".to_owned()),
        Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err("a schema is an object or `true`".to_owned())
        }
    }
}

fn walk(schema: &Value, place: &str) -> Result<(), String> {
    let Value::Object(keywords) = schema else {
        return Ok(());
    };
    for (keyword, value) in keywords {
        let here = || format!("{place}/{}", pointer(keyword));
        if UNSUPPORTED.contains(&keyword.as_str()) {
            return Err(format!("the keyword `{keyword}` is not supported (at {})", here()));
        }
        if SCHEMAS.contains(&keyword.as_str()) {
            match value {
                Value::Array(list) => {
                    for (index, item) in list.iter().enumerate() {
                        walk(item, &format!("{}/{index}", here()))?;
                    }
                }
                one => walk(one, &here())?,
            }
        } else if NAMED_SCHEMAS.contains(&keyword.as_str()) {
            let named = value.as_object().ok_or_else(|| format!("{} must be an object", here()))?;
            for (name, item) in named {
                walk(item, &format!("{}/{}", here(), pointer(name)))?;
            }
        } else {
            check_value(keyword, value).map_err(|message| format!("{message} (at {})", here()))?;
        }
    }
    Ok(())
}

/// Looks at what the library would refuse without saying where it stands.
fn check_value(keyword: &str, value: &Value) -> Result<(), String> {
    match (keyword, value) {
        ("$ref", Value::String(reference)) if !reference.starts_with('#') => {
            Err(format!("`{reference}` is in another document, which is not fetched"))
        }
        ("type", Value::String(name)) if !TYPES.contains(&name.as_str()) => {
            Err(format!("`{name}` is no type of JSON"))
        }
        ("type", Value::Array(names)) => names.iter().try_for_each(|name| check_value("type", name)),
        ("pattern", Value::String(pattern)) if pattern.len() > MOST_PATTERN_BYTES => {
            Err(format!("a pattern has {} bytes, at most {MOST_PATTERN_BYTES} are taken", pattern.len()))
        }
        ("pattern", Value::String(pattern)) => {
            let read = llguidance::derivre::RegexBuilder::new().mk_regex_for_serach(pattern);
            read.map(drop).map_err(|error| error.to_string())
        }
        ("$ref" | "pattern" | "type", other) if !other.is_string() => {
            Err(format!("`{keyword}` takes a string, got {other}"))
        }
        _ => Ok(()),
    }
}

/// A name as a part of a JSON pointer.
pub(in crate::text) fn pointer(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
