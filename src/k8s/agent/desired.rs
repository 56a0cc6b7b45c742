//! What this pod is to serve: a function of the objects, of what was known before, and of the time.
//!
//! In this order: what the controller assigned to this pod; what has proved itself in the fleet; what the model's object asks
//! for, when no controller speaks for [`PATIENCE`]. A pod never stops serving because something is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Replica;
use crate::k8s::crd::{DEFAULT_MIN_READY_SECONDS, FrozenSpec, Slot};
use crate::k8s::objects::{ModelObject, Unreadable};
use crate::model::spec::{ModelDocument, ModelSpec, RolloutSpec};
use crate::model::{Defaults, Desired, Purpose, Target, revision_of};

/// A controller that has not spoken for so long is taken to be away.
const PATIENCE: Duration = Duration::from_secs(30);
/// A revision that was assigned and is not described for so long is told to be wrong: a watch of the models that has died in silence
/// is noticed before.
const UNKNOWN_FOR: Duration = Duration::from_mins(1);
/// A model whose object is gone goes on for so long at least: where the definition is deleted, the apiserver deletes all objects
/// first, and knows the kind for some seconds more.
const GONE_FOR: Duration = Duration::from_secs(10);
/// Revisions of a model that are remembered.
const MOST_SLOTS: usize = 8;

/// What is known of the models of this pod; survives a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    models: BTreeMap<String, Remembered>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "facts that hold or not, each for itself")]
struct Remembered {
    /// Of its object.
    uid: String,
    /// The object's spec, the last that could be read: limits and rollout apply as it says now.
    spec: ModelSpec,
    created: i64,
    /// Revisions, the newest last.
    slots: Vec<Slot>,
    /// The revision to serve.
    serve: Option<String>,
    /// The revision to prepare.
    ahead: Option<String>,
    /// Whether the fleet has a revision that has proved itself.
    has_stable: bool,
    /// That revision.
    #[serde(default)]
    stable: Option<String>,
    /// Whether a controller has assigned it.
    assigned: bool,
    /// Whether other pods serve it while this one swaps.
    #[serde(default)]
    may_unload: bool,
    /// The last value of the annotation that asks for another try.
    retry: Option<String>,
    /// Why what was assigned, or is asked for now, is not taken up.
    #[serde(skip)]
    problem: Option<String>,
    /// Since when a revision is assigned of which nothing is known: its object may be on its way here.
    #[serde(skip)]
    unknown_since: Option<Instant>,
    #[serde(skip)]
    unassigned_since: Option<Instant>,
    /// Since when neither an object nor an assignment of this pod speaks of it.
    #[serde(skip)]
    gone_since: Option<Instant>,
    /// Whether it was known when the cluster did not know its kind: that its object is not there says nothing.
    #[serde(default)]
    outlived_its_kind: bool,
}

/// What a look at the objects has brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Whether something else is to be served or prepared, or under other limits.
    pub(super) changed: bool,
    /// Models for which another try is asked.
    pub(super) retries: Vec<String>,
}

