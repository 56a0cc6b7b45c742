//! The JSON of one call, as it comes.

use serde_json::Value;

use crate::text::tools::CallSyntax;

/// An object in the making. Its arguments are told as they come where the name comes first, else when it is complete.
#[derive(Debug, Default)]
pub(super) struct Object {
    text: String,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// Where values in the object end that are objects or lists, in bytes.
    ends_inside: Vec<usize>,
    head: Head,
}

/// How much is known of the name and the arguments.
#[derive(Debug, Default, Clone, Copy)]
enum Head {
    /// Not all of it is there.
    #[default]
    Unknown,
    /// It cannot be told before the object is complete.
    Late,
    /// The name is told, and the arguments, which begin at `from`, up to `to`.
    Told { from: usize, to: usize },
    /// All is told.
    Over,
}

/// What came of a text.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Bytes of it that belong to the object.
    pub(super) used: usize,
    /// The name, once.
    pub(super) name: Option<String>,
    /// More of the arguments.
    pub(super) arguments: Option<String>,
}

/// What an object begins with.
enum Begun {
    /// Too little to tell.
    Unclear,
    /// Not with a name and arguments that are an object.
    Other,
    Call {
        name: String,
        arguments_at: usize,
    },
}

impl Object {
    /// Takes what belongs to the object; `is_known` says whether a name makes it a call.
    pub(super) fn take(&mut self, text: &str, syntax: &CallSyntax, is_known: impl Fn(&str) -> bool) -> Taken {
        let mut taken = Taken { used: self.add(text), ..Taken::default() };
        if let Head::Unknown = self.head {
            match begun(&self.text, syntax) {
                Begun::Unclear => {}
                Begun::Call { name, arguments_at } if is_known(&name) => {
                    self.head = Head::Told { from: arguments_at, to: arguments_at };
                    taken.name = Some(name);
                }
                Begun::Call { .. } | Begun::Other => self.head = Head::Late,
            }
        }
        match self.head {
            Head::Told { from, to } => {
                let end = self.ends_inside.iter().find(|end| **end > from).copied();
                let so_far = end.unwrap_or(self.text.len());
                taken.arguments = (so_far > to).then(|| self.text[to..so_far].to_owned());
                self.head = if end.is_some() { Head::Over } else { Head::Told { from, to: so_far } };
            }
            Head::Unknown | Head::Late if self.is_complete() => {
                if let Some((name, arguments)) = call(&self.text, syntax).filter(|(name, _)| is_known(name)) {
                    self.head = Head::Over;
                    (taken.name, taken.arguments) = (Some(name), Some(arguments));
                }
            }
            Head::Unknown | Head::Late | Head::Over => {}
        }
        taken
    }

    /// Whether the last brace is closed.
    pub(super) fn is_complete(&self) -> bool {
        self.depth == 0 && !self.text.is_empty()
    }

    /// Whether it was told as a call.
    pub(super) fn is_told(&self) -> bool {
        matches!(self.head, Head::Told { .. } | Head::Over)
    }

    /// All of it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn add(&mut self, text: &str) -> usize {
        for (at, char) in text.char_indices() {
            if self.is_complete() {
                return at;
            }
            self.text.push(char);
            match char {
                _ if self.is_escaped => self.is_escaped = false,
                '\\' if self.in_string => self.is_escaped = true,
                '"' => self.in_string = !self.in_string,
                '{' | '[' if !self.in_string => self.depth += 1,
                '}' | ']' if !self.in_string => {
                    self.depth -= 1;
                    if self.depth == 1 {
                        self.ends_inside.push(self.text.len());
                    }
                }
                _ => {}
            }
        }
        text.len()
    }
}

/// Reads `{"name": "…", "arguments": {`.
fn begun(text: &str, syntax: &CallSyntax) -> Begun {
    let read = || {
        let mut cursor = Cursor { rest: text };
        cursor.pass('{')?;
        cursor.key(&syntax.name)?;
        let name = cursor.string()?;
        cursor.pass(',')?;
        cursor.key(&syntax.arguments)?;
        cursor.pass('{')?;
        Ok(Begun::Call { name, arguments_at: text.len() - cursor.rest.len() - 1 })
    };
    read().unwrap_or_else(|begun| begun)
}

struct Cursor<'a> {
    rest: &'a str,
}

impl Cursor<'_> {
    fn pass(&mut self, wanted: char) -> Result<(), Begun> {
        let rest = self.rest.trim_start();
        match rest.strip_prefix(wanted) {
            Some(behind) => {
                self.rest = behind;
                Ok(())
            }
            None if rest.is_empty() => Err(Begun::Unclear),
            None => Err(Begun::Other),
        }
    }

    fn key(&mut self, wanted: &str) -> Result<(), Begun> {
        if self.string()? == wanted { self.pass(':') } else { Err(Begun::Other) }
    }

    fn string(&mut self) -> Result<String, Begun> {
        let begin = self.rest;
        self.pass('"')?;
        let mut is_escaped = false;
        for (at, char) in self.rest.char_indices() {
            match char {
                _ if is_escaped => is_escaped = false,
                '\\' => is_escaped = true,
                '"' => {
                    let quoted = &begin[..=begin.len() - self.rest.len() + at];
                    self.rest = &self.rest[at + 1..];
                    return serde_json::from_str(quoted).map_err(|_no_string| Begun::Other);
                }
                _ => {}
            }
        }
        Err(Begun::Unclear)
    }
}

/// Name and arguments of a complete object. Some models write the arguments as a text that is JSON.
fn call(text: &str, syntax: &CallSyntax) -> Option<(String, String)> {
    let object: Value = serde_json::from_str(text).ok()?;
    let name = object.get(&syntax.name)?.as_str()?.to_owned();
    let arguments = match object.get(&syntax.arguments) {
        None => "{}".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    Some((name, arguments))
}
