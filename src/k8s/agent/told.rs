//! What was told of the replicas of this pod, what is being written, and when a write that failed is tried again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::k8s::crd::ReplicaStatus;

/// Writes that are under way at once: an apiserver that is slow gets few requests, and a hundred replicas are still told of.
const WRITES_AT_ONCE: usize = 8;
/// Pause after a write that failed; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The apiserver's operators see one write a replica and half minute from a cluster that refuses them all.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Writes that fail are told of again after this.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// What was told, by the UID of the replica.
#[derive(Default)]
pub(super) struct Ledger {
    replicas: BTreeMap<String, Told>,
    /// When it was told last that writes fail.
    complained: Option<Instant>,
}

/// What was told of a replica.
#[derive(Default)]
struct Told {
    status: Option<(ReplicaStatus, Instant)>,
    /// When a write that failed is tried again, and the pause after that.
    again: Option<(Instant, Duration)>,
    under_way: bool,
}

impl Told {
    /// Whether `now` is to be written, where `there` was read.
    fn differs(&self, now: &ReplicaStatus, there: &ReplicaStatus) -> bool {
        match &self.status {
            None => now != there,
            Some((told, _)) if told != now => true,
            // What was just written is on its way back to us; what is still not there later was changed by somebody.
            Some((_, at)) => now != there && at.elapsed() >= LONGEST_PAUSE,
        }
    }
}

impl Ledger {
    /// Forgets replicas that are gone.
    pub(super) fn keep(&mut self, stays: impl Fn(&str) -> bool) {
        self.replicas.retain(|uid, told| told.under_way || stays(uid));
    }

    /// Whether `now` is to be written at once, where `there` was read; then the write is taken to be under way.
    pub(super) fn begin(&mut self, uid: &str, now: &ReplicaStatus, there: &ReplicaStatus) -> bool {
        if self.replicas.values().filter(|told| told.under_way).count() >= WRITES_AT_ONCE {
            return false;
        }
        let told = self.replicas.entry(uid.to_owned()).or_default();
        let waits = told.under_way || told.again.is_some_and(|(at, _)| at > Instant::now());
        let begins = !waits && told.differs(now, there);
        told.under_way |= begins;
        begins
    }

    /// Takes in how a write has ended.
    pub(super) fn end(&mut self, uid: &str, status: ReplicaStatus, outcome: Result<(), String>) {
        let told = self.replicas.entry(uid.to_owned()).or_default();
        told.under_way = false;
        match outcome {
            Ok(()) => {
                (told.status, told.again) = (Some((status, Instant::now())), None);
                if self.replicas.values().all(|told| told.again.is_none()) && self.complained.take().is_some()
                {
                    tracing::info!("the status of every replica is written again");
                }
            }
            Err(error) => {
                let pause = told.again.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
                told.again = Some((Instant::now() + pause, pause));
                if self.complained.is_none_or(|at| at.elapsed() >= TOLD_EVERY) {
                    self.complained = Some(Instant::now());
                    let failing = self.replicas.values().filter(|told| told.again.is_some()).count();
                    tracing::warn!(
                        replicas = failing,
                        error,
                        "failed to write the status of replicas; it is tried again"
                    );
                }
            }
        }
    }
}