impl Memory {
    /// What the last process knew; nothing, if that cannot be read.
    pub(super) fn read(path: &Path) -> Self {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "what was known of the cluster cannot be read; beginning anew");
                Self::default()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "failed to read what was known of the cluster");
                }
                Self::default()
            }
        }
    }

    /// Keeps what is known for the next process. A folder that cannot be written costs only that.
    pub(super) fn write(&self, path: &Path) {
        let staged = path.with_extension("json.new");
        let bytes = serde_json::to_vec(self).expect("models have string keys only");
        let folder = path.parent().unwrap_or(Path::new("."));
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&staged, bytes))
            .and_then(|()| std::fs::File::open(&staged)?.sync_all())
            .and_then(|()| std::fs::rename(&staged, path))
            .and_then(|()| std::fs::File::open(folder)?.sync_all());
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "failed to keep what is known of the cluster: a start without it has nothing to begin with");
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.models.is_empty()
    }

    /// Takes in what was read of the cluster.
    pub(super) fn learn(
        &mut self,
        models: &[ModelObject],
        replicas: &BTreeMap<String, Replica>,
        (defaults, now): (&Defaults, Instant),
    ) -> News {
        let mut news = News::default();
        let there: BTreeSet<&String> =
            models.iter().map(|model| &model.name).chain(replicas.keys()).collect();
        for (name, known) in &mut self.models {
            known.gone_since = (!there.contains(name)).then(|| known.gone_since.unwrap_or(now));
        }
        for model in models {
            let replica = replicas.get(&model.name);
            let replica = replica.filter(|replica| replica.body.model_uid == model.uid);
            let before = self.models.get(&model.name).cloned();
            let Some(mut known) = remembered(before.as_ref(), model, replica.is_some()) else {
                continue;
            };
            known.slots_of(model);
            known.problem = None;
            let possible = |known: &Remembered| known.target(&model.name, defaults).map(|_| ());
            if let Some(before) = &before
                && let Err(problem) = possible(&known)
            {
                // Limits that do not hold do not end what serves.
                known.spec = before.spec.clone();
                known.problem = Some(problem);
            }
            let (serve, ahead) = (known.serve.clone(), known.ahead.clone());
            match replica {
                Some(replica) => known.assign(replica, now),
                None => known.without_assignment(model, now),
            }
            if let Err(problem) = possible(&known) {
                (known.serve, known.ahead) = (serve, ahead);
                known.problem = Some(problem);
            }
            if replica.is_some_and(|replica| replica.body.retry != known.retry) {
                known.retry = replica.and_then(|replica| replica.body.retry.clone());
                if before.is_some() {
                    news.retries.push(model.name.clone());
                }
            }
            news.changed |= before.is_none_or(|before| !before.is_as(&known));
            self.models.insert(model.name.clone(), known);
        }
        news
    }

    /// Takes in whether the cluster knows the kind of the models, after what was read of it; whether that changes anything.
    ///
    /// A definition that is deleted takes all objects along. Nobody has said of any model that it is to end, so all go on until
    /// an object of their name is there again, and the cluster is asked about that one.
    pub(super) fn hear_of_the_kind(&mut self, is_missing: bool, models: &[ModelObject]) -> bool {
        let mut changed = false;
        for (name, known) in &mut self.models {
            let outlived =
                is_missing || (known.outlived_its_kind && !models.iter().any(|model| model.name == *name));
            changed |= outlived != known.outlived_its_kind;
            known.outlived_its_kind = outlived;
        }
        if changed && is_missing {
            tracing::warn!(
                models = self.models.len(),
                "the cluster does not know the kind of the models: all that are known go on"
            );
        }
        changed
    }

    /// Takes in that news of the models may be missing: what is not described may be on its way.
    pub(super) fn excuse_what_is_unknown(&mut self) {
        for known in self.models.values_mut() {
            known.unknown_since = None;
        }
    }

    /// Whether models end as soon as it is certain that the cluster still knows their kind: a model whose object is gone goes on
    /// until its replica is gone too, when the controller has so decided, and a while after the last such change.
    pub(super) fn awaits_an_end(&self, now: Instant) -> bool {
        let gone = self.models.values().filter(|known| !known.outlived_its_kind);
        let last = gone.filter_map(|known| known.gone_since).max();
        last.is_some_and(|last| now.duration_since(last) >= GONE_FOR)
    }

    /// Forgets the models that are gone: the cluster knows their kind and does not have them.
    pub(super) fn end_what_is_gone(&mut self) {
        self.models.retain(|name, known| {
            let stays = known.gone_since.is_none() || known.outlived_its_kind;
            if !stays {
                tracing::info!(model = name, "the object of the model is gone");
            }
            stays
        });
    }

    /// The models to serve. One that cannot be begun is left out, and so is one whose name another one has.
    pub(super) fn desired(&self, defaults: &Defaults) -> Desired {
        let mut order: Vec<(&String, &Remembered)> = self.models.iter().collect();
        order.sort_by_key(|(name, known)| {
            (known.outlived_its_kind, !known.assigned, !known.has_stable, known.created, *name)
        });
        let (mut all, mut taken) = (Desired::new(), BTreeSet::new());
        for (name, known) in order {
            match known.target(name, defaults) {
                Ok(Some(target)) => {
                    if let Some(twice) = target.names.iter().find(|name| taken.contains(*name)) {
                        tracing::warn!(model = name, served_name = %twice, "another model has this name: not served");
                        continue;
                    }
                    taken.extend(target.names.iter().cloned());
                    all.insert(target.key.clone(), Arc::new(target));
                }
                Ok(None) => {}
                Err(problem) => tracing::error!(model = name, problem, "the model cannot be served"),
            }
        }
        all
    }

    /// For how long a pod is watched after it has swapped.
    pub(super) fn min_ready_seconds(&self, model: &str) -> u32 {
        let asked = self.models.get(model).and_then(|known| known.spec.rollout.min_ready_seconds);
        asked.unwrap_or(DEFAULT_MIN_READY_SECONDS)
    }

    /// Why what was assigned is not taken up, if that is so.
    pub(super) fn problem(&self, model: &str, now: Instant) -> Option<String> {
        let known = self.models.get(model)?;
        let unknown = known.unknown_since.is_some_and(|since| now.duration_since(since) >= UNKNOWN_FOR);
        let unknown = unknown.then(|| "a revision was assigned that its Model does not describe".to_owned());
        known.problem.clone().or(unknown)
    }
}

