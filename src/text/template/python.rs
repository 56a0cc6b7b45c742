//! What templates expect of Python and of `transformers`, and Jinja in Rust does otherwise.

mod builtins;
mod json;
mod methods;
mod number;
mod text;

pub(super) use self::builtins::{attr, float, int, is_callable, is_iterable, is_sequence};
pub(super) use self::json::tojson;
pub(super) use self::methods::call;
pub(super) use self::text::{print, string};

use std::borrow::Cow;

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
