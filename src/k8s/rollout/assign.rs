//! Which pod is to serve and to prepare what.

use super::view::{PodView, ReplicaView, Scene};
use super::{Action, is_quarantined};
use crate::k8s::crd::{ModelStatus, ReplicaBody};
use crate::model::spec::IntOrPercent;

/// What there is to write, given the status that was just decided.
pub(super) fn actions(status: &ModelStatus, scene: &Scene) -> Vec<Action> {
    let moving = scene.model.wanted.as_ref().is_ok_and(|wanted| !wanted.paused);
    let stable = status.stable.as_ref().map(|stable| stable.revision.clone());
    let target = status.target.as_ref().map(|target| target.revision.clone());
    let rolling = target.clone().filter(|target| !is_quarantined(status, target));
    let next = match &rolling {
        Some(target) if moving => chosen_for_target(target, stable.as_deref(), scene),
        None if target.is_none() && stable.is_some() => chosen_for_stable(stable.as_deref(), scene),
        _ => Vec::new(),
    };
    let mut actions: Vec<Action> =
        scene.orphans.iter().map(|orphan| Action::Delete(orphan.body.pod_name.clone())).collect();
    for (pod, replica) in &scene.live {
        let old = replica.map(|replica| &replica.body);
        let mut body = old.cloned().unwrap_or_else(|| ReplicaBody {
            pod_name: pod.name.clone(),
            model_name: scene.model.name.clone(),
            model_uid: scene.model.uid.clone(),
            ..ReplicaBody::default()
        });
        if next.contains(&pod.name.as_str()) {
            body.revision = rolling.clone().or_else(|| stable.clone());
            body.may_unload = others_serve(&pod.name, &next, scene);
        } else if body.revision.is_none() || is_lost(*replica, stable.as_deref(), target.as_deref()) {
            // New pods serve what has proved itself, and so does one that was told to serve what nobody knows any more.
            body.revision = stable.clone().or(body.revision);
        }
        if moving {
            match &rolling {
                Some(target) if body.revision.as_ref() == Some(target) => {}
                Some(target) => {
                    body.prefetch_revision = Some(target.clone());
                    body.retry = Some(scene.model.attempt());
                }
                None => {
                    body.prefetch_revision =
                        body.prefetch_revision.filter(|one| Some(one) == body.revision.as_ref());
                    // One that has given up what all others serve tries it again when somebody asks for it.
                    let stable = stable.as_deref().filter(|_| scene.model.retry.is_some());
                    if stable
                        .is_some_and(|stable| replica.is_some_and(|replica| replica.has_given_up(stable)))
                    {
                        body.retry = Some(scene.model.attempt());
                    }
                }
            }
        }
        match old {
            // A pod of a model that has nothing to serve or prepare yet needs no object.
            None if body.revision.is_none() && body.prefetch_revision.is_none() => {}
            None => actions.push(Action::Create(ReplicaBody { epoch: 1, ..body })),
            Some(old) if *old == body => {}
            Some(old) => actions.push(Action::Update(ReplicaBody { epoch: old.epoch + 1, ..body })),
        }
    }
    actions
}

