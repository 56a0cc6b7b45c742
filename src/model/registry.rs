//! The models that are served, behind atomic pointers: requests read them without a lock, readiness follows them.
//!
//! One slot a model, for as long as it is desired. The slot's pointer is what a swap moves; its status is what probes and
//! the admin page tell. Who holds a model keeps it ([`Pinned`]); the slot only remembers who is still going.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::manifest::Digest;
use super::slot::{Slot, Status};
use super::{LoadedModel, ModelName, ModelState, Pinned, Purpose, RunningStep, Target};

/// One model as the admin page shows it.
pub struct Snapshot {
    /// What the model is called among the models of this gateway.
    pub key: ModelName,
    /// What requests call it.
    pub names: Vec<ModelName>,
    /// Its status.
    pub status: Status,
    /// What answers now.
    pub serving: Option<Serving>,
    /// What served before and is still held by requests, or kept to go back to.
    pub going: Vec<Serving>,
}

/// A loaded revision as the admin page shows it.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Hash of its spec.
    pub revision: String,
    /// Of the manifest of its files, when it is known.
    pub digest: Option<Digest>,
    /// Memory that loading it took, in bytes.
    pub memory_bytes: u64,
    /// Requests that hold it.
    pub in_flight: usize,
    /// What its engine has to do.
    pub load: Load,
}

/// What an engine has to do, in generations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// In a row of the batch.
    pub running: usize,
    /// Waiting for one.
    pub waiting: usize,
    /// That may run at once.
    pub rows: usize,
    /// That may wait.
    pub queue_limit: usize,
}

impl Load {
    fn of(model: &LoadedModel) -> Self {
        let (running, waiting) = model.metrics.running_and_waiting();
        let live = model.live();
        Self { running, waiting, rows: live.concurrent, queue_limit: live.queue }
    }
}

#[derive(Default, Clone)]
struct Models {
    /// By key, with the names of each.
    slots: BTreeMap<ModelName, (Arc<Slot>, Vec<ModelName>)>,
    /// By every name that requests may use.
    names: BTreeMap<ModelName, Arc<Slot>>,
}

/// Why a request gets no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Nothing is served under this name.
    #[error("there is no model `{name}`{}", served(models))]
    Unknown {
        /// As the request wrote it.
        name: String,
        /// What is served.
        models: Vec<ModelName>,
    },
    /// The request names no model and there are several, or none.
    #[error("the request names no model{}", served(models))]
    Unnamed {
        /// What is served.
        models: Vec<ModelName>,
    },
    /// Nobody knows yet what is served here.
    #[error("it is not known yet which models to serve")]
    NotKnown,
    /// The model cannot answer now.
    #[error("the model `{name}` is not ready: {state}{}", if message.is_empty() { String::new() } else { format!(" ({message})") })]
    NotReady {
        /// Its key.
        name: ModelName,
        /// The state's word.
        state: &'static str,
        /// Why.
        message: String,
    },
    /// Too many requests wait for the model to be loaded.
    #[error("{waiting} requests wait for the model `{name}` to be loaded")]
    Overloaded {
        /// Its key.
        name: ModelName,
        /// Requests that wait.
        waiting: usize,
    },
}

fn served(models: &[ModelName]) -> String {
    match models {
        [] => "; no models are served".to_owned(),
        [one] => format!("; `{one}` is served"),
        several => {
            let list: Vec<&str> = several.iter().map(ModelName::as_str).collect();
            format!("; served are {}", list.join(", "))
        }
    }
}

/// All models of the process.
#[derive(Default)]
pub struct Registry {
    models: ArcSwap<Models>,
    /// Whether it is known what is desired.
    synced: AtomicBool,
    /// What stands in the way of knowing it.
    unknown_because: ArcSwapOption<String>,
}

impl Registry {
    /// The model of a request, held for the request's whole life; without a name, the only one. Waits, for `patience` at
    /// most, for a model that is on its way because it was asked for.
    ///
    /// # Errors
    /// No such model, or it cannot answer now.
    pub async fn pin(&self, name: Option<&str>, patience: Duration) -> Result<Pinned, Unavailable> {
        let slot = self.find(name)?;
        if let Some(model) = slot.serving.load_full() {
            return Ok(Pinned::new(model));
        }
        slot.wait(patience).await
    }

    fn find(&self, name: Option<&str>) -> Result<Arc<Slot>, Unavailable> {
        let models = self.models.load();
        if models.slots.is_empty() && !self.is_synced() {
            return Err(Unavailable::NotKnown);
        }
        let served = || models.slots.values().filter_map(|(_, names)| names.first().cloned()).collect();
        match name {
            Some(wanted) => {
                let found = models.names.iter().find(|(name, _)| name.as_str() == wanted);
                found
                    .map(|(_, slot)| Arc::clone(slot))
                    .ok_or_else(|| Unavailable::Unknown { name: wanted.to_owned(), models: served() })
            }
            None if models.slots.len() == 1 => {
                let (slot, _) = models.slots.values().next().expect("there is one");
                Ok(Arc::clone(slot))
            }
            None => Err(Unavailable::Unnamed { models: served() }),
        }
    }

