//! Thousands of random schedules against a simulated fleet: pods that fail, restart, die, come and go; specs that change; leaders
//! that die between two writes, and stale ones that write late. The promises of the plan are checked after every step.

mod pods;
mod promises;

use std::collections::{BTreeMap, BTreeSet};

use pods::{JUDGE, Judge, Pod};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::tests::{at, model, wanted};
use super::*;
use crate::k8s::crd::ReplicaStatus;

const REVISIONS: [&str; 3] = ["a", "b", "c"];
const MOST_PODS: usize = 4;
const SEED: u8 = 1;

/// What goes wrong with a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Wherever it is prepared.
    Prepare,
    /// In the pod of this number, when it is loaded.
    Load(usize),
    /// In the pod of this number, a moment after it was loaded.
    Soak(usize),
    /// For a while, wherever it is prepared.
    Passing,
}

#[derive(Debug, Clone)]
enum Step {
    Wait(i64),
    /// A pod hears of its replica and does what it says.
    Obey(usize),
    /// A pod tells what it does.
    Tell(usize),
    /// The leader plans, and writes so many of the writes before it dies.
    Lead(usize),
    /// A leader plans, and writes later: all of it, if nobody else has written since.
    Stall,
    WriteLate,
    Want(usize),
    Retry,
    Pause(bool),
    AddPod,
    RemovePod(usize),
    Ready(usize, bool),
    Restart(usize),
    /// The process of a pod is killed.
    Die(usize),
    /// All of them are.
    PowerCut,
    Recreate,
    Mend,
}

fn step() -> impl Strategy<Value = Step> {
    let pod = 0..MOST_PODS;
    prop_oneof![
        6 => (1i64..15).prop_map(Step::Wait),
        10 => pod.clone().prop_map(Step::Obey),
        10 => pod.clone().prop_map(Step::Tell),
        14 => prop_oneof![3 => Just(usize::MAX), 1 => 0usize..4].prop_map(Step::Lead),
        1 => Just(Step::Stall),
        1 => Just(Step::WriteLate),
        2 => (0..REVISIONS.len()).prop_map(Step::Want),
        1 => Just(Step::Retry),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => Just(Step::AddPod),
        1 => pod.clone().prop_map(Step::RemovePod),
        1 => (pod.clone(), any::<bool>()).prop_map(|(pod, ready)| Step::Ready(pod, ready)),
        1 => pod.clone().prop_map(Step::Restart),
        1 => pod.prop_map(Step::Die),
        1 => Just(Step::PowerCut),
        1 => Just(Step::Recreate),
        1 => Just(Step::Mend),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::Prepare),
        1 => (0..MOST_PODS).prop_map(Fault::Load),
        1 => (0..MOST_PODS).prop_map(Fault::Soak),
        1 => Just(Fault::Passing),
    ]
}

impl Action {
    fn revision(&self) -> Option<&str> {
        match self {
            Self::Create(body) | Self::Update(body) => body.revision.as_deref(),
            Self::Delete(_) => None,
        }
    }
}

#[derive(Debug, Clone)]
struct Stored {
    view: ReplicaView,
    version: u64,
}

type Planner = fn(&ModelView, &[ReplicaView], &[PodView], Timestamp) -> Plan;

struct World {
    planner: Planner,
    judge: Judge,
    /// Revisions that some pod has convicted, rightly or not.
    convicted: BTreeSet<String>,
    model: ModelView,
    model_version: u64,
    replicas: BTreeMap<String, Stored>,
    pods: BTreeMap<String, Pod>,
    faults: BTreeMap<&'static str, Fault>,
    next_pod: usize,
    now: i64,
    /// What a stalled leader wants to write, and the versions that it had seen.
    late: Option<(Plan, u64, BTreeMap<String, u64>)>,
}

impl World {
    fn new((planner, judge): (Planner, Judge), pods: usize, faults: &[Fault]) -> Self {
        let mut world = Self {
            planner,
            judge,
            convicted: BTreeSet::new(),
            model: model("a"),
            model_version: 0,
            replicas: BTreeMap::new(),
            pods: BTreeMap::new(),
            faults: REVISIONS.into_iter().zip(faults.iter().copied()).collect(),
            next_pod: 0,
            now: 0,
            late: None,
        };
        (0..pods).for_each(|_| world.add_pod());
        world
    }

    fn add_pod(&mut self) {
        if self.pods.len() < MOST_PODS {
            let pod = Pod { number: self.next_pod % MOST_PODS, ready: true, ..Pod::default() };
            self.pods.insert(format!("pod-{}", self.next_pod), pod);
            self.next_pod += 1;
        }
    }

    fn name(&self, index: usize) -> Option<String> {
        self.pods.keys().nth(index).cloned()
    }

