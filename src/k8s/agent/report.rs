//! What the pod tells of one replica: a function of the assignment, of what the registry knows, and of the time.

use std::time::{Duration, Instant};

use crate::k8s::crd::{ReplicaBody, ReplicaPhase, ReplicaStatus};
use crate::model::{ModelState, Preparation, Snapshot, Status};

/// Characters of a message; more is no help in `kubectl describe`.
const LONGEST_MESSAGE: usize = 1024;

/// What else is known of the model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances<'a> {
    /// Why the assignment cannot even be begun.
    pub(super) problem: Option<&'a str>,
    /// For how long a pod is watched after it has swapped.
    pub(super) min_ready_seconds: u32,
    pub(super) now: Instant,
}

/// The status of one replica.
pub(super) fn status(
    body: &ReplicaBody,
    snapshot: Option<&Snapshot>,
    circumstances: Circumstances,
) -> ReplicaStatus {
    let Circumstances { problem, min_ready_seconds, now } = circumstances;
    let mut told = ReplicaStatus { observed_epoch: body.epoch, ..ReplicaStatus::default() };
    if let Some(snapshot) = snapshot {
        told.serving_revision = snapshot.serving.as_ref().map(|serving| serving.revision.clone());
        told.serving_since =
            snapshot.status.serving_since.map(|at| humantime::format_rfc3339_seconds(at).to_string());
        let served = snapshot.status.serving_from.map(|from| now.saturating_duration_since(from));
        let long_enough = |served: &Duration| *served >= Duration::from_secs(min_ready_seconds.into());
        told.watched_seconds = served.filter(long_enough).map(|_| min_ready_seconds);
        told.prepared_revisions = prepared(snapshot);
        told.prepared_digest = prepared_digest(body, snapshot);
    }
    let assigned = body.revision.as_ref().filter(|revision| told.serving_revision.as_ref() != Some(revision));
    let ahead = body.prefetch_revision.as_ref();
    let ahead = ahead.filter(|revision| !told.prepared_revisions.contains(revision));
    if let Some(problem) = problem {
        told.phase_revision = assigned.or(ahead).or(body.revision.as_ref()).cloned();
        fail(&mut told, "InvalidSpec", problem);
    } else if let Some(revision) = assigned {
        told.phase_revision = Some(revision.clone());
        on_its_way(&mut told, revision, snapshot);
    } else if let Some(revision) = ahead {
        told.phase_revision = Some(revision.clone());
        being_prepared(&mut told, revision, snapshot);
    } else {
        told.phase_revision = body.revision.clone().or_else(|| body.prefetch_revision.clone());
        told.phase = match (&body.revision, &body.prefetch_revision) {
            (Some(_), _) => ReplicaPhase::Ready,
            (None, Some(_)) => ReplicaPhase::Prepared,
            (None, None) if told.serving_revision.is_some() => ReplicaPhase::Draining,
            (None, None) => ReplicaPhase::Pending,
        };
    }
    told
}

/// What serves has been here and tried too.
fn prepared(snapshot: &Snapshot) -> Vec<String> {
    let mut all = snapshot.status.prepared.clone();
    let going = snapshot.serving.iter().chain(&snapshot.going);
    all.extend(going.map(|serving| serving.revision.clone()));
    all.sort();
    all.dedup();
    all
}

/// Of what was to be prepared, else of what serves.
fn prepared_digest(body: &ReplicaBody, snapshot: &Snapshot) -> Option<String> {
    let ahead = snapshot.status.ahead.as_ref();
    let ahead = ahead.filter(|ahead| Some(&ahead.revision) == body.prefetch_revision.as_ref());
    let serving = snapshot.serving.as_ref();
    let serving = serving.filter(|serving| {
        body.prefetch_revision.as_ref().or(body.revision.as_ref()) == Some(&serving.revision)
    });
    let digest = ahead.and_then(|ahead| ahead.digest.as_ref());
    digest.or_else(|| serving.and_then(|serving| serving.digest.as_ref())).map(ToString::to_string)
}

/// The assigned revision does not serve (yet).
fn on_its_way(told: &mut ReplicaStatus, revision: &str, snapshot: Option<&Snapshot>) {
    let Some(Snapshot { status, .. }) = snapshot.filter(|snapshot| snapshot.status.revision == revision)
    else {
        return;
    };
    let Status { state, last_failure, .. } = status;
    told.phase = phase(*state);
    if let Some(failure) = last_failure.as_ref().filter(|failure| failure.revision == revision) {
        told.reason = Some(failure.reason.label().to_owned());
        told.message = cut(&failure.message);
    }
}

/// The revision that is to be prepared is not (yet).
fn being_prepared(told: &mut ReplicaStatus, revision: &str, snapshot: Option<&Snapshot>) {
    let ahead = snapshot.and_then(|snapshot| snapshot.status.ahead.as_ref());
    let Some(Preparation { state, failure, .. }) = ahead.filter(|ahead| ahead.revision == revision) else {
        return;
    };
    told.phase = phase(*state);
    if let Some((reason, message)) = failure {
        told.reason = Some(reason.label().to_owned());
        told.message = cut(message);
    }
}

fn phase(state: ModelState) -> ReplicaPhase {
    match state {
        ModelState::Pending | ModelState::Unloaded => ReplicaPhase::Pending,
        ModelState::Fetching => ReplicaPhase::Downloading,
        ModelState::Verifying => ReplicaPhase::Verifying,
        ModelState::Prepared => ReplicaPhase::Prepared,
        ModelState::Waiting | ModelState::Loading => ReplicaPhase::Loading,
        ModelState::Warming => ReplicaPhase::Warming,
        ModelState::Ready => ReplicaPhase::Ready,
        ModelState::Failed => ReplicaPhase::Failed,
    }
}

