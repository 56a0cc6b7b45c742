//! Why a model did not come into service, as one word: the same in status, metrics, logs and admin page.
//!
//! From: the reasons of a `Model` object's status. Each error type of this module says which of them it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One word for a failure, and whether waiting can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Reason {
    /// The settings of the model contradict themselves or ask for what does not exist.
    InvalidSpec,
    /// Nothing is there, or not what was looked for.
    SourceNotFound,
    /// The guard does not let us go there.
    HostNotAllowed,
    /// The bytes are others than those that were named.
    DigestMismatch,
    /// An archive, or a name that would leave the folder.
    ArchiveUnsafe,
    /// Larger than the limit.
    ArtifactTooLarge,
    /// No graph, or a broken one.
    InvalidOnnx,
    /// A graph that asks for what cannot be served.
    UnsupportedOperator,
    /// A file of the model is a link or device, or lies outside of its folder.
    ExternalDataUnsafe,
    /// The tokenizer is broken, or of another model.
    TokenizerMismatch,
    /// The prompt template does not compile or does not end.
    TemplateInvalid,
    /// The process that tried the model died of a signal.
    VerifyCrashed,
    /// The process that tried the model did not end in time.
    VerifyTimeout,
    /// The model loads, but does not answer as it should.
    ProbeFailed,
    /// The gateway itself died while it loaded the model, at an earlier start.
    LoadCrashed,
    /// The model was in service and did worse than its watch window allows.
    SoakErrors,
    /// No connection, or an answer that makes no sense.
    SourceUnreachable,
    /// Credentials are missing or refused.
    SourceForbidden,
    /// The download ended early.
    TruncatedDownload,
    /// No space left.
    DiskFull,
    /// The cache folder cannot be read or written.
    CacheUnusable,
    /// Another process holds the model's place in the cache.
    CacheBusy,
    /// Not enough memory to load it beside what is served.
    InsufficientMemory,
    /// A fault of the gateway itself.
    Internal,
}

impl Reason {
    /// The reason of a word; `None` for one of another version.
    pub fn parse(word: &str) -> Option<Self> {
        serde_json::from_value(serde_json::Value::from(word)).ok()
    }

    /// The word.
    pub fn label(self) -> &'static str {
        match self {
            Self::InvalidSpec => "InvalidSpec",
            Self::SourceNotFound => "SourceNotFound",
            Self::HostNotAllowed => "HostNotAllowed",
            Self::DigestMismatch => "DigestMismatch",
            Self::ArchiveUnsafe => "ArchiveUnsafe",
            Self::ArtifactTooLarge => "ArtifactTooLarge",
            Self::InvalidOnnx => "InvalidOnnx",
            Self::UnsupportedOperator => "UnsupportedOperator",
            Self::ExternalDataUnsafe => "ExternalDataUnsafe",
            Self::TokenizerMismatch => "TokenizerMismatch",
            Self::TemplateInvalid => "TemplateInvalid",
            Self::VerifyCrashed => "VerifyCrashed",
            Self::VerifyTimeout => "VerifyTimeout",
            Self::ProbeFailed => "ProbeFailed",
            Self::LoadCrashed => "LoadCrashed",
            Self::SoakErrors => "SoakErrors",
            Self::SourceUnreachable => "SourceUnreachable",
            Self::SourceForbidden => "SourceForbidden",
            Self::TruncatedDownload => "TruncatedDownload",
            Self::DiskFull => "DiskFull",
            Self::CacheUnusable => "CacheUnusable",
            Self::CacheBusy => "CacheBusy",
            Self::InsufficientMemory => "InsufficientMemory",
            Self::Internal => "Internal",
        }
    }

    /// Whether the same attempt fails again until somebody changes something. What passes is tried again by itself.
    pub fn is_permanent(self) -> bool {
        match self {
            Self::InvalidSpec
            | Self::SourceNotFound
            | Self::HostNotAllowed
            | Self::DigestMismatch
            | Self::ArchiveUnsafe
            | Self::ArtifactTooLarge
            | Self::InvalidOnnx
            | Self::UnsupportedOperator
            | Self::ExternalDataUnsafe
            | Self::TokenizerMismatch
            | Self::TemplateInvalid
            | Self::VerifyCrashed
            | Self::VerifyTimeout
            | Self::ProbeFailed
            | Self::LoadCrashed
            | Self::SoakErrors => true,
            Self::SourceUnreachable
            | Self::SourceForbidden
            | Self::TruncatedDownload
            | Self::DiskFull
            | Self::CacheUnusable
            | Self::CacheBusy
            | Self::InsufficientMemory
            | Self::Internal => false,
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.label())
    }
}

/// An error with its causes, as one line for a person.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let message = inner.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = inner.source();
    }
    text
}
