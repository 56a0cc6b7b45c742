//! `manifest.json`: the files of a model with their sizes and sha256, and the digest that names the whole.
//!
//! ONNX Runtime loads damaged weights without a word, so bytes are checked before anything looks into them. A manifest
//! is a list `[{"name", "size", "sha256"}]` in one folder without folders below it; its own sha256 is the model's
//! digest.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::hexadecimal::{hexadecimal, is_sha256};

/// The name of the manifest in its folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// More files than any model has; a bound for what a stranger's manifest may ask for.
pub(super) const MOST_FILES: usize = 1024;
/// Longest name of a file.
const LONGEST_NAME: usize = 200;
/// Largest manifest that is read.
pub(super) const MOST_BYTES: u64 = 1 << 20;
/// Bytes that are hashed at once.
const PIECE_BYTES: usize = 1 << 20;

/// The files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    files: Vec<ManifestFile>,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Its name in the folder: no separators.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// 64 hexadecimal digits, in small letters.
    pub sha256: String,
}

/// The sha256 of a manifest, written `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Digest(String);

/// Why a folder does not hold what a manifest says, or cannot have one.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The disk.
    #[error("failed to {action} {path}")]
    Storage {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The manifest is not one.
    #[error("{path} is not a manifest: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file that must not be read as a part of a model.
    #[error("{path} is {what}: a model's files are regular files that lie in its folder, each with one name")]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A manifest has no room for folders.
    #[error(
        "{path} is a folder: a manifest lists the files of one folder; move what is in it beside the others"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// There is nothing in the folder.
    #[error("{path} holds no files")]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// The bytes are others than those listed.
    #[error("{path} is not the file that the manifest lists: {found}, expected {expected}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Its size or sha256.
        found: String,
        /// What the manifest says.
        expected: String,
    },
    /// The manifest is another one than was asked for.
    #[error("the digest of {path} is {found}, expected {expected}")]
    Digest {
        /// The manifest.
        path: PathBuf,
        /// Its digest.
        found: Digest,
        /// What was asked for.
        expected: Digest,
    },
}

/// Text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a digest: write sha256: and 64 hexadecimal digits")]
pub struct InvalidDigest(String);

