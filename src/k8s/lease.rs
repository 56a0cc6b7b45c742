//! Who leads: a lease of the cluster, held by one controller at a time.
//!
//! Time is measured here and never compared with another machine's: a lease is taken over when it was not seen to change for as
//! long as it lasts. Every write carries the version that was read, so that of two candidates one wins. A leader that could
//! not renew stops leading well before another one may begin: retry (2 s) < deadline (10 s) < duration (15 s).
//!
//! From: the behaviour of client-go's leader election.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use tokio::sync::watch;

use super::clock::time_of_day;
use crate::failpoint;
use crate::metrics::Metrics;

/// Seconds that a lease lasts without being renewed.
const DURATION_SECONDS: i32 = 15;
/// A leader that has not renewed for so long does not lead any more.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const RETRY: Duration = Duration::from_secs(2);
/// Longest time for a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The same trouble is told again after this.
const TOLD_EVERY: Duration = Duration::from_mins(1);
/// A leader that has not renewed for so long and does not know it is stuck.
const STUCK: Duration = Duration::from_secs(DURATION_SECONDS as u64 + 20);

/// Whether this process leads, for everybody who acts.
#[derive(Clone, Default)]
pub(super) struct Leadership(Arc<Mutex<Option<Instant>>>);

impl Leadership {
    /// Whether a write may be made now.
    pub(super) fn is_valid(&self) -> bool {
        self.renewed().is_some_and(|at| at.elapsed() < RENEW_DEADLINE)
    }

    /// Whether this process believes that it leads and has not renewed for far too long.
    pub(super) fn is_stuck(&self) -> bool {
        self.renewed().is_some_and(|at| at.elapsed() >= STUCK)
    }

    fn renewed(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, renewed: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
    }
}

/// A candidate for a lease.
pub(super) struct Candidate {
    pub(super) api: Api<Lease>,
    /// Name of the lease, which somebody else has made.
    pub(super) name: String,
    /// Who this is, different for every process.
    pub(super) identity: String,
    pub(super) leadership: Leadership,
    pub(super) metrics: Arc<Metrics>,
}

/// What was seen of the lease: its version, and when that was new.
struct Observed {
    version: String,
    at: Instant,
    /// As this process wrote it last: what is renewed without being read again, so that an apiserver that takes seconds for an
    /// answer takes them once.
    ours: Option<Lease>,
}

#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("the apiserver did not answer in time")]
    Timeout,
    #[error(transparent)]
    Api(#[from] kube::Error),
}

impl Candidate {
    /// Tries to lead, and goes on leading, until `stop`; then lets the lease go. `leading` is told of every change.
    pub(super) async fn run(self, leading: watch::Sender<bool>, stop: impl Future<Output = ()>) {
        let mut observed = None;
        let mut told: Option<(String, Instant)> = None;
        let campaign = async {
            loop {
                let began = Instant::now();
                match self.look(&mut observed).await {
                    Ok(true) => {
                        // It may have run out since the last look: who waits for it to be ours again hears of both.
                        self.tell(&leading);
                        self.leadership.set(Some(began));
                    }
                    Ok(false) => self.leadership.set(None),
                    Err(error) => {
                        let message = error.to_string();
                        let news = told
                            .as_ref()
                            .is_none_or(|(known, at)| *known != message || at.elapsed() >= TOLD_EVERY);
                        if news {
                            tracing::warn!(
                                lease = self.name,
                                error = message,
                                "failed to read or renew the lease"
                            );
                            told = Some((message, Instant::now()));
                        }
                        if !self.leadership.is_valid() {
                            self.leadership.set(None);
                        }
                    }
                }
                self.tell(&leading);
                // Spread, so that candidates do not ask at once.
                tokio::time::sleep(RETRY.mul_f64(rand::random_range(0.8..1.2))).await;
            }
        };
        tokio::select! {
            () = campaign => {}
            () = stop => {}
        }
        let led = self.leadership.is_valid();
        self.leadership.set(None);
        self.tell(&leading);
        if led && let Err(error) = self.release().await {
            tracing::warn!(lease = self.name, %error, "failed to let the lease go: it runs out by itself");
        }
    }

    fn tell(&self, leading: &watch::Sender<bool>) {
        let now = self.leadership.is_valid();
        self.metrics.leading(now);
        leading.send_if_modified(|known| {
            let changed = *known != now;
            if changed {
                tracing::info!(
                    lease = self.name,
                    identity = self.identity,
                    leading = now,
                    "leadership changed"
                );
            }
            *known = now;
            changed
        });
    }

    /// Renews the lease, or reads it and takes it where that may be done; whether it is ours afterwards.
    async fn look(&self, observed: &mut Option<Observed>) -> Result<bool, LeaseError> {
        // Where the outcome of a write is not known, the next look reads.
        let ours = observed.as_mut().and_then(|known| known.ours.take());
        if let Some(lease) = ours
            && self.hold(lease, observed).await?
        {
            return Ok(true);
        }
        let lease = within(self.api.get(&self.name)).await?;
        let version = lease.resource_version().unwrap_or_default();
        if observed.as_ref().is_none_or(|known| known.version != version) {
            *observed = Some(Observed { version, at: Instant::now(), ours: None });
        }
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let lasts =
            Duration::from_secs(spec.lease_duration_seconds.unwrap_or(DURATION_SECONDS).max(1) as u64);
        let unchanged = observed.as_ref().map_or(Duration::ZERO, |known| known.at.elapsed());
        if holder != self.identity && !holder.is_empty() && unchanged < lasts {
            return Ok(false);
        }
        self.hold(lease, observed).await
    }

    /// Writes that this process holds the lease; false when somebody else has written meanwhile.
    async fn hold(&self, mut lease: Lease, observed: &mut Option<Observed>) -> Result<bool, LeaseError> {
        failpoint::at("on-lease-renew");
        let now = MicroTime(time_of_day());
        let held = lease.spec.get_or_insert_default();
        if held.holder_identity.as_ref() != Some(&self.identity) {
            held.acquire_time = Some(now.clone());
            held.lease_transitions = Some(held.lease_transitions.unwrap_or_default() + 1);
        }
        held.holder_identity = Some(self.identity.clone());
        held.lease_duration_seconds = Some(DURATION_SECONDS);
        held.renew_time = Some(now);
        match within(self.api.replace(&self.name, &PostParams::default(), &lease)).await {
            Ok(written) => {
                let version = written.resource_version().unwrap_or_default();
                *observed = Some(Observed { version, at: Instant::now(), ours: Some(written) });
                Ok(true)
            }
            // Somebody else was faster.
            Err(LeaseError::Api(kube::Error::Api(answer))) if answer.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets others have it at once.
    async fn release(&self) -> Result<(), LeaseError> {
        let mut lease = within(self.api.get(&self.name)).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            within(self.api.replace(&self.name, &PostParams::default(), &lease)).await?;
        }
        Ok(())
    }
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, LeaseError> {
    Ok(tokio::time::timeout(REQUEST_TIMEOUT, request).await.map_err(|_elapsed| LeaseError::Timeout)??)
}
