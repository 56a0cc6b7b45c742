//! What the process tells of itself while it works: log lines, and traces of requests and of the work on models.
//!
//! ```text
//! observe.rs ─▶ RequestTrace ─▶ generate.rs ─▶ Inference ─▶ phases ─┐
//! keeper.rs ──▶ Work ─▶ workshop.rs ─▶ Phase ───────────────────────┴▶ Traces ─▶ bounded queue ─▶ SpanExport ─▶ a collector
//! ```
//!
//! A span is made of timestamps when its work is over, and put into a queue that never waits: what does not fit is dropped and
//! counted. Nothing here sees a prompt or a text.

mod export;
mod inference;
mod logs;
mod request;
mod trace_context;
mod traces;
mod work;

pub use export::{OtlpProtocol, SamplerName, SpanExport, TraceOptions, TracesError};
pub use inference::{Asked, Generated, Inference};
pub use logs::{FilterLayer, InvalidFilter, LogControl, LogFormat, SetFilterError, TelemetryError, init};
pub use request::{Answered, RequestTrace, Told};
pub use trace_context::TraceContext;
pub use traces::Traces;
pub use work::{Phase, Work};
