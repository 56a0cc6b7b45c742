//! What is known of the objects of one kind: a whole set, replaced or changed by events, never guessed at.
//!
//! Nothing is known until a whole list was read. A watch that breaks leaves what was known: objects are gone only when a
//! list does not have them or an event says so. Errors are counted, told in the log once a minute, and backed off from.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// A watch is begun anew after so many seconds: a connection that died in silence is noticed five seconds later.
const WATCH_SECONDS: u32 = 60;
/// The same error is told again after this.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// Pause after the first error; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// An apiserver that comes back is heard of soon, and one that struggles gets few requests from each of us.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// All objects of a kind by name; `None` before the first whole list.
pub(super) type Known<K> = Option<BTreeMap<String, Arc<K>>>;

/// A watch of the objects of one kind.
pub(super) struct Watch<K> {
    pub(super) api: Api<K>,
    /// Which of them; empty: all.
    pub(super) fields: String,
    /// Labels that they have; empty: any.
    pub(super) labels: String,
    /// Name of the kind in metrics and logs.
    pub(super) resource: &'static str,
    pub(super) metrics: Arc<Metrics>,
}

/// The pauses between attempts, spread by half, so that the pods of a cluster do not ask at once.
#[derive(Default)]
struct Pauses {
    failures: u32,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = (FIRST_PAUSE * 2u32.saturating_pow(self.failures.min(10))).min(LONGEST_PAUSE);
        self.failures += 1;
        Some(pause.mul_f64(rand::random_range(0.5..=1.0)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

impl<K> Watch<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Clone,
{
    /// Watches for ever; `told` hears every change, and `trouble` what stands in the way, `None` when all is well.
    pub(super) async fn follow(
        self,
        known: watch::Sender<Known<K>>,
        trouble: impl Fn(Option<String>),
    ) -> std::convert::Infallible {
        let Self { api, fields, labels, resource, metrics } = self;
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        if !fields.is_empty() {
            config = config.fields(&fields);
        }
        if !labels.is_empty() {
            config = config.labels(&labels);
        }
        metrics.watch_healthy(resource, false);
        let mut events = Box::pin(watcher(api, config).backoff(Pauses::default()));
        let mut list = BTreeMap::new();
        let mut told: Option<(String, Instant)> = None;
        loop {
            // The stream of a watcher has no end.
            let Some(event) = events.next().await else {
                std::future::pending::<()>().await;
                continue;
            };
            match event {
                Ok(event) => {
                    // A list that begins proves nothing yet.
                    if !matches!(event, Event::Init) {
                        metrics.watch_healthy(resource, true);
                        if told.take().is_some() {
                            tracing::info!(resource, "watching again");
                        }
                        trouble(None);
                    }
                    apply(event, &mut list, &known);
                }
                Err(error) => {
                    let message = error.to_string();
                    metrics.watch_healthy(resource, false);
                    metrics.watch_error(resource, code_of(&error));
                    let news = told
                        .as_ref()
                        .is_none_or(|(known, at)| *known != message || at.elapsed() >= TOLD_EVERY);
                    if news {
                        tracing::warn!(
                            resource,
                            error = message,
                            "failed to watch; what is known stays in force"
                        );
                        told = Some((message.clone(), Instant::now()));
                    }
                    trouble(Some(format!("failed to watch {resource}: {message}")));
                }
            }
        }
    }
}

fn apply<K: ResourceExt>(
    event: Event<K>,
    list: &mut BTreeMap<String, Arc<K>>,
    known: &watch::Sender<Known<K>>,
) {
    match event {
        Event::Init => list.clear(),
        Event::InitApply(object) => {
            list.insert(object.name_any(), Arc::new(object));
        }
        Event::InitDone => {
            known.send_replace(Some(std::mem::take(list)));
        }
        Event::Apply(object) => known.send_modify(|all| {
            all.get_or_insert_default().insert(object.name_any(), Arc::new(object));
        }),
        Event::Delete(object) => known.send_modify(|all| {
            let all = all.get_or_insert_default();
            // A later object of the same name may be known already.
            if all.get(&object.name_any()).is_some_and(|one| one.uid() == object.uid()) {
                all.remove(&object.name_any());
            }
        }),
    }
}

/// The status code of the apiserver's answer, if it gave one.
fn code_of(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        },
        watcher::Error::WatchError(status) => Some(status.code),
        watcher::Error::NoResourceVersion => None,
    }
}
