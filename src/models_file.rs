//! The file that lists the models: read at the start, when it changes, and when asked to (SIGHUP, admin page).
//!
//! Looked at once a second rather than watched: a mounted ConfigMap changes by a link to another folder, network file
//! systems tell nobody, and a look costs microseconds. What does not hold changes nothing, and says so in the log, in a
//! metric and on the admin page; a file that is gone is not a list without models.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::model::{Defaults, Desired, DocumentError, MOST_DOCUMENT_BYTES, Registry, parse_documents};
use crate::shutdown::ReloadRequests;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A change that leaves no trace in the file's attributes is seen after so many looks.
const LOOKS_BETWEEN_READS: u32 = 30;

/// The file and where its content goes.
pub struct ModelsFile {
    /// The file.
    pub path: PathBuf,
    /// What its documents may leave open.
    pub defaults: Defaults,
    /// Where readings are counted.
    pub metrics: Arc<Metrics>,
    /// What is desired.
    pub desired: watch::Sender<Option<Desired>>,
    /// What the admin page shows.
    pub status: Arc<FileStatus>,
    /// What readiness shows.
    pub registry: Arc<Registry>,
}

/// How the last reading went.
#[derive(Debug, Default)]
pub struct FileStatus(Mutex<Reading>);

/// One reading of the file.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// When a list was applied last.
    pub applied_at: Option<SystemTime>,
    /// What is wrong with what the file holds now, if anything.
    pub error: Option<String>,
}

/// What is known of a file without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    /// Where links lead.
    path: PathBuf,
    identity: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Why a list of models does not hold.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("failed to read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its content is no list of models.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// Reads a list of models once.
///
/// # Errors
/// The file cannot be read, or holds no list of models.
pub async fn read_list(path: &Path, defaults: &Defaults) -> Result<Desired, ReadError> {
    Ok(parse_documents(&read(path).await?, defaults)?)
}

async fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    let fail = |source| ReadError::Read { path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(fail)?;
    let mut bytes = Vec::new();
    // One more than allowed, so that too many are seen.
    file.take(MOST_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes).await.map_err(fail)?;
    Ok(bytes)
}

impl FileStatus {
    /// The last reading.
    pub fn read(&self) -> Reading {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how a reading went.
    pub fn set(&self, outcome: Result<(), String>) {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => *reading = Reading { applied_at: Some(SystemTime::now()), error: None },
            Err(error) => reading.error = Some(error),
        }
    }
}

impl ModelsFile {
    /// Reads the file for as long as the process serves.
    pub async fn follow(self, mut reloads: ReloadRequests) -> std::convert::Infallible {
        let mut known: Option<Traces> = None;
        let mut content: Option<Result<Vec<u8>, String>> = None;
        loop {
            let traces = self.traces().await;
            let read = read(&self.path).await;
            let now = read.as_ref().map(Clone::clone).map_err(ToString::to_string);
            if content.as_ref() != Some(&now) {
                self.apply(read);
                content = Some(now);
            }
            known = traces.or(known);
            self.wait(known.as_ref(), &mut reloads).await;
        }
    }

    /// Returns when the file may have changed.
    async fn wait(&self, known: Option<&Traces>, reloads: &mut ReloadRequests) {
        for _look in 0..LOOKS_BETWEEN_READS {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = reloads.asked() => {
                    tracing::info!(path = %self.path.display(), "asked to read the list of models again");
                    return;
                }
            }
            if self.traces().await.as_ref() != known {
                return;
            }
        }
    }

    async fn traces(&self) -> Option<Traces> {
        use std::os::unix::fs::MetadataExt;

        let path = tokio::fs::canonicalize(&self.path).await.ok()?;
        let metadata = tokio::fs::metadata(&path).await.ok()?;
        Some(Traces {
            identity: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            path,
        })
    }

    fn apply(&self, read: Result<Vec<u8>, ReadError>) {
        let parsed = read.and_then(|bytes| Ok(parse_documents(&bytes, &self.defaults)?));
        let path = self.path.display();
        self.metrics.config_reloaded(parsed.is_ok());
        match parsed {
            Ok(desired) => {
                tracing::info!(%path, models = desired.len(), "list of models applied");
                self.desired.send_replace(Some(desired));
                self.status.set(Ok(()));
                self.registry.set_unknown_because(None);
            }
            Err(error) => {
                tracing::error!(%path, %error, "the list of models is refused; the last good one stays in force");
                self.registry.set_unknown_because(Some(error.to_string()));
                self.status.set(Err(error.to_string()));
            }
        }
    }
}
