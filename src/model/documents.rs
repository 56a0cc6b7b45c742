//! The list of models as text: strict, bounded, and all or nothing.

use super::spec::ModelDocument;
use super::{Defaults, Desired, SpecError, desired};

/// A list is small; what is larger is no list.
pub const MOST_DOCUMENT_BYTES: usize = 1 << 20;

/// Why a list does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Too long.
    #[error("the list of models has more than {MOST_DOCUMENT_BYTES} bytes")]
    TooLong,
    /// Not text.
    #[error("the list of models is not UTF-8 text: byte {0} is wrong")]
    NotText(usize),
    /// Nothing in it.
    #[error("the list of models is empty: write `[]` to serve none")]
    Empty,
    /// Not the schema.
    #[error("the list of models does not hold: {0}")]
    Schema(String),
    /// A model that does not hold.
    #[error("the list of models does not hold: {0}")]
    Model(#[from] SpecError),
}

/// Reads a YAML (or JSON) list of `{name, spec}`.
///
/// # Errors
/// The first thing that is wrong, with the field and, for the schema, line and column.
pub fn parse_documents(bytes: &[u8], defaults: &Defaults) -> Result<Desired, DocumentError> {
    if bytes.len() > MOST_DOCUMENT_BYTES {
        return Err(DocumentError::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|error| DocumentError::NotText(error.valid_up_to()))?;
    let mut parts = serde_yaml::Deserializer::from_str(text);
    let part = parts.next().ok_or(DocumentError::Empty)?;
    let documents: Option<Vec<ModelDocument>> = serde_path_to_error::deserialize(part).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        let told =
            if path == "." || message.starts_with(&path) { message } else { format!("{path}: {message}") };
        DocumentError::Schema(told)
    })?;
    if parts.next().is_some() {
        return Err(DocumentError::Schema("there is more than one YAML document; write one list".to_owned()));
    }
    let documents = documents.ok_or(DocumentError::Empty)?;
    Ok(desired(&documents, defaults)?)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    fn parse(text: &str) -> Result<Desired, DocumentError> {
        parse_documents(text.as_bytes(), &Defaults::small())
    }

    #[test]
    fn a_list_and_an_empty_list_hold() {
        assert_eq!(parse("[]").unwrap().len(), 0);
        let all =
            parse("- name: a\n  spec: {source: {path: a}}\n- name: b\n  spec: {source: {path: b}}").unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(parse(r#"[{"name": "a", "spec": {"source": {"path": "a"}}}]"#).unwrap().len(), 1);
    }

    #[test]
    fn what_does_not_hold_says_where() {
        for (text, told) in [
            ("", "is empty"),
            ("# nothing\n", "is empty"),
            ("name: a", "expected a sequence"),
            ("- name: a\n  spec: {sourc: {path: a}}", "[0].spec"),
            ("- name: a\n  spec: {source: {path: a}}\n  sepc: 1", "unknown field `sepc`"),
            ("- name: a\n  name: b\n  spec: {source: {path: a}}", "duplicate field `name`"),
            ("- name: a\n  spec: {source: {path: [}", "line"),
            ("[]\n---\n[]", "more than one YAML document"),
            ("- {name: a, spec: {source: {path: ..}}}", "a: spec.source: path"),
            ("- {name: a, spec: {source: {path: a}, limits: {maxQueue: -1}}}", "limits.maxQueue"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text:?}: {error}");
        }
        assert_eq!(parse_documents(b"\xff\xfe", &Defaults::small()).unwrap_err(), DocumentError::NotText(0));
        let long = vec![b'#'; MOST_DOCUMENT_BYTES + 1];
        assert_eq!(parse_documents(&long, &Defaults::small()).unwrap_err(), DocumentError::TooLong);
    }

    #[test]
    fn aliases_that_unfold_for_ever_are_refused() {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (name, of) in
            ["b", "c", "d", "e", "f", "g", "h", "i"].iter().zip(["a", "b", "c", "d", "e", "f", "g", "h"])
        {
            let nine = vec![format!("*{of}"); 9].join(", ");
            writeln!(text, "{name}: &{name} [{nine}]").unwrap();
        }
        assert!(parse(&text).is_err());
        let list = format!("- name: a\n  spec: {{source: {{path: a}}, aliases: [{}]}}", "*x, ".repeat(9));
        assert!(parse(&list).is_err());
    }
}