fn fail(told: &mut ReplicaStatus, reason: &str, message: &str) {
    told.phase = ReplicaPhase::Failed;
    told.reason = Some(reason.to_owned());
    told.message = cut(message);
}

fn cut(message: &str) -> String {
    message.chars().take(LONGEST_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::{Failure, Reason, Serving};

    fn body(revision: Option<&str>, prefetch: Option<&str>) -> ReplicaBody {
        let text = |text: Option<&str>| text.map(str::to_owned);
        ReplicaBody {
            model_name: "chat".to_owned(),
            revision: text(revision),
            prefetch_revision: text(prefetch),
            epoch: 7,
            ..ReplicaBody::default()
        }
    }

    fn snapshot(serving: Option<&str>, wanted: &str, state: ModelState) -> Snapshot {
        let serving = serving.map(|revision| Serving {
            revision: revision.to_owned(),
            digest: None,
            memory_bytes: 1,
            in_flight: 0,
            load: crate::model::Load::default(),
        });
        let status = Status {
            revision: wanted.to_owned(),
            state,
            message: String::new(),
            progress: None,
            last_failure: None,
            recent_failures: Vec::new(),
            ahead: None,
            prepared: Vec::new(),
            serving_since: None,
            serving_from: None,
        };
        Snapshot { key: "chat".parse().unwrap(), names: Vec::new(), status, serving, going: Vec::new() }
    }

    fn status_of(body: &ReplicaBody, snapshot: Option<&Snapshot>) -> ReplicaStatus {
        let circumstances = Circumstances { problem: None, min_ready_seconds: 10, now: Instant::now() };
        status(body, snapshot, circumstances)
    }

    #[test]
    fn a_pod_says_itself_when_it_was_watched_for_long_enough() {
        let mut here = snapshot(Some("a"), "a", ModelState::Ready);
        let from = Instant::now();
        here.status.serving_from = Some(from);
        let watched = |min_ready_seconds, after| {
            let now = from + Duration::from_secs(after);
            let circumstances = Circumstances { problem: None, min_ready_seconds, now };
            status(&body(Some("a"), None), Some(&here), circumstances).watched_seconds
        };
        assert_eq!((watched(10, 9), watched(10, 10), watched(10, 3600)), (None, Some(10), Some(10)));
        assert_eq!((watched(0, 0), watched(60, 59)), (Some(0), None), "what is asked for now counts");
    }

    #[test]
    fn what_serves_as_assigned_is_ready() {
        let told = status_of(&body(Some("a"), None), Some(&snapshot(Some("a"), "a", ModelState::Ready)));
        assert_eq!((told.phase, told.observed_epoch), (ReplicaPhase::Ready, 7));
        assert_eq!(told.serving_revision.as_deref(), Some("a"));
        assert_eq!(told.prepared_revisions, ["a"], "what serves has been tried");
    }

    #[test]
    fn an_assignment_that_was_not_heard_of_yet_is_pending() {
        let told = status_of(&body(Some("b"), None), Some(&snapshot(Some("a"), "a", ModelState::Ready)));
        assert_eq!((told.phase, told.phase_revision.as_deref()), (ReplicaPhase::Pending, Some("b")));
        assert_eq!(status_of(&body(Some("b"), None), None).phase, ReplicaPhase::Pending);
    }

    #[test]
    fn a_revision_that_failed_is_told_beside_what_goes_on() {
        let mut failed = snapshot(Some("a"), "b", ModelState::Failed);
        failed.status.last_failure = Some(Failure {
            revision: "b".to_owned(),
            reason: Reason::SoakErrors,
            message: "x".repeat(5000),
            at: SystemTime::UNIX_EPOCH,
        });
        let told = status_of(&body(Some("b"), None), Some(&failed));
        assert_eq!((told.phase, told.reason.as_deref()), (ReplicaPhase::Failed, Some("SoakErrors")));
        assert_eq!((told.serving_revision.as_deref(), told.message.len()), (Some("a"), 1024));
    }

    #[test]
    fn preparing_ahead_is_told_while_another_revision_serves() {
        let mut here = snapshot(Some("a"), "a", ModelState::Ready);
        let ahead = |state, failure| Preparation { revision: "b".to_owned(), state, digest: None, failure };
        here.status.ahead = Some(ahead(ModelState::Verifying, None));
        let told = status_of(&body(Some("a"), Some("b")), Some(&here));
        assert_eq!((told.phase, told.phase_revision.as_deref()), (ReplicaPhase::Verifying, Some("b")));
        here.status.ahead =
            Some(ahead(ModelState::Failed, Some((Reason::DigestMismatch, "other bytes".to_owned()))));
        let told = status_of(&body(Some("a"), Some("b")), Some(&here));
        assert_eq!((told.phase, told.reason.as_deref()), (ReplicaPhase::Failed, Some("DigestMismatch")));
        here.status.ahead = Some(ahead(ModelState::Prepared, None));
        here.status.prepared = vec!["b".to_owned()];
        let told = status_of(&body(Some("a"), Some("b")), Some(&here));
        assert_eq!(
            (told.phase, told.prepared_revisions),
            (ReplicaPhase::Ready, vec!["a".to_owned(), "b".to_owned()])
        );
    }
}