/// What is known of a model once its object was seen; `None` where the object is a new one that says nothing yet.
fn remembered(before: Option<&Remembered>, model: &ModelObject, assigned: bool) -> Option<Remembered> {
    if let Some(before) = before.filter(|before| before.uid == model.uid) {
        let mut known = before.clone();
        if let Ok(spec) = &model.spec {
            known.spec = spec.clone();
        }
        return Some(known);
    }
    // Another model of this name: what serves goes on until the controller says what to do, or is away.
    let kept = before.filter(|_| !assigned);
    Some(Remembered {
        uid: model.uid.clone(),
        spec: spec_to_begin_with(model)?,
        created: model.created,
        slots: kept.map(|kept| kept.slots.clone()).unwrap_or_default(),
        serve: kept.and_then(|kept| kept.serve.clone()),
        ahead: None,
        has_stable: false,
        stable: None,
        assigned: false,
        may_unload: false,
        retry: None,
        problem: None,
        unknown_since: None,
        unassigned_since: None,
        gone_since: None,
        outlived_its_kind: before.is_some_and(|before| before.outlived_its_kind),
    })
}

/// The spec of an object of which no other is known.
fn spec_to_begin_with(model: &ModelObject) -> Option<ModelSpec> {
    match &model.spec {
        Ok(spec) => Some(spec.clone()),
        Err(Unreadable::Template(rest, fault)) => {
            tracing::warn!(
                model = model.name,
                fault,
                "a template does not hold: served without prompt templates"
            );
            Some((**rest).clone())
        }
        Err(Unreadable::Unknown(_) | Unreadable::Invalid(_)) => None,
    }
}

impl Remembered {
    /// Remembers the revisions that the object names.
    fn slots_of(&mut self, model: &ModelObject) {
        let spec = model.spec.as_ref().ok().map(|spec| Slot {
            revision: revision_of(spec),
            generation: model.generation,
            digest: None,
            spec: FrozenSpec::of(spec),
        });
        let status = model.status.as_ref();
        let (target, stable) = (status.and_then(|s| s.target.clone()), status.and_then(|s| s.stable.clone()));
        if status.is_some() {
            self.has_stable = stable.is_some();
            self.stable = stable.as_ref().map(|stable| stable.revision.clone());
        }
        // What the status has may be pinned to a digest: it counts.
        for slot in [spec, target, stable].into_iter().flatten() {
            let known = self.slots.iter().position(|known| known.revision == slot.revision);
            match known {
                Some(known) if slot.digest.is_some() || self.slots[known].digest.is_none() => {
                    self.slots[known] = slot;
                }
                Some(_) => {}
                None => self.slots.push(slot),
            }
        }
        let needed = [self.serve.clone(), self.ahead.clone()];
        while self.slots.len() > MOST_SLOTS {
            let surplus = self.slots.iter().position(|slot| !needed.contains(&Some(slot.revision.clone())));
            self.slots.remove(surplus.unwrap_or_default());
        }
    }