    fn replicas(&self) -> Vec<ReplicaView> {
        let of_this_model = |stored: &&Stored| stored.view.body.model_uid == self.model.uid;
        self.replicas.values().filter(of_this_model).map(|stored| stored.view.clone()).collect()
    }

    fn pods(&self) -> Vec<PodView> {
        let view = |(name, pod): (&String, &Pod)| PodView {
            name: name.clone(),
            uid: name.clone(),
            ready: pod.ready,
            ready_since: pod.ready.then(|| at(-100)),
            terminating: false,
        };
        self.pods.iter().map(view).collect()
    }

    fn want(&mut self, change: impl FnOnce(&mut Wanted)) {
        self.model.generation += 1;
        let generation = self.model.generation;
        if let Ok(wanted) = &mut self.model.wanted {
            change(wanted);
            wanted.slot.generation = generation;
        }
        self.model_version += 1;
    }

    fn run(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Wait(seconds) => self.now += seconds,
            Step::Obey(pod) => self.obey(*pod),
            Step::Tell(pod) => self.tell(*pod),
            Step::Lead(writes) => self.lead(*writes)?,
            Step::Stall => {
                let plan = self.plan();
                let seen = self.replicas.iter().map(|(pod, stored)| (pod.clone(), stored.version)).collect();
                self.late = Some((plan, self.model_version, seen));
            }
            Step::WriteLate => self.write_late(),
            Step::Want(revision) => {
                let revision = REVISIONS[*revision];
                self.want(|wanted| wanted.slot = super::tests::slot(revision, 0));
            }
            Step::Retry => {
                self.model.retry = Some(format!("retry-{}", self.now));
                self.model_version += 1;
            }
            Step::Pause(paused) => self.want(|wanted| wanted.paused = *paused),
            Step::AddPod => self.add_pod(),
            Step::RemovePod(index) => drop(self.name(*index).and_then(|name| self.pods.remove(&name))),
            Step::Ready(index, ready) => {
                if let Some(pod) = self.name(*index).and_then(|name| self.pods.get_mut(&name)) {
                    pod.ready = *ready;
                }
            }
            Step::Restart(index) => {
                if let Some(pod) = self.name(*index).and_then(|name| self.pods.get_mut(&name)) {
                    pod.restart();
                }
            }
            Step::Die(index) => {
                if let Some(pod) = self.name(*index).and_then(|name| self.pods.get_mut(&name)) {
                    pod.die(self.now);
                }
            }
            Step::PowerCut => self.pods.values_mut().for_each(|pod| pod.die(self.now)),
            Step::Recreate => {
                let revision = self.model.wanted.as_ref().map(|wanted| wanted.slot.revision.clone()).unwrap();
                self.model.uid.push('+');
                self.model.generation = 1;
                self.model.status = ModelStatus { observed_generation: -1, ..ModelStatus::default() };
                self.model.wanted = Ok(wanted(&revision, 1));
                self.model_version += 1;
            }
            Step::Mend => {
                self.faults
                    .values_mut()
                    .filter(|fault| **fault == Fault::Passing)
                    .for_each(|fault| *fault = Fault::None);
            }
        }
        Ok(())
    }

    fn plan(&self) -> Plan {
        (self.planner)(&self.model, &self.replicas(), &self.pods(), at(self.now))
    }

    /// A leader plans and writes, status first, and dies after so many writes.
    fn lead(&mut self, writes: usize) -> Result<(), String> {
        self.remove_strangers();
        let before = (self.model.status.clone(), self.replicas(), self.pods());
        let plan = self.plan();
        self.check(&plan, &before)?;
        if writes > 0 {
            self.model.status = plan.status.clone();
            self.model_version += 1;
            for action in plan.actions.iter().take(writes - 1) {
                self.write(action);
            }
            if plan.actions.len() < writes {
                return self.rests(&plan.actions);
            }
        }
        // It is dead; the next one has another name and another clock.
        self.model.leader.push('+');
        Ok(())
    }

    /// Planning again on what came of a plan assigns nothing twice, and soon finds nothing to do. A pod that was just told to
    /// prepare what it has prepared already may be told to serve it.
    fn rests(&mut self, actions: &[Action]) -> Result<(), String> {
        let assigned = |action: &Action| (action.pod().to_owned(), action.revision().map(str::to_owned));
        let mut touched: BTreeSet<(String, Option<String>)> = actions.iter().map(assigned).collect();
        for _ in 0..MOST_PODS + 2 {
            let again = self.plan();
            let rests =
                again.actions.is_empty() && again.events.is_empty() && again.status == self.model.status;
            if rests {
                return Ok(());
            }
            self.model.status = again.status;
            for action in &again.actions {
                if !touched.insert(assigned(action)) {
                    return Err(format!("I6: a second write follows at once: {action:?} after {actions:?}"));
                }
                self.write(action);
            }
        }
        Err("I6: the plan does not come to rest".to_owned())
    }

    /// Replicas of an object that is gone.
    fn remove_strangers(&mut self) {
        let uid = self.model.uid.clone();
        self.replicas.retain(|_, stored| stored.view.body.model_uid == uid);
    }

    fn write(&mut self, action: &Action) {
        match action {
            Action::Create(body) => {
                let view = ReplicaView { body: body.clone(), status: ReplicaStatus::default() };
                self.replicas.insert(body.pod_name.clone(), Stored { view, version: 0 });
            }
            Action::Update(body) => {
                let stored = self.replicas.get_mut(&body.pod_name).unwrap();
                assert!(
                    body.epoch > stored.view.body.epoch,
                    "the apiserver refuses an epoch that does not grow"
                );
                stored.view.body.clone_from(body);
                stored.version += 1;
            }
            Action::Delete(pod) => drop(self.replicas.remove(pod)),
        }
    }

    /// Each write of a stale leader carries the version that it has read: the apiserver refuses those that are old.
    fn write_late(&mut self) {
        let Some((plan, model_version, seen)) = self.late.take() else { return };
        if model_version != self.model_version {
            return;
        }
        self.model.status = plan.status;
        self.model_version += 1;
        for action in plan.actions {
            let version = self.replicas.get(action.pod()).map(|stored| stored.version);
            if version == seen.get(action.pod()).copied() {
                self.write(&action);
            }
        }
    }
}

