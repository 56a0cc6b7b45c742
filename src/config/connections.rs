//! Settings of what connections of the API may take, and of TLS.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::ConfigError;

/// What connections of the API may take.
#[derive(Debug, Clone, Args)]
pub struct ConnectionSettings {
    /// Connections of the API at once; one more is closed.
    #[arg(long, env = "INFERENCE_MAX_CONNECTIONS", default_value = "10000", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// Bytes of the head of a request; what is larger, or has more than 100 headers, is refused with status 431.
    #[arg(long, env = "INFERENCE_MAX_HEADER_BYTES", default_value = "65536", value_name = "BYTES", value_parser = clap::value_parser!(u32).range(8192..=1 << 20))]
    pub max_header_bytes: u32,
    /// A connection on which the head of a request has not come for so long, the wait for its first byte included, is closed.
    #[arg(long, env = "INFERENCE_IDLE_TIMEOUT", default_value = "2m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub idle_timeout: Duration,
    /// Time for the body of a request, after which it is refused with status 408.
    #[arg(long, env = "INFERENCE_BODY_TIMEOUT", default_value = "1m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub body_timeout: Duration,
    /// A connection whose client has taken nothing of its answer for so long is closed.
    #[arg(long, env = "INFERENCE_WRITE_TIMEOUT", default_value = "1m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub write_timeout: Duration,
    /// PEM file with the certificate of the API listener, and those between it and its authority; watched for changes.
    #[arg(long, env = "INFERENCE_TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file with the private key of that certificate; watched for changes.
    #[arg(long, env = "INFERENCE_TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,
    /// PEM file with authorities: clients have to have a certificate of one of them. Watched for changes.
    #[arg(long, env = "INFERENCE_TLS_CLIENT_CA_FILE", value_name = "FILE")]
    pub tls_client_ca_file: Option<PathBuf>,
}

impl ConnectionSettings {
    /// The files of certificate and key, if the API is to speak TLS.
    ///
    /// # Errors
    /// One is there without the other.
    pub fn tls_files(&self) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
        match (&self.tls_cert_file, &self.tls_key_file, &self.tls_client_ca_file) {
            (Some(certificate), Some(key), _) => Ok(Some((certificate.clone(), key.clone()))),
            (None, None, None) => Ok(None),
            (None, None, Some(_)) => Err(ConfigError::Contradiction(
                "INFERENCE_TLS_CLIENT_CA_FILE is set without TLS: set INFERENCE_TLS_CERT_FILE and INFERENCE_TLS_KEY_FILE",
            )),
            (Some(_), None, _) | (None, Some(_), _) => Err(ConfigError::Contradiction(
                "INFERENCE_TLS_CERT_FILE and INFERENCE_TLS_KEY_FILE go together, and one of them is not set",
            )),
        }
    }
}
