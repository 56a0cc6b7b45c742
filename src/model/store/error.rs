//! Why a model's files are not ready, and whether waiting can help.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::ort::inspect::GraphFault;
use crate::model::Reason;
use crate::model::manifest::{Digest, ManifestError};
use crate::model::source::FetchError;

/// Why the files of a model could not be prepared. The text says what was attempted with what, and what to
/// change.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The source.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A manifest, or files that are not what it lists.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The graph is not one.
    #[error("{path} is not a usable ONNX file: {fault}")]
    Graph {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: GraphFault,
    },
    /// The graph's weights are where a model's files cannot be.
    #[error(
        "the graph {path} keeps weights in {location:?}: they must lie beside it, in a file of a plain name"
    )]
    Data {
        /// The graph.
        path: PathBuf,
        /// As it stands in the graph.
        location: String,
    },
    /// The bytes are others than those that were asked for, or that this source had before.
    #[error("the digest of {place} is {found}, expected {expected}{hint}")]
    Mismatch {
        /// The source.
        place: String,
        /// What is there.
        found: Digest,
        /// What was asked for or recorded.
        expected: Digest,
        /// What to do; empty or begins with "; ".
        hint: &'static str,
    },
    /// All files together are larger than the limit.
    #[error(
        "{place} has {bytes} bytes or more, the limit for a model is {limit_bytes}: raise INFERENCE_MAX_MODEL_BYTES"
    )]
    TooLarge {
        /// The source.
        place: String,
        /// Bytes counted so far.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A part of a model is not among its files.
    #[error("no {wanted} among the files of {place}")]
    Incomplete {
        /// What is missing.
        wanted: &'static str,
        /// The source or the folder in the store.
        place: String,
    },
    /// The cache folder cannot be used, or is full.
    #[error(
        "failed to {action} {path}: the cache folder {folder} (INFERENCE_CACHE_DIR) must be a writable folder with \
         free space"
    )]
    Cache {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cache folder.
        folder: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process has been preparing the same source for long.
    #[error("another process has been preparing {place} in {folder} for more than {waited:?}")]
    Busy {
        /// The source, or the files that are held.
        place: String,
        /// The cache folder.
        folder: PathBuf,
        /// How long we waited.
        waited: Duration,
    },
    /// A thread was lost.
    #[error("the work on the files was lost")]
    Lost,
}

impl PrepareError {
    /// The reason as status and metrics spell it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Fetch(error) => error.reason(),
            Self::Manifest(error) => match error {
                ManifestError::Storage { source, .. } => of_storage(source, Reason::SourceNotFound),
                ManifestError::Invalid { .. } => Reason::ArchiveUnsafe,
                ManifestError::Unsafe { .. } | ManifestError::Folder { .. } => Reason::ExternalDataUnsafe,
                ManifestError::Empty { .. } => Reason::SourceNotFound,
                ManifestError::Mismatch { .. } | ManifestError::Digest { .. } => Reason::DigestMismatch,
            },
            Self::Graph { fault: GraphFault::Invalid(_), .. } => Reason::InvalidOnnx,
            Self::Graph { fault: GraphFault::Unsupported(_), .. } => Reason::UnsupportedOperator,
            Self::Graph { fault: GraphFault::Unsafe(_), .. } | Self::Data { .. } => {
                Reason::ExternalDataUnsafe
            }
            Self::Mismatch { .. } => Reason::DigestMismatch,
            Self::TooLarge { .. } => Reason::ArtifactTooLarge,
            Self::Incomplete { .. } => Reason::SourceNotFound,
            Self::Cache { source, .. } => of_storage(source, Reason::CacheUnusable),
            Self::Busy { .. } => Reason::CacheBusy,
            Self::Lost => Reason::Internal,
        }
    }

    /// Whether the same attempt fails again until somebody changes something. A file that is missing may be
    /// on a volume that is mounted late.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_permanent(),
            Self::Manifest(ManifestError::Storage { .. }) => false,
            Self::Manifest(_)
            | Self::Graph { .. }
            | Self::Data { .. }
            | Self::Mismatch { .. }
            | Self::TooLarge { .. }
            | Self::Incomplete { .. }
            | Self::Cache { .. }
            | Self::Busy { .. }
            | Self::Lost => self.reason().is_permanent(),
        }
    }

    /// How long the server asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Fetch(error) => error.retry_after(),
            Self::Manifest(_)
            | Self::Graph { .. }
            | Self::Data { .. }
            | Self::Mismatch { .. }
            | Self::TooLarge { .. }
            | Self::Incomplete { .. }
            | Self::Cache { .. }
            | Self::Busy { .. }
            | Self::Lost => None,
        }
    }
}

fn of_storage(error: &io::Error, missing: Reason) -> Reason {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::DiskFull,
        io::ErrorKind::NotFound => missing,
        _ => Reason::CacheUnusable,
    }
}
