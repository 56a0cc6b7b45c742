//! A file on its way in: `NAME.partial` beside the final `NAME`, held by exactly one writer.
//!
//! ```text
//! lock ──▶ resume or restart ──▶ write chunks ──▶ sha256 ──▶ publish (fsync, rename, fsync of the folder)
//! ```
//!
//! The lock is on the partial file itself, not on a file beside it: a write that is still under way on a blocking
//! thread keeps the file open, so the lock cannot pass on before that write has ended. The kernel drops it with the
//! last process that has the file open, so a killed holder never blocks anybody.
//!
//! `NAME.partial.validator` holds what the server called the version of these bytes (its `ETag` or `Last-Modified`);
//! without it a partial file is not resumed. It is written before the first byte.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::bytes::Bytes;
use tracing::info;

use super::error::{FetchError, storage};
use crate::failpoint;
use crate::model::hexadecimal::hexadecimal;

/// Between two looks at a lock that somebody else holds. The lock is polled because a thread that waits in the kernel
/// could not be called back when the fetch is cancelled.
const FIRST_LOCK_WAIT: Duration = Duration::from_millis(10);
const LONGEST_LOCK_WAIT: Duration = Duration::from_millis(500);

/// Read size when bytes of an earlier attempt are hashed again.
const HASH_BUFFER_BYTES: usize = 1 << 20;

/// Which file a path named at one moment; another value later means that it was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(Option<(u64, u64)>);

impl Identity {
    pub(super) async fn of(path: &Path) -> Self {
        Self::from(tokio::fs::metadata(path).await)
    }

    fn from(metadata: io::Result<Metadata>) -> Self {
        Self(metadata.ok().map(|metadata| (metadata.dev(), metadata.ino())))
    }
}

/// A locked partial file. Dropping it releases the lock and keeps the bytes, if any, for the next attempt.
pub(super) struct Partial {
    file: File,
    target: PathBuf,
    length: u64,
    validator: Option<String>,
    hasher: Sha256,
    hashed_bytes: u64,
    /// Bytes of an earlier attempt that are in use.
    resumed_from_bytes: u64,
    /// The name is not ours any more: the file has been published or removed.
    settled: bool,
}

/// One look at the lock.
enum Attempt {
    Mine(Partial),
    Busy,
    /// The file we opened has been published or discarded in the meantime: open the next one.
    Gone,
}

impl Partial {
    /// Waits until this process may write the partial file of `target`. `None`: meanwhile somebody else published
    /// the target, which was `seen` before.
    pub(super) async fn lock(target: &Path, seen: Identity) -> Result<Option<Self>, FetchError> {
        let mut wait = FIRST_LOCK_WAIT;
        loop {
            let path = target.to_owned();
            match blocking(target, move || Self::try_lock(path)).await? {
                Attempt::Mine(partial) if Identity::of(target).await == seen => return Ok(Some(partial)),
                Attempt::Mine(partial) => {
                    partial.discard().await?;
                    return Ok(None);
                }
                Attempt::Gone => {}
                Attempt::Busy => {
                    if wait == FIRST_LOCK_WAIT {
                        info!(file = %target.display(), "waiting for another download of the same file");
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_LOCK_WAIT);
                }
            }
        }
    }

    fn try_lock(target: PathBuf) -> Result<Attempt, FetchError> {
        let path = partial_path(&target);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(storage("create the folder", folder))?;
        }
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = options.map_err(storage("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Attempt::Busy),
            Err(TryLockError::Error(error)) => return Err(storage("lock", &path)(error)),
        }
        let metadata = file.metadata().map_err(storage("read the size of", &path))?;
        let length = metadata.len();
        if Identity::from(fs::metadata(&path)) != Identity::from(Ok(metadata)) {
            return Ok(Attempt::Gone);
        }
        let validator = fs::read_to_string(validator_path(&target)).ok().filter(|_| length > 0);
        Ok(Attempt::Mine(Self {
            file,
            target,
            length,
            validator,
            hasher: Sha256::new(),
            hashed_bytes: 0,
            resumed_from_bytes: length,
            settled: false,
        }))
    }

    /// Bytes that are here.
    pub(super) fn length_bytes(&self) -> u64 {
        self.length
    }

    /// Bytes of an earlier attempt among them.
    pub(super) fn resumed_from_bytes(&self) -> u64 {
        self.resumed_from_bytes
    }

    /// What the server called the version of these bytes.
    pub(super) fn validator(&self) -> Option<&str> {
        self.validator.as_deref()
    }

