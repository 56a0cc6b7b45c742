//! What is known of the objects of one kind: a whole set, replaced or changed by events, never guessed at.
//!
//! ```text
//! list ─▶ known, version ─▶ watch from there ─▶ changes of what is known, a later version ─▶ watch from there, and so on
//!  ▲                            │
//!  └── the version is too old, or what was heard makes no sense
//! ```
//!
//! Nothing is known until a whole list was read. A watch that breaks leaves what was known: objects are gone only when a
//! list does not have them or an event says so. Errors are counted, told in the log once a minute, and backed off from. A
//! watch that ends before its time is begun again with a pause too, so that nothing makes this ask in a hurry.

mod told;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kube::api::{ListParams, WatchParams};
use kube::core::WatchEvent;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use self::told::Teller;
pub(super) use self::told::Trouble;
use crate::metrics::Metrics;

/// A watch is begun anew after so many seconds: a connection that died in silence is noticed [`GRACE`] later.
const WATCH_SECONDS: u32 = 45;
/// The apiserver ends a watch by itself; one that it has not ended by then is dead.
const GRACE: Duration = Duration::from_secs(5);
/// Longest time for the answer to a list, and for the beginning of the answer to a watch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Objects of one answer to a list.
const PAGE: u32 = 500;

/// Pause after the first error; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// An apiserver that comes back is heard of soon, and one that struggles gets few requests from each of us.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Longest pause after a watch that was ended early and in order: it brings news, a piece at a time.
const LONGEST_REST: Duration = Duration::from_secs(2);
/// A watch that was open for so long, and ended in order, proves that all is well.
const PROVEN: Duration = Duration::from_secs(10);
/// After so many watches in a row that came to nothing a list is read: the version may be worth nothing, or what is between us and
/// the apiserver lets no watch through.
const MOST_FRUITLESS: u32 = 5;

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

/// Why a list or a watch came to nothing.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("the apiserver did not answer in time")]
    Timeout,
    #[error("the watch has said nothing for too long")]
    Dead,
    #[error("an older change was told after a newer one")]
    Disorder,
    #[error("a list without a version")]
    NoVersion,
    #[error(transparent)]
    Api(#[from] kube::Error),
}

impl WatchError {
    /// The status code of the apiserver's answer, if it gave one.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Whether the version that a watch was to begin at, or what was heard since, may be worth nothing: only a list helps.
    fn asks_for_a_list(&self) -> bool {
        match self {
            Self::Timeout | Self::Dead => false,
            Self::Disorder | Self::NoVersion | Self::Api(kube::Error::SerdeError(_)) => true,
            Self::Api(_) => self.code().is_some_and(|code| code < 500 && code != 429),
        }
    }
}

/// The pauses between attempts, spread by half, so that the pods of a cluster do not ask at once.
#[derive(Default)]
struct Pauses {
    failures: u32,
}

impl Pauses {
    fn next(&mut self, longest: Duration) -> Duration {
        let pause = (FIRST_PAUSE * 2u32.saturating_pow(self.failures.min(10))).min(longest);
        self.failures += 1;
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }
}

