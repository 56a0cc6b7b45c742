//! The part of a pod's status that others look at, written as a kubelet writes it and read as a Service reads it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStatus, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

/// A frozen apiserver must not keep the stand-in from its probes.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
const ADDRESS: &str = "127.0.0.1";

/// What was seen of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) ready: bool,
    pub(crate) restarts: i32,
}

/// Whether a Service would send requests to a pod: it is ready, and nobody has deleted it.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready =
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"));
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// Whether it was written.
pub(crate) async fn write_status(pods: &Api<Pod>, pod: &Pod, observed: Observed) -> bool {
    let change = Patch::Merge(json!({"status": status(observed)}));
    let (name, manager) = (pod.name_any(), PatchParams::default());
    let written = pods.patch_status(&name, &manager, &change);
    matches!(tokio::time::timeout(WRITE_TIMEOUT, written).await, Ok(Ok(_)))
}

fn status(observed: Observed) -> PodStatus {
    let Observed { ready, restarts } = observed;
    let now = Time(jiff::Timestamp::now());
    let conditions =
        [("PodScheduled", true), ("Initialized", true), ("ContainersReady", ready), ("Ready", ready)].map(
            |(type_, holds)| PodCondition {
                type_: type_.to_owned(),
                status: if holds { "True" } else { "False" }.to_owned(),
                last_transition_time: Some(now.clone()),
                ..PodCondition::default()
            },
        );
    let running = ContainerStateRunning { started_at: Some(now.clone()) };
    let container = ContainerStatus {
        name: "gateway".to_owned(),
        image: "inference-gateway".to_owned(),
        ready,
        started: Some(true),
        restart_count: restarts,
        state: Some(ContainerState { running: Some(running), ..ContainerState::default() }),
        ..ContainerStatus::default()
    };
    PodStatus {
        phase: Some("Running".to_owned()),
        pod_ip: Some(ADDRESS.to_owned()),
        pod_ips: Some(vec![PodIP { ip: ADDRESS.to_owned() }]),
        host_ip: Some(ADDRESS.to_owned()),
        start_time: Some(now),
        conditions: Some(conditions.into()),
        container_statuses: Some(vec![container]),
        ..PodStatus::default()
    }
}
