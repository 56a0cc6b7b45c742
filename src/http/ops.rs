//! Probes and metrics: `/healthz`, `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Api;
use crate::model::{ModelState, Status};
use crate::openmetrics;
use crate::shutdown::Phase;

#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    /// Why not, when it is not about a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    models: Vec<ModelReadiness>,
}

#[derive(Debug, Serialize)]
struct ModelReadiness {
    name: String,
    state: &'static str,
    ready: bool,
    revision: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    download: Option<Download>,
}

#[derive(Debug, Serialize)]
struct Download {
    file: String,
    done_bytes: u64,
    total_bytes: Option<u64>,
}

/// 200 while the process serves.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 unless an engine is stuck in a step; looks at nothing else of a model.
pub(super) async fn livez(State(api): State<Arc<Api>>) -> (StatusCode, String) {
    match api.registry.stuck(api.limits.step_timeout * 2).first() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some((name, step)) => {
            let seconds = step.age.as_secs();
            (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the engine of {name} has been in one step for {seconds} s\n"),
            )
        }
    }
}

/// 200 only while a model can answer and the process is not ending; the body says which model is where, and why.
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Response {
    let stuck = api.registry.stuck(api.limits.step_timeout);
    let mut models: Vec<ModelReadiness> = api
        .registry
        .statuses()
        .into_iter()
        .map(|(name, status, answers)| model_readiness(name.to_string(), &status, answers))
        .collect();
    for (name, step) in stuck {
        let model = models.iter_mut().find(|model| model.name == name.as_str());
        if let Some(model) = model {
            model.ready = false;
            model.reason = format!("its engine has been in one step for {} s", step.age.as_secs());
        }
    }
    let ending = *api.phase.borrow() != Phase::Serving;
    // A model that has failed for good does not keep the pod out while another one answers.
    let settled = models.iter().all(|model| model.ready || model.state == ModelState::Failed.label());
    let ready = !ending && settled && models.iter().any(|model| model.ready);
    let readiness = Readiness { ready, reason: ending.then_some("shutting down"), models };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

fn model_readiness(name: String, status: &Status, answers: bool) -> ModelReadiness {
    let Status { revision, state, reason, progress } = status;
    let reading = progress.as_ref().map(crate::model::source::Progress::read);
    ModelReadiness {
        name,
        state: state.label(),
        ready: answers,
        revision: revision.clone(),
        reason: reason.clone(),
        download: reading.and_then(|reading| {
            Some(Download {
                file: reading.file?,
                done_bytes: reading.done_bytes,
                total_bytes: reading.total_bytes,
            })
        }),
    }
}

/// Everything measured, as OpenMetrics, or as Prometheus text when that is asked for.
pub(super) async fn metrics(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = openmetrics::negotiate(accept);
    match openmetrics::encode(&api.metrics.gather(), format) {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "failed to write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
