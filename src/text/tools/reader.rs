//! Text of a model → prose and calls, piece by piece.
//!
//! White space between marks is not compared: models are less careful with it than their templates. What looks like a call
//! and turns out to be none is prose, as it stood. How the text was cut never changes what comes of it.

mod object;

use self::object::{Object, Taken};
use super::CallSyntax;

/// A piece of what a model said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Prose, not empty.
    Text(String),
    /// A call of the function with this name begins, the next one.
    Call(String),
    /// More of the arguments of the last call: JSON, if the model makes no mistake.
    Arguments(String),
}

/// A call as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadCall {
    /// The name of the function.
    pub name: String,
    /// Its arguments: JSON, if the model makes no mistake.
    pub arguments: String,
}

#[derive(Debug)]
enum State {
    /// Prose; a call may begin.
    Prose,
    /// Behind the first word of what begins calls, which is in `opening`.
    Opening,
    /// In the JSON of a call.
    Object(Object),
    /// Behind a call.
    Behind,
    /// Prose to the end.
    Plain,
}

/// Reads one output.
#[derive(Debug)]
pub struct CallReader {
    syntax: CallSyntax,
    /// The first word of what begins calls; empty where nothing does.
    lead: String,
    /// Names that bare JSON must have to be a call.
    names: Vec<String>,
    /// Calls that are told; more are dropped.
    most_calls: usize,
    state: State,
    /// Text that is not decided yet.
    held: String,
    /// What stood before the JSON of a call that is not yet told.
    opening: String,
    /// Calls that are over.
    calls: usize,
    has_told: bool,
}

impl CallReader {
    /// At the beginning of an output. `names` are those of the functions that there are.
    pub fn new(syntax: CallSyntax, names: Vec<String>, most_calls: usize) -> Self {
        let lead = syntax.begin.split_whitespace().next().unwrap_or_default().to_owned();
        Self {
            syntax,
            lead,
            names,
            most_calls,
            state: State::Prose,
            held: String::new(),
            opening: String::new(),
            calls: 0,
            has_told: false,
        }
    }

    /// Whether a call was told, be it whole or not.
    pub fn has_calls(&self) -> bool {
        self.has_told
    }

