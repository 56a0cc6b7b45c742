//! Formats: what an output has to look like, and which tokens keep it so.
//!
//! ```text
//! Format ──▶ Grammars::compile ──▶ Constraint:  allowed ─▶ a token is picked ─▶ accept ─▶ allowed ─▶ …
//!            (once per request)                 a bit for each token            until the output is complete
//! ```
//!
//! [`Grammars`] belongs to a loaded model: it holds the tree of the vocabulary's bytes, made when the first format comes,
//! and the formats that were compiled lately. A [`Constraint`] belongs to one output; what may follow a token is computed
//! ahead, by a thread of the model, while the model runs over that token. Tokens that the format forces are those that the
//! tokenizer would choose for the forced text, so the model reads on as it was trained.
//!
//! This folder owns the crates `llguidance` and `toktrie`. It must never answer a hostile format with much time or memory,
//! or with a panic: the bounds in `format.rs`, `schema.rs` and `grammars.rs` see to that.

mod ahead;
mod format;
mod grammars;
mod progress;
mod schema;
mod vocabulary;

pub use ahead::Constraint;
pub use format::{Format, FormatError};
pub use grammars::Grammars;
pub use progress::{ConstraintError, Progress};
pub(in crate::text) use schema::pointer;

#[cfg(test)]
mod tests;
