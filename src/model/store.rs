//! The store: models under the digest of their manifest, complete or not there at all.
//!
//! ```text
//! prepare ─▶ turn (one process for each source) ─▶ known? ─────────────────────▶ entry (hashes) ─▶ Prepared
//!                                                    └ no ▶ gather ▶ stage ▶ publish ┘
//! ```
//!
//! What holds here: bytes are hashed before they are used, and again at the first use in the life of a
//! process, because ONNX Runtime loads damaged weights without a word; a source without a digest keeps the
//! one that it had first; nobody removes what somebody uses; a process that dies leaves nothing that could be
//! loaded or that stays for ever. Nothing in here reads the environment or logs in.

mod error;
mod gather;
mod place;
mod prune;
mod publish;
mod record;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use self::error::PrepareError;
use self::gather::{Gathered, TOKENIZER, gather, graph_name, is_mutable};
use self::place::{Hold, Place};
use self::publish::{measure, stage};
use self::record::Record;
use super::Reason;
use super::manifest::{self, Digest, Manifest, ManifestError};
use super::source::{FetchError, Fetcher, Progress};
use super::spec::Source;

/// Large models over slow lines take long, and a process that waits does no harm.
const PATIENCE: Duration = Duration::from_mins(30);
/// Twice the default of `INFERENCE_MAX_DOWNLOAD_BYTES`, which bounds each file.
const MOST_MODEL_BYTES: u64 = 128 << 30;
/// Whether a source means something else by now is good to know and nothing to wait for.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Where models are kept, and how many.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The cache folder (`INFERENCE_CACHE_DIR`); the fetcher's downloads belong into its folder `downloads`.
    pub folder: PathBuf,
    /// Bytes above which [`Store::prune`] removes models (`INFERENCE_CACHE_LIMIT`).
    pub limit_bytes: Option<u64>,
}

/// What is to be prepared.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The graph, with its folder.
    pub source: &'a Source,
    /// The tokenizer, when it is not that of the source. Its files become files of the model, and count in
    /// its digest.
    pub tokenizer: Option<&'a Source>,
    /// The only digest that is acceptable.
    pub digest: Option<&'a Digest>,
    /// Whether files are used where the fetch leaves them, without a copy in the store. Sources that list
    /// their files (a manifest behind an address, an artifact) go through the store all the same.
    pub in_place: bool,
}

/// Files that are ready to be loaded. As long as it or a clone lives, no process prunes them.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The graph.
    pub graph: PathBuf,
    /// The tokenizer.
    pub tokenizer: PathBuf,
    /// The folder of the graph.
    pub folder: PathBuf,
    /// The digest of the manifest; `None` for a model that is used in place and has none.
    pub digest: Option<Digest>,
    /// Bytes of all files together.
    pub bytes: u64,
    /// None for files that are used in place and are not of our own download area.
    _holds: Vec<Hold>,
}

/// Prepares models and prunes them. Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct Store {
    settings: Arc<StoreSettings>,
    fetcher: Fetcher,
    patience: Duration,
    most_model_bytes: u64,
    memory: Arc<Memory>,
}

/// What this process has seen.
#[derive(Default)]
struct Memory {
    /// Models whose bytes have been hashed.
    verified: Mutex<BTreeSet<String>>,
    /// Sources whose change has been told.
    told: Mutex<BTreeSet<String>>,
}

impl Store {
    /// A store with these settings. Touches neither disk nor network.
    pub fn new(settings: StoreSettings, fetcher: Fetcher) -> Self {
        Self {
            settings: Arc::new(settings),
            fetcher,
            patience: PATIENCE,
            most_model_bytes: MOST_MODEL_BYTES,
            memory: Arc::default(),
        }
    }

    /// The same store, which waits for another process no longer than this.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same store, which accepts at most so many bytes for all files of a model
    /// (`INFERENCE_MAX_MODEL_BYTES`).
    #[must_use]
    pub fn with_most_model_bytes(self, most_model_bytes: u64) -> Self {
        Self { most_model_bytes, ..self }
    }

