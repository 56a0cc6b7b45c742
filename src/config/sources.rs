//! Settings of where models come from: caches, the hub, and which hosts may be reached how.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{ConfigError, Secret, parse_bytes, variable};
use crate::model::source::{HostPattern, Network};
use crate::model::spec::HttpUrl;

/// Where models come from and are kept.
#[derive(Debug, Clone, Args)]
pub struct SourceSettings {
    /// Folder for prepared models and for downloads that are not the hub's. Default: `$XDG_CACHE_HOME/inference-gateway`.
    #[arg(long, env = "INFERENCE_CACHE_DIR", value_name = "FOLDER")]
    pub cache_dir: Option<PathBuf>,
    /// Folder in which models note what they went through, so that one that kills the process is not tried for ever. Of this
    /// gateway alone. Default: `state` and the host's name below the cache folder.
    #[arg(long, env = "INFERENCE_STATE_DIR", value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,
    /// Bytes above which models that are not in use are removed from that folder, as 100Gi. Default: none is removed.
    #[arg(long, env = "INFERENCE_CACHE_LIMIT", value_name = "BYTES", value_parser = parse_bytes)]
    pub cache_limit: Option<u64>,
    /// Address of the Hugging Face hub.
    #[arg(long, env = "HF_ENDPOINT", default_value = "https://huggingface.co", value_name = "URL")]
    pub hf_endpoint: String,
    /// Token for the hub.
    #[arg(long, env = "HF_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub hf_token: Option<Secret>,
    /// Folder of the hub's files; downloads go to its folder `hub`. Default: `$XDG_CACHE_HOME/huggingface`.
    #[arg(long, env = "HF_HOME", value_name = "FOLDER")]
    pub hf_home: Option<PathBuf>,
    /// The only hosts that models may come from, as `models.example.com,*.example.org`. Default: any. Hosts that these
    /// settings themselves name are always allowed.
    #[arg(long, env = "INFERENCE_ALLOWED_HOSTS", value_delimiter = ',', value_name = "HOSTS")]
    pub allowed_hosts: Vec<HostPattern>,
    /// Hosts that models may come from without TLS.
    #[arg(long, env = "INFERENCE_INSECURE_HOSTS", value_delimiter = ',', value_name = "HOSTS")]
    pub insecure_hosts: Vec<HostPattern>,
    /// Networks that are not public and that models may come from, as `10.0.0.0/8,fd00::/8`.
    #[arg(long, env = "INFERENCE_ALLOWED_PRIVATE_NETWORKS", value_delimiter = ',', value_name = "NETWORKS")]
    pub allowed_private_networks: Vec<Network>,
    /// PEM file with certificate authorities that downloads trust in addition to the system's.
    #[arg(long, env = "INFERENCE_CA_BUNDLE", value_name = "FILE")]
    pub ca_bundle: Option<PathBuf>,
    /// A download that brings hardly anything for so long is broken off, and goes on over a new connection.
    #[arg(long, env = "INFERENCE_STALL_TIMEOUT", default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub stall_timeout: Duration,
    /// Largest file that is downloaded, in bytes.
    #[arg(long, env = "INFERENCE_MAX_DOWNLOAD_BYTES", default_value = "68719476736", value_name = "BYTES")]
    pub max_download_bytes: u64,
    /// Largest model that is accepted, all its files together, in bytes.
    #[arg(long, env = "INFERENCE_MAX_MODEL_BYTES", default_value = "128Gi", value_name = "BYTES", value_parser = parse_bytes)]
    pub max_model_bytes: u64,
}

impl SourceSettings {
    /// Folder for prepared models and for downloads that are not the hub's.
    pub fn cache_folder(&self) -> PathBuf {
        self.cache_dir.clone().unwrap_or_else(|| user_cache().join("inference-gateway"))
    }

    /// Folder in which models note what they went through.
    pub fn state_folder(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| {
            let host = variable("HOSTNAME").unwrap_or_else(|| "localhost".into());
            self.cache_folder().join("state").join(host)
        })
    }

    pub(super) fn hub_home(&self) -> PathBuf {
        self.hf_home.clone().unwrap_or_else(|| user_cache().join("huggingface"))
    }

    /// Address of the hub.
    ///
    /// # Errors
    /// The text is no http or https address.
    pub fn hub_endpoint(&self) -> Result<HttpUrl, ConfigError> {
        HttpUrl::parse(&self.hf_endpoint)
            .map_err(|cause| ConfigError::Source { variable: "HF_ENDPOINT", cause })
    }

    /// Folder of the hub's files.
    pub fn hub_cache(&self) -> PathBuf {
        self.hub_home().join("hub")
    }

    /// The hub's token, when there is one; an empty variable is none.
    pub fn hub_token(&self) -> Option<&str> {
        self.hf_token.as_ref().map(Secret::reveal).filter(|token| !token.is_empty())
    }
}

/// `$XDG_CACHE_HOME`, else `~/.cache`, else the system's temporary folder.
fn user_cache() -> PathBuf {
    variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
}
