//! Why a request did not begin or did not end well.

use crate::engine::EngineError;
use crate::text::chat::NoChat;
use crate::text::constraint::FormatError;
use crate::text::prompts::PromptError;
use crate::text::template::TemplateError;
use crate::text::tokenizer::TextError;

/// Why a generation did not begin or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The tokenizer refused the text.
    #[error("failed to tokenise or to decode")]
    Text(#[from] TextError),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The model takes no chats.
    #[error("the model answers no chats: {0}")]
    NoChat(#[from] NoChat),
    /// The chat template did not make a prompt of the messages.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A template of the model's settings did not make a prompt of the variables.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// More than a request may want, or than the engine has places.
    #[error("{asked} generations are more than the {allowed} that a request to this model may ask for")]
    TooManyGenerations {
        /// Prompts times choices.
        asked: usize,
        /// At most.
        allowed: usize,
    },
    /// The format is none, or the model cannot follow any.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// More text than is looked at.
    #[error(
        "the prompt has {bytes} bytes, and at most {most_bytes} are looked at for a context of {context_tokens} tokens"
    )]
    PromptTooLong {
        /// Of the prompt.
        bytes: usize,
        /// At most.
        most_bytes: usize,
        /// Tokens that a sequence may have.
        context_tokens: usize,
    },
    /// The prompt has no token.
    #[error("the prompt has no tokens")]
    NoTokens,
    /// More tokens than the model's limits allow.
    #[error("{asked} tokens are more than the {allowed} that this model generates for a request")]
    TooManyTokens {
        /// As the request says.
        asked: usize,
        /// As the model's limits say.
        allowed: usize,
    },
    /// The tokeniser thread was lost.
    #[error("the tokeniser was interrupted")]
    Interrupted,
}

/// Why the generations of a request did not begin.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Refused {
    /// Number of the input that is to blame, if one is.
    pub input: Option<usize>,
    /// Why.
    #[source]
    pub error: GenerateError,
}

impl Refused {
    pub(super) fn at(input: usize, error: GenerateError) -> Self {
        Self { input: Some(input), error }
    }
}

impl From<GenerateError> for Refused {
    fn from(error: GenerateError) -> Self {
        Self { input: None, error }
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Self {
        GenerateError::from(error).into()
    }
}

impl GenerateError {
    /// What failed, in one word.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Interrupted => "text_failed",
            Self::NoTokens => "no_tokens",
            Self::PromptTooLong { .. } => "context_length_exceeded",
            Self::NoChat(_) => "no_chat_template",
            Self::Template(_) | Self::Prompt(_) => "template_failed",
            Self::Format(_) => "invalid_format",
            Self::TooManyGenerations { .. } => "too_many_generations",
            Self::TooManyTokens { .. } => "too_many_tokens",
            Self::Engine(error) => match error {
                EngineError::Run(_) => "run_failed",
                EngineError::NotFinite => "not_finite",
                EngineError::Stopped => "engine_stopped",
                EngineError::Overloaded { .. } | EngineError::LaneFull { .. } => "overloaded",
                EngineError::ContextExceeded { .. } => "context_length_exceeded",
                EngineError::CacheExceeded { .. } => "cache_memory_exceeded",
                EngineError::DeadlineExceeded => "deadline_exceeded",
                EngineError::UnknownToken { .. } => "unknown_token",
                EngineError::Mask(_) => "format_failed",
                EngineError::Replaced => "replaced",
                EngineError::ShuttingDown => "shutting_down",
            },
        }
    }

    /// Whether the model or its engine is to blame, rather than the request, the load or the end of the process.
    pub(super) fn is_the_models_fault(&self) -> bool {
        match self {
            Self::Text(_) | Self::Interrupted => true,
            Self::NoTokens
            | Self::PromptTooLong { .. }
            | Self::NoChat(_)
            | Self::Template(_)
            | Self::Prompt(_)
            | Self::Format(_)
            | Self::TooManyGenerations { .. }
            | Self::TooManyTokens { .. } => false,
            Self::Engine(error) => match error {
                EngineError::Run(_) | EngineError::NotFinite | EngineError::Stopped => true,
                EngineError::Overloaded { .. }
                | EngineError::LaneFull { .. }
                | EngineError::ContextExceeded { .. }
                | EngineError::CacheExceeded { .. }
                | EngineError::DeadlineExceeded
                | EngineError::UnknownToken { .. }
                | EngineError::Mask(_)
                | EngineError::Replaced
                | EngineError::ShuttingDown => false,
            },
        }
    }
}
