//! The cluster's side: the only folder that names `kube`.
//!
//! ```text
//! in the gateway's pod      Model, ModelReplica ─▶ agent ─▶ desired models;   registry ─▶ agent ─▶ its ModelReplica's status
//! in the controller's pod   Model, ModelReplica, Pod ─▶ controller ─▶ rollout::plan ─▶ ModelReplica's spec, Model's status
//! ```
//!
//! A pod writes nothing but the status of its own replicas; the controller writes everything else, and only while it holds
//! the lease. Neither needs the other to go on serving.

mod access;
mod agent;
mod clock;
mod configmap;
mod controller;
pub mod crd;
mod definitions;
mod lease;
mod objects;
mod rollout;
mod status;
mod watch;

pub use access::ClusterReviews;
pub use agent::Agent;
pub use configmap::ConfigMapModels;
pub use controller::{Controller, ControllerHealth};
pub use kube::Client;

use std::time::Duration;

use kube::Config;

/// Time for a connection to the apiserver.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no way to the cluster.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a service account nor a kubeconfig.
    #[error("failed to find the cluster: run in a pod with a service account token, or set KUBECONFIG")]
    Config(#[source] kube::config::InferConfigError),
    /// What was found makes no client.
    #[error("failed to make a client for the cluster")]
    Client(#[source] kube::Error),
}

/// A client for the cluster that this process runs in, or that `KUBECONFIG` names, and the namespace that goes with it.
/// Connects to nobody yet.
///
/// # Errors
/// It is not known where the cluster is, or who we are in it.
pub async fn connect() -> Result<(Client, String), ConnectError> {
    let mut config = Config::infer().await.map_err(ConnectError::Config)?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // The library would try again in silence, 15 times within minutes. Whoever asks here has pauses of their own, tells what
    // was answered, and must hear soon of an apiserver that is well again.
    config.default_retry = false;
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(ConnectError::Client)?;
    Ok((client, namespace))
}