    /// Takes the next text of the output.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        joined(pieces)
    }

    /// Ends the output.
    pub fn finish(&mut self) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        let text = match std::mem::replace(&mut self.state, State::Plain) {
            State::Opening => std::mem::take(&mut self.opening) + &held,
            State::Object(object) if object.is_told() => String::new(),
            State::Object(object) => std::mem::take(&mut self.opening) + object.text() + &held,
            // A mark that was cut off.
            State::Behind if squeezed(&self.syntax.end).starts_with(&squeezed(&held)) => String::new(),
            State::Behind | State::Prose | State::Plain => held,
        };
        let mut pieces = Vec::new();
        if !(self.has_calls() && text.trim().is_empty()) {
            pieces.extend(prose(text));
        }
        pieces
    }

    /// Reads a whole output: its prose and its calls.
    pub fn read(mut self, text: &str) -> (String, Vec<ReadCall>) {
        let (mut prose, mut calls): (String, Vec<ReadCall>) = Default::default();
        let pieces = [self.push(text), self.finish()].concat();
        for piece in pieces {
            match piece {
                Piece::Text(text) => prose.push_str(&text),
                Piece::Call(name) => calls.push(ReadCall { name, arguments: String::new() }),
                Piece::Arguments(text) => {
                    if let Some(call) = calls.last_mut() {
                        call.arguments.push_str(&text);
                    }
                }
            }
        }
        (prose, calls)
    }

    /// Goes on as far as the held text lets it; `false` when more is needed.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match &mut self.state {
            State::Plain => {
                pieces.extend(prose(std::mem::take(&mut self.held)));
                false
            }
            State::Prose if self.lead.is_empty() => self.bare(),
            State::Prose => self.prose(pieces),
            State::Opening => self.opening(pieces),
            State::Object(_) => self.object(pieces),
            State::Behind => self.behind(),
        }
    }

    /// JSON that nothing begins is a call only where the output begins.
    fn bare(&mut self) -> bool {
        let text = self.held.trim_start();
        if text.is_empty() {
            return false;
        }
        self.state = if text.starts_with('{') {
            self.opening = self.held[..self.held.len() - text.len()].to_owned();
            self.held = text.to_owned();
            State::Object(Object::default())
        } else {
            State::Plain
        };
        true
    }

    fn prose(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let found = self.held.find(&self.lead);
        let end = found.unwrap_or_else(|| self.held.len() - begun_at_end(&self.held, &self.lead));
        // White space before a call is no prose, nor is any between calls.
        let kept = self.held[..end].trim_end().len();
        pieces.extend(prose(self.held.drain(..kept).collect()));
        if found.is_some() {
            self.opening = self.held.drain(..end - kept + self.lead.len()).collect();
            self.state = State::Opening;
        }
        found.is_some()
    }

    fn opening(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let wanted = squeezed(&self.syntax.begin);
        while let Some(next) = self.held.chars().next() {
            let so_far = squeezed(&self.opening);
            if next == '{' && so_far == wanted {
                self.state = State::Object(Object::default());
                return true;
            }
            let fits = next.is_whitespace() || wanted[so_far.len()..].starts_with(next);
            if !fits {
                pieces.extend(prose(std::mem::take(&mut self.opening)));
                self.state = State::Prose;
                return true;
            }
            self.opening.push(next);
            self.held.drain(..next.len_utf8());
        }
        false
    }

    fn object(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let State::Object(object) = &mut self.state else { return false };
        let is_wanted = self.calls < self.most_calls;
        let needs_name = self.lead.is_empty();
        let Taken { used, name, arguments } = object.take(&self.held, &self.syntax, |name| {
            !needs_name || self.names.iter().any(|known| known == name)
        });
        self.held.drain(..used);
        if is_wanted {
            self.has_told |= name.is_some();
            pieces.extend(name.map(Piece::Call));
            pieces.extend(arguments.map(Piece::Arguments));
        }
        if !object.is_complete() {
            return false;
        }
        if object.is_told() {
            self.calls += 1;
            self.opening.clear();
            self.state = State::Behind;
        } else {
            // Not a call: as it stood.
            let text = std::mem::take(&mut self.opening) + object.text();
            pieces.extend(prose(text));
            self.state = if needs_name { State::Plain } else { State::Prose };
        }
        true
    }

    fn behind(&mut self) -> bool {
        let end = squeezed(&self.syntax.end);
        let between = self.syntax.between.as_deref().map(squeezed);
        let between = between.filter(|between| end.is_empty() || !between.starts_with(&end));
        let mut seen = String::new();
        for (at, next) in self.held.char_indices() {
            if !end.is_empty() && seen == end {
                self.held.drain(..at);
                self.state = State::Prose;
                return true;
            }
            if next.is_whitespace() {
                continue;
            }
            if next == '{' && between.as_ref() == Some(&seen) {
                self.held.drain(..at);
                self.state = State::Object(Object::default());
                return true;
            }
            seen.push(next);
            let fits = |mark: &String| mark.starts_with(&seen);
            if !(fits(&end) || between.as_ref().is_some_and(fits)) {
                self.state = if self.lead.is_empty() { State::Plain } else { State::Prose };
                return true;
            }
        }
        if !end.is_empty() && seen == end {
            self.held.clear();
            self.state = State::Prose;
        }
        false
    }
}

/// Bytes at the end of a text that may become a word.
fn begun_at_end(text: &str, word: &str) -> usize {
    let lengths = word.char_indices().map(|(at, _)| at).rev();
    lengths.into_iter().find(|length| text.ends_with(&word[..*length])).unwrap_or(0)
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

fn prose(text: String) -> Option<Piece> {
    (!text.is_empty()).then_some(Piece::Text(text))
}

/// Neighbours of a kind as one.
fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match (joined.last_mut(), piece) {
            (Some(Piece::Text(last)), Piece::Text(more))
            | (Some(Piece::Arguments(last)), Piece::Arguments(more)) => last.push_str(&more),
            (_, piece) => joined.push(piece),
        }
    }
    joined
}

#[cfg(test)]
mod tests;
