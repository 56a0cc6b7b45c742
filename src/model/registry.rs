//! The models that are served, behind one atomic pointer: requests read it without a lock, readiness follows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::source::Progress;
use super::{LoadedModel, ModelName, RunningStep};

/// Where a model is on its way into service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelState {
    /// Known, nothing done yet.
    Pending,
    /// Its files are being brought here.
    Fetching,
    /// Tokenizer and graph are being loaded.
    Loading,
    /// A first generation is being run.
    Warming,
    /// It answers.
    Ready,
    /// It does not answer; the reason says why, and whether it is tried again.
    Failed,
}

impl ModelState {
    /// The word in readiness and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Fetching => "fetching",
            Self::Loading => "loading",
            Self::Warming => "warming",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// What can be told about a model.
#[derive(Debug, Clone)]
pub struct Status {
    /// Hash of the spec as given.
    pub revision: String,
    /// Where it is.
    pub state: ModelState,
    /// Why, for a person; empty when there is nothing to explain.
    pub reason: String,
    /// How far a download is.
    pub progress: Option<Progress>,
}

#[derive(Clone)]
struct Entry {
    status: Status,
    loaded: Option<Arc<LoadedModel>>,
}

type Models = BTreeMap<ModelName, Entry>;

/// Why a request gets no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Nothing is served under this name.
    #[error("there is no model `{0}`")]
    Unknown(String),
    /// The model cannot answer now.
    #[error("the model `{name}` is not ready: {state}{}", if reason.is_empty() { String::new() } else { format!(" ({reason})") })]
    NotReady {
        /// The served name.
        name: ModelName,
        /// The state's word.
        state: &'static str,
        /// Why.
        reason: String,
    },
}

/// All models of the process.
#[derive(Default)]
pub struct Registry {
    models: ArcSwap<Models>,
}

impl Registry {
    /// Makes a model known.
    pub fn add(&self, name: &ModelName, revision: &str) {
        let entry = Entry {
            status: Status {
                revision: revision.to_owned(),
                state: ModelState::Pending,
                reason: String::new(),
                progress: None,
            },
            loaded: None,
        };
        self.models.rcu(|models| {
            let mut models = Models::clone(models);
            models.insert(name.clone(), entry.clone());
            models
        });
    }

    /// Tells where a model is; what is loaded stays.
    pub fn set_state(&self, name: &ModelName, state: ModelState, reason: &str, progress: Option<&Progress>) {
        self.update(name, |entry| {
            entry.status.state = state;
            reason.clone_into(&mut entry.status.reason);
            entry.status.progress = progress.cloned();
        });
    }

    /// Puts a model into service; returns what it replaces.
    pub fn publish(&self, model: &Arc<LoadedModel>) -> Option<Arc<LoadedModel>> {
        let before = self.update(&model.name, |entry| {
            entry.status = Status {
                revision: model.revision.clone(),
                state: ModelState::Ready,
                reason: String::new(),
                progress: None,
            };
            entry.loaded = Some(Arc::clone(model));
        });
        before.get(&model.name)?.loaded.clone()
    }

    /// Takes every model out of service, and returns those that were in it.
    pub fn clear(&self) -> Vec<Arc<LoadedModel>> {
        let before = self.models.swap(Arc::new(Models::new()));
        before.values().filter_map(|entry| entry.loaded.clone()).collect()
    }

    /// The model of a request; without a name, the only one.
    ///
    /// # Errors
    /// No such model, or it cannot answer now.
    pub fn get(&self, name: Option<&str>) -> Result<Arc<LoadedModel>, Unavailable> {
        let models = self.models.load();
        let found = match name {
            Some(wanted) => models.iter().find(|(name, _)| name.as_str() == wanted),
            None => models.iter().next().filter(|_| models.len() == 1),
        };
        let Some((name, entry)) = found else {
            return Err(Unavailable::Unknown(name.unwrap_or_default().to_owned()));
        };
        entry.loaded.clone().ok_or_else(|| Unavailable::NotReady {
            name: name.clone(),
            state: entry.status.state.label(),
            reason: entry.status.reason.clone(),
        })
    }

    /// Every model with its status and whether it answers.
    pub fn statuses(&self) -> Vec<(ModelName, Status, bool)> {
        let models = self.models.load();
        models
            .iter()
            .map(|(name, entry)| (name.clone(), entry.status.clone(), entry.loaded.is_some()))
            .collect()
    }

    /// Models whose engine has been in one step for longer than `bound`.
    pub fn stuck(&self, bound: Duration) -> Vec<(ModelName, RunningStep)> {
        let models = self.models.load();
        let running = models
            .iter()
            .filter_map(|(name, entry)| Some((name, entry.loaded.as_ref()?.engine.running_step()?)));
        running.filter(|(_, step)| step.age > bound).map(|(name, step)| (name.clone(), step)).collect()
    }

    fn update(&self, name: &ModelName, change: impl Fn(&mut Entry)) -> Arc<Models> {
        self.models.rcu(|models| {
            let mut models = Models::clone(models);
            if let Some(entry) = models.get_mut(name) {
                change(entry);
            }
            models
        })
    }
}
