//! The objects as the plan sees them: plain values.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::k8s::crd::{ModelStatus, ReplicaBody, ReplicaPhase, ReplicaStatus, Slot};
use crate::model::spec::{IntOrPercent, OnFailure};

/// One `Model`.
#[derive(Debug, Clone)]
pub(in crate::k8s) struct ModelView {
    pub(in crate::k8s) name: String,
    pub(in crate::k8s) uid: String,
    pub(in crate::k8s) generation: i64,
    /// Value of the annotation that asks for another try.
    pub(in crate::k8s) retry: Option<String>,
    /// The controller that plans.
    pub(in crate::k8s) leader: String,
    /// What its spec asks for, or why that is not done.
    pub(in crate::k8s) wanted: Result<Wanted, Refused>,
    pub(in crate::k8s) status: ModelStatus,
}

/// What a spec asks for.
#[derive(Debug, Clone)]
pub(in crate::k8s) struct Wanted {
    pub(in crate::k8s) slot: Slot,
    pub(in crate::k8s) max_unavailable: IntOrPercent,
    /// Time that each pod is watched after it has swapped.
    pub(in crate::k8s) min_ready: Duration,
    /// Time without progress after which the rollout has failed.
    pub(in crate::k8s) progress_deadline: Duration,
    pub(in crate::k8s) on_failure: OnFailure,
    pub(in crate::k8s) paused: bool,
}

/// Why a spec is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::k8s) struct Refused {
    pub(in crate::k8s) reason: &'static str,
    pub(in crate::k8s) message: String,
}

/// One `ModelReplica` of the model's object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::k8s) struct ReplicaView {
    pub(in crate::k8s) body: ReplicaBody,
    pub(in crate::k8s) status: ReplicaStatus,
}

/// One pod of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::k8s) struct PodView {
    pub(in crate::k8s) name: String,
    pub(in crate::k8s) uid: String,
    pub(in crate::k8s) ready: bool,
    pub(in crate::k8s) ready_since: Option<Timestamp>,
    pub(in crate::k8s) terminating: bool,
}

/// A pod with its replica, if it has one.
pub(super) type Placed<'a> = (&'a PodView, Option<&'a ReplicaView>);

/// Everything that one plan looks at.
pub(super) struct Scene<'a> {
    pub(super) model: &'a ModelView,
    /// Pods that stay, by name, each with its replica.
    pub(super) live: Vec<Placed<'a>>,
    /// Replicas of pods that are not there any more.
    pub(super) orphans: Vec<&'a ReplicaView>,
    pub(super) now: Timestamp,
}

impl<'a> Scene<'a> {
    pub(super) fn new(
        model: &'a ModelView,
        replicas: &'a [ReplicaView],
        pods: &'a [PodView],
        now: Timestamp,
    ) -> Self {
        let of = |pod: &PodView| replicas.iter().find(|replica| replica.body.pod_name == pod.name);
        let mut live: Vec<_> = pods.iter().filter(|pod| !pod.terminating).map(|pod| (pod, of(pod))).collect();
        live.sort_by(|one, other| one.0.name.cmp(&other.0.name));
        let orphans = replicas
            .iter()
            .filter(|replica| !pods.iter().any(|pod| pod.name == replica.body.pod_name))
            .collect();
        Self { model, live, orphans, now }
    }

    /// Of pods that stay.
    pub(super) fn replicas(&self) -> impl Iterator<Item = &'a ReplicaView> {
        self.live.iter().filter_map(|(_, replica)| *replica)
    }

    /// Whether a pod serves a revision as assigned and is ready.
    pub(super) fn has_in_service((pod, replica): &Placed, revision: &str) -> bool {
        let as_assigned = |replica: &ReplicaView| replica.serves(revision) && replica.is_assigned(revision);
        pod.ready && replica.is_some_and(as_assigned)
    }

    /// Whether a pod has a revision in service and was watched for long enough, by its own clock.
    pub(super) fn has_soaked(&self, pod: &Placed, revision: &str) -> bool {
        let min_ready = self.model.wanted.as_ref().map(|wanted| wanted.min_ready).unwrap_or_default();
        let watched = pod.1.and_then(|replica| replica.status.watched_seconds);
        let long_enough = watched.is_some_and(|seconds| Duration::from_secs(seconds.into()) >= min_ready);
        Self::has_in_service(pod, revision) && long_enough
    }

    /// When the rollout has failed if nothing comes forward. The time in which pods are watched does not count.
    pub(super) fn deadline(status: &ModelStatus, wanted: &Wanted) -> Option<Timestamp> {
        let since: Timestamp = status.rollout.as_ref()?.last_progress_at.as_ref()?.parse().ok()?;
        let allowed = wanted.progress_deadline.checked_add(wanted.min_ready)?;
        since.checked_add(SignedDuration::try_from(allowed).ok()?).ok()
    }

    /// Whether nothing came forward for too long. Without pods nothing can.
    pub(super) fn is_late(&self, status: &ModelStatus, wanted: &Wanted) -> bool {
        !self.live.is_empty() && Self::deadline(status, wanted).is_some_and(|deadline| deadline < self.now)
    }
}