impl<K> Watch<K>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    /// Watches for ever; `known` has what is known, and `trouble` hears what stands in the way, `None` when all is well, which
    /// is told after what was found.
    pub(super) async fn follow(
        self,
        known: watch::Sender<Known<K>>,
        trouble: impl Fn(Option<Trouble>),
    ) -> std::convert::Infallible {
        let mut teller = Teller::new(self.resource, Arc::clone(&self.metrics), trouble);
        let mut pauses = Pauses::default();
        // Where the next watch begins; `None`: with a list.
        let mut version: Option<String> = None;
        let mut fruitless = 0;
        loop {
            let Some(from) = &mut version else {
                match self.list(&known).await {
                    Ok(listed) => version = Some(listed),
                    Err(error) => {
                        teller.failed(&error);
                        tokio::time::sleep(pauses.next(LONGEST_PAUSE)).await;
                    }
                }
                continue;
            };
            let (began, before) = (Instant::now(), from.clone());
            let ended = self.watch(from, &known, || teller.well()).await;
            let proven = ended.is_ok() && began.elapsed() >= PROVEN;
            fruitless = if proven || *from != before { 0 } else { fruitless + 1 };
            let longest = match &ended {
                Ok(()) => LONGEST_REST,
                Err(error) => {
                    teller.failed(error);
                    LONGEST_PAUSE
                }
            };
            let is_worthless = ended.is_err_and(|error| error.asks_for_a_list());
            if is_worthless || fruitless >= MOST_FRUITLESS {
                (version, fruitless) = (None, 0);
            }
            if proven {
                pauses.failures = 0;
            } else {
                tokio::time::sleep(pauses.next(longest)).await;
            }
        }
    }

    /// Reads all objects; the version of the list.
    async fn list(&self, known: &watch::Sender<Known<K>>) -> Result<String, WatchError> {
        let mut asked = ListParams::default().limit(PAGE);
        (asked.field_selector, asked.label_selector) = (selector(&self.fields), selector(&self.labels));
        let mut all = BTreeMap::new();
        loop {
            let page = within(self.api.list(&asked)).await?;
            all.extend(page.items.into_iter().map(|object| (object.name_any(), Arc::new(object))));
            asked.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if asked.continue_token.is_none() {
                let version = page.metadata.resource_version.filter(|version| !version.is_empty());
                let version = version.ok_or(WatchError::NoVersion)?;
                known.send_replace(Some(all));
                return Ok(version);
            }
        }
    }

    /// Takes in what changes after a version, and keeps the version of what was heard last, until the apiserver ends the watch.
    async fn watch(
        &self,
        version: &mut String,
        known: &watch::Sender<Known<K>>,
        begun: impl FnOnce(),
    ) -> Result<(), WatchError> {
        let asked = WatchParams {
            field_selector: selector(&self.fields),
            label_selector: selector(&self.labels),
            ..WatchParams::default().timeout(WATCH_SECONDS)
        };
        let mut events = std::pin::pin!(within(self.api.watch(&asked, version)).await?);
        begun();
        let dead = tokio::time::sleep(Duration::from_secs(WATCH_SECONDS.into()) + GRACE);
        let mut dead = std::pin::pin!(dead);
        loop {
            let event = tokio::select! {
                // What has been told was told in time, however late it is read.
                biased;
                event = events.next() => event,
                () = &mut dead => return Err(WatchError::Dead),
            };
            match event {
                None => return Ok(()),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(WatchEvent::Error(status))) => return Err(kube::Error::Api(status).into()),
                Some(Ok(WatchEvent::Bookmark(mark))) => version.clone_from(&mark.metadata.resource_version),
                Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                    if is_news(&object, version)? {
                        known.send_modify(|all| {
                            all.get_or_insert_default().insert(object.name_any(), Arc::new(object));
                        });
                    }
                }
                Some(Ok(WatchEvent::Deleted(object))) => {
                    if is_news(&object, version)? {
                        known.send_modify(|all| forget(all.get_or_insert_default(), &object));
                    }
                }
            }
        }
    }
}

/// Whether a change was not heard of yet; then the version is its own.
///
/// Versions of a kind are numbers that grow. A change that is older than what was heard already comes from a watch that cannot be
/// relied on: what it says of this object, and what it may have left out, is asked for anew.
fn is_news<K: ResourceExt>(object: &K, version: &mut String) -> Result<bool, WatchError> {
    let told = object.resource_version().filter(|told| !told.is_empty()).ok_or(WatchError::NoVersion)?;
    if let (Ok(told), Ok(heard)) = (told.parse::<u64>(), version.parse::<u64>()) {
        if told < heard {
            return Err(WatchError::Disorder);
        }
        if told == heard {
            return Ok(false);
        }
    }
    *version = told;
    Ok(true)
}

/// A later object of the same name may be known already.
fn forget<K: ResourceExt>(all: &mut BTreeMap<String, Arc<K>>, object: &K) {
    if all.get(&object.name_any()).is_some_and(|one| one.uid() == object.uid()) {
        all.remove(&object.name_any());
    }
}

fn selector(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, WatchError> {
    Ok(tokio::time::timeout(ANSWER_TIMEOUT, request).await.map_err(|_elapsed| WatchError::Timeout)??)
}

#[cfg(test)]
mod tests;
