//! The list of models in a ConfigMap, watched through the cluster: the same list as in a file, for gateways without a controller.
//!
//! What does not hold changes nothing, and a ConfigMap that is gone is not a list without models. Each pod follows a change by
//! itself, a little later than the others, so that not all of them load at once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use tokio::sync::watch;

use super::watch::{Known, Trouble, Watch};
use crate::metrics::Metrics;
use crate::model::{Defaults, Desired, Registry, parse_documents};
use crate::shutdown::ReloadRequests;

/// The key that holds the list.
const KEY: &str = "models.yaml";

/// A ConfigMap and where its content goes.
pub struct ConfigMapModels {
    /// The cluster.
    pub client: Client,
    /// Where the ConfigMap is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// This pod, whose name says how much later than others it follows.
    pub pod: String,
    /// The longest time that a change is followed later.
    pub spread: Duration,
    /// What documents may leave open.
    pub defaults: Defaults,
    /// Where readings are counted.
    pub metrics: Arc<Metrics>,
    /// What readiness shows.
    pub registry: Arc<Registry>,
    /// What is desired.
    pub desired: watch::Sender<Option<Desired>>,
    /// Hears how each reading went.
    pub told: Box<dyn Fn(Result<(), String>) + Send + Sync>,
}

/// What is wrong: each part is mended by itself.
#[derive(Default)]
struct Problems(Mutex<Found>);

#[derive(Default)]
struct Found {
    watch: Option<String>,
    list: Option<String>,
}

impl Problems {
    /// Changes what is wrong, and gives what to tell.
    fn set(&self, change: impl FnOnce(&mut Found)) -> Option<String> {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut found);
        found.watch.clone().or_else(|| found.list.clone())
    }
}

impl ConfigMapModels {
    /// Follows the ConfigMap for as long as the process serves; a request to reload is followed at once.
    pub async fn follow(self, reloads: ReloadRequests) -> std::convert::Infallible {
        let (maps, known) = watch::channel(None);
        let watch = Watch {
            api: Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace),
            // The only watch that a role for one name allows.
            fields: format!("metadata.name={}", self.name),
            labels: String::new(),
            resource: "configmaps",
            metrics: Arc::clone(&self.metrics),
        };
        let problems = Problems::default();
        let trouble = |trouble: Option<Trouble>| {
            let problem = problems.set(|problems| problems.watch = trouble.map(|trouble| trouble.message));
            self.registry.set_unknown_because(problem);
        };
        tokio::select! {
            never = watch.follow(maps, trouble) => never,
            never = self.apply_changes((known, &problems), reloads) => never,
        }
    }

    async fn apply_changes(
        &self,
        (mut maps, problems): (watch::Receiver<Known<ConfigMap>>, &Problems),
        mut reloads: ReloadRequests,
    ) -> std::convert::Infallible {
        let mut seen: Option<Result<Vec<u8>, String>> = None;
        loop {
            let now = maps
                .borrow_and_update()
                .as_ref()
                .map(|all| self.content(all.get(&self.name).map(AsRef::as_ref)));
            let asked = match now {
                Some(now) if seen.as_ref() != Some(&now) => {
                    // The first list is followed at once: nothing serves yet.
                    let asked = if seen.is_some() && self.registry.is_synced() {
                        self.wait_for_turn(&mut reloads).await
                    } else {
                        false
                    };
                    // It may have changed again meanwhile.
                    let newest = maps
                        .borrow_and_update()
                        .as_ref()
                        .map_or(now, |all| self.content(all.get(&self.name).map(AsRef::as_ref)));
                    self.apply(&newest, problems);
                    seen = Some(newest);
                    asked
                }
                _ => false,
            };
            if !asked {
                tokio::select! {
                    // The sender lives as long as the watch.
                    _ = maps.changed() => {}
                    () = reloads.asked() => {
                        if let Some(Ok(_)) = &seen {
                            tracing::info!(config_map = self.name, "nothing has changed since it was read last");
                        }
                    }
                }
            }
        }
    }

    /// Waits as long as this pod follows later than the first; true when somebody asked to go on at once.
    async fn wait_for_turn(&self, reloads: &mut ReloadRequests) -> bool {
        let mut hasher = DefaultHasher::new();
        self.pod.hash(&mut hasher);
        let part = (hasher.finish() % 1000) as f64 / 1000.0;
        let wait = self.spread.mul_f64(part);
        tracing::info!(
            config_map = self.name,
            wait_ms = wait.as_millis() as u64,
            "the list of models has changed"
        );
        tokio::select! {
            () = tokio::time::sleep(wait) => false,
            () = reloads.asked() => true,
        }
    }

    fn content(&self, map: Option<&ConfigMap>) -> Result<Vec<u8>, String> {
        let map = map.ok_or_else(|| format!("there is no ConfigMap {} in {}", self.name, self.namespace))?;
        let text = map.data.as_ref().and_then(|data| data.get(KEY)).map(|text| text.as_bytes().to_vec());
        let bytes = map.binary_data.as_ref().and_then(|data| data.get(KEY)).map(|bytes| bytes.0.clone());
        text.or(bytes).ok_or_else(|| format!("the ConfigMap {} has no key {KEY}", self.name))
    }

    fn apply(&self, content: &Result<Vec<u8>, String>, problems: &Problems) {
        let parsed = content
            .clone()
            .and_then(|bytes| parse_documents(&bytes, &self.defaults).map_err(|error| error.to_string()));
        self.metrics.config_reloaded(parsed.is_ok());
        let problem = problems.set(|problems| problems.list = parsed.as_ref().err().cloned());
        self.registry.set_unknown_because(problem);
        match parsed {
            Ok(desired) => {
                tracing::info!(config_map = self.name, models = desired.len(), "list of models applied");
                self.desired.send_replace(Some(desired));
                (self.told)(Ok(()));
            }
            Err(error) => {
                tracing::error!(
                    config_map = self.name,
                    error,
                    "the list of models is refused; the last good one stays in force"
                );
                (self.told)(Err(error));
            }
        }
    }
}