/// Pods that move on to the target now: first one, alone; then as many as may be out of service at once.
fn chosen_for_target<'a>(target: &str, stable: Option<&str>, scene: &Scene<'a>) -> Vec<&'a str> {
    let ready = || scene.live.iter().filter(|(pod, _)| pod.ready);
    let prepared =
        |replica: Option<&ReplicaView>| replica.is_some_and(|replica| replica.has_prepared(target));
    let begun = scene.replicas().any(|replica| replica.is_assigned(target));
    let budget = budget(scene, Some(target));
    if !begun {
        let all_prepared = ready().all(|(_, replica)| prepared(*replica));
        // Where others are out of service already, one of those: it may be what the target mends.
        let idle = |replica: &ReplicaView| replica.status.serving_revision.is_none();
        let free = budget > 0 || stable.is_none();
        let candidates = ready().filter(|(_, replica)| free || replica.is_some_and(idle));
        // The pod that has been ready for longest has proved most.
        let canary = candidates.min_by_key(|(pod, _)| (pod.ready_since, &pod.name)).filter(|_| all_prepared);
        return canary.map(|(pod, _)| pod.name.as_str()).into_iter().collect();
    }
    if !scene.live.iter().any(|pod| scene.has_soaked(pod, target)) {
        return Vec::new();
    }
    let other = |replica: &&ReplicaView| !replica.is_assigned(target) && replica.has_prepared(target);
    let movable = ready().filter_map(|(pod, replica)| Some((*pod, replica.filter(other)?)));
    // One that was to serve something else and cannot is out of service already.
    let stuck = |(_, replica): &(&PodView, &ReplicaView)| {
        replica.status.serving_revision.is_none() && replica.body.revision.is_some()
    };
    let (stuck, serving): (Vec<_>, Vec<_>) = movable.partition(stuck);
    let name = |(pod, _): (&'a PodView, &ReplicaView)| pod.name.as_str();
    serving.into_iter().take(budget).chain(stuck).map(name).collect()
}

/// Pods that go back, or follow, to what is stable now. One that serves nothing waits for nobody.
fn chosen_for_stable<'a>(stable: Option<&str>, scene: &Scene<'a>) -> Vec<&'a str> {
    let elsewhere = |replica: &ReplicaView| replica.body.revision.as_deref() != stable;
    let waiting: Vec<_> = scene
        .live
        .iter()
        .filter_map(|(pod, replica)| Some((*pod, replica.filter(|replica| elsewhere(replica))?)))
        .collect();
    let (serving, idle): (Vec<_>, Vec<_>) = waiting
        .into_iter()
        .partition(|(pod, replica)| pod.ready && replica.status.serving_revision.is_some());
    let budget = budget(scene, stable);
    let name = |(pod, _): (&'a PodView, &ReplicaView)| pod.name.as_str();
    serving.into_iter().take(budget).chain(idle).map(name).collect()
}

/// How many more pods may be taken out of service: those that are out already, and those that change, count.
fn budget(scene: &Scene, towards: Option<&str>) -> usize {
    let allowed = scene
        .model
        .wanted
        .as_ref()
        .map_or(IntOrPercent::Int(1), |wanted| wanted.max_unavailable)
        .of(scene.live.len());
    let out = scene.live.iter().filter(|pod| {
        let (view, replica) = pod;
        let changes = replica.is_some_and(|replica| {
            let assigned = replica.body.revision.as_deref();
            let watched = towards.filter(|revision| scene.model.status.stable_revision() != Some(revision));
            let settling = |revision: &str| assigned == Some(revision) && !scene.has_soaked(pod, revision);
            assigned.is_some_and(|assigned| !replica.serves(assigned)) || watched.is_some_and(settling)
        });
        !view.ready || changes
    });
    allowed.saturating_sub(out.count())
}

/// Whether some pod beside this one, and beside those that change now, serves what it is to serve and gets requests.
fn others_serve(pod: &str, changing: &[&str], scene: &Scene) -> bool {
    scene.live.iter().any(|(other, replica)| {
        let serves = |replica: &ReplicaView| {
            replica.body.revision.is_some() && replica.body.revision == replica.status.serving_revision
        };
        let stays = other.name != pod && !changing.contains(&other.name.as_str());
        other.ready && stays && replica.is_some_and(serves)
    })
}

/// Whether a pod is to serve a revision of the past and does not: it may never find out what that was.
fn is_lost(replica: Option<&ReplicaView>, stable: Option<&str>, target: Option<&str>) -> bool {
    replica.is_some_and(|replica| {
        let assigned = replica.body.revision.as_deref();
        let known = assigned == stable || assigned == target;
        !known && assigned.is_some_and(|assigned| !replica.serves(assigned))
    })
}
