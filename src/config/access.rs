//! Settings of who may use the API, and the metrics.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ConfigError;

/// Who is asked whether a request may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuthMode {
    /// Nobody: whoever reaches the address may use it.
    None,
    /// A file of keys.
    #[value(name = "apiKeys")]
    ApiKeys,
    /// The cluster, by the token of a user or service account.
    Kubernetes,
}

/// Who is asked whether metrics may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MetricsAuth {
    /// Nobody.
    None,
    /// The cluster, by the token of a user or service account.
    Kubernetes,
}

/// Who may use the API, and the metrics.
#[derive(Debug, Clone, Args)]
pub struct AccessSettings {
    /// Who may use the API: `none` lets everybody in who reaches it, `apiKeys` those with a key of the file of keys,
    /// `kubernetes` those whose token the cluster knows, for the models for which it allows them `create` on
    /// `models/generate` of the group `inference-gateway.io`.
    #[arg(long, env = "INFERENCE_AUTH_MODE", default_value = "none", value_name = "MODE")]
    pub auth_mode: AuthMode,
    /// The file of keys, watched for changes: names, keys or their SHA-256, models and quotas.
    #[arg(long, env = "INFERENCE_AUTH_KEYS_FILE", value_name = "FILE")]
    pub auth_keys_file: Option<PathBuf>,
    /// Audiences of which the token of a user has to have one. Default: that of the cluster's apiserver.
    #[arg(long, env = "INFERENCE_AUTH_AUDIENCES", value_delimiter = ',', value_name = "NAMES")]
    pub auth_audiences: Vec<String>,
    /// Percent of a model's places, running and waiting, that the requests of one key or user may have at once.
    #[arg(long, env = "INFERENCE_CALLER_SHARE", default_value = "50", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub caller_share: u8,
    /// Who may read /metrics, also on the address for probes: `none` asks nobody, `kubernetes` lets those read whose token
    /// the cluster knows and whom it allows `get` on the path `/metrics`.
    #[arg(long, env = "INFERENCE_METRICS_AUTH", default_value = "none", value_name = "MODE")]
    pub metrics_auth: MetricsAuth,
}

impl AccessSettings {
    /// The file of keys, if keys are asked for.
    ///
    /// # Errors
    /// A setting is there that the mode does not use, or one is not there that it needs.
    pub fn keys_file(&self) -> Result<Option<PathBuf>, ConfigError> {
        let contradiction = |message| Err(ConfigError::Contradiction(message));
        let asks_cluster =
            self.auth_mode == AuthMode::Kubernetes || self.metrics_auth == MetricsAuth::Kubernetes;
        match (self.auth_mode, &self.auth_keys_file) {
            _ if !self.auth_audiences.is_empty() && !asks_cluster => contradiction(
                "INFERENCE_AUTH_AUDIENCES is set, and nobody's token is looked at: set INFERENCE_AUTH_MODE to kubernetes, or \
                 leave the audiences out",
            ),
            (AuthMode::ApiKeys, Some(file)) => Ok(Some(file.clone())),
            (AuthMode::ApiKeys, None) => contradiction(
                "INFERENCE_AUTH_MODE is apiKeys, and INFERENCE_AUTH_KEYS_FILE does not say where the keys are",
            ),
            (AuthMode::None | AuthMode::Kubernetes, Some(_)) => contradiction(
                "INFERENCE_AUTH_KEYS_FILE is set, and nobody looks at it: set INFERENCE_AUTH_MODE to apiKeys, or leave the \
                 file out",
            ),
            (AuthMode::None | AuthMode::Kubernetes, None) => Ok(None),
        }
    }
}