    /// Makes the files of a model ready to be loaded; fetches what is not here. Dropping the future is safe:
    /// the next call goes on from what has arrived.
    ///
    /// # Errors
    /// See [`PrepareError`]; nothing incomplete is left where it could be loaded.
    pub async fn prepare(&self, wanted: &Wanted<'_>, progress: &Progress) -> Result<Prepared, PrepareError> {
        if wanted.in_place && !self.fetcher.is_listed(wanted.source)? {
            return self.use_in_place(wanted, progress).await;
        }
        let settings = Arc::clone(&self.settings);
        let place = blocking(move || Place::open(&settings.folder)).await?;
        let key = record::key(wanted);
        let turn = place.turn(&key, &wanted.source.to_string(), self.patience).await?;
        if let Some(prepared) = self.find(&place, wanted, &key, progress).await? {
            return Ok(prepared);
        }
        let outcome = self.make(&place, wanted, turn, progress).await;
        if outcome.as_ref().is_err_and(|error| error.reason() == Reason::DiskFull) {
            // A damaged model is of less use than the room that it takes.
            drop(place::remove_all(&place.quarantine()));
        }
        outcome
    }

    /// Whether there is a limit above which models are removed.
    pub fn has_limit(&self) -> bool {
        self.settings.limit_bytes.is_some()
    }

    /// Removes the models that were prepared longest ago until the store is below its limit; never one of
    /// `keep`, and never one that any process uses. Returns the bytes that were freed.
    ///
    /// # Errors
    /// The cache folder cannot be used.
    pub async fn prune(&self, keep: &[Digest]) -> Result<u64, PrepareError> {
        let (settings, keep) = (Arc::clone(&self.settings), keep.to_vec());
        blocking(move || prune::prune(&Place::open(&settings.folder)?, settings.limit_bytes, &keep)).await
    }

    /// What the store has already; `None` when it must be made.
    async fn find(
        &self,
        place: &Place,
        wanted: &Wanted<'_>,
        key: &str,
        progress: &Progress,
    ) -> Result<Option<Prepared>, PrepareError> {
        if let Some(digest) = wanted.digest
            && let Some(prepared) = self.entry(place, digest, wanted).await?
        {
            return Ok(Some(prepared));
        }
        let Some(record) = Record::read(&place.record(key)) else {
            return Ok(None);
        };
        let Some(recorded) = record.digest() else {
            return Ok(None);
        };
        // With a remote tokenizer the record stands, as it does for remote sources.
        let mut sources = [Some(wanted.source), wanted.tokenizer].into_iter().flatten();
        if wanted.digest.is_none() && sources.all(|source| matches!(source, Source::Path(_))) {
            match self.measured(wanted, progress).await {
                Ok(found) if found == recorded => {}
                Ok(found) => return Err(changed(wanted, found, recorded)),
                Err(error) if is_missing(&error) => {
                    let prepared = self.entry(place, &recorded, wanted).await?;
                    if prepared.is_some() {
                        let source = wanted.source;
                        tracing::warn!(%source, digest = %recorded, "the source is gone: using its copy");
                    }
                    return prepared.map_or(Err(error), |prepared| Ok(Some(prepared)));
                }
                Err(error) => return Err(error),
            }
        }
        progress.note("checking the copy in the cache");
        let prepared = self.entry(place, &recorded, wanted).await?;
        if prepared.is_some() && is_mutable(wanted.source) {
            self.tell_change(wanted.source, &record, key).await;
        }
        Ok(prepared)
    }

