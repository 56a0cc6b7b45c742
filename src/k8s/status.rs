//! The conditions of a model: one table of state and condition, in the terms of `kubectl wait` and of kstatus.
//!
//! | condition | holds when |
//! | --- | --- |
//! | Accepted | the spec is followed |
//! | Available | some pod answers under the name |
//! | Progressing | something moves |
//! | Ready | every pod serves what the spec asks for |
//! | Degraded | less is there than was promised |
//! | Stalled | (only when true) nothing moves until somebody changes something |

use jiff::Timestamp;

use super::crd::{Condition, ModelStatus, Phase, Quarantined, Stage, Truth};
use super::rollout::Refused;

/// What the status alone does not say.
pub(super) struct Facts<'a> {
    /// The revision that the spec asks for, or why it is not followed.
    pub(super) wanted: Result<&'a str, &'a Refused>,
    pub(super) phase: Phase,
    /// Whether a first rollout has not come forward for too long.
    pub(super) late: bool,
}

/// All conditions; the time of one changes only when its status does.
pub(super) fn conditions(
    status: &ModelStatus,
    facts: &Facts,
    before: &[Condition],
    now: Timestamp,
) -> Vec<Condition> {
    let message = message(status, facts);
    let one = |type_: &str, (truth, reason): (Truth, &str)| {
        let known = before.iter().find(|known| known.type_ == type_ && known.status == truth);
        Condition {
            type_: type_.to_owned(),
            status: truth,
            observed_generation: status.observed_generation,
            last_transition_time: known
                .map_or_else(|| now.to_string(), |known| known.last_transition_time.clone()),
            reason: reason.to_owned(),
            message: message.clone(),
        }
    };
    let mut all = vec![
        one("Accepted", accepted(facts)),
        one("Available", available(status)),
        one("Progressing", progressing(status, facts)),
        one("Ready", ready(status, facts)),
        one("Degraded", degraded(status, facts)),
    ];
    all.extend(stalled(status, facts).map(|reason| one("Stalled", (Truth::True, reason))));
    all
}

/// One line for a person.
pub(super) fn message(status: &ModelStatus, facts: &Facts) -> String {
    let (updated, replicas) = (status.updated_replicas, status.replicas);
    let stable =
        status.stable_revision().map(|revision| format!("; revision {revision} goes on")).unwrap_or_default();
    let failure = || {
        let failed = status.last_failure.as_ref();
        failed.map_or_else(String::new, |failed| {
            format!("revision {}: {}: {}", failed.revision, failed.reason, failed.message)
        })
    };
    match (&facts.wanted, facts.phase) {
        (Err(refused), _) => format!("{}{stable}", refused.message),
        (Ok(_), _) if replicas == 0 => "the gateway has no pods".to_owned(),
        (Ok(revision), Phase::Idle) if updated == replicas => {
            format!("revision {revision} serves in all {replicas} pods")
        }
        (Ok(revision), Phase::Idle) => format!("revision {revision} serves in {updated} of {replicas} pods"),
        (Ok(revision), Phase::Preparing) => {
            let progress =
                status.rollout.as_ref().map(|rollout| rollout.progress.as_str()).unwrap_or_default();
            format!("revision {revision} is being prepared: {progress}{stable}")
        }
        (Ok(revision), Phase::Canary) => format!("revision {revision} is watched in one pod"),
        (Ok(revision), Phase::Rolling) => {
            format!("revision {revision} serves in {updated} of {replicas} pods")
        }
        (Ok(_), Phase::RollingBack) => {
            format!("going back: {updated} of {replicas} pods serve the stable revision")
        }
        (Ok(_), Phase::Failed) => format!("{}{stable}", failure()),
        (Ok(revision), Phase::Paused) => match quarantine(status, revision) {
            Some(_) => format!("paused after a failure: {}", failure()),
            None => format!("paused before revision {revision} serves in all pods"),
        },
    }
}

