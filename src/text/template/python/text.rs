//! `str` and `repr` of Python: what a template prints that is no text.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, escape_formatter};

use super::number;

/// Longest text, in bytes: as long as a prompt may be. What is shared in a value is written as often as it is met.
const MOST_BYTES: usize = 16 << 20;
/// Deepest nesting; Python gives up there too.
const DEEPEST: usize = 900;

/// Writes a value where a template prints it.
pub(in crate::text::template) fn print(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    if is_as_in_rust(value) {
        return escape_formatter(out, state, value);
    }
    let mut text = String::new();
    write_repr(value, 0, &mut text)?;
    out.write_str(&text).map_err(Error::from)
}

/// The filter `string`.
pub(in crate::text::template) fn string(value: &Value) -> Result<Value, Error> {
    if value.kind() == ValueKind::String {
        return Ok(value.clone());
    }
    if is_as_in_rust(value) {
        return Ok(Value::from(value.to_string()));
    }
    let mut text = String::new();
    write_repr(value, 0, &mut text)?;
    Ok(Value::from(text))
}

fn is_as_in_rust(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Number => value.is_integer(),
        ValueKind::Seq | ValueKind::Map => false,
        _ => true,
    }
}

fn write_repr(value: &Value, depth: usize, text: &mut String) -> Result<(), Error> {
    if text.len() > MOST_BYTES || depth > DEEPEST {
        let message = "a value that is printed is too large or too deep";
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    match value.kind() {
        ValueKind::String => write_text(value.as_str().unwrap_or_default(), text),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(float) => text.push_str(&number::float(float)),
            Err(_) => text.push_str(&value.to_string()),
        },
        ValueKind::Map => {
            text.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                write_repr(&key, depth + 1, text)?;
                text.push_str(": ");
                write_repr(&value.get_item(&key)?, depth + 1, text)?;
            }
            text.push('}');
        }
        ValueKind::Seq => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            text.push(open);
            for (index, item) in value.try_iter()?.enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                write_repr(&item, depth + 1, text)?;
            }
            if value.is_tuple() && value.len() == Some(1) {
                text.push(',');
            }
            text.push(close);
        }
        ValueKind::Undefined => text.push_str("Undefined"),
        _ => text.push_str(&value.to_string()),
    }
    Ok(())
}

/// A text in quotes: single ones, unless it has only such; what is not printed is escaped.
fn write_text(content: &str, text: &mut String) {
    use std::fmt::Write as _;

    let quote = if content.contains('\'') && !content.contains('"') { '"' } else { '\'' };
    text.push(quote);
    for char in content.chars() {
        let code = u32::from(char);
        // Writing to a text does not fail.
        let _written = match char {
            '\\' => text.write_str("\\\\"),
            '\n' => text.write_str("\\n"),
            '\r' => text.write_str("\\r"),
            '\t' => text.write_str("\\t"),
            _ if char == quote => write!(text, "\\{char}"),
            _ if is_printable(char) => text.write_char(char),
            _ if code <= 0xff => write!(text, "\\x{code:02x}"),
            _ if code <= 0xffff => write!(text, "\\u{code:04x}"),
            _ => write!(text, "\\U{code:08x}"),
        };
    }
    text.push(quote);
}

/// As Python's `isprintable`, and the tables of Rust's own escapes are made by the same rule. A letter goes before the character,
/// because Rust escapes what would combine with the quote.
fn is_printable(char: char) -> bool {
    let pair: String = ['a', char].iter().collect();
    matches!(char, '"' | '\'') || pair.escape_debug().eq(pair.chars())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_in_python() {
        let repr = |json: &str| {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            let mut text = String::new();
            write_repr(&Value::from(minijinja::value::Serde(value)), 0, &mut text).unwrap();
            text
        };
        // Each is what Python 3.11 prints.
        for (json, text) in [
            (r#"[1, -2.5, 1e22, true, null, "a"]"#, "[1, -2.5, 1e+22, True, None, 'a']"),
            (r#"{"a": {}, "b": []}"#, "{'a': {}, 'b': []}"),
            (r#"["it's", "\"", "'\"", "\\\n\t\r"]"#, r#"["it's", '"', '\'"', '\\\n\t\r']"#),
            (r#"["é\u00a0\u0001\u007f\u0085\u00ad"]"#, r"['é\xa0\x01\x7f\x85\xad']"),
            (r#"["\u0301\u200d\u2028\ue000\ufeff世🙂"]"#, "['\u{301}\\u200d\\u2028\\ue000\\ufeff世🙂']"),
            (r#"["\udb40\udc01\ud83e\udee8"]"#, "['\\U000e0001\u{1fae8}']"),
        ] {
            assert_eq!(repr(json), text);
        }
    }
}