    /// Drops all bytes; those to come are a version that the server calls `validator`.
    pub(super) async fn restart(mut self, validator: Option<String>) -> Result<Self, FetchError> {
        let target = self.target.clone();
        blocking(&target, move || {
            let path = partial_path(&self.target);
            // First the bytes, then their name: a crash between the two leaves nothing to resume from.
            self.file.set_len(0).map_err(storage("empty", &path))?;
            let beside = validator_path(&self.target);
            match &validator {
                Some(validator) => fs::write(&beside, validator).map_err(storage("write", &beside))?,
                None => remove(&beside)?,
            }
            self.validator = validator;
            self.length = 0;
            self.hasher = Sha256::new();
            self.hashed_bytes = 0;
            self.resumed_from_bytes = 0;
            Ok(self)
        })
        .await
    }

    /// Appends what arrives until the channel closes. Runs on a blocking thread that owns the file; when the fetch
    /// is dropped, the channel closes and the thread ends by itself.
    pub(super) async fn write(
        mut self,
        mut chunks: mpsc::Receiver<Bytes>,
        hash: bool,
    ) -> Result<Self, FetchError> {
        let target = self.target.clone();
        blocking(&target, move || {
            let path = partial_path(&self.target);
            self.file.seek(SeekFrom::Start(self.length)).map_err(storage("seek in", &path))?;
            while let Some(chunk) = chunks.blocking_recv() {
                self.file.write_all(&chunk).map_err(storage("write", &path))?;
                failpoint::at("after-download-chunk");
                if hash && self.hashed_bytes == self.length {
                    self.hasher.update(&chunk);
                    self.hashed_bytes += chunk.len() as u64;
                }
                self.length += chunk.len() as u64;
            }
            Ok(self)
        })
        .await
    }

    /// The sha256 of all bytes, as 64 lower-case hexadecimal digits. Reads only what has not been hashed on its way
    /// in, so called before a resumed download it hashes the old bytes.
    pub(super) async fn sha256(mut self) -> Result<(Self, String), FetchError> {
        let target = self.target.clone();
        blocking(&target, move || {
            let path = partial_path(&self.target);
            self.file.seek(SeekFrom::Start(self.hashed_bytes)).map_err(storage("seek in", &path))?;
            let mut buffer = vec![0; HASH_BUFFER_BYTES];
            loop {
                match self.file.read(&mut buffer).map_err(storage("read", &path))? {
                    0 => break,
                    read => self.hasher.update(&buffer[..read]),
                }
            }
            self.hashed_bytes = self.length;
            let digest = hexadecimal(&self.hasher.clone().finalize());
            Ok((self, digest))
        })
        .await
    }

    /// Makes the bytes durable and gives them their final name.
    pub(super) async fn publish(mut self) -> Result<(), FetchError> {
        let target = self.target.clone();
        blocking(&target, move || {
            let path = partial_path(&self.target);
            self.file.sync_all().map_err(storage("sync", &path))?;
            failpoint::at("before-download-rename");
            fs::rename(&path, &self.target).map_err(storage("publish", &self.target))?;
            failpoint::at("after-download-rename");
            self.settled = true;
            remove(&validator_path(&self.target))?;
            sync_folder(&self.target)
        })
        .await
    }

    /// Removes the partial file.
    pub(super) async fn discard(mut self) -> Result<(), FetchError> {
        let target = self.target.clone();
        blocking(&target, move || {
            self.settled = true;
            remove(&validator_path(&self.target))?;
            remove(&partial_path(&self.target))
        })
        .await
    }
}

impl Drop for Partial {
    /// An attempt that brought nothing (a file that does not exist) leaves nothing.
    fn drop(&mut self) {
        if self.length == 0 && !self.settled {
            for path in [validator_path(&self.target), partial_path(&self.target)] {
                // An empty file that stays behind does no harm.
                drop(remove(&path));
            }
        }
    }
}

/// Makes the names in the folder of `path` durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), FetchError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(storage("sync the folder", folder))
}

/// Whether a file is there, links followed.
pub(super) async fn is_file(path: &Path) -> bool {
    tokio::fs::metadata(path).await.is_ok_and(|metadata| metadata.is_file())
}

/// Runs file work off the async threads; `path` is for the error should the work panic or the runtime end.
pub(super) async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    let finished = tokio::task::spawn_blocking(work).await;
    finished.unwrap_or_else(|error| Err(storage("finish the work on", path)(io::Error::other(error))))
}

fn partial_path(target: &Path) -> PathBuf {
    with_suffix(target, ".partial")
}

fn validator_path(target: &Path) -> PathBuf {
    with_suffix(target, ".partial.validator")
}

/// `path` with `suffix` after its whole name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove(path: &Path) -> Result<(), FetchError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(storage("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
