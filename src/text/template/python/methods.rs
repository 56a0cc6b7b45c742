//! Methods of Python's strings beside those that `minijinja_contrib::pycompat` knows, or has otherwise.

use minijinja::value::{Tuple, Value, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

/// Longest text that padding makes, in characters.
const WIDEST: usize = 1000;

/// What a method gives that minijinja does not know.
pub(in crate::text::template) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match value.as_str().map(|text| of_text(text, method, args)) {
        Some(Some(outcome)) => outcome,
        Some(None) | None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// `None` for methods that are others' matter.
fn of_text(text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    Some(match method {
        "title" => from_args(args).map(|()| Value::from(title(text))),
        "removeprefix" => {
            from_args(args).map(|(prefix,): (&str,)| Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            from_args(args).map(|(suffix,): (&str,)| Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "partition" => parted(text, args, false),
        "rpartition" => parted(text, args, true),
        "rsplit" => rsplit(text, args),
        "index" | "rindex" => index(text, method, args),
        "zfill" => zfill(text, args),
        _ => return None,
    })
}

/// Letters after what is no letter are capitals, all others are not.
fn title(text: &str) -> String {
    let (mut titled, mut inside) = (String::with_capacity(text.len()), false);
    for char in text.chars() {
        if inside {
            titled.extend(char.to_lowercase());
        } else {
            titled.extend(char.to_uppercase());
        }
        inside = char.is_alphabetic();
    }
    titled
}

/// What is before a separator, the separator, and what is after it; the last such separator counts `from_end`.
fn parted(text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    let split = if from_end { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match split {
        Some((before, after)) => [before, separator, after],
        None if from_end => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most =
        most.and_then(|most| usize::try_from(most).ok()).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts: Vec<&str> = if let Some(separator) = separator {
        text.rsplitn(most, separator).collect()
    } else {
        let (mut parts, mut rest) = (Vec::new(), text.trim_end());
        while let Some((before, last)) =
            rest.rsplit_once(char::is_whitespace).filter(|_| parts.len() + 1 < most)
        {
            parts.push(last);
            rest = before.trim_end();
        }
        parts.extend((!rest.is_empty()).then(|| rest.trim_start()));
        parts
    };
    parts.reverse();
    Ok(Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>()))
}

fn index(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (part,): (&str,) = from_args(args)?;
    let at = if method == "index" { text.find(part) } else { text.rfind(part) };
    match at {
        Some(at) => Ok(Value::from(text[..at].chars().count())),
        None => Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
    }
}

fn zfill(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (width,): (usize,) = from_args(args)?;
    if width > WIDEST {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("zfill: at most {WIDEST} characters")));
    }
    let zeros = "0".repeat(width.saturating_sub(text.chars().count()));
    let sign = usize::from(text.starts_with(['+', '-']));
    Ok(Value::from(format!("{}{zeros}{}", &text[..sign], &text[sign..])))
}
