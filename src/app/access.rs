//! How the parts that let requests in are put together.

use std::sync::Arc;

use crate::access::{Access, KeyRing, Reviewer};
use crate::config::{AuthMode, MetricsAuth, Settings};
use crate::http::{ConnectionLimits, Tls, TlsFiles};
use crate::k8s::{self, ClusterReviews};
use crate::metrics::Metrics;

/// Who lets requests in.
pub(super) struct Door {
    /// To the API.
    pub(super) access: Arc<Access>,
    /// To the metrics, where they are not for everybody.
    pub(super) scrapers: Option<Arc<Reviewer>>,
    /// The keys, if there are any, to be followed.
    pub(super) keys: Option<Arc<KeyRing>>,
    /// The certificate, if there is one, to be followed.
    pub(super) tls: Option<Arc<Tls>>,
}

/// What the settings say about who may come in.
///
/// # Errors
/// The settings contradict each other, or it is not known where the cluster is.
pub(super) async fn door(settings: &Settings, metrics: &Arc<Metrics>) -> anyhow::Result<Door> {
    let access = &settings.access;
    let share = access.caller_share;
    let keys = match access.keys_file()? {
        None => None,
        Some(file) => Some(Arc::new(KeyRing::open(file, share, Arc::clone(metrics)).await)),
    };
    let asks_cluster =
        access.auth_mode == AuthMode::Kubernetes || access.metrics_auth == MetricsAuth::Kubernetes;
    let reviewer = if asks_cluster { Some(reviewer(settings, metrics).await?) } else { None };
    let asked = match (&keys, &reviewer) {
        (Some(keys), _) => Access::keys(Arc::clone(keys), Arc::clone(metrics)),
        (None, Some(reviewer)) if access.auth_mode == AuthMode::Kubernetes => {
            Access::cluster(Arc::clone(reviewer), share, Arc::clone(metrics))
        }
        (None, _) => {
            tracing::warn!(
                "whoever reaches the API may use it: set INFERENCE_AUTH_MODE to apiKeys or kubernetes to ask who comes"
            );
            Access::open(Arc::clone(metrics))
        }
    };
    let scrapers = reviewer.filter(|_| access.metrics_auth == MetricsAuth::Kubernetes);
    Ok(Door { access: Arc::new(asked), scrapers, keys, tls: tls(settings, metrics).await? })
}

async fn tls(settings: &Settings, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Arc<Tls>>> {
    let Some((certificate, key)) = settings.connections.tls_files()? else {
        return Ok(None);
    };
    let files = TlsFiles { certificate, key, client_ca: settings.connections.tls_client_ca_file.clone() };
    Ok(Some(Arc::new(Tls::open(files, Arc::clone(metrics)).await)))
}

/// What connections of the API may take.
pub(super) fn connection_limits(settings: &Settings) -> ConnectionLimits {
    let connections = &settings.connections;
    ConnectionLimits {
        connections: connections.max_connections as usize,
        header_bytes: connections.max_header_bytes as usize,
        idle_timeout: connections.idle_timeout,
        write_timeout: connections.write_timeout,
    }
}

async fn reviewer(settings: &Settings, metrics: &Arc<Metrics>) -> anyhow::Result<Arc<Reviewer>> {
    let (client, own_namespace) = k8s::connect().await?;
    let reviews = ClusterReviews {
        client,
        namespace: settings.cluster.pod_namespace.clone().unwrap_or(own_namespace),
        audiences: settings.access.auth_audiences.clone(),
    };
    Ok(Arc::new(Reviewer::new(Box::new(reviews), Arc::clone(metrics))))
}
