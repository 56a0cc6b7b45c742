//! The one table from errors to status, code and message; rendered as an answer or as an event of a stream.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::request_id::RequestId;
use super::{oip, openai, tgi};
use crate::engine::EngineError;
use crate::generate::{FormatError, GenerateError, PromptError, Refused};
use crate::model::Unavailable;

/// What the prompt is called in the native API; [`ApiError::refused`] gives it the name of another.
const PROMPT: &str = "text";

/// An error as a client sees it.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    /// The field of the request that is at fault, if one is.
    pub(super) field: Option<String>,
    /// Seconds after which trying again makes sense.
    retry_after_seconds: Option<u32>,
}

/// The API whose words an answer uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The gateway's own.
    Native,
    /// That of OpenAI.
    OpenAi,
    /// The Open Inference Protocol, version 2.
    OpenInference,
    /// That of Text Generation Inference.
    Tgi,
}

impl Dialect {
    /// The dialect of a path, also where there is nothing at it.
    pub(super) fn of_path(path: &str) -> Self {
        let below = |folder: &str| {
            path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match path {
            _ if below("/v1") => Self::OpenAi,
            _ if below("/v2") => Self::OpenInference,
            _ if tgi::PATHS.contains(&path) => Self::Tgi,
            _ => Self::Native,
        }
    }

    /// What there is, for those who ask for something else.
    pub(super) fn paths(self) -> &'static str {
        match self {
            Self::Native => "the API is at POST /api/v1/inference",
            Self::OpenAi => "there are POST /v1/chat/completions, POST /v1/completions and GET /v1/models",
            Self::OpenInference => {
                "there are GET /v2, /v2/health/live, /v2/health/ready, /v2/models/{name} and its /ready, and POST \
                 /v2/models/{name}/generate and /generate_stream"
            }
            Self::Tgi => "there are POST /, /generate, /generate_stream and /tokenize, GET /info and /health",
        }
    }
}

/// What is answered in place of a text, and the last event of a stream that failed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NativeError)]
pub(super) struct ErrorBody {
    error: ErrorFields,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NativeErrorFields)]