    /// What the controller says. A revision of which nothing is known yet changes nothing.
    fn assign(&mut self, replica: &Replica, now: Instant) {
        self.assigned = true;
        self.unassigned_since = None;
        let wanted = [replica.body.revision.as_ref(), replica.body.prefetch_revision.as_ref()];
        if wanted.into_iter().flatten().any(|revision| self.slot(revision).is_none()) {
            self.unknown_since.get_or_insert(now);
            return;
        }
        self.unknown_since = None;
        self.may_unload = replica.body.may_unload;
        self.serve.clone_from(&replica.body.revision);
        let ahead = replica.body.prefetch_revision.clone();
        self.ahead = ahead.filter(|ahead| Some(ahead) != self.serve.as_ref());
    }

    /// What is served when no controller speaks: for a while what is served now, then what has proved itself, then what the
    /// object asks for.
    fn without_assignment(&mut self, model: &ModelObject, now: Instant) {
        self.unknown_since = None;
        let since = *self.unassigned_since.get_or_insert(now);
        let waited = now.duration_since(since) >= PATIENCE;
        let stable = model.status.as_ref().and_then(|status| status.stable.as_ref());
        if self.serve.is_some() && !waited {
            return;
        }
        self.assigned = false;
        self.may_unload = false;
        self.ahead = None;
        match (stable, &model.spec) {
            (Some(stable), _) => self.serve = Some(stable.revision.clone()),
            (None, Ok(spec)) if waited && !model.deleting && !spec.paused => {
                self.serve = Some(revision_of(spec));
            }
            (None, _) => {}
        }
    }

    fn slot(&self, revision: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.revision == revision)
    }

    fn target(&self, name: &str, defaults: &Defaults) -> Result<Option<Target>, String> {
        let build = |revision: &String, purpose| {
            let slot =
                self.slot(revision).ok_or_else(|| format!("nothing is known of revision {revision}"))?;
            self.build(name, slot, purpose, defaults)
        };
        let serving = if self.has_stable { Purpose::Needed } else { Purpose::Serve };
        match (&self.serve, &self.ahead) {
            (Some(serve), ahead) => {
                let mut target = build(serve, serving)?;
                target.ahead =
                    ahead.as_ref().map(|ahead| build(ahead, Purpose::Prepare)).transpose()?.map(Arc::new);
                Ok(Some(target))
            }
            (None, Some(ahead)) => build(ahead, Purpose::Prepare).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn build(
        &self,
        name: &str,
        slot: &Slot,
        purpose: Purpose,
        defaults: &Defaults,
    ) -> Result<Target, String> {
        let FrozenSpec { served_name, source, tokenizer, runtime, verify } = slot.spec.clone();
        let RolloutSpec { swap_policy, drain_seconds, after_drain, watch, .. } = self.spec.rollout.clone();
        let spec = ModelSpec {
            gateway_ref: None,
            served_name,
            aliases: self.spec.aliases.clone(),
            source,
            tokenizer,
            runtime,
            prompt_template: self.spec.prompt_template.clone(),
            prompt_templates: self.spec.prompt_templates.clone(),
            limits: self.spec.limits.clone(),
            verify,
            rollout: RolloutSpec { swap_policy, drain_seconds, after_drain, watch, ..RolloutSpec::default() },
            paused: false,
        };
        let document = ModelDocument { name: name.to_owned(), spec };
        let mut target = Target::from_document(&document, defaults).map_err(|error| error.to_string())?;
        target.revision.clone_from(&slot.revision);
        target.purpose = purpose;
        target.is_stable = self.stable.as_ref() == Some(&slot.revision);
        target.leave = self.may_unload.then_some(defaults.endpoints_delay);
        if let Some(digest) = &slot.digest {
            target.digest = Some(digest.parse().map_err(|error| format!("the pinned digest: {error}"))?);
        }
        Ok(target)
    }

    /// Whether the same is to be served, prepared and allowed.
    fn is_as(&self, other: &Self) -> bool {
        let Self { uid, spec, slots, serve, ahead, has_stable, stable, may_unload, .. } = self;
        (uid, spec, slots, serve, ahead)
            == (&other.uid, &other.spec, &other.slots, &other.serve, &other.ahead)
            && (has_stable, stable, may_unload) == (&other.has_stable, &other.stable, &other.may_unload)
    }
}

#[cfg(test)]
mod tests;