fn accepted(facts: &Facts) -> (Truth, &'static str) {
    match &facts.wanted {
        Ok(_) => (Truth::True, "Accepted"),
        Err(refused) => (Truth::False, refused.reason),
    }
}

fn available(status: &ModelStatus) -> (Truth, &'static str) {
    match () {
        () if status.ready_replicas > 0 => (Truth::True, "Serving"),
        () if status.replicas == 0 => (Truth::False, "NoReplicas"),
        () if status.stable.is_none() => (Truth::False, "FirstLoadPending"),
        () => (Truth::False, "BelowMinimum"),
    }
}

fn progressing(status: &ModelStatus, facts: &Facts) -> (Truth, &'static str) {
    match (&facts.wanted, facts.phase) {
        (_, Phase::RollingBack) => (Truth::True, "RollingBack"),
        (Err(refused), _) => (Truth::False, refused.reason),
        (Ok(_), Phase::Preparing) => (Truth::True, "Preparing"),
        (Ok(_), Phase::Canary) => (Truth::True, "CanaryLoading"),
        (Ok(_), Phase::Rolling) => (Truth::True, "RollingOut"),
        (Ok(_), Phase::Failed) => (Truth::False, "RolloutFailed"),
        (Ok(_), Phase::Paused) => (Truth::False, "Paused"),
        (Ok(_), Phase::Idle) if status.updated_replicas < status.replicas => (Truth::True, "RollingOut"),
        (Ok(_), Phase::Idle) => (Truth::False, "RolloutComplete"),
    }
}

fn ready(status: &ModelStatus, facts: &Facts) -> (Truth, &'static str) {
    match (&facts.wanted, facts.phase) {
        (Err(refused), _) => (Truth::False, refused.reason),
        (Ok(_), _) if status.replicas == 0 => (Truth::False, "NoReplicas"),
        (Ok(_), Phase::Idle) if status.updated_replicas == status.replicas => (Truth::True, "RolledOut"),
        (Ok(revision), Phase::Failed) => match quarantine(status, revision) {
            Some(Quarantined { stage: Stage::Preparing, .. }) => (Truth::False, "PreflightFailed"),
            Some(_) | None if status.stable.is_some() => (Truth::False, "RolledBack"),
            Some(_) | None => (Truth::False, "RolloutFailed"),
        },
        (Ok(_), _) => (Truth::False, progressing(status, facts).1),
    }
}

fn degraded(status: &ModelStatus, facts: &Facts) -> (Truth, &'static str) {
    let failed = facts.wanted.as_ref().ok().and_then(|revision| quarantine(status, revision));
    match failed {
        Some(_) if status.stable.is_none() => (Truth::True, "FirstLoadFailed"),
        Some(failed) if failed.stage != Stage::Preparing => (Truth::True, "RolledBack"),
        _ if status.stable.is_some() && status.ready_replicas < status.replicas => {
            (Truth::True, "ReplicasUnavailable")
        }
        _ => (Truth::False, "AsExpected"),
    }
}

fn stalled(status: &ModelStatus, facts: &Facts) -> Option<&'static str> {
    let revision = match &facts.wanted {
        // What another model's end would mend is no reason to give up.
        Err(refused) => return (refused.reason != "ServedNameConflict").then_some("InvalidSpec"),
        Ok(revision) => revision,
    };
    let failed = quarantine(status, revision).filter(|_| facts.phase != Phase::RollingBack);
    let reason = failed.map(|failed| match failed.stage {
        Stage::Preparing => "PreflightFailed",
        Stage::Rolling => "RolloutFailed",
        Stage::Deadline => "ProgressDeadlineExceeded",
    });
    reason.or(facts.late.then_some("ProgressDeadlineExceeded"))
}

fn quarantine<'a>(status: &'a ModelStatus, revision: &str) -> Option<&'a Quarantined> {
    status.quarantined.iter().find(|failed| failed.revision == revision)
}

#[cfg(test)]
mod tests;
