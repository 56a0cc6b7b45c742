//! `oci://registry/repository[:tag][@sha256:…]`: an artifact in a registry of container images.
//!
//! From: OCI distribution specification 1.1, "Pulling manifests" (the forms of names and tags).

use std::fmt;

use url::Url;

use super::source::{HttpUrl, SourceError};
use crate::model::hexadecimal::is_sha256;

/// The tag of an artifact when neither tag nor digest is named.
const DEFAULT_TAG: &str = "latest";
/// Longest name of a repository.
const LONGEST_REPOSITORY: usize = 255;
/// Longest tag.
const LONGEST_TAG: usize = 128;

/// An artifact in a registry, by tag, by digest of its manifest, or by both, in which case the digest counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OciSource {
    /// `https://registry:port/`; whether TLS is really used is for the guard to say.
    registry: HttpUrl,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl OciSource {
    /// Reads what follows `oci://`.
    pub(super) fn parse(text: &str) -> Result<Self, SourceError> {
        let refuse =
            |part: &str, expected| Err(SourceError::Oci { part: part.escape_debug().to_string(), expected });
        let Some((registry, rest)) = text.split_once('/') else {
            return refuse(text, "registry with a repository");
        };
        if registry.contains('@') {
            let host = registry.rsplit('@').next().unwrap_or_default().to_owned();
            return Err(SourceError::UserInformation { host });
        }
        let part = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        let address = Url::parse(&format!("https://{registry}/")).ok();
        let Some(address) = address.filter(|_| !registry.is_empty() && registry.chars().all(part)) else {
            return refuse(registry, "registry (a host, with a port if it is not 443)");
        };
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        // A `:` is no part of a repository's name.
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if repository.len() > LONGEST_REPOSITORY || !repository.split('/').all(is_component) {
            return refuse(repository, "repository (small letters, digits, '.', '_', '-' and '/')");
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return refuse(tag, "tag (letters, digits, '.', '_' and '-')");
        }
        if let Some(digest) = digest
            && !digest.strip_prefix("sha256:").is_some_and(is_sha256)
        {
            return refuse(digest, "digest (sha256: and 64 hexadecimal digits)");
        }
        Ok(Self {
            registry: HttpUrl::parse(address.as_str())?,
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// The registry's address.
    pub fn registry(&self) -> &HttpUrl {
        &self.registry
    }

    /// The repository in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest of the artifact's manifest, `sha256:` and 64 digits, if the source is pinned.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// What a manifest is asked for by: the digest, else the tag.
    pub fn reference(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or(DEFAULT_TAG)
    }
}

impl fmt::Display for OciSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registry = self.registry.as_url();
        write!(formatter, "oci://{}", registry.host_str().unwrap_or_default())?;
        if let Some(port) = registry.port() {
            write!(formatter, ":{port}")?;
        }
        write!(formatter, "/{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(formatter, "@{digest}"))
    }
}

/// Runs of small letters and digits with one separator between: `.`, `_`, `__` or dashes.
fn is_component(component: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = component.split(word).filter(|between| !between.is_empty());
    component.starts_with(word)
        && component.ends_with(word)
        && separators
            .into_iter()
            .all(|between| matches!(between, "." | "_" | "__") || between.bytes().all(|byte| byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=LONGEST_TAG).contains(&tag.len())
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}