impl ModelView {
    /// What a pod is told of an attempt, so that a failure of an earlier one is not taken for one of this.
    pub(super) fn attempt(&self) -> String {
        match &self.retry {
            None => self.generation.to_string(),
            Some(retry) => format!("{}/{retry}", self.generation),
        }
    }
}

impl ReplicaView {
    pub(super) fn is_assigned(&self, revision: &str) -> bool {
        self.body.revision.as_deref() == Some(revision)
    }

    pub(super) fn serves(&self, revision: &str) -> bool {
        self.status.serving_revision.as_deref() == Some(revision)
    }

    pub(super) fn has_prepared(&self, revision: &str) -> bool {
        self.status.prepared_revisions.iter().any(|prepared| prepared == revision) || self.serves(revision)
    }

    /// Whether the pod has heard of the attempt that goes on now.
    pub(super) fn was_told(&self, model: &ModelView) -> bool {
        self.status.observed_epoch >= self.body.epoch && self.body.retry.as_ref() == Some(&model.attempt())
    }

    /// What a revision was made of that this pod has prepared. Before the pod has heard what it is asked for now, its status
    /// speaks of what it was asked for before, which it may have prepared as well.
    pub(super) fn digest_of(&self, revision: &str) -> Option<&str> {
        let asked = self.body.prefetch_revision.as_deref().or(self.body.revision.as_deref());
        let heard = self.status.observed_epoch >= self.body.epoch;
        let known = heard && asked == Some(revision) && self.has_prepared(revision);
        self.status.prepared_digest.as_deref().filter(|_| known)
    }

    /// Why a revision does not come into service here, passing or not.
    pub(super) fn failure_of(&self, revision: &str, digest: Option<&str>) -> Option<(String, String)> {
        if let (Some(expected), Some(found)) = (digest, self.digest_of(revision))
            && expected != found
        {
            let message = format!("the files are those of {found}, another pod has those of {expected}");
            return Some(("DigestMismatch".to_owned(), message));
        }
        let about = self.status.phase_revision.as_deref() == Some(revision);
        let reason = self.status.reason.clone().filter(|_| about)?;
        Some((reason, self.status.message.clone()))
    }

    pub(super) fn has_failed(&self) -> bool {
        self.status.phase == ReplicaPhase::Failed
    }

    /// Whether the pod is to serve a revision and does not try to any more.
    pub(super) fn has_given_up(&self, revision: &str) -> bool {
        self.is_assigned(revision) && self.has_failed() && self.failure_of(revision, None).is_some()
    }

    /// Whether the pod is assigned, or still serves, something else than `revision`.
    pub(super) fn is_elsewhere(&self, revision: Option<&str>) -> bool {
        let other = |one: &Option<String>| one.is_some() && one.as_deref() != revision;
        other(&self.body.revision) || other(&self.status.serving_revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_of_what_was_asked_before_is_not_taken_for_one_of_what_is_asked_now() {
        let asked = |prefetch: &str, epoch| ReplicaBody {
            revision: Some("b".to_owned()),
            prefetch_revision: Some(prefetch.to_owned()),
            epoch,
            ..ReplicaBody::default()
        };
        let status = ReplicaStatus {
            observed_epoch: 3,
            prepared_revisions: vec!["a".to_owned(), "b".to_owned()],
            prepared_digest: Some("of b".to_owned()),
            ..ReplicaStatus::default()
        };
        let heard = ReplicaView { body: asked("b", 3), status: status.clone() };
        assert_eq!(heard.digest_of("b"), Some("of b"));
        let not_heard = ReplicaView { body: asked("a", 4), status };
        assert_eq!(not_heard.digest_of("a"), None);
    }
}
