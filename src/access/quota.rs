//! What a key may use: requests and tokens in a minute, requests at once.
//!
//! A bucket holds what a minute allows and fills evenly: a minute's worth may be used at once, and then it comes back bit by
//! bit. One gateway counts for itself: with several pods each lets in its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Denied;
use super::key_file::Limits;

/// Seconds in which a bucket fills.
const MINUTE: f64 = 60.0;

/// What is left of the limits of one key.
#[derive(Debug, Default)]
pub(super) struct Quota {
    limits: Limits,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    concurrent: Option<Arc<Semaphore>>,
}

/// A request of those that may run at once; given back on drop.
#[derive(Debug, Default)]
pub struct Permit(Option<OwnedSemaphorePermit>);

impl Permit {
    /// Whether it holds anything back.
    pub fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

#[derive(Debug)]
struct Bucket {
    per_minute: f64,
    level: Mutex<(f64, Instant)>,
}

impl Quota {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        let Limits { requests_per_minute, tokens_per_minute, concurrent_requests } = limits;
        let bucket = |limit: Option<u32>| limit.map(|per_minute| Bucket::full(per_minute, now));
        Self {
            limits,
            requests: bucket(requests_per_minute),
            tokens: bucket(tokens_per_minute),
            concurrent: concurrent_requests.map(|most| Arc::new(Semaphore::new(most as usize))),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes a request.
    pub(super) fn enter(&self, now: Instant) -> Result<Permit, Denied> {
        // First what costs nothing: a request that is refused is not counted.
        let permit = match &self.concurrent {
            None => None,
            Some(free) => Some(Arc::clone(free).try_acquire_owned().map_err(|_none| Denied::Concurrent {
                most: self.limits.concurrent_requests.unwrap_or_default() as usize,
            })?),
        };
        if let Some(requests) = &self.requests {
            requests.take(now).map_err(|retry_after| Denied::Requests { retry_after })?;
        }
        Ok(Permit(permit))
    }

    /// Whether a token is left; if not, when there is one.
    pub(super) fn check_tokens(&self, now: Instant) -> Result<(), Duration> {
        self.tokens.as_ref().map_or(Ok(()), |tokens| tokens.check(now))
    }

    /// Takes tokens, also more than are left.
    pub(super) fn charge(&self, tokens: usize, now: Instant) {
        if let Some(bucket) = &self.tokens {
            bucket.filled(now).0 -= tokens as f64;
        }
    }
}

impl Bucket {
    fn full(per_minute: u32, now: Instant) -> Self {
        Self { per_minute: per_minute.into(), level: Mutex::new((per_minute.into(), now)) }
    }

    /// The level at `now`.
    fn filled(&self, now: Instant) -> MutexGuard<'_, (f64, Instant)> {
        // The numbers are whole whatever happened to another holder.
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(level.1).as_secs_f64();
        *level = ((level.0 + passed * self.per_minute / MINUTE).min(self.per_minute), level.1.max(now));
        level
    }

    fn check(&self, now: Instant) -> Result<(), Duration> {
        let missing = 1.0 - self.filled(now).0;
        if missing <= 0.0 { Ok(()) } else { Err(Duration::from_secs_f64(missing * MINUTE / self.per_minute)) }
    }

    fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut level = self.filled(now);
        let missing = 1.0 - level.0;
        if missing > 0.0 {
            return Err(Duration::from_secs_f64(missing * MINUTE / self.per_minute));
        }
        level.0 -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn quota(limits: Limits) -> (Quota, Instant) {
        let now = Instant::now();
        (Quota::new(limits, now), now)
    }

    #[test]
    fn a_minutes_requests_may_come_at_once_and_come_back_evenly() {
        let (quota, now) = quota(Limits { requests_per_minute: Some(30), ..Limits::default() });
        for _ in 0..30 {
            quota.enter(now).unwrap();
        }
        let Err(Denied::Requests { retry_after }) = quota.enter(now) else { panic!("it is let in") };
        assert_eq!(retry_after, SECOND * 2);
        assert!(quota.enter(now + SECOND).is_err());
        quota.enter(now + SECOND * 2).unwrap();
        assert!(quota.enter(now + SECOND * 2).is_err(), "there was one");
        for _ in 0..30 {
            quota.enter(now + SECOND * 3600).unwrap();
        }
        assert!(quota.enter(now + SECOND * 3600).is_err(), "an hour fills no more than a minute");
    }

    #[test]
    fn tokens_may_be_overdrawn_once_and_the_debt_is_waited_off() {
        let (quota, now) = quota(Limits { tokens_per_minute: Some(60), ..Limits::default() });
        quota.check_tokens(now).unwrap();
        quota.charge(180, now);
        assert_eq!(quota.check_tokens(now).unwrap_err(), SECOND * 121);
        assert_eq!(quota.check_tokens(now + SECOND * 120).unwrap_err(), SECOND);
        quota.check_tokens(now + SECOND * 121).unwrap();
    }

    #[test]
    fn a_request_that_is_one_too_many_at_once_is_not_counted() {
        let limits =
            Limits { requests_per_minute: Some(3), concurrent_requests: Some(1), ..Limits::default() };
        let (quota, now) = quota(limits);
        let first = quota.enter(now).unwrap();
        assert!(first.is_held());
        assert_eq!(quota.enter(now).unwrap_err(), Denied::Concurrent { most: 1 });
        drop(first);
        drop(quota.enter(now).unwrap());
        drop(quota.enter(now).unwrap());
        assert!(matches!(quota.enter(now), Err(Denied::Requests { .. })));
    }

    #[test]
    fn without_limits_there_is_nothing_to_use_up() {
        let quota = Quota::default();
        quota.charge(usize::MAX, Instant::now());
        quota.check_tokens(Instant::now()).unwrap();
        assert!(!quota.enter(Instant::now()).unwrap().is_held());
    }

    #[test]
    fn a_clock_that_stands_still_or_seems_to_go_back_gives_nothing() {
        let (quota, now) = quota(Limits { requests_per_minute: Some(1), ..Limits::default() });
        quota.enter(now + SECOND * 10).unwrap();
        assert!(quota.enter(now).is_err());
        assert!(quota.enter(now + SECOND * 69).is_err());
        quota.enter(now + SECOND * 70).unwrap();
    }
}
