//! Filters and tests of Jinja that minijinja has otherwise.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, State, filters};

/// Whether something can be gone through: in Python nothing can be, and `None` not.
pub(in crate::text::template) fn is_iterable(value: &Value) -> bool {
    value.is_undefined() || (!value.is_none() && value.try_iter().is_ok())
}

/// Whether something has a length and items: in Python texts and mappings have.
pub(in crate::text::template) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
}

/// Whether something can be called: what is no data.
pub(in crate::text::template) fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain
}

/// `int`, which makes its default of a text that is no number.
pub(in crate::text::template) fn int(
    state: &State<'_, '_>,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    options: Kwargs,
) -> Result<Value, Error> {
    let fallback = default.clone().or(options.get("default")?).unwrap_or_else(|| Value::from(0));
    let trimmed = value.as_str().map(|text| Value::from(text.trim()));
    or_default(
        value,
        filters::int(state, trimmed.as_ref().unwrap_or(value), default, base, options),
        fallback,
    )
}

/// `float`, which makes its default of a text that is no number.
pub(in crate::text::template) fn float(
    state: &State<'_, '_>,
    value: &Value,
    default: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let fallback = default.clone().or(options.get("default")?).unwrap_or_else(|| Value::from(0.0));
    or_default(value, filters::float(state, value, default, options), fallback)
}

fn or_default(value: &Value, outcome: Result<Value, Error>, fallback: Value) -> Result<Value, Error> {
    if value.kind() == ValueKind::String { Ok(outcome.unwrap_or(fallback)) } else { outcome }
}

/// `attr`, which does not see the items of a mapping.
pub(in crate::text::template) fn attr(value: &Value, name: &str) -> Result<Value, Error> {
    if value.kind() == ValueKind::Map { Ok(Value::UNDEFINED) } else { value.get_attr(name) }
}
