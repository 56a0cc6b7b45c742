//! THE ROLLOUT: what comes next for one model, as a function of the objects and the time, and nothing else.
//!
//! ```text
//! target ─▶ prepare on all ─▶ canary ─▶ batches within maxUnavailable, each watched ─▶ commit: target becomes stable
//!              │ fails           │ fails              │ fails
//!              ▼                 ▼                    ▼
//!         nothing was touched    all go back to stable; the revision is not tried again until spec or retry changes
//! ```
//!
//! Everything that is needed is in the objects, so a new leader just calls it again. What it promises (a test runs thousands of
//! random schedules against it): (I1) pods out of service through us are within the budget; (I2) a revision that is known to
//! have failed for good is assigned to nobody any more; (I3) without new input all pods end on the target or on stable;
//! (I4) no pod is assigned a target that it has not prepared; (I5) stable changes only when every counted pod serves the
//! target, watched for long enough; (I6) planning again on what came of a plan gives nothing to do.

mod assign;
mod view;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
pub(super) use view::{ModelView, PodView, Refused, ReplicaView, Wanted};

use self::view::{Placed, Scene};
use super::crd::{Failed, ModelStatus, Phase, Quarantined, ReplicaBody, Slot, Stage};
use super::status::{self, Facts};
use crate::model::Reason;
use crate::model::spec::OnFailure;

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// The model's status, to be written before anything is done.
    pub(super) status: ModelStatus,
    /// What is to be done, in any order; each for itself.
    pub(super) actions: Vec<Action>,
    /// What is to be told to people.
    pub(super) events: Vec<Event>,
    /// When to plan again although nothing was heard.
    pub(super) again_after: Option<Duration>,
}

/// A write to a pod's replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Make it.
    Create(ReplicaBody),
    /// Change it.
    Update(ReplicaBody),
    /// Remove it, by the name of its pod.
    Delete(String),
}

impl Action {
    /// The pod whose replica is written.
    pub(super) fn pod(&self) -> &str {
        match self {
            Self::Create(body) | Self::Update(body) => &body.pod_name,
            Self::Delete(pod) => pod,
        }
    }
}

/// Something that people want to read about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) note: String,
}

/// The next step of one model. `replicas` are those of this model's object; `pods` those of its gateway.
pub(super) fn plan(model: &ModelView, replicas: &[ReplicaView], pods: &[PodView], now: Timestamp) -> Plan {
    let scene = Scene::new(model, replicas, pods, now);
    let mut status = model.status.clone();
    let mut events = Vec::new();
    status.observed_generation = model.generation;
    lift_quarantine(&mut status, model);
    if let Ok(wanted) = &model.wanted {
        retarget(&mut status, wanted, &scene, &mut events);
        if !wanted.paused {
            pin_digest(&mut status, &scene);
            note_progress(&mut status, &scene);
            judge(&mut status, wanted, &scene, &mut events);
            commit(&mut status, wanted, &scene, &mut events);
        }
    }
    let actions = assign::actions(&status, &scene);
    describe(&mut status, &scene, &mut events);
    Plan { again_after: again_after(&status, &scene), status, actions, events }
}

/// A changed spec or a new value of the retry annotation gives every revision another chance.
fn lift_quarantine(status: &mut ModelStatus, model: &ModelView) {
    status.quarantined.retain(|failed| failed.generation == model.generation && failed.retry == model.retry);
}

/// Chooses what is rolled out.
fn retarget(status: &mut ModelStatus, wanted: &Wanted, scene: &Scene, events: &mut Vec<Event>) {
    let revision = &wanted.slot.revision;
    let target = status.target.as_ref().map(|target| &target.revision);
    if wanted.paused || target == Some(revision) {
        return;
    }
    if status.stable.as_ref().is_some_and(|stable| stable.revision == *revision) {
        if let Some(target) = status.target.take() {
            let note = format!("revision {} is not wanted any more: back to {revision}", target.revision);
            events.push(Event { warning: false, reason: "RollbackStarted", note });
        }
    } else if is_quarantined(status, revision) {
        status.target = None;
    } else {
        let note = format!("rolling out revision {revision}");
        events.push(Event { warning: false, reason: "RolloutStarted", note });
        status.target = Some(wanted.slot.clone());
        let rollout = status.rollout.get_or_insert_default();
        rollout.started_at = Some(scene.now.to_string());
        rollout.last_progress_at = Some(scene.now.to_string());
        rollout.led_by = Some(scene.model.leader.clone());
        rollout.progress = String::new();
    }
}

