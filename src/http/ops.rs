//! Probes and metrics: `/healthz`, `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::Dialect;
use super::openapi::OPS;
use super::request_id::RequestId;
use super::{Api, access};
use crate::metrics::Metrics;
use crate::model::{ModelName, ModelState, RunningStep, Snapshot, Status};
use crate::openmetrics;
use crate::shutdown::Phase;

/// What the probes that say little answer with.
const PLAIN: &str = "text/plain; charset=utf-8";

/// Whether requests would be answered, and which model is where.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    /// Why not, when it is not about a model
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    pub(super) models: Vec<ModelReadiness>,
}

/// Where a model is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelReadiness {
    pub(super) name: String,
    /// Of the wanted revision: `pending`, `fetching`, `verifying`, `waiting`, `loading`, `warming`, `ready`, `prepared`,
    /// `unloaded` or `failed`
    state: &'static str,
    ready: bool,
    /// Whether it answers when it is asked; `None` while it waits for its turn to.
    #[serde(skip)]
    pub(super) answers: Option<bool>,
    /// The wanted one
    revision: String,
    /// The one that answers
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    serving: Option<String>,
    /// Why it is not ready, or what stands in the way of the wanted revision
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    download: Option<Download>,
}

/// How far a model's files have come.
#[derive(Debug, Serialize, ToSchema)]
struct Download {
    file: String,
    done_bytes: u64,
    /// `null` where the source does not say
    #[schema(required)]
    total_bytes: Option<u64>,
}

/// The probes.
pub(super) fn probes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default().routes(routes!(healthz)).routes(routes!(livez)).routes(routes!(readyz))
}

/// The metrics.
pub(super) fn measured() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default().routes(routes!(metrics))
}

/// Whether the process serves
#[utoipa::path(
    get,
    path = "/healthz",
    tag = OPS,
    responses((status = 200, description = "It does", body = String, content_type = PLAIN, example = "ok")),
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the process is alive
///
/// It is unless an engine is stuck in a step; nothing else of a model is looked at.
#[utoipa::path(
    get,
    path = "/livez",
    tag = OPS,
    responses(
        (status = 200, description = "It is", body = String, content_type = PLAIN, example = "ok"),
        (status = 503, description = "An engine is stuck; the text says which", body = String, content_type = PLAIN),
    ),
)]
pub(super) async fn livez(State(api): State<Arc<Api>>) -> (StatusCode, String) {
    match stuck_for_good(&api).first() {
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

/// Models whose engine will not come back from its step.
pub(super) fn stuck_for_good(api: &Api) -> Vec<(ModelName, RunningStep)> {
    api.registry.stuck(api.limits.step_timeout * 2)
}

/// Whether requests would be answered
///
/// Only while a model can answer and the process is not ending; the body says which model is where, and why.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = OPS,
    responses(
        (status = 200, description = "They would", body = Readiness),
        (status = 503, description = "They would not", body = Readiness),
    ),
)]
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Response {
    let readiness = readiness(&api);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

/// What `/readyz` says.
pub(super) fn readiness(api: &Api) -> Readiness {
    let stuck = api.registry.stuck(api.limits.step_timeout);
    let is_stuck = |key: &ModelName| stuck.iter().any(|(model, _)| model == key);
    let models = api.registry.snapshots().iter().map(|model| model_readiness(model, &stuck)).collect();
    let (stops, reason) = reason(api);
    Readiness { ready: !stops && api.registry.is_ready(is_stuck), reason, models }
}

/// Whether something stands in the way of every model, and what there is to say.
fn reason(api: &Api) -> (bool, Option<String>) {
    let trouble = api.registry.unknown_because();
    if *api.phase.borrow() != Phase::Serving {
        return (true, Some("shutting down".to_owned()));
    }
    if let Some(why) = api.tls.as_ref().and_then(|tls| tls.trouble()) {
        return (true, Some(format!("no connection can be made: {why}")));
    }
    if let Some(why) = api.access.trouble() {
        return (true, Some(format!("nobody can be let in: {why}")));
    }
    match (api.registry.is_synced(), trouble) {
        (true, trouble) => (false, trouble.map(|why| format!("what is known stays in force: {why}"))),
        (false, None) => (true, Some("it is not known yet which models to serve".to_owned())),
        (false, Some(why)) => (true, Some(format!("it is not known yet which models to serve: {why}"))),
    }
}

fn model_readiness(model: &Snapshot, stuck: &[(ModelName, RunningStep)]) -> ModelReadiness {
    let Snapshot { key, names: _, status, serving, going: _ } = model;
    let Status { revision, state, message, progress, .. } = status;
    let reading = progress.as_ref().map(crate::model::source::Progress::read);
    let stuck = stuck.iter().find(|(name, _)| name == key);
    let ready = serving.is_some() && stuck.is_none();
    let reason = match stuck {
        Some((_, step)) => format!("its engine has been in one step for {} s", step.age.as_secs()),
        None => message.clone(),
    };
    ModelReadiness {
        name: key.to_string(),
        state: state.label(),
        ready,
        answers: answers(ready, *state),
        revision: revision.clone(),
        serving: serving.as_ref().map(|serving| serving.revision.clone()),
        reason,
        download: reading.and_then(|reading| {
            Some(Download {
                file: reading.file?,
                done_bytes: reading.done_bytes,
                total_bytes: reading.total_bytes,
            })
        }),
    }
}

/// Everything measured
///
/// As OpenMetrics 1.0, or as Prometheus text for `Accept: text/plain`.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = OPS,
    responses((
        status = 200,
        description = "The metrics",
        content(
            (String = "application/openmetrics-text; version=1.0.0; charset=utf-8"),
            (String = "text/plain; version=0.0.4; charset=utf-8"),
        ),
    )),
)]
pub(super) async fn metrics(
    State(api): State<Arc<Api>>,
    request_id: Option<Extension<RequestId>>,
    headers: HeaderMap,
) -> Response {
    if let Err(denied) = access::enter_metrics(&api, &headers).await {
        // The listener of probes gives no ids.
        let request_id = request_id.map_or_else(|| RequestId::of(&headers), |Extension(id)| id);
        return access::refuse(denied, Dialect::Native, &request_id);
    }
    let Readiness { ready, reason: _, models } = readiness(&api);
    api.metrics.ready(ready);
    api.metrics.models_ready(models.iter().map(|model| (model.name.as_str(), model.answers)));
    exposition(&api.metrics, &headers)
}

/// What a model counts as: one that has given its memory back is loaded again by a request.
fn answers(ready: bool, state: ModelState) -> Option<bool> {
    match state {
        _ if ready => Some(true),
        ModelState::Prepared => None,
        ModelState::Unloaded => Some(true),
        ModelState::Pending
        | ModelState::Fetching
        | ModelState::Verifying
        | ModelState::Waiting
        | ModelState::Loading
        | ModelState::Warming
        | ModelState::Ready
        | ModelState::Failed => Some(false),
    }
}

/// As OpenMetrics, or as Prometheus text when that is asked for.
pub(super) fn exposition(metrics: &Metrics, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = openmetrics::negotiate(accept);
    ([(header::CONTENT_TYPE, format.content_type())], metrics.exposition(format)).into_response()
}
