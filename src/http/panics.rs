//! A panic costs the one request that caused it, and is answered as any other failure.

use std::panic::AssertUnwindSafe;

use axum::extract::{Extension, Request};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt;

use super::error::{ApiError, Dialect};
use super::request_id::RequestId;

/// Answers for a handler that panics, in the dialect of its path. What the panic says is for the log.
pub(super) async fn caught(
    Extension(request_id): Extension<RequestId>,
    request: Request,
    next: Next,
) -> Response {
    let dialect = Dialect::of_path(request.uri().path());
    answered(dialect, &request_id, next.run(request)).await
}

/// The answer of a handler, or the one for a handler that panics.
pub(super) async fn answered(
    dialect: Dialect,
    request_id: &RequestId,
    handler: impl Future<Output = Response>,
) -> Response {
    // Nothing of a request outlives its handler but what is shared, and that holds its own locks, which a panic poisons.
    match AssertUnwindSafe(handler).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let message = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            tracing::error!(panic = message.unwrap_or_default(), "a handler panicked");
            let message = "the gateway failed to answer, by a fault of its own";
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
                .respond_in(dialect, request_id)
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::{HeaderMap, HeaderValue};
    use axum::{Router, middleware};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;
    use crate::http::request_id::HEADER;

    async fn broken() -> Response {
        panic!("a secret of the gateway")
    }

    #[tokio::test]
    async fn a_panic_is_answered_in_the_dialect_of_its_path() {
        let headers = HeaderMap::from_iter([(HEADER, HeaderValue::from_static("r-1"))]);
        let router = Router::new()
            .fallback(broken)
            .layer(middleware::from_fn(caught))
            .layer(Extension(RequestId::of(&headers)));
        let message = "the gateway failed to answer, by a fault of its own";
        let native =
            json!({"code": "internal_error", "message": message, "field": null, "request_id": "r-1"});
        let openai =
            json!({"message": message, "type": "server_error", "param": null, "code": "internal_error"});
        for (path, body) in [
            ("/api/v1/inference", json!({"error": native})),
            ("/v1/completions", json!({"error": openai})),
            ("/v2/models/m/generate", json!({"error": message})),
            ("/generate", json!({"error": message, "error_type": "internal_error"})),
        ] {
            let request = Request::post(path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            let bytes = to_bytes(response.into_body(), 1 << 16).await.unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), body, "{path}");
        }
    }
}
