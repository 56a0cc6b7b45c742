//! The one way from a request to a model: whether its caller may use it, and which it is where none is named.
//!
//! A dialect that goes past it fails `architecture.rs`.

use super::Api;
use super::error::ApiError;
use crate::access::Caller;
use crate::model::{ModelName, Pinned, Unavailable};

impl Api {
    /// The model of a request, held for its whole life, if the caller may use it; without a name, the only one that they
    /// may use.
    pub(super) async fn pin(&self, caller: &Caller, name: Option<&str>) -> Result<Pinned, ApiError> {
        caller.must_have_tokens()?;
        let patience = self.limits.request_timeout;
        if caller.may_use_all() {
            return Ok(self.registry.pin(name, patience).await?);
        }
        match name {
            Some(name) => {
                caller.must_be_allowed(name).await?;
                match self.registry.pin(Some(name), patience).await {
                    // What else there is, is not told to everybody.
                    Err(Unavailable::Unknown { name, models: _ }) => {
                        Err(Unavailable::Unknown { name, models: self.models_of(caller).await? }.into())
                    }
                    other => Ok(other?),
                }
            }
            None => match self.models_of(caller).await?.as_slice() {
                [one] => Ok(self.registry.pin(Some(one.as_str()), patience).await?),
                [] if !self.registry.is_synced() => Err(Unavailable::NotKnown.into()),
                models => Err(Unavailable::Unnamed { models: models.to_vec() }.into()),
            },
        }
    }

    /// The models that a caller may use, each by the first name under which they may.
    pub(super) async fn models_of(&self, caller: &Caller) -> Result<Vec<ModelName>, ApiError> {
        let mut models = Vec::new();
        for snapshot in self.registry.snapshots() {
            for name in snapshot.names {
                if caller.may_use(name.as_str()).await? {
                    models.push(name);
                    break;
                }
            }
        }
        Ok(models)
    }
}
