//! Gathered files to a model in the store: copied or moved into staging, hashed, listed, made durable,
//! renamed.
//!
//! Files of our own download area are moved, and only after everything else has been done, so that a process
//! that dies leaves them where the next one finds them. Everything in here blocks.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::PrepareError;
use super::gather::{Gathered, OwnManifest, resolved};
use super::place::{Hold, Place, Staging, remove_all, sync_folder};
use crate::failpoint;
use crate::model::layout::{companions, is_graph};
use crate::model::manifest::{self, Digest, MANIFEST_FILE, Manifest, ManifestError, ManifestFile};
use crate::model::source::Progress;

/// Files that are ready to appear in the store.
pub(super) struct Staged {
    pub(super) digest: Digest,
    manifest_bytes: Vec<u8>,
    /// What is still in the download area: name and place.
    downloads: Vec<(String, PathBuf)>,
    staging: Staging,
    /// Nobody else prepares the same source meanwhile.
    _turn: Hold,
}

/// The manifest of gathered files, where they are.
pub(super) fn measure(gathered: &Gathered, progress: &Progress) -> Result<(Manifest, Digest), PrepareError> {
    let mut files = Vec::new();
    for (name, path) in &gathered.files {
        progress.note(&format!("checking {name}"));
        let path = resolved(path)?;
        files.push(listed(name, manifest::open_plain(&path)?, &path)?);
    }
    let (manifest, digest, _) = checked(files, gathered)?;
    Ok((manifest, digest))
}

/// Copies and hashes all files, and checks them against the manifest that came with them.
pub(super) fn stage(
    place: &Place,
    gathered: &Gathered,
    turn: Hold,
    progress: &Progress,
) -> Result<Staged, PrepareError> {
    let staging = place.staging()?;
    let (mut files, mut downloads) = (Vec::new(), Vec::new());
    let area = fs::canonicalize(place.downloads()).map_err(place.failed("read", &place.downloads()))?;
    for (name, path) in &gathered.files {
        progress.note(&format!("checking {name}"));
        let from = resolved(path)?;
        let input = manifest::open_plain(&from)?;
        if gathered.movable && fs::canonicalize(&from).is_ok_and(|from| from.starts_with(&area)) {
            files.push(listed(name, input, &from)?);
            downloads.push((name.clone(), from));
        } else {
            let to = staging.folder.join(name);
            let copy = copied(input, &to).map_err(place.failed("copy to", &to))?;
            files.push(listed(name, copy, &to)?);
        }
    }
    let (_, digest, manifest_bytes) = match checked(files, gathered) {
        Err(error @ PrepareError::Manifest(ManifestError::Mismatch { .. })) => {
            // What we have downloaded ourselves and is not what it should be is of no use to the next
            // attempt.
            for (_, path) in &downloads {
                drop(remove_all(path));
            }
            return Err(error);
        }
        outcome => outcome?,
    };
    Ok(Staged { digest, manifest_bytes, downloads, staging, _turn: turn })
}

impl Staged {
    /// Makes the model appear under its digest; that it is there already is fine.
    pub(super) fn publish(self, place: &Place) -> Result<(), PrepareError> {
        let Self { digest, manifest_bytes, downloads, staging, _turn } = self;
        let folder = &staging.folder;
        let path = folder.join(MANIFEST_FILE);
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&manifest_bytes)?;
            file.sync_all()
        });
        written.map_err(place.failed("write", &path))?;
        for (name, from) in &downloads {
            let to = folder.join(name);
            let moved = fs::rename(from, &to).and_then(|()| File::open(&to)?.sync_all());
            moved.map_err(place.failed("move", from))?;
            failpoint::at("after-move");
        }
        // Before the model has its name: afterwards nobody comes back for what a dead process did not do.
        for (_, from) in &downloads {
            forget(from);
        }
        sync_folder(folder).map_err(place.failed("sync the folder", folder))?;
        let target = place.model(&digest);
        failpoint::at("before-rename");
        match fs::rename(folder, &target) {
            Err(error) if target.is_dir() => tracing::debug!(%error, %digest, "already in the store"),
            outcome => outcome.map_err(place.failed("publish", &target))?,
        }
        failpoint::at("after-rename");
        sync_folder(&place.models()).map_err(place.failed("sync the folder", &place.models()))?;
        Ok(())
    }

    /// Removes what was downloaded: the store has it, of another source or of a process that died before it could say so.
    pub(super) fn discard(self) {
        for (_, from) in &self.downloads {
            drop(remove_all(from));
            forget(from);
        }
    }
}

/// Removes what belonged to a download that is there no more; others in the same folder keep it.
fn forget(download: &Path) {
    // What lay beside a graph was fetched before anybody could see that the graph does not name it.
    let graph = download.to_str().filter(|path| is_graph(path));
    for unnamed in graph.map(companions).unwrap_or_default() {
        drop(remove_all(Path::new(&unnamed)));
        forget_versions(Path::new(&unnamed));
    }
    forget_versions(download);
    if let Some(folder) = download.parent() {
        drop(remove_all(&folder.join(MANIFEST_FILE)));
        // Fails while something else is in it.
        drop(fs::remove_dir(folder));
    }
}

/// Removes what the server called the versions of a download.
fn forget_versions(download: &Path) {
    // The second one is left by a process that died when it had given the file its name.
    for suffix in [".validator", ".partial.validator"] {
        let mut beside = download.as_os_str().to_owned();
        beside.push(suffix);
        drop(remove_all(Path::new(&beside)));
    }
}

/// Checks hashed files against the manifest that came with them, and makes one if that does not list them
/// all: manifest, digest, and its bytes.
fn checked(
    files: Vec<ManifestFile>,
    gathered: &Gathered,
) -> Result<(Manifest, Digest, Vec<u8>), PrepareError> {
    let place = |name: &str| gathered.files.get(name).cloned().unwrap_or_default();
    if let Some(OwnManifest { manifest, digest, bytes }) = &gathered.own {
        let ours = |name: &str| gathered.covered || place(name).parent() == gathered.graph.parent();
        for (found, file) in files.iter().filter_map(|found| Some((found, manifest.file(&found.name)?))) {
            if found != file && ours(&file.name) {
                let told = |file: &ManifestFile| format!("{} bytes of sha256 {}", file.size, file.sha256);
                let (path, found, expected) = (place(&file.name), told(found), told(file));
                return Err(ManifestError::Mismatch { path, found, expected }.into());
            }
        }
        if gathered.covered {
            return Ok((manifest.clone(), digest.clone(), bytes.clone()));
        }
    }
    let path = gathered.graph.clone();
    let manifest = Manifest::from_files(files).map_err(|message| ManifestError::Invalid { path, message })?;
    let bytes = manifest.to_bytes();
    Ok((manifest, Digest::of(&bytes), bytes))
}

fn listed(name: &str, file: File, path: &Path) -> Result<ManifestFile, PrepareError> {
    let read = |source| ManifestError::Storage { action: "read", path: path.to_owned(), source };
    let size = file.metadata().map_err(read)?.len();
    Ok(ManifestFile { name: name.to_owned(), size, sha256: manifest::sha256_of_file(file, path)? })
}

/// A durable copy, opened for reading. The kernel copies, or shares the blocks where the file system can.
fn copied(mut input: File, to: &Path) -> io::Result<File> {
    let mut output = File::create_new(to)?;
    io::copy(&mut input, &mut output)?;
    output.sync_all()?;
    File::open(to)
}
