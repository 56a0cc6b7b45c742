//! `tojson`, as `transformers` has it: `json.dumps` with the options that templates may give, and nothing escaped for HTML.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::number;

/// Longest text, in bytes: as long as a prompt may be. What is shared in a value is written as often as it is met.
const MOST_BYTES: usize = 16 << 20;
/// Deepest nesting; Python gives up there too.
const DEEPEST: usize = 900;
/// Spaces of one level at most.
const MOST_INDENT: usize = 64;

/// How JSON is written.
struct Form {
    /// What one level begins with; one line if there is none.
    indent: Option<String>,
    /// Between two items.
    comma: String,
    /// Between key and value.
    colon: String,
    ascii: bool,
    sorted: bool,
}

/// The filter `tojson(indent, ensure_ascii, separators, sort_keys)`.
#[expect(clippy::needless_pass_by_value, reason = "the form of a filter")]
pub(in crate::text::template) fn tojson(
    value: &Value,
    ensure_ascii: Option<Value>,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let option = |given: Option<Value>, name: &str| match given {
        Some(given) => Ok(Some(given)),
        None => options.get::<Option<Value>>(name),
    };
    let indent = indent_of(option(indent, "indent")?)?;
    let separators = options.get::<Option<Value>>("separators")?.filter(|value| !value.is_none());
    let (comma, colon) = match separators {
        Some(pair) => (separator(&pair, 0)?, separator(&pair, 1)?),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let truth = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let form = Form {
        indent,
        comma,
        colon,
        ascii: truth(option(ensure_ascii, "ensure_ascii")?),
        sorted: truth(options.get("sort_keys")?),
    };
    options.assert_all_used()?;
    let mut writer = Writer { form, text: String::new() };
    writer.write(value, 0)?;
    Ok(Value::from(writer.text))
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// A number of spaces, or the text itself.
fn indent_of(given: Option<Value>) -> Result<Option<String>, Error> {
    let Some(given) = given.filter(|given| !given.is_none() && !given.is_undefined()) else {
        return Ok(None);
    };
    let indent = if let Some(text) = given.as_str() {
        text.to_owned()
    } else {
        let spaces = i64::try_from(given).map_err(|_| wrong("tojson: indent is a number or a text"))?;
        " ".repeat(usize::try_from(spaces).unwrap_or_default().min(MOST_INDENT + 1))
    };
    if indent.len() > MOST_INDENT {
        return Err(wrong(format!("tojson: indent has at most {MOST_INDENT} spaces")));
    }
    Ok(Some(indent))
}

fn separator(pair: &Value, index: usize) -> Result<String, Error> {
    let part = pair.get_item(&Value::from(index))?;
    part.as_str().map(str::to_owned).ok_or_else(|| wrong("tojson: separators are two texts"))
}

/// JSON that is being written.
struct Writer {
    form: Form,
    text: String,
}

impl Writer {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if self.text.len() > MOST_BYTES || depth > DEEPEST {
            return Err(wrong("tojson: the value is too large or too deep"));
        }
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&number_of(value)),
            ValueKind::String => self.write_text(value.as_str().unwrap_or_default()),
            ValueKind::Map => self.write_map(value, depth)?,
            ValueKind::Seq | ValueKind::Iterable => self.write_list(value, depth)?,
            kind => return Err(wrong(format!("an object of the kind {kind} is no JSON"))),
        }
        Ok(())
    }

    fn write_list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.text.push('[');
        let mut count = 0;
        for item in value.try_iter()? {
            self.before_item(count, depth + 1);
            self.write(&item, depth + 1)?;
            count += 1;
        }
        self.close(']', count, depth);
        Ok(())
    }

    fn write_map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<(String, Value)> =
            value.try_iter()?.map(|key| Ok((key_text(&key)?, key))).collect::<Result<_, Error>>()?;
        if self.form.sorted {
            keys.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        self.text.push('{');
        for (index, (name, key)) in keys.iter().enumerate() {
            self.before_item(index, depth + 1);
            self.write_text(name);
            self.text.push_str(&self.form.colon);
            self.write(&value.get_item(key)?, depth + 1)?;
        }
        self.close('}', keys.len(), depth);
        Ok(())
    }

    fn before_item(&mut self, index: usize, depth: usize) {
        if index > 0 {
            self.text.push_str(&self.form.comma);
        }
        self.begin_line(depth);
    }

    fn close(&mut self, bracket: char, items: usize, depth: usize) {
        if items > 0 {
            self.begin_line(depth);
        }
        self.text.push(bracket);
    }

    fn begin_line(&mut self, depth: usize) {
        if let Some(indent) = &self.form.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn write_text(&mut self, content: &str) {
        self.text.push('"');
        for char in content.chars() {
            match char {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                _ if char < ' ' || (self.form.ascii && char > '~') => {
                    for unit in char.encode_utf16(&mut [0; 2]).iter() {
                        let code = format!("\\u{unit:04x}");
                        self.text.push_str(&code);
                    }
                }
                _ => self.text.push(char),
            }
        }
        self.text.push('"');
    }
}

fn number_of(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(float) if float.is_nan() => "NaN".to_owned(),
        Ok(float) if float.is_infinite() => if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Ok(float) => number::float(float),
        Err(_) => value.to_string(),
    }
}

/// Keys that are no texts become some, as in Python.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => Ok(number_of(key)),
        kind => Err(wrong(format!("a key of the kind {kind} is no JSON"))),
    }
}
