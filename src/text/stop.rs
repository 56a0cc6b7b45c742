//! Stop strings: where a text ends although the model would go on.
//!
//! The last station of a stream: [`crate::text::decoder`] yields text, this file passes it on up to the first stop string.
//! A stop string may be cut by the borders of the pieces, so whatever could still become one is held back, and nothing
//! else. How the text was cut never changes the result.
//!
//! Which match wins: the one that begins first in the text; of two that begin at the same place the shorter, because
//! the text before it is the same and it is known first. A match therefore waits while a longer stop string that began
//! before it is still possible; [`Stops::finish`] ends that wait.
//!
//! Each stop string is followed by its own Knuth–Morris–Pratt automaton: the state is the number of its bytes that the
//! text so far ends with. Cost: bytes of text × stop strings, whatever the strings are. UTF-8 needs no care: a stop
//! string begins with the first byte of a character, so every possible match begins at a character border.

/// What became of a piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopEvent {
    /// Text that is surely before any stop string; may be empty.
    Text(String),
    /// The text ends here: the rest of what comes before the stop string, and the stop string. What follows is dropped.
    Stopped {
        /// The last text to pass on; may be empty.
        text: String,
        /// The stop string that was found, left out of the text.
        stop: String,
    },
}

/// The stop strings of one sequence and how far each has been seen.
#[derive(Debug)]
pub struct Stops {
    patterns: Vec<Pattern>,
    /// Text that is not passed on, and its place in the whole text.
    held: String,
    held_start_bytes: usize,
    /// Bytes of the whole text that the automata have seen.
    seen_bytes: usize,
    /// The best match so far: its start in bytes from the start of the text, and its pattern.
    found: Option<(usize, usize)>,
    stopped: bool,
}

/// One stop string and the state of its automaton.
#[derive(Debug)]
struct Pattern {
    text: String,
    /// For each length of a matched prefix the length of its longest proper prefix that is also its end.
    fallback: Vec<usize>,
    matched_bytes: usize,
}

impl Stops {
    /// Stop strings as the request gave them. Empty ones mean nothing and are left out.
    pub fn new(stops: Vec<String>) -> Self {
        let patterns = stops.into_iter().filter(|stop| !stop.is_empty()).map(Pattern::new).collect();
        Self {
            patterns,
            held: String::new(),
            held_start_bytes: 0,
            seen_bytes: 0,
            found: None,
            stopped: false,
        }
    }

    /// Takes the next piece of text. After a stop every piece is dropped.
    pub fn push(&mut self, text: &str) -> StopEvent {
        if self.stopped {
            return StopEvent::Text(String::new());
        }
        self.held.push_str(text);
        for byte in text.bytes() {
            self.seen_bytes += 1;
            self.step(byte);
            if let Some(event) = self.decided() {
                return event;
            }
        }
        let keep_from = self.earliest_possible_start();
        StopEvent::Text(self.release(keep_from))
    }

    /// Whether text is held back that may be the beginning of a stop string.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Ends the text: nothing that is only begun can become a stop string any more, so the rest is passed on, unless a
    /// stop string was waiting.
    pub fn finish(mut self) -> StopEvent {
        match self.found.take() {
            Some((start, pattern)) if !self.stopped => self.stop(start, pattern),
            _ => StopEvent::Text(std::mem::take(&mut self.held)),
        }
    }

    /// Feeds one byte to every automaton and keeps the match that begins first. A match of an earlier byte that begins
    /// at the same place is shorter and stays.
    fn step(&mut self, byte: u8) {
        for (index, pattern) in self.patterns.iter_mut().enumerate() {
            if pattern.step(byte) {
                let start = self.seen_bytes - pattern.text.len();
                if self.found.is_none_or(|(best, _)| start < best) {
                    self.found = Some((start, index));
                }
            }
        }
    }

    /// The match that was found, once no stop string that begins before it is possible.
    fn decided(&mut self) -> Option<StopEvent> {
        let (start, pattern) = self.found?;
        if self.earliest_possible_start() < start {
            return None;
        }
        Some(self.stop(start, pattern))
    }

    /// Where the earliest match begins that is found or still possible; the end of the text if there is none.
    fn earliest_possible_start(&self) -> usize {
        let begun = self.patterns.iter().map(|pattern| pattern.matched_bytes).max().unwrap_or(0);
        let found = self.found.map_or(usize::MAX, |(start, _)| start);
        found.min(self.seen_bytes - begun)
    }

    fn stop(&mut self, start: usize, pattern: usize) -> StopEvent {
        let text = self.release(start);
        self.held.clear();
        self.stopped = true;
        StopEvent::Stopped { text, stop: self.patterns[pattern].text.clone() }
    }

    /// Takes the held text up to a place in the whole text.
    fn release(&mut self, end_bytes: usize) -> String {
        let rest = self.held.split_off(end_bytes - self.held_start_bytes);
        self.held_start_bytes = end_bytes;
        std::mem::replace(&mut self.held, rest)
    }
}

impl Pattern {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut fallback = vec![0; bytes.len() + 1];
        let mut matched = 0;
        for length in 2..=bytes.len() {
            while matched > 0 && bytes[matched] != bytes[length - 1] {
                matched = fallback[matched];
            }
            matched += usize::from(bytes[matched] == bytes[length - 1]);
            fallback[length] = matched;
        }
        Self { text, fallback, matched_bytes: 0 }
    }

    /// Feeds one byte; true when the text now ends with the whole stop string.
    fn step(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        if self.matched_bytes == bytes.len() {
            self.matched_bytes = self.fallback[self.matched_bytes];
        }
        while self.matched_bytes > 0 && bytes[self.matched_bytes] != byte {
            self.matched_bytes = self.fallback[self.matched_bytes];
        }
        self.matched_bytes += usize::from(bytes[self.matched_bytes] == byte);
        self.matched_bytes == bytes.len()
    }
}

#[cfg(test)]
mod tests;