impl Manifest {
    /// The manifest of what lies in `folder`; reads every file. A manifest that is there already is left out, and so are
    /// hidden files.
    ///
    /// # Errors
    /// Something in the folder is no plain file, or cannot be read.
    pub fn of_folder(folder: &Path) -> Result<Self, ManifestError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(storage("read", folder))? {
            let entry = entry.map_err(storage("read", folder))?;
            let path = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                return Err(ManifestError::Unsafe { path, what: "named with bytes that are no UTF-8" });
            };
            if name == MANIFEST_FILE || name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                return Err(ManifestError::Folder { path });
            }
            let size = plain_file(&path)?.len();
            files.push(ManifestFile { size, sha256: sha256_of(&path)?, name });
        }
        if files.is_empty() {
            return Err(ManifestError::Empty { path: folder.to_owned() });
        }
        Self::from_files(files).map_err(|message| ManifestError::Invalid { path: folder.to_owned(), message })
    }

    /// Reads the manifest of `folder`, with its digest; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read or is not a manifest.
    pub fn read(folder: &Path) -> Result<Option<(Self, Digest)>, ManifestError> {
        let path = folder.join(MANIFEST_FILE);
        let metadata = match plain_file(&path) {
            Ok(metadata) => metadata,
            Err(ManifestError::Storage { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if metadata.len() > MOST_BYTES {
            let message = format!("it is larger than {MOST_BYTES} bytes");
            return Err(ManifestError::Invalid { path, message });
        }
        let bytes = fs::read(&path).map_err(storage("read", &path))?;
        let manifest =
            Self::parse(&bytes).map_err(|message| ManifestError::Invalid { path: path.clone(), message })?;
        Ok(Some((manifest, Digest::of(&bytes))))
    }

    /// Reads a manifest from its bytes; strict, because they may come from a stranger.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let files: Vec<ManifestFile> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let manifest = Self { files };
        manifest.check_names()?;
        Ok(manifest)
    }

    /// A manifest of these files.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub(super) fn from_files(mut files: Vec<ManifestFile>) -> Result<Self, String> {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let manifest = Self { files };
        manifest.check_names()?;
        Ok(manifest)
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// The file of this name.
    pub(super) fn file(&self, name: &str) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.name == name)
    }

    /// The files, sorted by name as they were written.
    pub fn files(&self) -> &[ManifestFile] {
        &self.files
    }

    /// The bytes of `manifest.json`: the same files always give the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut files = serde_json::json!(self.files);
        files.sort_all_objects();
        let mut text = format!("{files:#}");
        text.push('\n');
        text.into_bytes()
    }

    /// Writes `manifest.json` into `folder`, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, folder: &Path) -> Result<Digest, ManifestError> {
        let (bytes, path) = (self.to_bytes(), folder.join(MANIFEST_FILE));
        let staged = folder.join(format!(".{MANIFEST_FILE}.{}", std::process::id()));
        let written = fs::write(&staged, &bytes)
            .and_then(|()| File::open(&staged)?.sync_all())
            .and_then(|()| fs::rename(&staged, &path));
        if written.is_err() {
            drop(fs::remove_file(&staged));
        }
        written.map_err(storage("write", &path))?;
        Ok(Digest::of(&bytes))
    }

    /// Checks that `folder` holds every listed file, byte for byte.
    ///
    /// # Errors
    /// The first file that is missing, of another kind, or of other bytes.
    pub fn verify(&self, folder: &Path) -> Result<(), ManifestError> {
        self.verify_sizes(folder)?;
        for file in &self.files {
            let path = folder.join(&file.name);
            let found = sha256_of(&path)?;
            if found != file.sha256 {
                let expected = format!("sha256 {}", file.sha256);
                return Err(ManifestError::Mismatch { path, found: format!("sha256 {found}"), expected });
            }
        }
        Ok(())
    }

    /// Checks that `folder` holds every listed file in its size, without reading them.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub(super) fn verify_sizes(&self, folder: &Path) -> Result<(), ManifestError> {
        for file in &self.files {
            let path = folder.join(&file.name);
            let size = plain_file(&path)?.len();
            if size != file.size {
                let (found, expected) = (format!("{size} bytes"), format!("{} bytes", file.size));
                return Err(ManifestError::Mismatch { path, found, expected });
            }
        }
        Ok(())
    }

    /// Names that stay in the folder, each once; digests that are digests.
    fn check_names(&self) -> Result<(), String> {
        if self.files.is_empty() || self.files.len() > MOST_FILES {
            return Err(format!("it lists {} files, from 1 to {MOST_FILES} are possible", self.files.len()));
        }
        let mut seen = BTreeSet::new();
        for ManifestFile { name, sha256, .. } in &self.files {
            if !is_file_name(name) {
                return Err(format!(
                    "{:?} is not the name of a file in one folder",
                    name.escape_debug().to_string()
                ));
            }
            if !seen.insert(name) {
                return Err(format!("{name:?} is listed twice"));
            }
            if !is_sha256(sha256) {
                return Err(format!("the sha256 of {name:?} is not 64 hexadecimal digits in small letters"));
            }
        }
        Ok(())
    }
}

/// Whether a manifest can list a file of this name: it stays in its folder, is not hidden, and is not the manifest's own.
pub(super) fn is_file_name(name: &str) -> bool {
    let is_separator = |char: char| char.is_control() || matches!(char, '/' | '\\');
    (1..=LONGEST_NAME).contains(&name.len())
        && !name.starts_with('.')
        && !name.contains(is_separator)
        && name != MANIFEST_FILE
}

impl Digest {
    /// The 64 hexadecimal digits alone.
    pub fn digits(&self) -> &str {
        &self.0
    }

    /// The digest of a manifest's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hexadecimal(&Sha256::digest(bytes)))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "sha256:{}", self.0)
    }
}

impl std::str::FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let digits = text.strip_prefix("sha256:").filter(|digits| is_sha256(digits));
        digits.map(|digits| Self(digits.to_owned())).ok_or_else(|| InvalidDigest(text.to_owned()))
    }
}

/// What the name itself is, without following it, when that is a plain file with no other name.
///
/// A link of either kind would let a folder reach files outside of it; ONNX Runtime refuses symbolic ones and accepts
/// hard ones.
pub(super) fn plain_file(path: &Path) -> Result<Metadata, ManifestError> {
    let metadata = fs::symlink_metadata(path).map_err(storage("read", path))?;
    check_plain(path, &metadata)?;
    Ok(metadata)
}

/// Opens what [`plain_file`] accepts: neither follows a link nor waits for a pipe that took the name meanwhile.
pub(super) fn open_plain(path: &Path) -> Result<File, ManifestError> {
    use std::os::unix::fs::OpenOptionsExt;

    plain_file(path)?;
    let options = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = options.map_err(storage("open", path))?;
    check_plain(path, &file.metadata().map_err(storage("read", path))?)?;
    Ok(file)
}

