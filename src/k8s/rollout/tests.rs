//! One model, step by step: what is planned next, and what it is told.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::*;
use crate::k8s::crd::{FrozenSpec, ReplicaPhase, ReplicaStatus};
use crate::model::spec::{IntOrPercent, ModelSpec};

pub(super) fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

pub(super) fn at(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

pub(super) fn slot(revision: &str, generation: i64) -> Slot {
    let spec: ModelSpec = serde_json::from_value(json!({"source": {"path": revision}})).unwrap();
    Slot { revision: revision.to_owned(), generation, digest: None, spec: FrozenSpec::of(&spec) }
}

pub(super) fn wanted(revision: &str, generation: i64) -> Wanted {
    Wanted {
        slot: slot(revision, generation),
        max_unavailable: IntOrPercent::Int(1),
        min_ready: Duration::from_secs(10),
        progress_deadline: Duration::from_mins(10),
        on_failure: OnFailure::Rollback,
        paused: false,
    }
}

pub(super) fn model(revision: &str) -> ModelView {
    ModelView {
        name: "chat".to_owned(),
        uid: "uid".to_owned(),
        generation: 1,
        retry: None,
        leader: "leader".to_owned(),
        wanted: Ok(wanted(revision, 1)),
        status: ModelStatus { observed_generation: -1, ..ModelStatus::default() },
    }
}

/// A gateway whose pods do at once what they are told.
struct Fleet {
    model: ModelView,
    pods: Vec<PodView>,
    replicas: Vec<ReplicaView>,
    now: i64,
    events: Vec<&'static str>,
}

impl Fleet {
    fn new(pods: usize, revision: &str) -> Self {
        let pod = |number: usize| PodView {
            name: format!("pod-{number}"),
            uid: format!("uid-{number}"),
            ready: true,
            ready_since: Some(at(-1000 + number as i64)),
            terminating: false,
        };
        Self {
            model: model(revision),
            pods: (0..pods).map(pod).collect(),
            replicas: Vec::new(),
            now: 0,
            events: Vec::new(),
        }
    }

    fn want(&mut self, revision: &str) {
        self.model.generation += 1;
        self.model.wanted = Ok(wanted(revision, self.model.generation));
    }

    /// The pods say for how long they have served.
    fn watch(&mut self) {
        for status in self.replicas.iter_mut().map(|replica| &mut replica.status) {
            let since = status.serving_since.as_ref().and_then(|since| since.parse::<Timestamp>().ok());
            let long = since.is_some_and(|since| at(self.now) >= since + SignedDuration::from_secs(10));
            status.watched_seconds = long.then_some(10);
        }
    }

    /// Plans, and does what was planned; true when there was something to do.
    fn plan(&mut self) -> bool {
        self.watch();
        let plan = plan(&self.model, &self.replicas, &self.pods, at(self.now));
        let idle = plan.actions.is_empty() && plan.status == self.model.status;
        self.model.status = plan.status;
        self.events.extend(plan.events.iter().map(|event| event.reason));
        for action in plan.actions {
            match action {
                Action::Create(body) => {
                    self.replicas.push(ReplicaView { body, status: ReplicaStatus::default() });
                }
                Action::Update(body) => {
                    let known = self.replicas.iter_mut().find(|one| one.body.pod_name == body.pod_name);
                    known.unwrap().body.clone_from(&body);
                }
                Action::Delete(pod) => self.replicas.retain(|one| one.body.pod_name != pod),
            }
        }
        !idle
    }

    /// Every pod does what it is told.
    fn obey(&mut self) {
        for replica in &mut self.replicas {
            let ReplicaView { body, status } = replica;
            status.observed_epoch = body.epoch;
            status.prepared_revisions.extend(body.prefetch_revision.clone());
            if status.serving_revision != body.revision {
                status.serving_revision.clone_from(&body.revision);
                status.serving_since = Some(at(self.now).to_string());
            }
            status.phase = ReplicaPhase::Ready;
            (status.reason, status.phase_revision) = (None, None);
        }
    }

    /// A pod says that a revision has failed.
    fn fail(&mut self, pod: usize, revision: &str, reason: &str, serving: Option<&str>) {
        let replica = &mut self.replicas[pod];
        let status = &mut replica.status;
        status.observed_epoch = replica.body.epoch;
        status.phase = ReplicaPhase::Failed;
        status.phase_revision = Some(revision.to_owned());
        status.reason = Some(reason.to_owned());
        status.message = "for a test".to_owned();
        status.serving_revision = serving.map(str::to_owned);
    }

    /// Until nothing is to be done for a while.
    fn settle(&mut self) {
        for _ in 0..100 {
            let mut quiet = true;
            while self.plan() {
                quiet = false;
            }
            self.obey();
            self.now += 11;
            if quiet && !self.plan() {
                return;
            }
        }
        panic!("the rollout does not end: {:?}", self.model.status);
    }

    fn assigned(&self) -> Vec<Option<&str>> {
        self.replicas.iter().map(|replica| replica.body.revision.as_deref()).collect()
    }

    fn phase(&self) -> Phase {
        self.model.status.rollout.as_ref().unwrap().phase
    }

    fn condition(&self, type_: &str) -> String {
        let found = self.model.status.conditions.iter().find(|condition| condition.type_ == type_);
        found.map_or_else(|| "-".to_owned(), |found| format!("{:?} {}", found.status, found.reason))
    }
}

#[test]
fn a_first_model_is_prepared_tried_in_one_pod_and_then_served_by_all() {
    let mut fleet = Fleet::new(3, "a");
    fleet.plan();
    assert_eq!((fleet.phase(), fleet.assigned()), (Phase::Preparing, vec![None; 3]));
    assert!(fleet.replicas.iter().all(|replica| replica.body.prefetch_revision.as_deref() == Some("a")));
    fleet.obey();
    fleet.plan();
    assert_eq!((fleet.phase(), fleet.assigned()), (Phase::Preparing, vec![Some("a"), None, None]));
    fleet.obey();
    fleet.plan();
    assert_eq!(fleet.phase(), Phase::Canary);
    fleet.now += 9;
    fleet.plan();
    assert_eq!(fleet.assigned(), [Some("a"), None, None], "it is still being watched");
    fleet.now += 2;
    fleet.plan();
    assert_eq!((fleet.phase(), fleet.assigned()), (Phase::Rolling, vec![Some("a"), Some("a"), None]));
    fleet.settle();
    assert_eq!((fleet.phase(), fleet.model.status.stable_revision()), (Phase::Idle, Some("a")));
    assert_eq!(fleet.condition("Ready"), "True RolledOut");
    assert_eq!(
        (fleet.condition("Available"), fleet.condition("Stalled")),
        ("True Serving".into(), "-".into())
    );
    assert!(fleet.events.contains(&"RolloutStarted") && fleet.events.contains(&"RolloutComplete"));
}

#[test]
fn a_pod_may_make_room_only_while_others_serve() {
    let may = |fleet: &Fleet| fleet.replicas.iter().map(|one| one.body.may_unload).collect::<Vec<_>>();
    let mut fleet = Fleet::new(2, "a");
    fleet.settle();
    fleet.want("b");
    while fleet.assigned()[0] != Some("b") {
        fleet.plan();
        fleet.obey();
    }
    assert!(may(&fleet)[0], "the other one serves meanwhile");
    fleet.settle();
    assert_eq!((fleet.assigned(), may(&fleet)), (vec![Some("b"); 2], vec![true; 2]));
    let mut alone = Fleet::new(1, "a");
    alone.settle();
    alone.want("b");
    alone.settle();
    assert_eq!((alone.assigned(), may(&alone)), (vec![Some("b")], vec![false]));
}

#[test]
fn a_revision_that_fails_while_it_is_prepared_touches_nothing() {
    let mut fleet = Fleet::new(3, "a");
    fleet.settle();
    fleet.want("b");
    fleet.plan();
    fleet.fail(1, "b", "DigestMismatch", Some("a"));
    fleet.plan();
    assert_eq!(fleet.assigned(), [Some("a"); 3]);
    assert_eq!((fleet.phase(), fleet.model.status.target.is_none()), (Phase::Failed, true));
    for (condition, told) in [
        ("Accepted", "True Accepted"),
        ("Available", "True Serving"),
        ("Progressing", "False RolloutFailed"),
        ("Ready", "False PreflightFailed"),
        ("Degraded", "False AsExpected"),
        ("Stalled", "True PreflightFailed"),
    ] {
        assert_eq!(fleet.condition(condition), told, "{condition}");
    }
    let failure = fleet.model.status.last_failure.clone().unwrap();
    assert_eq!((failure.replica.as_deref(), failure.reason.as_str()), (Some("pod-1"), "DigestMismatch"));
    fleet.obey();
    fleet.settle();
    assert_eq!(fleet.assigned(), [Some("a"); 3], "it is not tried again");
    fleet.model.retry = Some("please".to_owned());
    fleet.settle();
    assert_eq!(fleet.assigned(), [Some("b"); 3], "until somebody asks for it");
}

#[test]
fn a_revision_that_fails_in_the_second_pod_goes_out_of_the_first() {
    let mut fleet = Fleet::new(3, "a");
    fleet.settle();
    fleet.want("b");
    while fleet.assigned() != [Some("b"), Some("b"), Some("a")] {
        fleet.plan();
        fleet.obey();
        fleet.now += 6;
    }
    fleet.fail(1, "b", "LoadCrashed", Some("a"));
    fleet.plan();
    assert_eq!(fleet.phase(), Phase::RollingBack);
    assert_eq!(fleet.condition("Progressing"), "True RollingBack");
    fleet.settle();
    assert_eq!(fleet.assigned(), [Some("a"); 3]);
    for (condition, told) in [
        ("Available", "True Serving"),
        ("Ready", "False RolledBack"),
        ("Degraded", "True RolledBack"),
        ("Stalled", "True RolloutFailed"),
    ] {
        assert_eq!(fleet.condition(condition), told, "{condition}");
    }
    assert!(fleet.events.contains(&"RollbackStarted") && fleet.events.contains(&"RolledBack"));
}

#[test]
fn a_pod_that_has_given_up_the_stable_revision_tries_it_again_when_somebody_asks() {
    let mut fleet = Fleet::new(2, "a");
    fleet.settle();
    fleet.fail(1, "a", "LoadCrashed", Some("before"));
    assert!(fleet.plan(), "it is told");
    assert_eq!(fleet.phase(), Phase::RollingBack);
    assert!(!fleet.plan(), "nobody has asked");
    fleet.model.retry = Some("please".to_owned());
    fleet.plan();
    let retries: Vec<_> = fleet.replicas.iter().map(|replica| replica.body.retry.as_deref()).collect();
    assert_eq!(retries, [Some("1"), Some("1/please")]);
    assert!(!fleet.plan(), "once");
    fleet.obey();
    fleet.settle();
    assert_eq!((fleet.assigned(), fleet.phase()), (vec![Some("a"); 2], Phase::Idle));
}

#[test]
fn a_failure_that_may_pass_is_waited_for_until_the_deadline() {
    let mut fleet = Fleet::new(2, "a");
    fleet.settle();
    fleet.want("b");
    fleet.plan();
    fleet.fail(0, "b", "SourceUnreachable", Some("a"));
    fleet.plan();
    assert_eq!(fleet.phase(), Phase::Preparing);
    fleet.now += 700;
    fleet.plan();
    assert_eq!(
        (fleet.phase(), fleet.condition("Stalled")),
        (Phase::Failed, "True ProgressDeadlineExceeded".into())
    );
    let failure = fleet.model.status.last_failure.clone().unwrap();
    assert!(failure.message.contains("SourceUnreachable"), "{failure:?}");
}

#[test]
fn a_first_model_that_may_still_come_is_never_given_up() {
    let mut fleet = Fleet::new(1, "a");
    fleet.plan();
    fleet.fail(0, "a", "InsufficientMemory", None);
    fleet.now += 7000;
    fleet.plan();
    assert_eq!(
        (fleet.phase(), fleet.condition("Stalled")),
        (Phase::Preparing, "True ProgressDeadlineExceeded".into())
    );
    fleet.obey();
    fleet.settle();
    assert_eq!(fleet.condition("Ready"), "True RolledOut");
}

#[test]
fn a_spec_that_goes_back_takes_everything_back() {
    let mut fleet = Fleet::new(3, "a");
    fleet.settle();
    fleet.want("b");
    while fleet.assigned()[0] != Some("b") {
        fleet.plan();
        fleet.obey();
    }
    fleet.want("a");
    fleet.settle();
    assert_eq!((fleet.assigned(), fleet.phase()), (vec![Some("a"); 3], Phase::Idle));
    assert!(fleet.model.status.quarantined.is_empty());
}

#[test]
fn a_pause_stops_and_a_failure_may_pause_instead_of_going_back() {
    let mut fleet = Fleet::new(3, "a");
    fleet.settle();
    fleet.want("b");
    while fleet.assigned()[0] != Some("b") {
        fleet.plan();
        fleet.obey();
    }
    if let Ok(wanted) = &mut fleet.model.wanted {
        wanted.paused = true;
    }
    fleet.settle();
    assert_eq!((fleet.assigned(), fleet.phase()), (vec![Some("b"), Some("a"), Some("a")], Phase::Paused));
    assert_eq!(fleet.condition("Ready"), "False Paused");
    if let Ok(wanted) = &mut fleet.model.wanted {
        (wanted.paused, wanted.on_failure) = (false, OnFailure::Pause);
    }
    fleet.fail(0, "b", "SoakErrors", Some("a"));
    fleet.settle_without_obeying();
    assert_eq!((fleet.assigned(), fleet.phase()), (vec![Some("b"), Some("a"), Some("a")], Phase::Paused));
    assert_eq!(fleet.condition("Stalled"), "True RolloutFailed");
}

impl Fleet {
    fn settle_without_obeying(&mut self) {
        while self.plan() {}
        self.now += 20;
        while self.plan() {}
    }
}

#[test]
fn new_pods_serve_what_has_proved_itself_and_pods_that_go_are_forgotten() {
    let mut fleet = Fleet::new(2, "a");
    fleet.settle();
    fleet.want("b");
    fleet.plan();
    let new = PodView { name: "pod-9".to_owned(), ready: false, ready_since: None, ..fleet.pods[0].clone() };
    fleet.pods.push(new);
    fleet.plan();
    let replica = fleet.replicas.iter().find(|replica| replica.body.pod_name == "pod-9").unwrap();
    assert_eq!(
        (replica.body.revision.as_deref(), replica.body.prefetch_revision.as_deref()),
        (Some("a"), Some("b"))
    );
    fleet.pods.remove(0);
    fleet.plan();
    assert!(!fleet.replicas.iter().any(|replica| replica.body.pod_name == "pod-0"));
}

#[test]
fn the_first_prepared_digest_binds_the_others() {
    let mut fleet = Fleet::new(2, "a");
    fleet.plan();
    fleet.obey();
    let digest = |letter: &str| Some(format!("sha256:{}", letter.repeat(64)));
    fleet.replicas[0].status.prepared_digest = digest("a");
    fleet.replicas[1].status.prepared_digest = digest("b");
    fleet.plan();
    assert_eq!(fleet.phase(), Phase::Failed);
    assert_eq!(fleet.model.status.last_failure.as_ref().unwrap().reason, "DigestMismatch");
}

#[test]
fn a_spec_that_is_not_followed_changes_nothing() {
    let mut fleet = Fleet::new(2, "a");
    fleet.settle();
    fleet.model.generation += 1;
    fleet.model.wanted =
        Err(Refused { reason: "ServedNameConflict", message: "`chat` is served by the Model b".to_owned() });
    fleet.settle();
    assert_eq!(fleet.assigned(), [Some("a"); 2]);
    assert_eq!(fleet.condition("Accepted"), "False ServedNameConflict");
    assert_eq!(
        (fleet.condition("Ready"), fleet.condition("Stalled")),
        ("False ServedNameConflict".into(), "-".into())
    );
}
