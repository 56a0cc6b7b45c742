//! The text of a choice as content and calls of tools.

use rand::distr::{Alphanumeric, SampleString};
use serde::Serialize;
use utoipa::ToSchema;

use super::tools::Reading;
use crate::generate::{CallReader, Piece};
use crate::http::openai::described;

/// Length of an id: some templates insist on nine letters and digits.
const ID_LENGTH: usize = 9;

/// A call of a tool; in a chunk also its `index`, and without what was told before.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatToolCall)]
pub(super) struct ToolCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = described::function)]
    r#type: Option<&'static str>,
    function: CalledFunction,
}

/// The function that is called.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCalledFunction)]
struct CalledFunction {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    name: Option<String>,
    /// JSON, or more of it
    arguments: String,
}

/// A piece of a choice.
pub(super) enum Said {
    Content(String),
    Call(ToolCall),
}

/// What a choice says, where tools were given.
pub(super) struct Speech {
    reader: CallReader,
    /// Calls that have begun.
    calls: usize,
}

impl Reading {
    fn reader(&self) -> CallReader {
        CallReader::new(self.syntax.clone(), self.names.clone(), self.most_calls)
    }

    /// A whole choice: its content, and its calls.
    pub(super) fn whole(&self, text: &str) -> (String, Vec<ToolCall>) {
        let (content, calls) = self.reader().read(text);
        let call = |call: crate::generate::ReadCall| ToolCall {
            index: None,
            id: Some(new_id()),
            r#type: Some("function"),
            function: CalledFunction { name: Some(call.name), arguments: call.arguments },
        };
        (content, calls.into_iter().map(call).collect())
    }

    /// The beginning of a choice that is streamed.
    pub(super) fn begin(&self) -> Speech {
        Speech { reader: self.reader(), calls: 0 }
    }
}

impl Speech {
    /// Takes the next text.
    pub(super) fn push(&mut self, text: &str) -> Vec<Said> {
        let pieces = self.reader.push(text);
        self.said(pieces)
    }

    /// Ends the text.
    pub(super) fn finish(&mut self) -> Vec<Said> {
        let pieces = self.reader.finish();
        self.said(pieces)
    }

    /// Whether there was a call.
    pub(super) fn has_calls(&self) -> bool {
        self.reader.has_calls()
    }

    fn said(&mut self, pieces: Vec<Piece>) -> Vec<Said> {
        let said = |piece| match piece {
            Piece::Text(text) => Said::Content(text),
            Piece::Call(name) => {
                self.calls += 1;
                Said::Call(ToolCall {
                    index: Some(self.calls - 1),
                    id: Some(new_id()),
                    r#type: Some("function"),
                    function: CalledFunction { name: Some(name), arguments: String::new() },
                })
            }
            Piece::Arguments(arguments) => Said::Call(ToolCall {
                index: Some(self.calls.saturating_sub(1)),
                id: None,
                r#type: None,
                function: CalledFunction { name: None, arguments },
            }),
        };
        pieces.into_iter().map(said).collect()
    }
}

fn new_id() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), ID_LENGTH)
}
