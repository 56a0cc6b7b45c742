//! The file that lists the models: read at the start, when it changes, and when asked to (SIGHUP, admin page).
//!
//! What does not hold changes nothing, and says so in the log, in a metric and on the admin page; a file that is gone is not a
//! list without models.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::followed::{self, Followed};
use crate::metrics::Metrics;
use crate::model::{Defaults, Desired, DocumentError, MOST_DOCUMENT_BYTES, Registry, parse_documents};
use crate::shutdown::ReloadRequests;

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

/// Why a list of models does not hold.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] followed::ReadError),
    /// Its content is no list of models.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// Reads a list of models once.
///
/// # Errors
/// The file cannot be read, or holds no list of models.
pub async fn read_list(path: &Path, defaults: &Defaults) -> Result<Desired, ReadError> {
    Ok(parse_documents(&followed::read(path, MOST_DOCUMENT_BYTES).await?, defaults)?)
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
        let mut file = Followed::new(vec![self.path.clone()]);
        let mut content: Option<Result<Vec<u8>, String>> = None;
        loop {
            tokio::select! {
                () = file.changed() => {}
                () = reloads.asked() => {
                    tracing::info!(path = %self.path.display(), "asked to read the list of models again");
                }
            }
            let read = followed::read(&self.path, MOST_DOCUMENT_BYTES).await;
            let now = read.as_ref().map(Clone::clone).map_err(ToString::to_string);
            if content.as_ref() != Some(&now) {
                self.apply(read);
                content = Some(now);
            }
        }
    }

    fn apply(&self, read: Result<Vec<u8>, followed::ReadError>) {
        let parsed =
            read.map_err(ReadError::from).and_then(|bytes| Ok(parse_documents(&bytes, &self.defaults)?));
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
