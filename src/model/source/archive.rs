//! Archives are refused, by name or by their first bytes: unpacking what strangers made is a risk that a list
//! of files does not have.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::{FetchError, storage};

/// Endings of names that archives and compressed files have.
const SUFFIXES: [&str; 12] = [
    ".tar", ".tar.gz", ".tgz", ".gz", ".zip", ".tar.bz2", ".bz2", ".tar.xz", ".xz", ".tar.zst", ".zst", ".7z",
];

/// Beginnings of files: offset, bytes, what it is. None of them can begin an ONNX graph, whose first field is
/// a number or a text with a small key.
const MAGIC: [(usize, &[u8], &str); 6] = [
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "compressed with gzip"),
    (0, b"BZh", "compressed with bzip2"),
    (0, b"\xfd7zXZ\0", "compressed with xz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (257, b"ustar", "a tar archive"),
];

/// # Errors
/// The last segment of `path` is the name of an archive.
pub(super) fn refuse_name(place: &str, path: &str) -> Result<(), FetchError> {
    let name = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    if SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
        return Err(FetchError::Archive { place: place.to_owned(), what: "an archive by its name" });
    }
    Ok(())
}

/// # Errors
/// The file begins as archives do, or cannot be read.
pub(super) fn refuse_file(place: &str, path: &Path) -> Result<(), FetchError> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(storage("open", path))?;
    file.take(512).read_to_end(&mut head).map_err(storage("read", path))?;
    match MAGIC.iter().find(|(at, bytes, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(bytes))) {
        Some((_, _, what)) => Err(FetchError::Archive { place: place.to_owned(), what }),
        None => Ok(()),
    }
}

/// Whether a layer of this media type is packed.
pub(super) fn is_archive_type(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    ["tar", "gzip", "zip", "zstd"]
        .iter()
        .any(|packed| media_type.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == *packed))
}