fn check_plain(path: &Path, metadata: &Metadata) -> Result<(), ManifestError> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() || kind.is_socket() => "a pipe or socket",
        () if kind.is_block_device() || kind.is_char_device() => "a device",
        () if metadata.nlink() > 1 => "a file with more than one name (hard links)",
        () => return Ok(()),
    };
    Err(ManifestError::Unsafe { path: path.to_owned(), what })
}

fn sha256_of(path: &Path) -> Result<String, ManifestError> {
    sha256_of_file(open_plain(path)?, path)
}

/// The sha256 of an open file from where it stands; `path` is for the error.
pub(super) fn sha256_of_file(mut file: File, path: &Path) -> Result<String, ManifestError> {
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece).map_err(storage("read", path))? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            length => hash.update(&piece[..length]),
        }
    }
}

fn storage(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ManifestError + use<> {
    let path = path.to_owned();
    move |source| ManifestError::Storage { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.onnx"), b"graph").unwrap();
        fs::write(folder.path().join("model.onnx.data"), vec![7; 3 * PIECE_BYTES / 2]).unwrap();
        folder
    }

    #[test]
    fn a_packed_folder_verifies_and_every_change_is_seen() {
        let folder = folder();
        let digest = Manifest::of_folder(folder.path()).unwrap().write(folder.path()).unwrap();
        let (manifest, read) = Manifest::read(folder.path()).unwrap().unwrap();
        assert_eq!(read, digest);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        manifest.verify(folder.path()).unwrap();

        let weights = folder.path().join("model.onnx.data");
        let mut bytes = fs::read(&weights).unwrap();
        bytes[PIECE_BYTES + 1] ^= 1;
        fs::write(&weights, &bytes).unwrap();
        let error = manifest.verify(folder.path()).unwrap_err();
        assert!(error.to_string().contains("model.onnx.data is not the file"), "{error}");
        fs::write(&weights, b"short").unwrap();
        assert!(matches!(manifest.verify(folder.path()), Err(ManifestError::Mismatch { .. })));
        fs::remove_file(&weights).unwrap();
        assert!(matches!(manifest.verify(folder.path()), Err(ManifestError::Storage { .. })));
    }

    #[test]
    fn packing_again_gives_the_same_digest() {
        let folder = folder();
        let first = Manifest::of_folder(folder.path()).unwrap().write(folder.path()).unwrap();
        let second = Manifest::of_folder(folder.path()).unwrap().write(folder.path()).unwrap();
        assert_eq!(first, second);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "something was left behind");
    }

    #[test]
    fn what_is_no_plain_file_of_the_folder_is_refused() {
        let outside = tempfile::NamedTempFile::new().unwrap();
        for make in [
            |outside: &Path, name: &Path| std::os::unix::fs::symlink(outside, name).unwrap(),
            |outside: &Path, name: &Path| fs::hard_link(outside, name).unwrap(),
            |_: &Path, name: &Path| fs::create_dir(name).unwrap(),
            |_: &Path, name: &Path| drop(std::os::unix::net::UnixListener::bind(name).unwrap()),
        ] {
            let folder = tempfile::tempdir_in(outside.path().parent().unwrap()).unwrap();
            fs::write(folder.path().join("model.onnx"), b"graph").unwrap();
            make(outside.path(), &folder.path().join("weights"));
            let error = Manifest::of_folder(folder.path()).unwrap_err();
            assert!(error.to_string().contains("weights"), "{error}");
        }
    }

    #[test]
    fn a_strangers_manifest_cannot_name_what_is_outside() {
        let digits = "0".repeat(64);
        for name in ["../x", "a/b", "/etc/passwd", "", ".", "..", ".hidden", "a\\b", "a\nb", "manifest.json"]
        {
            let text = serde_json::json!([{"name": name, "size": 1, "sha256": digits}]).to_string();
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{name:?}");
        }
        for text in [
            "[]".to_owned(),
            "{}".to_owned(),
            format!(r#"[{{"name": "a", "size": -1, "sha256": "{digits}"}}]"#),
            format!(r#"[{{"name": "a", "size": 1, "sha256": "{}"}}]"#, "A".repeat(64)),
            format!(r#"[{{"name": "a", "size": 1, "sha256": "{digits}", "mode": 7}}]"#),
            format!(
                r#"[{{"name": "a", "size": 1, "sha256": "{digits}"}}, {{"name": "a", "size": 1, "sha256": "{digits}"}}]"#
            ),
        ] {
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
