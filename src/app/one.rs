//! One model for this process alone: loaded as the server would load it, with a single row and no listener.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{default_target, defaults, start_runtime, store_of, trial};
use crate::config::Settings;
use crate::metrics::Metrics;
use crate::model::source::Progress;
use crate::model::store::Prepared;
use crate::model::{Defaults, Desired, HugePages, LoadedModel, Pinned, Registry, Target, Workshop};
use crate::models_file;
use crate::telemetry::Traces;

/// A model that answers this process.
pub struct OneModel {
    model: Arc<LoadedModel>,
    /// Nobody prunes them while they are used.
    _files: Prepared,
}

impl OneModel {
    /// A hold on the model, for one request.
    pub fn pin(&self) -> Pinned {
        Pinned::new(Arc::clone(&self.model))
    }

    /// Ends the engine, whose thread is using the library, before the process does. Waits for `patience` at most.
    pub async fn end(self, patience: Duration) {
        let engine = self.model.engine.clone();
        let ended = tokio::task::spawn_blocking(move || engine.stop());
        if tokio::time::timeout(patience, ended).await.is_err() {
            tracing::error!("the engine is stuck in a step: ending without it");
        }
    }
}

/// Loads the model that the settings name; of a list, the one that has the name `wanted`, or the only one.
///
/// # Errors
/// There is no such model, or it does not load.
pub async fn load_one(
    settings: &Settings,
    wanted: Option<&str>,
    progress: &Progress,
) -> anyhow::Result<OneModel> {
    let target = target(settings, wanted).await?;
    let from_environment = target.document.is_none().then_some(&target);
    let workshop = Workshop::new(
        store_of(settings, from_environment)?,
        start_runtime(&settings.engine)?,
        Arc::new(Registry::default()),
        (Arc::new(Metrics::new()), Traces::default()),
        (None, trial(settings)?),
    )?;
    let (model, files) = workshop.bring(&target, progress).await.map_err(|error| {
        let reason = error.reason();
        anyhow::Error::new(error).context(format!("the model {} does not load: {reason}", target.key))
    })?;
    Ok(OneModel { model, _files: files })
}

async fn target(settings: &Settings, wanted: Option<&str>) -> anyhow::Result<Target> {
    let defaults = defaults(settings);
    let mut target = if let Some(path) = &settings.model.models_file {
        let list = models_file::read_list(path, &defaults).await;
        let list = list.with_context(|| format!("the list of models {} does not hold", path.display()))?;
        chosen(&list, wanted)?.clone()
    } else if settings.cluster.is_used() {
        bail!(
            "the models of a cluster are not loaded by hand: unset INFERENCE_GATEWAY_NAME and INFERENCE_MODELS_CONFIG_MAP, and \
             name a model with --default-model-path"
        );
    } else {
        environment(settings, &defaults, wanted)?
    };
    // One request, and no other that could use what is kept of it.
    target.load.rows = 1;
    target.load.huge_pages = HugePages::Never;
    target.load.memory.prefix_bytes = Some(0);
    target.live.concurrent = 1;
    Ok(target)
}

fn environment(settings: &Settings, defaults: &Defaults, wanted: Option<&str>) -> anyhow::Result<Target> {
    let target = default_target(settings, defaults)?;
    match wanted {
        Some(name) if name != target.key.as_str() => {
            bail!("there is no model {name}: the settings name {}", target.key)
        }
        _ => Ok(target),
    }
}

/// The model of a list that has this name, or the only one.
fn chosen<'a>(list: &'a Desired, wanted: Option<&str>) -> anyhow::Result<&'a Target> {
    let is_wanted = |target: &Target| match wanted {
        Some(wanted) => target.names.iter().any(|name| name.as_str() == wanted),
        None => list.len() == 1,
    };
    if let Some(target) = list.values().find(|target| is_wanted(target)) {
        return Ok(target);
    }
    let names: Vec<_> = list.values().map(|target| target.served_name().as_str()).collect();
    match (wanted, names.as_slice()) {
        (_, []) => bail!("the list has no models"),
        (Some(wanted), names) => bail!("there is no model {wanted}: the list has {}", names.join(", ")),
        (None, names) => bail!("say which model with --model: the list has {}", names.join(", ")),
    }
}
