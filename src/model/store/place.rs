//! The cache folder: names in it, locks, staging. Knows no network and no sources.
//!
//! ```text
//! models/{digest}/           a model's files and manifest.json; appears whole, by rename
//! quarantine/{digest}/       one whose bytes had changed on the disk, until the next prune
//! staging/{random}/          one that is being made; removed when nobody holds staging/{random}.lock
//! downloads/                 what the fetcher has of `url` and `oci` sources
//! sources/{hash}.json        the digest that a source without one had
//! locks/{hash}.turn          held by the process that prepares a source
//! locks/{digest}.use         shared by the processes that use a model; its time is that of the last use
//! locks/{folder}.use         the same for a folder in downloads/ whose files are used where they are
//! ```
//!
//! All locks are `flock`, which the kernel drops with the last process that has the file open. Locks are
//! polled, because a thread that waits in the kernel could not be called back.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::error::PrepareError;
use crate::model::manifest::Digest;

const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Where things are in the cache folder. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Place {
    folder: Arc<Path>,
}

/// A lock that lasts as long as the value.
pub(super) type Hold = Arc<File>;

/// A folder that is being filled; gone when the value or the process is.
pub(super) struct Staging {
    pub(super) folder: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Place {
    /// Creates the folders and removes what dead processes have left in staging.
    pub(super) fn open(folder: &Path) -> Result<Self, PrepareError> {
        let place = Self { folder: folder.into() };
        for name in ["models", "staging", "downloads", "sources", "locks"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(place.failed("create", &path))?;
        }
        place.sweep()?;
        Ok(place)
    }

    pub(super) fn models(&self) -> PathBuf {
        self.folder.join("models")
    }

    pub(super) fn model(&self, digest: &Digest) -> PathBuf {
        self.models().join(digest.digits())
    }

    pub(super) fn downloads(&self) -> PathBuf {
        self.folder.join("downloads")
    }

    pub(super) fn quarantine(&self) -> PathBuf {
        self.folder.join("quarantine")
    }

    pub(super) fn record(&self, key: &str) -> PathBuf {
        self.folder.join("sources").join(format!("{key}.json"))
    }

    fn use_path(&self, digest: &Digest) -> PathBuf {
        self.use_path_of(digest.digits())
    }

    fn use_path_of(&self, name: &str) -> PathBuf {
        self.folder.join("locks").join(format!("{name}.use"))
    }

    /// When a model was last prepared.
    pub(super) fn last_use(&self, digest: &Digest) -> SystemTime {
        let modified = fs::metadata(self.use_path(digest)).and_then(|metadata| metadata.modified());
        modified.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Waits for the right to prepare the source of `key`; `told` is its name for people.
    pub(super) async fn turn(&self, key: &str, told: &str, patience: Duration) -> Result<Hold, PrepareError> {
        let path = self.folder.join("locks").join(format!("{key}.turn"));
        self.lock(&path, told, patience, File::try_lock).await
    }

    /// Keeps a model from being pruned.
    pub(super) async fn hold(&self, digest: &Digest, patience: Duration) -> Result<Hold, PrepareError> {
        let told = digest.to_string();
        self.lock(&self.use_path(digest), &told, patience, File::try_lock_shared).await
    }

    /// Keeps a folder of the download area from being pruned.
    pub(super) async fn hold_download(&self, name: &str, patience: Duration) -> Result<Hold, PrepareError> {
        self.lock(&self.use_path_of(name), name, patience, File::try_lock_shared).await
    }

    /// The right to remove a model; `None` while anybody uses it.
    pub(super) fn sole(&self, digest: &Digest) -> Result<Option<File>, PrepareError> {
        self.sole_of(digest.digits())
    }

    /// The right to remove what is under this name in the models or in the download area.
    pub(super) fn sole_of(&self, name: &str) -> Result<Option<File>, PrepareError> {
        let path = self.use_path_of(name);
        let file = self.open_lock(&path)?;
        self.took(&path, file.try_lock()).map(|took| took.then_some(file))
    }

    async fn lock(
        &self,
        path: &Path,
        told: &str,
        patience: Duration,
        attempt: fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Hold, PrepareError> {
        let (file, began, mut wait) = (self.open_lock(path)?, Instant::now(), FIRST_WAIT);
        while !self.took(path, attempt(&file))? {
            if wait == FIRST_WAIT {
                tracing::info!(source = told, "waiting for another process that prepares the same files");
            }
            let waited = began.elapsed();
            if waited >= patience {
                let (place, folder) = (told.to_owned(), self.folder.to_path_buf());
                return Err(PrepareError::Busy { place, folder, waited: patience });
            }
            tokio::time::sleep(wait.min(patience.saturating_sub(waited))).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        Ok(Arc::new(file))
    }

    /// A new folder in staging.
    pub(super) fn staging(&self) -> Result<Staging, PrepareError> {
        loop {
            let name = format!("{:016x}", rand::random::<u64>());
            let folder = self.folder.join("staging").join(&name);
            let lock_path = folder.with_extension("lock");
            let lock = self.open_lock(&lock_path)?;
            // A sweep of another process may have seen the file before it was locked.
            if self.took(&lock_path, lock.try_lock())? && is_at(&lock, &lock_path) {
                let staging = Staging { folder, lock_path, _lock: lock };
                fs::create_dir(&staging.folder).map_err(self.failed("create", &staging.folder))?;
                return Ok(staging);
            }
        }
    }

    /// Removes what dead processes have left in staging.
    fn sweep(&self) -> Result<(), PrepareError> {
        let staging = self.folder.join("staging");
        for entry in fs::read_dir(&staging).map_err(self.failed("read", &staging))? {
            let path = entry.map_err(self.failed("read", &staging))?.path();
            let lock_path = path.with_extension("lock");
            let lock = self.open_lock(&lock_path)?;
            if self.took(&lock_path, lock.try_lock())? {
                remove_all(&lock_path.with_extension("")).map_err(self.failed("remove", &path))?;
                remove_all(&lock_path).map_err(self.failed("remove", &lock_path))?;
            }
        }
        Ok(())
    }

    /// Moves a damaged model out of the way.
    pub(super) fn set_aside(&self, digest: &Digest) -> Result<(), PrepareError> {
        let (from, quarantine) = (self.model(digest), self.quarantine());
        let to = quarantine.join(digest.digits());
        fs::create_dir_all(&quarantine).map_err(self.failed("create", &quarantine))?;
        remove_all(&to).map_err(self.failed("remove", &to))?;
        match fs::rename(&from, &to) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome.map_err(self.failed("move", &from)),
        }
    }

    fn open_lock(&self, path: &Path) -> Result<File, PrepareError> {
        let options = File::options().read(true).write(true).create(true).truncate(false).open(path);
        options.map_err(self.failed("open the lock", path))
    }

    fn took(&self, path: &Path, outcome: Result<(), TryLockError>) -> Result<bool, PrepareError> {
        match outcome {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(self.failed("lock", path)(error)),
        }
    }

    /// For `map_err`: names the step and the file of a failed file operation.
    pub(super) fn failed(
        &self,
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> PrepareError + use<> {
        let (path, folder) = (path.to_owned(), self.folder.to_path_buf());
        move |source| PrepareError::Cache { action, path, folder, source }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is swept by the next process.
        drop(remove_all(&self.folder));
        drop(remove_all(&self.lock_path));
    }
}

/// Whether the open file is still the one that has the name.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: io::Result<fs::Metadata>| metadata.ok().map(|of| (of.dev(), of.ino()));
    let ours = identity(file.metadata());
    ours.is_some() && ours == identity(fs::metadata(path))
}

/// Notes that a model is used now.
pub(super) fn touch(hold: &Hold) {
    if let Err(error) = hold.set_modified(SystemTime::now()) {
        tracing::debug!(%error, "failed to note the use of a model");
    }
}

/// Removes a file, or a folder with all that is in it; nothing there is fine.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
