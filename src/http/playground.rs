//! A page on which a person can try the models: `GET /` of the API listener, and the files beside it.
//!
//! The page is a client like any other: it asks this gateway's own API, from the browser. It loads nothing from elsewhere and
//! may not (see [`POLICY`]); what a model says gets into it as text, never as markup.

use std::sync::Arc;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::header::{HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::routing::get;

use super::Api;

/// Path, type and content of each file.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("playground/page.html")),
    ("/playground/page.css", "text/css; charset=utf-8", include_str!("playground/page.css")),
    ("/playground/page.js", "text/javascript; charset=utf-8", include_str!("playground/page.js")),
    ("/playground/icon.svg", "image/svg+xml", include_str!("playground/icon.svg")),
];

/// Files and answers of this origin, and nothing else: no inline script or style, no frame around it, no form that leads
/// elsewhere, no text that becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The page and its files.
pub(super) fn routes() -> Router<Arc<Api>> {
    FILES.into_iter().fold(Router::new(), |routes, (path, content_type, content)| {
        routes.route(path, get(async move || (headers(content_type), content)))
    })
}

fn headers(content_type: &'static str) -> [(HeaderName, &'static str); 5] {
    [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // Another version of the gateway has another page; the files are small.
        (CACHE_CONTROL, "no-cache"),
    ]
}
