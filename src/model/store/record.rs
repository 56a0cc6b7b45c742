//! `sources/{hash}.json`: which digest a source had when it was first prepared.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Wanted;
use crate::model::hexadecimal::hexadecimal;
use crate::model::manifest::Digest;
use crate::model::source::Version;
use crate::model::spec::Source;

/// What is remembered of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// For people: without the query of an address.
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokenizer: Option<String>,
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
}

/// The hash that names a source, its tokenizer and what was wanted of them.
pub(super) fn key(wanted: &Wanted<'_>) -> String {
    let Wanted { source, tokenizer, digest, in_place: _ } = wanted;
    let whole = |source: &Source| match source {
        Source::Url(url) => url.as_url().to_string(),
        Source::Path(_) | Source::Hub(_) | Source::Oci(_) => source.to_string(),
    };
    let tokenizer = tokenizer.map(whole).unwrap_or_default();
    let digest = digest.map(ToString::to_string).unwrap_or_default();
    hexadecimal(&Sha256::digest(format!("{}\n{tokenizer}\n{digest}", whole(source))))
}

impl Record {
    pub(super) fn new(wanted: &Wanted<'_>, digest: &Digest, version: Option<Version>) -> Self {
        let (version, path) = version.map_or((None, None), |version| (Some(version.name), version.path));
        Self {
            source: wanted.source.to_string(),
            tokenizer: wanted.tokenizer.map(ToString::to_string),
            digest: digest.to_string(),
            version,
            path,
        }
    }

    /// The record at `path`; one that cannot be read is none.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "failed to read what is known of a source");
                return None;
            }
        };
        let record = serde_json::from_slice::<Self>(&bytes).ok().filter(|record| record.digest().is_some());
        if record.is_none() {
            tracing::warn!(path = %path.display(), "what is known of a source is unreadable, and forgotten");
        }
        record
    }

    pub(super) fn digest(&self) -> Option<Digest> {
        self.digest.parse().ok()
    }

    pub(super) fn version(&self) -> Option<Version> {
        Some(Version { name: self.version.clone()?, path: self.path.clone() })
    }

    /// Writes the record, whole or not at all; the caller has the source's turn.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let staged = path.with_extension("tmp");
        let written = File::create(&staged)
            .and_then(|mut file| {
                file.write_all(format!("{:#}\n", serde_json::json!(self)).as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&staged, path))
            .and_then(|()| super::place::sync_folder(path.parent().unwrap_or(Path::new("."))));
        if written.is_err() {
            drop(fs::remove_file(&staged));
        }
        written
    }
}