    /// Fetches, stages and publishes; the caller has the source's turn.
    async fn make(
        &self,
        place: &Place,
        wanted: &Wanted<'_>,
        turn: Hold,
        progress: &Progress,
    ) -> Result<Prepared, PrepareError> {
        let path = place.record(&record::key(wanted));
        let gathered = gather(&self.fetcher, wanted, self.most_model_bytes, progress).await?;
        check_wish(wanted, &gathered, None)?;
        let (area, told) = (place.clone(), progress.clone());
        let (gathered, staged) = blocking(move || {
            let staged = stage(&area, &gathered, turn, &told)?;
            Ok((gathered, staged))
        })
        .await?;
        let digest = staged.digest.clone();
        check_wish(wanted, &gathered, Some(&digest))?;
        if wanted.digest.is_none()
            && let Some(recorded) = Record::read(&path).and_then(|record| record.digest())
            && recorded != digest
        {
            if !is_mutable(wanted.source) && !wanted.tokenizer.is_some_and(is_mutable) {
                return Err(changed(wanted, digest, recorded));
            }
            let source = wanted.source;
            tracing::warn!(%source, was = %recorded, is = %digest, "the source has changed, and its copy is gone");
        }
        // From before it appears until the caller has it, nobody may prune it.
        let hold = place.hold(&digest, self.patience).await?;
        // A damaged one under the same digest would keep the new one out.
        if self.entry(place, &digest, wanted).await?.is_none() {
            let (area, shared) = (place.clone(), Arc::clone(&hold));
            blocking(move || {
                let published = staged.publish(&area);
                drop(shared);
                published
            })
            .await?;
            remember(&self.memory.verified, digest.digits());
        } else {
            blocking(move || {
                staged.discard();
                Ok(())
            })
            .await?;
        }
        if wanted.digest != Some(&digest) {
            let record = Record::new(wanted, &digest, gathered.version);
            record.write(&path).map_err(place.failed("write", &path))?;
        }
        let prepared = self.entry(place, &digest, wanted).await?;
        drop(hold);
        // Damaged within moments of being written: the next attempt may do better.
        prepared.ok_or(PrepareError::Lost)
    }

