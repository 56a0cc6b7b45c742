//! `GET /docs`: the document as a page, on which requests can be sent. No asset comes from elsewhere.

use std::sync::Arc;

use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ABOUT;
use crate::http::Api;

/// Everything comes from the gateway itself, nothing is written into the page's own source, nobody frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page, and the two files that it loads, which no client asks for.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(page))
        .route("/docs/page.css", get(style))
        .route("/docs/page.js", get(script))
}

/// This document as a page
///
/// Requests can be sent from it.
#[utoipa::path(
    get,
    path = "/docs",
    operation_id = "docs",
    tag = ABOUT,
    responses((status = 200, description = "A page", body = String, content_type = "text/html; charset=utf-8")),
)]
async fn page() -> Response {
    asset("text/html; charset=utf-8", include_str!("page/page.html"))
}

async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("page/page.css"))
}

async fn script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("page/page.js"))
}

fn asset(content_type: &'static str, content: &'static str) -> Response {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Another version may serve another page.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}
