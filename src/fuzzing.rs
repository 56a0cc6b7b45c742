//! What `make fuzz` feeds with bytes that nobody chose: one function for each parser and writer, which asserts what holds
//! whatever it is given. Only in builds with the feature `fuzzing`, and in this crate's own tests.
//!
//! ```text
//! fuzz/src/main.rs (libFuzzer) ─┐
//! fuzzing/tests.rs (the corpus) ┴▶ TARGETS ─▶ requests, documents, writers, texts, graphs ─▶ the modules under test
//! ```
//!
//! This is the seam into the private parts: modules stay private, and what a target needs of one is a function there, under
//! the same condition.

mod documents;
mod graphs;
mod model;
mod requests;
mod scratch;
#[cfg(test)]
mod tests;
mod texts;
mod writers;

/// A target: takes any bytes, panics where something that is promised does not hold.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 15] = [
    ("native", requests::native),
    ("openai_chat", requests::chat),
    ("openai_completions", requests::completions),
    ("open_inference", requests::open_inference),
    ("tgi", requests::tgi),
    ("settings", documents::settings),
    ("models_file", documents::models_file),
    ("manifest", documents::manifest),
    ("server_sent_events", writers::server_sent_events),
    ("openmetrics", writers::open_metrics),
    ("templates", texts::templates),
    ("stop_strings", texts::stop_strings),
    ("detokeniser", texts::detokeniser),
    ("request_id", texts::request_id),
    ("graphs", graphs::graphs),
];