    /// Makes a model known, or known by other names; returns its slot.
    pub(super) fn set(&self, target: &Target) -> Arc<Slot> {
        let Target { key, names, revision, purpose, .. } = target;
        let known = self.models.load().slots.get(key).map(|(slot, _)| Arc::clone(slot));
        let from_the_start = *purpose == Purpose::Needed && !self.synced.load(Ordering::Acquire);
        let slot = known.unwrap_or_else(|| Slot::new(key.clone(), revision, from_the_start));
        self.models.rcu(|models| {
            let mut models = Models::clone(models);
            models.names.retain(|_, other| other.key != *key);
            models.names.extend(names.iter().map(|name| (name.clone(), Arc::clone(&slot))));
            models.slots.insert(key.clone(), (Arc::clone(&slot), names.clone()));
            models
        });
        slot
    }

    /// Takes a model out of service: requests that have it keep it, new ones do not find it.
    pub(super) fn remove(&self, key: &ModelName) {
        self.models.rcu(|models| {
            let mut models = Models::clone(models);
            models.slots.remove(key);
            models.names.retain(|_, slot| slot.key != *key);
            models
        });
    }

    /// Tells that what is desired is known: a model that comes later never makes the process unready.
    pub(super) fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    /// Tells what stands in the way of knowing what is desired; `None`: nothing.
    pub fn set_unknown_because(&self, why: Option<String>) {
        self.unknown_because.store(why.map(Arc::new));
    }

    /// What stands in the way of knowing what is desired, now or what has changed.
    pub fn unknown_because(&self) -> Option<Arc<String>> {
        self.unknown_because.load_full()
    }

    /// Whether it is known what is desired.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Takes every model out of service, and returns everything that is loaded.
    pub fn clear(&self) -> Vec<Arc<LoadedModel>> {
        let before = self.models.swap(Arc::default());
        let slots = before.slots.values();
        slots.flat_map(|(slot, _)| slot.serving.swap(None).into_iter().chain(slot.going())).collect()
    }

    /// Every model with all that is known of it.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let models = self.models.load();
        let snapshot = |(slot, names): &(Arc<Slot>, Vec<ModelName>)| {
            let serving = slot.serving.load_full();
            let of = |model: &Arc<LoadedModel>| Serving {
                revision: model.revision.clone(),
                digest: model.digest.clone(),
                memory_bytes: model.memory_bytes,
                in_flight: model.in_flight(),
                load: Load::of(model),
            };
            let others = slot.going();
            let others =
                others.iter().filter(|model| serving.as_ref().is_none_or(|now| !Arc::ptr_eq(now, model)));
            Snapshot {
                key: slot.key.clone(),
                names: names.clone(),
                status: slot.status().clone(),
                going: others.map(of).collect(),
                serving: serving.as_ref().map(of),
            }
        };
        models.slots.values().map(snapshot).collect()
    }

    /// Whether the process may say that it is ready, as far as models go: it is known what is desired, and everything that
    /// was desired at the start answers, can answer on demand, or has failed for good while something else answers; and none
    /// makes room for its next revision while other pods serve it.
    pub fn is_ready(&self, stuck: impl Fn(&ModelName) -> bool) -> bool {
        let models = self.models.load();
        let states: Vec<(bool, bool, bool)> = models
            .slots
            .values()
            .map(|(slot, _)| {
                let state = slot.status().state;
                let answers = slot.serving.load().is_some() && !stuck(&slot.key);
                let can_answer = answers || state == ModelState::Unloaded;
                let settled = can_answer || state == ModelState::Failed || !slot.from_the_start;
                let settled = settled && !slot.is_leaving();
                (can_answer, settled, slot.from_the_start)
            })
            .collect();
        let none_needed = states.iter().all(|(_, _, from_the_start)| !from_the_start);
        self.is_synced()
            && states.iter().all(|(_, settled, _)| *settled)
            && (none_needed || states.iter().any(|(can_answer, _, _)| *can_answer))
    }

    /// Models whose engine has been in one step for longer than `bound`.
    pub fn stuck(&self, bound: Duration) -> Vec<(ModelName, RunningStep)> {
        let models = self.models.load();
        let running = models.slots.values().filter_map(|(slot, _)| {
            Some((slot.key.clone(), slot.serving.load().as_ref()?.engine.running_step()?))
        });
        running.filter(|(_, step)| step.age > bound).collect()
    }

    /// The slot of a key.
    pub(super) fn slot(&self, key: &ModelName) -> Option<Arc<Slot>> {
        self.models.load().slots.get(key).map(|(slot, _)| Arc::clone(slot))
    }

    /// All slots.
    pub(super) fn slots(&self) -> Vec<Arc<Slot>> {
        self.models.load().slots.values().map(|(slot, _)| Arc::clone(slot)).collect()
    }
}
