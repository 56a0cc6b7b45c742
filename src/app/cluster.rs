//! How the parts of a process in a cluster are put together: the gateway's agent, and the controller.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;

use super::{bind, defaults, serve};
use crate::config::{ControllerSettings, Settings};
use crate::http::{self, ControllerOps, Server};
use crate::k8s::{self, Agent, ConfigMapModels, Controller, ControllerHealth};
use crate::memory;
use crate::metrics::Metrics;
use crate::model::{Desired, FleetHandle, Registry};
use crate::models_file::FileStatus;
use crate::shutdown::{Phase, StopRequests, Tasks};

/// The agent that follows the cluster, if models come from there.
pub(super) async fn agent(
    settings: &Settings,
    (registry, metrics): (&Arc<Registry>, &Arc<Metrics>),
    fleet: &FleetHandle,
    desired: &watch::Sender<Option<Desired>>,
) -> anyhow::Result<Option<Agent>> {
    let Some(gateway) = settings.cluster.gateway_name.clone() else {
        return Ok(None);
    };
    let (client, own_namespace) = k8s::connect().await?;
    let pod = settings.cluster.pod_name.clone();
    Ok(Some(Agent {
        client,
        namespace: settings.cluster.pod_namespace.clone().unwrap_or(own_namespace),
        gateway,
        pod: pod
            .context("models come from the cluster, and POD_NAME does not say which pod this is: set it")?,
        defaults: defaults(settings),
        registry: Arc::clone(registry),
        fleet: fleet.clone(),
        desired: desired.clone(),
        metrics: Arc::clone(metrics),
        // No model has a name that begins so.
        state_file: settings.sources.state_folder().join("_cluster.json"),
    }))
}

/// The list of models in a ConfigMap, if models come from there.
pub(super) async fn config_map(
    settings: &Settings,
    (registry, metrics): (&Arc<Registry>, &Arc<Metrics>),
    desired: &watch::Sender<Option<Desired>>,
    status: &Arc<FileStatus>,
) -> anyhow::Result<Option<ConfigMapModels>> {
    let cluster = &settings.cluster;
    let Some(name) = cluster.models_config_map.clone() else {
        return Ok(None);
    };
    let (client, own_namespace) = k8s::connect().await?;
    let status = Arc::clone(status);
    Ok(Some(ConfigMapModels {
        client,
        namespace: cluster.pod_namespace.clone().unwrap_or(own_namespace),
        name,
        pod: cluster.pod_name.clone().unwrap_or_default(),
        spread: cluster.config_map_spread,
        defaults: defaults(settings),
        metrics: Arc::clone(metrics),
        registry: Arc::clone(registry),
        desired: desired.clone(),
        told: Box::new(move |outcome| status.set(outcome)),
    }))
}

/// Moves models across the pods of a gateway until told to stop.
///
/// # Errors
/// It is not known where the cluster is, or the address of the probes is taken.
pub async fn control(settings: ControllerSettings, mut stop: StopRequests) -> anyhow::Result<()> {
    let (client, own_namespace) = k8s::connect().await?;
    let metrics = Arc::new(Metrics::new());
    if let Some(bytes) = memory::limit_bytes() {
        metrics.memory_limit(bytes);
    }
    let health = ControllerHealth::default();
    let listener = bind(settings.ops_address, "INFERENCE_OPS_ADDRESS").await?;
    let (phase, phase_seen) = watch::channel(Phase::Serving);
    let (stuck, ready) = (health.clone(), health.clone());
    let ops = ControllerOps {
        is_stuck: Box::new(move || stuck.is_stuck()),
        is_ready: Box::new(move || ready.is_ready()),
        metrics: Arc::clone(&metrics),
    };
    let tasks = Tasks::default();
    tracing::info!(ops = %listener.local_addr()?, gateway = settings.gateway_name, "listening");
    tasks.spawn(serve(Server::internal(listener), http::controller_router(ops), phase_seen, Phase::Draining));
    let pod = settings.pod_name.clone().unwrap_or_else(|| "controller".to_owned());
    let controller = Controller {
        client,
        namespace: settings.pod_namespace.clone().unwrap_or(own_namespace),
        gateway: settings.gateway_name.clone(),
        // Another one in every life: what an earlier process of this pod has written may still be on its way.
        identity: format!("{pod}_{:08x}", rand::random::<u32>()),
        lease: settings.lease_name.clone(),
        metrics,
        health,
    };
    Box::pin(controller.run(async move { stop.asked(1).await })).await;
    phase.send_replace(Phase::Aborting);
    tasks.joined().await;
    tracing::info!("stopped");
    Ok(())
}
