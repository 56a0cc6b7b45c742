//! What must hold after every plan, and what must have become of everything when nobody changes anything any more.

use super::*;

impl World {
    pub(super) fn check(
        &self,
        plan: &Plan,
        (status, replicas, pods): &(ModelStatus, Vec<ReplicaView>, Vec<PodView>),
    ) -> Result<(), String> {
        let of = |pod: &str| replicas.iter().find(|replica| replica.body.pod_name == pod);
        let target = plan.status.target.as_ref().map(|target| target.revision.clone());
        let mut after: Vec<ReplicaBody> = replicas.iter().map(|replica| replica.body.clone()).collect();
        for action in &plan.actions {
            let (Action::Create(body) | Action::Update(body)) = action else { continue };
            let before = of(&body.pod_name);
            let moves = body.revision.is_some()
                && before.and_then(|before| before.body.revision.as_ref()) != body.revision.as_ref();
            let revision = body.revision.clone().unwrap_or_default();
            if moves
                && plan.status.quarantined.iter().any(|failed| failed.revision == revision)
                && plan.status.stable_revision() != Some(&revision)
            {
                return Err(format!("I2: {revision} has failed and is assigned to {}", body.pod_name));
            }
            if moves
                && Some(&revision) == target.as_ref()
                && plan.status.stable_revision() != Some(&revision)
                && !before.is_some_and(|before| before.has_prepared(&revision))
            {
                return Err(format!("I4: {} has not prepared {revision}", body.pod_name));
            }
            after.retain(|other| other.pod_name != body.pod_name);
            after.push(body.clone());
        }
        let allowed = self.model.wanted.as_ref().map_or(1, |wanted| wanted.max_unavailable.of(pods.len()));
        let out = |bodies: &[ReplicaBody]| {
            let changes = |pod: &&PodView| {
                let body = bodies.iter().find(|body| body.pod_name == pod.name);
                let serving = of(&pod.name).and_then(|replica| replica.status.serving_revision.clone());
                // One that serves nothing is not taken out by being told to serve something.
                !pod.ready
                    || serving.is_some()
                        && body.is_some_and(|body| body.revision.is_some() && body.revision != serving)
            };
            pods.iter().filter(changes).count()
        };
        let before: Vec<ReplicaBody> = replicas.iter().map(|replica| replica.body.clone()).collect();
        if out(&after) > allowed.max(out(&before)) {
            return Err(format!("I1: {} pods are out of service, allowed are {allowed}", out(&after)));
        }
        if plan.status.stable != status.stable {
            let revision = plan.status.stable_revision().unwrap_or_default().to_owned();
            let serves =
                |pod: &PodView| !pod.ready || of(&pod.name).is_some_and(|replica| replica.serves(&revision));
            if !pods.iter().all(serves) || pods.is_empty() {
                return Err(format!("I5: {revision} became stable too early"));
            }
        }
        Ok(())
    }

    /// Without new input: everybody does what it should, until nothing changes any more.
    pub(super) fn converge(&mut self) -> Result<(), String> {
        self.late = None;
        self.want(|wanted| wanted.paused = false);
        self.pods.values_mut().for_each(|pod| pod.ready = true);
        for round in 0..80 {
            let before = (self.model.status.clone(), self.replicas());
            for pod in 0..MOST_PODS {
                self.obey(pod);
                self.tell(pod);
            }
            self.lead(usize::MAX)?;
            self.now += if round % 8 == 7 { 700 } else { 11 };
            if before == (self.model.status.clone(), self.replicas()) && round % 8 != 7 {
                return self.check_end();
            }
        }
        Err(format!("I3: it does not come to rest: {:?}", self.model.status))
    }

    fn check_end(&self) -> Result<(), String> {
        let wanted = self.model.wanted.as_ref().map(|wanted| wanted.slot.revision.clone()).unwrap();
        let all_serve = |revision: &str| {
            self.pods.values().all(|pod| pod.serving.as_ref().is_some_and(|(serving, _)| serving == revision))
        };
        let harmless = self.faults[wanted.as_str()] == Fault::None && !self.convicted.contains(&wanted);
        match self.model.status.stable_revision() {
            _ if self.pods.is_empty() => Ok(()),
            Some(stable) if stable == wanted && all_serve(&wanted) => Ok(()),
            // What cannot be loaded in some pod any more may stay away there; the others go on.
            Some(stable) if !harmless && self.all_serve_or_cannot(stable) => Ok(()),
            None if !harmless => Ok(()),
            stable => Err(format!(
                "I3: wanted {wanted}, stable {stable:?}, and the pods are {:?}; {:?}",
                self.pods, self.model.status
            )),
        }
    }

    fn all_serve_or_cannot(&self, stable: &str) -> bool {
        self.pods.values().all(|pod| {
            pod.serving.as_ref().is_some_and(|(serving, _)| serving == stable)
                || pod.failed.contains_key(stable) && !pod.convicted.contains(stable)
                || self.faults[stable] != Fault::None
        })
    }
}
