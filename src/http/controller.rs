//! Probes and metrics of a controller, which serves nothing else.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use super::ops;
use crate::metrics::Metrics;

/// What a controller's probes ask.
pub struct ControllerOps {
    /// Whether it is stuck: the process should be started anew.
    pub is_stuck: Box<dyn Fn() -> bool + Send + Sync>,
    /// Whether it has heard of everything that it looks after.
    pub is_ready: Box<dyn Fn() -> bool + Send + Sync>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// `/healthz`, `/livez`, `/readyz`, `/metrics` of a controller.
pub fn controller_router(ops: ControllerOps) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .route(
            "/metrics",
            get(|State(ops): State<Arc<ControllerOps>>, headers| async move {
                ops::exposition(&ops.metrics, &headers)
            }),
        )
        .with_state(Arc::new(ops))
}

async fn alive(State(ops): State<Arc<ControllerOps>>) -> (StatusCode, &'static str) {
    if (ops.is_stuck)() {
        (StatusCode::SERVICE_UNAVAILABLE, "the lease was not renewed for too long\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn ready(State(ops): State<Arc<ControllerOps>>) -> (StatusCode, &'static str) {
    if (ops.is_ready)() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the objects of the cluster are not known yet\n")
    }
}
