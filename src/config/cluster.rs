//! Settings of a gateway in a cluster: whose models it serves, and who it is.

use clap::Args;

/// Models from the cluster, in place of the default model.
#[derive(Debug, Clone, Args)]
pub struct ClusterSettings {
    /// Serve the `Model` objects of this gateway, of the pod's namespace.
    #[arg(long, env = "INFERENCE_GATEWAY_NAME", value_name = "NAME", conflicts_with_all = ["models_file", "models_config_map"])]
    pub gateway_name: Option<String>,
    /// Serve the list of models under the key `models.yaml` of this ConfigMap, read from the cluster.
    #[arg(long, env = "INFERENCE_MODELS_CONFIG_MAP", value_name = "NAME", conflicts_with = "models_file")]
    pub models_config_map: Option<String>,
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
