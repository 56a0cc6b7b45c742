//! What is known of a model by its name, for answers that ask nothing of the model itself.

use super::Api;
use super::error::ApiError;
use crate::access::Caller;
use crate::model::{ModelState, Snapshot, Unavailable};

/// A model that is to be served here under this name, whatever its state.
///
/// # Errors
/// The caller may not use it, there is none, or it is not known yet which models there are.
pub(super) async fn model_named(api: &Api, caller: &Caller, name: &str) -> Result<Snapshot, ApiError> {
    caller.must_be_allowed(name).await?;
    let mut snapshots = api.registry.snapshots();
    match snapshots.iter().position(|one| one.names.iter().any(|known| known.as_str() == name)) {
        Some(index) => Ok(snapshots.swap_remove(index)),
        None if snapshots.is_empty() && !api.registry.is_synced() => Err(Unavailable::NotKnown.into()),
        None => {
            let models = api.models_of(caller).await?;
            Err(Unavailable::Unknown { name: name.to_owned(), models }.into())
        }
    }
}

/// As [`model_named`], of models that a request would be answered by.
///
/// # Errors
/// As there; or it cannot answer now.
pub(super) async fn model_to_ask(api: &Api, caller: &Caller, name: &str) -> Result<Snapshot, ApiError> {
    let snapshot = model_named(api, caller, name).await?;
    if can_be_asked(&snapshot) {
        return Ok(snapshot);
    }
    let Snapshot { key, names: _, status, serving: _, going: _ } = snapshot;
    Err(Unavailable::NotReady { name: key, state: status.state.label(), message: status.message }.into())
}

/// Whether a request would be answered, at once or after the model was loaded for it.
pub(super) fn can_be_asked(snapshot: &Snapshot) -> bool {
    snapshot.serving.is_some() || snapshot.status.state == ModelState::Unloaded
}
