//! The metrics of what is heard from the cluster, and of what the controller does in it.

use std::collections::BTreeSet;

use prometheus::{IntCounter, IntGauge};

use super::family::Family;
use super::{Declare, SINGLE};

/// Values of the label `phase` of a rollout.
const PHASES: [&str; 7] = ["Idle", "Preparing", "Canary", "Rolling", "RollingBack", "Paused", "Failed"];

/// The families.
pub(super) struct Cluster {
    watch_healthy: Family<IntGauge>,
    watch_errors: Family<IntCounter>,
    writes: Family<IntCounter>,
    definition_outdated: Family<IntGauge>,
    leader: Family<IntGauge>,
    leader_changes: Family<IntCounter>,
    rollout_phase: Family<IntGauge>,
    rollouts: Family<IntCounter>,
}

impl Cluster {
    pub(super) fn new(on: &Declare) -> Self {
        Self {
            watch_healthy: on.gauges(
                "watch_healthy",
                "1 while the objects of this kind are being watched, 0 while what is known of them may be old.",
                &["resource"],
            ),
            watch_errors: on.counters(
                "watch_errors_total",
                "Errors while watching objects of this kind, by status code of the apiserver, or `connection`.",
                &["resource", "code"],
            ),
            writes: on.counters(
                "cluster_writes_total",
                "Writes to the apiserver, by kind of object and outcome: written, conflict, refused, failed.",
                &["resource", "outcome"],
            ),
            definition_outdated: on.gauges(
                "definition_outdated",
                "1 while the cluster's definition of objects of this kind lacks fields that this controller uses, else 0.",
                &["resource"],
            ),
            leader: on.gauges("controller_leader", "1 while this controller holds the lease, else 0.", &[]),
            leader_changes: on.counters(
                "controller_leader_changes_total",
                "Times that this controller began to hold the lease.",
                &[],
            ),
            rollout_phase: on.gauges(
                "rollout_phase",
                "1 for the phase in which the rollout of a model is, 0 for the others; told by the controller that leads.",
                &["model", "phase"],
            ),
            rollouts: on.counters(
                "rollouts_total",
                "Rollouts that ended, by outcome: complete, failed, superseded.",
                &["model", "outcome"],
            ),
        }
    }
}

/// How a write to the apiserver ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is stored.
    Written,
    /// Somebody else was faster: what was written from is old.
    Conflict,
    /// The apiserver does not allow it, or does not accept the object.
    Refused,
    /// The apiserver was not reached, or failed.
    Failed,
}

impl WriteOutcome {
    /// Value of the label `outcome`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Conflict => "conflict",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl super::Metrics {
    /// Tells whether objects of a kind are being watched.
    pub fn watch_healthy(&self, resource: &'static str, healthy: bool) {
        self.cluster.watch_healthy.with_label_values(&[resource]).set(i64::from(healthy));
    }

    /// Counts an error of a watch; `code` is a status code, or `None` when no answer came.
    pub fn watch_error(&self, resource: &'static str, code: Option<u16>) {
        let code = code.map_or_else(|| "connection".to_owned(), |code| code.to_string());
        self.cluster.watch_errors.with_label_values(&[resource, &code]).inc();
    }

    /// Counts a write to the apiserver.
    pub fn cluster_write(&self, resource: &'static str, outcome: WriteOutcome) {
        self.cluster.writes.with_label_values(&[resource, outcome.label()]).inc();
    }

    /// Tells whether the cluster's definition of a kind lacks fields that we use.
    pub fn definition_outdated(&self, resource: &'static str, outdated: bool) {
        self.cluster.definition_outdated.with_label_values(&[resource]).set(i64::from(outdated));
    }

    /// Tells whether this controller holds the lease.
    pub fn leading(&self, leading: bool) {
        let leader = self.cluster.leader.with_label_values(SINGLE);
        let changes = self.cluster.leader_changes.with_label_values(SINGLE);
        if leading && leader.get() == 0 {
            changes.inc();
        }
        leader.set(i64::from(leading));
    }

    /// Tells in which phase the rollout of a model is.
    pub fn rollout_phase(&self, model: &str, phase: &'static str) {
        for one in PHASES {
            self.cluster.rollout_phase.with_label_values(&[model, one]).set(i64::from(one == phase));
        }
    }

    /// Forgets the rollouts of all models but these: the others are gone, or another controller tells of them.
    pub fn keep_rollouts_of<'model>(&self, models: impl IntoIterator<Item = &'model str>) {
        let kept: BTreeSet<&str> = models.into_iter().collect();
        self.cluster.rollout_phase.retain(|values| kept.contains(values[0].as_str()));
    }

    /// Counts a rollout that ended. `outcome` is a word of ours.
    pub fn rollout_ended(&self, model: &str, outcome: &'static str) {
        self.cluster.rollouts.with_label_values(&[model, outcome]).inc();
    }
}
