//! Why files could not be had, and whether trying again can help.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::StatusCode;

use super::guard::Refusal;
use crate::model::Reason;
use crate::model::spec::SourceError;

/// Why the files of a source could not be had.
///
/// The text says what was attempted with what; addresses in it have no query. What went wrong beneath is in
/// [`std::error::Error::source`].
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address holds a hub path that is not acceptable.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The hub token cannot be sent in a header.
    #[error("the hub token (HF_TOKEN) contains characters that no HTTP header can carry")]
    Token,
    /// The HTTP client could not be set up, for example because the system has no root certificates.
    #[error("failed to set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// The source exists, but what was looked for is not in it.
    #[error("no {wanted} in {place}: looked for {looked_for}; found {found}")]
    NotFound {
        /// What the caller needs.
        wanted: &'static str,
        /// The source or folder.
        place: String,
        /// The names tried, in order.
        looked_for: String,
        /// What is there instead, or what the other side said.
        found: String,
    },
    /// The server answered with a status that is neither success nor an expected one.
    #[error("failed to fetch {url}: the server answered {status}{hint}")]
    Status {
        /// Address without its query.
        url: String,
        /// What the server answered.
        status: StatusCode,
        /// What to do about it; empty or begins with "; ".
        hint: &'static str,
        /// How long the server asks us to stay away.
        retry_after: Option<Duration>,
    },
    /// The guard does not let us go there.
    #[error("failed to fetch {url}: {refusal}")]
    HostNotAllowed {
        /// Address without its query.
        url: String,
        /// Why, and what would allow it.
        refusal: Refusal,
    },
    /// No connection, or a broken one: name resolution, connect, TLS, protocol.
    #[error("failed to fetch {url}: the connection failed after {received_bytes} bytes")]
    Connection {
        /// Address without its query.
        url: String,
        /// Bytes of the answer's body that had arrived.
        received_bytes: u64,
        /// The client's error, its address removed.
        source: reqwest::Error,
    },
    /// The server is silent, or sends a few bytes to keep us waiting.
    #[error("failed to fetch {url}: less than {minimum_bytes} bytes arrived in {window:?}")]
    Stalled {
        /// Address without its query.
        url: String,
        /// How long we waited.
        window: Duration,
        /// What had to arrive in that time.
        minimum_bytes: u64,
    },
    /// The body ended early.
    #[error("failed to fetch {url}: got {received_bytes} of {expected_bytes} bytes")]
    Truncated {
        /// Address without its query.
        url: String,
        /// Bytes of the file that are on disk.
        received_bytes: u64,
        /// Bytes the file has.
        expected_bytes: u64,
    },
    /// The file is larger than the configured limit.
    #[error("failed to fetch {url}: the file is larger than the limit of {limit_bytes} bytes")]
    TooLarge {
        /// Address without its query.
        url: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// All files of a model together are larger than the configured limit.
    #[error("failed to fetch {place}: its files have {bytes} bytes, more than the limit of {limit_bytes}")]
    ModelTooLarge {
        /// The source.
        place: String,
        /// What is known of them.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The bytes are not those that were announced; one download from zero was already tried again.
    #[error("failed to verify {url}: its sha256 is {found}, expected {expected}")]
    Digest {
        /// Address without its query.
        url: String,
        /// What was announced.
        expected: String,
        /// What was found.
        found: String,
    },
    /// An archive: none is unpacked.
    #[error(
        "{place} is {what}: archives are not unpacked; give the folder with its files, the address of its \
         manifest.json (`inference-gateway pack` writes one), or an OCI artifact with one layer for each file"
    )]
    Archive {
        /// The source.
        place: String,
        /// What shows it.
        what: &'static str,
    },
    /// A list of files that is not one.
    #[error("{place} does not list a model's files: {message}")]
    Listing {
        /// The source.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// A redirect that must not be followed.
    #[error("failed to fetch {url}: {reason}")]
    Redirect {
        /// Address that redirected, without its query.
        url: String,
        /// Why it is not followed.
        reason: &'static str,
    },
    /// The answer makes no sense.
    #[error("failed to fetch {url}: {reason}")]
    Response {
        /// Address without its query.
        url: String,
        /// What is wrong with the answer.
        reason: &'static str,
    },
    /// The disk: full, read-only, not permitted, broken.
    #[error("failed to {action} {path}")]
    Storage {
        /// What was attempted.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl FetchError {
    /// Whether the same attempt will fail again until somebody changes something.
    ///
    /// Trouble with storage counts as passing: space is freed and volumes come back without our help.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Source(_)
            | Self::Token
            | Self::NotFound { .. }
            | Self::HostNotAllowed { .. }
            | Self::TooLarge { .. }
            | Self::ModelTooLarge { .. }
            | Self::Digest { .. }
            | Self::Archive { .. }
            | Self::Listing { .. }
            | Self::Redirect { .. } => true,
            Self::Status { status, .. } => !is_passing(*status),
            Self::Client(_)
            | Self::Connection { .. }
            | Self::Stalled { .. }
            | Self::Truncated { .. }
            | Self::Response { .. }
            | Self::Storage { .. } => false,
        }
    }

    /// How long the server asked to be left alone (`Retry-After`, at most an hour).
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Source(_)
            | Self::Token
            | Self::Client(_)
            | Self::NotFound { .. }
            | Self::HostNotAllowed { .. }
            | Self::Connection { .. }
            | Self::Stalled { .. }
            | Self::Truncated { .. }
            | Self::TooLarge { .. }
            | Self::ModelTooLarge { .. }
            | Self::Digest { .. }
            | Self::Archive { .. }
            | Self::Listing { .. }
            | Self::Redirect { .. }
            | Self::Response { .. }
            | Self::Storage { .. } => None,
        }
    }

    /// The reason as status and metrics spell it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Source(_) | Self::NotFound { .. } => Reason::SourceNotFound,
            Self::Token => Reason::SourceForbidden,
            Self::HostNotAllowed { .. } => Reason::HostNotAllowed,
            Self::Status { status, .. } => match *status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Reason::SourceForbidden,
                status if is_passing(status) => Reason::SourceUnreachable,
                _ => Reason::SourceNotFound,
            },
            Self::Client(_)
            | Self::Connection { received_bytes: 0, .. }
            | Self::Stalled { .. }
            | Self::Redirect { .. }
            | Self::Response { .. } => Reason::SourceUnreachable,
            // Of a cut connection, the client tells before we count.
            Self::Truncated { .. } | Self::Connection { received_bytes: 1.., .. } => {
                Reason::TruncatedDownload
            }
            Self::TooLarge { .. } | Self::ModelTooLarge { .. } => Reason::ArtifactTooLarge,
            Self::Archive { .. } | Self::Listing { .. } => Reason::ArchiveUnsafe,
            Self::Digest { .. } => Reason::DigestMismatch,
            Self::Storage { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::DiskFull,
                io::ErrorKind::NotFound => Reason::SourceNotFound,
                _ => Reason::CacheUnusable,
            },
        }
    }
}

/// Statuses that go away by waiting.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        )
}

/// For `map_err`: names the step and the file of a failed file operation.
pub(super) fn storage(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FetchError + use<> {
    let path = path.to_owned();
    move |source| FetchError::Storage { action, path, source }
}