fn run(planner: Planner, judge: Judge, cases: u32) -> Result<(), String> {
    let faults = proptest::collection::vec(fault(), 3);
    let schedule = (1..MOST_PODS, faults, proptest::collection::vec(step(), 1..50), any::<bool>());
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    // The same schedules every time: a change is judged by what it changes. Another number tries others.
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[SEED; 32]);
    TestRunner::new_with_rng(config, random)
        .run(&schedule, |(pods, faults, steps, power_is_cut)| {
            let mut world = World::new((planner, judge), pods, &faults);
            for step in &steps {
                world.run(step).map_err(TestCaseError::fail)?;
            }
            world.converge().map_err(TestCaseError::fail)?;
            if power_is_cut {
                world.run(&Step::PowerCut).map_err(TestCaseError::fail)?;
                world.converge().map_err(TestCaseError::fail)?;
            }
            Ok(())
        })
        .map_err(|error| error.to_string())
}

#[test]
fn ten_thousand_schedules_break_no_promise() {
    run(plan, JUDGE, 10_000).unwrap_or_else(|error| panic!("{error}"));
}

/// Each is caught: a check that never fails proves nothing.
#[test]
fn broken_planners_are_caught() {
    let greedy: Planner = |model, replicas, pods, now| {
        let mut plan = plan(model, replicas, pods, now);
        let Some(target) = plan.status.target.as_ref().map(|target| target.revision.clone()) else {
            return plan;
        };
        for replica in replicas.iter().filter(|replica| replica.has_prepared(&target)) {
            let (pod, epoch) = (&replica.body.pod_name, replica.body.epoch + 1);
            let here = pods.iter().any(|view| view.name == *pod);
            if here && replica.body.revision.as_ref() != Some(&target) {
                let body = ReplicaBody { revision: Some(target.clone()), epoch, ..replica.body.clone() };
                let other =
                    |action: &Action| !matches!(action, Action::Update(body) if body.pod_name == *pod);
                plan.actions.retain(other);
                plan.actions.push(Action::Update(body));
            }
        }
        plan
    };
    let careless: Planner = |model, replicas, pods, now| {
        let mut plan = plan(model, replicas, pods, now);
        let target = plan.status.target.as_ref().map(|target| target.revision.clone());
        for action in &mut plan.actions {
            if let (Action::Create(body) | Action::Update(body), Some(target)) = (action, &target) {
                body.revision = Some(target.clone());
            }
        }
        plan
    };
    let hasty: Planner = |model, replicas, pods, now| {
        let mut plan = plan(model, replicas, pods, now);
        if let Some(target) = plan.status.target.take() {
            plan.status.stable = Some(target);
        }
        plan
    };
    let stubborn: Planner = |model, replicas, pods, now| {
        let mut forgetful = model.clone();
        forgetful.status.quarantined.clear();
        plan(&forgetful, replicas, pods, now)
    };
    for (name, planner, promise) in [
        ("greedy", greedy, "I1"),
        ("careless", careless, "I4"),
        ("hasty", hasty, "I5"),
        ("stubborn", stubborn, "I"),
    ] {
        let caught = run(planner, JUDGE, 2000).expect_err(name);
        assert!(caught.contains(promise), "{name}: {caught}");
    }
}

#[test]
fn pods_that_convict_what_the_fleet_has_found_good_are_caught() {
    let caught = run(plan, |_, stable| stable.is_some(), 2000).unwrap_err();
    assert!(caught.contains("I3"), "{caught}");
}
