//! Sources that list their files with sizes and hashes before the first byte: a `manifest.json` behind an
//! address, and OCI artifacts. Their files are kept in `{download_cache}/{first 16 digits of the
//! digest}/{name}`.
//!
//! ```text
//! Source ─▶ Listing (checked) ─▶ each file by its sha256, resumed ─▶ manifest.json ─▶ ListedFiles
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::header::HeaderMap;
use url::Url;

use super::download::{RemoteFile, download};
use super::error::{FetchError, storage};
use super::http::Http;
use super::oci::Session;
use super::partial::{Identity, blocking};
use super::progress::Progress;
use crate::model::manifest::{Digest, MANIFEST_FILE, MOST_BYTES, Manifest};
use crate::model::spec::{HttpUrl, without_query};

/// What a source says that it consists of.
pub(super) struct Listing {
    pub(super) manifest: Manifest,
    /// The manifest as its digest was taken.
    pub(super) manifest_bytes: Vec<u8>,
    /// Addresses of the files, in the order of the manifest.
    pub(super) urls: Vec<Url>,
    /// Who we are for the registry, where it is one.
    pub(super) session: Option<Session>,
}

/// The files of a source that lists them, in one folder with their `manifest.json`.
#[derive(Debug, Clone)]
pub struct ListedFiles {
    /// Where they are.
    pub folder: PathBuf,
    /// What they are.
    pub manifest: Manifest,
    /// The digest of the manifest as the source gives it.
    pub digest: Digest,
}

/// The address of the manifest that `address` names; `None` when it names one file.
pub(super) fn manifest_url(address: &HttpUrl) -> Option<Url> {
    let mut url = address.as_url().clone();
    let path = url.path();
    // The root is what an address without a path means: no folder that somebody named.
    if path.ends_with('/') && path != "/" {
        let path = format!("{path}{MANIFEST_FILE}");
        url.set_path(&path);
    }
    url.path().ends_with(&format!("/{MANIFEST_FILE}")).then_some(url)
}

/// Reads the manifest at `url`; its files lie beside it.
pub(super) async fn at_url(http: &Http, url: &Url) -> Result<Listing, FetchError> {
    let manifest_bytes = http.document(url, &HeaderMap::new(), MOST_BYTES).await?;
    let manifest = Manifest::parse(&manifest_bytes)
        .map_err(|message| FetchError::Listing { place: without_query(url), message })?;
    let beside = |name: &str| {
        let mut beside = url.clone();
        if let Ok(mut segments) = beside.path_segments_mut() {
            segments.pop().push(name);
        }
        beside
    };
    let urls = manifest.files().iter().map(|file| beside(&file.name)).collect();
    Ok(Listing { manifest, manifest_bytes, urls, session: None })
}

impl Listing {
    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.manifest_bytes)
    }

    /// Brings every file here.
    pub(super) async fn fetch(
        self,
        http: &Http,
        cache: &Path,
        progress: &Progress,
    ) -> Result<ListedFiles, FetchError> {
        let digest = self.digest();
        let Self { manifest, manifest_bytes, urls, mut session } = self;
        let folder = cache.join(&digest.digits()[..16]);
        progress.plan(manifest.bytes());
        for (file, url) in manifest.files().iter().zip(&urls) {
            let target = folder.join(&file.name);
            let here = tokio::fs::metadata(&target).await;
            if here.is_ok_and(|here| here.is_file() && here.len() == file.size) {
                progress.skip(file.size);
                continue;
            }
            let authorization = match &mut session {
                Some(session) => session.authorization(http).await?,
                None => None,
            };
            let remote = RemoteFile {
                url,
                target: &target,
                seen: Identity::of(&target).await,
                expected_bytes: Some(file.size),
                sha256: Some(&file.sha256),
                authorization,
            };
            download(http, &remote, progress).await?;
        }
        let path = folder.join(MANIFEST_FILE);
        blocking(&folder, move || {
            let staged = path.with_extension(format!("json.{}", std::process::id()));
            fs::write(&staged, &manifest_bytes).map_err(storage("write", &staged))?;
            fs::rename(&staged, &path).map_err(storage("publish", &path))
        })
        .await?;
        Ok(ListedFiles { folder, manifest, digest })
    }
}
