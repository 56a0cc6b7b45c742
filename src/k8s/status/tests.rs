//! The whole matrix: each state that a model can be in, and all its conditions.

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::k8s::crd::Failed;

/// A state: phase, whether there is a stable revision, how the wanted one failed, pods, those that serve anything, those that
/// serve what is wanted.
struct State {
    name: &'static str,
    phase: Phase,
    stable: bool,
    failed: Option<Stage>,
    pods: [u32; 3],
    late: bool,
    refused: Option<&'static str>,
}

const fn state(name: &'static str, phase: Phase, stable: bool, pods: [u32; 3]) -> State {
    State { name, phase, stable, failed: None, pods, late: false, refused: None }
}

fn conditions_of(state: &State) -> Vec<String> {
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let [replicas, ready_replicas, updated_replicas] = state.pods;
    let quarantined = state.failed.map(|stage| Quarantined {
        revision: "new".to_owned(),
        reason: "ProbeFailed".to_owned(),
        stage,
        generation: 1,
        retry: None,
    });
    let stable = json!({"revision": "old", "generation": 1, "source": {"path": "old"}});
    let status = ModelStatus {
        stable: state.stable.then(|| serde_json::from_value(stable).unwrap()),
        quarantined: quarantined.into_iter().collect(),
        replicas,
        ready_replicas,
        updated_replicas,
        last_failure: state.failed.map(|_| Failed {
            revision: "new".to_owned(),
            replica: Some("pod-1".to_owned()),
            reason: "ProbeFailed".to_owned(),
            message: "probe 0".to_owned(),
            time: now.to_string(),
        }),
        ..ModelStatus::default()
    };
    let refused = state.refused.map(|reason| Refused { reason, message: "not like this".to_owned() });
    let facts =
        Facts { wanted: refused.as_ref().map_or(Ok("new"), Err), phase: state.phase, late: state.late };
    let all = conditions(&status, &facts, &[], now);
    assert!(all.iter().all(|condition| !condition.message.is_empty()), "{}", state.name);
    all.iter()
        .map(|condition| format!("{}={:?}:{}", condition.type_, condition.status, condition.reason))
        .collect()
}

#[test]
fn every_state_has_its_conditions() {
    let failed =
        |name, stage, stable, pods| State { failed: Some(stage), ..state(name, Phase::Failed, stable, pods) };
    let refused = |name, reason| State { refused: Some(reason), ..state(name, Phase::Idle, true, [3, 3, 0]) };
    #[rustfmt::skip]
    let matrix: [(State, &str); 19] = [
        // state                                                                       accepted, available, progressing, ready, degraded, stalled
        (state("first, preparing", Phase::Preparing, false, [3, 0, 0]),               "True:Accepted False:FirstLoadPending True:Preparing False:Preparing False:AsExpected"),
        (state("first, canary", Phase::Canary, false, [3, 0, 0]),                     "True:Accepted False:FirstLoadPending True:CanaryLoading False:CanaryLoading False:AsExpected"),
        (state("first, rolling", Phase::Rolling, false, [3, 2, 2]),                   "True:Accepted True:Serving True:RollingOut False:RollingOut False:AsExpected"),
        (State { late: true, ..state("first, late", Phase::Preparing, false, [3, 0, 0]) }, "True:Accepted False:FirstLoadPending True:Preparing False:Preparing False:AsExpected True:ProgressDeadlineExceeded"),
        (failed("first, failed", Stage::Preparing, false, [3, 0, 0]),                 "True:Accepted False:FirstLoadPending False:RolloutFailed False:PreflightFailed True:FirstLoadFailed True:PreflightFailed"),
        (failed("first, failed in a pod", Stage::Rolling, false, [3, 1, 0]),          "True:Accepted True:Serving False:RolloutFailed False:RolloutFailed True:FirstLoadFailed True:RolloutFailed"),
        (state("served", Phase::Idle, true, [3, 3, 3]),                               "True:Accepted True:Serving False:RolloutComplete True:RolledOut False:AsExpected"),
        (state("served, a pod is new", Phase::Idle, true, [4, 3, 3]),                 "True:Accepted True:Serving True:RollingOut False:RollingOut True:ReplicasUnavailable"),
        (state("served, all pods are away", Phase::Idle, true, [3, 0, 0]),            "True:Accepted False:BelowMinimum True:RollingOut False:RollingOut True:ReplicasUnavailable"),
        (state("scaled to none", Phase::Idle, true, [0, 0, 0]),                       "True:Accepted False:NoReplicas False:RolloutComplete False:NoReplicas False:AsExpected"),
        (state("update, preparing", Phase::Preparing, true, [3, 3, 0]),               "True:Accepted True:Serving True:Preparing False:Preparing False:AsExpected"),
        (state("update, rolling", Phase::Rolling, true, [3, 3, 1]),                   "True:Accepted True:Serving True:RollingOut False:RollingOut False:AsExpected"),
        (failed("update, failed before", Stage::Preparing, true, [3, 3, 3]),          "True:Accepted True:Serving False:RolloutFailed False:PreflightFailed False:AsExpected True:PreflightFailed"),
        (State { phase: Phase::RollingBack, ..failed("update, going back", Stage::Rolling, true, [3, 3, 1]) }, "True:Accepted True:Serving True:RollingBack False:RollingBack True:RolledBack"),
        (failed("update, went back", Stage::Rolling, true, [3, 3, 3]),                "True:Accepted True:Serving False:RolloutFailed False:RolledBack True:RolledBack True:RolloutFailed"),
        (failed("update, too late", Stage::Deadline, true, [3, 3, 3]),                "True:Accepted True:Serving False:RolloutFailed False:RolledBack True:RolledBack True:ProgressDeadlineExceeded"),
        (state("paused", Phase::Paused, true, [3, 3, 1]),                             "True:Accepted True:Serving False:Paused False:Paused False:AsExpected"),
        (refused("another has the name", "ServedNameConflict"),                       "False:ServedNameConflict True:Serving False:ServedNameConflict False:ServedNameConflict False:AsExpected"),
        (refused("not understood", "InvalidSpec"),                                    "False:InvalidSpec True:Serving False:InvalidSpec False:InvalidSpec False:AsExpected True:InvalidSpec"),
    ];
    for (state, expected) in matrix {
        let types = ["Accepted", "Available", "Progressing", "Ready", "Degraded", "Stalled"];
        let expected: Vec<String> =
            types.iter().zip(expected.split(' ')).map(|(type_, told)| format!("{type_}={told}")).collect();
        assert_eq!(conditions_of(&state), expected, "{}", state.name);
    }
}

#[test]
fn the_time_of_a_condition_changes_only_with_its_status() {
    let times: [Timestamp; 2] =
        ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"].map(|time| time.parse().unwrap());
    let mut status = ModelStatus { replicas: 1, ready_replicas: 1, ..ModelStatus::default() };
    let facts = |phase| Facts { wanted: Ok("new"), phase, late: false };
    let first = conditions(&status, &facts(Phase::Canary), &[], times[0]);
    status.ready_replicas = 0;
    let second = conditions(&status, &facts(Phase::Rolling), &first, times[1]);
    for (condition, changed) in second.iter().zip([false, true, false, false, false]) {
        let since = if changed { times[1] } else { times[0] };
        assert_eq!(condition.last_transition_time, since.to_string(), "{}", condition.type_);
    }
}
