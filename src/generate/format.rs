//! Format → mask: compiled off the async threads, one at a time for each model.

use std::sync::Arc;
use std::time::Duration;

use super::{GenerateError, Input, Refused};
use crate::engine::{Mask, MaskError, TokenId};
use crate::model::LoadedModel;
use crate::text::constraint::{Constraint, Format, FormatError};

/// Time after which a format that does not get compiled is given up. The limits of [`crate::text::constraint`] end all that
/// we know of in a fraction of it.
const MOST_COMPILE_TIME: Duration = Duration::from_secs(10);

/// The mask of each output, those of an input behind each other: none where the input has no format.
///
/// # Errors
/// A format is none, or the model cannot follow any.
pub(super) async fn masks(
    model: &LoadedModel,
    inputs: &[Input],
) -> Result<Vec<Option<Box<dyn Mask>>>, Refused> {
    let mut masks = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        for _choice in 0..input.choices {
            masks.push(match &input.format {
                Some(format) => {
                    let mask = mask(model, format.clone(), !input.ignore_eos).await;
                    Some(mask.map_err(|error| Refused::at(index, error))?)
                }
                None => None,
            });
        }
    }
    Ok(masks)
}

/// The mask of one output; with `may_end` an end-of-text token may end it.
///
/// A hostile format takes one thread at most, whoever else sends one: those who wait are given up in time.
async fn mask(model: &LoadedModel, format: Format, may_end: bool) -> Result<Box<dyn Mask>, GenerateError> {
    let part = format.part();
    match tokio::time::timeout(MOST_COMPILE_TIME, compile(model, format, may_end)).await {
        Ok(compiled) => Ok(Box::new(FormatMask(compiled?))),
        Err(_elapsed) => {
            let message = format!("it was not compiled within {} seconds", MOST_COMPILE_TIME.as_secs());
            Err(FormatError { part, function: None, message }.into())
        }
    }
}

async fn compile(model: &LoadedModel, format: Format, may_end: bool) -> Result<Constraint, GenerateError> {
    let turn = Arc::clone(&model.compiling).acquire_owned().await;
    let turn = turn.map_err(|_closed| GenerateError::Interrupted)?;
    let grammars = Arc::clone(&model.grammars);
    let compiling = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        grammars.compile(&format, may_end)
    });
    Ok(compiling.await.map_err(|_panicked| GenerateError::Interrupted)??)
}

/// A constraint as the engine knows it.
struct FormatMask(Constraint);

impl Mask for FormatMask {
    fn allowed(&mut self) -> Result<&[u32], MaskError> {
        self.0.allowed().map_err(|error| MaskError(error.to_string()))
    }

    fn accept(&mut self, token: TokenId) -> Result<bool, MaskError> {
        self.0.accept(token).map_err(|error| MaskError(error.to_string()))
    }
}
