//! Calls as a format: text that is nothing but calls of some functions, with arguments that hold to their schemas.

use serde_json::{Value, json};

use super::CallSyntax;
use crate::text::constraint::pointer;

/// A function that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments: an object.
    pub parameters: Value,
}

/// Calls of some functions, written in some way.
#[derive(Debug, Clone, PartialEq)]
pub struct CallFormat {
    /// How they are written.
    pub syntax: CallSyntax,
    /// The functions, at least one.
    pub functions: Vec<Function>,
    /// Whether there may be more than one call, where the syntax has room for it.
    pub several: bool,
}

impl CallFormat {
    /// The schema of one call.
    pub fn schema(&self) -> Value {
        let CallSyntax { name: name_key, arguments: arguments_key, .. } = &self.syntax;
        let call = |(index, function): (usize, &Function)| {
            let place = format!("#/anyOf/{index}/properties/{}", pointer(arguments_key));
            let mut parameters = function.parameters.clone();
            move_references(&mut parameters, &place);
            json!({
                "type": "object",
                "properties": {name_key: {"const": function.name}, arguments_key: parameters},
                "required": [name_key, arguments_key],
                "additionalProperties": false,
            })
        };
        let calls: Vec<Value> = self.functions.iter().enumerate().map(call).collect();
        json!({"anyOf": calls})
    }
}

/// References count from the root of a schema, which is no longer where it was.
fn move_references(schema: &mut Value, root: &str) {
    match schema {
        Value::Object(keywords) => {
            for (keyword, value) in keywords {
                match (keyword.as_str(), value) {
                    ("$ref", Value::String(reference)) => {
                        if let Some(rest) = reference.strip_prefix('#') {
                            *reference = format!("{root}{rest}");
                        }
                    }
                    // Not schemas but values.
                    ("const" | "enum" | "default" | "example" | "examples", _) => {}
                    (_, value) => move_references(value, root),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|item| move_references(item, root)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_a_schema_move_with_it() {
        let parameters = json!({
            "type": "object",
            "properties": {"at": {"$ref": "#/$defs/place"}, "again": {"$ref": "#"}, "kind": {"enum": [{"$ref": "#/x"}]}},
            "$defs": {"place": {"type": "string"}},
        });
        let format = CallFormat {
            syntax: CallSyntax { arguments: "a/b".to_owned(), ..CallSyntax::plain() },
            functions: vec![Function { name: "f".to_owned(), parameters }],
            several: false,
        };
        let schema = format.schema();
        let moved = &schema["anyOf"][0]["properties"]["a/b"]["properties"];
        assert_eq!(moved["at"]["$ref"], "#/anyOf/0/properties/a~1b/$defs/place");
        assert_eq!(moved["again"]["$ref"], "#/anyOf/0/properties/a~1b");
        assert_eq!(moved["kind"]["enum"][0]["$ref"], "#/x");
        let pointed = schema.pointer("/anyOf/0/properties/a~1b/$defs/place");
        assert_eq!(pointed, Some(&json!({"type": "string"})));
    }
}