struct ErrorFields {
    /// A word for programs
    code: &'static str,
    /// A sentence for people
    message: String,
    /// The field at fault, if one is: `text[1]`, `format.schema`
    #[schema(required)]
    field: Option<String>,
    /// The id of the request, as in the header `x-request-id`
    request_id: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), field: None, retry_after_seconds: None }
    }

    /// A value that is not acceptable.
    pub(super) fn invalid_value(field: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", message).at(field)
    }

    pub(super) fn at(mut self, field: &str) -> Self {
        self.field = Some(field.to_owned());
        self
    }

    /// Why a request did not begin, where the prompt, or the one with a number, is called what `prompt` says.
    pub(super) fn refused(refused: Refused, prompt: impl FnOnce(Option<usize>) -> String) -> Self {
        let Refused { input, error } = refused;
        let error = Self::from(error);
        if error.field.as_deref() == Some(PROMPT) { error.at(&prompt(input)) } else { error }
    }

    /// The message, behind the name of its field if it does not say which that is.
    pub(super) fn message_naming(&self, field: Option<&str>) -> String {
        let mut words = self.message.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        match field {
            Some(field) if words.all(|word| field.rsplit('.').next() != Some(word)) => {
                format!("{field}: {}", self.message)
            }
            _ => self.message.clone(),
        }
    }

    pub(super) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// The body, naming the request.
    pub(super) fn body(&self, request_id: &RequestId) -> ErrorBody {
        ErrorBody {
            error: ErrorFields {
                code: self.code,
                message: self.message.clone(),
                field: self.field.clone(),
                request_id: request_id.to_string(),
            },
        }
    }

    /// The whole answer, in the native API.
    pub(super) fn respond(self, request_id: &RequestId) -> Response {
        self.respond_in(Dialect::Native, request_id)
    }

    /// The whole answer.
    pub(super) fn respond_in(self, dialect: Dialect, request_id: &RequestId) -> Response {
        let mut response = match dialect {
            Dialect::Native => (self.status, Json(self.body(request_id))).into_response(),
            Dialect::OpenAi => {
                let (status, body) = openai::body(&self);
                (status, Json(body)).into_response()
            }
            Dialect::OpenInference => {
                let (status, body) = oip::body(&self);
                (status, Json(body)).into_response()
            }
            Dialect::Tgi => {
                let (status, body) = tgi::body(&self);
                (status, Json(body)).into_response()
            }
        };
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Unavailable> for ApiError {
    fn from(error: Unavailable) -> Self {
        let message = error.to_string();
        match error {
            Unavailable::Unknown { .. } => {
                Self::new(StatusCode::NOT_FOUND, "model_not_found", message).at("model")
            }
            Unavailable::Unnamed { ref models } => {
                let (status, code) = if models.is_empty() {
                    (StatusCode::NOT_FOUND, "model_not_found")
                } else {
                    (StatusCode::UNPROCESSABLE_ENTITY, "model_required")
                };
                Self::new(status, code, message).at("model")
            }
            Unavailable::Overloaded { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", message).retry_after(1)
            }
            Unavailable::NotKnown | Unavailable::NotReady { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_not_ready", message).retry_after(5)
            }
        }
    }
}

impl From<GenerateError> for ApiError {
    fn from(error: GenerateError) -> Self {
        match error {
            GenerateError::Engine(error) => error.into(),
            GenerateError::TooManyTokens { .. } => Self::invalid_value("max_tokens", error.to_string()),
            GenerateError::TooManyGenerations { .. } | GenerateError::Template(_) => {
                Self::invalid_value(PROMPT, error.to_string())
            }
            GenerateError::Prompt(error) => error.into(),
            GenerateError::NoChat(_) => {
                Self::new(StatusCode::BAD_REQUEST, "no_chat_template", error.to_string()).at("model")
            }
            GenerateError::Format(FormatError { part, ref message, function: _ }) => {
                Self::invalid_value(&format!("format.{part}"), message)
            }
            GenerateError::PromptTooLong { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", error.to_string()).at(PROMPT)
            }
            GenerateError::NoTokens => Self::invalid_value(PROMPT, "the prompt has no tokens"),
            GenerateError::Text(_) | GenerateError::Interrupted => {
                tracing::error!(error = &error as &dyn std::error::Error, "text processing failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "text_failed", error.to_string())
            }
        }
    }
}

impl From<PromptError> for ApiError {
    fn from(error: PromptError) -> Self {
        let field = match error {
            PromptError::Unknown { .. } | PromptError::Failed { .. } | PromptError::Empty { .. } => {
                "template"
            }
            PromptError::Unused { .. } | PromptError::Missing { .. } | PromptError::Refused { .. } => {
                "variables"
            }
        };
        Self::invalid_value(field, error.to_string())
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::Overloaded { .. } | EngineError::LaneFull { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", message).retry_after(1)
            }
            EngineError::ContextExceeded { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message).at(PROMPT)
            }
            EngineError::CacheExceeded { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "cache_memory_exceeded", message).at(PROMPT)
            }
            EngineError::DeadlineExceeded => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "deadline_exceeded", message).retry_after(1)
            }
            EngineError::UnknownToken { .. } => Self::invalid_value(PROMPT, message),
            EngineError::Mask(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "format_too_complex", message).at("format")
            }
            // What the library said is for the log, where the engine has put it.
            EngineError::Run(_) | EngineError::NotFinite => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "inference_failed", "the model run failed")
            }
            EngineError::Replaced => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_replaced", message).retry_after(1)
            }
            EngineError::ShuttingDown => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message).retry_after(1)
            }
            EngineError::Stopped => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "engine_stopped", message).retry_after(5)
            }
        }
    }
}
