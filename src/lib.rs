//! The Inference Gateway: text generation with ONNX models as a Kubernetes-native HTTP service.
//!
//! A request flows down, its tokens flow up; a model flows from the left:
//!
//! ```text
//!                 http        wire formats, probes, metrics
//!                  │ ▲
//!               generate      reserve → encode → submit → decode → stop
//!                │   │ ▲
//! config ─▶ model   text      which model, from where;  text ↔ tokens
//!                │     ▲
//!               engine        token ids in, token ids out: one thread, one batch
//!                  │
//!            ONNX Runtime
//! ```
//!
//! Read in this order: [`generate`] (the request flow), [`engine`] (the step), [`model`] (the model flow), [`http`],
//! [`app`] (how all is put together).

pub mod access;
pub mod app;
pub mod cli;
pub mod config;
pub mod engine;
pub mod failpoint;
pub mod followed;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod generate;
pub mod http;
pub mod k8s;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod models_file;
pub mod openmetrics;
pub mod shutdown;
pub mod telemetry;
pub mod text;
