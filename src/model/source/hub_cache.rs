//! The folder of one repository in the hub's cache: names, links and refs. Knows no network.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::error::{FetchError, storage};
use super::partial::{blocking, sync_folder, with_suffix};

/// `{hub_cache}/models--{owner}--{name}`.
#[derive(Debug, Clone)]
pub(super) struct HubCache(PathBuf);

impl HubCache {
    pub(super) fn new(hub_cache: &Path, repository: &str) -> Self {
        Self(hub_cache.join(format!("models--{}", repository.replace('/', "--"))))
    }

    /// Where a file of a commit is found; a symbolic link to its blob.
    pub(super) fn pointer(&self, commit: &str, path: &str) -> PathBuf {
        self.0.join("snapshots").join(commit).join(path)
    }

    /// The names of the files that are here of a folder of a commit.
    pub(super) async fn names_in(&self, commit: &str, folder: &str) -> Result<Vec<String>, FetchError> {
        let folder = self.pointer(commit, folder);
        blocking(&folder.clone(), move || {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let files = entries.filter(|entry| entry.path().is_file());
            Ok(files.filter_map(|entry| entry.file_name().into_string().ok()).collect())
        })
        .await
    }

    /// The commit and the path in the repository of what [`Self::pointer`] gave.
    pub(super) fn parts<'a>(&self, pointer: &'a Path) -> Option<(&'a str, &'a str)> {
        pointer.strip_prefix(self.0.join("snapshots")).ok()?.to_str()?.split_once('/')
    }

    /// Where the bytes of an etag are.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.0.join("blobs").join(etag)
    }

    /// Whether the bytes are here, in the announced size: a cache that was copied by hand may be cut.
    pub(super) async fn has_blob(&self, etag: &str, bytes: Option<u64>) -> bool {
        let metadata = tokio::fs::metadata(self.blob(etag)).await;
        metadata.is_ok_and(|metadata| metadata.is_file() && bytes.is_none_or(|bytes| bytes == metadata.len()))
    }

    /// The commit that a branch or tag meant when the hub was last asked.
    pub(super) async fn commit_of(&self, revision: &str) -> Option<String> {
        let commit = tokio::fs::read_to_string(self.reference(revision)).await.ok()?.trim().to_owned();
        is_commit(&commit).then_some(commit)
    }

    /// Notes the commit of a branch or tag.
    pub(super) async fn remember(&self, revision: &str, commit: &str) -> Result<(), FetchError> {
        if revision == commit || self.commit_of(revision).await.as_deref() == Some(commit) {
            return Ok(());
        }
        let (path, commit) = (self.reference(revision), commit.to_owned());
        blocking(&path.clone(), move || {
            create_parent(&path)?;
            // By rename, so that no reader sees half a commit; one name per process, because two may do this.
            let written = with_suffix(&path, &format!(".{}.tmp", std::process::id()));
            fs::write(&written, commit).map_err(storage("write", &written))?;
            fs::rename(&written, &path).map_err(storage("publish", &path))
        })
        .await
    }

    /// Makes the file appear in the snapshot of `commit`.
    pub(super) async fn link(&self, commit: &str, path: &str, etag: &str) -> Result<PathBuf, FetchError> {
        let (pointer, blob) = (self.pointer(commit, path), self.blob(etag));
        // Out of the file's folders, the commit's and `snapshots`.
        let upwards = "../".repeat(path.split('/').count() - 1 + 2);
        let target = format!("{upwards}blobs/{etag}");
        blocking(&pointer.clone(), move || {
            create_parent(&pointer)?;
            if pointer.is_file() {
                return Ok(pointer);
            }
            match fs::remove_file(&pointer) {
                // A link whose blob is gone, or nothing at all.
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(storage("replace", &pointer)(error)),
            }
            match std::os::unix::fs::symlink(&target, &pointer) {
                Ok(()) => {}
                Err(_) if pointer.is_file() => {}
                Err(error) => {
                    // As the Python library does on file systems without links.
                    warn!(path = %pointer.display(), %error, "failed to link; moving the file instead");
                    fs::rename(&blob, &pointer).map_err(storage("publish", &pointer))?;
                }
            }
            sync_folder(&pointer)?;
            Ok(pointer)
        })
        .await
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.0.join("refs").join(revision)
    }
}

/// A full commit: 40 hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Safe as a file name in `blobs`, and never one of our partial files.
pub(super) fn is_etag(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn create_parent(path: &Path) -> Result<(), FetchError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(storage("create the folder", folder))
}
