//! HTTP: wire formats and nothing else. Knows no Kubernetes and no ONNX Runtime.

mod access;
mod admin;
mod connections;
mod controller;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod json;
mod known;
mod leaving;
mod native;
mod observe;
mod oip;
mod openai;
pub mod openapi;
mod ops;
mod panics;
mod parameters;
mod pinning;
mod playground;
mod refusals;
mod request_id;
mod server;
mod slow_bodies;
mod sse;
mod tgi;
mod tls;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Request};
use axum::http::StatusCode;
use axum::middleware;
use axum::response::Response;
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;

pub use admin::{Admin, ListedIn, admin_router};
pub use controller::{ControllerOps, controller_router};
pub use native::{LocalAnswer, LocalError, LocalPrompt, LocalRequest, Summary};
pub use server::{ConnectionLimits, Server};
pub use tls::{Tls, TlsFiles};

use crate::access::{Access, Reviewer};
use crate::metrics::Metrics;
use crate::model::Registry;
use crate::shutdown::Phase;
use crate::telemetry::Traces;
use error::{ApiError, Dialect};
use request_id::RequestId;

/// What handlers work with.
pub struct Api {
    /// The models.
    pub registry: Arc<Registry>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Where traces go.
    pub traces: Traces,
    /// Who may use the API.
    pub access: Arc<Access>,
    /// Who is asked whether metrics may be read; `None`: nobody.
    pub scrapers: Option<Arc<Reviewer>>,
    /// The certificate of the API listener, if it has one.
    pub tls: Option<Arc<Tls>>,
    /// Where in its life the process is.
    pub phase: watch::Receiver<Phase>,
    /// Limits of requests.
    pub limits: HttpLimits,
}

/// Limits of requests.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// Largest body.
    pub body_bytes: usize,
    /// Time for the body of a request.
    pub body_timeout: Duration,
    /// Time after which a generation fails if it has not ended.
    pub request_timeout: Duration,
    /// An engine step that takes longer makes its model unready, and twice as long the process dead.
    pub step_timeout: Duration,
    /// Whether the API listener serves `/metrics`.
    pub metrics_on_api: bool,
    /// Whether the API listener serves a page for trying the models.
    pub playground: bool,
}

/// Everything a client needs.
pub fn api_router(api: &Arc<Api>) -> Router {
    let Routes { asked: routes, scraped, document } = api_routes(api.limits.metrics_on_api);
    let routes = if api.limits.playground { routes.merge(playground::routes()) } else { routes };
    let routes = routes
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(Extension(openapi::Served::new(&document)))
        .with_state(Arc::clone(api));
    let scraped = scraped.method_not_allowed_fallback(wrong_method).with_state(Arc::clone(api));
    routes
        .layer(middleware::from_fn_with_state(api.limits.body_timeout, slow_bodies::bound))
        .layer(middleware::from_fn_with_state(Arc::clone(api), access::enter))
        .layer(middleware::from_fn(panics::caught))
        .layer(middleware::from_fn_with_state(api.phase.clone(), leaving::last_answers))
        .layer(middleware::from_fn_with_state(Arc::clone(api), observe::observe))
        .merge(scraped.layer(middleware::from_fn_with_state(Arc::clone(api), observe::observe_scrape)))
}

/// The routes of the API listener, and the document that describes them.
struct Routes {
    asked: Router<Arc<Api>>,
    /// Those that are asked many times a second.
    scraped: Router<Arc<Api>>,
    document: utoipa::openapi::OpenApi,
}

fn api_routes(with_metrics: bool) -> Routes {
    let routes = openapi::router().merge(native::routes()).merge(openai::routes());
    let routes = routes.merge(oip::routes()).merge(tgi::routes()).merge(ops::probes());
    let (asked, mut document) = routes.merge(openapi::routes()).split_for_parts();
    let scraped = if with_metrics { ops::measured() } else { OpenApiRouter::default() };
    let (scraped, described) = scraped.split_for_parts();
    document.merge(described);
    Routes { asked, scraped, document: openapi::complete(document) }
}

/// Probes and metrics alone, for a listener that load on the API cannot fail. Not logged and not counted.
pub fn ops_router(api: &Arc<Api>) -> Router {
    let (routes, _document) = ops::probes().merge(ops::measured()).split_for_parts();
    routes.with_state(Arc::clone(api))
}

async fn unknown_route(Extension(request_id): Extension<RequestId>, request: Request) -> Response {
    let dialect = Dialect::of_path(request.uri().path());
    let message = format!("there is nothing at this path; {}", dialect.paths());
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message).respond_in(dialect, &request_id)
}

async fn wrong_method(Extension(request_id): Extension<RequestId>, request: Request) -> Response {
    let message = format!("{} is not allowed here", request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        .respond_in(Dialect::of_path(request.uri().path()), &request_id)
}
