//! What to serve, as it is given: the schema of a model, and values that are parsed once and cannot be wrong afterwards.
//!
//! First stop of a model on its way into the process. Nothing in here touches the network.

mod model;
mod oci;
mod portion;
mod quantity;
mod source;
mod verify;

pub use model::{
    AfterDrain, GatewayRef, HubSpec, LimitsSpec, ModelDocument, ModelSpec, NamedTemplate, OnFailure,
    RolloutSpec, RuntimeSpec, SourceSpec, SwapPolicy, WatchSpec,
};
pub use oci::OciSource;
pub use portion::IntOrPercent;
pub use quantity::Bytes;
pub use source::{DEFAULT_HUB_ENDPOINT, HttpUrl, HubSource, Source, SourceError};
pub(crate) use source::{is_relative_path, without_query};
pub use verify::{InvalidVerify, Isolation, Probe, VerifySpec};
