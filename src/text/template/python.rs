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
        // The sign of percent in `{%}` cannot end what it begins.
        rest
            .find("{%")
            .map(|at| at + 2)
            .and_then(|begin| Some((begin, begin + rest[begin..].find("%}")?)))
    {
        let (before, tag) = (&rest[..begin], &rest[begin..end]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_replaced_and_nothing_else_is() {
        for (source, expected) in [
            ("{% generation %}x{%- endgeneration -%}", "{% if true %}x{%- endif -%}"),
            ("{%}generation", "{%}generation"),
            ("{%}{% generation %}", "{%}{% generation %}"),
            ("{% generation", "{% generation"),
            ("%}{%generation%}", "%}{%if true%}"),
        ] {
            assert_eq!(without_generation_marks(source), expected);
        }
    }
}