/// The first pod that has prepared the target says what it is made of; the others have to find the same.
fn pin_digest(status: &mut ModelStatus, scene: &Scene) {
    if let Some(target) = status.target.as_mut().filter(|target| target.digest.is_none()) {
        let found = scene.replicas().find_map(|replica| replica.digest_of(&target.revision));
        target.digest = found.map(str::to_owned);
    }
}

/// Notes when the rollout last came forward. A new leader begins to count anew: its clock is another one, and nothing could come
/// forward while nobody led.
fn note_progress(status: &mut ModelStatus, scene: &Scene) {
    let Some(target) = status.target.as_ref().map(|target| target.revision.clone()) else {
        return;
    };
    let count = |which: &dyn Fn(&ReplicaView) -> bool| scene.replicas().filter(|one| which(one)).count();
    let progress = format!(
        "{} pods, {} prepared, {} assigned, {} serving, {} watched",
        scene.live.len(),
        count(&|replica| replica.has_prepared(&target)),
        count(&|replica| replica.is_assigned(&target)),
        count(&|replica| replica.serves(&target)),
        scene.live.iter().filter(|pod| scene.has_soaked(pod, &target)).count(),
    );
    let rollout = status.rollout.get_or_insert_default();
    let leader = Some(&scene.model.leader);
    if rollout.progress != progress || rollout.led_by.as_ref() != leader {
        rollout.progress = progress;
        rollout.led_by = leader.cloned();
        rollout.last_progress_at = Some(scene.now.to_string());
    }
}

/// Ends a rollout that has failed.
fn judge(status: &mut ModelStatus, wanted: &Wanted, scene: &Scene, events: &mut Vec<Event>) {
    let Some(target) = status.target.clone().filter(|target| !is_quarantined(status, &target.revision))
    else {
        return;
    };
    let Some(failure) = failure_of(&target, status, wanted, scene) else {
        return;
    };
    let Failure { replica, reason, message, stage } = failure;
    let (warning, revision) = (true, target.revision.clone());
    let place = replica.as_ref().map_or_else(String::new, |replica| format!(" in {replica}"));
    let note = format!("revision {revision} failed{place}: {reason}: {message}");
    let kind = if stage == Stage::Preparing { "PreflightFailed" } else { "SwapFailed" };
    events.push(Event { warning, reason: kind, note });
    status.last_failure = Some(Failed {
        revision: revision.clone(),
        replica,
        reason: reason.clone(),
        message,
        time: scene.now.to_string(),
    });
    let (generation, retry) = (scene.model.generation, scene.model.retry.clone());
    status.quarantined.push(Quarantined { revision, reason, stage, generation, retry });
    if wanted.on_failure == OnFailure::Rollback {
        status.target = None;
        if stage != Stage::Preparing && status.stable.is_some() {
            let note = "all pods go back to the stable revision".to_owned();
            events.push(Event { warning: false, reason: "RollbackStarted", note });
        }
    }
}

struct Failure {
    replica: Option<String>,
    reason: String,
    message: String,
    stage: Stage,
}

fn failure_of(target: &Slot, status: &ModelStatus, wanted: &Wanted, scene: &Scene) -> Option<Failure> {
    let revision = &target.revision;
    let assigned = scene.replicas().any(|replica| replica.is_assigned(revision));
    let stage = if assigned { Stage::Rolling } else { Stage::Preparing };
    let failed = scene.replicas().filter(|replica| replica.was_told(scene.model)).find_map(|replica| {
        let (reason, message) = replica.failure_of(revision, target.digest.as_deref())?;
        let permanent = Reason::parse(&reason).is_none_or(Reason::is_permanent);
        let replica = Some(replica.body.pod_name.clone());
        permanent.then_some(Failure { replica, reason, message, stage })
    });
    // Where nothing else could serve, the pods go on trying: what passes may pass.
    let late = status.stable.is_some() && scene.is_late(status, wanted);
    failed.or_else(|| {
        late.then(|| {
            let waiting = scene.replicas().find_map(|replica| {
                let (reason, message) = replica.failure_of(revision, None)?;
                Some(format!("{} says {reason}: {message}", replica.body.pod_name))
            });
            let seconds = wanted.progress_deadline.as_secs();
            Failure {
                replica: None,
                reason: "ProgressDeadlineExceeded".to_owned(),
                message: waiting.unwrap_or_else(|| format!("nothing came forward for {seconds} s")),
                stage: Stage::Deadline,
            }
        })
    })
}