    /// A model of the store, held; `None` when it is not there or was damaged, in which case it is not there
    /// any more.
    async fn entry(
        &self,
        place: &Place,
        digest: &Digest,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Prepared>, PrepareError> {
        let folder = place.model(digest);
        if !folder.is_dir() {
            return Ok(None);
        }
        let hold = place.hold(digest, self.patience).await?;
        let verified = lock(&self.memory.verified).contains(digest.digits());
        let (expected, there) = (digest.clone(), folder.clone());
        let manifest = match blocking(move || Ok(checked(&there, &expected, verified)?)).await {
            Ok(Some(manifest)) => manifest,
            Ok(None) => return Ok(None),
            Err(error @ PrepareError::Manifest(ManifestError::Storage { .. })) if !is_missing(&error) => {
                return Err(error);
            }
            Err(PrepareError::Manifest(error)) => {
                let cause: &dyn std::error::Error = &error;
                tracing::error!(%digest, error = cause, "a model in the cache is damaged: it is set aside");
                lock(&self.memory.verified).remove(digest.digits());
                place.set_aside(digest)?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        remember(&self.memory.verified, digest.digits());
        place::touch(&hold);
        if manifest.file(TOKENIZER).is_none() {
            return Err(PrepareError::Incomplete { wanted: TOKENIZER, place: folder.display().to_string() });
        }
        Ok(Some(Prepared {
            graph: folder.join(graph_name(&manifest, &folder, wanted).await?),
            tokenizer: folder.join(TOKENIZER),
            folder,
            digest: Some(digest.clone()),
            bytes: manifest.bytes(),
            _holds: vec![hold],
        }))
    }

    /// The digest that a source has now.
    async fn measured(&self, wanted: &Wanted<'_>, progress: &Progress) -> Result<Digest, PrepareError> {
        let gathered = gather(&self.fetcher, wanted, self.most_model_bytes, progress).await?;
        let told = progress.clone();
        Ok(blocking(move || measure(&gathered, &told)).await?.1)
    }

    async fn use_in_place(&self, wanted: &Wanted<'_>, progress: &Progress) -> Result<Prepared, PrepareError> {
        let gathered = gather(&self.fetcher, wanted, self.most_model_bytes, progress).await?;
        check_wish(wanted, &gathered, None)?;
        let folder = gathered.graph.parent().map(PathBuf::from).unwrap_or_default();
        let (graph, tokenizer) = (gathered.graph.clone(), gathered.tokenizer.clone());
        let sizes = gathered.files.values().filter_map(|path| path.metadata().ok());
        let bytes = sizes.map(|metadata| metadata.len()).sum();
        let mut digest = None;
        if gathered.own.is_some() || wanted.digest.is_some() {
            let told = progress.clone();
            let (gathered, found) = blocking(move || {
                let (_, found) = measure(&gathered, &told)?;
                Ok((gathered, found))
            })
            .await?;
            check_wish(wanted, &gathered, Some(&found))?;
            digest = Some(found);
        }
        let holds = self.hold_downloads([&graph, &tokenizer]).await;
        progress.finish();
        Ok(Prepared { graph, tokenizer, folder, digest, bytes, _holds: holds })
    }

    /// Keeps files of the download area that are used where they are, for months maybe.
    async fn hold_downloads(&self, files: [&Path; 2]) -> Vec<Hold> {
        let area = self.settings.folder.join("downloads");
        let name = |file: &Path| file.strip_prefix(&area).ok()?.iter().next()?.to_str().map(str::to_owned);
        let names: BTreeSet<String> = files.into_iter().filter_map(name).collect();
        let mut holds = Vec::new();
        for name in names {
            match self.hold_download(&name).await {
                Ok(hold) => holds.push(hold),
                // A cache that was filled beforehand and mounted read-only is fine: nobody prunes it.
                Err(error) => tracing::debug!(%error, "failed to keep a download from being removed"),
            }
        }
        holds
    }

    async fn hold_download(&self, name: &str) -> Result<Hold, PrepareError> {
        let settings = Arc::clone(&self.settings);
        let place = blocking(move || Place::open(&settings.folder)).await?;
        place.hold_download(name, self.patience).await
    }

    /// Says once that a source means something else than what is used.
    async fn tell_change(&self, source: &Source, record: &Record, key: &str) {
        let Some(recorded) = record.version().filter(|_| !lock(&self.memory.told).contains(key)) else {
            return;
        };
        let asked = tokio::time::timeout(VERSION_TIMEOUT, self.fetcher.version_now(source, &recorded)).await;
        match asked {
            Ok(Ok(Some(now))) if now != recorded.name => {
                remember(&self.memory.told, key);
                let was = recorded.name;
                tracing::warn!(%source, was, is = now, "the source has changed: the recorded model is used");
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%source, %error, "failed to ask for a newer version"),
            Err(_elapsed) => tracing::debug!(%source, "no answer about a newer version in time"),
        }
    }
}

/// Compares what was found with the wished digest; before anything is hashed, as far as a manifest that came
/// along tells.
fn check_wish(wanted: &Wanted<'_>, gathered: &Gathered, found: Option<&Digest>) -> Result<(), PrepareError> {
    let own = gathered.own.as_ref().filter(|_| gathered.covered).map(|own| &own.digest);
    match (wanted.digest, found.or(own)) {
        (Some(expected), Some(found)) if expected != found => Err(PrepareError::Mismatch {
            place: wanted.source.to_string(),
            found: found.clone(),
            expected: expected.clone(),
            hint: "",
        }),
        _ => Ok(()),
    }
}

fn changed(wanted: &Wanted<'_>, found: Digest, expected: Digest) -> PrepareError {
    let hint = "; the source has changed since it was first prepared: name the new digest, or another path";
    PrepareError::Mismatch { place: wanted.source.to_string(), found, expected, hint }
}

/// Checks the files in a folder of the store: all bytes, or only the sizes when the bytes are known.
fn checked(folder: &Path, expected: &Digest, verified: bool) -> Result<Option<Manifest>, ManifestError> {
    if !folder.is_dir() {
        // Pruned while we waited for the lock.
        return Ok(None);
    }
    let path = || folder.join(manifest::MANIFEST_FILE);
    let missing = || ManifestError::Invalid { path: path(), message: "it is missing".to_owned() };
    let (listed, found) = Manifest::read(folder)?.ok_or_else(missing)?;
    if found != *expected {
        return Err(ManifestError::Digest { path: path(), found, expected: expected.clone() });
    }
    if verified {
        listed.verify_sizes(folder)?;
    } else {
        listed.verify(folder)?;
    }
    Ok(Some(listed))
}

/// Whether a file is not there.
fn is_missing(error: &PrepareError) -> bool {
    matches!(
        error,
        PrepareError::Manifest(ManifestError::Storage { source, .. })
            | PrepareError::Fetch(FetchError::Storage { source, .. })
            if source.kind() == io::ErrorKind::NotFound
    ) || matches!(error, PrepareError::Fetch(FetchError::NotFound { .. }))
}

fn remember(seen: &Mutex<BTreeSet<String>>, what: &str) {
    lock(seen).insert(what.to_owned());
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A set is whole whatever happened to another holder.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs file work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PrepareError> + Send + 'static,
) -> Result<T, PrepareError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(PrepareError::Lost))
}

#[cfg(test)]
mod tests;
