//! Tools: what a model may ask its caller to do, and how it writes that it does.
//!
//! ```text
//! template ──▶ Abilities::of (probes, once a model) ──▶ CallSyntax ─┬▶ CallFormat: a grammar that only calls hold to
//!                                                                   └▶ CallReader: text ─▶ prose and calls
//! ```
//!
//! Every family of models writes calls in a way of its own, and its chat template is the one place that knows it. So the
//! template is asked: it renders a conversation with a known call, and what stands around the call's JSON is the syntax.

mod calls;
mod reader;
mod syntax;

pub use calls::{CallFormat, Function};
pub use reader::{CallReader, Piece, ReadCall};
pub use syntax::{Abilities, CallSyntax};
