//! Pods: what they do, what they remember of it when their processes die, and what they tell.

use super::*;
use crate::k8s::crd::ReplicaPhase;

/// For so long after its swap the death of a pod's process is taken for the fault of the revision.
const WATCHED_SECONDS: i64 = 1000;

/// Whether one death convicts a revision, given the stable one of the fleet; if not, such a conviction is taken back.
pub(super) type Judge = fn(&str, Option<&str>) -> bool;

/// As in `model/history.rs`.
pub(super) const JUDGE: Judge = |revision, stable| stable.is_some_and(|stable| stable != revision);

/// A pod as it is, whatever is known of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Pod {
    pub(super) number: usize,
    pub(super) ready: bool,
    pub(super) heard: ReplicaBody,
    pub(super) serving: Option<(String, i64)>,
    pub(super) prepared: BTreeSet<String>,
    /// Revisions that have failed here, why, and in which attempt.
    pub(super) failed: BTreeMap<String, (&'static str, Option<String>)>,
    pub(super) passing: Option<String>,
    /// The revision that was being watched when the last process died.
    pub(super) suspect: Option<String>,
    /// Revisions that have failed only by such a death.
    pub(super) convicted: BTreeSet<String>,
}

impl Pod {
    pub(super) fn restart(&mut self) {
        let Self { number, failed, suspect, convicted, .. } = std::mem::take(self);
        *self = Self { number, failed, suspect, convicted, ready: true, ..Self::default() };
    }

    pub(super) fn die(&mut self, now: i64) {
        let watched = self.serving.take().filter(|(_, since)| now < since + WATCHED_SECONDS);
        self.suspect = watched.map(|(revision, _)| revision).or(self.suspect.take());
        self.restart();
    }
}

impl World {
    /// A pod does what its replica says.
    pub(super) fn obey(&mut self, index: usize) {
        let Some(name) = self.name(index) else { return };
        let Some(stored) = self.replicas.get(&name) else { return };
        let body = stored.view.body.clone();
        let stable = self.model.status.stable_revision().map(str::to_owned);
        let pod = self.pods.get_mut(&name).unwrap();
        let again = body.retry != pod.heard.retry;
        if again {
            pod.failed.retain(|revision, _| {
                Some(revision) != body.prefetch_revision.as_ref() && Some(revision) != body.revision.as_ref()
            });
        }
        let failed = &pod.failed;
        pod.convicted.retain(|revision| failed.contains_key(revision));
        if let Some(revision) = &body.revision {
            let convicts = (self.judge)(revision, stable.as_deref());
            if pod.suspect.as_ref() == Some(revision) && convicts && !pod.failed.contains_key(revision) {
                pod.failed.insert(revision.clone(), ("LoadCrashed", body.retry.clone()));
                pod.convicted.insert(revision.clone());
                self.convicted.insert(revision.clone());
            } else if !convicts && pod.convicted.remove(revision) {
                pod.failed.remove(revision);
            }
        }
        pod.suspect = None;
        pod.passing = None;
        let fault = |revision: &String| self.faults.get(revision.as_str()).copied().unwrap_or(Fault::None);
        for revision in [&body.prefetch_revision, &body.revision].into_iter().flatten() {
            let attempt = body.retry.clone();
            if pod.failed.contains_key(revision) {
                continue;
            }
            match fault(revision) {
                Fault::Prepare => drop(pod.failed.insert(revision.clone(), ("DigestMismatch", attempt))),
                Fault::Passing => pod.passing = Some(revision.clone()),
                Fault::None | Fault::Load(_) | Fault::Soak(_) => drop(pod.prepared.insert(revision.clone())),
            }
        }
        if let Some(revision) = body.revision.clone().filter(|revision| !pod.failed.contains_key(revision)) {
            let serves = pod.serving.as_ref().is_some_and(|(serving, _)| *serving == revision);
            match fault(&revision) {
                Fault::Load(number) if number == pod.number && !serves => {
                    drop(pod.failed.insert(revision, ("LoadCrashed", body.retry.clone())));
                }
                Fault::Soak(number) if number == pod.number && serves => {
                    // It goes back by itself to what it served before, if it knows.
                    drop(pod.failed.insert(revision, ("SoakErrors", body.retry.clone())));
                    pod.serving = None;
                }
                Fault::Passing if !serves => {}
                _ if serves => {}
                _ => pod.serving = Some((revision, self.now)),
            }
        }
        pod.heard = body;
    }

    pub(super) fn tell(&mut self, index: usize) {
        let Some(name) = self.name(index) else { return };
        let pod = &self.pods[&name];
        let Some(stored) =
            self.replicas.get_mut(&name).filter(|stored| stored.view.body.model_uid == pod.heard.model_uid)
        else {
            return;
        };
        let mut prepared: Vec<String> = pod.prepared.iter().cloned().collect();
        prepared.extend(pod.serving.iter().map(|(revision, _)| revision.clone()));
        let mut status = ReplicaStatus {
            observed_epoch: pod.heard.epoch,
            serving_revision: pod.serving.as_ref().map(|(revision, _)| revision.clone()),
            watched_seconds: pod.serving.as_ref().filter(|(_, since)| self.now >= since + 10).map(|_| 10),
            prepared_revisions: prepared,
            phase: ReplicaPhase::Ready,
            ..ReplicaStatus::default()
        };
        let asked = [&pod.heard.revision, &pod.heard.prefetch_revision];
        for revision in asked.into_iter().flatten() {
            if let Some((reason, _)) = pod.failed.get(revision) {
                status.phase = ReplicaPhase::Failed;
                (status.phase_revision, status.reason) = (Some(revision.clone()), Some((*reason).to_owned()));
                break;
            } else if pod.passing.as_ref() == Some(revision) {
                status.phase = ReplicaPhase::Downloading;
                status.phase_revision = Some(revision.clone());
                status.reason = Some("SourceUnreachable".to_owned());
                break;
            }
        }
        stored.view.status = status;
        stored.version += 1;
    }
}
