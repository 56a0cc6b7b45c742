//! Files behind an http(s) address, kept in `{download_cache}/{first 16 digits of the address's sha256}/{name}`.
//!
//! A file that is there is compared with the server once per fetch (`HEAD`, its `ETag` or `Last-Modified` against
//! the one in `{name}.validator`): a changed one is downloaded again; a server that cannot be asked is no reason not
//! to use what is there. The weights beside a graph, and the companions of a tokenizer, are fetched *before* the file
//! that was asked for, so whoever finds that one finds a whole set.

use std::fs;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};
use tracing::warn;
use url::Url;

use super::download::{RemoteFile, download, validator};
use super::error::{FetchError, storage};
use super::http::Http;
use super::partial::{Identity, blocking, is_file, with_suffix};
use super::progress::Progress;
use super::{TOKENIZER_COMPANIONS, TOKENIZER_FILE, has_extension, tokenizer_folders};
use crate::model::hexadecimal::hexadecimal;
use crate::model::layout::companions;
use crate::model::spec::{HttpUrl, without_query};

/// Longest file name we take from an address; file systems allow 255 with our suffixes.
const LONGEST_NAME: usize = 128;

/// The `http(s)` sources of one fetch.
pub(super) struct Web<'a> {
    pub(super) http: &'a Http,
    pub(super) cache: &'a Path,
    pub(super) progress: &'a Progress,
}

impl Web<'_> {
    /// The graph at `address`, with what belongs to it and lies beside it on the server.
    pub(super) async fn graph(&self, address: &HttpUrl) -> Result<PathBuf, FetchError> {
        let url = address.as_url();
        let target = self.folder(url).join(file_name(url));
        for (path, name) in companions(url.path()).iter().zip(companions(&file_name(url))) {
            let mut beside = url.clone();
            beside.set_path(path);
            self.optional(&beside, &target.with_file_name(name), &target).await?;
        }
        self.file(url, &target).await?;
        Ok(target)
    }

    /// Another file in the folder of `graph`, which [`Self::graph`] gave for this address.
    pub(super) async fn beside(
        &self,
        address: &HttpUrl,
        graph: &Path,
        name: &str,
    ) -> Result<PathBuf, FetchError> {
        let (mut url, target) = (address.as_url().clone(), graph.with_file_name(name));
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop().push(name);
        }
        self.file(&url, &target).await?;
        Ok(target)
    }

    /// What the server called the version of `graph`, which [`Self::graph`] gave.
    pub(super) async fn version_of(&self, graph: &Path) -> Option<String> {
        tokio::fs::read_to_string(record_path(graph)).await.ok()
    }

    /// What the server calls the version it has now.
    pub(super) async fn version_now(&self, address: &HttpUrl) -> Result<Option<String>, FetchError> {
        let response = self.http.check_status(self.http.head(address.as_url()).await?)?;
        Ok(validator(response.headers()))
    }

    /// The tokenizer at `address` if that names a `.json` file, else the one in the folder of the address, with its
    /// companions.
    pub(super) async fn tokenizer(&self, address: &HttpUrl) -> Result<PathBuf, FetchError> {
        let url = address.as_url();
        if has_extension(url.path(), "json") {
            return self.tokenizer_at(url).await;
        }
        let mut failure = None;
        let folder = url.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        for folder in tokenizer_folders(folder) {
            let mut tokenizer = url.clone();
            tokenizer.set_path(&format!("{folder}/{TOKENIZER_FILE}"));
            match self.tokenizer_at(&tokenizer).await {
                Err(error) if is_absent(&error) => failure = Some(error),
                finished => return finished,
            }
        }
        Err(failure.unwrap_or_else(|| FetchError::NotFound {
            wanted: TOKENIZER_FILE,
            place: address.to_string(),
            looked_for: TOKENIZER_FILE.to_owned(),
            found: "no folder in this address".to_owned(),
        }))
    }

    async fn tokenizer_at(&self, url: &Url) -> Result<PathBuf, FetchError> {
        let folder = self.folder(url);
        let target = folder.join(TOKENIZER_FILE);
        for name in TOKENIZER_COMPANIONS {
            let mut beside = url.clone();
            if let Ok(mut segments) = beside.path_segments_mut() {
                segments.pop().push(name);
            }
            self.optional(&beside, &folder.join(name), &target).await?;
        }
        self.file(url, &target).await?;
        Ok(target)
    }

    /// A file that need not exist. `main` is the file it belongs to: if that is here, so is all that belongs to it.
    async fn optional(&self, url: &Url, target: &Path, main: &Path) -> Result<(), FetchError> {
        match self.file(url, target).await {
            Err(error) if is_absent(&error) || (!error.is_permanent() && is_file(main).await) => Ok(()),
            finished => finished,
        }
    }

    /// One file, downloaded unless the one that is here is still current.
    async fn file(&self, url: &Url, target: &Path) -> Result<(), FetchError> {
        let seen = Identity::of(target).await;
        if is_file(target).await && self.is_current(url, target).await {
            return Ok(());
        }
        let file = RemoteFile { url, target, seen, expected_bytes: None, sha256: None, authorization: None };
        if let Some(version) = download(self.http, &file, self.progress).await? {
            let record = record_path(target);
            blocking(target, move || fs::write(&record, version).map_err(storage("write", &record))).await?;
        }
        Ok(())
    }

    /// Whether the server still has the version that is here. A server that does not tell is believed to have it.
    async fn is_current(&self, url: &Url, target: &Path) -> bool {
        let head = match self.http.head(url).await {
            Ok(response) => self.http.check_status(response),
            Err(error) => Err(error),
        };
        match head {
            Ok(response) => match validator(response.headers()) {
                Some(told) => {
                    tokio::fs::read_to_string(record_path(target)).await.is_ok_and(|ours| ours == told)
                }
                None => true,
            },
            Err(error) => {
                let source = without_query(url);
                let cause: &dyn std::error::Error = &error;
                warn!(%source, error = cause, "failed to ask for a newer version; using the file that is here");
                true
            }
        }
    }

    fn folder(&self, url: &Url) -> PathBuf {
        let digest = hexadecimal(&Sha256::digest(url.as_str()));
        self.cache.join(&digest[..16])
    }
}

/// Whether the server says that it has no such file. Object stores answer 403 for a missing file when the caller
/// may not list them.
fn is_absent(error: &FetchError) -> bool {
    matches!(error, FetchError::Status { status, .. } if matches!(status.as_u16(), 403 | 404 | 410))
}

/// The names that the file of an address may have here: its own, as the hub's cache keeps it, and the harmless one. None for
/// the address of a folder.
pub(in crate::model) fn file_names(address: &HttpUrl) -> Vec<String> {
    let (url, own) = (address.as_url(), own_name(address.as_url()));
    if own.is_empty() { Vec::new() } else { vec![own, file_name(url)] }
}

fn own_name(url: &Url) -> String {
    let segment = url.path().rsplit('/').next().unwrap_or_default();
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

/// The last segment of the address, made harmless as a file name.
fn file_name(url: &Url) -> String {
    let decoded = own_name(url);
    let safe = |char: char| {
        if char.is_ascii_alphanumeric() || "._-".contains(char) { char } else { '_' }
    };
    let name: String = decoded.trim_start_matches('.').chars().map(safe).take(LONGEST_NAME).collect();
    if name.is_empty() { "model.onnx".to_owned() } else { name }
}

/// Where the server's name for the published version is kept.
fn record_path(target: &Path) -> PathBuf {
    with_suffix(target, ".validator")
}
