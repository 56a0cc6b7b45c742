//! What templates expect of Python and of `transformers`.

use std::borrow::Cow;

use minijinja::value::{Kwargs, Value};

/// JSON as Python's `json.dumps` writes it: nothing is escaped for HTML.
#[expect(clippy::needless_pass_by_value, reason = "the form of a filter")]
pub(super) fn tojson(
    value: &Value,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<Value, minijinja::Error> {
    let given: Option<Value> = options.get("indent")?;
    // `transformers` takes these too; the defaults are what templates ask for.
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _ignored: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let none = std::iter::empty::<(String, Value)>().collect();
    let escaped = minijinja::filters::tojson(value, indent.or(given), none)?;
    Ok(Value::from(without_html_escapes(escaped.as_str().unwrap_or_default())))
}

/// Turns `\u003c`, `\u003e`, `\u0026` and `\u0027` of a JSON text back into characters.
fn without_html_escapes(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let plain = [("\\u003c", '<'), ("\\u003e", '>'), ("\\u0026", '&'), ("\\u0027", '\'')];
        if let Some((escape, char)) = plain.iter().find(|(escape, _)| rest.starts_with(escape)) {
            text.push(*char);
            rest = &rest[escape.len()..];
        } else {
            // The escaped character goes with its backslash: it may be one itself.
            let escape: String = rest.chars().take(2).collect();
            text.push_str(&escape);
            rest = &rest[escape.len()..];
        }
    }
    text + rest
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, which mark what a model said for training.
pub(super) fn without_generation_marks(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((begin, end)) =
        rest.find("{%").and_then(|begin| rest[begin..].find("%}").map(|length| (begin, begin + length)))
    {
        let (before, tag) = (&rest[..begin + 2], &rest[begin + 2..end]);
        text.push_str(before);
        match tag.trim_matches(|char: char| matches!(char, '-' | '+') || char.is_whitespace()) {
            "generation" => text.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => text.push_str(&tag.replace("endgeneration", "endif")),
            _ => text.push_str(tag),
        }
        rest = &rest[end..];
    }
    text.push_str(rest);
    Cow::Owned(text)
}
