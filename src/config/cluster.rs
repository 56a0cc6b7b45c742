//! Settings of a gateway in a cluster: whose models it serves, and who it is.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::LogSettings;

/// Models from the cluster, in place of the default model.
#[derive(Debug, Clone, Args)]
pub struct ClusterSettings {
    /// Serve the `Model` objects of this gateway, of the pod's namespace.
    #[arg(long, env = "INFERENCE_GATEWAY_NAME", value_name = "NAME", conflicts_with_all = ["models_file", "models_config_map"])]
    pub gateway_name: Option<String>,
    /// Serve the list of models under the key `models.yaml` of this ConfigMap, read from the cluster.
    #[arg(long, env = "INFERENCE_MODELS_CONFIG_MAP", value_name = "NAME", conflicts_with = "models_file")]
    pub models_config_map: Option<String>,
    /// A change of that ConfigMap is followed so much later at the most, each pod at its own time.
    #[arg(long, env = "INFERENCE_CONFIG_MAP_SPREAD", default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub config_map_spread: Duration,
    /// Before a model of the cluster is unloaded to make room for its next revision while other pods serve it, /readyz says 503
    /// for so long: endpoints take a moment to notice. Requests are answered meanwhile.
    #[arg(long, env = "INFERENCE_ENDPOINTS_DELAY", default_value = "5s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub endpoints_delay: Duration,
    /// Name of this pod.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// Namespace of this pod. Default: that of its service account, or of the kubeconfig.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub pod_namespace: Option<String>,
}

impl ClusterSettings {
    /// Whether models come from the cluster.
    pub fn is_used(&self) -> bool {
        self.gateway_name.is_some() || self.models_config_map.is_some()
    }
}

/// Settings of the controller.
#[derive(Debug, Clone, Args)]
pub struct ControllerSettings {
    /// The gateway whose models it moves.
    #[arg(long, env = "INFERENCE_GATEWAY_NAME", default_value = "default", value_name = "NAME")]
    pub gateway_name: String,
    /// The lease that one controller holds at a time; whoever installs the controller makes it.
    #[arg(
        long,
        env = "INFERENCE_LEASE_NAME",
        default_value = "inference-gateway-controller",
        value_name = "NAME"
    )]
    pub lease_name: String,
    /// Address for probes and metrics.
    #[arg(long, env = "INFERENCE_OPS_ADDRESS", default_value = "0.0.0.0:3001", value_name = "ADDRESS")]
    pub ops_address: SocketAddr,
    /// Name of this pod.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// Namespace of this pod. Default: that of its service account, or of the kubeconfig.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub pod_namespace: Option<String>,
    /// What is logged.
    #[command(flatten)]
    pub log: LogSettings,
}
