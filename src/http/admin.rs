//! For the people who run the gateway, on an address that only they reach: what every model does, and a few orders.
//!
//! ```text
//! GET  /                              a page for a browser
//! GET  /admin/models                  the same as JSON
//! POST /admin/models/{name}/reload    load the wanted revision once more
//! POST /admin/models/{name}/retry     try a revision again that has failed
//! POST /admin/reload                  read the list of models again
//! GET  /admin/log, PUT /admin/log     what is logged; another filter as the body
//! ```
//!
//! There is no password: whoever reaches the address may use it. A browser of theirs must not be made to by another site,
//! so requests that a page of another origin sends, or that name another host, are refused.

mod page;
mod view;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use super::error::ApiError;
use super::request_id::RequestId;
use crate::model::{FleetHandle, ModelName, ModelState, Registry};
use crate::models_file::FileStatus;
use crate::shutdown::ReloadHandle;
use crate::telemetry::{LogControl, SetFilterError};

/// Longest log filter.
const MOST_FILTER_BYTES: usize = 4096;

/// What the handlers work with.
pub struct Admin {
    /// The models.
    pub registry: Arc<Registry>,
    /// Orders to them.
    pub fleet: FleetHandle,
    /// The list of models, if there is one.
    pub models_file: Option<ListedIn>,
    /// What is logged, where that can be changed.
    pub log: Option<LogControl>,
    /// Bytes that the process may use, as set.
    pub memory_limit: Option<u64>,
}

/// The file that lists the models.
pub struct ListedIn {
    /// The file.
    pub path: PathBuf,
    /// How its last reading went.
    pub status: Arc<FileStatus>,
    /// Asks for another one.
    pub reload: ReloadHandle,
}

/// Everything of the admin listener.
pub fn admin_router(admin: &Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/admin/models", get(models))
        .route("/admin/models/{name}/reload", post(reload_model))
        .route("/admin/models/{name}/retry", post(retry_model))
        .route("/admin/reload", post(reload_list))
        .route("/admin/log", get(log_filter).put(set_log_filter))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(refuse_other_sites))
        .with_state(Arc::clone(admin))
}

async fn page(State(admin): State<Arc<Admin>>) -> Html<String> {
    Html(page::render(&view::view(&admin)))
}

async fn models(State(admin): State<Arc<Admin>>) -> Json<view::View> {
    Json(view::view(&admin))
}

async fn reload_model(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    match find(&admin, &name) {
        Ok((key, _)) => {
            admin.fleet.reload(key).await;
            accepted("the wanted revision is loaded once more")
        }
        Err(error) => error.respond(&RequestId::of(&headers)),
    }
}

async fn retry_model(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    match find(&admin, &name) {
        Ok((key, true)) => {
            admin.fleet.retry(key).await;
            accepted("the wanted revision is tried again")
        }
        Ok((key, false)) => {
            let message =
                format!("the wanted revision of `{key}` has not failed: there is nothing to try again");
            ApiError::new(StatusCode::CONFLICT, "not_failed", message).respond(&RequestId::of(&headers))
        }
        Err(error) => error.respond(&RequestId::of(&headers)),
    }
}

/// The key of a model by any of its names, and whether its wanted revision has failed.
fn find(admin: &Admin, name: &str) -> Result<(ModelName, bool), ApiError> {
    let all = admin.registry.snapshots();
    let found = all
        .iter()
        .find(|model| model.key.as_str() == name || model.names.iter().any(|other| other.as_str() == name));
    let Some(model) = found else {
        let known: Vec<&str> = all.iter().map(|model| model.key.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!("there is no model `{}`; there are: {known}", name.escape_debug());
        return Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message));
    };
    let waits = model.status.last_failure.as_ref();
    let waits = waits.is_some_and(|failure| failure.revision == model.status.revision);
    Ok((model.key.clone(), waits || model.status.state == ModelState::Failed))
}

async fn reload_list(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    let Some(file) = &admin.models_file else {
        let message = "there is no list of models to read: INFERENCE_MODELS_FILE is not set";
        return ApiError::new(StatusCode::CONFLICT, "no_models_file", message)
            .respond(&RequestId::of(&headers));
    };
    file.reload.reload();
    accepted("the list of models is read again")
}

async fn log_filter(State(admin): State<Arc<Admin>>) -> Response {
    Json(json!({"filter": admin.log.as_ref().map(LogControl::filter)})).into_response()
}

async fn set_log_filter(State(admin): State<Arc<Admin>>, headers: HeaderMap, filter: String) -> Response {
    let refuse = |status, code, message: String| {
        ApiError::new(status, code, message).respond(&RequestId::of(&headers))
    };
    let filter = filter.trim();
    let Some(log) = &admin.log else {
        return refuse(StatusCode::CONFLICT, "no_log", "the log is not this program's own".to_owned());
    };
    if filter.is_empty() || filter.len() > MOST_FILTER_BYTES {
        let message =
            format!("send the filter as the body, 1 to {MOST_FILTER_BYTES} bytes, such as info,ort=warn");
        return refuse(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", message);
    }
    match log.set_filter(filter) {
        Ok(()) => {
            tracing::info!(filter, "log filter changed");
            Json(json!({"filter": log.filter()})).into_response()
        }
        Err(error @ SetFilterError::Filter(_)) => {
            refuse(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", error.to_string())
        }
        Err(error @ SetFilterError::Gone(_)) => refuse(StatusCode::CONFLICT, "no_log", error.to_string()),
    }
}

fn accepted(what: &str) -> Response {
    (StatusCode::ACCEPTED, Json(json!({"accepted": what}))).into_response()
}

async fn unknown_route(headers: HeaderMap) -> Response {
    let message = "there is nothing at this path; see GET / and GET /admin/models";
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message).respond(&RequestId::of(&headers))
}

async fn wrong_method(headers: HeaderMap, method: Method) -> Response {
    let message = format!("{method} is not allowed here");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        .respond(&RequestId::of(&headers))
}

/// Refuses what another site may have made a browser send: an `Origin` that is not this host, or, for a name that was made
/// to lead here, a `Host` that is no address and not `localhost`.
async fn refuse_other_sites(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host =
        text(header::HOST).or_else(|| request.uri().authority().map(axum::http::uri::Authority::as_str));
    let origin = text(header::ORIGIN);
    let foreign_host = host.is_some_and(|host| !is_local_or_address(host));
    let foreign_origin = origin.is_some_and(|origin| origin.split_once("://").map(|(_, rest)| rest) != host);
    if foreign_host || foreign_origin {
        let message =
            "requests that name another host, or that a page of another origin sends, are refused here";
        return ApiError::new(StatusCode::FORBIDDEN, "foreign_origin", message)
            .respond(&RequestId::of(headers));
    }
    next.run(request).await
}

fn is_local_or_address(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_a_name_server_could_invent_are_foreign() {
        for host in ["localhost", "localhost:3002", "127.0.0.1:3002", "[::1]:3002", "[::1]", "10.1.2.3"] {
            assert!(is_local_or_address(host), "{host}");
        }
        for host in ["evil.example", "evil.example:3002", "127.0.0.1.evil.example", "", "localhost.evil:1"] {
            assert!(!is_local_or_address(host), "{host}");
        }
    }
}
