//! Models: which, from where, in which state.
//!
//! ```text
//! documents ─▶ target ─▶ fleet ─▶ keeper (one a model): fetch ▶ verify ▶ load ▶ warm ▶ swap ▶ watch ▶ drain
//!                                    │
//!                                    ▼
//!                                registry ◀── requests pin a LoadedModel; readiness and admin page read
//! ```

mod budget;
mod documents;
mod drain;
mod files;
mod fleet;
mod health;
mod hexadecimal;
mod history;
mod keeper;
mod layout;
mod load;
mod loaded;
pub mod manifest;
mod name;
mod plan;
mod reaper;
mod reason;
mod registry;
mod room;
mod slot;
pub mod source;
pub mod spec;
pub mod store;
mod target;
mod templates;
pub mod verify;
mod workshop;

pub use budget::{HugePages, MemoryLimits};
pub use documents::{DocumentError, MOST_DOCUMENT_BYTES, parse_documents};
pub use fleet::{Fleet, FleetHandle};
pub use history::StateFolder;
pub use keeper::EngineDied;
pub use load::{LoadError, LoadLimits};
pub use loaded::{LoadedModel, Pinned};
pub use name::{InvalidModelName, ModelName};
pub use reason::Reason;
pub use registry::{Load, Registry, Serving, Snapshot, Unavailable};
pub use slot::{Failure, ModelState, Preparation, Status};
pub use target::{Defaults, Desired, LiveLimits, Purpose, SpecError, Target, desired, revision_of};
pub use templates::{InvalidTemplate, TemplateField, TemplateSources, Templates, template_fault};
pub use workshop::{AttemptError, Trial, Workshop};

pub use crate::engine::RunningStep;
