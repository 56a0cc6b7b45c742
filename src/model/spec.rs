//! What to serve, as it is given: values that are parsed once and cannot be wrong afterwards.
//!
//! First stop of a model on its way into the process. Nothing in here touches the network.

mod oci;
mod source;

pub use oci::OciSource;
pub(crate) use source::without_query;
pub use source::{DEFAULT_HUB_ENDPOINT, HttpUrl, HubSource, Source, SourceError};
