//! Makes room: what was used last longest ago goes first, what is kept or in use stays.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::error::PrepareError;
use super::place::{Place, remove_all};
use crate::model::manifest::Digest;

/// A download that nobody has gone on with for so long is not going to be.
const OLDEST_DOWNLOAD: Duration = Duration::from_hours(7 * 24);

/// A model in the store.
struct Entry {
    digest: Digest,
    bytes: u64,
    last_use: SystemTime,
}

/// Removes quarantined models and abandoned downloads, then models until at most `limit_bytes` are left;
/// returns the bytes that were freed. Blocking.
pub(super) fn prune(place: &Place, limit_bytes: Option<u64>, keep: &[Digest]) -> Result<u64, PrepareError> {
    let quarantine = place.quarantine();
    let mut freed_bytes = 0;
    if let Ok(folders) = fs::read_dir(&quarantine) {
        freed_bytes += folders.flatten().map(|folder| bytes_in(&folder.path())).sum::<u64>();
        remove_all(&quarantine).map_err(place.failed("remove", &quarantine))?;
    }
    freed_bytes += remove_abandoned(place);
    let Some(limit_bytes) = limit_bytes else {
        return Ok(freed_bytes);
    };
    let mut entries = entries(place)?;
    entries.sort_by_key(|entry| entry.last_use);
    let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
    for entry in entries {
        if bytes <= limit_bytes {
            break;
        }
        if !keep.contains(&entry.digest) && remove(place, &entry.digest)? {
            tracing::info!(digest = %entry.digest, bytes = entry.bytes, "removed from the cache");
            bytes -= entry.bytes;
            freed_bytes += entry.bytes;
        }
    }
    Ok(freed_bytes)
}

/// Removes what has not been written for long from the download area, unless somebody uses it where it is. What cannot be
/// removed harms nobody.
fn remove_abandoned(place: &Place) -> u64 {
    let is_old = |path: &Path| {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        modified.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > OLDEST_DOWNLOAD)
    };
    let mut freed_bytes = 0;
    for folder in fs::read_dir(place.downloads()).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Ok(Some(_sole)) = place.sole_of(name) else { continue };
        let files = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in files.filter(|path| is_old(path)) {
            let bytes = path.metadata().map_or(0, |metadata| metadata.len());
            freed_bytes += if fs::remove_file(&path).is_ok() { bytes } else { 0 };
        }
        // Fails while anything is in it.
        drop(fs::remove_dir(&folder));
    }
    freed_bytes
}

/// Removes a model unless somebody uses it.
fn remove(place: &Place, digest: &Digest) -> Result<bool, PrepareError> {
    let Some(_sole) = place.sole(digest)? else {
        return Ok(false);
    };
    // Out of sight in one step: what a crash leaves in staging is swept.
    let (folder, staging) = (place.model(digest), place.staging()?);
    let hidden = staging.folder.join("removed");
    match fs::rename(&folder, &hidden) {
        // Set aside by a process that found it damaged.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        outcome => outcome.map(|()| true).map_err(place.failed("remove", &folder)),
    }
}

fn entries(place: &Place) -> Result<Vec<Entry>, PrepareError> {
    let models = place.models();
    let folders = fs::read_dir(&models).map_err(place.failed("read", &models))?;
    let entries = folders.flatten().filter_map(|folder| {
        let digest = format!("sha256:{}", folder.file_name().to_str()?).parse().ok()?;
        Some(Entry { bytes: bytes_in(&folder.path()), last_use: place.last_use(&digest), digest })
    });
    Ok(entries.collect())
}

fn bytes_in(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}