/// Makes the target stable once every pod that counts serves it and was watched for long enough.
fn commit(status: &mut ModelStatus, wanted: &Wanted, scene: &Scene, events: &mut Vec<Event>) {
    let Some(target) = status.target.as_ref().filter(|target| !is_quarantined(status, &target.revision))
    else {
        return;
    };
    let revision = target.revision.clone();
    let mut counted = scene
        .live
        .iter()
        .filter(|(pod, replica)| pod.ready || replica.is_some_and(|replica| replica.is_assigned(&revision)))
        .peekable();
    if counted.peek().is_none() || !counted.all(|pod| scene.has_soaked(pod, &revision)) {
        return;
    }
    status.stable = status.target.take();
    let note = format!("revision {revision} serves in all pods ({} s watched)", wanted.min_ready.as_secs());
    events.push(Event { warning: false, reason: "RolloutComplete", note });
}

/// Phase, counts and conditions.
fn describe(status: &mut ModelStatus, scene: &Scene, events: &mut Vec<Event>) {
    let before = scene.model.status.rollout.as_ref().map(|rollout| rollout.phase).unwrap_or_default();
    let phase = phase(status, scene);
    if before == Phase::RollingBack && matches!(phase, Phase::Failed | Phase::Idle) {
        let note = "all pods serve the stable revision again".to_owned();
        events.push(Event { warning: false, reason: "RolledBack", note });
    }
    let count = |which: &dyn Fn(&Placed) -> bool| scene.live.iter().filter(|pod| which(pod)).count() as u32;
    status.replicas = scene.live.len() as u32;
    let updated = match (&status.target, &status.stable) {
        (Some(target), _) => count(&|pod| scene.has_soaked(pod, &target.revision)),
        // It has proved itself.
        (None, Some(stable)) => count(&|pod| Scene::has_in_service(pod, &stable.revision)),
        (None, None) => 0,
    };
    status.ready_replicas = count(&|(pod, replica)| {
        pod.ready && replica.is_some_and(|replica| replica.status.serving_revision.is_some())
    });
    status.failed_replicas = count(&|(_, replica)| replica.is_some_and(ReplicaView::has_failed));
    if updated > status.updated_replicas && status.target.is_some() {
        let note = format!("{updated} of {} pods serve the new revision", status.replicas);
        events.push(Event { warning: false, reason: "ReplicaSwapped", note });
    }
    status.updated_replicas = updated;
    let late = status.stable.is_none()
        && scene
            .model
            .wanted
            .as_ref()
            .is_ok_and(|wanted| status.target.is_some() && scene.is_late(status, wanted));
    let facts = Facts {
        wanted: scene.model.wanted.as_ref().map(|wanted| wanted.slot.revision.as_str()),
        phase,
        late,
    };
    let message = status::message(status, &facts);
    let rollout = status.rollout.get_or_insert_default();
    rollout.phase = phase;
    rollout.message = message;
    status.conditions = status::conditions(status, &facts, &scene.model.status.conditions, scene.now);
}

fn phase(status: &ModelStatus, scene: &Scene) -> Phase {
    let stable = status.stable.as_ref().map(|stable| stable.revision.as_str());
    let failed =
        scene.model.wanted.as_ref().is_ok_and(|wanted| is_quarantined(status, &wanted.slot.revision));
    let paused = scene
        .model
        .wanted
        .as_ref()
        .is_ok_and(|wanted| wanted.paused && stable != Some(&wanted.slot.revision));
    match &status.target {
        _ if paused => Phase::Paused,
        Some(target) if is_quarantined(status, &target.revision) => Phase::Paused,
        Some(target) if scene.replicas().any(|replica| replica.is_assigned(&target.revision)) => {
            let watched = scene.live.iter().any(|pod| scene.has_soaked(pod, &target.revision));
            if watched { Phase::Rolling } else { Phase::Canary }
        }
        Some(_) => Phase::Preparing,
        None if stable.is_some() && scene.replicas().any(|replica| replica.is_elsewhere(stable)) => {
            Phase::RollingBack
        }
        None if failed => Phase::Failed,
        None => Phase::Idle,
    }
}

/// When something that only time changes is due.
fn again_after(status: &ModelStatus, scene: &Scene) -> Option<Duration> {
    let wanted = scene.model.wanted.as_ref().ok().filter(|wanted| !wanted.paused)?;
    let deadline = status.target.as_ref().and_then(|_| Scene::deadline(status, wanted));
    let next = deadline.filter(|at| *at > scene.now)?;
    // A little later, so that the comparison holds.
    let wait = next.duration_since(scene.now) + SignedDuration::from_millis(20);
    Duration::try_from(wait).ok()
}

fn is_quarantined(status: &ModelStatus, revision: &str) -> bool {
    status.quarantined.iter().any(|failed| failed.revision == revision)
}
